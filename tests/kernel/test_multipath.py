"""dm-multipath over both storage processors: priorities by ALUA, owners that change, a portal that is cut."""

from typing import Final

import pytest

from tests.kernel.guest import Guest
from tests.kernel.load import finish_load, start_load
from tests.kernel.multipath import Multipath
from tests.kernel.site import HOST, PORTALS, Daemons, OpenIscsi, eventually

pytestmark = pytest.mark.kernel


SETTINGS: Final = {
    "node.session.auth.authmethod": "CHAP",
    "node.session.auth.chap_algs": "SHA256",
    "node.session.auth.username": "host",
    "node.session.auth.password": "the host's secret",
    "node.conn[0].iscsi.DataDigest": "CRC32C",
}


@pytest.fixture(scope="module")
def multipath(guest: Guest, daemons: Daemons, initiator: OpenIscsi) -> Multipath:
    """With CHAP and data digests, as in a network that is not trusted in everything."""
    guest.run("dd", "of=/srv/host", "status=none", stdin="the host's secret\n")
    daemons.cli("initiator", "add", HOST, "--chap-user", "host", "--chap-secret-file", "/srv/host")
    found = Multipath(guest, initiator, daemons.create_volume("paths", "--owner", "A"), SETTINGS)
    for session in daemons.query("session", "list"):
        assert (session["auth"], session["digests"]) == ("CHAP SHA-256", "data")
    return found


def preferred(multipath: Multipath, owner: str) -> bool:
    """Whether the path to `owner` has the higher priority: one that could not be read is -1 for a while."""
    other = "B" if owner == "A" else "A"
    paths = multipath.paths()
    return bool(paths[owner]["pri"] > paths[other]["pri"] > 0)


def test_both_paths_lead_to_one_lun_and_the_owners_is_preferred(guest: Guest, multipath: Multipath) -> None:
    assert set(multipath.paths()) == {"A", "B"}
    eventually("both priorities", lambda: preferred(multipath, "A"))
    guest.run("dd", f"if={multipath.device}", "of=/dev/null", "bs=1M", "iflag=direct")
    assert multipath.used() == "A"


def test_a_portal_is_cut_under_load_and_comes_back(
    guest: Guest, daemons: Daemons, multipath: Multipath
) -> None:
    load = start_load(guest, multipath.device, seconds=25)
    eventually("I/O through A", lambda: multipath.used() == "A")
    guest.run("ip", "address", "del", f"{PORTALS['A']}/32", "dev", "lo")
    try:
        eventually("I/O through B", lambda: multipath.used() == "B")
        # multipathd may leave the path for its priority, which it cannot read, before a check has failed
        eventually("a failed path", lambda: multipath.paths()["A"]["dm_st"] == "failed")
    finally:
        guest.run("ip", "address", "add", f"{PORTALS['A']}/32", "dev", "lo")
    eventually("I/O through A again", lambda: multipath.used() == "A")
    finish_load(load)
    written = {each["processor"]: each["written_bytes"] for each in daemons.query("session", "list")}
    assert written["B"] > 0


def test_a_new_owner_is_preferred_under_load(guest: Guest, daemons: Daemons, multipath: Multipath) -> None:
    load = start_load(guest, multipath.device, seconds=15)
    daemons.cli("volume", "set", "paths", "--owner", "B")
    eventually("I/O through B", lambda: multipath.used() == "B")
    eventually("both priorities", lambda: preferred(multipath, "B"))
    assert "Asymmetric access state changed" in guest.shell("dmesg")
    finish_load(load)
