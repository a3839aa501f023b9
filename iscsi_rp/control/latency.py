"""How long commands took, as the management API says it: counts in buckets of powers of two."""

from iscsi_rp.control.models import Answer


class Latency(Answer):
    """Counts of commands by how long they took: number n counts those of at least 2**(n-1) and less than 2**n
    microseconds; the last one has all that took longer, too.
    """

    reads: list[int]
    writes: list[int]


class VolumeLatency(Latency):
    """Of all commands to a volume since the array started."""

    volume: str


class SessionLatency(Latency):
    """Of the commands of one session to one LUN."""

    session: int
    initiator: str
    lun: int
    "As the initiator numbers it."
    volume: str


class InitiatorLatency(Latency):
    """Of all commands of an initiator since the array started."""

    initiator: str
    'Or "other": all but the first 64 that used a LUN. Initiators do not choose how many there are.'


class Latencies(Answer):
    volumes: list[VolumeLatency]
    sessions: list[SessionLatency]
    initiators: list[InitiatorLatency]


def quantile_us(counts: list[int], part: float) -> int | None:
    """Microseconds below which that part of the commands stayed, 1.0 for all: the upper end of a bucket, so
    at most twice the true figure. None where there were no commands.
    """
    left = part * sum(counts)
    if not left:
        return None
    for number, count in enumerate(counts):
        left -= count
        if left <= 0:
            return 1 << number
    return 1 << len(counts)
