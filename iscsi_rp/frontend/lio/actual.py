"""What is in LIO now, as plain values: all that is compared with what is desired, read in one go.

It is read straight from configfs and not through rtslib, which loads modules, changes settings of the kernel
and walks all LUNs again for each one that is mapped.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from iscsi_rp.frontend.lio import configfs
from iscsi_rp.frontend.lio.desired import Portal, canonical

_CONFIG: Final = re.compile(r"Config: (\S+) +Size: (\d+)")


class Export(NamedTuple):
    """A LUN of any target of any kind."""

    fabric: str
    target: str
    tag: int
    lun: int

    def __str__(self) -> str:
        return f"{self.fabric} target {self.target}, portal group {self.tag}, LUN {self.lun}"


@dataclass(frozen=True, slots=True)
class UserBackstore:
    """A user backstore, ours or not."""

    name: str
    folder: str
    "Its place below `core/`: `user_NUMBER/NAME`."
    config: str
    "`rpsplit/VOLUME` is of our kind."
    serial: str
    size_bytes: int
    enabled: bool
    attributes: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class NodeAcl:
    """The ACL of an initiator. A user or secret that is not set is empty."""

    luns: Mapping[int, int | None]
    "Its LUN -> LUN of the portal group; None: half made."
    chap: tuple[str, str] = field(default=("", ""), repr=False)
    mutual: tuple[str, str] = field(default=("", ""), repr=False)
    authentication: str | None = None
    "-1: as the portal group has it; None: an older kernel knows only that."


@dataclass(frozen=True, slots=True)
class PortalGroup:
    """A target portal group of iSCSI."""

    enabled: bool
    attributes: Mapping[str, str]
    portals: Mapping[Portal, str]
    "Each with the name of its folder."
    luns: Mapping[int, str | None]
    "LUN -> folder of a backstore, below `core/`; None: half made."
    acls: Mapping[str, NodeAcl]


@dataclass(frozen=True, slots=True)
class Actual:
    """All that a plan is made from."""

    backstores: tuple[UserBackstore, ...] = ()
    exports: Mapping[Export, str] = field(default_factory=dict)
    "LUNs of all targets -> folder of the backstore, below `core/`."
    targets: Mapping[str, Mapping[int, PortalGroup]] = field(default_factory=dict)
    "Those iSCSI targets that were asked for, as far as they are there: by name, then tag."
    loopbacks: frozenset[str] = frozenset()
    "Ports of tcm_loop."


def read(iqns: Collection[str]) -> Actual:
    """What is there; the targets `iqns` with all that belongs to them. Raises `LioError`."""
    targets = {iqn: configfs.TARGET / "iscsi" / iqn for iqn in iqns}
    return Actual(
        backstores=tuple(
            _backstore(folder) for hba in configfs.folders(configfs.CORE) for folder in _user_backstores(hba)
        ),
        exports=_exports(),
        targets={iqn: _groups(folder) for iqn, folder in targets.items() if folder.is_dir()},
        loopbacks=frozenset(
            folder.name.removeprefix("naa.")
            for folder in configfs.folders(configfs.TARGET / "loopback")
            if folder.name.startswith("naa.")
        ),
    )


def _user_backstores(hba: Path) -> list[Path]:
    return configfs.folders(hba) if hba.name.startswith("user_") else []


def _backstore(folder: Path) -> UserBackstore:
    found = _CONFIG.search(configfs.read(folder / "info"))
    return UserBackstore(
        name=folder.name,
        folder=_place(folder),
        config=found[1] if found else "",
        serial=configfs.read(folder / "wwn/vpd_unit_serial").partition(":")[2].strip(),
        size_bytes=int(found[2]) if found else 0,
        enabled=configfs.read(folder / "enable") == "1",
        attributes=configfs.settings(folder / "attrib"),
    )


def _place(folder: Path) -> str:
    return f"{folder.parent.name}/{folder.name}"


def _exports() -> dict[Export, str]:
    exports = {}
    for fabric in configfs.folders(configfs.TARGET):
        if fabric.name == "core":
            continue
        for target in configfs.folders(fabric):
            for group in _numbered(target, "tpgt_"):
                for lun, place in _luns(group[1]).items():
                    if place is not None:
                        exports[Export(fabric.name, target.name, group[0], lun)] = place
    return exports


def _numbered(folder: Path, prefix: str) -> list[tuple[int, Path]]:
    """The folders `PREFIX_NUMBER`."""
    found = ((each.name.removeprefix(prefix), each) for each in configfs.folders(folder))
    return sorted((int(number), each) for number, each in found if number.isdecimal())


def _luns(group: Path) -> dict[int, str | None]:
    leads = {lun: configfs.link(folder) for lun, folder in _numbered(group / "lun", "lun_")}
    return {lun: None if to is None else _place(to) for lun, to in leads.items()}


def _groups(target: Path) -> dict[int, PortalGroup]:
    return {
        tag: PortalGroup(
            enabled=configfs.read(group / "enable") == "1",
            attributes=configfs.settings(group / "attrib"),
            portals={_portal(each.name): each.name for each in configfs.folders(group / "np")},
            luns=_luns(group),
            acls={each.name: _acl(each) for each in configfs.folders(group / "acls")},
        )
        for tag, group in _numbered(target, "tpgt_")
    }


def _portal(name: str) -> Portal:
    host, _, port = name.rpartition(":")
    return canonical((host.strip("[]"), int(port)))


def _acl(folder: Path) -> NodeAcl:
    leads = {lun: configfs.link(each) for lun, each in _numbered(folder, "lun_")}
    own = folder / "attrib/authentication"
    return NodeAcl(
        luns={lun: None if to is None else int(to.name.removeprefix("lun_")) for lun, to in leads.items()},
        chap=(_credential(folder / "auth/userid"), _credential(folder / "auth/password")),
        mutual=(_credential(folder / "auth/userid_mutual"), _credential(folder / "auth/password_mutual")),
        authentication=configfs.read(own) if own.exists() else None,
    )


def _credential(path: Path) -> str:
    value = configfs.read(path)
    return "" if value == "NULL" else value
