"""The stock targetcli, in its real shell, makes a target of an array's volume, beside tcmu-runner, too."""

import json
import re
from collections.abc import Iterator
from typing import Final

import pytest

from tests.kernel.guest import CHECKOUT, Guest
from tests.kernel.load import finish_load, start_load
from tests.kernel.site import CONFIG, KERNEL_PORTALS, Daemons, OpenIscsi, eventually

pytestmark = pytest.mark.kernel

STOCK: Final = "iqn.2026-11.io.example:stock"
BACKSTORES: Final = "/backstores/user:rpsplit"
QCOW: Final = "/backstores/user:qcow"
GROUP: Final = f"/iscsi/{STOCK}/tpg1"
PROMPT: Final = r"/.*> "


@pytest.fixture(scope="module")
def daemons(guest: Guest) -> Daemons:
    """The array has no portals in LIO: what LIO shows is made by others."""
    guest.shell("mkdir -p /run/dbus /etc/target && dbus-daemon --system --fork")
    running = Daemons(guest, re.sub(r"\[lio\].*?(?=\[appliance\])", "", CONFIG, flags=re.DOTALL))
    running.start()
    running.create_volume("data", "--front-end", "lio")
    eventually("the bus", lambda: bus(running).startswith("owns"))
    return running


def bus(daemons: Daemons) -> str:
    return str(daemons.status("array")["kernel"]["bus"])


def served(daemons: Daemons) -> list[str]:
    return list(daemons.status("array")["kernel"]["volumes"])


class Runner:
    """tcmu-runner, which comes and goes."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest

    def start(self) -> None:
        """While the array has not its name: until it has that, and thus the kernel waits for its answers."""
        self._running = self._guest.start("tcmu-runner")
        ask = ("dbus-send", "--system", "--print-reply", "--dest=org.freedesktop.DBus", "/")
        owner = ("org.freedesktop.DBus.NameHasOwner", "string:org.kernel.TCMUService1")
        eventually("tcmu-runner", lambda: "true" in self._guest.run(*ask, *owner).out)

    def kill(self) -> None:
        self._running.kill()
        self._running.wait(check=False)


@pytest.fixture(scope="module")
def stock(initiator: OpenIscsi) -> OpenIscsi:
    return initiator.towards(STOCK, KERNEL_PORTALS)


def talk(guest: Guest, *steps: tuple[str, str]) -> str:
    """A dialogue in targetcli's shell: a command, and what has to come before the next prompt."""
    typed: list[tuple[str, str | None]] = [("", PROMPT)]
    for line, pattern in steps:
        typed += [(f"{line}\n", pattern), ("", PROMPT)]
    script = str(CHECKOUT / "tests/kernel/dialogue.py")
    command = ("env", "TERM=dumb", "/usr/bin/python3", script, "targetcli")
    return guest.run(*command, stdin=json.dumps([*typed, ("exit\n", None)]), timeout_s=200).out


CREATE: Final = (
    (f"{BACKSTORES} create name=disk size=64M cfgstring=data", "Created user-backed storage object disk"),
    ("set global auto_add_default_portal=false", "auto_add_default_portal"),
    (f"/iscsi create {STOCK}", "Created target"),
    (f"{GROUP}/portals create {KERNEL_PORTALS['A']} 3260", "Created network portal"),
    (f"{GROUP}/luns create {BACKSTORES}/disk", "Created LUN 0"),
    (
        f"{GROUP} set attribute authentication=0 generate_node_acls=1 demo_mode_write_protect=0",
        "generate_node_acls",
    ),
)
DELETE: Final = (
    (f"/iscsi delete {STOCK}", "Deleted Target"),
    (f"{BACKSTORES} delete disk", "Deleted storage object disk"),
)


def write_and_compare(guest: Guest, stock: OpenIscsi, *luns: int) -> None:
    stock.discover()
    stock.login()
    for lun in luns:
        finish_load(start_load(guest, stock.disk(lun), size="8M"))
    stock.forget()


def test_create_ls_save_and_delete(guest: Guest, daemons: Daemons, stock: OpenIscsi) -> None:
    said = talk(
        guest,
        ("ls /backstores", r"user:rpsplit.*Storage Objects: 0"),
        (f"{BACKSTORES} create name=disk size=64M cfgstring=other", "no volume 'other'"),
        *CREATE,
        (f"{BACKSTORES} create name=again size=64M cfgstring=data", "is a backstore already"),
        ("saveconfig", "Configuration saved"),
        ("ls /backstores", r"disk.*data \(64\.0MiB\) activated"),
    )
    assert "Traceback" not in said
    assert served(daemons) == ["data"]
    write_and_compare(guest, stock, 0)
    # It is not the array's to take away.
    assert daemons.cli("volume", "move", "data", "--front-end", "embedded", check=False) == ""
    assert served(daemons) == ["data"]


@pytest.mark.parametrize("first", ["array", "restore"])
def test_what_was_saved_is_restored_in_either_order(
    guest: Guest, daemons: Daemons, stock: OpenIscsi, first: str
) -> None:
    daemons.stop()
    guest.run("targetctl", "clear")
    if first == "array":
        daemons.start()
    guest.run("targetctl", "restore", timeout_s=30)
    if first == "restore":
        daemons.start()
    eventually("service", lambda: served(daemons) == ["data"])
    write_and_compare(guest, stock, 0)


@pytest.fixture(scope="module")
def runner(guest: Guest, daemons: Daemons) -> Iterator[Runner]:
    """tcmu-runner runs; a stock targetcli made a target of our volume, LUN 0, and of a backstore of
    tcmu-runner's own, LUN 1, and saved that.
    """
    talk(guest, *DELETE)
    assert served(daemons) == []
    runner = Runner(guest)
    runner.start()
    eventually("registration", lambda: bus(daemons) == "registered with tcmu-runner")
    guest.shell("truncate -s 16M /srv/q.raw")
    said = talk(
        guest,
        (f"{QCOW} create name=q size=16M cfgstring=/srv/q.raw", "Created user-backed storage object q"),
        *CREATE,
        (f"{GROUP}/luns create {QCOW}/q", "Created LUN 1"),
        ("saveconfig", "Configuration saved"),
        ("ls /backstores", r"q\.raw \(16\.0MiB\) activated(.|\n)*data \(64\.0MiB\) activated"),
    )
    assert "Traceback" not in said
    yield runner
    runner.kill()


def test_both_are_served(guest: Guest, daemons: Daemons, runner: Runner, stock: OpenIscsi) -> None:
    assert served(daemons) == ["data"]
    write_and_compare(guest, stock, 0, 1)


@pytest.mark.parametrize("before", ["nothing", "clear", "stop", "boot"])
def test_all_is_restored(
    guest: Guest, daemons: Daemons, runner: Runner, stock: OpenIscsi, before: str
) -> None:
    """A restore removes what is there, by itself, and makes it again within milliseconds: several times, for
    it might win against whoever has to notice.
    """
    if before in ("stop", "boot"):
        daemons.stop()
    if before != "nothing":
        guest.run("targetctl", "clear")
    if before == "boot":  # the units' order
        runner.kill()
        runner.start()
        daemons.start()
    for _ in range(8 if before == "nothing" else 1):
        assert guest.run("targetctl", "restore", timeout_s=30).err == ""
    if before == "stop":
        daemons.start()
    eventually("service", lambda: served(daemons) == ["data"])
    write_and_compare(guest, stock, 0, 1)


def test_what_a_restore_before_the_array_left_out_the_next_one_restores(
    guest: Guest, daemons: Daemons, runner: Runner, stock: OpenIscsi
) -> None:
    daemons.stop()
    runner.kill()
    guest.run("targetctl", "clear")
    runner.start()
    assert "Could not create StorageObject disk" in guest.run("targetctl", "restore", timeout_s=30).err
    daemons.start()
    assert served(daemons) == []
    guest.run("targetctl", "restore", timeout_s=30)
    assert served(daemons) == ["data"]
    write_and_compare(guest, stock, 0, 1)


def test_tcmu_runner_is_heard_again_when_no_volume_is_left(
    guest: Guest, daemons: Daemons, runner: Runner
) -> None:
    """A backstore that it cannot open is not made."""
    talk(guest, *DELETE)
    create = ("targetcli", QCOW, "create", "name=none", "size=16M", "cfgstring=/srv/none")
    daemons.cli("volume", "move", "data", "--front-end", "embedded")
    assert guest.run(*create, check=False).code != 0
    daemons.cli("volume", "move", "data", "--front-end", "lio")
    guest.run(*create)
    guest.run("targetcli", QCOW, "delete", "none")
    daemons.stop()
