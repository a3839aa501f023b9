"""The volumes that a storage processor serves: store, joint, logical unit."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import structlog

from iscsi_rp.array.catalogue import Catalogue, VolumeRow
from iscsi_rp.array.stack import Joint
from iscsi_rp.block import FileDevice, MemoryDevice, StoreSizeError, grow_file
from iscsi_rp.control.array_models import FrontEnd, Processor, Volume, VolumeKind, VolumeState
from iscsi_rp.control.runtime import later
from iscsi_rp.device import BlockDevice, Done, Io, NotReadyError
from iscsi_rp.errors import Error
from iscsi_rp.scsi import Identity, LogicalUnit
from iscsi_rp.scsi.alua import PortGroups
from iscsi_rp.scsi.medium import Note, Work
from iscsi_rp.scsi.persistent_format import RegistrationsFormatError, decode
from iscsi_rp.scsi.reservations import Save

_log = structlog.get_logger(__name__)


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


def finish_growing(catalogue: Catalogue) -> None:
    """Complete the resizes that a crash broke off; before the volumes are opened."""
    for row in catalogue.volumes():
        if row.growing_to_bytes is None:
            continue
        try:
            if row.kind is VolumeKind.FILE and row.path is not None:
                grow_file(row.path, row.growing_to_bytes)
        except Error as error:
            # It is tried again at the next start. Until then the volume is offline, unless it had not begun.
            _log.error("cannot finish a resize", volume=row.name, reason=error.message)
        else:
            catalogue.end_growing(row.uuid, row.growing_to_bytes)


class ServedVolume:
    """A volume of the catalogue with what serves it."""

    def __init__(
        self,
        row: VolumeRow,
        maps: Path,
        processors: Sequence[Processor] = (Processor.A,),
        save: Save | None = None,
        note: Note | None = None,
    ) -> None:
        """Opens the store; where that fails the volume is offline, and `error` says why. `processors` are
        those that have portals; `save` keeps the persistent reservations, `note` what is half formatted.
        """
        self.row = row
        self._save, self._note = save, note
        self._readable = True
        self.error: str | None = None
        self.group: str | None = None
        self.store: FileDevice | MemoryDevice | OfflineDevice
        try:
            decode(row.registrations)
        except RegistrationsFormatError as error:
            # Who may write is not known, so nobody may; and what is stored stays for whoever can read it.
            self._go_offline(f"its persistent reservations cannot be read: {error.message}")
            self._readable = False
        else:
            try:
                self.store = open_store(row)
            except Error as error:
                self._go_offline(error.message)
        self.joint = Joint(self.store)
        self._processors = processors
        self.unit = self._logical_unit(row.unfinished)
        self._maps = maps

    def _go_offline(self, reason: str) -> None:
        self.error = reason
        self.store = OfflineDevice(self.row.size_bytes, self.row.block_size, reason)

    def _logical_unit(self, unfinished: Work | None) -> LogicalUnit:
        row = self.row
        embedded = row.front_end is FrontEnd.EMBEDDED
        return LogicalUnit(
            self.joint,
            Identity(bytes.fromhex(row.naa), row.uuid.replace("-", ""), product="VOLUME"),
            physical_block_size=row.physical_block_size,
            port_groups=self._port_groups() if embedded else _kernel_port_groups(),
            # The kernel keeps those of its own initiators.
            registrations=row.registrations if embedded and self._readable else b"",
            save=self._save if embedded and self._readable else None,
            unfinished=unfinished,
            note=self._note,
            later=later,
        )

    def _port_groups(self) -> PortGroups:
        groups = [processor.portal_group for processor in self._processors]
        owner = self.row.owner if self.row.owner in self._processors else self._processors[0]
        return PortGroups({group: (group,) for group in groups}, owner.portal_group)

    @property
    def map_path(self) -> Path:
        """Beside the store, so that both are lost or neither; a store that is no file has it with the
        array's state.
        """
        if self.row.kind is VolumeKind.FILE and self.row.path is not None:
            return self.row.path.with_name(self.row.path.name + ".map")
        return self._maps / f"{self.row.uuid}.map"

    def model(self, restoring: bool, device: str | None = None) -> Volume:
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
            physical_block_size=self.row.physical_block_size,
            kind=self.row.kind,
            path=self.row.path,
            owner=self.row.owner,
            front_end=self.row.front_end,
            device=device,
            group=self.group,
            state=state,
            error=self.error,
        )

    async def grow(self, catalogue: Catalogue, size_bytes: int, *, preallocate: bool) -> None:
        """Make it larger, while hosts use it. Whenever this is broken off, by a crash too, the volume opens.

        Raises `StoreSizeError`: the store cannot have that size. The volume is then as it was.
        """
        assert not isinstance(self.store, OfflineDevice)
        uuid, before = self.row.uuid, self.row.size_bytes
        await asyncio.to_thread(catalogue.begin_growing, uuid, size_bytes)
        try:
            await self.store.grow(size_bytes, preallocate=preallocate)
        except StoreSizeError:
            await asyncio.to_thread(catalogue.end_growing, uuid, before)
            raise
        await asyncio.to_thread(catalogue.end_growing, uuid, size_bytes)
        # Hosts may use it only now: what they write to the new part is never lost again.
        self.row = replace(self.row, size_bytes=size_bytes)
        self.store.grown(size_bytes)
        self.unit.capacity_changed()

    def set_owner(self, owner: Processor) -> None:
        """Raises `ValueError`: that storage processor has no portals."""
        if self.row.front_end is FrontEnd.EMBEDDED:
            self.unit.set_owner(owner.portal_group)
        self.row = replace(self.row, owner=owner)

    def moved(self, front_end: FrontEnd, registrations: bytes) -> None:
        """Another front end is to show it: by a new logical unit, so nothing of the old nexuses is left. None
        of their commands may be under way. By the same one, after all: by the unit that it has.
        """
        another = front_end is not self.row.front_end
        self.row = replace(self.row, front_end=front_end, registrations=registrations)
        if another:
            self.unit = self._logical_unit(self.unit.medium.unfinished)

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


def _kernel_port_groups() -> PortGroups:
    """All ports of the kernel's target are one group: we are not told by which of them a command came, and
    they lead to the same process.
    """
    return PortGroups({1: tuple(processor.portal_group for processor in Processor)})
