"""What the array tells of LIO: who is logged in there; and that it answers whatever LIO does."""

import time
from typing import Any, Final

import pytest

from tests.kernel.guest import Guest
from tests.kernel.site import HOST, KERNEL_IQN, KERNEL_PORTALS, Daemons, OpenIscsi, eventually

pytestmark = pytest.mark.kernel

BOUND_S: Final = 5.0
COMMAND_S: Final = 3.0
"For the command's own start, in the guest."


@pytest.fixture(scope="module")
def lio(daemons: Daemons, initiator: OpenIscsi) -> OpenIscsi:
    daemons.create_volume("data", "--front-end", "lio")
    return initiator.towards(KERNEL_IQN, KERNEL_PORTALS)


def kernel(daemons: Daemons) -> dict[str, Any]:
    return dict(daemons.status("array")["kernel"])


def test_who_is_logged_in(daemons: Daemons, lio: OpenIscsi) -> None:
    assert kernel(daemons)["sessions"] == []
    lio.discover()
    lio.login("B")
    (unlisted,) = kernel(daemons)["sessions"]
    assert unlisted == {
        "initiator": HOST,
        "target": KERNEL_IQN,
        "portal_group": 2,
        "address": None,
        "state": None,
    }
    lio.logout("B")
    daemons.cli("initiator", "add", HOST)
    lio.login("A")
    (listed,) = kernel(daemons)["sessions"]
    assert listed == {
        "initiator": HOST,
        "target": KERNEL_IQN,
        "portal_group": 1,
        "address": KERNEL_PORTALS["A"],  # of this machine, too
        "state": "LOGGED_IN",
    }
    (line,) = [each for each in daemons.cli("session", "list").splitlines() if HOST in each]
    assert line.split() == [HOST, KERNEL_PORTALS["A"], KERNEL_IQN, "1", "LOGGED_IN"]
    assert "1 in LIO" in daemons.cli("status", check=False)  # no appliance runs
    assert daemons.cli("volume", "move", "data", "--front-end", "embedded", check=False) == ""
    assert kernel(daemons)["volumes"] == ["data"]  # it is used, and stays
    lio.forget()
    assert kernel(daemons)["sessions"] == []


def test_it_answers_while_a_change_hangs(guest: Guest, daemons: Daemons, lio: OpenIscsi) -> None:
    """The file with the registrations of a backstore that is to be made anew does not come."""
    serial = guest.shell(
        "sed 's/.*: //' /sys/kernel/config/target/core/user_*/data/wwn/vpd_unit_serial"
    ).strip()
    kept = f"{guest.shell('cat /sys/kernel/config/target/dbroot').strip()}/pr/aptpl_{serial}"
    guest.run("mkfifo", kept)
    guest.run("targetctl", "clear")
    eventually("the hang", lambda: "has not come to its end" in str(kernel(daemons)["error"]))
    begun = time.monotonic()
    assert kernel(daemons)["differs"] == []
    assert time.monotonic() - begun < BOUND_S + COMMAND_S
    guest.run("dd", f"of={kept}", "status=none", stdin="No Registrations or Reservations\n")
    eventually(
        "an end of it", lambda: kernel(daemons)["error"] is None and kernel(daemons)["volumes"] == ["data"]
    )
