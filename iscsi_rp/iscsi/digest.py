"""CRC32C digests of PDUs (RFC 7143 11.2.3).

A session that agreed on none does not come here.
"""

from collections.abc import Iterable
from struct import Struct
from typing import Final

from google_crc32c import extend, value

from iscsi_rp.device import Buffer
from iscsi_rp.iscsi.pdu import HEADER_BYTES

DIGEST_BYTES: Final = 4
_DIGEST: Final = Struct("<I")
assert _DIGEST.size == DIGEST_BYTES


def intact(data: memoryview, begin: int, end: int) -> bool:
    """Whether the digest that stands at `end` is that of what stands from `begin` to there."""
    return bool(value(bytes(data[begin:end])) == _DIGEST.unpack_from(data, end)[0])


def with_digests(out: Iterable[Buffer], *, header: bool, data: bool) -> list[Buffer]:
    """The PDUs of `out` with their digests.

    A PDU there is its header and data segment in one buffer, or a header of 48 bytes and its segment in the
    next; padding, where the segment has none yet, is a buffer of its own.
    """
    digested: list[Buffer] = []
    pack = _DIGEST.pack
    parts = iter(out)
    for first in parts:
        head = bytes(first[:HEADER_BYTES])
        digested.append(head)
        if header:
            digested.append(pack(value(head)))
        if not int.from_bytes(head[5:8], "big"):
            continue
        segment = first[HEADER_BYTES:] or next(parts)
        digested.append(segment)
        padding = next(parts) if len(segment) & 3 else b""
        if padding:
            digested.append(padding)
        if data:
            digested.append(pack(extend(value(bytes(segment)), bytes(padding))))
    return digested
