"""Text and logins that nobody means well with."""

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from iscsi_rp.iscsi import Access, Chap, InitiatorAccess
from iscsi_rp.iscsi.chap import ALGORITHMS, SECURITY_KEYS, Authentication
from iscsi_rp.iscsi.keys import NEGOTIATED
from iscsi_rp.iscsi.login import Login
from iscsi_rp.iscsi.pdu import Header, ProtocolError
from iscsi_rp.iscsi.text import Pairs, decode_text, encode_text
from tests.kit.planting import plant

from .host import NAMES, SECURITY_STAYS, Host, a_node, response
from .initiator import IQN, ISID, NAME

SECRET, OTHER_SECRET = b"a secret of ours", b"what we answer with"
ACCESS = Access(
    initiators={NAME: InitiatorAccess(Chap("host", SECRET), Chap("array", OTHER_SECRET))},
    discovery=InitiatorAccess(Chap("finder", OTHER_SECRET)),
)

keys = st.from_regex(r"[A-Za-z][A-Za-z0-9.+@_-]{0,62}", fullmatch=True)
values = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=40)
pairs_of_text = st.lists(st.tuples(keys, values), max_size=8, unique_by=lambda pair: pair[0])


def decoded(data: bytes) -> Pairs | None:
    """None: refused."""
    try:
        return decode_text(data)
    except ProtocolError:
        return None


@given(pairs_of_text)
def test_text_comes_back(pairs: Pairs) -> None:
    assert decode_text(encode_text(pairs)) == pairs


@given(pairs_of_text)
def test_text_cut_within_a_pair_is_refused(pairs: Pairs) -> None:
    """No value is taken for a shorter one, and no pair is lost."""
    whole = encode_text(pairs)
    between = {len(encode_text(pairs[:count])): pairs[:count] for count in range(len(pairs) + 1)}
    for cut in range(len(whole)):
        assert decoded(whole[:cut]) == between.get(cut)


@settings(max_examples=30)
@given(pairs_of_text)
def test_every_flipped_bit_of_text_is_text_or_refused(pairs: Pairs) -> None:
    whole = encode_text(pairs)
    for bit in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        found = decoded(bytes(flipped))
        assert found is None or decode_text(encode_text(found)) == found


@given(st.binary(max_size=300))
def test_anything_is_text_or_refused(data: bytes) -> None:
    found = decoded(data)
    assert found is None or decode_text(encode_text(found)) == found


NUMBERS = st.one_of(st.sampled_from(["0", "1", "512", "0x1000", "65536", "16777215"]), values)
WORDS = st.sampled_from(
    ["None", "CHAP", "CHAP,None", "Yes", "No", "CRC32C,None", "Reject", "5", "7,5", "", "~"]
)
BINARY = st.one_of(
    st.binary(max_size=40).map(lambda data: "0x" + data.hex()), st.just("0bAAAA"), st.just("0x")
)
NAMED = st.sampled_from(
    [NAME, IQN, "Normal", "Discovery", "host", "array", "finder", "iqn.2026-01.test:other"]
)
SAID = st.sampled_from(
    [*NAMES, "SessionType", *SECURITY_KEYS, *NEGOTIATED, "MaxRecvDataSegmentLength", "X-any", "TargetAlias"]
)
requests = st.dictionaries(SAID, st.one_of(NUMBERS, WORDS, BINARY, NAMED), max_size=5)
proofs = st.fixed_dictionaries(
    {"CHAP_N": st.just("host"), "CHAP_R": st.sampled_from([16, 32]).map(lambda length: "0x" + "5a" * length)}
)
flags = st.one_of(st.sampled_from([0x83, 0x00, 0x81, 0x83, 0x04, 0x87, 0x44]), st.integers(0, 255))
PROLOGUES = st.sampled_from(
    [
        [],
        [({**NAMES}, 0x00)],
        [({**NAMES, "AuthMethod": "CHAP"}, 0x00)],
        [({**NAMES, "AuthMethod": "CHAP"}, 0x81), ({"CHAP_A": "7"}, 0x00)],
        [({**NAMES, "AuthMethod": "CHAP,None"}, 0x00), ({"CHAP_A": "5,7"}, 0x83)],
        [({"InitiatorName": NAME, "SessionType": "Discovery", "AuthMethod": "CHAP"}, 0x00)],
    ]
)


@st.composite
def conversations(draw: st.DrawFn) -> list[tuple[bytes, int, int]]:
    """(text, flags, what to exclusive-or into ISID, TSIH) of each request: often a login that goes well for a
    while, then anything.
    """
    said = [(encode_text(text.items()), flag, 0) for text, flag in draw(PROLOGUES)]
    for text, flag, bend in draw(
        st.lists(
            st.tuples(st.just({}) | proofs | requests, flags, st.sampled_from([0, 0, 0, 1 << 20])), max_size=6
        )
    ):
        data = encode_text(text.items())
        cut = draw(st.integers(0, len(data))) if draw(st.integers(0, 5)) == 0 else len(data)
        said.append((data[:cut], flag, bend))
    return said


def attack(conversation: list[tuple[bytes, int, int]]) -> Login:
    """All that an initiator says who knows every name and no secret; a refusal ends it."""
    login = Login(a_node(ACCESS))
    for data, flag, bend in conversation:
        header = Header(0x43, flag, 0, len(data), (ISID << 16) ^ bend, 1, 0, 7, 0, bytes(16))
        try:
            answer = login.receive(header, data)
        except ProtocolError:
            break
        assert len(answer) <= 48 + 8192
        if login.done:
            break
    return login


def logs_in_without_the_secret(conversation: list[tuple[bytes, int, int]]) -> None:
    login = attack(conversation)
    protected = login.initiator == NAME or "Discovery" in str(login._said.get("SessionType"))
    assert not (login.done and protected), login


def test_nobody_without_the_secret_logs_in() -> None:
    settings(max_examples=300, deadline=None)(given(conversations())(logs_in_without_the_secret))()


BYPASSES = [
    (Authentication, "_check", "not hmac.compare_digest(given, right) or not is_user", "not is_user"),
    (Authentication, "__init__", "access.chap is None", "True"),
    (
        Authentication,
        "_choose_method",
        'return [("AuthMethod", method)]',
        'self.passed = True\n    return [("AuthMethod", method)]',
    ),
    (Login, "receive", "not self._authentication.passed", "False"),
]


@pytest.mark.parametrize(
    "bypass", BYPASSES, ids=["any response", "nothing to prove", "the offer", "no check"]
)
def test_a_check_left_out_is_seen(bypass: tuple[type, str, str, str]) -> None:
    drawn = settings(
        max_examples=3000,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        report_multiple_bugs=False,
    )
    with plant(*bypass), pytest.raises(AssertionError):
        drawn(given(conversations())(logs_in_without_the_secret))()


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_every_flipped_bit_of_a_proof_is_refused(algorithm: str, data: st.DataObject) -> None:
    host = Host(a_node(ACCESS))
    right = response(host.challenged(algorithm), SECRET, algorithm)
    bits = int(right, 16) ^ 1 << data.draw(st.integers(0, 4 * (len(right) - 2) - 1))
    wrong = f"0x{bits:0{len(right) - 2}x}"
    assert host.say({"CHAP_N": "host", "CHAP_R": wrong}, SECURITY_STAYS).status == 0x0201
