"""LIO's own restore service beside array and tcmu-runner: whatever it restores or leaves out, the
array's target is whole again, in either order of start.
"""

import pytest

from tests.kernel.guest import Guest
from tests.kernel.load import finish_load, start_load
from tests.kernel.site import KERNEL_IQN, KERNEL_PORTALS, Daemons, OpenIscsi, eventually

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def lio(guest: Guest, daemons: Daemons, initiator: OpenIscsi) -> OpenIscsi:
    """The array made its target, which was saved; tcmu-runner has the kernel wait for its answers."""
    guest.shell("mkdir -p /run/dbus /etc/target && dbus-daemon --system --fork")
    guest.shell("modprobe target_core_user")
    guest.start("tcmu-runner")
    daemons.create_volume("data", "--front-end", "lio")
    eventually("registration", lambda: daemons.status("array")["kernel"]["bus"].startswith("registered"))
    guest.run("targetctl", "save", timeout_s=30)
    return initiator.towards(KERNEL_IQN, KERNEL_PORTALS)


@pytest.mark.parametrize("first", ["array", "restore"])
def test_the_target_is_whole_again(guest: Guest, daemons: Daemons, lio: OpenIscsi, first: str) -> None:
    daemons.stop()
    guest.run("targetctl", "clear", timeout_s=30)
    if first == "array":
        daemons.start()
    guest.run("targetctl", "restore", timeout_s=30, check=False)  # it leaves out what it cannot restore
    if first == "restore":
        daemons.start()
    check_use(guest, daemons, lio)


def test_what_others_remove_comes_back(guest: Guest, daemons: Daemons, lio: OpenIscsi) -> None:
    """All is left out: whoever answers first, tcmu-runner or the array, makes no difference."""
    assert whole(daemons)
    guest.run("targetctl", "clear", timeout_s=30)
    assert not whole(daemons)
    check_use(guest, daemons, lio)


def check_use(guest: Guest, daemons: Daemons, lio: OpenIscsi) -> None:
    eventually("LIO as it should be", lambda: whole(daemons))
    lio.discover()
    lio.login()
    finish_load(start_load(guest, lio.disk(0), size="8M"))
    lio.forget()


def whole(daemons: Daemons) -> bool:
    kernel = daemons.status("array").get("kernel") or {}
    return kernel.get("volumes") == ["data"] and not kernel["differs"] and kernel["error"] is None
