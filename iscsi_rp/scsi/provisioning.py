"""The block commands of a thinly provisioned disk (SBC-4 4.7): WRITE SAME, UNMAP, GET LBA STATUS."""

from __future__ import annotations

from typing import Final

from iscsi_rp.device import MAP, UNMAP, WRITE, ZERO, Result, unpack_runs
from iscsi_rp.errors import Error
from iscsi_rp.scsi.blocks import checked_range, data_of
from iscsi_rp.scsi.cdb import length_at, uint
from iscsi_rp.scsi.holds import Operation
from iscsi_rp.scsi.sense import (
    INVALID_FIELD_IN_PARAMETER_LIST,
    LBA_OUT_OF_RANGE,
    PARAMETER_LIST_LENGTH_ERROR,
    CheckCondition,
    invalid_field,
)
from iscsi_rp.scsi.steps import Drive, Steps
from iscsi_rp.scsi.task import Task

_ANCHOR, _UNMAP, _NDOB = 0x10, 0x08, 0x01
_MAPPED, _DEALLOCATED = 0, 1
_CHUNK: Final = 1 << 20
_AT_ONCE: Final = 16 << 20


def write_same(task: Task) -> None:
    """WRITE SAME: a block of zeros becomes ZERO, or UNMAP with its bit; another is repeated (SBC-4 5.46). No
    blocks are all from the first on.
    """
    unit, block = task.unit, task.unit.device.block_size
    wanted = checked_range(task, unit.limits.write_same_blocks)
    flags, blocks = wanted.flags, wanted.blocks or unit.size_blocks - wanted.lba
    if blocks > unit.limits.write_same_blocks:
        raise invalid_field(length_at(task.cdb))
    no_data = bool(flags & _NDOB) and task.cdb[0] == 0x93
    if flags & _ANCHOR or (flags & _NDOB and not no_data):
        raise invalid_field(1)
    sent = bytes(block) if no_data else task.data
    if len(sent) != block:
        raise CheckCondition(PARAMETER_LIST_LENGTH_ERROR)
    offset, length = wanted.lba * block, blocks * block
    if not any(sent):
        clear: Operation = (UNMAP if flags & _UNMAP else ZERO, offset, length, None, False)
        return task.io([clear], lambda _: task.good(transfer_bytes=0 if no_data else block))

    def ended(error: Error | None) -> None:
        if error is None:
            task.good(transfer_bytes=block)
        else:
            task.end(error)

    return Drive(_repeated(task, sent, offset, length), ended).start()


def _repeated(task: Task, sent: bytes, offset: int, length: int) -> Steps:
    """Each step asks anew whether it may: who was preempted, or whose medium is sanitized, writes no more."""
    unit = task.unit
    chunk = memoryview(sent * (min(length, _CHUNK) // len(sent)))
    # FUA has the store write in a thread: so much would keep all others from the loop.
    fua = length > _AT_ONCE
    for begin in range(0, length, _AT_ONCE):
        end = min(begin + _AT_ONCE, length)
        unit.admit_as(task.nexus, task.cdb[0])
        yield (
            unit,
            [
                (WRITE, offset + at, min(len(chunk), end - at), chunk[: end - at], fua)
                for at in range(begin, end, len(chunk))
            ],
        )


def unmap(task: Task) -> None:
    """UNMAP (SBC-4 5.34): a list of 16-byte descriptors behind 8 bytes of header."""
    unit, block = task.unit, task.unit.device.block_size
    if task.cdb[1]:
        raise invalid_field(1)
    data = task.parameters(uint(task.cdb, 7, 2))
    if not data:
        return task.good()
    if len(data) < 8:
        raise CheckCondition(PARAMETER_LIST_LENGTH_ERROR)
    end = 8 + min(uint(data, 2, 2), len(data) - 8) // 16 * 16
    ranges = [(uint(data, at, 8), uint(data, at + 8, 4)) for at in range(8, end, 16)]
    if len(ranges) > unit.limits.unmap_descriptors or sum(n for _, n in ranges) > unit.limits.unmap_blocks:
        raise CheckCondition(INVALID_FIELD_IN_PARAMETER_LIST)
    if any(lba + blocks > unit.size_blocks for lba, blocks in ranges):
        raise CheckCondition(LBA_OUT_OF_RANGE)
    operations: list[Operation] = [
        (UNMAP, lba * block, blocks * block, None, False) for lba, blocks in ranges if blocks
    ]
    if not operations:
        return task.good(transfer_bytes=len(data))
    return task.io(operations, lambda _: task.good(transfer_bytes=len(data)))


def get_lba_status(task: Task) -> None:
    """GET LBA STATUS (SBC-4 5.6): what takes space in the store is mapped, the rest deallocated."""
    unit, lba, block = task.unit, uint(task.cdb, 2, 8), task.unit.device.block_size
    if lba >= unit.size_blocks:
        raise CheckCondition(LBA_OUT_OF_RANGE)

    def known(results: list[Result]) -> None:
        at = lba
        descriptors = b""
        for index, length in enumerate(unpack_runs(data_of(results[0]))):
            blocks = min(length // block, 0xFFFF_FFFF)
            if blocks:
                status = _DEALLOCATED if index % 2 else _MAPPED
                descriptors += at.to_bytes(8, "big") + blocks.to_bytes(4, "big") + bytes((status, 0, 0, 0))
            if blocks < length // block:
                break
            at += blocks
        head = (4 + len(descriptors)).to_bytes(4, "big") + bytes(4)
        task.good((head + descriptors)[: uint(task.cdb, 10, 4)])

    task.io([(MAP, lba * block, (unit.size_blocks - lba) * block, None, False)], known)
