"""A `BlockDevice` over a regular file or block special, through the page cache.

What is fast runs on the event loop: a read that the cache can serve (`RWF_NOWAIT`), and a plain write,
which copies into the cache. What may take long runs in threads:

* a read that the cache cannot serve, in a few reader threads (`readahead` says why not by the kernel's own);
* a MAP, in the same threads;
* a FLUSH, one `fdatasync` at a time: all that came while one ran are served together by the next;
* FUA, ZERO and UNMAP, in the one writer thread, a FIFO.

Linux throttles a writer that dirties pages faster than the disk takes them. So when one write slept for
longer than `SLOW_S` the device *diverts*: writes go through the FIFO until none was slow for `DIVERT_S`. (One
that was only preempted, on a busy machine, did not sleep: the count of voluntary context switches tells them
apart.) While the FIFO holds anything, every write goes through it, so overlapping writes keep their order.

A failed `fdatasync` leaves pages that look clean but never reached the medium, and the next call succeeds.
A FLUSH must not claim them durable, so from the first failure on every FLUSH and FUA fails, until the device
is opened again.
"""

import asyncio
import errno
import os
import resource
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, TypeAlias

from iscsi_rp.block.readahead import Readahead
from iscsi_rp.block.store import PUNCH_HOLE, ZERO_RANGE, StoreSizeError, fallocate, grow, open_store
from iscsi_rp.clock import monotonic_s
from iscsi_rp.device import (
    FLUSH,
    MAP,
    READ,
    UNMAP,
    WRITE,
    BusyError,
    Done,
    Io,
    IoError,
    MediumError,
    NotReadyError,
    ProtectedError,
    Result,
    SpaceError,
    pack_runs,
)

SLOW_S: Final = 0.01
DIVERT_S: Final = 0.1
READERS: Final = 4
"Threads for reads that the page cache cannot serve."
QUEUED_IOS: Final = 4096
"Operations that may wait for threads; one more fails with `BusyError`."
QUEUED_BYTES: Final = 64 << 20
"Copied data that may wait in the FIFO; a write beyond it fails with `BusyError`."
_ZEROS: Final = bytes(1 << 20)
_RUNS: Final = 64
"The most that a MAP tells at once."

_Report: TypeAlias = list[tuple[Any, Result]]


class FileDevice:
    """See the module's docstring. Used from one event loop."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        size: int | None = None,
        block_size: int = 512,
        read_only: bool = False,
    ) -> None:
        """Open the store at `path` for this device alone.

        `size` in bytes is what the store should have (a block special may have more); None takes all of it.
        Raises `StoreMissingError`, `StoreInUseError`, `StoreSizeError`.
        """
        self._fd, actual, special = open_store(path, read_only=read_only)
        wanted = actual if size is None else size
        if wanted <= 0 or wanted % block_size or actual < wanted or (actual > wanted and not special):
            os.close(self._fd)
            raise StoreSizeError(f"{path} has {actual} bytes, not {wanted} in blocks of {block_size}")
        self.path = os.fspath(path)
        self._size, self._block_size, self._read_only = wanted, block_size, read_only
        self._nowait = os.RWF_NOWAIT
        os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_RANDOM)
        self._readahead = Readahead()
        self._closing = False
        self._readers = ThreadPoolExecutor(READERS, "block-read")
        self._writer = ThreadPoolExecutor(1, "block-write")
        self._flusher = ThreadPoolExecutor(1, "block-flush")
        self._queued_ios = self._queued_bytes = self._fifo_ios = 0
        self._divert_until = 0.0
        self._flush_waiting: list[tuple[Any, Done]] = []
        self._flushing = False
        self._sync_error: IoError | None = None
        self._idle: asyncio.Event | None = None

    @property
    def size(self) -> int:
        return self._size

    @property
    def block_size(self) -> int:
        return self._block_size

    @property
    def read_only(self) -> bool:
        return self._read_only

    def submit(self, batch: Sequence[Io], done: Done) -> None:
        if self._closing:
            done([(io[5], NotReadyError()) for io in batch])
            return
        report: _Report = []
        fifo: list[Io] = []
        now = monotonic_s()
        sleeps = 0
        for io in batch:
            op, offset, length, data, fua, tag = io
            if op == READ:
                result = self._read_cached(offset, length)
                if result is not None:
                    report.append((tag, result))
                elif self._admit(0, tag, report):
                    ahead = self._readahead.window(offset, length)
                    self._run(self._readers, partial(self._read_all, io, ahead), 1, 0, done)
            elif op == MAP:
                if self._admit(0, tag, report):
                    self._run(self._readers, partial(self._map, io), 1, 0, done)
            elif op == FLUSH:
                if self._admit(0, tag, report):
                    self._flush_waiting.append((tag, done))
            elif self._read_only:
                report.append((tag, ProtectedError()))
            elif op != WRITE or fua or fifo or self._fifo_ios or now < self._divert_until:
                if self._admit(length if op == WRITE else 0, tag, report):
                    # The caller's buffer is valid only until `submit` returns.
                    fifo.append((op, offset, length, bytes(data) if data is not None else None, fua, tag))
            else:
                sleeps = sleeps or _sleeps()
                report.append((tag, self._write(offset, data)))  # type: ignore[arg-type]
                before, now = now, monotonic_s()
                if now - before > SLOW_S and _sleeps() > sleeps:
                    self._divert_until = now + DIVERT_S
        if fifo:
            self._fifo_ios += len(fifo)
            held = sum(io[2] for io in fifo if io[0] == WRITE)
            self._run(self._writer, lambda: self._apply_all(fifo), len(fifo), held, done, fifo=len(fifo))
        if self._flush_waiting and not self._flushing:
            self._start_flush()
        if report:
            done(report)

    async def grow(self, size: int, *, preallocate: bool = False) -> None:
        """Give the store `size` bytes, more than it has; what is new reads as zeros. `size` stays as it is
        until `grown`. Raises `StoreSizeError`.
        """
        await asyncio.get_running_loop().run_in_executor(
            self._writer, partial(grow, self._fd, size, preallocate=preallocate)
        )

    def grown(self, size: int) -> None:
        """Be as large as the store has grown."""
        self._size = size

    async def drain(self) -> None:
        """Return when nothing is in the threads."""
        if self._queued_ios:
            self._idle = self._idle or asyncio.Event()
            await self._idle.wait()

    async def close(self) -> None:
        """Finish what is in flight, fail what comes later with `NotReadyError`, give the store back."""
        if self._closing:
            return
        self._closing = True
        await self.drain()
        for pool in (self._readers, self._writer, self._flusher):
            pool.shutdown()
        os.close(self._fd)

    def _admit(self, length: int, tag: Any, report: _Report) -> bool:
        """Take a place in the bounded queue, or report `BusyError`."""
        if self._queued_ios >= QUEUED_IOS or self._queued_bytes + length > QUEUED_BYTES:
            report.append((tag, BusyError()))
            return False
        self._queued_ios += 1
        self._queued_bytes += length
        return True

    def _run(
        self,
        pool: ThreadPoolExecutor,
        work: Callable[[], _Report],
        ios: int,
        held: int,
        done: Done,
        *,
        fifo: int = 0,
    ) -> None:
        """Run `work` in `pool`, report its results on the loop, give back `ios` places and `held` bytes."""
        loop = asyncio.get_running_loop()

        def finish(report: _Report, slow: bool) -> None:
            self._fifo_ios -= fifo
            if slow and fifo:
                self._divert_until = monotonic_s() + DIVERT_S
            self._leave(ios, held)
            done(report)

        def job() -> None:
            begun = monotonic_s()
            report = work()
            loop.call_soon_threadsafe(finish, report, monotonic_s() - begun > SLOW_S * max(1, fifo))

        pool.submit(job)

    def _leave(self, ios: int, held: int) -> None:
        self._queued_ios -= ios
        self._queued_bytes -= held
        if self._idle is not None and not self._queued_ios:
            self._idle.set()
            self._idle = None

    def _start_flush(self) -> None:
        self._flushing = True
        served, self._flush_waiting = self._flush_waiting, []
        loop = asyncio.get_running_loop()

        def finish(result: IoError | None) -> None:
            self._flushing = False
            self._leave(len(served), 0)
            for tag, done in served:
                done([(tag, result)])
            if self._flush_waiting and not self._flushing:
                self._start_flush()

        self._flusher.submit(lambda: loop.call_soon_threadsafe(finish, self._sync()))

    # The calls below run on the loop or in a thread, and report what the system said as a result.

    def _read_cached(self, offset: int, length: int) -> Result:
        """The data, if the page cache has all of it."""
        if not self._nowait:
            return None
        data = bytearray(length)
        try:
            if os.preadv(self._fd, (data,), offset, self._nowait) == length:
                return data
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                return _io_error(error)
            self._nowait = 0
        return None

    def _read(self, offset: int, length: int) -> Result:
        data = memoryview(bytearray(length))
        done = 0
        try:
            while done < length:
                count = os.preadv(self._fd, (data[done:],), offset + done)
                if not count:
                    return MediumError("The store ends before the device does.")
                done += count
        except OSError as error:
            return _io_error(error)
        return data

    def _write(self, offset: int, data: bytes | memoryview, flags: int = 0) -> IoError | None:
        try:
            done = os.pwritev(self._fd, (data,), offset, flags)
            while done < len(data):
                done += os.pwritev(self._fd, (memoryview(data)[done:],), offset + done, flags)
        except OSError as error:
            return _io_error(error)
        return None

    def _read_all(self, io: Io, ahead: tuple[int, int] | None) -> _Report:
        if ahead is not None:
            os.posix_fadvise(self._fd, *ahead, os.POSIX_FADV_WILLNEED)
        return [(io[5], self._read(io[1], io[2]))]

    def _map(self, io: Io) -> _Report:
        """Holes of the file are what takes no space (lseek(2), SEEK_HOLE)."""
        _, offset, length, _, _, tag = io
        end, block = offset + length, self._block_size
        lengths: list[int] = []
        at = offset
        try:
            while at < end and len(lengths) < _RUNS:
                data = max(at, min(_seek(self._fd, at, os.SEEK_DATA) // block * block, end))
                if data > at or lengths:
                    lengths += [0, data - at] if not lengths else [data - at]
                at = data
                if at < end:
                    hole = min(-(-_seek(self._fd, at, os.SEEK_HOLE) // block) * block, end)
                    lengths.append(hole - at)
                    at = hole
        except OSError:
            lengths = [length]
        return [(tag, pack_runs(lengths))]

    def _apply_all(self, ios: list[Io]) -> _Report:
        return [(io[5], self._apply(io)) for io in ios]

    def _apply(self, io: Io) -> IoError | None:
        op, offset, length, data, fua, _ = io
        if op != WRITE:
            error = self._clear(op, offset, length)
            return error or (self._sync() if fua else None)
        if not fua:
            return self._write(offset, data)  # type: ignore[arg-type]
        if self._sync_error is None:
            # It may have consumed the error of another page's write-back: treat it like a failed fdatasync.
            self._sync_error = self._write(offset, data, os.RWF_DSYNC)  # type: ignore[arg-type]
        return self._sync_error

    def _clear(self, op: int, offset: int, length: int) -> IoError | None:
        """Make a range read as zeros by the first way that the store has."""
        for mode in (PUNCH_HOLE, ZERO_RANGE) if op == UNMAP else (ZERO_RANGE,):
            try:
                fallocate(self._fd, mode, offset, length)
                return None
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENODEV):
                    return _io_error(error)
        for at in range(offset, offset + length, len(_ZEROS)):
            if failed := self._write(at, memoryview(_ZEROS)[: offset + length - at]):
                return failed
        return None

    def _sync(self) -> IoError | None:
        if self._sync_error is None:
            try:
                os.fdatasync(self._fd)
            except OSError as error:
                self._sync_error = _io_error(error)
        return self._sync_error


def _seek(fd: int, offset: int, whence: int) -> int:
    """Where data, or a hole, begins at or behind `offset`; beyond any device when there is no more."""
    try:
        return os.lseek(fd, offset, whence)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return 1 << 63
        raise


def _sleeps() -> int:
    """How often this thread gave up its processor to wait for something."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


def _io_error(error: OSError) -> IoError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return SpaceError(error.strerror)
    if error.errno in (errno.EROFS, errno.EPERM):
        return ProtectedError(error.strerror)
    return MediumError(error.strerror)
