"""What the management API of an appliance does."""

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Final
from uuid import uuid4

import structlog

from iscsi_rp.appliance import catalogue, recovery
from iscsi_rp.appliance.access import Access
from iscsi_rp.appliance.group import MIN_JOURNAL_BYTES, Group
from iscsi_rp.appliance.group_files import allocated_bytes, destroy_files, make_files
from iscsi_rp.appliance.links import Links
from iscsi_rp.appliance.state import Note
from iscsi_rp.appliance.status import group_status
from iscsi_rp.clock import monotonic_s, utc_ns
from iscsi_rp.control.app import no_such
from iscsi_rp.control.appliance_models import (
    ApplianceStatus,
    Bookmark,
    BookmarkCreate,
    DeletedGroup,
    GroupCreate,
    GroupStatus,
    Image,
    ImageAccess,
    ImageList,
    ImageRequest,
    ImageSelector,
    RecoveryPlan,
)
from iscsi_rp.control.jobs import Jobs
from iscsi_rp.control.models import Alert, Job
from iscsi_rp.errors import ConflictError, Error, NotFoundError, UsageError
from iscsi_rp.frontend import IscsiServer
from iscsi_rp.link.connection import Way
from iscsi_rp.replication.messages import Announce, VolumeInfo
from iscsi_rp.units import format_size

CONNECT_S: Final = 5.0
"For an array to connect that has just started."
ANNOUNCE_S: Final = 0.5
"For an array to announce a volume that it has just made."
POLL_S: Final = 0.05
IMAGE_IQN: Final = "iqn.2026-11.io.iscsi-rp"

_log = structlog.get_logger(__name__)


class Service:
    """Implements `control.appliance_api.ApplianceService` over the daemon's parts."""

    def __init__(
        self, name: str, state: Path, book: catalogue.Catalogue, server: IscsiServer, way: Way
    ) -> None:
        self._name = name
        self._state = state
        self._catalogue = book
        self._server = server
        self.groups: dict[str, Group] = {}
        "By name."
        self._access: dict[str, Access] = {}
        "By group name."
        self.links = Links(way, book.cluster_id, name, lambda: list(self.groups.values()))
        self._jobs = Jobs()
        self._changing = asyncio.Lock()
        self.portals: list[str] = []

    # -- life

    async def start(self) -> None:
        """Open every group; one that cannot be opened is shown in the state `error`."""
        for row in self._catalogue.groups():
            group = self.groups[row.name] = self._make(row)
            try:
                await group.open()
                if row.access is not None:
                    await self._serve(group, row.access, anew=False)
            except Error as error:
                _log.error("group cannot be opened", group=row.name, reason=error.message)
                group.alerts["journal-error"] = Alert(
                    code="journal-error",
                    text=error.message,
                    next_step=error.hint or "See the appliance's log; hosts go on, their writes are marked.",
                )

    async def stop(self) -> None:
        await self._jobs.stop()
        for access in self._access.values():
            await access.close(forget=False)
        await self.links.stop()
        for group in self.groups.values():
            try:
                await group.close()
            except Error as error:
                _log.error("group not closed in order", group=group.row.name, reason=error.message)

    # -- groups

    def _make(self, row: catalogue.Group) -> Group:
        return Group(row, lambda lost: self._catalogue.set_lost(row.group_id, lost))

    def _group(self, name: str) -> Group:
        group = self.groups.get(name)
        if group is None:
            raise no_such("group", name, "iscsi-rp group list")
        return group

    def _running(self, name: str) -> Group:
        group = self._group(name)
        if not group.running:
            reason = next((alert.text for alert in group.alerts.values()), "its journal is not open")
            raise ConflictError(f"group {name!r} cannot be used: {reason}")
        return group

    async def list_groups(self) -> list[GroupStatus]:
        return [self._status(group) for group in self.groups.values()]

    async def group(self, name: str) -> GroupStatus:
        return self._status(self._group(name))

    async def create_group(self, request: GroupCreate) -> GroupStatus:
        async with self._changing:
            if request.name in self.groups:
                raise ConflictError(f"there is a group {request.name!r} already")
            if await self._left(request.name) is not None:
                raise _left_error(request.name)
            _check_journal(request.journal_bytes)
            row = self._new_row(request, [await self._announced(name) for name in request.volumes])
            await asyncio.to_thread(make_files, row)
            try:
                await asyncio.to_thread(self._catalogue.add_group, row)
                group = self._make(row)
                await group.open()
            except BaseException:
                copies = [each.copy_path for each in row.sets]
                await asyncio.to_thread(destroy_files, row.directory, copies)
                raise
            self.groups[row.name] = group
            self.links.tell()
            return self._status(group)

    async def _announced(self, name: str) -> tuple[Announce, VolumeInfo]:
        """The array and the volume; an array that has just started or made it may not have said so yet."""
        began_s = monotonic_s()
        while True:
            try:
                return self.links.find_volume(name)
            except NotFoundError:
                patience_s = ANNOUNCE_S if self.links.arrays else CONNECT_S
                if monotonic_s() - began_s > patience_s:
                    raise
            await asyncio.sleep(POLL_S)

    def _new_row(self, request: GroupCreate, found: list[tuple[Announce, VolumeInfo]]) -> catalogue.Group:
        array = found[0][0]
        if any(each.array_id != array.array_id for each, _ in found):
            raise ConflictError("the volumes of a group must be of one array")
        for group in self.groups.values():
            if taken := {each.volume_uuid for each in group.row.sets} & {volume.uuid for _, volume in found}:
                names = [volume.name for _, volume in found if volume.uuid in taken]
                raise ConflictError(f"volume {names[0]!r} is in group {group.row.name!r} already")
        group_id = str(uuid4())
        copies = request.copy_directory or self._copies_of(request.name)
        sets = tuple(
            catalogue.ReplicationSet(
                index,
                array.array_id,
                volume.uuid,
                volume.name,
                volume.size,
                volume.block_size,
                copies / f"{volume.name}.img",
            )
            for index, (_, volume) in enumerate(found)
        )
        directory = self._state / "groups" / group_id
        return catalogue.Group(group_id, request.name, request.journal_bytes, directory, sets, array.name)

    def _copies_of(self, group: str) -> Path:
        """Where its copies are, unless another folder was asked for."""
        return self._state / "copies" / group

    async def delete_group(self, name: str, destroy: bool) -> DeletedGroup | None:
        async with self._changing:
            if name not in self.groups and (left := await self._left(name)) is not None:
                if not destroy:
                    raise _left_error(name)
            else:
                left = await self._delete(self._group(name))
            if not destroy:
                return await asyncio.to_thread(_deleted_model, left)
            await asyncio.to_thread(destroy_files, left.directory, left.copies)
            with suppress(OSError):  # it is not there, or there is more in it
                self._copies_of(name).rmdir()
            await asyncio.to_thread(self._catalogue.forget_group, left.group_id)
            return None

    async def _delete(self, group: Group) -> catalogue.DeletedGroup:
        name = group.row.name
        if name in self._access:
            raise ConflictError(
                f"an image of group {name!r} is accessed", hint=f"`iscsi-rp image disable {name}` first."
            )
        if group.running and group.receiver.state.restoring is not None:
            raise ConflictError(f"production of group {name!r} is being recovered")
        left = await asyncio.to_thread(self._catalogue.delete_group, group.row, utc_ns())
        del self.groups[name]
        self.links.tell()
        await group.close()
        return left

    async def _left(self, name: str) -> catalogue.DeletedGroup | None:
        left = await asyncio.to_thread(self._catalogue.deleted_groups)
        return next((each for each in left if each.name == name), None)

    async def list_deleted_groups(self) -> list[DeletedGroup]:
        left = await asyncio.to_thread(self._catalogue.deleted_groups)
        return [await asyncio.to_thread(_deleted_model, each) for each in left]

    # -- status

    async def status(self) -> ApplianceStatus:
        return ApplianceStatus(
            name=self._name,
            cluster_id=self._catalogue.cluster_id,
            portals=self.portals,
            arrays=self.links.arrays,
            groups=await self.list_groups(),
            alerts=[
                *self.links.alerts(),
                *(alert for group in self.groups.values() for alert in group.alerts.values()),
            ],
        )

    def _status(self, group: Group) -> GroupStatus:
        return group_status(group, self._access.get(group.row.name))

    # -- bookmarks

    async def create_bookmark(self, group: str, request: BookmarkCreate) -> Bookmark:
        made = await self._running(group).bookmark(request.name, request.consistency)
        return Bookmark(
            name=made.name, position=made.position, time_ns=made.time_ns, consistency=request.consistency
        )

    async def list_bookmarks(self, group: str) -> list[Bookmark]:
        return self._running(group).offer().bookmarks()

    async def delete_bookmark(self, group: str, name: str) -> None:
        receiver = self._running(group).receiver
        if name not in receiver.state.bookmarks:
            raise no_such("bookmark", name, f"iscsi-rp bookmark list {group}")
        receiver.note(Note.UNBOOKMARK, {"name": name}, utc_ns())

    # -- images

    async def list_images(
        self, group: str, since_ns: int | None, until_ns: int | None, limit: int
    ) -> ImageList:
        return self._running(group).offer().listing(since_ns, until_ns, limit)

    async def enable_image(self, group: str, request: ImageRequest) -> ImageAccess:
        started = utc_ns()
        async with self._changing:
            runtime = self._running(group)
            if group in self._access:
                raise ConflictError(
                    f"an image of group {group!r} is accessed already",
                    hint=f"`iscsi-rp image disable {group}` first.",
                )
            image = runtime.offer().choose(ImageSelector(**request.model_dump(exclude={"writable"})))
            row = catalogue.Access(image.position, request.writable)
            await asyncio.to_thread(self._catalogue.set_access, runtime.row.group_id, row)
            try:
                access = await self._serve(runtime, row, anew=True)
            except BaseException:
                await asyncio.to_thread(self._catalogue.set_access, runtime.row.group_id, None)
                raise
        return access.model().model_copy(update={"seconds_to_ready": (utc_ns() - started) / 1e9})

    async def _serve(self, group: Group, row: catalogue.Access, *, anew: bool) -> Access:
        iqn = f"{IMAGE_IQN}:{self._name}.{group.row.name}"
        access = Access(group, row, iqn, self.portals[0], self._server)
        await access.serve(anew=anew)
        self._access[group.row.name] = access
        return access

    async def image_access(self, group: str) -> ImageAccess | None:
        self._group(group)
        access = self._access.get(group)
        return access.model() if access else None

    def _accessed(self, group: str) -> Access:
        self._group(group)
        access = self._access.get(group)
        if access is None:
            raise NotFoundError(
                f"no image of group {group!r} is accessed",
                hint=f"`iscsi-rp image enable {group} --latest` opens one.",
            )
        return access

    async def disable_image(self, group: str) -> None:
        async with self._changing:
            access = self._accessed(group)
            await asyncio.to_thread(self._catalogue.set_access, access.group.row.group_id, None)
            del self._access[group]
            await access.close(forget=True)

    async def undo_writes(self, group: str) -> ImageAccess:
        async with self._changing:
            access = self._accessed(group)
            await access.undo()
            return access.model()

    # -- recovering production

    def _chosen(self, group: Group, selector: ImageSelector | None) -> Image:
        if selector is None:
            position = self._accessed(group.row.name).row.position
            return Image(position=position, time_ns=group.offer().moment(position).time_ns)
        return group.offer().choose(selector)

    async def plan_recovery(self, group: str, selector: ImageSelector | None) -> RecoveryPlan:
        runtime = self._running(group)
        return await recovery.plan(runtime, self._chosen(runtime, selector))

    async def recover_production(self, group: str, selector: ImageSelector | None) -> Job:
        async with self._changing:
            runtime = self._running(group)
            work = await recovery.begin(runtime, self._chosen(runtime, selector))
            return self._jobs.start("recover-production", group, work)

    async def job(self, job_id: str) -> Job:
        return self._jobs.get(job_id)


def _left_error(name: str) -> ConflictError:
    return ConflictError(
        f"group {name!r} was deleted, and its journal and copies are there still",
        hint=f"`iscsi-rp group delete {name} --destroy` removes them. Move away what you want to keep.",
    )


def _deleted_model(left: catalogue.DeletedGroup) -> DeletedGroup:
    """Blocks."""
    return DeletedGroup(
        name=left.name,
        id=left.group_id,
        deleted_ns=left.deleted_ns,
        journal=left.directory,
        copies=list(left.copies),
        allocated_bytes=allocated_bytes(left.directory, left.copies),
    )


def _check_journal(journal_bytes: int) -> None:
    """UsageError: a journal of that capacity could not keep a window."""
    if journal_bytes < MIN_JOURNAL_BYTES:
        raise UsageError(
            f"a journal of {format_size(journal_bytes)} is too small to go back in:"
            f" it takes {format_size(MIN_JOURNAL_BYTES)} at least",
            hint="As a start, give `--journal` what hosts write in the time that you want to go back.",
        )
