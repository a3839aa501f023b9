"""`--sustained`: random 4 KiB writes, 32 deep, to a split LUN, until its journal is full, and on."""

from pathlib import Path
from statistics import median
from typing import Final

from tests.bench import load
from tests.bench.ours import Ours
from tests.bench.usage import cpu_s

LUN_BYTES: Final = 1 << 30
JOURNAL_BYTES: Final = 1 << 30
ROUNDS: Final = 12
ROUND_WRITES: Final = 1 << 16
FRESH_ROUNDS: Final = 3
"So many leave room in the journal."
FULL_ROUNDS: Final = 6
"So many at the end find none."
SIZE_BYTES: Final = 4 << 10
DEPTH: Final = 32


def measure_sustained(directory: Path) -> None:
    """Prints writes a second and processor time of each round, and what a full journal makes of them."""
    ours = Ours.on_empty_file(directory, LUN_BYTES)
    rates = []
    try:
        ours.start()
        ours.split(JOURNAL_BYTES)
        for number in range(1, ROUNDS + 1):
            before = {name: cpu_s(pid) for name, pid in ours.pids().items()}
            took_s = load.write(ours.url, ROUND_WRITES, SIZE_BYTES, DEPTH, scattered=True)
            rates.append(ROUND_WRITES / took_s)
            used = ", ".join(
                f"{name} {(cpu_s(pid) - before[name]) / ROUND_WRITES * 1e6:.0f}"
                for name, pid in ours.pids().items()
            )
            mib = number * ROUND_WRITES * SIZE_BYTES >> 20
            print(
                f"{mib:5} MiB: {rates[-1]:6.0f} writes a second, processor us a write: {used}",
                flush=True,
            )
    finally:
        ours.kill()
    fresh, full = median(rates[:FRESH_ROUNDS]), median(rates[-FULL_ROUNDS:])
    print(f"sustained: {fresh:.0f} a second with room in the journal, {full:.0f} without: {full / fresh:.2f}")
