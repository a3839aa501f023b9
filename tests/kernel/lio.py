"""LIO in the guest: what the array would have it serve, and what an initiator meets there."""

import base64
import json
import pickle
import re
import sys
from typing import Any, Final

from iscsi_rp.frontend.lio import Desired, Owned
from tests.kernel.guest import HERE, Guest
from tests.kernel.site import IQN, PORTALS, eventually

CONFIGFS: Final = "/sys/kernel/config/target"


class Refused(Exception):
    """`LioError` in the guest."""

    def __init__(self, answer: dict[str, Any]) -> None:
        super().__init__(answer["text"])
        self.kind: str = answer["error"]
        self.hint: str = answer["hint"]
        self.errno: int | None = answer["errno"]


class Lio:
    """Makes LIO what is desired, and remembers what it owns, as the array does."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self.owned = Owned()
        for address in PORTALS.values():
            guest.run("ip", "address", "add", f"{address}/32", "dev", "lo")

    def start_runner(self) -> None:
        """tcmu-runner: the one that listens to the kernel, and has it wait for answers for all but ours."""
        self._guest.shell("mkdir -p /run/dbus && dbus-daemon --system --fork")
        self._guest.start("tcmu-runner")
        eventually("tcmu-runner", lambda: "TCMUService1" in self._bus_names())

    def _bus_names(self) -> str:
        command = (
            "dbus-send --system --print-reply --dest=org.freedesktop.DBus / org.freedesktop.DBus.ListNames"
        )
        return self._guest.shell(f"{command} || true")

    def plan(self, desired: Desired) -> list[str]:
        """What would be done. Raises `Refused`."""
        return self._drive(False, desired)[0]

    def apply(self, desired: Desired) -> list[str]:
        """What was done. Raises `Refused`, also where it would be to be done again."""
        steps, left = self._drive(True, desired)
        self.owned = Owned.of(desired)
        assert left == [], f"after {steps}: {left}"
        return steps

    def _drive(self, apply_it: bool, desired: Desired) -> tuple[list[str], list[str]]:
        asked = base64.b64encode(pickle.dumps((apply_it, desired, self.owned))).decode()
        if apply_it:
            self.owned |= Owned.of(desired)
        command = (sys.executable, str(HERE / "lio_driver.py"))
        answer = json.loads(self._guest.run(*command, stdin=asked, timeout_s=120).out)
        if "error" in answer:
            raise Refused(answer)
        return answer["steps"], answer["left"]

    def luns(self, initiator: str, *chap: str, processor: str = "A") -> str:
        """The LUNs that an initiator sees, `0 7`, or `refused: ...`."""
        command = (sys.executable, str(HERE / "lio_client.py"))
        seen = self._guest.run(*command, initiator, IQN, f"{PORTALS[processor]}:3260", *chap).out.strip()
        return seen if seen.startswith("refused") else " ".join(sorted(seen.split()))

    def read(self, path: str) -> str:
        """A setting, below `target/` in configfs; `*` stands for the number of a backstore."""
        return self._guest.shell(f"cat {CONFIGFS}/{path}").strip()

    def tree(self) -> list[str]:
        """All folders and links of configfs below `target/`, without the numbers of backstores."""
        found = self._guest.run("find", CONFIGFS, "-mindepth", "1", "-type", "d,l", "-printf", "%P %l\\n").out
        return sorted(re.sub(r"user_\d+", "user_N", line) for line in found.splitlines())
