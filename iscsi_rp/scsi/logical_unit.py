"""The logical unit: SCSI commands in, block operations to its device, status out (SAM-5, SBC-4).

Commands come in batches. READ and WRITE of 10, 12 and 16 bytes that are in order become one batch for the
device, without an object for each; everything else, and whatever is odd about those, goes through the opcode
table.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from iscsi_rp.device import READ, WRITE, BlockDevice, Io, IoError, Result
from iscsi_rp.scsi.cdb import FAST, FUA
from iscsi_rp.scsi.identity import Identity
from iscsi_rp.scsi.inquiry import absent_inquiry
from iscsi_rp.scsi.mode import ModePages
from iscsi_rp.scsi.opcodes import TABLE, WITH_SERVICE_ACTION
from iscsi_rp.scsi.primary import lun_list
from iscsi_rp.scsi.sense import (
    CHECK_CONDITION,
    GOOD,
    INVALID_FIELD_IN_CDB,
    INVALID_OPCODE,
    LOGICAL_UNIT_NOT_SUPPORTED,
    WRITE_PROTECTED,
    CheckCondition,
)
from iscsi_rp.scsi.task import Command, CommandsDone, Completion, Nexus, Task, failure

TRANSFER_BYTES: Final = 8 << 20
"The most that one command moves: what an initiator can make a target hold for it."
_HELD_BYTES: Final = 2 * TRANSFER_BYTES
"Reads of one batch for the device: `done` can give their data away before the next ones take memory."
_OPTIMAL_BYTES: Final = 1 << 20
_WRITE_SAME_BYTES: Final = 16 << 20
_UNMAP_BLOCKS: Final = 1 << 20
_UNMAP_DESCRIPTORS: Final = 256


class Limits(NamedTuple):
    """The block limits page, in logical blocks (SBC-4 6.6.4)."""

    transfer_blocks: int
    optimal_blocks: int
    write_same_blocks: int
    unmap_blocks: int
    unmap_descriptors: int


class LogicalUnit:
    """One disk. Several targets and any number of nexuses may share it."""

    def __init__(
        self, device: BlockDevice, identity: Identity, *, thin: bool = True, physical_block_size: int = 4096
    ) -> None:
        """`thin`: UNMAP is offered. `physical_block_size` in bytes: with a device
        of 512-byte blocks 4096 makes a 512e disk and 512 a 512n one."""
        block = device.block_size
        self.device, self.identity, self.thin = device, identity, thin
        self.mode = ModePages()
        self.size_blocks = device.size // block
        self.blocks_per_physical = max(1, physical_block_size // block)
        self.limits = Limits(
            TRANSFER_BYTES // block,
            _OPTIMAL_BYTES // block,
            _WRITE_SAME_BYTES // block,
            _UNMAP_BLOCKS,
            _UNMAP_DESCRIPTORS,
        )

    @property
    def write_protected(self) -> bool:
        return self.device.read_only or self.mode.software_write_protect

    def reset(self) -> None:
        """LOGICAL UNIT RESET: mode pages go back to their defaults. (Aborting tasks is the transport's.)"""
        self.mode.reset()

    def submit(self, nexus: Nexus, commands: Sequence[Command], done: CommandsDone) -> None:
        """Start `commands`; `done` gets every tag once, from inside `submit` or later, in any order."""
        batch: list[Io] = []
        block, size = self.device.block_size, self.device.size
        protected = self.write_protected
        held = 0
        report = partial(_report, done)
        for command in commands:
            if held > _HELD_BYTES:
                self.device.submit(batch, report)
                batch, held = [], 0
            tag, cdb, data = command
            fast = FAST.get(cdb[0])
            if fast is not None:
                unpack, op, odd = fast
                flags, lba, blocks = unpack(cdb)
                offset, length = lba * block, blocks * block
                if not flags & odd and 0 < length <= TRANSFER_BYTES and offset + length <= size:
                    if op == READ:
                        batch.append((READ, offset, length, None, False, (tag, length, True)))
                        held += length
                        continue
                    if data is not None and len(data) == length and not protected:
                        batch.append((WRITE, offset, length, data, flags & FUA != 0, (tag, length, False)))
                        continue
            self._serve(Task(self, nexus, command, done))
        if batch:
            self.device.submit(batch, report)

    def _serve(self, task: Task) -> None:
        code = task.cdb[0]
        action = task.cdb[1] & 0x1F if code in WITH_SERVICE_ACTION else None
        row = TABLE.get((code, action))
        if row is None:
            known = code in WITH_SERVICE_ACTION
            task.fail(INVALID_FIELD_IN_CDB._replace(field=1) if known else INVALID_OPCODE)
        elif row.changes_blocks and self.write_protected:
            task.fail(WRITE_PROTECTED)
        else:
            try:
                row.serve(task)
            except CheckCondition as error:
                task.fail(error.sense)


def _report(done: CommandsDone, results: Sequence[tuple[Any, Result]]) -> None:
    """The device's answers to the short way's operations, as completions."""
    completions: list[Completion] = []
    for (tag, length, reading), result in results:
        if result is None:
            completions.append((tag, GOOD, b"", length))
        elif isinstance(result, IoError):
            status, sense = failure(result, reading=reading)
            completions.append((tag, status, sense, 0))
        else:
            completions.append((tag, GOOD, result, length))
    done(completions)


def serve_absent(nexus: Nexus, commands: Sequence[Command], done: CommandsDone) -> None:
    """Answer for a LUN that does not exist (SPC-4 6.6.1, SAM-5 5.11)."""
    completions: list[Completion] = []
    for tag, buffer, _ in commands:
        cdb = bytes(buffer)
        status, data = GOOD, b""
        try:
            if cdb[0] == 0x12 and not cdb[1] & 0x01:
                data = absent_inquiry()[: int.from_bytes(cdb[3:5], "big")]
            elif cdb[0] == 0xA0:
                data = lun_list(nexus.luns, cdb)
            elif cdb[0] == 0x03:
                data = LOGICAL_UNIT_NOT_SUPPORTED.encode()[: cdb[4]]
            else:
                raise CheckCondition(LOGICAL_UNIT_NOT_SUPPORTED)
        except CheckCondition as error:
            status, data = CHECK_CONDITION, error.sense.encode()
        completions.append((tag, status, data, 0 if status else len(data)))
    done(completions)
