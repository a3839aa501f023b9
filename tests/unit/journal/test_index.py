"""The index against looking through every record."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from iscsi_rp.journal import index
from iscsi_rp.journal.pages import runs, union
from iscsi_rp.journal.record import DATA, HEADER_DTYPE, UNMAP, Table

EXTENTS = st.lists(
    st.tuples(
        st.sampled_from([DATA, UNMAP, 64]), st.integers(0, 1), st.integers(0, 400), st.integers(1, 300)
    ),
    max_size=30,
)


def table_of(extents: list[tuple[int, int, int, int]]) -> Table:
    table = np.zeros(len(extents), HEADER_DTYPE)
    for row, (kind, volume, first, length) in enumerate(extents):
        if kind < 64:
            table[["kind", "volume", "offset", "length"]][row] = (kind, volume, first * 512, length * 512)
        table["kind"][row] = kind
    return table


def touches(extent: tuple[int, int, int, int], volume: int, page: int) -> bool:
    kind, of, first, length = extent
    return kind < 64 and of == volume and first < (page + 1) * 8 and first + length > page * 8


@given(EXTENTS, st.integers(0, 30), st.integers(0, 30), st.sets(st.integers(0, 100), min_size=1))
def test_the_newest_row_of_each_page(
    extents: list[tuple[int, int, int, int]], start: int, stop: int, wanted: set[int]
) -> None:
    table = table_of(extents)
    postings = index.build(table, 0)
    pages = np.array(sorted(wanted))
    rows = range(start, min(stop, len(extents)))
    for volume in (0, 1):
        newest = np.full(len(pages), -1)
        index.mark_newest(newest, pages, volume, postings, table, rows)
        for page, found in zip(pages.tolist(), newest.tolist(), strict=True):
            expected = [row for row in rows if touches(extents[row], volume, page)]
            assert found == (expected[-1] if expected else -1)
            assert index.rows_of_page(postings, table, volume, page, rows) == expected


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9)), max_size=20))
def test_the_union_of_extents(extents: list[tuple[int, int]]) -> None:
    starts = np.array([start for start, _ in extents], dtype=np.int64)
    lengths = np.array([length for _, length in extents], dtype=np.int64)
    joined = list(zip(*(bound.tolist() for bound in union(starts, starts + lengths)), strict=True))
    members = {n for start, length in extents for n in range(start, start + length)}
    assert {n for start, end in joined for n in range(start, end)} == members
    assert all(a[1] < b[0] for a, b in pairwise(joined))


@given(st.sets(st.integers(0, 40)))
def test_runs_of_neighbours(numbers: set[int]) -> None:
    pages = np.array(sorted(numbers), dtype=np.int64)
    found = list(runs(pages))
    assert [page for _, first, count in found for page in range(first, first + count)] == sorted(numbers)
    assert all(pages[index] == first for index, first, _ in found)
    assert all(a[1] + a[2] < b[1] for a, b in pairwise(found))


def test_a_wide_extent_is_one_entry() -> None:
    table = table_of([(UNMAP, 0, 0, 1 << 33), (DATA, 0, 8, 8)])
    postings = index.build(table, 0)
    assert (len(postings.keys), postings.wide.tolist()) == (1, [0])
