"""A group as it runs, over a real directory, with a splitter that never tires."""

import asyncio
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from iscsi_rp.appliance import catalogue
from iscsi_rp.appliance import group as group_module
from iscsi_rp.appliance import load as load_module
from iscsi_rp.appliance.group import ACCESS, Group
from iscsi_rp.appliance.group_files import make_files
from iscsi_rp.appliance.session import Session
from iscsi_rp.control.appliance_models import ImageSelector
from iscsi_rp.errors import ConflictError
from iscsi_rp.journal.base import Base
from iscsi_rp.journal.errors import DamagedRecordError, ImageGoneError, JournalFullError, JournalIoError
from iscsi_rp.journal.files import OsFile
from iscsi_rp.replication import frames as wire
from iscsi_rp.replication.messages import Hello, VolumeInfo

MIB = 1 << 20
SIZE = MIB
PAGE = 4096
CHUNK = 64 << 10


class Splitter:
    """Sends what it is told to and answers every probe, unless it is `deaf`."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self.content = bytearray(SIZE)
        self.sequence = 0
        self.deaf = False
        self.away_s = 0.0
        "Its answers take so long."
        self.probes = 0
        self.paused = False
        self.restored_to: int | None = None
        self.unblocked = False
        self.closed: str | None = None
        self.session: Session

    async def join(self) -> "Splitter":
        """A session in which nothing is left to be resynchronised."""
        each = self.group.row.sets[0]
        volume = VolumeInfo(uuid=each.volume_uuid, name=each.name, size=SIZE, block_size=512)
        hello = Hello(array_id="a", processor="a/sp-a", group="g", fresh=False, volumes=[volume])
        self.closed = None
        self.session = self.group.hello(self, hello)
        await until(lambda: self.session.welcomed)
        self._tell((wire.START, 0, 0, self.sequence, self.session.number, 0, b"", 0))
        self._tell((wire.END, 0, 0, 0, 0, 0, b"", 0))
        assert self.group.receiver.span_from is None
        return self

    def send(self, data: bytes) -> None:
        frames, _ = wire.decode(data, len(data))
        for kind, _, _, _, a, *_ in frames:
            self.probes += kind == wire.PROBE
            if kind == wire.PROBE and not self.deaf:
                loop = asyncio.get_running_loop()
                loop.call_later(self.away_s, self._tell, (wire.ANSWER, 0, 0, 0, a, 0, b"", 0))
            self.paused |= kind == wire.PAUSE
            self.unblocked |= kind == wire.UNBLOCK
            if kind == wire.RESTORE:
                self.restored_to = a

    def close(self, reason: str) -> None:
        self.closed = reason

    def _tell(self, frame: wire.Frame) -> None:
        if self.closed is None:
            self.group.receive(self.session, [frame])

    def write(self, offset: int, data: bytes) -> None:
        self.sequence += 1
        self._tell((wire.WRITE, 1, 0, self.sequence, offset, len(data), data, wire.checksum(data)))
        if self.closed is None:
            self.content[offset : offset + len(data)] = data

    def restored(self) -> None:
        """It has taken over the image it was told to."""
        assert self.restored_to is not None
        self._tell((wire.RESTORED, 0, 0, 0, self.restored_to, 0, b"", 0))

    async def sealed(self) -> int:
        """Until everything written is offered; the position."""
        end = self.group.receiver.content_end
        await until(lambda: self.group.receiver.offered >= end)
        return end


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


def new_row(path: Path, journal_bytes: int = 4 * MIB, directory: Path | None = None) -> catalogue.Group:
    """Of one volume; with a directory and an empty copy."""
    copy = catalogue.ReplicationSet(0, "a", "uuid-0", "data", SIZE, 512, path / "copies" / "data.img")
    row = catalogue.Group(str(uuid4()), "db", journal_bytes, directory or path / "group", (copy,), "a")
    make_files(row)
    return row


def run(row: catalogue.Group, test: Callable[[Group], Awaitable[None]]) -> None:
    async def main() -> None:
        group = Group(row, lambda lost: None)
        try:
            await group.open()
            await test(group)
        finally:
            await group.close()

    asyncio.run(main())


def image(group: Group, position: int) -> bytes:
    return group.replica.read(0, 0, SIZE, position)


def latest(group: Group) -> int:
    return group.offer().choose(ImageSelector(latest=True)).position


@pytest.fixture
def row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> catalogue.Group:
    monkeypatch.setattr(group_module, "SEGMENT_BYTES", MIB)
    monkeypatch.setattr(group_module, "KEEP_FREE_BYTES", 0)
    return new_row(tmp_path)


# -- rounds of making the log durable


@pytest.mark.parametrize("away_s", [0, 3 * group_module.PROBE_S])
def test_whoever_waits_does_not_wait_for_the_next_round(
    row: catalogue.Group, monkeypatch: pytest.MonkeyPatch, away_s: float
) -> None:
    monkeypatch.setattr(group_module, "SYNC_S", 3600)

    async def test(group: Group) -> None:
        splitter = await Splitter(group).join()
        splitter.away_s = away_s
        splitter.write(0, b"1" * PAGE)
        bookmark = await group.bookmark("noon", "crash")
        group.restore(bookmark.position)
        await until(lambda: splitter.restored_to == bookmark.position)
        splitter.restored()
        await until(lambda: splitter.unblocked)
        await asyncio.sleep(5 * group_module.NEXT_SYNC_S)  # the round is over: `close` does not wait either

    run(row, test)


def test_what_nobody_waits_for_is_offered_all_the_same(row: catalogue.Group) -> None:
    async def test(group: Group) -> None:
        splitter = await Splitter(group).join()
        for number in range(3):
            splitter.write(number * PAGE, b"1" * PAGE)
            await asyncio.sleep(group_module.PROBE_S / 2)
        assert image(group, await splitter.sealed()) == splitter.content

    run(row, test)


def test_a_round_asks_once_while_hosts_write(row: catalogue.Group) -> None:
    async def test(group: Group) -> None:
        splitter = await Splitter(group).join()
        begun_s = time.monotonic()
        while time.monotonic() < begun_s + 3 * group_module.SYNC_S:
            splitter.write(0, b"1" * PAGE)
            await asyncio.sleep(0.001)
        await splitter.sealed()
        assert (
            1
            <= splitter.probes
            <= 2 + (time.monotonic() - begun_s) / (group_module.SYNC_S - group_module.PROBE_S)
        )

    run(row, test)


def test_a_segment_that_is_full_is_not_left_to_the_next_round(
    row: catalogue.Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_module, "SYNC_S", 3600)

    async def test(group: Group) -> None:
        splitter = await Splitter(group).join()
        splitter.write(0, b"1" * PAGE)
        await group.bookmark("before", "crash")
        await asyncio.sleep(5 * group_module.NEXT_SYNC_S)  # what it has set off is over
        while len(group.log.segments) == 1:
            splitter.write(0, b"2" * CHUNK)
        await until(lambda: group.receiver.sealed >= group.log.segments[0].last)
        splitter.write(0, b"3" * PAGE)
        await group.bookmark("after", "crash")  # the round is over: `close` does not wait either

    run(row, test)


def test_distribution_waits_until_hosts_are_quiet(row: catalogue.Group) -> None:
    async def test(group: Group) -> None:
        splitter = await Splitter(group).join()
        before = group.log.end
        begun_s = time.monotonic()
        while time.monotonic() < begun_s + 2 * load_module.IDLE_S:
            splitter.write(0, b"1" * PAGE)
            await asyncio.sleep(0.05)
        assert group.replica.distributed <= before
        await until(lambda: group.replica.distributed > before)

    run(row, test)


def test_what_little_comes_is_distributed_when_there_is_enough_of_it(
    row: catalogue.Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load_module, "IDLE_S", 1e9)
    monkeypatch.setattr(load_module, "WINDOW_S", 0.2)
    monkeypatch.setattr(group_module, "DISTRIBUTE_BYTES", CHUNK)

    async def test(group: Group) -> None:
        splitter = await Splitter(group).join()
        while group.replica.distributed == 0:
            splitter.write(0, b"1" * PAGE)
            assert group.log.end < 300  # far from what is trimmed
            await asyncio.sleep(0.02)
        assert group.log.bytes_of(group.replica.distributed) > CHUNK / 2

    run(row, test)


def test_while_hosts_write_much_the_copy_follows_only_by_what_is_trimmed(
    row: catalogue.Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load_module, "WINDOW_S", 0.2)
    monkeypatch.setattr(group_module, "DISTRIBUTE_BYTES", CHUNK)

    async def test(group: Group) -> None:
        splitter = await Splitter(group).join()
        trimmed: set[int] = set()
        begun_s = time.monotonic()
        while len(trimmed) < 3 or time.monotonic() < begun_s + 1:
            splitter.write(0, b"1" * CHUNK)
            await asyncio.sleep(0.01)
            first = group.log.first
            if first > 1 and group.replica.distributed >= first:  # not just between the two steps of a trim
                assert group.replica.distributed == group.log.segments[0].last
            trimmed.add(first)
        base = next(row.directory.glob("base-*[0-9]"))
        assert base.stat().st_blocks == 0
        assert image(group, await splitter.sealed()) == splitter.content

    run(row, test)


# -- bookmarks


def test_a_bookmark_holds_what_was_written_before_it_and_no_more(row: catalogue.Group) -> None:
    async def test(group: Group) -> None:
        splitter = await Splitter(group).join()
        splitter.write(0, b"1" * PAGE)
        before = bytes(splitter.content)
        bookmark = await group.bookmark("noon", "application")
        splitter.write(0, b"2" * PAGE)
        await splitter.sealed()
        assert image(group, bookmark.position) == before
        assert image(group, latest(group)) == splitter.content
        assert group.offer().choose(ImageSelector(bookmark="noon")).position == bookmark.position

    run(row, test)


def test_a_name_is_given_once(row: catalogue.Group) -> None:
    async def test(group: Group) -> None:
        await Splitter(group).join()
        first = await group.bookmark("noon", "crash")
        with pytest.raises(ConflictError, match="'noon' already") as caught:
            await group.bookmark("noon", "crash")
        assert caught.value.hint
        assert group.receiver.state.bookmarks == {"noon": first}

    run(row, test)


def test_out_of_sync_there_is_no_bookmark(row: catalogue.Group) -> None:
    async def test(group: Group) -> None:
        with pytest.raises(ConflictError, match="not in sync"):
            await group.bookmark("noon", "crash")
        assert group.receiver.state.bookmarks == {}

    run(row, test)


def test_a_bookmark_that_is_never_sealed_is_not_made(row: catalogue.Group) -> None:
    async def test(group: Group) -> None:
        splitter = await Splitter(group).join()
        await splitter.sealed()
        splitter.deaf = True
        splitter.write(0, b"1" * PAGE)
        making = asyncio.create_task(group.bookmark("noon", "crash"))
        await asyncio.sleep(0.1)
        assert not making.done()
        group.receiver.lost(splitter.session, "the link is gone")
        with pytest.raises(ConflictError, match="was not made"):
            await making
        assert group.receiver.state.bookmarks == {}
        await until(lambda: not group.receiver.needs_sync)  # nobody waits for it any more
        splitter.deaf = False
        await splitter.join()
        assert (await group.bookmark("noon", "crash")).name == "noon"

    run(row, test)


# -- restart


def test_a_restart_finds_everything(row: catalogue.Group) -> None:
    seen: dict[int, bytes] = {}

    async def test(group: Group) -> None:
        splitter = await Splitter(group).join()
        for number in range(40):
            splitter.write(number % 8 * CHUNK, bytes([number + 1]) * CHUNK)
            if number % 10 == 9:
                bookmark = await group.bookmark(f"after-{number}", "crash")
                seen[bookmark.position] = bytes(splitter.content)
        assert len(group.log.segments) > 2

    async def again(group: Group) -> None:
        offer = group.offer()
        assert [each.position for each in offer.bookmarks()] == list(seen)
        for position, content in seen.items():
            assert image(group, position) == content
        assert latest(group) >= max(seen)
        assert image(group, latest(group)) == seen[max(seen)]
        processor = group.receiver.state.processors["a/sp-a"]
        assert {key for trail in processor.since_stored.values() for key in trail.regions()} == set(range(8))
        splitter = await Splitter(group).join()
        assert splitter.session.number == 2
        splitter.write(0, b"new" * 1024)
        assert await splitter.sealed() > max(seen)

    run(row, test)
    run(row, again)


# -- a journal that is full


def test_the_oldest_images_go_and_the_newest_never(row: catalogue.Group) -> None:
    async def test(group: Group) -> None:
        splitter = await Splitter(group).join()
        first = await group.bookmark("first", "crash")
        for number in range(160):  # 10 MiB through a journal of 4 MiB
            splitter.write(number % 16 * CHUNK, bytes([number + 1]) * CHUNK)
            await asyncio.sleep(0.01)
        newest = await splitter.sealed()
        await until(lambda: group.log.bytes_used <= row.journal_bytes)
        assert not splitter.paused
        # Not always equal to it: a seal may take in notes behind the last write.
        assert latest(group) >= newest
        assert image(group, newest) == image(group, latest(group)) == splitter.content
        assert group.offer().bookmarks() == []
        with pytest.raises(ImageGoneError):
            image(group, first.position)
        oldest = group.offer().ranges[0][0]
        assert first.position < oldest < newest
        image(group, oldest)

    run(row, test)


def test_an_image_in_use_stays_and_the_group_pauses_until_it_is_given_up(row: catalogue.Group) -> None:
    async def test(group: Group) -> None:
        splitter = await Splitter(group).join()
        splitter.write(0, b"1" * PAGE)
        pinned, content = await splitter.sealed(), bytes(splitter.content)
        group.pin(ACCESS, pinned)
        for number in range(10_000):
            if splitter.closed:
                break
            splitter.write(number % 16 * CHUNK, bytes([number % 255 + 1]) * CHUNK)
            await asyncio.sleep(0.001)
        assert splitter.paused
        assert [alert.code for alert in group.alerts.values()] == ["journal-full"]
        with pytest.raises(wire.RemoteProtocolError, match="paused"):
            await splitter.join()
        assert image(group, pinned) == content
        group.unpin(ACCESS)
        await until(lambda: group.receiver.paused is None)
        assert group.alerts == {}
        await splitter.join()
        await splitter.sealed()

    run(row, test)


# -- a disk that is full


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Of 12 MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "none", path], check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


def test_on_a_small_disk_the_oldest_images_go_before_it_is_full(
    tmp_path: Path, row: catalogue.Group, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_module, "KEEP_FREE_BYTES", 6 * MIB)
    row = replace(row, journal_bytes=1 << 30, directory=small_disk)

    async def test(group: Group) -> None:
        splitter = await Splitter(group).join()
        for number in range(240):  # 15 MiB
            splitter.write(number % 16 * CHUNK, bytes([number % 255 + 1]) * CHUNK)
            await asyncio.sleep(0.01)
        newest = await splitter.sealed()
        assert not splitter.paused
        assert image(group, newest) == splitter.content

    run(row, test)


def test_a_full_disk_pauses_the_group_and_keeps_its_images(
    tmp_path: Path, row: catalogue.Group, small_disk: Path
) -> None:
    row = replace(row, journal_bytes=1 << 30, directory=small_disk)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(7 * MIB))

    async def test(group: Group) -> None:
        splitter = await Splitter(group).join()
        splitter.write(0, b"1" * PAGE)
        bookmark, content = await group.bookmark("before", "crash"), bytes(splitter.content)
        for number in range(200):
            splitter.write(number % 16 * CHUNK, bytes([number + 1]) * CHUNK)
        assert splitter.paused
        assert group.alerts["journal-full"].next_step
        await asyncio.sleep(0.3)  # also what goes on by itself meets the full disk
        assert group.running
        assert group.alerts.keys() <= {"journal-full", "copy"}
        assert image(group, bookmark.position) == content
        ballast.unlink()
        await until(lambda: group.receiver.paused is None and "journal-full" not in group.alerts)
        await splitter.join()
        splitter.write(0, b"2" * PAGE)
        newest = await splitter.sealed()
        assert image(group, newest)[:PAGE] == b"2" * PAGE
        assert group.offer().choose(ImageSelector(bookmark="before")).position == bookmark.position

    run(row, test)


def test_what_a_distribution_lacks_a_trim_may_free(
    row: catalogue.Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load_module, "IDLE_S", 1e9)

    def full(base: Base, pages: object, buffer: object) -> None:
        raise JournalFullError("no space left for the base")

    async def test(group: Group) -> None:
        splitter = await Splitter(group).join()
        splitter.write(0, b"0" * PAGE)
        group.pin(ACCESS, await splitter.sealed())
        for number in range(100):  # beyond the journal's 4 MiB
            splitter.write(number % 16 * CHUNK, bytes([number + 1]) * CHUNK)
            await asyncio.sleep(0.005)
        await splitter.sealed()
        assert group.log.first == 1
        monkeypatch.setattr(load_module, "IDLE_S", 0.1)
        with monkeypatch.context() as patch:
            patch.setattr(Base, "write", full)
            await until(lambda: "copy" in group.alerts)
            group.unpin(ACCESS)
            await until(lambda: group.log.bytes_used <= group.row.journal_bytes)
        await until(lambda: "copy" not in group.alerts)
        assert image(group, latest(group)) == splitter.content

    run(row, test)


def test_a_copy_that_fails_lets_the_journal_grow_to_its_limit_and_no_further(
    row: catalogue.Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = OsFile.sync

    def fail(file: OsFile) -> None:
        if file.path == row.sets[0].copy_path:
            raise JournalIoError("planned")
        sync(file)

    async def test(group: Group) -> None:
        splitter = await Splitter(group).join()
        splitter.write(0, b"0" * PAGE)
        await splitter.sealed()
        monkeypatch.setattr(OsFile, "sync", fail)
        number = 0
        while not splitter.paused:
            number += 1
            splitter.write(number % 16 * CHUNK, bytes([number % 255 + 1]) * CHUNK)
            assert number < 600
            await asyncio.sleep(0.01)
        assert group.alerts.keys() == {"copy", "journal-full"}
        monkeypatch.setattr(OsFile, "sync", sync)
        await until(lambda: not group.alerts and group.receiver.paused is None)

    run(row, test)


# -- a damaged journal


def test_a_damaged_record_harms_the_images_that_need_it_and_no_other(
    row: catalogue.Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load_module, "IDLE_S", 1e9)  # all stays in the journal
    positions: list[int] = []
    contents: list[bytes] = []

    async def test(group: Group) -> None:
        splitter = await Splitter(group).join()
        for number in range(30):
            splitter.write(number % 3 * CHUNK, bytes([number + 1]) * CHUNK)
            positions.append(group.log.end)
            contents.append(bytes(splitter.content))
        await splitter.sealed()
        assert group.log.segments[0].last > positions[5]

    run(row, test)
    sealed = sorted(row.directory.glob("log-*"))[0]
    data = bytearray(sealed.read_bytes())
    at = data.index(contents[4][CHUNK : 2 * CHUNK])  # the fifth write's
    data[at + 100] ^= 1
    sealed.write_bytes(data)

    async def again(group: Group) -> None:
        assert all(group.offer().holds(position) for position in positions)
        for number, position in enumerate(positions):
            if number in (4, 5, 6):  # the next write to its place is the eighth
                with pytest.raises(DamagedRecordError) as caught:
                    image(group, position)
                assert caught.value.position == positions[4]
            else:
                assert image(group, position) == contents[number]
            assert group.replica.read(0, 0, CHUNK, position) == contents[number][:CHUNK]
        splitter = await Splitter(group).join()  # and it goes on
        splitter.content[:] = contents[-1]
        splitter.write(0, b"new!" * 1024)
        assert image(group, await splitter.sealed()) == splitter.content

    run(row, again)
