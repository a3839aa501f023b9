"""Hashes of regions, as both ends compare them."""

import hashlib
from functools import lru_cache

from iscsi_rp.device import Buffer
from iscsi_rp.replication.frames import DIGEST_BYTES
from iscsi_rp.replication.regions import REGION_BYTES

_ZEROS = bytes(REGION_BYTES)


def region_digests(data: bytes) -> bytes:
    """SHA-256, cut to 16 bytes, of each region in `data`, which begins at a region's start. Releases the
    GIL: use a thread.
    """
    view = memoryview(data)
    digests = []
    for at in range(0, len(data), REGION_BYTES):
        piece = view[at : at + REGION_BYTES]
        # A view would be compared byte by byte, under the GIL.
        is_zero = data.startswith(_ZEROS[: len(piece)], at)
        digests.append(_zero_digest(len(piece)) if is_zero else _digest(piece))
    return b"".join(digests)


def equal_regions(data: bytes, digests: Buffer) -> bytes:
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
