"""Login and text negotiation."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iscsi_rp.iscsi.keys import NEGOTIATED, NOT_UNDERSTOOD, Parameters, parse_number
from iscsi_rp.iscsi.pdu import ProtocolError
from iscsi_rp.iscsi.text import decode_text, encode_text

from .initiator import IQN, NAME, Link, login, pdu


def keys_of(data: bytes) -> dict[str, str]:
    return dict(decode_text(data))


def test_login_in_both_stages() -> None:
    link = Link()
    first = {"InitiatorName": NAME, "TargetName": IQN, "AuthMethod": "CHAP,None"}
    (answer,) = link.send(login(first, flags=0x81))
    assert answer.flags == 0x81
    assert keys_of(answer.data) == {"TargetPortalGroupTag": "1", "AuthMethod": "None"}
    (answer,) = link.send(
        login(
            {"MaxBurstLength": "4096", "X-mine": "1", "InitialR2T": "No", "DataDigest": "CRC32C"}, flags=0x87
        )
    )
    assert answer.flags == 0x87
    keys = keys_of(answer.data)
    assert keys["MaxBurstLength"] == "4096"
    assert keys["X-mine"] == NOT_UNDERSTOOD
    assert keys["InitialR2T"] == "No"
    assert keys["DataDigest"] == "CRC32C"
    assert link.connection.session is not None
    assert answer.head[14:16] != b"\0\0"


@pytest.mark.parametrize(
    ("keys", "flags", "status"),
    [
        ({"TargetName": IQN}, 0x87, 0x0207),
        ({"InitiatorName": NAME}, 0x87, 0x0207),
        ({"InitiatorName": NAME, "TargetName": "iqn.2026-01.test:other"}, 0x87, 0x0203),
        ({"InitiatorName": NAME, "TargetName": IQN, "AuthMethod": "CHAP"}, 0x81, 0x0201),
        ({"InitiatorName": NAME, "TargetName": IQN, "SessionType": "Odd"}, 0x87, 0x0209),
        ({"InitiatorName": NAME, "TargetName": IQN}, 0x8F, 0x0200),
        ({"InitiatorName": NAME, "TargetName": IQN}, 0x85, 0x0200),
    ],
)
def test_refused_logins(keys: dict[str, str], flags: int, status: int) -> None:
    link = Link()
    (answer,) = link.send(login(keys, flags=flags))
    assert int.from_bytes(answer.head[36:38], "big") == status
    assert link.connection.over


def test_text_over_several_requests_is_put_together() -> None:
    link = Link()
    text = encode_text({"InitiatorName": NAME, "TargetName": IQN}.items())
    (answer,) = link.send(pdu(0x43, 0x44, text[:20]))
    assert (answer.flags, answer.data) == (0x04, b"")
    (answer,) = link.send(pdu(0x43, 0x87, text[20:]))
    assert answer.head[36:38] == b"\0\0"
    assert link.connection.session is not None


def test_a_login_that_never_ends_is_refused() -> None:
    link = Link()
    for _ in range(3):
        answers = link.send(pdu(0x43, 0x44, b"InitiatorName=" + b"a" * 7000))
    assert answers[0].head[36] == 2
    assert link.connection.over


def test_discovery_names_the_targets() -> None:
    link = Link()
    link.opened({"InitiatorName": NAME, "SessionType": "Discovery"})
    (answer,) = link.send(pdu(0x44, 0x80, b"SendTargets=All\0", word20=0xFFFFFFFF, sn=1))
    assert decode_text(answer.data) == [("TargetName", IQN), ("TargetAddress", "127.0.0.1:3260,1")]
    (answer,) = link.send(pdu(0x01, 0xC0, itt=7, word20=8, sn=2))
    assert answer.opcode == 0x3F


def test_session_reinstatement_ends_the_old_one() -> None:
    old = Link().opened()
    new = Link(node=old.node).opened()
    assert old.connection.over
    assert not new.connection.over
    other = Link(node=old.node).opened(isid=5)
    assert not new.connection.over
    assert len(list(old.node.sessions())) == 2
    assert other.connection.session is not None


@pytest.mark.parametrize("key", sorted(NEGOTIATED))
@pytest.mark.parametrize("value", ["", "Maybe", "-1", "99999999999", "0x", "1_0", "None,Yes"])
def test_nonsense_is_rejected_not_taken(key: str, value: str) -> None:
    parameters = Parameters()
    answer = parameters.take(key, value)
    assert answer in ("Reject", "None")
    assert parameters == Parameters()


@pytest.mark.parametrize(
    ("value", "number"), [("512", 512), ("0x200", 512), ("511", None), ("1 ", None), ("+9", None)]
)
def test_numbers(value: str, number: int | None) -> None:
    assert parse_number(value, 512, 600) == number


@given(st.binary(max_size=300))
def test_text_is_decoded_or_refused(data: bytes) -> None:
    try:
        pairs = decode_text(data)
    except ProtocolError:
        return
    assert decode_text(encode_text(pairs)) == pairs
