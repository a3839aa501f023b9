"""The base of one volume: pages as they were at the start of the window, and the map of which are there.

A page that is not present reads from the copy volume. The order *page durable, then its presence* is the
caller's to keep: `write`, `sync_pages`, `add`, `sync_presence`.
"""

import struct
from collections.abc import Callable
from typing import Final

import numpy as np
from crc32c import crc32c
from numpy.typing import NDArray

from iscsi_rp.journal.errors import DamagedStateError, JournalIoError
from iscsi_rp.journal.files import Directory, File
from iscsi_rp.journal.index import PAGE_BYTES
from iscsi_rp.journal.pages import pages_for, read_pages, runs, write_pages

VERSION: Final = 1
_MAGIC: Final = b"IRP-BASE"
_HEADER: Final = struct.Struct("<8sHHxxxx16sQ")
_CRC: Final = struct.Struct("<I")
_MAP_START: Final = 4096
_BLOCK_SHIFT: Final = 12
"The map is written in blocks of 4 KiB, 32768 pages each."
_REGION_SHIFT: Final = 4
_REGION_PAGES: Final = 1 << _REGION_SHIFT
assert _REGION_PAGES == 16, "a region is two bytes of the map"

_Apply = Callable[[NDArray[np.uint8], NDArray[np.int64], NDArray[np.uint8]], None]
"(block, indexes of bytes, bits)."


class Base:
    """Changed by one long operation at a time, read by any thread."""

    def __init__(self, pages: File, presence: File, size: int) -> None:
        """`size` is the volume's, in bytes."""
        self._pages = pages
        self._presence = presence
        self._size = pages_for(size) * PAGE_BYTES
        self._is_doubtful = False
        "After a failed sync no page of the map is dirty any more, and yet the disk may have none of it."
        map_bytes = _map_bytes(size)
        self._bits: NDArray[np.uint8] = np.frombuffer(presence.map(_MAP_START, map_bytes), np.uint8)

    @classmethod
    def open(cls, directory: Directory, group: bytes, volume: int, size: int) -> "Base":
        """Creates the files where there are none. Raises `DamagedStateError`, `JournalError`."""
        header = _HEADER.pack(_MAGIC, VERSION, volume, group, pages_for(size))
        header += _CRC.pack(crc32c(header))
        map_name = f"base-{volume:05d}.map"
        names = directory.names()
        presence = directory.open(map_name, create=map_name not in names)
        presence.trust_disk()
        found = presence.pread(len(header), 0)
        if any(found) and found != header:
            raise DamagedStateError(
                f"{map_name} is damaged or was made for another volume: only images from the newest "
                "distributed one on can be read"
            )
        pages_name = f"base-{volume:05d}"
        pages = directory.open(pages_name, create=pages_name not in names)
        if found != header or presence.size != _MAP_START + _map_bytes(size):
            _lay_out(pages, presence, header, size)
            directory.sync()
        return cls(pages, presence, size)

    def present(self, pages: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of `pages` are here."""
        present: NDArray[np.bool_] = ((self._bits[pages >> 3] >> (pages & 7).astype(np.uint8)) & 1).astype(
            np.bool_
        )
        return present

    def present_in(self, first: int, end: int) -> NDArray[np.int64]:
        """The pages of [first, end) that are here, ascending."""
        octets = np.flatnonzero(self._bits[first >> 3 : (end + 7) >> 3]) + (first >> 3)
        pages = (octets[:, None] * 8 + np.arange(8)).ravel()
        pages = pages[(pages >= first) & (pages < end)]
        return pages[self.present(pages)]

    def read(self, pages: NDArray[np.int64], buffer: memoryview, at: NDArray[np.int64]) -> None:
        read_pages(self._pages, pages, buffer, at)

    def write(self, pages: NDArray[np.int64], buffer: memoryview) -> None:
        """Page i of `buffer` is the content of pages[i]; presence is not changed."""
        write_pages(self._pages, pages, buffer, np.arange(len(pages)), self._size)

    def sync_pages(self) -> None:
        self._pages.sync()

    def sync_presence(self) -> None:
        if self._is_doubtful:
            self._presence.pwritev([self._bits.tobytes()], _MAP_START)
        try:
            self._presence.sync()
        except JournalIoError:
            self._is_doubtful = True
            raise
        self._is_doubtful = False

    def add(self, pages: NDArray[np.int64]) -> None:
        """Readers see `pages` here from now on."""
        self._change(pages, lambda block, at, bits: np.bitwise_or.at(block, at, bits))

    def drop(self, pages: NDArray[np.int64]) -> None:
        """Readers see `pages` in the copy volume from now on; their content stays until `punch`."""
        self._change(pages, lambda block, at, bits: np.bitwise_and.at(block, at, ~bits))

    def punch(self, pages: NDArray[np.int64]) -> None:
        """Give back the space around pages dropped, durably, where a whole region is empty:

        a hole costs 0.1 ms.
        """
        regions = np.unique(pages >> _REGION_SHIFT)
        octets = regions * (_REGION_PAGES // 8)
        empty = regions[
            (self._bits[octets] == 0) & (self._bits[np.minimum(octets + 1, len(self._bits) - 1)] == 0)
        ]
        for _, first, count in runs(empty):
            self._pages.zero(first * _REGION_PAGES * PAGE_BYTES, count * _REGION_PAGES * PAGE_BYTES)

    def _change(self, pages: NDArray[np.int64], apply: _Apply) -> None:
        blocks = pages >> 3 >> _BLOCK_SHIFT
        for block in np.unique(blocks).tolist():
            start = block << _BLOCK_SHIFT
            content = self._bits[start : start + (1 << _BLOCK_SHIFT)].copy()
            changed = pages[blocks == block]
            apply(content, (changed >> 3) - start, np.uint8(1) << (changed & 7).astype(np.uint8))
            self._presence.pwritev([content.tobytes()], _MAP_START + start)


def _lay_out(pages: File, presence: File, header: bytes, size: int) -> None:
    """Two sparse files, durable before any page is present."""
    pages.truncate(pages_for(size) * PAGE_BYTES)
    presence.truncate(_MAP_START + _map_bytes(size))
    presence.pwritev([header], 0)
    pages.sync()
    presence.sync()


def _map_bytes(size: int) -> int:
    return -(-pages_for(size) // 8)
