"""`--image-depth`: how fast an image 100,000 writes back is there, and what a read of it costs."""

import random
import statistics
import time
from pathlib import Path
from typing import Final

from iscsi_rp.control.appliance_models import ImageRequest
from tests.bench import load
from tests.bench.ours import GROUP, Ours
from tests.kit.initiator import Initiator

WRITES: Final = 100_000
SIZE_BYTES: Final = 4096
LUN_BYTES: Final = 1 << 30
LIMIT_S: Final = 1.0
READS: Final = 1000


def measure_depth(directory: Path) -> int:
    """The exit code says whether the first byte of the deepest image came within `LIMIT_S`."""
    ours = Ours.on_empty_file(directory, LUN_BYTES)
    try:
        ours.start()
        ours.split()
        load.write(ours.url, WRITES // 10, SIZE_BYTES, 32, scattered=True)
        before = ours.stack.appliance_api.group(GROUP).end
        load.write(ours.url, WRITES, SIZE_BYTES, 32, scattered=True)
        deepest_s = max(_open(ours, before, "before 100,000 writes") for _ in range(3))
        _open(ours, ours.stack.appliance_api.group(GROUP).sealed, "the newest")
    finally:
        ours.kill()
    print(f"image-depth: writes {WRITES} first_byte_s {deepest_s:.3f} limit_s {LIMIT_S}")
    return 0 if deepest_s < LIMIT_S else 1


def _open(ours: Ours, position: int, which: str) -> float:
    """Seconds from asking to the first block read by an initiator."""
    api = ours.stack.appliance_api
    asked_s = time.monotonic()
    access = api.enable_image(GROUP, ImageRequest(position=position))
    with Initiator(access.portal, access.iqn, luns=[access.luns[0].lun]) as initiator:
        initiator.read(access.luns[0].lun, 0, SIZE_BYTES)
        first_s = time.monotonic() - asked_s
        reads_us = [_read_us(initiator, access.luns[0].lun) for _ in range(READS)]
    api.disable_image(GROUP)
    median_us = statistics.median(reads_us)
    print(f"image {which} (position {position}): first byte {first_s:.3f} s, 4 KiB read {median_us:.0f} us")
    return first_s


def _read_us(initiator: Initiator, lun: int) -> float:
    offset = random.randrange(LUN_BYTES // SIZE_BYTES) * SIZE_BYTES
    began_s = time.monotonic()
    initiator.read(lun, offset, SIZE_BYTES)
    return (time.monotonic() - began_s) * 1e6
