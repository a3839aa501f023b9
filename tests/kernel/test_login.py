"""open-iscsi logs in: CHAP by each of its hashes, one way and both, and digests of headers and data."""

from collections.abc import Iterator
from typing import Final

import pytest

from tests.kernel.guest import CommandError, Guest
from tests.kernel.load import finish_load, start_load
from tests.kernel.site import HOST, Daemons, OpenIscsi

pytestmark = pytest.mark.kernel

HASHES: Final = {"MD5": "MD5", "SHA256": "SHA-256", "SHA3-256": "SHA3-256"}
"As open-iscsi names them, and as we do."
ONE_WAY: Final = {
    "node.session.auth.authmethod": "CHAP",
    "node.session.auth.username": "host",
    "node.session.auth.password": "the host's secret",
}
MUTUAL: Final = {
    **ONE_WAY,
    "node.session.auth.username_in": "array",
    "node.session.auth.password_in": "the array's secret",
}


@pytest.fixture(scope="module")
def lun(guest: Guest, daemons: Daemons) -> int:
    for name in ("host", "array"):
        guest.run("dd", f"of=/srv/{name}", "status=none", stdin=f"the {name}'s secret\n")
    lun = daemons.create_volume("login")
    host = ("--chap-user", "host", "--chap-secret-file", "/srv/host")
    array = ("--mutual-user", "array", "--mutual-secret-file", "/srv/array")
    daemons.cli("initiator", "add", HOST, *host, *array)
    return lun


@pytest.fixture
def node(initiator: OpenIscsi, lun: int) -> Iterator[OpenIscsi]:
    """The initiator, with a fresh record of the target."""
    initiator.discover()
    yield initiator
    initiator.forget()


@pytest.mark.parametrize("settings", [ONE_WAY, MUTUAL], ids=["one way", "mutual"])
@pytest.mark.parametrize("algorithm", HASHES)
def test_chap(node: OpenIscsi, daemons: Daemons, lun: int, algorithm: str, settings: dict[str, str]) -> None:
    node.set({**settings, "node.session.auth.chap_algs": algorithm})
    node.login()
    (session,) = daemons.query("session", "list")
    assert session["auth"] == f"CHAP {HASHES[algorithm]}" + (", mutual" if settings is MUTUAL else "")
    assert node.disk(lun)


@pytest.mark.parametrize(
    (
        "settings",
        "code",
    ),  # open-iscsi's ISCSI_ERR_LOGIN_AUTH_FAILED, or ISCSI_ERR_FATAL_LOGIN: its own refusal
    [
        ({}, 24),
        ({**ONE_WAY, "node.session.auth.password": "the host's secrets"}, 24),
        ({**ONE_WAY, "node.session.auth.username": "array"}, 24),
        ({**MUTUAL, "node.session.auth.password_in": "the array's secrets"}, 19),
    ],
    ids=["no CHAP", "wrong secret", "wrong user", "wrong secret of the array"],
)
def test_wrong_credentials_do_not_get_in(node: OpenIscsi, settings: dict[str, str], code: int) -> None:
    node.set({**settings, "node.session.auth.chap_algs": "SHA3-256,SHA256,MD5"} if settings else {})
    with pytest.raises(CommandError, match=f"ended with {code}"):
        node.login()
    assert node.disks() == []


def test_digests(guest: Guest, node: OpenIscsi, daemons: Daemons, lun: int) -> None:
    digests = {"node.conn[0].iscsi.HeaderDigest": "CRC32C", "node.conn[0].iscsi.DataDigest": "CRC32C"}
    node.set({**ONE_WAY, **digests})
    guest.run("dmesg", "--clear")
    node.login()
    (session,) = daemons.query("session", "list")
    assert session["digests"] == "header,data"
    negotiated = node.admin("-m", "session", "-P", "2")
    assert "HeaderDigest: CRC32C" in negotiated
    assert "DataDigest: CRC32C" in negotiated
    disk = node.disk(lun)
    finish_load(start_load(guest, disk, size="8M"))
    finish_load(start_load(guest, disk, size="48M", block="1M", depth=4))  # R2Ts, several PDUs a command
    assert "conn error" not in guest.shell("dmesg")
