"""Provisioning again changes nothing; where it fails, it says which step, why, and how to go on."""

import re
import shutil
import subprocess

import pytest

from tests.kernel.guest import CHECKOUT
from tests.lab.conftest import Lab

pytestmark = pytest.mark.lab


def test_the_second_time_nothing_is_changed(lab: Lab) -> None:
    again = lab.run("provision/provision.sh", "host")
    assert again.code == 0, again
    *steps, last = again.out.splitlines()
    assert last == "provision: host is ready"
    assert len(steps) >= 10
    assert [step for step in steps if not step.endswith(": nothing to change")] == []


def test_what_was_changed_by_hand_is_put_back(lab: Lab) -> None:
    lab.guest.shell("echo '# by hand' >> /etc/multipath.conf")
    again = lab.run("provision/provision.sh", "host")
    changed = [line for line in again.out.splitlines()[:-1] if not line.endswith(": nothing to change")]
    assert changed == ["provision: multipath: wrote /etc/multipath.conf"]


def test_a_step_that_fails_says_why_and_how_to_go_on(lab: Lab) -> None:
    lab.guest.run("mv", "/usr/local/bin/iscsi-rp", "/usr/local/bin/away")
    failed = lab.run("provision/provision.sh", "host")
    lab.guest.run("mv", "/usr/local/bin/away", "/usr/local/bin/iscsi-rp")
    assert failed.code == 127
    assert "ready" not in failed.out
    assert "provision: program: FAILED" in failed.err
    assert "iscsi-rp: command not found" in failed.err
    assert re.search("^provision: to go on: ", failed.err, re.MULTILINE)


@pytest.mark.skipif(
    shutil.which("shellcheck") is None, reason="shellcheck is missing: `make lab` installs it"
)
def test_shellcheck_has_nothing_to_say() -> None:
    scripts = [str(path) for path in sorted((CHECKOUT / "vagrant").rglob("*.sh"))]
    found = subprocess.run(
        ["shellcheck", "-x", "-P", "SCRIPTDIR", *scripts, str(CHECKOUT / "tests/lab/iscsi-rp.sh")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (found.returncode, found.stdout) == (0, "")
