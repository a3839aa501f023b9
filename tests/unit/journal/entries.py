"""Entries for a log, made short."""

from crc32c import crc32c

from iscsi_rp.journal.record import DATA, UNMAP, Entry

GROUP = bytes(range(16))


def data(offset: int, payload: bytes, *, volume: int = 0, kind: int = DATA) -> Entry:
    return (kind, volume, 1, 0, offset, len(payload), payload, crc32c(payload))


def unmap(offset: int, length: int, *, volume: int = 0) -> Entry:
    return (UNMAP, volume, 1, 0, offset, length, b"", 0)


def note(payload: bytes, *, kind: int = 64) -> Entry:
    return (kind, 0, 1, 0, 0, 0, payload, crc32c(payload))


def no_snapshot() -> bytes:
    return b""
