"""What the commands of all sessions may hold together.

Each session has limits of its own; a thousand of them would still be too much.
"""

from collections.abc import Callable
from typing import Final, TypeAlias

ALL_HELD_BYTES: Final = 256 << 20
"Data in devices, data asked for by R2T, and answers that nobody reads, over all sessions."
OWN_BYTES: Final = 1 << 20
"What one session may hold whatever the others do."

Wake: TypeAlias = Callable[[], None]


def _at_once(wake: Wake) -> None:
    wake()


class Budget:
    """Counts bytes. Who finds it `spent` takes no more, and is woken when others gave some back."""

    __slots__ = ("_defer", "_limit", "_waiting", "held_bytes")

    def __init__(self, limit_bytes: int = ALL_HELD_BYTES, defer: Callable[[Wake], object] = _at_once) -> None:
        """`defer` calls what it is given soon, and not from inside: one that was woken gives back, too."""
        self._limit, self._defer = limit_bytes, defer
        self._waiting: dict[Wake, None] = {}
        self.held_bytes = 0

    @property
    def spent(self) -> bool:
        return self.held_bytes >= self._limit

    def take(self, size_bytes: int) -> None:
        """Also beyond the limit: what is already there has to be counted."""
        self.held_bytes += size_bytes

    def give_back(self, size_bytes: int) -> None:
        self.held_bytes -= size_bytes
        if self._waiting and not self.spent:
            waiting, self._waiting = self._waiting, {}
            for wake in waiting:
                self._defer(wake)

    def wait(self, wake: Wake) -> None:
        """Wake once when there is room again. (Asking twice is asking once.)"""
        self._waiting[wake] = None

    def forget(self, wake: Wake) -> None:
        """It waits no more."""
        self._waiting.pop(wake, None)
