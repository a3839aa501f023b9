"""INQUIRY: standard data and vital product data pages (SPC-4 6.6 and 7.8, SBC-4 6.6)."""

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from iscsi_rp.scsi.cdb import uint
from iscsi_rp.scsi.sense import invalid_field
from iscsi_rp.scsi.task import Task

if TYPE_CHECKING:
    from iscsi_rp.scsi.logical_unit import LogicalUnit

_SPC_4: Final = 0x06
_ABSENT: Final = 0x7F
"No logical unit here, and none could be: qualifier 011b, device type 1Fh."
_RELATIVE_PORT: Final = 1

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
        body = _PAGES[page](task.unit)
        data = bytes((0, page)) + len(body).to_bytes(2, "big") + body
    else:
        raise invalid_field(2)
    task.good(data[:allocation])


def absent_inquiry() -> bytes:
    """Standard data for a LUN that does not exist."""
    return bytes((_ABSENT, 0, _SPC_4, 0x02, 31)) + bytes(31)


def _standard(unit: "LogicalUnit") -> bytes:
    who = unit.identity
    # HISUP and response format 2; CMDQUE.
    head = bytes((0, 0, _SPC_4, 0x12, 0, 0, 0, 0x02))
    names = _text(who.vendor, 8) + _text(who.product, 16) + _text(who.revision, 4)
    data = bytearray((head + names).ljust(96, b"\0"))
    struct.pack_into(f">{len(_VERSIONS)}H", data, 58, *_VERSIONS)
    data[4] = len(data) - 5
    return bytes(data)


def _text(text: str, width: int) -> bytes:
    return text.encode("ascii").ljust(width)


def _supported_pages(unit: "LogicalUnit") -> bytes:
    return bytes(sorted(_PAGES))


def _serial(unit: "LogicalUnit") -> bytes:
    return unit.identity.serial.encode("ascii")


def _identification(unit: "LogicalUnit") -> bytes:
    who = unit.identity
    vendor = (_text(who.vendor, 8) + who.serial.encode("ascii")).ljust(12)
    return (
        _designator(0x01, 0x03, who.naa)
        + _designator(0x02, 0x01, vendor)
        # Protocol iSCSI, PIV, association: target port (SPC-4 7.8.6.7).
        + _designator(0x51, 0x94, struct.pack(">xxH", _RELATIVE_PORT))
    )


def _designator(code_set: int, kind: int, value: bytes) -> bytes:
    return bytes((code_set, kind, 0, len(value))) + value


def _extended(unit: "LogicalUnit") -> bytes:
    # SIMPSUP; V_SUP: the write cache is volatile.
    return bytes((0, 0x01, 0x01)).ljust(60, b"\0")


def _block_limits(unit: "LogicalUnit") -> bytes:
    limits = unit.limits
    return _BLOCK_LIMITS.pack(
        0x01,  # WSNZ: WRITE SAME of zero blocks is refused
        limits.compare_blocks,
        unit.blocks_per_physical,
        limits.transfer_blocks,
        limits.optimal_blocks,
        limits.transfer_blocks,  # PREFETCH
        limits.unmap_blocks if unit.thin else 0,
        limits.unmap_descriptors if unit.thin else 0,
        unit.blocks_per_physical if unit.thin else 0,
        0x8000_0000 if unit.thin else 0,  # UGAVALID, alignment 0
        limits.write_same_blocks,
        limits.atomic_blocks,
        1,  # alignment and granularity of atomic writes
        1,
        0,  # and none with a boundary inside
        0,
    )


def _characteristics(unit: "LogicalUnit") -> bytes:
    # Medium rotation rate 1: not rotating.
    return bytes((0, 1)).ljust(60, b"\0")


def _provisioning(unit: "LogicalUnit") -> bytes:
    if not unit.thin:
        return bytes(4)
    # LBPU, LBPWS, LBPWS10, LBPRZ; thin provisioned.
    return bytes((0, 0xE4, 0x02, 0))


_PAGES: Final[dict[int, Callable[["LogicalUnit"], bytes]]] = {
    0x00: _supported_pages,
    0x80: _serial,
    0x83: _identification,
    0x86: _extended,
    0xB0: _block_limits,
    0xB1: _characteristics,
    0xB2: _provisioning,
}
