"""A copy on a real file system; how it stands against faults is tested by the simulation."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from iscsi_rp.errors import ConflictError
from iscsi_rp.journal.errors import (
    DamagedRecordError,
    DamagedStateError,
    ImageGoneError,
    JournalFormatError,
    ReplicaBusyError,
)
from iscsi_rp.journal.files import OsDirectory, OsFile
from iscsi_rp.journal.log import Log
from iscsi_rp.journal.replica import Replica, Step
from tests.unit.journal.entries import GROUP, data, no_snapshot, note, unmap

SIZE = (4 << 20) + 1536
SEGMENT = 1 << 16


class Fixture:
    """One volume with one copy, and what every image must be."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "copy").write_bytes(b"\x11" * SIZE)
        self.log = Log.create(OsDirectory(path), GROUP, no_snapshot, segment_bytes=SEGMENT)
        self.images = [b"\x11" * SIZE]
        self.open()

    def open(self) -> None:
        self.copy = OsFile(self.path / "copy")
        self.replica = Replica.open(self.log, OsDirectory(self.path), {0: self.copy}, {0: SIZE})

    def reopen(self) -> None:
        self.log.close()
        self.log = Log.open(OsDirectory(self.path), GROUP, no_snapshot, segment_bytes=SEGMENT)
        self.open()

    def write(self, offset: int, content: bytes) -> None:
        self.log.append([data(offset, content)], 1)
        self._remember(offset, content)

    def unmap(self, offset: int, length: int) -> None:
        self.log.append([unmap(offset, length)], 1)
        self._remember(offset, bytes(length))

    def _remember(self, offset: int, content: bytes) -> None:
        image = self.images[-1]
        self.images.append(image[:offset] + content + image[offset + len(content) :])

    def sync(self) -> None:
        ticket = self.log.begin_sync()
        ticket.run()
        self.log.finish_sync(ticket)

    def distribute(self, upto: int | None = None, limit_bytes: int = 1 << 30) -> None:
        self.sync()
        finish(self.replica.distribute(self.log.end if upto is None else upto, limit_bytes))

    def check(self) -> None:
        first, last = self.replica.first_offered, self.log.end
        for at in {first, *range(first, last, 7), last}:
            assert self.replica.read(0, 0, SIZE, at) == self.images[at], f"image {at}"


def finish(steps: Iterator[Step]) -> None:
    for step in steps:
        step()


@pytest.fixture
def copy(tmp_path: Path) -> Fixture:
    return Fixture(tmp_path)


def scribble(copy: Fixture, random: Random, count: int) -> None:
    for _ in range(count):
        if random.random() < 0.15:
            offset = random.randrange(0, SIZE // 512) * 512
            copy.unmap(offset, min(SIZE - offset, random.choice([512, 8192, 1 << 17, 1 << 21])))
        else:
            length = random.choice([512, 4096, 4096, 12288])
            offset = random.randrange(0, min(SIZE - length, 1 << 18) // 512) * 512
            copy.write(offset, random.randbytes(length))


def test_every_image_is_there_whatever_was_distributed_and_trimmed(copy: Fixture) -> None:
    random = Random(5)
    for _ in range(5):
        scribble(copy, random, 20)
        copy.check()
        copy.distribute(upto=copy.log.end - 3, limit_bytes=1 << 20)
        copy.check()
        while copy.replica.can_trim() and random.random() < 0.8:
            finish(copy.replica.trim())
        copy.check()
    assert copy.replica.first_offered > 0
    copy.reopen()
    copy.check()


def test_a_range_of_an_image_is_read_at_any_offset(copy: Fixture) -> None:
    scribble(copy, Random(3), 30)
    for offset, length in ((0, 512), (512, 512), (3584, 9216), (SIZE - 1536, 1536), (SIZE - 5120, 5120)):
        assert copy.replica.read(0, offset, length, 20) == copy.images[20][offset : offset + length]


def test_the_copy_is_the_image_at_its_position(copy: Fixture) -> None:
    scribble(copy, Random(1), 40)
    copy.distribute(upto=25)
    assert (copy.replica.distributed, copy.replica.whole) == (25, True)
    assert (copy.path / "copy").read_bytes() == copy.images[25]


def test_a_huge_unmap_gives_space_back_and_costs_only_what_was_there(copy: Fixture) -> None:
    os.truncate(copy.path / "copy", 0)
    os.truncate(copy.path / "copy", SIZE)
    copy.images = [bytes(SIZE)]
    copy.write(0, b"x" * 8192)
    copy.unmap(0, SIZE)
    copy.distribute()
    assert (copy.path / "copy").stat().st_blocks * 512 < 16384
    assert (copy.path / "base-00000").stat().st_blocks * 512 < 16384
    copy.check()


def test_a_limit_takes_at_least_one_record(copy: Fixture) -> None:
    copy.unmap(0, 1 << 21)
    copy.write(0, bytes(4096))
    copy.write(4096, bytes(4096))
    copy.write(8192, bytes(4096))
    for expected in (1, 3, 4):
        copy.distribute(limit_bytes=8192)
        assert copy.replica.distributed == expected


def test_what_is_not_durable_is_not_distributed(copy: Fixture) -> None:
    copy.write(0, bytes(4096))
    finish(copy.replica.distribute(1, 1 << 20))
    assert copy.replica.distributed == 0


def test_long_operations_exclude_one_another(copy: Fixture) -> None:
    scribble(copy, Random(1), 40)
    copy.sync()
    running = copy.replica.distribute(copy.log.end, 1 << 30)
    next(running)()
    with pytest.raises(ReplicaBusyError, match="a distribution"):
        next(copy.replica.trim())
    running.close()  # type: ignore[attr-defined]
    copy.distribute()
    finish(copy.replica.trim())


def test_only_a_segment_that_is_durable_goes(copy: Fixture) -> None:
    scribble(copy, Random(1), 60)
    ticket = copy.log.begin_sync()
    ticket.run()
    assert copy.log.segments[0].is_sealed
    assert not copy.replica.can_trim()
    with pytest.raises(ConflictError):
        finish(copy.replica.trim())
    copy.log.finish_sync(ticket)
    assert copy.replica.can_trim()


def test_a_segment_goes_to_the_copy_as_it_is_trimmed_and_nothing_is_saved(copy: Fixture) -> None:
    random = Random(1)
    while len(copy.log.segments) < 4:
        scribble(copy, random, 10)
    copy.sync()
    last = copy.log.segments[1].last
    for _ in range(2):
        finish(copy.replica.trim())
    assert (copy.replica.distributed, copy.replica.whole) == (last, True)
    assert (copy.path / "copy").read_bytes() == copy.images[last]
    assert (copy.path / "base-00000").stat().st_blocks == 0
    copy.check()


def test_a_segment_that_is_distributed_in_part_goes_too(copy: Fixture) -> None:
    random = Random(8)
    for _ in range(20):
        scribble(copy, random, 30)
        copy.sync()
        first, last = copy.log.segments[0].first, copy.log.segments[0].last
        copy.distribute(upto=random.randint(first, last))
        if random.random() < 0.5:  # and of a further one before, which was cut short, all is in the copy
            steps = copy.replica.distribute(copy.log.end, 1 << 30)
            for step in steps:
                step()
                if step.__name__ == "apply":
                    break
            steps.close()  # type: ignore[attr-defined]
        if copy.replica.can_trim():
            finish(copy.replica.trim())
            assert copy.replica.distributed >= last
        copy.check()
    assert copy.replica.first_offered > 0


def test_a_pinned_image_stays(copy: Fixture) -> None:
    scribble(copy, Random(1), 60)
    copy.distribute()
    oldest = copy.log.segments[0]
    copy.replica.pin(2)
    copy.replica.pin(2)
    copy.replica.unpin(2)
    assert not copy.replica.can_trim()
    copy.replica.unpin(2)
    copy.replica.pin(oldest.last)
    assert copy.replica.can_trim()
    finish(copy.replica.trim())
    with pytest.raises(ImageGoneError):
        copy.replica.pin(oldest.last - 1)


def test_an_image_outside_the_window_is_refused(copy: Fixture) -> None:
    scribble(copy, Random(1), 60)
    copy.distribute()
    finish(copy.replica.trim())
    first = copy.replica.first_offered
    for at in (first - 1, copy.log.end + 1):
        with pytest.raises(ImageGoneError, match=f"window is {first} to"):
            copy.replica.read(0, 0, 512, at)


def test_what_was_touched_after_an_image(copy: Fixture) -> None:
    copy.write(0, bytes(512))
    copy.write(65536 * 3 - 512, bytes(1024))
    copy.unmap(65536 * 10, 65536 * 5)
    copy.write(SIZE - 512, bytes(512))
    copy.log.append([note(b"nothing touched"), data(0, bytes(512), volume=7)], 1)
    tail = (SIZE >> 16 << 16, SIZE & 0xFFFF)
    assert copy.replica.touched_after(1, 0) == [(65536 * 2, 65536 * 2), (65536 * 10, 65536 * 5), tail]
    assert copy.replica.touched_after(3, 0) == [tail]
    assert copy.replica.touched_after(copy.log.end, 0) == []


def test_the_copy_is_current_where_nothing_newer_was_written(copy: Fixture) -> None:
    copy.write(0, bytes(4096))
    copy.write(65536, bytes(4096))
    copy.distribute(upto=1)
    current = copy.replica.copy_is_current
    assert current(0, 0, 4096, 2)
    assert not current(0, 65536, 512, 2)
    assert current(0, 65536, 512, 1)
    assert not current(0, 0, 4096, 0)
    assert copy.replica.read_copy(0, 65536, 512) == copy.images[1][65536:66048]


def test_a_copy_cut_short_is_not_whole_and_is_finished_later(copy: Fixture) -> None:
    scribble(copy, Random(2), 30)
    copy.sync()
    steps = copy.replica.distribute(30, 1 << 30)
    for step in steps:
        step()
        if step.__name__ == "apply":
            break
    copy.reopen()
    assert not copy.replica.whole
    copy.check()
    copy.distribute()
    assert copy.replica.whole
    copy.check()


def test_a_damaged_record_harms_only_images_that_need_it(copy: Fixture) -> None:
    for number in range(5):
        copy.write(4096 * number, bytes([number]) * 4096)
    copy.write(4096 * 2, b"newer" + bytes(4091))
    path = copy.path / "log-00000000000000000001"
    with path.open("r+b") as file:
        file.seek(int(copy.log.segments[0].payload_offsets[2]) + 50)
        file.write(b"rot")
    read = copy.replica.read
    assert read(0, 0, SIZE, 2) == copy.images[2]
    assert read(0, 0, 8192, 5) == copy.images[5][:8192]
    assert read(0, 0, SIZE, 6) == copy.images[6]
    with pytest.raises(DamagedRecordError) as caught:
        read(0, 0, SIZE, 4)
    assert caught.value.position == 3


def test_damaged_state_is_said_and_one_torn_slot_is_not_damage(copy: Fixture) -> None:
    scribble(copy, Random(1), 10)
    copy.distribute(upto=4)
    copy.distribute(upto=8)
    state = (copy.path / "state").read_bytes()
    newest = 4096 if state[4096:] > state[:4096][: len(state) - 4096] else 0
    for at in (newest, 4096 - newest):
        with (copy.path / "state").open("r+b") as file:
            file.seek(at)
            file.write(b"rot")
        if at == newest:
            copy.reopen()
            copy.check()
    with pytest.raises(DamagedStateError):
        copy.reopen()


def test_state_that_does_not_belong_to_the_log_is_refused(copy: Fixture, tmp_path: Path) -> None:
    scribble(copy, Random(1), 10)
    copy.distribute()
    other = tmp_path / "other"
    other.mkdir()
    log = Log.create(OsDirectory(other), GROUP, no_snapshot)
    (other / "state").write_bytes((copy.path / "state").read_bytes())
    with pytest.raises(DamagedStateError, match="do not belong together"):
        Replica.open(log, OsDirectory(other), {}, {})


def test_state_of_another_group_is_refused(copy: Fixture, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    log = Log.create(OsDirectory(other), bytes(16), no_snapshot)
    (other / "state").write_bytes((copy.path / "state").read_bytes())
    with pytest.raises(JournalFormatError):
        Replica.open(log, OsDirectory(other), {}, {})


def test_a_base_of_another_volume_is_refused(copy: Fixture) -> None:
    with pytest.raises(DamagedStateError, match=r"base-00000\.map"):
        Replica.open(copy.log, OsDirectory(copy.path), {0: copy.copy}, {0: SIZE * 2})


def test_a_lost_state_is_not_made_up(copy: Fixture) -> None:
    scribble(copy, Random(1), 60)
    copy.distribute()
    finish(copy.replica.trim())
    (copy.path / "state").unlink()
    with pytest.raises(DamagedStateError, match="missing"):
        copy.reopen()


def test_readers_on_threads_see_right_images_while_all_goes_on(copy: Fixture) -> None:
    random = Random(9)
    scribble(copy, random, 40)
    wrong: list[int] = []
    stop = threading.Event()

    def read(seed: int) -> None:
        own = Random(seed)
        while not stop.is_set():
            at = own.randint(copy.replica.first_offered, len(copy.images) - 1)
            try:
                if copy.replica.read(0, 0, 1 << 18, at) != copy.images[at][: 1 << 18]:
                    wrong.append(at)
            except ImageGoneError:
                assert at < copy.replica.first_offered

    readers = [threading.Thread(target=read, args=(seed,)) for seed in range(2)]
    for reader in readers:
        reader.start()
    for _ in range(4):
        scribble(copy, random, 10)
        copy.distribute()
        while copy.replica.can_trim() and len(copy.log.segments) > 2:
            finish(copy.replica.trim())
    stop.set()
    for reader in readers:
        reader.join()
    assert not wrong
