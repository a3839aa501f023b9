"""The rules of the login phase: stages, keys, parts, limits (RFC 7143 6.2, 6.3, 11.12, 13)."""

from pathlib import Path

import pytest

from iscsi_rp.iscsi.chap import SECURITY_KEYS
from iscsi_rp.iscsi.keys import NEGOTIATED, Parameters
from iscsi_rp.iscsi.login import LOGIN_PDUS
from iscsi_rp.iscsi.text import encode_text

from .host import (
    DISCOVERY,
    NAMES,
    OPERATIONAL_STAYS,
    OPERATIONAL_TO_FULL,
    SECURITY_STAYS,
    SECURITY_TO_FULL,
    SECURITY_TO_OPERATIONAL,
    Host,
    a_node,
)
from .initiator import NAME


def a_host() -> Host:
    return Host(a_node())


@pytest.mark.parametrize(
    "flags",
    [
        [SECURITY_TO_FULL],
        [OPERATIONAL_TO_FULL],
        [SECURITY_TO_OPERATIONAL, OPERATIONAL_TO_FULL],
        [SECURITY_STAYS, SECURITY_TO_OPERATIONAL, OPERATIONAL_STAYS, OPERATIONAL_TO_FULL],
        [SECURITY_STAYS, SECURITY_STAYS, SECURITY_TO_FULL],
        [OPERATIONAL_STAYS, OPERATIONAL_TO_FULL],
    ],
)
@pytest.mark.parametrize("names", [NAMES, DISCOVERY])
def test_stages_in_every_legal_order(flags: list[int], names: dict[str, str]) -> None:
    host = a_host()
    for number, each in enumerate(flags):
        answer = host.say(b"" if number else names, each)
        assert (answer.status, answer.flags) == (0, each)
        assert (answer.tsih != 0) == host.login.done == (number == len(flags) - 1)
    assert (host.login.target is None) == (names is DISCOVERY)


@pytest.mark.parametrize(
    "flags",
    [
        [0x80],
        [0x82],
        [0x84],
        [0x85],
        [0x86],
        [0x88],
        [0x8F],
        [0x0C],
        [0xC1],
        [0xC7],
        [0x81, 0x00],
        [0x81, 0x83],
    ],
)
def test_stages_out_of_order(flags: list[int]) -> None:
    host = a_host()
    answers = [host.say(b"" if number else NAMES, each) for number, each in enumerate(flags)]
    assert [answer.status for answer in answers] == [0] * (len(flags) - 1) + [0x0200]
    assert not host.login.done


def test_names_stand_in_the_first_text_even_when_it_comes_in_parts() -> None:
    text = encode_text(NAMES.items())
    host = a_host()
    assert host.say(text[:9], 0x44).flags == OPERATIONAL_STAYS
    answer = host.say(text[9:], OPERATIONAL_TO_FULL)
    assert (host.login.initiator, answer.keys["TargetPortalGroupTag"]) == (NAME, "1")
    assert host.login.target is not None
    assert a_host().say(b"", OPERATIONAL_STAYS).status == 0x0207
    assert a_host().say({"TargetName": NAMES["TargetName"]}, OPERATIONAL_STAYS).status == 0x0207


@pytest.mark.parametrize(
    "name",
    ["", "a b", "a,b", "a\tb", "a\u00a0b", "n" * 224, "\u00e9" * 112, "\u0130" * 111, "a\x9b2J", "a\u202eb"],
)
def test_an_initiator_name_that_is_none(name: str) -> None:
    assert a_host().say({**NAMES, "InitiatorName": name}, OPERATIONAL_TO_FULL).status == 0x0200


@pytest.mark.parametrize(
    ("keys", "flags"),
    [
        ({"MaxBurstLength": "512"}, SECURITY_STAYS),
        ({"MaxRecvDataSegmentLength": "512"}, SECURITY_STAYS),
        ({"AuthMethod": "None"}, OPERATIONAL_STAYS),
        ({"CHAP_A": "5"}, OPERATIONAL_STAYS),
        ({"TargetAddress": "10.0.0.1:3260,1"}, OPERATIONAL_STAYS),
        ({"TargetPortalGroupTag": "1"}, OPERATIONAL_STAYS),
        ({"SendTargets": "All"}, OPERATIONAL_STAYS),
        ({"MaxBurstLength": "Reject"}, OPERATIONAL_STAYS),
        ({"InitialR2T": "Irrelevant"}, OPERATIONAL_STAYS),
        ({"X-a": "NotUnderstood"}, OPERATIONAL_STAYS),
        ({"InitiatorName": NAME + "x"}, OPERATIONAL_STAYS),
    ],
)
def test_keys_that_may_not_be_said_now(keys: dict[str, str], flags: int) -> None:
    host = a_host()
    assert host.say(NAMES, flags).status == 0
    assert host.say(keys, flags).status == 0x0200


def test_a_key_is_settled_once() -> None:
    host = a_host()
    assert host.say({**NAMES, "MaxBurstLength": "4096"}, OPERATIONAL_STAYS).status == 0
    assert host.say({**NAMES, "InitiatorAlias": "me"}, OPERATIONAL_STAYS).status == 0
    assert host.say({"MaxBurstLength": "4096"}, OPERATIONAL_STAYS).status == 0x0200


@pytest.mark.parametrize("change", ["isid", "tsih", "cid"])
def test_the_connection_stays_the_same(change: str) -> None:
    host = a_host()
    host.say(NAMES, OPERATIONAL_STAYS)
    setattr(host, change, getattr(host, change) + 1)
    assert host.say(b"", OPERATIONAL_TO_FULL).status == 0x0200


def test_an_answer_longer_than_a_pdu_comes_in_parts() -> None:
    host = a_host()
    host.say(NAMES, OPERATIONAL_STAYS)
    unknown = [f"X-{number}" for number in range(1200)]
    answer = host.say(encode_text((key, "1") for key in unknown), OPERATIONAL_TO_FULL)
    parts = 1
    while answer.flags & 0x40:
        assert answer.flags == 0x44
        answer = host.say(b"", OPERATIONAL_TO_FULL)
        parts += 1
    assert parts == 3
    assert answer.flags == OPERATIONAL_TO_FULL
    assert [answer.keys[key] for key in unknown] == ["NotUnderstood"] * len(unknown)
    assert host.login.done


def test_nothing_is_said_into_an_answer_in_parts() -> None:
    host = a_host()
    host.say(NAMES, OPERATIONAL_STAYS)
    host.say(encode_text((f"X-{number}", "1") for number in range(1200)), OPERATIONAL_STAYS)
    assert host.say({"X-more": "1"}, OPERATIONAL_STAYS).status == 0x0200


def test_a_login_ends_some_time() -> None:
    host = a_host()
    answers = [host.say(b"" if number else NAMES, OPERATIONAL_STAYS) for number in range(LOGIN_PDUS + 1)]
    assert [answer.status for answer in answers] == [0] * LOGIN_PDUS + [0x0200]
    host = a_host()
    assert host.say(b"X-a=" + b"a" * 8000, 0x44).status == 0
    assert host.say(b"a" * 8100, 0x44).status == 0
    assert host.say(b"a" * 8100, 0x44).status == 0x0200


def test_what_is_agreed() -> None:
    offers = {
        "HeaderDigest": ("CRC32C,None", "CRC32C"),
        "DataDigest": ("None,CRC32C", "None"),
        "MaxConnections": ("8", "1"),
        "InitialR2T": ("No", "No"),
        "ImmediateData": ("Yes", "Yes"),
        "MaxBurstLength": ("16776192", "1048576"),
        "FirstBurstLength": ("262144", "65536"),
        "DefaultTime2Wait": ("2", "2"),
        "DefaultTime2Retain": ("20", "0"),
        "MaxOutstandingR2T": ("16", "4"),
        "DataPDUInOrder": ("No", "Yes"),
        "DataSequenceInOrder": ("No", "Yes"),
        "ErrorRecoveryLevel": ("2", "0"),
        "iSCSIProtocolLevel": ("2", "1"),
        "TaskReporting": ("FastAbort,RFC3720", "RFC3720"),
        "IFMarker": ("Yes", "Reject"),
        "OFMarker": ("No", "No"),
        "IFMarkInt": ("2048~8192", "Reject"),
        "OFMarkInt": ("2048~8192", "Reject"),
    }
    assert offers.keys() == NEGOTIATED.keys()
    host = a_host()
    said = {key: offer for key, (offer, _) in offers.items()}
    answer = host.say({**NAMES, **said, "MaxRecvDataSegmentLength": "65536"}, OPERATIONAL_TO_FULL)
    assert {key: answer.keys[key] for key in offers} == {key: agreed for key, (_, agreed) in offers.items()}
    assert host.login.parameters == Parameters(
        max_send_data_bytes=65536,
        max_burst_bytes=1 << 20,
        first_burst_bytes=64 << 10,
        initial_r2t=False,
        immediate_data=True,
        max_outstanding_r2t=4,
        header_digest=True,
        data_digest=False,
    )


@pytest.mark.parametrize(
    "order", [("FirstBurstLength", "MaxBurstLength"), ("MaxBurstLength", "FirstBurstLength")]
)
def test_the_first_burst_is_no_longer_than_a_burst(order: tuple[str, str]) -> None:
    values = {"FirstBurstLength": "65536", "MaxBurstLength": "4096"}
    host = a_host()
    answer = host.say({**NAMES, **{key: values[key] for key in order}}, OPERATIONAL_TO_FULL)
    assert answer.keys["FirstBurstLength"] == "4096"
    assert host.login.parameters.first_burst_bytes == 4096
    host = a_host()
    host.say({**NAMES, "FirstBurstLength": "65536"}, OPERATIONAL_STAYS)
    host.say({"MaxBurstLength": "4096"}, OPERATIONAL_TO_FULL)
    assert host.login.parameters.first_burst_bytes == 4096


def test_the_docs_say_how_each_key_is_answered() -> None:
    page = (Path(__file__).parents[3] / "docs" / "target.md").read_text()
    table = "".join(line for line in page.splitlines() if line.startswith("| `"))
    assert [key for key in (*NAMES, *SECURITY_KEYS, *NEGOTIATED) if f"`{key}`" not in table] == []
