"""Where the versions of a page lie: postings, one for each page that a record touches.

A segment's rows are numbered from 0 in the order of the log, so a larger row is a newer one. Postings are
sorted by (volume, page, row) and searched for many pages at once. Extents of zeros longer than `WIDE_BYTES`
are not spread over their pages but listed apart: an UNMAP of a terabyte is one entry.
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from iscsi_rp.journal.record import DATA, FIRST_NOTE, INIT, Table

PAGE_BYTES: Final = 4096
PAGE_SHIFT: Final = 12
assert 1 << PAGE_SHIFT == PAGE_BYTES

WIDE_BYTES: Final = 1 << 16
"Bounds the postings of a segment: at most 17 for a record without payload."

_VOLUME_SHIFT: Final = 48
_PAGE_MASK: Final = (1 << _VOLUME_SHIFT) - 1


class Postings(NamedTuple):
    """The index over some rows of a segment."""

    keys: NDArray[np.uint64]
    "volume << 48 | page, ascending."
    rows: NDArray[np.uint32]
    "The row of each key, ascending for equal keys."
    wide: NDArray[np.uint32]
    "Rows of wide extents, ascending."


def page_spans(table: Table) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First page and the page after the last, for each row of `table`."""
    start = table["offset"].astype(np.int64)
    end = start + table["length"].astype(np.int64)
    return start >> PAGE_SHIFT, (end + (PAGE_BYTES - 1)) >> PAGE_SHIFT


def spread(first: NDArray[np.int64], end: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Every number of the ranges [first, end), and for each the index of its range."""
    counts = end - first
    which = np.repeat(np.arange(len(counts)), counts)
    begins = np.cumsum(counts) - counts
    return first[which] + np.arange(len(which)) - begins[which], which


def is_wide(table: Table) -> NDArray[np.bool_]:
    kind = table["kind"]
    zeros: NDArray[np.bool_] = (kind < FIRST_NOTE) & (kind != DATA) & (kind != INIT)
    return zeros & (table["length"] > WIDE_BYTES)


def build(table: Table, first_row: int) -> Postings:
    """Index `table`, whose first row is row `first_row` of its segment."""
    wide = is_wide(table)
    narrow = np.flatnonzero(~wide & (table["kind"] < FIRST_NOTE))
    pages, which = spread(*page_spans(table[narrow]))
    rows = narrow[which]
    keys = (table["volume"][rows].astype(np.uint64) << np.uint64(_VOLUME_SHIFT)) | pages.astype(np.uint64)
    order = np.argsort(keys, kind="stable")
    return Postings(
        keys[order],
        (rows[order] + first_row).astype(np.uint32),
        (np.flatnonzero(wide) + first_row).astype(np.uint32),
    )


def touching(table: Table, volume: int, first_page: int, end_page: int) -> NDArray[np.int64]:
    """Rows of `table` that touch pages [first_page, end_page) of `volume`, found without an index."""
    offset = table["offset"]
    inside = (offset < end_page << PAGE_SHIFT) & (offset + table["length"] > first_page << PAGE_SHIFT)
    return np.flatnonzero(inside & (table["volume"] == volume) & (table["kind"] < FIRST_NOTE))


def mark_newest(
    newest: NDArray[np.int64],
    pages: NDArray[np.int64],
    volume: int,
    postings: Postings,
    table: Table,
    rows: range,
) -> None:
    """Put into `newest`, for each of the ascending `pages`, the newest of `rows` that touches it; leave
    others as they are.

    What `newest` holds already must be older. `table` is the segment's whole table.
    """
    found, found_rows = _of_range(postings, volume, int(pages[0]), int(pages[-1]) + 1, rows)
    if len(found):
        last = np.append(found[1:] != found[:-1], True)
        found, found_rows = found[last], found_rows[last]
        at = np.searchsorted(pages, found)
        wanted = pages[at] == found
        newest[at[wanted]] = found_rows[wanted]
    for row in _wide_rows(postings, table, volume, int(pages[0]), int(pages[-1]) + 1, rows):
        (first,), (end,) = page_spans(table[row : row + 1])
        span = slice(*np.searchsorted(pages, [first, end]))
        newest[span] = np.maximum(newest[span], row)


def rows_of_page(postings: Postings, table: Table, volume: int, page: int, rows: range) -> list[int]:
    """Those of `rows` that touch one page, ascending."""
    _, narrow = _of_range(postings, volume, page, page + 1, rows)
    wide = _wide_rows(postings, table, volume, page, page + 1, rows)
    return sorted([*narrow.tolist(), *wide])


def pages_of(postings: Postings, volume: int, rows: range) -> NDArray[np.int64]:
    """The pages that `rows` touch other than by wide extents, ascending, each once."""
    return np.unique(_of_range(postings, volume, 0, _PAGE_MASK + 1, rows)[0])


def _of_range(
    postings: Postings, volume: int, first_page: int, end_page: int, rows: range
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pages and rows of the postings of a range of pages, as they are sorted."""
    base = volume << _VOLUME_SHIFT
    bounds = np.array([base + first_page, base + end_page], dtype=np.uint64)
    begin, end = np.searchsorted(postings.keys, bounds)
    found_rows = postings.rows[begin:end].astype(np.int64)
    found = (postings.keys[begin:end] & np.uint64(_PAGE_MASK)).astype(np.int64)
    inside = (found_rows >= rows.start) & (found_rows < rows.stop)
    return found[inside], found_rows[inside]


def _wide_rows(
    postings: Postings, table: Table, volume: int, first_page: int, end_page: int, rows: range
) -> list[int]:
    begin, end = np.searchsorted(postings.wide, [rows.start, rows.stop])
    if begin == end:
        return []
    wide = postings.wide[begin:end]
    rows_found: list[int] = wide[touching(table[wide], volume, first_page, end_page)].tolist()
    return rows_found
