"""Hashes of regions, as both ends compare them."""

import hashlib
from collections.abc import Iterator
from functools import lru_cache

from iscsi_rp.replication.frames import DIGEST_BYTES
from iscsi_rp.replication.regions import REGION_BYTES

_ZEROS = bytes(REGION_BYTES)


def _pieces(data: bytes) -> Iterator[memoryview]:
    view = memoryview(data)
    for at in range(0, len(data), REGION_BYTES):
        yield view[at : at + REGION_BYTES]


def region_digests(data: bytes) -> bytes:
    """SHA-256, cut to 16 bytes, of each region in `data`, which begins at a region's start. Releases the
    GIL: use a thread.
    """
    return b"".join(
        _zero_digest(len(piece)) if piece == _ZEROS[: len(piece)] else _digest(piece)
        for piece in _pieces(data)
    )


def equal_regions(data: bytes, digests: bytes) -> bytes:
    """A byte for each region of `data`: 1 where it has the digest that the peer sent."""
    own = region_digests(data)
    return bytes(
        own[at : at + DIGEST_BYTES] == digests[at : at + DIGEST_BYTES]
        for at in range(0, len(own), DIGEST_BYTES)
    )


def _digest(data: memoryview | bytes) -> bytes:
    return hashlib.sha256(data).digest()[:DIGEST_BYTES]


@lru_cache
def _zero_digest(length: int) -> bytes:
    return _digest(_ZEROS[:length])
