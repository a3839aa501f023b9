"""One file of the log: a run of records, and the index over them.

A segment is *open* (the log's tail), then *full*, then *sealed*: all its records are durable and its index
is in the file. Until then the index is in memory and grows: whole stretches of `_STRETCH` rows get postings
when a search first meets them, the rows behind are looked through. Readers on other threads need no lock
for what they see: rows below `count` never change.
"""

import threading
from array import array
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from crc32c import crc32c
from numpy.typing import NDArray

from iscsi_rp.device import Buffer
from iscsi_rp.journal import index, segment_format
from iscsi_rp.journal.errors import DamagedRecordError, JournalFormatError
from iscsi_rp.journal.files import Directory, File
from iscsi_rp.journal.index import Postings
from iscsi_rp.journal.record import HEADER_BYTES, HEADER_DTYPE, Record, Table, chain_of, time_ns_of
from iscsi_rp.journal.segment_format import Footer, Scan, SegmentHeader, Trailer

MAX_RECORDS: Final = 1 << 16
"Of one segment, unless its first batch is larger; bounds the index in memory to some 20 MB."

_STRETCH: Final = 1 << 12
_GAP_BYTES: Final = 1 << 13
"Reading over a gap costs less than another read."
_READ_BYTES: Final = 1 << 20
_PREFIX: Final = "log-"


def name_of(first: int) -> str:
    return f"{_PREFIX}{first:020d}"


def first_of(name: str) -> int | None:
    """The position of the first record of the segment with this name; None for another file's name."""
    digits = name.removeprefix(_PREFIX)
    return int(digits) if digits != name and len(digits) == 20 and digits.isdecimal() else None


class Segment:
    """Rows are positions counted from the segment's first. Positions in arguments are the log's."""

    def __init__(
        self, file: File, header: SegmentHeader, trailer: Trailer | None, capacity_bytes: int
    ) -> None:
        self.file = file
        self.header = header
        self.first = header.first
        self.trailer = trailer
        self.damaged_from: int | None = None
        "Position from which on the records cannot be found, for want of index and chain."
        self._capacity_bytes = capacity_bytes
        self._lock = threading.Lock()
        self._footer: Footer | None = None
        self._stretches: list[Postings] = []
        self._table: Table
        self._offsets: NDArray[np.uint64]
        self._reset(Scan(b"", [], header.data_start))
        if trailer is not None:
            self.count = trailer.records
            self.end_offset = trailer.records_end

    @classmethod
    def create(cls, directory: Directory, header: SegmentHeader, capacity_bytes: int) -> "Segment":
        """A new, empty segment; not durable. Leaves nothing behind if it fails."""
        name = name_of(header.first)
        file = directory.open(name, create=True)
        try:
            file.allocate(capacity_bytes)
            file.pwritev([segment_format.pack_header(header)], 0)
        except Exception:
            file.close()
            directory.remove(name)
            raise
        return cls(file, header, None, capacity_bytes)

    def _reset(self, found: Scan) -> None:
        """Take `found` as the records of an open segment."""
        table = np.frombuffer(found.headers, HEADER_DTYPE)
        self.count = len(table)
        self._hold(table.copy(), np.array(found.payload_offsets, dtype=np.uint64))
        self.end_offset = found.end
        self._stretches = []

    def _hold(self, table: Table, offsets: NDArray[np.uint64]) -> None:
        """Have these as the index, with room for more rows behind `count`."""
        self._table, self._offsets = table, offsets
        # What is appended goes in as bytes: numpy takes longer for a few rows than all the rest of `write`.
        self._header_bytes = table.view(np.uint8).data
        self._offset_bytes = offsets.view(np.uint8).data

    # The log's end

    @property
    def last(self) -> int:
        """Position of the last record; `first` - 1 if there is none."""
        return self.first + self.count - 1

    @property
    def last_time_ns(self) -> int:
        """Time of the last record, here or before."""
        if self.trailer is not None:
            return self.trailer.last_time_ns
        return time_ns_of(self._header_bytes, self.count - 1) if self.count else self.header.previous_time_ns

    @property
    def chain(self) -> int:
        """Chain of the last record, here or before."""
        if self.trailer is not None:
            return self.trailer.chain
        return chain_of(self._header_bytes, self.count - 1) if self.count else self.header.chain

    @property
    def is_sealed(self) -> bool:
        return self.trailer is not None

    @property
    def bytes_used(self) -> int:
        if self.trailer is None:
            return max(self._capacity_bytes, self.end_offset)
        return self.trailer.footer_start + self.trailer.footer_bytes + segment_format.TRAILER_BYTES

    def has_room(self, records: int, size: int) -> bool:
        """An empty segment takes any batch."""
        fits = self.end_offset + size <= self._capacity_bytes and self.count + records <= MAX_RECORDS
        return fits or self.count == 0

    def write(self, parts: list[Buffer], headers: list[bytes], payload_offsets: list[int], end: int) -> None:
        """Append records: `parts` go to the file, the rest to the index. On an error nothing is appended."""
        self.file.pwritev(parts, self.end_offset)
        count = self.count + len(headers)
        if count > len(self._table):
            more = max(1024, 2 * count) - len(self._table)
            self._hold(
                np.concatenate([self._table, np.empty(more, HEADER_DTYPE)]),
                np.concatenate([self._offsets, np.empty(more, np.uint64)]),
            )
        self._header_bytes[self.count * HEADER_BYTES : count * HEADER_BYTES] = b"".join(headers)
        self._offset_bytes[self.count * 8 : count * 8] = array("Q", payload_offsets).tobytes()
        self.end_offset = end
        self.count = count

    def recover(self) -> None:
        """Find the valid records of a segment that was not sealed."""
        self._reset(segment_format.scan(self.file, self.header, check_payloads=True))

    def cut(self, count: int) -> None:
        """Keep the first `count` records, throw what lies behind them off the disk, and make that durable.

        A sealed segment is open afterwards.
        """
        if self.is_sealed:
            table, offsets = self.table, self.payload_offsets
            self.trailer = self._footer = None
        else:
            table, offsets = self._table, self._offsets
        end = self.header.data_start
        if count:
            end = int(offsets[count - 1]) + int(table["payload_length"][count - 1])
        self._reset(Scan(table[:count].tobytes(), offsets[:count].tolist(), end))
        self.file.truncate(end)
        self.file.allocate(max(self._capacity_bytes, end))
        self.file.sync()

    def seal(self) -> None:
        """Make every record durable, then the index. The file's unused end is given back. Blocks.

        The records leave the page cache. Else the log would fill all memory in its turn, and take each page
        from where free memory lies: one that was just given back is at hand (docs/performance.md).
        """
        self.file.sync()
        footer = Footer(
            self._table[: self.count],
            self._offsets[: self.count],
            index.build(self._table[: self.count], 0),
        )
        data, trailer = segment_format.pack_footer(footer, self.end_offset, self.last_time_ns, self.chain)
        self.file.pwritev([data], trailer.footer_start)
        self.file.truncate(trailer.footer_start + len(data))
        self.file.sync()
        self.file.forget(trailer.records_end)
        with self._lock:
            self.trailer = trailer
            self._hold(np.empty(0, HEADER_DTYPE), np.empty(0, np.uint64))
            self._stretches = []

    # Looking things up

    @property
    def table(self) -> Table:
        """The headers, by row."""
        with self._lock:
            return self._loaded().table if self.is_sealed else self._table[: self.count]

    @property
    def payload_offsets(self) -> NDArray[np.uint64]:
        """Where in the file each row's payload lies."""
        with self._lock:
            return self._loaded().payload_offsets if self.is_sealed else self._offsets[: self.count]

    def newest(self, volume: int, pages: NDArray[np.int64], after: int, upto: int) -> NDArray[np.int64]:
        """For each of the ascending `pages` the newest row that touches it with after < position <= upto;
        -1 for none.

        Raises `DamagedRecordError`.
        """
        newest = np.full(len(pages), -1, dtype=np.int64)
        rows = self.rows(after, upto)
        if rows:
            table, parts = self._search(volume, int(pages[0]), int(pages[-1]) + 1, rows)
            for postings in parts:
                index.mark_newest(newest, pages, volume, postings, table, rows)
        return newest

    def rows_of_page(self, volume: int, page: int, after: int, upto: int) -> list[int]:
        """Rows that touch one page, ascending. Raises `DamagedRecordError`."""
        rows = self.rows(after, upto)
        if not rows:
            return []
        table, parts = self._search(volume, page, page + 1, rows)
        return [row for postings in parts for row in index.rows_of_page(postings, table, volume, page, rows)]

    def pages(self, volume: int, after: int, upto: int) -> NDArray[np.int64]:
        """Pages touched other than by wide extents, ascending. Raises `DamagedRecordError`."""
        rows = self.rows(after, upto)
        if not rows:
            return np.empty(0, np.int64)
        _, parts = self._search(volume, 0, 1 << 40, rows)
        return np.unique(np.concatenate([index.pages_of(postings, volume, rows) for postings in parts]))

    def rows(self, after: int, upto: int) -> range:
        """Rows with after < position <= upto. Raises `DamagedRecordError` where these cannot all be found."""
        rows = range(max(0, after + 1 - self.first), min(self.count, upto + 1 - self.first))
        if rows and self.is_sealed:
            with self._lock:
                self._loaded()
        if rows and self.damaged_from is not None and self.first + rows.stop > self.damaged_from:
            raise DamagedRecordError(self.damaged_from, self.file.name)
        return rows

    def read_ahead(self, rows: range) -> None:
        """The payloads of these rows, at least one, are about to be read, in any order."""
        offsets = self.payload_offsets
        start = int(offsets[rows.start])
        end = int(offsets[rows.stop - 1]) + int(self.table["payload_length"][rows.stop - 1])
        if end > start:
            self.file.read_ahead(start, end - start)

    def payloads(self, rows: Sequence[int]) -> Iterator[tuple[int, memoryview]]:
        """The payloads of ascending `rows`, checked;

        neighbours in the file by one read. Raises `DamagedRecordError`.
        """
        table, offsets = self.table, self.payload_offsets
        starts, lengths = offsets[rows].tolist(), table["payload_length"][rows].tolist()
        crcs = table["payload_crc"][rows].tolist()
        begin = 0
        while begin < len(rows):
            end, base = begin + 1, starts[begin]
            reach = base + lengths[begin]
            while end < len(rows) and starts[end] - reach <= _GAP_BYTES and reach - base < _READ_BYTES:
                reach = starts[end] + lengths[end]
                end += 1
            data = memoryview(self.file.pread(reach - base, base))
            for i in range(begin, end):
                start = starts[i] - base
                payload = data[start : start + lengths[i]]
                if crc32c(payload) != crcs[i]:
                    raise DamagedRecordError(self.first + rows[i], self.file.name)
                yield rows[i], payload
            begin = end

    def records(self) -> Iterator[tuple[Record, bytes | None]]:
        """Every record in order, a note with its payload. Raises `DamagedRecordError`."""
        for row, head in enumerate(self.table):
            record = Record(*head.item()[1:-1])
            note = bytes(next(self.payloads([row]))[1]) if record.is_note else None
            yield record, note

    def _search(
        self, volume: int, first_page: int, end_page: int, rows: range
    ) -> tuple[Table, list[Postings]]:
        """Postings that together cover `rows` in a range of pages, oldest first."""
        with self._lock:
            if self.is_sealed:
                footer = self._loaded()
                return footer.table, [footer.postings]
            table = self._table[: self.count]
            while len(self._stretches) < rows.stop // _STRETCH:
                start = len(self._stretches) * _STRETCH
                self._stretches.append(index.build(table[start : start + _STRETCH], start))
            parts = self._stretches[rows.start // _STRETCH :]
            start = len(self._stretches) * _STRETCH
        behind = table[start : rows.stop]
        found = index.touching(behind, volume, first_page, end_page)
        if len(found) or not parts:
            rest = index.build(behind[found], 0)
            numbers = found.astype(np.uint32) + np.uint32(start)
            parts.append(Postings(rest.keys, numbers[rest.rows], numbers[rest.wide]))
        return table, parts

    def _loaded(self) -> Footer:
        """The footer of a sealed segment, mapped when first needed, or made anew where it is damaged.

        Holds the lock.
        """
        if self._footer is None:
            assert self.trailer is not None
            self._footer = segment_format.map_footer(self.file, self.trailer) or self._rebuilt()
        return self._footer

    def _rebuilt(self) -> Footer:
        found = segment_format.scan(self.file, self.header, check_payloads=False)
        table = np.frombuffer(found.headers, HEADER_DTYPE)
        if len(table) < self.count:
            self.damaged_from = self.first + len(table)
        return Footer(table, np.array(found.payload_offsets, np.uint64), index.build(table, 0))


def load(directory: Directory, name: str, group: bytes, capacity_bytes: int) -> Segment | None:
    """The segment in this file; None if its header is not whole. Raises `JournalFormatError`."""
    file = directory.open(name)
    if segment_format.read_trailer(file) is None:
        file.trust_disk()
    header = segment_format.read_header(file, group)
    if header is None:
        file.close()
        return None
    if header.first != first_of(name):
        raise JournalFormatError(f"{name} holds the segment that starts at position {header.first}")
    return Segment(file, header, segment_format.read_trailer(file), capacity_bytes)
