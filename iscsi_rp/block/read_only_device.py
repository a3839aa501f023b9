"""A layer that lets through what changes nothing and fails everything else with `ProtectedError`."""

from collections.abc import Sequence
from typing import Final

from iscsi_rp.device import FLUSH, MAP, READ, BlockDevice, Done, Io, ProtectedError

_ALLOWED: Final = (READ, FLUSH, MAP)


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
        allowed = [io for io in batch if io[0] in _ALLOWED]
        if len(allowed) < len(batch):
            done([(io[5], ProtectedError()) for io in batch if io[0] not in _ALLOWED])
        if allowed:
            self._below.submit(allowed, done)
