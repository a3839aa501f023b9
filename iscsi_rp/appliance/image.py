"""An image of one volume as a `BlockDevice`: an unchanging image below, an access log for what hosts write.

Reads that the cache has are served on the event loop; all others run in threads. Changes go to the access
log's queue, which keeps their order, over all volumes of the image.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, TypeAlias

from iscsi_rp.appliance.access_log import AccessLog
from iscsi_rp.appliance.image_cache import CHUNK_BYTES, ImageCache
from iscsi_rp.device import (
    FLUSH,
    MAP,
    READ,
    WRITE,
    BusyError,
    Done,
    Io,
    IoError,
    MediumError,
    ProtectedError,
    Result,
    pack_runs,
)
from iscsi_rp.errors import Error

QUEUED_IOS: Final = 4096
"Operations that may be in threads; one more fails with `BusyError`."
QUEUED_BYTES: Final = 64 << 20
"Data of reads and writes in threads; an operation beyond it fails with `BusyError`."

LANES: Final = 4
LANE_READS: Final = 16
"Reads that a thread takes from a lane at once."

Reader: TypeAlias = Callable[[int, int, int], bytes]
"`reader(volume, offset, length)`: what the image has there. Blocks, thread safe, raises `Error`."


class ImageDevice:
    """Used from one event loop. The access log is its opener's to close, after `drain`."""

    def __init__(
        self,
        volume: int,
        size: int,
        block_size: int,
        reader: Reader,
        threads: ThreadPoolExecutor,
        access_log: AccessLog | None,
    ) -> None:
        """`size` and `block_size` in bytes. Without an access log the device is read-only."""
        self._volume, self._size, self._block_size = volume, size, block_size
        self._below = ImageCache(partial(reader, volume), size)
        self._threads = threads
        self._log = access_log
        self._lanes: list[list[tuple[Io, Done]]] = [[] for _ in range(LANES)]
        self._queued_ios = self._queued_bytes = 0
        self._idle: asyncio.Event | None = None

    @property
    def size(self) -> int:
        return self._size

    @property
    def block_size(self) -> int:
        return self._block_size

    @property
    def read_only_reason(self) -> str | None:
        """Why hosts cannot write, or None if they can."""
        if self._log is None:
            return "The image was opened for reading only."
        return self._log.read_only_reason

    @property
    def read_only(self) -> bool:
        return self.read_only_reason is not None

    def submit(self, batch: Sequence[Io], done: Done) -> None:
        report: list[tuple[Any, Result]] = []
        changes: list[Io] = []
        for io in batch:
            op, offset, length, data, fua, tag = io
            if op == READ and (cached := self._cached(offset, length)) is not None:
                report.append((tag, cached))
            elif op == MAP:
                report.append((tag, pack_runs((length,))))
            elif op == FLUSH and self._log is None:
                report.append((tag, None))
            elif op not in (READ, FLUSH) and (reason := self.read_only_reason):
                report.append((tag, ProtectedError(reason)))
            elif not self._admit(io):
                report.append((tag, BusyError()))
            elif op == READ:
                self._start_read(io, done)
            else:
                # The caller's buffer is valid only until `submit` returns.
                changes.append((op, offset, length, None if data is None else bytes(data), fua, tag))
        if changes:
            self._start_changes(changes, done)
        if report:
            done(report)

    async def drain(self) -> None:
        """Return when nothing is in threads."""
        if self._queued_ios:
            self._idle = self._idle or asyncio.Event()
            await self._idle.wait()

    def _cached(self, offset: int, length: int) -> bytes | None:
        if self._log is not None and self._log.is_touched(self._volume, offset, length):
            return None
        return self._below.cached(offset, length)

    def _admit(self, io: Io) -> bool:
        held = _held_bytes(io)
        if self._queued_ios >= QUEUED_IOS or self._queued_bytes + held > QUEUED_BYTES:
            return False
        self._queued_ios += 1
        self._queued_bytes += held
        return True

    def _finish(self, done: Done, finished: Sequence[tuple[Io, Result]]) -> None:
        """On the loop: give places back and report."""
        self._queued_ios -= len(finished)
        self._queued_bytes -= sum(_held_bytes(io) for io, _ in finished)
        if self._idle is not None and not self._queued_ios:
            self._idle.set()
            self._idle = None
        done([(io[5], result) for io, result in finished])

    def _start_read(self, io: Io, done: Done) -> None:
        lane = self._lanes[io[1] // CHUNK_BYTES % LANES]
        lane.append((io, done))
        if len(lane) == 1:
            self._threads.submit(self._serve, lane, asyncio.get_running_loop())

    def _serve(self, lane: list[tuple[Io, Done]], loop: asyncio.AbstractEventLoop) -> None:
        """In a thread: reads stay in the lane, which only grows meanwhile, until `_served` takes them out."""
        results = [self._read(io[1], io[2]) for io, _ in lane[:LANE_READS]]
        loop.call_soon_threadsafe(self._served, lane, results)

    def _served(self, lane: list[tuple[Io, Done]], results: list[Result]) -> None:
        served = lane[: len(results)]
        del lane[: len(results)]
        if lane:
            self._threads.submit(self._serve, lane, asyncio.get_running_loop())
        for (io, done), result in zip(served, results, strict=True):
            self._finish(done, [(io, result)])

    def _start_changes(self, changes: list[Io], done: Done) -> None:
        """Those that need not be durable are reported as soon as they are in the log."""
        assert self._log is not None
        loop = asyncio.get_running_loop()
        durable: list[tuple[Io, IoError | None]] = []

        def apply() -> None:
            applied = [(io, self._apply(io)) for io in changes]
            durable.extend(each for each in applied if _wants_sync(each[0]))
            if at_once := [each for each in applied if not _wants_sync(each[0])]:
                loop.call_soon_threadsafe(self._finish, done, at_once)

        def committed(error: IoError | None) -> None:
            finished = [(io, result or error) for io, result in durable]
            loop.call_soon_threadsafe(self._finish, done, finished)

        self._log.queue.post(apply, committed if any(map(_wants_sync, changes)) else None)

    # -- in threads

    def _read(self, offset: int, length: int) -> Result:
        try:
            if self._log is None:
                return self._below.read(offset, length)
            return self._log.read(self._volume, offset, length, self._below.read)
        except (Error, OSError) as error:
            return error if isinstance(error, IoError) else MediumError(str(error))

    def _apply(self, io: Io) -> IoError | None:
        assert self._log is not None
        op, offset, length, data, _, _ = io
        try:
            if op == WRITE:
                self._log.write(self._volume, offset, data, self._below.read)  # type: ignore[arg-type]
            elif op != FLUSH:
                self._log.zero(self._volume, offset, length, self._below.read)
        except IoError as error:
            return error
        return None


def _held_bytes(io: Io) -> int:
    return io[2] if io[0] in (READ, WRITE) else 0


def _wants_sync(io: Io) -> bool:
    return io[4] or io[0] == FLUSH
