"""What `sessions.c` measures: eight sessions on eight LUNs at once, and what header digests cost.

One client process in C drives all sessions, so that it takes less of the machine than any server it measures.
"""

import os
import statistics
import subprocess
from pathlib import Path
from typing import Final, Protocol

from tests.bench import usage
from tests.bench.load import LoadError
from tests.bench.pairs import Outcome

MIXED: Final = "mixed-4k-8x"
DIGEST: Final = "header-digest-4k-qd32"
"ours/s is with, tgt/s is ours without, the ratio is what is left."

LUNS: Final = 8
LUN_BYTES: Final = 64 << 20
RUN_S: Final = 2
MIXED_DEPTH: Final = 8
MIXED_READS: Final = 70
_SOURCE: Final = Path(__file__).with_name("sessions.c")


class Server(Protocol):
    url: str

    def pids(self) -> dict[str, int]: ...

    def add_luns(self, images: list[Path]) -> list[str]:
        """The URLs of further LUNs."""
        ...


class Client:
    """The compiled client. Raises `LoadError` where it cannot be built."""

    def __init__(self, directory: Path) -> None:
        self._tool = directory / "sessions"
        flags = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror")
        done = subprocess.run(
            ["gcc", *flags, "-o", str(self._tool), str(_SOURCE), "-liscsi"], capture_output=True, text=True
        )
        if done.returncode:
            raise LoadError(f"{_SOURCE.name} (install gcc, libc6-dev, libiscsi-dev): {done.stderr[-500:]}")

    def run(self, urls: list[str], *, depth: int, reads: int, digest: bool = False) -> list[float]:
        """Commands a second of each session; `reads` is percent."""
        command = [str(self._tool), str(RUN_S), str(depth), str(reads), str(int(digest)), *urls]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise LoadError(f"{self._tool.name}: {done.stderr.strip()}")
        return [int(line) / RUN_S for line in done.stdout.split()]


def measure_mixed(ours: Server, tgt: Server, directory: Path, pairs: int) -> tuple[Outcome, float, float]:
    """(outcome; slowest session / mean, the worst of all runs: ours, tgt). Eight LUNs more on each server."""
    client = Client(directory)
    urls = {server: server.add_luns(_images(directory, name)) for name, server in (("o", ours), ("t", tgt))}
    rates: dict[Server, list[float]] = {ours: [], tgt: []}
    fairness: dict[Server, float] = {ours: 1.0, tgt: 1.0}
    before_s = {name: usage.cpu_s(pid) for name, pid in {**ours.pids(), **tgt.pids()}.items()}
    for pair in range(pairs + 1):
        os.sync()
        for server in (ours, tgt) if pair % 2 else (tgt, ours):
            found = client.run(urls[server], depth=MIXED_DEPTH, reads=MIXED_READS)
            if pair:  # the first one warms up
                rates[server].append(sum(found))
                fairness[server] = min(fairness[server], min(found) / statistics.mean(found))
    outcome = _outcome(MIXED, rates[ours], rates[tgt], {**ours.pids(), **tgt.pids()}, before_s)
    return outcome, fairness[ours], fairness[tgt]


def measure_digest(ours: Server, directory: Path, pairs: int) -> Outcome:
    """Reads of 4 KiB, 32 deep, with header digests and without."""
    client = Client(directory)
    rates: dict[bool, list[float]] = {True: [], False: []}
    before_s = {name: usage.cpu_s(pid) for name, pid in ours.pids().items()}
    for pair in range(pairs + 1):
        for digest in (True, False) if pair % 2 else (False, True):
            found = client.run([ours.url], depth=32, reads=100, digest=digest)
            if pair:
                rates[digest].append(sum(found))
    return _outcome(DIGEST, rates[True], rates[False], ours.pids(), before_s)


def _images(directory: Path, name: str) -> list[Path]:
    images = [directory / f"mixed-{name}-{number}" for number in range(LUNS)]
    for image in images:
        image.write_bytes(bytes(LUN_BYTES))
    return images


def _outcome(
    name: str, first: list[float], second: list[float], pids: dict[str, int], before_s: dict[str, float]
) -> Outcome:
    ratios = [mine / other for mine, other in zip(first, second, strict=True)]
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return Outcome(
        name=name,
        ours_per_s=statistics.median(first),
        tgt_per_s=statistics.median(second),
        ratio=median,
        ratio_quartiles=(low, high),
        pairs=len(ratios),
        cpu_s={process: usage.cpu_s(pid) - before_s[process] for process, pid in pids.items()},
        memory_bytes={process: usage.memory_bytes(pid) for process, pid in pids.items()},
    )
