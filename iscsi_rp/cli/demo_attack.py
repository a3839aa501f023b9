"""What the host does to the LUN in the demonstration: work, then ransomware. All by a real initiator."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from iscsi_rp.cli.demo_files import BLOCK
from iscsi_rp.cli.demo_tools import BlockWriter

ATTACK_S: Final = 20.0
PATTERN: Final = 0xEE
OVERWRITE: Final = f"-P {PATTERN:#x}"
PAUSE_S: Final = 0.2
"Between the first encrypted block and the rest, so that the images on both sides are told apart by eye."


@dataclass(frozen=True, slots=True)
class Attack:
    """When the damage began, on the host's clock, and where."""

    before_ns: int
    "No block was encrypted yet."
    first_ns: int
    "`first_block` was encrypted, nothing else."
    first_block: int
    second_block: int
    blocks: int


def write_blocks(url: str, image: Path, blocks: Sequence[int]) -> None:
    """Bring these blocks of the LUN to what the local image holds."""
    with BlockWriter(url) as lun, image.open("rb") as content:
        for block in blocks:
            content.seek(block * BLOCK)
            piece = image.with_suffix(".block")
            piece.write_bytes(content.read(BLOCK))
            lun.write(f"-s {piece}", block * BLOCK, BLOCK)


def encrypt(url: str, blocks: Sequence[int], progress: Callable[[int], None]) -> Attack:
    """Overwrite `blocks` one after the other over `ATTACK_S`. `progress` is told how many are done."""
    with BlockWriter(url) as lun:
        before_ns = time.time_ns()
        lun.write(OVERWRITE, blocks[0] * BLOCK, BLOCK)
        first_ns = time.time_ns()
        time.sleep(PAUSE_S)
        began_s = time.monotonic()
        for done, block in enumerate(blocks[1:], start=2):
            lun.write(OVERWRITE, block * BLOCK, BLOCK)
            progress(done)
            time.sleep(max(0.0, began_s + ATTACK_S * done / len(blocks) - time.monotonic()))
    return Attack(before_ns, first_ns, blocks[0], blocks[1], len(blocks))
