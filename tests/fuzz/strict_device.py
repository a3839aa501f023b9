"""A device in memory that holds its callers to the contract of `BlockDevice`, and answers when it is told."""

from collections.abc import Sequence

from iscsi_rp.block import MemoryDevice
from iscsi_rp.device import FLUSH, WRITE, Done, Io


class BrokenPromise(AssertionError):
    """What must never happen has happened: a finding."""


def require(condition: bool, what: str) -> None:
    if not condition:
        raise BrokenPromise(what)


class StrictDevice(MemoryDevice):
    """Raises `BrokenPromise` where a batch is not what the contract allows."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.holding = False
        "Answer only in `let_go`."
        self._held: list[tuple[list[Io], Done]] = []

    def submit(self, batch: Sequence[Io], done: Done) -> None:
        for op, offset, length, data, _, _ in batch:
            if op != FLUSH:
                require(
                    length > 0 and offset >= 0 and offset + length <= self.size, "an I/O beyond the device"
                )
                require(not (offset | length) % self.block_size, "an I/O that is not whole blocks")
            require((op == WRITE) == (data is not None), "data where none belongs, or none where it does")
            require(data is None or len(data) == length, "data of another length than its WRITE")
        if not self.holding:
            return super().submit(batch, done)
        kept: list[Io] = [(*io[:3], None if io[3] is None else bytes(io[3]), *io[4:]) for io in batch]
        self._held.append((kept, done))
        return None

    def let_go(self) -> int:
        """Do and answer what is held now, not what follows from it; returns how many batches that was."""
        held, self._held = self._held, []
        for batch, done in held:
            super().submit(batch, done)
        return len(held)
