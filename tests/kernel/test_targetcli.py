"""`targetcli-rp`: Debian's targetcli and PyPI's, over real LIO, with the daemons in their tree."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.kernel.guest import CHECKOUT, Guest, Result
from tests.kernel.site import Daemons, OpenIscsi, eventually

pytestmark = pytest.mark.kernel

EXTENSION: Final = CHECKOUT / "targetcli-ext"
NEWER: Final = "3.0.2"
"PyPI's targetcli. It wants pygobject built, which the guest has from Debian: so it is installed alone."
NEWER_AT: Final = Path(sys.prefix, "share/targetcli", NEWER)
"Where the guest sees it and this Python does not."
GROUPS: Final = "/recoverpoint/groups"
ARRAY: Final = "/recoverpoint/arrays/array-1"


class Targetcli:
    """`targetcli-rp` over one of the two."""

    def __init__(self, guest: Guest, version: str) -> None:
        self._guest = guest
        self.version = version
        self.group = f"db{version[0]}"
        places = [str(EXTENSION)]
        python = "/usr/bin/python3"
        if version == NEWER:
            python = sys.executable
            places += [str(NEWER_AT), "/srv/gi"]
        self._environment = (
            f"PYTHONPATH={':'.join(places)}",
            f"TARGETCLI_HOME=/srv/targetcli-{version}",
            "TERM=dumb",
        )
        self._command = (python, "-m", "targetcli_rp.main", "--state", "/srv/state")

    def run(self, *command: str, environment: tuple[str, ...] = ()) -> Result:
        """Run one command of the shell."""
        return self._guest.run("env", *self._environment, *environment, *self._command, *command, check=False)

    def __call__(self, command: str) -> str:
        """What a command that succeeds prints."""
        result = self.run(command)
        assert result.code == 0, result
        return result.out

    def talk(self, *steps: tuple[str, str | None]) -> str:
        """A dialogue in the interactive shell: what is typed, and the pattern that comes then."""
        dialogue = str(CHECKOUT / "tests/kernel/dialogue.py")
        command = ("/usr/bin/python3", dialogue, "env", *self._environment, *self._command)
        return self._guest.run(*command, stdin=json.dumps(steps), timeout_s=120).out


@pytest.fixture(scope="module")
def lio(guest: Guest, daemons: Daemons) -> None:
    """The system's D-Bus and the folder that targetcli wants; modules and configfs it sees to itself."""
    daemons.start("appliance")
    guest.shell(
        """
        mkdir -p /run/dbus /srv/gi /etc/target
        dbus-daemon --system --fork
        ln -s /usr/lib/python3/dist-packages/gi /srv/gi/gi
        """
    )


@pytest.fixture(scope="module")
def debian(guest: Guest, lio: None) -> Targetcli:
    return Targetcli(guest, "2.1.53")


@pytest.fixture(scope="module", params=["2.1.53", NEWER])
def targetcli(request: pytest.FixtureRequest, guest: Guest, lio: None) -> Targetcli:
    if request.param == NEWER and not NEWER_AT.exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(NEWER_AT)]
        subprocess.run([*pip, f"targetcli=={NEWER}"], check=True)
    return Targetcli(guest, request.param)


def test_it_is_the_targetcli_that_is_meant(targetcli: Targetcli) -> None:
    assert f"version {targetcli.version}" in targetcli.run("--version").err


def test_the_stock_tree_works(guest: Guest, targetcli: Targetcli) -> None:
    targetcli("/backstores/ramdisk create stock 16MiB")
    assert guest.run("bash", "-c", "ls -d /sys/kernel/config/target/core/rd_mcp_*/stock").code == 0
    tree = targetcli("ls")
    assert re.search(r"o- stock \.", tree)
    for name in ("backstores", "iscsi", "loopback", "recoverpoint", "splitters"):
        assert re.search(rf"o- {name} \.", tree), tree
    targetcli("/backstores/ramdisk delete stock")
    assert guest.run("test", "-e", "/usr/bin/__pycache__", check=False).code == 1


def test_a_volume_is_split_and_recovered_by_single_commands(
    guest: Guest, daemons: Daemons, initiator: OpenIscsi, debian: Targetcli
) -> None:
    assert "volume data: 16 MiB" in debian(f"{ARRAY} create_volume data 16MiB")
    debian(f"{GROUPS} split data group={debian.group} journal=64MiB")
    eventually("SPLITTING", lambda: splitting(daemons))
    assert "[SPLITTING, to rpa-1" in debian("/recoverpoint/splitters ls")
    group = f"{GROUPS}/{debian.group}"
    initiator.discover()
    initiator.login()
    disk = initiator.disk(daemons.query("volume", "show", "data")["lun"])
    put(guest, disk, "before")
    assert "bookmark then: " in debian(f"{group} bookmark then")
    put(guest, disk, "after")
    refused = debian.run(f"{group} recover_production bookmark=then yes=true")
    assert refused.code == 1
    assert "force=true" in refused.err
    said = debian(f"{group} enable_image bookmark=then")
    access = daemons.query("image", "show", debian.group)
    assert f"iscsi://{access['portal']}/{access['iqn']}/0" in said
    debian(f"{group} disable_image")
    assert "equal, 16 MiB compared" in debian(f"{group} verify")
    initiator.logout()
    assert "nobody" in debian(f"{group} recover_production bookmark=then dry_run=true")
    debian(f"{group} recover_production bookmark=then yes=true")
    initiator.login()
    assert head(guest, initiator.disk(daemons.query("volume", "show", "data")["lun"])) == "before"
    initiator.forget()
    unanswered = debian.run(f"{GROUPS} unsplit {debian.group}")
    assert unanswered.code == 1
    assert "yes=true" in unanswered.err
    debian(f"{GROUPS} unsplit {debian.group} destroy=true yes=true")
    debian(f"{ARRAY} delete_volume data destroy=true yes=true")
    assert daemons.query("status")["array"]["volumes"] == []


def splitting(daemons: Daemons) -> bool:
    (group,) = daemons.query("status")["array"]["groups"]
    return str(group["mode"]) == "SPLITTING"


def put(guest: Guest, disk: str, text: str) -> None:
    script = 'printf "%-4096s" "$2" | dd of="$1" bs=4k iflag=fullblock oflag=direct status=none'
    guest.shell(script, disk, text)


def head(guest: Guest, disk: str) -> str:
    return guest.shell('dd if="$1" bs=4k count=1 iflag=direct status=none', disk).strip()


def test_the_interactive_shell(daemons: Daemons, targetcli: Targetcli) -> None:
    group, volume = targetcli.group, f"vol{targetcli.version[0]}"
    daemons.create_volume(volume, size="16MiB")
    talk = targetcli.talk(
        ("", "/> "),
        ("/recoverp\t", "/recoverpoint/"),
        ("gr\t", "groups "),
        ("cre\t", "create "),
        (f"{group} volumes=vo\t", f"volumes={volume} "),
        ("journal=64MiB\r", f"group {group}: .*\n"),
        (f"cd {GROUPS}/{group}\r", f"{group}> "),
        ("exit\r", None),
    )
    eventually("SPLITTING", lambda: splitting(daemons))
    talk += targetcli.talk(
        ("", f"{group}> "),  # where it was left
        ("bookmark now\r", r"bookmark now: .*position \d+"),
        ("enab\t", "enable_image "),
        ("bookm\t", "bookmark="),
        ("n\t", "now "),
        ("\r", f"iscsi://.*{group}> "),
        ("ls images\r", f"accessed.*{volume}.*{group}> "),
        ("disable_image\r", f"no image is accessed.*{group}> "),
        ("verify\r", "equal, 16 MiB compared"),
        ("recover_production bookmark=now\r", r"to this image\? \[y/N\]: "),
        ("y\r", "production is as it was"),
        ("bookmark now\r", f"hint: .*{group}> "),  # it is there already: an error, and the shell goes on
        ("cd /\r", "/> "),
        (f"{GROUPS} unsplit {group[:2]}\t", f"unsplit {group} "),
        ("destroy=true\r", r"every image\? \[y/N\]: "),
        ("n\r", "nothing was done.*/> "),
        (f"{GROUPS} unsplit {group} destroy=true\r", r"\[y/N\]: "),
        ("y\r", "deleted.*/> "),
        (f"{ARRAY} delete_volume volume=vo\t", f"volume={volume} "),
        ("destroy=true yes=true\r", "is removed.*/> "),
        ("exit\r", None),
    )
    assert "Traceback" not in talk
    assert group not in [each["name"] for each in daemons.query("group", "list")]


def test_the_tree_is_ours_whatever_the_preference_for_targetclid(targetcli: Targetcli) -> None:
    targetcli("set global auto_use_daemon=true")
    assert "splitters" in targetcli("/recoverpoint ls")


def test_without_the_daemons_there_is_the_stock_tree(daemons: Daemons, debian: Targetcli) -> None:
    daemons.stop_all()
    tree = debian("ls")
    assert re.search(
        r"o- recoverpoint \.*\s*\[the array does not answer: `iscsi-rp up` starts it, unless", tree
    )
    assert "o- backstores" in tree
    refused = debian.run(f"{GROUPS} create db data")
    assert refused.code == 1
    assert "Start it by `iscsi-rp up`" in refused.err
    daemons.start()
    daemons.start("appliance")


def test_where_targetcli_cannot_start_there_is_a_way(targetcli: Targetcli) -> None:
    nowhere = targetcli.run("ls", environment=("DBUS_SYSTEM_BUS_ADDRESS=unix:path=/nowhere",))
    assert nowhere.code == 255
    assert "targetcli cannot start: " in nowhere.out
    assert "`iscsi-rp` shows and does all that is below /recoverpoint" in nowhere.out
