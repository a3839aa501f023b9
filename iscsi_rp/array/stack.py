"""The joint of a volume's stack: a BlockDevice whose lower part can be exchanged while hosts use it."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from iscsi_rp.device import BlockDevice, Done, Io, Result


class Joint:
    """Passes operations to the device below, and knows when none is in flight, which is when it may be
    exchanged.
    """

    def __init__(self, below: BlockDevice) -> None:
        self.below = below
        self._in_flight = 0
        self._exchange: Callable[[], BlockDevice] | None = None
        self._waiting: deque[tuple[Sequence[Io], Done]] = deque()

    @property
    def size(self) -> int:
        return self.below.size

    @property
    def block_size(self) -> int:
        return self.below.block_size

    @property
    def read_only(self) -> bool:
        return self.below.read_only

    def submit(self, batch: Sequence[Io], done: Done) -> None:
        if self._exchange is not None:
            # The data of a write is the caller's only until this returns.
            self._waiting.append(([_owned(io) for io in batch], done))
            return
        self._in_flight += len(batch)

        def counted(results: Sequence[tuple[Any, Result]]) -> None:
            self._in_flight -= len(results)
            done(results)
            if self._exchange is not None:
                self._maybe_exchange()

        self.below.submit(batch, counted)

    def exchange(self, below: Callable[[], BlockDevice]) -> None:
        """Once nothing is in flight, put `below()` under the joint. What arrives meanwhile waits and goes to
        the new one.

        So an operation is wholly before or wholly after: a splitter put in never meets a write that it has
        not seen.
        """
        if self._exchange is not None:
            raise RuntimeError("an exchange is under way")
        self._exchange = below
        self._maybe_exchange()

    def _maybe_exchange(self) -> None:
        if self._in_flight or self._exchange is None:
            return
        exchange, self._exchange = self._exchange, None
        self.below = exchange()
        waiting, self._waiting = self._waiting, deque()
        for batch, done in waiting:
            self.submit(batch, done)


def _owned(io: Io) -> Io:
    op, offset, length, data, fua, tag = io
    return (op, offset, length, None if data is None else bytes(data), fua, tag)
