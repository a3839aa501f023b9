"""Runs in the guest: a handler in front of a store that waits while it is told to. Argument: what is done to
it meanwhile, a function of this module.
"""

import asyncio
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from iscsi_rp.block import MemoryDevice
from iscsi_rp.device import WRITE, Done, Io
from iscsi_rp.frontend.lio import Backstore, Desired, Loopback, Owned, apply, disk_of, ensure, plan, port_naa
from iscsi_rp.frontend.tcmu_device import TcmuDevice
from iscsi_rp.frontend.tcmu_server import TcmuServer
from iscsi_rp.scsi import Identity, LogicalUnit

SIZE: Final = 16 << 20
SERIAL: Final = "33333333-3333-4333-8333-333333333333"
NAA: Final = port_naa(SERIAL)
NAME: Final = "held"
HELD: Final = Desired([Backstore(NAME, SERIAL, SIZE, 512)], None, [Loopback(NAA, NAME)])


class Store:
    """In memory; while `holding`, writes wait."""

    def __init__(self) -> None:
        self._below = MemoryDevice(SIZE, block_size=512)
        self.size, self.block_size, self.read_only = SIZE, 512, False
        self.holding = False
        self.waiting: list[tuple[list[Io], Done]] = []

    def submit(self, batch: Sequence[Io], done: Done) -> None:
        if self.holding and any(io[0] == WRITE for io in batch):
            self.waiting.append(([_owned(io) for io in batch], done))
        else:
            self._below.submit(batch, done)

    def go_on(self) -> None:
        self.holding = False
        waiting, self.waiting = self.waiting, []
        for batch, done in waiting:
            self._below.submit(batch, done)


def _owned(io: Io) -> Io:
    op, offset, length, data, fua, tag = io
    return op, offset, length, None if data is None else bytes(data), fua, tag


async def until(what: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not what():
            await asyncio.sleep(0.02)


def write(disk: str, byte: int) -> "subprocess.Popen[bytes]":
    """Begins to write that byte into the first block."""
    process = subprocess.Popen(
        ["dd", f"of={disk}", "bs=4096", "oflag=direct", "status=none"], stdin=subprocess.PIPE
    )
    assert process.stdin is not None
    process.stdin.write(bytes((byte,)) * 4096)
    process.stdin.close()
    return process


def first_byte(disk: str, block: int = 0) -> int:
    command = ["dd", f"if={disk}", "bs=4096", "count=1", f"skip={block}", "iflag=direct", "status=none"]
    return subprocess.run(command, check=True, capture_output=True, timeout=30).stdout[0]


async def withdrawn(server: TcmuServer, unit: LogicalUnit, store: Store, disk: str) -> None:
    """A handler lets go of a backstore while a write is in the store, and takes it over again."""
    store.holding = True
    process = write(disk, 1)
    await until(lambda: store.waiting)
    # Answered before the write: the entries do not say any more which of them is open.
    assert await asyncio.to_thread(first_byte, disk, 1) == 0
    await server.withdraw(NAME, grace_s=0.2)
    assert not server.devices(NAME)
    await server.serve(NAME, unit)
    await asyncio.sleep(0.5)
    store.go_on()
    assert await asyncio.to_thread(process.wait, 20) == 0
    assert await asyncio.to_thread(first_byte, disk) == 1


async def broken(server: TcmuServer, unit: LogicalUnit, store: Store, disk: str) -> None:
    """The ring is broken while a write is in the store. What comes after it is not overwritten by it."""
    store.holding = True
    process = write(disk, 1)
    await until(lambda: store.waiting)
    (device,) = server.devices(NAME)
    device._ring._at += 4  # no entry begins there
    device._drain()
    assert not server.devices(NAME)
    await asyncio.sleep(0.5)
    assert len(store.waiting) == 1  # the second try is not served before the first one has ended
    store.go_on()
    assert await asyncio.to_thread(process.wait, 20) == 0
    assert await asyncio.to_thread(first_byte, disk) == 1


def _is_gone(server: TcmuServer, device: TcmuDevice) -> bool:
    return device not in server.devices(NAME)


async def reset(server: TcmuServer, unit: LogicalUnit, store: Store, disk: str) -> None:
    """Somebody else has the kernel reset the ring, while a write is in the store and after."""
    for number in (1, 2):
        store.holding = True
        process = write(disk, number)
        await until(lambda: store.waiting)
        (device,) = server.devices(NAME)
        for file, value in (("block_dev", "1"), ("reset_ring", "1"), ("block_dev", "0")):
            (device.place.configfs / "action" / file).write_text(value)
        if number == 1:
            store.go_on()  # its answer is late
        else:
            # What comes next is what tells.
            other = asyncio.create_task(asyncio.to_thread(first_byte, disk, 1))
            await until(partial(_is_gone, server, device))
            store.go_on()
            assert await other == 0
        assert await asyncio.to_thread(process.wait, 20) == 0
        assert await asyncio.to_thread(first_byte, disk) == number
        assert _is_gone(server, device)
        await until(lambda: server.devices(NAME))


async def busy(server: TcmuServer, unit: LogicalUnit, store: Store, disk: str) -> None:
    """Another process has the backstore for a while."""
    process = await _taken_over_late(server, unit, disk, blocked=False)
    assert await asyncio.to_thread(process.wait, 20) == 0


async def busy_and_blocked(server: TcmuServer, unit: LogicalUnit, store: Store, disk: str) -> None:
    """The same, while LIO is not yet as it should be: the second try leaves it blocked, too."""
    process = await _taken_over_late(server, unit, disk, blocked=True)
    await asyncio.sleep(1)
    assert process.poll() is None
    await server.unblock(NAME)
    assert await asyncio.to_thread(process.wait, 20) == 0


async def _taken_over_late(
    server: TcmuServer, unit: LogicalUnit, disk: str, *, blocked: bool
) -> "subprocess.Popen[bytes]":
    """By a second try; a write that began before it."""
    (device,) = server.devices(NAME)
    await server.withdraw(NAME)
    script = "import os, sys, time; os.open(sys.argv[1], os.O_RDWR); print(flush=True); time.sleep(3)"
    other = subprocess.Popen(
        [sys.executable, "-c", script, f"/dev/uio{device.place.minor}"], stdout=subprocess.PIPE
    )
    assert other.stdout is not None
    other.stdout.readline()
    await server.serve(NAME, unit, blocked=blocked)
    assert not server.devices(NAME)
    process = write(disk, 1)
    await until(lambda: server.devices(NAME))
    other.wait()
    return process


async def twice(server: TcmuServer, unit: LogicalUnit, store: Store, disk: str) -> None:
    """Somebody has made other backstores of the same volume. After a restart it is the first one still."""
    others = [Path(f"/sys/kernel/config/target/core/user_{number}/a{number}") for number in range(90, 96)]
    for other in others:
        other.mkdir(parents=True)
        for file, value in (
            ("control", f"dev_config=rpsplit/{NAME}"),
            ("control", f"dev_size={SIZE}"),
            ("attrib/nl_reply_supported", "-1"),
            ("enable", "1"),
        ):
            (other / file).write_text(value)
    await server.withdraw(NAME)
    await server.serve(NAME, unit)
    assert [device.place.name for device in server.devices(NAME)] == [NAME]
    assert await asyncio.to_thread(first_byte, disk) == 0
    for other in others:
        other.rmdir()


async def overrun(server: TcmuServer, unit: LogicalUnit, store: Store, disk: str) -> None:
    """More happens than the socket of events holds."""
    await server.serve("late", LogicalUnit(Store(), unit.identity))
    late = Backstore("late", SERIAL.replace("3", "4"), SIZE, 512)
    others = Desired([*HELD.backstores, replace(late, name="other")], None, HELD.loopbacks)
    owned = Owned.of(others)
    server._netlink._events.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # the least there is
    for _ in range(10):  # here, where nobody reads them meanwhile
        apply(plan(others, owned=owned))
        apply(plan(HELD, owned=owned))
    both = Desired([*HELD.backstores, late], None, HELD.loopbacks)
    apply(plan(both, owned=owned))
    await until(lambda: server.devices("late"))
    for _ in range(2):
        await asyncio.to_thread(lambda: apply(plan(HELD, owned=Owned.of(both))))
        await until(lambda: not server.devices("late"))
        await asyncio.to_thread(lambda: apply(plan(both, owned=owned)))
        await until(lambda: server.devices("late"))
    await asyncio.to_thread(lambda: apply(plan(HELD, owned=Owned.of(both))))
    assert server.devices(NAME)


async def main(story: Callable[[TcmuServer, LogicalUnit, Store, str], Awaitable[None]]) -> None:
    await asyncio.to_thread(ensure)
    subprocess.run(["modprobe", "sd_mod"], check=True)
    store = Store()
    unit = LogicalUnit(store, Identity(bytes.fromhex("6" + "0" * 31), SERIAL))
    server = TcmuServer(lambda event, config: None)
    await server.start()
    await server.serve(NAME, unit)
    await asyncio.to_thread(lambda: apply(plan(HELD, owned=Owned())))
    await until(lambda: disk_of(NAA))
    disk = disk_of(NAA)
    assert disk is not None
    await story(server, unit, store, disk)
    await asyncio.to_thread(lambda: apply(plan(Desired(), owned=Owned.of(HELD))))
    await server.close(1.0)


if __name__ == "__main__":
    asyncio.run(main(globals()[sys.argv[1]]))
