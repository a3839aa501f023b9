"""Resynchronisation: reading marked regions, sending them, and clearing their marks in the one safe order.

A region is read only while nothing is in flight in it, and a write to a region being read waits until what
was read has been sent: so its place in the stream says exactly which writes it contains. A mark is cleared
only when the appliance holds the region *durably* and the store was *flushed after the read*: otherwise a
power loss could take either copy back to before.

A full sweep is the same with hashes first. Verification is a sweep that clears and sends nothing.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from iscsi_rp.device import Buffer, IoError
from iscsi_rp.replication.frames import COMPARE_SWEEP, COMPARE_VERIFY, RemoteProtocolError
from iscsi_rp.replication.regions import KEY_SHIFT, REGION_BYTES, keys_of
from iscsi_rp.splitter.effects import RegionRead
from iscsi_rp.splitter.marks import REGION_MASK
from iscsi_rp.splitter.region_map import SWEEP, TO_SEND

if TYPE_CHECKING:
    from iscsi_rp.splitter.core import Core

RUN_REGIONS: Final = 16
"Regions read at once: 1 MiB."
READS_BUSY: Final = 1
"Reads under way while hosts write: resynchronisation yields to them."
READS_IDLE: Final = 4
MAX_UNCLEARED: Final = 4096
"Regions sent and not cleared yet; more wait."
MAX_UNDURABLE: Final = 256
"Regions whose content was sent and is not durable at the appliance yet."
FLUSH_AT: Final = 1024
"Regions that wait for a flush of the store before the core asks for one."


@dataclass(slots=True)
class Reading:
    """A run of regions that is being read, or has been read and is being compared."""

    volume: int
    offset: int
    length: int
    purpose: int | None
    "COMPARE_SWEEP, COMPARE_VERIFY, or None where the content is sent."
    flush: int = 0
    "The flush that had begun last when the read was done."

    @property
    def keys(self) -> range:
        return keys_of(self.volume, self.offset, self.length)


@dataclass(slots=True)
class Verification:
    """What a verification has found so far."""

    total: int
    compared: int = 0
    different: list[tuple[int, int]] = field(default_factory=list)
    "Volume and byte offset of the first regions that differ (100 at most)."
    differing: int = 0
    "How many regions differ."
    failed: str | None = None
    todo: deque[tuple[int, int]] = field(default_factory=deque)
    "Runs to read: volume and first region."

    @property
    def finished(self) -> bool:
        return self.failed is not None or self.compared == self.total


class Resync:
    """The part of a splitter's core that brings marked regions to the appliance. Lives as long as the
    core.
    """

    def __init__(self, core: "Core") -> None:
        self._core = core
        self.locked: set[int] = set()
        "Regions being read, or next to be: writes to them wait."
        self._reads: dict[int, Reading] = {}
        self._token = 0
        self._comparing: dict[int, Reading] = {}
        "Hashes sent, by their sequence."
        self._uncleared: dict[int, tuple[int, int]] = {}
        "Regions that are equal once durable: key to (sequence, flush that had begun last when it was read)."
        self._inits: deque[tuple[int, int]] = deque()
        "Content sent and not durable yet: sequence and number of regions."
        self._flushed: dict[int, int] = {}
        "Volume to the token of its last flush that succeeded."
        self._cursors: dict[int, int] = {}
        self._starved: int | None = None
        "A region that was found busy: the next to be locked and read."
        self.unreadable: set[int] = set()
        "The store could not read these; they stay marked and are tried again by `retry_unreadable`."
        self._singly: set[int] = set()
        "Regions of runs that could not be read: to be read one by one."
        self.verification: Verification | None = None
        self._awaited: range = range(0)
        "Regions locked for verification that still have writes in flight."
        self.total = 0
        "Regions that were to be sent when the session started."

    # -- life of a session

    def begin(self) -> None:
        """The session has started."""
        for region_map in self._core.marks.maps:
            region_map.resend_marked()
        self.total = sum(region_map.to_send for region_map in self._core.marks.maps)

    def abandon(self) -> None:
        """The session is over: everything sent and not cleared is still marked and will be sent again."""
        self.locked.clear()
        self._reads.clear()
        self._comparing.clear()
        self._uncleared.clear()
        self._inits.clear()
        self._cursors.clear()
        self._starved = None
        self._fail_verification("the session with the appliance ended")

    # -- one step

    @property
    def working(self) -> bool:
        """There may be something for `step` to do."""
        return bool(self._core.resyncing or self._uncleared or self.verification)

    def step(self, hosts_are_writing: bool) -> None:
        """Start reads as far as limits allow; send END when nothing is left. Called by the shell after
        each round of work.
        """
        if not self.working:
            return
        limit = READS_BUSY if hosts_are_writing else READS_IDLE
        if len(self._reads) < limit and self._has_work():
            busy = self._core.busy()
            room = self._room()
            while len(self._reads) < limit and room > 0:
                run = self._next_run(busy)
                if run is None:
                    break
                self._read(run)
                room -= len(run.keys)
        self._maybe_flush()
        self._maybe_end()

    def _has_work(self) -> bool:
        verifying = (
            self.verification is not None and bool(self.verification.todo) and not self.verification.finished
        )
        return verifying or any(region_map.to_send for region_map in self._core.marks.maps)

    def _room(self) -> int:
        """How many more regions may be under way."""
        while self._inits and self._inits[0][0] <= self._core.durable:
            self._inits.popleft()
        if sum(regions for _, regions in self._inits) >= MAX_UNDURABLE:
            return 0
        return MAX_UNCLEARED - len(self._uncleared) - len(self._comparing) * RUN_REGIONS

    def _next_run(self, busy: set[int]) -> Reading | None:
        if self._starved is not None:
            key = self._starved
            if key in busy:
                return None
            self._starved = None
            return self._run_at(key >> KEY_SHIFT, key & REGION_MASK, busy)
        passed_over: int | None = None
        for volume, region_map in enumerate(self._core.marks.maps):
            at = region_map.next_to_send(self._cursors.get(volume, 0))
            while at >= 0:
                key = volume << KEY_SHIFT | at
                self._cursors[volume] = at + 1
                if key not in busy and key not in self.locked and key not in self.unreadable:
                    return self._run_at(volume, at, busy)
                if key in busy and passed_over is None:
                    passed_over = key
                at = region_map.next_to_send(at + 1)
            self._cursors[volume] = 0
        if passed_over is not None:
            # Only busy regions are left: new writes to the first of them wait, so that load never delays the
            # end for ever.
            self._starved = passed_over
            self.locked.add(passed_over)
            return None
        return self._next_to_verify(busy)

    def _run_at(self, volume: int, first: int, busy: set[int]) -> Reading:
        """The run from `first` of regions that are to be sent in the same way and may be read now."""
        region_map = self._core.marks.maps[volume]
        flags = region_map.flags
        way = flags[first] & SWEEP
        count = 1
        longest = 1 if volume << KEY_SHIFT | first in self._singly else RUN_REGIONS
        while count < longest and first + count < region_map.regions:
            key = volume << KEY_SHIFT | (first + count)
            flag = flags[first + count]
            if (
                not flag & TO_SEND
                or flag & SWEEP != way
                or key in busy
                or key in self.locked
                or key in self.unreadable
            ):
                break
            count += 1
        return self._reading(volume, first, count, COMPARE_SWEEP if way else None)

    def _reading(self, volume: int, first: int, count: int, purpose: int | None) -> Reading:
        offset = first * REGION_BYTES
        length = min(count * REGION_BYTES, self._core.sizes[volume] - offset)
        return Reading(volume, offset, length, purpose)

    def _read(self, reading: Reading) -> None:
        self._token += 1
        self._reads[self._token] = reading
        self.locked.update(reading.keys)
        self._core.effects.reads.append(
            RegionRead(
                reading.volume, reading.offset, reading.length, self._token, reading.purpose is not None
            )
        )

    def region_read(self, token: int, data: bytes | IoError) -> None:
        """The answer to an `Effects.reads`: the bytes, or the digests where those were asked for. Empty
        bytes are zeros.
        """
        reading = self._reads.pop(token, None)
        if reading is None:
            return  # of a session that is over
        self.locked.difference_update(reading.keys)
        if isinstance(data, IoError):
            self._unreadable(reading, data)
        else:
            self._send(reading, data)
        self._core.release_held()

    def _unreadable(self, reading: Reading, error: IoError) -> None:
        if reading.purpose == COMPARE_VERIFY:
            self._fail_verification(f"the store could not be read: {error.message}")
        elif len(reading.keys) > 1:
            self._singly.update(reading.keys)  # which of them is it?
        else:
            self.unreadable.update(reading.keys)

    def retry_unreadable(self) -> None:
        """Let the next steps try again what the store could not read."""
        self.unreadable.clear()
        self._singly.clear()

    def _send(self, reading: Reading, data: bytes) -> None:
        core = self._core
        reading.flush = core.last_flush
        if reading.purpose is None:
            sequence = core.send_init(reading.volume, reading.offset, reading.length, data)
            self._inits.append((sequence, len(reading.keys)))
            for key in reading.keys:
                self._uncleared[key] = (sequence, reading.flush)
        else:
            sequence = core.send_hashes(reading.volume, reading.offset, reading.length, data, reading.purpose)
            self._comparing[sequence] = reading
        if reading.purpose != COMPARE_VERIFY:
            region_map = core.marks.maps[reading.volume]
            for key in reading.keys:
                region_map.sent(key & REGION_MASK)

    # -- answers

    def compared(self, sequence: int, equal: Buffer, purpose: int) -> None:
        """The appliance compared hashes. Raises RemoteProtocolError for an answer to nothing."""
        reading = self._comparing.pop(sequence, None)
        if reading is None or len(equal) != len(reading.keys) or reading.purpose != purpose:
            raise RemoteProtocolError("the appliance answers hashes that were never sent")
        if purpose == COMPARE_VERIFY:
            self._verified(reading, equal)
            return
        region_map = self._core.marks.maps[reading.volume]
        for key, same in zip(reading.keys, equal, strict=True):
            if same:
                self._uncleared[key] = (sequence, reading.flush)
            else:
                region_map.send_again(key & REGION_MASK)
        self.clear()

    def flushed(self, volume: int, token: int) -> None:
        """A flush of the volume's store succeeded."""
        self._flushed[volume] = max(token, self._flushed.get(volume, 0))
        self.clear()

    def clear(self) -> None:
        """Clear the marks of regions that are equal, durable at the appliance, and flushed in the store
        after the read.
        """
        if not self._uncleared:
            return
        durable, flushed = self._core.durable, self._flushed
        maps = self._core.marks.maps
        for key, (sequence, flush) in list(self._uncleared.items()):
            if sequence <= durable and flushed.get(key >> KEY_SHIFT, 0) > flush:
                del self._uncleared[key]
                maps[key >> KEY_SHIFT].clear(key & REGION_MASK)
        self._core.marks.begin_sync()

    def _maybe_flush(self) -> None:
        if len(self._uncleared) >= FLUSH_AT:
            self.ask_for_flush()

    def ask_for_flush(self) -> None:
        """Flush the stores whose regions wait for it."""
        for volume in {key >> KEY_SHIFT for key in self._uncleared}:
            if volume not in self._core.effects.flushes and not self._core.is_flushing(volume):
                self._core.effects.flushes.append(volume)

    def _maybe_end(self) -> None:
        core = self._core
        if core.resyncing and not (self._reads or self._comparing or core.unsplit_in_flight()):
            if any(region_map.to_send for region_map in core.marks.maps):
                return
            core.send_end()
            self.ask_for_flush()

    # -- verification

    def verify(self, verification: Verification) -> None:
        """Compare every region of every volume by hash; `verification` follows it."""
        for volume, region_map in enumerate(self._core.marks.maps):
            verification.todo.extend((volume, first) for first in range(0, region_map.regions, RUN_REGIONS))
        self.verification = verification

    def _next_to_verify(self, busy: set[int]) -> Reading | None:
        verification = self.verification
        if verification is None or verification.finished or not verification.todo:
            return None
        volume, first = verification.todo[0]
        count = min(RUN_REGIONS, self._core.marks.maps[volume].regions - first)
        reading = self._reading(volume, first, count, COMPARE_VERIFY)
        self.locked.update(
            reading.keys
        )  # new writes wait until those in flight are done and the run was read
        if any(key in busy for key in reading.keys):
            return None
        verification.todo.popleft()
        return reading

    def _fail_verification(self, reason: str) -> None:
        if self.verification is not None and not self.verification.finished:
            self.verification.failed = reason
            self.locked.difference_update(self._awaited)
            self._awaited = range(0)

    def _verified(self, reading: Reading, equal: Buffer) -> None:
        verification = self.verification
        if verification is None:
            return
        for key, same in zip(reading.keys, equal, strict=True):
            verification.compared += 1
            if not same:
                verification.differing += 1
                if len(verification.different) < 100:
                    verification.different.append((key >> KEY_SHIFT, (key & REGION_MASK) * REGION_BYTES))
