"""Provisioning again changes nothing; where it fails, it says which step, why, and how to go on."""

import re
from pathlib import Path
from typing import Final

import pytest

from tests.lab.conftest import ADDRESSES, Lab, booted

pytestmark = pytest.mark.lab
STEPS: Final = ("", ": certificates", ": services")
"Of joining, for each machine."


def test_the_second_time_nothing_is_changed(lab: Lab) -> None:
    again = lab.provision("host")
    assert again.code == 0, again
    assert len(again.out.splitlines()) > 10
    assert changes(again.out) == []


def test_what_was_changed_by_hand_is_put_back(lab: Lab) -> None:
    lab.guest.shell("echo '# by hand' >> /etc/multipath.conf")
    again = lab.provision("host")
    assert changes(again.out) == ["provision: multipath: wrote /etc/multipath.conf"]


def test_a_step_that_fails_says_why_and_how_to_go_on(lab: Lab) -> None:
    lab.guest.run("mv", "/usr/local/bin/iscsi-rp", "/usr/local/bin/away")
    failed = lab.provision("host")
    lab.guest.run("mv", "/usr/local/bin/away", "/usr/local/bin/iscsi-rp")
    assert failed.code == 127
    assert "ready" not in failed.out
    assert "provision: program: FAILED" in failed.err
    assert "iscsi-rp: command not found" in failed.err
    assert re.search("^provision: to go on: ", failed.err, re.MULTILINE)


def test_a_machine_that_is_idle_has_everything_and_runs_nothing(root: Path) -> None:
    with booted(root) as idle:
        provisioned(idle, "dr")
        assert daemons(idle) == []
        assert idle.shell("ls /etc/systemd/system/iscsi-rp-* | wc -l") == "2\n"


def test_three_array_serves_by_itself_and_by_lio_at_both_processors(
    three: dict[str, Lab],
) -> None:
    array = three["array"]
    array.shell("iscsi-rp volume create own --size 64MiB")
    array.shell("iscsi-rp volume create lio --size 64MiB --front-end lio")
    for address in ADDRESSES["array"]:
        own, lio = (three["host"].shell(f"iscsi-ls iscsi://{address}:{port}") for port in (3260, 3262))
        assert "Target:iqn.2026-11.io.iscsi-rp:array Portal:" in own
        assert "Target:iqn.2026-11.io.iscsi-rp:array.lio Portal:" in lio
    tree = array.shell("targetcli-rp ls")
    for shown in ("192.0.2.11:3262", "192.0.2.12:3262", "user:rpsplit", "recoverpoint"):
        assert shown in tree
    array.shell("for each in own lio; do iscsi-rp volume delete $each --destroy --yes; done")


@pytest.mark.parametrize("name", ["array", "appliance"])
def test_three_array_and_appliance_run_alone_and_the_second_time_nothing_is_changed(
    three: dict[str, Lab], name: str
) -> None:
    assert daemons(three[name]) == [name]
    again = three[name].provision(name)
    assert again.code == 0, again
    assert changes(again.out) == []
    assert daemons(three[name]) == [name]


def test_three_joined_again_nothing_is_changed(three: dict[str, Lab]) -> None:
    again = three["host"].run("provision/join.sh")
    assert again.code == 0, again
    assert set(again.out.splitlines()) == {
        *(f"provision: {name}{step}: nothing to change" for name in ("array", "appliance") for step in STEPS),
        "provision: authority: nothing to change",
        "provision: array and appliance work together",
    }


def test_three_a_machine_that_cannot_be_reached_is_named(three: dict[str, Lab]) -> None:
    three["appliance"].guest.shell("pkill -o sshd")
    three["host"].guest.shell("ssh -O exit appliance || true")
    failed = three["host"].run("provision/join.sh")
    assert failed.code == 255
    assert "provision: appliance: FAILED (255)" in failed.err
    assert "Connection refused" in failed.err
    assert re.search("^provision: to go on: `vagrant up appliance`", failed.err, re.MULTILINE)
    assert changes(three["appliance"].provision("appliance").out) == ["provision: system: started sshd"]
    assert three["host"].run("provision/join.sh").code == 0


def daemons(machine: Lab) -> list[str]:
    """Which of them run."""
    running = machine.shell("pgrep -a -f 'iscsi_rp (array|appliance) run' || true").splitlines()
    return sorted(each.split()[-2] for each in running)


def provisioned(fresh: Lab, name: str) -> None:
    """As this machine; the second time nothing is changed."""
    first = fresh.provision(name)
    assert first.code == 0, first
    assert len(changes(first.out)) >= 5
    again = fresh.provision(name)
    assert again.code == 0, again
    assert changes(again.out) == []


def changes(said: str) -> list[str]:
    *steps, last = said.splitlines()
    assert last.endswith(" is ready")
    return [
        step for step in steps if not step.endswith(": nothing to change") and ": left alone: " not in step
    ]
