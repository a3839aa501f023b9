"""A login that was refused, told in a form that may be shown: what a peer sent is escaped and cut."""

from typing import Final, NamedTuple

NAME_CHARACTERS: Final = 223
"An iSCSI name has no more bytes (RFC 7143 4.2.7.1)."
_DETAIL_CHARACTERS: Final = 200


class Refusal(NamedTuple):
    """Why a login was refused."""

    initiator: str
    "As it called itself; empty before it did."
    reason: str
    "One of few: the login status as a text."
    detail: str
    "For a person."


def refusal(initiator: str, reason: str, detail: str) -> Refusal:
    return Refusal(_shown(initiator, NAME_CHARACTERS), reason, _shown(detail, _DETAIL_CHARACTERS))


def _shown(text: str, characters: int) -> str:
    """In one line of a terminal or a log it does nothing but stand there."""
    cut = text if len(text) <= characters else text[:characters] + "..."
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in cut)
