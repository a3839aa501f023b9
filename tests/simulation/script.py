"""Directed runs of the replication's simulation: what random seeds seldom find, told step by step.

In a `Script` nothing happens by itself. Power losses are the worst there are: whatever was not flushed is
gone.
"""

from collections.abc import Callable, Mapping
from random import Random
from typing import Any

from iscsi_rp.device import WRITE
from tests.simulation.hosts import BLOCK, SLOTS, Write, block_of
from tests.simulation.processor import Connection, Processor
from tests.simulation.replication import Broken, World


class Worst(Random):
    """Chooses the oldest version of everything, and lets nothing unflushed survive."""

    def choice(self, options: Any) -> Any:
        return options[0]

    def random(self) -> float:
        return 0.95


class Script:
    """Two volumes, with one processor or one each, in sync with their appliance, and everything durable."""

    def __init__(self, processors: int = 1) -> None:
        self.world = World(1, processors=processors, volumes=[0, 1])
        self.world.small = False
        self.world.settle()
        for place in range(len(self.p.volumes)):
            self.flush(place)
        self.deliver()
        self.sync()
        random = Worst()
        self.world.random = random
        self.appliance = self.world.appliance
        self.appliance.random = self.appliance.disk.random = random
        self.p.random = random

    @property
    def p(self) -> Processor:
        return self.world.processors[0]

    # -- single steps

    def issue(self, slot: int = 0, volume: int = 0, value: int | None = None) -> int:
        """A host writes one slot; its number."""
        number = len(self.world.writes) + 1
        write = Write(number, volume, (slot,), number if value is None else value, self.world.step)
        self.world.writes[number] = write
        self.world.hosts.issued(0, write)
        data = block_of(write.value)
        self.p.write(volume, (WRITE, SLOTS[slot], BLOCK, data, False, number), self.world.now_s)
        self.world.step += 1
        return number

    def deliver(self) -> None:
        """Everything on the links arrives."""
        moved = True
        while moved:
            moved = False
            for c in list(self.world.connections):
                if c.up and self.world.appliance.up:
                    self.world.appliance.receive(c)
                    moved = True
                if c.down:
                    owner = next((p for p in self.world.processors if p.connection is c), None)
                    owner.receive(c) if owner else c.down.clear()
                    moved = True

    def store(self) -> None:
        while self.p.storing:
            self.p.store(0, False)

    def map(self) -> None:
        while self.p.map_write:
            self.p.sync_map(False)

    def flush(self, volume: int) -> None:
        self.p.begin_flush(volume)
        self.p.end_flush(len(self.p.flushes) - 1, False)

    def sync(self) -> None:
        """The log becomes durable, and the processor hears of it."""
        self.world.appliance.begin_sync()
        self.world.appliance.run_sync(False)
        self.world.appliance.finish_sync()
        self.deliver()

    def greet(self) -> Connection:
        connection = Connection()
        self.world.connections.append(connection)
        self.p.greet(connection)
        return connection

    def cut(self) -> None:
        """The link is gone, with all that was on it."""
        for c in self.world.connections:
            c.up.clear()
            c.down.clear()
        self.p.cut("cut")

    # -- runs of them

    def write(self, slot: int = 0, volume: int = 0) -> int:
        """A write that is split, stored in the page cache, and acknowledged."""
        number = self.issue(slot, volume)
        self.deliver()
        self.store()
        return number

    def marked(self, slot: int = 0, value: int | None = None) -> int:
        """A write in MARKING, stored in the page cache, and acknowledged."""
        number = self.issue(slot, value=value)
        self.map()
        self.store()
        return number

    def attach(self) -> None:
        """Hello to start."""
        self.greet()
        self.deliver()
        if self.p.core.session == 0 or not self.p._welcomed:
            self.sync()
        self.map()
        self.deliver()

    def resync(self) -> None:
        """Read and send what is marked, and end."""
        for _ in range(4):
            self.p.core.resync.step(False)
            self.p.drain()
            while self.p.reads:
                self.p.read(0)
            self.deliver()
            while self.appliance.compares:
                self.appliance.answer_compare(0)
            self.deliver()

    def kill(self) -> None:
        self.world._kill(self.p, power=False)
        self.p.start()

    def power(self) -> None:
        self.world._kill(self.p, power=True)
        self.p.start()

    def appliance_power(self) -> None:
        self.appliance.power_loss()
        self.appliance.start()
        self.p.cut("the appliance is gone")

    def outcome(self) -> str | None:
        """Let everything come to rest; what broke."""
        self.world.random = Random(1)
        self.p.random = self.appliance.random = self.appliance.disk.random = self.world.random
        try:
            self.world.settle()
        except Broken as broken:
            return str(broken)
        return None


def log_not_durable_at_hello(s: Script) -> None:
    s.write()
    s.flush(0)
    s.deliver()
    s.kill()
    s.greet()
    s.deliver()
    if not s.p._welcomed:
        s.sync()
    s.map()
    s.deliver()
    s.resync()
    s.appliance_power()


def restart_and_power_loss(s: Script) -> None:
    s.write()
    s.flush(0)
    s.deliver()
    s.p.kill()
    s.appliance.power_loss()
    s.appliance.start()
    s.p.start()


def restart_between_welcome_and_map(s: Script) -> None:
    s.write()
    s.sync()
    s.kill()
    s.greet()
    s.deliver()
    s.sync()
    s.deliver()
    s.power()


def flush_before_store(s: Script) -> None:
    s.issue()
    s.deliver()
    s.flush(0)
    s.deliver()
    s.kill()


def flush_of_one_volume(s: Script) -> None:
    s.write(volume=0)
    s.write(volume=1)
    s.flush(0)
    s.deliver()
    s.power()


def init_from_the_page_cache(s: Script) -> None:
    s.cut()
    s.marked()
    s.attach()
    s.resync()
    s.sync()
    s.map()
    s.power()


def equal_by_chance(s: Script) -> None:
    s.cut()
    s.marked(value=7)
    s.flush(0)
    s.marked(value=0)
    s.p.core.marks.maps[0].flags[0] |= 8  # compare by hash
    s.attach()
    s.resync()
    s.sync()
    s.map()
    s.power()


def marked_while_a_clear_is_written(s: Script) -> None:
    s.cut()
    s.marked()
    s.attach()
    s.resync()
    s.sync()
    s.flush(0)
    s.deliver()
    assert s.p.map_write, "the clear is on its way to the disk"
    s.cut()
    s.issue()
    s.store()
    s.p.sync_map(False)
    s.kill()


def cleared_before_durable(s: Script) -> None:
    s.cut()
    s.marked()
    s.attach()
    s.resync()
    s.flush(0)
    s.map()
    s.appliance_power()


def unsplit_write_in_flight(s: Script) -> None:
    s.cut()
    s.issue()
    s.map()
    s.attach()
    s.resync()
    s.sync()
    s.flush(0)
    s.map()
    s.store()


def waiting_write_before_its_mark(s: Script) -> None:
    s.issue()
    s.cut()
    s.store()
    s.kill()


def store_fails_a_durable_write(s: Script) -> None:
    s.issue()
    s.deliver()
    s.sync()
    s.p.store(0, True)
    s.map()


def store_loses_what_was_received(s: Script) -> None:
    s.write()
    s.power()


def appliance_loses_what_was_stored(s: Script) -> None:
    s.write()
    s.appliance_power()


def write_to_a_region_being_read(s: Script) -> None:
    s.cut()
    s.marked()
    s.attach()
    s.p.core.resync.step(False)
    s.p.drain()
    s.issue()
    s.p.read(0)
    s.deliver()
    s.store()


def compared_with_an_older_state(s: Script) -> None:
    s.write()
    s.sync()
    s.power()
    s.greet()
    s.deliver()
    s.sync()
    s.p.core.marks.maps[0].flags[0] |= 8  # compare by hash
    s.map()
    s.deliver()
    s.resync()


def other_processor_marks_unseen(s: Script) -> None:
    """A half-open link: the second processor acknowledges in MARKING, the appliance believes that it
    splits.
    """
    first, second = s.world.processors
    connection = second.connection
    second.cut("it notices first")
    assert connection is not None
    assert connection.open_above
    before = Write(1, 1, (0,), 1, s.world.step)
    after = Write(2, 0, (0,), 2, s.world.step + 2)
    for processor, write in ((second, before), (first, after)):
        s.world.writes[write.number] = write
        s.world.hosts.issued(processor.number, write)
        data = block_of(write.value)
        processor.write(0, (WRITE, SLOTS[0], BLOCK, data, False, write.number), s.world.now_s)
        while processor.map_write:
            processor.sync_map(False)
        s.deliver()
        while processor.storing:
            processor.store(0, False)
        s.world.step += 2
    s.appliance.receiver.probe()
    s.deliver()
    s.sync()
    s.world.look()


SCENARIOS: Mapping[str, Callable[[Script], None]] = {
    "attach_durable": log_not_durable_at_hello,
    "detect_any": restart_and_power_loss,
    "two_phase": restart_between_welcome_and_map,
    "stored_completed": flush_before_store,
    "stored_volume": flush_of_one_volume,
    "init_counts": init_from_the_page_cache,
    "clear_flush": equal_by_chance,
    "clear_race": marked_while_a_clear_is_written,
    "clear_durable": cleared_before_durable,
    "mark_inflight": unsplit_write_in_flight,
    "hold_marks": waiting_write_before_its_mark,
    "lost_store_write": store_fails_a_durable_write,
    "handover": store_loses_what_was_received,
    "not_durable_marked": appliance_loses_what_was_stored,
    "waitread": write_to_a_region_being_read,
    "hash_latest": compared_with_an_older_state,
    "seal": other_processor_marks_unseen,
}
"By the rule (`rules.REPLICATION`) that each shows to be necessary."
