"""A layer that lets reads and flushes through and fails everything else with `ProtectedError`."""

from collections.abc import Sequence

from iscsi_rp.device import FLUSH, READ, BlockDevice, Done, Io, ProtectedError


class ReadOnlyDevice:
    def __init__(self, below: BlockDevice) -> None:
        self._below = below

    @property
    def size(self) -> int:
        return self._below.size

    @property
    def block_size(self) -> int:
        return self._below.block_size

    @property
    def read_only(self) -> bool:
        return True

    def submit(self, batch: Sequence[Io], done: Done) -> None:
        allowed = [io for io in batch if io[0] in (READ, FLUSH)]
        if len(allowed) < len(batch):
            done([(io[5], ProtectedError()) for io in batch if io[0] not in (READ, FLUSH)])
        if allowed:
            self._below.submit(allowed, done)
