"""The splitter's core, step by step: what it asks for, in which order, and what it refuses."""

import pytest

from iscsi_rp.device import UNMAP, WRITE, ZERO, BusyError, Io, MediumError, SpaceError
from iscsi_rp.replication import frames as wire
from iscsi_rp.replication.frames import COMPARE_SWEEP, RemoteProtocolError
from iscsi_rp.replication.regions import KEY_SHIFT, REGION_BYTES
from iscsi_rp.splitter import core as core_module
from iscsi_rp.splitter.core import TRANSITIONS, Event, Mode
from tests.unit.splitter.rig import REGIONS, SECTOR, TIMEOUT_S, Rig

# -- the machine


@pytest.mark.parametrize("event", Event)
@pytest.mark.parametrize("mode", Mode)
def test_a_transition_that_is_not_in_the_table_is_an_error(mode: Mode, event: Event) -> None:
    core = Rig().core
    core.mode = mode
    if (mode, event) in TRANSITIONS:
        core._go(event)
        assert core.mode is TRANSITIONS[mode, event]
    else:
        with pytest.raises(KeyError):
            core._go(event)


def test_every_mode_can_be_left_and_reached_and_ends_in_marking() -> None:
    assert {mode for mode, _ in TRANSITIONS} == set(TRANSITIONS.values()) == set(Mode)
    assert {after for (_, event), after in TRANSITIONS.items() if event is Event.ENDED} == {Mode.MARKING}


# -- SPLITTING


def test_a_write_goes_to_the_appliance_then_to_the_store_then_to_the_host() -> None:
    rig = Rig().split()
    rig.write("one")
    assert rig.frames() == [(wire.WRITE, 0, 1)]
    assert (rig.stores(), rig.complete()) == ([], [])
    rig.receive(wire.RECEIVED, 1)
    ((op, offset, length, data, fua, _),) = [io for _, ios in rig.core.effects.stores for io in ios]
    assert (op, offset, length, data, fua) == (WRITE, 0, 512, SECTOR, False)
    assert rig.complete() == []
    assert rig.store_all() == ["one"]
    assert rig.statuses == [("one", None)]
    assert rig.marked() == []


def test_one_acknowledgement_serves_all_before_it_and_none_behind() -> None:
    rig = Rig().split()
    for tag in range(4):
        rig.write(tag, volume=tag % 2)
    rig.receive(wire.RECEIVED, 3)
    assert sorted(rig.store_all()) == [0, 1, 2]
    assert [io[5][0] for io in rig.core.sent] == [4]


def test_zeros_and_unmaps_travel_without_data() -> None:
    rig = Rig().split()
    rig.write("zero", op=ZERO)
    rig.write("unmap", op=UNMAP)
    frames, _ = wire.decode(data := b"".join(rig.core.effects.frames), len(data))
    assert [(frame[1], frame[5], frame[6]) for frame in frames] == [
        (wire.KIND_ZERO, 512, b""),
        (wire.KIND_UNMAP, 512, b""),
    ]


def test_the_hosts_buffer_is_not_kept() -> None:
    rig = Rig().split()
    buffer = bytearray(SECTOR + 2 * SECTOR)
    ios: list[Io] = [
        (WRITE, 0, 512, memoryview(buffer)[:512], False, "one"),
        (ZERO, 512, 512, None, False, "none"),
        (WRITE, 1024, 1024, memoryview(buffer)[512:], False, "two"),
    ]
    rig.submit(ios)
    buffer[:] = bytes(len(buffer))
    sent = b"".join(rig.core.effects.frames)
    assert [(seq, a, b, bytes(data)) for _, _, _, seq, a, b, data, _ in wire.decode(sent, len(sent))[0]] == [
        (1, 0, 512, SECTOR),
        (2, 512, 512, b""),
        (3, 1024, 1024, 2 * SECTOR),
    ]
    rig.receive(wire.RECEIVED, 3)
    assert [io[3] for io in rig.stores()] == [SECTOR, None, 2 * SECTOR]


def test_of_a_batch_as_much_is_sent_as_the_window_has_room_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(core_module, "WINDOW_WRITES", 2)
    rig = Rig().split()
    rig.batch(range(3))
    assert [sequence for _, _, sequence in rig.frames()] == [1, 2]
    assert [waiting[1][5] for waiting in rig.core.held] == [2]


def test_of_a_batch_as_much_is_taken_as_hosts_may_have_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(core_module, "MAX_TAKEN", 2)
    rig = Rig().split()
    rig.batch(range(3))
    assert [sequence for _, _, sequence in rig.frames()] == [1, 2]
    (_, results), *_ = rig.core.effects.completions
    assert [(tag, type(result)) for tag, result in results] == [(2, BusyError)]


def test_of_a_batch_as_many_bytes_are_taken_as_hosts_may_have_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_module, "MAX_TAKEN_BYTES", 1024)
    rig = Rig().split()
    for tags in ([0, 1], [2, 3, 4]):
        rig.batch(tags)
        assert rig.complete() == tags[2:]
        rig.receive(wire.RECEIVED, rig.core.sequence)
        assert rig.store_all() == tags[:2]


def test_a_write_does_not_overtake_one_that_waits_for_its_mark() -> None:
    rig = Rig()
    rig.core.take_over([5])
    rig.core.welcome(9, (), took_over=True)
    rig.write("marked later")  # what is marked for the welcome is on its way to the disk already
    rig.sync_map()
    assert rig.core.mode is Mode.RESYNCING
    rig.write("behind it")
    assert [frame for frame in rig.frames() if frame[0] == wire.WRITE] == []
    assert len(rig.core.held) == 1
    rig.sync_map()
    assert [frame for frame in rig.frames() if frame[0] == wire.WRITE] == [(wire.WRITE, 0, 1)]


def test_writes_beyond_the_window_wait_and_follow_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_module, "WINDOW_WRITES", 2)
    rig = Rig().split()
    for tag in range(5):
        rig.write(tag)
    assert rig.frames() == [(wire.WRITE, 0, 1), (wire.WRITE, 0, 2)]
    assert len(rig.core.held) == 3
    rig.receive(wire.RECEIVED, 2)
    assert rig.frames() == [(wire.WRITE, 0, 3), (wire.WRITE, 0, 4)]
    rig.receive(wire.RECEIVED, 4)
    assert rig.frames() == [(wire.WRITE, 0, 5)]
    rig.receive(wire.RECEIVED, 5)
    assert rig.store_all() == [0, 1, 2, 3, 4]


def test_bytes_beyond_the_window_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_module, "WINDOW_BYTES", 1024)
    rig = Rig().split()
    for tag in range(3):
        rig.write(tag, data=SECTOR)
    assert len(rig.frames()) == 2
    rig.receive(wire.RECEIVED, 1)
    assert rig.frames() == [(wire.WRITE, 0, 3)]


def test_what_was_received_leaves_the_window_as_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_module, "WINDOW_BYTES", 1024)
    rig = Rig().split()
    for _ in range(50):
        rig.batch(range(2))
        assert len(rig.frames()) == 2
        rig.receive(wire.RECEIVED, rig.core.sequence)


@pytest.mark.parametrize("held", [False, True])
def test_no_write_waits_for_the_appliance_beyond_its_deadline(
    monkeypatch: pytest.MonkeyPatch, held: bool
) -> None:
    monkeypatch.setattr(core_module, "WINDOW_WRITES", 0 if held else 10)
    rig = Rig().split()
    assert rig.core.deadline() is None
    rig.write("one", now_s=10.0)
    rig.write("two", offset=REGION_BYTES, now_s=11.0)
    assert rig.core.deadline() == 10.0 + TIMEOUT_S
    rig.core.tick(10.0 + TIMEOUT_S - 0.01)
    assert rig.core.effects.end_session is None
    rig.core.tick(10.0 + TIMEOUT_S)
    assert rig.core.mode is Mode.MARKING
    assert rig.core.effects.end_session == "the appliance did not take a write in time"
    assert rig.core.deadline() is None
    assert rig.stores() == []  # first the marks
    rig.sync_map()
    assert rig.store_all() == ["one", "two"]
    assert rig.marked() == [0, 1]


# -- the end of a session


def test_what_the_appliance_may_lose_is_marked_before_waiting_writes_go_on() -> None:
    rig = Rig().split()
    for tag in range(3):
        rig.write(tag, offset=tag * REGION_BYTES)
    rig.receive(wire.RECEIVED, 2)
    assert rig.store_all() == [0, 1]
    rig.receive(wire.DURABLE, 1)
    rig.core.end_session("the link is gone")
    rig.core.end_session("and once more")
    assert rig.core.effects.end_session == "the link is gone"
    assert rig.marked() == [0, 1, 2]  # the trail of what is not durable forgets whole chunks only
    assert rig.stores() == []
    rig.sync_map()
    assert rig.store_all() == [2]


def test_nothing_is_marked_that_is_durable() -> None:
    rig = Rig().split()
    rig.write("one")
    rig.receive(wire.RECEIVED, 1)
    assert rig.store_all() == ["one"]
    rig.receive(wire.DURABLE, 1)
    rig.core.end_session("the link is gone")
    assert rig.marked() == []


def test_a_pause_ends_the_session_and_what_follows_it_is_not_believed() -> None:
    rig = Rig().split()
    rig.write("one")
    rig.frames()
    rig.core.receive([(wire.PAUSE, 0, 0, 0, 0, 0, b"", 0), (wire.PROBE, 0, 0, 0, 1, 0, b"", 0)])
    assert rig.core.mode is Mode.MARKING
    assert rig.core.effects.end_session == "the appliance asked for a pause"
    assert rig.frames() == []
    rig.sync_map()
    assert rig.store_all() == ["one"]


@pytest.mark.parametrize("kind", [wire.RECEIVED, wire.DURABLE])
def test_an_acknowledgement_of_what_was_never_sent_is_refused(kind: int) -> None:
    rig = Rig().split()
    rig.write("one")
    with pytest.raises(RemoteProtocolError, match="never sent"):
        rig.receive(kind, 2)


def test_an_answer_to_hashes_that_were_never_sent_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="never sent"):
        Rig().split().receive(wire.EQUAL, 1, payload=b"\1")


@pytest.mark.parametrize("kind", [wire.WELCOME, wire.GROUPS, wire.HELLO, wire.WRITE])
def test_a_frame_that_has_no_place_in_a_session_is_refused(kind: int) -> None:
    with pytest.raises(RemoteProtocolError, match=f"type {kind} "):
        Rig().split().receive(kind)


def test_a_probe_is_answered_while_it_splits_and_not_in_marking() -> None:
    rig = Rig().split()
    rig.receive(wire.PROBE, a=5)
    assert rig.frames() == [(wire.ANSWER, 0, 0)]
    rig.core.end_session("the link is gone")
    rig.receive(wire.PROBE, a=6)
    assert rig.frames() == []


# -- MARKING


def test_a_write_in_marking_waits_for_its_mark_and_the_next_to_the_region_does_not() -> None:
    rig = Rig()
    rig.write("one")
    rig.write("two", offset=REGION_BYTES)
    assert rig.stores() == []
    rig.sync_map()  # of the first
    assert rig.store_all() == ["one"]
    rig.sync_map()  # one more serves what came meanwhile
    assert rig.store_all() == ["two"]
    rig.write("three", offset=512)
    assert not rig.core.effects.map_blocks
    assert rig.store_all() == ["three"]
    assert (rig.marked(0), rig.marked(1)) == ([0, 1], [])


def test_one_write_of_the_map_at_a_time() -> None:
    rig = Rig()
    rig.write("one")
    assert len(rig.core.effects.map_blocks) == 1
    rig.write("two", volume=1)
    assert len(rig.core.effects.map_blocks) == 1


def test_when_a_sweep_is_ordered_in_place_of_the_map_the_writes_go_on() -> None:
    rig = Rig()
    rig.write("one")
    rig.sync_map(written=False)
    assert rig.store_all() == ["one"]
    assert not rig.core.effects.map_blocks  # not at once: what failed now will fail again
    rig.core.tick(1.0)
    # All of both maps is due to be written again: a header and a block each.
    assert [(volume, offset) for volume, offset, _ in rig.core.effects.map_blocks] == [
        (0, 0),
        (0, 4096),
        (1, 0),
        (1, 4096),
    ]


def test_when_neither_can_be_written_the_writes_fail_and_the_next_tick_tries_again() -> None:
    rig = Rig()
    rig.write("one")
    rig.core.effects.map_blocks.clear()
    rig.core.map_failed(SpaceError("full"))
    assert rig.complete() == ["one"]
    assert isinstance(rig.statuses[0][1], SpaceError)
    assert rig.stores() == []
    rig.write("two")
    rig.core.tick(1.0)
    rig.sync_map()
    assert rig.store_all() == ["two"]


# -- the handshake


def test_start_is_sent_only_when_what_was_taken_over_is_durable() -> None:
    rig = Rig()
    rig.core.take_over([3, 1 << KEY_SHIFT | 4])
    rig.core.welcome(9, (), took_over=True)
    assert rig.frames() == []
    assert (rig.core.mode, rig.core.fresh) == (Mode.MARKING, True)
    rig.sync_map()
    assert rig.frames() == [(wire.START, 0, 0)]
    assert (rig.core.mode, rig.core.fresh, rig.core.session) == (Mode.RESYNCING, False, 9)
    assert (rig.marked(0), rig.marked(1)) == ([3], [4])


def test_start_waits_for_the_write_of_the_map_that_holds_the_marks() -> None:
    rig = Rig()
    rig.write("one")  # a write of the map is under way already
    rig.core.take_over([3])
    rig.core.welcome(9, (), took_over=True)
    rig.sync_map()
    assert rig.frames() == []
    rig.sync_map()
    assert rig.frames() == [(wire.START, 0, 0)]


def test_a_session_that_ends_before_its_start_is_never_started() -> None:
    rig = Rig()
    rig.core.take_over([3])
    rig.core.welcome(9, (), took_over=True)
    rig.core.end_session("the link is gone")
    rig.sync_map()
    assert (rig.frames(), rig.core.mode, rig.core.fresh) == ([], Mode.MARKING, True)


def test_a_fresh_core_does_not_start_without_the_since_stored_set() -> None:
    rig = Rig()
    rig.core.welcome(9, (), took_over=False)
    assert rig.core.effects.end_session == "the since-stored set is needed after all"
    assert rig.core.mode is Mode.MARKING


# -- RESYNCING


def test_a_write_to_a_region_being_read_is_held_until_it_was_sent() -> None:
    rig = Rig()
    rig.write("earlier")
    rig.sync_map()
    assert rig.store_all() == ["earlier"]
    rig.start()
    rig.core.resync.step(False)
    (read,) = rig.core.effects.reads
    assert (read.volume, read.offset, read.length, read.digests) == (0, 0, REGION_BYTES, False)
    rig.frames()
    rig.write("held")
    rig.write("elsewhere", offset=2 * REGION_BYTES)
    assert rig.frames() == [(wire.WRITE, 0, 1)]
    rig.core.resync.region_read(read.token, b"w" * REGION_BYTES)
    assert rig.frames() == [(wire.WRITE, 0, 2), (wire.WRITE, 0, 3)]  # the region's content first


def test_a_region_with_a_write_in_flight_is_not_read() -> None:
    rig = Rig()
    rig.write("earlier")
    rig.sync_map()
    (io,) = rig.stores()
    rig.start()
    rig.core.resync.step(False)
    assert rig.core.effects.reads == []
    assert rig.core.mode is Mode.RESYNCING  # a write begun in MARKING is not complete
    rig.core.stored([(io[5], None)])
    rig.core.resync.step(False)
    assert len(rig.core.effects.reads) == 1


def test_a_mark_is_cleared_when_durable_there_and_flushed_here_after_the_read() -> None:
    rig = Rig()
    rig.write("earlier")
    rig.sync_map()
    rig.store_all()
    rig.start()
    early = rig.core.begin_flush(0)
    rig.core.resync.step(False)
    rig.core.resync.region_read(rig.core.effects.reads.pop().token, b"w" * REGION_BYTES)
    rig.core.flushed(early, ok=True)  # it began before the region was read
    rig.receive(wire.DURABLE, 1)
    assert rig.marked() == [0]
    rig.core.flushed(rig.core.begin_flush(0), ok=True)
    assert rig.marked() == []
    rig.core.resync.step(False)
    assert rig.core.mode is Mode.SPLITTING


def test_a_sweep_sends_hashes_first_and_the_content_of_what_differs() -> None:
    rig = Rig(whole=False).start(sweep=(0, 1))
    core = rig.core
    rig.frames()
    core.resync.step(False)
    assert {(read.volume, read.digests) for read in core.effects.reads} == {(0, True), (1, True)}
    for read in core.effects.reads:
        core.resync.region_read(read.token, b"d" * 16 * REGIONS)
    core.effects.reads.clear()
    assert rig.frames() == [(wire.HASHES, 0, 1), (wire.HASHES, 1, 2)]
    rig.receive(wire.EQUAL, 1, payload=b"\1\1\1\0\1\1\1\1", flags=COMPARE_SWEEP)
    rig.receive(wire.EQUAL, 2, payload=b"\1" * REGIONS, flags=COMPARE_SWEEP)
    core.resync.step(False)
    (read,) = core.effects.reads
    assert (read.volume, read.offset, read.digests) == (0, 3 * REGION_BYTES, False)
    with pytest.raises(RemoteProtocolError):
        rig.receive(wire.EQUAL, 2, payload=b"\1" * REGIONS)


# -- stores that fail


def test_a_write_that_the_store_fails_is_marked_before_the_host_hears_of_it() -> None:
    rig = Rig().split()
    rig.write("one")
    rig.receive(wire.RECEIVED, 1)
    (io,) = rig.stores()
    rig.core.stored([(io[5], MediumError("bad sector"))])
    assert rig.core.mode is Mode.MARKING
    assert rig.core.effects.end_session == "the store failed a write: bad sector"
    assert rig.complete() == []
    assert rig.marked() == [0]
    rig.sync_map()
    assert rig.complete() == ["one"]
    assert isinstance(rig.statuses[0][1], MediumError)


def test_the_stores_error_is_told_even_if_the_map_fails_too() -> None:
    rig = Rig().split()
    rig.write("one")
    rig.receive(wire.RECEIVED, 1)
    (io,) = rig.stores()
    rig.core.stored([(io[5], MediumError("bad sector"))])
    rig.core.effects.map_blocks.clear()
    rig.core.map_failed(SpaceError("full"))
    assert rig.complete() == ["one"]
    assert isinstance(rig.statuses[0][1], MediumError)


def test_stored_covers_what_was_complete_when_the_flush_began() -> None:
    rig = Rig().split()
    for tag in range(3):
        rig.write(tag, volume=tag % 2)
    rig.frames()
    rig.receive(wire.RECEIVED, 2)
    ios = {io[5][0]: io for io in rig.stores()}
    rig.core.stored([(ios[2][5], None)])
    tokens = [rig.core.begin_flush(volume) for volume in (0, 1)]
    rig.core.stored([(ios[1][5], None)])
    for token in tokens:
        rig.core.flushed(token, ok=True)
    # Of volume 0 the first write was being stored; of volume 1 nothing was, and sequence 3 is not its own.
    assert rig.frames() == [(wire.STORED, 0, 0), (wire.STORED, 1, 3)]


def test_after_a_flush_that_failed_the_since_stored_set_is_needed() -> None:
    rig = Rig().split()
    rig.core.flushed(rig.core.begin_flush(0), ok=False)
    assert (rig.core.mode, rig.core.fresh) == (Mode.MARKING, True)
    assert rig.frames() == []
