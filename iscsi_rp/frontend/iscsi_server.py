"""The embedded iSCSI front end: portals, targets, and what may be connected at once.

Everything runs on one event loop. A portal accepts, a `Stream` moves the bytes, a `Connection` does the rest.
"""

import asyncio
import errno
from collections.abc import Mapping
from typing import Final, NamedTuple

from iscsi_rp.errors import ConfigError, ConflictError
from iscsi_rp.frontend.iscsi_stream import Stream, portal_name
from iscsi_rp.iscsi import Node, Session
from iscsi_rp.scsi import LogicalUnit

CONNECTIONS: Final = 256
"Connections at once, logged in or not; one more is closed as soon as it is accepted."
TICK_S: Final = 15.0
"An initiator silent for two ticks is asked for a sign of life; silent for four it is dropped."


class PortInUseError(ConflictError):
    """The port is in use."""


class AddressError(ConfigError):
    """The address cannot be listened on."""


class SessionStatus(NamedTuple):
    """A session as `status` shows it."""

    initiator: str
    target: str
    peer: str
    commands: int
    outstanding: int
    bytes_read: int
    bytes_written: int


class IscsiServer:
    """Serves logical units to initiators. Made and used on a running event loop."""

    def __init__(self) -> None:
        self._node = Node()
        self._servers: list[asyncio.Server] = []
        self._streams: set[Stream] = set()
        self._ticking: asyncio.TimerHandle | None = None

    async def listen(self, host: str, port: int) -> tuple[str, int]:
        """Open a portal, IPv4 or IPv6; port 0 takes a free one. Returns its address.

        Raises `PortInUseError`, `AddressError`.
        """
        loop = asyncio.get_running_loop()
        try:
            server = await loop.create_server(self._accept, host, port, backlog=128)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortInUseError(f"{portal_name(host, port)} is in use") from None
            raise AddressError(f"cannot listen on {portal_name(host, port)}: {error.strerror}") from None
        address: tuple[str, int] = server.sockets[0].getsockname()[:2]
        self._servers.append(server)
        if address[0] not in ("0.0.0.0", "::"):
            self._node.portals.append(portal_name(*address))
        if self._ticking is None:
            self._ticking = loop.call_later(TICK_S, self._tick)
        return address

    def add_target(self, name: str, luns: Mapping[int, LogicalUnit]) -> None:
        """Raises `TargetNameError`, `TargetExistsError`, `ConfigError`."""
        self._node.add_target(name, dict(luns))

    async def remove_target(self, name: str, *, grace_s: float = 10.0) -> None:
        """Refuse new sessions of a target, end those it has. Raises `NoSuchTargetError`."""
        target = self._node.remove_target(name)
        await self._end([stream for stream in self._streams if stream.target is target], grace_s)

    def set_lun(self, name: str, lun: int, unit: LogicalUnit | None) -> None:
        """Show `unit` as a LUN of a target, or nothing. Raises `NoSuchTargetError`, `ConfigError`."""
        self._node.set_lun(name, lun, unit)

    def sessions(self) -> list[SessionStatus]:
        """Every normal session."""
        return [_status(session) for session in self._node.sessions()]

    async def close(self, grace_s: float = 10.0) -> None:
        """Accept nobody and nothing more, let commands in flight finish for at most `grace_s`, then close."""
        if self._ticking is not None:
            self._ticking.cancel()
            self._ticking = None
        for server in self._servers:
            server.close()
        await self._end(list(self._streams), grace_s)
        for server in self._servers:
            await server.wait_closed()
        self._servers.clear()
        self._node.portals.clear()

    async def _end(self, streams: list[Stream], grace_s: float) -> None:
        for stream in streams:
            stream.stop()
        try:
            async with asyncio.timeout(grace_s):
                for stream in streams:
                    await stream.closed.wait()
        except TimeoutError:
            for stream in streams:
                stream.abort()

    def _accept(self) -> Stream:
        stream = Stream(self._node, self._streams.discard, refused=len(self._streams) >= CONNECTIONS)
        self._streams.add(stream)
        return stream

    def _tick(self) -> None:
        for stream in list(self._streams):
            stream.tick()
        self._ticking = asyncio.get_running_loop().call_later(TICK_S, self._tick)


def _status(session: Session) -> SessionStatus:
    return SessionStatus(
        session.initiator,
        session.target.name if session.target else "",
        session.peer,
        session.commands,
        session.outstanding,
        session.bytes_read,
        session.bytes_written,
    )
