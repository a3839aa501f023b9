"""What the management API of an array does."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from pydantic import JsonValue

from iscsi_rp.array.catalogue import Catalogue, VolumeRow
from iscsi_rp.array.front_ends import FrontEnds
from iscsi_rp.array.initiators import Initiators
from iscsi_rp.array.protection import ProtectedGroup, Protection
from iscsi_rp.array.space import SpaceWatch
from iscsi_rp.array.status import array_alerts, kernel_alerts, refused_model, session_model, splitter_status
from iscsi_rp.array.volumes import ServedVolume
from iscsi_rp.block import create_file
from iscsi_rp.control.app import no_such
from iscsi_rp.control.array_models import (
    ArrayStatus,
    Portal,
    Processor,
    Session,
    Volume,
    VolumeChange,
    VolumeCreate,
    VolumeKind,
    VolumeMove,
)
from iscsi_rp.control.jobs import Jobs, Progress
from iscsi_rp.control.latency import InitiatorLatency, Latencies, SessionLatency, VolumeLatency
from iscsi_rp.control.models import Job
from iscsi_rp.errors import ConflictError, NotFoundError, UnreachableError, UsageError
from iscsi_rp.frontend import IscsiServer
from iscsi_rp.replication.regions import REGION_BYTES
from iscsi_rp.splitter.core import Mode
from iscsi_rp.splitter.resync import Verification
from iscsi_rp.units import format_size

POLL_S: Final = 0.05


class Service:
    """Implements `control.array_api.ArrayService` over the daemon's parts."""

    def __init__(
        self,
        name: str,
        iqn: str,
        state: Path,
        catalogue: Catalogue,
        server: IscsiServer,
        volumes: dict[str, ServedVolume],
        protection: Protection,
        space: SpaceWatch,
        initiators: Initiators,
        front_ends: FrontEnds,
        serve: Callable[[VolumeRow], ServedVolume],
    ) -> None:
        """`volumes` are by UUID; the service adds, by `serve`, and removes them."""
        self._name = name
        self._iqn = iqn
        self._state = state
        self._catalogue = catalogue
        self._server = server
        self._volumes = volumes
        self._protection = protection
        self._serve = serve
        self._space = space
        self.initiators = initiators
        self._front_ends = front_ends
        self._jobs = Jobs()
        self._changing = asyncio.Lock()
        self.portals: list[Portal] = []

    async def stop(self) -> None:
        await self._jobs.stop()

    # -- volumes

    async def list_volumes(self) -> list[Volume]:
        return [
            await self._model(volume)
            for volume in sorted(self._volumes.values(), key=lambda each: each.row.lun)
        ]

    async def _model(self, volume: ServedVolume) -> Volume:
        group = self._group_of(volume)
        return volume.model(group is not None and group.restoring, await self._front_ends.device(volume))

    def _group_of(self, volume: ServedVolume) -> ProtectedGroup | None:
        return next((group for group in self._protection.groups.values() if volume in group.volumes), None)

    def _volume(self, name: str) -> ServedVolume:
        for volume in self._volumes.values():
            if volume.row.name == name:
                return volume
        raise no_such("volume", name, "iscsi-rp volume list")

    async def create_volume(self, request: VolumeCreate) -> Volume:
        async with self._changing:
            if any(volume.row.name == request.name for volume in self._volumes.values()):
                raise ConflictError(f"there is a volume {request.name!r} already")
            self._check_processor(request.owner)
            path, created = await asyncio.to_thread(self._store_for, request)
            try:
                row = await asyncio.to_thread(self._add, request, path)
            except BaseException:
                if created and path is not None:
                    path.unlink(missing_ok=True)
                raise
            volume = self._serve(row)
            try:
                if volume.error is not None:
                    raise ConflictError(volume.error)
                self._volumes[row.uuid] = volume
                await self._front_ends.show(volume)
            except BaseException:
                self._volumes.pop(row.uuid, None)
                await volume.close()
                await asyncio.to_thread(self._catalogue.remove_volume, row.uuid)
                if created and path is not None:
                    path.unlink(missing_ok=True)
                raise
            self._protection.announce()
            return await self._model(volume)

    def _store_for(self, request: VolumeCreate) -> tuple[Path | None, bool]:
        """The path of the new volume's store, and whether it was made just now. Blocks."""
        if request.kind is VolumeKind.MEMORY:
            return None, False
        path = request.path or self._state / "volumes" / f"{request.name}.img"
        if path.exists() and request.path is not None:
            if not path.is_file() and not path.is_block_device():
                raise ConflictError(f"{path} is neither a file nor a block device")
            if request.kind is VolumeKind.BLOCK and not path.is_block_device():
                raise ConflictError(f"{path} is not a block device", hint="Serve a file by the kind `file`.")
            return path, False
        if request.kind is VolumeKind.BLOCK:
            raise NotFoundError(f"there is no block device {path}")
        if request.size_bytes is None:
            raise NotFoundError(f"there is no store at {path}", hint="Give a size, and it is made.")
        if request.path is None:
            path.parent.mkdir(parents=True, exist_ok=True)
        create_file(path, request.size_bytes, preallocate=request.preallocate)
        return path, True

    def _add(self, request: VolumeCreate, path: Path | None) -> VolumeRow:
        size, block_size = request.size_bytes, request.sector.block_size
        if size is None:
            assert path is not None
            try:
                with path.open("rb") as store:
                    size = store.seek(0, 2) // block_size * block_size
            except OSError as error:
                raise ConflictError(f"cannot open {path}: {error.strerror}") from error
        if size == 0:
            raise ConflictError(
                f"the store at {path} is empty", hint="Give a size for a new one at another path."
            )
        return self._catalogue.add_volume(
            request.name, request.kind, path, size, request.sector, request.owner, request.front_end
        )

    async def change_volume(self, name: str, request: VolumeChange) -> Volume:
        async with self._changing:
            volume = self._volume(name)
            if request.owner is not None:
                self._check_processor(request.owner)
                await asyncio.to_thread(self._catalogue.set_owner, volume.row.uuid, request.owner)
                volume.set_owner(request.owner)
            if request.size_bytes is not None:
                async with self._protection.changing:  # a splitter's maps are as large as it was
                    _check_growth(volume, request.size_bytes)
                    await volume.grow(self._catalogue, request.size_bytes, preallocate=request.preallocate)
                self._protection.announce()
                await self._front_ends.resized(volume)
            return await self._model(volume)

    async def move_volume(self, name: str, request: VolumeMove) -> Volume:
        async with self._changing:
            volume = self._volume(name)
            if request.front_end is volume.row.front_end:
                raise ConflictError(f"volume {name!r} is shown by the front end {request.front_end} already")
            if volume.error is not None:
                raise ConflictError(f"volume {name!r} is offline: {volume.error}")
            if volume.unit.medium.sense is not None:
                raise ConflictError(f"volume {name!r} is being formatted or sanitized")
            if not request.force:
                await self._check_unused(volume, "move")
            await self._front_ends.move(volume, request.front_end)
            return await self._model(volume)

    async def _check_unused(self, volume: ServedVolume, what: str) -> None:
        if users := await self._front_ends.users(volume):
            raise ConflictError(
                f"volume {volume.row.name!r} may be in use: {', '.join(users)}",
                hint=f"Log the initiators out, or unmount the disk; or {what} it with --force.",
            )

    def _check_processor(self, owner: Processor) -> None:
        if owner not in {portal.processor for portal in self.portals}:
            raise ConflictError(
                f"storage processor {owner} has no portal",
                hint=f'Give it one in the configuration: {{ address = "HOST:PORT", sp = "{owner}" }}'
                " among `portals` of [array].",
            )

    async def delete_volume(self, name: str, destroy: bool, force: bool) -> None:
        async with self._changing, self._protection.changing:  # no group takes it in meanwhile
            volume = self._volume(name)
            if volume.group is not None:
                raise ConflictError(
                    f"volume {name!r} is in group {volume.group!r}",
                    hint=f"Delete the group first: `iscsi-rp group delete {volume.group}`.",
                )
            if not force:
                await self._check_unused(volume, "delete")
            await self._front_ends.hide(volume)
            await asyncio.to_thread(self._catalogue.remove_volume, volume.row.uuid)
            del self._volumes[volume.row.uuid]
            self._protection.announce()
            await volume.close()
            if destroy and volume.row.kind is VolumeKind.FILE and volume.row.path is not None:
                await asyncio.to_thread(volume.row.path.unlink, True)
            # Last: LIO may refuse something of it, and the volume is gone all the same.
            await self.initiators.volume_deleted()

    async def apply_to_lio(self) -> list[str]:
        kernel = await self._front_ends.kernel()
        return await kernel.apply()

    # -- status

    async def list_sessions(self) -> list[Session]:
        return [session_model(each) for each in self._server.sessions()]

    async def disconnect(self, session_id: int) -> None:
        await self._server.disconnect(session_id)

    async def latencies(self) -> Latencies:
        volumes = []
        for volume in self._volumes.values():
            reads, writes = self._front_ends.latency(volume)
            volumes.append(VolumeLatency(volume=volume.row.name, reads=list(reads), writes=list(writes)))
        sessions = []
        for session in self._server.sessions():
            shown = self.initiators.shown_to(session.initiator.lower())
            for lun, (reads, writes) in sorted(session.latency.items()):
                sessions.append(
                    SessionLatency(
                        session=session.id,
                        initiator=session.initiator,
                        lun=lun,
                        volume=shown.get(lun, ""),
                        reads=list(reads),
                        writes=list(writes),
                    )
                )
        initiators = [
            InitiatorLatency(initiator=name, reads=list(reads), writes=list(writes))
            for name, (reads, writes) in self._server.latency_by_initiator().items()
        ]
        return Latencies(volumes=volumes, sessions=sessions, initiators=initiators)

    async def status(self) -> ArrayStatus:
        kernel = await self._front_ends.status()
        return ArrayStatus(
            name=self._name,
            array_id=self._catalogue.array_id,
            iqn=self._iqn,
            portals=self.portals,
            volumes=await self.list_volumes(),
            groups=[splitter_status(group, self._protection) for group in self._protection.groups.values()],
            sessions=await self.list_sessions(),
            appliance=self._protection.appliance,
            refused_logins=refused_model(self._server.logins),
            kernel=kernel,
            alerts=[
                *array_alerts(self._volumes.values(), self._protection),
                *self._space.alerts(),
                *kernel_alerts(kernel),
            ],
        )

    # -- jobs

    async def job(self, job_id: str) -> Job:
        return self._jobs.get(job_id)

    async def verify(self, group: str) -> Job:
        for each in self._protection.groups.values():
            if each.splitter.name == group:
                break
        else:
            raise NotFoundError(
                f"the array splits no group {group!r}", hint="`iscsi-rp group list` shows them."
            )
        mode = each.splitter.core.mode
        if mode is not Mode.SPLITTING:
            raise ConflictError(
                f"group {group!r} is {mode.value}, and can be verified when it is SPLITTING",
                hint="`iscsi-rp status` shows how far it is.",
            )
        if self._jobs.running("verify", group):
            raise ConflictError(f"group {group!r} is being verified already")
        return self._jobs.start("verify", group, _verification(each))


def _check_growth(volume: ServedVolume, size_bytes: int) -> None:
    """ConflictError, UsageError: the volume cannot have that size."""
    row = volume.row
    if size_bytes % row.block_size:
        raise UsageError(f"the size must be a multiple of the block size, {row.block_size} bytes")
    if size_bytes == row.size_bytes:
        raise ConflictError(f"volume {row.name!r} has {format_size(row.size_bytes)} already")
    if size_bytes < row.size_bytes:
        raise ConflictError(
            f"volume {row.name!r} has {format_size(row.size_bytes)}, and can only grow:"
            " hosts would lose what stands at its end",
            hint="For a smaller one, create another volume and copy the data on a host.",
        )
    if volume.group is not None:
        raise ConflictError(
            f"volume {row.name!r} is in group {volume.group!r}, whose copy and journal do not grow",
            hint=f"Delete the group by `iscsi-rp group delete {volume.group}`, resize, and make another one.",
        )
    if volume.error is not None:
        raise ConflictError(f"volume {row.name!r} is offline: {volume.error}")


def _verification(group: ProtectedGroup) -> Callable[[Progress], Awaitable[dict[str, JsonValue]]]:
    async def work(progress: Progress) -> dict[str, JsonValue]:
        resync = group.splitter.core.resync
        verification = Verification(total=sum(each.regions for each in group.splitter.core.marks.maps))
        progress.total = verification.total * REGION_BYTES
        group.splitter.verify(verification)
        while not verification.finished:
            progress.done = verification.compared * REGION_BYTES
            await asyncio.sleep(POLL_S)
        resync.verification = None
        if verification.failed is not None:
            raise UnreachableError(f"the verification was broken off: {verification.failed}")
        progress.done = progress.total
        different: list[JsonValue] = [
            {"volume": group.volumes[volume].row.name, "offset": offset}
            for volume, offset in verification.different
        ]
        return {
            "equal": not verification.differing,
            "compared_bytes": sum(volume.row.size_bytes for volume in group.volumes),
            "different_bytes": verification.differing * REGION_BYTES,
            "different": different,
        }

    return work
