"""A protected LUN carries a file system while the appliance dies and comes back; LUN and copy end equal."""

from typing import Any

import pytest

from tests.kernel.guest import Guest
from tests.kernel.load import finish_load, start_load
from tests.kernel.site import Daemons, OpenIscsi, eventually

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def disk(daemons: Daemons, initiator: OpenIscsi) -> str:
    """The disk of the protected volume `data`; its group has the same name."""
    daemons.start("appliance")
    lun = daemons.create_volume("data", size="128MiB")
    daemons.cli("group", "create", "data", "--volume", "data", "--journal", "512MiB")
    eventually("SPLITTING", lambda: mode(daemons) == "SPLITTING")
    initiator.discover()
    initiator.login()
    return initiator.disk(lun)


def mode(daemons: Daemons) -> str:
    status: Any = daemons.query("status", check=False)  # it fails while the appliance is dead
    modes = [str(each["mode"]) for each in status["array"]["groups"]]
    return modes[0] if modes else "DETACHED"  # as long as the array was not told of the group


def test_the_appliance_dies_under_load(guest: Guest, daemons: Daemons, disk: str) -> None:
    guest.shell('mkfs.ext4 -q "$1" && mkdir -p /mnt/data && mount "$1" /mnt/data', disk)
    guest.shell("cp -r /usr/bin/[a-c]* /mnt/data && sync")
    load = start_load(guest, "/mnt/data/load", seconds=20)
    daemons.kill("appliance")
    eventually("MARKING", lambda: mode(daemons) == "MARKING")
    guest.shell("dd if=/dev/urandom of=/mnt/data/meanwhile bs=1M count=24 conv=fsync status=none")
    daemons.start("appliance")
    eventually("SPLITTING again", lambda: mode(daemons) == "SPLITTING")
    finish_load(load)
    guest.shell('umount /mnt/data && fsck.ext4 -fn "$1"', disk)
    said = guest.shell("dmesg")
    assert "I/O error" not in said
    assert "conn error" not in said
    assert "equal" in daemons.cli("verify", "data")


def test_an_image_is_a_disk_too(guest: Guest, daemons: Daemons, initiator: OpenIscsi, disk: str) -> None:
    guest.shell('mount "$1" /mnt/data && echo before > /mnt/data/file && umount /mnt/data', disk)
    daemons.cli("bookmark", "create", "data", "before")
    guest.shell('mount "$1" /mnt/data && echo after > /mnt/data/file && umount /mnt/data', disk)
    access = daemons.query("image", "enable", "data", "--bookmark", "before")
    initiator.admin("-m", "discovery", "-t", "sendtargets", "-p", access["portal"])
    initiator.admin("-m", "node", "-T", access["iqn"], "--login")
    path = f"/dev/disk/by-path/ip-{access['portal']}-iscsi-{access['iqn']}-lun-0"
    image = eventually("the image", lambda: guest.run("realpath", "-e", path, check=False).out.strip())
    guest.shell('fsck.ext4 -fn "$1" && mount "$1" /mnt/data', image)
    assert guest.shell("cat /mnt/data/file") == "before\n"
    guest.shell("umount /mnt/data")
    initiator.admin("-m", "node", "-T", access["iqn"], "--logout")
    daemons.cli("image", "disable", "data", "--yes")
    guest.shell('mount -r "$1" /mnt/data', disk)
    assert guest.shell("cat /mnt/data/file && umount /mnt/data") == "after\n"
