"""Long work on logical units, written as a generator: it yields what devices shall do and gets the results.

The work goes on whenever a device has answered, so between two steps everybody else has his turn, if the
device answers later. One that answers at once is a loop here, not a recursion.
"""

from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, TypeAlias

from iscsi_rp.device import BusyError, IoError, Result
from iscsi_rp.errors import Error
from iscsi_rp.scsi.holds import Operation

if TYPE_CHECKING:
    from iscsi_rp.scsi.logical_unit import LogicalUnit

Steps: TypeAlias = Generator[tuple["LogicalUnit", Sequence[Operation]], list[Result], None]
"Yields (unit, operations) and gets their results; an `IoError` among them is raised where it yielded."

Later: TypeAlias = Callable[[Callable[[], None]], None]
"Calls back on the loop after a moment, never at once."


class Drive:
    """Runs `steps` to their end, then calls `ended` with what they raised, or None. With `later` it has
    patience: what a device is too busy for is done again after a moment, for as long as it is.
    """

    def __init__(
        self, steps: Steps, ended: Callable[[Error | None], None], *, later: Later | None = None
    ) -> None:
        self._steps, self._ended, self._later = steps, ended, later
        self._arrived: list[Result] | None = None
        self._running = False

    def start(self) -> None:
        self._run(lambda: next(self._steps))

    def _resume(self, results: list[Result]) -> None:
        if self._later is not None and any(isinstance(result, BusyError) for result in results):
            return self._later(lambda: self._run(lambda: self._step))
        self._arrived = results
        if not self._running:
            self._run(self._advance)
        return None

    def _run(self, advance: Callable[[], tuple["LogicalUnit", Sequence[Operation]]]) -> None:
        self._running = True
        while True:
            try:
                self._step = unit, operations = advance()
            except StopIteration:
                return self._ended(None)
            except Error as error:
                return self._ended(error)
            unit.holds.perform(operations, self._resume)
            if self._arrived is None:
                self._running = False
                return None
            advance = self._advance

    def _advance(self) -> tuple["LogicalUnit", Sequence[Operation]]:
        assert self._arrived is not None
        results, self._arrived = self._arrived, None
        for result in results:
            if isinstance(result, IoError):
                return self._steps.throw(result)
        return self._steps.send(results)
