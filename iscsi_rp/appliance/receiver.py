"""The receiving end of the splitters: one total order of a group's writes, sessions, seals and spans.

It is a state machine like the splitter's core: frames and the time come in, frames go out to the peers, and
the log is written through the journal's seam. It keeps the appliance's half of the rules in
docs/splitting.md:

* A `hello` first closes the processor's older session for good, then the log is made durable, then it is
  answered.
* Only a `start` makes it forget what the older session had not stored.
* A position is offered as an image only once every processor has answered, in its current session, a probe
  sent after it.
* When a session ends, the span without images opens at the last sealed position; it ends when every processor
  has sent END.
"""

import json
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from iscsi_rp.appliance.session import Images, Peer, Session, SyncInFlight
from iscsi_rp.appliance.state import GroupState, Note
from iscsi_rp.journal.log import Log
from iscsi_rp.journal.record import Entry
from iscsi_rp.replication import frames as wire
from iscsi_rp.replication import messages
from iscsi_rp.replication.frames import RemoteProtocolError
from iscsi_rp.replication.regions import REGION_BYTES, region_count

MAX_COMPARES: Final = 1024
"HASHES of one session that are not answered yet."
BEFORE_ALL: Final = -1
"Where the first span begins: before its end the copy equals the volume at no position, not even at 0."
MAX_FETCH_BYTES: Final = 1 << 20
"Of one FETCH, and of the regions that one HASHES is about."
MAX_FETCHES: Final = 64
MAX_PROCESSORS: Final = 4
"That a group remembers: each has its part in every snapshot of the log."


class Receiver:
    """The sessions of one group, in front of its log."""

    def __init__(
        self,
        log: Log,
        state: GroupState,
        volumes: Sequence[messages.VolumeInfo],
        boot_id: str,
        images: Images,
    ) -> None:
        self.log = log
        self.state = state
        self.volumes = volumes
        self.boot_id = boot_id
        self._images = images
        self._restoring_durably = state.restoring
        self.sessions: dict[str, Session] = {}
        "Processor to its current session, from the hello on."
        self._hellos: list[Session] = []
        "Wait for the log to be durable."
        self._unblocks: list[Session] = []
        "Restored; they wait for that to be durable."
        self.sealed = state.seal
        self.offered = state.seal
        "The newest position that may be offered: sealed, and durably noted as that."
        self.awaited = 0
        "Somebody waits for this position to be offered."
        self.span_from: int | None = state.seal if state.ever_whole else BEFORE_ALL
        "Where the open span began; while there is one, nothing newer than it is sealed."
        self.content_end = log.end
        "The last position that an image may want: notes of seals need no seal."
        self._probe = 0
        self._probe_position = 0
        self.paused: str | None = None
        "Why no session is accepted."

    # -- frames

    def hello(self, peer: Peer, hello: messages.Hello, now_ns: int) -> Session:
        """A splitter offers a session. Raises RemoteProtocolError when it does not fit this group."""
        if self.paused:
            raise RemoteProtocolError(f"the group is paused: {self.paused}")
        known = self.state.processors.keys() | self.sessions.keys()
        if hello.processor not in known and len(known) >= MAX_PROCESSORS:
            raise RemoteProtocolError(f"the group has {len(known)} storage processors already")
        indexes = self._volume_indexes(hello)
        self.end(hello.processor, "the processor began a new session")
        self.open_span()
        self.state.last_session += 1
        session = Session(peer, hello, indexes, self.state.last_session, now_ns)
        self.sessions[hello.processor] = session
        self._hellos.append(session)
        return session

    def _volume_indexes(self, hello: messages.Hello) -> list[int]:
        known = {volume.uuid: index for index, volume in enumerate(self.volumes)}
        indexes = []
        for volume in hello.volumes:
            index = known.get(volume.uuid)
            if index is None:
                raise RemoteProtocolError(f"volume {volume.name} is not in this group")
            if volume.size != self.volumes[index].size:
                raise RemoteProtocolError(
                    f"volume {volume.name} has {volume.size} bytes, its copy {self.volumes[index].size}"
                )
            indexes.append(index)
        return indexes

    def receive(self, session: Session, frames: Sequence[wire.Frame], now_ns: int) -> None:
        """Take what a splitter sent. Raises RemoteProtocolError or JournalError; the session is to be
        ended then.
        """
        if not self._is_current(session):
            return  # a session that is closed: late data
        entries: list[Entry] = []
        number, sequence, started = session.number, session.sequence, session.started
        volumes, sizes = session.volumes, session.sizes
        for frame in frames:
            kind, flags, volume, seq, a, b, payload, crc = frame
            if kind == wire.WRITE and started:
                sequence += 1
                if seq != sequence:
                    raise RemoteProtocolError(f"sequence {seq} where {sequence} was due")
                if volume >= len(volumes) or not b or a + b > sizes[volume]:
                    raise RemoteProtocolError("a write outside of its volume")
                if flags not in wire.KINDS or len(payload) != (b if flags in wire.KINDS_WITH_DATA else 0):
                    raise RemoteProtocolError("a write whose data does not fit its extent")
                entries.append((flags, volumes[volume], number, seq, a, b, payload, crc))
                continue
            if entries:
                self._append(session, entries, now_ns)
                entries = []
            self._rare(session, frame, now_ns)
            sequence, started = session.sequence, session.started
        if entries:
            self._append(session, entries, now_ns)

    def _append(self, session: Session, entries: list[Entry], now_ns: int) -> None:
        sequence = entries[-1][3]
        extents: dict[int, list[tuple[int, int]]] = {}
        for _, index, _, _, offset, length, _, _ in entries:
            extents.setdefault(index, []).append((offset, length))
        for index, of_volume in extents.items():
            self.state.received(session.number, sequence, index, of_volume)
        self.content_end = self.log.append(entries, now_ns)
        session.sequence = sequence
        session.peer.send(wire.frame(wire.RECEIVED, sequence=sequence))

    def _rare(self, session: Session, frame: wire.Frame, now_ns: int) -> None:
        kind, _, volume, sequence, a, _, _, _ = frame
        if kind == wire.START and session.welcomed and a == session.number and not session.started:
            self._start(session, sequence, now_ns)
            return
        if not session.started:
            raise RemoteProtocolError(f"a frame of type {kind} before the session started")
        if kind == wire.STORED and volume < len(session.volumes) and sequence <= session.sequence:
            body = {"processor": session.processor, "volume": session.volumes[volume], "sequence": sequence}
            self.note(Note.STORED, body, now_ns)
        elif kind == wire.HASHES:
            self._hashes(session, frame)
        elif kind == wire.END:
            session.ended = True
            self._maybe_end_span(now_ns)
            self._maybe_restore()
        elif kind == wire.ANSWER:
            session.answered = max(session.answered, a)
            self._maybe_seal()
        elif kind == wire.FETCH and self._fits(session, frame) and self.state.restoring is not None:
            session.fetches += 1
            self._images.fetch(session, frame, self.state.restoring)
        elif kind == wire.BLOCKED and a == self.state.restoring:
            self._images.send_touched(session, a)
        elif kind == wire.RESTORED and a == self.state.restoring:
            session.restored = True
            self._maybe_restored(now_ns)
        else:
            raise RemoteProtocolError(f"a frame of type {kind} has no place here")

    @staticmethod
    def _fits(session: Session, frame: wire.Frame) -> bool:
        _, _, volume, _, offset, length, _, _ = frame
        return (
            volume < len(session.volumes)
            and session.fetches < MAX_FETCHES
            and 0 < length <= MAX_FETCH_BYTES
            and offset + length <= session.sizes[volume]
        )

    def _start(self, session: Session, sequence: int, now_ns: int) -> None:
        body = {
            "processor": session.processor,
            "session": session.number,
            "boot_id": self.boot_id,
            "fresh": session.fresh,
        }
        self.note(Note.SESSION, body, now_ns)
        session.started = True
        session.sequence = session.durable = sequence

    def _hashes(self, session: Session, frame: wire.Frame) -> None:
        _, _, volume, sequence, a, b, payload, _ = frame
        if sequence != session.sequence + 1:
            raise RemoteProtocolError(f"sequence {sequence} where {session.sequence + 1} was due")
        if volume >= len(session.volumes) or a % REGION_BYTES or not 0 < b <= session.sizes[volume] - a:
            raise RemoteProtocolError("hashes outside of their volume")
        fits = b <= MAX_FETCH_BYTES and len(payload) == region_count(b) * wire.DIGEST_BYTES
        if not fits or session.compares >= MAX_COMPARES:
            raise RemoteProtocolError("hashes that do not fit their regions, or too many at once")
        session.sequence = sequence
        session.compares += 1
        self._images.compare(session, frame, self.log.end, partial(self._compared, session, frame))

    def _compared(self, session: Session, frame: wire.Frame, equal: bytes) -> None:
        if self._is_current(session):
            session.compares -= 1
            _, flags, volume, sequence, a, b, _, _ = frame
            session.peer.send(
                wire.frame(wire.EQUAL, flags=flags, volume=volume, sequence=sequence, a=a, b=b, payload=equal)
            )

    def note(self, kind: Note, body: dict[str, Any], now_ns: int) -> int:
        """Append a note and let it take effect; its position. Raises JournalError."""
        payload = json.dumps(body).encode()
        position = self.log.append(((int(kind), 0, 0, 0, 0, 0, payload, wire.checksum(payload)),), now_ns)
        self.state.apply(kind, position, self.log.last_time_ns, body)
        return position

    def bookmark(self, name: str, consistency: str, now_ns: int) -> int:
        """Note a bookmark; its position, which is an image once `offered` has reached it. Raises
        JournalError.
        """
        self.content_end = self.note(Note.BOOKMARK, {"name": name, "consistency": consistency}, now_ns)
        return self.content_end

    # -- sessions end

    def end(self, processor: str, reason: str) -> None:
        """The processor's session is over, if it has one; nothing of it is accepted any more."""
        session = self.sessions.pop(processor, None)
        if session is None:
            return
        if session in self._hellos:
            self._hellos.remove(session)
        session.peer.close(reason)
        self.open_span()

    def lost(self, session: Session, reason: str) -> None:
        """The session's connection is gone."""
        if self._is_current(session):
            self.end(session.processor, reason)

    def end_all(self, reason: str) -> None:
        """End every session: the journal fails, or the appliance stops."""
        for name in list(self.sessions):
            self.end(name, reason)

    def pause(self, reason: str) -> None:
        """Send every splitter into MARKING and accept no session until `resume`."""
        self.paused = reason
        alert = messages.Alert(code="paused", text=reason[:1000]).encode()
        for session in self.sessions.values():
            session.peer.send(wire.frame(wire.PAUSE, payload=alert))
        self.end_all(reason)

    def resume(self) -> None:
        self.paused = None

    # -- seals and spans

    def open_span(self) -> None:
        """From the last sealed position on no image is offered, until every processor has sent its END."""
        if self.span_from is None:
            self.span_from = self.sealed
        self._probe_position = 0

    def _maybe_end_span(self, now_ns: int) -> None:
        if self.span_from is None or self.state.restoring is not None:
            return
        sessions = self._complete()
        covered = {volume for session in sessions for volume in session.volumes}
        if len(covered) == len(self.volumes) and all(session.ended for session in sessions):
            self.content_end = self.note(Note.SPAN, {"from": self.span_from}, now_ns)
            self.span_from = None

    def _complete(self) -> list[Session]:
        """Every session, also one that has not started yet; none while a processor that the log knows of has
        none. What is said of a group has to hold for all of these.
        """
        known = self.state.processors.keys() <= self.sessions.keys()
        return list(self.sessions.values()) if known else []

    def probe(self) -> bool:
        """Ask every processor whether it still splits, if something is new of which images could be offered,
        and nobody is being asked yet; whether that was so.
        """
        if self.span_from is not None or self.content_end <= self.sealed or self._probe_position:
            return False
        self._probe += 1
        self._probe_position = self.log.end
        for session in self.sessions.values():
            if session.started:
                session.peer.send(wire.frame(wire.PROBE, a=self._probe))
        return True

    def _maybe_seal(self) -> None:
        sessions = self._complete()
        if self._probe_position and sessions and all(each.answered >= self._probe for each in sessions):
            self.sealed = self._probe_position
            self._probe_position = 0

    # -- restoring production

    def restore(self, position: int, now_ns: int) -> None:
        """Restore production to an image: one span, whose end is the first image after it. Raises
        JournalError.
        """
        self.note(Note.RESTORE, {"position": position}, now_ns)
        self.open_span()

    def _maybe_restore(self) -> None:
        """A processor is told only once the order survives a loss of power, and when its store is known
        whole.
        """
        position = self._restoring_durably
        if position is None:
            return
        for session in self.sessions.values():
            if session.ended and not session.restore_begun:
                session.restore_begun = True
                session.fetched_bytes = 0
                session.peer.send(wire.frame(wire.RESTORE, a=position))

    def _maybe_restored(self, now_ns: int) -> None:
        sessions = self._complete()
        if sessions and all(session.restored for session in sessions):
            self._restoring_durably = None
            self.note(Note.RESTORED, {}, now_ns)
            for session in sessions:
                session.restore_begun = session.restored = False
                self._unblocks.append(session)
            self._maybe_end_span(now_ns)

    # -- durability

    @property
    def wants_sync(self) -> bool:
        """Something is not durable yet, or not known to be; or a hello waits for it."""
        return (
            bool(self._hellos)
            or self.log.durable < self.log.end
            or self.sealed > self.state.seal
            or any(session.durable < session.sequence for session in self.sessions.values())
        )

    @property
    def needs_sync(self) -> bool:
        """Somebody waits for the log to be durable: a hello, a resynchronisation, a bookmark, a restore."""
        return (
            bool(self._hellos or self._unblocks)
            or self.offered < self.awaited
            or (self.span_from is not None and self.log.durable < self.log.end)
            or self.state.restoring != self._restoring_durably
        )

    def begin_sync(self, now_ns: int) -> SyncInFlight:
        """A flush of the log is about to begin: run `ticket.run` somewhere, then `finish_sync`. Raises
        JournalError.
        """
        if self.sealed > self.state.seal:
            self.note(Note.SEAL, {"position": self.sealed}, now_ns)
        received = [(session, session.sequence) for session in self.sessions.values() if session.started]
        welcomes, self._hellos = self._hellos, []
        unblocks, self._unblocks = self._unblocks, []
        return SyncInFlight(
            self.log.begin_sync(), self.state.seal, self.state.restoring, welcomes, received, unblocks
        )

    def finish_sync(self, sync: SyncInFlight) -> None:
        """The flush succeeded: acknowledge, offer, and answer what waited for it."""
        self.log.finish_sync(sync.ticket)
        self.offered = max(self.offered, sync.seal)
        for session, sequence in sync.received:
            if session.durable < sequence and self._is_current(session):
                session.durable = sequence
                session.peer.send(wire.frame(wire.DURABLE, sequence=sequence))
        for session in filter(self._is_current, sync.welcomes):
            self._welcome(session)
        for session in filter(self._is_current, sync.unblocks):
            session.peer.send(wire.frame(wire.UNBLOCK))
        if sync.restoring is not None and sync.restoring == self.state.restoring:
            self._restoring_durably = sync.restoring
            self._maybe_restore()

    def _is_current(self, session: Session) -> bool:
        return self.sessions.get(session.processor) is session

    def _welcome(self, session: Session) -> None:
        processor = self.state.processors.get(session.processor)
        sweep = processor is None or (session.fresh and processor.lost)
        if session.fresh and processor is not None and not sweep:
            positions = {index: place for place, index in enumerate(session.volumes)}
            for data in messages.region_frames(processor.runs(), positions):
                session.peer.send(data)
        reason = (
            ""
            if not sweep
            else "first session"
            if processor is None
            else "both sides lost what was not durable"
        )
        welcome = messages.Welcome(full_sweep=sweep, reason=reason, restoring=self.state.restoring)
        session.welcomed = True
        session.peer.send(wire.frame(wire.WELCOME, a=session.number, payload=welcome.encode()))
