"""EXTENDED COPY: the logical unit as a copy manager (SPC-4 5.17), within itself and between logical units
that the initiator sees.

Blocks are read from the source's device and written to the destination's, so they are split there as every
write is. What takes no space in the source takes none in the destination. Nothing is held: a copy is many
commands' worth of work, and each step of it passes other commands' holds as a command would.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from iscsi_rp.device import MAP, READ, UNMAP, WRITE, BusyError, SpaceError, unpack_runs
from iscsi_rp.errors import Error
from iscsi_rp.scsi import copy_format
from iscsi_rp.scsi.blocks import data_of
from iscsi_rp.scsi.cdb import uint
from iscsi_rp.scsi.copy_format import CopyList, Segment, Target
from iscsi_rp.scsi.sense import CheckCondition, Sense, invalid_field, invalid_parameter
from iscsi_rp.scsi.steps import Drive, Steps
from iscsi_rp.scsi.task import Nexus, Task

if TYPE_CHECKING:
    from iscsi_rp.scsi.logical_unit import LogicalUnit

_WINDOW: Final = 8 << 20
"So much of the source is asked at once what of it takes space."
_CHUNK: Final = 1 << 20
_REMEMBERED: Final = 64
"Copies that are over and can be asked for; the oldest goes."
_NAA: Final = b"\x01\x03"
"Code set binary; of a logical unit, NAA."
_READ_16, _WRITE_16 = 0x88, 0x8A

_OPERATION_IN_PROGRESS: Final = Sense(0x5, 0x00, 0x16)
# All of COPY ABORTED.
_UNREACHABLE_TARGET: Final = Sense(0xA, 0x08, 0x04)
_THIRD_PARTY_FAILURE: Final = Sense(0xA, 0x0D, 0x01)
_TARGET_NOT_REACHABLE: Final = Sense(0xA, 0x0D, 0x02)
_WRONG_TARGET_TYPE: Final = Sense(0xA, 0x0D, 0x03)
_INEXACT_SEGMENT: Final = Sense(0xA, 0x26, 0x0A)
_STOPPED: Final = Sense(0xA, 0x00, 0x00)

_RUNNING, _GOOD, _FAILED = 0, 1, 2


@dataclass(slots=True, eq=False)
class Copy:
    """One EXTENDED COPY, under way or over."""

    nexus: Nexus
    tag: Any
    wanted: CopyList
    status: int = _RUNNING
    segments: int = 0
    "Done."
    moved_bytes: int = 0
    sense: bytes = b""
    "Why it failed."
    stopped: bool = False

    def steps(self) -> Steps:
        """Raises `CheckCondition`, and whatever a unit or device refuses."""
        targets = [_find(target, self.nexus) for target in self.wanted.targets]
        for segment in self.wanted.segments:
            yield from self._segment(segment, targets)
            self.segments += 1

    def _segment(self, segment: Segment, targets: list[LogicalUnit | Sense]) -> Steps:
        source, destination = (_reached(targets, each) for each in (segment.source, segment.destination))
        from_block, to_block = source.device.block_size, destination.device.block_size
        length = segment.blocks * (to_block if segment.in_destination_blocks else from_block)
        if length > copy_format.SEGMENT_BYTES:
            raise invalid_parameter(0)
        if length % from_block or length % to_block:
            raise CheckCondition(_INEXACT_SEGMENT)
        begin, to = segment.source_lba * from_block, segment.destination_lba * to_block
        if begin + length > source.device.size or to + length > destination.device.size:
            raise CheckCondition(_TARGET_NOT_REACHABLE)
        self._check(source, destination)
        done = 0
        while done < length:
            window = min(_WINDOW, length - done)
            runs: tuple[int, ...] = (window,)
            if from_block == to_block:
                (told,) = yield source, [(MAP, begin + done, window, None, False)]
                runs = unpack_runs(data_of(told))
            for taking_space, part in _parts(runs):
                self._check(source, destination)
                if taking_space:
                    (read,) = yield source, [(READ, begin + done, part, None, False)]
                    self._check(source, destination)
                    yield destination, [(WRITE, to + done, part, data_of(read), False)]
                else:
                    yield destination, [(UNMAP, to + done, part, None, False)]
                done += part
                self.moved_bytes += part

    def _check(self, source: LogicalUnit, destination: LogicalUnit) -> None:
        """Before each step, because what allows it may end meanwhile."""
        if self.stopped:
            raise CheckCondition(_STOPPED)
        seen = self.nexus.luns.values()
        if source not in seen or destination not in seen:
            raise CheckCondition(_TARGET_NOT_REACHABLE)
        source.admit_as(self.nexus, _READ_16)
        destination.admit_as(self.nexus, _WRITE_16)


def _parts(runs: tuple[int, ...]) -> Iterator[tuple[bool, int]]:
    """(takes space, bytes) of what is copied in one step."""
    for index, run in enumerate(runs):
        if index % 2:
            if run:
                yield False, run
        else:
            for at in range(0, run, _CHUNK):
                yield True, min(_CHUNK, run - at)


def _find(target: Target, nexus: Nexus) -> LogicalUnit | Sense:
    """The unit that a descriptor names, or why a segment that needs it fails."""
    if target.device_type:
        return _WRONG_TARGET_TYPE
    for unit in nexus.luns.values():
        if target.designation == _NAA + bytes((len(unit.identity.naa),)) + unit.identity.naa:
            return unit if target.block_size == unit.device.block_size else _WRONG_TARGET_TYPE
    return _TARGET_NOT_REACHABLE


def _reached(targets: list[LogicalUnit | Sense], index: int) -> LogicalUnit:
    found = targets[index] if index < len(targets) else _UNREACHABLE_TARGET
    if isinstance(found, Sense):
        raise CheckCondition(found)
    return found


@dataclass(slots=True)
class Copies:
    """The copies that a logical unit manages, and those that it remembers."""

    running: list[Copy] = field(default_factory=list)
    over: list[Copy] = field(default_factory=list)

    def find(self, nexus: Nexus, identifier: int) -> Copy | None:
        for copy in (*self.running, *reversed(self.over)):
            if copy.nexus is nexus and copy.wanted.identifier == identifier:
                return copy
        return None

    def begin(self, copy: Copy) -> None:
        """Raises `CheckCondition`, `BusyError`."""
        if len(self.running) >= copy_format.COPIES:
            raise BusyError
        identifier = copy.wanted.identifier
        if identifier is not None:
            known = self.find(copy.nexus, identifier)
            if known in self.running:
                raise CheckCondition(_OPERATION_IN_PROGRESS)
            if known is not None:
                self.over.remove(known)
        self.running.append(copy)

    def end(self, copy: Copy) -> None:
        self.running.remove(copy)
        if copy.wanted.held:
            self.over.append(copy)
            del self.over[:-_REMEMBERED]

    def stop(self, nexus: Nexus | None, tag: Any = None) -> None:
        """Have the copies of `nexus` (None: all), or the one with this tag, end after their present step."""
        for copy in self.running:
            if nexus in (None, copy.nexus) and tag in (None, copy.tag):
                copy.stopped = True

    def forget(self, nexus: Nexus) -> None:
        self.stop(nexus)
        self.over = [copy for copy in self.over if copy.nexus is not nexus]


def extended_copy(task: Task) -> None:
    """EXTENDED COPY (LID1). Answered when all is copied."""
    length = uint(task.cdb, 10, 4)
    if not length:
        return task.good()
    copy = Copy(task.nexus, task.tag, copy_format.decode(task.parameters(length)))
    task.unit.copies.begin(copy)

    def ended(error: Error | None) -> None:
        copy.status = _GOOD if error is None else _FAILED
        task.unit.copies.end(copy)
        if error is None:
            return task.good(transfer_bytes=length)
        if isinstance(error, BusyError | SpaceError):
            return task.end(error)
        refused = isinstance(error, CheckCondition) and error.sense.key in (0x5, 0xA)
        sense = error.sense if refused else _THIRD_PARTY_FAILURE  # type: ignore[attr-defined]
        copy.sense = sense.encode()
        return task.fail(sense)

    return Drive(copy.steps(), ended).start()


def receive_copy_results(task: Task) -> None:
    """RECEIVE COPY RESULTS (LID1): about a copy of this nexus, or what copies may be."""
    action = task.cdb[1] & 0x1F
    if action == copy_format.OPERATING_PARAMETERS:
        data = copy_format.operating_parameters()
    else:
        copy = task.unit.copies.find(task.nexus, task.cdb[2])
        if copy is None:
            raise invalid_field(2)
        if action == copy_format.COPY_STATUS:
            data = copy_format.copy_status(copy.status, copy.segments, copy.moved_bytes)
        else:
            data = copy_format.failed_segment_details(copy.status, copy.sense)
    task.good(data[: uint(task.cdb, 10, 4)])
