"""The host-based splitter: a disk of the machine is protected, and gets a new one before it (tcm_loop)."""

import time

import pytest

from tests.kernel.guest import Guest
from tests.kernel.load import finish_load, start_load
from tests.kernel.site import Daemons, OpenIscsi, eventually

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def device(guest: Guest) -> str:
    """A disk with a file system that is not empty."""
    return guest.shell(
        """
        modprobe loop
        truncate -s 128M /srv/local.img
        device=$(losetup --find --show /srv/local.img)
        mkfs.ext4 -q $device && mkdir -p /mnt/local && mount $device /mnt/local
        echo here before > /mnt/local/old && cp -r /usr/bin/[a-c]* /mnt/local
        echo $device
        """
    ).strip()


@pytest.fixture(scope="module")
def disk(guest: Guest, daemons: Daemons, device: str) -> str:
    """The new disk before it, with its file system mounted."""
    daemons.start("appliance")
    (made,) = daemons.query("host", "attach", device, "--group", "local", "--journal", "512MiB")
    daemons.until_splitting("local")
    path = f"/dev/disk/by-id/wwn-0x{made['naa']}"
    disk = eventually("the disk", lambda: guest.run("realpath", "-e", path, check=False).out.strip())
    guest.shell('mount "$1" /mnt/local', disk)
    return disk


def test_a_disk_in_use_is_refused(guest: Guest, daemons: Daemons, initiator: OpenIscsi, device: str) -> None:
    daemons.start("appliance")
    refused = daemons.cli("host", "attach", device, "--group", "local", check=False)
    assert refused == ""
    assert daemons.query("host", "list") == []
    daemons.stop("appliance")
    guest.run("umount", "/mnt/local")


def test_what_was_on_it_is_there(guest: Guest, daemons: Daemons, device: str, disk: str) -> None:
    assert guest.shell("cat /mnt/local/old") == "here before\n"
    (shown,) = daemons.query("host", "list")
    assert (shown["path"], shown["device"], shown["group"]) == (device, disk, "local")


def test_appliance_and_handler_die_under_load(guest: Guest, daemons: Daemons, disk: str) -> None:
    guest.run("dmesg", "--clear")
    load = start_load(guest, "/mnt/local/load", seconds=20)
    time.sleep(2)
    daemons.kill("appliance")
    eventually("MARKING", lambda: daemons.mode("local") == "MARKING")
    time.sleep(1)
    daemons.kill()
    daemons.start()
    daemons.start("appliance")
    daemons.until_splitting("local")
    finish_load(load)
    assert "I/O error" not in guest.shell("dmesg")
    assert "equal" in daemons.cli("verify", "local")


def test_an_image_has_the_files_of_its_moment(
    guest: Guest, daemons: Daemons, initiator: OpenIscsi, disk: str
) -> None:
    guest.shell("echo before > /mnt/local/file && sync")
    daemons.cli("bookmark", "create", "local", "before")
    guest.shell("rm /mnt/local/file /mnt/local/old && sync")
    access = daemons.query("image", "enable", "local", "--bookmark", "before")
    image = initiator.open_image(access)
    guest.shell('mkdir -p /mnt/image && mount "$1" /mnt/image', image)
    assert guest.shell("cat /mnt/image/file /mnt/image/old") == "before\nhere before\n"
    guest.shell('umount /mnt/image && fsck.ext4 -fn "$1"', image)
    initiator.close_image(access)
    daemons.cli("image", "disable", "local", "--yes")


def test_production_goes_back(guest: Guest, daemons: Daemons, disk: str) -> None:
    guest.run("umount", "/mnt/local")
    daemons.cli("recover-production", "local", "--bookmark", "before", "--yes")
    guest.shell('mount "$1" /mnt/local', disk)
    assert guest.shell("cat /mnt/local/file /mnt/local/old") == "before\nhere before\n"


def test_the_splitter_is_taken_away(guest: Guest, daemons: Daemons, device: str, disk: str) -> None:
    daemons.cli("group", "delete", "local", "--destroy", "--yes")
    (shown,) = daemons.query("host", "list")
    assert daemons.cli("host", "detach", shown["name"], "--yes", check=False) == ""  # it is mounted
    guest.run("umount", "/mnt/local")
    daemons.cli("host", "detach", shown["name"], "--yes")
    assert daemons.query("host", "list") == []
    guest.shell('mount "$1" /mnt/local', device)
    assert guest.shell("cat /mnt/local/file") == "before\n"
