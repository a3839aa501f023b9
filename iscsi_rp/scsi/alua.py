"""Asymmetric logical unit access (SPC-4 5.15): through which storage processor a LUN is best reached.

Each storage processor has one target port group. The states belong to a LUN: its owner's group is
active/optimized and preferred, the other one active/non-optimized. The array moves that by
`LogicalUnit.set_owner` (implicit), an initiator by SET TARGET PORT GROUPS (explicit).
"""

import struct
from collections.abc import Mapping
from enum import IntEnum
from typing import Final

from iscsi_rp.scsi.cdb import uint
from iscsi_rp.scsi.sense import (
    LBA_OUT_OF_RANGE,
    PARAMETER_LIST_LENGTH_ERROR,
    CheckCondition,
    invalid_field,
    invalid_parameter,
)
from iscsi_rp.scsi.task import Task

_PREFERRED: Final = 0x80
_SUPPORTED: Final = 0x0F
"U_SUP, S_SUP, AN_SUP, AO_SUP."
_GROUP: Final = struct.Struct(">BBHxBxB")
_EXTENDED: Final = 1
_REFERRAL: Final = struct.Struct(">xxxBQQ")


class AccessState(IntEnum):
    """Asymmetric access states (SPC-4 table 275)."""

    OPTIMIZED = 0
    NON_OPTIMIZED = 1
    STANDBY = 2
    UNAVAILABLE = 3


class _Cause(IntEnum):
    """Why a group has its state: the status code (SPC-4 table 277)."""

    NONE = 0
    EXPLICIT = 1
    IMPLICIT = 2


class PortGroups:
    """The target port groups through which one logical unit can be reached."""

    def __init__(self, ports: Mapping[int, tuple[int, ...]] | None = None, owner: int = 1) -> None:
        """`ports`: target port group -> relative identifiers of its target ports."""
        self.ports = dict(ports or {1: (1,)})
        self.owner = owner
        self._states = self._owned_by(owner)
        self._causes = dict.fromkeys(self.ports, _Cause.NONE)

    def _owned_by(self, owner: int) -> dict[int, AccessState]:
        if owner not in self.ports:
            raise ValueError(f"there is no target port group {owner}")
        other = AccessState.NON_OPTIMIZED
        return {group: AccessState.OPTIMIZED if group == owner else other for group in self.ports}

    def state(self, group: int) -> AccessState:
        """A port that is in none of the groups is the unit's own."""
        return self._states.get(group, AccessState.OPTIMIZED)

    def set_owner(self, owner: int) -> bool:
        """Give the unit to a group; false when nothing changed. Raises `ValueError`."""
        states = self._owned_by(owner)
        if (self.owner, self._states) == (owner, states):
            return False
        self.owner = owner
        self._change(states, _Cause.IMPLICIT)
        return True

    def set_states(self, wanted: Mapping[int, AccessState]) -> bool:
        """What SET TARGET PORT GROUPS asks for; false when nothing changed."""
        states = {**self._states, **wanted}
        changed = states != self._states
        self._change(states, _Cause.EXPLICIT)
        return changed

    def _change(self, states: dict[int, AccessState], cause: _Cause) -> None:
        for group, state in states.items():
            if self._states[group] != state:
                self._causes[group] = cause
        self._states = states

    @property
    def relative_ids(self) -> list[int]:
        """Of all target ports."""
        return sorted(port for ports in self.ports.values() for port in ports)

    def describe(self) -> bytes:
        """Target port group descriptors (SPC-4 6.37)."""
        described = b""
        for group, ports in sorted(self.ports.items()):
            state = self._states[group] | (_PREFERRED if group == self.owner else 0)
            described += _GROUP.pack(state, _SUPPORTED, group, self._causes[group], len(ports))
            described += b"".join(port.to_bytes(4, "big") for port in ports)
        return described


def report_target_port_groups(task: Task) -> None:
    """REPORT TARGET PORT GROUPS, with the length only or the extended header (SPC-4 6.37)."""
    form = task.cdb[1] >> 5
    if form > _EXTENDED:
        raise invalid_field(1)
    body = task.unit.port_groups.describe()
    if form == _EXTENDED:
        body = bytes((_EXTENDED << 4, 0, 0, 0)) + body
    task.good((len(body).to_bytes(4, "big") + body)[: uint(task.cdb, 6, 4)])


def report_referrals(task: Task) -> None:
    """REPORT REFERRALS: all blocks are reached through the same groups, in their states (SBC-4 5.27)."""
    unit, lba = task.unit, uint(task.cdb, 2, 8)
    if lba >= unit.size_blocks:
        raise CheckCondition(LBA_OUT_OF_RANGE)
    groups = sorted(unit.port_groups.ports)
    descriptor = _REFERRAL.pack(len(groups), 0, unit.size_blocks - 1)
    for group in groups:
        descriptor += struct.pack(">BxH", unit.port_groups.state(group), group)
    data = bytes(2) + len(descriptor).to_bytes(2, "big") + descriptor
    task.good(data[: uint(task.cdb, 10, 4)])


def set_target_port_groups(task: Task) -> None:
    """SET TARGET PORT GROUPS: all of the list is done, or nothing (SPC-4 6.45)."""
    data = task.parameters(uint(task.cdb, 6, 4))
    if not data:
        return task.good()
    if len(data) < 4 or len(data) % 4:
        raise CheckCondition(PARAMETER_LIST_LENGTH_ERROR)
    groups = task.unit.port_groups
    wanted: dict[int, AccessState] = {}
    for at in range(4, len(data), 4):
        state, group = data[at] & 0x0F, uint(data, at + 2, 2)
        if state > AccessState.UNAVAILABLE:
            raise invalid_parameter(at)
        if group not in groups.ports or group in wanted:
            raise invalid_parameter(at + 2)
        wanted[group] = AccessState(state)
    if groups.set_states(wanted):
        task.unit.access_changed(by=task.nexus)
    return task.good(transfer_bytes=len(data))
