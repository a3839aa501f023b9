"""The opcode table: every command that a logical unit serves; what is not here is refused.

A row tells who serves the command, whether it *changes blocks* (then it reaches the device as WRITE, ZERO or
UNMAP, and so is split), and the usage mask of its CDB, from which REPORT SUPPORTED OPERATION CODES answers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from iscsi_rp.scsi import blocks, inquiry, mode, primary
from iscsi_rp.scsi.cdb import uint
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
    changes_blocks: bool = False


def _row(
    code: int,
    name: str,
    serve: Handler,
    usage: str,
    *,
    service_action: int | None = None,
    changes_blocks: bool = False,
) -> Opcode:
    """`usage` in hex without the opcode byte."""
    return Opcode(code, service_action, name, serve, bytes((code,)) + bytes.fromhex(usage), changes_blocks)


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


_TIMEOUTS: Final = bytes((0, 0x0A)) + bytes(10)
"A command timeouts descriptor that names none (SPC-4 6.35.4)."


def _descriptor(row: Opcode, timeouts: bool) -> bytes:
    flags = (0x02 if timeouts else 0) | (0x01 if row.service_action is not None else 0)
    action = (row.service_action or 0).to_bytes(2, "big")
    size = len(row.usage).to_bytes(2, "big")
    return bytes((row.code, 0)) + action + bytes((0, flags)) + size + (_TIMEOUTS if timeouts else b"")


def _one_command(code: int, action: int, options: int, timeouts: bool) -> bytes:
    has_actions = code in WITH_SERVICE_ACTION
    if (options == 1 and has_actions) or (options == 2 and not has_actions and (code, None) in TABLE):
        raise invalid_field(2)
    row = TABLE.get((code, action if options >= 2 and has_actions else None))
    if row is None or (options == 3 and not has_actions and action):
        return bytes((0, 0x01, 0, 0))
    head = bytes((0, (0x80 if timeouts else 0) | 0x03)) + len(row.usage).to_bytes(2, "big")
    return head + row.usage + (_TIMEOUTS if timeouts else b"")


_ROWS: Final = (
    _row(0x00, "TEST UNIT READY", primary.test_unit_ready, "00 00 00 00 00"),
    _row(0x03, "REQUEST SENSE", primary.request_sense, "01 00 00 ff 00"),
    _row(0x08, "READ (6)", blocks.read, "1f ff ff ff 00"),
    _row(0x0A, "WRITE (6)", blocks.write, "1f ff ff ff 00", changes_blocks=True),
    _row(0x12, "INQUIRY", inquiry.inquiry, "01 ff ff ff 00"),
    _row(0x15, "MODE SELECT (6)", mode.mode_select, "11 00 00 ff 00"),
    _row(0x1A, "MODE SENSE (6)", mode.mode_sense, "08 ff ff ff 00"),
    _row(0x1B, "START STOP UNIT", primary.start_stop_unit, "01 00 0f f7 00"),
    _row(0x1E, "PREVENT ALLOW MEDIUM REMOVAL", primary.prevent_allow, "00 00 00 03 00"),
    _row(0x25, "READ CAPACITY (10)", blocks.read_capacity_10, "00 ff ff ff ff 00 00 00 00"),
    _row(0x28, "READ (10)", blocks.read, "f8 ff ff ff ff 00 ff ff 00"),
    _row(0x2A, "WRITE (10)", blocks.write, "f8 ff ff ff ff 00 ff ff 00", changes_blocks=True),
    _row(
        0x2E,
        "WRITE AND VERIFY (10)",
        blocks.write_and_verify,
        "f2 ff ff ff ff 00 ff ff 00",
        changes_blocks=True,
    ),
    _row(0x2F, "VERIFY (10)", blocks.verify, "f6 ff ff ff ff 00 ff ff 00"),
    _row(0x34, "PRE-FETCH (10)", blocks.prefetch, "02 ff ff ff ff 00 ff ff 00"),
    _row(0x35, "SYNCHRONIZE CACHE (10)", blocks.synchronize_cache, "02 ff ff ff ff 00 ff ff 00"),
    _row(0x41, "WRITE SAME (10)", blocks.write_same, "e8 ff ff ff ff 00 ff ff 00", changes_blocks=True),
    _row(0x42, "UNMAP", blocks.unmap, "00 00 00 00 00 00 ff ff 00", changes_blocks=True),
    _row(0x55, "MODE SELECT (10)", mode.mode_select, "11 00 00 00 00 00 ff ff 00"),
    _row(0x5A, "MODE SENSE (10)", mode.mode_sense, "18 ff ff 00 00 00 ff ff 00"),
    _row(0x88, "READ (16)", blocks.read, "f8 ff ff ff ff ff ff ff ff ff ff ff ff 00 00"),
    _row(
        0x8A,
        "WRITE (16)",
        blocks.write,
        "f8 ff ff ff ff ff ff ff ff ff ff ff ff 00 00",
        changes_blocks=True,
    ),
    _row(
        0x8E,
        "WRITE AND VERIFY (16)",
        blocks.write_and_verify,
        "f2 ff ff ff ff ff ff ff ff ff ff ff ff 00 00",
        changes_blocks=True,
    ),
    _row(0x8F, "VERIFY (16)", blocks.verify, "f6 ff ff ff ff ff ff ff ff ff ff ff ff 00 00"),
    _row(0x90, "PRE-FETCH (16)", blocks.prefetch, "02 ff ff ff ff ff ff ff ff ff ff ff ff 00 00"),
    _row(
        0x91,
        "SYNCHRONIZE CACHE (16)",
        blocks.synchronize_cache,
        "02 ff ff ff ff ff ff ff ff ff ff ff ff 00 00",
    ),
    _row(
        0x93,
        "WRITE SAME (16)",
        blocks.write_same,
        "e9 ff ff ff ff ff ff ff ff ff ff ff ff 00 00",
        changes_blocks=True,
    ),
    _row(
        0x9E,
        "READ CAPACITY (16)",
        blocks.read_capacity_16,
        "10 00 00 00 00 00 00 00 00 ff ff ff ff 00 00",
        service_action=0x10,
    ),
    _row(
        0x9E,
        "GET LBA STATUS",
        blocks.get_lba_status,
        "12 ff ff ff ff ff ff ff ff ff ff ff ff 00 00",
        service_action=0x12,
    ),
    _row(0xA0, "REPORT LUNS", primary.report_luns, "00 ff 00 00 00 ff ff ff ff 00 00"),
    _row(
        0xA3,
        "REPORT SUPPORTED OPERATION CODES",
        _report_opcodes,
        "0c 87 ff ff ff ff ff ff ff 00 00",
        service_action=0x0C,
    ),
    _row(0xA8, "READ (12)", blocks.read, "f8 ff ff ff ff ff ff ff ff 00 00"),
    _row(0xAA, "WRITE (12)", blocks.write, "f8 ff ff ff ff ff ff ff ff 00 00", changes_blocks=True),
    _row(
        0xAE,
        "WRITE AND VERIFY (12)",
        blocks.write_and_verify,
        "f2 ff ff ff ff ff ff ff ff 00 00",
        changes_blocks=True,
    ),
    _row(0xAF, "VERIFY (12)", blocks.verify, "f6 ff ff ff ff ff ff ff ff 00 00"),
)

TABLE: Final[dict[tuple[int, int | None], Opcode]] = {(row.code, row.service_action): row for row in _ROWS}
WITH_SERVICE_ACTION: Final = frozenset(row.code for row in _ROWS if row.service_action is not None)
"Opcodes whose byte 1, bits 0-4, choose the command."
