"""The splitter's shell: runs the core of one group against real stores, a real dirty map and a connection.

It is short enough to check by eye: take the core's effects, do them, and bring back the answers.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Protocol

import structlog

from iscsi_rp.clock import monotonic_s, utc_ns
from iscsi_rp.device import FLUSH, READ, BlockDevice, Buffer, BusyError, Done, Io, IoError, Result
from iscsi_rp.replication.digests import region_digests
from iscsi_rp.replication.frames import Frame, RemoteProtocolError
from iscsi_rp.splitter.core import Core, Mode
from iscsi_rp.splitter.device import SplitDevice
from iscsi_rp.splitter.effects import MapBlock, RegionRead
from iscsi_rp.splitter.map_file import MapFile
from iscsi_rp.splitter.region_map import RegionMap
from iscsi_rp.splitter.resync import Verification

TICK_S: Final = 0.25
STORED_EVERY_S: Final = 3.0
"How often the store is flushed, so that the appliance need not remember more as not stored."
HOSTS_WRITE_S: Final = 0.05
"A write this recently means that resynchronisation yields."
UNREADABLE_AGAIN_S: Final = 5.0

_log = structlog.get_logger(__name__)


class Connection(Protocol):
    """What carries a session's frames to the appliance."""

    def send_all(self, pieces: Sequence[Buffer]) -> None: ...

    def close(self, reason: str) -> None: ...


@dataclass(slots=True)
class Volume:
    """A volume of the group at this storage processor."""

    uuid: str
    name: str
    store: BlockDevice
    map_file: MapFile
    sweep_ordered: bool = False
    "The second place says that the map cannot be trusted."


def load_maps(volumes: Sequence[Volume]) -> tuple[list[RegionMap], list[str]]:
    """The region maps of `volumes`, and why some of them need a full sweep. Blocks; leaves the map files
    open.

    Raises OSError where a map can neither be read nor begun: such a volume cannot be protected.
    """
    maps, reasons = [], []
    for volume in volumes:
        region_map = RegionMap(volume.uuid, volume.store.size)
        reason = volume.map_file.load(region_map)
        if reason is None and volume.sweep_ordered:
            reason = "an earlier write of the dirty map had failed"
            region_map.mark_all()
        if reason is not None:
            reasons.append(f"{volume.name}: {reason}")
            volume.map_file.create_durably(region_map)
            region_map.changed.clear()
            region_map.made_durable(range(region_map.regions))
        maps.append(region_map)
    return maps, reasons


class GroupSplitter:
    """Splits the writes of one consistency group. `devices` are what the logical units get, in the order
    of `volumes`.
    """

    def __init__(
        self,
        name: str,
        volumes: Sequence[Volume],
        maps: Sequence[RegionMap],
        split_timeout_s: float,
        order_sweep: Callable[[int, bool], None],
    ) -> None:
        """`maps` are as `load_maps` gave them.

        `order_sweep(volume, due)` durably notes, in a second place, that the map of a volume could not be
        written, or that it could again; it may raise, and then writes that need a mark fail.
        """
        self.name = name
        self.volumes = volumes
        self.core = Core(maps, split_timeout_s)
        self.devices = [SplitDevice(self, index, volume.store) for index, volume in enumerate(volumes)]
        self.last_error: str | None = None
        self.connection: Connection | None = None
        self._order_sweep = order_sweep
        self._sweeps_ordered = {index for index, volume in enumerate(volumes) if volume.sweep_ordered}
        self._sweep_lock = asyncio.Lock()
        self._loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(2, f"split-{name}")
        self._pumping = False
        self._map_write: asyncio.Task[None] | None = None
        self._timer = self._loop.call_later(TICK_S, self._tick)
        self._deadline: asyncio.TimerHandle | None = None
        self._last_write_s = 0.0
        self._last_stored_s = monotonic_s()
        self._last_unreadable_s = 0.0
        self._written = [False] * len(volumes)
        self._closed = False
        self._mode = self.core.mode
        self.mode_since_ns = utc_ns()

    # -- from the devices

    def write(self, volume: int, ios: Sequence[Io], done: Done) -> None:
        now = self._last_write_s = monotonic_s()
        self._written[volume] = True
        self.core.write(volume, ios, done, now)
        self._pump()

    def flush(self, volume: int, flushed: Callable[[Result], None]) -> None:
        """Flush the store of a volume; the core learns what that made durable."""
        token = self.core.begin_flush(volume)
        self._written[volume] = False

        def done(results: Sequence[tuple[Any, Result]]) -> None:
            result = results[0][1]
            if isinstance(result, BusyError):
                self.core.flush_refused(token)
            else:
                self.core.flushed(token, ok=result is None)
            flushed(result)
            self._pump()

        self.volumes[volume].store.submit([(FLUSH, 0, 0, None, False, None)], done)

    def verify(self, verification: Verification) -> None:
        """Compare every region with its copy; `verification` follows it."""
        self.core.resync.verify(verification)
        self._pump()

    # -- from the link

    def frames(self, frames: Sequence[Frame]) -> None:
        """Frames of the session. Ends it when they are wrong."""
        try:
            self.core.receive(frames)
        except RemoteProtocolError as error:
            self.core.end_session(error.message)
        self._pump()

    def welcome(self, session: int, full_sweep: bool, took_over: bool, connection: Connection) -> None:
        """The appliance answered the hello that went over `connection`."""
        self.connection = connection
        self.core.welcome(session, range(len(self.volumes)) if full_sweep else (), took_over)
        self._pump()

    def disconnected(self, connection: Connection, reason: str) -> None:
        """The connection is gone."""
        if connection is self.connection:
            self.connection = None
            self.core.end_session(reason)
            self._pump()

    # -- the core's effects

    def _pump(self) -> None:
        if self._pumping:
            return
        self._pumping = True
        core, effects = self.core, self.core.effects
        try:
            while True:
                if core.mode is not Mode.MARKING and core.resync.working:
                    core.resync.step(monotonic_s() - self._last_write_s < HOSTS_WRITE_S)
                if not effects:
                    break
                if effects.end_session is not None:
                    self._end_session(effects.end_session)
                if effects.map_blocks:
                    blocks, effects.map_blocks = effects.map_blocks, []
                    self._map_write = self._loop.create_task(self._write_map(blocks))
                if effects.frames:
                    frames, effects.frames = effects.frames, []
                    if self.connection is not None:
                        self.connection.send_all(frames)
                if effects.stores:
                    stores, effects.stores = effects.stores, []
                    for volume, ios in stores:
                        self.volumes[volume].store.submit(ios, self._stored)
                if effects.reads:
                    reads, effects.reads = effects.reads, []
                    for read in reads:
                        self._read(read)
                if effects.flushes:
                    flushes, effects.flushes = effects.flushes, []
                    for volume in flushes:
                        self.flush(volume, lambda _: None)
                if effects.completions:
                    completions, effects.completions = effects.completions, []
                    for done, results in completions:
                        done(results)
        finally:
            self._pumping = False
        if core.mode is not self._mode:
            _log.info("splitter", group=self.name, mode=core.mode.value, before=self._mode.value)
            self._mode = core.mode
            self.mode_since_ns = utc_ns()
        self._arm()

    def _stored(self, results: Sequence[tuple[Any, Result]]) -> None:
        self.core.stored(results)
        self._pump()

    def _end_session(self, reason: str) -> None:
        self.core.effects.end_session = None
        self.last_error = reason
        if self.connection is not None:
            _log.warning("session ended", group=self.name, reason=reason)
            connection, self.connection = self.connection, None
            connection.close(reason)

    def _read(self, read: RegionRead) -> None:
        def done(results: Sequence[tuple[Any, Result]]) -> None:
            result = results[0][1]
            assert result is not None
            if isinstance(result, IoError):
                self._answer(read, result)
            elif read.digests:
                self._loop.create_task(self._digest(read, bytes(result)))
            else:
                data = bytes(result)
                self._answer(read, b"" if data == bytes(len(data)) else data)

        self.volumes[read.volume].store.submit([(READ, read.offset, read.length, None, False, None)], done)

    async def _digest(self, read: RegionRead, data: bytes) -> None:
        if self._closed:
            return  # nobody waits for it any more, and the threads are gone
        self._answer(read, await self._loop.run_in_executor(self._threads, region_digests, data))

    def _answer(self, read: RegionRead, data: bytes | IoError) -> None:
        self.core.resync.region_read(read.token, data)
        self._pump()

    # -- the dirty map

    async def _write_map(self, blocks: Sequence[MapBlock]) -> None:
        by_volume: dict[int, list[tuple[int, bytes]]] = {}
        for volume, offset, data in blocks:
            by_volume.setdefault(volume, []).append((offset, data))
        failure: OSError | None = None
        for volume, pieces in by_volume.items():
            try:
                await self._loop.run_in_executor(self._threads, self.volumes[volume].map_file.write, pieces)
            except OSError as error:
                failure = error
        ordered = failure is None or await self._order_sweeps(failure, by_volume)
        self._map_write = None
        if ordered:
            self.core.map_synced(written=failure is None)
        else:
            self.core.map_failed(IoError("neither the dirty map nor the catalogue can be written"))
        self._pump()
        if failure is None:
            await self._withdraw_sweeps()

    async def _order_sweeps(self, failure: OSError, volumes: Iterable[int]) -> bool:
        """The map cannot be written: note in the second place that a sweep is due. False where that fails."""
        self.last_error = f"the dirty map cannot be written: {failure.strerror or failure}"
        _log.error("dirty map not written", group=self.name, reason=str(failure))
        async with self._sweep_lock:
            for volume in volumes:
                if not await self._note_sweep(volume, True):
                    return False
                self._sweeps_ordered.add(volume)
        return True

    async def _withdraw_sweeps(self) -> None:
        """Maps that are whole on disk again need no sweep."""
        async with self._sweep_lock:
            for volume in list(self._sweeps_ordered):
                if not self.core.marks.maps[volume].changed and await self._note_sweep(volume, False):
                    self._sweeps_ordered.discard(volume)

    async def _note_sweep(self, volume: int, due: bool) -> bool:
        try:
            await self._loop.run_in_executor(self._threads, self._order_sweep, volume, due)
        except Exception as error:  # whatever the second place is made of
            _log.error("sweep not noted", group=self.name, reason=str(error))
            return False
        return True

    # -- time

    def _arm(self) -> None:
        """Be called at the deadline of the core, or before: a timer that is set is left alone, for most
        writes are answered long before theirs.
        """
        deadline = self.core.deadline()
        if deadline is None or self._closed:
            return
        if self._deadline is not None:
            if self._deadline.when() <= deadline:
                return
            self._deadline.cancel()
        self._deadline = self._loop.call_at(deadline, self._at_deadline)

    def _at_deadline(self) -> None:
        self._deadline = None
        self.core.tick(monotonic_s())
        self._pump()
        self._arm()

    def _tick(self) -> None:
        self._timer = self._loop.call_later(TICK_S, self._tick)
        now = monotonic_s()
        self.core.tick(now)
        self.core.resync.ask_for_flush()
        if now - self._last_stored_s >= STORED_EVERY_S:
            self._last_stored_s = now
            for volume, written in enumerate(self._written):
                if written and volume not in self.core.effects.flushes and not self.core.is_flushing(volume):
                    self.core.effects.flushes.append(volume)
        if now - self._last_unreadable_s >= UNREADABLE_AGAIN_S:
            self._last_unreadable_s = now
            self.core.resync.retry_unreadable()
        self._pump()

    async def close(self) -> None:
        """End the session and wait for the map. Nothing may be submitted any more."""
        self._closed = True
        self._timer.cancel()
        if self._deadline is not None:
            self._deadline.cancel()
        self.core.end_session("the array stops")
        self._pump()
        while self._map_write is not None:
            await self._map_write
        for volume in self.volumes:
            volume.map_file.close()
        self._threads.shutdown(wait=False)
