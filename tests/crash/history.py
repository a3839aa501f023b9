"""What the writer did, and the one question: is there a cut through it that explains every block?

The writer never has two writes in flight on one block, so the writes of a block are ordered by their
sequence. Each issue and each acknowledgement is an *event* with a number; write V must precede W when V
was acknowledged before W was issued. An image is a consistent cut exactly when:

1. every block holds what some write put there, whole and in its place;
2. let M be the newest issue among the writes seen: no block is older than its newest write acknowledged
   before M. (Then the writes acknowledged before M, together with those seen, are closed under "must
   precede", and explain every block.)
3. a write seen in one of its blocks is in all of them, unless overwritten by a newer one.

A write that was in flight when the array was killed may be there or not, and the kill may have torn it on the
store, so 3 is asked only of acknowledged writes.
"""

import time
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from typing import Final

import numpy as np

from tests.crash.blocks import BLOCK, Sequences

_PENDING: Final = 2**63
_SHOWN: Final = 5
"Of each kind of finding; the rest is counted."


class History:
    """All writes of one run over volumes of `sizes` bytes."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = tuple(sizes)
        self.acknowledged = 0
        "Writes that got GOOD."
        self._times_ns = array("Q", [0])
        "Of each event: taken before a write is sent, and after its status came."
        # By sequence; sequence 0 stands for "never written" and is older than everything.
        self._volume = array("H", [0])
        self._first = array("Q", [0])
        self._blocks = array("H", [0])
        self._issued = array("Q", [0])
        self._acked = array("Q", [0])

    @property
    def now(self) -> int:
        """The number of the last event."""
        return len(self._times_ns) - 1

    def event_at(self, time_ns: int) -> int:
        """The last event at or before `time_ns` (UTC)."""
        return bisect_right(self._times_ns, time_ns) - 1

    def issue(self, volume: int, first_block: int, blocks: int) -> int:
        """A write is about to be sent; returns its sequence."""
        self._volume.append(volume)
        self._first.append(first_block)
        self._blocks.append(blocks)
        self._acked.append(_PENDING)
        self._issued.append(self._happened())
        return len(self._issued) - 1

    def acknowledge(self, sequence: int) -> None:
        self.acknowledged += 1
        self._acked[sequence] = self._happened()

    def newest(self, before: int) -> list[Sequences]:
        """For each block of each volume its newest write acknowledged at or before the event `before`."""
        newest = [np.zeros(size // BLOCK, np.uint64) for size in self.sizes]
        for sequence in np.flatnonzero(np.frombuffer(self._acked[:], np.uint64) <= before)[1:].tolist():
            first = self._first[sequence]
            newest[self._volume[sequence]][first : first + self._blocks[sequence]] = sequence
        return newest

    def explain(self, image: Sequence[Sequences], *, floor: int = 0, ceiling: int | None = None) -> list[str]:
        """Why no cut explains `image`; empty when one does.

        `floor`: everything acknowledged at or before this event must be there. `ceiling`: nothing issued
        after this event may be.
        """
        foreign = self._foreign(image)
        if foreign:
            return foreign
        newest_seen = max(int(volume.max()) for volume in image)
        findings = self._torn(image)
        if ceiling is not None and self._issued[newest_seen] > ceiling:
            findings.append(f"write {newest_seen} was issued after the image was taken")
        horizon = max(floor, self._issued[newest_seen])
        for number, (found, needed) in enumerate(zip(image, self.newest(horizon), strict=True)):
            stale = np.flatnonzero(found < needed)
            findings += [
                f"volume {number} block {block}: holds write {found[block]}, not {needed[block]}"
                for block in stale[:_SHOWN].tolist()
            ]
            if len(stale) > _SHOWN:
                findings.append(f"volume {number}: {len(stale) - _SHOWN} more blocks are too old")
        return findings

    def lost(self, lun: Sequence[Sequences]) -> int:
        """Blocks of the LUNs that are older than their newest acknowledged write."""
        pairs = zip(lun, self.newest(self.now), strict=True)
        return sum(int(np.count_nonzero(found < needed)) for found, needed in pairs)

    def _happened(self) -> int:
        self._times_ns.append(max(time.time_ns(), self._times_ns[-1]))
        return self.now

    def _foreign(self, image: Sequence[Sequences]) -> list[str]:
        """1: each block holds a write that was issued, to this block."""
        findings = []
        volume_of, first_of = (
            np.frombuffer(self._volume[:], np.uint16),
            np.frombuffer(self._first[:], np.uint64),
        )
        blocks_of = np.frombuffer(self._blocks[:], np.uint16)
        for number, found in enumerate(image):
            if found.max() >= len(self._issued):
                return [f"volume {number}: holds write {found.max()}, which was never issued"]
            place = np.arange(len(found), dtype=np.uint64)
            first = first_of[found]
            inside = (volume_of[found] == number) & (first <= place) & (place < first + blocks_of[found])
            for block in np.flatnonzero(~inside & (found > 0))[:_SHOWN].tolist():
                findings.append(f"volume {number} block {block}: write {found[block]} never covered it")
        return findings

    def _torn(self, image: Sequence[Sequences]) -> list[str]:
        """3: all or nothing of each write."""
        findings = []
        for number, found in enumerate(image):
            for sequence in np.unique(found).tolist():
                first = self._first[sequence]
                part = found[first : first + self._blocks[sequence]]
                if sequence and self._acked[sequence] != _PENDING and int(part.min()) < sequence:
                    findings.append(f"volume {number}: write {sequence} is there only in part")
        return findings[:_SHOWN]
