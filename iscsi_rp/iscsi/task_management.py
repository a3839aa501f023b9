"""Task management: abort and reset (RFC 7143 11.5, 11.6; SAM-5 7).

A command whose data has not all come is dropped; no logical unit has seen it, and none will. A command that a
logical unit has runs to its end and is answered; the function is answered after it. So once a function is
complete nothing that it names can still change a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Final

from iscsi_rp.iscsi.pdu import Header, task_management_response

if TYPE_CHECKING:
    from iscsi_rp.iscsi.session import Session

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

BARRIERS: Final = 16
"Functions of one session that may wait at once; one more is rejected."


class Barrier:
    """Calls `then` once all commands that it watches have ended."""

    def __init__(self, then: Callable[[], None]) -> None:
        self._then = then
        self._left: set[tuple[Session, int]] = set()
        self._sessions: set[Session] = set()

    def watch(self, session: Session, itts: Iterable[int]) -> None:
        added = {(session, itt) for itt in itts}
        if added and session not in self._sessions:
            self._sessions.add(session)
            session.barriers.append(self)
        self._left |= added

    def arm(self) -> None:
        """Nothing more is watched: go on at once if nothing has to be waited for."""
        if not self._left:
            self._finish()

    def ended(self, session: Session, itt: int) -> None:
        if (session, itt) in self._left:
            self._left.remove((session, itt))
            self.arm()

    def _finish(self) -> None:
        for session in self._sessions:
            session.barriers.remove(self)
        self._then()


def manage_tasks(session: Session, header: Header, others: Iterable[Session]) -> None:
    """Do what a Task Management Function Request asks; `others` are the sessions besides this one."""
    function = header.flags & 0x7F

    def respond(response: int) -> None:
        session.answer(partial(task_management_response, header.itt, response))

    if len(session.barriers) >= BARRIERS:
        respond(REJECTED)
    elif function == ABORT_TASK:
        _abort_task(session, header.word20, respond)
    elif function in (ABORT_TASK_SET, CLEAR_TASK_SET, LUN_RESET):
        unit = session.unit(header.lun)
        if unit is None:
            return respond(NO_SUCH_LUN)
        barrier = Barrier(partial(respond, COMPLETE))
        session.abort(barrier, unit, tell=False)
        if function != ABORT_TASK_SET:
            for other in others:
                other.abort(barrier, unit, tell=True)
        if function == LUN_RESET:
            unit.reset()
        barrier.arm()
    elif function in (TARGET_WARM_RESET, TARGET_COLD_RESET):
        _reset_target(session, others, respond, cold=function == TARGET_COLD_RESET)
    else:
        respond(REASSIGN_NOT_SUPPORTED if function == TASK_REASSIGN else NOT_SUPPORTED)
    return None


def _abort_task(session: Session, itt: int, respond: Callable[[int], None]) -> None:
    if session.drop_transfer(itt):
        respond(COMPLETE)
    elif session.has_task(itt):
        barrier = Barrier(partial(respond, COMPLETE))
        barrier.watch(session, [itt])
    else:
        respond(NO_SUCH_TASK)


def _reset_target(
    session: Session, others: Iterable[Session], respond: Callable[[int], None], *, cold: bool
) -> None:
    affected = [other for other in others if other.target is session.target]

    def done() -> None:
        respond(COMPLETE)
        if cold:
            for each in (session, *affected):
                each.close()

    barrier = Barrier(done)
    session.abort(barrier, None, tell=False)
    for other in affected:
        other.abort(barrier, None, tell=True)
    for unit in session.target.luns.values() if session.target else ():
        unit.reset()
    barrier.arm()
