"""The header and the footer of a segment file, and the way over its records (docs/journal-format.md).

    header, checkpoint              from the start of the file
    records                         from the next 64-byte boundary
    footer: table of headers,       once sealed, from the next 8-byte boundary
        payload offsets, keys,
        rows, wide rows
    trailer                         to the end of the file

A valid trailer says that every record of the segment is durable: it is written only after they were synced.
"""

import struct
from typing import Final, NamedTuple

import numpy as np
from crc32c import crc32c
from numpy.typing import NDArray

from iscsi_rp.journal.errors import JournalFormatError
from iscsi_rp.journal.files import File
from iscsi_rp.journal.index import Postings
from iscsi_rp.journal.record import HEADER_BYTES, HEADER_DTYPE, Table, unpack

VERSION: Final = 1
MAX_CHECKPOINT_BYTES: Final = 1 << 24
GROUP_BYTES: Final = 16

_HEADER_MAGIC: Final = b"IRP-LOG\x00"
_HEADER: Final = struct.Struct("<8sHxx16sQQIII")
_TRAILER_MAGIC: Final = b"IRP-SEAL"
_TRAILER: Final = struct.Struct("<8sHxxIIIQQII")
_CRC: Final = struct.Struct("<I")
TRAILER_BYTES: Final = _TRAILER.size + _CRC.size
assert (_HEADER.size + _CRC.size, TRAILER_BYTES) == (60, 52), "as docs/journal-format.md says"
_WINDOW_BYTES: Final = 1 << 22


class SegmentHeader(NamedTuple):
    """What stands at the start of a segment."""

    group: bytes
    first: int
    "Position of the first record."
    previous_time_ns: int
    "Time of the record before it."
    chain: int
    "Chain of the record before it."
    checkpoint: bytes

    @property
    def data_start(self) -> int:
        return -(-(_HEADER.size + _CRC.size + len(self.checkpoint)) // 64) * 64


class Trailer(NamedTuple):
    """What stands at the end of a sealed segment."""

    records: int
    postings: int
    wide: int
    records_end: int
    last_time_ns: int
    chain: int
    footer_crc: int

    @property
    def footer_start(self) -> int:
        return -(-self.records_end // 8) * 8

    @property
    def footer_bytes(self) -> int:
        return self.records * (HEADER_BYTES + 8) + self.postings * 12 + self.wide * 4


class Footer(NamedTuple):
    """The index of a sealed segment. Arrays show the mapped file."""

    table: Table
    payload_offsets: NDArray[np.uint64]
    postings: Postings


class Scan(NamedTuple):
    """The valid records found in a segment."""

    headers: bytes
    payload_offsets: list[int]
    end: int
    "Offset behind the last one in the file."


def _with_crc(data: bytes) -> bytes:
    return data + _CRC.pack(crc32c(data))


def _checked(data: bytes) -> bytes | None:
    """`data` without its checksum; None if that is wrong."""
    body, crc = data[: -_CRC.size], data[-_CRC.size :]
    return body if crc == _CRC.pack(crc32c(body)) else None


def pack_header(header: SegmentHeader) -> bytes:
    checkpoint_crc = crc32c(header.checkpoint)
    fixed = _HEADER.pack(_HEADER_MAGIC, VERSION, *header[:4], len(header.checkpoint), checkpoint_crc)
    return _with_crc(fixed) + header.checkpoint


def read_header(file: File, group: bytes) -> SegmentHeader | None:
    """The header, or None where there is none that is whole.

    Raises `JournalFormatError` for one that is not ours.
    """
    data = file.pread(_HEADER.size + _CRC.size, 0)
    if len(data) < _HEADER.size + _CRC.size or (body := _checked(data)) is None:
        return None
    magic, version, found_group, first, time_ns, chain, length, crc = _HEADER.unpack(body)
    if magic != _HEADER_MAGIC:
        return None
    if version != VERSION:
        raise JournalFormatError(f"{file.name} is in version {version} of the format, not {VERSION}")
    if found_group != group:
        raise JournalFormatError(f"{file.name} belongs to the group {found_group.hex()}, not {group.hex()}")
    if length > MAX_CHECKPOINT_BYTES:
        return None
    checkpoint = file.pread(length, len(data))
    if len(checkpoint) < length or crc32c(checkpoint) != crc:
        return None
    return SegmentHeader(found_group, first, time_ns, chain, checkpoint)


def pack_footer(footer: Footer, records_end: int, last_time_ns: int, chain: int) -> tuple[bytes, Trailer]:
    """The bytes from the footer's start to the end of the file."""
    body = b"".join(
        part.tobytes()
        for part in (
            footer.table,
            footer.payload_offsets,
            footer.postings.keys,
            footer.postings.rows,
            footer.postings.wide,
        )
    )
    counts = (len(footer.table), len(footer.postings.keys), len(footer.postings.wide))
    trailer = Trailer(*counts, records_end, last_time_ns, chain, crc32c(body))
    return body + _with_crc(_TRAILER.pack(_TRAILER_MAGIC, VERSION, *trailer)), trailer


def read_trailer(file: File) -> Trailer | None:
    """The trailer of a sealed segment; None if it has none."""
    size = file.size
    data = file.pread(TRAILER_BYTES, size - TRAILER_BYTES) if size > TRAILER_BYTES else b""
    if len(data) < TRAILER_BYTES or (body := _checked(data)) is None:
        return None
    magic, _, *fields = _TRAILER.unpack(body)
    trailer = Trailer(*fields)
    fits = trailer.footer_start + trailer.footer_bytes + TRAILER_BYTES == size
    return trailer if magic == _TRAILER_MAGIC and fits else None


def map_footer(file: File, trailer: Trailer) -> Footer | None:
    """The footer as arrays over the mapped file; None if it is damaged."""
    view = file.map(trailer.footer_start, trailer.footer_bytes)
    if crc32c(view) != trailer.footer_crc:
        return None
    at = 0

    def array(dtype: np.dtype[np.generic], count: int) -> NDArray[np.generic]:
        nonlocal at
        part = np.frombuffer(view, dtype, count, at)
        at += part.nbytes
        return part

    table = array(HEADER_DTYPE, trailer.records)
    offsets = array(np.dtype("<u8"), trailer.records)
    keys = array(np.dtype("<u8"), trailer.postings)
    rows, wide = array(np.dtype("<u4"), trailer.postings), array(np.dtype("<u4"), trailer.wide)
    return Footer(table, offsets, Postings(keys, rows, wide))  # type: ignore[arg-type]


def scan(file: File, header: SegmentHeader, *, check_payloads: bool) -> Scan:
    """Walk over the records from the start until one is not valid."""
    headers: list[bytes] = []
    payload_offsets: list[int] = []
    at, chain = header.data_start, header.chain
    window, window_start = b"", at
    while True:
        relative = at - window_start
        if relative + HEADER_BYTES > len(window):
            window, window_start, relative = file.pread(_WINDOW_BYTES, at), at, 0
            if len(window) < HEADER_BYTES:
                break
        head = window[relative : relative + HEADER_BYTES]
        found = unpack(head, chain)
        if found is None or found[0].position != header.first + len(headers):
            break
        record, next_chain = found
        payload_at = at + HEADER_BYTES
        if check_payloads and record.payload_length:
            start = payload_at - window_start
            payload = window[start : start + record.payload_length]
            if len(payload) < record.payload_length:
                payload = file.pread(record.payload_length, payload_at)
            if len(payload) < record.payload_length or crc32c(payload) != record.payload_crc:
                break
        headers.append(head)
        payload_offsets.append(payload_at)
        at, chain = payload_at + record.payload_length, next_chain
    return Scan(b"".join(headers), payload_offsets, at)
