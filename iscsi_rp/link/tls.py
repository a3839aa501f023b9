"""The way between machines: TCP with mutual TLS 1.3. Either side proves who it is before a frame is read."""

import asyncio
import contextlib
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from typing import Any, Final
from weakref import WeakKeyDictionary

import structlog

from iscsi_rp.clock import monotonic_s, utc_ns
from iscsi_rp.errors import Error
from iscsi_rp.link.connection import Link
from iscsi_rp.link.credentials import Credentials, Signature
from iscsi_rp.link.pki import Identity, identity_in

HANDSHAKE_S: Final = 4.0
MAX_HANDSHAKES: Final = 32
"Connections that have not proved who they are; one beyond them is closed."
MAX_LINKS: Final = 256
"Of one peer: each may keep a frame of 8 MiB that is not whole."
SHUTDOWN_S: Final = 2.0
WATCH_S: Final = 2.0
"Within this a change of files, as of the list of the revoked, or the end of a certificate ends what stands."
REFUSED_S: Final = 300.0
"For so long a refused connection is told."
LOG_S: Final = 1.0
"A line of the log for refused connections comes this often at most: anyone can be refused."
_KEEPALIVE: Final = {
    # A peer whose machine or cable is gone says nothing: it is lost after about ten seconds.
    "TCP_KEEPIDLE": 4,
    "TCP_KEEPINTVL": 2,
    "TCP_KEEPCNT": 3,
    "TCP_USER_TIMEOUT": 10_000,
}

_log = structlog.get_logger(__name__)


class PeerError(Error):
    """The other side is not who it should be."""


class Tls:
    """Implements `connection.Way`. `peer` is whom the connecting side wants to find; the listening side takes
    anyone of the authority, and `Link.identity` says who came.
    """

    remote = True

    def __init__(self, host: str, port: int, credentials: Credentials, peer: Identity | None = None) -> None:
        self._host, self._port = host, port
        self._credentials = credentials
        self._peer = peer
        self._signature = credentials.signature()
        self._links: WeakKeyDictionary[Link, float] = WeakKeyDictionary()
        "Until when the peer's certificate is valid: seconds since 1970, UTC."
        self._handshakes: dict[asyncio.Task[None], str] = {}
        "And the address that each comes from; the oldest first."
        self._watcher: asyncio.Task[None] | None = None
        self._refused: tuple[float, str] | None = None
        "When (monotonic, seconds), and what to say of it."
        self._logged_s = -LOG_S
        self._unlogged = 0

    def __str__(self) -> str:
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{host}:{self._port} (TLS)"

    @property
    def trouble(self) -> str | None:
        if self._refused and monotonic_s() - self._refused[0] < REFUSED_S:
            return self._refused[1]
        try:
            return self._credentials.expiry
        except Error as error:
            return error.message

    # -- connecting

    async def connect(self, link: Link) -> None:
        """Raises OSError, ConfigError, PeerError."""
        self._watch()
        signature, context = await asyncio.to_thread(self._read, False)
        gate = _Gate()
        try:
            transport, _ = await asyncio.get_running_loop().create_connection(
                lambda: gate,
                self._host,
                self._port,
                ssl=context,
                server_hostname="",
                ssl_handshake_timeout=HANDSHAKE_S,
                ssl_shutdown_timeout=SHUTDOWN_S,
            )
        except ssl.SSLError as error:
            raise PeerError(f"the other side at {self} is refused: {_reason(error)}") from None
        except ConnectionAbortedError:  # the timeout of the handshake
            raise PeerError(f"the other side at {self} does not speak TLS") from None
        found = _identity(transport)
        if found != self._peer:
            transport.abort()
            raise PeerError(f"the other side at {self} is {found or 'nobody'} and not {self._peer}")
        self._admit(transport, gate, link, signature)

    def _read(self, server: bool) -> tuple[Signature, ssl.SSLContext]:
        return self._credentials.signature(), self._credentials.context(server=server)

    def _admit(self, transport: asyncio.Transport, gate: "_Gate", link: Link, signature: Signature) -> None:
        """Raises ConnectionResetError."""
        if gate.lost:
            raise ConnectionResetError("it went away at once")
        if signature != self._signature:
            # Perhaps it was revoked while it proved itself, and whoever stood has been ended already.
            transport.abort()
            raise ConnectionResetError("the certificates of this site have just changed")
        link.identity = _identity(transport)
        self._links[link] = ssl.cert_time_to_seconds(transport.get_extra_info("peercert")["notAfter"])
        _set_keepalive(transport)
        transport.set_protocol(link)
        link.connection_made(transport)
        if gate.early:
            link.get_buffer(len(gate.early))[: len(gate.early)] = gate.early
            link.buffer_updated(len(gate.early))

    # -- listening

    async def listen(self, make: Callable[[], Link]) -> asyncio.Server:
        """Raises OSError, ConfigError."""
        self._watch()
        await asyncio.to_thread(self._credentials.context, server=True)  # what is wrong is told at the start
        return await asyncio.get_running_loop().create_server(
            lambda: _Arrival(self._arrived, make), self._host, self._port
        )

    def _arrived(self, transport: asyncio.Transport, make: Callable[[], Link]) -> None:
        transport.pause_reading()
        peer = _host(transport)
        if len(self._handshakes) >= MAX_HANDSHAKES:
            self._refuse(transport, "too many connections have not said yet who they are")
            # Who fills the places keeps out nobody at another address.
            ((crowd, _),) = Counter(self._handshakes.values()).most_common(1)
            if peer == crowd:
                transport.abort()
                return
            next(task for task, host in self._handshakes.items() if host == crowd).cancel()
        task = asyncio.create_task(self._welcome(transport, make), name="tls-handshake")
        self._handshakes[task] = peer
        task.add_done_callback(self._handshakes.pop)

    async def _welcome(self, transport: asyncio.Transport, make: Callable[[], Link]) -> None:
        gate = _Gate()
        try:
            signature, context = await asyncio.to_thread(self._read, True)
            secure = await asyncio.get_running_loop().start_tls(
                transport,
                gate,
                context,
                server_side=True,
                ssl_handshake_timeout=HANDSHAKE_S,
                ssl_shutdown_timeout=SHUTDOWN_S,
            )
        except (OSError, Error) as error:
            self._refuse(transport, _reason(error))
            transport.abort()
            return
        except asyncio.CancelledError:
            transport.abort()
            raise
        if secure is None:  # it went away meanwhile
            return
        identity = _identity(secure)
        reason = None
        if identity is None:
            reason = "its certificate does not say who it is"
        elif sum(link.open and link.identity == identity for link in self._links) >= MAX_LINKS:
            reason = f"{identity} has {MAX_LINKS} links already"
        if reason:
            self._refuse(transport, reason)
            secure.abort()
            return
        with contextlib.suppress(ConnectionResetError):
            self._admit(secure, gate, make(), signature)

    def _refuse(self, transport: asyncio.Transport, reason: str) -> None:
        peer = _host(transport)
        text = f"a connection from {peer} to {self} was refused: {reason}"
        now_s = monotonic_s()
        again = (
            self._refused is not None and self._refused[1] == text and now_s - self._refused[0] < REFUSED_S
        )
        self._refused = now_s, text
        if again:
            return
        if now_s - self._logged_s < LOG_S:
            self._unlogged += 1
            return
        _log.warning("connection refused", way=str(self), peer=peer, reason=reason, more=self._unlogged)
        self._logged_s, self._unlogged = now_s, 0

    # -- the files

    def _watch(self) -> None:
        if self._watcher is None:
            self._watcher = asyncio.create_task(self._end_what_is_out_of_date(), name="certificates")

    async def _end_what_is_out_of_date(self) -> None:
        """Who stands was believed by files that are others now: each has to prove itself anew."""
        while True:
            await asyncio.sleep(WATCH_S)
            signature = await asyncio.to_thread(self._credentials.signature)
            if signature != self._signature:
                self._signature = signature
                _log.info("certificates changed", way=str(self), links=len(self._links))
                for link in list(self._links):
                    link.close("the certificates of this site have changed")
            for link, end_s in list(self._links.items()):
                if end_s < utc_ns() / 1e9:
                    link.close(f"the certificate of {link.identity} has expired")

    async def close(self) -> None:
        for task in (*self._handshakes, *filter(None, (self._watcher,))):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


class _Gate(asyncio.Protocol):
    """Keeps what comes until it is known who sends it; at most what the transport reads at once."""

    def __init__(self) -> None:
        self.early = bytearray()
        self.lost = False

    def data_received(self, data: bytes) -> None:
        self.early += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True


class _Arrival(asyncio.Protocol):
    """A connection before TLS."""

    def __init__(
        self,
        arrived: Callable[[asyncio.Transport, Callable[[], Link]], None],
        make: Callable[[], Link],
    ) -> None:
        self._arrived = arrived
        self._make = make

    def connection_made(self, transport: Any) -> None:
        self._arrived(transport, self._make)


def _host(transport: asyncio.BaseTransport) -> str:
    peer = transport.get_extra_info("peername")
    return str(peer[0]) if peer else "somebody"  # it is gone again


def _identity(transport: asyncio.BaseTransport) -> Identity | None:
    return identity_in(transport.get_extra_info("peercert") or {})


def _set_keepalive(transport: asyncio.Transport) -> None:
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        with contextlib.suppress(AttributeError, OSError):  # not every system has each
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate does not hold: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).lower().replace("_", " ")
    if isinstance(error, ConnectionResetError):
        return "it went away before it had said who it is"
    return str(error) or type(error).__name__
