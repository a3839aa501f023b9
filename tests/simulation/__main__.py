"""`python -m tests.simulation --seeds N [--first SEED]`: fresh seeds of both simulations, on every core.

Each seed runs splitters against an appliance, and a journal against its disk. What breaks is printed with its
steps; the last line is `simulate: seeds N broken B`, and the exit code is 1 where B is not 0.
"""

import argparse
import os
import sys
import time
import traceback
from concurrent.futures import ProcessPoolExecutor

from tests.simulation import replication, store

CHUNK = 10
SHOWN = 5
"Broken seeds that are printed whole."


def run(seed: int) -> list[str]:
    """What broke in the simulations of one seed."""
    broken = []
    for simulation in (replication, store):
        name = simulation.__name__.rpartition(".")[2]
        try:
            report = simulation.run(seed)
        except Exception:
            report = traceback.format_exc()
        if report is not None:
            broken.append(f"--- seed {seed}, {name}\n{report}")
    return broken


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--seeds", type=int, default=300)
    parser.add_argument("--first", type=int, default=None, help="default: from the clock")
    arguments = parser.parse_args()
    first = time.time_ns() // 1_000_000 % 10**10 if arguments.first is None else arguments.first
    print(f"seeds {first} to {first + arguments.seeds - 1}; again: --first {first}", flush=True)
    broken = 0
    began = time.monotonic()
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for done, reports in enumerate(
            pool.map(run, range(first, first + arguments.seeds), chunksize=CHUNK), 1
        ):
            broken += bool(reports)
            if broken <= SHOWN:
                print(*reports, sep="\n", end="\n" if reports else "", flush=True)
            if done % 1000 == 0:
                print(f"{done} seeds, {broken} broken, {time.monotonic() - began:.0f} s", flush=True)
    print(f"simulate: seeds {arguments.seeds} broken {broken}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
