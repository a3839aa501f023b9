"""The one idea of the project: everything with blocks is a `BlockDevice`, and the system is a stack of them.

A backing file, a splitter over it, a point-in-time image and the writable log over that image all have this
shape, so the same logical unit and the same front ends serve each of them.

An operation is a plain tuple (`Io`), because several ten thousand are made each second::

    (op, offset, length, data, fua, tag)

`offset` and `length` are in bytes and multiples of the device's `block_size`, within its `size`: the logical
unit has checked that before it submits. `data` is the buffer of a WRITE (exactly `length` bytes) and None
otherwise. `fua` asks that a WRITE, ZERO or UNMAP be durable before it is reported done. `tag` is the caller's
and comes back untouched.

`submit(batch, done)` starts a batch. `done(results)` is called on the event loop, from inside `submit` or
later, once or several times, until every tag of the batch was reported exactly once, as `(tag, result)`:
`result` is the data for a READ, what `pack_runs` makes for a MAP, None for another operation that succeeded,
and an `IoError` for one that failed. `submit` itself does not raise.

Promises of every device:

* Overlapping writes of one device are applied in the order of their submission. (WRITE, ZERO and UNMAP are
  all writes here.)
* A READ submitted after a write was reported done sees that write.
* A FLUSH that succeeds has made every write that was reported done before the FLUSH was submitted durable.
* A MAP tells which parts of its range take space; what does not reads as zeros. It covers at least the first
  block, and says of what it does not know that it takes space.
* ZERO and UNMAP both read back as zeros. UNMAP gives the space back where the device can.
* `data` is valid only until `submit` returns: a device that needs it longer copies it. The buffer of a READ's
  result belongs to the receiver.
"""

import struct
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, TypeAlias

from iscsi_rp.errors import Error

READ: Final = 0
WRITE: Final = 1
ZERO: Final = 2
UNMAP: Final = 3
FLUSH: Final = 4
MAP: Final = 5

Buffer: TypeAlias = bytes | bytearray | memoryview
Io: TypeAlias = tuple[int, int, int, Buffer | None, bool, Any]


class IoError(Error):
    """The device could not do what was asked."""


class MediumError(IoError):
    """The medium could not be read or written."""


class SpaceError(IoError):
    """The medium has no space left for this write."""


class ProtectedError(IoError):
    """The device is read-only."""


class NotReadyError(IoError):
    """The device does not serve I/O at the moment."""


class BusyError(IoError):
    """The device has too much in flight; the same request may succeed in a moment."""


Result: TypeAlias = Buffer | IoError | None
Done: TypeAlias = Callable[[Sequence[tuple[Any, Result]]], None]


def pack_runs(lengths: Sequence[int]) -> bytes:
    """The result of a MAP: lengths in bytes from the offset on, by turns of what takes space, 0 if nothing
    does there, and of what does not.
    """
    return struct.pack(f">{len(lengths)}Q", *lengths)


def unpack_runs(result: Buffer) -> tuple[int, ...]:
    """The lengths of `pack_runs`."""
    return struct.unpack(f">{len(result) // 8}Q", result)


class BlockDevice(Protocol):
    """See the module's docstring for the contract."""

    @property
    def size(self) -> int:
        """Bytes; a multiple of `block_size`."""
        ...

    @property
    def block_size(self) -> int:
        """Bytes of a logical block: 512 or 4096."""
        ...

    @property
    def read_only(self) -> bool: ...

    def submit(self, batch: Sequence[Io], done: Done) -> None: ...
