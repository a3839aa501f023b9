"""The rare messages of the replication protocol, whose payload is JSON, and the encoding of region lists.

Every one is checked when it arrives: an unknown or wrong field is a RemoteProtocolError that says which.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from iscsi_rp.device import Buffer
from iscsi_rp.replication.frames import MAX_PAYLOAD, REGIONS, VERSION, RemoteProtocolError, frame
from iscsi_rp.replication.regions import KEY_SHIFT

MAX_VOLUMES: Final = 1024
Name = Annotated[str, Field(min_length=1, max_length=255)]
_RUN: Final = struct.Struct("<QQ")
_RUNS_IN_FRAME: Final = MAX_PAYLOAD // _RUN.size


class Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    def encode(self) -> bytes:
        return self.model_dump_json().encode()


class VolumeInfo(Message):
    """A volume of the array, as the appliance needs to know it."""

    uuid: Name
    name: Name
    size: int = Field(gt=0)
    block_size: int = Field(gt=0)


class Announce(Message):
    """First frame of an array's management connection, repeated when its volumes change."""

    version: int = VERSION
    array_id: Name
    name: Name
    volumes: list[VolumeInfo] = Field(max_length=MAX_VOLUMES)


class GroupInfo(Message):
    id: Name
    name: Name
    volumes: list[Name] = Field(max_length=MAX_VOLUMES)
    "UUIDs; a volume's place in the list is its index in the group."


class Groups(Message):
    """All groups of this cluster in which the array has volumes. A group that is not listed is no longer
    protected.
    """

    version: int = VERSION
    cluster_id: Name
    name: Name
    groups: list[GroupInfo] = Field(max_length=MAX_VOLUMES)


class Hello(Message):
    """First frame of a session: a storage processor offers the writes of one group."""

    version: int = VERSION
    array_id: Name
    processor: Name
    "Which storage processor of the array this is."
    group: Name
    fresh: bool
    """It has forgotten what it had not stored (it restarted, or a flush failed), and takes over the
    since-stored set."""
    volumes: list[VolumeInfo] = Field(min_length=1, max_length=MAX_VOLUMES)


class Welcome(Message):
    version: int = VERSION
    restoring: int | None = None
    "Production is being restored to this position: hosts stay blocked."
    full_sweep: bool
    "Nothing that either side remembers covers the difference: compare everything."
    reason: str = ""


class Alert(Message):
    code: Name
    text: str = Field(max_length=4096)


M = TypeVar("M", bound=Message)


def parse(model: type[M], payload: Buffer) -> M:
    """Raises RemoteProtocolError that names the field."""
    try:
        _check_version(bytes(payload))
        message = model.model_validate_json(bytes(payload))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RemoteProtocolError(f"{model.__name__}: {where}: {first['msg']}") from None
    return message


class _Versioned(BaseModel):
    version: int = VERSION


def _check_version(payload: bytes) -> None:
    """Before anything else, because another version may well have other fields."""
    version = _Versioned.model_validate_json(payload).version
    if version != VERSION:
        raise RemoteProtocolError(
            f"the peer speaks version {version} of the replication protocol, this side {VERSION}"
        )


def region_frames(runs: Iterable[tuple[int, int, int]], places: Mapping[int, int]) -> Iterator[bytes]:
    """REGIONS frames for runs of regions `(volume, first, count)`; `places` says how the receiver numbers
    each volume.
    """
    batches: dict[int, list[bytes]] = {}
    for volume, first, count in runs:
        batch = batches.setdefault(places[volume], [])
        batch.append(_RUN.pack(first, count))
        if len(batch) == _RUNS_IN_FRAME:
            yield frame(REGIONS, volume=places[volume], payload=b"".join(batch))
            batch.clear()
    for place, batch in batches.items():
        if batch:
            yield frame(REGIONS, volume=place, payload=b"".join(batch))


def parse_regions(volume: int, payload: Buffer, regions: int) -> Iterator[range]:
    """Ranges of keys in a REGIONS frame for a volume of `regions` regions."""
    if len(payload) % _RUN.size:
        raise RemoteProtocolError("a REGIONS frame whose length is no multiple of its entries")
    for first, count in _RUN.iter_unpack(payload):
        if not 0 < count <= regions or first > regions - count:
            raise RemoteProtocolError(f"regions {first}+{count} lie outside a volume of {regions}")
        start = volume << KEY_SHIFT | first
        yield range(start, start + count)
