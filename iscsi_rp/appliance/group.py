"""A consistency group at an appliance, as it runs: its log, its copy, and the work that never ends.

The receiver decides, this shell acts: it makes the log durable in a thread, round after round, and
distributes and trims when that disturbs least.
"""

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final
from uuid import UUID

import structlog

from iscsi_rp.appliance import catalogue
from iscsi_rp.appliance.images import Offer
from iscsi_rp.appliance.load import Load
from iscsi_rp.appliance.receiver import Receiver
from iscsi_rp.appliance.session import Peer, Session
from iscsi_rp.appliance.session_images import SessionImages
from iscsi_rp.appliance.state import MAX_BOOKMARKS, Bookmark, GroupState, Note
from iscsi_rp.clock import monotonic_s, utc_ns
from iscsi_rp.control.models import Alert
from iscsi_rp.errors import ConflictError, Error
from iscsi_rp.journal.errors import JournalError, JournalFullError, JournalIoError
from iscsi_rp.journal.files import OsDirectory, OsFile
from iscsi_rp.journal.log import SEGMENT_BYTES, Log
from iscsi_rp.journal.replica import Replica
from iscsi_rp.journal.segment import Segment
from iscsi_rp.replication import frames as wire
from iscsi_rp.replication.messages import Hello, VolumeInfo

SYNC_S: Final = 0.2
"Between two rounds of making the log durable, while nobody waits for one."
NEXT_SYNC_S: Final = 0.02
"At least between two rounds, whoever waits: more of them are served together."
PROBE_S: Final = 0.02
"For answers to a probe, before a round that can note them."
DISTRIBUTE_BYTES: Final = 32 << 20
"What one distribution takes on."
LIGHT_BYTES_S: Final = 2 << 20
"While hosts write no more than this a second, distribution takes its turn whenever there is enough for one."
KEEP_FREE_BYTES: Final = 256 << 20
"Of the journal's file system; below it the oldest images go, as if the journal had reached its capacity."
MIN_SEGMENT_BYTES: Final = 1 << 20
SEGMENTS: Final = 16
"""Of which a journal consists, at least. A whole one goes at a time, and it holds any batch, of some 8 MiB at
most: in a journal of 8 MiB, large writes left moments without any image but the newest."""
MIN_JOURNAL_BYTES: Final = SEGMENTS * MIN_SEGMENT_BYTES
ACCESS_LOG_SHARE: Final = 0.2
HOUSEKEEPING_S: Final = 0.1
BOOKMARK_TIMEOUT_S: Final = 5.0
BOOKMARK_POLL_S: Final = 0.01
ACCESS: Final = "access"
RESTORE: Final = "restore"

_log = structlog.get_logger(__name__)


def boot_id() -> str:
    """Changes when the machine loses power or is started again (proc(5))."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


class Group:
    """See the module. `open` before use."""

    def __init__(self, row: catalogue.Group, note_lost: Callable[[bool], None]) -> None:
        """`note_lost(lost)` durably notes beside the journal that it lost what was not durable; it blocks."""
        self.row = row
        self._note_lost = note_lost
        self._lost_beside = row.lost
        "The catalogue says so."
        self.alerts: dict[str, Alert] = {}
        self.running = False
        "The log is open and takes sessions."
        self._pins: dict[str, int] = {}
        "Who needs which image, so that it must not be trimmed: `access`, `restore`."
        self.log: Log
        self.replica: Replica
        self.receiver: Receiver
        self._copies: dict[int, OsFile] = {}
        self._threads = ThreadPoolExecutor(4, f"group-{row.name}")
        "For `SessionImages`."
        self._disk = ThreadPoolExecutor(2, f"journal-{row.name}")
        "One for flushes of the log, one for distribution."
        self._tasks: list[asyncio.Task[None]] = []
        self._loop = asyncio.get_running_loop()
        self._waited_for = asyncio.Event()
        "Somebody waits for the log to be durable."
        self._load = Load()
        self._broken: JournalError | None = None
        "What went wrong with an append; the log has to be cut back and opened again."
        self._stopping = False
        self._house_lock = asyncio.Lock()
        "Held over each step of distribution and trimming."

    # -- life

    async def open(self) -> None:
        """Recover the log and start to work. Raises JournalError: the group is then in the state `error`."""
        await self._loop.run_in_executor(self._disk, self._open)
        if self.row.lost:
            self.receiver.note(Note.LOST, {}, utc_ns())
        self.running = True
        self._tasks = [
            asyncio.create_task(work, name=f"{name}-{self.row.name}")
            for name, work in (
                ("sync", self._keep_durable()),
                ("house", self._keep_house()),
            )
        ]

    def _open(self) -> None:
        directory = OsDirectory(self.row.directory)
        identity = UUID(self.row.group_id).bytes
        state = GroupState()
        segment_bytes = min(SEGMENT_BYTES, max(MIN_SEGMENT_BYTES, self.row.journal_bytes // SEGMENTS))
        if any(name.startswith("log-") for name in directory.names()):
            self.log = Log.open(directory, identity, state.snapshot, segment_bytes=segment_bytes)
            recover(state, self.log)
        else:
            self.log = Log.create(directory, identity, state.snapshot, segment_bytes=segment_bytes)
        self._copies = {each.index: OsFile(each.copy_path) for each in self.row.sets}
        sizes = {each.index: each.size_bytes for each in self.row.sets}
        self.replica = Replica.open(self.log, directory, self._copies, sizes)
        volumes = [
            VolumeInfo(
                uuid=each.volume_uuid, name=each.name, size=each.size_bytes, block_size=each.block_size
            )
            for each in self.row.sets
        ]
        boot = boot_id()
        state.rebooted(boot)
        images = SessionImages(self.row.name, self.replica, self._threads, self._loop)
        self.receiver = Receiver(self.log, state, volumes, boot, images)
        if state.restoring is not None:
            self._pins[RESTORE] = state.restoring
        for position in self._pins.values():
            self.replica.pin(position)

    def pin(self, owner: str, position: int) -> None:
        """Keep an image for `owner`, who has one at a time. Raises ImageGoneError."""
        self.replica.pin(position)
        self._pins[owner] = position

    def unpin(self, owner: str) -> None:
        if (position := self._pins.pop(owner, None)) is not None:
            self.replica.unpin(position)

    async def close(self) -> None:
        """End the sessions, make the log durable, stop."""
        self._stopping = True  # each task ends by itself: a flush or a step of distribution is not to be torn
        self._waited_for.set()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._tasks = []
        if self.running:
            self.receiver.end_all("the appliance stops")
            with contextlib.suppress(JournalError):
                await self._sync()
        self.running = False
        self._threads.shutdown(wait=True)
        self._disk.shutdown(wait=True)
        if hasattr(self, "log"):
            self.log.close()
        for copy in self._copies.values():
            copy.close()

    # -- frames of a session

    def hello(self, peer: Peer, hello: Hello) -> Session:
        """A splitter offers a session. Raises RemoteProtocolError when it does not fit this group."""
        session = self.receiver.hello(peer, hello, utc_ns())
        self._see_to_it()
        return session

    def receive(self, session: Session, frames: Sequence[wire.Frame]) -> None:
        """What a splitter sent; a fault of the peer or of the journal ends the session."""
        try:
            self.receiver.receive(session, frames, utc_ns())
        except wire.RemoteProtocolError as error:
            self.receiver.lost(session, error.message)
            _log.warning("session ended", group=self.row.name, reason=error.message)
        except JournalFullError as error:
            self._pause("journal-full", error.message, "Free space on the journal's file system.")
        except JournalError as error:
            self._broken = error
            self.receiver.end_all(error.message)
        self._see_to_it()

    def _see_to_it(self) -> None:
        """Something has come: make it durable at once where somebody waits for that.

        Who still splits is asked at each new segment, too, however short a round: images are given up by
        segments, and a journal that is full before there is a newer image could give up none.
        """
        if self.receiver.needs_sync or self._broken is not None:
            self._waited_for.set()
        if self.receiver.sealed < self.log.segments[-1].first - 1:
            self.receiver.probe()

    def restore(self, position: int) -> None:
        """Restore production to an image. Raises JournalError."""
        self.receiver.restore(position, utc_ns())
        self._see_to_it()

    def _pause(self, code: str, text: str, next_step: str) -> None:
        self.alerts[code] = Alert(code=code, text=text, next_step=next_step)
        _log.error("group paused", group=self.row.name, reason=text)
        self.receiver.pause(text)

    # -- durability

    async def _keep_durable(self) -> None:
        begun_s = self._loop.time()
        while not self._stopping and self.running:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(begun_s + SYNC_S - PROBE_S):
                    await self._waited_for.wait()
            self._waited_for.clear()
            if self.receiver.probe():
                await asyncio.sleep(PROBE_S)
            begun_s = self._loop.time()
            if not self.receiver.wants_sync and self._broken is None:
                continue
            try:
                if self._broken is not None:
                    broken, self._broken = self._broken, None
                    raise broken
                await self._sync()
            except JournalFullError as error:
                self._pause("journal-full", error.message, "Free space on the journal's file system.")
            except JournalError as error:
                await self._journal_failed(error)
            await asyncio.sleep(NEXT_SYNC_S)

    async def _sync(self) -> None:
        sync = self.receiver.begin_sync(utc_ns())
        try:
            await self._loop.run_in_executor(self._disk, sync.ticket.run)
        except JournalFullError as error:
            raise JournalIoError(error.message) from error  # it is not known what of it is on the disk
        self.receiver.finish_sync(sync)
        if self.receiver.state.restoring is None:
            self.unpin(RESTORE)
        if self._lost_beside:  # the log itself has noted it, durably
            await asyncio.to_thread(self._note_lost, False)
            self._lost_beside = False

    async def _journal_failed(self, error: JournalError) -> None:
        """A flush failed: as good as a power loss. What is not durable is thrown away, and the log opened
        again.

        That it happened is noted in the catalogue first, because the journal may not be able to.
        """
        _log.error("the journal could not be flushed", group=self.row.name, reason=error.message)
        self.running = False
        self.receiver.end_all(f"the journal could not be flushed: {error.message}")
        try:
            await asyncio.to_thread(self._note_lost, True)
            self._lost_beside = True
            async with self._house_lock:
                await self._loop.run_in_executor(self._disk, self._reopen)
            self.receiver.note(Note.LOST, {}, utc_ns())
        except Error as again:
            self._pause(
                "journal-error",
                again.message,
                "Look at the journal's medium; then start the appliance again.",
            )
        else:
            self.running = True

    def _reopen(self) -> None:
        self.log.cut_to_durable()
        self.log.close()
        for copy in self._copies.values():
            copy.close()
        self._open()
        self._load = Load()

    # -- distribution and trimming

    async def _keep_house(self) -> None:
        """Neither of the two waits for the other: what a trim frees is what a distribution may lack."""
        while not self._stopping:
            worked, failed = False, False
            for work in (self._trim, self._distribute):
                try:
                    worked |= self.running and await work()
                except Error as error:
                    failed = True
                    self.alerts["copy"] = Alert(
                        code="copy",
                        text=f"the copy could not be brought up to date: {error.message}",
                        next_step="Look at the copy volume's medium; it is tried again.",
                    )
            if worked and not failed:
                self.alerts.pop("copy", None)
            self._maybe_resume()
            await asyncio.sleep(1.0 if failed else 0 if worked else HOUSEKEEPING_S)

    async def _distribute(self) -> bool:
        """One batch, if it is due; whether it was. While hosts write much it is never due: a page that is
        distributed is first saved for the older images, which a trim need not do.
        """
        self._load.see(self.receiver.content_end, monotonic_s())
        behind = self.log.durable - self.replica.distributed
        if self._load.idle:
            due = behind > 0
        else:
            light = self.log.bytes_of(self._load.writes_s) <= LIGHT_BYTES_S
            due = light and self.log.bytes_of(behind) >= DISTRIBUTE_BYTES
        if due:
            await self._steps(self.replica.distribute(self.log.durable, DISTRIBUTE_BYTES))
        return due

    async def _trim(self) -> bool:
        """Give up the oldest segment while the journal is over its capacity; whether there was one to go."""
        if not self._over_capacity() or not self._may_trim(self.log.segments[0]):
            return False
        try:
            await self._steps(self.replica.trim())
        except ConflictError:
            return False  # an image in it is in use since a moment ago
        self.receiver.state.forget_before(self.replica.first_offered)
        return True

    def _over_capacity(self) -> bool:
        return self.log.bytes_used > self.row.journal_bytes or self.free_bytes() < KEEP_FREE_BYTES

    def free_bytes(self) -> int:
        return OsDirectory(self.row.directory).free_bytes()

    def _may_trim(self, oldest: Segment) -> bool:
        """Never the newest image that is offered; before the first one there is nothing to be lost."""
        keeps_an_image = oldest.last <= self.receiver.offered or not self.receiver.state.ever_whole
        return self.replica.can_trim() and keeps_an_image

    async def _steps(self, steps: Iterator[Callable[[], None]]) -> None:
        """Of a long operation of the replica as it is now; given up where the journal is opened again between
        two of them: what is behind the old one is what the new one has, too.
        """
        replica = self.replica
        with contextlib.closing(steps):  # type: ignore[type-var]
            while not self._stopping:
                async with self._house_lock:
                    if not self.running or self.replica is not replica:
                        return
                    step = next(steps, None)
                    if step is None:
                        return
                    await self._loop.run_in_executor(self._disk, step)

    def _maybe_resume(self) -> None:
        """Hold sessions off while the journal is far beyond its capacity, and let them in again when it is
        not.
        """
        hard = self.log.bytes_used > self.row.journal_bytes * 1.25 + 2 * SEGMENT_BYTES
        if self.receiver.state.restoring is not None:
            hard = (
                self.free_bytes() < KEEP_FREE_BYTES // 2
            )  # the image is pinned: only going on frees the journal
        if self.receiver.paused is None:
            if hard:
                self._pause(
                    "journal-full",
                    "the journal is full, and no image may be given up yet",
                    "Let the copy catch up, disable an image that is accessed, or make the journal larger.",
                )
        elif "journal-error" not in self.alerts and not hard and self.free_bytes() > KEEP_FREE_BYTES // 2:
            self.alerts.pop("journal-full", None)
            self.receiver.resume()

    # -- images and bookmarks

    def offer(self) -> Offer:
        return Offer.of(self.receiver, self.replica)

    async def bookmark(self, name: str, consistency: str) -> Bookmark:
        """Returns once it is sealed: it holds every write acknowledged before. Raises ConflictError."""
        bookmarks = self.receiver.state.bookmarks
        if name in bookmarks:
            raise ConflictError(
                f"there is a bookmark {name!r} already", hint="Choose another name, or delete that one first."
            )
        if len(bookmarks) >= MAX_BOOKMARKS:
            raise ConflictError(f"the group has {MAX_BOOKMARKS} bookmarks, which is the limit")
        if self.receiver.span_from is not None:
            raise ConflictError(
                "the group is not in sync, so no image can be made now",
                hint="Wait until `iscsi-rp status` shows SPLITTING.",
            )
        position = self.receiver.bookmark(name, consistency, utc_ns())
        give_up_s = monotonic_s() + BOOKMARK_TIMEOUT_S
        self.receiver.awaited = position
        self._see_to_it()
        while self.receiver.offered < position:
            opened = self.receiver.span_from is not None and self.receiver.span_from < position
            if opened or monotonic_s() > give_up_s:
                if self.receiver.awaited == position:
                    self.receiver.awaited = 0
                self.receiver.note(Note.UNBOOKMARK, {"name": name}, utc_ns())
                raise ConflictError(
                    "the group went out of sync before the bookmark was sealed; it was not made"
                )
            await asyncio.sleep(BOOKMARK_POLL_S)
        return bookmarks[name]


def recover(state: GroupState, log: Log) -> None:
    """Derive the state from the log: the snapshot at the head of the tail segment, and the records behind
    it.
    """
    if log.recovered_checkpoint:
        state.restore(log.recovered_checkpoint)
    for record, payload in log.recovered_records:
        if payload is not None:
            state.apply(record.kind, record.position, record.time_ns, json.loads(payload))
        else:
            extent = (record.offset, record.length)
            state.received(record.session, record.seq, record.volume, (extent,))
