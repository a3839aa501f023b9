"""What the fuzzer found worth keeping, replayed; and bugs planted, which the replay must not miss."""

import importlib
from pathlib import Path

import pytest

from iscsi_rp.iscsi.chap import Authentication
from iscsi_rp.iscsi.tasks import Tasks
from iscsi_rp.scsi import blocks
from tests.fuzz.__main__ import CORPUS, HARNESSES
from tests.fuzz.strict_device import BrokenPromise
from tests.kit.planting import plant

INPUTS = [path for name in HARNESSES for path in sorted((CORPUS / name).iterdir())]


def replay(path: Path) -> None:
    importlib.import_module(f"tests.fuzz.{path.parent.name}").fuzz(path.read_bytes())


@pytest.mark.parametrize("harness", HARNESSES)
def test_there_is_a_corpus(harness: str) -> None:
    assert sum(path.parent.name == harness for path in INPUTS) > 20


@pytest.mark.parametrize("path", INPUTS, ids=lambda path: f"{path.parent.name}/{path.name[:12]}")
def test_no_input_breaks_a_promise(path: Path) -> None:
    replay(path)


@pytest.mark.parametrize(
    ("harness", "owner", "name", "old", "new"),
    [
        ("stream", Tasks, "_give_back", "self.held_bytes -= size_bytes", "pass"),
        ("login", Authentication, "_check", "not hmac.compare_digest(given, right) or not is_user", "False"),
        ("scsi", blocks, "check_on_medium", "wanted.lba + wanted.blocks > task.unit.size_blocks", "False"),
    ],
)
def test_a_planted_bug_is_found(harness: str, owner: object, name: str, old: str, new: str) -> None:
    paths = [path for path in INPUTS if path.parent.name == harness]
    with plant(owner, name, old, new), pytest.raises(BrokenPromise):
        list(map(replay, paths))
