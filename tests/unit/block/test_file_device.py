"""FileDevice on a real file: the contract of `device.py`, and what opening refuses."""

import asyncio
import errno
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from iscsi_rp.block import (
    FileDevice,
    StoreExistsError,
    StoreInUseError,
    StoreMissingError,
    StoreSizeError,
    create_file,
    file_device,
)
from iscsi_rp.device import (
    FLUSH,
    MAP,
    READ,
    UNMAP,
    WRITE,
    ZERO,
    BlockDevice,
    BusyError,
    MediumError,
    NotReadyError,
    ProtectedError,
    Result,
    SpaceError,
    pack_runs,
    unpack_runs,
)

SIZE = 8 << 20


async def run(device: BlockDevice, *ios: tuple[int, int, int, bytes | None, bool]) -> list[Result]:
    """Submit in one batch; the results in order, each reported once."""
    results: dict[int, Result] = {}
    everything = asyncio.Event()

    def done(report: Sequence[tuple[Any, Result]]) -> None:
        for tag, result in report:
            assert tag not in results
            results[tag] = result
        if len(results) == len(ios):
            everything.set()

    device.submit([(*io, tag) for tag, io in enumerate(ios)], done)
    await asyncio.wait_for(everything.wait(), 5)
    return [results[tag] for tag in range(len(ios))]


def write(at: int, data: bytes, *, fua: bool = False) -> tuple[int, int, int, bytes, bool]:
    return WRITE, at, len(data), data, fua


def read(at: int, length: int) -> tuple[int, int, int, None, bool]:
    return READ, at, length, None, False


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "store"
    create_file(path, SIZE)
    return path


def with_device(store: Path, work: Any) -> None:
    async def main() -> None:
        device = FileDevice(store)
        await work(device)
        await device.close()

    asyncio.run(main())


def test_reads_what_was_written_and_zeros_elsewhere(store: Path) -> None:
    async def work(device: FileDevice) -> None:
        assert await run(device, write(4096, b"a" * 1024), (FLUSH, 0, 0, None, False)) == [None, None]
        (data,) = await run(device, read(3584, 2048))
        assert data == bytes(512) + b"a" * 1024 + bytes(512)

    with_device(store, work)


def test_overlapping_writes_keep_their_order_through_loop_and_threads(store: Path) -> None:
    """Plain writes would overtake the ones with FUA before them if they did not queue behind them."""

    async def work(device: FileDevice) -> None:
        for round_ in range(50):
            last = bytes([round_ + 1]) * 512
            ios = [write(0, b"x" * 512, fua=True), (ZERO, 0, 512, None, False), write(0, last)]
            first = asyncio.create_task(run(device, *ios[:2]))
            await asyncio.sleep(0)
            assert await run(device, ios[2]) == [None]
            await first
            assert await run(device, read(0, 512)) == [last]

    with_device(store, work)


@pytest.mark.parametrize("op", [ZERO, UNMAP])
@pytest.mark.parametrize("fallocate_fails", [False, True])
def test_zero_and_unmap_read_back_as_zeros(
    store: Path, op: int, fallocate_fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "not here")

    if fallocate_fails:
        monkeypatch.setattr(file_device, "fallocate", unsupported)

    async def work(device: FileDevice) -> None:
        await run(device, write(0, b"a" * (3 << 20)))
        assert await run(device, (op, 512, 2 << 20, None, True)) == [None]
        (data,) = await run(device, read(0, 3 << 20))
        assert data == b"a" * 512 + bytes(2 << 20) + b"a" * ((1 << 20) - 512)

    with_device(store, work)


@pytest.mark.parametrize("begin", [0, 1 << 20])
def test_map_tells_what_takes_space(store: Path, begin: int) -> None:
    async def work(device: FileDevice) -> None:
        everything = (MAP, 0, SIZE, None, False)
        assert [unpack_runs(one) for one in await run(device, everything)] == [(0, SIZE)]  # type: ignore[arg-type]
        await run(device, write(begin, b"a" * (2 << 20)), write(6 << 20, b"b" * (2 << 20)))
        (result,) = await run(device, everything)
        assert isinstance(result, bytes)
        hole = (0, begin) if begin else ()
        assert unpack_runs(result) == (*hole, 2 << 20, (4 << 20) - begin, 2 << 20)
        await run(device, (UNMAP, 7 << 20, 1 << 20, None, False))
        (result,) = await run(device, (MAP, (6 << 20) + 512, (2 << 20) - 512, None, False))
        assert isinstance(result, bytes)
        assert unpack_runs(result) == ((1 << 20) - 512, 1 << 20)

    with_device(store, work)


def test_map_says_that_all_takes_space_where_the_store_cannot_tell(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: int) -> int:
        raise OSError(errno.EINVAL, "not here")

    async def work(device: FileDevice) -> None:
        monkeypatch.setattr(os, "lseek", unsupported)
        (result,) = await run(device, (MAP, 512, 1024, None, False))
        monkeypatch.undo()
        assert result == pack_runs((1024,))

    with_device(store, work)


def test_unmap_gives_space_back(store: Path) -> None:
    async def work(device: FileDevice) -> None:
        await run(device, write(0, b"a" * (4 << 20)), (FLUSH, 0, 0, None, False))
        before = store.stat().st_blocks
        await run(device, (UNMAP, 0, 4 << 20, None, False))
        assert store.stat().st_blocks <= before - (4 << 20) // 512

    with_device(store, work)


def test_cold_reads_come_from_a_thread(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preadv = os.preadv

    def cold(fd: int, buffers: Any, offset: int, flags: int = 0) -> int:
        if flags:
            raise BlockingIOError
        return preadv(fd, buffers, offset)

    async def work(device: FileDevice) -> None:
        await run(device, write(512, b"b" * 512))
        monkeypatch.setattr(os, "preadv", cold)
        (data,) = await run(device, read(512, 512))
        assert data == b"b" * 512

    with_device(store, work)


@pytest.mark.parametrize("slept", [True, False])
def test_a_write_that_slept_diverts_the_next_ones(
    store: Path, slept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that took as long because the processor was busy does not."""
    monkeypatch.setattr(file_device, "SLOW_S", 0.002)
    pwritev = os.pwritev

    def slow(fd: int, buffers: Any, offset: int, flags: int = 0) -> int:
        until = time.monotonic() + 0.005
        while time.monotonic() < until:
            if slept:
                time.sleep(0.005)
        return pwritev(fd, buffers, offset, flags)

    async def work(device: FileDevice) -> None:
        monkeypatch.setattr(os, "pwritev", slow)
        reported: list[Any] = []
        buffer = bytearray(b"c" * 512)
        device.submit(
            [(WRITE, 0, 512, b"a" * 512, False, 1), (WRITE, 0, 512, buffer, False, 2)], reported.extend
        )
        assert reported == ([(1, None)] if slept else [(1, None), (2, None)])
        buffer[:] = bytes(512)  # the caller's buffer is its own again
        await device.drain()
        assert reported == [(1, None), (2, None)]
        assert await run(device, read(0, 512)) == [b"c" * 512]

    with_device(store, work)


def test_a_full_queue_says_busy(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_device, "QUEUED_BYTES", 1024)

    async def work(device: FileDevice) -> None:
        results = await run(device, *(write(0, b"a" * 512, fua=True) for _ in range(3)))
        assert results[:2] == [None, None]
        assert isinstance(results[2], BusyError)
        assert await run(device, write(0, b"a" * 1024, fua=True)) == [None]

    with_device(store, work)


def test_after_a_failed_sync_no_flush_succeeds(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, "I/O error")

    async def work(device: FileDevice) -> None:
        flush = (FLUSH, 0, 0, None, False)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", fail)
            (result,) = await run(device, flush)
            assert isinstance(result, MediumError)
        flushed, written = await run(device, flush, write(0, b"a" * 512, fua=True))
        assert isinstance(flushed, MediumError)
        assert isinstance(written, MediumError)

    with_device(store, work)


def test_flushes_that_wait_are_served_together(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    fdatasync = os.fdatasync

    def counted(fd: int) -> None:
        calls.append(fd)
        fdatasync(fd)

    monkeypatch.setattr(os, "fdatasync", counted)

    async def work(device: FileDevice) -> None:
        flushes = [asyncio.create_task(run(device, (FLUSH, 0, 0, None, False))) for _ in range(20)]
        await asyncio.gather(*flushes)
        assert 1 <= len(calls) <= 3

    with_device(store, work)


@pytest.mark.parametrize(("code", "kind"), [(errno.ENOSPC, SpaceError), (errno.EIO, MediumError)])
def test_errors_of_the_system_have_a_type(
    store: Path, code: int, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> int:
        raise OSError(code, "no")

    async def work(device: FileDevice) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwritev", fail)
            (result,) = await run(device, write(0, b"a" * 512))
        assert isinstance(result, kind)

    with_device(store, work)


def test_closed_device_is_not_ready(store: Path) -> None:
    async def main() -> None:
        device = FileDevice(store)
        pending = asyncio.create_task(run(device, write(0, b"z" * 512, fua=True)))
        await asyncio.sleep(0)
        await device.close()
        assert await pending == [None]
        (result,) = await run(device, read(0, 512))
        assert isinstance(result, NotReadyError)

    asyncio.run(main())
    assert store.read_bytes()[:512] == b"z" * 512


def test_read_only_takes_no_write(store: Path) -> None:
    async def main() -> None:
        device = FileDevice(store, read_only=True)
        result, data = await run(device, write(0, b"a" * 512), read(0, 512))
        assert isinstance(result, ProtectedError)
        assert data == bytes(512)
        await device.close()

    asyncio.run(main())


def test_opening_refuses_with_a_type(store: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreMissingError):
        FileDevice(tmp_path / "nothing")
    with pytest.raises(StoreMissingError):
        FileDevice(tmp_path)
    with pytest.raises(StoreSizeError):
        FileDevice(store, size=SIZE + 512)
    with pytest.raises(StoreSizeError):
        FileDevice(store, size=SIZE - 512)
    with pytest.raises(StoreExistsError):
        create_file(store, SIZE)
    with pytest.raises(StoreSizeError):
        create_file(tmp_path / "huge", 1 << 62, preallocate=True)
    assert not (tmp_path / "huge").exists()

    async def twice() -> None:
        device = FileDevice(store)
        with pytest.raises(StoreInUseError):
            FileDevice(store)
        await device.close()
        await FileDevice(store).close()

    asyncio.run(twice())


def test_preallocated_file_has_its_space(tmp_path: Path) -> None:
    create_file(tmp_path / "full", 1 << 20, preallocate=True)
    assert (tmp_path / "full").stat().st_blocks >= (1 << 20) // 512
