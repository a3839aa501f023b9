"""One command on its way through the opcode table. (READ and WRITE have a shorter one.)"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from iscsi_rp.device import READ, Buffer, BusyError, IoError, Result
from iscsi_rp.errors import Error
from iscsi_rp.scsi.holds import Entry, Operation
from iscsi_rp.scsi.log import page_of
from iscsi_rp.scsi.sense import (
    CHECK_CONDITION,
    GOOD,
    INTERNAL_TARGET_FAILURE,
    PARAMETER_LIST_LENGTH_ERROR,
    RESERVATION_CONFLICT,
    TASK_ABORTED,
    TASK_SET_FULL,
    CheckCondition,
    ReservationConflict,
    Sense,
    io_sense,
)

if TYPE_CHECKING:
    from iscsi_rp.scsi.logical_unit import LogicalUnit

Command: TypeAlias = tuple[Any, Buffer, Buffer | None]
"(tag, CDB of 16 bytes or more, data-out or None). The buffers are valid only until `submit` returns."

Completion: TypeAlias = tuple[Any, int, Buffer, int]
"""(tag, status, payload, transfer length). The payload is sense data after CHECK CONDITION, else data-in; the
transfer length is how many bytes the CDB asked to move: the residual follows from it."""

CommandsDone: TypeAlias = Callable[[Sequence[Completion]], None]


@dataclass(frozen=True, slots=True)
class TargetPort:
    """A target port of the array: one for each portal group, which is one storage processor. Without a
    name it is not known by which port of its group a command came.
    """

    name: str = "iqn.2026-01.io.iscsi-rp:port,t,0x0001"
    'SCSI port name: the target\'s iSCSI name, ",t,0x" and the portal group tag (RFC 7143 4.4.1).'
    relative_id: int = 1
    "Relative target port identifier: the portal group tag. 1 is SP A, 2 is SP B."
    group: int = 1
    "Target port group (SPC-4 5.15): the same number."


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Nexus:
    """An initiator port's relation to a target port (I_T nexus, SAM-5 4.7), as long as its session."""

    initiator: str
    "iSCSI name."
    luns: Mapping[int, LogicalUnit] = field(default_factory=dict)
    "What this initiator sees: its LUN -> logical unit. Live: it changes as LUNs are added or masked."
    isid: int = 0
    "48 bits."
    port: TargetPort = TargetPort()

    @property
    def initiator_port(self) -> str:
        """SCSI name of the initiator port (RFC 7143 4.4.1)."""
        return f"{self.initiator},i,0x{self.isid:012x}"


def failure(error: IoError, *, reading: bool, descriptor: bool) -> tuple[int, bytes]:
    """(status, sense data) for an error of the device; sense in descriptor or fixed format."""
    if isinstance(error, BusyError):
        return TASK_SET_FULL, b""
    return CHECK_CONDITION, io_sense(error, reading=reading).encode(descriptor=descriptor)


class Task:
    """A command that a row of the table serves. It is answered once: by `good`, `fail` or a device's
    error.
    """

    __slots__ = ("_done", "_hold", "cdb", "data", "nexus", "tag", "unit")

    def __init__(self, unit: LogicalUnit, nexus: Nexus, command: Command, done: CommandsDone) -> None:
        self.unit, self.nexus = unit, nexus
        self.tag, cdb, data = command
        # A handler may look at both after the device answered, when the caller's buffers are gone.
        self.cdb, self.data = bytes(cdb), b"" if data is None else bytes(data)
        self._done = done
        self._hold: Entry | None = None

    def good(self, data: Buffer = b"", *, transfer_bytes: int | None = None) -> None:
        """Answer GOOD with data-in; `transfer_bytes` where the CDB asked for another number of bytes."""
        transfer = len(data) if transfer_bytes is None else transfer_bytes
        self._answer((self.tag, GOOD, data, transfer))

    def fail(self, sense: Sense) -> None:
        """Answer CHECK CONDITION."""
        sense_data = sense.encode(descriptor=self.unit.mode.descriptor_sense)
        self._answer((self.tag, CHECK_CONDITION, sense_data, 0))

    def abort(self) -> None:
        """Answer TASK ABORTED."""
        self._answer((self.tag, TASK_ABORTED, b"", 0))

    def end(self, error: Error) -> None:
        """Answer what a handler raised; an error that is neither SCSI's nor a device's is ours."""
        if isinstance(error, ReservationConflict):
            self._answer((self.tag, RESERVATION_CONFLICT, b"", 0))
        elif isinstance(error, IoError):
            descriptor = self.unit.mode.descriptor_sense
            self._answer((self.tag, *failure(error, reading=False, descriptor=descriptor), 0))
        else:
            self.fail(error.sense if isinstance(error, CheckCondition) else INTERNAL_TARGET_FAILURE)

    def parameters(self, length: int) -> bytes:
        """The parameter list of `length` bytes that the CDB announced."""
        if len(self.data) < length:
            raise CheckCondition(PARAMETER_LIST_LENGTH_ERROR)
        return self.data[:length]

    def io(self, operations: Sequence[Operation], then: Callable[[list[Result]], None]) -> None:
        """Have the device do all of it; `then` gets the results in order, or the command fails by the
        first error.
        """
        holds = self.unit.holds
        perform = holds.perform if self._hold is None else holds.perform_holding
        perform(operations, lambda results: self._finish(operations, results, then))

    def exclusively(self, ranges: Sequence[tuple[int, int]], then: Callable[[], None]) -> None:
        """Call `then`, now or later, with all other commands kept out of `ranges`, (offset, length) in
        bytes, until this one is answered. Beyond them it does no more I/O.
        """

        def held(hold: Entry) -> None:
            self._hold = hold
            try:
                then()
            except CheckCondition as error:
                self.fail(error.sense)

        self.unit.holds.hold(ranges, held)

    def _finish(
        self, operations: Sequence[Operation], results: list[Result], then: Callable[[list[Result]], None]
    ) -> None:
        for (op, *_), result in zip(operations, results, strict=True):
            if isinstance(result, IoError):
                self.unit.errors.count(result, page_of(self.cdb[0], op))
                descriptor = self.unit.mode.descriptor_sense
                status, sense = failure(result, reading=op == READ, descriptor=descriptor)
                self._answer((self.tag, status, sense, 0))
                return
        try:
            then(results)
        except CheckCondition as error:
            self.fail(error.sense)

    def _answer(self, completion: Completion) -> None:
        self._done([completion])
        if self._hold is not None:
            self.unit.holds.end(self._hold)
