"""What a thinly provisioned disk says of its blocks."""

from collections.abc import Sequence
from typing import Any

from iscsi_rp.block import MemoryDevice
from iscsi_rp.device import MAP, Done, Io, pack_runs
from iscsi_rp.scsi import LogicalUnit, Nexus
from tests.unit.scsi.test_holds import BLOCK, ready


class HolesDevice(MemoryDevice):
    """Says what it is told to say about its blocks."""

    runs: tuple[int, ...] = ()

    def submit(self, batch: Sequence[Io], done: Done) -> None:
        assert [io[0] for io in batch] == [MAP]
        done([(batch[0][5], pack_runs(self.runs))])


def lba_status(unit: LogicalUnit, nexus: Nexus, lba: int, allocation: int = 4096) -> Any:
    cdb = bytes((0x9E, 0x12)) + lba.to_bytes(8, "big") + allocation.to_bytes(4, "big") + b"\0\0"
    answers: list[Any] = []
    unit.submit(nexus, [(0, cdb, None)], answers.extend)
    return answers[0]


def descriptors(data: bytes) -> list[tuple[int, int, int]]:
    """(LBA, blocks, status) of each."""
    assert int.from_bytes(data[:4], "big") == len(data) - 4
    parts = [data[at : at + 16] for at in range(8, len(data), 16)]
    return [(int.from_bytes(part[:8], "big"), int.from_bytes(part[8:12], "big"), part[12]) for part in parts]


def test_get_lba_status_tells_what_the_device_tells() -> None:
    device = HolesDevice(100 * BLOCK)
    device.runs = (3 * BLOCK, 5 * BLOCK, 2 * BLOCK)
    unit, (nexus,) = ready(device, 1)
    _, status, data, _ = lba_status(unit, nexus, 10)
    assert status == 0
    assert descriptors(data) == [(10, 3, 0), (13, 5, 1), (18, 2, 0)]
    device.runs = (0, 90 * BLOCK)
    assert descriptors(lba_status(unit, nexus, 10)[2]) == [(10, 90, 1)]
    assert len(lba_status(unit, nexus, 10, 12)[2]) == 12
    assert lba_status(unit, nexus, 100)[1] == 2


def test_a_run_longer_than_a_descriptor_can_say_ends_the_list() -> None:
    device = HolesDevice(BLOCK)
    unit, (nexus,) = ready(device, 1)
    unit.size_blocks = 1 << 34
    device.runs = (0, BLOCK << 33, BLOCK)
    assert descriptors(lba_status(unit, nexus, 0)[2]) == [(0, 0xFFFF_FFFF, 1)]
