"""The block commands that look at blocks, and what all block commands share (SBC-4 5).

READ as the logical unit's short way does not serve it: of 6 bytes, with FUA, or odd.
"""

from typing import Final

from iscsi_rp.device import FLUSH, READ, Buffer, Result
from iscsi_rp.scsi.cdb import FUA, Range, decode_range, length_at, uint
from iscsi_rp.scsi.holds import Operation
from iscsi_rp.scsi.sense import LBA_OUT_OF_RANGE, MISCOMPARE, CheckCondition, invalid_field
from iscsi_rp.scsi.task import Task

PROTECT: Final = 0xE0
_PMI: Final = 0x01
_LAST_DEFECT_FORMAT: Final = 5


def checked_range(task: Task, limit_blocks: int) -> Range:
    """The range that the CDB names, which lies within the medium and a limit of VPD B0."""
    wanted = decode_range(task.cdb)
    if wanted.flags & PROTECT:
        raise invalid_field(1)  # the medium has no protection information
    if wanted.blocks > limit_blocks:
        raise invalid_field(length_at(task.cdb))
    check_on_medium(task, wanted)
    return wanted


def check_on_medium(task: Task, wanted: Range) -> None:
    """Raises `CheckCondition` where blocks, or a place for none, lie beyond the last one."""
    if wanted.lba + wanted.blocks > task.unit.size_blocks or wanted.lba >= task.unit.size_blocks:
        raise CheckCondition(LBA_OUT_OF_RANGE)


def data_of(result: Result) -> Buffer:
    """What a READ that succeeded has read."""
    assert isinstance(result, bytes | bytearray | memoryview)
    return result


def compare(sent: Buffer, stored: Buffer) -> None:
    """Raises MISCOMPARE with the offset of the first byte that differs, unless both are equal."""
    mine, theirs = bytes(sent), bytes(stored)  # views would be compared byte by byte
    if mine == theirs:
        return
    low, high = 0, len(mine)
    while high - low > 1:
        middle = (low + high) // 2
        if mine[low:middle] == theirs[low:middle]:
            low = middle
        else:
            high = middle
    raise CheckCondition(MISCOMPARE._replace(information=low))


def read(task: Task) -> None:
    wanted = checked_range(task, task.unit.limits.transfer_blocks)
    if not wanted.blocks:
        return task.good()
    block = task.unit.device.block_size
    reading: Operation = (READ, wanted.lba * block, wanted.blocks * block, None, False)
    if wanted.flags & FUA:
        # The medium must be read, so what the cache holds goes there first.
        return task.io([(FLUSH, 0, 0, None, False)], lambda _: _read_medium(task, reading))
    return _read_medium(task, reading)


def _read_medium(task: Task, reading: Operation) -> None:
    task.io([reading], lambda results: task.good(data_of(results[0])))


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
            compare(sent, data_of(results[0]))
        task.good(transfer_bytes=transfer)

    return task.io([(READ, wanted.lba * block, wanted.blocks * block, None, False)], read_done)


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
    if uint(task.cdb, 2, 4) and not task.cdb[8] & _PMI:
        raise invalid_field(2)
    last = min(task.unit.size_blocks - 1, 0xFFFF_FFFF)
    task.good(last.to_bytes(4, "big") + task.unit.device.block_size.to_bytes(4, "big"))


def read_capacity_16(task: Task) -> None:
    unit = task.unit
    exponent = unit.blocks_per_physical.bit_length() - 1
    data = (unit.size_blocks - 1).to_bytes(8, "big") + unit.device.block_size.to_bytes(4, "big")
    lbpme_lbprz = 0xC0
    task.good((data + bytes((0, exponent, lbpme_lbprz, 0)) + bytes(16))[: uint(task.cdb, 10, 4)])


def read_defect_data(task: Task) -> None:
    """READ DEFECT DATA (10) and (12): the lists are empty, in whatever format (SBC-4 5.20, 5.21)."""
    long = task.cdb[0] == 0xB7
    at = 1 if long else 2
    wanted = task.cdb[at] & 0x1F
    if wanted & 0x07 > _LAST_DEFECT_FORMAT:
        raise invalid_field(at)
    allocation = uint(task.cdb, 6, 4) if long else uint(task.cdb, 7, 2)
    task.good(bytes((0, wanted)).ljust(8 if long else 4, b"\0")[:allocation])
