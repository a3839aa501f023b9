"""Status codes and sense data (SAM-5 5.3.1, SPC-4 4.5), and how a device's error becomes sense."""

import struct
from typing import Final, NamedTuple

from iscsi_rp.device import IoError, MediumError, NotReadyError, ProtectedError, SpaceError
from iscsi_rp.errors import Error

GOOD: Final = 0x00
CHECK_CONDITION: Final = 0x02
RESERVATION_CONFLICT: Final = 0x18
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
    "Byte that is wrong: the field pointer of ILLEGAL REQUEST."
    in_parameters: bool = False
    "The field pointer is into the parameter list, not the CDB."
    progress: int | None = None
    "In 65,536ths: the progress indication of NOT READY and NO SENSE."

    @property
    def code(self) -> tuple[int, int]:
        return self.asc, self.ascq

    def encode(self, *, descriptor: bool = False) -> bytes:
        """A current error: 18 bytes in fixed format (SPC-4 4.5.3), or in descriptor format (4.5.2)."""
        specific = self._key_specific()
        if descriptor:
            rest = b""
            if self.information is not None:
                rest += b"\x00\x0a\x80\0" + self.information.to_bytes(8, "big")
            if specific is not None:
                rest += b"\x02\x06\0\0" + specific + b"\0"
            return bytes((0x72, self.key, self.asc, self.ascq, 0, 0, 0, len(rest))) + rest
        valid = 0x80 if self.information is not None and self.information < 1 << 32 else 0
        information = (self.information or 0) if valid else 0
        return _FIXED.pack(
            0x70 | valid, self.key, information, 10, self.asc, self.ascq, 0, specific or b"\0\0\0"
        )

    def _key_specific(self) -> bytes | None:
        """Three bytes of sense key specific data (SPC-4 4.5.2.4)."""
        if self.field is not None:
            return bytes((0x80 if self.in_parameters else 0xC0, *self.field.to_bytes(2, "big")))
        if self.progress is not None:
            return bytes((0x80, *self.progress.to_bytes(2, "big")))
        return None


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
INSUFFICIENT_REGISTRATION_RESOURCES: Final = Sense(0x5, 0x55, 0x04)
INVALID_RELEASE: Final = Sense(0x5, 0x26, 0x04)
TARGET_PORT_STANDBY: Final = Sense(0x2, 0x04, 0x0B)
TARGET_PORT_UNAVAILABLE: Final = Sense(0x2, 0x04, 0x0C)

# Unit attention conditions (SAM-5 5.14, SPC-4 table F.1).
POWER_ON: Final = Sense(0x6, 0x29, 0x00)
BUS_DEVICE_RESET: Final = Sense(0x6, 0x29, 0x03)
MODE_PARAMETERS_CHANGED: Final = Sense(0x6, 0x2A, 0x01)
LOG_PARAMETERS_CHANGED: Final = Sense(0x6, 0x2A, 0x02)
RESERVATIONS_PREEMPTED: Final = Sense(0x6, 0x2A, 0x03)
RESERVATIONS_RELEASED: Final = Sense(0x6, 0x2A, 0x04)
REGISTRATIONS_PREEMPTED: Final = Sense(0x6, 0x2A, 0x05)
ACCESS_STATE_CHANGED: Final = Sense(0x6, 0x2A, 0x06)
CAPACITY_CHANGED: Final = Sense(0x6, 0x2A, 0x09)
SOFT_THRESHOLD_REACHED: Final = Sense(0x6, 0x38, 0x07)
REPORTED_LUNS_CHANGED: Final = Sense(0x6, 0x3F, 0x0E)

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


class ReservationConflict(Error):
    """The command ends with RESERVATION CONFLICT."""


def invalid_field(byte: int) -> CheckCondition:
    """INVALID FIELD IN CDB, pointing at `byte`."""
    return CheckCondition(INVALID_FIELD_IN_CDB._replace(field=byte))


def invalid_parameter(byte: int) -> CheckCondition:
    """INVALID FIELD IN PARAMETER LIST, pointing at `byte` of it."""
    return CheckCondition(INVALID_FIELD_IN_PARAMETER_LIST._replace(field=byte, in_parameters=True))
