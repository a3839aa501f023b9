"""The journal's real code on a disk as bad as the seed makes it, against a reference that remembers every
image.

A run appends, syncs, rolls, distributes and trims, a step of each at a time; readers wait in the middle
while the others go on; syncs fail, space ends, processes die and power is lost before any operation of the
disk. It checks: every image offered equals the reference; nothing leaves the log before it is durable; no
image is offered from before the window; the copy volumes are what they are said to be; a log recovered is a
prefix that has all that was durable.
"""

import struct
from collections.abc import Callable, Iterator
from random import Random

from crc32c import crc32c

from iscsi_rp.errors import ConflictError
from iscsi_rp.journal.errors import ImageGoneError, JournalError, JournalUnusableError, ReplicaBusyError
from iscsi_rp.journal.log import Log, SyncTicket
from iscsi_rp.journal.record import DATA, INIT, INIT_ZERO, UNMAP, ZERO, Entry
from iscsi_rp.journal.replica import Replica, Step
from tests.kit.disk import SECTOR, Died, SimDisk, SimFile

GROUP = b"simulated group!"
SIZES = {0: 24 * 4096, 1: 2 * 4096 + 3 * SECTOR}
SEGMENT_BYTES = 12 * 1024
ACTIONS = 60
MAX_POSITIONS = 45

Image = dict[int, bytes]


class Broken(Exception):
    """A promise is broken."""


class Store:
    """One run."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.trace: list[str] = []
        self.disk = SimDisk(self.random)
        self.value = 0
        first = {
            volume: b"".join(self._payload(4096) for _ in range(24))[:size] for volume, size in SIZES.items()
        }
        self.images: list[Image] = [first]
        "By position."
        self.operations: list[tuple[str, Iterator[Step]]] = []
        self.ticket: SyncTicket | None = None
        self.has_run = False
        self.pinned: int | None = None
        self.durable = 0
        self.withdrawn = 0
        "No image before this one needs to be offered."
        self.known = 0
        "Position up to which the appliance has taken note."
        for volume, content in first.items():
            copy = self.disk.open(f"copy-{volume}", create=True)
            copy.pwritev([content], 0)
            copy.sync()
        self.disk.sync()
        self.log = Log.create(self.disk, GROUP, self._snapshot, segment_bytes=SEGMENT_BYTES)
        self._open_replica()

    def _open_replica(self) -> None:
        copies = {volume: self.disk.open(f"copy-{volume}") for volume in SIZES}
        self.copies: dict[int, SimFile] = copies
        self.replica = Replica.open(self.log, self.disk, copies, SIZES)

    def _snapshot(self) -> bytes:
        return struct.pack("<Q", self.known)

    def say(self, what: str) -> None:
        self.trace.append(what)

    def run(self) -> None:
        actions: list[tuple[float, Callable[[], None]]] = [
            (12, self.append),
            (4, self.sync),
            (3, self.begin_sync),
            (4, self.run_sync),
            (4, self.finish_sync),
            (10, self.begin_distribution),
            (8, self.begin_trim),
            (25, self.go_on),
            (6, self.look),
            (1, self.pin),
            (1, self.fail),
            (1, self.plan_death),
            (0.3, self.kill_now),
        ]
        weights = [weight * self.random.choice([0.3, 1, 1, 3]) for weight, _ in actions]
        for _ in range(ACTIONS):
            (_, action), *_ = self.random.choices(actions, weights)
            self._living(action)
            self._living(self.check)
        self._living(self.settle)

    def _living(self, action: Callable[[], None]) -> None:
        """Do it; if the process dies of it, come back."""
        try:
            action()
        except Died:
            self.recover()

    # What goes on

    def append(self) -> None:
        if len(self.images) > MAX_POSITIONS:
            return
        self.write([self._entry() for _ in range(self.random.randint(1, 3))])

    def write(self, entries: list[Entry]) -> None:
        """Append, and remember what must be there then."""
        images = self._images_after(entries)
        written = len(self.images)
        self.images += images  # the process may die with some of them written
        try:
            end = self.log.append(entries, 100 * self.log.end)
        except JournalError as error:
            self.say(f"append failed: {error}")
            if isinstance(error, JournalUnusableError):
                self._cut_to_durable()  # if the process dies of it, some may be there after all
            else:
                del self.images[written:]
            return
        self.known = end
        self.say(f"append {written}..{end}: {[entry[:6] for entry in entries]}")

    def _entry(self) -> Entry:
        volume = self.random.choice([0, 0, 1])
        unit = self.random.choice([SECTOR, 4096]) if volume == 0 else SECTOR
        blocks = SIZES[volume] // unit
        hot = min(blocks, 6)
        offset = self.random.randrange(hot if self.random.random() < 0.7 else blocks)
        kind = self.random.choice([DATA, DATA, DATA, INIT, ZERO, UNMAP, INIT_ZERO])
        most = min(4, blocks - offset) if kind in (DATA, INIT) else blocks - offset
        length = self.random.randint(1, most)
        return self.entry(kind, volume, offset * unit, length * unit)

    def entry(self, kind: int, volume: int, offset: int, length: int) -> Entry:
        payload = self._payload(length) if kind in (DATA, INIT) else b""
        return (kind, volume, 1, 0, offset, length, payload, crc32c(payload))

    def _payload(self, length: int) -> bytes:
        self.value += 1
        return struct.pack("<Q", self.value) * (length // 8)

    def _images_after(self, entries: list[Entry]) -> list[Image]:
        images, image = [], self.images[-1]
        for _, volume, _, _, offset, length, payload, _ in entries:
            before = image[volume]
            after = before[:offset] + (payload or bytes(length)) + before[offset + length :]
            image = {**image, volume: after}
            images.append(image)
        return images

    def begin_sync(self) -> None:
        if self.ticket is None:
            self.ticket, self.has_run = self.log.begin_sync(), False

    def run_sync(self) -> None:
        if self.ticket is None or self.has_run:
            return
        try:
            self.ticket.run()
            self.has_run = True
        except JournalError:
            self._cut_to_durable()

    def _cut_to_durable(self) -> None:
        self.ticket = None
        self.log.cut_to_durable()
        self.say(f"sync failed: cut to {self.log.end}")
        self._forget_images()

    def finish_sync(self) -> None:
        if self.ticket is not None and self.has_run:
            try:
                self.log.finish_sync(self.ticket)
            except JournalUnusableError:
                self._cut_to_durable()
                return
            self.ticket = None
            self.durable = self.log.durable
            self.say(f"durable {self.durable}")

    def sync(self) -> None:
        self.begin_sync()
        self.run_sync()
        self.finish_sync()

    def begin_distribution(self) -> None:
        if self.log.durable == self.replica.distributed and self.random.random() < 0.9:
            return
        upto = self.random.choice([self.log.end, self.log.end, self.random.randint(0, self.log.end)])
        limit = self.random.choice([0, 1 << 17, 1 << 30, 1 << 30])
        self._begin(f"distribute to {upto} limit {limit}", self.replica.distribute(upto, limit))

    def begin_trim(self) -> None:
        if self.replica.can_trim() or self.random.random() < 0.1:
            self._begin("trim", self.replica.trim())

    def _begin(self, what: str, steps: Iterator[Step]) -> None:
        self.operations.append((what, steps))
        self.say(f"begin {what}")
        at_once = self.random.random() < 0.5
        self._step(what, steps)
        while at_once and (what, steps) in self.operations:
            self._step(what, steps)

    def go_on(self) -> None:
        for _ in range(self.random.randint(1, 8)):
            self.step()

    def step(self) -> None:
        if self.operations:
            self._step(*self.random.choice(self.operations))

    def _step(self, what: str, steps: Iterator[Step]) -> None:
        try:
            step = next(steps, None)
            if step is not None:
                step()
                if what == "trim":
                    self.withdrawn = self.replica.first_offered
                self.say(f"{what}: {step.__name__}")
                return
            self.say(f"{what}: done, D={self.replica.distributed} W0={self.log.first - 1}")
        except (JournalError, ReplicaBusyError, ConflictError) as error:
            self.say(f"{what}: {error}")
        steps.close()  # type: ignore[attr-defined]
        self.operations.remove((what, steps))

    def pin(self) -> None:
        if self.pinned is None:
            self.pinned = self._some_image()
            self.replica.pin(self.pinned)
        else:
            self.replica.unpin(self.pinned)
            self.pinned = None

    def _some_image(self) -> int:
        first = self.replica.first_offered
        return first if self.random.random() < 0.4 else self.random.randint(first, self.log.end)

    # What fails

    def fail(self) -> None:
        if self.random.random() < 0.7:
            self.disk.fails_sync = ""
        else:
            self.disk.fills_up = True

    def plan_death(self) -> None:
        if self.disk.dies_at is None:
            self.disk.dies_at = self.disk.operations + self.random.randint(1, self.random.choice([5, 40]))

    def kill_now(self) -> None:
        raise Died

    def recover(self, power_lost: bool | None = None) -> None:
        """Open everything again, however often that dies too; the seed decides what is not said."""
        self.operations, self.ticket, self.pinned = [], None, None
        while True:
            power = self.random.random() < 0.6 if power_lost is None else power_lost
            self.disk.before_read = None
            self.disk.fails_sync, self.disk.fills_up = None, False
            if power:
                self.disk.power_loss()
            self.say("power loss" if power else "process killed")
            self.disk.dies_at = None
            if power_lost is None and self.random.random() < 0.3:
                self.disk.dies_at = self.disk.operations + self.random.randint(1, 30)
            try:
                self.log = Log.open(self.disk, GROUP, self._snapshot, segment_bytes=SEGMENT_BYTES)
                self._open_replica()
                break
            except Died:
                continue
        self.disk.dies_at = None
        self.say(f"log {self.log.first}..{self.log.end}, D={self.replica.distributed}")
        if self.log.end < self.durable:
            raise Broken(f"the log ends at {self.log.end}, {self.durable} was durable")
        self._forget_images()
        self.durable = self.log.end
        checkpoint = self.log.recovered_checkpoint
        if checkpoint is not None and struct.unpack("<Q", checkpoint)[0] != self.log.segments[-1].first - 1:
            raise Broken("the tail's checkpoint is not the state before it")
        self.check()
        self.look_at_some()

    def _forget_images(self) -> None:
        if self.log.end >= len(self.images):
            raise Broken(f"the log has {self.log.end} records, {len(self.images) - 1} were written")
        del self.images[self.log.end + 1 :]
        self.known = self.log.end

    # What is checked

    def check(self) -> None:
        replica = self.replica
        if replica.distributed > self.log.durable:
            raise Broken(f"distributed {replica.distributed}, durable {self.log.durable}")
        if replica.first_offered < self.log.first - 1:
            raise Broken(f"first offered {replica.first_offered}, window from {self.log.first - 1}")
        if replica.first_offered < self.withdrawn:
            raise Broken(f"image {replica.first_offered} is offered again")
        if self.pinned is not None and self.pinned < replica.first_offered:
            raise Broken(f"pinned image {self.pinned} was trimmed")
        if replica.whole:
            for volume, size in SIZES.items():
                if replica.read_copy(volume, 0, size) != self.images[replica.distributed][volume]:
                    raise Broken(f"copy of volume {volume} is not the image {replica.distributed}")

    def look(self) -> None:
        """At an image, while something else goes on."""
        at = self._some_image()
        if self.operations and self.random.random() < 0.7:
            self.disk.before_read = self._meanwhile
        try:
            self._look_at(at)
        except ImageGoneError:
            if at >= self.replica.first_offered:
                raise Broken(f"image {at} is offered and refused") from None
        finally:
            self.disk.before_read = None

    def _meanwhile(self, name: str) -> None:
        if name.startswith(("copy-", "base-")) and self.random.random() < 0.5:
            self.disk.before_read = None
            for _ in range(self.random.randint(1, 8)):
                self.step()
            self.disk.before_read = self._meanwhile

    def _look_at(self, at: int) -> None:
        for volume, size in SIZES.items():
            image = self.replica.read(volume, 0, size, at)
            wanted = self.images[at][volume]
            if image != wanted:
                wrong = next(
                    i for i in range(0, size, SECTOR) if image[i : i + SECTOR] != wanted[i : i + SECTOR]
                )
                raise Broken(
                    f"image {at} of volume {volume} is wrong at {wrong}; first offered "
                    f"{self.replica.first_offered}, D {self.replica.distributed}, end {self.log.end}"
                )

    def look_at_all(self) -> None:
        for at in range(self.replica.first_offered, self.log.end + 1):
            self._look_at(at)

    def look_at_some(self) -> None:
        first, last = self.replica.first_offered, self.log.end
        for at in {first, last, self.replica.distributed, self.random.randint(first, last)}:
            if at >= first:
                self._look_at(at)

    def settle(self) -> None:
        """Without faults everything is distributed in the end, and the copy is the latest image."""
        self.disk.dies_at = None
        self.disk.fails_sync, self.disk.fills_up = None, False
        while self.operations:
            self.step()
        self.run_sync()
        self.finish_sync()
        self.sync()
        self.look_at_all()
        while self.replica.distributed < self.log.end:
            for step in self.replica.distribute(self.log.end, 1 << 16):
                step()
        self.check()
        if not self.replica.whole:
            raise Broken("the copy is not whole when all is distributed")
        self.look_at_some()


def run(seed: int) -> str | None:
    """None if every promise was kept, else which was broken, and the way there."""
    store = Store(seed)
    try:
        store.run()
    except Broken as error:
        return f"seed {seed}: {error}\n" + "\n".join(f"  {line}" for line in store.trace)
    return None
