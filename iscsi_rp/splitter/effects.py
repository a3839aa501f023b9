"""What the splitter's core asks its shell to do.

The core collects work here and the shell takes it after each call. The order of the fields is the order in
which they are done; what has to wait for an answer (a mark to be durable, a copy to be received) is still
inside the core and not in here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from iscsi_rp.device import Buffer, Done, Io, Result

MapBlock: TypeAlias = tuple[int, int, bytes]
"Volume, offset in its map file, bytes."


@dataclass(frozen=True, slots=True)
class RegionRead:
    """Read a run of regions from the store, and answer with `Core.region_read`."""

    volume: int
    offset: int
    length: int
    token: int
    digests: bool
    "A digest of each region is wanted, not the data."


@dataclass(slots=True)
class Effects:
    """Work for the shell."""

    map_blocks: list[MapBlock] = field(default_factory=list)
    "Write these, make them durable, then call `Core.map_synced` (or `map_failed`). Never two such at once."
    frames: list[Buffer] = field(default_factory=list)
    "To the appliance, in this order."
    stores: list[tuple[int, list[Io]]] = field(default_factory=list)
    "To the store of a volume; its `done` is `Core.stored`."
    reads: list[RegionRead] = field(default_factory=list)
    flushes: list[int] = field(default_factory=list)
    "Volumes whose store the core wants flushed: `Core.begin_flush`, flush, `Core.flushed`."
    completions: list[tuple[Done, Sequence[tuple[Any, Result]]]] = field(default_factory=list)
    "To the logical unit."
    end_session: str | None = None
    "Close the connection: the session is over, for this reason."

    def __bool__(self) -> bool:
        return bool(
            self.frames or self.stores or self.completions or self.map_blocks or self.reads or self.flushes
            or self.end_session
        )  # fmt: skip
