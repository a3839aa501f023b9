"""What a connection says of a login that it refused."""

import pytest

from iscsi_rp.iscsi import Access
from iscsi_rp.iscsi.login import REASONS
from iscsi_rp.iscsi.refusal import Refusal

from .host import SECURITY_TO_FULL, a_node
from .initiator import IQN, NAME, Link, login

STRANGER = {"InitiatorName": NAME, "TargetName": IQN}


@pytest.mark.parametrize(
    ("access", "keys", "told"),
    [
        (Access(True), STRANGER, (NAME, "authorization failure", "The initiator is not listed.")),
        (
            Access(),
            {**STRANGER, "TargetName": "iqn.2026-01.test:\x1b[2J\n\u202e\x9bx"},
            (NAME, "target not found", r"there is no target iqn.2026-01.test:\x1b[2J\n\u202e\x9bx"),
        ),
        (Access(), {"TargetName": IQN}, ("", "missing parameter", "InitiatorName is missing.")),
        (
            Access(),
            {**STRANGER, "InitiatorName": "\x1b]0;x\x07"},
            (r"\x1b]0;x\x07", "initiator error", "InitiatorName is no name."),
        ),
    ],
)
def test_why_and_who_in_printable_form(access: Access, keys: dict[str, str], told: Refusal) -> None:
    link = Link(node=a_node(access))
    assert link.connection.refused is None
    link.send(login(keys))
    assert link.connection.refused == told


def test_what_a_peer_sends_is_cut() -> None:
    link = Link(node=a_node())
    link.send(login({"InitiatorName": "n" * 8000, "TargetName": IQN}))
    assert link.connection.refused is not None
    assert link.connection.refused.initiator == "n" * 223 + "..."
    link = Link(node=a_node())
    link.send(login({**STRANGER, "TargetName": "\x1b" * 7000}))
    assert link.connection.refused is not None
    assert link.connection.refused.detail.startswith(r"there is no target \x1b\x1b")
    assert len(link.connection.refused.detail) < 1000


def test_text_that_is_none_is_told_too() -> None:
    link = Link(node=a_node())
    link.send(login({"InitiatorName": NAME, "nokey\0": ""}, flags=SECURITY_TO_FULL))
    assert link.connection.refused == ("", "initiator error", "The text has a line that is no key=value.")


def test_a_login_that_succeeds_is_not_refused() -> None:
    assert Link(node=a_node()).opened().connection.refused is None
    assert len(set(REASONS.values())) == len(REASONS)
