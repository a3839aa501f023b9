"""Header and records of an access log as bytes (docs/access-log-format.md).

A record's chain is the CRC32C of its header, seeded with the chain of the record before. So a record is valid
only behind the very record that it was written behind.
"""

import struct
from typing import Final, NamedTuple

from crc32c import crc32c

from iscsi_rp.journal.files import OsFile

VERSION: Final = 1
DATA: Final = 1
"The payload is the content of the pages."
ZERO: Final = 2
"The pages are zeros; no payload."

_MAGIC: Final = b"IRP-ACC\x00"
_HEADER: Final = struct.Struct("<8sHxxxxxx16sQ")
_RECORD_MAGIC: Final = 0xAC
_RECORD: Final = struct.Struct("<BBHIQQ")
_CRC: Final = struct.Struct("<I")
HEADER_BYTES: Final = _HEADER.size + _CRC.size
RECORD_BYTES: Final = _RECORD.size + _CRC.size


class Record(NamedTuple):
    """A record without its payload. `offset` and `length` are bytes of the volume, in whole pages."""

    kind: int
    volume: int
    offset: int
    length: int

    @property
    def payload_length(self) -> int:
        return self.length if self.kind == DATA else 0


def pack_header(group: bytes, position: int) -> bytes:
    """The start of the access log over the image at `position` of a group (16 bytes)."""
    header = _HEADER.pack(_MAGIC, VERSION, group, position)
    return header + _CRC.pack(crc32c(header))


def first_chain(header: bytes) -> int:
    """What the first record is chained to."""
    return crc32c(header)


def pack_record(record: Record, payload: bytes, chain: int) -> tuple[bytes, int]:
    """The header of a record that follows one with the chain `chain`, and the record's own chain."""
    kind, volume, offset, length = record
    fields = _RECORD.pack(_RECORD_MAGIC, kind, volume, crc32c(payload), offset, length)
    chain = crc32c(fields, chain)
    return fields + _CRC.pack(chain), chain


def read_record(file: OsFile, start: int, size: int, chain: int) -> tuple[Record, int] | None:
    """The record at `start` of a file of `size` bytes, and its chain; None if none is there that follows one
    with the chain `chain` and is whole.

    Raises `JournalError`.
    """
    header = file.pread(RECORD_BYTES, start)
    fields = header[: _RECORD.size]
    chain = crc32c(fields, chain)
    if len(header) < RECORD_BYTES or header[_RECORD.size :] != _CRC.pack(chain):
        return None
    magic, kind, volume, payload_crc, offset, length = _RECORD.unpack(fields)
    record = Record(kind, volume, offset, length)
    start += RECORD_BYTES
    if magic != _RECORD_MAGIC or kind not in (DATA, ZERO) or start + record.payload_length > size:
        return None
    if crc32c(file.pread(record.payload_length, start)) != payload_crc:
        return None
    return record, chain
