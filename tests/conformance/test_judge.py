"""The judge itself: what it reads, and what it does not let pass."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conformance import suite
from tests.conformance.explained import BY_SPEED, FAULTS, SKIPS, judge
from tests.conformance.suite import Report, read

PRINTED = """
Suite: Read10
  Test: Simple ...passed
  Test: BeyondEol ...    [FAILED] READ10 command: failed with sense
FAILED
    1. test_read10_beyond_eol.c:47  - CU_ASSERT_EQUAL(ret,0)
Suite: PreventAllow
  Test: Simple ...    [SKIPPED] Logical unit is not removable. Skipping test.
passed    [SKIPPED] PERSISTENT RESERVE IN is not implemented.
  Test: Eject ...passed    [SKIPPED] PERSISTENT RESERVE IN is not implemented.
"""


def all_explained() -> Report:
    failures = [(f"ALL.{name}", "") for name in FAULTS]
    return Report(passed=1, failures=failures, skips=[(f"ALL.{name}", "") for name in SKIPS])


def test_what_the_suite_prints_is_read() -> None:
    report = Report()
    read(report, "ALL", PRINTED)
    assert str(report) == "ran 4 passed 2 failed 1 skipped 1"
    assert [name for name, _ in report.failures] == ["ALL.Read10.BeyondEol"]
    assert report.skips == [("ALL.PreventAllow.Simple", "Logical unit is not removable. Skipping test.")]


def test_explained_is_explained() -> None:
    assert judge(all_explained()) == []
    by_speed = [(f"ALL.{name}", "") for name in BY_SPEED]
    assert judge(replace(all_explained(), failures=all_explained().failures + by_speed)) == []


@pytest.mark.parametrize("what", ["failures", "skips"])
def test_an_explanation_has_to_be_there_and_to_be_needed(what: str) -> None:
    more, less = all_explained(), all_explained()
    getattr(more, what).append(("SCSI.Read10.Simple", ""))
    getattr(less, what).pop()
    assert len(judge(more)) == len(judge(less)) == 1


def test_what_did_not_run_to_its_end_is_wrong() -> None:
    assert judge(replace(all_explained(), broken=["ALL: 3 of 230 tests"])) == [
        "incomplete: ALL: 3 of 230 tests"
    ]


@pytest.mark.skipif(shutil.which("iscsi-test-cu") is None, reason="needs libiscsi-bin")
def test_a_misspelt_name_is_not_a_success() -> None:
    report = suite.run(["iscsi://127.0.0.1:1/iqn.2026-01.test:none/0"], ["ALL.Misspelt"])
    assert report.ran == 0
    assert report.broken


@pytest.mark.parametrize("name", [*SKIPS, *FAULTS, *BY_SPEED])
def test_every_explanation_stands_in_the_docs(name: str) -> None:
    page = Path(__file__).parents[2] / "docs" / "target.md"
    assert f"`{name}`" in page.read_text()
