"""FORMAT UNIT and SANITIZE that are broken off by a restart, cannot be noted, or meet a busy device."""

from collections.abc import Callable, Sequence

import pytest

from iscsi_rp.device import WRITE, BusyError, Done, Io, IoError, MediumError, NotReadyError
from iscsi_rp.errors import Error
from iscsi_rp.scsi import Identity, LogicalUnit
from iscsi_rp.scsi.medium import Work
from iscsi_rp.scsi.sense import TASK_SET_FULL
from tests.unit.scsi.rig import BLOCK, NAA, READ, TEST_UNIT_READY, Host
from tests.unit.scsi.test_medium import ERASE, EXIT, FORMAT, FORMATTING, SANITIZING, Recording, overwrite

ONES = b"\xff" * 64 * BLOCK
FAILED = {
    Work.FORMAT: (3, 0x31, 1),
    Work.SANITIZE: (3, 0x31, 3),
    Work.SANITIZE_UNRESTRICTED: (3, 0x31, 3),
}
INTERNAL_FAILURE = (4, 0x44, 0)
ERASE_UNRESTRICTED = bytes((0x48, 0x22)) + bytes(8)
FORMAT_IMMEDIATE = bytes((4, 0x10, 0, 0, 0, 0)), bytes((0, 2, 0, 0))
COMMANDS = {Work.FORMAT: FORMAT, Work.SANITIZE: ERASE, Work.SANITIZE_UNRESTRICTED: ERASE_UNRESTRICTED}


class Notes:
    """Keeps a unit's notes as a catalogue does, now or when they are let go."""

    def __init__(self) -> None:
        self.made: list[Work | None] = []
        self.error: Error | None = None
        self.holding = False
        self._held: list[Callable[[], None]] = []

    def note(self, unfinished: Work | None, then: Callable[[Error | None], None]) -> None:
        def finish() -> None:
            if self.error is None:
                self.made.append(unfinished)
            then(self.error)

        if self.holding:
            self._held.append(finish)
        else:
            finish()

    def let_go(self) -> None:
        (finish,) = self._held
        self._held = []
        finish()


class Failing(Recording):
    """Answers the operations whose number is in `errors` with the error, and counts all."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: dict[int, IoError] = {}
        self.count = 0

    def submit(self, batch: Sequence[Io], done: Done) -> None:
        for io in batch:
            error = self.errors.get(self.count)
            self.count += 1
            if error is None:
                super().submit([io], done)
            else:
                done([(io[5], error)])


class Clock:
    """What is to be done later."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []

    def later(self, then: Callable[[], None]) -> None:
        self.waiting.append(then)

    def pass_by(self) -> None:
        waiting, self.waiting = self.waiting, []
        for then in waiting:
            then()


def make(
    device: Recording, notes: Notes, *, unfinished: Work | None = None, clock: Clock | None = None
) -> LogicalUnit:
    later = None if clock is None else clock.later
    return LogicalUnit(device, Identity(NAA, "t"), unfinished=unfinished, note=notes.note, later=later)


@pytest.mark.parametrize("immediate", [False, True])
@pytest.mark.parametrize("work", [Work.FORMAT, Work.SANITIZE])
def test_it_is_noted_before_a_block_is_touched_until_after_the_last(work: Work, immediate: bool) -> None:
    device, notes = Recording(), Notes()
    unit = make(device, notes)
    host, other = Host(unit), Host(unit, 2)
    notes.holding = True
    busy, wanted = FORMATTING, b"\0"
    if work is Work.SANITIZE:
        busy, wanted = SANITIZING, b"x"
        answers = host.start(*overwrite(b"x", immediate=immediate))
    else:
        answers = host.start(*(FORMAT_IMMEDIATE if immediate else (FORMAT, None)))
    assert (device.content(), answers) == (ONES, [])
    assert other.do(TEST_UNIT_READY).sense == busy
    notes.let_go()
    assert (device.content(), notes.made) == (wanted * 64 * BLOCK, [work])
    assert len(answers) == immediate
    assert other.do(TEST_UNIT_READY).sense == busy
    notes.let_go()
    assert notes.made == [work, None]
    assert [answer.status for answer in answers] == [0]
    other.good(TEST_UNIT_READY)


@pytest.mark.parametrize("before", [None, *Work])
def test_without_a_note_nothing_is_touched(before: Work | None) -> None:
    device, notes = Recording(), Notes()
    host = Host(make(device, notes, unfinished=before))
    notes.error = Error("the catalogue's disk is full")
    for work in set(Work) - {before}:  # the note of `before` is there
        # Formatting does not end a failure that only SANITIZE may end: it does not come to a note.
        refused = (before, work) == (Work.SANITIZE, Work.FORMAT)
        assert host.do(COMMANDS[work]).sense == (FAILED[Work.SANITIZE] if refused else INTERNAL_FAILURE)
        assert device.content() == ONES
        assert host.do(READ).sense == (None if before is None else FAILED[before])


@pytest.mark.parametrize("work", Work)
def test_what_a_restart_broke_off_has_failed_until_it_is_done_again(work: Work) -> None:
    device, notes = Recording(), Notes()
    host = Host(make(device, notes, unfinished=work))
    for cdb in (TEST_UNIT_READY, READ):
        assert host.do(cdb).sense == FAILED[work]
    assert host.good(bytes((3, 0, 0, 0, 252, 0)))[12:14] == bytes(FAILED[work][1:])
    host.good(COMMANDS[work])
    host.good(READ)
    assert (device.content(), notes.made) == (bytes(64 * BLOCK), [None])


@pytest.mark.parametrize("work", Work)
def test_it_is_left_where_that_was_allowed_and_the_note_goes_first(work: Work) -> None:
    notes = Notes()
    host = Host(make(Recording(), notes, unfinished=work))
    notes.holding = True
    if work is not Work.SANITIZE_UNRESTRICTED:
        assert host.do(EXIT).sense == (5, 0x24, 0)
        assert notes.made == []
        return
    leaving = host.start(EXIT)
    assert leaving == []
    for cdb in (EXIT, ERASE, FORMAT):
        assert host.do(cdb).status == TASK_SET_FULL
    assert host.do(READ).sense == FAILED[work]
    notes.error = Error("the catalogue's disk is full")
    notes.let_go()
    assert leaving[0].sense == INTERNAL_FAILURE
    assert host.do(READ).sense == FAILED[work]
    notes.error, notes.holding = None, False
    host.good(EXIT)
    host.good(READ)
    assert notes.made == [None]


@pytest.mark.parametrize("work", Work)
def test_a_note_that_stays_is_a_failure_now_as_after_a_restart(work: Work) -> None:
    notes = Notes()
    host = Host(make(Recording(), notes))
    notes.holding = True
    answers = host.start(COMMANDS[work])
    notes.let_go()
    notes.error = Error("the catalogue's disk is full")
    notes.let_go()
    assert [answer.sense for answer in answers] == [FAILED[work]]
    assert host.do(READ).sense == FAILED[work]
    assert notes.made == [work]


def test_a_failure_is_still_noted() -> None:
    device, notes = Failing(), Notes()
    host = Host(make(device, notes, clock=Clock()))
    device.errors[device.count + 1] = MediumError()
    assert host.do(ERASE).sense == FAILED[Work.SANITIZE]
    assert notes.made == [Work.SANITIZE]


@pytest.mark.parametrize(
    ("error", "status", "sense"),
    [(NotReadyError("offline"), 0x02, (2, 4, 0)), (BusyError(), TASK_SET_FULL, None)],
)
def test_what_cannot_begin_is_not_noted(error: IoError, status: int, sense: tuple[int, int, int]) -> None:
    device, notes = Failing(), Notes()
    host = Host(make(device, notes, clock=Clock()))
    device.errors[device.count] = error
    answer = host.do(ERASE)
    assert (answer.status, answer.sense) == (status, sense)
    assert (device.content(), notes.made) == (ONES, [])
    host.good(READ)


def test_a_first_block_that_cannot_be_read_can_be_sanitized() -> None:
    device = Failing()
    host = Host(make(device, Notes()))
    device.errors[device.count] = MediumError()
    host.good(ERASE)
    assert device.content() == bytes(64 * BLOCK)


@pytest.mark.parametrize("work", [Work.FORMAT, Work.SANITIZE])
def test_what_a_device_is_too_busy_for_is_done_later(work: Work) -> None:
    device, notes, clock = Failing(), Notes(), Clock()
    unit = make(device, notes, clock=clock)
    host, other = Host(unit), Host(unit, 2)
    steps = {Work.FORMAT: 2, Work.SANITIZE: 3}[work]
    first = device.count + 1
    # Each step finds it busy twice.
    device.errors = {first + at: BusyError() for at in range(3 * steps) if at % 3 != 2}
    answers = host.start(COMMANDS[work])
    for _ in range(2 * steps):
        assert (answers, len(clock.waiting)) == ([], 1)
        before = device.count
        assert other.do(TEST_UNIT_READY).sense == (FORMATTING if work is Work.FORMAT else SANITIZING)
        assert device.count == before
        clock.pass_by()
    assert [answer.status for answer in answers] == [0]
    assert clock.waiting == []
    assert (device.content(), notes.made) == (bytes(64 * BLOCK), [work, None])
    assert device.count == first + 3 * steps
    if work is Work.SANITIZE:
        assert [op for op, *_ in device.writes] == [WRITE]
