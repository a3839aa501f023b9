"""The access log against an array of bytes: writes, zeros, undo, and opening after any stop."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Timer

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iscsi_rp.appliance.access_format import HEADER_BYTES, RECORD_BYTES
from iscsi_rp.appliance.access_log import AccessLog, AccessLogFormatError
from iscsi_rp.device import MediumError, ProtectedError
from iscsi_rp.errors import ConflictError, NotFoundError
from iscsi_rp.journal.errors import JournalFullError, JournalIoError

GROUP = bytes(range(16))
SECTOR = 512
PAGE = 4096
SIZES = {0: 3 * PAGE, 7: 5 << 20, 9: 6 * PAGE + SECTOR}
"A small volume, one of several chunks of the index, and one that ends inside a page."
IMAGE = {volume: bytes([0x10 + volume]) * size for volume, size in SIZES.items()}
CAPACITY = 1 << 30


def below(volume: int) -> Callable[[int, int], bytes]:
    return lambda offset, length: IMAGE[volume][offset : offset + length]


def read(log: AccessLog, volume: int, offset: int = 0, length: int | None = None) -> bytes:
    return bytes(log.read(volume, offset, SIZES[volume] if length is None else length, below(volume)))


def write(log: AccessLog, volume: int, offset: int, data: bytes) -> None:
    log.write(volume, offset, data, below(volume))


def zero(log: AccessLog, volume: int, offset: int, length: int) -> None:
    log.zero(volume, offset, length, below(volume))


def sync(log: AccessLog) -> object:
    """What a FLUSH would be told."""
    told: Future[object] = Future()
    log.queue.post(lambda: None, told.set_result)
    return told.result(10)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "access"


@pytest.fixture
def log(path: Path) -> Iterator[AccessLog]:
    log = AccessLog.create(path, GROUP, 1234, SIZES, CAPACITY)
    yield log
    log.close()


def reopen(path: Path, capacity: int = CAPACITY) -> AccessLog:
    return AccessLog.open(path, GROUP, 1234, SIZES, capacity)


# -- the model

Change = tuple[int, int, int, int | None]
"(volume, offset, length, the byte that is written or None for zeros)"


@st.composite
def changes(draw: st.DrawFn) -> Change:
    volume = draw(st.sampled_from(sorted(SIZES)))
    sectors = SIZES[volume] // SECTOR
    start = draw(st.integers(0, sectors - 1))
    fill = draw(st.none() | st.integers(1, 255))
    longest = sectors if fill is None else 48
    length = draw(st.integers(1, min(longest, sectors - start)))
    return volume, start * SECTOR, length * SECTOR, fill


def apply(log: AccessLog, model: dict[int, bytearray], change: Change) -> None:
    volume, offset, length, fill = change
    if fill is None:
        zero(log, volume, offset, length)
    else:
        write(log, volume, offset, bytes([fill]) * length)
    model[volume][offset : offset + length] = bytes([fill or 0]) * length


def fresh() -> dict[int, bytearray]:
    return {volume: bytearray(data) for volume, data in IMAGE.items()}


def check(log: AccessLog, model: dict[int, bytearray]) -> None:
    for volume, data in model.items():
        assert read(log, volume) == data


@given(steps=st.lists(changes() | st.sampled_from(["undo", "reopen", "check"]), max_size=30))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_shows_what_was_written(steps: list[Change | str]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "access"
        log, model = AccessLog.create(path, GROUP, 1234, SIZES, CAPACITY), fresh()
        for step in steps:
            if step == "undo":
                log.undo()
                model = fresh()
            elif step == "reopen":
                log.close()
                log = reopen(path)
            elif step == "check":
                check(log, model)
            else:
                assert not isinstance(step, str)
                apply(log, model, step)
        check(log, model)
        log.close()


@given(
    kept=st.lists(changes(), min_size=1, max_size=6),
    lost=changes(),
    later=changes(),
    cut=st.integers(0, 10_000),
    garbage=st.sampled_from([b"", b"\0", b"\xff"]),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_torn_tail_is_cut_and_does_not_come_back(
    kept: list[Change], lost: Change, later: Change, cut: int, garbage: bytes
) -> None:
    """The last record is cut at any place, and what is missing of it is missing, zeros or garbage."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "access"
        log, model = AccessLog.create(path, GROUP, 1234, SIZES, CAPACITY), fresh()
        for change in kept:
            apply(log, model, change)
        flushed = log.bytes_used
        volume, offset, _, fill = lost
        # One whole page: one record.
        apply(log, fresh(), (volume, offset - offset % PAGE, min(PAGE, SIZES[volume] - offset), fill))
        log.close()
        whole = path.read_bytes()
        cut = flushed + cut % (len(whole) - flushed)
        torn = whole[:cut] + garbage * (len(whole) - cut)
        path.write_bytes(torn)
        log = reopen(path)
        if torn != whole:
            assert log.bytes_used == path.stat().st_size == flushed
            check(log, model)
            apply(log, model, later)
            log.close()
            log = reopen(path)
            check(log, model)
        log.close()


# -- records


def test_a_record_behind_a_damaged_one_is_not_read(path: Path, log: AccessLog) -> None:
    for page in range(3):
        write(log, 0, page * PAGE, b"w" * PAGE)
    data = bytearray(path.read_bytes())
    data[HEADER_BYTES + RECORD_BYTES + PAGE + 100] ^= 1  # inside the second record
    path.write_bytes(data)
    opened = reopen(path)
    assert read(opened, 0) == b"w" * PAGE + IMAGE[0][PAGE:]
    opened.close()


def test_an_old_record_behind_a_new_one_does_not_come_to_life(path: Path, log: AccessLog) -> None:
    """A disk may bring back what was cut: here the second record of a former tail."""
    write(log, 0, 0, b"a" * PAGE)
    write(log, 0, PAGE, b"b" * PAGE)
    former = path.read_bytes()
    one = RECORD_BYTES + PAGE
    path.write_bytes(former[: HEADER_BYTES + 10])
    opened = reopen(path)
    write(opened, 0, 0, b"c" * PAGE)
    opened.close()
    path.write_bytes(path.read_bytes() + former[HEADER_BYTES + one :])
    opened = reopen(path)
    assert read(opened, 0) == b"c" * PAGE + IMAGE[0][PAGE:]
    opened.close()


def test_zeros_take_one_record_however_long(tmp_path: Path) -> None:
    tebibyte = 1 << 40
    log = AccessLog.create(tmp_path / "access", GROUP, 1, {0: tebibyte}, CAPACITY)
    log.zero(0, 0, tebibyte, below(0))
    assert log.bytes_used == HEADER_BYTES + RECORD_BYTES
    log.write(0, tebibyte - PAGE, b"x" * PAGE, below(0))
    assert log.read(0, tebibyte - 2 * PAGE, 2 * PAGE, below(0)) == bytes(PAGE) + b"x" * PAGE
    log.close()


def test_touched_only_where_written(log: AccessLog) -> None:
    chunk = 2 << 20
    write(log, 7, chunk + SECTOR, b"w" * SECTOR)
    assert [log.is_touched(7, offset, PAGE) for offset in (0, chunk, 2 * chunk)] == [False, True, False]
    assert log.is_touched(7, chunk - PAGE, 2 * PAGE)
    assert not log.is_touched(0, 0, SIZES[0])
    assert not log.is_touched(9, 0, SIZES[9])
    zero(log, 7, 0, SIZES[7])
    assert log.is_touched(7, 0, PAGE)


# -- limits and failures


def test_full_is_read_only_until_undone(path: Path) -> None:
    room = HEADER_BYTES + RECORD_BYTES + PAGE
    log = AccessLog.create(path, GROUP, 1234, SIZES, room)
    write(log, 0, 0, b"w" * PAGE)
    assert (log.bytes_used, log.read_only_reason) == (room, None)
    with pytest.raises(ProtectedError, match="full"):
        write(log, 0, 0, b"x" * PAGE)
    assert log.read_only_reason
    assert read(log, 0, 0, PAGE) == b"w" * PAGE
    log.undo()
    assert log.read_only_reason is None
    write(log, 0, 0, b"y" * PAGE)
    assert read(log, 0, 0, PAGE) == b"y" * PAGE
    log.close()


def test_a_full_disk_is_read_only(log: AccessLog, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(*_: object) -> None:
        raise JournalFullError("no space")

    monkeypatch.setattr(log._file, "pwritev", no_space)
    with pytest.raises(ProtectedError, match="no space"):
        write(log, 0, 0, b"w" * PAGE)
    assert log.read_only_reason
    assert read(log, 0) == IMAGE[0]


def test_after_a_failed_sync_no_flush_succeeds(log: AccessLog, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise JournalIoError("no disk")

    write(log, 0, 0, b"w" * PAGE)
    with monkeypatch.context() as patch:
        patch.setattr(log._file, "sync", fails)
        assert isinstance(sync(log), MediumError)
    assert isinstance(sync(log), MediumError)
    assert log.read_only_reason
    log.undo()
    write(log, 0, 0, b"w" * PAGE)
    assert sync(log) is None


def test_an_unreadable_image_fails_the_write_of_a_part_of_a_page(log: AccessLog) -> None:
    def broken(offset: int, length: int) -> bytes:
        raise JournalIoError("no disk")

    with pytest.raises(MediumError):
        log.write(0, SECTOR, b"w" * SECTOR, broken)
    log.write(0, 0, b"w" * PAGE, broken)
    assert log.read_only_reason is None


def test_undo_comes_after_the_writes_before_it(log: AccessLog) -> None:
    go_on = Event()
    log.queue.post(lambda: write(log, 0, 0, b"w" * PAGE) if go_on.wait(10) else None)
    Timer(0.05, go_on.set).start()
    log.undo()
    log.queue.call(lambda: None)
    assert read(log, 0) == IMAGE[0]
    assert log.bytes_used == HEADER_BYTES


def test_a_reader_during_undo_sees_what_it_looked_up(path: Path, log: AccessLog) -> None:
    def undone_meanwhile(offset: int, length: int) -> bytes:
        log.undo()
        write(log, 0, 0, b"x" * PAGE)
        return IMAGE[0][offset : offset + length]

    write(log, 0, 2 * PAGE, b"w" * PAGE)
    # Page 1 comes from below; then page 2 is read from a place that another page has in the new file.
    assert log.read(0, PAGE, 2 * PAGE, undone_meanwhile) == IMAGE[0][:PAGE] + b"w" * PAGE
    assert read(log, 0) == b"x" * PAGE + IMAGE[0][PAGE:]


# -- files


def test_create_open_and_remove(path: Path) -> None:
    with pytest.raises(NotFoundError):
        reopen(path)
    log = AccessLog.create(path, GROUP, 1234, SIZES, CAPACITY)
    with pytest.raises(ConflictError):
        AccessLog.create(path, GROUP, 1234, SIZES, CAPACITY)
    assert [each.name for each in path.parent.iterdir()] == ["access"]
    log.remove()
    assert list(path.parent.iterdir()) == []


def test_what_a_kill_leaves_behind_is_swept_away(path: Path, log: AccessLog) -> None:
    write(log, 0, 0, b"w" * PAGE)
    for suffix in ("new", "index"):
        path.with_name(f"access.{suffix}").write_bytes(b"left behind" * 1000)
    opened = reopen(path)
    assert read(opened, 0, 0, PAGE) == b"w" * PAGE
    opened.undo()
    assert read(opened, 0) == IMAGE[0]
    opened.close()


def test_the_log_of_another_image_is_refused(path: Path, log: AccessLog) -> None:
    write(log, 7, 0, b"w" * PAGE)
    for group, position in ((GROUP, 1235), (GROUP[::-1], 1234)):
        with pytest.raises(AccessLogFormatError):
            AccessLog.open(path, group, position, SIZES, CAPACITY)
    with pytest.raises(AccessLogFormatError, match="other volumes"):
        AccessLog.open(path, GROUP, 1234, {0: SIZES[0]}, CAPACITY)
    path.write_bytes(b"not a log")
    with pytest.raises(AccessLogFormatError):
        reopen(path)
