"""A host that works all the time, in a process of its own: `python -m tests.soak.worker PORTAL IQN LUN`.

It reads and writes 4 KiB blocks, 8 deep, until its standard input ends, checks every status and every block
read, and then prints one line of JSON: commands, errors, refusals with TASK SET FULL, latencies.
"""

import json
import random
import select
import sys
import time
from typing import Final

from iscsi_rp.scsi.sense import TASK_SET_FULL
from tests.kit.initiator import GOOD, Initiator

BLOCK_BYTES: Final = 4096
BLOCKS: Final = 1024
DEPTH: Final = 8
_STATUS_S: Final = 60


class Worker:
    def __init__(self, initiator: Initiator, lun: int) -> None:
        self._initiator, self._lun = initiator, lun
        self._random = random.Random(1)
        self._content = [0] * BLOCKS
        self._busy: set[int] = set()
        self._unsure = set(range(BLOCKS))
        self.errors = self.busy = 0
        self.latencies_s: list[float] = []

    def step(self) -> None:
        while self._initiator.in_flight < DEPTH:
            self._start()
        self._initiator.poll()

    def _start(self) -> None:
        block = self._random.randrange(BLOCKS)
        if block in self._busy:
            return
        self._busy.add(block)
        # A block is read only once it is known what it holds: a write of it was taken.
        writes = block in self._unsure or self._random.random() < 0.5
        self._unsure.discard(block)
        if writes:
            self._content[block] = self._random.getrandbits(8)
        data = bytes((self._content[block],)) * BLOCK_BYTES
        began_s = time.monotonic()

        def done(found: bytes | None, status: int | None) -> None:
            self.latencies_s.append(time.monotonic() - began_s)
            self._busy.discard(block)
            self.busy += status == TASK_SET_FULL
            if status == TASK_SET_FULL:
                self._unsure.add(block)
            else:
                self.errors += status != GOOD or (not writes and found != data)

        if writes:
            self._initiator.submit_write(self._lun, block * BLOCK_BYTES, data, done)
        else:
            self._initiator.submit_read(self._lun, block * BLOCK_BYTES, BLOCK_BYTES, done)


def main(portal: str, iqn: str, lun: int) -> None:
    with Initiator(portal, iqn, luns=[lun], timeout_s=_STATUS_S) as initiator:
        worker = Worker(initiator, lun)
        print("working", flush=True)
        while not select.select([sys.stdin], [], [], 0)[0]:
            worker.step()
        initiator.drain()
    latencies = sorted(worker.latencies_s)
    found = {
        "commands": len(latencies),
        "errors": worker.errors,
        "busy": worker.busy,
        "p50_ms": 1000 * latencies[len(latencies) // 2],
        "p99_ms": 1000 * latencies[len(latencies) * 99 // 100],
        "longest_ms": 1000 * latencies[-1],
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
