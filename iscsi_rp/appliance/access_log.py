"""What hosts wrote to an image while they had access to it (docs/access-log-format.md).

An append-only file of records over all volumes of one image. A record holds whole pages: a write that covers
a page only in part takes the rest from what the image shows there. So the newest version of a page always
lies in one place, which the index knows (`access_index`). The index is not durable: opening a log reads all
of it.

A record's chain is the CRC32C of its header, seeded with the chain of the record before. So a record is valid
only behind the very record that it was written behind; opening cuts the file at the first that is not.

Undoing the writes puts a new, empty file in the place of the old one. Whoever reads at that moment still has
the old file and the old locations in it.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from threading import Lock
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from iscsi_rp.appliance.access_format import (
    DATA,
    HEADER_BYTES,
    RECORD_BYTES,
    VERSION,
    ZERO,
    Record,
    first_chain,
    pack_header,
    pack_record,
    read_record,
)
from iscsi_rp.appliance.access_index import BELOW, CHUNK_PAGES, ZEROS, AccessIndex
from iscsi_rp.appliance.commit_queue import CommitQueue
from iscsi_rp.device import IoError, MediumError, ProtectedError
from iscsi_rp.errors import ConflictError, Error, NotFoundError
from iscsi_rp.journal.errors import JournalError, JournalFullError
from iscsi_rp.journal.files import OsDirectory, OsFile
from iscsi_rp.journal.index import PAGE_BYTES
from iscsi_rp.units import format_size

Below: TypeAlias = Callable[[int, int], bytes]
"`below(offset, length)`: what the image itself has there in the volume that is asked about. Blocks."


class ImageAccessError(Error):
    """The image cannot be accessed."""


class AccessLogFormatError(ImageAccessError):
    """This is not the access log of this image in a format that this version reads."""


class AccessLog:
    """Blocks, so it is not for the event loop, except for `is_touched` and the properties.

    Any thread reads. Only work in `queue` writes, so changes have one order.
    """

    _file: OsFile
    _index: AccessIndex

    def __init__(
        self, path: Path, group: bytes, position: int, volumes: Mapping[int, int], capacity_bytes: int
    ) -> None:
        """Not to be called: see `create` and `open`."""
        self.path = path
        self.capacity_bytes = capacity_bytes
        self.read_only_reason: str | None = None
        "Set once a write could not be taken; `undo` clears it."
        self._header = pack_header(group, position)
        self._sizes = dict(volumes)
        self._first_pages: dict[int, int] = {}
        "Of each volume, in the index."
        self._pages = 0
        for volume, size in sorted(volumes.items()):
            self._first_pages[volume] = self._pages
            self._pages += -(-size // (CHUNK_PAGES * PAGE_BYTES)) * CHUNK_PAGES
        self._lock = Lock()
        "Held while the index, or which file and index there are, is looked at or changed."
        self._sync_error: IoError | None = None
        self._end = self._synced_end = self._chain = 0
        self.queue = CommitQueue(self._sync, "access-log")

    @classmethod
    def create(
        cls, path: Path, group: bytes, position: int, volumes: Mapping[int, int], capacity_bytes: int
    ) -> "AccessLog":
        """An empty log over the image at `position` of the group `group` (16 bytes).

        `volumes` is the size of each volume in bytes, `capacity_bytes` what the file may grow to. Durable.
        Raises `ConflictError` if the file exists, `ImageAccessError`, `JournalError`.
        """
        if path.exists():
            raise ConflictError(f"there is an access log at {path} already")
        log = cls(path, group, position, volumes, capacity_bytes)
        log._begin()
        return log

    @classmethod
    def open(
        cls, path: Path, group: bytes, position: int, volumes: Mapping[int, int], capacity_bytes: int
    ) -> "AccessLog":
        """Open what `create` made, after any stop. Everything that was flushed is there.

        Raises `NotFoundError`, `AccessLogFormatError`, `ImageAccessError`, `JournalError`.
        """
        log = cls(path, group, position, volumes, capacity_bytes)
        try:
            log._file = OsFile(path)
        except FileNotFoundError:
            raise NotFoundError(f"there is no access log at {path}") from None
        log._file.trust_disk()
        if log._file.pread(HEADER_BYTES, 0) != log._header:
            raise AccessLogFormatError(f"{path} is not the access log of this image, in format {VERSION}")
        log._index = log._new_index()
        log._recover()
        return log

    @property
    def bytes_used(self) -> int:
        return self._end

    @property
    def written_bytes(self) -> int:
        """What hosts' writes take of the capacity."""
        return self._end - HEADER_BYTES

    def is_touched(self, volume: int, offset: int, length: int) -> bool:
        """False only if the log has nothing of this range."""
        first, count = _pages(offset, length)
        return self._index.is_touched(self._first_pages[volume] + first, count)

    def read(self, volume: int, offset: int, length: int, below: Below) -> bytes | bytearray:
        """What the image with its writes shows, `length` bytes. Raises `JournalError`, `MediumError`, and
        what `below` raises.
        """
        first, count = _pages(offset, length)
        with self._lock:
            file = self._file
            locations = self._index.newest(self._first_pages[volume] + first, count)
        data = bytearray(length)
        for i, end, location in _runs(locations):
            page = (first + i) * PAGE_BYTES
            start, stop = max(offset, page), min(offset + length, (first + end) * PAGE_BYTES)
            if location == BELOW:
                data[start - offset : stop - offset] = below(start, stop - start)
            elif location != ZEROS:
                piece = file.pread(stop - start, location + start - page)
                if len(piece) < stop - start:
                    raise MediumError(f"{self.path} ends before its records do")
                data[start - offset : stop - offset] = piece
        return data

    # -- changes: only by work in `queue`

    def write(self, volume: int, offset: int, data: bytes, below: Below) -> None:
        """Raises `ProtectedError` from when the log is full on, and `MediumError`."""
        end = offset + len(data)
        size = self._sizes[volume]
        try:
            if head := offset % PAGE_BYTES:
                data = bytes(self.read(volume, offset - head, head, below)) + data
            if tail := -end % PAGE_BYTES:
                inside = min(tail, size - end)
                data += bytes(self.read(volume, end, inside, below)) + bytes(tail - inside)
        except (Error, OSError) as error:
            raise MediumError(str(error)) from error
        self._append(Record(DATA, volume, offset - head, len(data)), data)

    def zero(self, volume: int, offset: int, length: int, below: Below) -> None:
        """Like `write`; whole pages take one record, however many they are."""
        end = offset + length
        first = _whole_pages(offset)
        last = _whole_pages(end) if end == self._sizes[volume] else end - end % PAGE_BYTES
        if first >= last:
            self.write(volume, offset, bytes(length), below)
            return
        if offset < first:
            self.write(volume, offset, bytes(first - offset), below)
        self._append(Record(ZERO, volume, first, last - first), b"")
        if last < end:
            self.write(volume, last, bytes(end - last), below)

    def _append(self, record: Record, payload: bytes) -> None:
        if self.read_only_reason:
            raise ProtectedError(self.read_only_reason)
        if self._end + RECORD_BYTES + len(payload) > self.capacity_bytes:
            self.read_only_reason = f"The access log is full ({format_size(self.capacity_bytes)})."
            raise ProtectedError(self.read_only_reason)
        header, chain = pack_record(record, payload, self._chain)
        try:
            self._file.pwritev([header, payload], self._end)
            self._show(record, chain)
        except JournalError as error:
            # The index may know a part of the record: no other may come in its place.
            self.read_only_reason = f"The access log cannot be written: {error.message}."
            kind = ProtectedError if isinstance(error, JournalFullError) else MediumError
            raise kind(self.read_only_reason) from error

    def _show(self, record: Record, chain: int) -> None:
        """The record at the end of the log is whole: readers see it from now on."""
        put = self._index.put_data if record.kind == DATA else self._index.put_zeros
        first, count = _pages(record.offset, record.length)
        with self._lock:
            put(self._first_pages[record.volume] + first, count, self._end + RECORD_BYTES)
        self._end += RECORD_BYTES + record.payload_length
        self._chain = chain

    def _sync(self) -> IoError | None:
        """A failed fdatasync leaves pages that look clean: from then on every sync fails, until `undo`."""
        if self._sync_error is None and self._synced_end < self._end:
            try:
                self._file.sync()
                self._synced_end = self._end
            except JournalError as error:
                self._sync_error = MediumError(error.message)
                self.read_only_reason = f"The access log cannot be flushed: {error.message}."
        return self._sync_error

    # -- beginning, opening, ending

    def undo(self) -> None:
        """Drop every write to the image, durably, and take writes again. What is in `queue` goes first.

        Raises `ImageAccessError`, `JournalError`: then nothing was dropped.
        """
        self.queue.call(self._begin)

    def close(self) -> None:
        """Finish what is in `queue`."""
        self.queue.close()
        self._file.close()

    def remove(self) -> None:
        """Close it and remove the file."""
        self.close()
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise ImageAccessError(f"removing {self.path}: {error.strerror}") from error
        OsDirectory(self.path.parent).sync()

    def _begin(self) -> None:
        """An empty file in the place of the one before, if any: whole and durable before it has the name."""
        new = self.path.with_name(f"{self.path.name}.new")
        index = self._new_index()
        try:
            new.unlink(missing_ok=True)
            file = OsFile(new, create=True)
            file.pwritev([self._header], 0)
            file.sync()
            new.replace(self.path)
        except OSError as error:
            raise ImageAccessError(f"making {self.path}: {error.strerror}") from error
        OsDirectory(self.path.parent).sync()
        file.path = self.path
        with self._lock:
            self._file, self._index = file, index
        self._end = self._synced_end = HEADER_BYTES
        self._chain = first_chain(self._header)
        self._sync_error = self.read_only_reason = None

    def _new_index(self) -> AccessIndex:
        path = self.path.with_name(f"{self.path.name}.index")
        try:
            path.unlink(missing_ok=True)
            file = OsFile(path, create=True)
            path.unlink()
        except OSError as error:
            raise ImageAccessError(f"making {path}: {error.strerror}") from error
        return AccessIndex(file, self._pages)

    def _recover(self) -> None:
        """Read the records, and cut what a stop left behind the last whole one."""
        self._end, self._chain = HEADER_BYTES, first_chain(self._header)
        size = self._file.size
        while found := read_record(self._file, self._end, size, self._chain):
            record, chain = found
            if record.offset + record.length > _whole_pages(self._sizes.get(record.volume, 0)):
                raise AccessLogFormatError(f"{self.path} has writes to other volumes than the image")
            self._show(record, chain)
        if self._end < size:
            self._file.truncate(self._end)
            self._file.sync()
        self._synced_end = self._end


def _whole_pages(size: int) -> int:
    """`size` in bytes, rounded up."""
    return size + -size % PAGE_BYTES


def _pages(offset: int, length: int) -> tuple[int, int]:
    """The first page that a range of bytes touches, and how many it touches."""
    first = offset // PAGE_BYTES
    return first, -(-(offset + length) // PAGE_BYTES) - first


def _runs(locations: NDArray[np.int64]) -> Iterator[tuple[int, int, int]]:
    """(first, end, location of the first) for runs of pages that can be read in one piece."""
    before, after = locations[:-1], locations[1:]
    joined = np.where(before > 0, after == before + PAGE_BYTES, after == before)
    begins = np.concatenate([[0], np.flatnonzero(~joined) + 1])
    ends = np.append(begins[1:], len(locations))
    return zip(begins.tolist(), ends.tolist(), locations[begins].tolist(), strict=True)
