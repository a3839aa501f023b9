"""A group whose log cannot be flushed: as good as a loss of power, and remembered beside the journal."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from iscsi_rp.appliance.group import Group
from iscsi_rp.journal.errors import JournalIoError
from iscsi_rp.journal.files import OsFile
from tests.unit.appliance.test_group import PAGE, Splitter, new_row, until


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
