"""The network entity: targets, the LUNs they show, and who is logged in (RFC 7143 4.1, 4.4.3).

The front end owns one `Node`; every connection works on it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from iscsi_rp.errors import ConfigError, ConflictError, NotFoundError
from iscsi_rp.scsi import LogicalUnit

if TYPE_CHECKING:
    from iscsi_rp.iscsi.session import Session

SESSIONS: Final = 64
'Sessions at once; a login beyond is refused with "out of resources".'
PORTAL_GROUP: Final = 1
LUN_NUMBERS: Final = range(1 << 14)

_NAME: Final = re.compile(r"iqn\.[0-9]{4}-[0-9]{2}\.[a-z0-9.:-]{1,210}|(eui|naa)\.[0-9a-fA-F]{16,32}")


class TargetNameError(ConfigError):
    """This is not an iSCSI name."""


class TargetExistsError(ConflictError):
    """There is a target of this name already."""


class NoSuchTargetError(NotFoundError):
    """There is no target of this name."""


@dataclass(eq=False, slots=True)
class Target:
    name: str
    luns: dict[int, LogicalUnit]
    sessions: set[Session] = field(default_factory=set)


class Node:
    """All targets of one front end."""

    def __init__(self) -> None:
        self._targets: dict[str, Target] = {}
        self._last_tsih = 0
        self.portals: list[str] = []
        "Addresses as SendTargets shows them, `10.0.0.1:3260` or `[::1]:3260`."

    def add_target(self, name: str, luns: dict[int, LogicalUnit]) -> None:
        """Raises `TargetNameError`, `TargetExistsError`, `ConfigError` for a LUN out of range."""
        if not _NAME.fullmatch(name):
            raise TargetNameError(f"{name!r} is not an iSCSI name, like iqn.2026-01.com.example:disk")
        if name.lower() in self._targets:
            raise TargetExistsError(f"there is a target {name} already")
        target = Target(name, {})
        for lun, unit in luns.items():
            _set_lun(target, lun, unit)
        self._targets[name.lower()] = target

    def set_lun(self, name: str, lun: int, unit: LogicalUnit | None) -> None:
        """Show `unit` as `lun`, or nothing. Raises `NoSuchTargetError`, `ConfigError`."""
        _set_lun(self.target(name), lun, unit)

    def remove_target(self, name: str) -> Target:
        """Nobody can log in to it any more; its sessions are the caller's to end. Raises
        `NoSuchTargetError`.
        """
        return self._targets.pop(self.target(name).name.lower())

    def target(self, name: str) -> Target:
        """Raises `NoSuchTargetError`. Names are compared without case (RFC 7143 4.2.7.2)."""
        found = self._targets.get(name.lower())
        if found is None:
            raise NoSuchTargetError(f"there is no target {name}")
        return found

    def names(self) -> list[str]:
        return sorted(target.name for target in self._targets.values())

    def sessions(self) -> Iterator[Session]:
        for target in self._targets.values():
            yield from target.sessions

    @property
    def full(self) -> bool:
        return sum(len(target.sessions) for target in self._targets.values()) >= SESSIONS

    def new_tsih(self) -> int:
        """A handle that is not in use, from 1 to 65535."""
        used = {session.tsih for session in self.sessions()}
        while True:
            self._last_tsih = self._last_tsih % 0xFFFF + 1
            if self._last_tsih not in used:
                return self._last_tsih


def _set_lun(target: Target, lun: int, unit: LogicalUnit | None) -> None:
    if lun not in LUN_NUMBERS:
        raise ConfigError(f"LUN {lun} is not between 0 and {LUN_NUMBERS[-1]}")
    if unit is None:
        target.luns.pop(lun, None)
    else:
        target.luns[lun] = unit
