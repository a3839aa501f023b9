"""What LIO, or the tools that look at it, cannot have is refused before anything is touched."""

from dataclasses import replace

import pytest

from iscsi_rp.frontend.lio.desired import Acl, Backstore, Desired, Loopback, Owned, Target, port_naa
from iscsi_rp.frontend.lio.errors import LioUnsupportedError
from iscsi_rp.iscsi.access import Chap

SERIAL = "0123abcd-1111-2222-3333-444444444444"
TARGET = Target("iqn.2026-11.io.iscsi-rp:array", {1: [("192.0.2.1", 3260)]}, {0: "data"})


@pytest.mark.parametrize("name", ["a b", "a/b", "a:b", "a,b", "a\n", ""])
def test_names_of_backstores(name: str) -> None:
    with pytest.raises(LioUnsupportedError):
        Desired([Backstore(name, SERIAL, 1 << 20, 512)])


@pytest.mark.parametrize(
    "name",
    [
        "iqn.2026-11.io.iscsi-rp:my_array",
        "iqn.2026-11.com:array",
        "iqn.2026-11.IO.iscsi-rp:array",
        "iqn.2026-11.io.iscsi-rp:an array",
        "array",
    ],
)
def test_iscsi_names(name: str) -> None:
    with pytest.raises(LioUnsupportedError, match=name):
        Desired(target=replace(TARGET, iqn=name))
    with pytest.raises(LioUnsupportedError, match=name):
        Desired(target=replace(TARGET, acls=[Acl(name, {})]))


@pytest.mark.parametrize(
    "name", ["iqn.1993-08.org.debian:01:abc", "eui.02004567a425678d", "naa.52004567ba64678d"]
)
def test_iscsi_names_that_are_good(name: str) -> None:
    Desired(target=replace(TARGET, iqn=name, acls=[Acl(name, {})]))


@pytest.mark.parametrize(
    "portal", [("storage.example.org", 3260), ("192.0.2.1", 0), ("192.0.2.1", 65536), ("", 3260)]
)
def test_portals(portal: tuple[str, int]) -> None:
    with pytest.raises(LioUnsupportedError):
        Desired(target=replace(TARGET, portals={1: [portal]}))


@pytest.mark.parametrize(
    "chap", [("NULLuser", b"a secret word"), ("u", b"NULL secret word"), ("u", b"a secret word\n")]
)
@pytest.mark.parametrize("mutual", [False, True])
def test_credentials_that_lio_takes_for_none_or_for_others(chap: tuple[str, bytes], mutual: bool) -> None:
    good, bad = Chap("user", b"another secret"), Chap(*chap)
    acl = (
        Acl("iqn.2026-11.io.iscsi-rp:host", {}, good, bad)
        if mutual
        else Acl("iqn.2026-11.io.iscsi-rp:host", {}, bad)
    )
    with pytest.raises(LioUnsupportedError) as caught:
        Desired(target=replace(TARGET, acls=[acl]))
    assert "secret word" not in str(caught.value)


@pytest.mark.parametrize(
    "secret", [b"a secret word ", b" a secret word", b"\xff secret word", b"a secret\nword.."]
)
def test_secrets_that_the_tools_would_change(secret: bytes) -> None:
    with pytest.raises(LioUnsupportedError):
        Desired(target=replace(TARGET, acls=[Acl("iqn.2026-11.io.iscsi-rp:host", {}, Chap("u", secret))]))


def test_luns() -> None:
    with pytest.raises(LioUnsupportedError, match="65536"):
        Desired(target=replace(TARGET, luns={65536: "data"}))
    with pytest.raises(LioUnsupportedError, match="logs"):
        Desired(target=replace(TARGET, acls=[Acl("iqn.2026-11.io.iscsi-rp:host", {0: "logs"})]))


@pytest.mark.parametrize("naa", ["60014050123abcd11112222333344444", "6001405aaaaaaaaa", "5001405AAAAAAAAA"])
def test_loopback_ports(naa: str) -> None:
    with pytest.raises(LioUnsupportedError, match=naa):
        Desired(loopbacks=[Loopback(naa, "data")])
    Desired(loopbacks=[Loopback(port_naa(SERIAL), "data")])
    assert port_naa(SERIAL) == "50014050123abcd1"


def test_what_is_owned_adds_up() -> None:
    desired = Desired([Backstore("data", SERIAL, 1 << 20, 512)], TARGET, [Loopback(port_naa(SERIAL), "data")])
    owned = Owned.of(desired)
    assert owned == Owned(
        frozenset({("data", SERIAL)}), frozenset({TARGET.iqn}), frozenset({port_naa(SERIAL)})
    )
    assert owned | Owned() == owned
    other = Owned(frozenset({("data", "other")}))
    assert (owned | other).backstores == {("data", SERIAL), ("data", "other")}
