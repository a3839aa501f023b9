"""The store under a `FileDevice`: creating it, opening it for one user, giving back space (fallocate(2))."""

import ctypes
import errno
import fcntl
import os
import stat
from pathlib import Path
from typing import Final

from iscsi_rp.errors import ConflictError, NotFoundError
from iscsi_rp.units import format_size

PUNCH_HOLE: Final = 0x02 | 0x01
"FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE: reads as zeros, space given back (linux/falloc.h)."
ZERO_RANGE: Final = 0x10 | 0x01
"FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE: reads as zeros, space kept."

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate64.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


class StoreMissingError(NotFoundError):
    """The store does not exist."""


class StoreExistsError(ConflictError):
    """The store exists already."""


class StoreInUseError(ConflictError):
    """The store is in use by another process."""


class StoreSizeError(ConflictError):
    """The store does not have the size it should have."""


def create_file(path: str | os.PathLike[str], size: int, *, preallocate: bool = False) -> None:
    """Create a store of `size` bytes that reads as zeros: sparse, or with its space reserved.

    Raises `StoreExistsError`, `StoreMissingError` when the folder is not there, and `StoreSizeError` when the
    file system cannot hold it; a file that could not be made whole is removed.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise StoreExistsError(f"{path} exists already") from None
    except OSError as error:
        raise StoreMissingError(f"cannot create {path}: {error.strerror}") from None
    try:
        if preallocate:
            os.posix_fallocate(fd, 0, size)
        else:
            os.truncate(fd, size)
    except OSError as error:
        Path(path).unlink()
        raise StoreSizeError(f"cannot give {path} {format_size(size)}: {error.strerror}") from None
    finally:
        os.close(fd)


def open_store(path: str | os.PathLike[str], *, read_only: bool = False) -> tuple[int, int, bool]:
    """Open a regular file or block special for this process alone: (descriptor, bytes, is block special).

    Raises `StoreMissingError` and `StoreInUseError`. Read-only users share the store with one another.
    """
    flags = os.O_CLOEXEC | (os.O_RDONLY if read_only else os.O_RDWR)
    try:
        special = stat.S_ISBLK(Path(path).stat().st_mode)
        # O_EXCL without O_CREAT refuses a block special that is mounted or part of a device (open(2)).
        fd = os.open(path, flags | (os.O_EXCL if special and not read_only else 0))
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise StoreInUseError(f"{path} is in use") from None
        raise StoreMissingError(f"cannot open {path}: {error.strerror}") from None
    try:
        if not special and not stat.S_ISREG(os.fstat(fd).st_mode):
            raise StoreMissingError(f"{path} is neither a file nor a block device")
        fcntl.flock(fd, (fcntl.LOCK_SH if read_only else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        return fd, os.lseek(fd, 0, os.SEEK_END), special
    except BlockingIOError:
        os.close(fd)
        raise StoreInUseError(f"{path} is in use") from None
    except BaseException:
        os.close(fd)
        raise


def grow(fd: int, size: int, *, preallocate: bool = False) -> None:
    """Give an open store `size` bytes, durably; a block special has them already. Blocks.

    Raises `StoreSizeError`; the store then is as large as it was.
    """
    before = os.lseek(fd, 0, os.SEEK_END)
    if stat.S_ISBLK(os.fstat(fd).st_mode):
        if before < size:
            raise StoreSizeError(f"the block device has {before} bytes, not {size}")
        return
    if size < before:
        raise StoreSizeError(f"the store has {before} bytes already, more than {size}")
    try:
        if preallocate:
            os.posix_fallocate(fd, before, size - before)
        os.ftruncate(fd, size)
        os.fsync(fd)
    except OSError as error:
        os.ftruncate(fd, before)
        raise StoreSizeError(f"cannot give the store {format_size(size)}: {error.strerror}") from None


def grow_file(path: str | os.PathLike[str], size: int) -> None:
    """As `grow`, for a store that nobody has open. Raises `StoreMissingError`, `StoreInUseError`,
    `StoreSizeError`.
    """
    fd, _, _ = open_store(path)
    try:
        grow(fd, size)
    finally:
        os.close(fd)


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """`fallocate(2)`, which Python has without its mode. Raises `OSError`."""
    if _libc.fallocate64(fd, mode, offset, length):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
