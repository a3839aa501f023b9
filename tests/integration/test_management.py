"""What the array is told to do, as real initiators of the real daemons see it: access, owners, growth."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from iscsi_rp.control.access_models import (
    AccessChange,
    AccessMode,
    Authentication,
    InitiatorChange,
    InitiatorCreate,
    ShownVolume,
)
from iscsi_rp.control.appliance_models import GroupCreate
from iscsi_rp.control.array_models import Processor, SplitterMode, VolumeChange, VolumeCreate
from iscsi_rp.errors import ConflictError, NotFoundError
from tests.kit.initiator import Initiator, InitiatorError
from tests.kit.sg3 import Sg3, build
from tests.kit.stack import IQN, Stack

MIB = 1 << 20
SIZE = 4 * MIB
HOST, OTHER = "iqn.2026-11.test:host", "iqn.2026-11.test:other"
SECRET, ARRAY_SECRET = "a-secret-of-the-host", "a-secret-of-the-array"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("iscsi-ls") is None, reason="libiscsi-bin is not installed"),
]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("site"))
    stack.start()
    try:
        yield stack
        stack.stop()
    finally:
        stack.kill()
        stack.array_api.close()
        stack.appliance_api.close()
    assert "Traceback" not in stack.array.log_tail(10_000)


@pytest.fixture
def stack(running: Stack) -> Iterator[Stack]:
    """With no volumes, nobody listed, open."""
    running.start()
    yield running
    running.array_api.change_access(AccessChange(mode=AccessMode.OPEN, discovery=Authentication()))
    for initiator in running.array_api.list_initiators():
        if initiator.listed:
            running.array_api.remove_initiator(initiator.name)
    for group in running.appliance_api.list_groups():
        running.appliance_api.delete_group(group.name, destroy=True)
        running.array.until("the detaching", lambda: not running.array_api.status().groups or None)
    for volume in running.array_api.list_volumes():
        running.array_api.delete_volume(volume.name, destroy=True, force=True)


@pytest.fixture(scope="module")
def sg(tmp_path_factory: pytest.TempPathFactory) -> Sg3:
    return Sg3(build(tmp_path_factory.mktemp("sg3")), HOST)


def chap(mutual: bool = False) -> Authentication:
    ours = {"user": "array", "secret": ARRAY_SECRET} if mutual else None
    return Authentication.model_validate({"chap": {"user": "host", "secret": SECRET}, "mutual": ours})


def seen(stack: Stack, initiator: str, proof: str = "", **environment: str) -> list[int] | None:
    """The LUNs that `iscsi-ls` shows; None when it may not log in."""
    command = ["iscsi-ls", "-s", "-i", initiator, f"iscsi://{proof}{stack.portal}"]
    run = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    if run.returncode:
        return None
    shown = run.stdout.partition(f"Portal:{stack.portal}")[2].partition("Target:")[0]
    return [int(lun) for lun in re.findall(r"^Lun:(\d+)", shown, re.MULTILINE)]


def read_on(initiator: Initiator) -> None:
    """More often than a session that is asked to log out can answer."""
    for _ in range(3):
        initiator.read(0, 0, 512)


def test_chap_and_mutual_chap(stack: Stack) -> None:
    array = stack.array_api
    stack.create_volume("data", SIZE)
    proof = f"host%{SECRET}@"
    array.change_access(AccessChange(discovery=chap()))
    array.add_initiator(InitiatorCreate(name=HOST, authentication=chap()))
    assert seen(stack, HOST) is None
    assert seen(stack, HOST, f"host%{SECRET}x@") is None
    assert seen(stack, HOST, proof) == [0]
    array.change_access(AccessChange(discovery=chap(mutual=True)))
    array.change_initiator(HOST, InitiatorChange(authentication=chap(mutual=True)))
    target = {"LIBISCSI_CHAP_TARGET_USERNAME": "array"}
    assert seen(stack, HOST, proof, **target, LIBISCSI_CHAP_TARGET_PASSWORD=ARRAY_SECRET) == [0]
    assert seen(stack, HOST, proof, **target, LIBISCSI_CHAP_TARGET_PASSWORD="not what it is") is None


def test_who_is_not_listed_is_let_in_or_not(stack: Stack) -> None:
    stack.create_volume("data", SIZE)
    stack.array_api.add_initiator(InitiatorCreate(name=HOST))
    with Initiator(stack.portal, IQN, name=OTHER) as other, Initiator(stack.portal, IQN, name=HOST) as host:
        stack.array_api.change_access(AccessChange(mode=AccessMode.LISTED))
        with pytest.raises(InitiatorError):
            read_on(other)
        assert host.read(0, 0, 512) == bytes(512)
    assert seen(stack, OTHER) is None
    assert seen(stack, HOST) == [0]
    stack.array_api.change_access(AccessChange(mode=AccessMode.OPEN))
    assert seen(stack, OTHER) == [0]


def test_an_initiator_sees_its_luns_and_no_others(stack: Stack) -> None:
    for name in ("first", "second", "third"):
        stack.create_volume(name, SIZE)
    luns = [ShownVolume(volume="third", lun=0), ShownVolume(volume="second", lun=7)]
    stack.array_api.add_initiator(InitiatorCreate(name=HOST, luns=luns))
    assert seen(stack, HOST) == [0, 7]
    assert seen(stack, OTHER) == [0, 1, 2]
    with Initiator(stack.portal, IQN, luns=(0, 7), name=HOST) as host:
        host.write(0, 0, b"x" * 512)
        stack.array_api.change_initiator(HOST, InitiatorChange(luns=[ShownVolume(volume="third", lun=1)]))
        with pytest.raises(InitiatorError):
            host.read(0, 0, 512)
    assert seen(stack, HOST) == [1]
    with Initiator(stack.portal, IQN, luns=(1,), name=HOST) as host:
        assert host.read(1, 0, 512) == b"x" * 512
    stack.array_api.delete_volume("third")
    assert seen(stack, HOST) == []
    stack.array_api.change_initiator(HOST, InitiatorChange(all_luns=True))
    assert seen(stack, HOST) == [0, 1]


def test_secrets_and_masks_survive_kill_9_and_are_shown_nowhere(stack: Stack) -> None:
    stack.create_volume("data", SIZE)
    luns = [ShownVolume(volume="data", lun=3)]
    stack.array_api.add_initiator(InitiatorCreate(name=HOST, authentication=chap(True), luns=luns))
    stack.array_api.change_access(AccessChange(mode=AccessMode.LISTED, discovery=chap()))
    stack.array.kill()
    stack.start()
    assert seen(stack, OTHER, f"host%{SECRET}@") is None
    assert seen(stack, HOST, f"host%{SECRET}@") == [3]
    api = stack.array_api
    said = f"{api.list_initiators()}{api.access()}{api.status()}{stack.array.log_tail(10_000)}"
    assert HOST in said
    assert SECRET not in said
    assert ARRAY_SECRET not in said


def test_an_initiator_sees_a_volume_grow(stack: Stack) -> None:
    volume = stack.create_volume("data", SIZE)
    with Initiator(stack.portal, IQN) as host:
        host.write(0, SIZE - 512, b"e" * 512)
        stack.array_api.change_volume("data", VolumeChange(size_bytes=2 * SIZE))
        with pytest.raises(InitiatorError, match=r"(?i)unit.attention.*capacity|0x2a09|2a09"):
            host.read(0, SIZE - 512, 512)
        assert host.capacity(0) == (2 * SIZE, 512)
        assert host.read(0, SIZE - 512, 1024) == b"e" * 512 + bytes(512)
        host.write(0, 2 * SIZE - 512, b"n" * 512, fua=True)
    with pytest.raises(ConflictError, match="can only grow"):
        stack.array_api.change_volume("data", VolumeChange(size_bytes=SIZE))
    stack.array.kill()
    stack.start()
    assert volume.path is not None
    assert volume.path.stat().st_size == 2 * SIZE
    with Initiator(stack.portal, IQN) as host:
        assert host.read(0, 2 * SIZE - 512, 512) == b"n" * 512


def test_a_volume_in_a_group_does_not_grow(stack: Stack) -> None:
    stack.create_volume("data", SIZE)
    stack.appliance_api.create_group(GroupCreate(name="db", volumes=["data"], journal_bytes=64 * MIB))
    stack.array.until("splitting", lambda: stack.mode("db") is SplitterMode.SPLITTING or None)
    with pytest.raises(ConflictError, match="is in group 'db'") as caught:
        stack.array_api.change_volume("data", VolumeChange(size_bytes=2 * SIZE))
    assert "iscsi-rp group delete db" in (caught.value.hint or "")
    assert stack.array_api.volume("data").size_bytes == SIZE


def access_states(sg: Sg3, stack: Stack, lun: int) -> list[list[str]]:
    """Of target port groups 1 and 2, as REPORT TARGET PORT GROUPS says on each portal."""
    urls = [f"iscsi://{portal}/{IQN}/{lun}" for portal in stack.portals]
    return [re.findall(r"access state : 0x(\d\d)", sg("sg_rtpg", "--decode", url)) for url in urls]


def test_the_paths_of_the_owner_are_the_better_ones(stack: Stack, sg: Sg3) -> None:
    stack.create_volume("a", SIZE)
    stack.array_api.create_volume(VolumeCreate(name="b", size_bytes=SIZE, owner=Processor.B))
    assert access_states(sg, stack, 0) == [["00", "01"]] * 2
    assert access_states(sg, stack, 1) == [["01", "00"]] * 2
    stack.array_api.change_volume("a", VolumeChange(owner=Processor.B))
    assert access_states(sg, stack, 0) == [["01", "00"]] * 2
    stack.array.kill()
    stack.start()
    assert access_states(sg, stack, 0) == [["01", "00"]] * 2
    assert [volume.owner for volume in stack.array_api.list_volumes()] == [Processor.B, Processor.B]


def test_reservations_survive_kill_9_when_they_are_to(stack: Stack, sg: Sg3) -> None:
    urls = [stack.url(stack.create_volume(name, SIZE)) for name in ("kept", "lost")]
    for url, options in zip(urls, (["--param-aptpl"], []), strict=True):
        sg("sg_persist", "--out", "--register-ignore", "--param-sark=0xabc", *options, url)
        sg("sg_persist", "--out", "--reserve", "--param-rk=0xabc", "--prout-type=1", url)
    stack.array.kill()
    stack.start()
    kept, lost = (sg("sg_persist", "--read-reservation", url) for url in urls)
    assert "0xabc" in kept
    assert "Write Exclusive" in kept
    assert "NO reservation" in lost
    with Initiator(stack.portal, IQN, luns=(0, 1), name=OTHER) as other:
        other.write(1, 0, bytes(512))
        with pytest.raises(InitiatorError):
            other.write(0, 0, bytes(512))
    stack.array_api.delete_volume("kept", destroy=True)
    again = stack.url(stack.create_volume("kept", SIZE))
    assert "NO reservation" in sg("sg_persist", "--read-reservation", again)


def readiness(sg: Sg3, url: str) -> str:
    """Sense key, ASC and ASCQ that REQUEST SENSE tells: "00 00 00" of a LUN that is ready."""
    _offset, *sense = sg("sg_requests", "--hex", "--hex", "--hex", url).split()
    return " ".join((sense[2], sense[12], sense[13]))


def test_what_was_half_sanitized_or_formatted_is_not_ready_after_kill_9(stack: Stack, sg: Sg3) -> None:
    # Overwriting a GiB, and unmapping a TiB, take longer than what comes before the death.
    sanitized = stack.url(stack.create_volume("sanitized", 1024 * MIB))
    formatted = stack.url(stack.create_volume("formatted", 1024 * 1024 * MIB))
    sg("sg_sanitize", "--block", "--ause", "--early", "--quick", sanitized)
    sg("sg_format", "--format", "--early", "--quick", formatted)
    assert [readiness(sg, url) for url in (sanitized, formatted)] == ["02 04 1b", "02 04 04"]
    stack.array.kill()
    stack.start()
    assert [readiness(sg, url) for url in (sanitized, formatted)] == ["03 31 03", "03 31 01"]
    with pytest.raises(InitiatorError), Initiator(stack.portal, IQN) as host:
        host.read(0, 0, 512)
    sg("sg_sanitize", "--fail", "--early", "--quick", sanitized)
    sg("sg_format", "--format", "--wait", "--quick", formatted)
    stack.array.kill()
    stack.start()
    assert [readiness(sg, url) for url in (sanitized, formatted)] == ["00 00 00"] * 2
    with Initiator(stack.portal, IQN, luns=(0, 1)) as host:
        host.read(0, 0, 512)


def reads_of_host(stack: Stack) -> int:
    """Since the array started, by all sessions of HOST."""
    initiators = stack.array_api.latencies().initiators
    return sum(sum(each.reads) for each in initiators if each.initiator == HOST)


def test_a_session_is_disconnected(stack: Stack) -> None:
    stack.create_volume("data", SIZE)
    before = reads_of_host(stack)
    with Initiator(stack.portals[1], IQN, name=HOST) as host:
        (session,) = stack.array_api.list_sessions()
        assert (session.initiator, session.processor) == (HOST, Processor.B)
        assert session.portal == stack.portals[1]
        host.read(0, 0, 512)
        (latency,) = stack.array_api.latencies().sessions
        assert (latency.lun, latency.volume, sum(latency.reads)) == (0, "data", 1)
        stack.array_api.disconnect(session.id)
        with pytest.raises(InitiatorError):
            read_on(host)
    assert stack.array_api.list_sessions() == []
    with pytest.raises(NotFoundError):
        stack.array_api.disconnect(session.id)
    assert sum(stack.array_api.latencies().volumes[0].reads) == 1
    assert reads_of_host(stack) == before + 1
