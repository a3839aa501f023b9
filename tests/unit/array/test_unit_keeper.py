"""A logical unit is told that something is kept when it is durable."""

import asyncio
from collections.abc import Callable
from typing import Any

from iscsi_rp.array.unit_keeper import UnitKeeper
from iscsi_rp.errors import Error, NotFoundError
from iscsi_rp.scsi.medium import Work


def test_what_is_kept_is_durable_when_it_is_said_or_cannot_be() -> None:
    class Slow:
        def __init__(self) -> None:
            self.stored: list[tuple[str, Any]] = []

        def set_registrations(self, uuid: str, state: Any) -> None:
            if uuid == "gone":
                raise NotFoundError("there is no volume gone")
            self.stored.append((uuid, state))

        set_unfinished = set_registrations

    async def main() -> None:
        catalogue = Slow()
        keeper = UnitKeeper(catalogue)  # type: ignore[arg-type]
        answers: list[tuple[Error | None, int]] = []

        def answered(error: Error | None) -> None:
            answers.append((error, len(catalogue.stored)))

        kept: list[tuple[Any, Callable[[str], Callable[[Any, Any], None]]]]
        kept = [(b"keys", keeper.saver), (Work.SANITIZE, keeper.noter)]
        for state, keep in kept:
            catalogue.stored.clear()
            answers.clear()
            for uuid in ("data", "gone"):
                keep(uuid)(state, answered)
            assert answers == []
            await keeper.drain()
            assert sorted(str(error) for error, _ in answers) == ["None", "there is no volume gone"]
            assert (None, 1) in answers
            assert catalogue.stored == [("data", state)]

    asyncio.run(main())
