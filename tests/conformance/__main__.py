"""`python -m tests.conformance`: libiscsi's suite, all families, against us, us split, and Debian's tgt.

Ours is a 512e disk seen through two portals, SP A and SP B. What skips or fails there must be explained
(`explained.py`), and every explanation must be needed. On a split LUN, LUN and copy are compared after each
suite. tgt is measured for comparison only. All run at the same time: the suite mostly sleeps.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from iscsi_rp.block import create_file
from tests.bench.tgt import Tgt
from tests.conformance import suite
from tests.conformance.explained import BY_SPEED, FAULTS, ONLY_512E, SKIPS, faults, judge
from tests.conformance.suite import Report
from tests.kit.stack import Stack
from tests.kit.target_process import target_processes

SIZE_BYTES: Final = 128 << 20
SLOW_S: Final = 12
"How long a slow disk takes to be overwritten."
JOURNAL_BYTES: Final = 4 << 30
GROUP: Final = "conformance"

Tests = Sequence[str]


def main() -> int:
    options = _options()
    tests = options.test or suite.FAMILIES
    chosen = {name: run for name, run in RUNS.items() if name in (options.servers or RUNS)}
    temporary = tempfile.TemporaryDirectory(prefix="iscsi-rp-", dir="/var/tmp")
    with temporary as folder, ThreadPoolExecutor() as pool:
        running = {}
        for name, run in chosen.items():
            (directory := Path(folder) / name).mkdir()
            running[name] = pool.submit(run, directory, tests)
        results = {name: future.result() for name, future in running.items()}
    whole = not options.test
    wrong = [f"{name}: {each}" for name, result in results.items() for each in _wrong(name, *result, whole)]
    _show(results, wrong)
    return 1 if wrong else 0


def _ours(directory: Path, tests: Tests) -> tuple[Report, list[str]]:
    create_file(store := directory / "lun", SIZE_BYTES)
    with target_processes(store) as target:
        report = suite.run([target.url(), target.url(processor=1)], tests)
    # What is excused as the suite's own fault must pass where the fault does not show.
    excused = [f"ALL.{name}" for name in ONLY_512E]
    with target_processes(store, physical_block_size=512) as target:
        proof = suite.run([target.url()], excused)
    return report, [
        f"no fault of the suite: {name} fails on a 512n disk, too" for name, _ in proof.failures + proof.skips
    ]


def _slow(directory: Path, _: Tests) -> tuple[Report, list[str]]:
    """What depends on speed, on a disk that is slow; the suite's own waiting makes it last a minute."""
    create_file(store := directory / "lun", SIZE_BYTES)
    # The suite sleeps for a minute and answers no NOP-In: the target must have the patience.
    with target_processes(store, write_s_per_mib=SLOW_S / (SIZE_BYTES >> 20), tick_s=60) as target:
        report = suite.run([target.url(), target.url(processor=1)], [f"ALL.{name}" for name in BY_SPEED])
    return report, [f"failed: {name}: {told}" for name, told in report.failures]


def _split(directory: Path, tests: Tests) -> tuple[Report, list[str]]:
    stack = Stack(directory)
    wrong: list[str] = []
    try:
        stack.start()
        volume = stack.create_volume("lun", SIZE_BYTES)
        stack.protect(GROUP, [volume.name], JOURNAL_BYTES)

        def verify(name: str) -> None:
            # Soon: what a later test writes over would hide it.
            stack.wait_splitting(GROUP)
            found = stack.verify(GROUP).result or {}
            if not found.get("equal"):
                wrong.append(f"after {name} LUN and copy differ: {found}")

        report = suite.run(stack.urls(volume), suite.by_suite(tests), verify)
        stack.stop()
    finally:
        stack.kill()
    return report, wrong


def _tgt(directory: Path, tests: Tests) -> tuple[Report, list[str]]:
    create_file(image := directory / "image", SIZE_BYTES)
    tgt = Tgt(image, directory)
    try:
        tgt.start()
        return suite.run([tgt.url, tgt.url], tests), []
    finally:
        tgt.stop()


RUNS: Final[dict[str, Callable[[Path, Tests], tuple[Report, list[str]]]]] = {
    "tgt": _tgt,
    "split": _split,
    "slow": _slow,
    "ours": _ours,
}


def _wrong(name: str, report: Report, found: list[str], whole: bool) -> list[str]:
    if name in ("tgt", "slow"):
        return found
    judged = judge(report)
    return found + [each for each in judged if whole or not each.startswith("explained")]


def _show(results: dict[str, tuple[Report, list[str]]], wrong: list[str]) -> None:
    print("skipped, by the standard:")
    for name, why in SKIPS.items():
        print(f"  {name}: {why}")
    print("faults of the suite:")
    for name, why in (FAULTS | BY_SPEED).items():
        print(f"  {name}: {why}")
    for each in wrong:
        print(f"WRONG {each}")
    for name, (report, _) in results.items():
        if name not in ("ours", "slow"):
            print(f"conformance {name}: {report}{_excused(name, report)}")
    if "ours" in results:
        report = results["ours"][0]
        print(f"conformance: {report}{_excused('ours', report)}")


def _excused(name: str, report: Report) -> str:
    return f" (faults of the suite among the failed: {faults(report)})" if name != "tgt" else ""


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument("servers", nargs="*", choices=[[], *RUNS], help="default: all")
    parser.add_argument("-t", "--test", nargs="+", metavar="NAME", help="FAMILY[.SUITE[.TEST]]...")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
