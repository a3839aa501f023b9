"""Keeps in the catalogue the persistent reservations that survive a loss of power (APTPL, SPC-4 5.13.4)."""

import asyncio
from collections.abc import Callable

from iscsi_rp.array.catalogue import Catalogue
from iscsi_rp.errors import Error
from iscsi_rp.scsi.reservations import Save


class RegistrationKeeper:
    """A logical unit asks for one save after the other, so no more are under way than there are volumes."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._tasks: set[asyncio.Task[None]] = set()

    def saver(self, uuid: str) -> Save:
        """The `save` of a volume's logical unit."""

        def save(registrations: bytes, then: Callable[[Error | None], None]) -> None:
            task = asyncio.create_task(self._save(uuid, registrations, then))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        return save

    async def _save(self, uuid: str, registrations: bytes, then: Callable[[Error | None], None]) -> None:
        failed: Error | None = None
        try:
            await asyncio.to_thread(self._catalogue.set_registrations, uuid, registrations)
        except Error as error:
            failed = error
        then(failed)

    async def drain(self) -> None:
        """Return when every save is over."""
        while self._tasks:
            await asyncio.wait(self._tasks)
