"""The two clocks. Pure modules get their readings as arguments; shells and composition roots call these."""

import time


def utc_ns() -> int:
    """Nanoseconds since 1970, UTC: the time of a record."""
    return time.time_ns()


def monotonic_s() -> float:
    """Seconds that never go back: deadlines and intervals."""
    return time.monotonic()
