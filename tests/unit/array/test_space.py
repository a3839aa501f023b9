"""Hosts are told once that the space under a volume becomes low, and again after it was not."""

import asyncio
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from iscsi_rp.array.catalogue import VolumeRow
from iscsi_rp.array.space import SpaceWatch
from iscsi_rp.array.volumes import ServedVolume
from iscsi_rp.block import create_file
from iscsi_rp.control.array_models import VolumeKind
from iscsi_rp.scsi.task import Nexus

SIZE = 1 << 20


def row(path: Path | None) -> VolumeRow:
    kind = VolumeKind.MEMORY if path is None else VolumeKind.FILE
    uuid = "12345678-9abc-4def-8123-456789abcdef"
    return VolumeRow(uuid, "data", 0, kind, path, SIZE, 512)


def told(volume: ServedVolume, nexus: Nexus) -> list[tuple[int, int]]:
    """The sense codes that wait for `nexus`."""
    codes: list[tuple[int, int]] = []
    while (attention := volume.unit.take_attention(nexus)) is not None:
        codes.append(attention.code)
    return codes


def test_low_space_is_told_once_and_shown_while_it_lasts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = [11]
    monkeypatch.setattr(
        os, "statvfs", lambda _: SimpleNamespace(f_bavail=free[0], f_blocks=100, f_frsize=4096)
    )
    create_file(tmp_path / "data.img", SIZE)

    async def main() -> None:
        volume, memory = ServedVolume(row(tmp_path / "data.img"), tmp_path), ServedVolume(row(None), tmp_path)
        volumes = {"file": volume, "memory": memory}
        watch = SpaceWatch(volumes, 10.0)
        nexus = Nexus("iqn.2026-11.test:host")
        for each in (volume, memory):
            each.unit.submit(nexus, [(0, bytes(16), None)], lambda _: None)
            told(each, nexus)
        seen, nothing = [], list[tuple[int, int]]()
        for free[0] in (11, 10, 9, 9, 11, 9, 12, 11, 9):
            await watch.look()
            seen.append((told(volume, nexus), len(watch.alerts())))
        told_now, still, enough = ([(0x38, 7)], 1), (nothing, 1), (nothing, 0)
        assert seen == [enough, enough, told_now, still, still, still, enough, enough, told_now]
        assert told(memory, nexus) == []
        (alert,) = watch.alerts()
        assert "only 36 KiB" in alert.text
        del volumes["file"]
        assert watch.alerts() == []
        await volume.close()

    asyncio.run(main())
