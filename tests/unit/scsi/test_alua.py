"""Asymmetric access: states of target port groups, and what is served in them."""

import pytest

from iscsi_rp.scsi.access import PortState
from iscsi_rp.scsi.opcodes import TABLE
from tests.unit.scsi.rig import BLOCK, READ, TEST_UNIT_READY, WRITE, Host, make_unit

OPTIMIZED, NON_OPTIMIZED, STANDBY, UNAVAILABLE = range(4)


def report(host: Host, form: int = 0) -> bytes:
    return host.good(bytes((0xA3, 0x0A | form << 5, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0)))


def states(host: Host) -> dict[int, tuple[int, bool, int]]:
    """Group -> (state, preferred, status code)."""
    data = report(host)
    assert int.from_bytes(data[:4], "big") == len(data) - 4 == 24
    found = {}
    for at in (4, 16):
        assert data[at + 1] == 0x0F
        assert data[at + 7] == 1
        group = int.from_bytes(data[at + 2 : at + 4], "big")
        assert data[at + 8 : at + 12] == group.to_bytes(4, "big")
        found[group] = data[at] & 0x0F, bool(data[at] & 0x80), data[at + 5]
    return found


def set_states(host: Host, *wanted: tuple[int, int]) -> tuple[int, int, int] | None:
    data = bytes(4) + b"".join(bytes((state, 0, 0, group)) for group, state in wanted)
    return host.do(bytes((0xA4, 0x0A, 0, 0, 0, 0, 0, 0, 0, len(data), 0, 0)), data).sense


def test_the_owner_is_optimized_and_preferred() -> None:
    unit = make_unit()
    a, b = Host(unit, 1, sp=1), Host(unit, 1, sp=2)
    assert states(a) == states(b) == {1: (OPTIMIZED, True, 0), 2: (NON_OPTIMIZED, False, 0)}
    for host in (a, b):
        assert host.do(WRITE, bytes(BLOCK)).status == 0
    unit.set_owner(2)
    assert a.attention() == b.attention() == (0x2A, 6)
    assert states(a) == {1: (NON_OPTIMIZED, False, 2), 2: (OPTIMIZED, True, 2)}
    unit.set_owner(2)
    assert a.attention() is None
    with pytest.raises(ValueError, match="no target port group 3"):
        unit.set_owner(3)


def test_explicit_states() -> None:
    unit = make_unit()
    a, b = Host(unit, 1, sp=1), Host(unit, 1, sp=2)
    assert set_states(a, (1, NON_OPTIMIZED), (2, OPTIMIZED)) is None
    assert (a.attention(), b.attention()) == (None, (0x2A, 6))
    assert states(a) == {1: (NON_OPTIMIZED, True, 1), 2: (OPTIMIZED, False, 1)}
    assert set_states(a, (1, OPTIMIZED)) is None
    assert b.attention() == (0x2A, 6)
    unit.set_owner(2)
    assert a.attention() == b.attention() == (0x2A, 6)
    assert states(b)[1] == (NON_OPTIMIZED, False, 2)
    assert states(b)[2] == (OPTIMIZED, True, 1)
    # All or nothing.
    assert set_states(a, (1, STANDBY), (3, STANDBY)) == (5, 0x26, 0)
    assert set_states(a, (1, STANDBY), (2, 4)) == (5, 0x26, 0)
    assert set_states(a, (1, STANDBY), (1, OPTIMIZED)) == (5, 0x26, 0)
    assert states(b)[1] == (NON_OPTIMIZED, False, 2)


@pytest.mark.parametrize("size", [1, 3, 5, 7, 10])
def test_parameter_lists_of_a_wrong_length(size: int) -> None:
    host = Host(make_unit())
    answer = host.do(
        bytes((0xA4, 0x0A, 0, 0, 0, 0, 0, 0, 0, size, 0, 0)), bytes((0, 0, 0, 0, 2, 0, 0, 1, 2, 0))
    )
    assert answer.sense == (5, 0x1A, 0)
    assert states(host)[1] == (OPTIMIZED, True, 0)


def test_a_command_of_a_batch_shuts_the_way_for_those_behind_it() -> None:
    unit = make_unit()
    host = Host(unit)
    shut = bytes((0xA4, 0x0A, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0))
    batch = [(0, READ, None), (1, shut, bytes((0, 0, 0, 0, STANDBY, 0, 0, 1))), (2, READ, None)]
    found: dict[int, int] = {}
    unit.submit(host.nexus, batch, lambda done: found.update((each[0], each[1]) for each in done))
    assert found == {0: 0, 1: 0, 2: 0x02}


def test_the_extended_header_and_unknown_forms() -> None:
    host = Host(make_unit())
    plain, extended = report(host), report(host, 1)
    assert extended[:8] == (28).to_bytes(4, "big") + b"\x10\0\0\0"
    assert extended[8:] == plain[4:]
    assert host.do(bytes((0xA3, 0x4A, 0, 0, 0, 0, 0, 0, 4, 0))).sense == (5, 0x24, 0)


@pytest.mark.parametrize(("state", "code"), [(STANDBY, 0x0B), (UNAVAILABLE, 0x0C)])
def test_what_is_refused_without_access_to_the_medium(state: int, code: int) -> None:
    unit = make_unit()
    a, b = Host(unit, 1, sp=1), Host(unit, 1, sp=2)
    assert set_states(a, (2, state)) is None
    assert b.attention() == (0x2A, 6)
    for row in TABLE.values():
        served = row.without_media == PortState.ANY or (
            row.without_media == PortState.STANDBY and state == STANDBY
        )
        cdb = bytearray(row.usage[:1].ljust(32, b"\0"))
        cdb[1] = row.service_action or 0
        assert (b.do(bytes(cdb), b"").sense == (2, 4, code)) == (not served), row.name
    for needs_medium in (READ, WRITE, TEST_UNIT_READY):
        assert b.do(needs_medium, bytes(BLOCK)).sense == (2, 4, code)
        assert a.do(needs_medium, bytes(BLOCK)).status == 0
    assert set_states(b, (2, OPTIMIZED)) is None
    assert b.do(READ).status == 0
