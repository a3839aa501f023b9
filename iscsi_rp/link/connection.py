"""A connection that carries the replication protocol: frames out, batches of frames in.

Like the iSCSI front end it reads into one large buffer and hands over everything complete in it at once.
"""

import asyncio
import contextlib
import errno
import socket
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from iscsi_rp.device import Buffer
from iscsi_rp.errors import ConfigError, ConflictError, UnreachableError
from iscsi_rp.link.pki import Identity
from iscsi_rp.replication.frames import MAX_PAYLOAD, Frame, RemoteProtocolError, bytes_wanted, decode

_BUFFER_BYTES: Final = 1 << 20
_SOCKET_BUFFER_BYTES: Final = 4 << 20
_CONNECT_TIMEOUT_S: Final = 5.0
CLOSE_TIMEOUT_S: Final = 2.0
"For what is queued to be delivered when the appliance stops."
FIRST_FRAME_S: Final = 10.0
"A link that nothing has come by which has a meaning is given up."
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
        "The owner's; None before the first frame that has a meaning."
        self.identity: Identity | None = None
        "Who the peer has proved to be; on a Unix socket nobody has to."
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray(_BUFFER_BYTES)
        self._filled = 0
        self._reason: str | None = None

    # -- for the owner

    def send(self, data: bytes) -> None:
        self.send_all((data,))

    def send_all(self, pieces: Sequence[Buffer]) -> None:
        """Queue pieces of frames, in order; they are not to be changed any more. A link that is closed drops
        them.
        """
        transport = self._transport
        if transport is None or self._reason is not None or transport.is_closing():
            return
        if len(pieces) == 1:
            transport.write(memoryview(pieces[0]))  # of which no rest is copied
        else:
            transport.writelines(pieces)  # Python 3.11 puts them together first
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
        if sock.family == socket.AF_UNIX:  # TCP's grow by themselves, unless they are set
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


class Way(Protocol):
    """How an array and an appliance reach each other; `str` of it says where."""

    remote: bool
    "It leads to another machine."

    @property
    def trouble(self) -> str | None:
        """What an operator should know of it."""
        ...

    async def connect(self, link: Link) -> None:
        """Raises OSError, or an Error that says why the other side is not who it should be."""
        ...

    async def listen(self, make: Callable[[], Link]) -> asyncio.Server:
        """Each connection becomes a link that `make` made. Raises OSError, ConflictError."""
        ...

    async def close(self) -> None:
        """Nothing connects or listens any more."""
        ...


async def connect(
    way: Way, on_frames: Callable[[Link, list[Frame]], None], on_lost: Callable[[Link, str], None]
) -> Link:
    """Connect to the appliance. Raises UnreachableError."""
    link = Link(on_frames, on_lost)
    try:
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            await way.connect(link)
    except TimeoutError:
        raise UnreachableError(f"no appliance answers at {way} within {_CONNECT_TIMEOUT_S:.0f} s") from None
    except OSError as error:
        raise UnreachableError(f"no appliance answers at {way}: {error}") from None
    return link


class Listener:
    """The appliance's end: every connection becomes a Link whose first frames say what it is for."""

    def __init__(
        self, way: Way, on_frames: Callable[[Link, list[Frame]], None], on_lost: Callable[[Link, str], None]
    ) -> None:
        self.way = way
        self._on_frames = on_frames
        self._on_lost = on_lost
        self._links: dict[Link, asyncio.TimerHandle] = {}
        "And when it has to have said what it is for."
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Raises ConflictError when something else listens there, ConfigError when nothing can."""
        try:
            self._server = await self.way.listen(self._accept)
        except OSError as error:
            kind = ConflictError if error.errno == errno.EADDRINUSE else ConfigError
            raise kind(f"cannot listen at {self.way}: {error.strerror or error}") from error

    def _accept(self) -> Link:
        link = Link(self._on_frames, self._lost)
        self._links[link] = asyncio.get_running_loop().call_later(FIRST_FRAME_S, self._check_begun, link)
        return link

    def _check_begun(self, link: Link) -> None:
        if link.context is None:
            link.close("it has not said what it is for")

    def _lost(self, link: Link, reason: str) -> None:
        self._links.pop(link).cancel()
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
            await self.way.close()
