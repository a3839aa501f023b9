"""Status codes and sense data (SAM-5 5.3.1, SPC-4 4.5), and how a device's error becomes sense."""

import struct
from typing import Final, NamedTuple

from iscsi_rp.device import IoError, MediumError, NotReadyError, ProtectedError, SpaceError
from iscsi_rp.errors import Error

GOOD: Final = 0x00
CHECK_CONDITION: Final = 0x02
TASK_SET_FULL: Final = 0x28
TASK_ABORTED: Final = 0x40

_FIXED: Final = struct.Struct(">BxBIB4xBBB3s")


class Sense(NamedTuple):
    """Sense key and additional sense code, with what points at the cause where the code has it."""

    key: int
    asc: int
    ascq: int
    information: int | None = None
    "Byte offset of a miscompare, or the LBA of a medium error."
    field: int | None = None
    "Byte of the CDB that is wrong: the field pointer of ILLEGAL REQUEST."

    def encode(self) -> bytes:
        """18 bytes in fixed format (SPC-4 4.5.3), a current error."""
        valid = 0x80 if self.information is not None and self.information < 1 << 32 else 0
        information = (self.information or 0) if valid else 0
        pointer = b"\0\0\0" if self.field is None else bytes((0xC0, *self.field.to_bytes(2, "big")))
        return _FIXED.pack(0x70 | valid, self.key, information, 10, self.asc, self.ascq, 0, pointer)


NO_SENSE: Final = Sense(0x0, 0x00, 0x00)
INVALID_OPCODE: Final = Sense(0x5, 0x20, 0x00, field=0)
LBA_OUT_OF_RANGE: Final = Sense(0x5, 0x21, 0x00)
INVALID_FIELD_IN_CDB: Final = Sense(0x5, 0x24, 0x00)
LOGICAL_UNIT_NOT_SUPPORTED: Final = Sense(0x5, 0x25, 0x00)
PARAMETER_LIST_LENGTH_ERROR: Final = Sense(0x5, 0x1A, 0x00)
INVALID_FIELD_IN_PARAMETER_LIST: Final = Sense(0x5, 0x26, 0x00)
SAVING_NOT_SUPPORTED: Final = Sense(0x5, 0x39, 0x00)
WRITE_PROTECTED: Final = Sense(0x7, 0x27, 0x00)
SPACE_ALLOCATION_FAILED: Final = Sense(0x7, 0x27, 0x07)
NOT_READY: Final = Sense(0x2, 0x04, 0x00)
UNRECOVERED_READ_ERROR: Final = Sense(0x3, 0x11, 0x00)
WRITE_ERROR: Final = Sense(0x3, 0x0C, 0x00)
INTERNAL_TARGET_FAILURE: Final = Sense(0x4, 0x44, 0x00)
# Errors of the transport that end one command (RFC 7143 7.7).
PROTOCOL_SERVICE_CRC_ERROR: Final = Sense(0xB, 0x47, 0x05)
INCORRECT_AMOUNT_OF_DATA: Final = Sense(0xB, 0x0C, 0x0D)
MISCOMPARE: Final = Sense(0xE, 0x1D, 0x00)

# A BusyError is not here: it is the status TASK SET FULL, which has no sense.
_IO_SENSE: Final[dict[type[IoError], tuple[Sense, Sense]]] = {
    MediumError: (UNRECOVERED_READ_ERROR, WRITE_ERROR),
    SpaceError: (SPACE_ALLOCATION_FAILED, SPACE_ALLOCATION_FAILED),
    ProtectedError: (WRITE_PROTECTED, WRITE_PROTECTED),
    NotReadyError: (NOT_READY, NOT_READY),
}


def io_sense(error: IoError, *, reading: bool) -> Sense:
    """The sense that tells an initiator what the device said."""
    for known in type(error).__mro__:
        if known in _IO_SENSE:
            return _IO_SENSE[known][0 if reading else 1]
    return INTERNAL_TARGET_FAILURE


class CheckCondition(Error):
    """The command ends with CHECK CONDITION."""

    def __init__(self, sense: Sense) -> None:
        super().__init__(f"sense {sense.key:X}/{sense.asc:02X}/{sense.ascq:02X}")
        self.sense = sense


def invalid_field(byte: int) -> CheckCondition:
    """INVALID FIELD IN CDB, pointing at `byte`."""
    return CheckCondition(INVALID_FIELD_IN_CDB._replace(field=byte))
