"""The block commands that write data (SBC-4 5), as far as the logical unit's short way does not serve them.

Those that look at blocks first, or after, hold them meanwhile, so each is atomic to every other command.
"""

from iscsi_rp.device import READ, WRITE, Result
from iscsi_rp.scsi.blocks import PROTECT, check_on_medium, checked_range, compare, data_of
from iscsi_rp.scsi.cdb import FUA, Range, decode_range, uint
from iscsi_rp.scsi.holds import Operation
from iscsi_rp.scsi.sense import invalid_field
from iscsi_rp.scsi.task import Task

_BYTCHK = 0x06


def write(task: Task) -> None:
    _write(task, checked_range(task, task.unit.limits.transfer_blocks))


def _write(task: Task, wanted: Range) -> None:
    block = task.unit.device.block_size
    data = _whole_blocks(task, wanted.blocks)
    transfer = wanted.blocks * block
    if not data:
        return task.good(transfer_bytes=transfer)
    operation = (WRITE, wanted.lba * block, len(data), data, bool(wanted.flags & FUA))
    return task.io([operation], lambda _: task.good(transfer_bytes=transfer))


def _whole_blocks(task: Task, blocks: int) -> bytes:
    """The blocks that arrived, when an initiator announced less data than its CDB (a residual overflow)."""
    block = task.unit.device.block_size
    return task.data[: min(blocks, len(task.data) // block) * block]


def write_and_verify(task: Task) -> None:
    """WRITE AND VERIFY: durable, and read back; with BYTCHK 1 also compared."""
    wanted = checked_range(task, task.unit.limits.transfer_blocks)
    check = (wanted.flags & _BYTCHK) >> 1
    if check > 1:
        raise invalid_field(1)
    data = _whole_blocks(task, wanted.blocks)
    offset = wanted.lba * task.unit.device.block_size
    transfer = wanted.blocks * task.unit.device.block_size
    if not data:
        return task.good(transfer_bytes=transfer)

    def held() -> None:
        task.io([(WRITE, offset, len(data), data, True)], written)

    def written(_: list[Result]) -> None:
        task.io([(READ, offset, len(data), None, False)], read_back)

    def read_back(results: list[Result]) -> None:
        if check:
            compare(data, data_of(results[0]))
        task.good(transfer_bytes=transfer)

    return task.exclusively([(offset, len(data))], held)


def orwrite(task: Task) -> None:
    """ORWRITE (16): what is stored, or what was sent (SBC-4 5.12)."""
    wanted = checked_range(task, task.unit.limits.transfer_blocks)
    data = _whole_blocks(task, wanted.blocks)
    offset = wanted.lba * task.unit.device.block_size
    transfer = wanted.blocks * task.unit.device.block_size
    if not data:
        return task.good(transfer_bytes=transfer)

    def held() -> None:
        task.io([(READ, offset, len(data), None, False)], read_done)

    def read_done(results: list[Result]) -> None:
        both = int.from_bytes(data_of(results[0]), "big") | int.from_bytes(data, "big")
        ored = both.to_bytes(len(data), "big")
        write_back: Operation = (WRITE, offset, len(data), ored, bool(wanted.flags & FUA))
        task.io([write_back], lambda _: task.good(transfer_bytes=transfer))

    return task.exclusively([(offset, len(data))], held)


def compare_and_write(task: Task) -> None:
    """COMPARE AND WRITE (SBC-4 5.3): the first half of the data-out is compared with what is stored, and if
    it is equal the second half is written.
    """
    cdb, block = task.cdb, task.unit.device.block_size
    wanted = Range(cdb[1], uint(cdb, 2, 8), cdb[13])
    if wanted.flags & PROTECT:
        raise invalid_field(1)
    if wanted.blocks > task.unit.limits.compare_blocks:
        raise invalid_field(13)
    check_on_medium(task, wanted)
    offset, length = wanted.lba * block, wanted.blocks * block
    if len(task.data) != 2 * length:
        raise invalid_field(13)
    if not length:
        return task.good()
    expected, data = task.data[:length], task.data[length:]

    def held() -> None:
        task.io([(READ, offset, length, None, False)], read_done)

    def read_done(results: list[Result]) -> None:
        compare(expected, data_of(results[0]))
        replace: Operation = (WRITE, offset, length, data, bool(wanted.flags & FUA))
        task.io([replace], lambda _: task.good(transfer_bytes=2 * length))

    return task.exclusively([(offset, length)], held)


def write_atomic(task: Task) -> None:
    """WRITE ATOMIC (16) (SBC-4 5.48): all of it or nothing, to other commands and when power is lost.

    Holding the blocks serves other commands, for any length. But a store below may tear what is longer than a
    sector when power is lost, so one block is what can be promised, and an atomic boundary has no use.
    """
    flags, lba, _ = decode_range(task.cdb)
    boundary, blocks = uint(task.cdb, 10, 2), uint(task.cdb, 12, 2)
    if flags & PROTECT:
        raise invalid_field(1)
    check_on_medium(task, Range(flags, lba, blocks))
    if boundary:
        raise invalid_field(10)
    if blocks > task.unit.limits.atomic_blocks:
        raise invalid_field(12)
    block = task.unit.device.block_size
    task.exclusively([(lba * block, blocks * block)], lambda: _write(task, Range(flags, lba, blocks)))
