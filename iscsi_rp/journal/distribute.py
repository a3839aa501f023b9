"""Distribution: bring the copy volumes from D to D', each page once, with its newest version in between.

In this order: every page that will change goes to the base; *page durable, then its presence durable*; then
`applying` := D', durably, from which moment readers of older images no longer trust the copy volume; then
the copy volume, and that durable; then D := D'. A crash anywhere repeats it harmlessly.

Where no image before D' is offered any more, durably, nobody needs the base for it: all others have what
changes in the log.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Final

import numpy as np

from iscsi_rp.journal.index import PAGE_BYTES, PAGE_SHIFT, is_wide, page_spans
from iscsi_rp.journal.pages import (
    CHUNK_PAGES,
    Extents,
    chunks_of,
    chunks_of_range,
    page_buffer,
    pages_for,
    read_pages,
    runs,
    union,
    write_pages,
)
from iscsi_rp.journal.resolve import Pages, resolve

if TYPE_CHECKING:
    from iscsi_rp.journal.replica import Replica

_MARK_PAGES: Final = 2 * CHUNK_PAGES
"So many pages are saved before one sync lets them be present: bounds what is remembered of a huge UNMAP."
_ZERO_BYTES: Final = 1 << 30


def steps(replica: Replica, upto: int, limit_bytes: int | None) -> Iterator[Callable[[], None]]:
    """Nothing to do gives no step."""
    if upto <= replica.distributed:
        return
    batch = _Batch(replica, upto, limit_bytes)
    try:
        yield batch.plan
        while not batch.is_saved:
            yield batch.save
        yield batch.announce
        while not batch.is_applied:
            yield batch.apply
        yield batch.finish
    finally:
        batch.close()


class _Batch:
    """The records (after, upto] on their way into the copy volumes."""

    def __init__(self, replica: Replica, upto: int, limit_bytes: int | None) -> None:
        self.is_saved = False
        self.is_applied = False
        self._replica = replica
        self._segments = replica.log.segments
        self._after = replica.distributed
        self._upto = upto
        self._limit_bytes = limit_bytes
        self._pages: dict[int, Pages] = {}
        self._wide: dict[int, Extents] = {}
        self._saving = self._saves()
        self._applying = self._applies()

    def close(self) -> None:
        """Else it and its generators would keep one another, and segments that are removed, for long."""
        self._saving.close()
        self._applying.close()

    def plan(self) -> None:
        """How far, and which pages."""
        if self._limit_bytes is not None:
            self._upto = self._end_within(self._limit_bytes)
        self._read_ahead()
        for volume in self._replica.copies:
            starts, ends = self._wide_extents(volume)
            edges = [starts[starts % PAGE_BYTES != 0], ends[ends % PAGE_BYTES != 0]]
            narrow = [segment.pages(volume, self._after, self._upto) for segment in self._segments]
            self._pages[volume] = np.unique(np.concatenate(narrow + [edge >> PAGE_SHIFT for edge in edges]))
            self._wide[volume] = ((starts + PAGE_BYTES - 1) >> PAGE_SHIFT, ends >> PAGE_SHIFT)

    def _end_within(self, limit_bytes: int) -> int:
        """At least one record, else as many as touch `limit_bytes` of pages."""
        left = limit_bytes >> PAGE_SHIFT
        end = self._after
        for segment in self._segments:
            rows = segment.rows(self._after, self._upto)
            if not rows:
                continue
            first, behind = page_spans(segment.table[rows.start : rows.stop])
            touched = np.cumsum(behind - first)
            fits = int(np.searchsorted(touched, left, side="right"))
            if fits < len(rows):
                return max(end + fits, self._after + 1)
            end += len(rows)
            left -= int(touched[-1])
        return end

    def _read_ahead(self) -> None:
        """Payloads are read in the order of the pages: where these are written at random that is slow, unless
        they are in the page cache already.
        """
        for segment in self._segments:
            if rows := segment.rows(self._after, self._upto):
                segment.read_ahead(rows)

    def _wide_extents(self, volume: int) -> Extents:
        """In bytes, as the records have them, within the volume."""
        starts, ends = [], []
        for segment in self._segments:
            rows = segment.rows(self._after, self._upto)
            table = segment.table[rows.start : rows.stop] if rows else segment.table[:0]
            table = table[is_wide(table) & (table["volume"] == volume)]
            starts.append(table["offset"].astype(np.int64))
            ends.append(starts[-1] + table["length"].astype(np.int64))
        return union(np.concatenate(starts), np.concatenate(ends))

    # Into the base

    def save(self) -> None:
        """Some pages; all of them present, durably, when `is_saved`."""
        self.is_saved = next(self._saving, None) is None

    def _saves(self) -> Generator[bool]:
        if self._upto <= self._replica.first_offered:
            return
        for volume, base in self._replica.bases.items():
            saved: list[Pages] = []
            for pages in self._changing(volume):
                missing = pages[~base.present(pages)]
                if len(missing):
                    self._save_pages(volume, missing)
                    saved.append(missing)
                if sum(map(len, saved)) >= _MARK_PAGES:
                    self._mark(volume, saved)
                    saved = []
                yield True
            self._mark(volume, saved)
            base.sync_presence()

    def _save_pages(self, volume: int, pages: Pages) -> None:
        content = page_buffer(len(pages))
        read_pages(self._replica.copies[volume], pages, content, np.arange(len(pages)))
        self._replica.bases[volume].write(pages, content)

    def _mark(self, volume: int, saved: list[Pages]) -> None:
        base = self._replica.bases[volume]
        base.sync_pages()
        for pages in saved:
            base.add(pages)

    def _changing(self, volume: int) -> Iterator[Pages]:
        """The pages of the copy volume that may change, some at a time;

        a wide extent changes only what is allocated.
        """
        yield from chunks_of(self._pages[volume])
        for start, end in zip(*self._wide[volume], strict=True):
            extent = (int(start) * PAGE_BYTES, int(end - start) * PAGE_BYTES)
            for offset, length in self._replica.copies[volume].data_extents(*extent):
                yield from chunks_of_range(offset >> PAGE_SHIFT, pages_for(offset + length))

    def announce(self) -> None:
        """From here on the copy volume may be ahead of D."""
        state = self._replica.state
        self._replica.store(state._replace(applying=max(state.applying, self._upto)))
        self._replica.changed()

    # Into the copy volume

    def apply(self) -> None:
        """Some pages; all of them, durably, when `is_applied`."""
        self.is_applied = next(self._applying, None) is None

    def _applies(self) -> Generator[bool]:
        for volume, copy in self._replica.copies.items():
            for start, end in zip(*self._wide[volume], strict=True):
                limit = int(end) * PAGE_BYTES
                for offset in range(int(start) * PAGE_BYTES, limit, _ZERO_BYTES):
                    copy.zero(offset, min(_ZERO_BYTES, limit - offset))
                    yield True
            for pages in chunks_of(self._pages[volume]):
                self._apply_pages(volume, pages)
                yield True
            copy.sync()

    def _apply_pages(self, volume: int, pages: Pages) -> None:
        copy, size = self._replica.copies[volume], self._replica.sizes[volume]
        versions = resolve(self._segments, volume, pages, self._after, self._upto)
        zeros = versions.zeros
        for _, first, count in runs(pages[zeros]):
            copy.zero(first * PAGE_BYTES, count * PAGE_BYTES)
        content = page_buffer(len(pages))
        partly = versions.missing
        read_pages(copy, pages[partly], content, partly)
        versions.copy_into(content)
        data = np.flatnonzero(~zeros)
        write_pages(copy, pages[data], content, data, size)

    def finish(self) -> None:
        """D := D'."""
        self._replica.store(self._replica.state._replace(distributed=self._upto))
