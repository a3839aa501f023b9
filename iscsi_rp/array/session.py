"""Keeps a session of one group with its appliance: connects, greets, starts, and begins again when it
ends.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog

from iscsi_rp.array.restore import Restore
from iscsi_rp.device import Buffer
from iscsi_rp.errors import Error
from iscsi_rp.link.connection import Link, Way, connect
from iscsi_rp.replication import frames as wire
from iscsi_rp.replication.messages import Alert, Hello, VolumeInfo, Welcome, parse, parse_regions
from iscsi_rp.replication.regions import KEY_SHIFT
from iscsi_rp.splitter.group import GroupSplitter

RETRY_S: Final = (0.1, 0.2, 0.5, 1.0)
"Pauses between attempts; the last repeats."

WELCOME_TIMEOUT_S: Final = 15.0
"The appliance makes its log durable before it answers a hello."

_RARE: Final = frozenset((wire.REGIONS, wire.RESTORE, wire.DATA, wire.TOUCHED, wire.UNBLOCK))
_log = structlog.get_logger(__name__)


class GroupSession:
    """Runs until it is stopped. `block(position)` and `unblock()` durably note that production is being
    restored.
    """

    def __init__(
        self,
        splitter: GroupSplitter,
        way: Way,
        hello: Callable[[bool, list[VolumeInfo]], Hello],
        block: Callable[[int], Awaitable[None]],
        unblock: Callable[[], Awaitable[None]],
    ) -> None:
        self.splitter = splitter
        self._way = way
        self._hello = hello
        self._block = block
        self._unblock = unblock
        self._link: Link | None = None
        self._took_over = False
        self._welcomed = False
        self._regions: list[tuple[int, range]] = []
        self._lost = asyncio.Event()
        self._restore: Restore | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._runner = asyncio.create_task(self._run(), name=f"session-{splitter.name}")

    async def stop(self) -> None:
        self._runner.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._runner
        if self._link is not None:
            self._link.close("the array ends the session")
        for task in list(self._tasks):
            task.cancel()

    async def _run(self) -> None:
        attempt = 0
        while True:
            try:
                self._link = await connect(self._way, self._frames, self._on_lost)
            except Error as error:
                self.splitter.last_error = error.message
            else:
                self._greet(self._link)
                await self._watched(self._link)
                if self._welcomed:
                    attempt = 0
            await asyncio.sleep(RETRY_S[min(attempt, len(RETRY_S) - 1)])
            attempt += 1

    async def _watched(self, link: Link) -> None:
        """Until the link is lost; one that is not welcomed in time is given up."""
        try:
            async with asyncio.timeout(WELCOME_TIMEOUT_S):
                await self._lost.wait()
        except TimeoutError:
            if not self._welcomed:
                link.close("the appliance does not answer the hello")
            await self._lost.wait()

    def _greet(self, link: Link) -> None:
        self._lost.clear()
        self._welcomed = False
        self._regions = []
        volumes = [
            VolumeInfo(uuid=each.uuid, name=each.name, size=each.store.size, block_size=each.store.block_size)
            for each in self.splitter.volumes
        ]
        self._took_over = self.splitter.core.fresh
        link.send(wire.frame(wire.HELLO, payload=self._hello(self._took_over, volumes).encode()))

    def _on_lost(self, link: Link, reason: str) -> None:
        if link is not self._link:
            return
        self._link = None
        self._lost.set()
        if not self._welcomed:
            self.splitter.last_error = reason
        if self._restore is not None:
            self._cancel_tasks()
        self.splitter.disconnected(link, reason)

    def _cancel_tasks(self) -> None:
        self._restore = None
        for task in self._tasks:
            task.cancel()

    # -- frames

    def _frames(self, link: Link, frames: Sequence[wire.Frame]) -> None:
        if link is not self._link:
            return
        if self._welcomed and not any(frame[0] in _RARE for frame in frames):
            self.splitter.frames(frames)
            return
        for frame in frames:
            if not self._welcomed:
                self._handshake(link, frame)
            elif frame[0] in _RARE:
                self._rare(link, frame)
            else:
                self.splitter.frames((frame,))

    def _handshake(self, link: Link, frame: wire.Frame) -> None:
        kind, _, volume, _, session, _, payload, _ = frame
        core = self.splitter.core
        if kind == wire.REGIONS:
            core.take_over(key for keys in self._parse_regions(volume, payload) for key in keys)
        elif kind == wire.WELCOME:
            welcome = parse(Welcome, payload)
            self._welcomed = True
            if welcome.restoring is None:
                self._start_task(self._unblock())
            self.splitter.welcome(session, welcome.full_sweep, self._took_over, link)
        elif kind == wire.REFUSED:
            link.close(f"the appliance refuses: {parse(Alert, payload).text}")
        else:
            raise wire.RemoteProtocolError(f"a frame of type {kind} before the welcome")

    def _parse_regions(self, volume: int, payload: Buffer) -> list[range]:
        maps = self.splitter.core.marks.maps
        if volume >= len(maps):
            raise wire.RemoteProtocolError("regions of a volume that is not in the session")
        return list(parse_regions(volume, payload, maps[volume].regions))

    def _rare(self, link: Link, frame: wire.Frame) -> None:
        kind, _, volume, _, position, _, payload, _ = frame
        if kind == wire.REGIONS:
            base = volume << KEY_SHIFT
            for keys in self._parse_regions(volume, payload):
                self._regions.append((volume, range(keys.start - base, keys.stop - base)))
        elif kind == wire.RESTORE:
            self._restore = Restore(self.splitter, position, link.send)
            self._start_task(self._restore_production(link, self._restore, position))
        elif kind == wire.TOUCHED and self._restore is not None:
            touched, self._regions = self._regions, []
            self._restore.touched(touched)
        elif kind == wire.DATA and self._restore is not None:
            self._restore.data(frame)
        elif kind == wire.UNBLOCK:
            self._restore = None
            self._start_task(self._unblock())

    async def _restore_production(self, link: Link, restore: Restore, position: int) -> None:
        try:
            await self._block(position)
            await restore.run()
        except (Error, ExceptionGroup) as error:
            _log.error("restore broken off", group=self.splitter.name, reason=str(error))
            link.close(f"the restore was broken off: {error}")

    def _start_task(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        assert isinstance(task, asyncio.Task)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
