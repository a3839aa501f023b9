"""What a split volume sends to the splitter and what straight to its store."""

from collections.abc import Sequence
from typing import Any, cast

import pytest

from iscsi_rp.block import MemoryDevice
from iscsi_rp.device import MAP, READ, UNMAP, WRITE, ZERO, Done, Io
from iscsi_rp.splitter.device import SplitDevice
from iscsi_rp.splitter.group import GroupSplitter

BLOCK = 4096


class Writes:
    """Takes what a group is to split."""

    def __init__(self) -> None:
        self.ops: list[int] = []

    def write(self, volume: int, ios: Sequence[Io], done: Done) -> None:
        self.ops += [io[0] for io in ios]


@pytest.mark.parametrize(
    ("op", "split"), [(READ, False), (MAP, False), (WRITE, True), (ZERO, True), (UNMAP, True)]
)
def test_what_changes_blocks_is_split_and_nothing_else(op: int, split: bool) -> None:
    writes, answered = Writes(), list[tuple[Any, Any]]()
    device = SplitDevice(cast(GroupSplitter, writes), 0, MemoryDevice(1 << 20, block_size=BLOCK))
    data = bytes(BLOCK) if op == WRITE else None
    device.submit([(op, 0, BLOCK, data, False, "tag")], answered.extend)
    assert writes.ops == ([op] if split else [])
    assert len(answered) == (0 if split else 1)
