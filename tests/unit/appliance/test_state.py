"""What an appliance knows of a group: the notes, replayed from any snapshot, give the same facts."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iscsi_rp.appliance import state as state_module
from iscsi_rp.appliance.state import GroupState, Note, Processor
from iscsi_rp.replication.regions import KEY_SHIFT, REGION_BYTES

BOOT = "boot-1"
NAMES = ("before", "after")
PROCESSORS = ("sp-a", "sp-b")


def since_stored(processor: Processor) -> set[int]:
    return {
        volume << KEY_SHIFT | region
        for volume, first, count in processor.runs()
        for region in range(first, first + count)
    }


class History:
    """A group's notes as a log has them, and a naive model of the since-stored sets."""

    def __init__(self) -> None:
        self.notes: list[tuple[int, int, dict[str, Any]] | tuple[int, int, int, tuple[tuple[int, int]]]] = []
        self.position = 0
        self.session = 0
        self.sessions: dict[str, int] = {}
        self.sequences = dict.fromkeys(PROCESSORS, 0)
        self.unstored: dict[str, list[tuple[int, int, range]]] = {name: [] for name in PROCESSORS}

    def note(self, kind: Note, **body: Any) -> None:
        self.position += 1
        self.notes.append((kind, self.position, body))

    def start(self, name: str, fresh: bool) -> None:
        self.session += 1
        if fresh:
            self.sequences[name] = 0
            self.unstored[name].clear()
        self.sessions[name] = self.session
        self.note(Note.SESSION, processor=name, session=self.session, boot_id=BOOT, fresh=fresh)

    def write(self, name: str, volume: int, region: int) -> None:
        if name not in self.sessions:
            return
        self.position += 1
        self.sequences[name] += 1
        key = volume << KEY_SHIFT | region
        keys = range(key, key + 2)
        self.unstored[name].append((self.sequences[name], volume, keys))
        extent = (region * REGION_BYTES, 2 * REGION_BYTES)
        self.notes.append((self.sessions[name], self.sequences[name], volume, (extent,)))

    def stored(self, name: str, volume: int, back: int) -> None:
        sequence = max(0, self.sequences[name] - back)
        self.unstored[name] = [
            each for each in self.unstored[name] if each[1] != volume or each[0] > sequence
        ]
        self.note(Note.STORED, processor=name, volume=volume, sequence=sequence)

    def needed(self, name: str) -> set[int]:
        return {key for _, _, keys in self.unstored[name] for key in keys}


def replay(state: GroupState, history: History, first: int = 0) -> GroupState:
    for each in history.notes[first:]:
        if len(each) == 4:
            state.received(*each)
        else:
            kind, position, body = each
            state.apply(kind, position, position * 1000, body)
    return state


def regions(processor: Processor) -> set[int]:
    """Since stored, as far as is remembered."""
    return set().union(*(trail.regions() for trail in processor.since_stored.values()))


def facts(state: GroupState) -> dict[str, Any]:
    """Everything but the since-stored sets."""
    return {
        "last_session": state.last_session,
        "seal": state.seal,
        "spans": state.spans,
        "bookmarks": state.bookmarks,
        "restoring": state.restoring,
        "ever_whole": state.ever_whole,
        "processors": {
            name: (each.session, each.boot_id, each.lost) for name, each in state.processors.items()
        },
        "names": state._names,
    }


@st.composite
def histories(draw: st.DrawFn) -> History:
    history = History()
    history.start("sp-a", True)
    for _ in range(draw(st.integers(0, 25))):
        name = draw(st.sampled_from(PROCESSORS))
        match draw(
            st.sampled_from(["start", "write", "write", "write", "stored", "seal", "span", "mark", "rest"])
        ):
            case "start":
                history.start(name, name not in history.sessions or draw(st.booleans()))
            case "write":
                history.write(name, draw(st.integers(0, 1)), draw(st.integers(0, 5)))
            case "stored":
                history.stored(name, draw(st.integers(0, 1)), draw(st.integers(0, 3)))
            case "seal":
                history.note(Note.SEAL, position=draw(st.integers(0, history.position)))
            case "span":
                history.note(Note.SPAN, **{"from": draw(st.integers(0, history.position))})
            case "mark":
                if draw(st.booleans()):
                    history.note(Note.BOOKMARK, name=draw(st.sampled_from(NAMES)), consistency="crash")
                else:
                    history.note(Note.UNBOOKMARK, name=draw(st.sampled_from(NAMES)))
            case "rest":
                kind = draw(st.sampled_from([Note.RESTORE, Note.RESTORED, Note.LOST]))
                history.note(kind, **({"position": 3} if kind is Note.RESTORE else {}))
    return history


@given(histories(), st.data())
@settings(max_examples=150, deadline=None)
def test_a_snapshot_and_the_notes_behind_it_say_what_all_notes_say(
    history: History, data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(history.notes)))
    whole = replay(GroupState(), history)
    partial = History()
    partial.notes = history.notes[:cut]
    restored = GroupState()
    restored.restore(replay(GroupState(), partial).snapshot())
    replay(restored, history, cut)
    assert facts(restored) == facts(whole)
    for name, processor in whole.processors.items():
        # Chunks may keep a little more than is needed, also more than the other; never less.
        assert history.needed(name) <= since_stored(processor)
        assert history.needed(name) <= since_stored(restored.processors[name])


@given(histories())
@settings(max_examples=50, deadline=None)
def test_a_snapshot_of_a_restored_state_is_the_same(history: History) -> None:
    state = replay(GroupState(), history)
    again = GroupState()
    again.restore(state.snapshot())
    assert again.snapshot() == state.snapshot()


def test_only_a_start_forgets_and_only_a_fresh_one() -> None:
    history = History()
    history.start("sp-a", True)
    history.write("sp-a", 0, 4)
    history.start("sp-a", False)
    assert since_stored(replay(GroupState(), history).processors["sp-a"]) == {4, 5}
    history.start("sp-a", True)
    assert since_stored(replay(GroupState(), history).processors["sp-a"]) == set()


def test_a_write_of_an_older_session_is_nobodys() -> None:
    history = History()
    history.start("sp-a", True)
    history.start("sp-a", True)
    state = replay(GroupState(), history)
    state.received(1, 1, 0, [(4 * REGION_BYTES, 2 * REGION_BYTES)])
    assert since_stored(state.processors["sp-a"]) == set()


def test_another_boot_means_that_power_was_lost_until_the_next_start() -> None:
    history = History()
    history.start("sp-a", True)
    state = replay(GroupState(), history)
    state.rebooted(BOOT)
    assert not state.processors["sp-a"].lost
    state.rebooted("boot-2")
    assert state.processors["sp-a"].lost
    state.apply(Note.SESSION, 9, 9, {"processor": "sp-a", "session": 2, "boot_id": "boot-2", "fresh": False})
    assert not state.processors["sp-a"].lost


def test_a_bookmark_that_was_never_sealed_is_gone_after_a_restart() -> None:
    history = History()
    history.note(Note.BOOKMARK, name="before", consistency="crash")
    history.note(Note.SEAL, position=1)
    history.note(Note.BOOKMARK, name="after", consistency="application")
    state = replay(GroupState(), history)
    assert (state.bookmarks["after"].position, state.bookmarks["after"].consistency) == (3, "application")
    state.rebooted(BOOT)
    assert list(state.bookmarks) == ["before"]


def test_images_that_are_gone_take_their_bookmarks_and_spans_with_them() -> None:
    state = GroupState()
    state.spans = [(1, 5), (7, 9)]
    for position, name in ((6, "early"), (10, "late")):
        state.apply(Note.BOOKMARK, position, 0, {"name": name, "consistency": "crash"})
    state.forget_before(8)
    assert (state.spans, list(state.bookmarks)) == ([(7, 9)], ["late"])


def test_the_inside_of_a_span_is_between_its_ends() -> None:
    state = GroupState()
    state.spans = [(3, 6), (6, 8)]
    assert [state.in_span(position) for position in range(3, 9)] == [None, (3, 6), (3, 6), None, (6, 8), None]


def test_too_many_spans_become_fewer_and_wider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_module, "MAX_SPANS", 2)
    state = GroupState()
    for begin, end in ((1, 3), (5, 7), (9, 11)):
        state.apply(Note.SPAN, end, 0, {"from": begin})
    assert state.spans == [(1, 7), (9, 11)]
