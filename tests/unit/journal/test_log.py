"""The log on a real file system: what it keeps, what it cuts, what it says about damage."""

import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from iscsi_rp.errors import ConflictError
from iscsi_rp.journal.errors import (
    DamagedRecordError,
    ImageGoneError,
    JournalFormatError,
    JournalFullError,
    JournalIoError,
    JournalUnusableError,
    MissingSegmentError,
)
from iscsi_rp.journal.files import OsDirectory, OsFile
from iscsi_rp.journal.log import Log
from iscsi_rp.journal.record import HEADER_BYTES
from tests.kit.page_cache import cached, can_be_emptied
from tests.unit.journal.entries import GROUP, data, no_snapshot, note, unmap

SEGMENT = 1 << 16


def create(path: Path, segment_bytes: int = SEGMENT) -> Log:
    return Log.create(OsDirectory(path), GROUP, no_snapshot, segment_bytes=segment_bytes)


def reopen(path: Path, group: bytes = GROUP) -> Log:
    return Log.open(OsDirectory(path), group, no_snapshot, segment_bytes=SEGMENT)


def sync(log: Log) -> None:
    ticket = log.begin_sync()
    ticket.run()
    log.finish_sync(ticket)


def page(value: int) -> bytes:
    return bytes([value % 256]) * 4096


def fill(log: Log, count: int) -> None:
    for value in range(count):
        log.append([data(4096 * value, page(value))], 1000 + value)
        if value % 5 == 4:
            sync(log)
    sync(log)


def payload_of(log: Log, position: int) -> bytes:
    segment = next(s for s in log.segments if s.first <= position <= s.last)
    return bytes(next(segment.payloads([position - segment.first]))[1])


def overwrite(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


def segment_paths(path: Path) -> list[Path]:
    return sorted(path.glob("log-*"))


def test_positions_count_from_one_and_time_never_stands_still(tmp_path: Path) -> None:
    log = create(tmp_path)
    assert (log.first, log.end, log.durable) == (1, 0, 0)
    assert log.append([data(0, page(1)), data(0, page(2))], 100) == 2
    assert log.append([data(0, page(3))], 50) == 3
    assert [log.time_of(position) for position in (1, 2, 3)] == [100, 101, 102]
    assert log.last_time_ns == 102


def test_durable_follows_the_sync_and_not_the_append(tmp_path: Path) -> None:
    log = create(tmp_path)
    log.append([data(0, page(1))], 1)
    ticket = log.begin_sync()
    log.append([data(0, page(2))], 2)
    ticket.run()
    assert log.durable == 0
    log.finish_sync(ticket)
    assert (log.durable, log.end) == (1, 2)


def test_one_sync_at_a_time(tmp_path: Path) -> None:
    log = create(tmp_path)
    ticket = log.begin_sync()
    with pytest.raises(ConflictError):
        log.begin_sync()
    log.cut_to_durable()
    with pytest.raises(ConflictError):
        log.finish_sync(ticket)


def test_everything_is_found_again_over_many_segments(tmp_path: Path) -> None:
    log = create(tmp_path)
    fill(log, 60)
    log.append([note(b"a note"), unmap(8192, 1 << 30)], 5000)
    assert len(log.segments) == 4
    log.close()
    log = reopen(tmp_path)
    assert (log.first, log.end, log.durable, log.last_time_ns) == (1, 62, 62, 5001)
    assert [payload_of(log, position) for position in (1, 30, 60)] == [page(0), page(29), page(59)]
    records = list(log.recovered_records)
    assert [(record.position, record.kind, content) for record, content in records][-2:] == [
        (61, 64, b"a note"),
        (62, 3, None),
    ]
    assert (records[-1][0].offset, records[-1][0].length) == (8192, 1 << 30)
    assert log.append([data(0, page(7))], 9000) == 63


def test_the_checkpoint_of_the_tail_is_the_state_before_its_first_record(tmp_path: Path) -> None:
    logs: list[Log] = []
    snapshot = lambda: b"state at %d" % (logs[0].end if logs else 0)  # noqa: E731
    logs.append(Log.create(OsDirectory(tmp_path), GROUP, snapshot, segment_bytes=SEGMENT))
    fill(logs[0], 20)
    tail = logs[0].segments[-1]
    assert tail.first == 16
    assert reopen(tmp_path).recovered_checkpoint == b"state at 15"


def test_a_torn_tail_is_cut_off_the_disk(tmp_path: Path) -> None:
    log = create(tmp_path)
    for value in range(1, 5):
        log.append([data(0, page(value))], value)
    end_of_two = log.segments[0].header.data_start + 2 * (HEADER_BYTES + 4096)
    overwrite(segment_paths(tmp_path)[0], end_of_two + 200, b"torn")
    log = reopen(tmp_path)
    assert (log.end, log.durable) == (2, 2)
    assert not any(segment_paths(tmp_path)[0].read_bytes()[end_of_two:])


def test_an_old_record_does_not_live_again_behind_a_newer_one(tmp_path: Path) -> None:
    log = create(tmp_path)
    log.append([data(0, page(1)), data(0, page(2))], 1)
    path = segment_paths(tmp_path)[0]
    start = log.segments[0].header.data_start
    old = path.read_bytes()[start : start + 2 * (HEADER_BYTES + 4096)]
    overwrite(path, start + 100, b"torn")
    log = reopen(tmp_path)
    log.append([data(0, page(3))], 2)
    overwrite(path, start + HEADER_BYTES + 4096, old[HEADER_BYTES + 4096 :])
    log = reopen(tmp_path)
    assert log.end == 1
    assert payload_of(log, 1) == page(3)


def test_a_full_segment_that_was_never_sealed_ends_the_log_where_it_is_torn(tmp_path: Path) -> None:
    log = create(tmp_path)
    for value in range(40):
        log.append([data(0, page(value))], value + 1)
    assert [segment.first for segment in log.segments] == [1, 16, 31]
    overwrite(segment_paths(tmp_path)[1], log.segments[1].header.data_start + 3 * 4160 + 99, b"torn")
    log = reopen(tmp_path)
    assert log.end == 18
    assert len(segment_paths(tmp_path)) == 2
    assert log.append([data(0, page(9))], 99) == 19


def test_a_segment_torn_while_it_was_made_is_forgotten(tmp_path: Path) -> None:
    log = create(tmp_path)
    fill(log, 15)
    (tmp_path / "log-00000000000000000016").write_bytes(bytes(SEGMENT))
    log = reopen(tmp_path)
    assert log.end == 15
    fill(log, 3)
    assert reopen(tmp_path).end == 18


def test_a_failed_sync_is_a_power_loss(tmp_path: Path) -> None:
    log = create(tmp_path)
    fill(log, 10)
    for value in range(30):
        log.append([data(0, page(value))], 5000 + value)
    log.begin_sync()
    log.cut_to_durable()
    assert (log.end, log.durable) == (10, 10)
    assert log.append([data(0, page(77))], 9000) == 11
    log = reopen(tmp_path)
    assert (log.end, payload_of(log, 11)) == (11, page(77))


def test_cutting_back_into_a_segment_that_was_sealed_meanwhile(tmp_path: Path) -> None:
    log = create(tmp_path)
    fill(log, 15)
    log.append([data(0, page(1))], 5000)
    log.begin_sync().run()
    assert log.segments[0].is_sealed
    log.cut_to_durable()
    assert (log.end, len(log.segments)) == (15, 1)
    fill(log, 20)
    assert reopen(tmp_path).end == 35


class _FailingFile:
    """The file beneath, with writes that stop half way."""

    def __init__(self, file: OsFile, error: Exception) -> None:
        self._file = file
        self._error = error

    def __getattr__(self, name: str) -> object:
        return getattr(self._file, name)

    def pwritev(self, buffers: list[bytes], offset: int) -> None:
        self._file.pwritev(buffers[:1], offset)
        raise self._error


@pytest.mark.parametrize("error", [JournalFullError(), JournalIoError()])
def test_a_write_that_fails_appends_nothing(tmp_path: Path, error: Exception) -> None:
    log = create(tmp_path)
    fill(log, 2)
    tail = log.segments[-1]
    real = tail.file
    assert isinstance(real, OsFile)
    tail.file = _FailingFile(real, error)  # type: ignore[assignment]
    with pytest.raises(type(error)):
        log.append([data(0, page(1)), data(0, page(2))], 9000)
    tail.file = real
    assert log.end == 2
    assert log.append([data(0, page(5))], 9001) == 3
    assert reopen(tmp_path).end == 3


def test_a_log_that_cannot_be_cut_back_takes_no_more_records(tmp_path: Path) -> None:
    log = create(tmp_path)
    log.append([data(0, page(1))], 1)
    log.segments[-1].file.close()
    with pytest.raises(JournalUnusableError):
        log.cut_to_durable()
    with pytest.raises(JournalUnusableError):
        log.append([data(0, page(1))], 2)


def test_a_batch_stays_in_one_segment_however_large(tmp_path: Path) -> None:
    log = create(tmp_path)
    log.append([data(0, page(1))], 1)
    log.append([data(4096 * n, page(n)) for n in range(100)], 2)
    log.append([data(0, page(1))], 3)
    assert [segment.count for segment in log.segments] == [1, 100, 1]
    assert reopen(tmp_path).end == 102


def test_each_record_of_a_batch_is_found_where_it_is(tmp_path: Path) -> None:
    log = create(tmp_path)
    payloads = [bytes([n]) * 64 * n for n in range(1, 20)]
    log.append([data(4096 * n, payload) for n, payload in enumerate(payloads)], 1)
    found = [(row, bytes(payload)) for row, payload in log.segments[-1].payloads(range(len(payloads)))]
    assert found == list(enumerate(payloads))


def test_what_was_cut_off_is_not_found_in_place_of_what_came_after(tmp_path: Path) -> None:
    """Also where the index of the open segment had been looked at before."""
    log = create(tmp_path, 1 << 22)
    log.append([data(0, b"kept")], 1)
    sync(log)
    log.append([data(4096 * n, b"lost") for n in range(1, 6000)], 2)
    tail = log.segments[-1]
    one = np.array([5], np.int64)
    assert tail.newest(0, one, 0, log.end).tolist() == [5]
    log.cut_to_durable()
    log.append([data(4096 * n, b"here") for n in range(6000, 12000)], 3)
    assert tail.newest(0, one, 0, log.end).tolist() == [-1]
    assert tail.newest(0, np.array([6005], np.int64), 0, log.end).tolist() == [6]


def test_sealed_segments_hold_no_memory(tmp_path: Path) -> None:
    log = create(tmp_path, 1 << 18)

    def fill_segments(count: int) -> int:
        for _ in range(count):
            log.append([data(0, b"x" * 16) for _ in range(3000)], 1)
            sync(log)
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = fill_segments(4)
        assert fill_segments(20) - before < 1 << 20
    finally:
        tracemalloc.stop()


def test_another_groups_log_is_refused(tmp_path: Path) -> None:
    create(tmp_path)
    with pytest.raises(JournalFormatError, match="belongs to the group"):
        reopen(tmp_path, bytes(16))


def test_another_version_is_refused(tmp_path: Path) -> None:
    from iscsi_rp.journal import segment_format

    log = create(tmp_path)
    header = bytearray(segment_format.pack_header(log.segments[0].header))
    header[8] = 9
    fixed = segment_format._with_crc(bytes(header[:-4]))
    overwrite(segment_paths(tmp_path)[0], 0, fixed)
    with pytest.raises(JournalFormatError, match="version 9"):
        reopen(tmp_path)


def test_an_empty_directory_holds_no_log(tmp_path: Path) -> None:
    with pytest.raises(JournalFormatError):
        reopen(tmp_path)
    create(tmp_path)
    with pytest.raises(ConflictError):
        create(tmp_path)


def test_a_segment_that_was_begun_and_removed_may_come_back(tmp_path: Path) -> None:
    fill(log := create(tmp_path), 40)
    log.close()
    back = tmp_path / f"log-{7:020d}"
    back.write_bytes(bytes(4096))  # among sealed segments, as a power loss leaves it
    log = reopen(tmp_path)
    assert (log.first, log.end) == (1, 40)
    assert not back.exists()
    assert payload_of(log, 8) == page(7)


@pytest.mark.parametrize("place", [0, 1])
def test_a_sealed_segment_without_its_header_is_damage(tmp_path: Path, place: int) -> None:
    fill(log := create(tmp_path), 60)
    first = log.segments[place].first
    assert log.segments[2].is_sealed
    log.close()
    damaged = segment_paths(tmp_path)[place]
    overwrite(damaged, 0, bytes(64))
    with pytest.raises(JournalFormatError, match=f"damaged: images before {first} are whole"):
        reopen(tmp_path)
    assert damaged.exists()


def test_a_missing_segment_names_the_images_that_are_whole(tmp_path: Path) -> None:
    fill(create(tmp_path), 60)
    segment_paths(tmp_path)[1].unlink()
    with pytest.raises(MissingSegmentError, match="images up to 15 are whole"):
        reopen(tmp_path)


def test_a_damaged_payload_is_found_when_it_is_needed(tmp_path: Path) -> None:
    log = create(tmp_path)
    fill(log, 60)
    overwrite(segment_paths(tmp_path)[0], log.segments[0].header.data_start + 4160 + 100, b"rot")
    log = reopen(tmp_path)
    assert payload_of(log, 1) == page(0)
    with pytest.raises(DamagedRecordError) as caught:
        payload_of(log, 2)
    assert caught.value.position == 2


@pytest.mark.parametrize("where", ["footer", "trailer"])
def test_a_damaged_index_is_made_anew(tmp_path: Path, where: str) -> None:
    log = create(tmp_path)
    fill(log, 60)
    trailer = log.segments[0].trailer
    assert trailer is not None
    at = trailer.footer_start + (100 if where == "footer" else trailer.footer_bytes + 10)
    overwrite(segment_paths(tmp_path)[0], at, b"rot")
    log = reopen(tmp_path)
    assert log.end == 60
    assert log.segments[0].newest(0, np.arange(20), 0, 60).tolist() == [*range(15), *[-1] * 5]


def test_what_cannot_be_found_for_want_of_index_and_chain_is_said(tmp_path: Path) -> None:
    log = create(tmp_path)
    fill(log, 60)
    trailer = log.segments[0].trailer
    assert trailer is not None
    overwrite(segment_paths(tmp_path)[0], trailer.footer_start + 100, b"rot")
    overwrite(segment_paths(tmp_path)[0], log.segments[0].header.data_start + 5 * 4160 + 8, b"rot")
    segment = reopen(tmp_path).segments[0]
    assert segment.newest(0, np.arange(5), 0, 5).tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(DamagedRecordError) as caught:
        segment.newest(0, np.arange(5), 0, 6)
    assert caught.value.position == 6


def test_times_and_positions(tmp_path: Path) -> None:
    log = create(tmp_path)
    fill(log, 40)
    assert [log.position_at(time) for time in (1, 999, 1000, 1015, 1039, 1 << 60)] == [0, 0, 1, 16, 40, 40]
    log.remove_oldest()
    assert log.first == 16
    assert log.position_at(1014) == 15
    assert log.position_at(1015) == 16
    with pytest.raises(ImageGoneError):
        log.time_of(15)
    assert reopen(tmp_path).first == 16


def test_the_oldest_segment_can_be_read_by_who_holds_it(tmp_path: Path) -> None:
    log = create(tmp_path)
    fill(log, 40)
    held = log.segments[0]
    log.remove_oldest()
    assert next(held.payloads([3]))[1] == page(3)


def test_the_segment_being_written_cannot_be_removed(tmp_path: Path) -> None:
    with pytest.raises(ConflictError):
        create(tmp_path).remove_oldest()


def test_a_sealed_segment_leaves_the_page_cache_until_it_is_read_ahead(tmp_path: Path) -> None:
    """The kernel may read some MiB around the footer; the records looked at are far from it."""
    (tmp_path / "other").write_bytes(bytes(4096))
    if not can_be_emptied(tmp_path / "other"):
        pytest.skip("the page cache of this file system cannot be emptied")
    log = create(tmp_path, 32 << 20)
    first = tmp_path / log.segments[0].file.name
    while len(log.segments) == 1:
        log.append([data(0, page(log.end) * 64)], 1000)
        assert cached(first, 0, 4096)
    sync(log)
    sealed = log.segments[0]
    payload = int(sealed.payload_offsets[1]) & -4096
    assert not any(cached(first, at, 4096) for at in range(0, payload, 4096))
    sealed.read_ahead(range(1, 2))
    deadline_s = time.monotonic() + 5
    while not cached(first, payload, 4096):
        assert time.monotonic() < deadline_s
    assert payload_of(log, 2) == page(1) * 64
