"""Pages of a volume: reading and writing many of them in few calls, and the arithmetic of extents."""

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from iscsi_rp.journal.files import File
from iscsi_rp.journal.index import PAGE_BYTES, PAGE_SHIFT

CHUNK_PAGES: Final = 8192
"""How many pages one step of a long operation takes at most: 32 MiB. With half of the pages of a segment, to
read what lies between two of its records costs less than another read."""

Extents = tuple[NDArray[np.int64], NDArray[np.int64]]
"Starts, and the ends behind them."


def runs(pages: NDArray[np.int64]) -> Iterator[tuple[int, int, int]]:
    """(index, first page, count) of neighbours among ascending `pages`."""
    if len(pages):
        begins = np.concatenate([[0], np.flatnonzero(np.diff(pages) != 1) + 1])
        counts = np.diff(np.append(begins, len(pages)))
        yield from zip(begins.tolist(), pages[begins].tolist(), counts.tolist(), strict=True)


def page_buffer(count: int) -> memoryview:
    """Zeros, for so many pages; not touched before they are used, for that takes long and holds the GIL."""
    return np.zeros(count * PAGE_BYTES, np.uint8).data


def read_pages(file: File, pages: NDArray[np.int64], buffer: memoryview, at: NDArray[np.int64]) -> None:
    """Put pages[i] at page at[i] of `buffer`, both ascending; neighbours must be neighbours there too.

    Behind the end of the file are zeros: `buffer` is left as it is.
    """
    for index, first, count in runs(pages):
        data = file.pread(count * PAGE_BYTES, first * PAGE_BYTES)
        target = int(at[index]) * PAGE_BYTES
        buffer[target : target + len(data)] = data


def write_pages(
    file: File, pages: NDArray[np.int64], buffer: memoryview, at: NDArray[np.int64], size: int
) -> None:
    """Write page at[i] of `buffer` as pages[i], as for `read_pages`;

    nothing behind `size`, the file's in bytes.
    """
    for index, first, count in runs(pages):
        length = min(count * PAGE_BYTES, size - first * PAGE_BYTES)
        source = int(at[index]) * PAGE_BYTES
        file.pwritev([buffer[source : source + length]], first * PAGE_BYTES)


def union(starts: NDArray[np.int64], ends: NDArray[np.int64]) -> Extents:
    """Extents that overlap or touch, made one; ascending."""
    if not len(starts):
        return starts, ends
    order = np.argsort(starts, kind="stable")
    starts, reach = starts[order], np.maximum.accumulate(ends[order])
    begins = np.concatenate([[0], np.flatnonzero(starts[1:] > reach[:-1]) + 1])
    return starts[begins], reach[np.append(begins[1:], len(starts)) - 1]


def chunks_of_range(first: int, end: int) -> Iterator[NDArray[np.int64]]:
    """The pages [first, end), some at a time."""
    for start in range(first, end, CHUNK_PAGES):
        yield np.arange(start, min(end, start + CHUNK_PAGES))


def chunks_of(pages: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(pages), CHUNK_PAGES):
        yield pages[start : start + CHUNK_PAGES]


def pages_for(size: int) -> int:
    """How many pages `size` bytes take."""
    return -(-size >> PAGE_SHIFT)
