"""Mode pages: MODE SENSE and MODE SELECT 6 and 10 (SPC-4 6.11 to 6.14, 7.5; SBC-4 6.5).

The pages are shared by all nexuses. Nothing is saved: what MODE SELECT changed lasts until a reset, or the
end of the process, and a request to save is refused.
"""

from typing import Final, TypeAlias

from iscsi_rp.scsi.cdb import uint
from iscsi_rp.scsi.sense import (
    MODE_PARAMETERS_CHANGED,
    PARAMETER_LIST_LENGTH_ERROR,
    SAVING_NOT_SUPPORTED,
    CheckCondition,
    invalid_field,
    invalid_parameter,
)
from iscsi_rp.scsi.task import Task

PageCode: TypeAlias = tuple[int, int]
"(page code, subpage code)"

ERROR_RECOVERY: Final = 0x01, 0
DISCONNECT_RECONNECT: Final = 0x02, 0
CACHING: Final = 0x08, 0
CONTROL: Final = 0x0A, 0
CONTROL_EXTENSION: Final = 0x0A, 1
INFORMATIONAL_EXCEPTIONS: Final = 0x1C, 0
_ALL: Final = 0x3F
_ALL_SUBPAGES: Final = 0xFF
_CURRENT, _CHANGEABLE, _DEFAULT, _SAVED = range(4)

_WP: Final = 0x80
_DPOFUA: Final = 0x10
_LONG_LBA: Final = 0x01
_SUBPAGE_FORMAT: Final = 0x40

# Bytes 2 and 4 of the control page.
_D_SENSE, _GLTSD = 0x04, 0x02
_SWP: Final = 0x08


def _page(code: PageCode, size: int, *parameters: int) -> bytes:
    """A page of `size` bytes in all."""
    if code[1]:
        head = bytes((_SUBPAGE_FORMAT | code[0], code[1])) + (size - 4).to_bytes(2, "big")
    else:
        head = bytes((code[0], size - 2))
    return (head + bytes(parameters)).ljust(size, b"\0")


_PAGES: Final[dict[PageCode, bytes]] = {
    ERROR_RECOVERY: _page(ERROR_RECOVERY, 12),
    DISCONNECT_RECONNECT: _page(DISCONNECT_RECONNECT, 16),
    # WCE: the page cache of the host is a volatile write cache.
    CACHING: _page(CACHING, 20, 0x04),
    # GLTSD: log parameters are not saved. Unrestricted reordering. TAS: a task that another nexus aborted
    # ends with TASK ABORTED.
    CONTROL: _page(CONTROL, 12, _GLTSD, 0x10, 0, 0x40),
    # IALUAE: the array moves a LUN between storage processors by itself.
    CONTROL_EXTENSION: _page(CONTROL_EXTENSION, 32, 0x01),
    # DEXCPT: none are reported.
    INFORMATIONAL_EXCEPTIONS: _page(INFORMATIONAL_EXCEPTIONS, 12, 0x08),
}
"The defaults, with headers."

_CHANGEABLE_BITS: Final[dict[PageCode, bytes]] = {CONTROL: _page(CONTROL, 12, _D_SENSE, 0, _SWP)}
"Where it is not here, nothing of the page can be changed."


class ModePages:
    """The current pages of one logical unit."""

    software_write_protect: bool
    descriptor_sense: bool
    "D_SENSE: sense data comes in descriptor format."

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._set(dict(_PAGES))

    def _set(self, pages: dict[PageCode, bytes]) -> None:
        self._current = pages
        self.software_write_protect = bool(pages[CONTROL][4] & _SWP)
        self.descriptor_sense = bool(pages[CONTROL][2] & _D_SENSE)

    def page(self, code: PageCode, control: int) -> bytes:
        if control == _CHANGEABLE:
            return _changeable(code)
        return self._current[code] if control == _CURRENT else _PAGES[code]

    def select(self, pages: list[tuple[int, bytes]]) -> bool:
        """Take pages of MODE SELECT, each with its place in the parameter list: all, or none if one
        differs in bits that cannot be changed. Returns whether anything changed. Raises `CheckCondition`.
        """
        wanted = dict(self._current)
        for at, page in pages:
            code = _code(page)
            if code not in wanted or _page_bytes(page) != len(wanted[code]):
                raise invalid_parameter(at)
            head = 4 if code[1] else 2
            old, mask = wanted[code], _changeable(code)
            for i in range(head, len(page)):
                if (page[i] ^ old[i]) & ~mask[i]:
                    raise invalid_parameter(at + i)
            wanted[code] = old[:head] + page[head:]
        changed = wanted != self._current
        self._set(wanted)
        return changed


def _changeable(code: PageCode) -> bytes:
    page = _PAGES[code]
    return _CHANGEABLE_BITS.get(code) or page[: 4 if code[1] else 2].ljust(len(page), b"\0")


def _code(page: bytes) -> PageCode:
    return page[0] & 0x3F, page[1] if page[0] & _SUBPAGE_FORMAT else 0


def _page_bytes(page: bytes) -> int:
    """Length of the page that begins here, by its header."""
    return 4 + uint(page, 2, 2) if page[0] & _SUBPAGE_FORMAT else 2 + page[1]


def mode_sense(task: Task) -> None:
    cdb, unit = task.cdb, task.unit
    long = cdb[0] == 0x5A
    control = cdb[2] >> 6
    codes = _chosen(cdb[2] & 0x3F, cdb[3])
    if control == _SAVED:
        raise CheckCondition(SAVING_NOT_SUPPORTED)
    pages = b"".join(unit.mode.page(code, control) for code in codes)
    long_lba = long and bool(cdb[1] & 0x10)
    blocks = b"" if cdb[1] & 0x08 else _block_descriptor(unit.size_blocks, unit.device.block_size, long_lba)
    parameter = (_WP if unit.write_protected else 0) | _DPOFUA
    if long:
        size = 6 + len(blocks) + len(pages)
        flags = _LONG_LBA if long_lba and blocks else 0
        head = size.to_bytes(2, "big") + bytes((0, parameter, flags, 0)) + len(blocks).to_bytes(2, "big")
        allocation = uint(cdb, 7, 2)
    else:
        head = bytes((3 + len(blocks) + len(pages), 0, parameter, len(blocks)))
        allocation = cdb[4]
    task.good((head + blocks + pages)[:allocation])


def _chosen(code: int, subpage: int) -> list[PageCode]:
    """The pages that MODE SENSE names, in order. Raises `CheckCondition`."""
    if code == _ALL:
        if subpage not in (0, _ALL_SUBPAGES):
            raise invalid_field(3)
        return sorted(each for each in _PAGES if subpage or not each[1])
    if not any(each[0] == code for each in _PAGES):
        raise invalid_field(2)
    if subpage == _ALL_SUBPAGES:
        return sorted(each for each in _PAGES if each[0] == code)
    if (code, subpage) not in _PAGES:
        raise invalid_field(3)
    return [(code, subpage)]


def _block_descriptor(blocks: int, block_size: int, long: bool) -> bytes:
    """Short or long LBA form (SBC-4 6.5.2)."""
    if long:
        return blocks.to_bytes(8, "big") + bytes(4) + block_size.to_bytes(4, "big")
    return min(blocks, 0xFFFF_FFFF).to_bytes(4, "big") + block_size.to_bytes(4, "big")


def mode_select(task: Task) -> None:
    cdb, unit = task.cdb, task.unit
    long = cdb[0] == 0x55
    # PF must be there: only pages are known. SP, and RTD, must not: nothing is saved.
    if cdb[1] & 0xFF != 0x10:
        raise invalid_field(1)
    data = task.parameters(uint(cdb, 7, 2) if long else cdb[4])
    if data and unit.mode.select(_pages_of(task, data, long)):
        unit.establish(MODE_PARAMETERS_CHANGED, but=task.nexus)
    task.good(transfer_bytes=len(data))


def _pages_of(task: Task, data: bytes, long: bool) -> list[tuple[int, bytes]]:
    """The pages of a parameter list, each with its place in it. Raises `CheckCondition`."""
    at = 8 if long else 4
    if len(data) < at:
        raise CheckCondition(PARAMETER_LIST_LENGTH_ERROR)
    if data[2 if long else 1]:
        raise invalid_parameter(2 if long else 1)  # medium type
    descriptor_bytes = uint(data, 6, 2) if long else data[3]
    _check_block_descriptor(task, data, at, descriptor_bytes, long_lba=long and bool(data[4] & _LONG_LBA))
    at += descriptor_bytes
    pages = []
    while at < len(data):
        if len(data) - at < 4 or at + _page_bytes(data[at:]) > len(data):
            raise CheckCondition(PARAMETER_LIST_LENGTH_ERROR)
        end = at + _page_bytes(data[at:])
        pages.append((at, data[at:end]))
        at = end
    return pages


def _check_block_descriptor(task: Task, data: bytes, at: int, size: int, *, long_lba: bool) -> None:
    """It may repeat what the unit has (a number of blocks of 0 does, too): a volume is resized and formatted
    by its array. Raises `CheckCondition`.
    """
    if not size:
        return
    width = 16 if long_lba else 8
    if size != width:
        raise invalid_parameter(6 if task.cdb[0] == 0x55 else 3)
    if at + size > len(data):
        raise CheckCondition(PARAMETER_LIST_LENGTH_ERROR)
    blocks = uint(data, at, 8 if long_lba else 4)
    most = (1 << 64 if long_lba else 1 << 32) - 1
    if blocks not in (0, most, min(task.unit.size_blocks, most)):
        raise invalid_parameter(at)
    block_size_at = at + width - (4 if long_lba else 3)  # byte 4 of the short form is reserved
    if uint(data, block_size_at, at + width - block_size_at) != task.unit.device.block_size:
        raise invalid_parameter(block_size_at)
