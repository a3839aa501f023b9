"""The small commands of every device type (SPC-4 6)."""

from iscsi_rp.device import READ
from iscsi_rp.scsi.access import Reserved
from iscsi_rp.scsi.cdb import uint
from iscsi_rp.scsi.holds import Operation
from iscsi_rp.scsi.sense import NO_SENSE, invalid_field
from iscsi_rp.scsi.task import Nexus, Task


def test_unit_ready(task: Task) -> None:
    """Reads one block: nothing else tells whether the device serves I/O."""
    task.io([(READ, 0, task.unit.device.block_size, None, False)], lambda _: task.good())


def request_sense(task: Task) -> None:
    """What waits to be told, which is over with that; DESC asks for descriptor format (SPC-4 6.39)."""
    if task.cdb[1] & ~0x01:
        raise invalid_field(1)
    sense = task.unit.take_attention(task.nexus) or task.unit.medium.sense or NO_SENSE
    task.good(sense.encode(descriptor=bool(task.cdb[1] & 0x01))[: task.cdb[4]])


def report_luns(task: Task) -> None:
    task.good(reported_luns(task.nexus, task.cdb))


def reported_luns(nexus: Nexus, cdb: bytes) -> bytes:
    """REPORT LUNS parameter data, as long as the CDB allows. That they changed is known with it at every LUN
    (SPC-4 6.33).
    """
    if cdb[2] > 0x02:
        raise invalid_field(2)
    entries = b"" if cdb[2] == 0x01 else b"".join(encode_lun(lun) for lun in sorted(nexus.luns))
    for unit in nexus.luns.values():
        unit.luns_reported(nexus)
    return (len(entries).to_bytes(4, "big") + bytes(4) + entries)[: uint(cdb, 6, 4)]


def encode_lun(lun: int) -> bytes:
    """Single level: peripheral addressing up to 255, else flat (SAM-5 4.6)."""
    return (lun if lun < 256 else 0x4000 | lun).to_bytes(2, "big") + bytes(6)


def send_diagnostic(task: Task) -> None:
    """The default self-test: the first and the last block can be read (SPC-4 6.42)."""
    if task.cdb[1] & ~0x14:
        raise invalid_field(1)
    if task.cdb[3] or task.cdb[4]:
        raise invalid_field(3)  # no diagnostic page can be sent
    if not task.cdb[1] & 0x04:
        return task.good()
    block, size = task.unit.device.block_size, task.unit.device.size
    ends: list[Operation] = [(READ, at, block, None, False) for at in (0, size - block)]
    return task.io(ends, lambda _: task.good())


def prevent_allow(task: Task) -> None:
    """The medium is not removable, so preventing its removal always holds (SPC-4 6.15)."""
    if task.cdb[4] & 0x02:
        raise invalid_field(4)
    prevents = task.cdb[4] & 0x01
    task.unit.reservations.admit(task.nexus, Reserved.CONFLICT if prevents else Reserved.ALLOWED)
    task.good()
