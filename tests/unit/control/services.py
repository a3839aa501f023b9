"""Services that keep everything in memory: they stand behind the API when only API or CLI is tested."""

from collections.abc import Sequence
from pathlib import Path

from iscsi_rp.control.access_models import (
    AccessChange,
    AccessMode,
    AccessRules,
    Authentication,
    Initiator,
    InitiatorChange,
    InitiatorCreate,
    Lun,
)
from iscsi_rp.control.app import no_such
from iscsi_rp.control.appliance_models import (
    ApplianceStatus,
    Bookmark,
    BookmarkCreate,
    DeletedGroup,
    GroupCreate,
    GroupSession,
    GroupState,
    GroupStatus,
    GroupVolume,
    Image,
    ImageAccess,
    ImageList,
    ImageLun,
    ImageRange,
    ImageRequest,
    ImageSelector,
    Moment,
    RecoveryPlan,
    Span,
)
from iscsi_rp.control.array_models import (
    ArrayStatus,
    FrontEnd,
    KernelTarget,
    Portal,
    Processor,
    RefusedLogins,
    Session,
    SplitterMode,
    SplitterStatus,
    Volume,
    VolumeChange,
    VolumeCreate,
    VolumeMove,
)
from iscsi_rp.control.latency import InitiatorLatency, Latencies, SessionLatency, VolumeLatency
from iscsi_rp.control.models import Alert, Job, JobState
from iscsi_rp.errors import ConflictError

HOST = "iqn.2026-11.test:host"
IQN = "iqn.2026-11.io.iscsi-rp:array-1"
START_NS = 1_795_399_849_000_000_000
"Position 0; each position is a millisecond later."
END = 1000


def time_of(position: int) -> int:
    return START_NS + position * 1_000_000


class MemoryInitiators:
    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self.listed: dict[str, Initiator] = {}
        self.logged_in = [Initiator(name=HOST, listed=False, luns=[Lun(lun=0, volume="data")], sessions=[1])]
        self.secrets: dict[str, Authentication] = {}
        self.access = AccessRules(mode=AccessMode.OPEN)

    async def list(self) -> Sequence[Initiator]:
        return list({**{each.name: each for each in self.logged_in}, **self.listed}.values())

    async def get(self, name: str) -> Initiator:
        for initiator in await self.list():
            if initiator.name == name:
                return initiator
        raise no_such("initiator", name, "iscsi-rp initiator list")

    async def add(self, request: InitiatorCreate) -> Initiator:
        if request.name in self.listed:
            raise ConflictError(f"initiator {request.name} is listed already")
        self.listed[request.name] = Initiator(name=request.name, listed=True, luns=[], sessions=[])
        change = InitiatorChange(authentication=request.authentication, luns=request.luns)
        return await self.change(request.name, change)

    async def change(self, name: str, request: InitiatorChange) -> Initiator:
        if name not in self.listed:
            raise no_such("listed initiator", name, "iscsi-rp initiator list")
        changes: dict[str, object] = {}
        if (auth := request.authentication) is not None:
            self.secrets[name] = auth
            changes["chap_user"] = auth.chap.user if auth.chap else None
            changes["mutual_user"] = auth.mutual.user if auth.mutual else None
        if request.luns is not None:
            luns = [Lun(lun=each.lun or 0, volume=each.volume) for each in request.luns]
            changes |= {"masked": True, "luns": luns}
        if request.all_luns:
            changes |= {"masked": False, "luns": []}
        self.listed[name] = self.listed[name].model_copy(update=changes)
        return self.listed[name]

    async def remove(self, name: str) -> None:
        if self.listed.pop(name, None) is None:
            raise no_such("listed initiator", name, "iscsi-rp initiator list")

    async def rules(self) -> AccessRules:
        return self.access

    async def set_rules(self, request: AccessChange) -> AccessRules:
        changes: dict[str, object] = {} if request.mode is None else {"mode": request.mode}
        if (auth := request.discovery) is not None:
            changes["discovery_chap_user"] = auth.chap.user if auth.chap else None
        self.access = self.access.model_copy(update=changes)
        return self.access


class MemoryArray:
    def __init__(self) -> None:
        self.initiators = MemoryInitiators()
        self.forget()

    def forget(self) -> None:
        self.alerts = [Alert(code="A1", text="it smells of smoke", next_step="Look for fire.")]
        self.volumes: dict[str, Volume] = {}
        self.jobs: dict[str, Job] = {}
        self.verification: dict[str, bool | int] = {
            "equal": True,
            "compared_bytes": 1 << 20,
            "different_bytes": 0,
        }
        self.deleted: list[tuple[str, bool, bool]] = []
        self.session_ids = [1]
        self.lio_differs: list[str] = []
        self.refused_logins = RefusedLogins()
        self.initiators.forget()

    async def status(self) -> ArrayStatus:
        groups = sorted({volume.group for volume in self.volumes.values() if volume.group})
        return ArrayStatus(
            name="array-1",
            array_id="array-id",
            iqn=IQN,
            portals=[Portal(address="127.0.0.1:3260", processor=Processor.A)],
            volumes=list(self.volumes.values()),
            groups=[
                SplitterStatus(group=name, appliance="rpa-1", mode=SplitterMode.SPLITTING, since_ns=START_NS)
                for name in groups
            ],
            sessions=await self.list_sessions(),
            refused_logins=self.refused_logins,
            kernel=self._kernel(),
            alerts=self.alerts,
        )

    def _kernel(self) -> KernelTarget | None:
        served = [name for name, volume in self.volumes.items() if volume.front_end is FrontEnd.LIO]
        portals = [Portal(address="192.0.2.1:3260", processor=Processor.A)]
        return (
            KernelTarget(iqn=f"{IQN}.lio", portals=portals, volumes=served, differs=self.lio_differs)
            if served
            else None
        )

    async def list_volumes(self) -> list[Volume]:
        return list(self.volumes.values())

    async def create_volume(self, request: VolumeCreate) -> Volume:
        if request.name in self.volumes:
            raise ConflictError(f"there is a volume {request.name!r} already", hint="Choose another name.")
        self.volumes[request.name] = Volume(
            name=request.name,
            uuid=f"uuid-{request.name}",
            naa="6001405" + "0" * 25,
            lun=len(self.volumes),
            size_bytes=request.size_bytes or 4096,
            block_size=request.sector.block_size,
            physical_block_size=request.sector.physical_block_size,
            owner=request.owner,
            front_end=request.front_end,
            device="/dev/sdb" if request.front_end is FrontEnd.LOCAL else None,
            kind=request.kind,
            path=request.path or Path(f"/v/{request.name}.img"),
        )
        return self.volumes[request.name]

    async def delete_volume(self, name: str, destroy: bool, force: bool) -> None:
        if name not in self.volumes:
            raise no_such("volume", name, "iscsi-rp volume list")
        if self.volumes[name].group:
            raise ConflictError(f"volume {name!r} is in group {self.volumes[name].group!r}")
        del self.volumes[name]
        self.deleted.append((name, destroy, force))

    async def list_sessions(self) -> list[Session]:
        return [
            Session(
                id=number,
                initiator=HOST,
                target=IQN,
                peer="127.0.0.1:40000",
                portal="127.0.0.1:3260",
                processor=Processor.A,
                since_ns=START_NS,
                auth="CHAP SHA-256",
                commands=7,
            )
            for number in self.session_ids
        ]

    async def disconnect(self, session_id: int) -> None:
        if session_id not in self.session_ids:
            raise no_such("session", str(session_id), "iscsi-rp session list")
        self.session_ids.remove(session_id)

    async def latencies(self) -> Latencies:
        reads = [0] * 7 + [98, 1, 0, 1]
        writes = [0] * 11
        return Latencies(
            volumes=[VolumeLatency(volume=name, reads=reads, writes=writes) for name in self.volumes],
            sessions=[
                SessionLatency(session=n, initiator=HOST, lun=3, volume="data", reads=reads, writes=writes)
                for n in self.session_ids
            ],
            initiators=[InitiatorLatency(initiator=HOST, reads=reads, writes=writes)],
        )

    async def change_volume(self, name: str, request: VolumeChange) -> Volume:
        if name not in self.volumes:
            raise no_such("volume", name, "iscsi-rp volume list")
        changes = request.model_dump(exclude={"preallocate"}, exclude_none=True)
        self.volumes[name] = self.volumes[name].model_copy(update=changes)
        return self.volumes[name]

    async def move_volume(self, name: str, request: VolumeMove) -> Volume:
        if name not in self.volumes:
            raise no_such("volume", name, "iscsi-rp volume list")
        if self.session_ids and not request.force:
            raise ConflictError(f"volume {name!r} may be in use: {HOST}", hint="Use --force.")
        self.volumes[name] = self.volumes[name].model_copy(update={"front_end": request.front_end})
        return self.volumes[name]

    async def apply_to_lio(self) -> list[str]:
        done, self.lio_differs = self.lio_differs, []
        return done

    async def verify(self, group: str) -> Job:
        job = Job(
            id="v1", kind="verify", group=group, state=JobState.RUNNING, total=1 << 20, started_ns=START_NS
        )
        done = {"state": JobState.DONE, "done": 1 << 20, "result": self.verification}
        self.jobs["v1"] = job.model_copy(update=done)
        return job

    async def job(self, job_id: str) -> Job:
        if job_id not in self.jobs:
            raise no_such("job", job_id, "iscsi-rp status")
        return self.jobs[job_id]


class MemoryAppliance:
    def __init__(self, array: MemoryArray) -> None:
        self.array = array
        self.forget()

    def forget(self) -> None:
        self.groups: dict[str, GroupStatus] = {}
        self.bookmarks: list[Bookmark] = []
        self.access: ImageAccess | None = None
        self.recovered: list[ImageSelector | None] = []
        self.deleted: list[tuple[str, bool]] = []
        self.left: dict[str, DeletedGroup] = {}
        self.recovery_fails = False

    async def status(self) -> ApplianceStatus:
        return ApplianceStatus(
            name="rpa-1",
            cluster_id="cluster-id",
            portals=["127.0.0.1:3261"],
            arrays=["array-1"],
            groups=await self.list_groups(),
            alerts=[],
        )

    async def list_groups(self) -> list[GroupStatus]:
        return [group.model_copy(update={"access": self.access}) for group in self.groups.values()]

    async def create_group(self, request: GroupCreate) -> GroupStatus:
        volumes = []
        for index, name in enumerate(request.volumes):
            volume = self.array.volumes.get(name)
            if volume is None:
                raise no_such("volume", name, "iscsi-rp volume list")
            self.array.volumes[name] = volume.model_copy(update={"group": request.name})
            copy_path = Path(f"/c/{name}.img")
            volumes.append(
                GroupVolume(
                    index=index,
                    name=name,
                    uuid=volume.uuid,
                    size_bytes=volume.size_bytes,
                    copy_path=copy_path,
                )
            )
        last = Moment(position=END, time_ns=time_of(END))
        self.groups[request.name] = GroupStatus(
            name=request.name,
            id=f"id-{request.name}",
            state=GroupState.ACTIVE,
            volumes=volumes,
            sessions=[GroupSession(array="array-1", session=3, since_ns=START_NS)],
            end=END,
            sealed=END,
            window_start=Moment(position=1, time_ns=time_of(1)),
            latest=last,
            window_s=1.0,
            journal_bytes_capacity=request.journal_bytes,
            lag_bytes=4096,
            spans=[
                Span(
                    first=Moment(position=10, time_ns=time_of(10)),
                    last=Moment(position=20, time_ns=time_of(20)),
                )
            ],
        )
        return self.groups[request.name]

    async def delete_group(self, name: str, destroy: bool) -> DeletedGroup | None:
        if not (destroy and name in self.left):
            group = await self.group(name)
            del self.groups[name]
            copies = [volume.copy_path for volume in group.volumes]
            self.left[name] = DeletedGroup(
                name=name,
                id=group.id,
                deleted_ns=START_NS,
                journal=Path("/j"),
                copies=copies,
                allocated_bytes=5,
            )
        self.deleted.append((name, destroy))
        if not destroy:
            return self.left[name]
        del self.left[name]
        return None

    async def list_deleted_groups(self) -> list[DeletedGroup]:
        return list(self.left.values())

    async def group(self, name: str) -> GroupStatus:
        if name not in self.groups:
            raise no_such("group", name, "iscsi-rp group list")
        return self.groups[name].model_copy(update={"access": self.access})

    async def create_bookmark(self, group: str, request: BookmarkCreate) -> Bookmark:
        await self.group(group)
        if any(mark.name == request.name for mark in self.bookmarks):
            raise ConflictError(f"group {group!r} has a bookmark {request.name!r} already")
        position = 100 + len(self.bookmarks)
        mark = Bookmark(
            name=request.name, position=position, time_ns=time_of(position), consistency=request.consistency
        )
        self.bookmarks.append(mark)
        return mark

    async def list_bookmarks(self, group: str) -> list[Bookmark]:
        await self.group(group)
        return self.bookmarks

    async def delete_bookmark(self, group: str, name: str) -> None:
        await self.group(group)
        kept = [mark for mark in self.bookmarks if mark.name != name]
        if kept == self.bookmarks:
            raise no_such("bookmark", name, f"iscsi-rp bookmark list {group}")
        self.bookmarks = kept

    async def list_images(
        self, group: str, since_ns: int | None, until_ns: int | None, limit: int
    ) -> ImageList:
        status = await self.group(group)
        assert status.window_start is not None
        assert status.latest is not None
        window = ImageRange(first=status.window_start, last=status.latest)
        positions = [
            position
            for position in range(END, 0, -1)
            if (since_ns is None or time_of(position) >= since_ns)
            and (until_ns is None or time_of(position) <= until_ns)
        ]
        named = {mark.position: mark.name for mark in self.bookmarks}
        return ImageList(
            window=window,
            offered=[window],
            bookmarks=self.bookmarks,
            images=[Image(position=p, time_ns=time_of(p), bookmark=named.get(p)) for p in positions[:limit]],
        )

    def _choose(self, selector: ImageSelector | None) -> Image:
        if selector is None:
            if self.access is None:
                raise ConflictError("no image is accessed", hint="Choose one.")
            return Image(position=self.access.position, time_ns=self.access.time_ns)
        if selector.bookmark is not None:
            for mark in self.bookmarks:
                if mark.name == selector.bookmark:
                    return Image(position=mark.position, time_ns=mark.time_ns, bookmark=mark.name)
            raise no_such("bookmark", selector.bookmark, "iscsi-rp bookmark list")
        position = END if selector.latest else selector.position
        if position is None:
            assert selector.time_ns is not None
            position = (selector.time_ns - START_NS) // 1_000_000
        if not 1 <= position <= END:
            raise ConflictError(f"there is no image at position {position}", hint=f"The nearest is {END}.")
        return Image(position=position, time_ns=time_of(position))

    async def enable_image(self, group: str, request: ImageRequest) -> ImageAccess:
        status = await self.group(group)
        chosen = self._choose(request)
        self.access = ImageAccess(
            group=group,
            position=chosen.position,
            time_ns=chosen.time_ns,
            iqn=f"{IQN}.{group}",
            portal="127.0.0.1:3261",
            luns=[
                ImageLun(volume=v.name, lun=v.index, naa="6001405" + "1" * 25, size_bytes=v.size_bytes)
                for v in status.volumes
            ],
            writable=request.writable,
            log_bytes_used=8192 if request.writable else 0,
            log_bytes_capacity=1 << 30,
        )
        return self.access

    async def image_access(self, group: str) -> ImageAccess | None:
        await self.group(group)
        return self.access

    async def disable_image(self, group: str) -> None:
        await self.group(group)
        self.access = None

    async def undo_writes(self, group: str) -> ImageAccess:
        await self.group(group)
        if self.access is None:
            raise ConflictError("no image is accessed")
        self.access = self.access.model_copy(update={"log_bytes_used": 0})
        return self.access

    async def plan_recovery(self, group: str, selector: ImageSelector | None) -> RecoveryPlan:
        status = await self.group(group)
        image = self._choose(selector)
        names = [volume.name for volume in status.volumes]
        later = END - image.position
        return RecoveryPlan(
            group=group, image=image, volumes=names, later_writes=later, touched_bytes=later * 65536
        )

    async def recover_production(self, group: str, selector: ImageSelector | None) -> Job:
        await self.plan_recovery(group, selector)
        self.recovered.append(selector)
        return Job(
            id="r1", kind="recover-production", group=group, state=JobState.RUNNING, started_ns=START_NS
        )

    async def job(self, job_id: str) -> Job:
        state = JobState.FAILED if self.recovery_fails else JobState.DONE
        return Job(
            id=job_id,
            kind="recover-production",
            group="db",
            state=state,
            done=100,
            total=100,
            message="the array is gone" if self.recovery_fails else "",
            started_ns=START_NS,
            finished_ns=START_NS + 1_500_000_000,
        )
