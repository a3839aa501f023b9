"""Regions, the trail of what has not reached a state yet, and the digests of regions."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iscsi_rp.replication import regions
from iscsi_rp.replication.digests import equal_regions, region_digests
from iscsi_rp.replication.frames import DIGEST_BYTES
from iscsi_rp.replication.regions import (
    KEY_SHIFT,
    REGION_BYTES,
    RegionTrail,
    coarse_runs,
    keys_of,
    region_count,
    runs_of,
)


@pytest.mark.parametrize(
    ("offset", "length", "expected"),
    [
        (0, 1, [0]),
        (0, REGION_BYTES, [0]),
        (0, REGION_BYTES + 1, [0, 1]),
        (REGION_BYTES - 512, 1024, [0, 1]),
        (3 * REGION_BYTES, 2 * REGION_BYTES, [3, 4]),
    ],
)
def test_the_regions_that_bytes_touch(offset: int, length: int, expected: list[int]) -> None:
    assert list(keys_of(0, offset, length)) == expected
    assert list(keys_of(5, offset, length)) == [5 << KEY_SHIFT | region for region in expected]


def test_the_last_region_may_be_short() -> None:
    assert [region_count(size) for size in (512, REGION_BYTES, REGION_BYTES + 512)] == [1, 1, 2]


@given(st.sets(st.tuples(st.integers(0, 2), st.integers(0, 40))))
def test_runs_are_sorted_maximal_and_hold_every_key_once(marked: set[tuple[int, int]]) -> None:
    runs = list(runs_of(volume << KEY_SHIFT | region for volume, region in marked))
    covered = [(volume, first + each) for volume, first, count in runs for each in range(count)]
    assert covered == sorted(marked)
    for (volume, first, count), after in itertools.pairwise(runs):
        assert (volume, first + count) < after[:2]


def test_runs_end_with_their_volume() -> None:
    last_of_0, first_of_1 = (1 << KEY_SHIFT) - 1, 1 << KEY_SHIFT
    assert list(runs_of([last_of_0, first_of_1])) == [(0, last_of_0, 1), (1, 0, 1)]


steps = st.lists(
    st.tuples(st.just("add"), st.integers(0, 2), st.sets(st.integers(0, 9), max_size=3))
    | st.tuples(st.just("drop"), st.integers(-3, 3), st.just(set())),
    max_size=60,
)


@given(steps, st.integers(1, 5))
@settings(max_examples=200)
def test_a_trail_never_forgets_too_much(steps: list[tuple[str, int, set[int]]], chunk: int) -> None:
    """Against a list of all writes. What it holds too much is at most the rest of one chunk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(regions, "_TRAIL_CHUNK", chunk)
        trail = RegionTrail()
        writes: list[tuple[int, set[int]]] = []
        number = 0
        for what, value, touched in steps:
            if what == "add":
                number += value
                trail.add(number, touched)
                writes.append((number, touched))
            else:
                trail.drop_through(number + value)
                writes = [each for each in writes if each[0] > number + value]
            assert trail.regions() >= set().union(*(each[1] for each in writes))
            assert bool(trail) == bool(writes)
            if trail:
                assert trail.last == number


def test_a_trail_is_bounded_by_regions_and_not_by_writes() -> None:
    trail = RegionTrail()
    for number in range(5000):
        trail.add(number, (number % 3,))
    assert sum(len(held) for _, held in trail._chunks) <= 3 * (5000 // regions._TRAIL_CHUNK + 1)
    trail.clear()
    assert (bool(trail), trail.last, trail.regions()) == (False, 0, set())


# -- digests

WHOLE = b"a" * REGION_BYTES + bytes(REGION_BYTES) + b"b" * 1024


def test_a_digest_for_each_region_and_for_the_short_one_at_the_end() -> None:
    digests = region_digests(WHOLE)
    assert len(digests) == 3 * DIGEST_BYTES
    assert digests == b"".join(
        region_digests(WHOLE[at : at + REGION_BYTES]) for at in range(0, len(WHOLE), REGION_BYTES)
    )
    assert len({digests[at : at + DIGEST_BYTES] for at in range(0, len(digests), DIGEST_BYTES)}) == 3


def test_zeros_of_another_length_have_another_digest() -> None:
    assert region_digests(bytes(REGION_BYTES)) != region_digests(bytes(512))


@pytest.mark.parametrize("at", [0, REGION_BYTES - 1, REGION_BYTES, 2 * REGION_BYTES, len(WHOLE) - 1])
def test_one_changed_byte_is_found_in_its_region(at: int) -> None:
    other = bytearray(WHOLE)
    other[at] ^= 1
    expected = [region != at // REGION_BYTES for region in range(3)]
    assert equal_regions(bytes(other), region_digests(WHOLE)) == bytes(expected)


def test_equal_regions_are_equal() -> None:
    assert equal_regions(WHOLE, region_digests(WHOLE)) == b"\1\1\1"


@given(st.sets(st.integers(0, 400), max_size=80), st.integers(4, 40))
def test_coarse_runs_hold_every_key_in_about_as_many_runs_as_are_allowed(keys: set[int], limit: int) -> None:
    spread = {key % 3 << KEY_SHIFT | key for key in keys}
    runs = coarse_runs(spread, limit)
    held = {v << KEY_SHIFT | r for v, first, count in runs for r in range(first, first + count)}
    assert held >= spread
    assert len(runs) <= max(limit, 3)


def test_a_trail_of_batches_forgets_as_one_of_single_writes_does() -> None:
    trail = RegionTrail()
    for batch in range(20):
        extents = [(REGION_BYTES * (100 * batch + each), 512) for each in range(100)]
        trail.add_extents(100 * (batch + 1), 0, extents)
    trail.drop_through(1900)
    assert set(range(1900, 2000)) <= trail.regions() <= set(range(1400, 2000))


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5 * REGION_BYTES), st.integers(1, 3 * REGION_BYTES)))
)
def test_extents_are_noted_as_their_keys_are(extents: list[tuple[int, int, int]]) -> None:
    by_extent, by_keys = RegionTrail(), RegionTrail()
    for number, (volume, offset, length) in enumerate(extents, 1):
        by_extent.add_extents(number, volume, [(offset, length)])
        by_keys.add(number, keys_of(volume, offset, length))
    assert by_extent.regions() == by_keys.regions()
    assert by_extent.last == by_keys.last
