"""The stock targetcli, in its real shell, makes a target of an array's volume, beside tcmu-runner, too."""

import json
import re
from typing import Final

import pytest

from tests.kernel.guest import CHECKOUT, Guest
from tests.kernel.load import finish_load, start_load
from tests.kernel.site import CONFIG, KERNEL_PORTALS, Daemons, OpenIscsi, eventually

pytestmark = pytest.mark.kernel

STOCK: Final = "iqn.2026-11.io.example:stock"
BACKSTORES: Final = "/backstores/user:rpsplit"
GROUP: Final = f"/iscsi/{STOCK}/tpg1"
PROMPT: Final = r"/.*> "


@pytest.fixture(scope="module")
def daemons(guest: Guest) -> Daemons:
    """The array has no portals in LIO: what LIO shows is made by others."""
    guest.shell("mkdir -p /run/dbus /etc/target && dbus-daemon --system --fork")
    running = Daemons(guest, re.sub(r"\[lio\].*?(?=\[appliance\])", "", CONFIG, flags=re.DOTALL))
    running.start()
    running.create_volume("data", "--front-end", "lio")
    eventually("the bus", lambda: running.status("array")["kernel"]["bus"].startswith("owns"))
    return running


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


def write_and_compare(guest: Guest, stock: OpenIscsi) -> None:
    stock.discover()
    stock.login()
    finish_load(start_load(guest, stock.disk(0), size="8M"))
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
    assert daemons.status("array")["kernel"]["volumes"] == ["data"]
    write_and_compare(guest, stock)
    # It is not the array's to take away.
    assert daemons.cli("volume", "move", "data", "--front-end", "embedded", check=False) == ""
    assert daemons.status("array")["kernel"]["volumes"] == ["data"]


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
    eventually("service", lambda: daemons.status("array")["kernel"]["volumes"] == ["data"])
    write_and_compare(guest, stock)


def test_beside_tcmu_runner(guest: Guest, daemons: Daemons, stock: OpenIscsi) -> None:
    talk(guest, *DELETE)
    assert daemons.status("array")["kernel"]["volumes"] == []
    runner = guest.start("tcmu-runner")
    eventually(
        "registration", lambda: daemons.status("array")["kernel"]["bus"] == "registered with tcmu-runner"
    )
    talk(guest, ("ls /backstores", r"user:qcow(.|\n)*user:rpsplit"), *CREATE)
    write_and_compare(guest, stock)
    # tcmu-runner still has the kernel wait for its word about its own.
    guest.shell("truncate -s 16M /srv/q.raw")
    refused = guest.run(
        "targetcli",
        "/backstores/user:qcow",
        "create",
        "name=q",
        "size=16M",
        "cfgstring=/srv/none",
        check=False,
    )
    assert refused.code != 0
    guest.run("targetcli", "/backstores/user:qcow", "create", "name=q", "size=16M", "cfgstring=/srv/q.raw")
    guest.run("targetcli", "/backstores/user:qcow", "delete", "q")
    talk(guest, *DELETE)
    runner.kill()
    assert daemons.status("array")["kernel"]["volumes"] == []
    daemons.stop()
