"""What the management API says of an appliance, its groups and images (`control/models` says how)."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from iscsi_rp.control.models import Alert, Answer, BookmarkName, Name, Request
from iscsi_rp.units import GIB


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
    sessions: list[GroupSession] = Field(default_factory=list)
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
    spans: list[Span] = Field(default_factory=list)
    access: ImageAccess | None = None
    restoring: Moment | None = None
    alerts: list[Alert] = Field(default_factory=list)


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
