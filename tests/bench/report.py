"""How the figures are told: a table for people, `ratio NAME VALUE` lines for scripts, JSON for both."""

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from tests.bench.pairs import Outcome

RESULTS: Final = Path("bench-results.json")

_HEAD: Final = ("case", "ours/s", "tgt/s", "ratio", "quartiles", "CPU s", "peak MiB")
_WIDTHS: Final = (28, 9, 9, 7, 13, 38, 38)


def heading() -> str:
    return _line(_HEAD)


def row(outcome: Outcome) -> str:
    first, third = outcome.ratio_quartiles
    cpu = " ".join(f"{name} {seconds:.1f}" for name, seconds in outcome.cpu_s.items())
    peak = " ".join(f"{name} {found['VmHWM'] >> 20}" for name, found in outcome.memory_bytes.items())
    cells = (f"{outcome.ours_per_s:,.0f}", f"{outcome.tgt_per_s:,.0f}", f"{outcome.ratio:.2f}")
    return _line((outcome.name, *cells, f"{first:.2f}-{third:.2f}", cpu, peak))


def ratio_lines(outcomes: Sequence[Outcome]) -> list[str]:
    return [f"ratio {outcome.name} {outcome.ratio:.3f}" for outcome in outcomes]


def write_json(outcomes: Sequence[Outcome], path: Path = RESULTS) -> None:
    machine = {
        "machine": platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }
    document = {"on": machine, "cases": [asdict(outcome) for outcome in outcomes]}
    path.write_text(json.dumps(document, indent=2) + "\n")


def _line(cells: Sequence[str]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, _WIDTHS, strict=True)).rstrip()
