"""What the management API says of an array and its volumes (`control/models` says how)."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from iscsi_rp.control.models import Alert, Answer, Name, Request


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

    by_reason: dict[str, int] = Field(default_factory=dict)
    last: list[RefusedLogin] = Field(default_factory=list)
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
    sessions: list[KernelSession] = Field(default_factory=list)
    bus: str = ""
    "How targetcli learns of the array's backstores."
    differs: list[str] = Field(default_factory=list)
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
    appliance: str | None = None
    "Name of the appliance that is connected."
    refused_logins: RefusedLogins = RefusedLogins()
    kernel: KernelTarget | None = None
    "None: no volume is shown by it."
    alerts: list[Alert]
