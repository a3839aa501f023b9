"""What is read ahead of whom, and that a FileDevice does it."""

import asyncio
import os
from pathlib import Path

import pytest

from iscsi_rp.block import FileDevice
from iscsi_rp.block.readahead import FIRST_BYTES, MOST_BYTES, STREAMS, Readahead
from iscsi_rp.device import READ
from tests.kit.page_cache import cached, can_be_emptied

KIB = 1 << 10
SIZE = 32 << 20


def test_reads_at_random_ask_for_nothing() -> None:
    ahead = Readahead()
    assert [ahead.window(at << 20, 4 * KIB) for at in (7, 3, 40, 12, 5, 90, 1, 60, 30, 7)] == [None] * 10


def test_a_second_read_in_a_row_asks_for_what_follows() -> None:
    ahead = Readahead()
    ahead.window(0, 4 * KIB)
    assert ahead.window(4 * KIB, 4 * KIB) == (4 * KIB, 4 * KIB + FIRST_BYTES)


def test_a_window_doubles_up_to_its_most_and_none_overlaps_another() -> None:
    ahead = Readahead()
    at, asked = 64 * KIB, 64 * KIB
    ahead.window(0, 64 * KIB)
    lengths = []
    while at < SIZE:
        found = ahead.window(at, 64 * KIB)
        if found is not None:
            assert found[0] == asked
            asked = sum(found)
            lengths.append(asked - at - 64 * KIB)
        assert asked >= at + 64 * KIB
        at += 64 * KIB
    assert lengths[:5] == [FIRST_BYTES << step for step in range(5)]
    assert max(lengths) == MOST_BYTES


def test_readers_are_told_apart_and_the_least_recent_is_forgotten() -> None:
    ahead = Readahead()
    for number in range(STREAMS + 1):
        ahead.window(number << 30, 4 * KIB)
    assert ahead.window(STREAMS << 30 | 4 * KIB, 4 * KIB) is not None
    assert ahead.window(1 << 30 | 4 * KIB, 4 * KIB) is not None
    assert ahead.window(4 * KIB, 4 * KIB) is None


def test_the_store_is_read_ahead_of_a_sequential_reader_only(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.write_bytes(os.urandom(SIZE))
    if not can_be_emptied(store):
        pytest.skip("the page cache of this file system cannot be emptied")

    async def main() -> None:
        device = FileDevice(store)
        for at in (8 << 20, 12 << 20, 16 << 20):
            await read(device, at)
            assert not cached(store, at + 4 * KIB, 4 * KIB)
        # The kernel may have kept a page, or take some away again: the reader goes on until it is ahead.
        at = 16 << 20
        async with asyncio.timeout(30):
            while not cached(store, at + 8 * KIB, FIRST_BYTES // 2):
                at += 4 * KIB
                await read(device, at)
                await asyncio.sleep(0.02)
        await device.close()

    asyncio.run(main())


async def read(device: FileDevice, offset: int) -> None:
    done = asyncio.Event()
    device.submit([(READ, offset, 4 * KIB, None, False, None)], lambda _: done.set())
    await asyncio.wait_for(done.wait(), 5)
