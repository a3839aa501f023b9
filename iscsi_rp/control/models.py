"""What the management API speaks: one model for each object, the same on both sides of the socket.

Here is what all have in common; `array_models`, `access_models` and `appliance_models` have the rest.

Times are nanoseconds since 1970 UTC, sizes are bytes. Requests forbid keys that they do not know; answers may
have more than an older client knows.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, JsonValue, StringConstraints

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
