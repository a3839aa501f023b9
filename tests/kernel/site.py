"""What runs in the guest: the array and the appliance, and the kernel's initiator in front of them."""

import json
import sys
import time
from collections.abc import Callable, Mapping
from copy import copy
from typing import Any, Final, TypeVar

from tests.kernel.guest import Guest, Running

Found = TypeVar("Found")

IQN: Final = "iqn.2026-11.io.iscsi-rp:kernel"
HOST: Final = "iqn.2026-11.io.iscsi-rp:host"
"The initiator's name."
PORTALS: Final = {"A": "192.0.2.1", "B": "192.0.2.2"}
"Addresses of the storage processors (RFC 5737), on the guest's loopback."
KERNEL_IQN: Final = "iqn.2026-11.io.iscsi-rp:kernel.lio"
KERNEL_PORTALS: Final = {"A": "192.0.2.3", "B": "192.0.2.4"}
"Of the kernel's target."
CONFIG: Final = f"""\
state = "/srv/state"
[array]
iqn = "{IQN}"
portals = ["{PORTALS["A"]}:3260", {{ address = "{PORTALS["B"]}:3260", sp = "B" }}]
[lio]
iqn = "{KERNEL_IQN}"
portals = ["{KERNEL_PORTALS["A"]}:3260", {{ address = "{KERNEL_PORTALS["B"]}:3260", sp = "B" }}]
[appliance]
portals = ["{PORTALS["A"]}:3261"]
"""
CONFIGURED: Final = ("--config", "/srv/iscsi-rp.toml")
READY_S: Final = 60.0


def eventually(what: str, ask: Callable[[], Found | None], timeout_s: float = READY_S) -> Found:
    """The first answer of `ask` that is true. Raises `AssertionError` when it does not come in time."""
    deadline_s = time.monotonic() + timeout_s
    while not (found := ask()):
        assert time.monotonic() < deadline_s, f"{what} did not come within {timeout_s:.0f} s"
        time.sleep(0.1)
    return found


class Daemons:
    """The product in the guest: `iscsi-rp array run`, and where a test wants it `iscsi-rp appliance run`."""

    def __init__(self, guest: Guest, config: str = CONFIG) -> None:
        self._guest = guest
        self._running: dict[str, Running] = {}
        guest.run("dd", f"of={CONFIGURED[1]}", "status=none", stdin=config)
        for address in (*PORTALS.values(), *KERNEL_PORTALS.values()):
            guest.run("ip", "address", "add", f"{address}/32", "dev", "lo")

    def start(self, name: str = "array") -> None:
        """Start one of them, and wait until it serves."""
        command = (sys.executable, "-m", "iscsi_rp", *CONFIGURED, name, "run")
        self._running[name] = self._guest.start(*command)
        eventually(f"the {name}", lambda: self._serves(name))

    def pid(self, name: str = "array") -> int:
        return self._running[name].pid

    def kill(self, name: str = "array") -> None:
        """SIGKILL, and wait until it is gone. Raises `AssertionError` where it has logged a traceback."""
        self._end(name, "KILL")

    def stop(self, name: str = "array") -> None:
        """SIGTERM, as `kill`. Raises `AssertionError` where it ends with anything but 0."""
        assert self._end(name, "TERM") == 0

    def stop_all(self) -> None:
        for name in list(self._running):
            self.stop(name)

    def cli(self, *arguments: str, check: bool = True) -> str:
        """What `iscsi-rp ARGUMENTS` prints."""
        return self._guest.run("iscsi-rp", *CONFIGURED, *arguments, check=check).out

    def query(self, *arguments: str, check: bool = True) -> Any:
        """What `iscsi-rp ARGUMENTS --json` answers."""
        return json.loads(self.cli(*arguments, "--json", check=check))

    def create_volume(self, name: str, *options: str, size: str = "64MiB") -> int:
        """A new volume's LUN."""
        self.cli("volume", "create", name, "--size", size, *options)
        return int(self.query("volume", "show", name)["lun"])

    def mode(self, group: str) -> str:
        """Of the array's splitter; empty while the array is not there."""
        status = self.status("array")
        return next((str(each["mode"]) for each in status.get("groups", ()) if each["group"] == group), "")

    def status(self, name: str) -> dict[str, Any]:
        """Of a daemon; empty while it is not there."""
        said = self.query("status", check=False)
        return dict(said[name] or {})

    def protect(self, group: str, *volumes: str, journal: str = "512MiB") -> None:
        """Make a group, and wait until it is SPLITTING."""
        options = [option for volume in volumes for option in ("--volume", volume)]
        self.cli("group", "create", group, *options, "--journal", journal)
        self.until_splitting(group)

    def until_splitting(self, group: str) -> None:
        eventually("SPLITTING", lambda: self.mode(group) == "SPLITTING")

    def _serves(self, name: str) -> bool:
        if self._running[name].ended:
            raise AssertionError(f"the {name} ended: {self._running[name].wait(check=False)}")
        return bool(self.status(name))

    def _end(self, name: str, signal: str) -> int:
        running = self._running.pop(name)
        running.kill(signal)
        result = running.wait(check=False)
        assert "Traceback" not in result.err + result.out, result.err
        return result.code


class OpenIscsi:
    """The initiator: `iscsid`, `iscsiadm` and what the kernel makes of them."""

    iqn, portals = IQN, PORTALS
    "The target that discovery looks for, and its storage processors."

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        guest.shell(
            """
            modprobe -a iscsi_tcp sd_mod sg
            mkdir -p /run/lock/iscsi /run/udev
            echo "InitiatorName=$1" > /etc/iscsi/initiatorname.iscsi
            /lib/systemd/systemd-udevd --daemon
            setsid iscsid
            """,
            HOST,
        )

    def towards(self, iqn: str, portals: dict[str, str]) -> "OpenIscsi":
        """The same initiator, in front of another target."""
        other = copy(self)
        other.iqn, other.portals = iqn, portals
        return other

    def admin(self, *arguments: str, check: bool = True) -> str:
        """What `iscsiadm ARGUMENTS` prints."""
        result = self._guest.run("iscsiadm", *arguments, check=check, timeout_s=90)
        return result.out + result.err

    def discover(self, processor: str = "A", *options: str) -> list[str]:
        """The portals, `ADDRESS:PORT,GROUP`, at which the target is found by asking a storage processor."""
        found = self.admin("-m", "discovery", "-t", "sendtargets", "-p", self.portals[processor], *options)
        return [line.split()[0] for line in found.splitlines() if line.split()[1] == self.iqn]

    def set(self, settings: Mapping[str, str], processor: str = "A") -> None:
        """Change settings of the node record."""
        for name, value in settings.items():
            self.node("-o", "update", "-n", name, "-v", value, processor=processor)

    def node(self, *arguments: str, processor: str = "A", check: bool = True) -> str:
        portal = f"{self.portals[processor]}:3260"
        return self.admin("-m", "node", "-T", self.iqn, "-p", portal, *arguments, check=check)

    def forget(self) -> None:
        """End all sessions, and forget all that was discovered."""
        self.admin("-m", "node", "--logoutall=all", check=False)
        self.admin("-m", "node", "-o", "delete", check=False)

    def login(self, processor: str = "A") -> None:
        self.node("--login", processor=processor)

    def logout(self, processor: str = "A") -> None:
        self.node("--logout", processor=processor)

    def open_image(self, access: Mapping[str, Any]) -> str:
        """Log in to the target of an accessed image; the disk of its first volume."""
        self.admin("-m", "discovery", "-t", "sendtargets", "-p", access["portal"])
        self.admin("-m", "node", "-T", access["iqn"], "--login")
        path = f"/dev/disk/by-path/ip-{access['portal']}-iscsi-{access['iqn']}-lun-0"
        find = ("realpath", "-e", path)
        return eventually("the image", lambda: self._guest.run(*find, check=False).out.strip())

    def close_image(self, access: Mapping[str, Any]) -> None:
        self.admin("-m", "node", "-T", access["iqn"], "--logout")

    def states(self) -> list[str]:
        """Of all sessions, as the kernel has them: `LOGGED_IN`, `FAILED`, `FREE`."""
        return self._guest.shell("cat /sys/class/iscsi_session/*/state").split()

    def disk(self, lun: int, processor: str = "A") -> str:
        """The device that a LUN is, once udev knows it: `/dev/sdX`."""
        path = f"/dev/disk/by-path/ip-{self.portals[processor]}:3260-iscsi-{self.iqn}-lun-{lun}"

        def find() -> str:
            return self._guest.run("realpath", "-e", path, check=False).out.strip()

        return eventually(f"LUN {lun}", find)

    def disks(self) -> list[str]:
        """All SCSI disks, `sdX`."""
        return self._guest.shell("ls /sys/block | grep ^sd || true").split()
