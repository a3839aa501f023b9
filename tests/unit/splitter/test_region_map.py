"""The dirty map as bytes: what was marked comes back, and no damage goes unseen."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iscsi_rp.replication.regions import REGION_BYTES
from iscsi_rp.splitter.region_map import (
    BLOCK_BYTES,
    DIRTY,
    DURABLE,
    REGIONS_IN_BLOCK,
    SWEEP,
    TO_SEND,
    DirtyMapError,
    RegionMap,
)

REGIONS = REGIONS_IN_BLOCK + 10
SIZE = REGIONS * REGION_BYTES - 512


def region_map(uuid: str = "uuid", size: int = SIZE) -> RegionMap:
    return RegionMap(uuid, size)


def encoded(marks: RegionMap) -> bytes:
    data = bytearray()
    for block in range(-1, marks.blocks):
        offset, content = marks.encode(block)
        assert offset == len(data)
        data += content
    return bytes(data)


@given(st.sets(st.integers(0, REGIONS - 1), max_size=20), st.booleans())
def test_marks_come_back_durable_and_to_be_sent(marked: set[int], sweep: bool) -> None:
    written = region_map()
    for region in marked:
        assert written.mark(region)
    written.sweep = sweep
    found = region_map()
    found.load(encoded(written))
    flags = DIRTY | DURABLE | TO_SEND | (SWEEP if sweep else 0)
    assert {region for region, flag in enumerate(found.flags) if flag} == marked
    assert {found.flags[region] for region in marked} <= {flags}
    assert (found.dirty, found.to_send, found.sweep) == (len(marked), len(marked), sweep)
    assert not found.changed


@pytest.fixture(scope="module")
def whole() -> bytes:
    marks = region_map()
    for region in (0, 7, REGIONS_IN_BLOCK - 1, REGIONS_IN_BLOCK, REGIONS - 1):
        marks.mark(region)
    return encoded(marks)


@pytest.mark.parametrize("block", range(3))
def test_every_damaged_byte_is_seen(whole: bytes, block: int) -> None:
    assert len(whole) == 3 * BLOCK_BYTES
    for at in range(block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << at % 8
        with pytest.raises(DirtyMapError):
            region_map().load(bytes(damaged))


@pytest.mark.parametrize(
    "tear",
    [
        pytest.param(lambda data: b"", id="empty"),
        pytest.param(lambda data: data[:-1], id="a byte short"),
        pytest.param(lambda data: data[:-BLOCK_BYTES], id="a block short"),
        pytest.param(lambda data: data + data[-BLOCK_BYTES:], id="a block too many"),
        pytest.param(
            lambda data: data[:BLOCK_BYTES] + data[:BLOCK_BYTES] + data[2 * BLOCK_BYTES :], id="twice"
        ),
        pytest.param(
            lambda data: data[:BLOCK_BYTES] + data[2 * BLOCK_BYTES :] + data[BLOCK_BYTES : 2 * BLOCK_BYTES],
            id="swapped",
        ),
        pytest.param(lambda data: bytes(len(data)), id="zeros"),
        pytest.param(
            lambda data: data[: BLOCK_BYTES + 512] + bytes(BLOCK_BYTES - 512) + data[2 * BLOCK_BYTES :],
            id="torn",
        ),
    ],
)
def test_a_torn_map_is_refused(whole: bytes, tear: Callable[[bytes], bytes]) -> None:
    with pytest.raises(DirtyMapError):
        region_map().load(tear(whole))


@pytest.mark.parametrize(
    "other",
    [region_map("another"), region_map(size=SIZE + REGION_BYTES), region_map(size=SIZE - REGION_BYTES)],
)
def test_the_map_of_another_volume_or_size_is_refused(whole: bytes, other: RegionMap) -> None:
    with pytest.raises(DirtyMapError, match="another"):
        other.load(whole)


def test_another_version_is_refused(whole: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iscsi_rp.splitter.region_map.VERSION", 2)
    with pytest.raises(DirtyMapError, match="version 1, this program reads 2"):
        region_map().load(whole)


# -- marks


def test_a_mark_waits_until_it_is_durable_and_again_after_a_clear() -> None:
    marks = region_map()
    assert marks.mark(3)
    assert marks.mark(3)
    assert (marks.dirty, marks.to_send, marks.changed) == (1, 1, {0})
    marks.made_durable([3])
    assert not marks.mark(3)
    marks.clear(3)
    marks.made_durable([3])  # of a write of the map that was under way when it was cleared
    assert marks.mark(3)


def test_the_sweep_ends_with_its_last_region() -> None:
    marks = region_map(size=2 * REGION_BYTES)
    marks.mark_all()
    marks.changed.clear()
    marks.clear(0)
    assert marks.sweep
    assert marks.changed == {0}
    marks.clear(1)
    assert not marks.sweep
    assert marks.changed == {-1, 0}


def test_what_is_sent_is_found_once_and_after_a_mismatch_again() -> None:
    marks = region_map()
    far = REGIONS_IN_BLOCK + 5
    for region in (2, far):
        marks.mark(region)
    assert [marks.next_to_send(at) for at in (0, 3, far + 1)] == [2, far, -1]
    marks.sent(2)
    assert marks.next_to_send(0) == far
    marks.sent(far)
    assert (marks.next_to_send(0), marks.to_send, marks.dirty) == (-1, 0, 2)
    marks.send_again(far)
    marks.send_again(far)
    assert (marks.next_to_send(0), marks.to_send) == (far, 1)
    assert not marks.flags[far] & SWEEP
    marks.resend_marked()
    assert (marks.next_to_send(0), marks.to_send) == (2, 2)
