"""One user backstore that is served: its ring is drained on the event loop, into a logical unit."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import structlog

from iscsi_rp.frontend.tcmu_uio import Place, Uio
from iscsi_rp.iscsi.latency import Histogram, Latency
from iscsi_rp.scsi import Command, Completion, LogicalUnit, Nexus
from iscsi_rp.scsi.sense import CHECK_CONDITION
from iscsi_rp.scsi.task import TargetPort
from iscsi_rp.tcmu import LUN_RESET, SENDS_DATA, Ring, RingError, TaskManagement
from iscsi_rp.tcmu import Command as RingCommand

COMMANDS: Final = 128
"Taken at a time; others of the loop have their turn before the next ones."
UNKNOWN_PORT: Final = TargetPort(name="", relative_id=0)
"A handler is not told by which port a command came."
_NEITHER: Final = 0
_SENT: Final = 1
_RECEIVED: Final = 2
"Places of `Latency.counts`."
_TEST_UNIT_READY: Final = bytes(16)

_log = structlog.get_logger(__name__)


class TcmuDevice:
    """All initiators of a backstore are one nexus here: what each of them has to be told (unit attentions,
    reservations, its LUNs) is the kernel's to know.
    """

    def __init__(self, place: Place, unit: LogicalUnit, broken: Callable[["TcmuDevice"], None]) -> None:
        """Serves from now on. The ring is new, or was reset while it was blocked. `broken` is called when it
        has to be reset. Raises `TcmuDeviceError`, `RingError`.
        """
        self.place, self.unit = place, unit
        self.commands = 0
        self.read_bytes = self.written_bytes = 0
        self.latency = Latency()
        self._broken = broken
        self._loop = asyncio.get_running_loop()
        self._nexus = Nexus("", {0: unit}, port=UNKNOWN_PORT)
        self._since: dict[int, tuple[int, int]] = {}
        "Of each open command: (place in the counts, microseconds on the clock when it came)."
        self._taking = self._over = False
        self._idle = asyncio.Event()
        self._uio = Uio(place)
        try:
            self._ring = Ring(self._uio.memory)
        except RingError:
            self._uio.close()
            raise
        self._tell_nothing()
        self._loop.add_reader(self._uio.fd, self._drain)
        # What is in the ring already raises no event any more.
        self._loop.call_soon(self._drain)

    @property
    def histogram(self) -> Histogram:
        return self.latency.histogram()

    @property
    def outstanding(self) -> int:
        """Commands that the logical unit has."""
        return len(self._ring)

    def _drain(self) -> None:
        if self._over:
            return
        try:
            self._uio.clear()
            found = self._ring.take(COMMANDS)
        except (RingError, OSError) as error:
            self._fail(error)
            return
        self._taking = True
        try:
            if found:
                self._begin(found)
        finally:
            self._taking = False
            self._kick()
        if len(found) >= COMMANDS:
            self._loop.call_soon(self._drain)

    def _begin(self, found: Sequence[RingCommand | TaskManagement]) -> None:
        commands: list[Command] = []
        now_us = time.monotonic_ns() // 1000
        for each in found:
            if isinstance(each, TaskManagement):
                self._submit(commands)
                if self._over:
                    return
                commands = []
                self._manage(each)
                continue
            cmd_id, cdb, iovecs = each
            data, kind = None, _NEITHER
            if iovecs:
                if cdb[0] in SENDS_DATA:
                    data, kind = self._ring.data_out(cmd_id), _SENT
                else:
                    kind = _RECEIVED
            self._since[cmd_id] = (kind, now_us)
            commands.append((cmd_id, cdb, data))
        self._submit(commands)

    def _submit(self, commands: Sequence[Command]) -> None:
        self.commands += len(commands)
        self.unit.submit(self._nexus, commands, partial(self._ended, self._ring))

    def _ended(self, ring: Ring, completions: Sequence[Completion]) -> None:
        if self._over or ring is not self._ring:
            return  # the ring was reset: the initiators have an answer
        try:
            ring.complete(completions)
        except RingError as error:
            self._fail(error)
            return
        now_us = time.monotonic_ns() // 1000
        counts, since = self.latency.counts, self._since
        for cmd_id, status, _, transfer in completions:
            kind, at_us = since.pop(cmd_id)
            counts[kind][(now_us - at_us).bit_length()] += 1
            if status == CHECK_CONDITION:
                continue
            if kind == _RECEIVED:
                self.read_bytes += transfer
            elif kind == _SENT:
                self.written_bytes += transfer
        if not self._taking:
            self._kick()
        if not len(ring):
            self._idle.set()

    def _fail(self, error: Exception) -> None:
        _log.error("the ring of a backstore is broken", backstore=self.place.name, reason=str(error))
        self.let_go()
        self._broken(self)

    def _kick(self) -> None:
        """Tell the kernel, once for all that was answered while commands were taken."""
        if not self._over and self._ring.answered:
            self._ring.answered = False
            # Gone: nobody waits for answers, and that it is is told by netlink.
            with contextlib.suppress(OSError):
                self._uio.kick()

    def _manage(self, request: TaskManagement) -> None:
        """The commands that the kernel aborted are answered as ever; what takes long may end sooner."""
        for cmd_id in request.ids:
            self.unit.abort(self._nexus, cmd_id)
        if request.function == LUN_RESET:
            self.unit.reset()
            self._tell_nothing()

    def _tell_nothing(self) -> None:
        """The kernel tells its initiators of resets and of their first command: nobody waits for our word."""
        self.unit.submit(self._nexus, [(None, _TEST_UNIT_READY, None)], lambda _: None)

    async def idle(self) -> None:
        """Return when no command is open. Without a block before, more may come."""
        while not self._over and len(self._ring):
            self._idle.clear()
            await self._idle.wait()

    def let_go(self) -> None:
        """Serve no more. What the logical unit answers later is dropped."""
        if self._over:
            return
        self._over = True
        self._idle.set()
        self.unit.nexus_lost(self._nexus)
        self._loop.remove_reader(self._uio.fd)
        self._ring.release()
        self._uio.close()
