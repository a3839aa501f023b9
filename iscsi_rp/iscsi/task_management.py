"""Task management: abort and reset (RFC 7143 11.5, 11.6; SAM-5 7).

A command whose data has not all come is dropped; no logical unit has seen it, and none will. A command that a
logical unit has runs to its end; the function is answered after it, and the command itself only where another
initiator asked. So once a function is complete nothing that it names can still change a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Final

from iscsi_rp.iscsi.pdu import Header, task_management_response

if TYPE_CHECKING:
    from iscsi_rp.iscsi.session import Session
    from iscsi_rp.iscsi.tasks import Tasks
    from iscsi_rp.scsi import LogicalUnit

ABORT_TASK: Final = 1
ABORT_TASK_SET: Final = 2
CLEAR_TASK_SET: Final = 4
LUN_RESET: Final = 5
TARGET_WARM_RESET: Final = 6
TARGET_COLD_RESET: Final = 7
TASK_REASSIGN: Final = 8

COMPLETE: Final = 0
NO_SUCH_TASK: Final = 1
NO_SUCH_LUN: Final = 2
REASSIGN_NOT_SUPPORTED: Final = 4
NOT_SUPPORTED: Final = 5
REJECTED: Final = 255

FUNCTIONS: Final = 128
"Functions of one session that may wait at once, one for each command of the window; one more is rejected."


class Barrier:
    """Calls `then` once all commands that it watches have ended."""

    def __init__(self, then: Callable[[], None]) -> None:
        self._then = then
        self._left = 0
        self._armed = False

    def watch(self, session: Tasks, itts: Iterable[int]) -> None:
        for itt in itts:
            session.watchers.setdefault(itt, []).append(self)
            self._left += 1

    @property
    def over(self) -> bool:
        """Nothing is left to wait for."""
        return not self._left

    def arm(self) -> None:
        """Nothing more is watched: go on at once if nothing has to be waited for."""
        self._armed = True
        self._go_on()

    def ended(self) -> None:
        """One of the commands has."""
        self._left -= 1
        self._go_on()

    def _go_on(self) -> None:
        if self._armed and not self._left:
            self._then()


def manage_tasks(session: Session, header: Header) -> None:
    """Do what a Task Management Function Request asks."""
    function = header.flags & 0x7F
    if session.functions >= FUNCTIONS:
        return session.answer(partial(task_management_response, header.itt, REJECTED))
    session.functions += 1

    def respond(response: int) -> None:
        session.functions -= 1
        session.answer(partial(task_management_response, header.itt, response))

    if function == ABORT_TASK:
        _abort_task(session, header, respond)
    elif function in (ABORT_TASK_SET, CLEAR_TASK_SET, LUN_RESET):
        unit = session.unit(header.lun)
        if unit is None:
            return respond(NO_SUCH_LUN)
        barrier = Barrier(partial(respond, COMPLETE))
        session.abort(barrier, unit, tell=False)
        if function != ABORT_TASK_SET:
            for other in session.others():
                other.abort(barrier, unit, tell=True)
        if function == LUN_RESET:
            unit.reset()
        barrier.arm()
    elif function in (TARGET_WARM_RESET, TARGET_COLD_RESET):
        _reset_target(session, respond, cold=function == TARGET_COLD_RESET)
    else:
        respond(REASSIGN_NOT_SUPPORTED if function == TASK_REASSIGN else NOT_SUPPORTED)
    return None


def _abort_task(session: Session, header: Header, respond: Callable[[int], None]) -> None:
    itt, ref_cmd_sn = header.word20, int.from_bytes(header.tail[:4], "big")
    if session.drop_transfer(itt):
        respond(COMPLETE)
    elif session.has_task(itt):
        barrier = Barrier(partial(respond, COMPLETE))
        session.silence(barrier, [itt])
        barrier.arm()
    else:
        respond(COMPLETE if session.abort_ahead(ref_cmd_sn, header.cmd_sn) else NO_SUCH_TASK)


def _reset_target(session: Session, respond: Callable[[int], None], *, cold: bool) -> None:
    """What the initiator does not see of the target is not reset."""
    others = session.others()

    def done() -> None:
        respond(COMPLETE)
        if cold:
            for each in (session, *others):
                if each.target is session.target:
                    each.close()

    barrier = Barrier(done)
    for unit in set(session.nexus.luns.values()):
        session.abort(barrier, unit, tell=False)
        for other in others:
            other.abort(barrier, unit, tell=True)
        unit.reset()
    barrier.arm()


def abort_for(session: Session, unit: LogicalUnit, then: Callable[[], None]) -> None:
    """Abort the commands of `session` for `unit`, as another nexus wants it; `then` is called when none is
    left (PREEMPT AND ABORT, SPC-4 5.13.11.2.6).
    """
    barrier = Barrier(then)
    session.abort(barrier, unit, tell=True)
    barrier.arm()
