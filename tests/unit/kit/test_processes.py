"""Daemons of the proofs: their deaths are noticed, and told with their last words."""

import sys
from pathlib import Path

import pytest

from tests.kit.processes import Daemon, ProcessError


def daemon(tmp_path: Path, program: str) -> Daemon:
    started = Daemon("probe", [sys.executable, "-c", program], tmp_path / "log")
    started.start()
    return started


def test_one_that_dies_is_told_with_its_last_words(tmp_path: Path) -> None:
    dying = daemon(tmp_path, "print('no state here'); raise SystemExit(3)")
    with pytest.raises(ProcessError, match="ended while waiting for the moon:\nno state here"):
        dying.until("the moon", lambda: None)
    assert not dying.running


def test_what_does_not_come_in_time_is_told(tmp_path: Path) -> None:
    waiting = daemon(tmp_path, "import time; time.sleep(60)")
    with pytest.raises(ProcessError, match="the moon did not come"):
        waiting.until("the moon", lambda: None, timeout_s=0.1)
    assert waiting.running
    waiting.kill()
    assert not waiting.running


def test_sigterm_ends_it_with_its_exit_code(tmp_path: Path) -> None:
    program = (
        "import signal, sys; signal.signal(15, lambda *_: sys.exit(4)); print(1, flush=True); signal.pause()"
    )
    polite = daemon(tmp_path, program)
    polite.until("its handler", lambda: polite.log_tail() or None)
    assert polite.stop() == 4
