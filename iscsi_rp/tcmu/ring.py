"""The handler's side of a TCMU ring: takes commands, answers them in any order.

The kernel appends entries at `head`; entries from `tail` on are not answered. An answer goes into the entry
at `tail`, whichever command that was, with the id of the command that it is for, and moves `tail` past that
entry and the padding behind it. So there is always a place for an answer, and a command that takes long holds
up no other. After an answer out of order the entries do not say any more which commands are open: that is
why a handler that is started anew has the ring reset before it looks at it.

Nothing of the data area is touched but what the iovecs of an open command name: the kernel has no page
behind the rest, and the access would end the process.

Head and tail are read and written as aligned words of 32 bits. On x86 that is all that the order of accesses
needs.
"""

import mmap
import struct
from collections import deque
from collections.abc import Sequence
from typing import Final, TypeAlias

from iscsi_rp.device import Buffer
from iscsi_rp.errors import Error
from iscsi_rp.scsi import Completion
from iscsi_rp.scsi.sense import CHECK_CONDITION
from iscsi_rp.tcmu.layout import (
    CMD,
    COMMAND_BYTES,
    ENTRY,
    FLAGS_AT,
    HEAD_WORD,
    ID_AT,
    MAILBOX,
    MAILBOX_BYTES,
    OP_MASK,
    OUT_OF_ORDER,
    PAD,
    READ_LEN,
    RESPONSE,
    SENSE_AT,
    SENSE_BYTES,
    SHORT_READS,
    TAIL_WORD,
    TMR,
    UNKNOWN_OP,
    VERSION,
    Command,
    Iovecs,
    RingError,
    TaskManagement,
    read_command,
    read_task_management,
)

_Place: TypeAlias = tuple[int, int]
"An entry that can carry an answer: (its offset in the ring, where tail goes then)."

_ID: Final = struct.Struct("=H")
_put_id = _ID.pack_into
_put_response = RESPONSE.pack_into


class NoSuchCommandError(Error):
    """No command with this id is open in the ring."""


class Ring:
    """One life of a ring, from a reset, or from its creation, to the next reset.

    Before the reset `release` it: the kernel takes the pages of the data area away.
    """

    def __init__(self, mapping: Buffer | mmap.mmap) -> None:
        """`mapping` of `/dev/uioN`: all of it, writable. Raises RingError."""
        self._memory = memory = memoryview(mapping)
        if len(memory) < MAILBOX_BYTES:
            raise RingError(f"The mapping has {len(memory)} bytes.")
        version, capabilities, self._ring_at, self._ring_bytes = MAILBOX.unpack_from(memory)
        if version != VERSION or (capabilities & (OUT_OF_ORDER | SHORT_READS)) != OUT_OF_ORDER | SHORT_READS:
            raise RingError(
                f"The ring has version {version} and capabilities {capabilities:#x}; version {VERSION}, "
                "answers out of order and short reads are needed.",
                hint="Use a newer kernel.",
            )
        self._data_at = self._ring_at + self._ring_bytes
        if (
            self._ring_at < MAILBOX_BYTES
            or (self._ring_at | self._ring_bytes) % 8
            or self._data_at > len(memory)
        ):
            raise RingError(f"A ring of {self._ring_bytes} bytes at {self._ring_at} is not in the mapping.")
        self._words = memory[:MAILBOX_BYTES].cast("I")
        self._tail = self._at = self._words[TAIL_WORD]
        "Offsets in the ring: where we have put tail, and of the first entry that was not taken."
        self.answered = False
        "The kernel has not been told yet of answers."
        self._places: deque[_Place] = deque()
        self._open: dict[int, Iovecs] = {}
        "Where the data-in of each open command goes."
        self._check(self._at)

    def __len__(self) -> int:
        """How many commands are open."""
        return len(self._open)

    def take(self, limit: int) -> list[Command | TaskManagement]:
        """What the kernel has put in since, in its order, at most `limit` commands. Raises RingError; nothing
        more is then to be done with this ring.

        A list that is as long as `limit`, or longer, may not be all there is.
        """
        found: list[Command | TaskManagement] = []
        head = self._words[HEAD_WORD]
        self._check(head)
        self._check_tail()
        if (self._at - self._tail) % self._ring_bytes > (head - self._tail) % self._ring_bytes:
            raise RingError(f"Head is {head}, and was beyond {self._at}: somebody else has reset the ring.")
        while self._at != head and len(found) < limit:
            self._take_entry(head, found)
        return found

    def data_out(self, cmd_id: int) -> Buffer:
        """The data that came with an open command: the shared memory itself where it is in one piece, so it
        is valid only until the command is answered. The command has no data-in then.
        """
        iovecs, self._open[cmd_id] = self._iovecs(cmd_id), ()
        pieces = [self._memory[base : base + size] for base, size in iovecs]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def complete(self, completions: Sequence[Completion]) -> None:
        """Answer open commands; the tags are their ids. The kernel is to be told once, afterwards. Raises
        NoSuchCommandError, and answers none from there on; RingError, as `take`.

        Data-in that is longer than the command's buffer is cut; what it leaves of the buffer is zeroed,
        because it has data of earlier commands, perhaps of other initiators.
        """
        if self._open:
            self._check_tail()
        for cmd_id, status, payload, _ in completions:
            iovecs = self._iovecs(cmd_id)
            if status == CHECK_CONDITION:
                self._answer(cmd_id, 0, status, 0, bytes(payload[:SENSE_BYTES]))
            elif iovecs:
                moved, buffer_bytes = self._scatter(iovecs, payload)
                flags = READ_LEN if 0 < moved < buffer_bytes else 0
                self._answer(cmd_id, flags, status, moved)
            else:
                self._answer(cmd_id, 0, status, 0)

    def release(self) -> None:
        """Let go of the mapping, so that it can be closed. Open commands are forgotten: to answer one raises
        NoSuchCommandError.
        """
        self._open.clear()
        self._places.clear()
        self._words.release()
        self._memory.release()

    def _check(self, offset: int) -> None:
        if offset >= self._ring_bytes or offset % 8:
            raise RingError(f"Head or tail is {offset}, in a ring of {self._ring_bytes} bytes.")

    def _check_tail(self) -> None:
        """After a reset that is not ours the entries are others: an answer would be for no command or, worse,
        for a new one.
        """
        tail = self._words[TAIL_WORD]
        if tail != self._tail:
            raise RingError(f"Tail is {tail} and not {self._tail}: somebody else has reset the ring.")

    def _take_entry(self, head: int, found: list[Command | TaskManagement]) -> None:
        offset, at = self._at, self._ring_at + self._at
        length_op, cmd_id, _, _ = ENTRY.unpack_from(self._memory, at)
        op, length = length_op & OP_MASK, length_op & ~OP_MASK
        end = offset + length
        if not length or end > (head if head > offset else self._ring_bytes):
            raise RingError(f"An entry of {length} bytes at {offset} goes beyond head or ring.")
        self._at = end % self._ring_bytes
        if op in (PAD, TMR):
            if op == TMR:
                found.append(read_task_management(self._memory, at, length))
            self._skip()
            return
        if cmd_id in self._open:
            raise RingError(f"Command {cmd_id} is in the ring twice.")
        if op == CMD:
            cdb, iovecs = read_command(self._memory, at, length, self._data_at)
            found.append((cmd_id, cdb, iovecs))
        elif length < COMMAND_BYTES:
            raise RingError(f"An entry of unknown kind {op} has {length} bytes.")
        else:
            iovecs = ()
        self._places.append((offset, self._at))
        self._open[cmd_id] = iovecs
        if op != CMD:
            self._answer(cmd_id, UNKNOWN_OP, 0, 0)

    def _skip(self) -> None:
        """The entry before `_at` needs no answer: tail passes it with the one before, or now."""
        if self._places:
            self._places[-1] = (self._places[-1][0], self._at)
        else:
            self._tail = self._words[TAIL_WORD] = self._at

    def _iovecs(self, cmd_id: int) -> Iovecs:
        iovecs = self._open.get(cmd_id)
        if iovecs is None:
            raise NoSuchCommandError(f"Command {cmd_id} is not open in the ring.")
        return iovecs

    def _answer(self, cmd_id: int, flags: int, status: int, read_bytes: int, sense: bytes = b"") -> None:
        offset, tail = self._places.popleft()
        at = self._ring_at + offset
        memory = self._memory
        _put_id(memory, at + ID_AT, cmd_id)
        _put_response(memory, at + FLAGS_AT, flags, status, read_bytes)
        if sense:
            memory[at + SENSE_AT : at + SENSE_AT + SENSE_BYTES] = sense.ljust(SENSE_BYTES, b"\0")
        del self._open[cmd_id]
        # Last: from here on the kernel may read the answer.
        self._tail = self._words[TAIL_WORD] = tail
        self.answered = True

    def _scatter(self, iovecs: Iovecs, payload: Buffer) -> tuple[int, int]:
        """Copy data-in to its buffer, zeros behind it; (bytes of data-in, bytes of the buffer)."""
        memory, source, at = self._memory, memoryview(payload), 0
        for base, size in iovecs:
            part = source[at : at + size]
            filled = base + len(part)
            memory[base:filled] = part
            if len(part) < size:
                memory[filled : base + size] = bytes(size - len(part))
            at += size
        return min(len(source), at), at
