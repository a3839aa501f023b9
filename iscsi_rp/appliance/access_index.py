"""Where the newest version of each page lies in an access log.

A slot of 8 bytes for each page of all volumes, in a sparse file without a name: it costs page cache and not
anonymous memory, and what was never written takes no space. It is written and not mapped, because a store
into a mapping on a full file system kills the process.

A slot holds the page's location in the log, or minus the location of the record that zeroed it. Slots note
only the edges of a zeroed range. For each chunk that it covers whole, one location in memory says that what
is older than that is zeros. So a discard of a whole volume is cheap.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from iscsi_rp.journal.files import OsFile
from iscsi_rp.journal.index import PAGE_BYTES

CHUNK_PAGES: Final = 512
BELOW: Final = 0
"Location of a page that the log does not have."
ZEROS: Final = -1
"Location of a page that is zeros."
_SLOT: Final = np.dtype("<i8")


class AccessIndex:
    """Locations are offsets in the log, greater than 0, and grow with every change."""

    def __init__(self, file: OsFile, pages: int) -> None:
        """`file` is empty."""
        self._file = file
        chunks = -(-pages // CHUNK_PAGES)
        self._zeroed = np.zeros(chunks, np.int64)
        self._touched = bytearray(chunks)

    def put_data(self, first: int, count: int, location: int) -> None:
        """`count` pages from page `first` on lie one behind the other at `location`. Raises
        `JournalError`.
        """
        self._put(first, np.arange(location, location + count * PAGE_BYTES, PAGE_BYTES, dtype=_SLOT))

    def put_zeros(self, first: int, count: int, location: int) -> None:
        """Raises `JournalError`."""
        end = first + count
        first_chunk, end_chunk = -(-first // CHUNK_PAGES), end // CHUNK_PAGES
        edges = [(first, end)]
        if first_chunk < end_chunk:
            edges = [(first, first_chunk * CHUNK_PAGES), (end_chunk * CHUNK_PAGES, end)]
            self._zeroed[first_chunk:end_chunk] = location
            self._touched[first_chunk:end_chunk] = b"\1" * (end_chunk - first_chunk)
        for start, stop in edges:
            if start < stop:
                self._put(start, np.full(stop - start, -location, dtype=_SLOT))

    def is_touched(self, first: int, count: int) -> bool:
        """False only if the log has none of these pages; looks at memory alone."""
        return 1 in self._touched[first // CHUNK_PAGES : (first + count - 1) // CHUNK_PAGES + 1]

    def newest(self, first: int, count: int) -> NDArray[np.int64]:
        """Of each page its location, `ZEROS` or `BELOW`. Raises `JournalError`."""
        slots = np.zeros(count, np.int64)
        stored = np.frombuffer(self._file.pread(count * _SLOT.itemsize, first * _SLOT.itemsize), _SLOT)
        slots[: len(stored)] = stored
        zeroed = self._zeroed[np.arange(first, first + count) // CHUNK_PAGES]
        slots[(slots < 0) | (np.abs(slots) < zeroed)] = ZEROS
        return slots

    def _put(self, first: int, slots: NDArray[np.int64]) -> None:
        # Touched first: a reader that looks too early then asks the slots, never the other way round.
        first_chunk, end_chunk = first // CHUNK_PAGES, (first + len(slots) - 1) // CHUNK_PAGES + 1
        self._touched[first_chunk:end_chunk] = b"\1" * (end_chunk - first_chunk)
        self._file.pwritev([slots.tobytes()], first * _SLOT.itemsize)
