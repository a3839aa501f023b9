"""The splitter's core with a shell that does nothing by itself."""

from collections.abc import Sequence
from typing import Any

from iscsi_rp.device import WRITE, Io, IoError, Result
from iscsi_rp.replication import frames as wire
from iscsi_rp.replication.regions import REGION_BYTES
from iscsi_rp.splitter.core import Core, Mode
from iscsi_rp.splitter.region_map import DIRTY, RegionMap

REGIONS = 8
SIZE = REGIONS * REGION_BYTES
TIMEOUT_S = 1.5
SECTOR = b"w" * 512


class Rig:
    """A core of two volumes whose shell does nothing by itself."""

    def __init__(self, *, whole: bool = True) -> None:
        """`whole`: the maps are clean."""
        maps = [RegionMap(f"uuid-{volume}", SIZE) for volume in range(2)]
        if not whole:
            for region_map in maps:
                region_map.mark_all()
                region_map.changed.clear()
                region_map.made_durable(range(REGIONS))
        self.core = Core(maps, TIMEOUT_S)
        self.statuses: list[tuple[Any, Result]] = []

    def write(
        self,
        tag: Any,
        *,
        volume: int = 0,
        offset: int = 0,
        op: int = WRITE,
        now_s: float = 0.0,
        data: bytes = SECTOR,
    ) -> None:
        payload = data if op == WRITE else None
        self.submit([(op, offset, len(data), payload, False, tag)], volume=volume, now_s=now_s)

    def batch(self, tags: Sequence[int]) -> None:
        """Writes of a sector each, side by side, at once."""
        self.submit([(WRITE, 512 * tag, 512, SECTOR, False, tag) for tag in tags])

    def submit(self, ios: Sequence[Io], *, volume: int = 0, now_s: float = 0.0) -> None:
        self.core.write(volume, ios, self._done, now_s)

    def _done(self, results: Sequence[tuple[Any, Result]]) -> None:
        self.statuses += results

    def start(self, *, sweep: Sequence[int] = ()) -> "Rig":
        """Through the handshake, into RESYNCING."""
        self.core.welcome(9, sweep, took_over=True)
        if self.core.effects.map_blocks:
            self.sync_map()
        return self

    def split(self) -> "Rig":
        """Into SPLITTING."""
        self.start()
        self.core.resync.step(False)
        assert self.core.mode is Mode.SPLITTING
        self.frames()
        return self

    # -- what the shell would do

    def frames(self) -> list[tuple[int, int, int]]:
        """(type, volume, sequence) of what is to be sent."""
        data = b"".join(self.core.effects.frames)
        self.core.effects.frames.clear()
        found, used = wire.decode(data, len(data))
        assert used == len(data)
        return [(frame[0], frame[2], frame[3]) for frame in found]

    def stores(self) -> list[Io]:
        """Operations given to the stores."""
        stores, self.core.effects.stores = self.core.effects.stores, []
        return [io for _, ios in stores for io in ios]

    def store_all(self, result: IoError | None = None) -> list[Any]:
        """Answer for the stores, and complete; the host's tags, in order."""
        ios = self.stores()
        for io in ios:
            self.core.stored([(io[5], result)])
        return self.complete()

    def complete(self) -> list[Any]:
        completions, self.core.effects.completions = self.core.effects.completions, []
        before = len(self.statuses)
        for done, results in completions:
            done(results)
        return [tag for tag, _ in self.statuses[before:]]

    def sync_map(self, written: bool = True) -> None:
        assert self.core.effects.map_blocks
        self.core.effects.map_blocks.clear()
        self.core.map_synced(written)

    def receive(
        self, kind: int, sequence: int = 0, *, a: int = 0, payload: bytes = b"", flags: int = 0
    ) -> None:
        self.core.receive([(kind, flags, 0, sequence, a, 0, payload, 0)])

    def marked(self, volume: int = 0) -> list[int]:
        flags = self.core.marks.maps[volume].flags
        return [region for region in range(REGIONS) if flags[region] & DIRTY]
