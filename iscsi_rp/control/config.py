"""The configuration: who the daemons are and where they listen. Volumes, groups and policies are objects.

Everything has a default. The file is the first there is of `--config`, `$ISCSI_RP_CONFIG`, `./iscsi-rp.toml`
and `/etc/iscsi-rp/iscsi-rp.toml`; a relative path in it counts from its folder.
"""

import json
import os
import re
import tomllib
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Final, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationError,
    model_validator,
)

from iscsi_rp.control.array_models import Processor
from iscsi_rp.control.models import Name
from iscsi_rp.errors import ConfigError

ENVIRONMENT: Final = "ISCSI_RP_CONFIG"
PLACES: Final = (Path("iscsi-rp.toml"), Path("/etc/iscsi-rp/iscsi-rp.toml"))

_PORTAL: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:]+)):(\d{1,5})")
# RFC 7143 4.2.7.3 to 4.2.7.6; at most 223 bytes by 4.2.7.1.
_IQN: Final = re.compile(
    r"(iqn\.\d{4}-\d{2}\.[a-z0-9.-]+(:[^\s,]+)?|eui\.[0-9A-F]{16}|naa\.([0-9A-F]{16}){1,2})"
)
_IQN_MAX_BYTES: Final = 223


@dataclass(frozen=True, slots=True)
class Portal:
    host: str
    port: int
    sp: Processor = Processor.A
    "The storage processor that it belongs to: what hosts see as its target port group."

    @classmethod
    def parse(cls, text: object) -> Self:
        if isinstance(text, cls):
            return text
        match = _PORTAL.fullmatch(text) if isinstance(text, str) else None
        if match is None or int(match[3]) > 65535:
            raise ValueError(
                f"{text!r} is not a portal: expected host:port or [IPv6]:port, as in 127.0.0.1:3260"
            )
        return cls(match[1] or match[2], int(match[3]))

    @classmethod
    def parse_with_sp(cls, value: object) -> Self:
        """`"HOST:PORT"`, which is of SP A, or `{ address = "HOST:PORT", sp = "B" }`."""
        if not isinstance(value, dict):
            return cls.parse(value)
        if value.keys() != {"address", "sp"} or value["sp"] not in list(Processor):
            raise ValueError(
                'a portal is "host:port", which is of SP A, or { address = "host:port", sp = "A" or "B" }'
            )
        return replace(cls.parse(value["address"]), sp=Processor(value["sp"]))

    def plain(self) -> str | dict[str, str]:
        """As `parse_with_sp` reads it."""
        return str(self) if self.sp is Processor.A else {"address": str(self), "sp": self.sp.value}

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def check_iscsi_name(text: str) -> str:
    """The name, if it is one. Raises `ValueError`."""
    if not _IQN.fullmatch(text) or len(text.encode()) > _IQN_MAX_BYTES:
        raise ValueError(
            f"{text!r} is not an iSCSI name: expected for example iqn.2026-11.io.iscsi-rp:array-1"
        )
    return text


def _check_address(text: str) -> str:
    kind, _, rest = text.partition(":")
    if kind == "tls":
        if Portal.parse(rest).port == 0:
            raise ValueError("the other machine has to know the port, so it cannot be 0")
    elif kind != "unix" or not rest:
        raise ValueError(f"{text!r} is not an address that is known: expected unix:PATH or tls:HOST:PORT")
    return text


PortalText = Annotated[Portal, PlainValidator(Portal.parse), PlainSerializer(str, return_type=str)]
Portals = Annotated[list[PortalText], Field(min_length=1, max_length=16)]
ArrayPortal = Annotated[Portal, PlainValidator(Portal.parse_with_sp), PlainSerializer(Portal.plain)]
ArrayPortals = Annotated[list[ArrayPortal], Field(min_length=1, max_length=16)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ArrayConfig(Section):
    name: Name = "array-1"
    iqn: Annotated[str, AfterValidator(check_iscsi_name)] = "iqn.2026-11.io.iscsi-rp:array-1"
    portals: ArrayPortals = [Portal("127.0.0.1", 3260)]
    split_timeout_s: Annotated[float, Field(gt=0, le=30)] = 1.5
    "How long a host command waits for the appliance, at most."
    space_low_percent: Annotated[float, Field(ge=0, lt=100)] = 10.0
    "Hosts are told when less of the file system under a volume's file is free. 0: never."

    @property
    def processors(self) -> list[Processor]:
        """The storage processors that have a portal."""
        return sorted({portal.sp for portal in self.portals})


class LioConfig(Section):
    """The kernel's target, for the volumes of the front end `lio`."""

    iqn: Annotated[str, AfterValidator(check_iscsi_name)] = "iqn.2026-11.io.iscsi-rp:array-1.lio"
    portals: Annotated[list[ArrayPortal], Field(max_length=16)] = []
    "None: the array makes no target in LIO, only backstores, which somebody shows by targetcli."


class ApplianceConfig(Section):
    name: Name = "rpa-1"
    portals: Portals = [Portal("127.0.0.1", 3261)]
    "Where images are served."
    replication: Annotated[str, AfterValidator(_check_address)] | None = None
    """Where the array's splitter reaches the appliance: `unix:PATH`, or `tls:HOST:PORT` between machines.

    None: `unix:replication.sock` below the state.
    """


def _default_state() -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib/iscsi-rp")
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "iscsi-rp"


class Config(Section):
    state: Path = Field(default_factory=_default_state)
    pki: Path | None = None
    "The folder of certificates. None: `pki` below the state, from where a relative path counts, too."
    array: ArrayConfig = ArrayConfig()
    lio: LioConfig = LioConfig()
    appliance: ApplianceConfig = ApplianceConfig()

    @model_validator(mode="after")
    def _portals_differ(self) -> Self:
        lists = self.array.portals, self.lio.portals, self.appliance.portals
        portals = [str(portal) for portals in lists for portal in portals]
        portals += [address.removeprefix("tls:") for address in [self.appliance.replication] if address]
        for portal in portals:
            if not portal.endswith(":0") and portals.count(portal) > 1:
                raise ValueError(f"the portal {portal} is given twice")
        return self

    @property
    def array_state(self) -> Path:
        return self.state / "array"

    @property
    def appliance_state(self) -> Path:
        return self.state / "appliance"

    @property
    def array_socket(self) -> Path:
        """Where the array's management API listens."""
        return self.array_state / "api.sock"

    @property
    def appliance_socket(self) -> Path:
        return self.appliance_state / "api.sock"

    @property
    def pki_folder(self) -> Path:
        return self.state / (self.pki or "pki")

    @property
    def replication(self) -> Path | Portal:
        """A Unix socket, or where the appliance listens for other machines."""
        address = self.appliance.replication or "unix:replication.sock"
        kind, _, rest = address.partition(":")
        return Portal.parse(rest) if kind == "tls" else self.state / rest

    @property
    def is_alone(self) -> bool:
        """Only one of the two daemons has ever run here, and the other one is on another machine."""
        return isinstance(self.replication, Portal) and not (
            self.array_state.exists() and self.appliance_state.exists()
        )

    def toml(self) -> str:
        """What is in force, defaults included, as a file that could be loaded."""
        values = self.model_dump(mode="json") | {"pki": str(self.pki_folder)}
        kind = "unix" if isinstance(self.replication, Path) else "tls"
        values["appliance"]["replication"] = f"{kind}:{self.replication}"
        lines = [f"{key} = {json.dumps(values.pop(key))}" for key in ("state", "pki")]
        for table, keys in values.items():
            lines += ["", f"[{table}]", *(f"{key} = {_toml(value)}" for key, value in keys.items())]
        return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{key} = {_toml(each)}' for key, each in value.items())} }}"
    return json.dumps(value)


def find_config(given: Path | None = None) -> Path | None:
    """The file that is to be read; None where there is none and the defaults hold."""
    if given is None and os.environ.get(ENVIRONMENT):
        given = Path(os.environ[ENVIRONMENT])
    if given is not None:
        return given.absolute()
    return next((place.absolute() for place in PLACES if place.exists()), None)


def load_config(path: Path | None = None, state: Path | None = None) -> Config:
    """Reads `path` (see `find_config`); `state` wins over what it says.

    ConfigError names file, line, key and reason of each thing that is wrong.
    """
    text = "" if path is None else _read(path)
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {error}") from error
    if state is not None:
        values["state"] = str(state)
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join(_complaints(error, path, text))) from error
    folder = Path.cwd() if path is None or state is not None else path.parent
    return config.model_copy(update={"state": folder / config.state.expanduser()})


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {error.start})") from error


def _complaints(error: ValidationError, path: Path | None, text: str) -> list[str]:
    lines = []
    for entry in error.errors():
        keys = [part for part in entry["loc"] if isinstance(part, str)]
        where = f"{path or 'configuration'}"
        if line := _line_of(text, keys):
            where += f":{line}"
        reason = str(entry["msg"]).removeprefix("Value error, ")
        if entry["type"] == "extra_forbidden":
            reason = "unknown key" + _near_miss(keys)
        lines.append(": ".join(filter(None, (where, ".".join(keys), reason))))
    return lines


def _near_miss(keys: list[str]) -> str:
    section: Any = Config
    for key in keys[:-1]:
        section = Config.model_fields[key].annotation
    known = list(section.model_fields)
    near = get_close_matches(keys[-1], known, n=1)
    return f", did you mean {near[0]!r}?" if near else f", known are {', '.join(known)}"


def _line_of(text: str, keys: list[str]) -> int | None:
    """The line where a key stands. Simple forms only: a table's heading, and `key =` below it."""
    if not keys:
        return None
    table = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if heading := re.match(r"\s*\[\s*([^\[\]]+?)\s*\]", line):
            table = heading[1]
            if [table] == keys:
                return number
        elif re.match(rf"\s*[\"']?{re.escape(keys[-1])}[\"']?\s*=", line) and table == ".".join(keys[:-1]):
            return number
    return None
