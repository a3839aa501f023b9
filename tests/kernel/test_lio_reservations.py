"""Persistent reservations with APTPL move between us and LIO: LIO's own of sg_persist, and back again."""

import re
import sys
from dataclasses import replace
from typing import Final

import pytest

from iscsi_rp.frontend.lio import Acl, Backstore, Desired, Target
from iscsi_rp.scsi.persistent import Kind, Registrant, Registrations
from iscsi_rp.scsi.persistent_format import decode
from tests.kernel.guest import HERE, Guest, Running
from tests.kernel.lio import Lio
from tests.kernel.site import HOST, IQN, PORTALS, OpenIscsi, eventually

pytestmark = pytest.mark.kernel

DATA: Final = Backstore("data", "11111111-1111-4111-8111-111111111111", 1 << 20, 512)
TARGET: Final = Target(
    IQN,
    {1: [(PORTALS["A"], 3260)], 2: [(PORTALS["B"], 3260)]},
    {3: "data"},
    acls=[Acl(HOST, {7: "data"}), Acl(f"{HOST}2", {0: "data"})],
)
ALL: Final = Desired([DATA], TARGET)
KEYS: Final = {"A": 0xABC, "B": 0xDEF}
READ: Final = """
import sys
from iscsi_rp.frontend.lio.registrations import read
from iscsi_rp.scsi.persistent_format import encode
print(encode(read(sys.argv[1], sys.argv[2])).hex())
"""


@pytest.fixture(scope="module")
def lio(guest: Guest) -> Lio:
    return Lio(guest)


@pytest.fixture(scope="module")
def host(guest: Guest) -> OpenIscsi:
    return OpenIscsi(guest)


def served(guest: Guest) -> Running:
    """Somebody answers for the backstore, so that its LUNs become disks."""
    handler = guest.start(
        "sh", "-c", 'exec "$@" > /tmp/said', "sh", sys.executable, str(HERE / "lio_handler.py"), "data"
    )
    eventually(
        "the handler",
        lambda: not handler.ended and "serves" in guest.run("cat", "/tmp/said", check=False).out,
    )
    return handler


def disks(host: OpenIscsi) -> dict[str, str]:
    """Logged in to both processors: the disk at each."""
    host.discover()
    for processor in KEYS:
        host.login(processor)
    return {processor: host.disk(7, processor) for processor in KEYS}


def persist(guest: Guest, disk: str, *arguments: str) -> None:
    guest.run("sg_turs", disk, check=False)  # takes a unit attention
    guest.run("sg_persist", "--out", "--no-inquiry", *arguments, disk)


def kept(guest: Guest) -> Registrations:
    """What LIO keeps of the backstore, in the form in which the array keeps it."""
    return decode(bytes.fromhex(guest.run(sys.executable, "-c", READ, DATA.serial, IQN).out))


def live(lio: Lio) -> set[tuple[str, int]]:
    """What LIO has: initiator ports and keys."""
    text = lio.read("core/user_*/data/pr/res_pr_registered_i_pts")
    return {(name, int(key, 16)) for name, key in re.findall(r"Node: (\S+) Key: (0x\w+)", text)}


def test_there_and_back(guest: Guest, lio: Lio, host: OpenIscsi) -> None:
    lio.apply(ALL)
    handler = served(guest)
    for processor, disk in disks(host).items():
        persist(guest, disk, "--register", f"--param-sark={KEYS[processor]:#x}", "--param-aptpl")
    first = host.disk(7, "A")
    persist(guest, first, "--reserve", f"--param-rk={KEYS['A']:#x}", "--prout-type=5")
    state = kept(guest)
    assert {who.port: key for who, key in state.keys.items()} == {1: KEYS["A"], 2: KEYS["B"]}
    assert (state.kind, state.aptpl) == (Kind.WRITE_EXCLUSIVE_REGISTRANTS_ONLY, True)
    assert state.holder is not None
    assert (state.holder.initiator.partition(",")[0], state.holder.port) == (HOST, 1)
    host.forget()
    handler.kill()

    lio.apply(Desired())  # the embedded front end has it meanwhile, and gives back what it was given
    guest.shell("rm /etc/target/pr/*")
    lio.apply(replace(ALL, backstores=[replace(DATA, registrations=state)]))
    assert live(lio) == {(who.initiator, key) for who, key in state.keys.items()}
    assert lio.read("core/user_*/data/pr/res_holder").endswith(state.holder.initiator)
    assert "Registrants Only" in lio.read("core/user_*/data/pr/res_pr_type")
    assert kept(guest) == state


def test_an_initiator_that_is_not_registered_may_not_write(guest: Guest, lio: Lio, host: OpenIscsi) -> None:
    handler = served(guest)
    host.admin("-m", "iface", "-I", "other", "-o", "new")
    host.admin("-m", "iface", "-I", "other", "-o", "update", "-n", "iface.initiatorname", "-v", f"{HOST}2")
    host.discover("A", "-I", "other")
    host.node("-I", "other", "--login")
    disk = host.disk(0)
    guest.run("sg_turs", disk, check=False)
    write = ("dd", "if=/dev/zero", f"of={disk}", "bs=4k", "count=1", "oflag=direct", "status=none")
    assert guest.run(*write, check=False).code == 1
    assert "critical nexus error" in guest.shell("dmesg")
    persist(guest, disk, "--register", "--param-sark=0x222", "--param-aptpl")
    guest.run(*write)
    assert 0x222 in kept(guest).keys.values()
    host.forget()
    handler.kill()


def test_what_lio_has_kept_is_told_again_when_it_is_made_again(guest: Guest, lio: Lio) -> None:
    before = kept(guest)
    assert len(before.keys) == 3
    lio.apply(Desired())
    moved = replace(TARGET, luns={0: "data"}, acls=[Acl(HOST, {5: "data"}), Acl(f"{HOST}2", {6: "data"})])
    lio.apply(Desired([DATA], moved))
    assert live(lio) == {(who.initiator, key) for who, key in before.keys.items()}
    lio.apply(Desired())
    lio.apply(replace(ALL, backstores=[replace(DATA, registrations=Registrations())]))
    assert live(lio) == set()
    assert kept(guest) == Registrations()


@pytest.mark.parametrize("kind", Kind)
def test_every_type(guest: Guest, lio: Lio, kind: Kind) -> None:
    who = Registrant(f"{HOST},i,0x00023d000001", 1)
    other = Registrant(f"{HOST}2,i,0x00023d000009", 2)
    state = Registrations({who: 1, other: 2}, kind, None if kind in (7, 8) else other, aptpl=True)
    lio.apply(Desired())
    lio.apply(replace(ALL, backstores=[replace(DATA, registrations=state)]))
    assert live(lio) == {(who.initiator, 1), (other.initiator, 2)}
    assert lio.read("core/user_*/data/pr/res_holder").endswith(
        who.initiator if kind in (7, 8) else other.initiator
    )
    assert ("Write Exclusive" in lio.read("core/user_*/data/pr/res_pr_type")) == kind.name.startswith("WRITE")
    assert kept(guest) == state
