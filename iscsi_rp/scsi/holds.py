"""What is in the device, and who has a part of it to himself.

A command that reads, decides and writes (COMPARE AND WRITE, ORWRITE, WRITE AND VERIFY) must be atomic to
every other command that touches its blocks. It *holds* its ranges: it waits until nothing that overlaps them
is in the device, and until its hold ends whatever overlaps waits for it. Everything else passes.

Nothing is recorded for a command. What is in the device is known by the batch: the list that the device was
given is the record. Only while there is a hold is a batch taken apart, so that those of its operations wait
that must.

An `Entry` is a batch or a hold. It waits for the entries before it that overlap it and that hold, want to
hold, or wait themselves; a hold waits also for those in the device. So each waits only for earlier ones,
which is why nobody waits for ever, and overlapping ones keep their order. `WAITING` of them may wait; for one
more the device is busy.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

from iscsi_rp.device import BlockDevice, Buffer, BusyError, Done, Io, Result

WAITING: Final = 512

Operation: TypeAlias = tuple[int, int, int, Buffer | None, bool]
"(op, offset, length, data, fua): an `Io` that has no tag yet."

Results: TypeAlias = Callable[[list[Result]], None]
"Called with the results of operations, in their order."


class Entry:
    """A batch in the device or on its way there, or a hold."""

    __slots__ = ("blockers", "done", "exclusive", "followers", "holds", "left", "spans")

    def __init__(self, holds: "Holds", spans: Sequence[Any], done: Done, *, exclusive: bool = False) -> None:
        """`spans` are tuples (anything, offset, length, ...), in bytes."""
        self.holds, self.spans, self.done, self.exclusive = holds, spans, done, exclusive
        self.left = len(spans)
        self.blockers = 0
        self.followers: list[Entry] = []

    def report(self, results: Sequence[tuple[Any, Result]]) -> None:
        """What the device calls back."""
        self.left -= len(results)
        self.done(results)
        if not self.left:
            self.holds.end(self)

    def overlaps(self, other: "Entry") -> bool:
        for span in self.spans:
            begin, end = span[1], span[1] + span[2]
            for its in other.spans:
                if its[1] < end and begin < its[1] + its[2]:
                    return True
        return False


class Holds:
    """Stands between a logical unit and its device: all operations go through it."""

    def __init__(self, device: BlockDevice) -> None:
        self._device = device
        self._entries: dict[Entry, None] = {}
        self._exclusive = 0
        "Holds that somebody has or waits for: without one nothing waits."
        self._waiting: dict[Entry, Callable[[], None]] = {}
        self._ready: deque[Callable[[], None]] = deque()
        self._starting = False

    def submit(self, batch: Sequence[Io], done: Done) -> None:
        """As a device's `submit`. Operations that overlap a hold wait, each for itself."""
        if not self._exclusive:
            entry = Entry(self, batch, done)
            self._entries[entry] = None
            self._device.submit(batch, entry.report)
            return
        for io in batch:
            self._enter([io], done)

    def perform(self, operations: Sequence[Operation], then: Results) -> None:
        """Do all of it, as one: nothing of it while any of it overlaps a hold."""
        self._enter(*_collecting(operations, then))

    def perform_holding(self, operations: Sequence[Operation], then: Results) -> None:
        """As `perform`, for the one who holds all the blocks that it touches."""
        self._device.submit(*_collecting(operations, then))

    def hold(self, ranges: Sequence[tuple[int, int]], then: Callable[[Entry], None]) -> None:
        """Call `then`, now or later, with a hold of these ranges, (offset, length) in bytes. Who gets it must
        `end` it. Raises `BusyError`.
        """
        spans = [(None, offset, length) for offset, length in ranges]
        entry = Entry(self, spans, lambda _: None, exclusive=True)
        self._exclusive += 1
        if not self._await(entry, lambda: then(entry)):
            self._exclusive -= 1
            raise BusyError

    def end(self, entry: Entry) -> None:
        """It is over, and what waited for nothing else starts."""
        del self._entries[entry]
        if entry.exclusive:
            self._exclusive -= 1
        for follower in entry.followers:
            follower.blockers -= 1
            if not follower.blockers:
                self._ready.append(self._waiting.pop(follower))
        # What starts may end before it returns: a chain of them is a loop here, not a recursion.
        if self._ready and not self._starting:
            self._starting = True
            try:
                while self._ready:
                    self._ready.popleft()()
            finally:
                self._starting = False

    def after_all(self, then: Callable[[], None]) -> None:
        """Call `then`, now or later, when everything that is here now is over; what comes later goes on."""
        last = Entry(self, (), lambda _: None)
        last.blockers = len(self._entries)
        for entry in self._entries:
            entry.followers.append(last)
        if last.blockers:
            self._waiting[last] = then
        else:
            then()

    def _enter(self, batch: Sequence[Io], done: Done) -> None:
        if self._exclusive:
            # It may wait, and the data of a write is the caller's only until this returns.
            batch = [_owned(io) for io in batch]
        entry = Entry(self, batch, done)
        if not self._await(entry, lambda: self._device.submit(batch, entry.report)):
            done([(io[5], BusyError()) for io in batch])

    def _await(self, entry: Entry, start: Callable[[], None]) -> bool:
        """Call `start` once nothing stands before the entry; false, and nothing is done, if too many wait."""
        blockers = []
        if self._exclusive:
            for other in self._entries:
                waits = entry.exclusive or other.exclusive or other.blockers
                if waits and entry.overlaps(other):
                    blockers.append(other)
        if not blockers:
            self._entries[entry] = None
            start()
            return True
        if len(self._waiting) >= WAITING:
            return False
        for other in blockers:
            other.followers.append(entry)
        entry.blockers = len(blockers)
        self._entries[entry] = None
        self._waiting[entry] = start
        return True


def _owned(io: Io) -> Io:
    op, offset, length, data, fua, tag = io
    return (op, offset, length, None if data is None else bytes(data), fua, tag)


def _collecting(operations: Sequence[Operation], then: Results) -> tuple[list[Io], Done]:
    """The batch, and the `done` that calls `then` once it has every result."""
    results: list[Result] = [None] * len(operations)
    left = len(operations)

    def done(report: Sequence[tuple[Any, Result]]) -> None:
        nonlocal left
        for index, result in report:
            results[index] = result
        left -= len(report)
        if not left:
            then(results)

    return [(*operation, index) for index, operation in enumerate(operations)], done
