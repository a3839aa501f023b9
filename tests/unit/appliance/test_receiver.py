"""Sessions, seals and spans of a group, over a real log."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from iscsi_rp.replication import frames as wire
from iscsi_rp.replication.frames import Frame, RemoteProtocolError
from iscsi_rp.replication.messages import Alert, VolumeInfo, Welcome, parse
from iscsi_rp.replication.regions import REGION_BYTES
from tests.unit.appliance.rig import PAGE, SIZE, VOLUMES, Rig, Splitter


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    rig.log.close()


def sequences(frames: list[Frame]) -> list[int]:
    return [frame[3] for frame in frames]


# -- hello, welcome, start


def test_a_hello_is_answered_when_the_log_is_durable(rig: Rig) -> None:
    splitter = Splitter(rig).hello()
    assert (rig.receiver.wants_sync, splitter.inbox) == (True, [])
    rig.sync()
    (frame,) = splitter.taken(wire.WELCOME)
    assert frame[4] == splitter.session.number == 1
    assert parse(Welcome, frame[6]) == Welcome(full_sweep=True, reason="first session")


def test_a_start_before_the_welcome_or_of_another_session_is_refused(rig: Rig) -> None:
    splitter = Splitter(rig).hello()
    with pytest.raises(RemoteProtocolError, match="before the session started"):
        splitter.tell(wire.START, a=splitter.session.number)
    rig.sync()
    with pytest.raises(RemoteProtocolError, match="before the session started"):
        splitter.tell(wire.START, a=splitter.session.number + 1)
    splitter.tell(wire.START, a=splitter.session.number)
    with pytest.raises(RemoteProtocolError, match="no place"):
        splitter.tell(wire.START, a=splitter.session.number)


@pytest.mark.parametrize(
    ("volume", "reason"),
    [
        (VolumeInfo(uuid="uuid-9", name="v9", size=SIZE, block_size=512), "v9 is not in this group"),
        (
            VolumeInfo(uuid="uuid-1", name="v1", size=SIZE + 512, block_size=512),
            "v1 has 1049088 bytes, its copy 10",
        ),
    ],
)
def test_volumes_that_do_not_fit_are_refused(rig: Rig, volume: VolumeInfo, reason: str) -> None:
    with pytest.raises(RemoteProtocolError, match=reason):
        Splitter(rig, [VOLUMES[0], volume]).hello()
    assert rig.receiver.sessions == {}


def test_a_new_hello_closes_the_older_session_for_good(rig: Rig) -> None:
    old, new = Splitter(rig).join(), Splitter(rig)
    old.write()
    new.hello(fresh=False)
    assert old.closed == "the processor began a new session"
    end = rig.log.end
    old.write()
    assert rig.log.end == end  # nothing of what comes late
    rig.receiver.lost(old.session, "late news")
    assert new.closed is None


def test_what_was_not_stored_is_handed_over_and_forgotten_by_start_alone(rig: Rig) -> None:
    old = Splitter(rig).join()
    old.write(3 << 16)
    old.write(9 << 16, volume=1)
    for _ in range(2):  # the first never starts
        new = Splitter(rig).hello(fresh=True)
        rig.sync()
        found = {frame[2]: frame[6][:8] for frame in new.taken(wire.REGIONS)}
        assert found == {0: (3).to_bytes(8, "little"), 1: (9).to_bytes(8, "little")}
        assert not parse(Welcome, new.taken(wire.WELCOME)[0][6]).full_sweep
    new.tell(wire.START, a=new.session.number)
    again = Splitter(rig).hello(fresh=True)
    rig.sync()
    assert again.taken(wire.REGIONS) == []


def test_every_write_of_a_batch_is_remembered_as_not_stored(rig: Rig) -> None:
    splitter = Splitter(rig).join()
    places = [(0, 0), (1, REGION_BYTES), (0, 3 * REGION_BYTES), (1, 5 * REGION_BYTES)]
    frames: list[Frame] = [
        (wire.WRITE, wire.KIND_ZERO, volume, sequence, offset, 512, b"", 0)
        for sequence, (volume, offset) in enumerate(places, splitter.sequence + 1)
    ]
    rig.receiver.receive(splitter.session, frames, rig.now())
    assert sorted(rig.state.processors[splitter.name].runs()) == [(0, 0, 1), (0, 3, 1), (1, 1, 1), (1, 5, 1)]


def test_what_is_stored_is_not_handed_over(rig: Rig) -> None:
    old = Splitter(rig).join()
    old.write(3 << 16)
    old.write(9 << 16, volume=1)
    old.tell(wire.STORED, volume=1, sequence=2)
    new = Splitter(rig).hello(fresh=True)
    rig.sync()
    assert [frame[2] for frame in new.taken(wire.REGIONS)] == [0]


def test_a_loss_on_both_sides_means_a_full_sweep(rig: Rig) -> None:
    Splitter(rig).join()
    rig.state.rebooted("another boot")
    kept, fresh = Splitter(rig).hello(fresh=False), Splitter(rig)
    rig.sync()
    assert not parse(Welcome, kept.taken(wire.WELCOME)[0][6]).full_sweep
    fresh.hello(fresh=True)
    rig.sync()
    welcome = parse(Welcome, fresh.taken(wire.WELCOME)[0][6])
    assert (welcome.full_sweep, welcome.reason) == (True, "both sides lost what was not durable")


# -- writes


def test_received_follows_the_append_and_durable_the_sync(rig: Rig) -> None:
    splitter = Splitter(rig).join()
    splitter.inbox.clear()
    splitter.write()
    splitter.write()
    assert sequences(splitter.taken(wire.RECEIVED)) == [1, 2]
    sync = rig.receiver.begin_sync(rig.now())
    splitter.write()
    sync.ticket.run()
    rig.receiver.finish_sync(sync)
    assert sequences(splitter.taken(wire.DURABLE)) == [2]
    rig.sync()
    assert sequences(splitter.taken(wire.DURABLE)) == [3]


def test_a_batch_is_acknowledged_once(rig: Rig) -> None:
    splitter = Splitter(rig).join()
    splitter.inbox.clear()
    crc = wire.checksum(PAGE)
    batch = [(wire.WRITE, wire.KIND_DATA, 0, n, 0, len(PAGE), PAGE, crc) for n in range(1, 6)]
    rig.receiver.receive(splitter.session, batch, rig.now())
    assert sequences(splitter.taken(wire.RECEIVED)) == [5]


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        ((wire.WRITE, wire.KIND_DATA, 0, 3, 0, 512, bytes(512), 0), "sequence 3 where 2 was due"),
        ((wire.WRITE, wire.KIND_DATA, 0, 1, 0, 512, bytes(512), 0), "sequence 1 where 2 was due"),
        ((wire.WRITE, wire.KIND_DATA, 2, 2, 0, 512, bytes(512), 0), "outside of its volume"),
        ((wire.WRITE, wire.KIND_UNMAP, 0, 2, 0, SIZE + 512, b"", 0), "outside of its volume"),
        ((wire.WRITE, wire.KIND_UNMAP, 0, 2, 512, 2**64 - 512, b"", 0), "outside of its volume"),
        ((wire.WRITE, wire.KIND_UNMAP, 0, 2, 0, 0, b"", 0), "outside of its volume"),
        ((wire.WRITE, wire.KIND_DATA, 0, 2, 0, 1024, bytes(512), 0), "does not fit its extent"),
        ((wire.WRITE, wire.KIND_ZERO, 0, 2, 0, 512, bytes(512), 0), "does not fit its extent"),
        ((wire.WRITE, 99, 0, 2, 0, 512, bytes(512), 0), "does not fit its extent"),
        ((wire.STORED, 0, 2, 1, 0, 0, b"", 0), "no place"),
        ((wire.STORED, 0, 0, 2, 0, 0, b"", 0), "no place"),
        ((wire.HASHES, 0, 0, 2, 512, 1 << 16, bytes(16), 0), "outside"),
        ((wire.HASHES, 0, 0, 2, 0, SIZE + 512, bytes(16 * 17), 0), "outside"),
        ((wire.HASHES, 0, 0, 2, 0, 1 << 16, bytes(15), 0), "do not fit"),
        ((wire.HASHES, 0, 0, 9, 0, 1 << 16, bytes(16), 0), "sequence 9 where 2 was due"),
        ((wire.FETCH, 0, 0, 1, 0, 512, b"", 0), "no place"),
        ((wire.RESTORED, 0, 0, 0, 0, 0, b"", 0), "no place"),
        ((wire.RECEIVED, 0, 0, 0, 0, 0, b"", 0), "no place"),
    ],
)
def test_what_the_protocol_does_not_allow_is_refused(rig: Rig, frame: Frame, reason: str) -> None:
    splitter = Splitter(rig).join()
    splitter.write()
    end = rig.log.end
    with pytest.raises(RemoteProtocolError, match=reason):
        rig.receiver.receive(splitter.session, [frame], rig.now())
    assert rig.log.end == end


def test_what_stands_before_a_wrong_frame_of_a_batch_is_not_half_acknowledged(rig: Rig) -> None:
    splitter = Splitter(rig).join()
    splitter.inbox.clear()
    good = (wire.WRITE, wire.KIND_DATA, 0, 1, 0, len(PAGE), PAGE, wire.checksum(PAGE))
    end = rig.log.end
    with pytest.raises(RemoteProtocolError):
        rig.receiver.receive(splitter.session, [good, (wire.WELCOME, 0, 0, 0, 0, 0, b"", 0)], rig.now())
    assert rig.log.end - end == len(splitter.taken(wire.RECEIVED))


def test_hashes_are_compared_at_their_place_in_the_stream(rig: Rig) -> None:
    splitter = Splitter(rig).hello().start()
    splitter.write()
    at = rig.log.end
    frame: Frame = (wire.HASHES, 0, 1, 2, 1 << 16, 1 << 16, bytes(16), 0)
    rig.receiver.receive(splitter.session, [frame], rig.now())
    ((asked, position, compared),) = rig.compares
    assert (asked, position) == (frame, at)
    compared(b"\1")
    (answer,) = splitter.taken(wire.EQUAL)
    assert answer[:7] == (wire.EQUAL, 0, 1, 2, 1 << 16, 1 << 16, b"\1")


# -- seals and spans


def test_an_image_is_offered_when_every_processor_has_answered_and_that_is_durable(rig: Rig) -> None:
    one, other = Splitter(rig, VOLUMES[:1], "a/sp-a"), Splitter(rig, VOLUMES[1:], "a/sp-b")
    one.hello().start()
    other.join()
    one.tell(wire.END)
    assert rig.receiver.span_from is None
    one.write()
    position = rig.receiver.content_end
    rig.receiver.probe()
    one.answer_probe()
    rig.sync()
    assert rig.receiver.offered < position
    other.answer_probe()
    assert rig.receiver.sealed >= position > rig.receiver.offered
    rig.sync()
    assert rig.receiver.offered >= position
    rig.receiver.probe()
    assert one.inbox.count((wire.PROBE, 0, 0, 0, 2, 0, b"", 0)) == 0  # nothing new: no probe


def test_a_write_behind_the_probe_is_not_sealed_by_its_answer(rig: Rig) -> None:
    splitter = Splitter(rig).join()
    rig.receiver.probe()
    before = rig.log.end
    splitter.write()
    splitter.answer_probe()
    assert rig.receiver.sealed == before


def test_nobody_is_asked_again_before_the_answer(rig: Rig) -> None:
    """Else answers that take longer than a round would never be the one that is waited for."""
    splitter = Splitter(rig).join()
    assert rig.receiver.probe()
    before = rig.log.end
    splitter.write()
    assert not rig.receiver.probe()
    splitter.answer_probe()
    assert rig.receiver.sealed == before
    assert rig.receiver.probe()


def test_a_seal_that_comes_during_a_sync_is_offered_after_the_next(rig: Rig) -> None:
    splitter = Splitter(rig).join()
    splitter.write()
    position = rig.receiver.content_end
    rig.receiver.probe()
    sync = rig.receiver.begin_sync(rig.now())
    splitter.answer_probe()
    sync.ticket.run()
    rig.receiver.finish_sync(sync)
    assert rig.receiver.sealed >= position > rig.receiver.offered
    assert rig.receiver.wants_sync
    rig.sync()
    assert rig.receiver.offered >= position


def test_the_span_opens_at_the_last_seal_and_ends_with_the_end_of_all(rig: Rig) -> None:
    one, other = Splitter(rig, VOLUMES[:1], "a/sp-a"), Splitter(rig, VOLUMES[1:], "a/sp-b")
    one.join()
    assert rig.receiver.span_from is not None  # the other volume has nobody yet
    other.join()
    sealed = rig.seal(one, other)
    one.write()
    rig.receiver.lost(one.session, "the link is gone")
    assert rig.receiver.span_from is not None
    assert rig.receiver.span_from >= sealed
    start = rig.receiver.span_from
    other.write()
    rig.receiver.probe()
    assert other.taken(wire.PROBE)[1:] == []
    one.hello(fresh=False).start()
    one.tell(wire.END)
    assert rig.receiver.span_from is None
    assert rig.state.spans[-1] == (start, rig.log.end)


def test_the_span_does_not_end_before_a_processor_that_has_just_come(rig: Rig) -> None:
    """Of which the log does not know yet: what it has marked is not in the log before its END."""
    one, other = Splitter(rig), Splitter(rig, name="a/sp-b")
    one.hello().start()
    other.hello()
    one.tell(wire.END)
    assert rig.receiver.span_from is not None
    other.start()
    assert rig.receiver.span_from is not None
    other.tell(wire.END)
    assert rig.receiver.span_from is None
    assert rig.seal(one, other)


def test_the_span_does_not_end_while_a_known_processor_is_away(rig: Rig) -> None:
    """It may be in MARKING, and acknowledge writes."""
    one, other = Splitter(rig).join(), Splitter(rig, name="a/sp-b").join()
    rig.receiver.lost(one.session, "the link is gone")
    other.join()
    assert rig.receiver.span_from is not None
    one.join()
    assert rig.receiver.span_from is None


def test_an_answer_that_nobody_waits_for_seals_nothing(rig: Rig) -> None:
    splitter = Splitter(rig).join()
    position = rig.seal(splitter)
    splitter.answer_probe()
    assert rig.receiver.sealed == position
    rig.receiver.probe()
    splitter.hello().start()
    splitter.answer_probe()  # asked in the session before
    assert rig.receiver.sealed == position


def test_a_processor_that_comes_to_others_opens_a_span(rig: Rig) -> None:
    one, other = Splitter(rig).join(), Splitter(rig, name="a/sp-b")
    rig.seal(one)
    one.write()
    rig.receiver.probe()
    other.hello()
    one.answer_probe()  # it had no say in it
    assert rig.receiver.sealed < rig.receiver.content_end
    assert not rig.receiver.probe()
    other.start().tell(wire.END)
    assert rig.receiver.span_from is None


def test_a_pause_is_told_and_nobody_is_let_in_until_resume(rig: Rig) -> None:
    splitter = Splitter(rig).join()
    rig.receiver.pause("no space")
    (frame,) = splitter.taken(wire.PAUSE)
    assert parse(Alert, frame[6]).text == "no space"
    assert splitter.closed == "no space"
    with pytest.raises(RemoteProtocolError, match="paused: no space"):
        Splitter(rig).hello()
    rig.receiver.resume()
    Splitter(rig).hello()


# -- restoring production


def test_a_restore_is_ordered_when_durable_and_hosts_return_when_its_end_is(rig: Rig) -> None:
    splitter = Splitter(rig).join()
    splitter.write()
    image = rig.seal(splitter)
    splitter.write()
    rig.receiver.restore(image, rig.now())
    assert splitter.taken(wire.RESTORE) == []
    rig.sync()
    assert [frame[4] for frame in splitter.taken(wire.RESTORE)] == [image]
    splitter.tell(wire.BLOCKED, a=image)
    assert rig.touched == [image]
    fetch: Frame = (wire.FETCH, 0, 0, 7, 0, 4096, b"", 0)
    rig.receiver.receive(splitter.session, [fetch], rig.now())
    assert rig.fetched == [(fetch, image)]
    splitter.write()
    splitter.tell(wire.RESTORED, a=image)
    assert splitter.taken(wire.UNBLOCK) == []
    assert rig.receiver.span_from is None  # the end of the restore is an image
    rig.sync()
    assert len(splitter.taken(wire.UNBLOCK)) == 1


def test_production_is_restored_when_a_processor_that_has_just_come_is_too(rig: Rig) -> None:
    one, other = Splitter(rig).join(), Splitter(rig, name="a/sp-b")
    image = rig.seal(one)
    rig.receiver.restore(image, rig.now())
    rig.sync()
    other.hello()
    one.tell(wire.RESTORED, a=image)
    assert rig.state.restoring == image
    other.start().tell(wire.END)
    assert other.taken(wire.RESTORE)
    other.tell(wire.RESTORED, a=image)
    assert rig.state.restoring is None
    assert rig.receiver.span_from is None
    rig.sync()
    assert one.taken(wire.UNBLOCK)
    assert other.taken(wire.UNBLOCK)


def test_a_restore_begins_again_with_the_next_session(rig: Rig) -> None:
    splitter = Splitter(rig).join()
    splitter.write()
    image = rig.seal(splitter)
    rig.receiver.restore(image, rig.now())
    rig.sync()
    again = Splitter(rig).hello(fresh=True)
    rig.sync()
    assert parse(Welcome, again.taken(wire.WELCOME)[0][6]).restoring == image
    again.tell(wire.START, a=again.session.number)
    assert again.taken(wire.RESTORE) == []  # its store is not known to be whole yet
    again.tell(wire.END)
    assert [frame[4] for frame in again.taken(wire.RESTORE)] == [image]
    assert rig.receiver.span_from is not None


def test_a_sync_that_ends_late_tells_nothing_to_a_session_that_is_over(rig: Rig) -> None:
    splitter = Splitter(rig).join()
    splitter.write()
    splitter.inbox.clear()
    sync = rig.receiver.begin_sync(rig.now())
    new = Splitter(rig).hello(fresh=False)
    sync.ticket.run()
    rig.receiver.finish_sync(sync)
    assert (splitter.inbox, new.inbox) == ([], [])
    assert rig.log.durable == sync.ticket.end
