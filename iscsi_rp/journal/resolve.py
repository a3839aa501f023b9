"""The newest version of each of some pages, as the log has it: which record, where in its payload.

Nearly every page is found whole in one record and handled in numbers. A page that the newest record touches
only in part (a volume with blocks of 512 bytes, the edges of an odd extent) is put together piece by piece.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from iscsi_rp.journal.index import PAGE_BYTES
from iscsi_rp.journal.record import DATA, INIT, Table
from iscsi_rp.journal.segment import Segment

Pages = NDArray[np.int64]
"Numbers of pages, ascending."

_ZEROS: Final = bytes(PAGE_BYTES)
_FROM_ZEROS: Final = -1
"In place of an offset in a payload."


class _Patchwork:
    """A page of several versions, newest first."""

    def __init__(self) -> None:
        self.gaps = [(0, PAGE_BYTES)]
        self.pieces: list[tuple[int, int, int, int]] = []
        "(start, end, segment, row), start and end in the page."

    def add(self, start: int, end: int, segment: int, row: int) -> None:
        """An older version: it shows where no newer one is."""
        gaps = []
        for low, high in self.gaps:
            if end <= low or start >= high:
                gaps.append((low, high))
                continue
            self.pieces.append((max(low, start), min(high, end), segment, row))
            gaps += [(a, b) for a, b in ((low, start), (end, high)) if a < b]
        self.gaps = gaps


class Versions:
    """What `resolve` found.

    Indexes count the pages it was asked for; page i stands at i * PAGE_BYTES of a buffer.
    """

    def __init__(self, segments: Sequence[Segment], volume: int, pages: Pages) -> None:
        self.pages = pages
        self._segments = segments
        self._volume = volume
        self._segment = np.full(len(pages), -1, dtype=np.int64)
        self._row = np.full(len(pages), -1, dtype=np.int64)
        self._covered = np.zeros(len(pages), dtype=np.bool_)
        self._patchworks: dict[int, _Patchwork] = {}

    @property
    def missing(self) -> NDArray[np.int64]:
        """Indexes of pages that the log does not cover wholly; what it has of them, `copy_into` lays over."""
        return np.flatnonzero(~self._covered)

    @property
    def untouched(self) -> bool:
        """Whether the log has nothing at all of these pages."""
        return not self._covered.any() and not self._patchworks

    @property
    def zeros(self) -> NDArray[np.bool_]:
        """Which pages are wholly zeros by one record."""
        zeros = np.zeros(len(self.pages), dtype=np.bool_)
        for number in self._numbers():
            at = np.flatnonzero(self._segment == number)
            zeros[at] = ~_has_payload(self._segments[number].table[self._row[at]])
        return zeros

    def search(self, number: int, after: int, upto: int) -> bool:
        """Look into a segment older than those before. Whether every page is covered now."""
        segment = self._segments[number]
        asked = np.flatnonzero(~self._covered)
        rows = segment.newest(self._volume, self.pages[asked], after, upto)
        asked, rows = asked[rows >= 0], rows[rows >= 0]
        if len(asked):
            whole = _covers(segment.table[rows], self.pages[asked])
            if self._patchworks:
                whole &= ~np.isin(asked, list(self._patchworks))
            self._segment[asked[whole]] = number
            self._row[asked[whole]] = rows[whole]
            self._covered[asked[whole]] = True
            for i in asked[~whole].tolist():
                self._patch(i, number, after, upto)
        return bool(self._covered.all())

    def _patch(self, i: int, number: int, after: int, upto: int) -> None:
        segment, page = self._segments[number], int(self.pages[i])
        patchwork = self._patchworks.setdefault(i, _Patchwork())
        table = segment.table
        for row in reversed(segment.rows_of_page(self._volume, page, after, upto)):
            start = int(table["offset"][row]) - page * PAGE_BYTES
            patchwork.add(start, start + int(table["length"][row]), number, row)
            if not patchwork.gaps:
                self._covered[i] = True
                return

    def copy_into(self, buffer: memoryview) -> None:
        """Lay the versions over `buffer`.

        Pages that are covered must be zeros in it. Raises `DamagedRecordError`.
        """
        for number in self._numbers():
            segment = self._segments[number]
            copies = self._whole_copies(number) + self._patch_copies(number)
            copies.sort()
            payloads = segment.payloads(
                sorted({row for row, _, source, _ in copies if source != _FROM_ZEROS})
            )
            row, payload = -1, memoryview(b"")
            for wanted, target, source, length in copies:
                if source == _FROM_ZEROS:
                    buffer[target : target + length] = _ZEROS[:length]
                    continue
                if row != wanted:
                    row, payload = next(payloads)
                buffer[target : target + length] = payload[source : source + length]

    def _numbers(self) -> list[int]:
        whole = set(np.unique(self._segment).tolist()) - {-1}
        patched = {piece[2] for patchwork in self._patchworks.values() for piece in patchwork.pieces}
        return sorted(whole | patched)

    def _whole_copies(self, number: int) -> list[tuple[int, int, int, int]]:
        """(row, target, source, length) for runs of pages that lie one behind the other in one payload."""
        at = np.flatnonzero(self._segment == number)
        heads = self._segments[number].table[self._row[at]]
        at, heads = at[_has_payload(heads)], heads[_has_payload(heads)]
        if not len(at):
            return []
        rows, pages = self._row[at], self.pages[at]
        breaks = (np.diff(rows) != 0) | (np.diff(pages) != 1) | (np.diff(at) != 1)
        begins = np.concatenate([[0], np.flatnonzero(breaks) + 1])
        counts = np.diff(np.append(begins, len(at)))
        sources = pages[begins] * PAGE_BYTES - heads["offset"][begins].astype(np.int64)
        columns = (rows[begins], at[begins] * PAGE_BYTES, sources, counts * PAGE_BYTES)
        return list(zip(*(column.tolist() for column in columns), strict=True))

    def _patch_copies(self, number: int) -> list[tuple[int, int, int, int]]:
        copies = []
        table = self._segments[number].table
        for i, patchwork in self._patchworks.items():
            for start, end, owner, row in patchwork.pieces:
                if owner == number:
                    source = int(self.pages[i]) * PAGE_BYTES + start - int(table["offset"][row])
                    if not table["payload_length"][row]:
                        source = _FROM_ZEROS
                    copies.append((row, i * PAGE_BYTES + start, source, end - start))
        return copies


def resolve(segments: Sequence[Segment], volume: int, pages: Pages, after: int, upto: int) -> Versions:
    """The newest versions with after < position <= upto. Raises `DamagedRecordError`."""
    versions = Versions(segments, volume, pages)
    for number in reversed(range(len(segments))):
        if segments[number].first > upto:
            continue
        if segments[number].last <= after or versions.search(number, after, upto):
            break
    return versions


def _has_payload(heads: Table) -> NDArray[np.bool_]:
    has: NDArray[np.bool_] = (heads["kind"] == DATA) | (heads["kind"] == INIT)
    return has


def _covers(heads: Table, pages: Pages) -> NDArray[np.bool_]:
    start = heads["offset"].astype(np.int64)
    end = start + heads["length"].astype(np.int64)
    covers: NDArray[np.bool_] = (start <= pages * PAGE_BYTES) & (end >= (pages + 1) * PAGE_BYTES)
    return covers
