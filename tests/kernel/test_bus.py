"""The bridge on the system bus: targetcli itself, and tcmu-runner, which comes and goes."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from iscsi_rp.frontend.tcmu_bus import POLICY_FILE, BridgeState
from tests.kernel.guest import CHECKOUT, Guest, Result, Running
from tests.kernel.site import eventually

pytestmark = pytest.mark.kernel

SCRIPT: Final = Path(__file__).parent / "bridge.py"
BACKSTORE: Final = "/backstores/user:rpsplit"
POLICY: Final = CHECKOUT / "packaging/dbus" / POLICY_FILE
THEIR_POLICY: Final = "/etc/dbus-1/system.d/tcmu-runner.conf"
SETTLED_S: Final = 20.0


class Host:
    """The bus, and those who meet there."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._running: dict[str, Running] = {}

    def start(self, name: str) -> None:
        command = {
            "bus": ("dbus-daemon", "--system", "--nofork", "--nopidfile"),
            "bridge": ("sh", "-c", f"exec {sys.executable} -u {SCRIPT} > /tmp/bridge.log 2>&1"),
            "tcmu-runner": ("tcmu-runner",),
        }[name]
        self._running[name] = self._guest.start(*command)

    def kill(self, name: str, signal: str = "KILL") -> None:
        running = self._running.pop(name)
        running.kill(signal)
        running.wait(check=False)

    def kill_all(self) -> None:
        for name in reversed(self._running.copy()):  # the bus last: tcmu-runner ends with it
            self.kill(name)

    def reload_bus(self) -> None:
        self._running["bus"].kill("HUP")

    def runners(self) -> list[str]:
        """Process ids of tcmu-runner, however it was started."""
        return self._guest.run("pidof", "tcmu-runner", check=False).out.split()

    def log(self) -> str:
        return self._guest.run("cat", "/tmp/bridge.log").out

    def reached(self, state: BridgeState) -> None:
        """Wait until the bridge says so."""

        def is_it() -> bool:
            return re.findall(r"^state: (.*)$", self.log(), re.MULTILINE)[-1:] == [state.value]

        eventually(f"'{state}'", is_it, SETTLED_S)

    def targetcli(self, *arguments: str) -> Result:
        return self._guest.run("targetcli", *arguments, check=False)

    def subtypes(self) -> list[str]:
        """What targetcli knows of user backstores."""
        return re.findall(r"o- user:(\S+)", self.targetcli("/backstores", "ls").out)

    def create(self, config: str, *options: str) -> Result:
        arguments = ("name=volume", "size=64M", f"cfgstring={config}", *options)
        return self.targetcli(BACKSTORE, "create", *arguments)


@pytest.fixture(scope="module")
def machine(guest: Guest) -> Guest:
    guest.shell(
        """
        modprobe target_core_user
        mount -t configfs configfs /sys/kernel/config
        mkdir -p /run/dbus /etc/target
        dbus-uuidgen --ensure
        """
    )
    return guest


@pytest.fixture
def host(machine: Guest) -> Iterator[Host]:
    """The bus runs. Nothing asks it for tcmu-runner yet: it would start it."""
    machine.run("rm", "-f", "/tmp/bridge.log")
    machine.run("touch", "/tmp/bridge.log")
    host = Host(machine)
    host.start("bus")
    eventually(
        "the bus", lambda: machine.run("test", "-S", "/run/dbus/system_bus_socket", check=False).code == 0
    )
    yield host
    host.kill_all()
    for pid in host.runners():
        machine.run("kill", "-KILL", pid)
    eventually("the end of tcmu-runner", lambda: not host.runners())
    machine.run("rm", "-f", "/run/dbus/system_bus_socket")


def check_use(host: Host, guest: Guest, *options: str) -> None:
    """targetcli refuses with our words, and creates what we call good."""
    refused = host.create("nothing", *options)
    assert refused.code != 0
    assert "cfgstring invalid: no volume nothing" in refused.out + refused.err
    assert "Created user-backed storage object volume" in host.create("data", *options).out
    info = guest.shell("cat /sys/kernel/config/target/core/user_*/volume/info")
    assert re.search(r"Config: rpsplit/data Size: 67108864 ", info)
    assert "Deleted" in host.targetcli(BACKSTORE, "delete", "volume").out


def test_without_tcmu_runner(host: Host, machine: Guest) -> None:
    host.start("bridge")
    host.reached(BridgeState.OWNER)
    assert host.subtypes() == ["rpsplit"]
    assert host.runners() == []  # the bus starts tcmu-runner where nobody has its name
    assert "The name of a volume" in host.targetcli(BACKSTORE, "help", "create").out
    check_use(host, machine)
    host.kill("bridge", "TERM")
    assert host.log().endswith("state: no bus\n")


def test_tcmu_runner_comes_goes_and_comes_back(host: Host, machine: Guest) -> None:
    host.start("bridge")
    host.reached(BridgeState.OWNER)
    for _ in range(2):
        host.start("tcmu-runner")
        host.reached(BridgeState.REGISTERED)
        subtypes = host.subtypes()
        assert "qcow" in subtypes  # its own ones: it has got the name
        assert subtypes.count("rpsplit") == 1
        # Nothing of ours answers the kernel here, and tcmu-runner would answer that it knows no such device.
        check_use(host, machine, "control=nl_reply_supported=-1")
        host.kill("tcmu-runner")
        host.reached(BridgeState.OWNER)
        assert host.subtypes() == ["rpsplit"]


def test_tcmu_runner_was_there_first(host: Host, machine: Guest) -> None:
    assert "rpsplit" not in host.subtypes()
    (runner,) = host.runners()  # the bus has started it, for targetcli
    for _ in range(2):
        host.start("bridge")
        host.reached(BridgeState.REGISTERED)
        assert {"qcow", "rpsplit"} <= set(host.subtypes())
        host.kill("bridge")
        assert "rpsplit" not in host.subtypes()
    assert host.runners() == [runner]
    host.start("bridge")
    host.reached(BridgeState.REGISTERED)
    machine.run("kill", "-KILL", runner)
    host.reached(BridgeState.OWNER)
    assert host.subtypes() == ["rpsplit"]


def test_the_bus_is_restarted(host: Host, machine: Guest) -> None:
    host.start("bridge")
    host.reached(BridgeState.OWNER)
    host.kill("bus")
    host.reached(BridgeState.NO_BUS)
    machine.run("rm", "/run/dbus/system_bus_socket")
    host.start("bus")
    host.reached(BridgeState.OWNER)
    assert host.subtypes() == ["rpsplit"]
    assert "Traceback" not in host.log()


def test_the_policy_is_missing(host: Host, machine: Guest) -> None:
    """With ours, targetcli and tcmu-runner's CheckConfig get through as with tcmu-runner's own."""
    machine.run("mv", THEIR_POLICY, "/root")
    try:
        host.reload_bus()
        host.start("bridge")
        host.reached(BridgeState.REFUSED)
        assert POLICY_FILE in host.log()
        assert host.log().count("unknown to targetcli") == 1
        machine.run("cp", str(POLICY), "/etc/dbus-1/system.d")
        host.reload_bus()
        host.reached(BridgeState.OWNER)
        assert host.subtypes() == ["rpsplit"]
        host.start("tcmu-runner")
        host.reached(BridgeState.REGISTERED)
        check_use(host, machine, "control=nl_reply_supported=-1")
    finally:
        machine.run("mv", f"/root/{Path(THEIR_POLICY).name}", THEIR_POLICY)
        machine.run("rm", "-f", f"/etc/dbus-1/system.d/{POLICY_FILE}")
