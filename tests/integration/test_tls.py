"""Array and appliance as they talk from machine to machine: real processes, real TLS, a real initiator."""

import threading
import time
from collections.abc import Iterator

import pytest

from iscsi_rp.control.appliance_models import BookmarkCreate, ImageRequest, ImageSelector
from iscsi_rp.control.array_models import SplitterMode
from iscsi_rp.link.pki import Authority, Identity, Role
from tests.integration.test_daemons import BLOCK, eventually, pattern
from tests.kit.initiator import Initiator
from tests.kit.stack import IQN, SPLIT_TIMEOUT_S, Stack

MIB = 1 << 20
ARRAY = Identity(Role.ARRAY, "array-1")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    running = Stack(tmp_path_factory.mktemp("site"), tls=True)
    running.start()
    try:
        yield running
        running.stop()
    finally:
        running.kill()
        running.array_api.close()
        running.appliance_api.close()


def protected(stack: Stack, name: str) -> int:
    """A volume in a group of the same name, split, with an image; its LUN."""
    lun = stack.create_volume(name, 4 * MIB).lun
    stack.protect(name, [name], 256 * MIB)
    eventually("an image", lambda: stack.appliance_api.group(name).latest)
    return lun


def alerts(stack: Stack) -> dict[str, str]:
    found = (*stack.array_api.status().alerts, *stack.appliance_api.status().alerts)
    return {alert.code: alert.text for alert in found}


def test_the_whole_way(stack: Stack) -> None:
    lun = protected(stack, "whole")
    assert stack.array_api.status().appliance == "rpa-1"
    with Initiator(stack.portal, IQN, luns=(lun,)) as host:
        for number in range(64):
            host.write(lun, number * BLOCK, pattern(number))
        stack.appliance_api.create_bookmark("whole", BookmarkCreate(name="good"))
        host.write(lun, 0, pattern(99))
        access = stack.appliance_api.enable_image("whole", ImageRequest(bookmark="good"))
        with Initiator(access.portal, access.iqn, luns=(0,)) as image:
            assert [image.read(0, at * BLOCK, BLOCK) for at in range(64)] == list(map(pattern, range(64)))
        stack.appliance_api.disable_image("whole")
        job = stack.appliance_api.recover_production("whole", ImageSelector(bookmark="good"))
        stack.appliance_api.wait(job, 0.05)
        stack.wait_splitting("whole")
        eventually("production", lambda: host.read(lun, 0, BLOCK) == pattern(0))
    assert stack.verify("whole").result["equal"] is True
    assert alerts(stack) == {}


def test_a_revoked_array_is_not_protected_until_it_has_a_new_certificate(stack: Stack) -> None:
    lun = protected(stack, "revoked")
    authority = Authority.open(stack.pki)
    with Initiator(stack.portal, IQN, luns=(lun,)) as host:
        host.write(lun, 0, pattern(1))
        authority.revoke(ARRAY)
        eventually("MARKING", lambda: stack.mode("revoked") is SplitterMode.MARKING)
        eventually("both alerts", lambda: {"appliance-link", "array-link"} <= alerts(stack).keys())
        assert "certificate revoked" in alerts(stack)["array-link"]
        eventually("why", lambda: "the peer closed the connection" in alerts(stack)["not-protected"])
        host.write(lun, BLOCK, pattern(2))
        assert stack.mode("revoked") is SplitterMode.MARKING
        authority.issue(ARRAY)
        stack.wait_splitting("revoked")
        eventually("the appliance", lambda: stack.array_api.status().appliance == "rpa-1")
        host.write(lun, 2 * BLOCK, pattern(3))
    assert stack.verify("revoked").result["equal"] is True


def test_an_appliance_that_dies_or_hangs_holds_up_no_write_for_long(stack: Stack) -> None:
    lun = protected(stack, "outage")
    with Initiator(stack.portal, IQN, luns=(lun,)) as host:
        for number, (fail, mend) in enumerate(
            [(stack.appliance.kill, stack.start), (stack.appliance.pause, stack.appliance.resume)]
        ):
            fail()
            began_s = time.monotonic()
            host.write(lun, number * BLOCK, pattern(number + 1))
            assert time.monotonic() - began_s < SPLIT_TIMEOUT_S + 1
            assert stack.mode("outage") is SplitterMode.MARKING
            mend()
            stack.wait_splitting("outage")
    assert stack.verify("outage").result["equal"] is True


def test_large_writes_of_several_threads_arrive_whole(stack: Stack) -> None:
    """Frames that are larger than what TLS takes at once, both daemons busy."""
    lun = protected(stack, "large")

    def write(number: int) -> None:
        with Initiator(stack.portal, IQN, luns=(lun,)) as host:
            for turn in range(8):
                host.write(lun, number * MIB, bytes([number * 8 + turn]) * MIB)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for each in writers:
        each.start()
    for each in writers:
        each.join()
    assert stack.mode("large") is SplitterMode.SPLITTING
    assert stack.verify("large").result["equal"] is True
