"""The array dies, or is shut down, while the initiator writes: it logs in again, and nothing is lost."""

import pytest

from tests.kernel.guest import Guest
from tests.kernel.load import finish_load, start_load
from tests.kernel.site import Daemons, OpenIscsi, eventually

pytestmark = pytest.mark.kernel

LOGGED_IN = ["LOGGED_IN"]


@pytest.fixture(scope="module")
def disk(daemons: Daemons, initiator: OpenIscsi) -> str:
    lun = daemons.create_volume("data")
    initiator.discover()
    initiator.login()
    return initiator.disk(lun)


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_the_array_ends_under_load_and_comes_back(
    guest: Guest, daemons: Daemons, initiator: OpenIscsi, disk: str, end: str
) -> None:
    assert initiator.states() == LOGGED_IN
    guest.run("dmesg", "--clear")
    load = start_load(guest, disk, seconds=15)
    eventually("writes", lambda: written(daemons) > 1 << 20)
    getattr(daemons, end)()
    eventually("the loss of the session", lambda: initiator.states() != LOGGED_IN)
    daemons.start()
    eventually("a session", lambda: initiator.states() == LOGGED_IN)
    finish_load(load)
    said = guest.shell("dmesg")
    assert "I/O error" not in said
    assert "replacement timeout" not in said
    # Shut down, the array asks it to log out: the kernel never sees the connection break.
    assert ("detected conn error" in said) == (end == "kill")


def test_a_disconnected_session_comes_back(
    guest: Guest, daemons: Daemons, initiator: OpenIscsi, disk: str
) -> None:
    load = start_load(guest, disk, seconds=10)
    eventually("writes", lambda: written(daemons) > 1 << 20)
    (before,) = daemons.query("session", "list")
    daemons.cli("session", "disconnect", str(before["id"]))
    eventually(
        "a new session",
        lambda: [s["id"] for s in daemons.query("session", "list")] not in ([], [before["id"]]),
    )
    finish_load(load)
    assert initiator.states() == LOGGED_IN


def written(daemons: Daemons) -> int:
    """Bytes, by the sessions that there are."""
    return sum(int(each["written_bytes"]) for each in daemons.query("session", "list"))
