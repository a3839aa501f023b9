"""Persistent reservations are answered when they are durable."""

import asyncio

from iscsi_rp.array.registrations import RegistrationKeeper
from iscsi_rp.errors import Error, NotFoundError


def test_registrations_are_answered_when_they_are_durable_or_cannot_be() -> None:
    class Slow:
        def __init__(self) -> None:
            self.stored: list[tuple[str, bytes]] = []

        def set_registrations(self, uuid: str, registrations: bytes) -> None:
            if uuid == "gone":
                raise NotFoundError("there is no volume gone")
            self.stored.append((uuid, registrations))

    async def main() -> None:
        catalogue = Slow()
        keeper = RegistrationKeeper(catalogue)  # type: ignore[arg-type]
        answers: list[tuple[Error | None, int]] = []
        for uuid in ("data", "gone"):
            keeper.saver(uuid)(b"keys", lambda error: answers.append((error, len(catalogue.stored))))
        assert answers == []
        await keeper.drain()
        assert sorted(str(error) for error, _ in answers) == ["None", "there is no volume gone"]
        assert (None, 1) in answers

    asyncio.run(main())
