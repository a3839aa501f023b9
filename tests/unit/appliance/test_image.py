"""Images as block devices, against an array of bytes, with the real access log in real threads."""

import asyncio
import random
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iscsi_rp.appliance import image_cache
from iscsi_rp.appliance.access_format import HEADER_BYTES, RECORD_BYTES
from iscsi_rp.appliance.access_log import AccessLog
from iscsi_rp.appliance.image import QUEUED_BYTES, QUEUED_IOS, ImageDevice
from iscsi_rp.device import (
    FLUSH,
    READ,
    UNMAP,
    WRITE,
    ZERO,
    Buffer,
    BusyError,
    Io,
    MediumError,
    ProtectedError,
    Result,
)
from iscsi_rp.journal.errors import JournalIoError

SECTOR = 512
PAGE = 4096
SIZE = (3 << 20) + SECTOR
IMAGE = random.Random(7).randbytes(SIZE)
GROUP = bytes(16)
CAPACITY = 1 << 30


class Image:
    """A reader that counts, can be held up and can fail."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int, int]] = []
        self.go_on = threading.Event()
        self.go_on.set()
        self.broken = False

    def read(self, volume: int, offset: int, length: int) -> bytes:
        self.asked.append((volume, offset, length))
        assert self.go_on.wait(10)
        if self.broken:
            raise JournalIoError("no disk")
        return IMAGE[offset : offset + length]


@pytest.fixture
def image() -> Image:
    return Image()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as threads:
        yield threads


@pytest.fixture
def log(tmp_path: Path) -> Iterator[AccessLog]:
    log = AccessLog.create(tmp_path / "access", GROUP, 1, {3: SIZE, 4: SIZE}, CAPACITY)
    yield log
    log.close()


def device(
    image: Image, threads: ThreadPoolExecutor, log: AccessLog | None = None, volume: int = 3
) -> ImageDevice:
    return ImageDevice(volume, SIZE, SECTOR, image.read, threads, log)


async def results(device: ImageDevice, *ios: Io) -> list[Result]:
    """Submit one batch and wait for all of its results, in the order of the batch."""
    answers: dict[Any, Result] = {}
    complete = asyncio.Event()

    def done(report: Sequence[tuple[Any, Result]]) -> None:
        for tag, result in report:
            assert tag not in answers
            answers[tag] = result
        if len(answers) == len(ios):
            complete.set()

    device.submit([(*io[:5], tag) for tag, io in enumerate(ios)], done)
    await asyncio.wait_for(complete.wait(), 10)
    return [answers[tag] for tag in range(len(ios))]


def read(offset: int, length: int) -> Io:
    return (READ, offset, length, None, False, None)


def write(offset: int, data: Buffer, *, fua: bool = False) -> Io:
    return (WRITE, offset, len(data), data, fua, None)


FLUSH_IO: Io = (FLUSH, 0, 0, None, False, None)

# -- the model


@st.composite
def operations(draw: st.DrawFn) -> Io:
    op = draw(st.sampled_from([READ, WRITE, ZERO, UNMAP, FLUSH]))
    if op == FLUSH:
        return FLUSH_IO
    start = draw(st.integers(0, SIZE // SECTOR - 1))
    longest = 300 if op in (READ, WRITE) else SIZE // SECTOR
    length = draw(st.integers(1, min(longest, SIZE // SECTOR - start)))
    data = bytes([draw(st.integers(1, 255))]) * (length * SECTOR) if op == WRITE else None
    return op, start * SECTOR, length * SECTOR, data, op != READ and draw(st.booleans()), None


@given(steps=st.lists(st.lists(operations(), min_size=1, max_size=6) | st.just("undo"), max_size=12))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_behaves_like_an_array_of_bytes(steps: list[list[Io] | str]) -> None:
    async def run(device: ImageDevice, log: AccessLog) -> None:
        model = bytearray(IMAGE)
        for step in steps:
            if isinstance(step, str):
                await asyncio.to_thread(log.undo)
                model = bytearray(IMAGE)
                continue
            # Reads in a batch with writes may see them or not: they are submitted before those are done.
            changes = [io for io in step if io[0] != READ]
            if changes:
                assert await results(device, *changes) == [None] * len(changes)
            for op, offset, length, data, _, _ in changes:
                if op != FLUSH:
                    model[offset : offset + length] = data or bytes(length)
            reads = [io for io in step if io[0] == READ] or [read(0, SIZE)]
            seen = await results(device, *reads)
            assert [bytes(each) for each in seen if isinstance(each, bytes | bytearray)] == [
                model[io[1] : io[1] + io[2]] for io in reads
            ]

    with TemporaryDirectory() as folder, ThreadPoolExecutor(4) as threads:
        log = AccessLog.create(Path(folder) / "access", GROUP, 1, {3: SIZE}, CAPACITY)
        asyncio.run(run(device(Image(), threads, log), log))
        log.close()


# -- reads


def test_short_sequential_reads_ask_the_image_once_for_each_chunk(
    image: Image, threads: ThreadPoolExecutor
) -> None:
    async def run() -> None:
        under_test = device(image, threads)
        reads = [read(offset, PAGE) for offset in range(0, 4 * image_cache.CHUNK_BYTES, PAGE)]
        assert b"".join(await results(under_test, *reads)) == IMAGE[: 4 * image_cache.CHUNK_BYTES]  # type: ignore[arg-type]

    asyncio.run(run())
    assert sorted(image.asked) == [
        (3, chunk * image_cache.CHUNK_BYTES, image_cache.CHUNK_BYTES) for chunk in range(4)
    ]


def test_what_the_cache_has_is_reported_inside_submit(image: Image, threads: ThreadPoolExecutor) -> None:
    async def run() -> None:
        under_test = device(image, threads)
        await results(under_test, read(0, PAGE))
        report: list[tuple[Any, Result]] = []
        under_test.submit([(READ, PAGE, PAGE, None, False, "tag")], report.extend)
        assert report == [("tag", IMAGE[PAGE : 2 * PAGE])]

    asyncio.run(run())


def test_the_cache_is_bounded(
    image: Image, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_cache, "CHUNKS", 2)

    async def run() -> None:
        under_test = device(image, threads)
        for chunk in (0, 1, 0, 2, 0, 1):
            await results(under_test, read(chunk * image_cache.CHUNK_BYTES, SECTOR))

    asyncio.run(run())
    # Chunk 1 was used longest ago when chunk 2 came.
    assert [offset // image_cache.CHUNK_BYTES for _, offset, _ in image.asked] == [0, 1, 2, 1]


def test_an_image_that_cannot_be_read_is_a_medium_error(image: Image, threads: ThreadPoolExecutor) -> None:
    async def run() -> None:
        under_test = device(image, threads)
        image.broken = True
        for length in (PAGE, 1 << 20):
            (result,) = await results(under_test, read(0, length))
            assert isinstance(result, MediumError)
            assert "no disk" in result.message
        image.broken = False
        assert await results(under_test, read(0, PAGE)) == [IMAGE[:PAGE]]

    asyncio.run(run())


# -- changes


def test_without_an_access_log_it_is_read_only(image: Image, threads: ThreadPoolExecutor) -> None:
    async def run() -> None:
        under_test = device(image, threads)
        assert under_test.read_only
        *changed, flushed = await results(
            under_test, write(0, bytes(PAGE)), (ZERO, 0, PAGE, None, False, 0), FLUSH_IO
        )
        assert all(isinstance(result, ProtectedError) for result in changed)
        assert flushed is None
        assert await results(under_test, read(0, PAGE)) == [IMAGE[:PAGE]]

    asyncio.run(run())


def test_a_full_access_log_makes_it_read_only(
    image: Image, threads: ThreadPoolExecutor, tmp_path: Path
) -> None:
    room = HEADER_BYTES + RECORD_BYTES + PAGE
    log = AccessLog.create(tmp_path / "access", GROUP, 1, {3: SIZE}, room)

    async def run() -> None:
        under_test = device(image, threads, log)
        first, second = await results(under_test, write(0, b"w" * PAGE), write(PAGE, b"x" * PAGE))
        assert first is None
        assert isinstance(second, ProtectedError)
        assert under_test.read_only
        assert "full" in str(under_test.read_only_reason)
        (result,) = await results(under_test, write(0, b"y" * PAGE))
        assert isinstance(result, ProtectedError)
        assert await results(under_test, read(0, 2 * PAGE), FLUSH_IO) == [
            b"w" * PAGE + IMAGE[PAGE : 2 * PAGE],
            None,
        ]
        await asyncio.to_thread(log.undo)
        assert not under_test.read_only
        assert await results(under_test, write(0, b"y" * PAGE)) == [None]

    asyncio.run(run())
    log.close()


def test_the_data_of_a_write_is_copied(image: Image, threads: ThreadPoolExecutor, log: AccessLog) -> None:
    async def run() -> None:
        under_test = device(image, threads, log)
        image.go_on.clear()
        data = bytearray(b"w" * SECTOR)
        report: list[tuple[Any, Result]] = []
        under_test.submit([write(SECTOR, data)], report.extend)
        data[:] = b"x" * SECTOR
        image.go_on.set()
        await under_test.drain()
        assert report == [(None, None)]
        assert await results(under_test, read(SECTOR, SECTOR)) == [b"w" * SECTOR]

    asyncio.run(run())


def test_flush_and_fua_are_reported_after_one_sync_for_all(
    image: Image, threads: ThreadPoolExecutor, log: AccessLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[object] = []
    monkeypatch.setattr(log._file, "sync", lambda: order.append("sync"))

    def done(report: Sequence[tuple[Any, Result]]) -> None:
        assert all(result is None for _, result in report)
        order.extend(tag for tag, _ in report)

    async def run() -> None:
        one, other = device(image, threads, log), device(image, threads, log, volume=4)
        image.go_on.clear()
        # The first write waits for the image below, so all that follow are waiting when it is done.
        one.submit([(WRITE, SECTOR, SECTOR, b"p" * SECTOR, False, "first")], done)
        one.submit([(WRITE, PAGE, PAGE, b"p" * PAGE, True, "fua")], done)
        one.submit([(FLUSH, 0, 0, None, False, "flush")], done)
        other.submit([(WRITE, 0, PAGE, b"p" * PAGE, True, "other's fua")], done)
        image.go_on.set()
        await one.drain()
        await other.drain()

    asyncio.run(run())
    order.remove("first")  # a plain write waits for no sync, before or behind it
    assert order == ["sync", "fua", "flush", "other's fua"]


def test_volumes_of_one_log_do_not_mix(image: Image, threads: ThreadPoolExecutor, log: AccessLog) -> None:
    async def run() -> None:
        one, other = device(image, threads, log), device(image, threads, log, volume=4)
        await results(one, write(0, b"1" * PAGE))
        await results(other, write(PAGE, b"2" * PAGE))
        assert await results(one, read(0, 2 * PAGE)) == [b"1" * PAGE + IMAGE[PAGE : 2 * PAGE]]
        assert await results(other, read(0, 2 * PAGE)) == [IMAGE[:PAGE] + b"2" * PAGE]

    asyncio.run(run())


# -- limits


def held_up(
    image: Image, ios: list[Io], test: Callable[[list[Any]], Awaitable[None]], dut: ImageDevice
) -> None:
    async def run() -> None:
        image.go_on.clear()
        report: list[Any] = []
        dut.submit(ios, report.extend)
        await test(report)
        image.go_on.set()
        await dut.drain()
        assert len(report) == len(ios)
        await dut.drain()

    asyncio.run(run())


def test_too_many_operations_are_busy(image: Image, threads: ThreadPoolExecutor) -> None:
    async def test(report: list[Any]) -> None:
        assert len(report) == 1
        assert isinstance(report[0][1], BusyError)

    held_up(image, [read(0, SECTOR)] * (QUEUED_IOS + 1), test, device(image, threads))


def test_too_many_bytes_are_busy(image: Image, threads: ThreadPoolExecutor, log: AccessLog) -> None:
    half = bytes(QUEUED_BYTES // 2 - PAGE)

    async def test(report: list[Any]) -> None:
        assert len(report) == 1
        assert isinstance(report[0][1], BusyError)

    big = AccessLog.create(log.path.with_name("big"), GROUP, 1, {3: QUEUED_BYTES}, CAPACITY)
    dut = ImageDevice(3, QUEUED_BYTES, SECTOR, image.read, threads, big)
    # Each write begins inside a page and so waits for the image below.
    held_up(image, [write(SECTOR, half)] * 3, test, dut)
    big.close()
