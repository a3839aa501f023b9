"""A host comes back: nothing of its earlier session may change a block once it is told that it is in."""

import pytest

from iscsi_rp.iscsi.pdu import FINAL
from tests.unit.iscsi.initiator import OPEN, HeldDevice, Link, command, login, pdu, read_10, write_10

_WRITE = FINAL | 0x20
_READ = FINAL | 0x40
BLOCK = 512


def came_back(device: HeldDevice, *, lost: bool) -> tuple[Link, Link]:
    """A session with a write in the device, and the login that replaces it; `lost`: its connection was gone
    before.
    """
    old = Link(device).opened()
    assert old.send(command(write_10(0, 1), _WRITE, BLOCK, b"o" * BLOCK, itt=1, sn=1)) == []
    if lost:
        old.connection.close()
    return old, Link(node=old.node)


@pytest.mark.parametrize("lost", [False, True])
def test_a_login_is_answered_when_the_old_commands_are_over(lost: bool) -> None:
    device = HeldDevice()
    old, new = came_back(device, lost=lost)
    early = command(bytes(6), FINAL, 0, itt=1, sn=1)
    assert new.send(login(OPEN), early) == []
    assert (old.connection.over, new.connection.blocked) == (True, True)
    device.let_go()
    (answer,) = new.later
    assert (answer.opcode, answer.head[36]) == (0x23, 0)
    device.holding = False
    assert not new.connection.blocked
    (attention,) = new.send()
    assert (attention.opcode, attention.head[3], attention.data[2 + 12]) == (0x21, 0x02, 0x29)
    (data,) = new.send(command(read_10(0, 1), _READ, BLOCK, itt=2, sn=2))
    assert data.data == b"o" * BLOCK


def test_who_gives_up_meanwhile_is_told_nothing() -> None:
    device = HeldDevice()
    _, new = came_back(device, lost=True)
    assert new.send(login(OPEN)) == []
    new.connection.close()
    device.let_go()
    assert new.later == []


@pytest.mark.parametrize("function", [5, 6])
def test_a_reset_waits_for_what_a_lost_session_had_begun(function: int) -> None:
    device = HeldDevice()
    old, _ = came_back(device, lost=True)
    other = Link(node=old.node).opened(isid=5)
    assert other.send(pdu(0x42, FINAL | function, itt=2, sn=1)) == []
    device.let_go()
    (answer,) = other.later
    assert (answer.opcode, answer.head[2]) == (0x22, 0)
    assert not old.node.ending
