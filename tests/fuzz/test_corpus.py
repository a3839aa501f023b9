"""What the fuzzer found worth keeping, replayed; and a planted bug, which it must miss nowhere."""

import importlib
from pathlib import Path

import pytest

from tests.fuzz.__main__ import CORPUS, HARNESSES

INPUTS = [path for name in HARNESSES for path in sorted((CORPUS / name).iterdir())]


@pytest.mark.parametrize("harness", HARNESSES)
def test_there_is_a_corpus(harness: str) -> None:
    assert sum(path.parent.name == harness for path in INPUTS) > 20


@pytest.mark.parametrize("path", INPUTS, ids=lambda path: f"{path.parent.name}/{path.name[:12]}")
def test_no_input_breaks_a_promise(path: Path) -> None:
    importlib.import_module(f"tests.fuzz.{path.parent.name}").fuzz(path.read_bytes())
