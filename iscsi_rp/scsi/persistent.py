"""Persistent reservations: the rules (SPC-4 5.13), as a state that never changes, and requests.

`Registrations.apply` says what a PERSISTENT RESERVE OUT makes of the state, and whom to tell; making that
durable and telling them is the caller's (`reservations`). So a request that fails, or cannot be stored, has
changed nothing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Final, NamedTuple, TypeAlias

from iscsi_rp.scsi.sense import (
    INSUFFICIENT_REGISTRATION_RESOURCES,
    INVALID_RELEASE,
    REGISTRATIONS_PREEMPTED,
    RESERVATIONS_PREEMPTED,
    RESERVATIONS_RELEASED,
    CheckCondition,
    ReservationConflict,
    Sense,
    invalid_field,
    invalid_parameter,
)

REGISTRATIONS: Final = 256
"Of one logical unit; one more is refused."

# Bytes of the parameter list and of the CDB that errors point at (SPC-4 6.16).
_TYPE_AT: Final = 2
_SERVICE_KEY_AT: Final = 8
_MOVED_TO_AT: Final = 24


class Registrant(NamedTuple):
    """An I_T nexus as reservations know it: by the names of its ports, so that it outlives its session."""

    initiator: str
    "SCSI name of the initiator port."
    port: int
    "Relative target port identifier."


class Action(IntEnum):
    """Service actions of PERSISTENT RESERVE OUT (SPC-4 6.16.2)."""

    REGISTER = 0
    RESERVE = 1
    RELEASE = 2
    CLEAR = 3
    PREEMPT = 4
    PREEMPT_AND_ABORT = 5
    REGISTER_AND_IGNORE_EXISTING_KEY = 6
    REGISTER_AND_MOVE = 7


class Kind(IntEnum):
    """Types of persistent reservations (SPC-4 6.15.3.4)."""

    WRITE_EXCLUSIVE = 1
    EXCLUSIVE_ACCESS = 3
    WRITE_EXCLUSIVE_REGISTRANTS_ONLY = 5
    EXCLUSIVE_ACCESS_REGISTRANTS_ONLY = 6
    WRITE_EXCLUSIVE_ALL_REGISTRANTS = 7
    EXCLUSIVE_ACCESS_ALL_REGISTRANTS = 8


_READS_ALLOWED: Final = frozenset((1, 5, 7))
_REGISTRANTS_ALLOWED: Final = frozenset((5, 6, 7, 8))
_ALL_REGISTRANTS: Final = frozenset((7, 8))


class Request(NamedTuple):
    """A PERSISTENT RESERVE OUT, decoded."""

    action: Action
    by: Registrant
    key: int
    "RESERVATION KEY: the one under which `by` is registered."
    service_key: int = 0
    "SERVICE ACTION RESERVATION KEY."
    scope_type: int = 0
    "Scope and type, as in byte 2 of the CDB."
    aptpl: bool = False
    also: tuple[Registrant, ...] = ()
    "Others to register: SPEC_I_PT, ALL_TG_PT."
    spec_i_pt: bool = False
    move_to: Registrant | None = None
    unregister: bool = False
    "UNREG of REGISTER AND MOVE."


Told: TypeAlias = tuple[tuple[Registrant, Sense], ...]


class Change(NamedTuple):
    """What a request makes of the state."""

    state: "Registrations"
    told: Told = ()
    "Unit attention conditions to establish."
    preempted: tuple[Registrant, ...] = ()
    "Whose commands PREEMPT AND ABORT ends."


@dataclass(frozen=True, slots=True)
class Registrations:
    """Who is registered, and who holds what."""

    keys: Mapping[Registrant, int] = field(default_factory=dict)
    kind: Kind | None = None
    "Type of the reservation; None: there is none."
    holder: Registrant | None = None
    "None also where all registrants hold it."
    generation: int = 0
    "PRGENERATION; 0 after each start."
    aptpl: bool = False
    "All of this, but the generation, survives a loss of power."

    def holds(self, who: Registrant) -> bool:
        return who == self.holder or (self.kind in _ALL_REGISTRANTS and who in self.keys)

    def allows(self, who: Registrant, *, reading: bool) -> bool:
        """Whether `who` may have a command done that conflicts with reservations; `reading`: only with
        those of an exclusive access type.
        """
        if self.kind is None or who == self.holder:
            return True
        if self.kind in _REGISTRANTS_ALLOWED and who in self.keys:
            return True
        return reading and self.kind in _READS_ALLOWED

    def apply(self, request: Request) -> Change:
        """The state after `request`. Raises `CheckCondition`, `ReservationConflict`."""
        action = request.action
        if action in (Action.REGISTER, Action.REGISTER_AND_IGNORE_EXISTING_KEY):
            return self._register(request)
        if self.keys.get(request.by) != request.key:
            raise ReservationConflict
        if action == Action.RESERVE:
            return self._reserve(request)
        if action == Action.RELEASE:
            return self._release(request)
        if action == Action.CLEAR:
            others = _tell(self.keys, RESERVATIONS_PREEMPTED, but=request.by)
            return Change(self._next(keys={}, kind=None, holder=None), others)
        if action == Action.REGISTER_AND_MOVE:
            return self._move(request)
        return self._preempt(request)

    def _next(
        self, keys: Mapping[Registrant, int], kind: Kind | None, holder: Registrant | None
    ) -> "Registrations":
        """A state one generation on."""
        if len(keys) > REGISTRATIONS:
            raise CheckCondition(INSUFFICIENT_REGISTRATION_RESOURCES)
        return replace(
            self, keys=keys, kind=kind, holder=holder, generation=self.generation + 1 & 0xFFFF_FFFF
        )

    def _register(self, request: Request) -> Change:
        by, key = request.by, request.service_key
        registered = by in self.keys
        if request.action == Action.REGISTER and self.keys.get(by, 0) != request.key:
            raise ReservationConflict
        if registered and request.spec_i_pt:
            raise invalid_field(1)
        if not key:
            return self._unregister(by, request.aptpl) if registered else Change(self)
        keys = dict(self.keys)
        for each in (by, *request.also):
            if request.spec_i_pt and each in self.keys:
                raise ReservationConflict
            keys[each] = key
        return Change(replace(self._next(keys, self.kind, self.holder), aptpl=request.aptpl))

    def _unregister(self, who: Registrant, aptpl: bool) -> Change:
        keys = _without(self.keys, (who,))
        kind, holder = self.kind, self.holder
        told: Told = ()
        if who == holder or (kind in _ALL_REGISTRANTS and not keys):
            if kind in _REGISTRANTS_ALLOWED:
                told = _tell(keys, RESERVATIONS_RELEASED, but=who)
            kind = holder = None
        return Change(replace(self._next(keys, kind, holder), aptpl=aptpl), told)

    def _reserve(self, request: Request) -> Change:
        kind = _kind(request.scope_type)
        if self.kind is None:
            return Change(replace(self, kind=kind, holder=_holder(kind, request.by)))
        if self.kind != kind or not self.holds(request.by):
            raise ReservationConflict
        return Change(self)

    def _release(self, request: Request) -> Change:
        if self.kind is None or not self.holds(request.by):
            return Change(self)
        if request.scope_type != self.kind:
            raise CheckCondition(INVALID_RELEASE)
        told: Told = ()
        if self.kind in _REGISTRANTS_ALLOWED:
            told = _tell(self.keys, RESERVATIONS_RELEASED, but=request.by)
        return Change(replace(self, kind=None, holder=None), told)

    def _preempt(self, request: Request) -> Change:
        by, victim = request.by, request.service_key
        if self.kind in _ALL_REGISTRANTS:
            takes_over = not victim
        else:
            takes_over = self.holder is not None and self.keys[self.holder] == victim
        if not victim and not takes_over:
            raise invalid_parameter(_SERVICE_KEY_AT)
        removed = [who for who, key in self.keys.items() if not victim or key == victim]
        if takes_over:
            kind: Kind | None = _kind(request.scope_type)
            removed = [who for who in removed if who != by]
            holder = _holder(kind, by)
        elif not removed:
            raise ReservationConflict
        else:
            kind, holder = self.kind, self.holder
        keys = _without(self.keys, removed)
        if not keys:
            kind = None
        told = _tell(removed, REGISTRATIONS_PREEMPTED, but=by)
        if takes_over and kind != self.kind:
            told += _tell(keys, RESERVATIONS_RELEASED, but=by)
        ended = tuple(removed) if request.action == Action.PREEMPT_AND_ABORT else ()
        return Change(self._next(keys, kind, holder), told, ended)

    def _move(self, request: Request) -> Change:
        """REGISTER AND MOVE: the reservation goes to another I_T nexus (SPC-4 5.13.8)."""
        if request.by != self.holder:
            raise ReservationConflict  # of all registrants, it is nobody's to give away
        if not request.service_key:
            raise invalid_parameter(_SERVICE_KEY_AT)
        if request.move_to is None or request.move_to == request.by:
            raise invalid_parameter(_MOVED_TO_AT)
        keys = dict(self.keys) | {request.move_to: request.service_key}
        if request.unregister:
            del keys[request.by]
        return Change(replace(self._next(keys, self.kind, request.move_to), aptpl=request.aptpl))


def _kind(scope_type: int) -> Kind:
    """The type; the scope must be the logical unit, 0."""
    if scope_type not in Kind.__members__.values():
        raise invalid_field(_TYPE_AT)
    return Kind(scope_type)


def _holder(kind: Kind | None, who: Registrant) -> Registrant | None:
    return None if kind in _ALL_REGISTRANTS else who


def _without(keys: Mapping[Registrant, int], removed: Iterable[Registrant]) -> dict[Registrant, int]:
    gone = set(removed)
    return {who: key for who, key in keys.items() if who not in gone}


def _tell(whom: Iterable[Registrant], sense: Sense, *, but: Registrant) -> Told:
    return tuple((who, sense) for who in whom if who != but)
