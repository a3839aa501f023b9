"""The network entity: targets, the LUNs they show to whom, and who is logged in (RFC 7143 4.1, 4.4.3).

The front end owns one `Node`; every connection works on it. Nothing that a login or a command needs looks at
all sessions.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple
from weakref import WeakValueDictionary

from iscsi_rp.errors import ConfigError, ConflictError, NotFoundError
from iscsi_rp.iscsi.access import Access
from iscsi_rp.scsi import LogicalUnit
from iscsi_rp.scsi.task import TargetPort

if TYPE_CHECKING:
    from iscsi_rp.iscsi.session import Session

SESSIONS: Final = 2048
'Sessions at once; a login beyond is refused with "out of resources".'
LUN_NUMBERS: Final = range(1 << 14)
_TSIHS: Final = 0xFFFF
assert SESSIONS < _TSIHS

_NAME: Final = re.compile(r"iqn\.[0-9]{4}-[0-9]{2}\.[a-z0-9.:-]{1,210}|(eui|naa)\.[0-9a-fA-F]{16,32}")


class TargetNameError(ConfigError):
    """This is not an iSCSI name."""


class TargetExistsError(ConflictError):
    """There is a target of this name already."""


class NoSuchTargetError(NotFoundError):
    """There is no target of this name."""


class Luns(dict[int, LogicalUnit]):
    """What one initiator sees of a target: its LUN -> logical unit. The node keeps it true."""

    __slots__ = ("__weakref__",)


@dataclass(eq=False, slots=True)
class Target:
    name: str
    luns: dict[int, LogicalUnit] = field(default_factory=dict)
    sessions: set[Session] = field(default_factory=set)
    ports: dict[int, TargetPort] = field(default_factory=dict)
    "Portal group tag -> target port, as far as initiators came there."
    views: WeakValueDictionary[str, Luns] = field(default_factory=WeakValueDictionary)
    "Initiator -> what it sees, while a session of it lives."

    def port(self, portal_group: int) -> TargetPort:
        """The target port that a portal group is: always the same object."""
        if portal_group not in self.ports:
            name = f"{self.name},t,0x{portal_group:04x}"
            self.ports[portal_group] = TargetPort(name, portal_group, portal_group)
        return self.ports[portal_group]


class AccessChange(NamedTuple):
    """What new access rules mean for sessions that run."""

    refused: list[Session]
    "Their initiator may not log in any more: to be closed."
    changed: list[Session]
    "They see other LUNs than before."


class _Identity(NamedTuple):
    """Of two sessions with the same one the later replaces the other (RFC 7143 4.4.3, 6.3.5)."""

    target: Target
    initiator: str
    isid: int
    portal_group: int


class Node:
    """All targets of one front end."""

    def __init__(self, random_bytes: Callable[[int], bytes] = os.urandom) -> None:
        """`random_bytes` gives that many that nobody can guess: CHAP challenges."""
        self.random_bytes = random_bytes
        self.access = Access()
        self.portals: list[tuple[str, int]] = []
        """(address, portal group) of each portal, `10.0.0.1:3260` or `[::1]:3260`; the host of one that
        listens on every address is `0.0.0.0` or `[::]`."""
        self.ending: set[Session] = set()
        "Sessions that are over, as long as devices have commands of theirs."
        self._targets: dict[str, Target] = {}
        self._sessions: dict[int, Session] = {}
        self._by_identity: dict[_Identity, Session] = {}
        self._last_tsih = 0

    def add_target(self, name: str, luns: Mapping[int, LogicalUnit]) -> None:
        """Raises `TargetNameError`, `TargetExistsError`, `ConfigError` for a LUN out of range."""
        if not _NAME.fullmatch(name):
            raise TargetNameError(f"{name!r} is not an iSCSI name, like iqn.2026-01.com.example:disk")
        if name.lower() in self._targets:
            raise TargetExistsError(f"there is a target {name} already")
        for lun in luns:
            _check_lun(lun)
        self._targets[name.lower()] = Target(name, dict(luns))

    def set_lun(self, name: str, lun: int, unit: LogicalUnit | None) -> list[Session]:
        """Show `unit` as `lun`, or nothing; returns the sessions that see other LUNs now. Raises
        `NoSuchTargetError`, `ConfigError`.
        """
        target = self.target(name)
        _check_lun(lun)
        if unit is None:
            target.luns.pop(lun, None)
        else:
            target.luns[lun] = unit
        return self._show(target)

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

    # Who sees what.

    def set_access(self, access: Access) -> AccessChange:
        """New rules: for logins from now on, and for the LUNs that running sessions see."""
        self.access = access
        refused = [session for session in self._sessions.values() if access.of(session.initiator) is None]
        changed: list[Session] = []
        for target in self._targets.values():
            changed += self._show(target)
        return AccessChange(refused, changed)

    def luns_of(self, target: Target, initiator: str) -> Luns:
        """What `initiator` sees of `target`, now and as it changes, while somebody holds on to it."""
        view = target.views.get(initiator)
        if view is None:
            view = target.views[initiator] = Luns(self._visible(target, initiator))
        return view

    def targets_of(self, initiator: str) -> list[str]:
        """The names of the targets that `initiator` may log in to."""
        if self.access.of(initiator) is None:
            return []
        return sorted(target.name for target in self._targets.values())

    def addresses(self, local: str, portal_group: int) -> list[str]:
        """Every portal as SendTargets shows it, `ADDRESS,TAG`, to who came to the address `local` of
        `portal_group`: that one first. One that listens on every address is shown with the host of `local`.
        """
        host = local.rpartition(":")[0]
        wildcard = "[::]" if host.startswith("[") else "0.0.0.0"
        shown = {f"{local},{portal_group}": None}
        for address, tag in self.portals:
            at, _, port = address.rpartition(":")
            if at in ("0.0.0.0", "[::]"):
                if at != wildcard:
                    continue
                at = host
            shown[f"{at}:{port},{tag}"] = None
        return list(shown)

    def _visible(self, target: Target, initiator: str) -> dict[int, LogicalUnit]:
        access = self.access.of(initiator)
        if access is None:
            return {}
        if access.luns is None:
            return target.luns
        return {lun: target.luns[mapped] for lun, mapped in access.luns.items() if mapped in target.luns}

    def _show(self, target: Target) -> list[Session]:
        """Bring up to date what initiators see; returns the sessions that see something else now."""
        changed = set()
        for initiator, view in list(target.views.items()):
            visible = self._visible(target, initiator)
            if view != visible:
                view.clear()
                view.update(visible)
                changed.add(initiator)
        return [session for session in target.sessions if session.initiator in changed]

    # Who is logged in.

    @property
    def full(self) -> bool:
        return len(self._sessions) >= SESSIONS

    def sessions(self) -> Iterator[Session]:
        """The normal ones."""
        return (session for session in list(self._sessions.values()) if session.target is not None)

    def session(self, tsih: int) -> Session | None:
        return self._sessions.get(tsih)

    def same_session(self, target: Target, initiator: str, isid: int, portal_group: int) -> Session | None:
        """The session that one with these names would replace (RFC 7143 6.3.5)."""
        return self._by_identity.get(_Identity(target, initiator, isid, portal_group))

    def new_tsih(self) -> int:
        """A handle that is not in use, from 1 to 65535."""
        while True:
            self._last_tsih = self._last_tsih % _TSIHS + 1
            if self._last_tsih not in self._sessions:
                return self._last_tsih

    def open_session(self, session: Session) -> Session | None:
        """A login is complete. Returns the session that this one replaces; the caller closes it."""
        self._sessions[session.tsih] = session
        if session.target is None:
            return None
        session.target.sessions.add(session)
        identity = _identity(session.target, session)
        replaced = self._by_identity.get(identity)
        self._by_identity[identity] = session
        return replaced

    def close_session(self, session: Session) -> None:
        """It is over. Idempotent."""
        if self._sessions.get(session.tsih) is session:
            del self._sessions[session.tsih]
        if session.target is None:
            return
        session.target.sessions.discard(session)
        identity = _identity(session.target, session)
        if self._by_identity.get(identity) is session:
            del self._by_identity[identity]


def _identity(target: Target, session: Session) -> _Identity:
    return _Identity(target, session.initiator, session.isid, session.portal_group)


def _check_lun(lun: int) -> None:
    if lun not in LUN_NUMBERS:
        raise ConfigError(f"LUN {lun} is not between 0 and {LUN_NUMBERS[-1]}")
