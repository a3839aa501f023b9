"""The opcode table: every command that a logical unit serves; what is not here is refused.

A row tells who serves the command, whether it *changes blocks* (then it reaches the device as WRITE, ZERO or
UNMAP, and so is split), who may have it done under another's reservation, in which states of its target port
group, and the usage mask of its CDB, from which REPORT SUPPORTED OPERATION CODES answers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from iscsi_rp.device import Buffer
from iscsi_rp.scsi import (
    alua,
    blocks,
    copy,
    inquiry,
    log,
    medium,
    mode,
    primary,
    provisioning,
    reservations,
    writes,
)
from iscsi_rp.scsi.access import PortState, Reserved
from iscsi_rp.scsi.cdb import uint
from iscsi_rp.scsi.persistent import Action
from iscsi_rp.scsi.sense import invalid_field
from iscsi_rp.scsi.task import Task

Handler: TypeAlias = Callable[[Task], None]


@dataclass(frozen=True, slots=True)
class Opcode:
    code: int
    service_action: int | None
    name: str
    serve: Handler
    usage: bytes
    "Bits of the CDB that are looked at, the opcode itself first (SPC-4 6.35.3)."
    changes_blocks: bool
    under_reservation: Reserved
    without_media: PortState
    timeout_s: int
    "Recommended command timeout: how long an initiator should wait before it takes the command for lost."


# The parts of usage masks that name a range: LBA, group number, length, control.
_RANGE_10: Final = "ff ff ff ff 00 ff ff 00"
_RANGE_12: Final = "ff ff ff ff ff ff ff ff 00 00"
_LBA_16: Final = "ff ff ff ff ff ff ff ff "
_RANGE_16: Final = "ff ff ff ff ff ff ff ff ff ff ff ff 00 00"

_COPY: Final = "{} 00 00 00 00 00 00 00 ff ff ff ff 00 00"
_SANITIZE: Final = "{} 00 00 00 00 00 ff ff 00"
_MEDIUM_S: Final = 30
_QUICK_S: Final = 10
_LONG_S: Final = 600


def _row(
    code: int,
    name: str,
    serve: Handler,
    usage: str,
    under_reservation: Reserved,
    *,
    action: int | None = None,
    changes_blocks: bool = False,
    port: PortState = PortState.ACTIVE,
    timeout_s: int = _MEDIUM_S,
) -> Opcode:
    """`usage` in hex without the opcode byte."""
    mask = bytes((code,)) + bytes.fromhex(usage)
    return Opcode(code, action, name, serve, mask, changes_blocks, under_reservation, port, timeout_s)


def _reads(code: int, name: str, serve: Handler, usage: str, *, action: int | None = None) -> Opcode:
    """A command that looks at blocks."""
    return _row(code, name, serve, usage, Reserved.READS, action=action)


def _writes(
    code: int, name: str, serve: Handler, usage: str, *, action: int | None = None, timeout_s: int = _MEDIUM_S
) -> Opcode:
    """A command that changes blocks."""
    return _row(
        code, name, serve, usage, Reserved.CONFLICT, action=action, changes_blocks=True, timeout_s=timeout_s
    )


def _about(
    code: int,
    name: str,
    serve: Handler,
    usage: str,
    under_reservation: Reserved = Reserved.ALLOWED,
    port: PortState = PortState.STANDBY,
    *,
    action: int | None = None,
) -> Opcode:
    """A command about the unit, which needs no medium."""
    return _row(code, name, serve, usage, under_reservation, action=action, port=port, timeout_s=_QUICK_S)


def _persistent_in(action: int) -> Opcode:
    name = f"PERSISTENT RESERVE IN, {reservations.PERSISTENT_IN[action]}"
    usage = f"{action:02x} 00 00 00 00 00 ff ff 00"
    serve = reservations.persistent_reserve_in
    return _about(0x5E, name, serve, usage, Reserved.PERSISTENT_ALLOWED, action=action)


def _persistent_out(action: Action) -> Opcode:
    name = f"PERSISTENT RESERVE OUT, {action.name.replace('_', ' ')}"
    usage = f"{action:02x} ff 00 00 ff ff ff ff 00"
    return _about(0x5F, name, reservations.persistent_reserve_out, usage, Reserved.OWN_RULES, action=action)


def _report_functions(task: Task) -> None:
    """REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS (SPC-4 6.36): those of the embedded iSCSI front end, ABORT
    TASK, ABORT TASK SET, CLEAR TASK SET and LOGICAL UNIT RESET; REPD asks for the long form.
    """
    data = bytes((0xD8, 0, 0, 0))
    if task.cdb[2] & 0x80:
        data = bytes((0xD8, 0, 0, 12)) + bytes(12)  # no times are recommended
    task.good(data[: uint(task.cdb, 6, 4)])


def _report_opcodes(task: Task) -> None:
    """REPORT SUPPORTED OPERATION CODES (SPC-4 6.35): all commands, or one."""
    cdb = task.cdb
    timeouts, options = bool(cdb[2] & 0x80), cdb[2] & 0x07
    if options == 0:
        data = b"".join(_descriptor(row, timeouts) for row in TABLE.values())
        data = len(data).to_bytes(4, "big") + data
    elif options <= 3:
        data = _one_command(cdb[3], uint(cdb, 4, 2), options, timeouts)
    else:
        raise invalid_field(2)
    task.good(data[: uint(cdb, 6, 4)])


def _timeouts(row: Opcode) -> bytes:
    """A command timeouts descriptor; the nominal time is not specified (SPC-4 6.35.4)."""
    return bytes((0, 0x0A, 0, 0)) + bytes(4) + row.timeout_s.to_bytes(4, "big")


def _descriptor(row: Opcode, timeouts: bool) -> bytes:
    flags = (0x02 if timeouts else 0) | (0x01 if row.service_action is not None else 0)
    action = (row.service_action or 0).to_bytes(2, "big")
    size = len(row.usage).to_bytes(2, "big")
    return bytes((row.code, 0)) + action + bytes((0, flags)) + size + (_timeouts(row) if timeouts else b"")


def _one_command(code: int, action: int, options: int, timeouts: bool) -> bytes:
    has_actions = code in WITH_SERVICE_ACTION
    if (options == 1 and has_actions) or (options == 2 and not has_actions and (code, None) in TABLE):
        raise invalid_field(2)
    row = TABLE.get((code, action if options >= 2 and has_actions else None))
    if row is None or (options == 3 and not has_actions and action):
        return bytes((0, 0x01, 0, 0))
    head = bytes((0, (0x80 if timeouts else 0) | 0x03)) + len(row.usage).to_bytes(2, "big")
    return head + row.usage + (_timeouts(row) if timeouts else b"")


_ROWS: Final = (
    _row(0x00, "TEST UNIT READY", primary.test_unit_ready, "00 00 00 00 00", Reserved.PERSISTENT_ALLOWED),
    _about(0x03, "REQUEST SENSE", primary.request_sense, "01 00 00 ff 00", port=PortState.ANY),
    _writes(0x04, "FORMAT UNIT", medium.format_unit, "ff 00 00 00 00", timeout_s=_LONG_S),
    _reads(0x08, "READ (6)", blocks.read, "1f ff ff ff 00"),
    _writes(0x0A, "WRITE (6)", writes.write, "1f ff ff ff 00"),
    _about(0x12, "INQUIRY", inquiry.inquiry, "01 ff ff ff 00", port=PortState.ANY),
    _about(0x15, "MODE SELECT (6)", mode.mode_select, "11 00 00 ff 00", Reserved.CONFLICT),
    _about(0x16, "RESERVE (6)", reservations.reserve, "00 00 00 00 00", Reserved.OWN_RULES),
    _about(0x17, "RELEASE (6)", reservations.release, "00 00 00 00 00", Reserved.OWN_RULES),
    _about(0x1A, "MODE SENSE (6)", mode.mode_sense, "08 ff ff ff 00", Reserved.CONFLICT),
    _row(0x1B, "START STOP UNIT", medium.start_stop_unit, "01 00 0f f5 00", Reserved.OWN_RULES),
    _row(0x1D, "SEND DIAGNOSTIC", primary.send_diagnostic, "14 00 00 00 00", Reserved.CONFLICT),
    _row(0x1E, "PREVENT ALLOW MEDIUM REMOVAL", primary.prevent_allow, "00 00 00 03 00", Reserved.OWN_RULES),
    _row(0x25, "READ CAPACITY (10)", blocks.read_capacity_10, "00 ff ff ff ff 00 00 00 00", Reserved.ALLOWED),
    _reads(0x28, "READ (10)", blocks.read, "f8" + _RANGE_10),
    _writes(0x2A, "WRITE (10)", writes.write, "f8" + _RANGE_10),
    _writes(0x2E, "WRITE AND VERIFY (10)", writes.write_and_verify, "f2" + _RANGE_10),
    _reads(0x2F, "VERIFY (10)", blocks.verify, "f6" + _RANGE_10),
    _reads(0x34, "PRE-FETCH (10)", blocks.prefetch, "02" + _RANGE_10),
    _row(0x35, "SYNCHRONIZE CACHE (10)", blocks.synchronize_cache, "02" + _RANGE_10, Reserved.CONFLICT),
    _reads(0x37, "READ DEFECT DATA (10)", blocks.read_defect_data, "00 1f 00 00 00 00 ff ff 00"),
    _writes(0x41, "WRITE SAME (10)", provisioning.write_same, "e8" + _RANGE_10),
    _writes(0x42, "UNMAP", provisioning.unmap, "00 00 00 00 00 00 ff ff 00"),
    _about(0x4C, "LOG SELECT", log.log_select, "02 ff 00 00 00 00 00 00 00", Reserved.CONFLICT),
    _about(0x4D, "LOG SENSE", log.log_sense, "00 ff ff 00 ff ff ff ff 00"),
    _writes(
        0x48, "SANITIZE, OVERWRITE", medium.sanitize, _SANITIZE.format("a1"), action=1, timeout_s=_LONG_S
    ),
    _writes(
        0x48, "SANITIZE, BLOCK ERASE", medium.sanitize, _SANITIZE.format("a2"), action=2, timeout_s=_LONG_S
    ),
    _row(
        0x48,
        "SANITIZE, EXIT FAILURE MODE",
        medium.sanitize,
        _SANITIZE.format("1f"),
        Reserved.CONFLICT,
        action=0x1F,
    ),
    _about(0x55, "MODE SELECT (10)", mode.mode_select, "11 00 00 00 00 00 ff ff 00", Reserved.CONFLICT),
    _about(0x56, "RESERVE (10)", reservations.reserve, "00 00 00 00 00 00 00 00 00", Reserved.OWN_RULES),
    _about(0x57, "RELEASE (10)", reservations.release, "00 00 00 00 00 00 00 00 00", Reserved.OWN_RULES),
    _about(0x5A, "MODE SENSE (10)", mode.mode_sense, "18 ff ff 00 00 00 ff ff 00", Reserved.CONFLICT),
    *(_persistent_in(action) for action in reservations.PERSISTENT_IN),
    *(_persistent_out(action) for action in Action),
    _writes(
        0x83, "EXTENDED COPY (LID1)", copy.extended_copy, _COPY.format("00 00"), action=0, timeout_s=_LONG_S
    ),
    *(
        _about(
            0x84,
            f"RECEIVE COPY {name} (LID1)",
            copy.receive_copy_results,
            _COPY.format(f"{action:02x} ff"),
            Reserved.CONFLICT,
            action=action,
        )
        for action, name in ((0, "STATUS"), (3, "OPERATING PARAMETERS"), (4, "FAILURE DETAILS"))
    ),
    _reads(0x88, "READ (16)", blocks.read, "f8" + _RANGE_16),
    _writes(0x89, "COMPARE AND WRITE", writes.compare_and_write, "f8" + _LBA_16 + "00 00 00 ff 00 00"),
    _writes(0x8A, "WRITE (16)", writes.write, "f8" + _RANGE_16),
    _writes(0x8B, "ORWRITE (16)", writes.orwrite, "f8" + _RANGE_16),
    _writes(0x8E, "WRITE AND VERIFY (16)", writes.write_and_verify, "f2" + _RANGE_16),
    _reads(0x8F, "VERIFY (16)", blocks.verify, "f6" + _RANGE_16),
    _reads(0x90, "PRE-FETCH (16)", blocks.prefetch, "02" + _RANGE_16),
    _row(0x91, "SYNCHRONIZE CACHE (16)", blocks.synchronize_cache, "02" + _RANGE_16, Reserved.CONFLICT),
    _writes(0x93, "WRITE SAME (16)", provisioning.write_same, "e9" + _RANGE_16),
    _writes(0x9C, "WRITE ATOMIC (16)", writes.write_atomic, "f8" + _LBA_16 + "ff ff ff ff 00 00"),
    _row(
        0x9E,
        "READ CAPACITY (16)",
        blocks.read_capacity_16,
        "10 00 00 00 00 00 00 00 00 ff ff ff ff 00 00",
        Reserved.ALLOWED,
        action=0x10,
    ),
    _reads(0x9E, "GET LBA STATUS", provisioning.get_lba_status, "12" + _RANGE_16, action=0x12),
    _about(
        0x9E,
        "REPORT REFERRALS",
        alua.report_referrals,
        "13 ff ff ff ff ff ff ff ff ff ff ff ff 01 00",
        action=0x13,
    ),
    _about(0xA0, "REPORT LUNS", primary.report_luns, "00 ff 00 00 00 ff ff ff ff 00 00", port=PortState.ANY),
    _about(
        0xA3,
        "REPORT SUPPORTED OPERATION CODES",
        _report_opcodes,
        "0c 87 ff ff ff ff ff ff ff 00 00",
        Reserved.CONFLICT,
        action=0x0C,
    ),
    _about(
        0xA3,
        "REPORT TARGET PORT GROUPS",
        alua.report_target_port_groups,
        "ea 00 00 00 00 ff ff ff ff 00 00",
        port=PortState.ANY,
        action=0x0A,
    ),
    _about(
        0xA3,
        "REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS",
        _report_functions,
        "0d 80 00 00 00 ff ff ff ff 00 00",
        Reserved.CONFLICT,
        action=0x0D,
    ),
    _about(
        0xA4,
        "SET TARGET PORT GROUPS",
        alua.set_target_port_groups,
        "0a 00 00 00 00 ff ff ff ff 00 00",
        Reserved.CONFLICT,
        PortState.ANY,
        action=0x0A,
    ),
    _reads(0xA8, "READ (12)", blocks.read, "f8" + _RANGE_12),
    _writes(0xAA, "WRITE (12)", writes.write, "f8" + _RANGE_12),
    _writes(0xAE, "WRITE AND VERIFY (12)", writes.write_and_verify, "f2" + _RANGE_12),
    _reads(0xAF, "VERIFY (12)", blocks.verify, "f6" + _RANGE_12),
    _reads(0xB7, "READ DEFECT DATA (12)", blocks.read_defect_data, "1f 00 00 00 00 ff ff ff ff 00 00"),
)

TABLE: Final[dict[tuple[int, int | None], Opcode]] = {(row.code, row.service_action): row for row in _ROWS}
WITH_SERVICE_ACTION: Final = frozenset(row.code for row in _ROWS if row.service_action is not None)
"Opcodes that are several commands, told apart by a service action."


def find(cdb: Buffer) -> Opcode | None:
    """The row of a CDB."""
    code = cdb[0]
    return TABLE.get((code, cdb[1] & 0x1F if code in WITH_SERVICE_ACTION else None))
