"""What LIO is to serve, as plain values. `plan` makes configfs equal to them.

A volume is a *backstore*: a user backstore of subtype `rpsplit`, whose commands come to a process over TCMU.
It is shown as a LUN of the iSCSI target, or as a disk of this machine (*loopback*, tcm_loop).
"""

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from iscsi_rp.frontend.lio.errors import LioUnsupportedError
from iscsi_rp.iscsi.access import Chap
from iscsi_rp.scsi.persistent import Registrations

SUBTYPE: Final = "rpsplit"
MAX_LUN: Final = 65_535
"rtslib's, which other tools see LIO through."

_OUI: Final = "5001405"
"NAA 5 and the vendor number that LIO's tools use for what they make up."
_PORT_NAA: Final = re.compile(r"5[0-9a-f]{15}")
# A name that rtslib does not take breaks targetcli and the restore service for all of LIO, not only for us.
_BACKSTORE_NAME: Final = re.compile(r"[^\s/:,]+")
_ISCSI_NAME: Final = re.compile(
    r"iqn\.[0-9]{4}-[01][0-9]\.[^\s_]*\.[^\s_]*|eui\.[0-9a-f]{16}|naa\.[125c-f][0-9a-f]{15}"
)

Portal: TypeAlias = tuple[str, int]
"Address (IPv4 or IPv6, never a name) and port."


@dataclass(frozen=True, slots=True)
class Backstore:
    """A volume, as a device of LIO."""

    name: str
    serial: str
    "A UUID: the unit serial number, from which LIO makes its NAA."
    size_bytes: int
    block_size: int
    write_back: bool = True
    "The volume has a cache that must be flushed."
    registrations: Registrations | None = None
    "What LIO is told when it is made; None: what LIO has kept of its serial (see `registrations`)."


@dataclass(frozen=True, slots=True)
class Acl:
    """What one initiator must prove, and which LUNs it sees."""

    initiator: str
    "In lower case: LIO compares names so."
    luns: Mapping[int, str]
    "Its LUN -> name of a backstore, which is a LUN of the target."
    chap: Chap | None = None
    mutual: Chap | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """The iSCSI target. Each storage processor is a target portal group; all LUNs are in all of them."""

    iqn: str
    portals: Mapping[int, Sequence[Portal]]
    "Tag of the portal group (1: SP A, 2: SP B) -> its portals."
    luns: Mapping[int, str]
    "LUN -> name of a backstore."
    open: bool = False
    "Whoever has no ACL may log in without CHAP, and sees all LUNs."
    acls: Sequence[Acl] = ()


@dataclass(frozen=True, slots=True)
class Loopback:
    """A disk of this machine."""

    naa: str
    "Of the (SAS) port that tcm_loop makes, not of the disk: 16 hexadecimal digits that begin with 5."
    backstore: str


@dataclass(frozen=True, slots=True)
class Desired:
    """All that is to be in LIO. Raises `LioUnsupportedError`: LIO, or the tools for it, cannot have this."""

    backstores: Sequence[Backstore] = ()
    target: Target | None = None
    loopbacks: Sequence[Loopback] = ()

    def __post_init__(self) -> None:
        for backstore in self.backstores:
            if not _BACKSTORE_NAME.fullmatch(backstore.name):
                raise _refused(f"a backstore called {backstore.name!r}", "no blank, slash, colon or comma")
        for loopback in self.loopbacks:
            if not _PORT_NAA.fullmatch(loopback.naa):
                raise _refused(f"a loopback port {loopback.naa!r}", "16 hexadecimal digits, the first a 5")
        if self.target is not None:
            _check_target(self.target)


@dataclass(frozen=True, slots=True)
class Owned:
    """What the array has made in LIO: of all that is not desired only this is ever removed.

    It is kept by the array: what it had made before and what it is about to make before a plan is applied,
    what it has made afterwards. So nothing is forgotten when it dies in between.
    """

    backstores: frozenset[tuple[str, str]] = frozenset()
    "Name and serial."
    targets: frozenset[str] = frozenset()
    loopbacks: frozenset[str] = frozenset()

    @classmethod
    def of(cls, desired: Desired) -> "Owned":
        return cls(
            frozenset((backstore.name, backstore.serial) for backstore in desired.backstores),
            frozenset(() if desired.target is None else (desired.target.iqn,)),
            frozenset(loopback.naa for loopback in desired.loopbacks),
        )

    def __or__(self, other: "Owned") -> "Owned":
        return Owned(
            self.backstores | other.backstores,
            self.targets | other.targets,
            self.loopbacks | other.loopbacks,
        )


def canonical(portal: Portal) -> Portal:
    """An address has many spellings in IPv6, and one that is compared."""
    host, port = portal
    return str(ipaddress.ip_address(host)), port


def port_naa(serial: str) -> str:
    """The address of the loopback port of the backstore with this serial: always the same."""
    return _OUI + serial.replace("-", "").lower()[:9]


def _check_target(target: Target) -> None:
    for name in (target.iqn, *(acl.initiator for acl in target.acls)):
        if not _ISCSI_NAME.fullmatch(name) or name != name.lower():
            raise _refused(
                f"the iSCSI name {name!r}",
                "`iqn.YEAR-MONTH.DOMAIN...` in lower case, with a dot in the domain, without blank and _",
            )
    for tag, portals in target.portals.items():
        for host, port in portals:
            _check_portal(tag, host, port)
    for lun in (*target.luns, *(lun for acl in target.acls for lun in acl.luns)):
        if not 0 <= lun <= MAX_LUN:
            raise _refused(f"LUN {lun}", f"0 to {MAX_LUN}")
    for acl in target.acls:
        if hidden := set(acl.luns.values()) - set(target.luns.values()):
            raise _refused(f"{hidden} for {acl.initiator} alone", "only what is a LUN of the target")
        for chap in (acl.chap, acl.mutual):
            if chap is not None:
                _check_chap(acl.initiator, chap)


def _check_portal(tag: int, host: str, port: int) -> None:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        raise _refused(f"{host!r} as address of portal group {tag}", "an IPv4 or IPv6 address") from None
    if not 0 < port < 1 << 16:
        raise _refused(f"port {port} of portal group {tag}", "1 to 65535")


def _check_chap(initiator: str, chap: Chap) -> None:
    """What is written as NULL is none to LIO, and a new line ends what it reads."""
    for what, value in (("user", chap.user.encode()), ("secret", chap.secret)):
        text = value.decode(errors="replace")
        if text.startswith("NULL") or text != text.strip() or "\n" in text or "\ufffd" in text:
            raise _refused(
                f"this CHAP {what} of {initiator}",
                "a line of UTF-8 that does not begin with NULL, and with no blank at its ends",
            )


def _refused(what: str, takes: str) -> LioUnsupportedError:
    return LioUnsupportedError(f"LIO cannot have {what}", hint=f"It takes: {takes}.")
