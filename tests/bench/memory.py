"""`--memory`: the memory of both daemons while 10 GiB are written, 32 deep, to a split LUN."""

from pathlib import Path
from typing import Final

from tests.bench import load, usage
from tests.bench.ours import Ours

ROUNDS: Final = 10
ROUND_BYTES: Final = 1 << 30
SIZES_BYTES: Final = (4 << 10, 64 << 10)
DEPTH: Final = 32
LUN_BYTES: Final = 2 << 30

LIMIT_BYTES: Final = 200 << 20
SETTLED: Final = 3
"Rounds after which caches and buffers have their size."
GROWTH_BYTES: Final = 20 << 20
"Flat: at the end no more than this above what it was when settled."


def measure_memory(directory: Path) -> int:
    """Prints `RssAnon` after each GiB; the exit code says whether it stayed low and flat."""
    ours = Ours.on_empty_file(directory, LUN_BYTES)
    seen: dict[str, list[int]] = {}
    try:
        ours.start()
        ours.split()
        for number in range(1, ROUNDS + 1):
            size_bytes = SIZES_BYTES[number % len(SIZES_BYTES)]
            took_s = load.write(ours.url, ROUND_BYTES // size_bytes, size_bytes, DEPTH, scattered=True)
            anon = {name: usage.memory_bytes(pid)["RssAnon"] for name, pid in ours.pids().items()}
            for name, anon_bytes in anon.items():
                seen.setdefault(name, []).append(anon_bytes)
            told = " ".join(f"{name} {anon_bytes / 2**20:.1f} MiB" for name, anon_bytes in anon.items())
            print(
                f"{number:2} GiB in {size_bytes >> 10:2} KiB writes, {took_s:5.1f} s: RssAnon {told}",
                flush=True,
            )
    finally:
        ours.kill()
    good = True
    for name, figures in seen.items():
        growth_bytes = max(figures[SETTLED:]) - max(figures[:SETTLED])
        fine = max(figures) < LIMIT_BYTES and growth_bytes < GROWTH_BYTES
        good = good and fine
        peak = f"peak {max(figures) / 2**20:.1f} MiB, growth {growth_bytes / 2**20:+.1f} MiB"
        print(f"memory {name}: {peak}: {'low and flat' if fine else 'TOO MUCH'}")
    return 0 if good else 1
