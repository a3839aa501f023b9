"""A group whose log cannot be flushed: as good as a loss of power, and remembered beside the journal."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from iscsi_rp.appliance import group as group_module
from iscsi_rp.appliance import load as load_module
from iscsi_rp.appliance.group import Group
from iscsi_rp.journal.distribute import _Batch
from iscsi_rp.journal.errors import JournalIoError
from iscsi_rp.journal.files import OsFile
from iscsi_rp.journal.replica import Replica
from tests.unit.appliance.test_group import CHUNK, MIB, PAGE, Splitter, new_row, until


@contextmanager
def flushes_failing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """fdatasync of the log fails, once."""
    sync = OsFile.sync
    failed = False

    def fail(file: OsFile) -> None:
        nonlocal failed
        if file.name.startswith("log-") and not failed:
            failed = True
            raise JournalIoError("planned")
        sync(file)

    with monkeypatch.context() as patch:
        patch.setattr(OsFile, "sync", fail)
        yield
    assert failed


def test_a_failed_flush_is_a_loss_that_the_catalogue_hears_of_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: list[bool] = []

    async def main() -> None:
        group = Group(new_row(tmp_path), noted.append)
        await group.open()
        try:
            splitter = await Splitter(group).join()
            splitter.write(0, b"a" * PAGE)
            held = await splitter.sealed()
            before = group.receiver
            splitter.write(PAGE, b"b" * PAGE)
            with flushes_failing(monkeypatch):
                await until(lambda: group.receiver is not before)
            assert splitter.closed is not None
            await until(lambda: group.running and noted == [True, False])
            assert all(each.lost for each in group.receiver.state.processors.values())
            assert group.offer().holds(held)
            again = await Splitter(group).join()  # it takes sessions again, and a start ends the loss
            assert not group.receiver.state.processors["a/sp-a"].lost
            again.write(0, b"c" * PAGE)
            await again.sealed()
        finally:
            await group.close()

    asyncio.run(main())


def test_a_trim_does_not_go_on_beside_a_journal_that_was_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the old one removed a segment that the new one took for not distributed."""
    monkeypatch.setattr(group_module, "SEGMENT_BYTES", MIB)
    monkeypatch.setattr(group_module, "KEEP_FREE_BYTES", 0)
    monkeypatch.setattr(load_module, "IDLE_S", 1e9)
    row = new_row(tmp_path)
    apply = _Batch.apply
    begun: list[Replica] = []

    async def main() -> None:
        group = Group(row, lambda lost: None)
        await group.open()

        def held(batch: _Batch) -> None:
            """The first one ends only when the failed flush waits for it."""
            apply(batch)
            if batch.is_applied and not begun:
                begun.append(group.replica)
                with flushes_failing(monkeypatch):
                    wait_for(lambda: not group.running)

        try:
            monkeypatch.setattr(_Batch, "apply", held)
            splitter = await Splitter(group).join()
            number = 0
            while not begun or group.replica is begun[0] or not group.running:
                if splitter.closed is None:
                    number += 1
                    splitter.write(number % 16 * CHUNK, bytes([number % 255 + 1]) * CHUNK)
                assert number < 1000
                await asyncio.sleep(0.005)
            first = group.log.first
            await asyncio.sleep(0.3)  # what is left of the old trim
            assert (row.directory / group.log.segments[0].file.name).exists()
            assert (group.replica.distributed, group.log.first) == (first - 1, first)
        finally:
            await group.close()
        again = Group(row, lambda lost: None)
        await again.open()
        await again.close()

    asyncio.run(main())


def wait_for(happened: Callable[[], bool]) -> None:
    """In a thread."""
    until_s = time.monotonic() + 5
    while not happened():
        assert time.monotonic() < until_s
        time.sleep(0.01)


def test_a_loss_that_only_the_catalogue_knows_of_is_noted_in_the_journal(tmp_path: Path) -> None:
    row = new_row(tmp_path)

    async def life(lost: bool) -> bool:
        noted: list[bool] = []
        group = Group(replace(row, lost=lost), noted.append)
        await group.open()
        try:
            if not lost:
                await Splitter(group).join()
                return False
            await until(lambda: noted == [False])
            return group.receiver.state.processors["a/sp-a"].lost
        finally:
            await group.close()

    assert asyncio.run(life(lost=False)) is False
    assert asyncio.run(life(lost=True)) is True
