"""An EXTENDED COPY takes many steps: who aborts it need not wait for all of them."""

import pytest

from iscsi_rp.iscsi.pdu import FINAL
from tests.unit.iscsi.initiator import NAA, HeldDevice, Link, command, pdu
from tests.unit.scsi.test_copy import copy_cdb, copy_list, segment, target

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
