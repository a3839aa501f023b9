"""A volume whose store is missing, too small or in use is offline and says why; nothing else suffers."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from iscsi_rp.array.catalogue import VolumeRow
from iscsi_rp.array.volumes import ServedVolume
from iscsi_rp.block import FileDevice, MemoryDevice, create_file
from iscsi_rp.control.array_models import FrontEnd, Processor, VolumeKind, VolumeState
from iscsi_rp.device import READ, UNMAP, BusyError, Done, Io, NotReadyError, Result
from iscsi_rp.scsi import Nexus
from iscsi_rp.scsi.medium import Work
from iscsi_rp.scsi.sense import CHECK_CONDITION, GOOD
from iscsi_rp.scsi.task import Command, Completion

SIZE = 1 << 20


def row(path: Path | None, kind: VolumeKind = VolumeKind.FILE, size_bytes: int = SIZE) -> VolumeRow:
    return VolumeRow(str(uuid4()), "data", 0, kind, path, size_bytes, 512)


def run(volume_row: VolumeRow, maps: Path, test: Callable[[ServedVolume], Awaitable[None]]) -> None:
    async def main() -> None:
        volume = ServedVolume(volume_row, maps)
        try:
            await test(volume)
        finally:
            await volume.close()

    asyncio.run(main())


def first_block(volume: ServedVolume) -> Result:
    report: list[tuple[Any, Result]] = []

    def done(results: Sequence[tuple[Any, Result]]) -> None:
        report.extend(results)

    volume.joint.submit([(READ, 0, 512, None, False, None)], done)
    return report[0][1]


def test_a_store_that_is_there_is_online(tmp_path: Path) -> None:
    create_file(tmp_path / "data.img", SIZE)

    async def test(volume: ServedVolume) -> None:
        assert (volume.error, volume.model(False).state) == (None, VolumeState.ONLINE)
        assert volume.model(True).state is VolumeState.RESTORING
        assert first_block(volume) == bytes(512)
        assert volume.map_path == tmp_path / "data.img.map"

    run(row(tmp_path / "data.img"), tmp_path / "maps", test)


@pytest.mark.parametrize(
    ("size", "reason"), [(None, "No such file"), (SIZE - 512, "has 1048064 bytes"), (0, "has 0 bytes")]
)
def test_a_store_that_is_missing_or_too_small(tmp_path: Path, size: int | None, reason: str) -> None:
    path = tmp_path / "data.img"
    if size is not None:
        create_file(path, size)

    async def test(volume: ServedVolume) -> None:
        assert volume.error is not None
        assert reason in volume.error
        assert str(path) in volume.error
        model = volume.model(False)
        assert (model.state, model.error, model.size_bytes) == (VolumeState.OFFLINE, volume.error, SIZE)
        assert isinstance(first_block(volume), NotReadyError)
        await asyncio.sleep(0)

    run(row(path), tmp_path / "maps", test)
    if size is not None:
        assert path.stat().st_size == size


def test_a_store_in_use_by_another_is_left_to_it(tmp_path: Path) -> None:
    path = tmp_path / "data.img"
    create_file(path, SIZE)

    async def test(volume: ServedVolume) -> None:
        second = ServedVolume(row(path), tmp_path / "maps")
        assert second.error is not None
        assert "in use" in second.error
        assert isinstance(first_block(second), NotReadyError)
        await second.close()
        assert first_block(volume) == bytes(512)

    run(row(path), tmp_path / "maps", test)


def test_a_volume_in_memory_has_its_map_with_the_arrays_state(tmp_path: Path) -> None:
    memory = row(None, VolumeKind.MEMORY)

    async def test(volume: ServedVolume) -> None:
        assert isinstance(volume.store, MemoryDevice)
        assert volume.map_path == tmp_path / f"{memory.uuid}.map"

    run(memory, tmp_path, test)


def test_a_device_put_under_the_joint_serves_from_then_on(tmp_path: Path) -> None:
    create_file(tmp_path / "data.img", SIZE)

    async def test(volume: ServedVolume) -> None:
        assert isinstance(volume.store, FileDevice)
        await volume.exchanged(MemoryDevice(SIZE))
        assert isinstance(first_block(volume), bytearray)
        assert volume.joint.below is not volume.store
        await volume.exchanged(volume.store)
        assert volume.joint.below is volume.store

    run(row(tmp_path / "data.img"), tmp_path / "maps", test)


def test_the_owner_is_the_optimized_group_and_another_one_where_it_has_no_portal(tmp_path: Path) -> None:
    both = (Processor.A, Processor.B)
    for owner, processors, expected in (
        (Processor.B, both, {1: 1, 2: 0}),
        (Processor.A, both, {1: 0, 2: 1}),
        (Processor.B, (Processor.A,), {1: 0}),
        (Processor.A, (Processor.B,), {2: 0}),
    ):
        volume = ServedVolume(replace(row(None, VolumeKind.MEMORY), owner=owner), tmp_path, processors)
        groups = volume.unit.port_groups
        assert {group: groups.state(group) for group in groups.ports} == expected


def test_a_volume_whose_reservations_cannot_be_read_is_offline(tmp_path: Path) -> None:
    damaged = replace(row(None, VolumeKind.MEMORY), registrations=b"no registrations")
    volume = ServedVolume(damaged, tmp_path)
    assert volume.error is not None
    assert "reservations" in volume.error
    assert isinstance(first_block(volume), NotReadyError)


def test_a_volume_is_formatted_although_its_store_is_busy_for_a_moment(tmp_path: Path) -> None:
    class BusyAtFirst(MemoryDevice):
        left = 2

        def submit(self, batch: Sequence[Io], done: Done) -> None:
            if self.left and batch[0][0] == UNMAP:
                self.left -= 1
                return done([(io[5], BusyError()) for io in batch])
            return super().submit(batch, done)

    async def test(volume: ServedVolume) -> None:
        store = BusyAtFirst(SIZE)
        await volume.exchanged(store)
        answered = asyncio.Event()
        statuses: list[int] = []

        def done(completions: Sequence[Completion]) -> None:
            statuses.extend(status for _, status, _, _ in completions)
            if len(statuses) == 2:
                answered.set()

        commands: list[Command] = [(0, bytes(16), None), (1, bytes((4, *bytes(15))), None)]
        volume.unit.submit(Nexus("iqn.2026-01.test:host"), commands, done)
        await asyncio.wait_for(answered.wait(), 10)
        assert (statuses, store.left) == ([CHECK_CONDITION, GOOD], 0)  # the first is told of the power on

    run(row(None, VolumeKind.MEMORY), tmp_path, test)


def test_what_was_unfinished_when_the_array_started_and_is_over_does_not_come_back_by_a_move(
    tmp_path: Path,
) -> None:
    async def test(volume: ServedVolume) -> None:
        volume.unit.medium.take_note(None, lambda error: None)
        assert volume.unit.medium.sense is None
        before = volume.unit
        volume.moved(FrontEnd.LIO, b"")
        assert volume.unit is not before
        assert volume.unit.medium.sense is None

    begun = replace(row(None, VolumeKind.MEMORY), unfinished=Work.FORMAT)
    run(begun, tmp_path / "maps", test)
