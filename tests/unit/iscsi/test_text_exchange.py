"""Text requests of the full feature phase: SendTargets, in parts and by whoever may ask."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iscsi_rp.iscsi import Access, InitiatorAccess, Node
from iscsi_rp.iscsi.pdu import HEADER, NO_TAG, Header, Numbers, ProtocolError
from iscsi_rp.iscsi.text import Pairs
from iscsi_rp.iscsi.text_exchange import TextExchange
from tests.kit.planting import plant

from .host import DISCOVERY, NAMES, OPERATIONAL_TO_FULL, Host, a_node
from .initiator import IQN, NAME

LOCAL = "127.0.0.1:3260"
MANY = 300


def lines(text: bytes) -> Pairs:
    """The pairs of an answer, which may have TargetName and TargetAddress often."""
    *found, rest = text.decode().split("\0")
    assert rest == ""
    return [(key, value) for key, _, value in (line.partition("=") for line in found)]


class Asking:
    """A session that sends text requests."""

    def __init__(self, node: Node, names: dict[str, str], *, longest: int = 8192) -> None:
        host = Host(node, portal_group=2)
        host.say({**names, "MaxRecvDataSegmentLength": str(longest)}, OPERATIONAL_TO_FULL)
        assert host.login.done
        self._exchange = TextExchange(host.login, LOCAL)

    def ask(self, text: bytes, flags: int = 0x80, ttt: int = NO_TAG) -> tuple[int, int, bytes]:
        """(flags, TTT, text) of the answer."""
        header = Header(0x04, flags, 0, len(text), 0, 1, ttt, 1, 0, bytes(16))
        answer = self._exchange.receive(header, text, lambda: Numbers(1, 1, 1))
        _, flags, _, length, _, _, ttt, *_ = HEADER.unpack_from(answer)
        return flags, ttt, answer[48 : 48 + length]

    def pairs(self, text: bytes) -> Pairs:
        flags, ttt, whole = self.ask(text)
        while flags & 0x40:
            assert (flags, ttt != NO_TAG) == (0x40, True)
            flags, ttt, part = self.ask(b"", ttt=ttt)
            whole += part
        assert (flags, ttt) == (0x80, NO_TAG)
        return lines(whole)


def many_targets() -> Node:
    node = a_node()
    for number in range(MANY):
        node.add_target(f"{IQN}:{number:03}", {})
    node.portals += [(LOCAL, 2), ("10.0.0.1:3260", 1)]
    return node


@pytest.mark.parametrize("longest", [512, 8192])
def test_more_targets_than_fit_into_a_pdu(longest: int) -> None:
    found = Asking(many_targets(), DISCOVERY, longest=longest).pairs(b"SendTargets=All\0")
    names = [value for key, value in found if key == "TargetName"]
    assert names == [IQN] + [f"{IQN}:{number:03}" for number in range(MANY)]
    addresses = [value for key, value in found if key == "TargetAddress"]
    assert addresses == [f"{LOCAL},2", "10.0.0.1:3260,1"] * (MANY + 1)


@pytest.mark.parametrize(
    ("names", "which", "found"),
    [
        (DISCOVERY, f"{IQN}:007", [f"{IQN}:007"]),
        (DISCOVERY, f"{IQN}:007".upper(), [f"{IQN}:007"]),
        (DISCOVERY, f"{IQN}:x", []),
        (NAMES, "", [IQN]),
        (NAMES, IQN, [IQN]),
        (NAMES, f"{IQN}:007", []),
    ],
)
def test_which_targets_are_sent(names: dict[str, str], which: str, found: list[str]) -> None:
    pairs = Asking(many_targets(), names).pairs(f"SendTargets={which}\0".encode())
    assert [value for key, value in pairs if key == "TargetName"] == found


@pytest.mark.parametrize(("names", "which"), [(DISCOVERY, ""), (NAMES, "All")])
def test_what_this_session_may_not_ask(names: dict[str, str], which: str) -> None:
    asked = Asking(a_node(), names).pairs(f"SendTargets={which}\0".encode())
    assert asked == [("SendTargets", "Reject")]


def test_a_session_whose_initiator_is_listed_no_more_discovers_nothing() -> None:
    node = a_node(Access(True, {NAME: InitiatorAccess()}))
    asking = Asking(node, DISCOVERY)
    assert len(asking.pairs(b"SendTargets=All\0")) == 2
    node.set_access(Access(True))
    assert asking.pairs(b"SendTargets=All\0") == []


def test_keys_of_the_login_are_not_negotiated_again() -> None:
    said = b"MaxBurstLength=512\0AuthMethod=None\0X-any=1\0MaxRecvDataSegmentLength=1\0InitiatorAlias=me\0"
    assert Asking(a_node(), NAMES).pairs(said) == [
        ("MaxBurstLength", "Reject"),
        ("AuthMethod", "Reject"),
        ("X-any", "NotUnderstood"),
        ("MaxRecvDataSegmentLength", "Reject"),
    ]


def test_only_the_initiator_ends_an_exchange() -> None:
    asking = Asking(a_node(), DISCOVERY)
    flags, ttt, text = asking.ask(b"X-a=1\0", 0)
    assert (flags, ttt != NO_TAG, lines(text)) == (0, True, [("X-a", "NotUnderstood")])
    flags, ttt, _ = asking.ask(b"SendTargets=All\0", 0x80, ttt)
    assert (flags, ttt) == (0x80, NO_TAG)
    with pytest.raises(ProtocolError):
        asking.ask(b"", 0x80, 1)


def interrupted() -> None:
    asking = Asking(many_targets(), DISCOVERY)
    _, ttt, _ = asking.ask(b"SendTargets=All\0")
    with pytest.raises(ProtocolError):
        asking.ask(b"X-a=1\0", 0x80, ttt)


def test_nothing_is_said_into_an_answer_in_parts() -> None:
    interrupted()
    with plant(TextExchange, "receive", "data or header.flags & CONTINUE", "False"):  # noqa: SIM117
        with pytest.raises(pytest.fail.Exception):
            interrupted()


@given(
    st.lists(
        st.tuples(st.binary(max_size=60), st.integers(0, 255), st.sampled_from([NO_TAG, 1, 7])), max_size=6
    )
)
def test_hostile_requests_are_answered_or_refused(requests: list[tuple[bytes, int, int]]) -> None:
    asking = Asking(a_node(), DISCOVERY)
    for request in requests:
        try:
            asking.ask(*request)
        except ProtocolError:
            break
