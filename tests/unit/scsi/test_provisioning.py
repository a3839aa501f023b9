"""What a thinly provisioned disk says of its blocks."""

from collections.abc import Sequence
from typing import Any

from iscsi_rp.block import MemoryDevice
from iscsi_rp.device import MAP, UNMAP, WRITE, ZERO, Done, Io, pack_runs
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


class Recording(MemoryDevice):
    """Memory that remembers what was asked of it."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.ios: list[tuple[int, int, int, bool]] = []

    def submit(self, batch: Sequence[Io], done: Done) -> None:
        self.ios += [(*io[:3], io[4]) for io in batch]
        super().submit(batch, done)

    def content(self) -> bytes:
        return bytes(self._data)


def write_same(unit: LogicalUnit, nexus: Nexus, lba: int, blocks: int, data: bytes, flags: int = 0) -> Any:
    cdb = bytes((0x93, flags)) + lba.to_bytes(8, "big") + blocks.to_bytes(4, "big") + b"\0\0"
    answers: list[Any] = []
    unit.submit(nexus, [(0, cdb, data)], answers.extend)
    _, status, payload, _ = answers[0]
    return (payload[2], payload[12], payload[13]) if status else 0


def test_write_same_of_no_blocks_goes_to_the_end() -> None:
    device = Recording(24 << 20)
    unit, (nexus,) = ready(device, 1)
    last = unit.size_blocks - 1
    pattern = bytes(range(256)) * 2
    device.ios.clear()
    assert write_same(unit, nexus, 5, 0, pattern) == 0
    assert device.content() == bytes(5 * BLOCK) + pattern * (unit.size_blocks - 5)
    assert {io[0] for io in device.ios} == {WRITE}
    assert all(io[3] for io in device.ios), "so much goes through the thread"
    device.ios.clear()
    assert write_same(unit, nexus, last, 0, bytes(BLOCK)) == 0
    assert write_same(unit, nexus, 0, 0, bytes(BLOCK), 0x08) == 0
    assert device.ios == [(ZERO, last * BLOCK, BLOCK, False), (UNMAP, 0, 24 << 20, False)]
    assert write_same(unit, nexus, last + 1, 0, pattern) == (5, 0x21, 0)
    unit.limits = unit.limits._replace(write_same_blocks=8)
    assert write_same(unit, nexus, 0, 0, pattern) == (5, 0x24, 0)
    assert write_same(unit, nexus, last - 7, 0, pattern) == 0


def test_defect_lists_are_empty() -> None:
    unit, (nexus,) = ready(MemoryDevice(BLOCK), 1)
    answers: list[Any] = []

    def done(completions: Any) -> None:
        answers.extend((status, bytes(payload)) for _, status, payload, _ in completions)

    short = bytes((0x37, 0, 0x1D, 0, 0, 0, 0, 0, 255, 0))
    long = bytes((0xB7, 0x0D, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0))
    for tag, cdb in enumerate((short, long, short[:2] + b"\x1e" + short[3:], long[:1] + b"\x07" + long[2:])):
        unit.submit(nexus, [(tag, cdb.ljust(16, b"\0"), None)], done)
    assert answers[:2] == [(0, bytes((0, 0x1D, 0, 0))), (0, bytes((0, 0x0D, 0, 0, 0, 0, 0, 0)))]
    assert [status for status, _ in answers[2:]] == [2, 2]
