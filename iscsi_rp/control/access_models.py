"""What the management API says about initiators: who may log in, how they prove who they are, what they see.

A secret goes in and never comes out.
"""

from enum import StrEnum
from typing import Annotated, Self

from pydantic import AfterValidator, Field, PlainSerializer, SecretStr, model_validator

from iscsi_rp.control.config import check_iscsi_name
from iscsi_rp.control.models import Answer, Name, Request
from iscsi_rp.iscsi.access import SECRET_BYTES

LunNumber = Annotated[int, Field(ge=0, lt=1 << 14)]
IscsiName = Annotated[str, AfterValidator(str.lower), AfterValidator(check_iscsi_name)]


def _check_secret(secret: SecretStr) -> SecretStr:
    if len(secret.get_secret_value().encode()) not in SECRET_BYTES:
        raise ValueError(f"a CHAP secret has {SECRET_BYTES[0]} to {SECRET_BYTES[-1]} bytes (RFC 7143 9.2.1)")
    return secret


def _reveal(secret: SecretStr) -> str:
    """For the request itself; whatever else shows a secret shows asterisks."""
    return secret.get_secret_value()


class ChapCredentials(Request):
    user: Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^\x00]+$")]
    secret: Annotated[SecretStr, AfterValidator(_check_secret), PlainSerializer(_reveal, when_used="json")]


class Authentication(Request):
    """CHAP: how the initiator proves itself, and how the array does. None: it does not."""

    chap: ChapCredentials | None = None
    mutual: ChapCredentials | None = None

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.mutual is None:
            return self
        if self.chap is None:
            raise ValueError("mutual CHAP needs the initiator's own user and secret, too")
        if self.mutual.secret == self.chap.secret:
            raise ValueError("the CHAP secrets of the two directions must differ (RFC 7143 9.2.1)")
        return self


class ShownVolume(Request):
    volume: Name
    lun: LunNumber | None = None
    "As the initiator sees it. None: the array's LUN of the volume."


class InitiatorCreate(Request):
    name: IscsiName
    authentication: Authentication = Authentication()
    luns: Annotated[list[ShownVolume], Field(max_length=256)] | None = None
    "None: all volumes, by their LUNs."


class InitiatorChange(Request):
    """What is given is changed."""

    authentication: Authentication | None = None
    luns: Annotated[list[ShownVolume], Field(max_length=256)] | None = None
    all_luns: bool = False

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.all_luns and self.luns is not None:
            raise ValueError("either all LUNs or those of a list")
        return self


class Lun(Answer):
    lun: int
    volume: str


class Initiator(Answer):
    """One that is listed, or logged in."""

    name: str
    listed: bool
    chap_user: str | None = None
    "What it must log in with; None: no authentication."
    mutual_user: str | None = None
    "What the array proves itself with."
    masked: bool = False
    "It sees the LUNs of a list of its own."
    luns: list[Lun]
    "What it sees."
    sessions: list[int]
    commands: int = 0
    read_bytes: int = 0
    written_bytes: int = 0


class AccessMode(StrEnum):
    OPEN = "open"
    "Who is not listed may log in, without authentication, and sees all LUNs."
    LISTED = "listed"
    "Who is not listed is refused, and discovers nothing."


class AccessRules(Answer):
    mode: AccessMode
    discovery_chap_user: str | None = None
    discovery_mutual_user: str | None = None


class AccessChange(Request):
    """What is given is changed."""

    mode: AccessMode | None = None
    discovery: Authentication | None = None
