"""Unit attention conditions: who is told what, and once."""

from collections.abc import Sequence

import pytest

from iscsi_rp.block import MemoryDevice
from iscsi_rp.device import Done, Io
from iscsi_rp.scsi.absent import serve_absent
from iscsi_rp.scsi.task import Nexus
from tests.unit.scsi.rig import BLOCK, READ, TEST_UNIT_READY, WRITE, Host, make_unit

REQUEST_SENSE = bytes((0x03, 0, 0, 0, 252, 0))
REPORT_LUNS = bytes((0xA0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0))
INQUIRY = bytes((0x12, 0, 0, 0, 96, 0))


class CountingDevice(MemoryDevice):
    def __init__(self) -> None:
        super().__init__(64 * BLOCK)
        self.operations = 0

    def submit(self, batch: Sequence[Io], done: Done) -> None:
        self.operations += len(batch)
        super().submit(batch, done)


def test_a_new_nexus_is_told_of_power_on_once_and_its_command_is_not_executed() -> None:
    device = CountingDevice()
    host = Host(make_unit(device), fresh=True)
    assert host.do(WRITE, b"\xff" * BLOCK).sense == (6, 0x29, 0)
    before = device.operations
    assert host.do(WRITE, b"\xff" * BLOCK).status == 0
    assert (before, device.operations) == (0, 1)


def test_only_the_first_command_of_a_batch_reports_it() -> None:
    unit = make_unit()
    host = Host(unit, fresh=True)
    answers: list[tuple[int, int]] = []
    batch = [
        (tag, cdb.ljust(16, b"\0"), None) for tag, cdb in enumerate((INQUIRY, READ, READ, TEST_UNIT_READY))
    ]
    unit.submit(host.nexus, batch, lambda done: answers.extend((each[0], each[1]) for each in done))
    assert sorted(answers) == [(0, 0), (1, 2), (2, 0), (3, 0)]


@pytest.mark.parametrize("cdb", [INQUIRY, REPORT_LUNS])
def test_exempt_commands_are_executed_and_leave_it(cdb: bytes) -> None:
    host = Host(make_unit(), fresh=True)
    assert host.good(cdb)
    assert host.attention() == (0x29, 0)


def test_request_sense_tells_it_and_it_is_over() -> None:
    host = Host(make_unit(), fresh=True)
    assert host.good(REQUEST_SENSE)[12:14] == b"\x29\0"
    assert host.good(REQUEST_SENSE)[12:14] == b"\0\0"
    assert host.attention() is None


def test_request_sense_in_descriptor_format() -> None:
    host = Host(make_unit(), fresh=True)
    assert host.good(bytes((0x03, 1, 0, 0, 252, 0))) == bytes((0x72, 6, 0x29, 0, 0, 0, 0, 0))


def test_each_event_is_told_to_whom_it_concerns() -> None:
    unit = make_unit()
    one, two = Host(unit, 1), Host(unit, 2)
    unit.reset()
    assert (one.attention(), two.attention(), two.attention()) == ((0x29, 3), (0x29, 3), None)
    unit.space_low()
    assert (one.attention(), two.attention()) == ((0x38, 7), (0x38, 7))
    unit.luns_changed(two.nexus)
    assert (one.attention(), two.attention()) == (None, (0x3F, 0x0E))
    unit.capacity_changed()
    assert (one.attention(), two.attention()) == ((0x2A, 9), (0x2A, 9))


def test_a_grown_device_is_served_and_told() -> None:
    device = MemoryDevice(8 * BLOCK)
    unit = make_unit(device)
    host = Host(unit)
    behind = bytes((0x28, 0, 0, 0, 0, 8, 0, 0, 1, 0))
    assert host.do(behind).sense == (5, 0x21, 0)
    device.grown(9 * BLOCK)
    unit.capacity_changed()
    assert host.attention() == (0x2A, 9)
    assert host.good(bytes((0x25,)))[:4] == (8).to_bytes(4, "big")
    assert host.do(behind).status == 0


def test_reading_the_lun_list_makes_that_attention_needless() -> None:
    unit = make_unit()
    host = Host(unit)
    unit.luns_changed(host.nexus)
    host.good(REPORT_LUNS)
    assert host.attention() is None


@pytest.mark.parametrize("absent", [False, True])
def test_reading_it_anywhere_makes_it_needless_at_every_lun(absent: bool) -> None:
    """SPC-4 6.33; a unit that the nexus has not used yet has still its power on to tell."""
    near, far, unused = make_unit(), make_unit(), make_unit()
    host = Host(near, fresh=True)
    host.nexus = Nexus("iqn.2026-01.test:host", {0: near, 1: far, 2: unused})
    for host.unit in (far, near):
        assert host.attention() == (0x29, 0)
    for unit in (near, far, unused):
        unit.luns_changed(host.nexus)
    far.space_low()
    if absent:
        serve_absent(host.nexus, [(0, REPORT_LUNS.ljust(16, b"\0"), None)], lambda _: None)
    else:
        host.good(REPORT_LUNS)
    waiting = []
    for host.unit in (near, far, far, unused):
        waiting.append(host.attention())
    assert waiting == [None, (0x38, 7), None, (0x29, 0)]


def test_conditions_wait_in_order_each_once_and_a_reset_replaces_them() -> None:
    unit = make_unit()
    host = Host(unit)
    for _ in range(3):
        unit.space_low()
        unit.capacity_changed()
    assert [host.attention() for _ in range(3)] == [(0x38, 7), (0x2A, 9), None]
    unit.space_low()
    unit.reset()
    assert [host.attention() for _ in range(2)] == [(0x29, 3), None]


def test_the_transport_is_called_for_each_condition() -> None:
    unit = make_unit()
    host, heard = Host(unit), list[tuple[Nexus, tuple[int, int]]]()
    unit.attention = lambda nexus, sense: heard.append((nexus, sense.code))
    unit.capacity_changed()
    unit.capacity_changed()
    assert heard == [(host.nexus, (0x2A, 9))]


def test_a_lost_nexus_is_forgotten_and_what_it_sent_late_leaves_nothing_behind() -> None:
    unit = make_unit()
    host, other, heard = Host(unit, 1), Host(unit, 2), list[Nexus]()
    unit.attention = lambda nexus, _: heard.append(nexus)
    unit.nexus_lost(host.nexus)
    unit.space_low()
    assert heard == [other.nexus]
    assert other.attention() == (0x38, 7)
    reserve = bytes((0x16,))
    assert host.do(reserve).status == 0x40
    assert other.do(READ).status == 0
    unit.space_low()
    assert heard == [other.nexus] * 2
