"""The login phase: stages, keys and refusals, until a session is agreed (RFC 7143 6.3, 11.12, 11.13)."""

from dataclasses import dataclass, field
from typing import Final

from iscsi_rp.device import Buffer
from iscsi_rp.iscsi.keys import (
    LOGIN_DATA_BYTES,
    MAX_RECV_DATA_BYTES,
    NOT_UNDERSTOOD,
    REJECT,
    Parameters,
)
from iscsi_rp.iscsi.node import Node, NoSuchTargetError, Target
from iscsi_rp.iscsi.pdu import CONTINUE, FINAL, Header, Numbers, ProtocolError, login_response
from iscsi_rp.iscsi.text import TEXT_BYTES, decode_text, encode_text
from iscsi_rp.scsi.task import TargetPort

SECURITY: Final = 0
OPERATIONAL: Final = 1
FULL_FEATURE: Final = 3

SUCCESS: Final = 0x0000
INITIATOR_ERROR: Final = 0x0200
AUTHENTICATION_FAILURE: Final = 0x0201
NOT_FOUND: Final = 0x0203
UNSUPPORTED_VERSION: Final = 0x0205
TOO_MANY_CONNECTIONS: Final = 0x0206
MISSING_PARAMETER: Final = 0x0207
SESSION_TYPE_NOT_SUPPORTED: Final = 0x0209
OUT_OF_RESOURCES: Final = 0x0302

WINDOW: Final = 128
"Commands that a session may have outstanding."


class LoginRefusedError(ProtocolError):
    """The login is refused."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


@dataclass(slots=True)
class Login:
    """One login. `receive` answers each request; after the last `done` is true and the fields hold what
    was agreed.
    """

    node: Node
    portal_group: int = 1
    "Of the portal that the initiator came to."
    done: bool = False
    initiator: str = ""
    target: Target | None = None
    "None in a discovery session."
    auth: str = "none"
    "How the initiator proved who it is."
    isid: int = 0
    tsih: int = 0
    cid: int = 0
    cmd_sn: int = 0
    stat_sn: int = 0
    parameters: Parameters = field(default_factory=Parameters)
    _stage: int = -1
    _text: bytearray = field(default_factory=bytearray)
    _declared: bool = False

    @property
    def port(self) -> TargetPort | None:
        """The target port of the session; None in a discovery session."""
        return self.target.port(self.portal_group) if self.target is not None else None

    def receive(self, header: Header, data: Buffer) -> bytes:
        """The answer to a Login Request. Raises `LoginRefusedError`, for which `refusal` is the answer."""
        first = self._stage < 0
        if first:
            self._begin(header)
        elif header.lun >> 16 != self.isid:
            raise LoginRefusedError(INITIATOR_ERROR, "The ISID changed.")
        stage, following = header.flags >> 2 & 3, header.flags & 3
        transit = bool(header.flags & FINAL)
        if stage != self._stage or (transit and (following <= stage or following == 2)):
            raise LoginRefusedError(INITIATOR_ERROR, "The stages are out of order.")
        self._text += data
        if len(self._text) > TEXT_BYTES or (transit and header.flags & CONTINUE):
            raise LoginRefusedError(INITIATOR_ERROR, "The text is too long.")
        if header.flags & CONTINUE:
            return self._response(header, stage << 2, b"")
        text = self._negotiate(stage, first)
        if transit:
            self._stage = following
            if following == FULL_FEATURE:
                self._finish()
        return self._response(
            header, (header.flags & FINAL) | stage << 2 | (following if transit else 0), text
        )

    def refusal(self, header: Header, status: int) -> bytes:
        return login_response(header, header.flags & 0x0C, header.lun, self._numbers(), status, b"")

    def _begin(self, header: Header) -> None:
        self._stage = header.flags >> 2 & 3
        self.isid, self.tsih = header.lun >> 16, header.lun & 0xFFFF
        self.cid, self.cmd_sn = header.word20 >> 16, header.cmd_sn
        self.stat_sn = header.exp_stat_sn
        if header.detail & 0xFF:
            raise LoginRefusedError(UNSUPPORTED_VERSION, "Version 0 of the protocol is too old.")
        if self._stage not in (SECURITY, OPERATIONAL):
            raise LoginRefusedError(INITIATOR_ERROR, "A login begins in another stage.")
        if self.tsih:
            # MaxConnections is 1, and ErrorRecoveryLevel 0 recovers no connection.
            raise LoginRefusedError(TOO_MANY_CONNECTIONS, "A session has one connection.")

    def _negotiate(self, stage: int, first: bool) -> bytes:
        pairs = dict(decode_text(self._text))
        self._text.clear()
        if first:
            self._identify(pairs)
        answers: list[tuple[str, str]] = []
        if first and self.target is not None:
            answers.append(("TargetPortalGroupTag", str(self.portal_group)))
        if stage == OPERATIONAL and not self._declared:
            self._declared = True
            answers.append(("MaxRecvDataSegmentLength", str(MAX_RECV_DATA_BYTES)))
        for key, value in pairs.items():
            answer = self._answer(stage, key, value)
            if answer is not None:
                answers.append((key, answer))
        text = encode_text(answers)
        if len(text) > LOGIN_DATA_BYTES:
            raise LoginRefusedError(INITIATOR_ERROR, "The answer would be too long.")
        return text

    def _answer(self, stage: int, key: str, value: str) -> str | None:
        if key in ("InitiatorName", "InitiatorAlias", "TargetName", "SessionType"):
            return None
        if key == "AuthMethod":
            if stage != SECURITY or "None" not in value.split(","):
                raise LoginRefusedError(AUTHENTICATION_FAILURE, "No common authentication method.")
            return "None"
        if value in (REJECT, NOT_UNDERSTOOD):
            return None
        return self.parameters.take(key, value)

    def _identify(self, pairs: dict[str, str]) -> None:
        """Who wants what: names and session type stand in the first request (RFC 7143 6.3)."""
        self.initiator = pairs.get("InitiatorName", "").lower()
        if not 0 < len(self.initiator.encode()) <= 223:
            raise LoginRefusedError(MISSING_PARAMETER, "InitiatorName is missing.")
        kind = pairs.get("SessionType", "Normal")
        if kind == "Discovery":
            return
        if kind != "Normal":
            raise LoginRefusedError(SESSION_TYPE_NOT_SUPPORTED, "There is no such session type.")
        if "TargetName" not in pairs:
            raise LoginRefusedError(MISSING_PARAMETER, "TargetName is missing.")
        try:
            self.target = self.node.target(pairs["TargetName"])
        except NoSuchTargetError as error:
            raise LoginRefusedError(NOT_FOUND, error.message) from None

    def _finish(self) -> None:
        identity = (self.initiator, self.isid, self.portal_group)
        replaces = self.target is not None and self.node.same_session(self.target, *identity)
        if self.node.full and not replaces:
            raise LoginRefusedError(OUT_OF_RESOURCES, "There are too many sessions.")
        self.tsih = self.node.new_tsih()
        self.done = True

    def _response(self, header: Header, flags: int, text: bytes) -> bytes:
        session = self.isid << 16 | (self.tsih if self.done else 0)
        answer = login_response(header, flags, session, self._numbers(), SUCCESS, text)
        self.stat_sn = self.stat_sn + 1 & 0xFFFF_FFFF
        return answer

    def _numbers(self) -> Numbers:
        return Numbers(self.stat_sn, self.cmd_sn, self.cmd_sn + WINDOW - 1 & 0xFFFF_FFFF)
