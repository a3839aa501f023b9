"""The splitter's shell over a real store and a real dirty map; at the other end a very small appliance."""

import asyncio
import gc
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from iscsi_rp.block import FileDevice, create_file
from iscsi_rp.device import FLUSH, READ, WRITE, Buffer, Io, IoError, Result
from iscsi_rp.replication import frames as wire
from iscsi_rp.replication.regions import REGION_BYTES
from iscsi_rp.splitter.core import Mode
from iscsi_rp.splitter.group import GroupSplitter, Volume, load_maps
from iscsi_rp.splitter.map_file import MapFile

REGIONS = 20
SIZE = REGIONS * REGION_BYTES
TIMEOUT_S = 0.3
PAGE = b"p" * 4096


class Appliance:
    """Takes every write and has it durable at once, unless it is `hung`."""

    def __init__(self) -> None:
        self.splitter: GroupSplitter
        self.hung = False
        self.copy = bytearray(SIZE)
        self.kinds: list[int] = []
        self.stored = 0
        self.closed: str | None = None

    def connect(self, session: int, *, sweep: bool = False) -> None:
        self.closed = None
        self.splitter.welcome(session, sweep, self.splitter.core.fresh, self)

    def send_all(self, pieces: Sequence[Buffer]) -> None:
        data = b"".join(pieces)
        frames, used = wire.decode(data, len(data))
        assert used == len(data)
        answers = [answer for frame in frames for answer in self._take(frame)]
        if answers and not self.hung:
            asyncio.get_running_loop().call_soon(self._answer, answers)

    def _answer(self, answers: list[wire.Frame]) -> None:
        if self.closed is None:
            self.splitter.frames(answers)

    def _take(self, frame: wire.Frame) -> list[wire.Frame]:
        kind, flags, _, sequence, offset, length, payload, _ = frame
        self.kinds.append(kind)
        if kind == wire.STORED:
            self.stored = sequence
        if kind == wire.HASHES:
            return [(wire.EQUAL, flags, 0, sequence, offset, length, bytes(len(payload) // 16), 0)]
        if kind != wire.WRITE:
            return []
        self.copy[offset : offset + length] = payload or bytes(length)
        return [(each, 0, 0, sequence, 0, 0, b"", 0) for each in (wire.RECEIVED, wire.DURABLE)]

    def close(self, reason: str) -> None:
        self.closed = reason


class Site:
    """A group of one volume, and its appliance."""

    def __init__(self, path: Path, orders: Callable[[int, bool], None] = lambda volume, due: None) -> None:
        self.path = path
        self.store = FileDevice(path / "store")
        self.volume = Volume("uuid", "data", self.store, MapFile(path / "store.map"))
        maps, self.reasons = load_maps([self.volume])
        self.splitter = GroupSplitter("group", [self.volume], maps, TIMEOUT_S, orders)
        self.appliance = Appliance()
        self.appliance.splitter = self.splitter
        (self.device,) = self.splitter.devices

    @property
    def mode(self) -> Mode:
        return self.splitter.core.mode

    async def until(self, mode: Mode) -> None:
        async with asyncio.timeout(10):
            while self.mode is not mode:
                await asyncio.sleep(0.01)

    async def submit(self, *ios: Io) -> list[Result]:
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in ios]

        def done(results: Sequence[tuple[Any, Result]]) -> None:
            for tag, result in results:
                futures[tag].set_result(result)

        self.device.submit([(*io[:5], tag) for tag, io in enumerate(ios)], done)
        async with asyncio.timeout(10):
            return list(await asyncio.gather(*futures))

    async def close(self) -> None:
        await self.splitter.close()
        await self.store.close()


def run(path: Path, test: Callable[[Site], Awaitable[None]], *, attach: bool = True, **kwargs: Any) -> None:
    """`attach`: begin in SPLITTING."""
    if not (path / "store").exists():
        create_file(path / "store", SIZE)

    async def main() -> None:
        site = Site(path, **kwargs)
        try:
            if attach:
                site.appliance.connect(1, sweep=True)
                await site.until(Mode.SPLITTING)
            await test(site)
        finally:
            await site.close()

    asyncio.run(main())


def write(offset: int, data: bytes = PAGE) -> Io:
    return (WRITE, offset, len(data), data, False, None)


READ_ALL: Io = (READ, 0, SIZE, None, False, None)


def test_the_first_sweep_brings_the_store_to_the_appliance(tmp_path: Path) -> None:
    create_file(tmp_path / "store", SIZE)
    with (tmp_path / "store").open("r+b") as store:
        store.seek(3 * REGION_BYTES)
        store.write(PAGE)

    async def test(site: Site) -> None:
        assert site.reasons == ["data: there is no dirty map yet"]
        assert bytes(site.appliance.copy) == (tmp_path / "store").read_bytes()
        async with asyncio.timeout(10):  # flushed after it was read, the marks go
            while site.splitter.core.marks.maps[0].dirty:
                await asyncio.sleep(0.02)

    run(tmp_path, test)

    async def again(site: Site) -> None:
        assert site.reasons == []
        assert site.splitter.core.marks.maps[0].dirty == 0

    run(tmp_path, again, attach=False)


def test_a_write_is_in_the_copy_and_in_the_store(tmp_path: Path) -> None:
    async def test(site: Site) -> None:
        assert await site.submit(write(4096), write(0, b"q" * 512)) == [None, None]
        assert bytes(site.appliance.copy) == (tmp_path / "store").read_bytes()
        (data,) = await site.submit(READ_ALL)
        assert data == bytes(site.appliance.copy)

    run(tmp_path, test)


def test_a_flush_of_the_host_tells_the_appliance_what_is_stored(tmp_path: Path) -> None:
    async def test(site: Site) -> None:
        await site.submit(write(0))
        assert await site.submit((FLUSH, 0, 0, None, False, None)) == [None]
        assert site.appliance.stored == site.splitter.core.sequence

    run(tmp_path, test)


def test_a_hung_appliance_delays_a_write_by_the_timeout_and_no_other(tmp_path: Path) -> None:
    async def test(site: Site) -> None:
        site.appliance.hung = True
        loop = asyncio.get_running_loop()
        begun = loop.time()
        assert await site.submit(write(0)) == [None]
        assert TIMEOUT_S <= loop.time() - begun < TIMEOUT_S + 1
        assert (site.mode, site.appliance.closed) == (
            Mode.MARKING,
            "the appliance did not take a write in time",
        )
        begun = loop.time()
        assert await site.submit(write(REGION_BYTES)) == [None]
        assert loop.time() - begun < TIMEOUT_S
        assert (tmp_path / "store").read_bytes()[: len(PAGE)] == PAGE
        site.appliance.hung = False
        site.appliance.connect(2)
        await site.until(Mode.SPLITTING)
        assert bytes(site.appliance.copy) == (tmp_path / "store").read_bytes()

    run(tmp_path, test)


def test_what_was_written_without_an_appliance_is_remembered_over_a_restart(tmp_path: Path) -> None:
    async def test(site: Site) -> None:
        async with asyncio.timeout(10):
            while site.splitter.core.marks.maps[0].dirty:
                await asyncio.sleep(0.02)
        site.splitter.disconnected(site.appliance, "the link is gone")
        assert site.splitter.last_error == "the link is gone"
        assert await site.submit(write(7 * REGION_BYTES)) == [None]

    run(tmp_path, test)

    async def again(site: Site) -> None:
        assert [region for region, flags in enumerate(site.splitter.core.marks.maps[0].flags) if flags] == [7]
        site.appliance.connect(1)
        await site.until(Mode.SPLITTING)
        assert bytes(site.appliance.copy) == (tmp_path / "store").read_bytes()
        assert wire.HASHES not in site.appliance.kinds

    run(tmp_path, again, attach=False)


def test_a_connection_that_was_replaced_takes_no_session_with_it(tmp_path: Path) -> None:
    async def test(site: Site) -> None:
        site.splitter.disconnected(Appliance(), "late news")
        assert site.mode is Mode.SPLITTING

    run(tmp_path, test)


def test_a_wrong_frame_ends_the_session_and_no_write_is_lost(tmp_path: Path) -> None:
    async def test(site: Site) -> None:
        site.splitter.frames([(wire.RECEIVED, 0, 0, 10**6, 0, 0, b"", 0)])
        assert (site.mode, site.appliance.closed) == (
            Mode.MARKING,
            "the appliance acknowledges what was never sent",
        )
        assert await site.submit(write(0)) == [None]

    run(tmp_path, test)


def no_map(site: Site, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The volume is in sync, and no mark can be made durable. Every attempt is noted."""
    attempts: list[object] = []
    for region in range(REGIONS):
        site.splitter.core.marks.maps[0].clear(region)

    def fail(blocks: object) -> None:
        attempts.append(blocks)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(site.volume.map_file, "write", fail)
    return attempts


def test_a_map_that_cannot_be_written_orders_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    orders: list[tuple[int, bool]] = []

    async def test(site: Site) -> None:
        with monkeypatch.context() as patch:
            attempts = no_map(site, patch)
            assert await site.submit(write(0)) == [None]
            assert orders[0] == (0, True)
            assert "No space left" in str(site.splitter.last_error)
            await asyncio.sleep(0.6)
            assert 2 <= len(attempts) <= 6  # tried again, but now and then
            assert set(orders) == {(0, True)}
        async with asyncio.timeout(10):  # the map is whole again, and the order is taken back
            while orders[-1] != (0, False):
                await asyncio.sleep(0.02)

    run(tmp_path, test, attach=False, orders=lambda volume, due: orders.append((volume, due)))


def test_without_map_and_order_a_write_fails_and_a_later_one_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = True

    def refuse(volume: int, due: bool) -> None:
        if refused:
            raise OSError(28, "No space left on device")

    async def test(site: Site) -> None:
        nonlocal refused
        with monkeypatch.context() as patch:
            no_map(site, patch)
            (result,) = await site.submit(write(0))
            assert isinstance(result, IoError)
            assert "neither the dirty map nor the catalogue" in result.message
            assert (tmp_path / "store").read_bytes()[: len(PAGE)] == bytes(len(PAGE))
        refused = False
        assert await site.submit(write(0)) == [None]

    run(tmp_path, test, attach=False, orders=refuse)


def test_while_hosts_are_blocked_only_the_restore_writes(tmp_path: Path) -> None:
    async def test(site: Site) -> None:
        site.device.blocked = "production is being restored"
        results = await site.submit(READ_ALL, write(0), (FLUSH, 0, 0, None, False, None))
        assert [str(each) for each in results] == ["production is being restored"] * 3
        done: list[Any] = []
        site.device.submit_behind_block([write(0)], done.extend)
        async with asyncio.timeout(10):
            while not done:
                await asyncio.sleep(0.01)
        assert done == [(None, None)]
        assert bytes(site.appliance.copy) == (tmp_path / "store").read_bytes()

    run(tmp_path, test)


def test_a_region_that_is_read_only_after_the_end_is_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(site: Site) -> None:
        faults: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
        reads: list[Callable[[], None]] = []
        submit = site.store.submit
        monkeypatch.setattr(site.store, "submit", lambda *call: reads.append(lambda: submit(*call)))
        site.appliance.connect(1, sweep=True)
        async with asyncio.timeout(10):
            while not reads:
                await asyncio.sleep(0.01)
        await site.splitter.close()
        for read in reads:
            read()
        await asyncio.sleep(0.1)
        gc.collect()  # a task that failed is told of when it goes
        assert faults == []

    run(tmp_path, test, attach=False)
