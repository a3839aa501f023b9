"""The block commands that the logical unit's short way does not serve (SBC-4 5)."""

from typing import Final

from iscsi_rp.device import FLUSH, READ, UNMAP, WRITE, ZERO, Result
from iscsi_rp.scsi.cdb import FUA, Range, decode_range, uint
from iscsi_rp.scsi.holds import Operation
from iscsi_rp.scsi.sense import (
    INVALID_FIELD_IN_PARAMETER_LIST,
    LBA_OUT_OF_RANGE,
    MISCOMPARE,
    PARAMETER_LIST_LENGTH_ERROR,
    CheckCondition,
    invalid_field,
)
from iscsi_rp.scsi.task import Task

_PROTECT: Final = 0xE0
_ANCHOR, _UNMAP, _NDOB = 0x10, 0x08, 0x01
_CHUNK: Final = 1 << 20


def checked_range(task: Task, limit_blocks: int) -> Range:
    """The range that the CDB names, which lies within the medium and a limit of VPD B0."""
    wanted = decode_range(task.cdb)
    if wanted.flags & _PROTECT:
        raise invalid_field(1)  # the medium has no protection information
    if wanted.blocks > limit_blocks:
        raise invalid_field(2)
    if wanted.lba + wanted.blocks > task.unit.size_blocks or wanted.lba >= task.unit.size_blocks:
        raise CheckCondition(LBA_OUT_OF_RANGE)
    return wanted


def read(task: Task) -> None:
    wanted = checked_range(task, task.unit.limits.transfer_blocks)
    if not wanted.blocks:
        return task.good()
    block = task.unit.device.block_size
    reading: Operation = (READ, wanted.lba * block, wanted.blocks * block, None, False)
    if wanted.flags & FUA:
        # The medium must be read, so what the cache holds goes there first.
        return task.io([(FLUSH, 0, 0, None, False)], lambda _: _read(task, reading))
    return _read(task, reading)


def _read(task: Task, reading: Operation) -> None:
    task.io([reading], lambda results: task.good(_data(results[0])))


def _data(result: Result) -> bytes | bytearray | memoryview:
    assert isinstance(result, bytes | bytearray | memoryview)
    return result


def write(task: Task) -> None:
    wanted = checked_range(task, task.unit.limits.transfer_blocks)
    data = _whole_blocks(task, wanted.blocks)
    transfer = wanted.blocks * task.unit.device.block_size
    if not data:
        return task.good(transfer_bytes=transfer)
    operation = (WRITE, wanted.lba * task.unit.device.block_size, len(data), data, bool(wanted.flags & FUA))
    return task.io([operation], lambda _: task.good(transfer_bytes=transfer))


def _whole_blocks(task: Task, blocks: int) -> bytes:
    """The blocks that arrived, when an initiator announced less data than its CDB (a residual overflow)."""
    block = task.unit.device.block_size
    return task.data[: min(blocks, len(task.data) // block) * block]


def write_and_verify(task: Task) -> None:
    wanted = checked_range(task, task.unit.limits.transfer_blocks)
    if wanted.flags & 0x04:
        raise invalid_field(1)
    data = _whole_blocks(task, wanted.blocks)
    block = task.unit.device.block_size
    transfer = wanted.blocks * block
    if not data:
        return task.good(transfer_bytes=transfer)
    operations: list[Operation] = [(WRITE, wanted.lba * block, len(data), data, True)]

    def written(_: list[Result]) -> None:
        task.io([(READ, wanted.lba * block, len(data), None, False)], read_back)

    def read_back(results: list[Result]) -> None:
        if wanted.flags & 0x02:
            _compare(data, _data(results[0]))
        task.good(transfer_bytes=transfer)

    return task.io(operations, written)


def verify(task: Task) -> None:
    """VERIFY: readable (BYTCHK 0), equal to the data-out (1), each block equal to the one sent (3)."""
    wanted = checked_range(task, task.unit.limits.transfer_blocks)
    check = wanted.flags >> 1 & 0x03
    if check == 2:
        raise invalid_field(1)
    block = task.unit.device.block_size
    transfer = (0, wanted.blocks, 0, min(1, wanted.blocks))[check] * block
    if not wanted.blocks:
        return task.good()
    sent = task.parameters(transfer) * (wanted.blocks if check == 3 else 1)

    def read_done(results: list[Result]) -> None:
        if check:
            _compare(sent, _data(results[0]))
        task.good(transfer_bytes=transfer)

    return task.io([(READ, wanted.lba * block, wanted.blocks * block, None, False)], read_done)


def _compare(sent: bytes, stored: bytes | bytearray | memoryview) -> None:
    if sent != stored:
        at = next(i for i, (a, b) in enumerate(zip(sent, stored, strict=True)) if a != b)
        raise CheckCondition(MISCOMPARE._replace(information=at))


def write_same(task: Task) -> None:
    """WRITE SAME: a block of zeros becomes ZERO, or UNMAP with its bit; another is repeated (SBC-4 5.46)."""
    unit, block = task.unit, task.unit.device.block_size
    wanted = checked_range(task, unit.limits.write_same_blocks)
    flags = wanted.flags
    if not wanted.blocks:
        raise invalid_field(10 if task.cdb[0] == 0x93 else 7)  # WSNZ
    no_data = bool(flags & _NDOB) and task.cdb[0] == 0x93
    if flags & _ANCHOR or (flags & _UNMAP and not unit.thin) or (flags & _NDOB and not no_data):
        raise invalid_field(1)
    sent = bytes(block) if no_data else task.data
    if len(sent) != block:
        raise CheckCondition(PARAMETER_LIST_LENGTH_ERROR)
    offset, length = wanted.lba * block, wanted.blocks * block
    operations: list[Operation]
    if not any(sent):
        operations = [(UNMAP if flags & _UNMAP else ZERO, offset, length, None, False)]
    else:
        chunk = memoryview(sent * min(wanted.blocks, _CHUNK // block))
        operations = [
            (WRITE, at, min(len(chunk), offset + length - at), chunk[: offset + length - at], False)
            for at in range(offset, offset + length, len(chunk))
        ]
    task.io(operations, lambda _: task.good(transfer_bytes=0 if no_data else block))


def unmap(task: Task) -> None:
    """UNMAP (SBC-4 5.34): a list of 16-byte descriptors behind 8 bytes of header."""
    unit, block = task.unit, task.unit.device.block_size
    if not unit.thin or task.cdb[1]:
        raise invalid_field(1 if unit.thin else 0)
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


def synchronize_cache(task: Task) -> None:
    """SYNCHRONIZE CACHE: all of it, whatever the range. IMMED is answered late, which it permits."""
    lba, blocks = decode_range(task.cdb)[1:]
    if lba + blocks > task.unit.size_blocks:
        raise CheckCondition(LBA_OUT_OF_RANGE)
    task.io([(FLUSH, 0, 0, None, False)], lambda _: task.good())


def prefetch(task: Task) -> None:
    """PRE-FETCH: accepted; the page cache of the host reads ahead by itself."""
    lba, blocks = decode_range(task.cdb)[1:]
    if lba + blocks > task.unit.size_blocks:
        raise CheckCondition(LBA_OUT_OF_RANGE)
    task.good()


def read_capacity_10(task: Task) -> None:
    if uint(task.cdb, 2, 4):
        raise invalid_field(2)
    last = min(task.unit.size_blocks - 1, 0xFFFF_FFFF)
    task.good(last.to_bytes(4, "big") + task.unit.device.block_size.to_bytes(4, "big"))


def read_capacity_16(task: Task) -> None:
    unit = task.unit
    exponent = unit.blocks_per_physical.bit_length() - 1
    thin = 0xC0 if unit.thin else 0  # LBPME, LBPRZ
    data = (unit.size_blocks - 1).to_bytes(8, "big") + unit.device.block_size.to_bytes(4, "big")
    task.good((data + bytes((0, exponent, thin, 0)) + bytes(16))[: uint(task.cdb, 10, 4)])


def get_lba_status(task: Task) -> None:
    """GET LBA STATUS (SBC-4 5.6): all is mapped, as far as a `BlockDevice` can tell."""
    unit, lba = task.unit, uint(task.cdb, 2, 8)
    if lba >= unit.size_blocks:
        raise CheckCondition(LBA_OUT_OF_RANGE)
    blocks = min(unit.size_blocks - lba, 0xFFFF_FFFF)
    descriptor = lba.to_bytes(8, "big") + blocks.to_bytes(4, "big") + bytes(4)
    task.good(((4 + len(descriptor)).to_bytes(4, "big") + bytes(4) + descriptor)[: uint(task.cdb, 10, 4)])
