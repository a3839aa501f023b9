"""A record of the log: a header of 64 bytes, then the payload (docs/journal-format.md).

The last field of a header is its *chain*: the CRC32C of the other 60 bytes, seeded with the chain of the
record before. So a record is valid only behind the very record that it was written behind, and an old one
that was left behind a newer one never comes back to life.

Headers are looked at in numbers, as a numpy table, or one by one, as a `Record`.
"""

import struct
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from crc32c import crc32c
from numpy.typing import NDArray

from iscsi_rp.device import Buffer

DATA: Final = 1
ZERO: Final = 2
UNMAP: Final = 3
INIT: Final = 4
"Data from a resynchronisation."
INIT_ZERO: Final = 5
"Zeros from a resynchronisation."
FIRST_NOTE: Final = 64
LAST_NOTE: Final = 127
"""Kinds from FIRST_NOTE to LAST_NOTE are notes of the appliance:

the journal keeps them and never looks inside.
"""

MAX_NOTE_BYTES: Final = 1 << 20
MAX_PAYLOAD_BYTES: Final = 1 << 25
"A longer payload in a header is damage."

MAGIC: Final = 0xA1
"The low half is the version of the record's format."

_FIELDS: Final = struct.Struct("<BBHII6Q")
_CHAIN: Final = struct.Struct("<I")
HEADER_BYTES: Final = _FIELDS.size + _CHAIN.size
assert HEADER_BYTES == 64

HEADER_DTYPE: Final = np.dtype(
    [
        ("magic", "u1"),
        ("kind", "u1"),
        ("volume", "<u2"),
        ("payload_length", "<u4"),
        ("payload_crc", "<u4"),
        ("position", "<u8"),
        ("time_ns", "<u8"),
        ("session", "<u8"),
        ("seq", "<u8"),
        ("offset", "<u8"),
        ("length", "<u8"),
        ("chain", "<u4"),
    ]
)
assert HEADER_DTYPE.itemsize == HEADER_BYTES
_TIME: Final = struct.Struct("<Q")
_TIME_AT: Final = HEADER_DTYPE.fields["time_ns"][1]  # type: ignore[index]

Table: TypeAlias = NDArray[Any]
"Headers, one row each; the dtype is `HEADER_DTYPE`."

Entry: TypeAlias = tuple[int, int, int, int, int, int, Buffer, int]
"""What `Log.append` takes: (kind, volume, session, seq, offset, length, payload, payload_crc).

`offset` and `length` are bytes of the volume. DATA and INIT carry `length` bytes of payload, ZERO, UNMAP
and INIT_ZERO none, a note what it likes up to `MAX_NOTE_BYTES`, with offset and length 0. `payload_crc` is
CRC32C and is trusted.
"""


class Record(NamedTuple):
    """A header, without magic and chain."""

    kind: int
    volume: int
    payload_length: int
    payload_crc: int
    position: int
    time_ns: int
    session: int
    seq: int
    offset: int
    length: int

    @property
    def is_note(self) -> bool:
        return self.kind >= FIRST_NOTE


pack_fields = _FIELDS.pack
pack_chain = _CHAIN.pack


def time_ns_of(headers: Buffer, row: int) -> int:
    """Of one header among many, without numpy."""
    return int(_TIME.unpack_from(headers, row * HEADER_BYTES + _TIME_AT)[0])


def chain_of(headers: Buffer, row: int) -> int:
    """Of one header among many, without numpy."""
    return int(_CHAIN.unpack_from(headers, row * HEADER_BYTES + _FIELDS.size)[0])


def unpack(header: bytes, chain: int) -> tuple[Record, int] | None:
    """The record and its chain, or None if these 64 bytes are not a header that follows one with the chain
    `chain`.
    """
    if header[0] != MAGIC:
        return None
    fields = header[: _FIELDS.size]
    chain = crc32c(fields, chain)
    if header[_FIELDS.size :] != pack_chain(chain):
        return None
    record = Record(*_FIELDS.unpack(fields)[1:])
    return (record, chain) if record.payload_length <= MAX_PAYLOAD_BYTES else None
