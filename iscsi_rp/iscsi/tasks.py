"""The commands of a session that its logical units have: handed over in batches, answered as they end."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from iscsi_rp.device import Buffer
from iscsi_rp.iscsi.answers import WRAP, Answers, residual_flags
from iscsi_rp.iscsi.latency import Latency
from iscsi_rp.iscsi.login import Login
from iscsi_rp.iscsi.pdu import (
    DATA_IN,
    FINAL,
    IMMEDIATE,
    NO_TAG,
    PADDING,
    READ_FLAG,
    SCSI_RESPONSE,
    WRITE_FLAG,
)
from iscsi_rp.iscsi.shared import Shared
from iscsi_rp.scsi import Command, Completion, LogicalUnit, Nexus, serve_absent
from iscsi_rp.scsi.logical_unit import TRANSFER_BYTES
from iscsi_rp.scsi.sense import CHECK_CONDITION
from iscsi_rp.scsi.task import CommandsDone

if TYPE_CHECKING:
    from iscsi_rp.iscsi.task_management import Barrier

HELD_BYTES: Final = 16 << 20
"Data of commands that a device has; beyond it nothing more is received until some have ended."


class Tasks(Answers):
    """Commands `_gather` until `submit`; `_ended` answers them."""

    def __init__(self, login: Login, shared: Shared, flush: Callable[[], None]) -> None:
        super().__init__(login, flush)
        self.nexus = _nexus(login)
        self.commands = 0
        self.bytes_read = self.bytes_written = 0
        self.held_bytes = 0
        "Data of the commands that a device has."
        self.latencies: dict[LogicalUnit, Latency] = {}
        "Of each logical unit that the session has used."
        self.watchers: dict[int, list[Barrier]] = {}
        "Who waits for the end of a command, by its tag."
        self._shared = shared
        # Of each command: (opcode, flags, LUN, expected bytes, microseconds on the clock at its arrival).
        self._tasks: dict[int, tuple[int, int, int, int, int]] = {}
        self._r2ts: dict[int, int] = {}
        "How many R2Ts a command had, if any."
        self._silenced: set[int] = set()
        "Commands that their own initiator has aborted: they get no answer."
        self._gathered: dict[int, list[Command]] = {}
        self._done: dict[LogicalUnit, CommandsDone] = {}
        self._now_us = 0
        self._counted_bytes = 0
        "Those of `held_bytes` that the budget knows of."

    @property
    def in_device(self) -> int:
        """Commands that a logical unit has."""
        return len(self._tasks)

    def has_task(self, itt: int) -> bool:
        return itt in self._tasks

    def silence(self, barrier: Barrier, itts: Iterable[int]) -> None:
        """Let `barrier` watch commands that a logical unit has, and do not answer them (RFC 7143 11.6.1)."""
        silenced = list(itts)
        self._silenced.update(silenced)
        self.watch(barrier, silenced)

    def watch(self, barrier: Barrier, itts: Collection[int]) -> None:
        """Let `barrier` watch commands that a logical unit has, and tell it that they are aborted."""
        barrier.watch(self, itts)
        for itt in itts:
            task = self._tasks.get(itt)
            unit = None if task is None else self.unit(task[2])
            if unit is not None:
                unit.abort(self.nexus, itt)

    def unit(self, lun: int) -> LogicalUnit | None:
        """By the 8 bytes of a LUN field: one level, peripheral or flat addressing (SAM-5 4.7)."""
        if lun & (1 << 48) - 1:
            return None
        method, number = lun >> 62, lun >> 48 & 0x3FFF
        if method > 1 or (method == 0 and number > 0xFF):
            return None
        return self.nexus.luns.get(number)

    def begin(self) -> None:
        """PDUs follow, and `submit`: until then answers only gather."""
        self._receiving = True
        self._now_us = self._shared.clock() // 1000

    def submit(self) -> None:
        """Hand what was gathered to the logical units: the end of a wake-up."""
        if self._gathered:
            self._submit_gathered()
        self._receiving = False

    def _gather(
        self, lun: int, itt: int, opcode: int, flags: int, expected: int, cdb: bytes, data: Buffer | None
    ) -> None:
        self._tasks[itt] = (opcode, flags, lun, expected, self._now_us)
        self.held_bytes += expected if expected < TRANSFER_BYTES else TRANSFER_BYTES
        commands = self._gathered.get(lun)
        if commands is None:
            self._gathered[lun] = [(itt, cdb, data)]
        else:
            commands.append((itt, cdb, data))

    def _submit_gathered(self) -> None:
        gathered, self._gathered = self._gathered, {}
        self._shared.budget.take(self.held_bytes - self._counted_bytes)
        self._counted_bytes = self.held_bytes
        for lun, commands in gathered.items():
            unit = self.unit(lun)
            if unit is None:
                serve_absent(self.nexus, commands, self._ended_absent)
            else:
                unit.submit(self.nexus, commands, self._done.get(unit) or self._meet(unit))

    def _meet(self, unit: LogicalUnit) -> CommandsDone:
        self._shared.by_initiator.meet(self.nexus.initiator)
        latency = self.latencies[unit] = Latency()
        done = self._done[unit] = partial(self._ended, latency.counts)
        return done

    def _ended(self, counts: tuple[list[int], ...], completions: Sequence[Completion]) -> None:
        """Answer commands; `counts` are those of their logical unit's `Latency`."""
        if self.over:
            return self._release(completions)
        out, max_send, tasks = self.out, self._parameters.max_send_data_bytes, self._tasks
        now_us = self._shared.clock() // 1000
        released = 0
        for itt, status, payload, transfer in completions:
            opcode, flags, _, expected, since_us = tasks.pop(itt)
            released += expected if expected < TRANSFER_BYTES else TRANSFER_BYTES
            counts[flags >> 5 & 3][(now_us - since_us).bit_length()] += 1
            if not opcode & IMMEDIATE:
                self._max_cmd_sn = self._max_cmd_sn + 1 & WRAP
            r2ts = self._r2ts.pop(itt, 0) if self._r2ts else 0
            if self._silenced and itt in self._silenced:
                self._silenced.discard(itt)
                continue
            if status == CHECK_CONDITION:
                self._respond(itt, status, payload, expected, transfer, r2ts)
                continue
            size = min(len(payload), expected)
            if not flags & READ_FLAG or not size:
                self.bytes_written += transfer if flags & WRITE_FLAG else 0
                if expected != transfer:
                    self._respond(itt, status, b"", expected, transfer, r2ts)
                    continue
                # What _respond would say, for most writes.
                stat_sn = self._stat_sn
                self._stat_sn = stat_sn + 1 & WRAP
                # fmt: off
                out.append(SCSI_RESPONSE.pack(
                    0x21, FINAL, 0, status, 0, itt, stat_sn, self._exp_cmd_sn, self._max_cmd_sn, r2ts, 0, 0,
                ))
                # fmt: on
                continue
            if size < len(payload):
                payload = payload[:size]
            self.bytes_read += size
            if size <= max_send:
                under = expected - transfer
                residual = residual_flags(under)
                stat_sn = self._stat_sn
                self._stat_sn = stat_sn + 1 & WRAP
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
                sent = self._send_data(itt, memoryview(payload), max_send)
                self._respond(itt, status, b"", expected, transfer, r2ts + sent)
        self._give_back(released)
        if self.watchers:
            self._tell_watchers(completions)
        self._flush_later()
        return None

    def _ended_absent(self, completions: Sequence[Completion]) -> None:
        self._ended(Latency().counts, completions)

    def _release(self, completions: Sequence[Completion]) -> None:
        """Commands end for which nobody waits any more."""
        expected = [self._tasks.pop(itt)[3] for itt, *_ in completions]
        self._give_back(sum(min(size, TRANSFER_BYTES) for size in expected))
        self._tell_watchers(completions)

    def _give_back(self, size_bytes: int) -> None:
        self.held_bytes -= size_bytes
        self._counted_bytes -= size_bytes
        self._shared.budget.give_back(size_bytes)

    def _tell_watchers(self, completions: Sequence[Completion]) -> None:
        for itt, *_ in completions:
            for barrier in self.watchers.pop(itt, ()):
                barrier.ended()


def _nexus(login: Login) -> Nexus:
    if login.target is None or login.port is None:
        return Nexus(login.initiator, {}, login.isid)
    luns = login.node.luns_of(login.target, login.initiator)
    return Nexus(login.initiator, luns, login.isid, login.port)
