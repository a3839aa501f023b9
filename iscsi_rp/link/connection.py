"""A connection that carries the replication protocol: frames out, batches of frames in.

Like the iSCSI front end it reads into one large buffer and hands over everything complete in it at once.
"""

import asyncio
import contextlib
import socket
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from iscsi_rp.errors import ConflictError, UnreachableError
from iscsi_rp.replication.frames import MAX_PAYLOAD, Frame, RemoteProtocolError, bytes_wanted, decode

_BUFFER_BYTES: Final = 1 << 20
_SOCKET_BUFFER_BYTES: Final = 4 << 20
_CONNECT_TIMEOUT_S: Final = 2.0
CLOSE_TIMEOUT_S: Final = 2.0
"For what is queued to be delivered when the appliance stops."
MAX_UNSENT_BYTES: Final = 64 << 20
"A peer that never reads is given up at this many bytes."


class Link(asyncio.BufferedProtocol):
    """One connection. `on_frames(link, frames)` gets each batch, `on_lost(link, reason)` is called exactly
    once at its end.
    """

    def __init__(
        self, on_frames: Callable[["Link", list[Frame]], None], on_lost: Callable[["Link", str], None]
    ) -> None:
        self.on_frames = on_frames
        self.on_lost = on_lost
        self.context: Any = None
        "The owner's."
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray(_BUFFER_BYTES)
        self._filled = 0
        self._reason: str | None = None

    # -- for the owner

    def send(self, data: bytes) -> None:
        self.send_all((data,))

    def send_all(self, pieces: Sequence[bytes]) -> None:
        """Queue pieces of frames, in order. A link that is closed drops them."""
        transport = self._transport
        if transport is None or self._reason is not None:
            return
        transport.writelines(pieces)
        if transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            self.close("the peer does not read")
            transport.abort()

    def close(self, reason: str) -> None:
        """Deliver what is queued, and nothing that arrives from now on."""
        if self._reason is None:
            self._reason = reason
            if self._transport is not None:
                self._transport.close()

    def abort(self) -> None:
        """Be gone, whatever is queued."""
        if self._transport is not None:
            self._transport.abort()

    @property
    def open(self) -> bool:
        return self._transport is not None and self._reason is None

    # -- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        sock = transport.get_extra_info("socket")
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, option, _SOCKET_BUFFER_BYTES)
        transport.set_write_buffer_limits(high=MAX_UNSENT_BYTES)

    def get_buffer(self, sizehint: int) -> memoryview:
        return memoryview(self._buffer)[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        self._filled += nbytes
        if self._reason is not None:
            self._filled = 0
            return
        try:
            frames, used = decode(self._buffer, self._filled)
            if frames:
                self.on_frames(self, frames)
        except RemoteProtocolError as error:
            self.close(error.message)
            return
        self._keep_rest(used)

    def _keep_rest(self, used: int) -> None:
        rest = self._filled - used
        if used:
            self._buffer[:rest] = self._buffer[used : self._filled]
        self._filled = rest
        wanted = bytes_wanted(self._buffer, rest)
        if wanted > len(self._buffer):  # decode has refused what is beyond the limit
            assert wanted <= MAX_PAYLOAD + _BUFFER_BYTES
            self._buffer = self._buffer[:rest] + bytearray(wanted - rest)

    def eof_received(self) -> None:
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._reason is None:
            self._reason = f"connection lost: {exc}" if exc else "the peer closed the connection"
        self.on_lost(self, self._reason)


async def connect(
    path: Path, on_frames: Callable[[Link, list[Frame]], None], on_lost: Callable[[Link, str], None]
) -> Link:
    """Connect to the appliance's socket. Raises UnreachableError."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            _, link = await loop.create_unix_connection(lambda: Link(on_frames, on_lost), str(path))
    except (OSError, TimeoutError) as error:
        raise UnreachableError(f"no appliance answers at {path}: {error}") from None
    return link


class Listener:
    """The appliance's socket: every connection becomes a Link whose first frames say what it is for."""

    def __init__(
        self, path: Path, on_frames: Callable[[Link, list[Frame]], None], on_lost: Callable[[Link, str], None]
    ) -> None:
        self._path = path
        self._on_frames = on_frames
        self._on_lost = on_lost
        self._links: set[Link] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Raises ConflictError when another appliance listens there."""
        await self._remove_stale()
        loop = asyncio.get_running_loop()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._server = await loop.create_unix_server(self._accept, str(self._path))
        self._path.chmod(0o600)

    async def _remove_stale(self) -> None:
        if not self._path.exists():
            return
        if not stat.S_ISSOCK(self._path.stat().st_mode):
            raise ConflictError(f"{self._path} exists and is not a socket")
        try:
            link = await connect(self._path, lambda *_: None, lambda *_: None)
        except UnreachableError:
            self._path.unlink()
            return
        link.close("only looking")
        raise ConflictError(f"another appliance listens at {self._path}")

    def _accept(self) -> Link:
        link = Link(self._on_frames, self._lost)
        self._links.add(link)
        return link

    def _lost(self, link: Link, reason: str) -> None:
        self._links.discard(link)
        self._on_lost(link, reason)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            for link in list(self._links):
                link.close("the appliance stops")
            try:
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    await self._server.wait_closed()  # from Python 3.12 on that is until every link is gone
            except TimeoutError:
                for link in list(self._links):
                    link.abort()
            self._path.unlink(missing_ok=True)
