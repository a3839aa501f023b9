"""The replication protocol on the wire: frames of a fixed header and a payload
(docs/replication-protocol.md).

Pure: bytes in, tuples out. A frame is a plain tuple `(type, flags, volume, sequence, a, b, payload, crc)`,
because a splitter sends several ten thousand a second; what `flags`, `a` and `b` mean depends on the type and
stands beside it below. The payload of a WRITE is not copied: it is a part of the buffer that it came in.
"""

import struct
from collections.abc import Sequence
from typing import Final, TypeAlias

from crc32c import crc32c

from iscsi_rp import device
from iscsi_rp.device import Buffer, Io
from iscsi_rp.errors import Error

VERSION: Final = 1
"Sent in the first frame of each connection, in both directions."

HEADER: Final = struct.Struct("<IBBHQQQI")
"Payload length, type, flags, volume, sequence, a, b, CRC32C of the payload."
HEADER_BYTES: Final = HEADER.size
MAX_PAYLOAD: Final = 8 << 20

# Array to appliance.
ANNOUNCE: Final = 1  # payload: Announce
HELLO: Final = 2  # payload: Hello
START: Final = 3  # a: session
WRITE: Final = 4  # flags: kind; a: offset, b: length in bytes; payload: the data of kinds DATA and INIT
STORED: Final = 5  # sequence: every write of the volume up to it is durable in the store
HASHES: Final = 6  # a: offset, b: length; flags: COMPARE_*; payload: a digest a region
END: Final = 7  # the resynchronisation of this session is complete
ANSWER: Final = 8  # a: the probe's number
FETCH: Final = 9  # a: offset, b: length of the image being restored; sequence: chosen by the asker
RESTORED: Final = 10  # a: the image's position
BLOCKED: Final = 11  # a: position; hosts have no access, and every write of theirs is received

# Appliance to array.
GROUPS: Final = 64  # payload: Groups
WELCOME: Final = 65  # a: session; payload: Welcome
REGIONS: Final = 66  # payload: (first region, count) pairs, before the WELCOME or TOUCHED that they belong to
RECEIVED: Final = 67  # sequence: every write up to it is in the log
DURABLE: Final = 68  # sequence: every write up to it is durable in the log
PROBE: Final = 69  # a: number; answered by whoever still splits
EQUAL: Final = (
    70  # sequence, a, b of the HASHES it answers; flags as there; payload: a byte a region, 1 is equal
)
PAUSE: Final = 71  # payload: Alert
REFUSED: Final = 72  # payload: Alert
RESTORE: Final = 73  # a: position of the image that production returns to
DATA: Final = 74  # sequence, a, b of the FETCH it answers; payload: the bytes
UNBLOCK: Final = 75  # the RESTORED is durable: hosts may have production back
TOUCHED: Final = 76  # a: position; the REGIONS before it are all that was written after it

# Kinds of a WRITE. The journal uses the same numbers.
KIND_DATA: Final = 1
KIND_ZERO: Final = 2
KIND_UNMAP: Final = 3
KIND_INIT: Final = 4
KIND_INIT_ZERO: Final = 5
KINDS_WITH_DATA: Final = frozenset((KIND_DATA, KIND_INIT))
KINDS: Final = frozenset((KIND_DATA, KIND_ZERO, KIND_UNMAP, KIND_INIT, KIND_INIT_ZERO))

COMPARE_SWEEP: Final = 0
COMPARE_VERIFY: Final = 1
DIGEST_BYTES: Final = 16

Frame: TypeAlias = tuple[int, int, int, int, int, int, Buffer, int]
"Payloads are `bytes`, but that of a WRITE, which is valid only until whoever got the frame returns."

_TYPES: Final = frozenset((*range(ANNOUNCE, BLOCKED + 1), *range(GROUPS, TOUCHED + 1)))
HOLD_GIL: Final = 0
"""For `crc32c`, which else gives it away for 32 KiB and more: to get it back from another thread takes an
event loop longer than the sum."""
_pack = HEADER.pack
_pack_into = HEADER.pack_into
_unpack_from = HEADER.unpack_from


def checksum(payload: Buffer) -> int:
    """CRC32C, as frames carry it and the journal keeps it."""
    return crc32c(payload)


class RemoteProtocolError(Error):
    """The peer sent what the replication protocol does not allow."""


def frame(
    kind: int,
    *,
    flags: int = 0,
    volume: int = 0,
    sequence: int = 0,
    a: int = 0,
    b: int = 0,
    payload: bytes = b"",
) -> bytes:
    """One frame as bytes; for everything but the writes of the fast path."""
    crc = crc32c(payload, 0, HOLD_GIL) if payload else 0
    return _pack(len(payload), kind, flags, volume, sequence, a, b, crc) + payload


def write_header(kind: int, volume: int, sequence: int, offset: int, length: int, payload: Buffer) -> bytes:
    """The header of a WRITE; the payload follows it uncopied."""
    crc = crc32c(payload, 0, HOLD_GIL) if payload else 0
    return _pack(len(payload), WRITE, kind, volume, sequence, offset, length, crc)


def write_frames(volume: int, sequence: int, ios: Sequence[Io]) -> tuple[bytearray, list[Io]]:
    """WRITE frames of host writes, one behind the other, the first with `sequence`; and the same operations
    with the data that stands in the frames. So it is copied once, for the link and for the store.
    """
    frames = bytearray(sum([HEADER_BYTES + (0 if io[3] is None else io[2]) for io in ios]))
    view = memoryview(frames)
    sent: list[Io] = []
    at = 0
    for op, offset, length, data, fua, tag in ios:
        start = at + HEADER_BYTES
        assert (data is not None) == (op == device.WRITE)
        if data is None:
            kind = KIND_UNMAP if op == device.UNMAP else KIND_ZERO
            _pack_into(frames, at, 0, WRITE, kind, volume, sequence, offset, length, 0)
            at = start
        else:
            end = start + length
            own = view[start:end]
            own[:] = data
            crc = crc32c(own, 0, HOLD_GIL)
            _pack_into(frames, at, length, WRITE, KIND_DATA, volume, sequence, offset, length, crc)
            data = own
            at = end
        sent.append((op, offset, length, data, fua, tag))
        sequence += 1
    return frames, sent


def decode(buffer: Buffer, end: int) -> tuple[list[Frame], int]:
    """All complete frames in `buffer[:end]`, and how many bytes they took.

    Raises RemoteProtocolError for a type that does not exist, a payload beyond the limit or one with a wrong
    CRC32C.
    """
    frames: list[Frame] = []
    at = 0
    view = memoryview(buffer)
    while end - at >= HEADER_BYTES:
        size, kind, flags, volume, sequence, a, b, crc = _unpack_from(buffer, at)
        if size > MAX_PAYLOAD or kind not in _TYPES:
            raise RemoteProtocolError(f"frame of type {kind} with {size} bytes of payload")
        start = at + HEADER_BYTES
        if end - start < size:
            break
        at = start + size
        payload = view[start:at] if kind == WRITE else bytes(view[start:at])
        if size and crc32c(payload, 0, HOLD_GIL) != crc:
            raise RemoteProtocolError(f"payload of a frame of type {kind} does not match its CRC32C")
        frames.append((kind, flags, volume, sequence, a, b, payload, crc))
    return frames, at


def bytes_wanted(buffer: Buffer, end: int) -> int:
    """How many bytes the incomplete frame at the start of `buffer[:end]` has in all, as far as is known."""
    if end < HEADER_BYTES:
        return HEADER_BYTES
    return HEADER_BYTES + int(_unpack_from(buffer, 0)[0])
