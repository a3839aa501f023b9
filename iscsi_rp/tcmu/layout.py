"""What lies in the memory that kernel and handler share (target_core_user.h), and how an entry is read.

    mailbox, 128 bytes | ring of entries, `cmdr_size` bytes | data area, to the end of the mapping

All numbers have the machine's own byte order, and all offsets of the mailbox and of commands count from the
start of the mapping; head and tail count from the start of the ring.
"""

import struct
from typing import Final, NamedTuple, TypeAlias

from iscsi_rp.errors import Error

VERSION: Final = 2
MAILBOX: Final = struct.Struct("=HHII")
"version, capabilities, offset of the ring, bytes of the ring; head and tail are read and written apart."
MAILBOX_BYTES: Final = 128
HEAD_WORD: Final = 3
"The kernel's: where its next entry goes. Index of a 32-bit word of the mailbox."
TAIL_WORD: Final = 16
"Ours: every entry before it is answered. In a cache line of its own."

OUT_OF_ORDER: Final = 0x1
"Capability: commands may be answered in any order."
SHORT_READS: Final = 0x2
"Capability: data-in may be shorter than its buffer."

PAD: Final = 0
CMD: Final = 1
TMR: Final = 2
OP_MASK: Final = 0x7

ENTRY: Final = struct.Struct("=IHBB")
"length | op, command id, kernel's flags, handler's flags."
REQUEST: Final = struct.Struct("=III4xQ")
"iovecs of the data, of the second direction, of protection data; offset of the CDB. From byte 8."
REQUEST_AT: Final = 8
IOVECS_AT: Final = 48
IOVEC_BYTES: Final = 16
COMMAND_BYTES: Final = 112
"Shortest entry of a command: a response must fit, for it overlays the request."

ID_AT: Final = 4
FLAGS_AT: Final = 7
RESPONSE: Final = struct.Struct("=BB3xI")
"Handler's flags, SCSI status, bytes of data-in. From byte 7."
SENSE_AT: Final = 16
SENSE_BYTES: Final = 96
UNKNOWN_OP: Final = 0x1
READ_LEN: Final = 0x2

TASK_MANAGEMENT: Final = struct.Struct("=B3xI")
"Function, number of command ids. From byte 8."
TASK_IDS_AT: Final = 32

assert SENSE_AT + SENSE_BYTES == COMMAND_BYTES
assert FLAGS_AT + RESPONSE.size == SENSE_AT
assert REQUEST_AT + REQUEST.size + 16 == IOVECS_AT

LUN_RESET: Final = 5
"Functions of task management entries; 1 is ABORT TASK."
LUN_RESET_BY_RESERVATION: Final = 128
"PERSISTENT RESERVE OUT (PREEMPT AND ABORT) aborted the commands; nothing else is reset."

Iovec: TypeAlias = tuple[int, int]
"(offset in the mapping, bytes)"
Iovecs: TypeAlias = tuple[Iovec, ...]
Command: TypeAlias = tuple[int, bytes, Iovecs]
"""(id, CDB, where its data is). The CDB has 16 bytes at least, zeros behind its end. A plain tuple, because
there are several ten thousand a second."""


class RingError(Error):
    """The shared ring is broken: what it says cannot be."""

    hint = "Reset the ring; the kernel then answers all that is in it, and initiators try again."


class TaskManagement(NamedTuple):
    """The kernel aborted commands that it still waits for: each is to be answered as ever."""

    function: int
    "TCMU_TMR_*."
    ids: tuple[int, ...]
    "The commands, by id."


def read_command(memory: memoryview, at: int, length: int, data_at: int) -> tuple[bytes, Iovecs]:
    """CDB and iovecs of the entry of `length` bytes at `at`, copied: answers overwrite entries. The data area
    begins at `data_at`. Raises RingError.

    Iovecs of a second direction or of protection data are not looked at: no command of ours has them.
    """
    if length < COMMAND_BYTES:
        raise RingError(f"A command's entry has {length} bytes.")
    count, second, protection, cdb_at = REQUEST.unpack_from(memory, at + REQUEST_AT)
    iovecs_end = IOVECS_AT + IOVEC_BYTES * (count + second + protection)
    if not at + iovecs_end <= cdb_at < at + length:
        raise RingError(
            f"An entry of {length} bytes at {at} has its CDB at {cdb_at}, iovecs to {iovecs_end}."
        )
    numbers = struct.unpack_from(f"={2 * count}Q", memory, at + IOVECS_AT)
    iovecs = tuple(zip(numbers[::2], numbers[1::2], strict=True))
    for base, size in iovecs:
        if base < data_at or base + size > len(memory):
            raise RingError(f"An iovec of {size} bytes at {base} is outside the data area.")
    return bytes(memory[cdb_at : at + length]).ljust(16, b"\0"), iovecs


def read_task_management(memory: memoryview, at: int, length: int) -> TaskManagement:
    """The entry of `length` bytes at `at`. Raises RingError."""
    if length < TASK_IDS_AT:
        raise RingError(f"A task management entry has {length} bytes.")
    function, count = TASK_MANAGEMENT.unpack_from(memory, at + REQUEST_AT)
    if TASK_IDS_AT + 2 * count > length:
        raise RingError(f"A task management entry of {length} bytes has {count} ids.")
    return TaskManagement(function, struct.unpack_from(f"={count}H", memory, at + TASK_IDS_AT))
