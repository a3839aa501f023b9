"""Unit attention conditions, for each I_T nexus of a logical unit (SAM-5 5.14).

A nexus is met with its first command, and has a POWER ON then. A condition waits until a command reports it
with CHECK CONDITION instead of being executed, or REQUEST SENSE tells it. Each code waits at most once for a
nexus, so its queue is as long as there are codes.
"""

from collections.abc import Iterator
from typing import Final
from weakref import WeakSet

from iscsi_rp.scsi.sense import POWER_ON, Sense
from iscsi_rp.scsi.task import Nexus

EXEMPT: Final = frozenset((0x03, 0x12, 0xA0))
"REQUEST SENSE, INQUIRY, REPORT LUNS: executed whatever waits (SAM-5 5.14.1)."

_RESET: Final = 0x29


class Attentions:
    """What waits to be told to whom."""

    def __init__(self) -> None:
        self._waiting: dict[Nexus, list[Sense]] = {}
        self._lost: WeakSet[Nexus] = WeakSet()

    def __contains__(self, nexus: object) -> bool:
        return nexus in self._waiting

    def __iter__(self) -> Iterator[Nexus]:
        """Every nexus that was met and is not lost."""
        return iter(list(self._waiting))

    def meet(self, nexus: Nexus) -> bool:
        """A command of `nexus` came; false when it is lost: what came late must not leave anything behind."""
        if nexus in self._waiting:
            return True
        if nexus in self._lost:
            return False
        self._waiting[nexus] = [POWER_ON]
        return True

    def lose(self, nexus: Nexus) -> None:
        self._waiting.pop(nexus, None)
        self._lost.add(nexus)

    def pending(self, nexus: Nexus) -> bool:
        return bool(self._waiting[nexus])

    def establish(self, nexus: Nexus, sense: Sense) -> bool:
        """Have `sense` wait for `nexus`; false when it does so already."""
        waiting = self._waiting[nexus]
        if any(other.code == sense.code for other in waiting):
            return False
        if sense.asc == _RESET:
            # A reset takes precedence, and what was before it has become meaningless.
            waiting.clear()
        waiting.append(sense)
        return True

    def take(self, nexus: Nexus) -> Sense | None:
        """The condition to report next; it is over with that (UA_INTLCK_CTRL 00b)."""
        waiting = self._waiting[nexus]
        return waiting.pop(0) if waiting else None

    def drop(self, nexus: Nexus, sense: Sense) -> None:
        """What `sense` said is known to `nexus` by other means."""
        waiting = self._waiting[nexus]
        waiting[:] = [other for other in waiting if other.code != sense.code]
