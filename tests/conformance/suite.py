"""Running `iscsi-test-cu`, a family in a process of its own, and reading what CUnit's verbose mode prints.

One run of all families in one process would not do: a test that returns early leaves its hook on the suite's
function that queues PDUs, and when a later family sets it again, the hook calls itself for ever.
"""

import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

FAMILIES: Final = ("ALL", "SCSI", "iSCSI", "LINUX")
FAMILY_LIMIT_S: Final = 200
"Beyond it a family hangs."

_SUITE: Final = re.compile(r"^Suite: (\S+)", re.MULTILINE)
_TEST: Final = re.compile(r"^  Test: (\S+) \.\.\.", re.MULTILINE)
_TOTALS: Final = re.compile(r"^ +tests +(\d+) +(\d+) ", re.MULTILINE)
_SKIP: Final = re.compile(r"\[SKIPPED\]\s*([^\n]*)")


@dataclass(slots=True)
class Report:
    """What ran. A test that skipped anything is skipped, whatever CUnit says of it."""

    passed: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)
    "(FAMILY.Suite.Test, its last words)"
    skips: list[tuple[str, str]] = field(default_factory=list)
    "(FAMILY.Suite.Test, why, in the suite's words)"
    broken: list[str] = field(default_factory=list)
    "Families that did not run to their end, or not all of whose tests ran."

    @property
    def ran(self) -> int:
        return self.passed + len(self.failures) + len(self.skips)

    def __str__(self) -> str:
        counts = f"passed {self.passed} failed {len(self.failures)} skipped {len(self.skips)}"
        return f"ran {self.ran} {counts}"


def listed() -> list[str]:
    """Every FAMILY.Suite.Test there is, by `iscsi-test-cu -l`."""
    done = subprocess.run(["iscsi-test-cu", "-l"], capture_output=True, text=True, check=True)
    return [line for line in done.stdout.split() if line.count(".") == 2]


def by_suite(tests: Sequence[str]) -> list[str]:
    """`tests` with each suite of the family ALL by itself."""
    suites = dict.fromkeys(name.rpartition(".")[0] for name in listed() if name.startswith("ALL."))
    return [name for test in tests for name in (suites if test == "ALL" else (test,))]


def run(urls: Sequence[str], tests: Sequence[str], after: Callable[[str], None] = lambda _: None) -> Report:
    """Run `tests` (FAMILY, FAMILY.Suite or FAMILY.Suite.Test) through one path to a LUN, or two, and call
    `after` with each. The LUN is overwritten.
    """
    report = Report()
    names = listed()
    for name in tests:
        expected = sum(each == name or each.startswith(f"{name}.") for each in names)
        output = _run_one(urls, name)
        before = report.ran
        read(report, name.partition(".")[0], output)
        found = report.ran - before
        totals = _TOTALS.search(output)
        ended = totals is not None and int(totals[1]) == int(totals[2]) == found
        # A name that does not exist runs nothing and succeeds.
        if not ended or not found or found != expected:
            told = f"{found} of {expected} tests"
            report.broken.append(f"{name}: {told}; the end: {' '.join(output.split())[-300:]}")
        after(name)
    return report


def _run_one(urls: Sequence[str], name: str) -> str:
    # Line-buffered, so that a hang names its test. The last mode counts: verbose says which test skipped.
    command = ["stdbuf", "-oL", "iscsi-test-cu", "-d", "-n", "-S", "-v", "-t", name, *urls]
    try:
        done = subprocess.run(command, capture_output=True, timeout=FAMILY_LIMIT_S, check=False)
    except subprocess.TimeoutExpired as error:
        return (error.stdout or b"").decode(errors="replace")
    return (done.stdout + done.stderr).decode(errors="replace")


def read(report: Report, family: str, output: str) -> None:
    """Add what a run of `family` printed."""
    for suite, body in _sections(_SUITE, output):
        for test, told in _sections(_TEST, body):
            name = f"{family}.{suite}.{test}"
            # The verdict stands at the end of a line, behind what the test said.
            if re.search(r"^(.*\.\.\.)?FAILED\s*$", told, re.MULTILINE) or "passed" not in told:
                report.failures.append((name, " ".join(told.split())[-600:]))
            elif why := _SKIP.search(told.partition("passed")[0]):
                report.skips.append((name, why[1].strip()))
            else:
                report.passed += 1


def _sections(title: re.Pattern[str], text: str) -> Iterator[tuple[str, str]]:
    """(name, what follows it up to the next title)"""
    parts = title.split(text)[1:]
    return zip(parts[::2], parts[1::2], strict=True)
