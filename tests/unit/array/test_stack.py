"""The joint of a volume's stack: an exchange comes between operations, never into one."""

from collections.abc import Sequence
from typing import Any

import pytest

from iscsi_rp.array.stack import Joint
from iscsi_rp.block import MemoryDevice
from iscsi_rp.device import READ, WRITE, Done, Io, Result

SIZE = 4096


class Held(MemoryDevice):
    """Reports when it is told to."""

    def __init__(self) -> None:
        super().__init__(SIZE)
        self.waiting: list[tuple[Sequence[Io], Done]] = []

    def submit(self, batch: Sequence[Io], done: Done) -> None:
        self.waiting.append((batch, done))

    def go_on(self, count: int | None = None) -> None:
        """Do the first batch; `count` operations of it."""
        batch, done = self.waiting.pop(0)
        if count is not None and batch[count:]:
            self.waiting.insert(0, (batch[count:], done))
        super().submit(batch[:count], done)


def write(tag: int, data: bytes = b"w" * 512) -> Io:
    return (WRITE, tag * 512, len(data), data, False, tag)


def content(device: MemoryDevice) -> bytes:
    found: list[tuple[Any, Result]] = []
    MemoryDevice.submit(device, [(READ, 0, SIZE, None, False, None)], found.extend)
    data = found[0][1]
    assert isinstance(data, bytearray)
    return bytes(data)


def test_passes_what_it_gets() -> None:
    below = MemoryDevice(SIZE, block_size=512)
    joint = Joint(below)
    report: list[tuple[Any, Result]] = []
    joint.submit([write(0), write(1)], report.extend)
    assert report == [(0, None), (1, None)]
    assert (joint.size, joint.block_size, joint.read_only) == (SIZE, 512, False)


def test_an_idle_joint_exchanges_at_once() -> None:
    new = MemoryDevice(2 * SIZE)
    joint = Joint(MemoryDevice(SIZE))
    joint.exchange(lambda: new)
    assert joint.below is new
    assert joint.size == 2 * SIZE


def test_an_exchange_waits_for_every_operation_in_flight_and_what_comes_later_for_it() -> None:
    old, new = Held(), MemoryDevice(SIZE)
    joint = Joint(old)
    report: list[tuple[Any, Result]] = []
    joint.submit([write(0), write(1)], report.extend)
    joint.exchange(lambda: new)
    buffer = bytearray(b"l" * 512)
    joint.submit([write(2, memoryview(buffer))], report.extend)  # type: ignore[arg-type]
    buffer[:] = b"x" * 512  # the caller's again
    old.go_on(1)
    assert (joint.below, report) == (old, [(0, None)])
    old.go_on()
    assert (joint.below, report) == (new, [(0, None), (1, None), (2, None)])
    assert content(old) == b"w" * 1024 + bytes(SIZE - 1024)
    assert content(new) == bytes(1024) + b"l" * 512 + bytes(SIZE - 1536)


def test_one_exchange_at_a_time() -> None:
    old = Held()
    joint = Joint(old)
    joint.submit([write(0)], lambda _: None)
    joint.exchange(lambda: old)
    with pytest.raises(RuntimeError):
        joint.exchange(lambda: old)


def test_what_a_completion_submits_during_an_exchange_goes_to_the_new_device() -> None:
    old, new = Held(), MemoryDevice(SIZE)
    joint = Joint(old)
    joint.submit([write(0)], lambda _: joint.submit([write(1)], lambda _: None))
    joint.exchange(lambda: new)
    old.go_on()
    assert joint.below is new
    assert content(new)[512:1024] == b"w" * 512
