"""The volumes that a storage processor serves: store, joint, logical unit."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from iscsi_rp.array.catalogue import VolumeRow
from iscsi_rp.array.stack import Joint
from iscsi_rp.block import FileDevice, MemoryDevice
from iscsi_rp.control.models import Volume, VolumeKind, VolumeState
from iscsi_rp.device import BlockDevice, Done, Io, NotReadyError
from iscsi_rp.errors import Error
from iscsi_rp.scsi import Identity, LogicalUnit


class OfflineDevice:
    """Stands for a store that cannot be opened: every operation fails, and the LUN says NOT READY."""

    read_only = False

    def __init__(self, size: int, block_size: int, reason: str) -> None:
        self.size = size
        self.block_size = block_size
        self.reason = reason

    def submit(self, batch: Sequence[Io], done: Done) -> None:
        error = NotReadyError(self.reason)
        done([(io[5], error) for io in batch])

    async def close(self) -> None:
        """There is nothing to close."""


def open_store(row: VolumeRow) -> FileDevice | MemoryDevice:
    """Raises the errors of `block`: the store is missing, in use, or not as large as it was."""
    if row.kind is VolumeKind.MEMORY:
        return MemoryDevice(row.size_bytes, block_size=row.block_size)
    assert row.path is not None
    return FileDevice(row.path, size=row.size_bytes, block_size=row.block_size)


class ServedVolume:
    """A volume of the catalogue with what serves it."""

    def __init__(self, row: VolumeRow, maps: Path) -> None:
        """Opens the store; where that fails the volume is offline, and `error` says why."""
        self.row = row
        self.error: str | None = None
        self.group: str | None = None
        self.store: FileDevice | MemoryDevice | OfflineDevice
        try:
            self.store = open_store(row)
        except Error as error:
            self.error = error.message
            self.store = OfflineDevice(row.size_bytes, row.block_size, error.message)
        self.joint = Joint(self.store)
        self.unit = LogicalUnit(
            self.joint, Identity(bytes.fromhex(row.naa), row.uuid.replace("-", ""), product="VOLUME")
        )
        self._maps = maps

    @property
    def map_path(self) -> Path:
        """Beside the store, so that both are lost or neither; a store that is no file has it with the
        array's state.
        """
        if self.row.kind is VolumeKind.FILE and self.row.path is not None:
            return self.row.path.with_name(self.row.path.name + ".map")
        return self._maps / f"{self.row.uuid}.map"

    def model(self, restoring: bool) -> Volume:
        state = (
            VolumeState.OFFLINE if self.error else VolumeState.RESTORING if restoring else VolumeState.ONLINE
        )
        return Volume(
            name=self.row.name,
            uuid=self.row.uuid,
            naa=self.row.naa,
            lun=self.row.lun,
            size_bytes=self.row.size_bytes,
            block_size=self.row.block_size,
            kind=self.row.kind,
            path=self.row.path,
            group=self.group,
            state=state,
            error=self.error,
        )

    async def exchanged(self, below: BlockDevice) -> None:
        """Put a device under the joint, once nothing is in flight."""
        done = asyncio.Event()

        def exchange() -> BlockDevice:
            done.set()
            return below

        self.joint.exchange(exchange)
        await done.wait()

    async def take_offline(self, reason: str) -> None:
        """Serve no more I/O until the array is started again."""
        self.error = reason
        await self.exchanged(OfflineDevice(self.row.size_bytes, self.row.block_size, reason))

    async def close(self) -> None:
        await self.store.close()
