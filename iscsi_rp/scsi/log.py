"""Log pages: LOG SENSE and LOG SELECT (SPC-4 6.8, 6.9 and 7.3).

Only what is known is told: errors that the medium had, for reading, writing and verifying apart, and that no
informational exception is pending. A count lasts as long as the process; a request to save it is refused.
Counting commands and bytes would cost each of them, so those pages are not there.
"""

from typing import TYPE_CHECKING, Final

from iscsi_rp.device import READ, IoError, MediumError
from iscsi_rp.scsi.cdb import uint
from iscsi_rp.scsi.sense import LOG_PARAMETERS_CHANGED, invalid_field

if TYPE_CHECKING:
    from iscsi_rp.scsi.task import Task

WRITE_ERRORS: Final = 0x02
READ_ERRORS: Final = 0x03
VERIFY_ERRORS: Final = 0x05
_INFORMATIONAL_EXCEPTIONS: Final = 0x2F
_COUNTERS: Final = (WRITE_ERRORS, READ_ERRORS, VERIFY_ERRORS)
_PAGES: Final = (0x00, *_COUNTERS, _INFORMATIONAL_EXCEPTIONS)
_ALL_SUBPAGES: Final = 0xFF

_THRESHOLDS: Final = (0b00, 0b10)
_DEFAULTS: Final = 0b11
"Page control (SPC-4 7.3.2.1)."

_NOT_SAVED: Final = 0x80
_SUBPAGE_FORMAT: Final = 0x40
_COUNTER, _LIST = 0x20, 0x23
"Parameter control bytes: TSD, with a bounded data counter or a binary list."

_UNCORRECTED: Final = 0x0006
"Parameter code of total uncorrected errors (SPC-4 7.3.6)."
_MAXIMUM: Final = (1 << 64) - 1
_VERIFY: Final = frozenset((0x2F, 0x8F, 0xAF))


class ErrorCounters:
    """Errors of one unit's medium since its start, or since they were set back."""

    def __init__(self) -> None:
        self._counts = dict.fromkeys(_COUNTERS, 0)

    def count(self, error: IoError, page: int) -> None:
        """Take note of an error that a command of that page's kind met."""
        if isinstance(error, MediumError):
            self._counts[page] = min(self._counts[page] + 1, _MAXIMUM)

    def total(self, page: int) -> int:
        return self._counts[page]

    def clear(self, page: int | None) -> bool:
        """Set a page's counter back, or all; returns whether anything changed."""
        before = dict(self._counts)
        for each in _COUNTERS if page is None else (page,):
            self._counts[each] = 0
        return self._counts != before


def page_of(opcode: int, operation: int) -> int:
    """The page that counts errors of a device's operation for that command."""
    if operation != READ:
        return WRITE_ERRORS
    return VERIFY_ERRORS if opcode in _VERIFY else READ_ERRORS


def log_sense(task: "Task") -> None:
    cdb = task.cdb
    control, page, subpage = cdb[2] >> 6, cdb[2] & 0x3F, cdb[3]
    if cdb[1]:
        raise invalid_field(1)  # SP: nothing is saved
    if page not in _PAGES:
        raise invalid_field(2)
    if subpage and (page or subpage != _ALL_SUBPAGES):
        raise invalid_field(3)
    if page in _COUNTERS and control in _THRESHOLDS:
        raise invalid_field(2)  # there are none
    largest, body = _parameters(task, page, subpage, defaults=control == _DEFAULTS)
    pointer = uint(cdb, 5, 2)
    if pointer > largest:
        raise invalid_field(5)
    head = bytes((_NOT_SAVED | (_SUBPAGE_FORMAT if subpage else 0) | page, subpage))
    task.good((head + len(body).to_bytes(2, "big") + body)[: uint(cdb, 7, 2)])


def _parameters(task: "Task", page: int, subpage: int, *, defaults: bool) -> tuple[int, bytes]:
    """(the largest parameter code, all of them). A page here has one, so a pointer to it leaves none out."""
    if page in _COUNTERS:
        count = 0 if defaults else task.unit.errors.total(page)
        return _UNCORRECTED, _parameter(_UNCORRECTED, _COUNTER, count.to_bytes(8, "big"))
    if page == _INFORMATIONAL_EXCEPTIONS:
        # No additional sense code; the temperature is not known.
        return 0, _parameter(0, _LIST, bytes((0, 0, 0xFF, 0)))
    if subpage:
        listed = [(0, 0), (0, _ALL_SUBPAGES), *((each, 0) for each in _PAGES[1:])]
        return 0, bytes(number for pair in listed for number in pair)
    return 0, bytes(_PAGES)


def _parameter(code: int, control: int, value: bytes) -> bytes:
    return code.to_bytes(2, "big") + bytes((control, len(value))) + value


def log_select(task: "Task") -> None:
    """LOG SELECT: counters can be set back, by PCR or to their defaults, but not to other values."""
    cdb = task.cdb
    resets, control, page = bool(cdb[1] & 0x02), cdb[2] >> 6, cdb[2] & 0x3F
    if cdb[1] & ~0x02:
        raise invalid_field(1)
    if uint(cdb, 7, 2):
        raise invalid_field(7)
    if page not in (0, *_COUNTERS):
        raise invalid_field(2)
    if cdb[3]:
        raise invalid_field(3)
    if (resets or control == _DEFAULTS) and task.unit.errors.clear(page or None):
        task.unit.establish(LOG_PARAMETERS_CHANGED, but=task.nexus)
    task.good()
