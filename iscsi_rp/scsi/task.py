"""One command on its way through the opcode table. (READ and WRITE have a shorter one.)"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from iscsi_rp.device import READ, Buffer, BusyError, IoError, Result
from iscsi_rp.scsi.sense import (
    CHECK_CONDITION,
    GOOD,
    PARAMETER_LIST_LENGTH_ERROR,
    TASK_SET_FULL,
    CheckCondition,
    Sense,
    io_sense,
)

if TYPE_CHECKING:
    from iscsi_rp.scsi.logical_unit import LogicalUnit

Command: TypeAlias = tuple[Any, Buffer, Buffer | None]
"(tag, CDB of 16 bytes, data-out or None). The buffers are valid only until `submit` returns."

Completion: TypeAlias = tuple[Any, int, Buffer, int]
"""(tag, status, payload, transfer length). The payload is sense data after CHECK CONDITION, else data-in; the
transfer length is how many bytes the CDB asked to move: the residual follows from it."""

CommandsDone: TypeAlias = Callable[[Sequence[Completion]], None]
Operation: TypeAlias = tuple[int, int, int, Buffer | None, bool]
"(op, offset, length, data, fua): an `Io` that has no tag yet."


@dataclass(frozen=True, slots=True, eq=False)
class Nexus:
    """An initiator port's relation to a target (I_T nexus, SAM-5 4.7)."""

    initiator: str
    luns: Mapping[int, LogicalUnit]
    "What this initiator sees: LUN -> logical unit."


def failure(error: IoError, *, reading: bool) -> tuple[int, bytes]:
    """(status, sense data) for an error of the device."""
    if isinstance(error, BusyError):
        return TASK_SET_FULL, b""
    return CHECK_CONDITION, io_sense(error, reading=reading).encode()


class Task:
    """A command that a row of the table serves. It is answered once: by `good`, `fail` or a device's
    error.
    """

    __slots__ = ("_done", "_tag", "cdb", "data", "nexus", "unit")

    def __init__(self, unit: LogicalUnit, nexus: Nexus, command: Command, done: CommandsDone) -> None:
        self.unit, self.nexus = unit, nexus
        self._tag, cdb, data = command
        # A handler may look at both after the device answered, when the caller's buffers are gone.
        self.cdb, self.data = bytes(cdb), b"" if data is None else bytes(data)
        self._done = done

    def good(self, data: Buffer = b"", *, transfer_bytes: int | None = None) -> None:
        """Answer GOOD with data-in; `transfer_bytes` where the CDB asked for another number of bytes."""
        transfer = len(data) if transfer_bytes is None else transfer_bytes
        self._done([(self._tag, GOOD, data, transfer)])

    def fail(self, sense: Sense) -> None:
        self._done([(self._tag, CHECK_CONDITION, sense.encode(), 0)])

    def parameters(self, length: int) -> bytes:
        """The parameter list of `length` bytes that the CDB announced."""
        if len(self.data) < length:
            raise CheckCondition(PARAMETER_LIST_LENGTH_ERROR)
        return self.data[:length]

    def io(self, operations: Sequence[Operation], then: Callable[[list[Result]], None]) -> None:
        """Have the device do all of it; `then` gets the results in order, or the command fails by the
        first error.
        """
        results: list[Result] = [None] * len(operations)
        left = len(operations)

        def done(report: Sequence[tuple[Any, Result]]) -> None:
            nonlocal left
            for index, result in report:
                results[index] = result
            left -= len(report)
            if not left:
                self._finish(operations, results, then)

        self.unit.device.submit([(*op, index) for index, op in enumerate(operations)], done)

    def _finish(
        self, operations: Sequence[Operation], results: list[Result], then: Callable[[list[Result]], None]
    ) -> None:
        for (op, *_), result in zip(operations, results, strict=True):
            if isinstance(result, IoError):
                status, sense = failure(result, reading=op == READ)
                self._done([(self._tag, status, sense, 0)])
                return
        try:
            then(results)
        except CheckCondition as error:
            self.fail(error.sense)
