"""What the management API speaks: one model for each object, the same on both sides of the socket.

Times are nanoseconds since 1970 UTC, sizes are bytes. Requests forbid keys that they do not know; answers may
have more than an older client knows.
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, model_validator

from iscsi_rp.units import GIB

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
"A volume, group, array or appliance: lower case, digits and `._-`, at most 63."
BookmarkName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,62}$")]


class Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class Request(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Alert(Answer):
    """Something an operator should know, until it is over."""

    code: str
    text: str
    next_step: str
    group: str | None = None
    "Which it concerns, where the array says it of one."


class JobState(StrEnum):
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class Job(Answer):
    """Work that goes on after the request was answered."""

    id: str
    kind: str
    "`verify` or `recover-production`"
    group: str
    state: JobState
    done: int = 0
    total: int = 0
    unit: str = "bytes"
    message: str = ""
    "What it is doing; why, when it has failed."
    started_ns: int
    finished_ns: int | None = None
    result: dict[str, JsonValue] = {}
    "A verification that is done has `equal` (bool), `compared_bytes` and `different_bytes`."


# --- the array ----------------------------------------------------------------------------------------------


class VolumeKind(StrEnum):
    FILE = "file"
    BLOCK = "block"
    MEMORY = "memory"


class FrontEnd(StrEnum):
    """What shows a volume to hosts; one at a time."""

    EMBEDDED = "embedded"
    "The array's own iSCSI target."
    LIO = "lio"
    "The kernel's target."
    LOCAL = "local"
    "A SCSI disk of the machine that the array runs on: the host-based splitter."


class VolumeState(StrEnum):
    ONLINE = "online"
    OFFLINE = "offline"
    "Its store could not be opened: `Volume.error` says why."
    RESTORING = "restoring"
    "Blocked for hosts while production is recovered."


class Processor(StrEnum):
    """A storage processor: one portal group of the array's target (SP A is 1, SP B is 2)."""

    A = "A"
    B = "B"

    @property
    def portal_group(self) -> int:
        return 1 if self is Processor.A else 2

    @classmethod
    def of(cls, portal_group: int) -> Self:
        return cls("A" if portal_group == 1 else "B")


class Sector(StrEnum):
    """Sizes of a disk's logical and physical blocks."""

    E512 = "512e"
    N512 = "512n"
    N4K = "4kn"

    @property
    def block_size(self) -> int:
        return 4096 if self is Sector.N4K else 512

    @property
    def physical_block_size(self) -> int:
        return 512 if self is Sector.N512 else 4096


class VolumeCreate(Request):
    name: Name
    size_bytes: Annotated[int, Field(gt=0)] | None = None
    "None: as large as what is at `path`."
    kind: VolumeKind = VolumeKind.FILE
    path: Path | None = None
    "None: `NAME.img` below the array's state."
    preallocate: bool = False
    sector: Sector = Sector.E512
    owner: Processor = Processor.A
    "The storage processor through which it is best reached."
    front_end: FrontEnd = FrontEnd.EMBEDDED

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.path is not None and not self.path.is_absolute():
            raise ValueError("path must be absolute: the daemon has a working directory of its own")
        if self.kind is VolumeKind.MEMORY and self.path is not None:
            raise ValueError("a memory volume has no path")
        if self.kind is VolumeKind.BLOCK and self.path is None:
            raise ValueError("a block volume needs the path of its block special file")
        if self.size_bytes is None and self.path is None:
            raise ValueError("a new store needs a size")
        block_size = self.sector.block_size
        if self.size_bytes is not None and self.size_bytes % block_size:
            raise ValueError(f"the size must be a multiple of the block size, {block_size} bytes")
        return self


class VolumeChange(Request):
    """What is given is changed. A volume only grows."""

    size_bytes: Annotated[int, Field(gt=0)] | None = None
    preallocate: bool = False
    "Take the space for the new part now."
    owner: Processor | None = None


class VolumeMove(Request):
    """Show it by another front end. Registrations that survive a loss of power (APTPL) go with it."""

    front_end: FrontEnd
    force: bool = False
    "Even while hosts use it."


class Volume(Answer):
    name: str
    uuid: str
    naa: str
    "32 hexadecimal digits: the LUN's NAA designator, type 6 (SPC-4 7.8.6.6)."
    lun: int
    size_bytes: int
    block_size: int
    physical_block_size: int = 4096
    kind: VolumeKind
    path: Path | None
    owner: Processor = Processor.A
    front_end: FrontEnd = FrontEnd.EMBEDDED
    device: str | None = None
    "Of a local volume: the disk that it is, `/dev/sdX`; None while there is none."
    group: str | None = None
    state: VolumeState = VolumeState.ONLINE
    error: str | None = None


class Portal(Answer):
    """Where initiators reach the array."""

    address: str
    processor: Processor


class Session(Answer):
    """An initiator's session (an I_T nexus)."""

    id: int
    "Target session identifying handle."
    initiator: str
    target: str
    peer: str
    "Address and port of the initiator."
    portal: str
    processor: Processor
    since_ns: int
    auth: str = "none"
    digests: str = "none"
    commands: int = 0
    outstanding: int = 0
    read_bytes: int = 0
    written_bytes: int = 0


class SplitterMode(StrEnum):
    DETACHED = "DETACHED"
    MARKING = "MARKING"
    RESYNCING = "RESYNCING"
    SPLITTING = "SPLITTING"


class Resync(Answer):
    done_bytes: int
    total_bytes: int
    rate_bytes_s: float = 0.0
    remaining_s: float | None = None


class SplitterStatus(Answer):
    """A group as the array's splitter sees it."""

    group: str
    appliance: str
    mode: SplitterMode
    since_ns: int
    session: int = 0
    marked_bytes: int = 0
    to_sync_bytes: int = 0
    inflight: int = 0
    "Writes sent and not yet received by the appliance."
    resync: Resync | None = None
    last_error: str | None = None


class RefusedLogin(Answer):
    """A login that the array refused."""

    time_ns: int
    peer: str
    initiator: str
    "As it called itself; empty before it did."
    reason: str
    detail: str


class RefusedLogins(Answer):
    """Those since the array started."""

    by_reason: dict[str, int] = {}
    last: list[RefusedLogin] = []
    "A few, newest first."


class KernelSession(Answer):
    """An initiator's session with a target of the kernel that shows volumes, whoever made that."""

    initiator: str
    target: str
    portal_group: int
    address: str | None = None
    "Of the initiator. The kernel tells neither this nor the state of one that is not listed."
    state: str | None = None


class KernelTarget(Answer):
    """The kernel's target, as far as it is the array's."""

    iqn: str
    portals: list[Portal]
    volumes: list[str]
    "Those that it serves now: their commands come here."
    sessions: list[KernelSession] = []
    bus: str = ""
    "How targetcli learns of the array's backstores."
    differs: list[str] = []
    "What LIO lacks or has beyond what it should, as changes; empty when all is as it should be."
    error: str | None = None


class ArrayStatus(Answer):
    name: str
    array_id: str
    iqn: str
    portals: list[Portal]
    volumes: list[Volume]
    groups: list[SplitterStatus]
    sessions: list[Session]
    refused_logins: RefusedLogins = RefusedLogins()
    kernel: KernelTarget | None = None
    "None: no volume is shown by it."
    alerts: list[Alert]


# --- the appliance ------------------------------------------------------------------------------------------


class Moment(Answer):
    """A position in a group's history and its time."""

    position: int
    time_ns: int


class Span(Answer):
    """A stretch of history without images. It is open while `last` is None."""

    first: Moment
    last: Moment | None = None


class GroupCreate(Request):
    name: Name
    volumes: Annotated[list[Name], Field(min_length=1, max_length=256)]
    journal_bytes: Annotated[int, Field(gt=0)] = 10 * GIB
    copy_directory: Path | None = None
    "Where the copy volumes are made. None: below the appliance's state."

    @model_validator(mode="after")
    def _together(self) -> Self:
        if len(set(self.volumes)) < len(self.volumes):
            raise ValueError("a volume can be in a group only once")
        if self.copy_directory is not None and not self.copy_directory.is_absolute():
            raise ValueError("copy_directory must be absolute: the daemon has a working directory of its own")
        return self


class GroupVolume(Answer):
    """A replication set: a production volume and its copy."""

    index: int
    name: str
    uuid: str
    size_bytes: int
    copy_path: Path


class GroupSession(Answer):
    """A splitter's session with the group."""

    array: str
    session: int
    since_ns: int
    state: str = ""


class GroupState(StrEnum):
    INITIALIZING = "initializing"
    ACTIVE = "active"
    PAUSED = "paused"
    RESTORING = "restoring"
    ERROR = "error"


class Bookmark(Answer):
    name: str
    position: int
    time_ns: int
    consistency: Literal["crash", "application"] = "crash"


class BookmarkCreate(Request):
    name: BookmarkName
    consistency: Literal["crash", "application"] = "crash"


class ImageSelector(Request):
    """Exactly one way to choose an image. A time chooses the newest image at or before it."""

    latest: bool = False
    bookmark: str | None = None
    time_ns: Annotated[int, Field(ge=0)] | None = None
    position: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        ways = (self.latest or None, self.bookmark, self.time_ns, self.position)
        if sum(way is not None for way in ways) != 1:
            raise ValueError("choose an image by exactly one of latest, bookmark, time_ns and position")
        return self


class ImageRequest(ImageSelector):
    writable: bool = True
    "Writes go to an access log over the image; `undo_writes` drops them."


class Image(Answer):
    position: int
    time_ns: int
    bookmark: str | None = None


class ImageRange(Answer):
    """Every position from `first` to `last`, both included, is an image."""

    first: Moment
    last: Moment


class ImageList(Answer):
    window: ImageRange | None
    "The protection window, spans included. None while there is no image at all."
    offered: list[ImageRange]
    bookmarks: list[Bookmark]
    images: list[Image]
    "A sample of what was asked for, newest first."


class ImageLun(Answer):
    volume: str
    lun: int
    naa: str
    size_bytes: int


class ImageAccess(Answer):
    group: str
    position: int
    time_ns: int
    mode: Literal["virtual access"] = "virtual access"
    iqn: str
    portal: str
    luns: list[ImageLun]
    writable: bool
    log_bytes_used: int = 0
    log_bytes_capacity: int = 0
    read_only_reason: str | None = None
    seconds_to_ready: float = 0.0


class RecoveryPlan(Answer):
    """What recovering production would do."""

    group: str
    image: Image
    volumes: list[str]
    later_writes: int
    "Records after the image: they stay in the journal, and production no longer has them."
    touched_bytes: int
    "Regions written after the image: at most this much is written back."


class RecoverRequest(Request):
    image: ImageSelector | None = None
    "None: the image that is accessed."


class GroupStatus(Answer):
    name: str
    id: str
    state: GroupState
    volumes: list[GroupVolume]
    sessions: list[GroupSession] = []
    end: int = 0
    "The newest record; then up to where records are durable, sealed, and in the copy."
    durable: int = 0
    sealed: int = 0
    distributed: int = 0
    window_start: Moment | None = None
    latest: Moment | None = None
    "The oldest and the newest image."
    window_s: float = 0.0
    journal_bytes_used: int = 0
    journal_bytes_capacity: int = 0
    lag_bytes: int = 0
    lag_writes: int = 0
    "What is in the journal and not yet in the copy."
    spans: list[Span] = []
    access: ImageAccess | None = None
    restoring: Moment | None = None
    alerts: list[Alert] = []


class DeletedGroup(Answer):
    """What a group left that was deleted without its files."""

    name: str
    id: str
    deleted_ns: int
    journal: Path
    "A folder."
    copies: list[Path]
    allocated_bytes: int
    "What all of it takes of its file systems."


class ApplianceStatus(Answer):
    name: str
    cluster_id: str
    portals: list[str]
    arrays: list[str]
    "Names of the arrays that are connected."
    groups: list[GroupStatus]
    alerts: list[Alert]
