"""The guest itself."""

from pathlib import Path

import pytest

from tests.kernel import guest as machine

pytestmark = pytest.mark.kernel


def test_a_guest_that_stands_still_at_its_first_command_is_booted_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "FIRST_COMMAND", ("bash", "-c", "touch /srv/first; sleep 60"))
    monkeypatch.setattr(machine, "FIRST_COMMAND_S", 1.0)
    booted_again = pytest.warns(UserWarning, match="a guest is booted again: .*took too long")
    with booted_again, machine.guest(root) as running:
        assert running.shell("ls /srv").split() == ["lost+found"]
