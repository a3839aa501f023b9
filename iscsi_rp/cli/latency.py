"""Latency histograms as tables."""

from collections.abc import Iterable, Sequence
from typing import Final

from iscsi_rp.cli.output import print_table
from iscsi_rp.control.latency import Latency, quantile_us
from iscsi_rp.units import format_duration

_COLUMNS: Final = ("KIND", "COMMANDS", "P50 BELOW", "P99 BELOW", "ALL BELOW")


def print_latencies(names: Sequence[str], rows: Iterable[tuple[Sequence[object], Latency]]) -> None:
    """`rows`: the cells under `names`, and a histogram. Reads and writes have a line each."""
    table = [
        (*cells, kind, sum(counts), *(_shown(quantile_us(counts, part)) for part in (0.5, 0.99, 1.0)))
        for cells, latency in rows
        for kind, counts in (("read", latency.reads), ("write", latency.writes))
        if any(counts)
    ]
    print_table((*names, *_COLUMNS), table, "no commands yet")


def _shown(microseconds: int | None) -> str | None:
    return None if microseconds is None else format_duration(microseconds / 1e6)
