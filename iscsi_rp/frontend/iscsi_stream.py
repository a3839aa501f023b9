"""The bytes of one iSCSI connection: received into one buffer, handled all at once, answered by one write."""

import asyncio
import socket
from collections.abc import Callable
from typing import Final

from iscsi_rp.iscsi import PDU_BYTES, Connection, Node, Target

_BUFFER_BYTES: Final = 1 << 20
assert _BUFFER_BYTES >= 2 * PDU_BYTES
_SEND_BYTES: Final = 4 << 20
"Answers that may wait for an initiator that does not read; beyond it nothing more is received from it."
LOGIN_S: Final = 15.0
"A connection that has not logged in by then is dropped."


class Stream(asyncio.BufferedProtocol):
    """The shell around a `Connection`. It ends by itself; `closed` tells when."""

    def __init__(self, node: Node, forget: Callable[["Stream"], None], *, refused: bool) -> None:
        self._node, self._forget, self._refused = node, forget, refused
        self.closed = asyncio.Event()
        self._buffer = bytearray(_BUFFER_BYTES if not refused else 1)
        self._view = memoryview(self._buffer)
        self._begin = self._end = 0
        self._congested = self._paused = self._stopping = False

    @property
    def target(self) -> Target | None:
        session = self._connection.session
        return session.target if session is not None else None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        names = (transport.get_extra_info(end) or ("", 0) for end in ("peername", "sockname"))
        peer, local = (portal_name(*name[:2]) for name in names)
        self._connection = Connection(self._node, peer, local, self._flush)
        if self._refused:
            transport.abort()
            return
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport.set_write_buffer_limits(high=_SEND_BYTES)
        self._deadline = asyncio.get_running_loop().call_later(LOGIN_S, self._check_login)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.close()
        if not self._refused:
            self._deadline.cancel()
        self._forget(self)
        self.closed.set()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._view[self._end :]

    def buffer_updated(self, nbytes: int) -> None:
        self._end += nbytes
        self._handle()

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self._congested = True

    def resume_writing(self) -> None:
        self._congested = False
        self._handle()

    def stop(self) -> None:
        """Receive nothing more; close when the commands in flight are answered."""
        self._stopping = True
        self._pause(True)
        self._close_if_idle()

    def abort(self) -> None:
        self._connection.close()
        self._transport.abort()

    def tick(self) -> None:
        session = self._connection.session
        if session is not None and not session.tick():
            self.abort()

    def _check_login(self) -> None:
        if self._connection.session is None:
            self.abort()

    def _handle(self) -> None:
        """Handle what has arrived, send what there is to say, make room for more."""
        connection = self._connection
        while self._begin < self._end and not (self._congested or connection.over or self._stopping):
            taken = connection.receive(self._view[self._begin : self._end])
            self._begin += taken
            self._send()
            if not taken:
                break
        if self._begin == self._end:
            self._begin = self._end = 0
        elif self._begin and len(self._buffer) - self._end < PDU_BYTES:
            self._view[: self._end - self._begin] = self._view[self._begin : self._end]
            self._begin, self._end = 0, self._end - self._begin
        self._pause(self._congested or connection.blocked or self._stopping)

    def _flush(self) -> None:
        """Answers that came from a device, later. They may let more be received."""
        self._send()
        if self._begin < self._end or self._paused:
            self._handle()
        if self._stopping:
            self._close_if_idle()

    def _send(self) -> None:
        out = self._connection.take_out()
        if out:
            self._transport.writelines(out)
        if self._connection.over:
            self._transport.close()

    def _pause(self, pause: bool) -> None:
        if pause == self._paused or self._transport.is_closing():
            return
        self._paused = pause
        if pause:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _close_if_idle(self) -> None:
        session = self._connection.session
        if session is None or not session.in_device:
            self._connection.close()
            self._transport.close()


def portal_name(host: str, port: int) -> str:
    """`10.0.0.1:3260`, `[::1]:3260` (RFC 7143 13.8)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
