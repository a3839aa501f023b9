"""A target in a process of its own, for real initiators: files as LUNs 0, 1, ..., served on two portals.

The first portal belongs to storage processor A, portal group 1, the second to B, portal group 2.
`python -m tests.kit.target_process FILE...` prints the two ports that it serves on and runs until its
standard input ends.
"""

import argparse
import asyncio
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final
from unittest import mock

import structlog

from iscsi_rp.block import FileDevice
from iscsi_rp.device import FLUSH, READ, Done, Io
from iscsi_rp.errors import Error
from iscsi_rp.frontend import IscsiServer, iscsi_server
from iscsi_rp.scsi import Identity, LogicalUnit
from iscsi_rp.scsi.alua import PortGroups

IQN: Final = "iqn.2026-01.io.iscsi-rp:test"
NAA: Final = bytes.fromhex("6001405000000000000000000000001a")
"Of LUN 0; each further one has the next number."
_PORTAL_GROUPS: Final = (1, 2)


@dataclass(frozen=True, slots=True)
class TargetProcess:
    """A target that runs."""

    pid: int
    ports: tuple[int, int]
    "TCP ports of SP A and SP B on 127.0.0.1."

    def url(self, lun: int = 0, *, processor: int = 0) -> str:
        """`iscsi://127.0.0.1:PORT/IQN/LUN` through SP A (0) or SP B (1)."""
        return f"iscsi://127.0.0.1:{self.ports[processor]}/{IQN}/{lun}"


class SlowDevice(FileDevice):
    """Writes take their time, one batch after the other."""

    write_s_per_mib = 0.0
    _free_s = 0.0

    def submit(self, batch: Sequence[Io], done: Done) -> None:
        size = sum(length for op, _, length, *_ in batch if op not in (READ, FLUSH))
        if not size or not self.write_s_per_mib:
            return super().submit(batch, done)
        loop = asyncio.get_running_loop()
        self._free_s = max(self._free_s, loop.time()) + self.write_s_per_mib * size / (1 << 20)
        kept: list[Io] = [(*io[:3], None if io[3] is None else bytes(io[3]), *io[4:]) for io in batch]
        loop.call_at(self._free_s, super().submit, kept, done)
        return None


async def serve(
    paths: list[Path], block_size: int, physical_block_size: int, port: int, write_s_per_mib: float
) -> None:
    devices = [SlowDevice(path, block_size=block_size) for path in paths]
    for device in devices:
        device.write_s_per_mib = write_s_per_mib
    units = {
        lun: LogicalUnit(
            device,
            _identity(lun),
            physical_block_size=physical_block_size,
            port_groups=PortGroups({group: (group,) for group in _PORTAL_GROUPS}),
            save=partial(_save, path.with_name(f"{path.name}.registrations")),
        )
        for lun, (path, device) in enumerate(zip(paths, devices, strict=True))
    }
    server = IscsiServer()
    server.add_target(IQN, units)
    for group, wanted in zip(_PORTAL_GROUPS, (port, 0), strict=True):
        print((await server.listen("127.0.0.1", wanted, portal_group=group))[1], end=" ")
    print(flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await server.close(1.0)
    for device in devices:
        await device.close()


def _save(path: Path, registrations: bytes, done: Callable[[Error | None], None]) -> None:
    """Persistent reservations that survive a loss of power."""
    path.write_bytes(registrations)
    done(None)


def _identity(lun: int) -> Identity:
    return Identity((int.from_bytes(NAA, "big") + lun).to_bytes(16, "big"), f"test-{lun + 1}")


@contextmanager
def target_processes(
    *paths: Path,
    block_size: int = 512,
    physical_block_size: int = 4096,
    write_s_per_mib: float = 0.0,
    tick_s: float = iscsi_server.TICK_S,
) -> Iterator[TargetProcess]:
    """Serves `paths` as LUN 0, 1, ...; the process ends with the block, by itself."""
    sizes = [f"--block-size={block_size}", f"--physical-block-size={physical_block_size}"]
    sizes += [f"--write-s-per-mib={write_s_per_mib}", f"--tick-s={tick_s}"]
    command = [sys.executable, "-m", "tests.kit.target_process", *sizes, *map(str, paths)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        first, second = map(int, process.stdout.readline().split())
        yield TargetProcess(process.pid, (first, second))
    finally:
        process.stdin.close()
        code = process.wait(10)
        process.stdout.close()
    if code:
        raise RuntimeError(f"the target process ended with {code}")


@contextmanager
def target_process(path: Path, *, block_size: int = 512, physical_block_size: int = 4096) -> Iterator[str]:
    """The URL of LUN 0 through SP A; the process ends with the block, by itself."""
    with target_processes(path, block_size=block_size, physical_block_size=physical_block_size) as target:
        yield target.url()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.kit.target_process")
    parser.add_argument("--block-size", type=int, default=512)
    parser.add_argument("--physical-block-size", type=int, default=4096)
    parser.add_argument("--write-s-per-mib", type=float, default=0.0)
    parser.add_argument("--tick-s", type=float, default=iscsi_server.TICK_S)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    return parser.parse_args()


if __name__ == "__main__":
    _given = _options()
    _sizes = _given.block_size, _given.physical_block_size
    # Standard output is a pipe that is read once, for the ports.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    with mock.patch.object(iscsi_server, "TICK_S", _given.tick_s):
        asyncio.run(serve(_given.files, *_sizes, _given.port, _given.write_s_per_mib))
