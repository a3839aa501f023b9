"""Memory that was freed, back to the system: the C library keeps what lies below something still in use."""

import ctypes
from typing import Final

_TRIM: Final = getattr(ctypes.CDLL(None), "malloc_trim", None)
"glibc has it."


def give_back() -> None:
    """Buffers of a burst are megabytes each; without this the process stays as large as it once was."""
    if _TRIM is not None:
        _TRIM(ctypes.c_size_t(0))
