"""Who gets in, and by what proof."""

import base64
import hashlib

import pytest

from iscsi_rp.iscsi import Access, Chap, ChapError, InitiatorAccess
from iscsi_rp.iscsi.chap import Authentication, AuthenticationError, decode_binary
from tests.kit.planting import plant

from .host import (
    DISCOVERY,
    NAMES,
    OPERATIONAL_TO_FULL,
    SECURITY_STAYS,
    SECURITY_TO_FULL,
    SECURITY_TO_OPERATIONAL,
    Host,
    a_node,
    response,
)
from .initiator import NAME

SECRET, OTHER_SECRET = b"a secret of ours", b"what we answer with"
CHAP, MUTUAL = Chap("host", SECRET), Chap("array", OTHER_SECRET)
ONE_WAY = Access(True, {NAME: InitiatorAccess(CHAP)}, InitiatorAccess(Chap("finder", OTHER_SECRET)))
BOTH_WAYS = Access(True, {NAME: InitiatorAccess(CHAP, MUTUAL)})
THEIRS = {"CHAP_I": "7", "CHAP_C": "0x" + "0123" * 8}


@pytest.mark.parametrize(
    ("number", "title"), [("5", "MD5"), ("6", "SHA-1"), ("7", "SHA-256"), ("8", "SHA3-256")]
)
def test_who_proves_the_secret_is_let_in(number: str, title: str) -> None:
    host = Host(a_node(ONE_WAY))
    challenge = host.challenged(number)
    assert challenge["CHAP_A"] == number
    proof = {"CHAP_N": "host", "CHAP_R": response(challenge, SECRET, number)}
    answer = host.say(proof, SECURITY_TO_OPERATIONAL)
    assert (answer.status, answer.flags, answer.keys) == (0, 0x81, {})
    answer = host.say(b"", OPERATIONAL_TO_FULL)
    assert host.login.done
    assert answer.tsih == host.login.tsih != 0
    assert host.login.auth == f"CHAP {title}"


def test_md5_proves_where_it_is_only_kept_from_security(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a host in FIPS mode does; ESXi speaks nothing else."""
    new = hashlib.new

    def fips(name: str, data: bytes = b"", *, usedforsecurity: bool = True) -> "hashlib._Hash":
        if name == "md5" and usedforsecurity:
            raise ValueError("disabled for FIPS")
        return new(name, data)

    monkeypatch.setattr(hashlib, "new", fips)
    test_who_proves_the_secret_is_let_in("5", "MD5")


def test_the_initiators_order_of_algorithms_counts() -> None:
    assert Host(a_node(ONE_WAY)).challenged("99,8,5")["CHAP_A"] == "8"
    assert Host(a_node(ONE_WAY)).challenged("5,8")["CHAP_A"] == "5"


def test_challenges_are_not_alike() -> None:
    node = a_node(ONE_WAY)
    count = iter(range(256))
    node.random_bytes = lambda length: bytes([next(count)]) * length
    first, second = (Host(node).challenged() for _ in range(2))
    assert first["CHAP_C"] != second["CHAP_C"]
    assert len(first["CHAP_C"]) == 2 + 2 * 32


@pytest.mark.parametrize(
    "proof",
    [
        {"CHAP_N": "host"},
        {"CHAP_N": "guest"},
        {"CHAP_R": "0x" + "00" * 32},
        {"CHAP_R": "0x"},
        {"CHAP_R": "00"},
        {"CHAP_R": "0b===="},
        {"CHAP_I": "7"},
        {"CHAP_A": "7"},
        {"AuthMethod": "None"},
        THEIRS,
    ],
)
def test_any_other_proof_is_refused(proof: dict[str, str]) -> None:
    host = Host(a_node(ONE_WAY))
    challenge = host.challenged()
    right = {"CHAP_N": "host", "CHAP_R": response(challenge, SECRET, "7")}
    said = {"CHAP_N": "host"} if proof == {"CHAP_N": "host"} else right | proof
    answer = host.say(said, SECURITY_TO_FULL)
    assert answer.status in (0x0200, 0x0201)
    assert not host.login.done


def test_a_response_to_another_challenge_is_refused() -> None:
    node = a_node(ONE_WAY)
    count = iter(range(256))
    node.random_bytes = lambda length: bytes([next(count)]) * length
    old = Host(node).challenged()
    host = Host(node)
    host.challenged()
    answer = host.say({"CHAP_N": "host", "CHAP_R": response(old, SECRET, "7")}, SECURITY_TO_FULL)
    assert answer.status == 0x0201


@pytest.mark.parametrize("access", [ONE_WAY, BOTH_WAYS])
def test_no_way_around(access: Access) -> None:
    """The operational stage, a stage's end without a proof, another method: all are refused."""
    for keys, flags in (
        (NAMES, OPERATIONAL_TO_FULL),
        (NAMES, 0x04),
        (NAMES, SECURITY_TO_FULL),
        (NAMES, SECURITY_TO_OPERATIONAL),
        ({**NAMES, "AuthMethod": "None"}, SECURITY_STAYS),
        ({**NAMES, "AuthMethod": "KRB5,SRP"}, SECURITY_STAYS),
        ({**NAMES, "CHAP_A": "7"}, SECURITY_STAYS),
        ({**NAMES, "CHAP_N": "host", "CHAP_R": "0x00"}, SECURITY_STAYS),
    ):
        host = Host(a_node(access))
        assert host.say(keys, flags).status == 0x0201, keys
        assert not host.login.done
    host = Host(a_node(access))
    answer = host.say({**NAMES, "AuthMethod": "CHAP"}, SECURITY_TO_FULL)
    assert (answer.status, answer.flags, answer.keys["AuthMethod"]) == (0, 0, "CHAP")
    assert host.say({"CHAP_A": "1,2"}).status == 0x0201


def test_who_must_prove_nothing_need_not() -> None:
    host = Host(a_node())
    assert host.say({**NAMES, "AuthMethod": "CHAP,None"}, SECURITY_TO_FULL).keys["AuthMethod"] == "None"
    assert host.login.done
    assert host.login.auth == "none"
    assert Host(a_node()).say({**NAMES, "AuthMethod": "CHAP"}).status == 0x0201


def test_who_is_not_listed_is_refused() -> None:
    stranger = {**NAMES, "InitiatorName": "iqn.2026-01.test:stranger"}
    assert Host(a_node(ONE_WAY)).say(stranger, OPERATIONAL_TO_FULL).status == 0x0202
    assert Host(a_node(ONE_WAY)).say(DISCOVERY | stranger, OPERATIONAL_TO_FULL).status == 0x0202
    answer = Host(a_node(Access(False, ONE_WAY.initiators))).say(stranger, OPERATIONAL_TO_FULL)
    assert answer.status == 0


def test_names_have_no_case() -> None:
    host = Host(a_node(ONE_WAY))
    challenge = host.challenged(names={**NAMES, "InitiatorName": NAME.upper()})
    answer = host.say({"CHAP_N": "host", "CHAP_R": response(challenge, SECRET, "7")}, SECURITY_TO_FULL)
    assert (answer.status, host.login.initiator) == (0, NAME)


def test_discovery_has_credentials_of_its_own() -> None:
    for user, secret, status in (("finder", OTHER_SECRET, 0), ("host", SECRET, 0x0201)):
        host = Host(a_node(ONE_WAY))
        challenge = host.challenged(names=DISCOVERY)
        proof = {"CHAP_N": user, "CHAP_R": response(challenge, secret, "7")}
        assert host.say(proof, SECURITY_TO_FULL).status == status


@pytest.mark.parametrize("offer", ["CHAP", "CHAP,None"])
@pytest.mark.parametrize(("user", "status"), [("host", 0), ("array", 0x0201)])
def test_discovery_without_credentials_takes_those_of_the_initiator(
    offer: str, user: str, status: int
) -> None:
    host = Host(a_node(BOTH_WAYS))
    assert host.say({**DISCOVERY, "AuthMethod": offer}).keys["AuthMethod"] == "CHAP"
    challenge = host.say({"CHAP_A": "7"}).keys
    answer = host.say(
        {"CHAP_N": user, "CHAP_R": response(challenge, SECRET, "7"), **THEIRS}, SECURITY_TO_FULL
    )
    assert answer.status == status
    assert host.login.done == (status == 0)
    if host.login.done:
        assert answer.keys["CHAP_R"] == response(THEIRS, OTHER_SECRET, "7")
        assert host.login.auth == "CHAP SHA-256, mutual"


def test_discovery_without_credentials_needs_no_proof_until_one_is_agreed_on() -> None:
    assert Host(a_node(ONE_WAY)).say(DISCOVERY, OPERATIONAL_TO_FULL).status == 0x0201
    assert Host(a_node(BOTH_WAYS)).say(DISCOVERY, OPERATIONAL_TO_FULL).status == 0
    host = Host(a_node(BOTH_WAYS))
    assert host.say({**DISCOVERY, "AuthMethod": "None,CHAP"}).keys["AuthMethod"] == "None"
    assert host.say(b"", SECURITY_TO_FULL).status == 0
    assert (host.login.done, host.login.auth) == (True, "none")
    host = Host(a_node(BOTH_WAYS))
    host.challenged(names=DISCOVERY)
    assert host.say(b"", SECURITY_TO_FULL).status == 0x0201


def test_we_prove_ourselves_to_who_asks() -> None:
    host = Host(a_node(BOTH_WAYS))
    proof = {"CHAP_N": "host", "CHAP_R": response(host.challenged("8"), SECRET, "8")}
    answer = host.say(proof | THEIRS, SECURITY_TO_FULL)
    assert answer.keys == {"CHAP_N": "array", "CHAP_R": response(THEIRS, OTHER_SECRET, "8")}
    assert host.login.auth == "CHAP SHA3-256, mutual"


def test_we_prove_nothing_to_who_did_not() -> None:
    host = Host(a_node(BOTH_WAYS))
    host.challenged("7")
    answer = host.say({"CHAP_N": "host", "CHAP_R": "0x" + "00" * 32} | THEIRS, SECURITY_TO_FULL)
    assert (answer.status, answer.keys) == (0x0201, {})


def reflected() -> int:
    host = Host(a_node(BOTH_WAYS))
    challenge = host.challenged("7")
    proof = {"CHAP_N": "host", "CHAP_R": response(challenge, SECRET, "7")}
    return host.say(proof | {"CHAP_I": "9", "CHAP_C": challenge["CHAP_C"]}, SECURITY_TO_FULL).status


def test_our_own_challenge_is_not_answered() -> None:
    assert reflected() == 0x0201
    with plant(Authentication, "_prove", "challenge, self._challenge", 'challenge, b""'):
        assert reflected() == 0


@pytest.mark.parametrize("theirs", [{"CHAP_I": "256"}, {"CHAP_C": "0x"}, {"CHAP_C": "0x" + "00" * 1025}])
def test_a_challenge_that_is_none_is_refused(theirs: dict[str, str]) -> None:
    host = Host(a_node(BOTH_WAYS))
    proof = {"CHAP_N": "host", "CHAP_R": response(host.challenged("7"), SECRET, "7")}
    assert host.say(proof | THEIRS | theirs, SECURITY_TO_FULL).status == 0x0201


def test_credentials_that_are_none() -> None:
    for user, secret in (
        ("", SECRET),
        ("u" * 256, SECRET),
        ("a\0b", SECRET),
        ("u", b"s" * 11),
        ("u", b"s" * 256),
    ):
        with pytest.raises(ChapError):
            Chap(user, secret)
    with pytest.raises(ChapError):
        InitiatorAccess(CHAP, Chap("array", SECRET))
    with pytest.raises(ChapError):
        InitiatorAccess(None, MUTUAL)
    assert SECRET.decode() not in repr(ONE_WAY)


def test_binary_values() -> None:
    data = bytes(range(40))
    assert decode_binary("0x" + data.hex()) == decode_binary("0X" + data.hex().upper()) == data
    assert decode_binary("0b" + base64.b64encode(data).decode()) == data
    for wrong in (
        "",
        "0x",
        "0x1",
        "0xgg",
        "0x 00",
        "0b",
        "0bA",
        "0bAA=",
        "0bA A=",
        "0bAA==AA",
        "0d11",
        "0xé",
        "0bé",
    ):
        with pytest.raises(AuthenticationError):
            decode_binary(wrong)
