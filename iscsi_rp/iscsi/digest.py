"""CRC32C digests of PDUs (RFC 7143 11.2.3).

A session that agreed on none does not come here.
"""

from collections.abc import Iterable
from struct import Struct
from typing import Final

from crc32c import crc32c

from iscsi_rp.device import Buffer
from iscsi_rp.iscsi.pdu import HEADER_BYTES

DIGEST_BYTES: Final = 4
_DIGEST: Final = Struct("<I")
assert _DIGEST.size == DIGEST_BYTES
_read: Final = _DIGEST.unpack_from
_HOLD_GIL: Final = 0
"For `crc32c`: to get it back from another thread takes an event loop longer than the sum."
_NO_DATA: Final = bytes(3)
"The length of a data segment in a header."


def intact(data: memoryview, begin: int, end: int) -> bool:
    """Whether the digest that stands at `end` is that of what stands from `begin` to there."""
    return bool(crc32c(data[begin:end], 0, _HOLD_GIL) == _read(data, end)[0])


def with_digests(out: Iterable[Buffer], *, header: bool, data: bool) -> list[Buffer]:
    """The PDUs of `out` with their digests.

    A PDU there is its header and data segment in one buffer, or a header of 48 bytes and its segment in the
    next; padding, where the segment has none yet, is a buffer of its own.
    """
    digested: list[Buffer] = []
    pack = _DIGEST.pack
    parts = iter(out)
    for first in parts:
        alone = len(first) == HEADER_BYTES
        head = first if alone else bytes(first[:HEADER_BYTES])
        digested.append(head)
        if header:
            digested.append(pack(crc32c(head)))
        if head[5:8] == _NO_DATA:
            continue
        segment = next(parts) if alone else first[HEADER_BYTES:]
        digested.append(segment)
        padding = next(parts) if len(segment) & 3 else b""
        if padding:
            digested.append(padding)
        if data:
            digested.append(pack(crc32c(padding, crc32c(segment, 0, _HOLD_GIL))))
    return digested
