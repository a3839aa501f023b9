"""Reading what `iscsi-test-cu` prints in CUnit's verbose mode."""

import re
from dataclasses import dataclass, field
from typing import Final

_SUITE: Final = re.compile(r"^Suite: (\S+)", re.MULTILINE)
_TEST: Final = re.compile(r"^  Test: (\S+) \.\.\.", re.MULTILINE)
_TOTALS: Final = re.compile(r"^ +tests +(\d+) +(\d+) +(\d+) +(\d+) +\d+$", re.MULTILINE)


@dataclass(slots=True)
class Report:
    """What ran. A test that skipped anything is skipped, whatever CUnit says of it."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    failures: dict[str, list[str]] = field(default_factory=dict)
    "Suite -> tests that failed, with their first words."
    skips: dict[str, int] = field(default_factory=dict)
    "Suite -> tests that skipped."
    complete: bool = False
    "The suite ran to its end, and its own totals are ours."

    @property
    def ran(self) -> int:
        return self.passed + self.failed + self.skipped

    def summary(self) -> str:
        return f"conformance: ran {self.ran} passed {self.passed} failed {self.failed} skipped {self.skipped}"


def read_report(text: str) -> Report:
    report = Report()
    for suite, body in _sections(_SUITE, text):
        for test, output in _sections(_TEST, body):
            _count(report, suite, test, output)
    totals = _TOTALS.search(text)
    if totals is not None:
        total, ran, _, failed = (int(number) for number in totals.groups())
        report.complete = total == ran == report.ran and failed == report.failed
    return report


def _sections(title: re.Pattern[str], text: str) -> list[tuple[str, str]]:
    """(name, what follows it up to the next title)"""
    parts = title.split(text)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))


def _count(report: Report, suite: str, test: str, output: str) -> None:
    # The verdict stands at the end of a line, behind what the test said.
    if re.search(r"^(.*\.\.\.)?FAILED\s*$", output, re.MULTILINE) or "passed" not in output:
        report.failed += 1
        report.failures.setdefault(suite, []).append(f"{test}: {' '.join(output.split())[:300]}")
    elif "[SKIPPED]" in output.partition("passed")[0]:
        report.skipped += 1
        report.skips[suite] = report.skips.get(suite, 0) + 1
    else:
        report.passed += 1
