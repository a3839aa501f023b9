"""`targetcli-rp` before there is a shell: which daemons it means, and what it says without a targetcli."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from iscsi_rp.control.config import find_config, load_config
from targetcli_rp.errors import RpError
from targetcli_rp.site import find_state

EXTENSION = Path(__file__).parent.parent.parent.parent / "targetcli-ext"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("ISCSI_RP_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_means_the_daemons_that_iscsi_rp_means(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def both(state: str | None = None, config: str | None = None) -> Path:
        found = find_state(state, config)
        path = None if config is None else Path(config)
        assert found == load_config(find_config(path), None if state is None else Path(state)).state
        return found

    default = both()
    (folder / "here.toml").write_text('state = "relative"\n')
    assert both(config="here.toml") == folder / "relative"
    assert both(state="/given", config="here.toml") == Path("/given")
    (folder / "iscsi-rp.toml").write_text('state = "/absolute"\n')
    assert both() == Path("/absolute")
    (folder / "other.toml").write_text("[array]\n")
    monkeypatch.setenv("ISCSI_RP_CONFIG", str(folder / "other.toml"))
    assert both() == default


def test_a_configuration_that_cannot_be_read(folder: Path) -> None:
    with pytest.raises(RpError, match=r"none\.toml cannot be read"):
        find_state(None, "none.toml")
    (folder / "bad.toml").write_text("state = \n")
    with pytest.raises(RpError, match=r"bad\.toml cannot be read"):
        find_state(None, "bad.toml")


def launch(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(EXTENSION)}
    command = [sys.executable, "-m", "targetcli_rp.main", *arguments]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=30)


def test_without_a_targetcli(folder: Path) -> None:
    run = launch("ls", folder=folder)
    assert run.returncode == 1
    assert "no targetcli for " in run.stderr
    assert "hint: Install targetcli" in run.stderr


def test_help_and_wrong_options(folder: Path) -> None:
    assert "--state DIR" in launch("--help", folder=folder).stdout
    run = launch("--state", folder=folder)
    assert (run.returncode, run.stderr) == (1, "targetcli-rp: --state wants a value\n")
