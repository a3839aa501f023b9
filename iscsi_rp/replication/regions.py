"""Regions: the 64 KiB pieces in which a volume is marked, resynchronised and compared.

A region is named by a *key*, one integer that holds the volume's index in its group and the region's number
in the volume, so that sets of regions over several volumes are sets of integers.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Final

REGION_SHIFT: Final = 16
REGION_BYTES: Final = 1 << REGION_SHIFT
KEY_SHIFT: Final = 40
"A key is `volume << KEY_SHIFT | region`; 2^40 regions are 64 PiB."

_TRAIL_CHUNK: Final = 512


def region_count(size: int) -> int:
    """How many regions a volume of `size` bytes has; the last may be short."""
    return (size + REGION_BYTES - 1) >> REGION_SHIFT


def keys_of(volume: int, offset: int, length: int) -> range:
    """The keys of the regions that the bytes `[offset, offset + length)` of a volume touch."""
    base = volume << KEY_SHIFT
    return range(base | offset >> REGION_SHIFT, (base | (offset + length - 1) >> REGION_SHIFT) + 1)


def runs_of(keys: Iterable[int]) -> Iterator[tuple[int, int, int]]:
    """Sorted runs `(volume, first region, count)` of a set of keys."""
    start = previous = -2
    for key in sorted(keys):
        if key == previous + 1 and key >> KEY_SHIFT == start >> KEY_SHIFT:
            previous = key
            continue
        if start >= 0:
            yield start >> KEY_SHIFT, start & ((1 << KEY_SHIFT) - 1), previous - start + 1
        start = previous = key
    if start >= 0:
        yield start >> KEY_SHIFT, start & ((1 << KEY_SHIFT) - 1), previous - start + 1


def coarse_runs(keys: Iterable[int], limit: int) -> list[tuple[int, int, int]]:
    """At most about `limit` runs that hold all of `keys`, and where there were more, what lies between
    close ones too.
    """
    runs = list(runs_of(keys))
    if len(runs) <= limit:
        return runs
    gaps = sorted(
        after[1] - before[1] - before[2] for before, after in pairwise(runs) if before[0] == after[0]
    )
    widest = gaps[len(runs) - limit - 1] if len(gaps) >= len(runs) - limit else gaps[-1]
    merged = [runs[0]]
    for volume, first, count in runs[1:]:
        last = merged[-1]
        if last[0] == volume and first - last[1] - last[2] <= widest:
            merged[-1] = (volume, last[1], first + count - last[1])
        else:
            merged.append((volume, first, count))
    return merged


class RegionTrail:
    """Regions touched by numbered writes that have not reached some state yet (durable, or stored).

    Memory is bounded by the number of regions, not of writes: numbers are kept in chunks, and a chunk is
    forgotten when the state has reached the last number in it. So the trail may hold a little too much and
    never too little.
    """

    def __init__(self) -> None:
        self._chunks: deque[tuple[list[int], set[int]]] = deque()
        "Oldest first; `([last number, writes], regions)`."

    def add(self, number: int, keys: Iterable[int], writes: int = 1) -> None:
        """Note `writes` up to that number; numbers never go down."""
        if not self._chunks or self._chunks[-1][0][1] >= _TRAIL_CHUNK:
            self._chunks.append(([number, 0], set()))
        head, regions = self._chunks[-1]
        head[0] = number
        head[1] += writes
        regions.update(keys)

    def add_extents(self, number: int, volume: int, extents: Sequence[tuple[int, int]]) -> None:
        """`add` for writes whose last is `number`: `(offset, length)` of each, in bytes."""
        base = volume << KEY_SHIFT
        keys = [base | offset >> REGION_SHIFT for offset, _ in extents]
        for offset, length in extents:
            if offset & (REGION_BYTES - 1) > REGION_BYTES - length:  # most touch one region
                keys += keys_of(volume, offset, length)
        self.add(number, keys, len(extents))

    def drop_through(self, number: int) -> None:
        """Every write up to and including `number` has reached the state."""
        chunks = self._chunks
        while chunks and chunks[0][0][0] <= number:
            chunks.popleft()

    def clear(self) -> None:
        self._chunks.clear()

    @property
    def last(self) -> int:
        """The highest number noted; 0 when there is none."""
        return self._chunks[-1][0][0] if self._chunks else 0

    def __bool__(self) -> bool:
        return bool(self._chunks)

    def regions(self) -> set[int]:
        """The keys of all regions that may not have reached the state."""
        return set().union(*(regions for _, regions in self._chunks))
