"""The kernel's front end: user backstores of our subtype, whose commands logical units here serve.

A backstore's configuration string names what it is: `rpsplit/NAME`. Who makes it, this program or somebody in
targetcli, makes no difference. It may be there before we are (a restart, a configuration restored at boot):
then it is blocked, its ring is reset, and it goes on; initiators were made to wait, not to fail.
"""

import asyncio
import contextlib
import errno
from collections.abc import Callable
from typing import Final

import structlog

from iscsi_rp.errors import Error
from iscsi_rp.frontend.memory import stay_in_memory
from iscsi_rp.frontend.tcmu_device import TcmuDevice
from iscsi_rp.frontend.tcmu_netlink import DeviceEvent, Event, Netlink
from iscsi_rp.frontend.tcmu_uio import Place, TcmuDeviceError, block, reset_ring, scan, wants_reply
from iscsi_rp.iscsi.latency import Histogram
from iscsi_rp.scsi import LogicalUnit

SUBTYPE: Final = "rpsplit"
_LISTEN_AGAIN_S: Final = 1.0
_TAKE_OVER_AGAIN_S: Final = 5.0
_UNDER_WAY_S: Final = 1.0
"For what a logical unit has begun for a ring that is to be reset; then it is tried again later."

_log = structlog.get_logger(__name__)


class TcmuServer:
    """Made and used on a running event loop."""

    def __init__(self, changed: Callable[[Event, str], None]) -> None:
        """`changed` is told what happened to backstores of ours, and their configuration."""
        self._changed = changed
        self._netlink = Netlink()
        self._units: dict[str, LogicalUnit] = {}
        "By configuration."
        self._blocked: set[str] = set()
        "Configurations whose backstores stay blocked when they are taken over."
        self._devices: dict[int, TcmuDevice] = {}
        "By minor number."
        self._replies: set[int] = set()
        "Minor numbers of backstores about which the kernel waits for answers."
        self._listening: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._changing = asyncio.Lock()

    async def start(self) -> None:
        """Raises `NoKernelTargetError`."""
        await self._netlink.open()
        stay_in_memory()
        self._listening = asyncio.create_task(self._listen(), name="tcmu events")

    async def close(self, grace_s: float = 10.0) -> None:
        """Let commands in flight finish for at most `grace_s`. The backstores stay, blocked: initiators wait
        for the next start.
        """
        if self._listening is not None:
            self._listening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._listening
        for task in list(self._tasks):
            task.cancel()
        async with self._changing:
            self._units.clear()  # nothing is taken over any more
            await asyncio.gather(*(self._leave(device, grace_s) for device in list(self._devices.values())))
        await self._netlink.close()

    async def serve(self, config: str, unit: LogicalUnit, *, blocked: bool = False) -> None:
        """Backstores of this configuration are `unit`: those that are there, and those to come. With
        `blocked` initiators of those that are there still wait, until `unblock`.
        """
        async with self._changing:
            self._units[config] = unit
            if blocked:
                self._blocked.add(config)
            there = await asyncio.to_thread(lambda: list(scan(SUBTYPE)))
            # Of two the one of its name is the array's own, which its initiators have.
            for place in sorted(there, key=lambda place: place.name != config):
                if place.config == config and not self.devices(config):
                    await self._take_over(place)

    async def unblock(self, config: str) -> None:
        """Logs what goes wrong, and tries again."""
        async with self._changing:
            self._blocked.discard(config)
            for device in self.devices(config):
                try:
                    await asyncio.to_thread(block, device.place, False)
                except Error as error:
                    name = device.place.name
                    _log.error("cannot unblock a backstore", backstore=name, reason=error.message)
                    device.let_go()
                    self._broken(device)

    async def withdraw(self, config: str, grace_s: float = 10.0) -> None:
        """Serve it no more. A backstore that is still there stays blocked."""
        async with self._changing:
            self._units.pop(config, None)
            self._blocked.discard(config)
            for device in self.devices(config):
                await self._leave(device, grace_s)

    def ask_for_replies(self, wanted: bool) -> None:
        """See `Netlink`."""
        self._netlink.ask_for_replies(wanted)

    def devices(self, config: str) -> list[TcmuDevice]:
        """The backstores of a configuration that are served."""
        return [device for device in self._devices.values() if device.place.config == config]

    def latency(self, config: str) -> Histogram | None:
        """How long commands took, since the backstore is served."""
        return next((device.histogram for device in self.devices(config)), None)

    # Events of the kernel.

    async def _listen(self) -> None:
        lost = False
        while True:
            try:
                if lost:
                    await self._netlink.open_again()
                    await self._catch_up()
                    lost = False
                async for event in self._netlink.events():
                    async with self._changing:
                        await self._take_in(event)
            except Exception as error:  # whatever a library makes of what comes by netlink
                _log.error("cannot read what the kernel tells of backstores", reason=str(error))
                lost = True
                await asyncio.sleep(_LISTEN_AGAIN_S)

    async def _catch_up(self) -> None:
        """Events were lost: what there is takes their place."""
        async with self._changing:
            there = await asyncio.to_thread(lambda: list(scan(SUBTYPE)))
            for device in list(self._devices.values()):
                if device.place not in there:
                    self._removed(device.place)
                    self._changed(Event.REMOVED, device.place.config)
            for place in there:
                if place.config in self._units and not self.devices(place.config):
                    await self._take_over(place)

    async def _take_in(self, event: DeviceEvent) -> None:
        place = Place.parse(event.name, event.minor)
        if place is None or place.subtype != SUBTYPE:
            return
        status = 0
        replies = place.minor in self._replies or wants_reply(place)
        if event.event is Event.ADDED:
            status = self._added(place)
        elif event.event is Event.REMOVED:
            self._removed(place)
        elif event.config is not None and event.config != f"{SUBTYPE}/{place.config}":
            _log.error("a backstore cannot become another one", backstore=place.name, wanted=event.config)
            status = -errno.EINVAL
        self._changed(event.event, place.config)
        self._note_replies(place, replies and event.event is not Event.REMOVED)
        if replies:
            await self._netlink.answer(event, status)

    def _note_replies(self, place: Place, replies: bool) -> None:
        """When it is removed there is no file any more that says so."""
        if replies:
            self._replies.add(place.minor)
        else:
            self._replies.discard(place.minor)

    def _added(self, place: Place) -> int:
        unit = self._units.get(place.config)
        if unit is None:
            _log.error("a backstore names no volume of the kernel's front end", backstore=place.name)
            return -errno.ENOENT
        if place.minor in self._devices:
            return 0
        if self.devices(place.config):
            # Two of them would not know of each other's reservations.
            _log.error("a volume has a backstore already", backstore=place.name, config=place.config)
            return -errno.EEXIST
        try:
            self._serve(place, unit)
        except Error as error:
            _log.error("cannot serve a backstore", backstore=place.name, reason=error.message)
            self._later(place, _TAKE_OVER_AGAIN_S)
            return -errno.EIO
        return 0

    def _removed(self, place: Place) -> None:
        device = self._devices.pop(place.minor, None)
        if device is not None:
            device.let_go()
            _log.info("a backstore is gone", backstore=place.name)

    # Changes of hands.

    def _serve(self, place: Place, unit: LogicalUnit) -> None:
        self._devices[place.minor] = TcmuDevice(place, unit, self._broken)
        _log.info("a backstore is served", backstore=place.name, config=place.config)

    async def _take_over(self, place: Place) -> None:
        """Of one that may have had another handler. Logs what goes wrong, and tries again: nobody else ends
        the block.
        """
        if place.minor in self._devices:
            return
        unit = self._units[place.config]
        try:
            await asyncio.to_thread(block, place, True)
            await _nothing_under_way(unit)
            await asyncio.to_thread(reset_ring, place)
            self._serve(place, unit)
            if place.config not in self._blocked:
                await asyncio.to_thread(block, place, False)
        except Error as error:
            _log.error("cannot take a backstore over", backstore=place.name, reason=error.message)
            self._later(place, _TAKE_OVER_AGAIN_S)

    async def _leave(self, device: TcmuDevice, grace_s: float) -> None:
        try:
            await asyncio.to_thread(block, device.place, True)
            async with asyncio.timeout(grace_s):
                await device.idle()
        except (Error, TimeoutError) as error:
            _log.warning("a backstore has commands open", backstore=device.place.name, reason=str(error))
        self._devices.pop(device.place.minor, None)
        device.let_go()

    def _broken(self, device: TcmuDevice) -> None:
        self._devices.pop(device.place.minor, None)
        self._later(device.place, 0)

    def _later(self, place: Place, delay_s: float) -> None:
        task = asyncio.create_task(self._again(place, delay_s), name="tcmu reset")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _again(self, place: Place, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        async with self._changing:
            there = await asyncio.to_thread(lambda: list(scan(SUBTYPE)))
            if place in there and place.config in self._units and not self.devices(place.config):
                await self._take_over(place)


async def _nothing_under_way(unit: LogicalUnit) -> None:
    """Return when what the unit has begun is over: initiators send it again after a reset, and what is late
    would overwrite what they write then. Raises `TcmuDeviceError`.
    """
    over = asyncio.Event()
    unit.holds.after_all(over.set)
    try:
        async with asyncio.timeout(_UNDER_WAY_S):
            await over.wait()
    except TimeoutError:
        raise TcmuDeviceError("commands from before are still under way") from None
