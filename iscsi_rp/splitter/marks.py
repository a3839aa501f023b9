"""Marks of a group's volumes and the writes that wait for them to be durable.

A write that the appliance may not have reaches the store only when the dirty map on disk covers its regions.
One `fdatasync` serves a batch: what is marked while one is under way goes with the next.
"""

from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

from iscsi_rp.device import Done, Io, IoError
from iscsi_rp.replication.regions import KEY_SHIFT
from iscsi_rp.splitter.effects import Effects
from iscsi_rp.splitter.region_map import DIRTY, RegionMap

Waiting: TypeAlias = tuple[int, Io, Done, IoError | None]
"Volume, operation, whom to tell; and the error, where the store has already failed it."

REGION_MASK: Final = (1 << KEY_SHIFT) - 1
"The region in a key."


class Marks:
    """The region maps of a group at this splitter, and their one durable write at a time."""

    def __init__(self, maps: Sequence[RegionMap], effects: Effects) -> None:
        self.maps = maps
        self._effects = effects
        self._pending: list[int] = []
        self._all_pending: set[int] = set()
        self._syncing: list[int] | None = None
        self._all_syncing: dict[int, bytes] = {}
        self.waiting: list[Waiting] = []
        self._waiting_for_sync: list[Waiting] = []
        self._generation = 0
        self.durable_generation = 0

    def mark(self, keys: Iterable[int]) -> bool:
        """Mark regions; True when some are not durably marked yet."""
        wait = False
        for key in keys:
            if self.maps[key >> KEY_SHIFT].mark(key & REGION_MASK):
                self._pending.append(key)
                wait = True
        return wait

    def mark_all(self, volume: int) -> None:
        """A full sweep of the volume is due."""
        self.maps[volume].mark_all()
        self._all_pending.add(volume)

    @property
    def generation(self) -> int:
        """Once `durable_generation` is this, everything marked up to now is durable."""
        return self._generation + (1 if self._work() else 0)

    def _work(self) -> bool:
        return bool(self.waiting or self._pending or any(region_map.changed for region_map in self.maps))

    @property
    def any_waiting(self) -> bool:
        """Whether a write waits for its mark."""
        return bool(self.waiting or self._waiting_for_sync)

    def all_waiting(self) -> list[Waiting]:
        """Writes that wait for their marks."""
        return self._waiting_for_sync + self.waiting

    def begin_sync(self) -> None:
        """Ask for the changed blocks to be written, unless a write of the map is under way."""
        if self._syncing is not None or not self._work():
            return
        self._generation += 1
        self._syncing, self._pending = self._pending, []
        self._waiting_for_sync, self.waiting = self.waiting, []
        self._all_syncing = {volume: bytes(self.maps[volume].flags) for volume in self._all_pending}
        self._all_pending.clear()
        for volume, region_map in enumerate(self.maps):
            for block in sorted(region_map.changed):
                self._effects.map_blocks.append((volume, *region_map.encode(block)))
            region_map.changed.clear()
        if not self._effects.map_blocks:  # marks that an earlier write of the map has brought to disk already
            self._effects.map_blocks.append((0, *self.maps[0].encode(-1)))

    def synced(self, written: bool = True) -> list[Waiting]:
        """What was marked at `begin_sync` is durable: the writes that waited for it.

        `written` is False where the map itself could not be written, but a sweep was durably ordered in its
        stead: then the whole map is due to be written again.
        """
        for key in self._syncing or ():
            self.maps[key >> KEY_SHIFT].made_durable((key & REGION_MASK,))
        for volume, flags in self._all_syncing.items():
            self.maps[volume].made_durable(region for region, flag in enumerate(flags) if flag & DIRTY)
        if not written:
            self._write_all_again()
        self._all_syncing = {}
        self._syncing = None
        self.durable_generation = self._generation
        ready, self._waiting_for_sync = self._waiting_for_sync, []
        return ready

    def failed(self) -> list[Waiting]:
        """Neither map nor order for a sweep could be written: the writes that waited, which now fail."""
        self._write_all_again()
        self._pending = (self._syncing or []) + self._pending
        self._all_pending.update(self._all_syncing)
        self._all_syncing = {}
        self._syncing = None
        failed, self._waiting_for_sync = self._waiting_for_sync, []
        return failed

    def _write_all_again(self) -> None:
        for region_map in self.maps:
            region_map.changed.update(range(-1, region_map.blocks))
