"""Where initiators seldom go: long CDBs, several R2Ts, aborts ahead, SNACK, events, shared limits."""

import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iscsi_rp.block import MemoryDevice
from iscsi_rp.iscsi.budget import OWN_BYTES, Budget
from iscsi_rp.iscsi.connection import Connection
from iscsi_rp.iscsi.latency import BUCKETS, INITIATORS, OTHERS, ByInitiator, Latency
from iscsi_rp.iscsi.login import WINDOW
from iscsi_rp.iscsi.pdu import HEADER, LOGOUT_REQUESTED, Header, RejectedError, extended_cdb
from iscsi_rp.iscsi.session import Session
from iscsi_rp.iscsi.shared import Shared
from iscsi_rp.scsi import Identity, LogicalUnit, Nexus

from .initiator import IQN, NAA, OPEN, SIZE, HeldDevice, Link, Pdu, command, data_out, pdu, read_10, write_10

W, R = 0xA1, 0xC1


def session_of(link: Link) -> Session:
    assert link.connection.session is not None
    return link.connection.session


def with_additional(plain: bytes, *headers: tuple[int, bytes]) -> bytes:
    """A PDU with additional header segments, each (type, what follows the type)."""
    area = b""
    for kind, rest in headers:
        area += struct.pack(">HB", len(rest), kind) + rest
        area += bytes(-len(area) & 3)
    return plain[:4] + bytes([len(area) // 4]) + plain[5:48] + area + plain[48:]


def test_long_cdbs_are_handed_on() -> None:
    """READ (32), SBC-4 5.15: what follows the 16th byte comes in an additional header."""
    cdb = struct.pack(">BB4xBxHHBB2xQIHHI", 0x7F, 0, 0, 0x18, 9, 0, 0, 1, 0, 0, 0, 1)[:32]
    seen: list[bytes] = []
    link = Link().opened()
    unit = session_of(link).unit(0)
    assert unit is not None
    submit = unit.submit

    def watch(nexus: Any, commands: Any, done: Any) -> None:
        seen.extend(bytes(each[1]) for each in commands)
        submit(nexus, commands, done)

    unit.submit = watch  # type: ignore[method-assign]
    long = with_additional(command(cdb[:16], R, 512, itt=1, sn=1), (1, b"\0" + cdb[16:]))
    (answer,) = link.send(long)
    assert answer.itt == 1
    assert seen == [cdb]


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ([(2, bytes(5))], 0x05),
        ([(3, bytes(5))], 0x09),
        ([(1, b"")], 0x09),
        ([(1, bytes(17)), (1, bytes(17))], 0x09),
        ([(1, bytes(17)), (2, bytes(5))], 0x05),
    ],
)
def test_other_additional_headers_are_rejected_and_the_session_goes_on(
    headers: list[tuple[int, bytes]], reason: int
) -> None:
    link = Link().opened()
    (answer,) = link.send(with_additional(command(read_10(0, 1), R, 512, itt=1, sn=1), *headers))
    assert (answer.opcode, answer.head[2]) == (0x3F, reason)
    (read,) = link.send(command(read_10(0, 1), R, 512, itt=2, sn=2))
    assert read.max_cmd_sn == answer.max_cmd_sn + 1


@given(st.binary(max_size=80))
def test_any_additional_header_is_taken_or_rejected(area: bytes) -> None:
    """(Its length is in words of 4 bytes.)"""
    reason = None
    try:
        assert len(extended_cdb(bytes(16), area[: len(area) & ~3])) >= 16
    except RejectedError as error:
        reason = error.reason
    assert reason in (None, 0x05, 0x09)


@given(st.binary(min_size=48, max_size=48))
def test_headers_come_back_as_they_were(header: bytes) -> None:
    assert HEADER.pack(*Header._make(HEADER.unpack(header))) == header


def test_as_many_r2ts_as_were_agreed_and_their_data_in_order() -> None:
    device = MemoryDevice(SIZE)
    link = Link(device).opened(OPEN | {"MaxOutstandingR2T": "3", "MaxBurstLength": "4096"})
    data = bytes(range(256)) * 80  # 5 bursts
    r2ts = link.send(command(write_10(0, 40), W, len(data), itt=1, sn=1))
    assert [each.word(36) for each in r2ts] == [0, 1, 2]
    answers: list[Pdu] = []
    while r2ts:
        r2t = r2ts.pop(0)
        at, size = r2t.word(40), r2t.word(44)
        half = data_out(data[at : at + 512], at, itt=1, ttt=r2t.word(20), final=False)
        rest = data_out(data[at + 512 : at + size], at + 512, itt=1, ttt=r2t.word(20), sn=1)
        for new in link.send(half, rest):
            (r2ts if new.opcode == 0x31 else answers).append(new)
        assert len(r2ts) <= 3
    (answer,) = answers
    assert (answer.head[3], answer.word(36)) == (0, 5)  # ExpDataSN: that many R2Ts
    assert bytes(device._data[: len(data)]) == data


@pytest.mark.parametrize("offset", [512, 0])
def test_bursts_out_of_their_order_fail_the_command_when_all_have_ended(offset: int) -> None:
    link = Link().opened(OPEN | {"MaxOutstandingR2T": "2", "MaxBurstLength": "512"})
    first, second = link.send(command(write_10(0, 2), W, 1024, itt=1, sn=1))
    assert link.send(data_out(b"x" * 512, offset, itt=1, ttt=second.word(20))) == []
    (answer,) = link.send(data_out(b"x" * 512, 0, itt=1, ttt=first.word(20)))
    assert (answer.head[3], answer.data[4], answer.data[14:16]) == (0x02, 0x0B, b"\x47\x05")


def test_an_abort_before_its_command_makes_it_count_as_received() -> None:
    """RFC 7143 11.6.1: the command was lost on its way; what was sent after it still comes."""
    link = Link().opened()
    abort = pdu(0x42, 0x81, itt=9, word20=1, sn=3, tail=struct.pack(">I", 2))
    (late,) = link.send(abort)
    assert (late.opcode, late.head[2]) == (0x22, 0)
    (first, third) = link.send(
        command(read_10(0, 1), R, 512, itt=2, sn=1), command(read_10(0, 1), R, 512, itt=3, sn=3)
    )
    assert (first.opcode, third.opcode) == (0x25, 0x25)
    assert third.max_cmd_sn - late.max_cmd_sn == 3


@pytest.mark.parametrize("ref_cmd_sn", [0, 3, 4, 200, 0xFFFFFFFF])
def test_an_abort_of_what_cannot_come_finds_no_task(ref_cmd_sn: int) -> None:
    abort = pdu(0x42, 0x81, itt=9, word20=77, sn=3, tail=struct.pack(">I", ref_cmd_sn))
    (answer,) = Link().opened().send(abort)
    assert (answer.opcode, answer.head[2]) == (0x22, 1)


def test_a_connection_does_not_keep_the_others_waiting_for_long() -> None:
    link = Link().opened()
    pings = pdu(0x40, 0x80, itt=1, word20=0xFFFFFFFF, sn=1) * 1000
    assert link.connection.receive(memoryview(pings)) == 48 * WINDOW
    assert len(link.connection.take_out()) == WINDOW


def test_snack_is_rejected_and_the_session_goes_on() -> None:
    link = Link().opened()
    (answer,) = link.send(pdu(0x10, 0x80, itt=1))
    assert (answer.opcode, answer.head[2]) == (0x3F, 0x04)
    assert not link.connection.over


def test_a_rejected_command_gives_its_place_in_the_window_back() -> None:
    device = HeldDevice()
    link = Link(device).opened()
    link.send(command(read_10(0, 1), R, 512, itt=1, sn=1))
    for n in range(300):
        (answer,) = link.send(command(read_10(0, 1), R, 512, itt=1, sn=n + 2))
        assert (answer.opcode, answer.head[2]) == (0x3F, 0x07)


@pytest.mark.parametrize("reason", [3, 127])
def test_a_logout_for_no_known_reason_breaks_the_protocol(reason: int) -> None:
    """RFC 7143 11.14.1: 0 to 2 are there."""
    link = Link().opened()
    (answer,) = link.send(pdu(0x46, 0x80 | reason, itt=1, sn=1))
    assert (answer.opcode, answer.head[2]) == (0x3F, 0x04)
    assert link.connection.over


def test_a_protocol_error_is_answered_with_a_reject_before_the_end() -> None:
    link = Link().opened()
    link.send(command(write_10(0, 1), W, 512, itt=1, sn=1))
    (answer,) = link.send(data_out(b"x" * 512, 0, itt=1, ttt=4711))
    assert (answer.opcode, answer.head[2]) == (0x3F, 0x04)
    assert link.connection.over


def test_who_owes_data_and_only_pings_is_given_up() -> None:
    link = Link().opened()
    link.send(command(write_10(0, 1), W, 512, itt=1, sn=1))
    alive = []
    for _ in range(4):
        link.send(pdu(0x40, 0x80, itt=0xFFFFFFFF, word20=1, sn=2))
        alive.append(session_of(link).tick())
    assert alive == [True, True, True, False]


def test_logout_is_asked_for_and_events_are_told() -> None:
    link = Link().opened()
    session = session_of(link)
    before = session.numbers(advance=False).stat_sn
    session.tell(LOGOUT_REQUESTED, seconds=7)
    session.tell(0, lun=3 << 48, sense=b"sense")
    logout, event = link.later
    assert (logout.opcode, logout.itt, logout.head[36], logout.word(40)) == (0x32, 0xFFFFFFFF, 1, 7)
    assert (logout.word(24), event.word(24)) == (before, before + 1)
    assert (event.head[8:16], event.head[36], event.data) == (b"\0\3" + bytes(6), 0, b"\0\5sense")


def shared_links(limit: int, device: HeldDevice) -> tuple[list[Link], Shared]:
    """Two sessions that share a budget."""
    shared = Shared(budget=Budget(limit))
    one = Link(device)
    links = [one, Link(node=one.node)]
    for isid, link in enumerate(links):
        link.connection = Connection(one.node, "peer", "127.0.0.1:3260", link._flush, 1, shared)
        link.opened(isid=isid)
    return links, shared


def test_what_all_sessions_hold_is_bounded_and_given_back() -> None:
    device = HeldDevice()
    (one, two), shared = shared_links(1 << 20, device)
    assert one.send(command(read_10(0, 2048), R, 1 << 20, itt=1, sn=1)) == []
    assert shared.budget.spent
    # Each may hold a little, whatever the others do.
    many = [command(read_10(0, 1024), R, 512 << 10, itt=n + 1, sn=n + 1) for n in range(9)]
    assert two.send(*many) == []
    assert (two.connection.blocked, session_of(two).in_device) == (True, OWN_BYTES // (512 << 10) + 1)
    device.let_go()
    assert not shared.budget.spent
    two.send()
    device.let_go()
    two.send()
    device.let_go()
    assert [answer.itt for answer in two.later if answer.opcode == 0x21] == list(range(1, 10))
    assert shared.budget.held_bytes == 0


def test_a_transfer_waits_for_what_others_hold() -> None:
    device = HeldDevice()
    (one, two), shared = shared_links(1 << 20, device)
    one.send(command(read_10(0, 2040), R, 2040 * 512, itt=1, sn=1))
    two.send(command(write_10(0, 16), W, 8192, itt=1, sn=1), command(write_10(0, 16), W, 8192, itt=2, sn=2))
    two.send(command(write_10(0, 4096), W, 2 << 20, itt=3, sn=3))
    assert shared.budget.spent
    two.later.clear()
    device.let_go()
    assert [(answer.opcode, answer.itt) for answer in two.later] == [(0x31, 3)]
    two.connection.close()
    one.connection.close()
    assert shared.budget.held_bytes == 0


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 1), st.sampled_from((2, 9, 129, 1025, 4097)), st.booleans()), max_size=20
    )
)
def test_the_budget_is_even_when_everybody_has_gone(steps: list[tuple[int, int, bool]]) -> None:
    """Odd numbers of blocks are written, and their data never comes; even ones are read."""
    device = HeldDevice()
    links, shared = shared_links(64 << 10, device)
    sent = [0, 0]
    for who, blocks, release in steps:
        sent[who] += 1
        cdb = write_10(0, blocks) if blocks & 1 else read_10(0, blocks)
        flags = W if blocks & 1 else R
        links[who].send(command(cdb, flags, blocks * 512, itt=sent[who], sn=sent[who]))
        if release:
            device.let_go()
    for link in links:
        link.connection.close()
    device.let_go()
    assert shared.budget.held_bytes == 0
    assert not shared.by_nexus


def test_latencies_are_counted_by_power_of_two_and_outlive_the_session() -> None:
    device = HeldDevice()
    now_us = 1000
    shared = Shared(clock=lambda: now_us * 1000)
    link = Link(device)
    link.connection = Connection(link.node, "peer", "127.0.0.1:3260", link._flush, 1, shared)
    link.opened()
    for took_us, cdb, flags, data in (
        (0, read_10(0, 1), R, b""),
        (1, read_10(0, 1), R, b""),
        (1023, read_10(0, 1), R, b""),
        (1024, write_10(0, 1), W, b"x" * 512),
        (1 << 40, write_10(0, 1), W, b"x" * 512),
    ):
        sn = session_of(link).numbers(advance=False).exp_cmd_sn
        link.send(command(cdb, flags, 512, data, itt=sn, sn=sn))
        now_us += took_us
        device.let_go()
    unit = session_of(link).unit(0)
    assert unit is not None
    live = session_of(link).latencies[unit].histogram()
    assert {n: count for n, count in enumerate(live.reads) if count} == {0: 1, 1: 1, 10: 1}
    assert {n: count for n, count in enumerate(live.writes) if count} == {11: 1, BUCKETS - 1: 1}
    link.connection.close()
    assert shared.past[unit].histogram() == live


def test_counts_of_an_initiator_never_fall_and_the_number_of_initiators_has_a_limit() -> None:
    by_initiator = ByInitiator()
    present: list[tuple[str, Latency]] = []
    seen: dict[str, int] = {}
    for n in range(2 * (INITIATORS + 36)):
        initiator = f"i{n % (INITIATORS + 36)}"
        by_initiator.meet(initiator)
        latency = Latency()
        latency.counts[2][5] = 1 + n
        present.append((initiator, latency))
        if n % 3:
            by_initiator.add(*present.pop(n % len(present)))
        totals = {name: each.reads[5] for name, each in by_initiator.histograms(present).items()}
        assert all(totals[name] >= count for name, count in seen.items())
        assert sum(totals.values()) == sum(range(n + 2))
        seen = totals
    assert seen.keys() == {f"i{n}" for n in range(INITIATORS)} | {OTHERS}


def test_latencies_add_up() -> None:
    one, two = Latency(), Latency()
    one.counts[2][5] = 3
    two.counts[2][5] = 4
    one.add(two)
    assert one.histogram().reads[5] == 7


def test_a_nexus_is_forgotten_with_its_session() -> None:
    link = Link()
    unit = LogicalUnit(MemoryDevice(SIZE), Identity(NAA, "t"))
    link.node.set_lun(IQN, 1, unit)
    lost: list[Nexus] = []
    unit.nexus_lost = lost.append  # type: ignore[method-assign, assignment]
    link.opened()
    link.send(pdu(0x01, R, lun=1 << 48, itt=1, word20=512, sn=1, tail=read_10(0, 1)))
    nexus = session_of(link).nexus
    again = Link(node=link.node).opened()
    assert link.connection.over
    assert lost == [nexus]
    assert not again.connection.over
