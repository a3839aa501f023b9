"""The kernel's target is made what is desired, in real configfs; its own tools and initiators look at it.

No handler serves the backstores: what initiators ask here LIO answers by itself.
"""

import json
import random
from dataclasses import replace
from typing import Final

import pytest

from iscsi_rp.frontend.lio import Acl, Backstore, Desired, Loopback, Target, port_naa
from iscsi_rp.iscsi.access import Chap
from tests.kernel.guest import Guest
from tests.kernel.lio import CONFIGFS, Lio, Refused
from tests.kernel.site import HOST, IQN, PORTALS, OpenIscsi

pytestmark = pytest.mark.kernel

MIB: Final = 1 << 20
DATA: Final = Backstore("data", "11111111-1111-4111-8111-111111111111", 64 * MIB, 512)
LOGS: Final = Backstore("logs", "22222222-2222-4222-8222-222222222222", 32 * MIB, 4096, write_back=False)
PORTAL_OF: Final = {1: [(PORTALS["A"], 3260)], 2: [(PORTALS["B"], 3260)]}
SECRET: Final = Chap("host", b"a secret word")
OTHER: Final = Chap("array", b"another secret")
PROOF: Final = ("host", "a secret word")
LISTED: Final = Target(
    IQN,
    PORTAL_OF,
    {0: "data", 1: "logs"},
    acls=[Acl(HOST, {0: "data", 7: "logs"}, SECRET, OTHER), Acl(f"{HOST}2", {5: "logs"})],
)
ALL: Final = Desired([DATA, LOGS], LISTED)
OPEN: Final = replace(ALL, target=replace(LISTED, open=True, acls=[]))
GROUP: Final = f"iscsi/{IQN}/tpgt_1"


@pytest.fixture(scope="module")
def lio(guest: Guest) -> Lio:
    return Lio(guest)


@pytest.fixture(scope="module")
def host(guest: Guest) -> OpenIscsi:
    """The kernel's initiator, which asks nothing of the disks that it logs in to."""
    host = OpenIscsi(guest)
    guest.shell("echo node.session.scan = manual >> /etc/iscsi/iscsid.conf")
    return host


def differs(before: list[str], after: list[str]) -> set[str]:
    """Last parts of the paths that came and went."""
    return {line.split()[0].rpartition("/")[2] for line in set(before) ^ set(after)}


def test_modules_that_are_missing_are_named(guest: Guest, lio: Lio) -> None:
    guest.run("mount", "-t", "tmpfs", "none", "/lib/modules/")
    with pytest.raises(Refused, match="kernel module") as caught:
        lio.plan(ALL)
    guest.run("umount", "/lib/modules/")
    assert caught.value.kind == "LioMissingError"
    assert "modprobe" in caught.value.hint


def test_from_nothing(lio: Lio) -> None:
    steps = lio.apply(OPEN)
    assert steps[0] == "create backstore data, 64 MiB"
    assert (
        lio.read("core/user_*/data/info").split()
        == (
            "Status: ACTIVATED Max Queue Depth: 0 SectorSize: 512 HwMaxSectors: 16384 "
            f"Config: rpsplit/data Size: {64 * MIB} MaxDataAreaMB: 1024 DataPagesPerBlk: 1 CmdRingSizeMB: 8"
        ).split()
    )
    assert lio.read("core/user_*/data/wwn/vpd_unit_serial").endswith(f": {DATA.serial}")
    assert lio.read("core/user_*/logs/attrib/hw_max_sectors") == "2048"
    for name, values in {"emulate_write_cache": "10", "nl_reply_supported": ["-1"] * 2}.items():
        assert [lio.read(f"core/{place}/attrib/{name}") for place in ("user_*/data", "user_*/logs")] == [
            *values
        ]


def test_its_own_tools_read_what_was_made(guest: Guest, lio: Lio) -> None:
    saved = json.loads(guest.shell("targetctl save /tmp/all && cat /tmp/all"))
    assert {(each["name"], each["config"], each["wwn"]) for each in saved["storage_objects"]} == {
        (each.name, f"rpsplit/{each.name}", each.serial) for each in OPEN.backstores
    }
    (target,) = saved["targets"]
    assert {(each["tag"], len(each["luns"]), each["enable"]) for each in target["tpgs"]} == {
        (1, 2, True),
        (2, 2, True),
    }


def test_whoever_was_let_in_unlisted_is_not_once_only_some_are(lio: Lio) -> None:
    for name in (HOST, f"{HOST}2", f"{HOST}3"):
        assert lio.luns(name) == "0 1"
    masked = replace(LISTED, open=True, acls=[Acl(HOST, {7: "logs"}, SECRET)])
    lio.apply(replace(ALL, target=masked))
    assert lio.luns(HOST).startswith("refused")
    assert lio.luns(HOST, *PROOF) == "7"
    assert lio.luns(f"{HOST}2") == "0 1"
    lio.apply(replace(ALL, target=replace(LISTED, acls=[Acl(f"{HOST}2", {5: "logs"})])))  # nobody has CHAP
    assert lio.luns(f"{HOST}2") == "5"
    for unlisted in (f"{HOST}3", f"{HOST}4"):
        assert lio.luns(unlisted).startswith("refused")


def test_what_each_initiator_has_to_prove(lio: Lio) -> None:
    lio.apply(ALL)
    for processor in "AB":
        assert lio.luns(HOST, *PROOF, processor=processor) == "0 7"
        assert lio.luns(f"{HOST}2", processor=processor) == "5"
    for wrong in ((), ("host", "a wrong secret"), ("other", "a secret word")):
        assert lio.luns(HOST, *wrong).startswith("refused"), wrong
    changed = replace(LISTED, acls=[Acl(HOST, {0: "data"}, Chap("host", b"a new secret word"))])
    assert len(lio.apply(replace(ALL, target=changed))) == 6
    assert lio.luns(HOST, *PROOF).startswith("refused")
    assert lio.luns(HOST, "host", "a new secret word") == "0"
    lio.apply(ALL)


def test_the_target_proves_itself(lio: Lio, host: OpenIscsi) -> None:
    lio.apply(ALL)
    host.discover()
    auth = "node.session.auth."
    names = {f"{auth}authmethod": "CHAP", f"{auth}username": "host", f"{auth}username_in": "array"}
    host.set({**names, f"{auth}password": "a secret word", f"{auth}password_in": "another secret"})
    host.login()
    assert host.states() == ["LOGGED_IN"]
    host.logout()
    host.set({f"{auth}password_in": "a wrong secret"})
    assert "login failure" in host.node("--login", check=False)
    host.forget()


def test_sessions_last_while_others_come_and_go(guest: Guest, lio: Lio, host: OpenIscsi) -> None:
    lio.apply(OPEN)
    assert {each.partition(",")[0] for each in host.discover()} == {
        f"{each}:3260" for each in PORTALS.values()
    }
    for processor in "AB":
        host.login(processor)
    sessions = guest.run("ls", "/sys/class/iscsi_session").out
    assert host.states() == ["LOGGED_IN"] * 2
    before = lio.tree()
    third = Backstore("third", "33333333-3333-4333-8333-333333333333", 8 * MIB, 512)
    target = OPEN.target
    assert target is not None
    more = replace(
        target,
        luns={0: "data", 3: "third"},
        portals={1: [*PORTAL_OF[1], ("127.0.0.1", 3260)], 2: PORTAL_OF[2]},
        acls=[Acl(f"{HOST}9", {0: "third"})],
    )
    lio.apply(Desired([DATA, third], more))
    assert f"{HOST}9" in differs(before, lio.tree())
    lio.apply(OPEN)
    assert lio.tree() == before
    assert host.states() == ["LOGGED_IN"] * 2
    assert guest.run("ls", "/sys/class/iscsi_session").out == sessions
    host.forget()


def test_portals_of_one_processor_change_alone(guest: Guest, lio: Lio) -> None:
    lio.apply(ALL)
    before = lio.tree()
    moved = replace(LISTED, portals={1: [("127.0.0.1", 3260), ("::1", 3260)], 2: PORTAL_OF[2]})
    lio.apply(replace(ALL, target=moved))
    came = {f"{PORTALS['A']}:3260", "127.0.0.1:3260", "[::1]:3260"}
    assert {name for name in differs(before, lio.tree()) if ":3260" in name} == came
    absent = replace(LISTED, portals={1: [*PORTAL_OF[1], ("198.51.100.7", 3260)], 2: PORTAL_OF[2]})
    lio.apply(replace(ALL, target=absent))  # LIO listens at addresses that are still to come
    guest.run("ip", "address", "add", "198.51.100.7/32", "dev", "lo")
    lio.apply(ALL)


def test_a_port_that_is_in_use(guest: Guest, lio: Lio) -> None:
    listen = f"import socket,time; s=socket.create_server(('{PORTALS['A']}', 3270)); time.sleep(600)"
    other = guest.start("python3", "-c", listen)
    guest.shell("until ss -ltn | grep -q :3270; do sleep 0.1; done")
    taken = replace(LISTED, portals={1: [*PORTAL_OF[1], (PORTALS["A"], 3270)], 2: PORTAL_OF[2]})
    with pytest.raises(Refused, match="in use") as caught:
        lio.apply(replace(ALL, target=taken))
    other.kill()
    assert (caught.value.kind, caught.value.errno) == ("LioError", 98)
    lio.apply(replace(ALL, target=taken))
    lio.apply(ALL)


def test_what_somebody_else_has_is_not_touched(guest: Guest, lio: Lio) -> None:
    theirs = "iqn.2026-11.org.example:other"
    lio.apply(ALL)
    guest.shell(
        """
        cd "$1" && mkdir -p core/rd_mcp_7/disk && cd core/rd_mcp_7/disk && echo rd_pages=64 > control
        echo 1 > enable && mkdir -p "$1/iscsi/$2/tpgt_1/lun/lun_0" "$1/iscsi/$2/tpgt_1/lun/lun_4"
        ln -s "$PWD" "$1/iscsi/$2/tpgt_1/lun/lun_0/x"
        ln -s "$1"/core/user_*/logs "$1/iscsi/$2/tpgt_1/lun/lun_4/x"
        mkdir -p "$1/core/user_9/mine" && cd "$1/core/user_9/mine" && printf dev_config=rpsplit/mine > control
        printf dev_size=1048576 > control && echo 99 > wwn/vpd_unit_serial && echo 1 > enable
        """,
        CONFIGFS,
        theirs,
    )
    foreign = [line for line in lio.tree() if theirs in line or "rd_mcp_7" in line or "/mine" in line]
    assert lio.plan(ALL) == []
    with pytest.raises(Refused, match=f"{theirs}, portal group 1, LUN 4") as caught:
        lio.apply(Desired())
    assert caught.value.kind == "LioConflictError"
    mine = Backstore("mine", DATA.serial, MIB, 512)
    with pytest.raises(Refused, match="user backstore mine, which is not ours"):
        lio.apply(replace(ALL, backstores=[DATA, LOGS, mine]))
    guest.shell('rm "$1/lun_4/x" && rmdir "$1/lun_4"', f"{CONFIGFS}/iscsi/{theirs}/tpgt_1/lun")
    lio.owned = lio.owned.of(ALL)
    assert lio.apply(Desired()) == [f"remove target {IQN}", "remove backstore data", "remove backstore logs"]
    left = lio.tree()
    assert [line for line in left if "lun_4" not in line and line in foreign] == [
        line for line in foreign if "lun_4" not in line
    ]
    assert not [line for line in left if IQN in line or "/data" in line or "/logs" in line]
    guest.shell(
        """
        rm "$1/iscsi/$2/tpgt_1/lun/lun_0/x" && rmdir "$1/iscsi/$2/tpgt_1/lun/lun_0" "$1/iscsi/$2/tpgt_1"
        rmdir "$1/iscsi/$2" "$1/core/rd_mcp_7/disk" "$1/core/rd_mcp_7" "$1/core/user_9/mine" "$1/core/user_9"
        """,
        CONFIGFS,
        theirs,
    )


def test_a_disk_of_this_machine(guest: Guest, lio: Lio) -> None:
    lio.apply(Desired([DATA, LOGS]))
    # What the kernel asks the new disk has no answer: soon so.
    guest.shell('for each in "$1"/core/user_*/*/attrib; do echo 1 > $each/cmd_time_out; done', CONFIGFS)
    naa = port_naa(DATA.serial)
    local = Desired([DATA, LOGS], loopbacks=[Loopback(naa, "data")])
    assert lio.apply(local) == [f"create loopback port naa.{naa}, a disk of data"]
    lio.apply(replace(local, loopbacks=[Loopback(naa, "logs")]))
    assert lio.read(f"loopback/naa.{naa}/tpgt_1/address")
    lio.apply(Desired())
    assert not [line for line in lio.tree() if "naa." in line or "user_" in line]


def test_what_the_restore_service_restored_is_completed(guest: Guest, lio: Lio) -> None:
    """Last of those without anybody who listens to the kernel, first of those with."""
    desired = replace(ALL, loopbacks=[])
    lio.apply(desired)
    before = lio.tree()
    guest.shell("targetctl save /tmp/saved && targetctl clear")
    assert lio.tree() != before
    assert "No such process" in guest.run("targetctl", "restore", "/tmp/saved").err
    assert lio.tree() == before
    left = ["change backstore data: emulate_write_cache 0 -> 1"]
    assert lio.plan(desired) == left
    with pytest.raises(Refused, match="listens") as caught:
        lio.apply(desired)
    assert caught.value.errno == 3
    lio.start_runner()
    assert lio.apply(desired) == left
    assert lio.luns(HOST, *PROOF) == "0 7"


def test_nobody_waits_for_answers_of_tcmu_runner(lio: Lio) -> None:
    """It has the kernel wait for its answers, and for a kind that it does not know answers ENOENT."""
    third = Backstore("third", "33333333-3333-4333-8333-333333333333", 8 * MIB, 512)
    grown = Desired([replace(DATA, size_bytes=96 * MIB), LOGS, third], LISTED)
    assert lio.apply(grown) == ["change backstore data: 64 MiB -> 96 MiB", "create backstore third, 8 MiB"]
    assert lio.read("core/user_*/data/attrib/dev_size") == str(96 * MIB)
    lio.apply(ALL)


@pytest.mark.parametrize("seed", range(6))
def test_from_anything_to_anything(lio: Lio, seed: int) -> None:
    lio.apply(drawn(random.Random(seed)))


def drawn(rng: random.Random) -> Desired:
    """Volumes, LUNs, portals and initiators at random."""
    names = rng.sample("abcdef", rng.randint(1, 5))
    backstores = [
        Backstore(
            name,
            f"{ord(name):08x}-0000-4000-8000-{rng.randint(0, 1):012x}",
            rng.randint(1, 4) * MIB,
            rng.choice((512, 4096)),
            rng.random() < 0.5,
        )
        for name in names
    ]
    luns = dict(zip(rng.sample(range(8), len(names)), names, strict=True))
    acls = []
    for number in rng.sample(range(4), rng.randint(0, 3)):
        seen = rng.sample(names, rng.randint(0, len(names)))
        chap = rng.choice((None, SECRET, Chap("host", b"a new secret word")))
        mutual = rng.choice((None, OTHER)) if chap else None
        acls.append(
            Acl(
                f"{HOST}{number}", dict(zip(rng.sample(range(8), len(seen)), seen, strict=True)), chap, mutual
            )
        )
    portals = [(address, port) for address in PORTALS.values() for port in (3260, 3261)]
    rng.shuffle(portals)
    cut = rng.randint(0, 4)
    target = Target(IQN, {1: portals[:cut], 2: portals[cut:]}, luns, open=rng.random() < 0.5, acls=acls)
    return Desired(backstores, target)
