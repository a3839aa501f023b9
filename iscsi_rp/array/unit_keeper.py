"""Keeps in the catalogue what a logical unit must not forget when power is lost: persistent reservations
(APTPL, SPC-4 5.13.4), and that its medium is half formatted or sanitized (SBC-4 4.11).
"""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from iscsi_rp.array.catalogue import Catalogue
from iscsi_rp.errors import Error
from iscsi_rp.scsi.medium import Note
from iscsi_rp.scsi.reservations import Save

_State = TypeVar("_State")


class UnitKeeper:
    """A logical unit has one of each under way at a time, so there are no more than two for each volume."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._tasks: set[asyncio.Task[None]] = set()

    def saver(self, uuid: str) -> Save:
        """The `save` of a volume's logical unit."""
        return self._keeper(self._catalogue.set_registrations, uuid)

    def noter(self, uuid: str) -> Note:
        """The `note` of a volume's logical unit."""
        return self._keeper(self._catalogue.set_unfinished, uuid)

    def _keeper(
        self, store: Callable[[str, _State], None], uuid: str
    ) -> Callable[[_State, Callable[[Error | None], None]], None]:
        def keep(state: _State, then: Callable[[Error | None], None]) -> None:
            task = asyncio.create_task(_stored(store, uuid, state, then))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        return keep

    async def drain(self) -> None:
        """Return when everything is kept."""
        while self._tasks:
            await asyncio.wait(self._tasks)


async def _stored(
    store: Callable[[str, _State], None], uuid: str, state: _State, then: Callable[[Error | None], None]
) -> None:
    failed: Error | None = None
    try:
        await asyncio.to_thread(store, uuid, state)
    except Error as error:
        failed = error
    then(failed)
