"""INQUIRY: standard data and vital product data pages (SPC-4 6.6 and 7.8, SBC-4 6.6)."""

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from iscsi_rp.scsi.cdb import uint
from iscsi_rp.scsi.copy_format import third_party_copy_page
from iscsi_rp.scsi.sense import invalid_field
from iscsi_rp.scsi.task import Nexus, Task

if TYPE_CHECKING:
    from iscsi_rp.scsi.logical_unit import LogicalUnit

_SPC_4: Final = 0x06
_ABSENT: Final = 0x7F
"No logical unit here, and none could be: qualifier 011b, device type 1Fh."
_VERSIONS: Final = (0x00A0, 0x0960, 0x0460, 0x04C0)
"Version descriptors: SAM-5, iSCSI, SPC-4, SBC-3 (SPC-4 6.6.2)."

_BLOCK_LIMITS: Final = struct.Struct(">BBHIIIIIIIQIIIII")


def inquiry(task: Task) -> None:
    vital, page, allocation = task.cdb[1], task.cdb[2], uint(task.cdb, 3, 2)
    if vital & ~0x01:
        raise invalid_field(1)
    if not vital:
        if page:
            raise invalid_field(2)
        data = _standard(task.unit)
    elif page in _PAGES:
        body = _PAGES[page](task.unit, task.nexus)
        data = bytes((0, page)) + len(body).to_bytes(2, "big") + body
    else:
        raise invalid_field(2)
    task.good(data[:allocation])


def absent_inquiry() -> bytes:
    """Standard data for a LUN that does not exist."""
    return bytes((_ABSENT, 0, _SPC_4, 0x02, 31)) + bytes(31)


def _standard(unit: "LogicalUnit") -> bytes:
    who = unit.identity
    # HISUP and response format 2; TPGS, implicit and explicit; 3PC; MULTIP; CMDQUE.
    multiple_ports = 0x10 if len(unit.port_groups.relative_ids) > 1 else 0
    head = bytes((0, 0, _SPC_4, 0x12, 0, 0x38, multiple_ports, 0x02))
    names = _text(who.vendor, 8) + _text(who.product, 16) + _text(who.revision, 4)
    data = bytearray((head + names).ljust(96, b"\0"))
    struct.pack_into(f">{len(_VERSIONS)}H", data, 58, *_VERSIONS)
    data[4] = len(data) - 5
    return bytes(data)


def _text(text: str, width: int) -> bytes:
    return text.encode("ascii").ljust(width)


def _supported_pages(unit: "LogicalUnit", nexus: Nexus) -> bytes:
    return bytes(sorted(_PAGES))


def _serial(unit: "LogicalUnit", nexus: Nexus) -> bytes:
    return unit.identity.serial.encode("ascii")


# Designation descriptors: protocol and code set, PIV with association and type (SPC-4 7.8.6).
_BINARY, _ASCII, _UTF_8 = 0x01, 0x02, 0x03
_OF_PORT, _OF_DEVICE = 0x90, 0xA0
_T10, _NAA, _RELATIVE_PORT, _PORT_GROUP, _SCSI_NAME = 0x01, 0x03, 0x04, 0x05, 0x08
_ISCSI: Final = 0x50


def _identification(unit: "LogicalUnit", nexus: Nexus) -> bytes:
    """The names of the unit, the same on every path, and then those of the path."""
    who, port = unit.identity, nexus.port
    vendor = (_text(who.vendor, 8) + who.serial.encode("ascii")).ljust(12)
    device = port.name.partition(",")[0]
    same = _designator(_BINARY, _NAA, who.naa) + _designator(_ASCII, _T10, vendor)
    group = _designator(_ISCSI | _BINARY, _OF_PORT | _PORT_GROUP, struct.pack(">xxH", port.group))
    if not port.name:
        return same + group
    return (
        same
        + _designator(_ISCSI | _BINARY, _OF_PORT | _RELATIVE_PORT, struct.pack(">xxH", port.relative_id))
        + group
        + _designator(_ISCSI | _UTF_8, _OF_PORT | _SCSI_NAME, _scsi_name(port.name))
        + _designator(_ISCSI | _UTF_8, _OF_DEVICE | _SCSI_NAME, _scsi_name(device))
    )


def _designator(code_set: int, kind: int, value: bytes) -> bytes:
    return bytes((code_set, kind, 0, len(value))) + value


def _scsi_name(name: str) -> bytes:
    """With a NUL, padded to a multiple of four (SPC-4 7.8.6.11)."""
    text = name.encode("utf-8") + b"\0"
    return text.ljust(-(-len(text) // 4) * 4, b"\0")


def _extended(unit: "LogicalUnit", nexus: Nexus) -> bytes:
    # SIMPSUP; V_SUP: the write cache is volatile; R_SUP: referrals.
    return bytes((0, 0x01, 0x01, 0, 0x10)).ljust(60, b"\0")


def _mode_page_policy(unit: "LogicalUnit", nexus: Nexus) -> bytes:
    """All pages and subpages are shared by all nexuses (SPC-4 7.8.8)."""
    return bytes((0x3F, 0xFF, 0, 0))


def _ports(unit: "LogicalUnit", nexus: Nexus) -> bytes:
    """SCSI Ports: every target port of the unit (SPC-4 7.8.14)."""
    target = nexus.port.name.partition(",")[0]
    described = b""
    for port in unit.port_groups.relative_ids:
        name = _scsi_name(f"{target},t,0x{port:04x}")
        designator = _designator(_ISCSI | _UTF_8, _OF_PORT | _SCSI_NAME, name) if target else b""
        described += struct.pack(">xxHxxHxxH", port, 0, len(designator)) + designator
    return described


def _third_party_copy(unit: "LogicalUnit", nexus: Nexus) -> bytes:
    return third_party_copy_page()


def _block_limits(unit: "LogicalUnit", nexus: Nexus) -> bytes:
    limits = unit.limits
    return _BLOCK_LIMITS.pack(
        0,  # WSNZ: WRITE SAME of zero blocks goes to the end
        limits.compare_blocks,
        unit.blocks_per_physical,
        limits.transfer_blocks,
        limits.optimal_blocks,
        limits.transfer_blocks,  # PREFETCH
        limits.unmap_blocks,
        limits.unmap_descriptors,
        limits.unmap_granularity,
        0x8000_0000,  # UGAVALID, alignment 0
        limits.write_same_blocks,
        limits.atomic_blocks,
        1,  # alignment and granularity of atomic writes
        1,
        0,  # and none with a boundary inside
        0,
    )


def _characteristics(unit: "LogicalUnit", nexus: Nexus) -> bytes:
    # Medium rotation rate 1: not rotating. WABEREQ 1: what a block erase left can be read. VBULS: unmapped
    # blocks can be verified.
    return bytes((0, 1, 0, 0x40, 0x01)).ljust(60, b"\0")


def _provisioning(unit: "LogicalUnit", nexus: Nexus) -> bytes:
    # LBPU, LBPWS, LBPWS10, LBPRZ; thin provisioned.
    return bytes((0, 0xE4, 0x02, 0))


def _referrals(unit: "LogicalUnit", nexus: Nexus) -> bytes:
    """The whole unit is one user data segment, so it has no fixed size (SBC-4 6.6.8)."""
    return bytes(12)


_PAGES: Final[dict[int, Callable[["LogicalUnit", Nexus], bytes]]] = {
    0x00: _supported_pages,
    0x80: _serial,
    0x83: _identification,
    0x86: _extended,
    0x87: _mode_page_policy,
    0x88: _ports,
    0x8F: _third_party_copy,
    0xB0: _block_limits,
    0xB1: _characteristics,
    0xB2: _provisioning,
    0xB3: _referrals,
}
