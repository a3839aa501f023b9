"""The journal's seam to the operating system: files and one directory.

Everything in the journal that blocks, or that a crash can tear, passes through `File` and `Directory`. The
simulation puts a disk of its own behind them and so drives the journal's real code. What is written becomes
durable by `sync` only; a name that is created or removed, by the directory's.
"""

import contextlib
import ctypes
import errno
import mmap
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol

from iscsi_rp.device import Buffer
from iscsi_rp.journal.errors import JournalFullError, JournalIoError

_IOV_MAX: Final = 1024
_FALLOC_KEEP_SIZE: Final = 0x01
_FALLOC_PUNCH_HOLE: Final = 0x02
_NOT_SUPPORTED: Final = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV)
_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_ZEROS: Final = bytes(1 << 20)

_libc = ctypes.CDLL(None, use_errno=True)


class File(Protocol):
    """An open file. Offsets and lengths are in bytes. Raises `JournalFullError` or `JournalIoError`."""

    @property
    def name(self) -> str: ...

    @property
    def size(self) -> int: ...

    def pread(self, length: int, offset: int) -> bytes:
        """Shorter than `length` only at the end of the file."""
        ...

    def pwritev(self, buffers: Sequence[Buffer], offset: int) -> None:
        """Write all of `buffers`, one behind the other.

        After an error any part of them may have been written.
        """
        ...

    def sync(self) -> None:
        """fdatasync.

        After an error nothing written since the last success can be trusted to reach the disk.
        """
        ...

    def trust_disk(self) -> None:
        """Sync, then forget what is cached: reads show what is on the disk.

        For opening after a crash: after a sync that failed, the cache shows what the disk may never get.
        """
        ...

    def forget(self, end: int) -> None:
        """What was synced before `end` need not stay in the page cache."""
        ...

    def read_ahead(self, offset: int, length: int) -> None:
        """This range is about to be read, in any order."""
        ...

    def truncate(self, size: int) -> None: ...

    def allocate(self, size: int) -> None:
        """Reserve space up to `size`, where the file system can; the reserved space reads as zeros."""
        ...

    def zero(self, offset: int, length: int) -> None:
        """Make a range read as zeros and give its space back, where the file system can."""
        ...

    def data_extents(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """(offset, length) of what is allocated in a range; everything else reads as zeros."""
        ...

    def map(self, offset: int, length: int) -> memoryview:
        """A read-only view that shows later writes too; the file must reach to its end."""
        ...

    def close(self) -> None: ...


class Directory(Protocol):
    """The folder of one group's journal."""

    def open(self, name: str, *, create: bool = False) -> File:
        """With `create`, the file must not exist yet. Raises `FileNotFoundError`, `FileExistsError`."""
        ...

    def names(self) -> list[str]: ...

    def remove(self, name: str) -> None:
        """Open files stay readable."""
        ...

    def sync(self) -> None:
        """Make names created and removed durable."""
        ...

    def free_bytes(self) -> int: ...


@contextlib.contextmanager
def _typed(what: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, FileExistsError):
        raise
    except OSError as error:
        raise _journal_error(error, what) from error


def _journal_error(error: OSError, what: str) -> JournalFullError | JournalIoError:
    kind = JournalFullError if error.errno in _NO_SPACE else JournalIoError
    return kind(f"{what}: {error.strerror}")


class OsFile:
    """A regular file or a block special."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        """Raises `FileNotFoundError`, `FileExistsError`, `JournalIoError`."""
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT | os.O_EXCL if create else 0)
        self._fd = -1
        self.path = path
        with _typed(f"opening {path}"):
            self._fd = os.open(path, flags, 0o600)
        self._is_block_special = stat.S_ISBLK(os.fstat(self._fd).st_mode)

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def size(self) -> int:
        return os.lseek(self._fd, 0, os.SEEK_END)  # fstat tells nothing about a block special

    def pread(self, length: int, offset: int) -> bytes:
        try:
            data = os.pread(self._fd, length, offset)
            while len(data) < length and (more := os.pread(self._fd, length - len(data), offset + len(data))):
                data += more
        except OSError as error:
            raise _journal_error(error, f"reading {self.path}") from error
        return data

    def pwritev(self, buffers: Sequence[Buffer], offset: int) -> None:
        try:
            for first in range(0, len(buffers), _IOV_MAX):
                batch = buffers[first : first + _IOV_MAX]
                written = os.pwritev(self._fd, batch, offset)
                length = sum(map(len, batch))
                if written < length:
                    self._write_rest(b"".join(batch)[written:], offset + written)
                offset += length
        except OSError as error:
            raise _journal_error(error, f"writing {self.path}") from error

    def _write_rest(self, data: bytes, offset: int) -> None:
        """A short write: the next call tells its reason, or finishes it."""
        view = memoryview(data)
        while view:
            written = os.pwrite(self._fd, view, offset)
            if written == 0:
                raise OSError(errno.EIO, "nothing could be written")
            view = view[written:]
            offset += written

    def sync(self) -> None:
        with _typed(f"flushing {self.path}"):
            os.fdatasync(self._fd)

    def trust_disk(self) -> None:
        self.sync()
        os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def forget(self, end: int) -> None:
        with _typed(f"dropping cached pages of {self.path}"):
            os.posix_fadvise(self._fd, 0, end, os.POSIX_FADV_DONTNEED)

    def read_ahead(self, offset: int, length: int) -> None:
        with _typed(f"reading ahead in {self.path}"):
            os.posix_fadvise(self._fd, offset, length, os.POSIX_FADV_WILLNEED)

    def truncate(self, size: int) -> None:
        with _typed(f"truncating {self.path}"):
            os.ftruncate(self._fd, size)

    def allocate(self, size: int) -> None:
        with _typed(f"allocating {self.path}"):
            self._fallocate(0, 0, size)

    def zero(self, offset: int, length: int) -> None:
        with _typed(f"punching a hole into {self.path}"):
            if self._fallocate(_FALLOC_PUNCH_HOLE | _FALLOC_KEEP_SIZE, offset, length):
                return
            view = memoryview(_ZEROS)
            for start in range(offset, offset + length, len(view)):
                self._write_rest(bytes(view[: offset + length - start]), start)

    def _fallocate(self, mode: int, offset: int, length: int) -> bool:
        """False where the file system cannot."""
        call = _libc.fallocate
        call.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
        if call(self._fd, mode, offset, length) == 0:
            return True
        code = ctypes.get_errno()
        if code in _NOT_SUPPORTED:
            return False
        raise OSError(code, os.strerror(code))

    def data_extents(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        end = offset + length
        if self._is_block_special:
            yield offset, length
            return
        while offset < end:
            try:
                start = os.lseek(self._fd, offset, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return
                raise _journal_error(error, f"looking for data in {self.path}") from error
            if start >= end:
                return
            offset = min(end, os.lseek(self._fd, start, os.SEEK_HOLE))
            yield start, offset - start

    def map(self, offset: int, length: int) -> memoryview:
        """Mapped pages belong to the page cache, so a large index is not anonymous memory."""
        if length == 0:
            return memoryview(b"")
        skip = offset % mmap.ALLOCATIONGRANULARITY
        with _typed(f"mapping {self.path}"):
            mapped = mmap.mmap(self._fd, length + skip, prot=mmap.PROT_READ, offset=offset - skip)
        return memoryview(mapped)[skip:]


class OsDirectory:
    """A folder of the file system."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self, name: str, *, create: bool = False) -> OsFile:
        return OsFile(self.path / name, create=create)

    def names(self) -> list[str]:
        with _typed(f"listing {self.path}"):
            return sorted(os.listdir(self.path))

    def remove(self, name: str) -> None:
        with _typed(f"removing {self.path / name}"):
            (self.path / name).unlink()

    def sync(self) -> None:
        with _typed(f"flushing {self.path}"):
            fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def free_bytes(self) -> int:
        status = os.statvfs(self.path)
        return status.f_bavail * status.f_frsize
