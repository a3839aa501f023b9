"""The embedded iSCSI front end: portals, targets, and what may be connected at once.

Everything runs on one event loop. A portal accepts, a `Stream` moves the bytes, a `Connection` does the rest.
"""

import asyncio
import errno
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Final

from iscsi_rp.errors import ConfigError, ConflictError, NotFoundError
from iscsi_rp.frontend import heap
from iscsi_rp.frontend.iscsi_stream import Stream, portal_name
from iscsi_rp.frontend.iscsi_streams import Streams
from iscsi_rp.frontend.status import SessionStatus, latency_by_initiator, latency_of, status_of
from iscsi_rp.iscsi import Access, Node, Session
from iscsi_rp.iscsi.budget import ALL_HELD_BYTES, Budget
from iscsi_rp.iscsi.latency import Histogram
from iscsi_rp.iscsi.pdu import SCSI_EVENT
from iscsi_rp.iscsi.shared import Shared
from iscsi_rp.iscsi.task_management import Barrier, abort_for
from iscsi_rp.scsi import LogicalUnit, Nexus
from iscsi_rp.scsi.primary import encode_lun
from iscsi_rp.scsi.sense import CAPACITY_CHANGED, REPORTED_LUNS_CHANGED, Sense

TICK_S: Final = 15.0
"An initiator silent for two ticks is asked for a sign of life; silent for four it is dropped."


class PortInUseError(ConflictError):
    """The port is in use."""


class AddressError(ConfigError):
    """The address cannot be listened on."""


class NoSuchSessionError(NotFoundError):
    """There is no session of this number."""


class IscsiServer:
    """Serves logical units to initiators. Made and used on a running event loop."""

    def __init__(self) -> None:
        heap.keep()
        loop = asyncio.get_running_loop()
        self._node = Node()
        self._shared = Shared(time.monotonic_ns, Budget(ALL_HELD_BYTES, loop.call_soon))
        self._streams = Streams(self._node, self._shared)
        self.logins = self._streams.logins
        self._servers: list[asyncio.Server] = []
        self._ticking: asyncio.TimerHandle | None = None

    async def listen(self, host: str, port: int, *, portal_group: int = 1) -> tuple[str, int]:
        """Open a portal, IPv4 or IPv6; port 0 takes a free one. Returns its address.

        Raises `PortInUseError`, `AddressError`.
        """
        loop = asyncio.get_running_loop()
        try:
            server = await loop.create_server(
                partial(Stream, self._streams, portal_group), host, port, backlog=512
            )
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortInUseError(f"{portal_name(host, port)} is in use") from None
            raise AddressError(f"cannot listen on {portal_name(host, port)}: {error.strerror}") from None
        address: tuple[str, int] = server.sockets[0].getsockname()[:2]
        self._servers.append(server)
        self._node.portals.append((portal_name(*address), portal_group))
        if self._ticking is None:
            self._ticking = loop.call_later(TICK_S, self._tick)
        return address

    # Targets, LUNs, who may see them.

    def add_target(self, name: str, luns: Mapping[int, LogicalUnit]) -> None:
        """Raises `TargetNameError`, `TargetExistsError`, `ConfigError`."""
        self._node.add_target(name, dict(luns))
        for unit in luns.values():
            self._adopt(unit)

    async def remove_target(self, name: str, *, grace_s: float = 10.0) -> None:
        """Refuse new sessions of a target, end those it has. Raises `NoSuchTargetError`."""
        target = self._node.remove_target(name)
        await self._end(target.sessions, grace_s)

    def set_lun(self, name: str, lun: int, unit: LogicalUnit | None) -> None:
        """Show `unit` as a LUN of a target, or nothing. Raises `NoSuchTargetError`, `ConfigError`."""
        changed = self._node.set_lun(name, lun, unit)
        if unit is not None:
            self._adopt(unit)
        _tell_inventory(changed)

    async def withdraw_lun(self, name: str, lun: int) -> None:
        """Show nothing as a LUN of a target. When this returns no command for it is under way: what its
        logical unit had begun has ended, and what it had not is aborted. Raises `NoSuchTargetError`.
        """
        unit = self._node.target(name).luns[lun]
        over = asyncio.Event()
        barrier = Barrier(lambda: unit.holds.after_all(over.set))
        for session in self._node.sessions():
            session.abort(barrier, unit, tell=True)
        self.set_lun(name, lun, None)
        barrier.arm()
        await over.wait()

    def set_access(self, access: Access, *, grace_s: float = 10.0) -> None:
        """Change who may log in and see what. Sessions that are no longer allowed are ended."""
        change = self._node.set_access(access)
        for stream in self._streams.of(change.refused):
            stream.stop(grace_s)
        _tell_inventory(set(change.changed) - set(change.refused))

    # Sessions.

    def sessions(self) -> list[SessionStatus]:
        """Every normal session."""
        now = time.monotonic_ns(), time.time_ns()
        return [status_of(session, *now) for session in self._node.sessions()]

    def latency(self, unit: LogicalUnit) -> Histogram:
        """How long the commands of all initiators to a logical unit took, since it is served."""
        return latency_of(unit, self._shared, self._node.sessions())

    def latency_by_initiator(self) -> dict[str, Histogram]:
        """How long the commands of initiators took, since the front end is there: of the first that came by
        their names, of all others as `other`.
        """
        return latency_by_initiator(self._shared, self._node.sessions())

    async def disconnect(self, session_id: int, *, grace_s: float = 10.0) -> None:
        """Ask the initiator of a session to log out, and drop it if it does not. Nothing keeps it from
        coming back. Raises `NoSuchSessionError`.
        """
        session = self._node.session(session_id)
        if session is None:
            raise NoSuchSessionError(f"there is no session {session_id}")
        await self._end([session], grace_s)

    async def close(self, grace_s: float = 10.0) -> None:
        """Accept nobody and nothing more, let commands in flight finish for at most `grace_s`, then close."""
        if self._ticking is not None:
            self._ticking.cancel()
            self._ticking = None
        for server in self._servers:
            server.close()
        await _stopped(self._streams.all(), grace_s)
        for server in self._servers:
            await server.wait_closed()
        self._servers.clear()
        self._node.portals.clear()

    async def _end(self, sessions: Iterable[Session], grace_s: float) -> None:
        await _stopped(self._streams.of(sessions), grace_s)

    # What logical units tell.

    def _adopt(self, unit: LogicalUnit) -> None:
        unit.attention = partial(self._attention, unit)
        unit.abort_tasks = partial(self._abort_tasks, unit)

    def _attention(self, unit: LogicalUnit, nexus: Nexus, sense: Sense) -> None:
        """What an initiator should know before it sends its next command. (That the LUNs changed is told once
        for all of them.)
        """
        session = self._shared.by_nexus.get(nexus)
        if session is None or sense.code != CAPACITY_CHANGED.code:
            return
        for lun, shown in nexus.luns.items():
            if shown is unit:
                field = int.from_bytes(encode_lun(lun), "big")
                session.tell(SCSI_EVENT, lun=field, sense=sense.encode())

    def _abort_tasks(self, unit: LogicalUnit, nexus: Nexus, then: Callable[[], None]) -> None:
        session = self._shared.by_nexus.get(nexus)
        if session is None:
            then()
        else:
            abort_for(session, unit, then)

    def _tick(self) -> None:
        for stream in self._streams.all():
            stream.tick()
        self.logins.tick()
        heap.give_back()
        self._ticking = asyncio.get_running_loop().call_later(TICK_S, self._tick)


async def _stopped(streams: list[Stream], grace_s: float) -> None:
    for stream in streams:
        stream.stop(grace_s)
    for stream in streams:
        await stream.closed.wait()


def _tell_inventory(sessions: Iterable[Session]) -> None:
    for session in sessions:
        for unit in set(session.nexus.luns.values()):
            unit.luns_changed(session.nexus)
        session.tell(SCSI_EVENT, sense=REPORTED_LUNS_CHANGED.encode())
