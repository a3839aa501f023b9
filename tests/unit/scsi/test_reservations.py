"""SCSI-2 and persistent reservations, as hosts meet them."""

import struct

import pytest

from iscsi_rp.device import SpaceError
from iscsi_rp.scsi import LogicalUnit
from iscsi_rp.scsi.opcodes import TABLE
from iscsi_rp.scsi.persistent import REGISTRATIONS, Kind
from iscsi_rp.scsi.persistent_format import transport_id
from iscsi_rp.scsi.reservations import registrant
from iscsi_rp.scsi.sense import TASK_SET_FULL
from tests.unit.scsi.rig import BLOCK, CONFLICT, READ, TEST_UNIT_READY, WRITE, Answer, Host, Vault, make_unit
from tests.unit.scsi.test_holds import LateDevice

REGISTER, RESERVE, RELEASE, CLEAR, PREEMPT, PREEMPT_AND_ABORT, IGNORE, MOVE = range(8)
SPEC_I_PT, ALL_TG_PT, APTPL = 0x08, 0x04, 0x01
RESERVE_6, RELEASE_6 = bytes((0x16,)), bytes((0x17,))
RESERVE_10, RELEASE_10 = bytes((0x56,)), bytes((0x57,))


def out_cdb(action: int, kind: int, size: int) -> bytes:
    return struct.pack(">BBBHIx", 0x5F, action, kind, 0, size)


def pr_out(
    host: Host, action: int, key: int = 0, service_key: int = 0, *, kind: int = 0, flags: int = 0
) -> Answer:
    data = struct.pack(">QQIBxxx", key, service_key, 0, flags)
    return host.do(out_cdb(action, kind, len(data)), data)


def pr_in(host: Host, action: int) -> bytes:
    return host.good(struct.pack(">BB5xHx", 0x5E, action, 4096))


def keys(host: Host) -> list[int]:
    data = pr_in(host, 0)
    assert len(data) == 8 + int.from_bytes(data[4:8], "big")
    return [int.from_bytes(data[at : at + 8], "big") for at in range(8, len(data), 8)]


def generation(host: Host) -> int:
    return int.from_bytes(pr_in(host, 0)[:4], "big")


def reservation(host: Host) -> tuple[int, int] | None:
    """(key, type)"""
    data = pr_in(host, 1)
    return (int.from_bytes(data[8:16], "big"), data[21]) if len(data) == 24 else None


def registered(unit_hosts: int = 3) -> list[Host]:
    """Hosts 1, 2... of one unit, registered with the keys 1, 2... by the first ones; the last is not."""
    unit = make_unit()
    hosts = [Host(unit, number + 1) for number in range(unit_hosts)]
    for number, host in enumerate(hosts[:-1]):
        assert pr_out(host, REGISTER, 0, number + 1).status == 0
    return hosts


def access(host: Host) -> tuple[bool, bool]:
    """(may read, may write)"""
    read, write = host.do(READ), host.do(WRITE, bytes(BLOCK))
    assert {read.status, write.status} <= {0, CONFLICT}
    return read.status == 0, write.status == 0


# SCSI-2


@pytest.mark.parametrize(("reserve", "release"), [(RESERVE_6, RELEASE_6), (RESERVE_10, RELEASE_10)])
def test_a_scsi_2_reservation_shuts_out_others(reserve: bytes, release: bytes) -> None:
    unit = make_unit()
    one, two = Host(unit, 1), Host(unit, 2)
    one.good(reserve)
    one.good(reserve)
    assert access(one) == (True, True)
    assert access(two) == (False, False)
    assert two.do(TEST_UNIT_READY).status == two.do(reserve).status == CONFLICT
    two.good(bytes((0x12, 0, 0, 0, 36)))
    two.good(release)  # of nothing that is its own
    assert access(two) == (False, False)
    one.good(release)
    assert access(two) == (True, True)


def test_a_scsi_2_reservation_ends_with_a_reset_and_with_its_session() -> None:
    unit = make_unit()
    one, two = Host(unit, 1), Host(unit, 2)
    one.good(RESERVE_6)
    unit.reset()
    assert one.attention() == two.attention() == (0x29, 3)
    assert access(two) == (True, True)
    one.good(RESERVE_6)
    unit.nexus_lost(one.nexus)
    assert access(two) == (True, True)


def test_scsi_2_and_persistent_reservations_exclude_each_other() -> None:
    one, two, three = registered()
    assert [host.do(RESERVE_6).status for host in (one, three)] == [CONFLICT] * 2
    assert pr_out(one, RESERVE, 1, kind=5).status == 0
    one.good(RESERVE_6)
    two.good(RELEASE_6)
    assert three.do(RESERVE_6).status == CONFLICT
    assert pr_out(one, CLEAR, 1).status == 0
    assert two.attention() == (0x2A, 3)
    assert access(three) == (True, True)
    three.good(RESERVE_6)
    for host in (one, three):
        assert pr_out(host, REGISTER, 0, 9).status == CONFLICT
        assert host.do(bytes((0x5E, 0, 0, 0, 0, 0, 0, 0, 8))).status == CONFLICT


# Persistent: registration


def test_registering_changing_and_leaving() -> None:
    unit = make_unit()
    one, two = Host(unit, 1), Host(unit, 2)
    assert pr_out(one, REGISTER, 5, 1).status == CONFLICT
    assert pr_out(one, REGISTER, 0, 0).status == 0
    assert (keys(one), generation(one)) == ([], 0)
    assert pr_out(one, REGISTER, 0, 1).status == 0
    assert pr_out(two, IGNORE, 77, 2).status == 0
    assert (keys(two), generation(two)) == ([1, 2], 2)
    assert pr_out(one, REGISTER, 0, 3).status == CONFLICT
    assert pr_out(one, REGISTER, 1, 3).status == 0
    assert pr_out(two, IGNORE, 77, 4).status == 0
    assert (keys(two), generation(two)) == ([3, 4], 4)
    assert pr_out(one, REGISTER, 3, 0).status == 0
    assert keys(two) == [4]


def test_registrations_belong_to_a_nexus_not_to_a_host() -> None:
    unit = make_unit()
    a, b = Host(unit, 1, sp=1), Host(unit, 1, sp=2)
    assert pr_out(a, REGISTER, 0, 1).status == 0
    assert pr_out(b, RESERVE, 1, kind=1).status == CONFLICT
    assert pr_out(a, RESERVE, 1, kind=3).status == 0
    assert access(b) == (False, False)


def test_all_target_ports_and_other_initiator_ports() -> None:
    unit = make_unit()
    a, b, other = Host(unit, 1, sp=1), Host(unit, 1, sp=2), Host(unit, 2, sp=1)
    assert pr_out(a, REGISTER, 0, 1, flags=ALL_TG_PT).status == 0
    assert keys(a) == [1, 1]
    assert pr_out(b, RESERVE, 1, kind=1).status == 0
    ids = transport_id(other.port)
    data = struct.pack(">QQIBxxxI", 0, 2, 0, SPEC_I_PT, len(ids)) + ids
    third = Host(unit, 3)
    assert third.do(out_cdb(REGISTER, 0, len(data)), data).status == 0
    assert pr_out(other, REGISTER, 2, 4).status == 0
    assert sorted(keys(a)) == [1, 1, 2, 4]
    assert a.do(out_cdb(REGISTER, 0, len(data)), struct.pack(">Q", 1) + data[8:]).sense == (5, 0x24, 0)


def test_a_name_alone_stands_for_the_ports_that_are_there() -> None:
    unit = make_unit()
    one, two = Host(unit, 1), Host(unit, 2)
    for name, good in ((two.nexus.initiator, True), ("iqn.2026-01.test:nobody", False)):
        text = name.encode() + b"\0" * (4 - len(name) % 4)
        ids = bytes((5, 0)) + len(text).to_bytes(2, "big") + text
        data = struct.pack(">QQIBxxxI", 0, 7, 0, SPEC_I_PT, len(ids)) + ids
        host = one if good else Host(unit, 3)
        answer = host.do(out_cdb(REGISTER, 0, len(data)), data)
        assert answer.sense == (None if good else (5, 0x26, 0))
    assert keys(one) == [7, 7]


def test_the_number_of_registrations_is_bounded() -> None:
    unit = make_unit()
    for number in range(REGISTRATIONS):
        assert pr_out(Host(unit, number), REGISTER, 0, 1).status == 0
    host = Host(unit, REGISTRATIONS)
    assert pr_out(host, REGISTER, 0, 1).sense == (5, 0x55, 4)
    assert len(keys(host)) == REGISTRATIONS


# Persistent: reserving


@pytest.mark.parametrize("kind", Kind)
def test_access_under_each_type(kind: Kind) -> None:
    holder, other, stranger = registered()
    assert pr_out(stranger, RESERVE, 0, kind=kind).status == CONFLICT
    assert pr_out(holder, RESERVE, 9, kind=kind).status == CONFLICT
    assert pr_out(holder, RESERVE, 1, kind=kind).status == 0
    assert pr_out(holder, RESERVE, 1, kind=kind).status == 0
    reading = kind in (1, 5, 7)
    assert access(holder) == (True, True)
    assert access(other) == ((True, True) if kind >= 5 else (reading, False))
    assert access(stranger) == (reading, False)
    everybody = kind >= 7
    assert reservation(other) == (0 if everybody else 1, kind)
    assert (pr_out(other, RESERVE, 2, kind=kind).status == 0) == everybody
    assert pr_out(other, RELEASE, 2, kind=kind).status == 0
    assert (reservation(other) is None) == everybody
    if everybody:
        assert holder.attention() == (0x2A, 4)
    else:
        assert pr_out(holder, RELEASE, 1, kind=8 if kind != 8 else 1).sense == (5, 0x26, 4)
        assert pr_out(holder, RELEASE, 1, kind=kind).status == 0
        assert other.attention() == ((0x2A, 4) if kind >= 5 else None)
    assert stranger.attention() is None
    assert access(stranger) == (True, True)


@pytest.mark.parametrize("kind", [0, 2, 4, 9, 0x11])
def test_types_and_scopes_that_are_not(kind: int) -> None:
    host, _ = registered(2)
    assert pr_out(host, RESERVE, 1, kind=kind).sense == (5, 0x24, 0)


@pytest.mark.parametrize("kind", Kind)
def test_leaving_ends_what_one_holds(kind: Kind) -> None:
    holder, other, stranger = registered()
    assert pr_out(holder, RESERVE, 1, kind=kind).status == 0
    assert pr_out(holder, REGISTER, 1, 0).status == 0
    if kind >= 7:
        assert reservation(other) == (0, kind)
        assert pr_out(other, REGISTER, 2, 0).status == 0
    else:
        assert other.attention() == ((0x2A, 4) if kind >= 5 else None)
    assert reservation(other) is None
    assert access(stranger) == (True, True)


def test_every_command_that_conflicts_by_the_table() -> None:
    holder, _, stranger = registered()
    assert pr_out(holder, RESERVE, 1, kind=3).status == 0
    free = {0x00, 0x03, 0x12, 0x25, 0x4D, 0x5E, 0xA0}
    for row in TABLE.values():
        if row.code in (0x5F, 0x1B, 0x1E, 0x17, 0x57):
            continue
        cdb = bytearray(row.usage[:1].ljust(32, b"\0"))
        cdb[1] = row.service_action or 0
        answer = stranger.do(bytes(cdb), b"")
        allowed = row.code in free or (row.code, row.service_action) in (
            (0x9E, 0x10),
            (0x9E, 0x13),
            (0xA3, 0x0A),
        )
        assert (answer.status != CONFLICT) == allowed, row.name
    stranger.good(bytes((0x1B, 0, 0, 0, 1)))
    assert stranger.do(bytes((0x1B,))).status == CONFLICT
    stranger.good(bytes((0x1E,)))
    assert stranger.do(bytes((0x1E, 0, 0, 0, 1))).status == CONFLICT


# Persistent: preempting


def test_preempting_a_registration_and_a_reservation() -> None:
    unit = make_unit()
    one, two, three = (Host(unit, number) for number in (1, 2, 3))
    for number, host in enumerate((one, two, three), 1):
        assert pr_out(host, REGISTER, 0, number).status == 0
    assert pr_out(one, RESERVE, 1, kind=5).status == 0
    assert pr_out(two, PREEMPT, 2, 9, kind=5).status == CONFLICT
    assert pr_out(two, PREEMPT, 2, 0, kind=5).sense == (5, 0x26, 0)
    assert pr_out(two, PREEMPT, 2, 3, kind=1).status == 0
    assert (keys(one), reservation(one)) == ([1, 2], (1, 5))
    assert [host.attention() for host in (one, two, three)] == [None, None, (0x2A, 5)]
    assert pr_out(three, REGISTER, 0, 3).status == 0
    before = generation(one)
    assert pr_out(two, PREEMPT, 2, 1, kind=3).status == 0
    assert (keys(two), reservation(two), generation(two)) == ([2, 3], (2, 3), before + 1)
    assert one.attention() == (0x2A, 5)
    assert three.attention() == (0x2A, 4)
    assert access(three) == access(one) == (False, False)


def test_preempting_all_registrants() -> None:
    one, two, _ = registered()
    assert pr_out(one, RESERVE, 1, kind=7).status == 0
    assert pr_out(two, PREEMPT, 2, 0, kind=8).status == 0
    assert (keys(two), reservation(two)) == ([2], (0, 8))
    assert (one.attention(), two.attention()) == ((0x2A, 5), None)


def test_preempt_and_abort_waits_for_the_commands_of_the_preempted() -> None:
    one, two, three = registered()
    ended = []
    one.unit.abort_tasks = lambda nexus, then: ended.append((nexus, then))
    assert pr_out(two, RESERVE, 2, kind=5).status == 0
    data = struct.pack(">QQIBxxx", 1, 2, 0, 0)
    answer = one.start(out_cdb(PREEMPT_AND_ABORT, 5, 24), data)
    assert not answer
    # Others go on meanwhile, and see it done.
    assert (keys(three), reservation(three)) == ([1], (1, 5))
    assert pr_out(three, REGISTER, 0, 3).status == 0
    ((nexus, then),) = ended
    assert nexus is two.nexus
    then()
    assert answer[0].status == 0
    assert pr_out(one, PREEMPT, 1, 3).status == 0
    assert len(ended) == 1


def preempt(host: Host, key: int, victim: int) -> list[Answer]:
    """Where the answer of a PREEMPT AND ABORT will be."""
    return host.start(out_cdb(PREEMPT_AND_ABORT, 5, 24), struct.pack(">QQIBxxx", key, victim, 0, 0))


def fenced(unit: LogicalUnit) -> list[Host]:
    """Hosts 1 and 2, registered with keys 1 and 2; the second one has reserved the unit."""
    hosts = [Host(unit, number, fresh=True) for number in (1, 2)]
    for key, host in enumerate(hosts, start=1):
        host.start(TEST_UNIT_READY)
        assert pr_out(host, REGISTER, 0, key).status == 0
    assert pr_out(hosts[1], RESERVE, 2, kind=5).status == 0
    return hosts


def test_the_fence_stands_only_when_what_a_lost_session_had_begun_is_over() -> None:
    device = LateDevice()
    one, two = fenced(make_unit(device))
    two.start(WRITE, b"\xee" * BLOCK)
    two.unit.nexus_lost(two.nexus)
    answer = preempt(one, 1, 2)
    assert not answer
    later = one.start(WRITE, b"\x11" * BLOCK)  # does not wait, and is not waited for
    device.turn(0)  # the first write is applied,
    device.turn(1)  # and reported
    assert (answer[0].status, later) == (0, [])
    device.finish()
    assert (later[0].status, bytes(device.data[:BLOCK])) == (0, b"\x11" * BLOCK)


def test_a_long_write_of_the_preempted_goes_no_further() -> None:
    size = 40 << 20

    class Late(LateDevice):
        def __init__(self) -> None:
            self.size = size
            super().__init__()

    device = Late()
    one, two = fenced(make_unit(device))
    write_same = bytes((0x93, 0)) + bytes(8) + (0xFFFF).to_bytes(4, "big") + bytes(2)
    two.start(write_same, b"\xee" * BLOCK)
    two.unit.nexus_lost(two.nexus)
    answer = preempt(one, 1, 2)
    assert not answer
    device.finish()
    assert answer[0].status == 0
    assert 0 < device.data.count(0xEE) < 0xFFFF * BLOCK


def test_moving_a_reservation() -> None:
    one, two, three = registered()
    assert pr_out(one, RESERVE, 1, kind=3).status == 0

    def move(host: Host, key: int, new_key: int, to: str, port: int, *, unregister: bool) -> Answer:
        ids = transport_id(to)
        data = struct.pack(">QQBBHI", key, new_key, 0, 2 * unregister, port, len(ids)) + ids
        return host.do(out_cdb(MOVE, 0, len(data)), data)

    assert move(two, 2, 7, three.port, 1, unregister=False).status == CONFLICT
    assert move(one, 1, 0, three.port, 1, unregister=False).sense == (5, 0x26, 0)
    assert move(one, 1, 7, one.port, 1, unregister=False).sense == (5, 0x26, 0)
    assert move(one, 1, 7, three.port, 3, unregister=False).sense == (5, 0x26, 0)
    assert move(one, 1, 7, three.port, 1, unregister=True).status == 0
    assert (sorted(keys(two)), reservation(two)) == ([2, 7], (7, 3))
    assert (access(three), access(one)) == ((True, True), (False, False))


# Reports


def test_full_status_and_capabilities() -> None:
    one, two, _ = registered()
    assert pr_out(two, RESERVE, 2, kind=6).status == 0
    data, at, found = pr_in(one, 3), 8, []
    assert len(data) == 8 + int.from_bytes(data[4:8], "big")
    while at < len(data):
        key, flags, kind, port, size = struct.unpack_from(">Q4xBB4xHI", data, at)
        found.append((key, flags, kind, port, data[at + 24 : at + 24 + size]))
        at += 24 + size
    ids = [transport_id(host.port) for host in (one, two)]
    assert found == [(1, 0, 0, 1, ids[0]), (2, 1, 6, 1, ids[1])]
    assert ids[0][0] == 0x45
    assert int.from_bytes(ids[0][2:4], "big") == len(ids[0]) - 4 >= 20
    assert pr_in(one, 2) == b"\x00\x08\x1c\x80\xea\x01\0\0"


@pytest.mark.parametrize("size", [0, 8, 23, 25, 28])
def test_parameter_lists_of_a_wrong_length(size: int) -> None:
    host = Host(make_unit())
    assert host.do(out_cdb(REGISTER, 0, size), bytes(size)).sense == (5, 0x1A, 0)


# Through a loss of power


def test_registrations_survive_where_that_was_asked_for() -> None:
    vault = Vault()
    unit = make_unit(vault=vault)
    one, two = Host(unit, 1), Host(unit, 2)
    assert pr_in(one, 2)[2:4] == b"\x1d\x80"
    assert pr_out(two, REGISTER, 0, 2).status == 0
    assert vault.stored == b""
    assert pr_out(one, REGISTER, 0, 1, flags=APTPL).status == 0
    assert pr_out(one, RESERVE, 1, kind=1).status == 0
    again = make_unit(vault=vault)
    one, two = Host(again, 1), Host(again, 2)
    assert (keys(one), reservation(one), generation(one)) == ([2, 1], (1, 1), 0)
    assert access(two) == (True, False)
    assert pr_in(one, 2)[3] == 0x81
    assert pr_out(one, REGISTER, 1, 1).status == 0
    assert vault.stored == b""
    assert keys(Host(make_unit(vault=vault))) == []


def test_what_cannot_be_stored_has_not_happened() -> None:
    vault = Vault()
    host = Host(make_unit(vault=vault))
    vault.error = SpaceError()
    assert pr_out(host, REGISTER, 0, 1, flags=APTPL).sense == (7, 0x27, 7)
    assert (keys(host), generation(host)) == ([], 0)
    vault.error = None
    assert pr_out(host, REGISTER, 0, 1, flags=APTPL).status == 0


def test_nothing_is_answered_before_it_is_durable_and_the_next_one_waits() -> None:
    vault = Vault()
    unit = make_unit(vault=vault)
    one, two = Host(unit, 1), Host(unit, 2)
    vault.held = []
    data = [struct.pack(">QQIBxxx", 0, key, 0, APTPL) for key in (1, 2)]
    first = one.start(out_cdb(REGISTER, 0, 24), data[0])
    second = two.start(out_cdb(REGISTER, 0, 24), data[1])
    assert (first, second, keys(one), len(vault.held)) == ([], [], [], 1)
    vault.held.pop()()
    assert (len(first), second, keys(one), len(vault.held)) == (1, [], [1], 1)
    vault.held.pop()()
    assert (len(second), keys(one)) == (1, [1, 2])


def test_no_scsi_2_reservation_comes_between_a_registration_and_its_storing() -> None:
    vault = Vault()
    vault.held = []
    unit = make_unit(vault=vault)
    one, two = Host(unit, 1), Host(unit, 2)
    registering = one.start(out_cdb(REGISTER, 0, 24), struct.pack(">QQIBxxx", 0, 1, 0, APTPL))
    assert two.do(RESERVE_6).status == TASK_SET_FULL
    vault.held.pop()()
    assert registering[0].status == 0
    assert unit.reservations.reserved_by is None
    assert two.do(RESERVE_6).status == CONFLICT


def test_initiator_names_may_be_utf_8() -> None:
    vault = Vault()
    one = Host(make_unit(vault=vault))
    name = "iqn.2026-01.test:" + "\u00e9" * 103
    other = Host(one.unit, initiator=name)
    assert pr_out(other, REGISTER, 0, 7, flags=APTPL).status == 0
    assert transport_id(other.port) in pr_in(one, 3)
    assert make_unit(vault=vault).reservations.persistent.keys == {registrant(other.nexus): 7}
    ids = transport_id(f"{name},i,0x000000000001")
    data = struct.pack(">QQIBxxxI", 0, 8, 0, SPEC_I_PT, len(ids)) + ids
    one.good(out_cdb(REGISTER, 0, len(data)), data)
    assert sorted(keys(one)) == [7, 8, 8]


def test_a_list_of_transport_ids_beyond_what_a_field_pointer_reaches() -> None:
    host = Host(make_unit())
    ids = transport_id(host.port) * 1600 + b"\x99\0\0\x14" + bytes(20)
    data = struct.pack(">QQIBxxxI", 0, 1, 0, SPEC_I_PT, len(ids)) + ids
    assert len(ids) > 0xFFFF
    assert host.do(out_cdb(REGISTER, 0, len(data)), data).sense == (5, 0x1A, 0)


def test_aptpl_without_a_place_to_store_is_refused() -> None:
    host = Host(make_unit())
    assert pr_out(host, REGISTER, 0, 1, flags=APTPL).sense == (5, 0x26, 0)
