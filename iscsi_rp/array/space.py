"""Watches the space under the volumes' files, so that hosts know before a write fails (SBC-4 4.7.3.8)."""

import asyncio
import os
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Final

from iscsi_rp.array.volumes import ServedVolume
from iscsi_rp.control.array_models import VolumeKind
from iscsi_rp.control.models import Alert
from iscsi_rp.units import format_size

INTERVAL_S: Final = 10.0
CLEARLY_PERCENT: Final = 2.0
"So much above the threshold space is no longer low: what hovers at it is told once."


class SpaceWatch:
    """The soft threshold of thin provisioning. The hard one is the file system's own: a write that fails."""

    def __init__(self, volumes: Mapping[str, ServedVolume], low_percent: float) -> None:
        """`volumes` change while this lives. Below `low_percent` of free space hosts are told, once until it
        has clearly risen above."""
        self._volumes = volumes
        self._low_percent = low_percent
        self._low: dict[str, int] = {}
        "UUID of a volume -> bytes that are free under it."

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(INTERVAL_S)

    async def look(self) -> None:
        """Look once, and tell the hosts of each volume whose space has become low."""
        files = {
            uuid: volume.row.path
            for uuid, volume in self._volumes.items()
            if volume.row.kind is VolumeKind.FILE and volume.row.path is not None
        }
        low = await asyncio.to_thread(_low_on_space, files, self._low_percent, self._low.keys())
        for uuid in low.keys() - self._low.keys():
            if uuid in self._volumes:
                self._volumes[uuid].unit.space_low()
        self._low = low

    def alerts(self) -> Sequence[Alert]:
        names = {uuid: volume.row.name for uuid, volume in self._volumes.items()}
        return [
            Alert(
                code="space-low",
                text=f"volume {names[uuid]!r}: only {format_size(free)} are free under its file",
                next_step="Free or add space; when there is none, writes to new blocks fail.",
            )
            for uuid, free in self._low.items()
            if uuid in names
        ]


def _low_on_space(files: Mapping[str, Path], low_percent: float, were_low: Container[str]) -> dict[str, int]:
    """Blocks, on a file system that hangs."""
    low = {}
    for uuid, path in files.items():
        try:
            found = os.statvfs(path)
        except OSError:
            continue  # the volume is offline, and that has an alert of its own
        limit = low_percent + CLEARLY_PERCENT if uuid in were_low else low_percent
        if found.f_bavail * 100 < found.f_blocks * limit:
            low[uuid] = found.f_bavail * found.f_frsize
    return low
