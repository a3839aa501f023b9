"""A volume moves between the array's own target and the kernel's, with NAA, data and registrations."""

import re
import sys
import time
from typing import Final

import pytest

from tests.kernel.guest import Guest
from tests.kernel.site import HOST, KERNEL_IQN, KERNEL_PORTALS, Daemons, OpenIscsi, eventually

pytestmark = pytest.mark.kernel

KEY: Final = "0xabc"


@pytest.fixture(scope="module")
def lio(daemons: Daemons, initiator: OpenIscsi) -> OpenIscsi:
    # Listed, so that its registrations come to life before it logs in.
    daemons.cli("initiator", "add", HOST)
    return initiator.towards(KERNEL_IQN, KERNEL_PORTALS)


def found(guest: Guest, initiator: OpenIscsi, lun: int) -> tuple[str, str]:
    """Logged in: the disk, and its NAA."""
    initiator.discover()
    initiator.login()
    disk = initiator.disk(lun)
    guest.run("sg_turs", disk, check=False)
    return disk, guest.run("sg_vpd", "--page=di_lu", disk).out.partition("0x600")[2].split()[0]


def keys(guest: Guest, disk: str) -> list[str]:
    guest.run("sg_turs", disk, check=False)
    return re.findall(r"^\s+(0x\w+)$", guest.run("sg_persist", "-n", "-i", "-k", disk).out, re.MULTILINE)


def test_there_and_back(guest: Guest, daemons: Daemons, initiator: OpenIscsi, lio: OpenIscsi) -> None:
    lun = daemons.create_volume("moves")
    disk, naa = found(guest, initiator, lun)
    for arguments in (
        ("--register", f"--param-sark={KEY}", "--param-aptpl"),
        ("--reserve", f"--param-rk={KEY}", "--prout-type=1"),
    ):
        guest.run("sg_persist", "--out", "--no-inquiry", *arguments, disk)
    guest.shell('printf moved | dd of="$1" bs=512 conv=sync oflag=direct status=none', disk)
    refused = daemons.cli("volume", "move", "moves", "--front-end", "lio", check=False)
    assert refused == ""
    for front_end, there in (("lio", lio), ("embedded", initiator), ("lio", lio)):
        initiator.forget()
        daemons.cli("volume", "move", "moves", "--front-end", front_end)
        (shown,) = daemons.query("array", "status")["volumes"]
        assert shown["front_end"] == front_end
        disk, same = found(guest, there, lun)
        assert same == naa
        assert guest.run("dd", f"if={disk}", "bs=5", "count=1", "status=none").out == "moved"
        assert keys(guest, disk) == [KEY]
        assert "Write Exclusive" in guest.run("sg_persist", "-n", "-i", "-r", disk).out
    daemons.kill()
    daemons.start()
    assert keys(guest, disk) == [KEY]
    initiator.forget()


def test_what_shows_nothing_is_gone(guest: Guest, daemons: Daemons) -> None:
    daemons.cli("volume", "delete", "moves", "--destroy", "--yes")
    assert "moves" not in guest.shell("find /sys/kernel/config/target")
    assert KERNEL_IQN not in guest.shell("find /sys/kernel/config/target")


def test_nobody_shows_it_again_while_it_moves(guest: Guest, daemons: Daemons, lio: OpenIscsi) -> None:
    """Whatever else has LIO put right meanwhile."""
    daemons.create_volume("stays", "--front-end", "lio")
    daemons.create_volume("moves", "--front-end", "lio")
    script = """
import sys
import time
from pathlib import Path
from iscsi_rp.control.client import ArrayClient
with ArrayClient(Path("/srv/state/array/api.sock")) as array:
    while not Path("/tmp/moved").exists():
        print(*array.apply_to_lio(), sep=", ")
        Path(sys.argv[1]).touch()
"""
    begun = ("/tmp/begun1", "/tmp/begun2")
    applying = [guest.start(sys.executable, "-c", script, each, timeout_s=90) for each in begun]
    eventually("both", lambda: not guest.run("ls", *begun, check=False).code)
    daemons.cli("volume", "move", "moves", "--front-end", "embedded")
    guest.run("touch", "/tmp/moved")
    assert not [said for each in applying if "create backstore moves" in (said := each.wait().out)]
    assert daemons.query("array", "status")["kernel"]["volumes"] == ["stays"]
    for name in ("stays", "moves"):
        daemons.cli("volume", "delete", name, "--destroy", "--yes")


def test_a_start_gives_no_data_to_whom_it_does_not_show(
    guest: Guest, daemons: Daemons, lio: OpenIscsi
) -> None:
    """LIO is other than it should be when the array starts: what waits since then is refused, not served."""
    kept = daemons.create_volume("kept", "--front-end", "lio")
    taken = daemons.create_volume("taken", "--front-end", "lio")
    _, _ = found(guest, lio, kept)
    disk = lio.disk(taken)
    read = ("dd", f"if={disk}", "of=/dev/null", "iflag=direct", "bs=4k", "count=1")
    guest.run(*read)
    daemons.cli("initiator", "set", HOST, "--lun", f"kept={kept}")
    assert guest.run(*read, check=False).code != 0
    daemons.stop()
    script = """
        cd /sys/kernel/config/target/iscsi/$1
        for group in tpgt_*; do
            mkdir $group/acls/$2/lun_$3
            ln -s $PWD/$group/lun/lun_$3 $group/acls/$2/lun_$3/again
        done
    """
    guest.shell(script, KERNEL_IQN, HOST, str(taken))
    waiting = guest.start(*read, timeout_s=60)
    time.sleep(1)
    assert not waiting.ended
    daemons.start()
    assert waiting.wait(check=False).code != 0
    guest.run("dd", f"if={lio.disk(kept)}", "of=/dev/null", "iflag=direct", "bs=4k", "count=1")
    lio.forget()
    for name in ("kept", "taken"):
        daemons.cli("volume", "delete", name, "--destroy", "--yes")
