"""The ring against a model of the kernel's side: any order, any wrap, and what a broken ring says."""

import struct
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from iscsi_rp.scsi import Completion
from iscsi_rp.tcmu import NoSuchCommandError, Ring, RingError, TaskManagement
from tests.kit.planting import plant
from tests.unit.tcmu.kernel_model import BLOCK_BYTES, RING_AT, STALE, Broken, Finished, Kernel

READ = bytes.fromhex("28000000000000000100")
WRITE = bytes.fromhex("2a000000000000000100")
LONG = bytes.fromhex("7f00000000000018000b") + bytes(22)
SENSE = bytes.fromhex("700005000000000a000000002000c0000000")


def taken(ring: Ring, limit: int = 1000) -> list[Any]:
    return list(ring.take(limit))


def good(cmd_id: int, payload: bytes = b"") -> Completion:
    return (cmd_id, 0, payload, len(payload))


def finished(cmd_id: int, data: bytes = b"", status: int = 0, sense: bytes = b"") -> Finished:
    return Finished(cmd_id, False, status, sense, data)


def story(data: st.DataObject) -> None:
    """A random run of both sides: each command's data-out, answer and CDB arrive as they were sent."""
    kernel = Kernel(ring_bytes=data.draw(st.sampled_from([512, 1024, 2056])))
    ring = Ring(kernel.memory)
    sent: dict[int, tuple[bytes, bytes, int]] = {}
    queued: list[int] = []
    "Ids that were not taken yet, in order."
    notices: list[tuple[int, list[int]]] = []
    held: list[int] = []
    answered: dict[int, Finished] = {}

    def queue() -> None:
        cdb = data.draw(st.sampled_from([bytes(range(1, 7)), READ, WRITE, LONG]))
        out = data.draw(st.binary(max_size=5 * BLOCK_BYTES)) if cdb == WRITE else b""
        want = data.draw(st.integers(0, 5 * BLOCK_BYTES)) if cdb == READ else 0
        blocks = data.draw(st.permutations(range(32)))
        cmd_id = kernel.queue(cdb, data_out=out, data_in=want, blocks=blocks)
        if cmd_id is not None:
            sent[cmd_id] = cdb, out, want
            queued.append(cmd_id)

    def notify() -> None:
        ids = [*kernel.open][: data.draw(st.integers(0, 5))]
        if kernel.notify(5, ids):
            notices.append((5, ids))

    def take() -> None:
        for entry in ring.take(data.draw(st.integers(1, 4))):
            if isinstance(entry, TaskManagement):
                function, ids = notices.pop(0)
                assert entry == (function, tuple(ids))
                continue
            cmd_id, cdb, iovecs = entry
            assert cmd_id == queued.pop(0)
            request, out, want = sent[cmd_id]
            assert cdb == request.ljust(len(cdb), b"\0")
            assert len(cdb) >= 16
            assert sum(size for _, size in iovecs) == max(len(out), want)
            if out:
                assert bytes(ring.data_out(cmd_id)) == out
            held.append(cmd_id)

    def complete() -> None:
        batch: list[Completion] = []
        for cmd_id in data.draw(st.permutations(held))[: data.draw(st.integers(0, 4))]:
            held.remove(cmd_id)
            _, _, want = sent[cmd_id]
            status = data.draw(st.sampled_from([0, 2, 0x28]))
            payload = (
                SENSE if status == 2 else data.draw(st.binary(max_size=want + 9)) if status == 0 else b""
            )
            batch.append((cmd_id, status, payload, 0))
            moved = min(len(payload), want)
            # The kernel ignores a READ_LEN of 0: then zeros arrive, and nothing of another command.
            expected = b"" if status == 2 else payload[:moved] if moved else bytes(want)
            sense = SENSE.ljust(96, b"\0") if status == 2 else b""
            answered[cmd_id] = finished(cmd_id, expected, status, sense)
        mine = kernel.allocated()
        before = bytes(kernel.memory)
        ring.complete(batch)
        for at in range(kernel.data_at, len(kernel.memory)):
            assert kernel.memory[at] == before[at] or at in mine

    def clean() -> None:
        for ended in kernel.clean():
            assert ended == answered.pop(ended.cmd_id, None)

    for _ in range(data.draw(st.integers(1, 30))):
        data.draw(st.sampled_from([queue, queue, queue, notify, take, take, complete, complete, clean]))()
    while queued or notices:
        take()
    ring.complete([(cmd_id, 2, SENSE, 0) for cmd_id in held])
    answered.update((i, finished(i, b"", 2, SENSE.ljust(96, b"\0"))) for i in held)
    clean()
    assert (answered, kernel.open, len(ring)) == ({}, {}, 0)
    assert kernel.tail == kernel.head


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_both_sides_agree_whatever_the_order(data: st.DataObject) -> None:
    story(data)


PLANTS = [
    ("_answer", "_put_id(memory, at + ID_AT, cmd_id)", "pass"),
    ("_answer", 'sense.ljust(SENSE_BYTES, b"\\0")', 'sense.ljust(SENSE_BYTES, b"?")'),
    ("_answer", "popleft", "pop"),
    ("_skip", "self._places[-1] = (self._places[-1][0], self._at)", "self._words[TAIL_WORD] = self._at"),
    ("_skip", "self._places[-1] = (self._places[-1][0], self._at)", "pass"),
    ("_skip", "self._tail = self._words[TAIL_WORD] = self._at", "pass"),
    ("_take_entry", "end % self._ring_bytes", "end"),
    ("complete", "0 < moved < buffer_bytes", "False"),
    ("complete", "payload[:SENSE_BYTES]", "payload[:4]"),
    ("_scatter", "bytes(size - len(part))", "memory[filled : base + size]"),
    ("_scatter", "at += size", "at += 1"),
    ("_scatter", "len(part) < size", "len(part) < size and at == 0"),
]


@pytest.mark.parametrize(("name", "old", "new"), PLANTS)
def test_a_planted_bug_is_found(name: str, old: str, new: str) -> None:
    search = settings(
        max_examples=1000,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    with plant(Ring, name, old, new), pytest.raises((AssertionError, Broken, RingError, IndexError)):
        search(given(st.data())(story))()


def test_an_unknown_kind_is_answered_as_unknown_and_others_go_on() -> None:
    kernel = Kernel()
    ring = Ring(kernel.memory)
    first, odd, last = kernel.queue(READ), kernel.queue(READ, op=5), kernel.queue(READ)
    assert [entry[0] for entry in taken(ring)] == [first, last]
    assert ring.answered  # nobody else will tell the kernel of that answer
    assert first is not None
    assert last is not None
    ring.complete([good(last), good(first)])
    assert [(ended.cmd_id, ended.unknown) for ended in kernel.clean()] == [
        (odd, True),
        (last, False),
        (first, False),
    ]


def test_a_write_leaves_its_data_as_it_was_and_is_not_copied() -> None:
    kernel = Kernel()
    ring = Ring(kernel.memory)
    cmd_id = kernel.queue(WRITE, data_out=b"w" * 100)
    assert cmd_id is not None
    taken(ring)
    data = ring.data_out(cmd_id)
    kernel.memory[kernel.data_at] = ord("W")
    assert bytes(data) == b"W" + b"w" * 99
    ring.complete([good(cmd_id)])
    assert kernel.memory[kernel.data_at : kernel.data_at + 101] == b"W" + b"w" * 99 + bytes((STALE,))


def test_to_answer_twice_or_what_is_not_open_is_our_own_error() -> None:
    kernel = Kernel()
    ring = Ring(kernel.memory)
    cmd_id = kernel.queue(READ)
    assert cmd_id is not None
    with pytest.raises(NoSuchCommandError):
        ring.complete([good(cmd_id)])
    taken(ring)
    ring.complete([good(cmd_id)])
    tail = kernel.tail
    for use in (lambda: ring.complete([good(cmd_id)]), lambda: ring.data_out(cmd_id)):
        with pytest.raises(NoSuchCommandError, match=f"Command {cmd_id} is not open"):
            use()
    assert kernel.tail == tail


def test_after_a_reset_a_new_ring_begins_where_the_kernel_does() -> None:
    kernel = Kernel()
    ring = Ring(kernel.memory)
    lost = kernel.queue(READ)
    kernel.queue(READ)
    assert lost is not None
    assert [entry[0] for entry in taken(ring, 1)] == [lost]
    ring.release()
    with pytest.raises(NoSuchCommandError):
        ring.complete([good(lost)])
    kernel.memory.append(0)  # BufferError, if anything held the memory
    kernel.reset()
    ring = Ring(kernel.memory)
    assert taken(ring) == []
    again = kernel.queue(READ, data_in=3)
    assert again is not None
    assert [entry[0] for entry in taken(ring)] == [again]
    ring.complete([good(again, b"abc")])
    assert kernel.clean() == [finished(again, b"abc")]


@pytest.mark.parametrize("where", [None, 0], ids=["to head", "to zero"])
@pytest.mark.parametrize("answered", [0, 1])
def test_a_reset_by_somebody_else_is_noticed_before_anything_is_answered(
    where: int | None, answered: int
) -> None:
    kernel = Kernel()
    ring = Ring(kernel.memory)
    open_ones = [kernel.queue(READ, data_in=3) for _ in range(3)]
    taken(ring)
    ring.complete([good(cmd_id) for cmd_id in open_ones[:answered] if cmd_id is not None])
    kernel.clean()
    kernel.reset(where)
    before = bytes(kernel.memory)
    late = open_ones[-1]
    assert late is not None
    if answered or where is None:  # else tail is where it was, and only head tells
        with pytest.raises(RingError, match="somebody else has reset the ring"):
            ring.complete([good(late)])
    with pytest.raises(RingError, match="somebody else has reset the ring"):
        ring.take(10)
    assert bytes(kernel.memory) == before
    again = kernel.queue(READ)
    with pytest.raises(RingError, match="somebody else has reset the ring"):
        ring.take(10)
    ring.release()
    assert [entry[0] for entry in taken(Ring(kernel.memory))] == [again]


@pytest.mark.parametrize(
    ("form", "at", "value"),
    [
        ("H", 0, 1),  # version
        ("H", 2, 0xE),  # no answers out of order
        ("H", 2, 0xD),  # no short reads
        ("I", 4, 64),  # ring within the mailbox
        ("I", 4, 132),
        ("I", 8, 0),
        ("I", 8, 1 << 20),
        ("I", 64, 1024),  # tail
        ("I", 64, 4),
    ],
)
def test_a_mailbox_that_cannot_be_is_refused(form: str, at: int, value: int) -> None:
    kernel = Kernel()
    Ring(kernel.memory)
    struct.pack_into(f"={form}", kernel.memory, at, value)
    with pytest.raises(RingError):
        Ring(kernel.memory)


def test_a_mapping_without_room_for_a_mailbox_is_refused() -> None:
    with pytest.raises(RingError, match="127 bytes"):
        Ring(bytearray(127))


@pytest.mark.parametrize(
    ("form", "at", "value"),
    [
        ("I", 12, 1024),  # head beyond the ring
        ("I", 12, 4),
        ("I", RING_AT, 0),  # a PAD without length
        ("I", RING_AT, 104 | 5),
        ("I", RING_AT + 8, 5),  # iovecs over the CDB
        ("I", RING_AT + 8, 0xFFFF_FFFF),
        ("I", RING_AT + 12, 5),
        ("Q", RING_AT + 24, 0),  # CDB
        ("Q", RING_AT + 24, RING_AT + 128),
        ("Q", RING_AT + 48, RING_AT),  # iovec in the ring
        ("Q", RING_AT + 48, 1 << 63),
        ("Q", RING_AT + 56, 1 << 20),
    ],
)
def test_an_entry_that_cannot_be_is_refused(form: str, at: int, value: int) -> None:
    kernel = Kernel()
    assert kernel.queue(READ, data_in=100) is not None
    assert taken(Ring(bytearray(kernel.memory)))
    struct.pack_into(f"={form}", kernel.memory, at, value)
    before = bytes(kernel.memory)
    with pytest.raises(RingError):
        taken(Ring(kernel.memory))
    assert kernel.memory == before


def test_an_entry_beyond_head_is_refused_before_it_is_read() -> None:
    kernel = Kernel()
    kernel.queue(READ)
    struct.pack_into("=I", kernel.memory, RING_AT, 1016 | 1)
    with pytest.raises(RingError, match="1016 bytes at 0"):
        taken(Ring(kernel.memory))


def test_an_entry_without_room_for_its_answer_is_refused() -> None:
    kernel = Kernel()
    kernel.queue(READ)
    struct.pack_into("=I", kernel.memory, RING_AT, 104 | 1)
    struct.pack_into("=Q", kernel.memory, RING_AT + 24, RING_AT + 64)
    struct.pack_into("=I", kernel.memory, 12, 104)
    with pytest.raises(RingError, match="104 bytes"):
        taken(Ring(kernel.memory))


def test_a_task_management_entry_cut_off_by_the_end_of_the_mapping_is_refused() -> None:
    memory = bytearray(RING_AT + 16)
    struct.pack_into("=HHII", memory, 0, 2, 0xF, RING_AT, 16)
    struct.pack_into("=I", memory, 64, 8)
    struct.pack_into("=I", memory, RING_AT + 8, 8 | 2)
    with pytest.raises(RingError, match="8 bytes"):
        taken(Ring(memory))


def test_an_id_that_is_in_the_ring_twice_and_too_many_ids_are_refused() -> None:
    kernel = Kernel()
    kernel.queue(READ)
    kernel.queue(READ)
    struct.pack_into("=H", kernel.memory, RING_AT + 128 + 4, 0)
    with pytest.raises(RingError, match="twice"):
        taken(Ring(kernel.memory))
    kernel = Kernel()
    kernel.notify(1, [3])
    assert taken(Ring(kernel.memory)) == [(1, (3,))]
    kernel = Kernel()
    kernel.notify(1, [3])
    struct.pack_into("=I", kernel.memory, RING_AT + 12, 5)
    with pytest.raises(RingError, match="5 ids"):
        taken(Ring(kernel.memory))


@given(st.lists(st.tuples(st.integers(0, 1151), st.integers(0, 255)), max_size=8))
def test_damage_is_refused_or_harmless(damage: list[tuple[int, int]]) -> None:
    """Whatever the ring says, nothing but RingError comes of it, and every iovec is in the data area."""
    kernel = Kernel()
    kernel.queue(READ, data_in=200, blocks=[1, 3, 4, 9])
    kernel.notify(5, [0])
    kernel.queue(WRITE, data_out=b"x" * 70)
    for at, byte in damage:
        kernel.memory[at] = byte
    try:
        ring = Ring(kernel.memory)
        entries = ring.take(1000)
    except RingError:
        return
    for entry in entries:
        if not isinstance(entry, TaskManagement):
            ring_at, ring_bytes = struct.unpack_from("=II", kernel.memory, 4)
            assert all(base >= ring_at + ring_bytes for base, _ in entry[2])
            assert all(base + size <= len(kernel.memory) for base, size in entry[2])
            ring.complete([good(entry[0], b"y" * 300)])
