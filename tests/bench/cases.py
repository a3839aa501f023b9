"""What is measured: the work, its block size, its depth, and whether the LUN is split."""

from dataclasses import dataclass
from typing import Final, Literal

Work = Literal["randread", "read", "randwrite", "write"]

WORKS: Final[tuple[Work, ...]] = ("randread", "read", "randwrite", "write")
SIZES_KIB: Final = (4, 64)
LARGE_KIB: Final = 1024
DEPTHS: Final = (1, 32)

QUICK: Final = ("randread-4k-qd32-unsplit", "randwrite-4k-qd32-unsplit", "randwrite-4k-qd32-split")


@dataclass(frozen=True, slots=True)
class Case:
    work: Work
    size_kib: int
    depth: int
    split: bool
    "Ours is split; tgt never is."

    @property
    def name(self) -> str:
        size = f"{self.size_kib}k" if self.size_kib < LARGE_KIB else f"{self.size_kib // LARGE_KIB}m"
        return f"{self.work}-{size}-qd{self.depth}-{'split' if self.split else 'unsplit'}"

    @property
    def size_bytes(self) -> int:
        return self.size_kib << 10

    @property
    def writes(self) -> bool:
        return self.work in ("write", "randwrite")

    @property
    def scattered(self) -> bool:
        return self.work in ("randread", "randwrite")


def all_cases() -> list[Case]:
    """Unsplit first: a LUN is split once, for all cases that want it."""
    large: list[Work] = ["read", "write"]
    unsplit = [Case(work, LARGE_KIB, depth, split=False) for depth in DEPTHS for work in large]
    return unsplit + [
        Case(work, size_kib, depth, split)
        for split in (False, True)
        for size_kib in SIZES_KIB
        for depth in DEPTHS
        for work in WORKS
    ]
