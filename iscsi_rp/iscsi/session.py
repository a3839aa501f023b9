"""A session in its full feature phase, on its one connection (RFC 7143 4.2, 11).

`command`, `data_out` and `receive` take the PDUs of one wake-up, between `begin` and `submit`. Everything is
bounded: commands by the CmdSN window, which opens by one with each command that ends; bytes by `blocked`, at
which the connection leaves the next PDU where it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from iscsi_rp.device import Buffer
from iscsi_rp.iscsi.answers import WRAP
from iscsi_rp.iscsi.budget import OWN_BYTES
from iscsi_rp.iscsi.latency import Latency
from iscsi_rp.iscsi.login import WINDOW, Login
from iscsi_rp.iscsi.pdu import (
    DATA_OUT,
    FINAL,
    IMMEDIATE,
    LOGOUT,
    NO_TAG,
    NOP_OUT,
    REJECT_DATA_DIGEST,
    REJECT_NOT_SUPPORTED,
    REJECT_PROTOCOL_ERROR,
    REJECT_TASK_IN_PROGRESS,
    REJECT_TOO_MANY_IMMEDIATE,
    SESSION_DROPPED,
    SNACK,
    TASK_MANAGEMENT,
    TEXT,
    WRITE_FLAG,
    Header,
    ProtocolError,
    async_message,
    logout_response,
    nop_in,
    r2t,
)
from iscsi_rp.iscsi.shared import Shared
from iscsi_rp.iscsi.task_management import Barrier, manage_tasks
from iscsi_rp.iscsi.tasks import HELD_BYTES, Tasks
from iscsi_rp.iscsi.text_exchange import TextExchange
from iscsi_rp.iscsi.transfer import Transfer, Transfers
from iscsi_rp.scsi import Completion, LogicalUnit
from iscsi_rp.scsi.logical_unit import TRANSFER_BYTES
from iscsi_rp.scsi.sense import CHECK_CONDITION, TASK_ABORTED

_IMMEDIATE_EXTRA: Final = 16
"Immediate commands beyond the window; one more is rejected."
_OUTSTANDING: Final = WINDOW + _IMMEDIATE_EXTRA
_ASK_TICKS: Final = 2
_SILENT_TICKS: Final = 4

Fields = tuple[int, int, int, int, int, int, int, int, int, bytes]
"Those of a `Header`."


class Session(Tasks):
    """See the module's docstring."""

    def __init__(
        self, login: Login, shared: Shared, peer: str, local: str, flush: Callable[[], None]
    ) -> None:
        """`peer` and `local` are the addresses of both ends of its connection."""
        super().__init__(login, shared, flush)
        self.initiator, self.target, self.isid = login.initiator, login.target, login.isid
        self.tsih, self.cid, self.peer, self.local = login.tsih, login.cid, peer, local
        self.portal_group, self.auth = login.portal_group, login.auth
        self.parameters = login.parameters
        self.since_ns = shared.clock()
        self.node = login.node
        self.logged_out = False
        "By the initiator itself."
        self.functions = 0
        "Task management functions that wait for commands to end."
        self._transfers = Transfers(shared.budget)
        self._aborted_ahead: set[int] = set()
        "CmdSNs of commands that were aborted before they came; they count as received."
        self._last_ttt = 0
        self._exchange = TextExchange(login, local)
        self._silent_ticks = self._stalled_ticks = 0
        self._handlers: dict[int, Callable[[Header, Buffer], None]] = {
            NOP_OUT: self._nop_out,
            TEXT: self._text,
            LOGOUT: self._logout,
        }
        if self.target is not None:
            self._handlers[TASK_MANAGEMENT] = self._task_management
        shared.by_nexus[self.nexus] = self

    @property
    def blocked(self) -> bool:
        """The next PDU has to wait until commands have ended."""
        return self.held_bytes > self.may_hold_bytes

    @property
    def may_hold_bytes(self) -> int:
        """Of the data of its commands; less while others hold too much."""
        if not self._shared.budget.spent:
            return HELD_BYTES
        if self.held_bytes > OWN_BYTES:
            self._shared.budget.wait(self._wake)
        return OWN_BYTES

    @property
    def outstanding(self) -> int:
        """Commands that have not been answered, whether their data is there or not."""
        return len(self._tasks) + len(self._transfers)

    # What comes in.

    def command(self, fields: Fields, data: Buffer) -> None:
        """A SCSI Command PDU: `fields` of its header, and its immediate data. Raises `ProtocolError`."""
        opcode, flags, _, _, lun, itt, expected, cmd_sn, _, cdb = fields
        self._silent_ticks = 0
        due = self._exp_cmd_sn
        if cmd_sn == due != self._max_cmd_sn + 1 & WRAP and not opcode & IMMEDIATE:
            # What _in_order would say, for most commands.
            self._exp_cmd_sn = due + 1 & WRAP
        elif not self._in_order(opcode, cmd_sn):
            return None
        tasks, transfers = self._tasks, self._transfers.by_itt
        if itt in tasks or itt in transfers:
            return self._refuse(Header._make(fields), REJECT_TASK_IN_PROGRESS)
        if len(tasks) + len(transfers) >= _OUTSTANDING:
            return self._refuse(Header._make(fields), REJECT_TOO_MANY_IMMEDIATE)
        if self.target is None:
            return self._refuse(Header._make(fields), REJECT_NOT_SUPPORTED)
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
        opcode = header.opcode & 0x3F
        if opcode == DATA_OUT and self.target is not None:
            return self._data_out(header, data)
        handler = self._handlers.get(opcode)
        if handler is None:
            # There is nothing to ask again for at ErrorRecoveryLevel 0 (RFC 7143 11.16).
            return self.reject(header, REJECT_PROTOCOL_ERROR if opcode == SNACK else REJECT_NOT_SUPPORTED)
        if self._in_order(header.opcode, header.cmd_sn):
            self._ended_one(header.opcode)
            handler(header, data)
        return None

    def refuse(self, header: Header, reason: int) -> None:
        """Reject a command that the connection could not make sense of."""
        if self._in_order(header.opcode, header.cmd_sn):
            self._refuse(header, reason)

    def damaged(self, header: Header) -> None:
        """The data digest of a PDU is wrong: it is discarded (RFC 7143 7.8)."""
        self.reject(header, REJECT_DATA_DIGEST)
        if header.opcode & 0x3F == DATA_OUT:
            self._data_out(header, b"", damaged=True)

    def _refuse(self, header: Header, reason: int) -> None:
        self._ended_one(header.opcode)
        self.reject(header, reason)

    def _in_order(self, opcode: int, cmd_sn: int) -> bool:
        """Whether this command is due. One outside of the window is ignored (RFC 7143 4.2.2.1)."""
        if opcode & IMMEDIATE:
            return True
        expected = self._exp_cmd_sn
        if cmd_sn != expected and self._aborted_ahead:
            expected = self._skip_aborted()
        window = self._max_cmd_sn - expected + 1 & WRAP
        if cmd_sn == expected and window:
            self._exp_cmd_sn = cmd_sn + 1 & WRAP
            return True
        if cmd_sn - expected & WRAP >= window:
            return False
        # One connection delivers in order, so what is missing will never come.
        raise ProtocolError("A command is missing.")

    def _skip_aborted(self) -> int:
        while self._exp_cmd_sn in self._aborted_ahead:
            self._aborted_ahead.discard(self._exp_cmd_sn)
            self._exp_cmd_sn = self._exp_cmd_sn + 1 & WRAP
            self._ended_one(0)
        return self._exp_cmd_sn

    def abort_ahead(self, cmd_sn: int, before: int) -> bool:
        """Let a command that has not come, and was sent before the CmdSN `before`, count as received; false
        when there can be none (RFC 7143 11.6.1).
        """
        ahead = cmd_sn - self._exp_cmd_sn & WRAP
        if (
            ahead >= (self._max_cmd_sn - self._exp_cmd_sn + 1 & WRAP)
            or ahead >= before - self._exp_cmd_sn & WRAP
        ):
            return False
        self._aborted_ahead.add(cmd_sn)
        self._skip_aborted()
        return True

    # Data that does not come whole with its command.

    def _begin_transfer(self, header: Header, data: Buffer) -> None:
        agreed = self._parameters
        first_burst = min(agreed.first_burst_bytes, agreed.max_burst_bytes, header.word20)
        unsolicited = not header.flags & FINAL
        if len(data) > first_burst or (data and not agreed.immediate_data):
            raise ProtocolError("There is more immediate data than was agreed.")
        if unsolicited and agreed.initial_r2t:
            raise ProtocolError("Data comes without the R2T that was agreed.")
        wanted = min(header.word20, TRANSFER_BYTES)
        transfer = Transfer(header, self.unit(header.lun), wanted, bytearray(data), asked=len(data))
        if unsolicited:
            transfer.expect_unsolicited(first_burst)
        self._transfers.add(transfer)
        self._advance(header.itt)

    def _data_out(self, header: Header, data: Buffer, *, damaged: bool = False) -> None:
        # What is not there was aborted: its data is dropped.
        if header.itt in self._transfers:
            self._transfers.moved = True
            if self._transfers[header.itt].take(header, data, damaged=damaged):
                self._advance(header.itt)

    def _advance(self, itt: int) -> None:
        """A burst has ended: ask for the next, or give the command to its logical unit."""
        transfer = self._transfers[itt]
        if not transfer.over:
            if transfer.granted:
                self._ask(transfer)
        elif transfer.error is not None:
            self.drop_transfer(itt, CHECK_CONDITION, transfer.error.encode())
        elif self.unit(transfer.header.lun) is not transfer.unit:
            self.drop_transfer(itt, TASK_ABORTED)
        else:
            head = self._transfers.remove(itt).header
            if transfer.r2t_sn:
                self._r2ts[itt] = transfer.r2t_sn
            self._gather(head.lun, itt, head.opcode, head.flags, head.word20, head.tail, transfer.data)
        self._grant()

    def _grant(self) -> None:
        for transfer in self._transfers.grant():
            self._ask(transfer)
        if len(self._transfers) and self._shared.budget.spent:
            self._shared.budget.wait(self._wake)

    def _ask(self, transfer: Transfer) -> None:
        agreed, head = self._parameters, transfer.header
        while asked := transfer.ask(self._next_ttt(), agreed.max_burst_bytes, agreed.max_outstanding_r2t):
            ttt, r2t_sn, offset, length = asked
            self.out.append(r2t(head.lun, head.itt, ttt, self.numbers(advance=False), r2t_sn, offset, length))

    def _next_ttt(self) -> int:
        self._last_ttt = (self._last_ttt + 1) % NO_TAG
        return self._last_ttt

    def _wake(self) -> None:
        """The budget has room again."""
        if not self.over:
            self._grant()
            self._flush_later()

    # Task management, and the end.

    def _task_management(self, header: Header, _: Buffer) -> None:
        if self._gathered:
            self._submit_gathered()
        manage_tasks(self, header)

    def others(self) -> list[Session]:
        """Every other session, of any target: a logical unit may be shared by several. Also those that are
        over and have commands in devices.
        """
        return [other for other in (*self.node.sessions(), *self.node.ending) if other is not self]

    def when_predecessors_ended(self, barrier: Barrier) -> None:
        """Let `barrier` watch what devices still have of earlier sessions of the same two ports."""
        for other in list(self.node.ending):
            if (
                other.nexus.initiator_port == self.nexus.initiator_port
                and other.nexus.port is self.nexus.port
            ):
                other.watch(barrier, list(other._tasks))

    def abort(self, barrier: Barrier, unit: LogicalUnit, *, tell: bool) -> None:
        """Drop the transfers for `unit`, let `barrier` watch the commands that it has. `tell`: another
        initiator wants it, so each is answered; those that the unit has, as they end.
        """
        for itt in self._transfers.tags():
            if self.unit(self._transfers[itt].header.lun) is unit:
                self.drop_transfer(itt, TASK_ABORTED if tell else None)
        held = [itt for itt, task in self._tasks.items() if self.unit(task[2]) is unit]
        if tell:
            self.watch(barrier, held)
            self._flush_later()
        else:
            self.silence(barrier, held)

    def drop_transfer(self, itt: int, status: int | None = None, sense: bytes = b"") -> bool:
        """Forget a command whose data has not all come, and answer it if there is a `status` for it."""
        if itt not in self._transfers:
            return False
        transfer = self._transfers.remove(itt)
        header = transfer.header
        self._ended_one(header.opcode)
        if status is not None:
            self._respond(itt, status, sense, header.word20, 0, transfer.r2t_sn)
        self._grant()
        return True

    def drop(self) -> None:
        """Tell the initiator that its session is over, and end it."""
        self.out.append(async_message(SESSION_DROPPED, self.numbers()))
        self.close()

    def close(self) -> None:
        """End the session and have its connection closed after what is in `out`."""
        self.end()
        self._flush_later()

    def end(self) -> None:
        """The connection is gone, or goes: nothing more is answered and transfers are dropped."""
        if self.over:
            return
        self.over = True
        for itt in self._transfers.tags():
            self._transfers.remove(itt)
        self.node.close_session(self)
        if self._tasks:
            self.node.ending.add(self)
        shared = self._shared
        shared.budget.forget(self._wake)
        shared.by_nexus.pop(self.nexus, None)
        for unit, latency in self.latencies.items():
            shared.past.setdefault(unit, Latency()).add(latency)
            shared.by_initiator.add(self.nexus.initiator, latency)
            unit.nexus_lost(self.nexus)

    def _release(self, completions: Sequence[Completion]) -> None:
        super()._release(completions)
        if not self._tasks:
            self.node.ending.discard(self)

    # Everything else.

    def tick(self) -> bool:
        """Called at intervals: asks a silent initiator for a sign of life; false when it gave none, or owes
        data and does not send it.
        """
        self._stalled_ticks = self._stalled_ticks + 1 if self._transfers.stalled() else 0
        self._silent_ticks += 1
        if self._silent_ticks == _ASK_TICKS:
            numbers = self.numbers(advance=False)
            self.out.append(nop_in(0, NO_TAG, self._next_ttt(), numbers, b""))
            self._flush_later()
        return max(self._silent_ticks, self._stalled_ticks) < _SILENT_TICKS

    def _nop_out(self, header: Header, data: Buffer) -> None:
        if header.itt != NO_TAG:
            echo = data[: self._parameters.max_send_data_bytes]
            self.out.append(nop_in(header.lun, header.itt, NO_TAG, self.numbers(), echo))

    def _text(self, header: Header, data: Buffer) -> None:
        self.out.append(self._exchange.receive(header, data, self.numbers))

    def _logout(self, header: Header, _: Buffer) -> None:
        """Close the session, or its one connection, which is the same (RFC 7143 11.14). Raises
        `ProtocolError`.
        """
        reason = header.flags & 0x7F
        if reason > 2:
            raise ProtocolError("A logout has no known reason.")
        if reason == 2 or (reason == 1 and header.word20 >> 16 != self.cid):
            response = 2 if reason == 2 else 1  # recovery is not supported; no such connection
            return self.answer(partial(logout_response, header.itt, response))

        def done() -> None:
            self.answer(partial(logout_response, header.itt, 0))
            self.logged_out = True
            self.close()

        if self._gathered:
            self._submit_gathered()
        barrier = Barrier(done)
        barrier.watch(self, list(self._tasks))
        return barrier.arm()
