"""Paired runs: ours and tgt alternately, the order swapped each time, so that what drifts hits both alike."""

import os
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from tests.bench import load, usage
from tests.bench.cases import Case


class Server(Protocol):
    url: str

    def pids(self) -> dict[str, int]: ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """The figures of one case. Rates are operations per second."""

    name: str
    ours_per_s: float
    "Median of the runs."
    tgt_per_s: float
    ratio: float
    "Median of ours/tgt of each pair."
    ratio_quartiles: tuple[float, float]
    pairs: int
    cpu_s: dict[str, float]
    "CPU seconds of each server process over all runs of the case."
    memory_bytes: dict[str, dict[str, int]] = field(default_factory=dict)
    "Peak resident memory during the case (`VmHWM`), and `RssAnon` after it, of each server process."


def measure(case: Case, ours: Server, tgt: Server, pairs: int) -> Outcome:
    """One warm-up of both, then `pairs` pairs (at least 2)."""
    per_s = _runner(case, ours, tgt)
    processes = {**ours.pids(), **tgt.pids()}
    for server in (ours, tgt):
        per_s(server)
    for pid in processes.values():
        usage.reset_peak(pid)
    before_s = {name: usage.cpu_s(pid) for name, pid in processes.items()}
    rates: dict[Server, list[float]] = {ours: [], tgt: []}
    for pair in range(pairs):
        if case.writes:
            os.sync()  # each pair begins with nothing left to write back
        for server in (ours, tgt) if pair % 2 == 0 else (tgt, ours):
            rates[server].append(per_s(server))
    ratios = [mine / theirs for mine, theirs in zip(rates[ours], rates[tgt], strict=True)]
    first, median, third = statistics.quantiles(ratios, n=4, method="inclusive")
    return Outcome(
        name=case.name,
        ours_per_s=statistics.median(rates[ours]),
        tgt_per_s=statistics.median(rates[tgt]),
        ratio=median,
        ratio_quartiles=(first, third),
        pairs=pairs,
        cpu_s={name: usage.cpu_s(pid) - before_s[name] for name, pid in processes.items()},
        memory_bytes={name: usage.memory_bytes(pid) for name, pid in processes.items()},
    )


def _runner(case: Case, ours: Server, tgt: Server) -> Callable[[Server], float]:
    if not case.writes:
        return lambda server: load.reads_per_s(server.url, case)
    count = min(load.write_count(server.url, case) for server in (ours, tgt))
    return lambda server: load.writes_per_s(server.url, case, count)
