"""Volumes behind the kernel's own target: each command passes the array's handler, and is split there.

Handler and appliance are killed under load, and hang; the initiator sees waits, and no error.
"""

import json
import time

import pytest

from tests.kernel.guest import Guest
from tests.kernel.load import finish_load, start_load
from tests.kernel.multipath import Multipath
from tests.kernel.site import KERNEL_IQN, KERNEL_PORTALS, Daemons, OpenIscsi, eventually

pytestmark = pytest.mark.kernel

SPLIT_TIMEOUT_S = 1.5
STORE_S = 1.0
"What the guest's disk may need by itself, and its one processor for everything else."


@pytest.fixture(scope="module")
def lio(guest: Guest, initiator: OpenIscsi) -> OpenIscsi:
    return initiator.towards(KERNEL_IQN, KERNEL_PORTALS)


@pytest.fixture(scope="module")
def disk(guest: Guest, daemons: Daemons, lio: OpenIscsi) -> str:
    """The disk of the protected volume `data`, with a file system at /mnt/data."""
    daemons.start("appliance")
    lun = daemons.create_volume("data", "--front-end", "lio", size="128MiB")
    daemons.protect("data", "data")
    lio.discover()
    lio.login()
    disk = lio.disk(lun)
    guest.shell('mkfs.ext4 -q "$1" && mkdir -p /mnt/data && mount "$1" /mnt/data', disk)
    return disk


def test_the_array_says_by_which_front_end(daemons: Daemons, disk: str) -> None:
    status = daemons.query("array", "status")
    assert [(each["name"], each["front_end"]) for each in status["volumes"]] == [("data", "lio")]
    assert status["kernel"]["volumes"] == ["data"]
    assert status["kernel"]["differs"] == []
    assert status["kernel"]["error"] is None
    assert daemons.cli("lio", "apply").startswith("LIO is as it should be")


def test_the_handler_dies_under_load(guest: Guest, daemons: Daemons, lio: OpenIscsi, disk: str) -> None:
    guest.run("dmesg", "--clear")
    load = start_load(guest, "/mnt/data/handler", seconds=20)
    for _ in range(3):
        time.sleep(2)
        daemons.kill()
        daemons.start()
    finish_load(load)
    assert lio.states() == ["LOGGED_IN"]
    assert_clean(guest)
    daemons.until_splitting("data")
    assert "equal" in daemons.cli("verify", "data")


def test_the_handler_is_shut_down_under_load(
    guest: Guest, daemons: Daemons, lio: OpenIscsi, disk: str
) -> None:
    guest.run("dmesg", "--clear")
    load = start_load(guest, "/mnt/data/handler", seconds=10)
    time.sleep(2)
    daemons.stop()
    time.sleep(2)
    daemons.start()
    finish_load(load)
    assert lio.states() == ["LOGGED_IN"]
    assert_clean(guest)


def test_the_appliance_dies_under_load(guest: Guest, daemons: Daemons, disk: str) -> None:
    guest.run("dmesg", "--clear")
    load = start_load(guest, "/mnt/data/appliance", seconds=15)
    daemons.kill("appliance")
    eventually("MARKING", lambda: daemons.mode("data") == "MARKING")
    guest.shell("dd if=/dev/urandom of=/mnt/data/meanwhile bs=1M count=16 conv=fsync status=none")
    daemons.start("appliance")
    daemons.until_splitting("data")
    finish_load(load)
    assert_clean(guest)
    assert "equal" in daemons.cli("verify", "data")


def test_a_hung_appliance_holds_nobody_up(guest: Guest, daemons: Daemons, disk: str) -> None:
    guest.run("dmesg", "--clear")
    pid = daemons.pid("appliance")
    script = """
        fio --name=wait --filename=/mnt/data/hung --size=8M --rw=randwrite --bs=4k --direct=1 --iodepth=8 \
            --ioengine=libaio --time_based --runtime=10 --output-format=json > /tmp/hung.json &
        sleep 2; kill -STOP $1; wait %1; ps -eo stat,comm > /tmp/hung.ps; kill -CONT $1; cat /tmp/hung.json
    """
    (job,) = json.loads(guest.shell(script, str(pid), timeout_s=60))["jobs"]
    assert job["error"] == 0
    longest_s = job["write"]["clat_ns"]["max"] / 1e9
    assert 0.5 < longest_s < SPLIT_TIMEOUT_S + STORE_S
    stuck = [line for line in guest.shell("cat /tmp/hung.ps").splitlines() if line.startswith("D")]
    assert stuck == []
    assert_clean(guest)
    daemons.until_splitting("data")
    assert "equal" in daemons.cli("verify", "data")


def test_an_image_mounts_and_is_clean(
    guest: Guest, daemons: Daemons, initiator: OpenIscsi, disk: str
) -> None:
    guest.shell("echo before > /mnt/data/file && sync")
    daemons.cli("bookmark", "create", "data", "before")
    guest.shell("echo after > /mnt/data/file && sync && umount /mnt/data")
    guest.run("fsck.ext4", "-fn", disk)
    access = daemons.query("image", "enable", "data", "--bookmark", "before")
    image = initiator.open_image(access)
    guest.shell('mount "$1" /mnt/data', image)
    assert guest.shell("cat /mnt/data/file") == "before\n"
    guest.shell('umount /mnt/data && fsck.ext4 -fn "$1"', image)
    initiator.close_image(access)
    daemons.cli("image", "disable", "data", "--yes")


def test_a_lun_grows_while_it_is_used(guest: Guest, daemons: Daemons, lio: OpenIscsi, disk: str) -> None:
    lun = daemons.create_volume("grows", "--front-end", "lio", size="64MiB")
    lio.node("--rescan")
    grows = lio.disk(lun)
    daemons.cli("volume", "resize", "grows", "96MiB")
    guest.run("sg_turs", grows, check=False)  # takes the unit attention
    assert "96 MiB" in daemons.cli("volume", "show", "grows")
    assert f"{(96 << 20) // 512 - 1:#x}" in guest.run("sg_readcap", "--16", grows).out
    assert daemons.query("array", "status")["kernel"]["differs"] == []
    guest.shell("echo 1 > /sys/block/${1#/dev/}/device/delete", grows)
    daemons.cli("volume", "delete", "grows", "--destroy", "--force", "--yes")
    assert "grows" not in guest.shell("ls /sys/kernel/config/target/core/*")


def test_a_portal_is_cut_under_load(guest: Guest, daemons: Daemons, lio: OpenIscsi, disk: str) -> None:
    lio.forget()
    lun = daemons.query("volume", "show", "data")["lun"]
    multipath = Multipath(guest, lio, lun, {})
    load = start_load(guest, multipath.device, seconds=20)
    time.sleep(3)
    guest.run("ip", "address", "del", f"{KERNEL_PORTALS['A']}/32", "dev", "lo")
    eventually("the loss of A", lambda: multipath.paths()["A"]["dm_st"] == "failed")
    guest.run("ip", "address", "add", f"{KERNEL_PORTALS['A']}/32", "dev", "lo")
    eventually("A again", lambda: multipath.paths()["A"]["dm_st"] == "active")
    finish_load(load)
    assert "equal" in daemons.cli("verify", "data")


def assert_clean(guest: Guest) -> None:
    """The kernel has said nothing of errors."""
    said = guest.shell("dmesg")
    for wrong in (
        "I/O error",
        "conn error",
        "blocked for more",
        "Invalid addr",
        "tcmu nl cmd",
        "BUG",
        "WARNING",
    ):
        assert wrong not in said, said
