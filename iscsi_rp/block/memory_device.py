"""A `BlockDevice` in memory: every operation is done when `submit` returns, nothing survives the process."""

from collections.abc import Sequence
from typing import Any

from iscsi_rp.device import FLUSH, MAP, READ, WRITE, Done, Io, Result, pack_runs


class MemoryDevice:
    def __init__(self, size: int, *, block_size: int = 512) -> None:
        """`size` in bytes, a multiple of `block_size`."""
        self._data = bytearray(size)
        self._block_size = block_size

    @property
    def size(self) -> int:
        return len(self._data)

    @property
    def block_size(self) -> int:
        return self._block_size

    @property
    def read_only(self) -> bool:
        return False

    def submit(self, batch: Sequence[Io], done: Done) -> None:
        report: list[tuple[Any, Result]] = []
        for op, offset, length, data, _, tag in batch:
            result: Result = None
            if op == READ:
                result = self._data[offset : offset + length]
            elif op == MAP:
                result = pack_runs((length,))
            elif op != FLUSH:
                self._data[offset : offset + length] = (
                    data if op == WRITE and data is not None else bytes(length)
                )
            report.append((tag, result))
        done(report)

    async def grow(self, size: int, *, preallocate: bool = False) -> None:
        """Memory is given by `grown`."""

    def grown(self, size: int) -> None:
        """Have `size` bytes, more than before; what is new reads as zeros."""
        self._data.extend(bytes(size - len(self._data)))

    async def close(self) -> None:
        """Nothing is ever in flight."""
