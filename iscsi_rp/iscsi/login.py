"""The login phase: stages, keys and refusals, until a session is agreed (RFC 7143 6.3, 11.12, 11.13).

A request's text may come in parts (flag C), and so may its answer. Only when the last part of a request is
there its keys are looked at, all at once; only with the last part of the answer the stage may change.
"""

import re
from dataclasses import dataclass, field
from typing import Final

from iscsi_rp.device import Buffer
from iscsi_rp.iscsi.chap import SECURITY_KEYS, Authentication, AuthenticationError
from iscsi_rp.iscsi.keys import (
    ANSWERS,
    LOGIN_DATA_BYTES,
    MAX_RECV_DATA_BYTES,
    NEGOTIATED,
    NOT_UNDERSTOOD,
    Parameters,
)
from iscsi_rp.iscsi.node import Node, NoSuchTargetError, Target
from iscsi_rp.iscsi.pdu import CONTINUE, FINAL, Header, Numbers, ProtocolError, login_response
from iscsi_rp.iscsi.text import TEXT_BYTES, Pairs, decode_text, encode_text
from iscsi_rp.scsi.task import TargetPort

SECURITY: Final = 0
OPERATIONAL: Final = 1
FULL_FEATURE: Final = 3

SUCCESS: Final = 0x0000
INITIATOR_ERROR: Final = 0x0200
AUTHENTICATION_FAILURE: Final = 0x0201
AUTHORIZATION_FAILURE: Final = 0x0202
NOT_FOUND: Final = 0x0203
UNSUPPORTED_VERSION: Final = 0x0205
TOO_MANY_CONNECTIONS: Final = 0x0206
MISSING_PARAMETER: Final = 0x0207
SESSION_TYPE_NOT_SUPPORTED: Final = 0x0209
NO_SUCH_SESSION: Final = 0x020A
OUT_OF_RESOURCES: Final = 0x0302
REASONS: Final = {
    INITIATOR_ERROR: "initiator error",
    AUTHENTICATION_FAILURE: "authentication failure",
    AUTHORIZATION_FAILURE: "authorization failure",
    NOT_FOUND: "target not found",
    UNSUPPORTED_VERSION: "unsupported version",
    TOO_MANY_CONNECTIONS: "too many connections",
    MISSING_PARAMETER: "missing parameter",
    SESSION_TYPE_NOT_SUPPORTED: "session type not supported",
    NO_SUCH_SESSION: "no such session",
    OUT_OF_RESOURCES: "out of resources",
}
"By status (RFC 7143 11.13.5)."

WINDOW: Final = 128
"Commands that a session may have outstanding."
LOGIN_PDUS: Final = 64
"Requests of one login; its text, over all of them, may have `TEXT_BYTES`."

_NAME_KEYS: Final = frozenset({"InitiatorName", "InitiatorAlias", "TargetName", "SessionType"})
"Declared, in any stage. Some initiators say them again in the next."
_OPERATIONAL_KEYS: Final = frozenset({"MaxRecvDataSegmentLength", *NEGOTIATED})
_FOREIGN_KEYS: Final = frozenset({"TargetAlias", "TargetAddress", "TargetPortalGroupTag", "SendTargets"})
"Only targets say these, or nobody while logging in."
_INITIATOR_NAME: Final = re.compile(r"[^\s,\x00-\x20\x7f]{1,223}")


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
    "Its name, in lower case: names are compared without case (RFC 7143 4.2.7.2)."
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
    _pdus: int = 0
    _text_bytes: int = 0
    _request: bytearray = field(default_factory=bytearray)
    _unsent: bytes = b""
    "What is left of an answer in parts."
    _said: dict[str, str] = field(default_factory=dict)
    "All keys of the initiator so far."
    _authentication: Authentication | None = None
    "None until the initiator said who it is."
    _declared: bool = False

    @property
    def port(self) -> TargetPort | None:
        """The target port of the session; None in a discovery session."""
        return self.target.port(self.portal_group) if self.target is not None else None

    def receive(self, header: Header, data: Buffer) -> bytes:
        """The answer to a Login Request. Raises `ProtocolError`, for which `refusal` is the answer."""
        self._check_header(header)
        stage, following = header.flags >> 2 & 3, header.flags & 3
        transit = bool(header.flags & FINAL)
        if self._unsent:
            if data or header.flags & CONTINUE:
                raise LoginRefusedError(INITIATOR_ERROR, "Text comes before our answer was complete.")
        else:
            self._take(data)
            if header.flags & CONTINUE:
                return self._response(header, stage << 2, b"")
            self._unsent = encode_text(self._negotiate(stage, transit))
        part, self._unsent = self._unsent[:LOGIN_DATA_BYTES], self._unsent[LOGIN_DATA_BYTES:]
        if self._unsent:
            return self._response(header, CONTINUE | stage << 2, part)
        if not transit or self._authentication is None or not self._authentication.passed:
            return self._response(header, stage << 2, part)
        self._stage = following
        if following == FULL_FEATURE:
            self._finish(self._authentication)
        return self._response(header, FINAL | stage << 2 | following, part)

    def refusal(self, header: Header, status: int) -> bytes:
        """The answer to a request that `receive` did not take."""
        return login_response(header, header.flags & 0x0C, header.lun, self._numbers(), status, b"")

    def _check_header(self, header: Header) -> None:
        stage, following = header.flags >> 2 & 3, header.flags & 3
        if self._stage < 0:
            self._begin(header)
        elif header.lun != self.isid << 16 | self.tsih or header.word20 >> 16 != self.cid:
            raise LoginRefusedError(INITIATOR_ERROR, "ISID, TSIH or CID changed.")
        transit = bool(header.flags & FINAL)
        if stage != self._stage or (transit and (following <= stage or following == 2)):
            raise LoginRefusedError(INITIATOR_ERROR, "The stages are out of order.")
        if transit and header.flags & CONTINUE:
            raise LoginRefusedError(INITIATOR_ERROR, "The stage ends before the text does.")
        self._pdus += 1
        if self._pdus > LOGIN_PDUS:
            raise LoginRefusedError(INITIATOR_ERROR, "The login has too many requests.")

    def _begin(self, header: Header) -> None:
        self.isid, self.tsih = header.lun >> 16, header.lun & 0xFFFF
        self.cid, self.cmd_sn = header.word20 >> 16, header.cmd_sn
        self.stat_sn = header.exp_stat_sn
        if header.detail & 0xFF:
            raise LoginRefusedError(UNSUPPORTED_VERSION, "Version 0 of the protocol is too old.")
        self._stage = header.flags >> 2 & 3
        if self._stage not in (SECURITY, OPERATIONAL):
            raise LoginRefusedError(INITIATOR_ERROR, "A login begins in another stage.")

    def _take(self, data: Buffer) -> None:
        self._text_bytes += len(data)
        if self._text_bytes > TEXT_BYTES:
            raise LoginRefusedError(INITIATOR_ERROR, "The text is too long.")
        self._request += data

    def _negotiate(self, stage: int, transit: bool) -> Pairs:
        """The answers to a complete request."""
        pairs = decode_text(self._request)
        self._request.clear()
        answers: Pairs = []
        if self._authentication is None:
            self._authentication = self._identify(dict(pairs), stage)
            if self.target is not None:
                answers.append(("TargetPortalGroupTag", str(self.portal_group)))
        for key, value in pairs:
            self._check_key(stage, key, value)
        security = {key: value for key, value in pairs if key in SECURITY_KEYS}
        if security:
            answers += self._authenticate(self._authentication, security)
        elif transit and not self._authentication.passed:
            raise LoginRefusedError(AUTHENTICATION_FAILURE, "The initiator must prove who it is.")
        if stage == OPERATIONAL and not self._declared:
            self._declared = True
            answers.append(("MaxRecvDataSegmentLength", str(MAX_RECV_DATA_BYTES)))
        # FirstBurstLength depends on MaxBurstLength.
        for key, value in sorted(pairs, key=lambda pair: pair[0] == "FirstBurstLength"):
            answer = None
            if key in _OPERATIONAL_KEYS:
                answer = self.parameters.take(key, value)
            elif key not in _NAME_KEYS | SECURITY_KEYS:
                answer = NOT_UNDERSTOOD
            if answer is not None:
                answers.append((key, answer))
        return answers

    def _check_key(self, stage: int, key: str, value: str) -> None:
        """That the initiator may say this now (RFC 7143 6.2, 6.3, 13)."""
        if key in _FOREIGN_KEYS:
            raise LoginRefusedError(INITIATOR_ERROR, f"{key} is not the initiator's to say.")
        if (key in SECURITY_KEYS and stage != SECURITY) or (
            key in _OPERATIONAL_KEYS and stage != OPERATIONAL
        ):
            raise LoginRefusedError(INITIATOR_ERROR, f"{key} belongs to another stage.")
        if value in ANSWERS:
            raise LoginRefusedError(INITIATOR_ERROR, f"{key} offers what can only be an answer.")
        before = self._said.get(key)
        if before is not None and (key not in _NAME_KEYS or value != before):
            raise LoginRefusedError(INITIATOR_ERROR, f"{key} was settled before.")
        self._said[key] = value

    def _identify(self, pairs: dict[str, str], stage: int) -> Authentication:
        """Who wants what: names and session type stand in the first request (RFC 7143 6.3)."""
        name = pairs.get("InitiatorName")
        if name is None:
            raise LoginRefusedError(MISSING_PARAMETER, "InitiatorName is missing.")
        self.initiator = name.lower()  # which may have more bytes
        proper = _INITIATOR_NAME.fullmatch(name) and self.initiator.isprintable()
        if not proper or len(self.initiator.encode()) > 223:
            raise LoginRefusedError(INITIATOR_ERROR, "InitiatorName is no name.")
        kind = pairs.get("SessionType", "Normal")
        if kind not in ("Normal", "Discovery"):
            raise LoginRefusedError(SESSION_TYPE_NOT_SUPPORTED, "There is no such session type.")
        access = self.node.access.of(self.initiator)
        if access is None:
            raise LoginRefusedError(AUTHORIZATION_FAILURE, "The initiator is not listed.")
        discovery = self.node.access.discovery
        # Without a user for discovery an initiator may prove itself as it does to its target, or not at all.
        required = kind == "Normal" or discovery.chap is not None
        if kind == "Normal":
            self.target = self._target(pairs)
        elif discovery.chap is not None:
            access = discovery
        if self.tsih:
            self._refuse_connection()
        authentication = Authentication(access, self.node.random_bytes, required=required)
        if stage == OPERATIONAL and not authentication.passed:
            raise LoginRefusedError(AUTHENTICATION_FAILURE, "The initiator must prove who it is.")
        return authentication

    def _target(self, pairs: dict[str, str]) -> Target:
        if "TargetName" not in pairs:
            raise LoginRefusedError(MISSING_PARAMETER, "TargetName is missing.")
        try:
            return self.node.target(pairs["TargetName"])
        except NoSuchTargetError as error:
            raise LoginRefusedError(NOT_FOUND, error.message) from None

    def _refuse_connection(self) -> None:
        """Another connection for a session: MaxConnections is 1, and ErrorRecoveryLevel 0 recovers none."""
        session = self.node.session(self.tsih)
        if session is None or (session.initiator, session.isid) != (self.initiator, self.isid):
            raise LoginRefusedError(NO_SUCH_SESSION, "The initiator has no such session.")
        raise LoginRefusedError(TOO_MANY_CONNECTIONS, "A session has one connection.")

    def _authenticate(self, authentication: Authentication, keys: dict[str, str]) -> Pairs:
        try:
            return authentication.receive(keys)
        except AuthenticationError as error:
            raise LoginRefusedError(AUTHENTICATION_FAILURE, error.message) from None

    def _finish(self, authentication: Authentication) -> None:
        identity = (self.initiator, self.isid, self.portal_group)
        replaces = self.target is not None and self.node.same_session(self.target, *identity)
        if self.node.full and not replaces:
            raise LoginRefusedError(OUT_OF_RESOURCES, "There are too many sessions.")
        self.auth = authentication.title
        self.tsih = self.node.new_tsih()
        self.done = True

    def _response(self, header: Header, flags: int, text: bytes) -> bytes:
        session = self.isid << 16 | (self.tsih if self.done else 0)
        answer = login_response(header, flags, session, self._numbers(), SUCCESS, text)
        self.stat_sn = self.stat_sn + 1 & 0xFFFF_FFFF
        return answer

    def _numbers(self) -> Numbers:
        return Numbers(self.stat_sn, self.cmd_sn, self.cmd_sn + WINDOW - 1 & 0xFFFF_FFFF)
