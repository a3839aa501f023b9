"""Splitters and appliance, as they are, under every fault that a seed can think of.

`run(seed)` lets hosts write to one or two storage processors while processes are killed, power is lost, links
are cut at either end, stores, maps and flushes fail; then everything is quiet. It checks ACKED, SUPERSET,
PREFIX, HISTORY and CONVERGE (docs/splitting.md).
"""

from collections.abc import Callable
from random import Random
from typing import Any

from iscsi_rp.device import WRITE, ZERO, Result
from iscsi_rp.replication.regions import REGION_BYTES
from iscsi_rp.splitter.core import Mode
from tests.simulation.appliance import Appliance
from tests.simulation.hosts import BLOCK, RUNS, SLOTS, Content, Hosts, Write, block_of
from tests.simulation.processor import Connection, Processor

STEPS = 220
SETTLE_STEPS = 6000
MAX_IN_FLIGHT = 5


class Broken(Exception):
    """A promise is broken."""


class World:
    """One run."""

    def __init__(self, seed: int, *, processors: int | None = None, volumes: list[int] | None = None) -> None:
        """Of one or two processors and volumes, as the seed has it or as they are given."""
        self.random = Random(seed)
        self.trace: list[str] = []
        self.step = 0
        self.now_s = 0.0
        count = processors or self.random.choice((1, 1, 2))
        self.small = self.random.random() < 0.25
        """Values repeat, so that content can be equal by chance; then images cannot be judged by what they
        hold."""
        self.faults = self.random.choice((0.5, 1.0, 2.0, 4.0, 8.0))
        self.mul = {
            name: self.random.choice((0.1, 0.5, 1.0, 4.0))
            for name in ("sync_map", "sync", "flush", "up", "down", "store", "resync", "greet")
        }
        volumes = volumes or ([0, 1] if count == 2 else self.random.choice(([0], [0, 1])))
        self.owned = {number: [v for v in volumes if v % count == number] for number in range(count)}
        self.hosts = Hosts(self.owned)
        self.writes: dict[int, Write] = {}
        self.in_flight: dict[int, set[int]] = {number: set() for number in self.owned}
        self.appliance = Appliance(self.random, volumes)
        self.processors = [
            Processor(number, owned, self.random, self._done) for number, owned in self.owned.items()
        ]
        self.connections: list[Connection] = []
        self.bookmarks: dict[int, int] = {}
        self.offered: set[int] = set()

    def say(self, what: str) -> None:
        self.trace.append(f"{self.step}: {what}")

    # -- hosts

    def issue(self, processor: Processor) -> None:
        place = self.random.randrange(len(processor.volumes))
        run = self.random.choice(RUNS)
        first = self.random.randrange(len(run))
        slots = run[first : first + self.random.randint(1, 3)]
        number = len(self.writes) + 1
        zero = self.random.random() < 0.1
        value = 0 if zero else self.random.choice((1, 2)) if self.small else number
        write = Write(number, processor.volumes[place], tuple(slots), value, self.step)
        self.writes[number] = write
        self.in_flight[processor.number].add(number)
        if not zero or self.small:
            self.hosts.issued(processor.number, write)
        else:  # zeros look like every other zero: they are judged by the small runs
            write.value = number
            zero = False
            self.hosts.issued(processor.number, write)
        offset, length = SLOTS[slots[0]], len(slots) * BLOCK
        data = None if zero else block_of(write.value) * len(slots)
        self.say(f"write {number} to volume {write.volume} slots {slots}")
        processor.write(place, (ZERO if zero else WRITE, offset, length, data, False, number), self.now_s)

    def _done(self, number: Any, result: Result) -> None:
        for numbers in self.in_flight.values():
            numbers.discard(number)
        if result is None:
            self.writes[number].acknowledged = self.step
            self.say(f"write {number} acknowledged")

    # -- what may happen next

    def actions(self, quiet: bool) -> list[tuple[float, str, Callable[[], None]]]:
        found: list[tuple[float, str, Callable[[], None]]] = []
        fault = 0.0 if quiet else self.faults

        def may(weight: float, name: str, act: Callable[[], None]) -> None:
            if weight > 0:
                found.append((weight * (1.0 if quiet else self.mul.get(name.split()[0], 1.0)), name, act))

        for p in self.processors:
            self._processor_actions(p, quiet, fault, may)
        for c in self.connections:
            self._connection_actions(c, fault, may)
        self._appliance_actions(quiet, fault, may)
        return found

    def _processor_actions(self, p: Processor, quiet: bool, fault: float, may: Callable[..., None]) -> None:
        if not p.up:
            may(3, f"start sp{p.number}", p.start)
            return
        if not quiet and len(self.in_flight[p.number]) < MAX_IN_FLIGHT:
            may(6, f"issue sp{p.number}", lambda: self.issue(p))
        if p.map_write:
            may(4, f"sync_map sp{p.number}", lambda: p.sync_map(False))
            may(0.1 * fault, f"fail map sp{p.number}", lambda: p.sync_map(True))
        for index in p.storable():
            may(5, f"store sp{p.number}", lambda i=index: p.store(i, False))
            may(0.05 * fault, f"fail store sp{p.number}", lambda i=index: p.store(i, True))
        for index in range(len(p.reads)):
            may(4, f"read sp{p.number}", lambda i=index: p.read(i))
        for place in range(len(p.volumes)):
            if len(p.flushes) < 3:
                may(0.15 if quiet else 0.7, f"flush sp{p.number}", lambda v=place: p.begin_flush(v))
        for index in range(len(p.flushes)):
            may(3, f"flushed sp{p.number}", lambda i=index: p.end_flush(i, False))
            may(0.1 * fault, f"fail flush sp{p.number}", lambda i=index: p.end_flush(i, True))
        if p.core.mode is not Mode.MARKING:
            may(3, f"resync sp{p.number}", lambda: self._resync(p))
        if p.connection is None and self.appliance.up:
            may(3, f"greet sp{p.number}", lambda: self._greet(p))
        if p.connection is not None and not p.connection.open_above:
            may(2, f"notice sp{p.number}", lambda: p.cut("the link is gone"))
        may(0.25 * fault, f"kill sp{p.number}", lambda: self._kill(p, power=False))
        may(0.25 * fault, f"power sp{p.number}", lambda: self._kill(p, power=True))
        may(0.4 * fault, f"time out sp{p.number}", lambda: self._wait(p))

    def _connection_actions(self, c: Connection, fault: float, may: Callable[..., None]) -> None:
        if c.up and self.appliance.up:
            may(7, "up", lambda: self.appliance.receive(c))
        if c.down:
            owner = next((p for p in self.processors if p.connection is c), None)
            may(7, "down", lambda: owner.receive(c) if owner else c.down.clear())
        if c.open_above and not c.open_below and self.appliance.up:
            may(1, "notice above", lambda: self.appliance.notice(c))
        if c.open_above and c.open_below:
            may(0.2 * fault, "cut below", lambda: self._cut(c))
            may(0.1 * fault, "cut above", lambda: self.appliance.notice(c))

    def _appliance_actions(self, quiet: bool, fault: float, may: Callable[..., None]) -> None:
        a = self.appliance
        if not a.up:
            may(3, "start appliance", a.start)
            return
        if a.sync is None:
            if a.receiver.wants_sync:
                may(2, "sync", a.begin_sync)
        elif not a.sync_ran:
            may(4, "sync runs", lambda: a.run_sync(False))
            may(0.1 * fault, "sync fails", lambda: a.run_sync(True))
        else:
            may(4, "sync finished", a.finish_sync)
        may(3, "probe", a.receiver.probe)
        for index in range(len(a.compares)):
            may(4, "compare", lambda i=index: a.answer_compare(i))
        if not quiet and a.receiver.span_from is None:
            may(0.4, "bookmark", self._bookmark)
        may(0.25 * fault, "kill appliance", a.kill)
        may(0.25 * fault, "power appliance", a.power_loss)
        may(1.5, "look", self.look)

    def _resync(self, p: Processor) -> None:
        p.core.resync.step(bool(self.in_flight[p.number]))
        if self.random.random() < 0.3:
            p.core.resync.ask_for_flush()
        p.drain()

    def _greet(self, p: Processor) -> None:
        connection = Connection()
        self.connections.append(connection)
        p.greet(connection)

    def _cut(self, c: Connection) -> None:
        if self.random.random() < 0.5:
            c.up.clear()
        owner = next((p for p in self.processors if p.connection is c), None)
        c.open_below = False
        if owner is not None:
            owner.cut("cut")

    def _kill(self, p: Processor, *, power: bool) -> None:
        if power:
            p.power_loss()
        else:
            p.kill()
        self.in_flight[p.number].clear()
        self.hosts.restarted(p.number, self.step, {v: store.cache for v, store in p.stores.items()})

    def _wait(self, p: Processor) -> None:
        self.now_s += self.random.choice((0.1, 1.0, 2.0))
        for each in self.processors:
            if each.up:
                each.core.tick(self.now_s)
                each.drain()
                deadline = each.core.deadline()
                if deadline is not None and deadline <= self.now_s:
                    raise Broken("BOUNDED: a write waits beyond its deadline")

    def _bookmark(self) -> None:
        position = self.appliance.receiver.bookmark(f"b{self.step}", "crash", self.appliance.log.end)
        self.bookmarks[position] = self.step
        self.say(f"bookmark at {position}")

    # -- checks

    def look(self) -> None:
        a = self.appliance
        if a.up:
            self._look_at_images()
        for p in self.processors:
            if not p.up:
                continue
            for volume, store in p.stores.items():
                if not self.small and (lost := self.hosts.lost(p.number, volume, store.cache)):
                    raise Broken(f"ACKED: {lost}")
            if p.in_sync and a.up:
                self._look_at_superset(p)

    def _look_at_images(self) -> None:
        a = self.appliance
        self.bookmarks = {at: asked for at, asked in self.bookmarks.items() if at <= a.log.end}
        for position in self.offered:
            if not a.offers(position):
                raise Broken(f"HISTORY: the image at {position} is no longer offered")
        latest = a.receiver.offered
        if not a.offers(latest):
            return
        for position in {latest, self.random.randint(1, latest)}:
            if a.offers(position):
                self.offered.add(position)
                if not self.small and (reason := self.hosts.impossible(a.image(position))):
                    raise Broken(f"PREFIX: image {position} is {a.image(position)}: {reason}")
        for position, asked in self.bookmarks.items():
            if not self.small and a.offers(position):
                held = a.receiver.state.bookmarks.values()
                if any(each.position == position for each in held) and (
                    reason := self.hosts.not_held(a.image(position), asked)
                ):
                    raise Broken(f"PREFIX: bookmark at {position}: {reason}")

    def _look_at_superset(self, p: Processor) -> None:
        """Idle and in sync: where nothing is marked, the appliance has what the store has."""
        session = self.appliance.receiver.sessions.get(f"sp-{p.number}")
        connection = p.connection
        if session is None or connection is None or connection.session is not session or connection.up:
            return
        image = self.appliance.image(self.appliance.log.end)
        for place, volume in enumerate(p.volumes):
            marks = p.core.marks.maps[place]
            for at, ours, theirs in zip(SLOTS, p.stores[volume].cache, image[volume], strict=True):
                if ours != theirs and not marks.flags[at // REGION_BYTES] & 1:
                    raise Broken(
                        f"SUPERSET: volume {volume} at {at}: store {ours}, appliance {theirs}, no mark"
                    )

    # -- a run

    def run(self) -> None:
        if self.random.random() < 0.85:
            self.settle()
        self.now_s += 1.0
        for _ in range(STEPS):
            self._act(quiet=False)
        self.settle()

    def _act(self, *, quiet: bool) -> None:
        self.step += 1
        actions = self.actions(quiet)
        _, name, act = self.random.choices(actions, [each[0] for each in actions])[0]
        if name not in ("up", "down", "probe", "look"):
            self.say(name)
        act()
        self.connections = [c for c in self.connections if c.up or c.down or c.open_above or c.open_below]

    def settle(self) -> None:
        """Hosts and faults stop: the group ends in SPLITTING and the copy equals the volumes."""
        self.say("quiet")
        for _ in range(SETTLE_STEPS):
            if self._settled():
                break
            self._act(quiet=True)
        else:
            modes = [(p.up, p.core.mode, p.idle) for p in self.processors]
            raise Broken(f"CONVERGE: not in sync after {SETTLE_STEPS} steps: {modes}")
        image = self.appliance.image(self.appliance.log.end)
        stores: dict[int, Content] = {v: s.cache for p in self.processors for v, s in p.stores.items()}
        if image != stores:
            raise Broken(f"CONVERGE: stores {stores}, appliance {image}")
        self.look()

    def _settled(self) -> bool:
        a = self.appliance
        return (
            a.up
            and all(p.in_sync for p in self.processors)
            and not any(c.up for c in self.connections)
            and a.receiver.span_from is None
            and a.receiver.offered >= a.receiver.content_end
        )


def run(seed: int) -> str | None:
    """None, or what broke, with the steps that led to it."""
    world = World(seed)
    try:
        world.run()
    except Broken as broken:
        return "\n".join([*world.trace, str(broken)])
    return None
