"""Blocks that the initiator gives up, or zeroes without sending zeros: not in the store, read as zeros."""

import pytest

from tests.kernel.guest import Guest
from tests.kernel.site import Daemons, OpenIscsi

pytestmark = pytest.mark.kernel

MIB = 1 << 20
STORES = "/srv/state/array/volumes"


@pytest.fixture(scope="module")
def disk(daemons: Daemons, initiator: OpenIscsi) -> str:
    lun = daemons.create_volume("thin")
    initiator.discover()
    initiator.login()
    return initiator.disk(lun)


def stored_mib(guest: Guest) -> int:
    """What the store takes of its file system."""
    return int(guest.shell(f"sync; du -sm {STORES}").split()[0])


def fill(guest: Guest, disk: str) -> None:
    guest.shell('dd if=/dev/urandom of="$1" bs=1M count=64 oflag=direct status=none', disk)


def is_zero(guest: Guest, disk: str, first_mib: int, count: int) -> bool:
    """Whether a part reads as zeros, asked of the target and not of the page cache."""
    script = (
        'dd if="$1" bs=1M skip="$2" count="$3" iflag=direct status=none | cmp --bytes="$3"MiB - /dev/zero'
    )
    compared = guest.run("bash", "-c", script, "bash", disk, str(first_mib), str(count), check=False)
    assert compared.code == 0 or "differ" in compared.out, compared
    return compared.code == 0


def test_discard(guest: Guest, disk: str) -> None:
    fill(guest, disk)
    assert stored_mib(guest) >= 64
    assert not is_zero(guest, disk, 8, 1)
    guest.run("blkdiscard", f"--offset={8 * MIB}", f"--length={32 * MIB}", disk)
    assert is_zero(guest, disk, 8, 32)
    assert not is_zero(guest, disk, 7, 1)
    assert not is_zero(guest, disk, 40, 1)
    assert 32 <= stored_mib(guest) < 40


def test_write_zeroes(guest: Guest, disk: str) -> None:
    fill(guest, disk)
    guest.shell("dmesg --clear")
    guest.run("blkdiscard", "--zeroout", f"--offset={16 * MIB}", f"--length={24 * MIB}", disk)
    assert is_zero(guest, disk, 16, 24)
    assert not is_zero(guest, disk, 15, 1)
    assert not is_zero(guest, disk, 40, 1)
    assert "critical" not in guest.shell("dmesg")


def test_trim_of_a_file_system(guest: Guest, disk: str) -> None:
    guest.shell('mkfs.ext4 -q "$1" && mkdir -p /mnt/thin && mount "$1" /mnt/thin', disk)
    guest.shell("dd if=/dev/urandom of=/mnt/thin/gone bs=1M count=40 conv=fsync status=none")
    guest.shell("dd if=/dev/urandom of=/mnt/thin/kept bs=1M count=4 conv=fsync status=none")
    kept = guest.shell("sha256sum /mnt/thin/kept")
    full = stored_mib(guest)
    guest.shell("rm /mnt/thin/gone && sync && fstrim /mnt/thin")
    assert full - stored_mib(guest) >= 36
    guest.shell('umount /mnt/thin && fsck.ext4 -fn "$1" && mount -r "$1" /mnt/thin', disk)
    assert guest.shell("sha256sum /mnt/thin/kept && umount /mnt/thin") == kept
