"""Whether the medium can be accessed: FORMAT UNIT, SANITIZE, START STOP UNIT (SBC-4 5.4, 5.30, 5.31; 4.11).

Formatting and sanitizing go over all blocks in chunks, through the device as every write. Meanwhile, and
after a failure, commands that need the medium are refused, so nothing is held. Neither abort nor reset ends
it (SBC-4 4.11.3): an aborted command ends, its work goes on. The end of the process breaks it off, which is a
failure as any other: before the first block is touched it is noted, durably, what is begun, and the note is
taken away before the medium is ready again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from iscsi_rp.device import FLUSH, READ, UNMAP, WRITE, BusyError, NotReadyError, Result
from iscsi_rp.errors import Error
from iscsi_rp.scsi.access import PortState, Reserved
from iscsi_rp.scsi.cdb import uint
from iscsi_rp.scsi.holds import Operation
from iscsi_rp.scsi.sense import (
    CheckCondition,
    Sense,
    invalid_field,
    invalid_parameter,
)
from iscsi_rp.scsi.steps import Drive, Steps
from iscsi_rp.scsi.task import Nexus, Task

if TYPE_CHECKING:
    from iscsi_rp.scsi.logical_unit import LogicalUnit
    from iscsi_rp.scsi.opcodes import Opcode

_CHUNK: Final = 1 << 20
_CLEAR: Final = 64 << 20
"So much is unmapped at once."


class Work(StrEnum):
    """What is done to all of a medium. The values are stored."""

    FORMAT = "FORMAT"
    SANITIZE = "SANITIZE"
    SANITIZE_UNRESTRICTED = "SANITIZE_UNRESTRICTED"
    "With AUSE: EXIT FAILURE MODE ends its failure."


Note: TypeAlias = Callable[[Work | None, Callable[[Error | None], None]], None]
"Makes durable what is unfinished, if anything; then calls back on the loop, with the error if it could not."

_WORKING: Final = {
    Work.FORMAT: Sense(0x2, 0x04, 0x04),
    Work.SANITIZE: Sense(0x2, 0x04, 0x1B),
    Work.SANITIZE_UNRESTRICTED: Sense(0x2, 0x04, 0x1B),
}
_FAILED: Final = {
    Work.FORMAT: Sense(0x3, 0x31, 0x01),
    Work.SANITIZE: Sense(0x3, 0x31, 0x03),
    Work.SANITIZE_UNRESTRICTED: Sense(0x3, 0x31, 0x03),
}
_STOPPED: Final = Sense(0x2, 0x04, 0x02)

_FORMAT_UNIT, _START_STOP_UNIT, _PREVENT_ALLOW, _SANITIZE = 0x04, 0x1B, 0x1E, 0x48
OVERWRITE, BLOCK_ERASE, EXIT_FAILURE_MODE = 0x01, 0x02, 0x1F


@dataclass(slots=True)
class Medium:
    """What stands between commands and the medium of one logical unit."""

    unfinished: Work | None = None
    "What was begun and has not ended well, as `note` was last given. If nobody works at it, it has failed."
    note: Note | None = None
    "None: a restart forgets what is unfinished."
    noting: bool = False
    stopped: bool = False
    working: Work | None = None
    progress: int = 0
    "In 65,536ths."
    task: Task | None = None
    "The command that is answered when the work is over."

    @property
    def sense(self) -> Sense | None:
        """Why commands that need the medium are refused, or None."""
        if self.working is not None:
            return _WORKING[self.working]._replace(progress=self.progress)
        if self.unfinished is not None:
            return _FAILED[self.unfinished]
        return _STOPPED if self.stopped else None

    def take_note(self, unfinished: Work | None, then: Callable[[Error | None], None]) -> None:
        """Call `then`, now or later: the note is durable, or with the error all is as it was."""

        def noted(error: Error | None) -> None:
            self.noting = False
            if error is None:
                self.unfinished = unfinished
            then(error)

        if self.note is None or unfinished == self.unfinished:
            return noted(None)
        self.noting = True
        return self.note(unfinished, noted)

    def let_go(self, nexus: Nexus, tag: Any = None) -> None:
        """If the work was begun by this command of `nexus`, or by any, it goes on without it."""
        task = self.task
        if task is not None and task.nexus is nexus and tag in (None, task.tag):
            self.task = None
            task.abort()

    def admit(self, row: Opcode) -> None:
        """Raises `CheckCondition`."""
        sense = self.sense
        if sense is None or row.without_media != PortState.ACTIVE:
            return
        if self.working is None:
            if row.code in (_START_STOP_UNIT, _PREVENT_ALLOW):
                return
            if self.unfinished is not None and row.code == _SANITIZE:
                return
            # A failure in restricted completion mode ends with a SANITIZE only (SBC-4 4.11.4).
            if self.unfinished not in (None, Work.SANITIZE) and row.code == _FORMAT_UNIT:
                return
        raise CheckCondition(sense)


def start_stop_unit(task: Task) -> None:
    """Stopped, the cache is on the medium and nothing gets at it until START. Power conditions are accepted:
    there is nothing that could save power.
    """
    unit, options = task.unit, task.cdb[4]
    condition = options >> 4
    if options & 0x02 or condition not in (0x0, 0x1, 0x2, 0x3, 0x7):
        raise invalid_field(4)  # LOEJ: not removable
    starts = condition == 0 and bool(options & 0x01)
    unit.reservations.admit(task.nexus, Reserved.ALLOWED if starts else Reserved.CONFLICT)

    def flushed() -> None:
        if condition < 2:
            unit.medium.stopped = condition == 0 and not starts
            unit.review_all()
        task.good()

    if starts or options & 0x04:
        return flushed()
    return task.io([(FLUSH, 0, 0, None, False)], lambda _: flushed())


def format_unit(task: Task) -> None:
    """FORMAT UNIT: all blocks read as zeros, and take no space where the device can do that. No protection
    information, no list of defects, no initialization pattern.
    """
    flags = task.cdb[1]
    if flags & 0xC0 or (not flags & 0x10 and flags & 0x2F):
        raise invalid_field(1)
    if task.cdb[4]:
        raise invalid_field(4)
    immediate = False
    if flags & 0x10:
        header = task.parameters(8 if flags & 0x20 else 4)
        defects = uint(header, 4, 4) if flags & 0x20 else uint(header, 2, 2)
        # IP; and DPRY, DCRT and STPF without FOV.
        if header[1] & 0x08 or (header[1] & 0x70 and not header[1] & 0x80):
            raise invalid_parameter(1)
        if header[0] or defects:
            raise invalid_parameter(0 if header[0] else 2)
        immediate = bool(header[1] & 0x02)
    _work(task, _cleared(task.unit), Work.FORMAT, immediate)


def sanitize(task: Task) -> None:
    """SANITIZE: OVERWRITE, BLOCK ERASE, EXIT FAILURE MODE. What is written is on the medium when it is over.

    There is no CRYPTOGRAPHIC ERASE: a plain store has no key to forget.
    """
    unit, cdb = task.unit, task.cdb
    action, length = cdb[1] & 0x1F, uint(cdb, 7, 2)
    if cdb[1] & 0x40 or any(cdb[2:7]):
        raise invalid_field(1 if cdb[1] & 0x40 else 2)
    if action == EXIT_FAILURE_MODE:
        if length:
            raise invalid_field(7)
        return _exit_failure_mode(task)
    if action == OVERWRITE:
        steps = _overwritten(unit, list(_patterns(task, length)))
    else:
        if length:
            raise invalid_field(7)
        steps = _erased(unit)
    work = Work.SANITIZE_UNRESTRICTED if cdb[1] & 0x20 else Work.SANITIZE
    return _work(task, steps, work, bool(cdb[1] & 0x80))


def _exit_failure_mode(task: Task) -> None:
    unit, medium = task.unit, task.unit.medium
    if medium.noting:
        raise BusyError
    if medium.unfinished not in (None, Work.SANITIZE_UNRESTRICTED):
        raise invalid_field(1)

    def noted(error: Error | None) -> None:
        unit.review_all()
        if error is None:
            task.good()
        else:
            task.end(error)

    medium.take_note(None, noted)


def _patterns(task: Task, length: int) -> Iterator[bytes]:
    """One block for each pass (SBC-4 5.30.2.2)."""
    block = task.unit.device.block_size
    if not 5 <= length <= block + 4:
        raise invalid_field(7)
    data = task.parameters(length)
    passes, size = data[0] & 0x1F, uint(data, 2, 2)
    if not passes:
        raise invalid_parameter(0)
    if not 0 < size <= length - 4:
        raise invalid_parameter(2)
    pattern = (data[4 : 4 + size] * (block // size + 1))[:block]
    inverted = bytes(byte ^ 0xFF for byte in pattern)
    for each in range(passes):
        yield inverted if data[0] & 0x80 and each % 2 else pattern


def _work(task: Task, steps: Steps, work: Work, immediate: bool) -> None:
    """Do `steps` while the medium is out of reach. Answered when it is noted that they begin, or when they
    are over. Raises `BusyError`.
    """
    unit, medium = task.unit, task.unit.medium
    if medium.noting:
        raise BusyError
    medium.working, medium.progress, medium.task = work, 0, task
    unit.review_all()

    def reached(results: list[Result]) -> None:
        # A medium that has a block that cannot be read may well be formatted.
        if isinstance(results[0], NotReadyError | BusyError):
            ended(results[0])
        else:
            medium.take_note(work, noted)

    def noted(error: Error | None) -> None:
        if error is not None:
            return ended(error)
        if immediate:
            answer(None)
        return Drive(steps, worked, later=unit.later).start()

    def worked(error: Error | None) -> None:
        if error is None:
            medium.take_note(None, forgotten)
        else:
            forgotten(error)

    def forgotten(error: Error | None) -> None:
        ended(None if error is None else CheckCondition(_FAILED[work]))

    def ended(error: Error | None) -> None:
        medium.working = None
        unit.review_all()
        answer(error)

    def answer(error: Error | None) -> None:
        waiting, medium.task = medium.task, None
        if waiting is None:
            return
        if error is None:
            waiting.good(transfer_bytes=len(task.data))
        else:
            waiting.end(error)

    # What cannot begin, because the device does not serve, is refused: nothing was touched, nothing is noted.
    unit.holds.perform([(READ, 0, unit.device.block_size, None, False)], reached)


def _cleared(unit: LogicalUnit) -> Steps:
    for at in range(0, unit.device.size, _CLEAR):
        unit.medium.progress = (at << 16) // unit.device.size
        yield unit, [(UNMAP, at, min(_CLEAR, unit.device.size - at), None, False)]
    yield unit, [(FLUSH, 0, 0, None, False)]


def _overwritten(unit: LogicalUnit, patterns: Sequence[bytes]) -> Steps:
    size = unit.device.size
    total = size * len(patterns)
    for number, pattern in enumerate(patterns):
        chunk = memoryview(pattern * (_CHUNK // len(pattern)))
        for at in range(0, size, _CHUNK):
            unit.medium.progress = (number * size + at << 16) // total
            data = chunk[: size - at]
            # FUA: each pass has to reach the medium, not only the cache.
            write: Operation = (WRITE, at, len(data), data, True)
            yield unit, [write]


def _erased(unit: LogicalUnit) -> Steps:
    """Overwritten with zeros, because giving space back leaves what is in it; then given back."""
    yield from _overwritten(unit, [bytes(unit.device.block_size)])
    yield from _cleared(unit)
