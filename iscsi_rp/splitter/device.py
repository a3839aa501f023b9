"""The splitter as a layer of the stack: a BlockDevice over a volume's store. Reads pass; what changes
blocks is split.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from iscsi_rp.device import FLUSH, READ, UNMAP, BlockDevice, Done, Io, NotReadyError, Result

if TYPE_CHECKING:
    from iscsi_rp.splitter.group import GroupSplitter


class SplitDevice:
    """One volume of a group, as the logical unit sees it."""

    def __init__(self, group: "GroupSplitter", index: int, store: BlockDevice) -> None:
        self._group = group
        self._index = index
        self.store = store
        self.blocked: str | None = None
        "Why hosts have no access; durable elsewhere, where it has to survive a restart."

    @property
    def size(self) -> int:
        return self.store.size

    @property
    def block_size(self) -> int:
        return self.store.block_size

    @property
    def read_only(self) -> bool:
        return self.store.read_only

    def submit(self, batch: Sequence[Io], done: Done) -> None:
        if self.blocked is not None:
            refused = NotReadyError(self.blocked)
            done([(io[5], refused) for io in batch])
            return
        self.submit_behind_block(batch, done)

    def submit_behind_block(self, batch: Sequence[Io], done: Done) -> None:
        """As `submit`, also while hosts are blocked: for the restore that they are blocked for."""
        reads = []
        writes = []
        for io in batch:
            op = io[0]
            if op == READ:
                reads.append(io)
            elif op <= UNMAP:
                writes.append(io)
            elif op == FLUSH:
                self._flush(io[5], done)
            else:
                reads.append(io)
        if reads:
            self.store.submit(reads, done)
        if writes:
            self._group.write(self._index, writes, done)

    def _flush(self, tag: Any, done: Done) -> None:
        """A flush that the host asked for also tells the appliance what is stored."""

        def flushed(result: Result) -> None:
            done([(tag, result)])

        self._group.flush(self._index, flushed)
