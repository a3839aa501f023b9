"""A volume grows: what hosts see when, what a crash leaves at each step, and what it cannot do."""

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from iscsi_rp.array.catalogue import Catalogue
from iscsi_rp.array.volumes import ServedVolume, finish_growing
from iscsi_rp.block import StoreSizeError, create_file
from iscsi_rp.control.array_models import VolumeKind
from iscsi_rp.device import READ, WRITE, Io, Result

SIZE = 1 << 20
GROWN = 3 << 20


class Crash(BaseException):
    """The process dies here."""


@pytest.fixture
def state(tmp_path: Path) -> Path:
    create_file(tmp_path / "data.img", SIZE)
    catalogue = Catalogue.open(tmp_path / "catalogue.db")
    catalogue.add_volume("data", VolumeKind.FILE, tmp_path / "data.img", SIZE)
    catalogue.add_volume("memory", VolumeKind.MEMORY, None, SIZE)
    catalogue.close()
    return tmp_path


def run(state: Path, work: Callable[[Catalogue, ServedVolume], Awaitable[None]], which: int = 0) -> None:
    """Start an array over `state` as it is, and work with one of its volumes."""

    async def main() -> None:
        catalogue = Catalogue.open(state / "catalogue.db")
        finish_growing(catalogue)
        volume = ServedVolume(catalogue.volumes()[which], state / "maps")
        try:
            await work(catalogue, volume)
        finally:
            await volume.close()
            catalogue.close()

    asyncio.run(main())


async def did(volume: ServedVolume, io: Io) -> Result:
    report: list[tuple[Any, Result]] = []
    done = asyncio.Event()

    def finish(results: Sequence[tuple[Any, Result]]) -> None:
        report.extend(results)
        done.set()

    volume.joint.submit([io], finish)
    await asyncio.wait_for(done.wait(), 5)
    return report[0][1]


def size_is(expected: int) -> Callable[[Catalogue, ServedVolume], Awaitable[None]]:
    async def check(catalogue: Catalogue, volume: ServedVolume) -> None:
        assert volume.error is None
        row = catalogue.volumes()[0]
        assert (row.size_bytes, row.growing_to_bytes, volume.joint.size) == (expected, None, expected)
        assert row.path is not None
        assert row.path.stat().st_size == expected

    return check


@pytest.mark.parametrize("which", [0, 1], ids=["file", "memory"])
def test_what_is_new_reads_as_zeros_and_what_was_stays(state: Path, which: int) -> None:
    async def grow(catalogue: Catalogue, volume: ServedVolume) -> None:
        await did(volume, (WRITE, SIZE - 512, 512, b"e" * 512, False, None))
        await volume.grow(catalogue, GROWN, preallocate=False)
        assert (volume.joint.size, volume.unit.size_blocks) == (GROWN, GROWN // 512)
        assert volume.row.size_bytes == volume.model(False).size_bytes == GROWN
        read = await did(volume, (READ, SIZE - 512, 1024, None, False, None))
        assert bytes(read) == b"e" * 512 + bytes(512)  # type: ignore[arg-type]
        assert await did(volume, (WRITE, GROWN - 512, 512, b"n" * 512, True, None)) is None

    run(state, grow, which)
    if which == 0:
        run(state, size_is(GROWN))


def test_space_is_taken_when_it_is_asked_for(state: Path) -> None:
    async def grow(catalogue: Catalogue, volume: ServedVolume) -> None:
        await volume.grow(catalogue, GROWN, preallocate=True)

    run(state, grow)
    assert (state / "data.img").stat().st_blocks * 512 >= GROWN - SIZE


@pytest.mark.parametrize("step", ["begin_growing", "grow", "end_growing"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_crash_at_any_step_leaves_a_volume_that_opens(
    state: Path, monkeypatch: pytest.MonkeyPatch, step: str, when: str
) -> None:
    async def grow(catalogue: Catalogue, volume: ServedVolume) -> None:
        owner: Any = volume.store if step == "grow" else catalogue
        real = getattr(owner, step)

        def crash(*arguments: Any, **options: Any) -> Any:
            if when == "after":
                done = real(*arguments, **options)
                if step != "grow":
                    raise Crash

                async def die() -> None:
                    await done
                    raise Crash

                return die()
            raise Crash

        monkeypatch.setattr(owner, step, crash)
        with pytest.raises(Crash):
            await volume.grow(catalogue, GROWN, preallocate=False)
        # Whatever the crash left, hosts had not seen more.
        assert (volume.joint.size, volume.unit.size_blocks) == (SIZE, SIZE // 512)

    run(state, grow)
    run(state, size_is(SIZE if (step, when) == ("begin_growing", "before") else GROWN))


def test_a_store_that_cannot_grow_stays_as_it_was(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, offset: int, length: int) -> None:
        os.ftruncate(fd, offset + length // 2)  # it got half of it
        raise OSError(errno.ENOSPC, "No space left on device")

    async def grow(catalogue: Catalogue, volume: ServedVolume) -> None:
        with pytest.raises(StoreSizeError, match="No space left"):
            await volume.grow(catalogue, GROWN, preallocate=True)
        await size_is(SIZE)(catalogue, volume)

    monkeypatch.setattr(os, "posix_fallocate", full)
    run(state, grow)
    run(state, size_is(SIZE))


def test_a_store_that_is_away_is_grown_when_it_is_back(state: Path) -> None:
    catalogue = Catalogue.open(state / "catalogue.db")
    catalogue.begin_growing(catalogue.volumes()[0].uuid, GROWN)
    catalogue.close()
    (state / "data.img").rename(state / "away")

    async def offline(catalogue: Catalogue, volume: ServedVolume) -> None:
        assert volume.error is not None

    run(state, offline)
    (state / "away").rename(state / "data.img")
    run(state, size_is(GROWN))
