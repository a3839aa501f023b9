"""How much hosts write to a group: what distribution waits for, and how long."""

import math
from typing import Final

IDLE_S: Final = 0.5
"Without a write for so long, hosts are idle."
WINDOW_S: Final = 2.0
"Writes a second are counted over this."


class Load:
    """Told now and then how far the log has come; times are monotonic."""

    def __init__(self) -> None:
        self.idle = False
        self.writes_s = math.inf
        """Writes a second: in the last window, or in this one as far as it has come, whichever are more.
        Infinitely many before the first window has passed."""
        self._last_writes_s = math.inf
        self._end = 0
        self._changed_s = 0.0
        self._window: tuple[int, float] | None = None
        "The position and the time that it began with."

    def see(self, end: int, now_s: float) -> None:
        """`end` is the position of the newest write."""
        if self._window is None:
            self._window, self._end, self._changed_s = (end, now_s), end, now_s
        if end != self._end:
            self._end, self._changed_s = end, now_s
        self.idle = now_s - self._changed_s >= IDLE_S
        begin, begun_s = self._window
        if now_s - begun_s >= WINDOW_S:
            self._last_writes_s = (end - begin) / (now_s - begun_s)
            self._window, begin = (end, now_s), end
        self.writes_s = max(self._last_writes_s, (end - begin) / WINDOW_S)
