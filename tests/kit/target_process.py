"""A target in a process of its own, for real initiators: one file as LUN 0.

`python -m tests.kit.target_process FILE BLOCK_SIZE PHYSICAL_BLOCK_SIZE [PORT]` prints the port it serves on
and runs until its standard input ends.
"""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from iscsi_rp.block import FileDevice
from iscsi_rp.frontend import IscsiServer
from iscsi_rp.scsi import Identity, LogicalUnit

IQN: Final = "iqn.2026-01.io.iscsi-rp:test"
NAA: Final = bytes.fromhex("6001405000000000000000000000001a")


async def serve(path: str, block_size: int, physical_block_size: int, port: int = 0) -> None:
    device = FileDevice(path, block_size=block_size)
    unit = LogicalUnit(device, Identity(NAA, "test-1"), physical_block_size=physical_block_size)
    server = IscsiServer()
    server.add_target(IQN, {0: unit})
    print((await server.listen("127.0.0.1", port))[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await server.close(1.0)
    await device.close()


@contextmanager
def target_process(path: Path, *, block_size: int = 512, physical_block_size: int = 4096) -> Iterator[str]:
    """The URL of LUN 0, `iscsi://127.0.0.1:PORT/IQN/0`; the process ends with the block, by itself."""
    sizes = str(block_size), str(physical_block_size)
    command = [sys.executable, "-m", "tests.kit.target_process", str(path), *sizes]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield f"iscsi://127.0.0.1:{int(process.stdout.readline())}/{IQN}/0"
    finally:
        process.stdin.close()
        code = process.wait(10)
        process.stdout.close()
    if code:
        raise RuntimeError(f"the target process ended with {code}")


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], *(int(argument) for argument in sys.argv[2:])))
