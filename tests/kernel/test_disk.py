"""A LUN is a disk of Linux, with the sizes and names that it was made with, and carries a file system."""

import re

import pytest

from tests.kernel.guest import Guest
from tests.kernel.site import IQN, PORTALS, Daemons, OpenIscsi

pytestmark = pytest.mark.kernel

MIB = 1 << 20


@pytest.fixture(scope="module")
def lun(daemons: Daemons) -> int:
    return daemons.create_volume("disk", size="96MiB")


@pytest.fixture(scope="module")
def disk(initiator: OpenIscsi, lun: int) -> str:
    """The disk of the only session."""
    assert f"{PORTALS['A']}:3260,1" in initiator.discover()
    initiator.login()
    return initiator.disk(lun)


def attribute(guest: Guest, disk: str, name: str) -> str:
    return guest.run("cat", f"/sys/class/block/{disk.removeprefix('/dev/')}/{name}").out.strip()


def test_discovery_names_the_target_at_every_portal(initiator: OpenIscsi) -> None:
    found = initiator.discover("B")
    assert {portal.split(",")[0] for portal in found} == {f"{address}:3260" for address in PORTALS.values()}


def test_sizes(guest: Guest, disk: str) -> None:
    assert int(attribute(guest, disk, "size")) * 512 == 96 * MIB
    assert attribute(guest, disk, "queue/logical_block_size") == "512"
    assert attribute(guest, disk, "queue/physical_block_size") == "4096"
    assert int(attribute(guest, disk, "queue/discard_max_bytes")) > 0
    assert int(attribute(guest, disk, "queue/write_zeroes_max_bytes")) > 0
    assert attribute(guest, disk, "queue/rotational") == "0"
    assert attribute(guest, disk, "queue/fua") == "1"
    assert attribute(guest, disk, "queue/write_cache") == "write back"


def test_names(guest: Guest, daemons: Daemons, disk: str) -> None:
    volume = daemons.query("volume", "show", "disk")
    naa, serial = volume["naa"], volume["uuid"].replace("-", "")
    assert guest.run("realpath", f"/dev/disk/by-id/wwn-0x{naa}").out.strip() == disk
    assert guest.run("sg_inq", "--page=0x80", "--raw", disk).out[4:] == serial
    assert guest.run("/lib/udev/scsi_id", "--whitelisted", disk).out.strip() == f"3{naa}"
    inquiry = guest.run("sg_inq", disk).out
    assert "Vendor identification: ISCSI-RP" in inquiry
    assert f"Unit serial number: {serial}" in inquiry
    identification = guest.run("sg_vpd", "--page=di", disk).out
    assert f"0x{naa}" in identification
    assert f"{IQN},t,0x0001" in identification


def test_a_file_system(guest: Guest, initiator: OpenIscsi, lun: int, disk: str) -> None:
    sums = "cd /mnt/disk && find . -type f | sort | xargs sha256sum"
    guest.shell('mkfs.ext4 -q "$1" && mkdir -p /mnt/disk && mount "$1" /mnt/disk', disk)
    guest.shell("cp -r /usr/bin/[a-m]* /mnt/disk/ && sync")
    written = guest.shell(sums)
    assert written.count("\n") > 100
    guest.shell('umount /mnt/disk && fsck.ext4 -fn "$1"', disk)
    initiator.logout()
    assert initiator.disks() == []
    initiator.login()
    again = initiator.disk(lun)
    guest.shell('mount -r "$1" /mnt/disk', again)
    assert guest.shell(sums) == written
    guest.shell('umount /mnt/disk && fsck.ext4 -fn "$1"', again)


def test_the_kernel_has_nothing_to_complain_of(guest: Guest, disk: str) -> None:
    said = guest.shell("dmesg")
    assert disk.removeprefix("/dev/") in said
    complaints = [line for line in said.splitlines() if re.search(r"\b(error|timed out|abort)", line, re.I)]
    assert [line for line in complaints if re.search(r"\bsd|scsi|EXT4", line)] == []
