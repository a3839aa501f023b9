"""A simulated storage processor: the splitter's real core over stores, a dirty map and a link that a seed
controls.
"""

from collections import deque
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from iscsi_rp.device import WRITE, Buffer, Io, MediumError, Result
from iscsi_rp.replication import frames as wire
from iscsi_rp.replication.digests import region_digests
from iscsi_rp.replication.messages import Hello, VolumeInfo, Welcome, parse, parse_regions
from iscsi_rp.splitter.core import Core, Mode
from iscsi_rp.splitter.effects import RegionRead
from iscsi_rp.splitter.region_map import BLOCK_BYTES, DirtyMapError, RegionMap
from tests.simulation.hosts import EMPTY, SIZE, SLOTS, Content, bytes_of, laid_over

TIMEOUT_S = 1.5


class Connection:
    """Frames under way in both directions. One end can believe it open while the other does not."""

    def __init__(self) -> None:
        self.up: deque[bytes] = deque()
        self.down: deque[bytes] = deque()
        self.open_above = True
        "The appliance's end."
        self.open_below = True
        self.session: Any = None


class Store:
    """The store of a volume: a page cache over a disk, in slots."""

    def __init__(self) -> None:
        self.cache: Content = EMPTY
        self.versions: list[list[int]] = [[0] for _ in SLOTS]
        "What the disk may hold of each slot; the last is the cache's."

    def write(self, offset: int, length: int, data: bytes | None) -> None:
        self.cache = laid_over(self.cache, offset, length, data)
        for versions, value in zip(self.versions, self.cache, strict=True):
            if versions[-1] != value:
                versions.append(value)

    def flushed(self, at: list[int]) -> None:
        """A flush that began when there were `at` versions of each slot is done."""
        self.versions = [versions[count - 1 :] for versions, count in zip(self.versions, at, strict=True)]

    def power_loss(self, random: Random) -> None:
        self.cache = tuple(random.choice(versions) for versions in self.versions)
        self.versions = [[value] for value in self.cache]


class Processor:
    """One storage processor with its volumes; it lives through kills and power losses."""

    def __init__(
        self, number: int, volumes: Sequence[int], random: Random, on_done: Callable[[Any, Result], None]
    ) -> None:
        self.number = number
        self.volumes = volumes
        "Their numbers in the group."
        self.random = random
        self.stores = {volume: Store() for volume in volumes}
        self.map_files = dict.fromkeys(volumes, b"")
        "As the page cache has them; what is not synced yet is in `map_write`."
        self.sweep_ordered: set[int] = set()
        self._on_done = on_done
        self.up = False
        self.start()

    # -- life

    def start(self) -> None:
        """Load the maps, as the array does before it serves."""
        maps = []
        for volume in self.volumes:
            region_map = RegionMap(f"v{volume}", SIZE)
            try:
                if not self.map_files[volume]:
                    raise DirtyMapError
                region_map.load(self.map_files[volume])
                if volume in self.sweep_ordered:
                    raise DirtyMapError
            except DirtyMapError:
                region_map.mark_all()
                self.map_files[volume] = b"".join(
                    region_map.encode(b)[1] for b in range(-1, region_map.blocks)
                )
                region_map.changed.clear()
                region_map.made_durable(range(region_map.regions))
            maps.append(region_map)
        self.core = Core(maps, TIMEOUT_S)
        self.up = True
        self.connection: Connection | None = None
        self._took_over = False
        self._welcomed = False
        self.map_write: list[tuple[int, int, bytes]] = []
        self.storing: list[tuple[int, Io]] = []
        self.reads: list[RegionRead] = []
        self.flushes: list[tuple[int, int, list[int]]] = []
        "Volume, token, versions of each slot when it began."
        self.drain()

    def kill(self) -> None:
        """The process is gone, what was in the page cache is not."""
        self.up = False
        if self.connection is not None:
            self.connection.open_below = False
            self.connection.down.clear()
        for place, offset, data in self.map_write:  # any part of it had been written
            if self.random.random() < 0.5:
                self._put_map(self.volumes[place], offset, data)

    def power_loss(self) -> None:
        self.kill()
        for store in self.stores.values():
            store.power_loss(self.random)
        if self.map_write and self.random.random() < 0.1:  # a block is torn
            place, offset, data = self.random.choice(self.map_write)
            self._put_map(self.volumes[place], offset, data[: BLOCK_BYTES // 2] + bytes(BLOCK_BYTES // 2))

    def _put_map(self, volume: int, offset: int, data: bytes) -> None:
        content = bytearray(self.map_files[volume])
        content[offset : offset + len(data)] = data
        self.map_files[volume] = bytes(content)

    # -- what the shell does

    def drain(self) -> None:
        """Take the core's effects, as `splitter.group` does; what takes time is left to the seed."""
        core, effects = self.core, self.core.effects
        while effects:
            if effects.end_session is not None:
                effects.end_session = None
                if self.connection is not None:
                    self.connection.open_below = False
                    self.connection.down.clear()
                    self.connection = None
            if effects.map_blocks:
                assert not self.map_write, "two writes of the map at once"
                self.map_write, effects.map_blocks = effects.map_blocks, []
            frames, effects.frames = effects.frames, []
            if frames and self.connection is not None and self.connection.open_below:
                self.connection.up.extend(_whole(frames))
            stores, effects.stores = effects.stores, []
            for volume, ios in stores:
                self.storing += [(volume, io) for io in ios]
            reads, effects.reads = effects.reads, []
            self.reads += reads
            flushes, effects.flushes = effects.flushes, []
            for volume in flushes:
                self.begin_flush(volume)
            completions, effects.completions = effects.completions, []
            for done, results in completions:
                done(results)
        assert core.effects is effects

    def write(self, place: int, io: Io, now_s: float) -> None:
        self.core.write(place, [io], self._done, now_s)
        self.drain()

    def _done(self, results: Sequence[tuple[Any, Result]]) -> None:
        for tag, result in results:
            self._on_done(tag, result)

    # -- what takes time

    def storable(self) -> list[int]:
        """Operations that the store may do next: overlapping ones keep their order."""
        free = []
        for index, (volume, io) in enumerate(self.storing):
            earlier = self.storing[:index]
            if not any(v == volume and o[1] < io[1] + io[2] and io[1] < o[1] + o[2] for v, o in earlier):
                free.append(index)
        return free

    def store(self, index: int, fails: bool) -> None:
        place, io = self.storing.pop(index)
        store = self.stores[self.volumes[place]]
        op, offset, length, data, _, tag = io
        result: Result = None
        if fails:
            result = MediumError()
            if self.random.random() < 0.5:
                store.write(offset, length, bytes(data) if op == WRITE and data is not None else None)
        else:
            store.write(offset, length, bytes(data) if op == WRITE and data is not None else None)
        self.core.stored([(tag, result)])
        self.drain()

    def sync_map(self, fails: bool) -> None:
        blocks, self.map_write = self.map_write, []
        written = [not fails or self.random.random() < 0.5 for _ in blocks]
        for (place, offset, data), done in zip(blocks, written, strict=True):
            if done:
                self._put_map(self.volumes[place], offset, data)
        if fails:
            self.sweep_ordered.update(self.volumes[place] for place, _, _ in blocks)
        else:
            for place, region_map in enumerate(self.core.marks.maps):
                if not region_map.changed:
                    self.sweep_ordered.discard(self.volumes[place])
        self.core.map_synced(written=not fails)
        self.drain()

    def begin_flush(self, place: int) -> None:
        store = self.stores[self.volumes[place]]
        self.flushes.append((place, self.core.begin_flush(place), [len(each) for each in store.versions]))

    def end_flush(self, index: int, fails: bool) -> None:
        place, token, at = self.flushes.pop(index)
        others = [(p, t, a) for p, t, a in self.flushes if p == place]
        store = self.stores[self.volumes[place]]
        before = [len(each) for each in store.versions]
        if not fails:
            store.flushed(at)
            dropped = [b - len(each) for b, each in zip(before, store.versions, strict=True)]
            for _, _, counts in others:
                counts[:] = [max(1, count - gone) for count, gone in zip(counts, dropped, strict=True)]
        self.core.flushed(token, ok=not fails)
        self.drain()

    def read(self, index: int) -> None:
        read = self.reads.pop(index)
        data = bytes_of(self.stores[self.volumes[read.volume]].cache, read.offset, read.length)
        if read.digests:
            data = region_digests(data)
        elif data == bytes(len(data)):
            data = b""
        self.core.resync.region_read(read.token, data)
        self.drain()

    # -- the link

    def greet(self, connection: Connection) -> None:
        self.connection = connection
        self._took_over = self.core.fresh
        self._welcomed = False
        volumes = [
            VolumeInfo(uuid=f"v{volume}", name=f"v{volume}", size=SIZE, block_size=512)
            for volume in self.volumes
        ]
        hello = Hello(
            array_id="a", processor=f"sp-{self.number}", group="g", fresh=self._took_over, volumes=volumes
        )
        connection.up.append(wire.frame(wire.HELLO, payload=hello.encode()))

    def receive(self, connection: Connection) -> None:
        data = connection.down.popleft()
        if connection is not self.connection or not self.up:
            return
        frames, used = wire.decode(data, len(data))
        assert used == len(data)
        for frame in frames:
            kind, _, volume, _, a, _, payload, _ = frame
            if self._welcomed:
                self.core.receive((frame,))
            elif kind == wire.REGIONS:
                regions = self.core.marks.maps[volume].regions
                self.core.take_over(key for keys in parse_regions(volume, payload, regions) for key in keys)
            else:
                assert kind == wire.WELCOME, kind
                self._welcomed = True
                sweep = range(len(self.volumes)) if parse(Welcome, payload).full_sweep else ()
                self.core.welcome(a, sweep, self._took_over)
            self.drain()

    def cut(self, reason: str) -> None:
        """This end notices that the link is gone."""
        if self.connection is not None:
            self.connection.open_below = False
            self.connection.down.clear()
            self.connection = None
        self.core.end_session(reason)
        self.drain()

    @property
    def idle(self) -> bool:
        """Nothing is under way here."""
        return not (self.storing or self.core.sent or self.core.held or self.core.marks.any_waiting)

    @property
    def in_sync(self) -> bool:
        return self.up and self.core.mode is Mode.SPLITTING and self.idle


def _whole(pieces: list[Buffer]) -> list[bytes]:
    """Pieces of frames, put together to frames: a header and its payload may come apart."""
    data = b"".join(pieces)
    whole = []
    at = 0
    while at < len(data):
        size = wire.bytes_wanted(data[at : at + wire.HEADER_BYTES], wire.HEADER_BYTES)
        whole.append(data[at : at + size])
        at += size
    return whole
