"""A process that serves disks of its own machine must not wait for them: prctl(2), mlockall(2).

To free memory the kernel writes to disks. If one of them is served by a process that in turn waits for
memory, both wait for ever. As an IO_FLUSHER it gets memory without such writes, and what is locked is never
read back.
"""

import ctypes
import os
from typing import Final

import structlog

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_PR_SET_IO_FLUSHER: Final = 57
_MCL: Final = 1 | 4
"""CURRENT, ONFAULT: what is touched stays, nothing is read in for it beforehand. Not FUTURE: it would have
the kernel touch pages of a ring that are not there."""

_log = structlog.get_logger(__name__)


def stay_in_memory() -> None:
    """For this thread and those that it starts. What the system refuses is logged: it serves without."""
    if _LIBC.prctl(_PR_SET_IO_FLUSHER, 1, 0, 0, 0):
        _log.warning("not an IO_FLUSHER", reason=os.strerror(ctypes.get_errno()))
    if _LIBC.mlockall(_MCL):
        _log.warning("memory is not locked", reason=os.strerror(ctypes.get_errno()))
