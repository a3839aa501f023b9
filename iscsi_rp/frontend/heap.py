"""How the heap of the C library treats the buffers of reads and writes, where it is glibc's (mallopt(3))."""

import ctypes
from typing import Final

_LIBC: Final = ctypes.CDLL(None)
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_MAPPED_BYTES: Final = 32 << 20
"The highest threshold that it takes: beyond it, a buffer is mapped for itself."
_KEPT_BYTES: Final = 128 << 20


def keep() -> None:
    """Have freed buffers used again. Without this each of 128 KiB or more is mapped and unmapped, and the
    kernel clears its pages one by one: for a read of 1 MiB that takes longer than the read.
    """
    if hasattr(_LIBC, "mallopt"):
        _LIBC.mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES)
        _LIBC.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def give_back() -> None:
    """Free memory back to the system, also what lies below something still in use: buffers of a burst are
    megabytes each, and without this the process stays as large as it once was.
    """
    if hasattr(_LIBC, "malloc_trim"):
        _LIBC.malloc_trim(ctypes.c_size_t(0))
