"""The management API from the other side: typed calls, and the daemon's errors raised again."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Final, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, TypeAdapter, ValidationError

from iscsi_rp.control.access_models import (
    AccessChange,
    AccessRules,
    Initiator,
    InitiatorChange,
    InitiatorCreate,
)
from iscsi_rp.control.appliance_models import (
    ApplianceStatus,
    Bookmark,
    BookmarkCreate,
    DeletedGroup,
    GroupCreate,
    GroupStatus,
    ImageAccess,
    ImageList,
    ImageRequest,
    ImageSelector,
    RecoverRequest,
    RecoveryPlan,
)
from iscsi_rp.control.array_models import ArrayStatus, Session, Volume, VolumeChange, VolumeCreate, VolumeMove
from iscsi_rp.control.error_json import ErrorBody, error_of
from iscsi_rp.control.latency import Latencies
from iscsi_rp.control.models import Job, JobState
from iscsi_rp.errors import Error, UnreachableError, UsageError

CONNECT_TIMEOUT_S: Final = 2.0
ANSWER_TIMEOUT_S: Final = 600.0
"Preallocating a large store is the longest there is."

T = TypeVar("T")


class ApiClient:
    """A daemon's API. Every call raises the daemon's error, or UnreachableError."""

    daemon: ClassVar[str]

    def __init__(self, socket_path: Path, elsewhere: str | None = None) -> None:
        """`elsewhere` is the hint where the daemon does not run on this machine."""
        self._path = socket_path
        self._elsewhere = elsewhere
        self._http = httpx.Client(
            base_url="http://daemon",
            # Plain HTTP on this one socket: no proxies, and no time spent on reading certificates.
            transport=httpx.HTTPTransport(uds=str(socket_path), verify=False),
            trust_env=False,
            timeout=httpx.Timeout(ANSWER_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
        )

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def metrics(self) -> str:
        """In Prometheus' text format."""
        return self._call("GET", "/metrics").text

    def job(self, job_id: str) -> Job:
        return self._get(Job, _path("jobs", job_id))

    def follow(self, job: Job, poll_s: float = 0.2) -> Iterator[Job]:
        """The job again and again, until it is over. One that fails is raised as an Error."""
        yield job
        while job.state is JobState.RUNNING:
            time.sleep(poll_s)
            job = self.job(job.id)
            yield job
        if job.state is JobState.FAILED:
            raise Error(f"{job.kind} of group {job.group!r} failed: {job.message}")

    def wait(self, job: Job, poll_s: float = 0.2) -> Job:
        """The job when it is done. One that fails is raised as an Error."""
        *_, last = self.follow(job, poll_s)
        return last

    def _call(self, method: str, path: str, body: BaseModel | None = None, **params: Any) -> httpx.Response:
        given = {key: value for key, value in params.items() if value is not None}
        content = None if body is None else body.model_dump_json()
        headers = None if body is None else {"content-type": "application/json"}
        try:
            response = self._http.request(method, path, content=content, headers=headers, params=given)
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        if response.is_error:
            raise _error_in(response)
        return response

    def _get(self, answer: type[T], path: str, **params: Any) -> T:
        return self._read(answer, self._call("GET", path, **params))

    def _send(self, answer: type[T], method: str, path: str, body: BaseModel | None = None) -> T:
        return self._read(answer, self._call(method, path, body))

    def _read(self, answer: type[T], response: httpx.Response) -> T:
        try:
            return TypeAdapter(answer).validate_json(response.content)
        except ValidationError as error:
            raise Error(
                f"the {self.daemon} at {self._path} speaks another version of the API",
                hint="Restart the daemons after an upgrade.",
            ) from error

    def _unreachable(self, error: httpx.TransportError) -> UnreachableError:
        reason = str(error) or type(error).__name__
        return UnreachableError(
            f"the {self.daemon} does not answer at {self._path} ({reason})",
            hint=self._elsewhere
            or "Start it by `iscsi-rp up`, or say by --state or --config where it lives.",
        )


def _path(*parts: str) -> str:
    for part in parts:
        # A server sees an escaped slash as a slash: `db/image-access` would be something else.
        if part in ("", ".", "..") or "/" in part:
            raise UsageError(f"{part!r} is not a name")
    return "/" + "/".join(quote(part, safe="") for part in parts)


def _error_in(response: httpx.Response) -> Error:
    try:
        return error_of(ErrorBody.model_validate_json(response.content))
    except ValidationError:
        return Error(f"the daemon answered {response.status_code} {response.reason_phrase}")


class ArrayClient(ApiClient):
    daemon = "array"

    def status(self) -> ArrayStatus:
        return self._get(ArrayStatus, "/status")

    def list_volumes(self) -> list[Volume]:
        return self._get(list[Volume], "/volumes")

    def volume(self, name: str) -> Volume:
        return self._get(Volume, _path("volumes", name))

    def create_volume(self, request: VolumeCreate) -> Volume:
        return self._send(Volume, "POST", "/volumes", request)

    def change_volume(self, name: str, request: VolumeChange) -> Volume:
        return self._send(Volume, "PATCH", _path("volumes", name), request)

    def delete_volume(self, name: str, destroy: bool = False, force: bool = False) -> None:
        self._call("DELETE", _path("volumes", name), destroy=destroy, force=force)

    def move_volume(self, name: str, request: VolumeMove) -> Volume:
        return self._send(Volume, "POST", _path("volumes", name, "move"), request)

    def apply_to_lio(self) -> list[str]:
        """What was changed."""
        return self._send(list[str], "POST", "/lio/apply")

    def list_sessions(self) -> list[Session]:
        return self._get(list[Session], "/sessions")

    def disconnect(self, session_id: int) -> None:
        self._call("DELETE", _path("sessions", str(session_id)))

    def latencies(self) -> Latencies:
        return self._get(Latencies, "/latencies")

    def list_initiators(self) -> list[Initiator]:
        return self._get(list[Initiator], "/initiators")

    def initiator(self, name: str) -> Initiator:
        return self._get(Initiator, _path("initiators", name))

    def add_initiator(self, request: InitiatorCreate) -> Initiator:
        return self._send(Initiator, "POST", "/initiators", request)

    def change_initiator(self, name: str, request: InitiatorChange) -> Initiator:
        return self._send(Initiator, "PATCH", _path("initiators", name), request)

    def remove_initiator(self, name: str) -> None:
        self._call("DELETE", _path("initiators", name))

    def access(self) -> AccessRules:
        return self._get(AccessRules, "/access")

    def change_access(self, request: AccessChange) -> AccessRules:
        return self._send(AccessRules, "PATCH", "/access", request)

    def verify(self, group: str) -> Job:
        return self._send(Job, "POST", _path("groups", group, "verify"))


class ApplianceClient(ApiClient):
    daemon = "appliance"

    def status(self) -> ApplianceStatus:
        return self._get(ApplianceStatus, "/status")

    def list_groups(self) -> list[GroupStatus]:
        return self._get(list[GroupStatus], "/groups")

    def group(self, name: str) -> GroupStatus:
        return self._get(GroupStatus, _path("groups", name))

    def create_group(self, request: GroupCreate) -> GroupStatus:
        return self._send(GroupStatus, "POST", "/groups", request)

    def delete_group(self, name: str, destroy: bool = False) -> DeletedGroup | None:
        response = self._call("DELETE", _path("groups", name), destroy=destroy)
        return None if response.content == b"null" else self._read(DeletedGroup, response)

    def list_deleted_groups(self) -> list[DeletedGroup]:
        return self._get(list[DeletedGroup], "/deleted-groups")

    def list_bookmarks(self, group: str) -> list[Bookmark]:
        return self._get(list[Bookmark], _path("groups", group, "bookmarks"))

    def create_bookmark(self, group: str, request: BookmarkCreate) -> Bookmark:
        return self._send(Bookmark, "POST", _path("groups", group, "bookmarks"), request)

    def delete_bookmark(self, group: str, name: str) -> None:
        self._call("DELETE", _path("groups", group, "bookmarks", name))

    def list_images(
        self, group: str, since_ns: int | None = None, until_ns: int | None = None, limit: int = 20
    ) -> ImageList:
        path = _path("groups", group, "images")
        return self._get(ImageList, path, since_ns=since_ns, until_ns=until_ns, limit=limit)

    def image_access(self, group: str) -> ImageAccess | None:
        response = self._call("GET", _path("groups", group, "image-access"))
        return None if response.content == b"null" else self._read(ImageAccess, response)

    def enable_image(self, group: str, request: ImageRequest) -> ImageAccess:
        return self._send(ImageAccess, "PUT", _path("groups", group, "image-access"), request)

    def disable_image(self, group: str) -> None:
        self._call("DELETE", _path("groups", group, "image-access"))

    def undo_writes(self, group: str) -> ImageAccess:
        return self._send(ImageAccess, "POST", _path("groups", group, "image-access", "undo-writes"))

    def plan_recovery(self, group: str, image: ImageSelector | None = None) -> RecoveryPlan:
        return self._send(
            RecoveryPlan, "POST", _path("groups", group, "recovery-plan"), RecoverRequest(image=image)
        )

    def recover_production(self, group: str, image: ImageSelector | None = None) -> Job:
        return self._send(
            Job, "POST", _path("groups", group, "recover-production"), RecoverRequest(image=image)
        )
