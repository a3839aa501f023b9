"""EXTENDED COPY and SANITIZE take many steps: who aborts them need not wait for all of them."""

import pytest

from iscsi_rp.iscsi.pdu import FINAL
from tests.unit.iscsi.initiator import NAA, SIZE, HeldDevice, Link, command, pdu
from tests.unit.scsi.test_copy import copy_cdb, copy_list, segment, target
from tests.unit.scsi.test_medium import overwrite

_WRITE = FINAL | 0x20
_STEPS = 3
"Of one segment of a MiB: what takes space, read, write."


@pytest.mark.parametrize("function", [1, 2, 5, 6])
def test_a_copy_ends_after_its_present_step(function: int) -> None:
    device = HeldDevice()
    link = Link(device).opened()
    data = copy_list([target(NAA)], [segment(0, 2048, 2048)] * 8)
    assert link.send(command(copy_cdb(data), _WRITE, len(data), data, itt=1, sn=1)) == []
    for _ in range(_STEPS):
        device.let_go()
    assert link.send(pdu(0x42, FINAL | function, itt=2, word20=1, sn=2)) == []
    device.let_go()
    device.let_go()
    (answer,) = link.later
    assert (answer.opcode, answer.head[2]) == (0x22, 0)
    assert not device.held


@pytest.mark.parametrize("function", [1, 2, 5, 6])
def test_a_sanitize_goes_on_without_its_command(function: int) -> None:
    device = HeldDevice()
    link = Link(device).opened()
    sanitize, data = overwrite(b"x")
    assert link.send(command(sanitize, _WRITE, len(data), data, itt=1, sn=1)) == []
    (answer,) = link.send(pdu(0x42, FINAL | function, itt=2, word20=1, sn=2))
    assert (answer.opcode, answer.head[2]) == (0x22, 0)
    link.clear_attentions()
    (ready,) = link.send(command(bytes(6), FINAL, 0, itt=3, sn=2))
    assert ready.data[2 + 12 : 2 + 14] == b"\x04\x1b"
    while device.held:
        device.let_go()
    assert link.later == []
    assert bytes(device._data) == b"x" * SIZE


def test_another_initiator_is_told_that_its_sanitize_was_aborted() -> None:
    device = HeldDevice()
    one = Link(device).opened()
    two = Link(node=one.node).opened(isid=5)
    sanitize, data = overwrite(b"x")
    assert one.send(command(sanitize, _WRITE, len(data), data, itt=1, sn=1)) == []
    (answer,) = two.send(pdu(0x42, FINAL | 5, itt=2, sn=1))
    assert (answer.opcode, answer.head[2]) == (0x22, 0)
    (aborted,) = one.later
    assert (aborted.opcode, aborted.head[3]) == (0x21, 0x40)
