"""Trim: give up the oldest segment S, and with it the images before its end.

Once those images are durably not offered, what of S is not distributed yet goes to the copy volume; nothing
has to be saved for that. Then the base must show its pages as they were at the end of S: a page that a later
record touches gets S's content laid over it in the base; one that none does is dropped from the base, for the
copy volume has the same. *Any* later record counts, distributed or not: a distribution that was cut short may
have it in the copy volume already. S stays searchable until all that is durable; then it goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from iscsi_rp.journal import distribute
from iscsi_rp.journal.index import is_wide, page_spans
from iscsi_rp.journal.pages import chunks_of, page_buffer, union
from iscsi_rp.journal.resolve import Pages, resolve

if TYPE_CHECKING:
    from iscsi_rp.journal.replica import Replica


def steps(replica: Replica) -> Iterator[Callable[[], None]]:
    """Raises `ConflictError` from the first step if it cannot go."""
    yield replica.withdraw_oldest
    yield from distribute.steps(replica, replica.log.segments[0].last, None)
    trimming = _Trim(replica)
    while not trimming.is_updated:
        yield trimming.update
    yield trimming.commit
    yield replica.log.remove_oldest


class _Trim:
    """One oldest segment on its way out."""

    def __init__(self, replica: Replica) -> None:
        self.is_updated = False
        self._replica = replica
        self._segment, *self._later = replica.log.segments
        self._dropped: dict[int, list[Pages]] = {volume: [] for volume in replica.bases}
        self._updating = self._updates()

    def update(self) -> None:
        """Some pages of the base; all of them when `is_updated`."""
        self.is_updated = next(self._updating, None) is None

    def _updates(self) -> Iterator[bool]:
        for volume, base in self._replica.bases.items():
            for pages in chunks_of(self._present(volume)):
                kept = self._touched_later(volume, pages)
                self._dropped[volume].append(pages[~kept])
                self._lay_over(volume, pages[kept])
                yield True
            base.sync_pages()

    def _present(self, volume: int) -> Pages:
        """Pages of the base that S touches."""
        base, segment = self._replica.bases[volume], self._segment
        narrow = segment.pages(volume, segment.first - 1, segment.last)
        table = segment.table
        extents = table[is_wide(table) & (table["volume"] == volume)]
        wide = [base.present_in(int(a), int(b)) for a, b in zip(*union(*page_spans(extents)), strict=True)]
        return np.unique(np.concatenate([narrow[base.present(narrow)], *wide]))

    def _touched_later(self, volume: int, pages: Pages) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        touched = np.zeros(len(pages), dtype=np.bool_)
        for segment in self._later:
            asked = np.flatnonzero(~touched)
            if not len(asked):
                break
            touched[asked] = segment.newest(volume, pages[asked], self._segment.last, segment.last) >= 0
        return touched

    def _lay_over(self, volume: int, pages: Pages) -> None:
        if not len(pages):
            return
        base, segment = self._replica.bases[volume], self._segment
        content = page_buffer(len(pages))
        versions = resolve([segment], volume, pages, segment.first - 1, segment.last)
        partly = versions.missing
        base.read(pages[partly], content, partly)
        versions.copy_into(content)
        base.write(pages, content)

    def commit(self) -> None:
        """Durably without the dropped pages; then their space goes."""
        for volume, dropped in self._dropped.items():
            if dropped:
                base, pages = self._replica.bases[volume], np.concatenate(dropped)
                base.drop(pages)
                base.sync_presence()
                self._replica.changed()
                base.punch(pages)
