"""A session in its full feature phase, on its one connection (RFC 7143 4.2, 11).

`handlers` take the PDUs of one wake-up, in order; commands gather until `submit` hands them to their logical
units in batches. Answers gather in `out`. Everything is bounded: commands by the CmdSN window, which opens by
one with each command that ends; bytes by `blocked`, which asks the connection to leave the next PDU where it
is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from iscsi_rp.device import Buffer
from iscsi_rp.iscsi.keys import Parameters
from iscsi_rp.iscsi.login import WINDOW, Login
from iscsi_rp.iscsi.node import Node
from iscsi_rp.iscsi.pdu import (
    DATA_IN,
    DATA_OUT,
    FINAL,
    IMMEDIATE,
    LOGOUT,
    NO_TAG,
    NOP_OUT,
    PADDING,
    READ_FLAG,
    REJECT_NOT_SUPPORTED,
    REJECT_TASK_IN_PROGRESS,
    REJECT_TOO_MANY_IMMEDIATE,
    SCSI_RESPONSE,
    TASK_MANAGEMENT,
    TEXT,
    WRITE_FLAG,
    Header,
    Numbers,
    ProtocolError,
    logout_response,
    nop_in,
    r2t,
    reject,
)
from iscsi_rp.iscsi.task_management import Barrier, manage_tasks
from iscsi_rp.iscsi.text_exchange import TextExchange
from iscsi_rp.iscsi.transfer import Transfer, Transfers
from iscsi_rp.scsi import Command, Completion, LogicalUnit, Nexus, serve_absent
from iscsi_rp.scsi.logical_unit import TRANSFER_BYTES
from iscsi_rp.scsi.sense import CHECK_CONDITION, TASK_ABORTED

_IMMEDIATE_EXTRA: Final = 16
"Immediate commands beyond it; one more is rejected."
HELD_BYTES: Final = 16 << 20
"Data of commands that a device has; beyond it nothing more is received until some have ended."
_WRAP: Final = 0xFFFF_FFFF


class Session:
    """See the module's docstring."""

    def __init__(self, login: Login, node: Node, peer: str, local: str, flush: Callable[[], None]) -> None:
        """`flush` is called when answers appear in `out` outside of `handlers` and `submit`; it must send
        them.
        """
        self.initiator, self.target, self.isid = login.initiator, login.target, login.isid
        self.tsih, self.cid, self.peer = login.tsih, login.cid, peer
        self._parameters: Parameters = login.parameters
        self._node, self._local, self._flush = node, local, flush
        self._nexus = Nexus(login.initiator, login.target.luns if login.target else {})
        self.out: list[Buffer] = []
        self.over = False
        "The connection is to be closed once `out` is sent."
        self.commands = 0
        self.bytes_read = self.bytes_written = 0
        self._stat_sn, self._exp_cmd_sn = login.stat_sn, login.cmd_sn
        self._max_cmd_sn = login.cmd_sn + WINDOW - 1 & _WRAP
        # Of each command that its logical unit has: (opcode, flags, LUN, expected bytes).
        self._tasks: dict[int, tuple[int, int, int, int]] = {}
        self._transfers = Transfers()
        self._gathered: dict[int, list[Command]] = {}
        self._held_bytes = 0
        self._receiving = False
        self.barriers: list[Barrier] = []
        self._last_ttt = 0
        self._exchange = TextExchange(node, login.target, local, login.parameters)
        self._silent_ticks = 0
        self._handlers: dict[int, Callable[[Header, Buffer], None]] = {
            NOP_OUT: self._nop_out,
            TEXT: self._text,
            LOGOUT: self._logout,
        }
        if self.target is not None:
            self._handlers |= {DATA_OUT: self._data_out, TASK_MANAGEMENT: self._task_management}

    @property
    def blocked(self) -> bool:
        """The next PDU has to wait until commands have ended."""
        return self._held_bytes > HELD_BYTES

    @property
    def outstanding(self) -> int:
        """Commands that have not been answered, whether their data is there or not."""
        return len(self._tasks) + len(self._transfers)

    @property
    def in_device(self) -> int:
        """Commands that a logical unit has."""
        return len(self._tasks)

    def numbers(self, *, advance: bool = True) -> Numbers:
        numbers = Numbers(self._stat_sn, self._exp_cmd_sn, self._max_cmd_sn)
        if advance:
            self._stat_sn = self._stat_sn + 1 & _WRAP
        return numbers

    # What comes in.

    def command(
        self, fields: tuple[int, int, int, int, int, int, int, int, int, bytes], data: Buffer
    ) -> None:
        """A SCSI Command PDU: `fields` of its header, and its immediate data. Raises `ProtocolError`."""
        opcode, flags, _, _, lun, itt, expected, cmd_sn, _, cdb = fields
        self._silent_ticks = 0
        if self.target is None:
            return self._reject(Header._make(fields), REJECT_NOT_SUPPORTED)
        if not self._in_order(opcode, cmd_sn):
            return None
        if itt in self._tasks or itt in self._transfers:
            return self._reject(Header._make(fields), REJECT_TASK_IN_PROGRESS)
        if self.outstanding >= WINDOW + _IMMEDIATE_EXTRA:
            return self._reject(Header._make(fields), REJECT_TOO_MANY_IMMEDIATE)
        self.commands += 1
        if not flags & WRITE_FLAG:
            self._gather(lun, itt, opcode, flags, expected, cdb, None)
        elif len(data) == expected and flags & FINAL:
            self._gather(lun, itt, opcode, flags, expected, cdb, data)
        else:
            self._begin_transfer(Header._make(fields), data)
        return None

    def receive(self, header: Header, data: Buffer) -> None:
        """Any other PDU. Raises `ProtocolError`."""
        self._silent_ticks = 0
        handler = self._handlers.get(header.opcode & 0x3F)
        if handler is None:
            return self._reject(header, REJECT_NOT_SUPPORTED)
        if header.opcode & 0x3F == DATA_OUT:
            return handler(header, data)
        if self._in_order(header.opcode, header.cmd_sn):
            if not header.opcode & IMMEDIATE:
                self._max_cmd_sn = self._max_cmd_sn + 1 & _WRAP
            handler(header, data)
        return None

    def _in_order(self, opcode: int, cmd_sn: int) -> bool:
        """Whether this command is due. One outside of the window is ignored (RFC 7143 4.2.2.1)."""
        if opcode & IMMEDIATE:
            return True
        ahead = cmd_sn - self._exp_cmd_sn & _WRAP
        if ahead > self._max_cmd_sn - self._exp_cmd_sn & _WRAP or self._window_closed:
            return False
        if ahead:
            # One connection delivers in order, so what is missing will never come.
            raise ProtocolError("A command is missing.")
        self._exp_cmd_sn = cmd_sn + 1 & _WRAP
        return True

    @property
    def _window_closed(self) -> bool:
        return self._exp_cmd_sn == self._max_cmd_sn + 1 & _WRAP

    def _begin_transfer(self, header: Header, data: Buffer) -> None:
        agreed = self._parameters
        first_burst = min(agreed.first_burst_bytes, agreed.max_burst_bytes, header.word20)
        unsolicited = not header.flags & FINAL
        if len(data) > first_burst or (data and not agreed.immediate_data):
            raise ProtocolError("There is more immediate data than was agreed.")
        if unsolicited and agreed.initial_r2t:
            raise ProtocolError("Data comes without the R2T that was agreed.")
        wanted = min(header.word20, TRANSFER_BYTES)
        self._transfers.add(Transfer(header, wanted, bytearray(data), first_burst, unsolicited))
        self._advance(header.itt)

    def _data_out(self, header: Header, data: Buffer) -> None:
        # What is not there was aborted: its data is dropped.
        if header.itt in self._transfers and self._transfers[header.itt].take(header, data):
            self._transfers[header.itt].unsolicited = False
            self._advance(header.itt)

    def _advance(self, itt: int) -> None:
        """A sequence of data has ended: ask for the next, or give the command to its logical unit."""
        transfer = self._transfers[itt]
        if transfer.error is not None:
            self.drop_transfer(itt, CHECK_CONDITION, transfer.error.encode())
        elif transfer.complete:
            head = self._transfers.remove(itt).header
            self._gather(head.lun, itt, head.opcode, head.flags, head.word20, head.tail, transfer.data)
        elif transfer.granted:
            self._ask(transfer)
        self._grant()

    def _grant(self) -> None:
        for transfer in self._transfers.grant():
            self._ask(transfer)

    def _ask(self, transfer: Transfer) -> None:
        self._last_ttt = (self._last_ttt + 1) % NO_TAG
        burst = transfer.next_burst(self._last_ttt, self._parameters.max_burst_bytes)
        head = transfer.header
        self.out.append(r2t(head.lun, head.itt, self._last_ttt, self.numbers(advance=False), *burst))

    def _gather(
        self, lun: int, itt: int, opcode: int, flags: int, expected: int, cdb: bytes, data: Buffer | None
    ) -> None:
        self._tasks[itt] = (opcode, flags, lun, expected)
        self._held_bytes += expected if expected < TRANSFER_BYTES else TRANSFER_BYTES
        commands = self._gathered.get(lun)
        if commands is None:
            self._gathered[lun] = [(itt, cdb, data)]
        else:
            commands.append((itt, cdb, data))

    def begin(self) -> None:
        """PDUs follow, and `submit`: until then answers only gather."""
        self._receiving = True

    def submit(self) -> None:
        """Hand what was gathered to the logical units: the end of a wake-up."""
        self._submit_gathered()
        self._receiving = False

    def _submit_gathered(self) -> None:
        gathered, self._gathered = self._gathered, {}
        for lun, commands in gathered.items():
            unit = self.unit(lun)
            if unit is None:
                serve_absent(self._nexus, commands, self._ended)
            else:
                unit.submit(self._nexus, commands, self._ended)

    def unit(self, lun: int) -> LogicalUnit | None:
        """By the 8 bytes of a LUN field: one level, peripheral or flat addressing (SAM-5 4.7)."""
        if lun & (1 << 48) - 1:
            return None
        method, number = lun >> 62, lun >> 48 & 0x3FFF
        if method > 1 or (method == 0 and number > 0xFF):
            return None
        return self._nexus.luns.get(number)

    # What goes out.

    def _ended(self, completions: Sequence[Completion]) -> None:
        out, max_send = self.out, self._parameters.max_send_data_bytes
        for itt, status, payload, transfer in completions:
            opcode, flags, _, expected = self._tasks.pop(itt)
            self._held_bytes -= expected if expected < TRANSFER_BYTES else TRANSFER_BYTES
            if not opcode & IMMEDIATE:
                self._max_cmd_sn = self._max_cmd_sn + 1 & _WRAP
            if self.over:
                continue
            if status == CHECK_CONDITION:
                self._respond(itt, status, payload, expected, transfer)
                continue
            size = min(len(payload), expected)
            if not flags & READ_FLAG or not size:
                self.bytes_written += transfer if flags & WRITE_FLAG else 0
                if expected != transfer:
                    self._respond(itt, status, b"", expected, transfer)
                    continue
                # What _respond would say, for most writes.
                stat_sn = self._stat_sn
                self._stat_sn = stat_sn + 1 & _WRAP
                # fmt: off
                out.append(SCSI_RESPONSE.pack(
                    0x21, FINAL, 0, status, 0, itt, stat_sn, self._exp_cmd_sn, self._max_cmd_sn, 0, 0, 0,
                ))
                # fmt: on
                continue
            if size < len(payload):
                payload = payload[:size]
            self.bytes_read += size
            if size <= max_send:
                under = expected - transfer
                residual = _residual_flags(under)
                stat_sn = self._stat_sn
                self._stat_sn = stat_sn + 1 & _WRAP
                # fmt: off
                out.append(DATA_IN.pack(
                    0x25, residual | 0x01, status, size, itt, NO_TAG, stat_sn, self._exp_cmd_sn,
                    self._max_cmd_sn, 0, 0, abs(under),
                ))
                # fmt: on
                out.append(payload)
                if size & 3:
                    out.append(PADDING[size & 3])
            else:
                self._send_data(itt, memoryview(payload), max_send)
                self._respond(itt, status, b"", expected, transfer)
        if self.barriers:
            for itt, *_ in completions:
                for barrier in list(self.barriers):
                    barrier.ended(self, itt)
        if not self.over:
            self._flush_later()

    def _send_data(self, itt: int, data: memoryview, max_send: int) -> None:
        """Data-In PDUs for data that is longer than one; each sequence ends at MaxBurstLength."""
        max_burst = self._parameters.max_burst_bytes
        at = data_sn = 0
        while at < len(data):
            burst_left = max_burst - at % max_burst
            part = data[at : at + min(max_send, burst_left)]
            end = at + len(part)
            final = FINAL if end == len(data) or len(part) == burst_left else 0
            numbers = (0, self._exp_cmd_sn, self._max_cmd_sn)
            self.out.append(DATA_IN.pack(0x25, final, 0, len(part), itt, NO_TAG, *numbers, data_sn, at, 0))
            self.out.append(part)
            self.out.append(PADDING[len(part) & 3])
            at, data_sn = end, data_sn + 1

    def _respond(self, itt: int, status: int, sense: Buffer, expected: int, transfer: int) -> None:
        """A SCSI Response; the residual tells how far the CDB's transfer length and the expected one
        differ.
        """
        under = expected - transfer
        residual = _residual_flags(under)
        segment = len(sense).to_bytes(2, "big") + sense if sense else b""
        head = (0x21, residual, 0, status, len(segment), itt, *self.numbers(), 0, 0, abs(under))
        self.out.append(SCSI_RESPONSE.pack(*head))
        if segment:
            self.out.append(segment + PADDING[len(segment) & 3])

    def _reject(self, header: Header, reason: int) -> None:
        self.out.append(reject(header, reason, self.numbers()))

    # Task management, and the end.

    def _task_management(self, header: Header, _: Buffer) -> None:
        self._submit_gathered()
        manage_tasks(self, header, [other for other in self._node.sessions() if other is not self])

    def has_task(self, itt: int) -> bool:
        return itt in self._tasks

    def abort(self, barrier: Barrier, unit: LogicalUnit | None, *, tell: bool) -> None:
        """Drop the transfers for `unit` (None: any), let `barrier` watch the commands that it has."""
        for itt in self._transfers.tags():
            if unit is None or self.unit(self._transfers[itt].header.lun) is unit:
                self.drop_transfer(itt, TASK_ABORTED if tell else None)
        barrier.watch(self, [itt for itt, task in self._tasks.items() if unit in (None, self.unit(task[2]))])
        if tell:
            self._flush_later()

    def drop_transfer(self, itt: int, status: int | None = None, sense: bytes = b"") -> bool:
        """Forget a command whose data has not all come, and answer it if there is a `status` for it."""
        if itt not in self._transfers:
            return False
        header = self._transfers.remove(itt).header
        if not header.opcode & IMMEDIATE:
            self._max_cmd_sn = self._max_cmd_sn + 1 & _WRAP
        if status is not None:
            self._respond(itt, status, sense, header.word20, 0)
        self._grant()
        return True

    def answer(self, pdu: Callable[[Numbers], bytes]) -> None:
        """Send an answer to something other than a SCSI command."""
        if not self.over:
            self.out.append(pdu(self.numbers()))
            self._flush_later()

    def close(self) -> None:
        """End the session and have its connection closed after what is in `out`."""
        self.end()
        self._flush_later()

    def end(self) -> None:
        """The connection is gone, or goes: nothing more is answered and transfers are dropped."""
        if not self.over:
            self.over = True
            for itt in self._transfers.tags():
                self._transfers.remove(itt)
            if self.target is not None:
                self.target.sessions.discard(self)

    def _flush_later(self) -> None:
        if not self._receiving:
            self._flush()

    # Everything else.

    def tick(self) -> bool:
        """Called at intervals: asks a silent initiator for a sign of life; false when it gave none."""
        self._silent_ticks += 1
        if self._silent_ticks == 2:
            self._last_ttt = (self._last_ttt + 1) % NO_TAG
            self.out.append(nop_in(0, NO_TAG, self._last_ttt, self.numbers(advance=False), b""))
            self._flush_later()
        return self._silent_ticks <= 3

    def _nop_out(self, header: Header, data: Buffer) -> None:
        if header.itt != NO_TAG:
            echo = data[: self._parameters.max_send_data_bytes]
            self.out.append(nop_in(header.lun, header.itt, NO_TAG, self.numbers(), echo))

    def _text(self, header: Header, data: Buffer) -> None:
        self.out.append(self._exchange.receive(header, data, self.numbers))

    def _logout(self, header: Header, _: Buffer) -> None:
        """Close the session, or its one connection, which is the same (RFC 7143 11.14)."""
        reason = header.flags & 0x7F
        if reason == 2 or (reason == 1 and header.word20 >> 16 != self.cid):
            response = 2 if reason == 2 else 1  # recovery is not supported; no such connection
            return self.answer(partial(logout_response, header.itt, response))

        def done() -> None:
            self.answer(partial(logout_response, header.itt, 0))
            self.close()

        self._submit_gathered()
        barrier = Barrier(done)
        barrier.watch(self, self._tasks)
        return barrier.arm()


def _residual_flags(under: int) -> int:
    """F, with U or O: the expected length is `under` bytes more than the CDB moves (RFC 7143 11.4.5)."""
    return 0x82 if under > 0 else 0x84 if under < 0 else 0x80
