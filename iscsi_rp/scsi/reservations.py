"""Who may use a logical unit: SCSI-2 reservations (SPC-2 5.5) and persistent reservations (SPC-4 5.13).

They exclude each other: under a SCSI-2 reservation PERSISTENT RESERVE IN and OUT conflict. While anybody is
registered RESERVE and RELEASE do nothing for those who have access anyway, and conflict for all others (CRH).

PERSISTENT RESERVE OUTs are done one after the other. Where the result is to survive a loss of power (APTPL)
it is stored before it takes effect and is answered; the next one waits, as one of its session's commands, and
for RESERVE the unit is busy.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias

from iscsi_rp.device import BusyError
from iscsi_rp.errors import Error
from iscsi_rp.scsi.access import Reserved
from iscsi_rp.scsi.cdb import uint
from iscsi_rp.scsi.persistent import Change, Registrant
from iscsi_rp.scsi.persistent_format import (
    decode,
    decode_request,
    encode,
    read_full_status,
    read_keys,
    read_reservation,
    report_capabilities,
)
from iscsi_rp.scsi.sense import (
    CheckCondition,
    ReservationConflict,
    invalid_field,
    invalid_parameter,
)
from iscsi_rp.scsi.task import Nexus, Task

if TYPE_CHECKING:
    from iscsi_rp.scsi.logical_unit import LogicalUnit

Save: TypeAlias = Callable[[bytes, Callable[[Error | None], None]], None]
"Makes registrations durable, then calls back on the loop, with the error if it could not."

PERSISTENT_IN: Final = {
    0: "READ KEYS",
    1: "READ RESERVATION",
    2: "REPORT CAPABILITIES",
    3: "READ FULL STATUS",
}
"Service actions (SPC-4 6.15.1)."

_APTPL_AT: Final = 20
_MOVED_PORT_AT: Final = 18


def registrant(nexus: Nexus) -> Registrant:
    return Registrant(nexus.initiator_port.lower(), nexus.port.relative_id)


class Reservations:
    """The reservations of one logical unit."""

    def __init__(self, unit: LogicalUnit, stored: bytes, save: Save | None) -> None:
        """`stored` is what `save` was last given. Raises `RegistrationsFormatError`."""
        self._unit, self._save, self._saved = unit, save, stored
        self.persistent = decode(stored)
        self.reserved_by: Nexus | None = None
        "Who holds the SCSI-2 reservation."
        self._waiting: deque[Task] = deque()
        self._saving = False

    @property
    def durable(self) -> bool:
        return self._save is not None

    @property
    def stored(self) -> bytes:
        """What `save` was last given."""
        return self._saved

    def is_open(self, nexus: Nexus) -> bool:
        """Whether no command of `nexus` conflicts."""
        if self.reserved_by is not None:
            return self.reserved_by is nexus
        return self.persistent.kind is None or self.persistent.allows(registrant(nexus), reading=False)

    def admit(self, nexus: Nexus, kind: Reserved) -> None:
        """Raises `ReservationConflict` when `nexus` may not have such a command done."""
        if kind in (Reserved.ALLOWED, Reserved.OWN_RULES):
            return
        if self.reserved_by is not None:
            if self.reserved_by is not nexus:
                raise ReservationConflict
        elif kind != Reserved.PERSISTENT_ALLOWED:
            reading = kind == Reserved.READS
            if not self.persistent.allows(registrant(nexus), reading=reading):
                raise ReservationConflict

    # SCSI-2

    def reserve(self, nexus: Nexus) -> None:
        """Raises `ReservationConflict`; `BusyError` while it is not known whether anybody is registered."""
        if self._saving:
            raise BusyError
        if self._has_access_anyway(nexus):
            return
        if self.reserved_by not in (None, nexus):
            raise ReservationConflict
        self.reserved_by = nexus
        self._unit.review_all()

    def release(self, nexus: Nexus) -> None:
        """End the reservation, if it is that of `nexus`. Raises `ReservationConflict`."""
        if not self._has_access_anyway(nexus) and self.reserved_by is nexus:
            self.drop()

    def drop(self) -> None:
        """The SCSI-2 reservation is over: released, its session over, or the unit reset."""
        if self.reserved_by is not None:
            self.reserved_by = None
            self._unit.review_all()

    def _has_access_anyway(self, nexus: Nexus) -> bool:
        """By a persistent reservation (SPC-4 5.13.3). Raises `ReservationConflict` for those who have not."""
        state, who = self.persistent, registrant(nexus)
        if not state.keys:
            return False
        if state.kind is None or not state.allows(who, reading=False):
            raise ReservationConflict
        return True

    # Persistent

    def check_persistent(self) -> None:
        """Raises `ReservationConflict` under a SCSI-2 reservation, whose ever it is (SPC-2 5.5.1)."""
        if self.reserved_by is not None:
            raise ReservationConflict

    def execute(self, task: Task) -> None:
        """Do a PERSISTENT RESERVE OUT once those before it are over."""
        self._waiting.append(task)
        self._next()

    def _next(self) -> None:
        while self._waiting and not self._saving:
            task = self._waiting.popleft()
            try:
                self._begin(task)
            except (CheckCondition, ReservationConflict) as error:
                task.end(error)

    def _begin(self, task: Task) -> None:
        self.check_persistent()
        groups = self._unit.port_groups
        request = decode_request(task, registrant(task.nexus), groups.relative_ids, self._unit.ports_of)
        if request.aptpl and not self.durable:
            raise invalid_parameter(_APTPL_AT)
        if request.move_to is not None and request.move_to.port not in groups.relative_ids:
            raise invalid_parameter(_MOVED_PORT_AT)
        change = self.persistent.apply(request)
        stored = encode(change.state)
        if self._save is None or stored == self._saved:
            self._commit(task, change)
        else:
            self._saving = True
            self._save(stored, partial(self._stored, task, change, stored))

    def _stored(self, task: Task, change: Change, stored: bytes, error: Error | None) -> None:
        self._saving = False
        if error is None:
            self._saved = stored
            self._commit(task, change)
        else:
            task.end(error)
        self._next()

    def _commit(self, task: Task, change: Change) -> None:
        self.persistent = change.state
        self._unit.review_all()
        for who, sense in change.told:
            for nexus in self._unit.nexuses(who):
                self._unit.establish_for(nexus, sense)
        answer = partial(task.good, transfer_bytes=len(task.data))
        if not change.preempted:
            return answer()
        ended = {nexus for who in change.preempted for nexus in self._unit.nexuses(who)} - {task.nexus}
        # Also what sessions began that are over, or copies that another unit manages: nothing of it may reach
        # the medium once the fence is said to stand.
        return self._abort(ended, lambda: self._unit.holds.after_all(answer))

    def _abort(self, nexuses: set[Nexus], then: Callable[[], None]) -> None:
        """End the commands of `nexuses`; `then`, once all of them are over."""
        abort = self._unit.abort_tasks
        if abort is None or not nexuses:
            return then()
        left = len(nexuses)

        def ended() -> None:
            nonlocal left
            left -= 1
            if not left:
                then()

        for nexus in nexuses:
            abort(nexus, ended)
        return None


# Handlers


def reserve(task: Task) -> None:
    """RESERVE (6) and (10): the whole unit, for the nexus itself (third party and extents are obsolete)."""
    _check_reserve(task)
    task.unit.reservations.reserve(task.nexus)
    task.good()


def release(task: Task) -> None:
    _check_reserve(task)
    task.unit.reservations.release(task.nexus)
    task.good()


def _check_reserve(task: Task) -> None:
    if task.cdb[1] & 0x1F:
        raise invalid_field(1)


def persistent_reserve_in(task: Task) -> None:
    """PERSISTENT RESERVE IN (SPC-4 6.15)."""
    reservations = task.unit.reservations
    reservations.check_persistent()
    state, action = reservations.persistent, task.cdb[1] & 0x1F
    if action == 0:
        data = read_keys(state)
    elif action == 1:
        data = read_reservation(state)
    elif action == 2:
        data = report_capabilities(state, durable=reservations.durable)
    else:
        data = read_full_status(state)
    task.good(data[: uint(task.cdb, 7, 2)])


def persistent_reserve_out(task: Task) -> None:
    """PERSISTENT RESERVE OUT (SPC-4 6.16)."""
    task.unit.reservations.execute(task)
