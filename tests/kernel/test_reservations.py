"""Persistent reservations of two hosts, by sg_persist; they outlive the array (APTPL)."""

import re
from collections.abc import Mapping
from typing import Final

import pytest

from tests.kernel.guest import Guest
from tests.kernel.site import IQN, Daemons, OpenIscsi, eventually

pytestmark = pytest.mark.kernel

OTHER: Final = "iqn.2026-11.io.iscsi-rp:other-host"
KEYS: Final = {"default": "0x1111", "other": "0x2222"}
"Of each host, by the interface (of open-iscsi) that it is."
CONFLICT: Final = 24
"Exit code of the sg3-utils."
TO_BLOCK: Final = ("dd", "if=/dev/zero", "bs=4k", "count=1", "oflag=direct", "status=none")


@pytest.fixture(scope="module")
def hosts(guest: Guest, daemons: Daemons, initiator: OpenIscsi) -> Mapping[str, str]:
    """Interface -> the disk as this host has it. Two hosts with names of their own, on one portal."""
    daemons.create_volume("shared")
    initiator.admin("-m", "iface", "-I", "other", "-o", "new")
    initiator.admin("-m", "iface", "-I", "other", "-o", "update", "-n", "iface.initiatorname", "-v", OTHER)
    initiator.discover("A", "-I", "default", "-I", "other")
    for host in KEYS:
        initiator.node("-I", host, "--login")
    assert {each["initiator"] for each in daemons.query("session", "list")} >= {OTHER}
    return {host: _disk(guest, host) for host in KEYS}


def _disk(guest: Guest, host: str) -> str:
    """The only disk of the session that was made through this interface."""
    script = """
        for session in /sys/class/iscsi_session/session*; do
            if [ "$(cat $session/ifacename)" = "$1" ]; then ls $session/device/target*/*/block; fi
        done
    """
    command = ("bash", "-c", script, "bash", host)
    name = eventually(f"the disk of {host}", lambda: guest.run(*command, check=False).out.strip())
    return f"/dev/{name}"


def persist(guest: Guest, disk: str, *arguments: str) -> int:
    """The exit code of `sg_persist --out`; a unit attention is taken first."""
    guest.run("sg_turs", disk, check=False)
    return guest.run("sg_persist", "--out", "--no-inquiry", *arguments, disk, check=False).code


def shown(guest: Guest, disk: str, what: str) -> str:
    guest.run("sg_turs", disk, check=False)
    return guest.run("sg_persist", "--in", "--no-inquiry", f"--{what}", disk).out


def test_one_host_reserves_and_the_other_is_kept_out(guest: Guest, hosts: Mapping[str, str]) -> None:
    first, second = hosts.values()
    for host, disk in hosts.items():
        assert persist(guest, disk, "--register", f"--param-sark={KEYS[host]}", "--param-aptpl") == 0
    assert persist(guest, first, "--reserve", "--param-rk=0x1111", "--prout-type=1") == 0
    assert persist(guest, second, "--reserve", "--param-rk=0x2222", "--prout-type=1") == CONFLICT
    guest.run(*TO_BLOCK, f"of={first}")
    refused = guest.run(*TO_BLOCK, f"of={second}", check=False)
    assert refused.code == 1
    assert "critical nexus error" in guest.shell("dmesg")  # its name for a reservation conflict
    guest.run("dd", f"if={second}", "of=/dev/null", "bs=4k", "count=1", "iflag=direct", "status=none")


def test_reservations_outlive_the_array(
    guest: Guest, daemons: Daemons, initiator: OpenIscsi, hosts: Mapping[str, str]
) -> None:
    first, second = hosts.values()
    daemons.kill()
    daemons.start()
    eventually("both sessions", lambda: initiator.states() == ["LOGGED_IN"] * 2)
    full = shown(guest, second, "read-full-status")
    assert re.findall(r"Key=(0x\w+)", full) == list(KEYS.values())
    assert OTHER in full
    assert "Key=0x1111" in shown(guest, first, "read-reservation")
    guest.run(*TO_BLOCK, f"of={first}")
    assert guest.run(*TO_BLOCK, f"of={second}", check=False).code == 1


def test_preempt(guest: Guest, hosts: Mapping[str, str]) -> None:
    first, second = hosts.values()
    preempted = persist(
        guest, second, "--preempt", "--param-rk=0x2222", "--param-sark=0x1111", "--prout-type=1"
    )
    assert preempted == 0
    guest.run(*TO_BLOCK, f"of={second}")
    assert guest.run(*TO_BLOCK, f"of={first}", check=False).code == 1
    assert "0x1111" not in shown(guest, first, "read-keys")
    assert persist(guest, second, "--clear", "--param-rk=0x2222") == 0
    assert "there are NO registered reservation keys" in shown(guest, second, "read-keys")
    guest.run("sg_turs", first, check=False)
    guest.run(*TO_BLOCK, f"of={first}")


def test_what_sg3_utils_ask_of_a_disk(guest: Guest, hosts: Mapping[str, str]) -> None:
    disk = hosts["default"]
    groups = guest.run("sg_rtpg", "--decode", disk).out
    assert groups.count("target port group id") == 2
    assert "active/optimized" in groups
    opcodes = guest.run("sg_opcodes", "--rctd", disk).out
    for name in ("Compare and write", "Extended copy", "Persistent reserve out, register", "Write atomic"):
        assert name.lower() in opcodes.lower()
    for page in re.findall(r"\[(\w+)\]$", guest.run("sg_vpd", disk).out, re.MULTILINE):
        guest.run("sg_vpd", f"--page={page}", disk)
    for page in re.findall(r"^\s+0x(\w\w)\s", guest.run("sg_logs", "--no_inq", disk).out, re.MULTILINE):
        guest.run("sg_logs", f"--page=0x{page}", disk)
    assert f"{IQN},t,0x0001" in guest.run("sg_vpd", "--page=sp", disk).out
    guest.run("sg_modes", "--all", disk)
    assert guest.run("sg_readcap", "--16", disk).out.count("lbprz=1") == 1
