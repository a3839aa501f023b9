"""Hashes of regions: each region's own, zeros or not."""

import hashlib

import pytest

from iscsi_rp.replication.digests import equal_regions, region_digests
from iscsi_rp.replication.frames import DIGEST_BYTES
from iscsi_rp.replication.regions import REGION_BYTES

_LAST = 4096
"Of a volume that does not end with a region."


def _with(at: int, byte: int = 1) -> bytes:
    data = bytearray(2 * REGION_BYTES + _LAST)
    data[at] = byte
    return bytes(data)


@pytest.mark.parametrize("at", [0, REGION_BYTES - 1, REGION_BYTES, 2 * REGION_BYTES + _LAST - 1])
def test_each_region_has_its_own_digest(at: int) -> None:
    data = _with(at)
    ends = (REGION_BYTES, 2 * REGION_BYTES, len(data))
    regions = [data[start:end] for start, end in zip((0, *ends), ends, strict=False)]
    expected = b"".join(hashlib.sha256(region).digest()[:DIGEST_BYTES] for region in regions)
    assert region_digests(data) == expected


def test_a_region_that_differs_is_told() -> None:
    assert equal_regions(_with(REGION_BYTES), region_digests(_with(0))) == bytes([0, 0, 1])
