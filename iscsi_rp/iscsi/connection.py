"""One connection: cuts the stream into PDUs and hands them to its login, then to its session.

Sans-IO: the front end gives `receive` what has arrived and sends what `take_out` returns.
"""

from collections.abc import Callable
from typing import Final

from iscsi_rp.device import Buffer
from iscsi_rp.iscsi.keys import LOGIN_DATA_BYTES, MAX_RECV_DATA_BYTES
from iscsi_rp.iscsi.login import INITIATOR_ERROR, Login, LoginRefusedError
from iscsi_rp.iscsi.node import Node
from iscsi_rp.iscsi.pdu import (
    HEADER,
    HEADER_BYTES,
    LOGIN,
    REJECT_PROTOCOL_ERROR,
    SCSI_COMMAND,
    Header,
    ProtocolError,
    reject,
)
from iscsi_rp.iscsi.session import Session

_AHS_BYTES: Final = 255 * 4
PDU_BYTES: Final = HEADER_BYTES + _AHS_BYTES + MAX_RECV_DATA_BYTES
"The longest PDU: a receive buffer must hold one."

Fields = tuple[int, int, int, int, int, int, int, int, int, bytes]


class Connection:
    """See the module's docstring."""

    def __init__(self, node: Node, peer: str, local: str, flush: Callable[[], None]) -> None:
        """`peer` and `local` are the addresses of both ends. `flush` is called when answers come while
        nothing is being received: it must send them."""
        self._node, self._peer, self._local, self._flush = node, peer, local, flush
        self._login: Login | None = Login(node)
        self._out: list[Buffer] = []
        self._over = False
        self.session: Session | None = None

    @property
    def over(self) -> bool:
        """To be closed once `out` is sent."""
        return self._over or (self.session is not None and self.session.over)

    @property
    def blocked(self) -> bool:
        """`receive` takes nothing until commands have ended."""
        return self.session is not None and self.session.blocked

    def take_out(self) -> list[Buffer]:
        """What is to be sent now."""
        if self.session is None:
            out, self._out = self._out, []
        else:
            out, self.session.out = self.session.out, []
        return out

    def receive(self, data: memoryview) -> int:
        """Handle the complete PDUs in `data`; returns how many bytes of it are done with."""
        at = 0
        try:
            while not self.over:
                taken = self._login_pdu(data[at:]) if self.session is None else self._pdus(data[at:])
                at += taken
                if not taken:
                    break
        except ProtocolError:
            self.close()
            return len(data)
        return at

    def close(self) -> None:
        """The peer is gone, or has to go."""
        self._over = True
        if self.session is not None:
            self.session.end()

    def _login_pdu(self, data: memoryview) -> int:
        if len(data) < HEADER_BYTES:
            return 0
        header = Header._make(HEADER.unpack_from(data))
        length = header.lengths & 0xFFFFFF
        if header.opcode & 0x3F != LOGIN or header.lengths >> 24 or length > LOGIN_DATA_BYTES:
            raise ProtocolError("A connection begins with a login.")
        end = HEADER_BYTES + length
        total = end + (-length & 3)
        if len(data) < total:
            return 0
        assert self._login is not None
        try:
            self._out.append(self._login.receive(header, data[HEADER_BYTES:end]))
        except ProtocolError as error:
            status = error.status if isinstance(error, LoginRefusedError) else INITIATOR_ERROR
            self._out.append(self._login.refusal(header, status))
            self._over = True
        if self._login.done:
            self._open_session(self._login)
        return total

    def _open_session(self, login: Login) -> None:
        self.session = Session(login, self._node, self._peer, self._local, self._flush)
        self.session.out = self._out
        self._login = None
        if login.target is None:
            return
        for old in list(login.target.sessions):
            # Session reinstatement (RFC 7143 6.3.5).
            if (old.initiator, old.isid) == (login.initiator, login.isid):
                old.close()
        login.target.sessions.add(self.session)

    def _pdus(self, data: memoryview) -> int:
        """All complete PDUs that the session may take, and their commands to the logical units."""
        session = self.session
        assert session is not None
        at, end = 0, len(data)
        unpack = HEADER.unpack_from
        session.begin()
        try:
            while end - at >= HEADER_BYTES and not session.blocked and not session.over:
                fields: Fields = unpack(data, at)
                lengths = fields[3]
                length = lengths & 0xFFFFFF
                if length > MAX_RECV_DATA_BYTES:
                    session.out.append(reject(Header._make(fields), REJECT_PROTOCOL_ERROR, session.numbers()))
                    raise ProtocolError("A data segment is longer than was agreed.")
                begin = at + HEADER_BYTES + (lengths >> 24) * 4
                following = begin + (length + 3 & ~3)
                if following > end:
                    break
                segment = data[begin : begin + length]
                if fields[0] & 0x3F == SCSI_COMMAND:
                    session.command(fields, segment)
                else:
                    session.receive(Header._make(fields), segment)
                at = following
        finally:
            session.submit()
        return at
