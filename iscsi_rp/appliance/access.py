"""Serving an image of a group: a target of its own on the appliance's portals, with a LUN for each volume."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final
from uuid import UUID, uuid5

from iscsi_rp.appliance import catalogue
from iscsi_rp.appliance.access_log import AccessLog
from iscsi_rp.appliance.group import ACCESS, ACCESS_LOG_SHARE, Group
from iscsi_rp.appliance.image import ImageDevice
from iscsi_rp.control.appliance_models import ImageAccess, ImageLun
from iscsi_rp.control.runtime import later
from iscsi_rp.frontend import IscsiServer
from iscsi_rp.scsi import Identity, LogicalUnit

READERS: Final = 8
LOG_NAME: Final = "access.log"
_IMAGE_SPACE: Final = UUID("5d1b5f1e-3c0a-5d7e-9c55-1f0c5a2d7e31")
"Names of image LUNs: an image of a volume has the same NAA each time, and not the volume's."


def image_naa(volume_uuid: str) -> str:
    """32 hexadecimal digits, NAA type 6, for the images of a volume."""
    return "6001405" + uuid5(_IMAGE_SPACE, volume_uuid).hex[:25]


class Access:
    """An image of a group that hosts can log in to."""

    def __init__(
        self, group: Group, access: catalogue.Access, iqn: str, portal: str, server: IscsiServer
    ) -> None:
        """Pins the image. Raises ImageGoneError."""
        group.pin(ACCESS, access.position)
        self.group = group
        self.row = access
        self.iqn = iqn
        self._portal = portal
        self._server = server
        self._threads = ThreadPoolExecutor(READERS, f"image-{group.row.name}")
        self._log: AccessLog | None = None
        self._devices: list[ImageDevice] = []

    async def serve(self, *, anew: bool) -> None:
        """Open the access log and add the target. `anew` begins an empty log; else there may be one with
        writes.

        Raises the errors of the access log and the server; nothing is served then.
        """
        try:
            if self.row.writable:
                self._log = await asyncio.to_thread(self._open_log, anew)
            self._add_target()
        except BaseException:
            self.group.unpin(ACCESS)
            raise

    def _add_target(self) -> None:
        units = {}
        for each in self.group.row.sets:
            device = ImageDevice(
                each.index, each.size_bytes, each.block_size, self._read, self._threads, self._log
            )
            self._devices.append(device)
            serial = uuid5(_IMAGE_SPACE, each.volume_uuid).hex
            identity = Identity(bytes.fromhex(image_naa(each.volume_uuid)), serial, product="IMAGE")
            units[each.index] = LogicalUnit(device, identity, later=later)
        self._server.add_target(self.iqn, units)

    def _read(self, volume: int, offset: int, length: int) -> bytes:
        # By way of the group: its replica is another one after the log had to be opened again.
        return self.group.replica.read(volume, offset, length, self.row.position)

    def _open_log(self, anew: bool) -> AccessLog:
        if anew:
            self.log_path.unlink(missing_ok=True)  # of an access that ended while the appliance was killed
        row = self.group.row
        sizes = {each.index: each.size_bytes for each in row.sets}
        make = AccessLog.open if self.log_path.exists() else AccessLog.create
        capacity = int(row.journal_bytes * ACCESS_LOG_SHARE)
        return make(self.log_path, UUID(row.group_id).bytes, self.row.position, sizes, capacity)

    @property
    def log_path(self) -> Path:
        return self.group.row.directory / LOG_NAME

    async def undo(self) -> None:
        """Drop what hosts wrote."""
        if self._log is not None:
            await asyncio.to_thread(self._log.undo)

    async def close(self, *, forget: bool) -> None:
        """Stop serving; `forget` drops what was written, too."""
        await self._server.remove_target(self.iqn)
        for device in self._devices:
            await device.drain()
        if self._log is not None:
            await asyncio.to_thread(self._log.remove if forget else self._log.close)
        self._threads.shutdown(wait=False)
        if forget:  # else it is served again after the restart
            self.group.unpin(ACCESS)

    def model(self) -> ImageAccess:
        log = self._log
        return ImageAccess(
            group=self.group.row.name,
            position=self.row.position,
            time_ns=self.group.offer().moment(self.row.position).time_ns,
            iqn=self.iqn,
            portal=self._portal,
            luns=[
                ImageLun(
                    volume=each.name,
                    lun=each.index,
                    naa=image_naa(each.volume_uuid),
                    size_bytes=each.size_bytes,
                )
                for each in self.group.row.sets
            ],
            writable=self.row.writable,
            log_bytes_used=log.written_bytes if log else 0,
            log_bytes_capacity=log.capacity_bytes if log else 0,
            read_only_reason=log.read_only_reason if log else None,
        )
