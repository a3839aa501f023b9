"""Runs in the guest: the least that serves a user backstore, so that Linux makes disks of its LUNs. It says
that it is a disk, and has zeros. Argument: the backstore's name. Says `serves` once it does.
"""

import mmap
import os
import select
import sys
from pathlib import Path
from typing import Final

from iscsi_rp.tcmu import Ring, TaskManagement

INQUIRY: Final = 0x12
BLOCK: Final = 512


def answer(cdb: bytes) -> tuple[int, bytes]:
    """Status and data."""
    if cdb[0] == INQUIRY and cdb[1] == 0:
        return 0, bytes((0, 0, 6, 2, 31, 0, 0, 2)) + b"TEST    HANDLER         1   "
    if cdb[0] in (0x00, 0x28, 0x2A, 0x35, 0x88, 0x8A):  # TEST UNIT READY, reads, writes, SYNCHRONIZE CACHE
        return 0, b""
    if cdb[0] == 0x25:  # READ CAPACITY (10)
        return 0, (2047).to_bytes(4, "big") + BLOCK.to_bytes(4, "big")
    return 2, bytes((0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0))


def device(name: str) -> Path:
    """The `/dev/uioN` of the backstore."""
    for each in Path("/sys/class/uio").iterdir():
        if f"/{name}/" in (each / "name").read_text():
            return Path("/dev", each.name)
    raise LookupError(name)


def serve(name: str) -> None:
    path = device(name)
    size = int(Path("/sys/class/uio", path.name, "maps/map0/size").read_text(), 16)
    uio = os.open(path, os.O_RDWR)
    ring = Ring(memoryview(mmap.mmap(uio, size)))
    print("serves", flush=True)
    while True:
        found = ring.take(64)
        if not found:
            select.select([uio], [], [])
            os.read(uio, 4)
            continue
        commands = [each for each in found if not isinstance(each, TaskManagement)]
        ring.complete([(tag, *answer(cdb), 0) for tag, cdb, _ in commands])
        os.write(uio, bytes(4))


if __name__ == "__main__":
    serve(sys.argv[1])
