"""What the array changes while the initiator is logged in: sizes, LUNs, and which of them it may see."""

import re

import pytest

from tests.kernel.guest import Guest
from tests.kernel.load import finish_load, start_load
from tests.kernel.site import HOST, Daemons, OpenIscsi, eventually

pytestmark = pytest.mark.kernel

MIB = 1 << 20
SUMS = "cd /mnt/grows && find . -type f -name '[a-c]*' | sort | xargs sha256sum"


@pytest.fixture(scope="module")
def disk(daemons: Daemons, initiator: OpenIscsi) -> str:
    """The disk of volume `first`."""
    lun = daemons.create_volume("first")
    initiator.discover()
    initiator.login()
    return initiator.disk(lun)


def size(guest: Guest, disk: str) -> int:
    return int(guest.run("blockdev", "--getsize64", disk).out)


def test_a_volume_grows_under_a_mounted_file_system(
    guest: Guest, daemons: Daemons, initiator: OpenIscsi, disk: str
) -> None:
    guest.shell('mkfs.ext4 -q "$1" && mkdir -p /mnt/grows && mount "$1" /mnt/grows', disk)
    guest.shell("dmesg --clear && cp -r /usr/bin/[a-c]* /mnt/grows && sync")
    before = guest.shell(SUMS)
    assert size(guest, disk) == 64 * MIB
    daemons.cli("volume", "resize", "first", "160MiB")
    guest.run("sg_turs", disk, check=False)  # whichever command is the next one is told
    eventually("the unit attention", lambda: "Capacity data has changed" in guest.shell("dmesg"))
    initiator.admin("-m", "session", "--rescan")
    assert size(guest, disk) == 160 * MIB
    guest.run("resize2fs", disk)
    assert int(guest.shell("df --output=size -B1M /mnt/grows | tail -1")) > 130
    guest.shell("dd if=/dev/urandom of=/mnt/grows/large bs=1M count=90 conv=fsync status=none")
    guest.shell('umount /mnt/grows && mount "$1" /mnt/grows', disk)
    assert guest.shell(SUMS) == before
    guest.shell('umount /mnt/grows && fsck.ext4 -fn "$1"', disk)


def test_a_new_lun_appears_by_itself(guest: Guest, daemons: Daemons, initiator: OpenIscsi, disk: str) -> None:
    lun = daemons.create_volume("second", size="32MiB")
    second = initiator.disk(lun)
    assert second != disk
    assert size(guest, second) == 32 * MIB
    finish_load(start_load(guest, second, size="4M"))


def test_a_deleted_volume_is_gone_and_others_are_not(
    guest: Guest, daemons: Daemons, initiator: OpenIscsi, disk: str
) -> None:
    lun = daemons.query("volume", "show", "second")["lun"]
    second = initiator.disk(lun)
    daemons.cli("volume", "delete", "second", "--destroy", "--force", "--yes")
    asked = guest.run("sg_turs", "--verbose", second, check=False)
    while re.search("unit attention", asked.err, re.I):
        asked = guest.run("sg_turs", "--verbose", second, check=False)
    assert re.search("logical unit not supported", asked.err, re.I), asked.err
    assert f"lun={lun}" not in guest.run("sg_luns", "--decode", disk).out
    guest.shell('echo 1 > "/sys/class/block/$1/device/delete"', second.removeprefix("/dev/"))
    finish_load(start_load(guest, disk, size="4M"))


def test_an_initiator_sees_the_luns_that_it_is_shown(
    guest: Guest, daemons: Daemons, initiator: OpenIscsi, disk: str
) -> None:
    daemons.create_volume("third", size="16MiB")
    daemons.create_volume("hidden", size="16MiB")
    daemons.cli("initiator", "add", HOST, "--lun", "first=0", "--lun", "third=7")
    initiator.logout()
    initiator.login()
    assert size(guest, initiator.disk(7)) == 16 * MIB
    naa = daemons.query("volume", "show", "third")["naa"]
    assert guest.run("/lib/udev/scsi_id", "--whitelisted", initiator.disk(7)).out.strip() == f"3{naa}"
    assert len(initiator.disks()) == 2
