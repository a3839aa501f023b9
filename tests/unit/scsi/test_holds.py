"""Holds: COMPARE AND WRITE and its like are atomic to every other command, whatever the device does.

The property test runs seeded commands of several nexuses over a device that answers late and in any order
that the contract allows, and looks for an order of the commands, one after the other, that explains every
answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import pytest

from iscsi_rp.block import MemoryDevice
from iscsi_rp.device import FLUSH, READ, WRITE, Done, Io, MediumError, Result
from iscsi_rp.scsi import Identity, LogicalUnit, Nexus
from iscsi_rp.scsi.holds import WAITING, Holds
from iscsi_rp.scsi.sense import TASK_SET_FULL

BLOCK = 512
BLOCKS = 4
NAA = bytes.fromhex("6001405000000000000000000000001a")


class LateDevice:
    """Memory that does operations when `turn` is called: first applies one, later reports it. Overlapping
    writes are applied in the order of their submission.
    """

    block_size = BLOCK
    size = BLOCKS * BLOCK
    read_only = False

    def __init__(self) -> None:
        self.data = bytearray(self.size)
        self.failing = False
        self._submitted: list[tuple[Io, Done]] = []
        self._applied: list[tuple[Any, Result, Done]] = []

    def submit(self, batch: Sequence[Io], done: Done) -> None:
        # The caller's buffer is valid only until this returns.
        for op, offset, length, data, fua, tag in batch:
            self._submitted.append(
                ((op, offset, length, None if data is None else bytes(data), fua, tag), done)
            )

    @property
    def busy(self) -> int:
        return len(self._submitted) + len(self._applied)

    def turn(self, choice: int) -> None:
        """Do one of the things that can be done next."""
        free = [index for index in range(len(self._submitted)) if self._may_apply(index)]
        choice %= len(free) + len(self._applied)
        if choice < len(free):
            io, done = self._submitted.pop(free[choice])
            self._applied.append((io[5], self._apply(io), done))
        else:
            tag, result, done = self._applied.pop(choice - len(free))
            done([(tag, result)])

    def finish(self) -> None:
        while self.busy:
            self.turn(0)

    def _may_apply(self, index: int) -> bool:
        op, offset, length = self._submitted[index][0][:3]
        if op == READ:
            return True
        return not any(
            io[0] != READ and io[1] < offset + length and offset < io[1] + io[2]
            for io, _ in self._submitted[:index]
        )

    def _apply(self, io: Io) -> Result:
        op, offset, length, data, _, _ = io
        if self.failing:
            return MediumError()
        if op == READ:
            return bytes(self.data[offset : offset + length])
        if op != FLUSH:
            self.data[offset : offset + length] = bytes(length) if data is None else data
        return None


def ready(device: Any, nexuses: int) -> tuple[LogicalUnit, list[Nexus]]:
    """A unit, and nexuses that have been told everything."""
    unit = LogicalUnit(device, Identity(NAA, "t"))
    found = [Nexus(f"iqn.2026-01.test:{each}", {0: unit}) for each in range(nexuses)]
    for nexus in found:
        unit.submit(nexus, [(0, bytes((0x03, 0, 0, 0, 18)).ljust(16, b"\0"), None)], lambda _: None)
    return unit, found


def cdb_16(code: int, lba: int, blocks: int, *, flags: int = 0) -> bytes:
    return bytes((code, flags)) + lba.to_bytes(8, "big") + blocks.to_bytes(4, "big") + b"\0\0"


def content(values: Sequence[int]) -> bytes:
    return b"".join(bytes((value,)) * BLOCK for value in values)


@dataclass
class Call:
    """One command on one block range: what it was, and when it began and ended."""

    kind: str
    lba: int
    values: tuple[int, ...]
    "What it writes."
    expected: tuple[int, ...] = ()
    "What it compares with."
    began: int = 0
    ended: int = 0
    status: int = -1
    read: tuple[int, ...] = ()

    def command(self, tag: int) -> tuple[int, bytes, bytes | None]:
        blocks = len(self.values)
        if self.kind == "read":
            return tag, cdb_16(0x88, self.lba, blocks), None
        if self.kind == "write":
            return tag, cdb_16(0x8A, self.lba, blocks), content(self.values)
        if self.kind == "orwrite":
            return tag, cdb_16(0x8B, self.lba, blocks), content(self.values)
        if self.kind == "verified":
            return tag, cdb_16(0x8E, self.lba, blocks, flags=0x02), content(self.values)
        return tag, cdb_16(0x89, self.lba, blocks), content((*self.expected, *self.values))

    def explains(self, state: tuple[int, ...]) -> tuple[int, ...] | None:
        """The state after it, if its answer is what it had to be in `state`."""
        end = self.lba + len(self.values)
        stored = state[self.lba : end]
        if self.kind == "read":
            return state if stored == self.read else None
        if self.kind == "cas":
            if (stored == self.expected) != (self.status == 0):
                return None
            after = self.values if self.status == 0 else stored
        elif self.kind == "orwrite":
            after = tuple(a | b for a, b in zip(stored, self.values, strict=True))
        elif self.status:
            return None
        else:
            after = self.values
        return state[: self.lba] + after + state[end:]


def explained(calls: list[Call], final: tuple[int, ...]) -> bool:
    """Whether some order of the calls, where who ended before another began is before it, explains them."""
    seen: set[tuple[frozenset[int], tuple[int, ...]]] = set()

    def search(left: frozenset[int], state: tuple[int, ...]) -> bool:
        if not left:
            return state == final
        if (left, state) in seen:
            return False
        seen.add((left, state))
        first_end = min(calls[index].ended for index in left)
        for index in left:
            if calls[index].began <= first_end:
                after = calls[index].explains(state)
                if after is not None and search(left - {index}, after):
                    return True
        return False

    return search(frozenset(range(len(calls))), (0,) * BLOCKS)


def a_call(random: Random) -> Call:
    kind = random.choice(["cas", "cas", "orwrite", "verified", "write", "read"])
    # A write or read of several blocks is not atomic on any disk, so those have one.
    count = random.choice([1, 2]) if kind in ("cas", "orwrite", "verified") else 1
    lba = random.randrange(BLOCKS - count + 1)
    expected = tuple(random.choices([0, 0, 1, 2], k=count)) if kind == "cas" else ()
    return Call(kind, lba, tuple(random.choices([1, 2, 3], k=count)), expected)


class Scenario:
    """Commands of three nexuses, some in one batch, with turns of the device between the batches."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.device = LateDevice()
        self.unit, self.nexuses = ready(self.device, 3)
        self.calls: list[Call] = []
        self._clock = 0

    def run(self) -> None:
        for _ in range(4):
            batch = [self._begin(a_call(self.random)) for _ in range(self.random.choice([1, 1, 2, 3]))]
            self.unit.submit(self.random.choice(self.nexuses), batch, self._done)
            self._turns(self.random.choice([0, 0, 1, 2, 4]))
        self._turns(1000)

    def _begin(self, call: Call) -> tuple[int, bytes, bytes | None]:
        self._clock += 1
        call.began = self._clock
        self.calls.append(call)
        return call.command(len(self.calls) - 1)

    def _turns(self, count: int) -> None:
        while count and self.device.busy:
            self.device.turn(self.random.randrange(100))
            count -= 1

    def _done(self, completions: Sequence[tuple[int, int, Any, int]]) -> None:
        for tag, status, payload, _ in completions:
            call = self.calls[tag]
            assert call.status == -1, "answered twice"
            self._clock += 1
            call.ended, call.status = self._clock, status
            if call.kind == "read":
                call.read = tuple(payload[::BLOCK])


def test_any_answers_are_those_of_one_command_after_the_other() -> None:
    swapped = 0
    for seed in range(1500):
        scenario = Scenario(seed)
        scenario.run()
        assert all(call.status in (0, 2) for call in scenario.calls), seed
        assert explained(scenario.calls, tuple(scenario.device.data[::BLOCK])), seed
        assert not scenario.unit.holds._entries, seed
        swapped += sum(call.kind == "cas" and not call.status for call in scenario.calls)
    assert swapped > 500


def test_what_does_not_overlap_passes_a_hold() -> None:
    device = LateDevice()
    unit, (nexus,) = ready(device, 1)
    ended: list[int] = []

    def done(completions: Sequence[tuple[int, int, Any, int]]) -> None:
        ended.extend(tag for tag, *_ in completions)

    swap = Call("cas", 0, (1,), (0,))
    write = [Call("write", lba, (2,)).command(lba + 1) for lba in range(3)]
    unit.submit(nexus, [swap.command(0), *write], done)
    device.turn(1)  # the write to block 1, behind the read of the swap
    device.turn(2)
    assert ended == [2]
    device.finish()
    assert sorted(ended) == [0, 1, 2, 3]
    assert tuple(device.data[::BLOCK]) == (2, 2, 2, 0)


def test_no_read_is_in_the_device_beside_an_atomic_write() -> None:
    device = LateDevice()
    unit, (nexus,) = ready(device, 1)
    atomic = bytes((0x9C, 0)) + bytes(8) + bytes((0, 0, 0, 1, 0, 0))
    unit.submit(nexus, [(0, atomic, content((1,))), Call("read", 0, (0,)).command(1)], lambda _: None)
    assert device.busy == 1
    device.finish()
    assert device.data[0] == 1


def test_a_waiting_write_owns_its_data() -> None:
    device = LateDevice()
    unit, (nexus,) = ready(device, 1)
    buffer = bytearray(content((7,)))
    unit.submit(nexus, [Call("cas", 0, (1,), (0,)).command(0)], lambda _: None)
    unit.submit(nexus, [(1, cdb_16(0x8A, 0, 1), memoryview(buffer))], lambda _: None)
    buffer[:] = bytes(BLOCK)
    device.finish()
    assert device.data[0] == 7


@pytest.mark.parametrize("code", [0x89, 0x8B, 0x8E])
def test_a_device_that_fails_gives_the_blocks_free(code: int) -> None:
    device = LateDevice()
    unit, (nexus,) = ready(device, 1)
    statuses: list[int] = []

    def done(completions: Sequence[tuple[int, int, Any, int]]) -> None:
        statuses.extend(status for _, status, *_ in completions)

    data = content((0, 1)) if code == 0x89 else content((1,))
    device.failing = True
    unit.submit(nexus, [(0, cdb_16(code, 0, 1), data)], done)
    device.finish()
    device.failing = False
    unit.submit(nexus, [(1, cdb_16(code, 0, 1), data)], done)
    device.finish()
    assert statuses == [2, 0]
    assert device.data[0] == 1


def test_a_chain_of_waiting_commands_is_bounded_and_no_recursion() -> None:
    device = MemoryDevice(BLOCKS * BLOCK)
    unit, (nexus,) = ready(device, 1)
    gate: list[Any] = []
    unit.holds.hold([(0, BLOCK)], gate.append)
    statuses: dict[int, int] = {}

    def done(completions: Sequence[tuple[int, int, Any, int]]) -> None:
        statuses.update((tag, status) for tag, status, *_ in completions)

    steps = range(WAITING)
    swaps = [Call("cas", 0, (step + 1 & 0xFF,), (step & 0xFF,)).command(step) for step in steps]
    unit.submit(nexus, swaps, done)
    assert not statuses
    full = [
        Call(kind, 0, (1,), (1,)).command(-1 - tag) for tag, kind in enumerate(("cas", "write", "verified"))
    ]
    unit.submit(nexus, [*full, Call("write", 1, (5,)).command(-4)], done)
    assert statuses == {-1: TASK_SET_FULL, -2: TASK_SET_FULL, -3: TASK_SET_FULL, -4: 0}
    unit.holds.end(gate[0])
    assert [statuses[step] for step in steps] == [0] * WAITING
    assert not unit.holds._entries
    assert not unit.holds._exclusive


def test_holds_of_several_ranges_wait_for_each() -> None:
    device = LateDevice()
    holds = Holds(device)
    order: list[str] = []

    def then(name: str) -> Any:
        def held(entry: Any) -> None:
            order.append(name)
            holds.end(entry)

        return held

    holds.submit([(WRITE, 2 * BLOCK, BLOCK, content((1,)), False, 0)], lambda _: order.append("write"))
    holds.hold([(0, BLOCK), (2 * BLOCK, BLOCK)], then("both"))
    holds.hold([(0, BLOCK)], then("behind"))
    holds.hold([(BLOCK, BLOCK)], then("free"))
    device.finish()
    assert order == ["free", "write", "both", "behind"]


def test_a_command_sees_what_came_before_it_in_its_batch() -> None:
    device = LateDevice()
    unit, (nexus,) = ready(device, 1)
    statuses: dict[int, int] = {}

    def done(completions: Sequence[tuple[int, int, Any, int]]) -> None:
        statuses.update((tag, status) for tag, status, *_ in completions)

    commands = Call("write", 0, (1,)).command(0), Call("cas", 0, (2,), (1,)).command(1)
    unit.submit(nexus, commands, done)
    device.finish()
    assert statuses == {0: 0, 1: 0}
    assert device.data[0] == 2
