"""The write splitter of one consistency group at one storage processor, as a pure state machine.

It decides, and its shell acts: calls bring operations, answers and the time in; what is to be done goes out
through `Effects`. Nothing here reads a clock, a file or a socket. docs/splitting.md has the promises and the
rules this keeps.

A group at a splitter is in one of three modes:

* SPLITTING: every write goes to the appliance first, and to the store when the appliance has *received* it.
* MARKING: there is no session with the appliance. A write goes to the store once its regions are durably
  marked dirty.
* RESYNCING: a session exists and new writes are split as ever; beside them the marked regions are read and
  sent.

A session begins with a handshake that never leaves a difference unremembered: `hello`; the appliance hands
over what it cannot vouch for; that is made durable in the dirty map; only then `start` lets the appliance
forget it. It ends for any reason at any time, and the way back is always MARKING: what may have been lost is
marked first, then waiting writes go to the store.

Sequences are given to everything that is sent and waits for an answer; they never restart while the process
lives, so that a session's first is simply the last of the one before it plus one.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Any, Final

from iscsi_rp.device import BusyError, Done, Io, IoError, Result
from iscsi_rp.replication import frames as wire
from iscsi_rp.replication.regions import RegionTrail, keys_of
from iscsi_rp.splitter.effects import Effects
from iscsi_rp.splitter.marks import Marks, Waiting
from iscsi_rp.splitter.region_map import RegionMap
from iscsi_rp.splitter.resync import Resync

WINDOW_WRITES: Final = 1024
"Writes that the appliance has not received yet; more wait."
WINDOW_BYTES: Final = 16 << 20
MAX_TAKEN: Final = 2048
"Writes that hosts wait for; one more is refused as busy (TASK SET FULL), before it is sent anywhere."
MAX_TAKEN_BYTES: Final = 48 << 20


class Mode(Enum):
    MARKING = "MARKING"
    RESYNCING = "RESYNCING"
    SPLITTING = "SPLITTING"


class Event(Enum):
    STARTED = "the session started"
    ENDED = "the session ended"
    RESYNCED = "nothing is left to send"


TRANSITIONS: Final = {
    (Mode.MARKING, Event.STARTED): Mode.RESYNCING,
    (Mode.RESYNCING, Event.RESYNCED): Mode.SPLITTING,
    (Mode.RESYNCING, Event.ENDED): Mode.MARKING,
    (Mode.SPLITTING, Event.ENDED): Mode.MARKING,
}


class Core:
    """See the module's docstring. `maps` are the volumes' region maps, as loaded; a volume's index is its
    place there.
    """

    def __init__(self, maps: Sequence[RegionMap], split_timeout_s: float) -> None:
        self.effects = Effects()
        self.sizes = [region_map.size for region_map in maps]
        self.mode = Mode.MARKING
        self.marks = Marks(maps, self.effects)
        self.resync = Resync(self)
        self.split_timeout_s = split_timeout_s
        self.fresh = True
        "Forgot what was not stored; the next session takes over the appliance's since-stored set."
        self.session = 0
        self.sequence = 0
        self.durable = 0
        self.started_at = 0
        "Sequence before the first one of this session."
        self._handshake: int | None = None
        "While a welcome waits for its marks: the generation of the map that holds them."
        self._welcomed_session = 0
        self.sent: deque[Io] = deque()
        "Sent and not received, in order; the tag of each is `(sequence, volume, done, tag, deadline)`."
        self._sent_bytes = 0
        self.storing: dict[int, Io] = {}
        "Being written to the store, by sequence; writes that were not split have negative numbers."
        self._unsplit = 0
        self.held: deque[tuple[int, Io, Done, float]] = deque()
        "Not sent yet, with their deadlines: the window is full, or a region of theirs is being read."
        self._urgent: deque[tuple[int, float]] = deque()
        "Sent after being held, by sequence: their deadlines come before those of writes sent earlier."
        self._taken = 0
        self._taken_bytes = 0
        self._not_durable = RegionTrail()
        self._flushing: dict[int, tuple[int, int]] = {}
        self._flush_number = 0

    # -- operations from the host

    def write(self, volume: int, ios: Sequence[Io], done: Done, now_s: float) -> None:
        """Take WRITE, ZERO and UNMAP operations of a volume. Their data is copied."""
        marking = self.mode is Mode.MARKING
        deadline = now_s + self.split_timeout_s
        if not marking and self._admits_all(ios):
            self._split(volume, ios, done, deadline)
            return
        for io in ios:
            self._taken += 1
            if io[3] is not None:
                self._taken_bytes += io[2]
            if self._taken > MAX_TAKEN or (self._taken_bytes > MAX_TAKEN_BYTES and self._taken > 1):
                self._complete(done, io, BusyError())
            elif marking:
                self._mark_and_store(volume, self._own(io), done)
            elif self._must_hold(volume, io) or (self.held and self._overtakes(volume, io, self.held)):
                self.held.append((volume, self._own(io), done, deadline))
            else:
                self._split(volume, (io,), done, deadline)
        if marking:
            self.marks.begin_sync()

    def _admits_all(self, ios: Sequence[Io]) -> bool:
        """Take all of them where nothing stands in their way, which is how it mostly is; whether so."""
        if self.held or self.resync.locked or self.marks.any_waiting:
            return False
        size = sum([io[2] for io in ios if io[3] is not None])
        if (
            self._taken + len(ios) > MAX_TAKEN
            or self._taken_bytes + size > MAX_TAKEN_BYTES
            or len(self.sent) + len(ios) > WINDOW_WRITES
            or self._sent_bytes + size > WINDOW_BYTES
        ):
            return False
        self._taken += len(ios)
        self._taken_bytes += size
        return True

    def _release(self, io: Io) -> None:
        self._taken -= 1
        if io[3] is not None:
            self._taken_bytes -= io[2]

    def _complete(self, done: Done, io: Io, result: Result) -> None:
        self._release(io)
        self.effects.completions.append((done, [(io[5], result)]))

    def _must_hold(self, volume: int, io: Io) -> bool:
        if len(self.sent) >= WINDOW_WRITES or self._sent_bytes >= WINDOW_BYTES:
            return True
        locked = self.resync.locked
        if locked and any(key in locked for key in keys_of(volume, io[1], io[2])):
            return True
        return self.marks.any_waiting and self._overtakes(volume, io, self.marks.all_waiting())

    @staticmethod
    def _overtakes(volume: int, io: Io, queue: Iterable[tuple[int, Io, Done, Any]]) -> bool:
        """Whether an overlapping write waits in `queue`: such writes keep the order of their submission."""
        start, end = io[1], io[1] + io[2]
        return any(v == volume and o[1] < end and start < o[1] + o[2] for v, o, _, _ in queue)

    @staticmethod
    def _own(io: Io) -> Io:
        op, offset, length, data, fua, tag = io
        return (op, offset, length, None if data is None else bytes(data), fua, tag)

    def _split(self, volume: int, ios: Sequence[Io], done: Done, deadline: float) -> None:
        sequence = self.sequence
        frames, own = wire.write_frames(volume, sequence + 1, ios)
        self.effects.frames.append(frames)
        sent = self.sent
        for op, offset, length, data, fua, tag in own:
            sequence += 1
            sent.append((op, offset, length, data, fua, (sequence, volume, done, tag, deadline)))
        self.sequence = sequence
        self._not_durable.add_extents(sequence, volume, [(io[1], io[2]) for io in ios])
        self._sent_bytes += len(frames) - wire.HEADER_BYTES * len(ios)

    def _mark_and_store(self, volume: int, io: Io, done: Done) -> None:
        waits = self.marks.any_waiting and self._overtakes(volume, io, self.marks.all_waiting())
        if self.marks.mark(keys_of(volume, io[1], io[2])) or waits:
            self.marks.waiting.append((volume, io, done, None))
        else:
            self._store_unsplit(volume, io, done)

    def _store_unsplit(self, volume: int, io: Io, done: Done) -> None:
        op, offset, length, data, fua, tag = io
        self._unsplit -= 1
        marked: Io = (op, offset, length, data, fua, (self._unsplit, volume, done, tag, 0.0))
        self.storing[self._unsplit] = marked
        self.effects.stores.append((volume, [marked]))

    @property
    def resyncing(self) -> bool:
        return self.mode is Mode.RESYNCING

    # -- answers of the store

    def stored(self, results: Sequence[tuple[Any, Result]]) -> None:
        """The store is done with operations that `Effects.stores` gave it."""
        completions, storing = self.effects.completions, self.storing
        current: Done | None = None
        for (number, volume, done, tag, _), result in results:
            io = storing.pop(number)
            if result is not None:
                self._store_failed(volume, io, done, tag, result)
                continue
            self._release(io)
            if done is not current:
                current = done
                batch: list[tuple[Any, Result]] = []
                completions.append((done, batch))
            batch.append((tag, None))

    def _store_failed(self, volume: int, io: Io, done: Done, tag: Any, result: Result) -> None:
        """The store may hold anything there now: the region is marked before the host hears of it, and
        read again.
        """
        assert isinstance(result, IoError)
        self.marks.mark(keys_of(volume, io[1], io[2]))
        self.marks.waiting.append((volume, (*io[:5], tag), done, result))
        self.end_session(f"the store failed a write: {result.message}")
        self.marks.begin_sync()

    def begin_flush(self, volume: int) -> int:
        """A flush of the volume's store is about to begin: the token for `flushed`."""
        self._flush_number += 1
        self._flushing[self._flush_number] = (volume, self._stored_through(volume))
        return self._flush_number

    def _stored_through(self, volume: int) -> int:
        """Every split write of the volume up to this sequence has been completed in the store."""
        through = self.sequence
        for number, io in self.storing.items():
            if 0 < number <= through and io[5][1] == volume:
                through = number - 1
        for io in self.sent:
            if io[5][1] == volume:
                return min(through, int(io[5][0]) - 1)
        return through

    def flushed(self, token: int, ok: bool) -> None:
        """The flush is done. After one that failed, pages may look clean and yet be lost."""
        volume, through = self._flushing.pop(token)
        if not ok:
            self.fresh = True
            self.end_session("a flush of the store failed")
            return
        if self.mode is not Mode.MARKING:
            self.effects.frames.append(wire.frame(wire.STORED, volume=volume, sequence=through))
        self.resync.flushed(volume, token)

    def flush_refused(self, token: int) -> None:
        """The flush was never begun."""
        del self._flushing[token]

    def is_flushing(self, volume: int) -> bool:
        """Whether a flush of the volume's store is under way."""
        return any(each == volume for each, _ in self._flushing.values())

    @property
    def last_flush(self) -> int:
        """Token of the flush that began last: one that begins later has a higher one."""
        return self._flush_number

    # -- answers of the dirty map

    def map_synced(self, written: bool = True) -> None:
        """The blocks of `Effects.map_blocks` are durable (or, not `written`, a sweep of those volumes is
        ordered durably).
        """
        for volume, io, done, error in self.marks.synced(written):
            if error is None:
                self._store_unsplit(volume, io, done)
            else:
                self._complete(done, io, error)
        self._maybe_start()
        if written or self.marks.waiting or self._handshake is not None:
            self.marks.begin_sync()  # a map that only has to be made whole again can wait for the next tick
        if self.held:
            self.release_held()

    def map_failed(self, error: IoError) -> None:
        """Neither the map nor the order for a sweep could be made durable: the writes that waited for it
        fail.
        """
        for _, io, done, earlier in self.marks.failed():
            self._complete(done, io, earlier or error)

    # -- sessions

    def take_over(self, keys: Iterable[int]) -> None:
        """Regions that the appliance cannot vouch for, before its welcome."""
        self.marks.mark(keys)

    def welcome(self, session: int, sweep: Iterable[int], took_over: bool) -> None:
        """The appliance answered the hello; volumes in `sweep` need a full sweep.

        `took_over` says whether the hello asked for the since-stored set.
        """
        if self.fresh and not took_over:
            self.end_session("the since-stored set is needed after all")
            return
        for volume in sweep:
            self.marks.mark_all(volume)
        self._welcomed_session = session
        self._handshake = self.marks.generation
        self.marks.begin_sync()
        self._maybe_start()

    def _maybe_start(self) -> None:
        if self._handshake is None or self.marks.durable_generation < self._handshake:
            return
        self._handshake = None
        self.session = self._welcomed_session
        self.started_at = self.durable = self.sequence
        self.fresh = False
        self.effects.frames.append(wire.frame(wire.START, a=self.session, sequence=self.sequence))
        self._go(Event.STARTED)
        self.resync.begin()

    def end_session(self, reason: str) -> None:
        """No more of this session is sent or believed. Idempotent."""
        self._handshake = None
        self.effects.frames.clear()
        self.effects.end_session = self.effects.end_session or reason
        if self.mode is Mode.MARKING:
            return
        self._go(Event.ENDED)
        # What the appliance may lose, and what it may not have got, is marked before any waiting write goes
        # on.
        self.marks.mark(self._not_durable.regions())
        self._not_durable.clear()
        self.resync.abandon()
        waiting: list[Waiting] = [(io[5][1], (*io[:5], io[5][3]), io[5][2], None) for io in self.sent]
        waiting += [(volume, io, done, None) for volume, io, done, _ in self.held]
        for volume, io, _, _ in waiting:
            self.marks.mark(keys_of(volume, io[1], io[2]))
        self.marks.waiting += waiting
        self.sent.clear()
        self.held.clear()
        self._urgent.clear()
        self._sent_bytes = 0
        self.marks.begin_sync()

    def _go(self, event: Event) -> None:
        self.mode = TRANSITIONS[self.mode, event]

    # -- frames of the appliance, in a session that has started

    def receive(self, frames: Iterable[wire.Frame]) -> None:
        """Raises RemoteProtocolError for what the protocol does not allow; the session is to be ended
        then.
        """
        received = 0
        for kind, flags, _volume, sequence, a, _b, payload, _crc in frames:
            if self.mode is Mode.MARKING:
                return
            if kind in (wire.RECEIVED, wire.DURABLE) and sequence > self.sequence:
                raise wire.RemoteProtocolError("the appliance acknowledges what was never sent")
            if kind == wire.RECEIVED:
                received = max(received, sequence)
            elif kind == wire.DURABLE:
                self.durable = max(self.durable, sequence)
                self._not_durable.drop_through(sequence)
                self.resync.clear()
            elif kind == wire.PROBE:
                self.effects.frames.append(wire.frame(wire.ANSWER, a=a))
            elif kind == wire.PAUSE:
                self.end_session("the appliance asked for a pause")
            elif kind == wire.EQUAL:
                self.resync.compared(sequence, payload, flags)
            else:
                raise wire.RemoteProtocolError(f"a frame of type {kind} has no place in a session")
        if received:
            self._received(received)

    def _received(self, through: int) -> None:
        """The appliance has every write up to this one: they may go to the store."""
        batches: dict[int, list[Io]] = {}
        sent, storing = self.sent, self.storing
        while sent and sent[0][5][0] <= through:
            io = sent.popleft()
            number, volume, _, _, _ = io[5]
            storing[number] = io
            if io[3] is not None:
                self._sent_bytes -= io[2]
            if volume in batches:
                batches[volume].append(io)
            else:
                batches[volume] = [io]
        while self._urgent and self._urgent[0][0] <= through:
            self._urgent.popleft()
        self.effects.stores.extend(batches.items())
        if self.held:
            self.release_held()

    def release_held(self) -> None:
        """Send what was held and need not be any longer, in its order."""
        held, self.held = self.held, deque()
        for waiting in held:
            volume, io, done, deadline = waiting
            if self._must_hold(volume, io) or self._overtakes(volume, io, self.held):
                self.held.append(waiting)
            else:
                self._split(volume, (io,), done, deadline)
                self._urgent.append((self.sequence, deadline))

    # -- resynchronisation's way back into the stream

    def send_init(self, volume: int, offset: int, length: int, data: bytes) -> int:
        """Send the content of regions; the sequence it got. Empty `data` means zeros."""
        self.sequence += 1
        kind = wire.KIND_INIT if data else wire.KIND_INIT_ZERO
        header = wire.write_header(kind, volume, self.sequence, offset, length, data)
        self.effects.frames += (header, data) if data else (header,)
        self._not_durable.add(self.sequence, keys_of(volume, offset, length))
        return self.sequence

    def send_hashes(self, volume: int, offset: int, length: int, digests: bytes, purpose: int) -> int:
        """Send the hashes of regions; the sequence they got."""
        self.sequence += 1
        self.effects.frames.append(
            wire.frame(
                wire.HASHES,
                flags=purpose,
                volume=volume,
                sequence=self.sequence,
                a=offset,
                b=length,
                payload=digests,
            )
        )
        return self.sequence

    def send_end(self) -> None:
        """Every marked region is on its way."""
        self.effects.frames.append(wire.frame(wire.END))
        self._go(Event.RESYNCED)

    def busy(self) -> set[int]:
        """Keys of the regions with writes in flight: sent, being stored, or waiting for their mark."""
        keys: set[int] = set()
        for io in (*self.sent, *self.storing.values()):
            keys.update(keys_of(io[5][1], io[1], io[2]))
        for volume, io, _, _ in self.marks.all_waiting():
            keys.update(keys_of(volume, io[1], io[2]))
        return keys

    def unsplit_in_flight(self) -> bool:
        """Whether a write that was begun in MARKING is not complete yet."""
        return self.marks.any_waiting or any(number < 0 for number in self.storing)

    # -- time

    def deadline(self) -> float | None:
        """When `tick` has to be called at the latest."""
        deadlines = [float(self.sent[0][5][4])] if self.sent else []
        if self._urgent:
            deadlines.append(self._urgent[0][1])
        if self.held:
            deadlines.append(self.held[0][3])
        return min(deadlines, default=None)

    def tick(self, now_s: float) -> None:
        """Keeps BOUNDED: no write waits for the appliance beyond its deadline."""
        deadline = self.deadline()
        if deadline is not None and now_s >= deadline:
            self.end_session("the appliance did not take a write in time")
        self.marks.begin_sync()
