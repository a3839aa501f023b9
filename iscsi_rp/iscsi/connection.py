"""One connection: cuts the stream into PDUs and hands them to its login, then to its session.

Sans-IO: the front end gives `receive` what has arrived and sends what `take_out` returns.
"""

from collections.abc import Callable
from typing import Final

from iscsi_rp.device import Buffer
from iscsi_rp.iscsi.digest import DIGEST_BYTES, intact, with_digests
from iscsi_rp.iscsi.keys import LOGIN_DATA_BYTES, MAX_RECV_DATA_BYTES
from iscsi_rp.iscsi.login import INITIATOR_ERROR, REASONS, WINDOW, Login, LoginRefusedError
from iscsi_rp.iscsi.node import Node
from iscsi_rp.iscsi.pdu import (
    HEADER,
    HEADER_BYTES,
    LOGIN,
    REJECT_PROTOCOL_ERROR,
    SCSI_COMMAND,
    Header,
    ProtocolError,
    RejectedError,
    extended_cdb,
)
from iscsi_rp.iscsi.refusal import Refusal, refusal
from iscsi_rp.iscsi.session import Fields, Session
from iscsi_rp.iscsi.shared import Shared
from iscsi_rp.iscsi.task_management import Barrier

_AHS_BYTES: Final = 255 * 4
PDU_BYTES: Final = HEADER_BYTES + _AHS_BYTES + MAX_RECV_DATA_BYTES + 2 * DIGEST_BYTES
"The longest PDU: a receive buffer must hold one."
_PDUS: Final = WINDOW
"Handled at a time, so that no connection keeps the others waiting for long."


class _HeaderDigestError(ProtocolError):
    """A header is damaged: not even its length, and so where the next one begins, can be trusted."""


class Connection:
    """See the module's docstring."""

    def __init__(
        self,
        node: Node,
        peer: str,
        local: str,
        flush: Callable[[], None],
        portal_group: int = 1,
        shared: Shared | None = None,
    ) -> None:
        """`peer` and `local` are the addresses of both ends. `flush` is called when answers come while
        nothing is being received: it must send them. `portal_group` is that of the portal it came to."""
        self._peer, self._local, self._flush = peer, local, flush
        self._node, self._shared = node, shared or Shared()
        self._login: Login | None = Login(node, portal_group)
        self._out: list[Buffer] = []
        self._over = False
        self._header_digest = self._data_digest = False
        self._welcome: bytes | None = None
        "The last answer of a login that waits for the end of earlier sessions."
        self.session: Session | None = None
        self.refused: Refusal | None = None
        "Why the login was refused."

    @property
    def over(self) -> bool:
        """To be closed once `out` is sent."""
        return self._over or (self.session is not None and self.session.over)

    @property
    def blocked(self) -> bool:
        """`receive` takes nothing until commands have ended."""
        return self.session is not None and (self._welcome is not None or self.session.blocked)

    def take_out(self) -> list[Buffer]:
        """What is to be sent now."""
        session = self.session
        if session is None:
            out, self._out = self._out, []
            return out
        if self._welcome is not None:
            return []
        out, session.out = session.out, []
        if self._header_digest or self._data_digest:
            out = with_digests(out, header=self._header_digest, data=self._data_digest)
        if self._out:
            # The last answer of the login: it has no digests yet.
            out, self._out = self._out + out, []
        return out

    def receive(self, data: memoryview) -> int:
        """Handle complete PDUs in `data`; returns how many bytes of it are done with. There may be more
        complete ones in the rest: only when it returns 0 there is nothing that can be done now.
        """
        if self.over:
            return 0
        try:
            return self._login_pdu(data) if self.session is None else self._pdus(data)
        except ProtocolError:
            self.close()
            return len(data)

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
            answer = self._login.receive(header, data[HEADER_BYTES:end])
        except ProtocolError as error:
            status = error.status if isinstance(error, LoginRefusedError) else INITIATOR_ERROR
            self._out.append(self._login.refusal(header, status))
            self._over = True
            self.refused = refusal(self._login.initiator, REASONS[status], error.message)
        else:
            if self._login.done:
                self._open_session(self._login, answer)
            else:
                self._out.append(answer)
        return total

    def _open_session(self, login: Login, answer: bytes) -> None:
        """Begin the session, and say so by `answer` when nothing of one that it replaces can change a block
        any more (RFC 7143 6.3.5).
        """
        self.session = Session(login, self._shared, self._peer, self._local, self._flush)
        self._login = None
        self._header_digest, self._data_digest = login.parameters.header_digest, login.parameters.data_digest
        replaced = self._node.open_session(self.session)
        if replaced is not None:
            replaced.close()
        barrier = Barrier(self._answer_login)
        self.session.when_predecessors_ended(barrier)
        if barrier.over:
            self._out.append(answer)
        else:
            self._welcome = answer
            barrier.arm()

    def _answer_login(self) -> None:
        assert self._welcome is not None
        self._out.append(self._welcome)
        self._welcome = None
        if not self.over:
            self._flush()

    def _pdus(self, data: memoryview) -> int:
        """Complete PDUs that the session may take, and their commands to the logical units."""
        session = self.session
        assert session is not None
        if self._welcome is not None:
            return 0
        may_hold = session.may_hold_bytes
        at, end = 0, len(data)
        unpack = HEADER.unpack_from
        head_bytes = HEADER_BYTES + DIGEST_BYTES if self._header_digest else HEADER_BYTES
        after_data = DIGEST_BYTES if self._data_digest else 0
        session.begin()
        try:
            for _ in range(_PDUS):
                if end - at < head_bytes or session.held_bytes > may_hold or session.over:
                    break
                fields: Fields = unpack(data, at)
                lengths = fields[3]
                length = lengths & 0xFFFFFF
                begin = at + head_bytes + (lengths >> 22 & 0x3FC)
                following = begin + (length + 3 & ~3) + (after_data if length else 0)
                if self._header_digest and begin <= end and not intact(data, at, begin - DIGEST_BYTES):
                    raise _HeaderDigestError
                if length > MAX_RECV_DATA_BYTES:
                    raise ProtocolError("A data segment is longer than was agreed.")
                if following > end:
                    break
                segment = data[begin : begin + length]
                if after_data and length and not intact(data, begin, following - DIGEST_BYTES):
                    session.damaged(Header._make(fields))
                elif fields[0] & 0x3F != SCSI_COMMAND:
                    session.receive(Header._make(fields), segment)
                elif lengths <= 0xFFFFFF:
                    session.command(fields, segment)
                else:
                    additional = data[at + HEADER_BYTES : begin - head_bytes + HEADER_BYTES]
                    self._extended(session, fields, additional, segment)
                at = following
        except ProtocolError as error:
            if not isinstance(error, _HeaderDigestError):
                session.reject(Header._make(fields), REJECT_PROTOCOL_ERROR)
            raise
        finally:
            session.submit()
        return at

    def _extended(self, session: Session, fields: Fields, additional: Buffer, data: Buffer) -> None:
        """A command with additional header segments."""
        try:
            cdb = extended_cdb(fields[9], additional)
        except RejectedError as error:
            session.refuse(Header._make(fields), error.reason)
        else:
            session.command((*fields[:9], cdb), data)
