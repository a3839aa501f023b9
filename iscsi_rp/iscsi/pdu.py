"""iSCSI protocol data units: opcodes, the header, and the ones a target sends (RFC 7143 11).

Every header is read by one `HEADER.unpack_from`; the names of its fields are those of a SCSI Command, and
other PDUs keep other things in the same places.
"""

import struct
from typing import Final, NamedTuple

from iscsi_rp.device import Buffer
from iscsi_rp.errors import Error

HEADER_BYTES: Final = 48
NO_TAG: Final = 0xFFFF_FFFF

NOP_OUT: Final = 0x00
SCSI_COMMAND: Final = 0x01
TASK_MANAGEMENT: Final = 0x02
LOGIN: Final = 0x03
TEXT: Final = 0x04
DATA_OUT: Final = 0x05
LOGOUT: Final = 0x06
SNACK: Final = 0x10

IMMEDIATE: Final = 0x40
FINAL: Final = 0x80
"Flag F of most PDUs; T, transit, of login PDUs."
CONTINUE: Final = 0x40
READ_FLAG: Final = 0x40
WRITE_FLAG: Final = 0x20

REJECT_DATA_DIGEST: Final = 0x02
REJECT_PROTOCOL_ERROR: Final = 0x04
REJECT_NOT_SUPPORTED: Final = 0x05
REJECT_TOO_MANY_IMMEDIATE: Final = 0x06
REJECT_TASK_IN_PROGRESS: Final = 0x07
REJECT_INVALID_FIELD: Final = 0x09

SCSI_EVENT: Final = 0
"Events of asynchronous messages (RFC 7143 11.9.1)."
LOGOUT_REQUESTED: Final = 1
SESSION_DROPPED: Final = 3
"All connections of the session; it has one."

HEADER: Final = struct.Struct(">BBHIQIIII16s")
assert HEADER.size == HEADER_BYTES


class Header(NamedTuple):
    """The 48 bytes that begin a PDU."""

    opcode: int
    "With the immediate bit."
    flags: int
    detail: int
    "Login: highest and lowest version."
    lengths: int
    "Words of additional header << 24 | bytes of data."
    lun: int
    "8 bytes; Login: ISID << 16 | TSIH."
    itt: int
    "Initiator task tag."
    word20: int
    """SCSI Command: expected data transfer length. Data-Out, NOP, Text: target transfer tag. Task
    management: referenced tag."""
    cmd_sn: int
    exp_stat_sn: int
    tail: bytes
    "16 bytes; SCSI Command: the CDB."


class ProtocolError(Error):
    """The initiator broke the protocol."""


class RejectedError(ProtocolError):
    """This PDU is rejected; the connection goes on."""

    def __init__(self, reason: int, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


_LOGIN_RESPONSE: Final = struct.Struct(">BBxxIQIxxxxIIIBB10x")
_TEXT_RESPONSE: Final = struct.Struct(">BBxxIQIIIII12x")
_NOP_IN: Final = struct.Struct(">BBxxIQIIIII12x")
_SIMPLE_RESPONSE: Final = struct.Struct(">BBBxI8xI4xIII12x")
_REJECT: Final = struct.Struct(">BBBxI8xI4xIII12x")
_R2T: Final = struct.Struct(">BBxxIQIIIIIIII")
SCSI_RESPONSE: Final = struct.Struct(">BBBBI8xI4xIIIIII")
"""opcode, flags, response, status, lengths, ITT, StatSN, ExpCmdSN, MaxCmdSN, ExpDataSN, bidi residual,
residual."""
DATA_IN: Final = struct.Struct(">BBxBI8xIIIIIIII")
"opcode, flags, status, lengths, ITT, TTT, StatSN, ExpCmdSN, MaxCmdSN, DataSN, offset, residual."
_ASYNC: Final = struct.Struct(">BBxxIQI4xIIIBBHHH4x")
_LAYOUTS: Final = (
    _LOGIN_RESPONSE,
    _TEXT_RESPONSE,
    _NOP_IN,
    _SIMPLE_RESPONSE,
    _REJECT,
    _R2T,
    _ASYNC,
    SCSI_RESPONSE,
    DATA_IN,
)
assert all(layout.size == HEADER_BYTES for layout in _LAYOUTS)

PADDING: Final = (b"", b"\0\0\0", b"\0\0", b"\0")
"What follows a data segment, by its length modulo 4."


class Numbers(NamedTuple):
    """The three sequence numbers that every answer carries (RFC 7143 4.2.2)."""

    stat_sn: int
    exp_cmd_sn: int
    max_cmd_sn: int


def _padded(data: Buffer) -> bytes:
    return bytes(data) + PADDING[len(data) & 3]


def login_response(
    request: Header, flags: int, session: int, numbers: Numbers, status: int, data: bytes
) -> bytes:
    """`session` is ISID << 16 | TSIH, `status` class << 8 | detail."""
    head = _LOGIN_RESPONSE.pack(0x23, flags, len(data), session, request.itt, *numbers, *divmod(status, 256))
    return head + _padded(data)


def text_response(request: Header, flags: int, ttt: int, numbers: Numbers, data: bytes) -> bytes:
    return _TEXT_RESPONSE.pack(0x24, flags, len(data), request.lun, request.itt, ttt, *numbers) + _padded(
        data
    )


def nop_in(lun: int, itt: int, ttt: int, numbers: Numbers, data: Buffer) -> bytes:
    return _NOP_IN.pack(0x20, FINAL, len(data), lun, itt, ttt, *numbers) + _padded(data)


def task_management_response(itt: int, response: int, numbers: Numbers) -> bytes:
    return _SIMPLE_RESPONSE.pack(0x22, FINAL, response, 0, itt, *numbers)


def logout_response(itt: int, response: int, numbers: Numbers) -> bytes:
    return _SIMPLE_RESPONSE.pack(0x26, FINAL, response, 0, itt, *numbers)


def reject(request: Header, reason: int, numbers: Numbers) -> bytes:
    return _REJECT.pack(0x3F, FINAL, reason, HEADER_BYTES, NO_TAG, *numbers) + HEADER.pack(*request)


def r2t(lun: int, itt: int, ttt: int, numbers: Numbers, r2t_sn: int, offset: int, length: int) -> bytes:
    return _R2T.pack(0x31, FINAL, 0, lun, itt, ttt, *numbers, r2t_sn, offset, length)


def async_message(
    event: int,
    numbers: Numbers,
    *,
    lun: int = 0,
    parameters: tuple[int, int, int] = (0, 0, 0),
    sense: bytes = b"",
) -> bytes:
    """An asynchronous message; `sense` is the data of a SCSI event (RFC 7143 11.9)."""
    data = len(sense).to_bytes(2, "big") + sense if sense else b""
    return _ASYNC.pack(0x32, FINAL, len(data), lun, NO_TAG, *numbers, event, 0, *parameters) + _padded(data)


_EXTENDED_CDB: Final = 1
_BIDIRECTIONAL: Final = 2


def extended_cdb(cdb: bytes, additional: Buffer) -> bytes:
    """The CDB with what an additional header segment adds to its 16 bytes (RFC 7143 11.2.2). Raises
    `RejectedError`.
    """
    at, rest = 0, b""
    while at < len(additional):
        length, kind = int.from_bytes(additional[at : at + 2], "big"), additional[at + 2]
        end = at + 3 + length
        if end > len(additional):
            raise RejectedError(REJECT_INVALID_FIELD, "An additional header is cut off.")
        if kind == _BIDIRECTIONAL:
            raise RejectedError(REJECT_NOT_SUPPORTED, "Bidirectional commands are not supported.")
        if kind != _EXTENDED_CDB or rest or length < 2:
            raise RejectedError(REJECT_INVALID_FIELD, "An additional header is of no known form.")
        rest = bytes(additional[at + 4 : end])
        at = end + 3 & ~3
    return cdb + rest
