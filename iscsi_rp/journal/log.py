"""The log of one consistency group: every write in one order, in segment files.

`append` runs on the event loop, a batch at a time, and touches the page cache only. What blocks is taken
apart so that a thread can do it meanwhile: `begin_sync` (loop), `SyncTicket.run` (thread), `finish_sync`
(loop). Nothing may leave the log before it is at or below `durable`.

A record's position is its number in the log, from 1. The *tail* is the segment that is written to. A
segment that is full is sealed by the next sync; so at a crash the durable end always lies in the first
segment that is not sealed, and opening reads that one and what was begun behind it.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np
from crc32c import crc32c

from iscsi_rp.device import Buffer
from iscsi_rp.errors import ConflictError
from iscsi_rp.journal.errors import ImageGoneError, JournalError, JournalFormatError, JournalUnusableError
from iscsi_rp.journal.files import Directory
from iscsi_rp.journal.opening import open_segments
from iscsi_rp.journal.record import HEADER_BYTES, MAGIC, Entry, Record, pack_chain, pack_fields
from iscsi_rp.journal.segment import Segment, name_of
from iscsi_rp.journal.segment_format import GROUP_BYTES, MAX_CHECKPOINT_BYTES, SegmentHeader

SEGMENT_BYTES: Final = 64 << 20

Snapshot = Callable[[], bytes]
"""The appliance's state as of the last record appended, at most `MAX_CHECKPOINT_BYTES`;

called from within `append`, before the batch gets positions. It stands at the start of a segment, so that
opening need not read older ones.
"""


class SyncTicket:
    """One round of making the log durable, up to `end`."""

    def __init__(self, directory: Directory, full: Sequence[Segment], tail: Segment, new_names: bool) -> None:
        self.end = tail.last
        self._directory = directory
        self._full = full
        self._tail = tail
        self._new_names = new_names

    def run(self) -> None:
        """Blocks; any thread. An error is a power loss: call `Log.cut_to_durable`. Raises `JournalError`."""
        if self._new_names:
            # First: a sealed segment vouches for those before it, so their names must last.
            self._directory.sync()
        for segment in self._full:
            segment.seal()
        self._tail.file.sync()


class Log:
    """Made by `create` and `open`.

    Reading is thread safe; everything else belongs to the event loop, except where noted.
    """

    def __init__(
        self,
        directory: Directory,
        group: bytes,
        segments: Sequence[Segment],
        snapshot: Snapshot,
        segment_bytes: int,
    ) -> None:
        """Of segments that are durable; all but the last are sealed."""
        self.group = group
        self.segments = tuple(segments)
        "Oldest first; the last is the tail. Replaced, never changed, so a reader may keep it."
        self.durable = self.end
        "Position up to which everything survives a loss of power."
        self.recovered_checkpoint = segments[-1].header.checkpoint
        self._directory = directory
        self._snapshot = snapshot
        self._segment_bytes = segment_bytes
        self._segments_lock = threading.Lock()
        self._ticket: SyncTicket | None = None
        self._new_names = False
        self._broken: str | None = None

    @classmethod
    def create(
        cls, directory: Directory, group: bytes, snapshot: Snapshot, *, segment_bytes: int = SEGMENT_BYTES
    ) -> "Log":
        """A new log in an empty directory. `group` is 16 bytes. Raises `ConflictError`, `JournalError`."""
        if len(group) != GROUP_BYTES:
            raise ValueError(f"a group's identity has {GROUP_BYTES} bytes")
        if any(name.startswith("log-") for name in directory.names()):
            raise ConflictError("There is a log in this directory already.")
        header = SegmentHeader(group, 1, 0, 0, _bounded(snapshot()))
        segment = Segment.create(directory, header, segment_bytes)
        segment.file.sync()
        directory.sync()
        return cls(directory, group, [segment], snapshot, segment_bytes)

    @classmethod
    def open(
        cls, directory: Directory, group: bytes, snapshot: Snapshot, *, segment_bytes: int = SEGMENT_BYTES
    ) -> "Log":
        """Recover a log: find its last valid record, cut off what lies behind it, make that durable. Blocks.

        Raises `JournalFormatError`, `MissingSegmentError`, `DamagedRecordError`, `JournalIoError`.
        """
        return cls(directory, group, open_segments(directory, group, segment_bytes), snapshot, segment_bytes)

    def close(self) -> None:
        """Without a sync: what is not durable is as safe as the process that holds it."""
        for segment in self.segments:
            segment.file.close()
        self._broken = "it is closed"

    # Where the log stands

    @property
    def first(self) -> int:
        """The oldest position kept."""
        return self.segments[0].first

    @property
    def end(self) -> int:
        """The newest position; `first` - 1 in an empty log."""
        return self.segments[-1].last

    @property
    def last_time_ns(self) -> int:
        return self.segments[-1].last_time_ns

    @property
    def bytes_used(self) -> int:
        return sum(segment.bytes_used for segment in self.segments)

    def bytes_of(self, records: float) -> float:
        """What so many of its records take, about: from their mean."""
        segments = self.segments
        written = sum(segment.end_offset for segment in segments)
        return records * written / max(1, segments[-1].last - segments[0].first + 1)

    @property
    def recovered_records(self) -> Iterator[tuple[Record, bytes | None]]:
        """What follows the checkpoint in the tail, notes with their payload;

        to be read before the first append.
        """
        return self.segments[-1].records()

    # Writing

    def append(self, entries: Sequence[Entry], now_ns: int) -> int:
        """Give `entries` positions and a time, and write them; all or, on an error, none. Returns the last
        position.

        A batch stays within one segment, so it makes that one larger where it must. Raises
        `JournalFullError`, `JournalIoError`; `JournalUnusableError`, after which a part of the batch may be
        in the file until `cut_to_durable`, and come back with a crash before that.
        """
        self._check_usable()
        size = HEADER_BYTES * len(entries) + sum([len(entry[6]) for entry in entries])
        tail = self.segments[-1]
        if not tail.has_room(len(entries), size):
            tail = self._roll(tail)
        position, time_ns, chain = tail.last, tail.last_time_ns, tail.chain
        at = tail.end_offset
        parts: list[Buffer] = []
        headers: list[bytes] = []
        offsets: list[int] = []
        for kind, volume, session, seq, offset, length, payload, crc in entries:
            position += 1
            time_ns = now_ns if now_ns > time_ns else time_ns + 1
            payload_length = len(payload)
            fields = pack_fields(
                MAGIC, kind, volume, payload_length, crc, position, time_ns, session, seq, offset, length
            )
            chain = crc32c(fields, chain)
            header = fields + pack_chain(chain)
            headers.append(header)
            parts.append(header)
            at += HEADER_BYTES
            offsets.append(at)
            if payload_length:
                parts.append(payload)
                at += payload_length
        try:
            tail.write(parts, headers, offsets, at)
        except JournalError:
            self._cut_back(tail)
            raise
        return position

    def _roll(self, full: Segment) -> Segment:
        checkpoint = _bounded(self._snapshot())
        header = SegmentHeader(self.group, full.last + 1, full.last_time_ns, full.chain, checkpoint)
        tail = Segment.create(self._directory, header, self._segment_bytes)
        self._new_names = True
        with self._segments_lock:
            self.segments = (*self.segments, tail)
        return tail

    def _cut_back(self, tail: Segment) -> None:
        """Take a batch that failed half way out of the file, lest it come back in place of the next.

        Raises `JournalUnusableError`.
        """
        try:
            tail.file.truncate(tail.end_offset)
            tail.file.sync()
        except JournalError as error:
            self._broken = f"after a failed write it could not be cut back ({error})"
            self._check_usable()

    def _check_usable(self) -> None:
        if self._broken is not None:
            raise JournalUnusableError(f"The log takes no more records: {self._broken}.")

    def begin_sync(self) -> SyncTicket:
        """Start to make everything appended until now durable. One round at a time.

        Raises `JournalUnusableError`, `ConflictError`.
        """
        self._check_usable()
        if self._ticket is not None:
            raise ConflictError("A sync of the log is under way already.")
        full = [segment for segment in self.segments[:-1] if not segment.is_sealed]
        self._ticket = SyncTicket(self._directory, full, self.segments[-1], self._new_names)
        self._new_names = False
        return self._ticket

    def finish_sync(self, ticket: SyncTicket) -> None:
        """After `ticket.run()` has returned.

        Raises `JournalUnusableError`: what it synced is not known then.
        """
        self._check_usable()
        if ticket is not self._ticket:
            raise ConflictError("This sync of the log was given up.")
        self.durable = ticket.end
        self._ticket = None

    def cut_to_durable(self) -> None:
        """After a failed sync, which is a power loss: throw away all that is not durable. Blocks.

        The pages may look clean now and yet not be on the disk; so nothing that was written since may be
        relied on. Also the way back from `JournalUnusableError`, which it raises itself where it fails.
        """
        kept = [segment for segment in self.segments if segment.first <= self.durable] or [self.segments[0]]
        removed = self.segments[len(kept) :]
        self._ticket = None
        self._new_names = False
        try:
            for segment in reversed(removed):
                self._directory.remove(name_of(segment.first))
            self._directory.sync()
            kept[-1].cut(self.durable + 1 - kept[-1].first)
        except JournalError as error:
            self._broken = f"what is not durable could not be cut off ({error})"
            raise JournalUnusableError(f"The log takes no more records: {self._broken}.") from error
        with self._segments_lock:
            self.segments = tuple(segment for segment in self.segments if segment not in removed)
        self._broken = None

    def remove_oldest(self) -> None:
        """Give up the oldest segment, which must be sealed.

        Blocks; any thread. Readers that hold it can read on.
        """
        oldest = self.segments[0]
        if not oldest.is_sealed:
            raise ConflictError("The oldest segment of the log is still being written.")
        name = name_of(oldest.first)
        if name in self._directory.names():  # not so when the sync below failed the last time
            self._directory.remove(name)
        self._directory.sync()
        with self._segments_lock:
            self.segments = self.segments[1:]

    # Times

    def position_at(self, time_ns: int) -> int:
        """The newest position with a time at or before `time_ns`; `first` - 1 if there is none."""
        segments = self.segments
        for segment in reversed(segments):
            if segment.header.previous_time_ns < time_ns:
                times = segment.table["time_ns"]
                return segment.first - 1 + int(np.searchsorted(times, np.uint64(time_ns), side="right"))
        return segments[0].first - 1

    def time_of(self, position: int) -> int:
        """Nanoseconds since 1970, UTC. Raises `ImageGoneError`, also for a record that is damaged."""
        for segment in reversed(self.segments):
            if segment.first <= position <= segment.last and position - segment.first < len(segment.table):
                return int(segment.table["time_ns"][position - segment.first])
        raise ImageGoneError(f"The log has no record {position}; it keeps {self.first} to {self.end}.")


def _bounded(checkpoint: bytes) -> bytes:
    if len(checkpoint) > MAX_CHECKPOINT_BYTES:
        raise JournalFormatError(f"a checkpoint of {len(checkpoint)} bytes exceeds {MAX_CHECKPOINT_BYTES}")
    return checkpoint
