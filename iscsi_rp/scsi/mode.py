"""Mode pages: MODE SENSE and MODE SELECT 6 and 10 (SPC-4 6.11 to 6.14, 7.5; SBC-4 6.5)."""

from typing import Final

from iscsi_rp.scsi.cdb import uint
from iscsi_rp.scsi.sense import (
    INVALID_FIELD_IN_PARAMETER_LIST,
    PARAMETER_LIST_LENGTH_ERROR,
    SAVING_NOT_SUPPORTED,
    CheckCondition,
    invalid_field,
)
from iscsi_rp.scsi.task import Task

CACHING: Final = 0x08
CONTROL: Final = 0x0A
_ALL: Final = 0x3F
_CURRENT, _CHANGEABLE, _DEFAULT, _SAVED = range(4)

_WP: Final = 0x80
_DPOFUA: Final = 0x10
_D_SENSE: Final = 0x04
"In byte 2 of the control page."
_SWP: Final = (4, 0x08)
"Software write protect: byte and bit in the control page."

_PAGES: Final[dict[int, bytes]] = {
    0x01: bytes((0x01, 0x0A)).ljust(12, b"\0"),
    # WCE: the page cache of the host is a volatile write cache.
    CACHING: bytes((CACHING, 0x12, 0x04)).ljust(20, b"\0"),
    # Unrestricted reordering; TAS: a task that another nexus aborted ends with TASK ABORTED.
    CONTROL: bytes((CONTROL, 0x0A, 0, 0x10, 0, 0x40)).ljust(12, b"\0"),
    0x1C: bytes((0x1C, 0x0A)).ljust(12, b"\0"),
}
"Page code -> page with its defaults, with header."


class ModePages:
    """The current pages of one logical unit. Only SWP can be changed, and it lasts as long as the process."""

    def __init__(self) -> None:
        self._current = {code: bytearray(page) for code, page in _PAGES.items()}

    @property
    def software_write_protect(self) -> bool:
        return bool(self._current[CONTROL][_SWP[0]] & _SWP[1])

    @property
    def descriptor_sense(self) -> bool:
        """D_SENSE: sense data comes in descriptor format."""
        return bool(self._current[CONTROL][2] & _D_SENSE)

    def reset(self) -> None:
        self.__init__()  # type: ignore[misc]

    def page(self, code: int, control: int) -> bytes:
        if control == _CHANGEABLE:
            mask = bytearray(len(_PAGES[code]))
            mask[:2] = _PAGES[code][:2]
            if code == CONTROL:
                mask[_SWP[0]] = _SWP[1]
            return bytes(mask)
        return bytes(self._current[code] if control == _CURRENT else _PAGES[code])

    def select(self, page: bytes) -> None:
        """Take a page of MODE SELECT: refused unless it differs in changeable bits only (SPC-4 6.11)."""
        code = page[0] & 0x3F
        current = self._current.get(code)
        if current is None or page[0] & 0x40 or len(page) != len(current) or page[1] != current[1]:
            raise CheckCondition(INVALID_FIELD_IN_PARAMETER_LIST)
        mask = self.page(code, _CHANGEABLE)
        for at in range(2, len(page)):
            if (page[at] ^ current[at]) & ~mask[at]:
                raise CheckCondition(INVALID_FIELD_IN_PARAMETER_LIST)
        current[2:] = page[2:]


def mode_sense(task: Task) -> None:
    cdb, unit = task.cdb, task.unit
    long = cdb[0] == 0x5A
    control, code, subpage = cdb[2] >> 6, cdb[2] & 0x3F, cdb[3]
    if control == _SAVED:
        raise CheckCondition(SAVING_NOT_SUPPORTED)
    if (code != _ALL and code not in _PAGES) or subpage not in ((0, 0xFF) if code == _ALL else (0,)):
        raise invalid_field(2 if code != _ALL and code not in _PAGES else 3)
    codes = sorted(_PAGES) if code == _ALL else [code]
    pages = b"".join(unit.mode.page(code, control) for code in codes)
    blocks = b"" if cdb[1] & 0x08 else _block_descriptor(unit.size_blocks, unit.device.block_size)
    parameter = (_WP if unit.write_protected else 0) | _DPOFUA
    if long:
        size = 6 + len(blocks) + len(pages)
        head = size.to_bytes(2, "big") + bytes((0, parameter, 0, 0)) + len(blocks).to_bytes(2, "big")
        allocation = uint(cdb, 7, 2)
    else:
        head = bytes((3 + len(blocks) + len(pages), 0, parameter, len(blocks)))
        allocation = cdb[4]
    task.good((head + blocks + pages)[:allocation])


def _block_descriptor(blocks: int, block_size: int) -> bytes:
    """Short form (SBC-4 6.5.2)."""
    return min(blocks, 0xFFFF_FFFF).to_bytes(4, "big") + block_size.to_bytes(4, "big")


def mode_select(task: Task) -> None:
    cdb, unit = task.cdb, task.unit
    long = cdb[0] == 0x55
    if cdb[1] & 0xEF:
        raise invalid_field(1)
    if not cdb[1] & 0x10:
        raise invalid_field(1)
    data = task.parameters(uint(cdb, 7, 2) if long else cdb[4])
    if data:
        head = 8 if long else 4
        if len(data) < head:
            raise CheckCondition(PARAMETER_LIST_LENGTH_ERROR)
        at = head + (uint(data, 6, 2) if long else data[3])
        pages = []
        while at < len(data):
            if at + 2 > len(data) or at + 2 + data[at + 1] > len(data):
                raise CheckCondition(PARAMETER_LIST_LENGTH_ERROR)
            pages.append(data[at : at + 2 + data[at + 1]])
            at += 2 + data[at + 1]
        for page in pages:
            unit.mode.select(page)
    task.good(transfer_bytes=len(data))
