"""The bytes of one iSCSI connection: received into one buffer, handled all at once, answered by one write."""

import asyncio
import math
import os
import socket
from collections import deque
from typing import TYPE_CHECKING, Final

from iscsi_rp.device import Buffer
from iscsi_rp.iscsi import PDU_BYTES, Connection, Session
from iscsi_rp.iscsi.pdu import LOGOUT_REQUESTED

if TYPE_CHECKING:
    from iscsi_rp.frontend.iscsi_streams import Streams

BUFFER_BYTES: Final = 1 << 20
assert BUFFER_BYTES >= 2 * PDU_BYTES
_SEND_BYTES: Final = 1 << 20
"Answers that may wait for an initiator that does not read; beyond it nothing more is received from it."
_BUFFERS: Final = 1024
"The most that one `writev` takes (IOV_MAX)."
LOGIN_S: Final = 15.0
"A connection that has not logged in by then is dropped."
LOGOUT_S: Final = 1.0
"How long an initiator may take to log out when it is asked to."


class ReceiveBuffer:
    """The one buffer that all streams receive into: what is received is handled before anything else runs.

    What a stream leaves in it, the beginning of a PDU, stays there until another stream needs the buffer.
    """

    def __init__(self) -> None:
        self.view = memoryview(bytearray(BUFFER_BYTES))
        self._user: Stream | None = None

    def give_to(self, stream: "Stream") -> bool:
        """True when another stream had it, which has taken what it left with it."""
        if self._user is stream:
            return False
        if self._user is not None:
            self._user.leave_buffer()
        self._user = stream
        return True

    def give_up(self, stream: "Stream") -> None:
        """The stream is closed."""
        if self._user is stream:
            self._user = None


class Stream(asyncio.BufferedProtocol):
    """The shell around a `Connection`. It ends by itself; `closed` tells when."""

    def __init__(self, streams: "Streams", portal_group: int) -> None:
        self._streams, self._portal_group = streams, portal_group
        self._buffer = streams.buffer
        self.closed = asyncio.Event()
        self._view = memoryview(b"")
        self._begin = self._end = 0
        self._unsent: deque[Buffer] = deque()
        self._unsent_bytes = 0
        self._congested = self._paused = self._again = self._draining = False
        self._stopping: asyncio.TimerHandle | None = None

    @property
    def session(self) -> Session | None:
        return self._connection.session

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        names = (transport.get_extra_info(end) or ("", 0) for end in ("peername", "sockname"))
        self._peer, local = (portal_name(*name[:2]) for name in names)
        node, shared = self._streams.node, self._streams.shared
        self._connection = Connection(node, self._peer, local, self._flush, self._portal_group, shared)
        self._socket = transport.get_extra_info("socket")
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport.set_write_buffer_limits(high=_SEND_BYTES, low=0)
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.call_later(LOGIN_S, self._check_login)
        self._streams.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.close()
        self._deadline.cancel()
        if self._stopping is not None:
            self._stopping.cancel()
        self._buffer.give_up(self)
        self._view = memoryview(b"")
        self._begin = self._end = 0
        self._unsent.clear()
        self._count_unsent(0)
        self.closed.set()
        self._streams.gone(self)

    # What comes in.

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._buffer.give_to(self) or BUFFER_BYTES - self._end < PDU_BYTES:
            left = self._end - self._begin
            view = self._buffer.view
            view[:left] = self._view[self._begin : self._end]
            self._view, self._begin, self._end = view, 0, left
        return self._view[self._end :]

    def leave_buffer(self) -> None:
        """Another stream needs the buffer: keep what is left of ours."""
        self._view = memoryview(bytes(self._view[self._begin : self._end]))
        self._begin, self._end = 0, len(self._view)

    def buffer_updated(self, nbytes: int) -> None:
        self._end += nbytes
        self._handle()

    def eof_received(self) -> bool:
        return False

    def _handle(self) -> None:
        """Handle what has arrived, send what there is to say, make room for more."""
        connection = self._connection
        logging_in = connection.session is None
        if self._begin < self._end and not (self._congested or self._draining):
            taken = connection.receive(self._view[self._begin : self._end])
            self._begin += taken
            self._send()
            if logging_in and taken:
                self._look_at_login()
            if self._begin == self._end:
                self._begin = self._end = 0
            elif taken:
                # There may be more that is complete; others have their turn before.
                self._handle_again()
        full = self._end - self._begin > BUFFER_BYTES - PDU_BYTES
        self._pause(self._congested or self._draining or full or connection.blocked)

    def _look_at_login(self) -> None:
        connection = self._connection
        if connection.session is not None:
            self._deadline.cancel()
            self._streams.logged_in(self)
        elif connection.refused is not None:
            self._streams.logins.refuse(self._peer, connection.refused)

    def _handle_again(self) -> None:
        if not self._again:
            self._again = True
            self._loop.call_soon(self._handle_rest)

    def _handle_rest(self) -> None:
        self._again = False
        if not self._transport.is_closing():
            self._handle()

    def _pause(self, pause: bool) -> None:
        if pause == self._paused or self._transport.is_closing():
            return
        self._paused = pause
        if pause:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    # What goes out.

    def pause_writing(self) -> None:
        self._congested = True

    def resume_writing(self) -> None:
        self._congested = False
        self._unsent = deque(self._write(list(self._unsent)))
        self._send_unsent()
        if not self._congested:
            self._handle()

    def _flush(self) -> None:
        """Answers that came from a device, later. They may let more be received."""
        self._send()
        if self._paused:
            self._handle_again()
        if self._draining:
            self._close_if_idle()

    def _send(self) -> None:
        out = self._connection.take_out()
        if out:
            self._unsent.extend(out if self._unsent else self._write(out))
            self._send_unsent()
            if self._congested:
                unsent_bytes = sum(map(len, self._unsent))
                self._count_unsent(unsent_bytes + self._transport.get_write_buffer_size())
        if self._connection.over:
            self._transport.writelines(self._unsent)
            self._unsent.clear()
            self._transport.close()

    def _send_unsent(self) -> None:
        """Leave what the socket does not take to the transport, which copies it, up to its limit."""
        unsent = self._unsent
        while unsent and not self._congested:
            self._transport.write(unsent.popleft())
        if not self._congested:
            self._count_unsent(0)

    def _write(self, out: list[Buffer]) -> list[Buffer]:
        """Write all at once, and not by way of the transport, which would copy it. Returns what the socket
        did not take.
        """
        if self._transport.get_write_buffer_size() or self._transport.is_closing():
            return out
        while out:
            piece, rest = out[:_BUFFERS], out[_BUFFERS:]
            try:
                sent = os.writev(self._socket.fileno(), piece)
            except OSError:
                return out  # it is full, or broken: the transport will see
            if sent < sum(map(len, piece)):
                return _behind(piece, sent) + rest
            out = rest
        return out

    def _count_unsent(self, unsent_bytes: int) -> None:
        """What nobody reads is a part of what all sessions may hold."""
        more, self._unsent_bytes = unsent_bytes - self._unsent_bytes, unsent_bytes
        if more > 0:
            self._streams.shared.budget.take(more)
        elif more < 0:
            self._streams.shared.budget.give_back(-more)

    # The end.

    def stop(self, grace_s: float) -> None:
        """Ask the initiator to log out; if it does not, receive nothing more and close when the commands in
        flight are answered, or at the end of the grace in any case.
        """
        session = self._connection.session
        if self._stopping is not None:
            return None
        if session is None or session.over:
            return self.abort()
        logout_s = min(LOGOUT_S, grace_s / 2)
        session.tell(LOGOUT_REQUESTED, seconds=math.ceil(logout_s))
        self._stopping = self._loop.call_later(logout_s, self._drain, grace_s - logout_s)
        return None

    def _drain(self, grace_s: float) -> None:
        self._draining = True
        self._stopping = self._loop.call_later(grace_s, self.abort)
        self._pause(True)
        self._close_if_idle()

    def abort(self) -> None:
        self._connection.close()
        self._transport.abort()

    def tick(self) -> None:
        """An initiator that we do not listen to, because its commands wait for a device, is not silent."""
        session = self._connection.session
        if session is None or (self._paused and not self._congested):
            return
        if not session.tick():
            self.abort()

    def _check_login(self) -> None:
        if self._connection.session is None:
            self.abort()

    def _close_if_idle(self) -> None:
        session = self._connection.session
        if session is not None and not session.in_device and not session.over:
            session.drop()


def _behind(buffers: list[Buffer], size: int) -> list[Buffer]:
    """What follows the first `size` bytes, fewer than they have."""
    at = 0
    while size >= len(buffers[at]):
        size -= len(buffers[at])
        at += 1
    return [memoryview(buffers[at])[size:], *buffers[at + 1 :]]


def portal_name(host: str, port: int) -> str:
    """`10.0.0.1:3260`, `[::1]:3260` (RFC 7143 13.8)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
