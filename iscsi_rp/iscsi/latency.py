"""How long commands took, from their arrival to their answer: histograms with buckets of powers of two."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

BUCKETS: Final = 32
"The last one counts whatever took longer than the others say."
_COUNTED: Final = 64
"Microseconds of a 63-bit count of nanoseconds have fewer bits: counting needs no check."

INITIATORS: Final = 64
"With counts of their own."
OTHERS: Final = "other"


class Histogram(NamedTuple):
    """Number n counts commands that took less than 2**n microseconds, and not less than half of that."""

    reads: tuple[int, ...]
    writes: tuple[int, ...]


class Latency:
    """Counts as the fast path makes them: `counts[flags >> 5 & 3][microseconds.bit_length()] += 1`.

    `flags` are those of a SCSI Command: R is 0x40, W 0x20. What moves no data is counted, too, and not shown.
    """

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts = tuple([0] * _COUNTED for _ in range(4))

    def add(self, other: Latency) -> None:
        for mine, theirs in zip(self.counts, other.counts, strict=True):
            mine[:] = [one + two for one, two in zip(mine, theirs, strict=True)]

    def histogram(self) -> Histogram:
        _, writes, reads, both = self.counts
        moved = [one + two for one, two in zip(reads, both, strict=True)]
        return Histogram(_shown(moved), _shown(writes))


class ByInitiator:
    """What initiators have counted in the sessions that are over: the first that come by their names, all
    others as one. So they do not choose how much is remembered, and no count ever falls.
    """

    def __init__(self) -> None:
        self._past: dict[str, Latency] = {}

    def meet(self, initiator: str) -> None:
        """A session of `initiator` begins to count."""
        if len(self._past) < INITIATORS:
            self._past.setdefault(initiator, Latency())

    def add(self, initiator: str, latency: Latency) -> None:
        """A session of `initiator` is over."""
        self._past.setdefault(self._name(initiator), Latency()).add(latency)

    def histograms(self, present: Iterable[tuple[str, Latency]]) -> dict[str, Histogram]:
        """With what the sessions that are not over have counted, by initiator or `OTHERS`."""
        totals: dict[str, Latency] = {}
        for initiator, latency in (*self._past.items(), *present):
            totals.setdefault(self._name(initiator), Latency()).add(latency)
        return {name: total.histogram() for name, total in totals.items()}

    def _name(self, initiator: str) -> str:
        return initiator if initiator in self._past else OTHERS


def _shown(counts: list[int]) -> tuple[int, ...]:
    return (*counts[: BUCKETS - 1], sum(counts[BUCKETS - 1 :]))
