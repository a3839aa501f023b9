"""Who may log in, what they must prove, and which LUNs they see.

An `Access` is a value: a change is a new one, given to `Node.set_access`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from iscsi_rp.errors import ConfigError

SECRET_BYTES: Final = range(12, 256)
"Lengths of a CHAP secret: 96 bits at least (RFC 7143 9.2.1)."
_USER_BYTES: Final = 255


class ChapError(ConfigError):
    """These are no CHAP credentials."""


@dataclass(frozen=True, slots=True)
class Chap:
    """The credentials of one direction (RFC 1994). Raises `ChapError`: a name that is empty, too long or has
    a zero byte, a secret of the wrong length.
    """

    user: str
    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not 0 < len(self.user.encode()) <= _USER_BYTES or "\0" in self.user:
            raise ChapError(f"a CHAP user name has 1 to {_USER_BYTES} bytes, and no zero byte")
        if len(self.secret) not in SECRET_BYTES:
            raise ChapError(f"a CHAP secret has {SECRET_BYTES[0]} to {SECRET_BYTES[-1]} bytes")


@dataclass(frozen=True, slots=True)
class InitiatorAccess:
    """What one initiator must prove, and what it sees. Raises `ChapError`."""

    chap: Chap | None = None
    "What the initiator proves; None: no authentication."
    mutual: Chap | None = None
    "What we prove to it when it asks."
    luns: Mapping[int, int] | None = None
    "Its LUN -> the target's LUN; None: all of them, as they are."

    def __post_init__(self) -> None:
        if self.mutual is None:
            return
        if self.chap is None:
            raise ChapError("the target proves itself only to an initiator that does, too (RFC 7143 12.1.3)")
        if self.mutual.secret == self.chap.secret:
            # Whoever may ask us could have us answer our own challenge (RFC 7143 9.2.1).
            raise ChapError("the CHAP secrets of the two directions are equal")


@dataclass(frozen=True, slots=True)
class Access:
    """The access rules of a node."""

    listed_only: bool = False
    "An initiator that is not listed is refused; else it needs no authentication and sees all LUNs."
    initiators: Mapping[str, InitiatorAccess] = field(default_factory=lambda: MappingProxyType({}))
    "By name, in lower case."
    discovery: InitiatorAccess = field(default_factory=InitiatorAccess)
    "What whoever opens a discovery session must prove."

    def of(self, initiator: str) -> InitiatorAccess | None:
        """The rules for an initiator, by its name in lower case; None: it may not log in."""
        listed = self.initiators.get(initiator)
        return InitiatorAccess() if listed is None and not self.listed_only else listed
