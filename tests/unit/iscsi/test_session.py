"""The full feature phase: data in both directions, windows, task management, and hostile streams."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iscsi_rp.block import MemoryDevice
from iscsi_rp.iscsi import PDU_BYTES
from iscsi_rp.iscsi.login import WINDOW
from iscsi_rp.iscsi.tasks import HELD_BYTES
from iscsi_rp.iscsi.transfer import GRANTED_BYTES
from iscsi_rp.scsi import Identity, LogicalUnit

from .initiator import (
    IQN,
    NAA,
    NAME,
    OPEN,
    SIZE,
    HeldDevice,
    Link,
    Pdu,
    command,
    data_out,
    login,
    pdu,
    read_10,
    write_10,
)

W, R = 0xA1, 0xC1


def conversation() -> list[bytes]:
    """Writes by immediate, unsolicited and solicited data, then a read of it all, then logout. (The first
    command only learns that the unit was powered on.)
    """
    block = [bytes([n]) * 512 for n in range(8)]
    return [
        login(OPEN),
        command(bytes(6), 0x80, 0, itt=8, sn=1),
        command(write_10(0, 2), W, 1024, block[1] + block[2], itt=1, sn=2),
        command(write_10(2, 2), 0x21, 1024, itt=2, sn=3),
        data_out(block[3], 0, itt=2, final=False),
        data_out(block[4], 512, itt=2, sn=1),
        command(write_10(4, 2), W, 1024, block[5], itt=3, sn=4),
        data_out(block[6], 512, itt=3, ttt=1),
        pdu(0x40, 0x80, b"ping!", itt=9, word20=0xFFFFFFFF, sn=5),
        command(read_10(0, 6), R, 6 * 512, itt=4, sn=5),
        pdu(0x46, 0x80, itt=5, sn=6),
    ]


Outcome = list[tuple[int, int, int, bytes]]


def talk(pieces: list[bytes]) -> Outcome:
    """(opcode, task tag, status, data) of every answer; sequence numbers depend on the batches."""
    link = Link(MemoryDevice(64 << 10))
    answers: list[Pdu] = []
    for piece in pieces:
        answers += link.send(piece)
        answers += link.later
        link.later.clear()
    assert link.connection.over
    return sorted((answer.opcode, answer.itt, answer.head[3], answer.data) for answer in answers)


def test_the_same_answers_at_every_cut_of_the_stream() -> None:
    stream = b"".join(conversation())
    whole = talk([stream])
    assert (0x25, 4, 0, b"".join(bytes([n]) * 512 for n in range(1, 7))) in whole
    assert (0x20, 9, 0, b"ping!") in whole
    assert talk(conversation()) == whole
    for cut in range(1, len(stream)):
        assert talk([stream[:cut], stream[cut:]]) == whole
    assert talk([stream[at : at + 1] for at in range(len(stream))]) == whole


def test_reads_are_cut_to_what_the_initiator_takes() -> None:
    device = MemoryDevice(SIZE)
    device.submit([(1, 0, 40 * 512, random.Random(1).randbytes(40 * 512), False, 0)], lambda _: None)
    link = Link(device).opened(OPEN | {"MaxRecvDataSegmentLength": "4096", "MaxBurstLength": "8192"})
    answers = link.send(command(read_10(0, 40), R, 40 * 512, itt=1, sn=1))
    *data, response = answers
    assert b"".join(part.data for part in data) == bytes(device._data[: 40 * 512])
    assert [part.word(36) for part in data] == list(range(5))
    assert [part.flags & 0x80 for part in data] == [0, 0x80, 0, 0x80, 0x80]
    assert (response.opcode, response.head[3]) == (0x21, 0)


@pytest.mark.parametrize(
    ("expected", "flags", "residual", "size"),
    [(1024, 0x80, 0, 1024), (2048, 0x82, 1024, 1024), (600, 0x84, 424, 600), (0, 0x84, 1024, 0)],
)
def test_residuals_of_reads(expected: int, flags: int, residual: int, size: int) -> None:
    (answer,) = Link().opened().send(command(read_10(0, 2), R, expected, itt=1, sn=1))
    assert answer.flags & 0xFE == flags
    assert answer.word(44) == residual
    assert len(answer.data) == size


def test_large_writes_are_asked_for_in_bursts() -> None:
    link = Link().opened()
    data = random.Random(2).randbytes(200 * 512)
    answers = link.send(command(write_10(0, 200), W, len(data), data[:512], itt=1, sn=1))
    offset = 512
    while answers[0].opcode == 0x31:
        (r2t,) = answers
        assert r2t.word(40) == offset
        length = r2t.word(44)
        assert length <= 65536
        answers = link.send(data_out(data[offset : offset + length], offset, itt=1, ttt=r2t.word(20)))
        offset += length
    assert offset == len(data)
    assert answers[0].head[3] == 0
    (back,) = link.send(command(read_10(0, 16), R, 8192, itt=2, sn=2))
    assert back.data == data[:8192]


def test_data_out_of_order_ends_the_command_not_the_session() -> None:
    link = Link().opened()
    (r2t,) = link.send(command(write_10(0, 2), W, 1024, itt=1, sn=1))
    ttt = r2t.word(20)
    assert link.send(data_out(b"x" * 512, 0, itt=1, ttt=ttt, sn=1, final=False)) == []
    (answer,) = link.send(data_out(b"x" * 512, 512, itt=1, ttt=ttt, sn=0))
    assert (answer.head[3], answer.data[4], answer.data[14:16]) == (0x02, 0x0B, b"\x47\x05")
    (read,) = link.send(command(read_10(0, 2), R, 1024, itt=2, sn=2))
    assert read.data == bytes(1024)


def test_the_window_closes_and_opens() -> None:
    device = HeldDevice()
    link = Link(device).opened()
    for n in range(WINDOW):
        assert link.send(command(read_10(0, 1), R, 512, itt=n + 1, sn=n + 1)) == []
    link.send(command(read_10(0, 1), R, 512, itt=999, sn=WINDOW + 1))
    session = link.connection.session
    assert session is not None
    assert session.outstanding == WINDOW
    device.let_go()
    assert len(link.later) == WINDOW
    assert link.later[-1].max_cmd_sn == 2 * WINDOW


def test_grants_are_bounded() -> None:
    link = Link().opened()
    asked = 0
    for n in range(WINDOW):
        answers = link.send(command(write_10(0, 4096), W, 4096 * 512, itt=n + 1, sn=n + 1))
        asked += sum(answer.opcode == 0x31 for answer in answers)
    assert asked == GRANTED_BYTES // (4096 * 512)


def test_nothing_is_taken_while_too_much_is_held() -> None:
    device = HeldDevice()
    link = Link(device).opened()
    commands = [command(read_10(0, 8192), R, 8192 * 512, itt=n + 1, sn=n + 1) for n in range(8)]
    link.send(*commands)
    session = link.connection.session
    assert session is not None
    assert session.blocked
    assert session.in_device == HELD_BYTES // (8192 * 512) + 1
    device.let_go()
    link.send()
    device.let_go()
    assert session.outstanding == 0


@pytest.mark.parametrize("function", [1, 2, 5, 6])
def test_what_is_aborted_before_its_data_came_is_never_written(function: int) -> None:
    link = Link().opened()
    (r2t,) = link.send(command(write_10(0, 1), W, 512, itt=1, sn=1))
    (answer,) = link.send(pdu(0x42, 0x80 | function, itt=2, word20=1, sn=2))
    assert (answer.opcode, answer.head[2]) == (0x22, 0)
    assert link.send(data_out(b"x" * 512, 0, itt=1, ttt=r2t.word(20))) == []
    link.clear_attentions()
    (read,) = link.send(command(read_10(0, 1), R, 512, itt=3, sn=2))
    assert read.data == bytes(512)


def test_data_never_goes_to_a_unit_that_took_the_place_of_the_one_it_was_meant_for() -> None:
    link = Link().opened()
    other = MemoryDevice(SIZE)
    second = LogicalUnit(other, Identity(NAA, "u"))
    link.node.set_lun(IQN, 1, second)
    link.clear_attentions()
    (r2t,) = link.send(command(write_10(0, 1), W, 512, itt=1, sn=1))
    link.node.set_lun(IQN, 0, second)
    (answer,) = link.send(data_out(b"x" * 512, 0, itt=1, ttt=r2t.word(20)))
    assert (answer.opcode, answer.head[3]) == (0x21, 0x40)
    assert not any(other._data)


@pytest.mark.parametrize("function", [1, 2, 5, 6])
def test_a_write_in_the_device_ends_before_the_abort_is_answered(function: int) -> None:
    device = HeldDevice()
    link = Link(device).opened()
    assert link.send(command(write_10(0, 1), W, 512, b"x" * 512, itt=1, sn=1)) == []
    assert link.send(pdu(0x42, 0x80 | function, itt=2, word20=1, sn=2)) == []
    device.let_go()
    (answer,) = link.later
    assert (answer.opcode, answer.head[2]) == (0x22, 0)
    assert bytes(device._data[:512]) == b"x" * 512


def test_lun_reset_reaches_other_sessions() -> None:
    one = Link().opened()
    two = Link(node=one.node).opened(isid=5)
    one.send(command(write_10(0, 1), W, 512, itt=1, sn=1))
    (answer,) = two.send(pdu(0x42, 0x85, itt=2, sn=1))
    assert answer.head[2] == 0
    (aborted,) = one.later
    assert (aborted.opcode, aborted.head[3]) == (0x21, 0x40)


def test_unknown_lun_and_unknown_task_and_unknown_function() -> None:
    link = Link().opened()
    for flags, lun, response in ((0x85, 7 << 48, 2), (0x81, 0, 1), (0x88, 0, 4), (0x83, 0, 5)):
        (answer,) = link.send(pdu(0x42, flags, lun=lun, itt=2, word20=77, sn=1))
        assert answer.head[2] == response


def test_cold_reset_ends_the_sessions() -> None:
    link = Link().opened()
    (answer,) = link.send(pdu(0x42, 0x87, itt=2, sn=1))
    assert answer.head[2] == 0
    assert link.connection.over


def test_task_tag_in_use_is_rejected() -> None:
    link = Link(HeldDevice()).opened()
    link.send(command(read_10(0, 1), R, 512, itt=1, sn=1))
    (answer,) = link.send(command(read_10(0, 1), R, 512, itt=1, sn=2))
    assert (answer.opcode, answer.head[2]) == (0x3F, 0x07)


def test_a_gap_in_the_commands_ends_the_connection() -> None:
    link = Link().opened()
    link.send(command(read_10(0, 1), R, 512, itt=1, sn=3))
    assert link.connection.over


def test_a_silent_initiator_is_asked_and_then_given_up() -> None:
    link = Link().opened()
    session = link.connection.session
    assert session is not None
    assert session.tick()
    assert session.tick()
    assert [answer.opcode for answer in link.later] == [0x20]
    link.send(pdu(0x40, 0x80, itt=0xFFFFFFFF, word20=1, sn=1))
    assert all(session.tick() for _ in range(3))
    assert not session.tick()


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_hostile_streams_end_in_answers_or_a_closed_connection(data: st.DataObject) -> None:
    """No exception leaves `receive`, and no PDU longer than the buffer is waited for."""
    pieces = conversation()
    at = data.draw(st.integers(0, len(pieces) - 1))
    mangled = bytearray(pieces[at])
    for _ in range(data.draw(st.integers(1, 6))):
        mangled[data.draw(st.integers(0, 47))] = data.draw(st.integers(0, 255))
    link = Link()
    rest = link.send(*pieces[:at], bytes(mangled), *pieces[at + 1 :])
    assert all(answer.opcode >= 0x20 for answer in rest)
    assert len(link._rest) < PDU_BYTES or link.connection.blocked


def test_lengths_beyond_what_was_agreed_are_refused() -> None:
    link = Link().opened()
    header = bytearray(command(read_10(0, 1), R, 512, itt=1, sn=1))
    header[5:8] = b"\xff\xff\xff"
    answers = link.send(bytes(header))
    assert [answer.opcode for answer in answers] == [0x3F]
    assert link.connection.over
    assert Link().opened({"InitiatorName": NAME, "SessionType": "Discovery"}).connection.session is not None
