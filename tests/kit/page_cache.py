"""What the kernel's page cache has of a file (mincore(2), posix_fadvise(2))."""

import ctypes
import mmap
import os
from pathlib import Path


def cached(path: Path, offset: int, length: int) -> bool:
    """Whether all of a range is in the page cache. (Trying to read it, even without waiting, loads it.)"""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as pages:
        anchor = ctypes.c_char.from_buffer(pages)
        found = ctypes.create_string_buffer(length // mmap.PAGESIZE)
        address = ctypes.c_void_p(ctypes.addressof(anchor) + offset)
        assert ctypes.CDLL(None).mincore(address, ctypes.c_size_t(length), found) == 0
        del anchor
        return all(page & 1 for page in found.raw)


def can_be_emptied(path: Path) -> bool:
    """Whether its file system has a page cache that can be told to forget: tmpfs is nothing but cache."""
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)
    return not cached(path, 0, mmap.PAGESIZE)
