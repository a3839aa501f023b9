"""What hosts have written, and whether a content is one that they could meet: the judge of the replication's
simulation.

The content of a volume is a few *slots* of one block each, laid so that writes cross the borders of regions.
A write puts its number into every slot that it covers. Two writes are ordered for a host only when one was
acknowledged before the other was issued.
"""

from dataclasses import dataclass, field
from typing import Final

from iscsi_rp.replication.regions import REGION_BYTES

BLOCK: Final = 512
SLOTS: Final = (
    REGION_BYTES - 2 * BLOCK,
    REGION_BYTES - BLOCK,
    REGION_BYTES,
    2 * REGION_BYTES - BLOCK,
    2 * REGION_BYTES,
    2 * REGION_BYTES + BLOCK,
)
"Offsets. The first three and the last three are contiguous."
RUNS: Final = ((0, 1, 2), (3, 4, 5))
SIZE: Final = 2 * REGION_BYTES + 8 * BLOCK

Content = tuple[int, ...]
"The value of each slot."
EMPTY: Final[Content] = (0,) * len(SLOTS)


def block_of(value: int) -> bytes:
    return value.to_bytes(8, "little") * (BLOCK // 8)


def value_of(block: bytes) -> int:
    value = int.from_bytes(block[:8], "little")
    assert block == block_of(value), "a torn block"
    return value


def laid_over(content: Content, offset: int, length: int, data: bytes | None) -> Content:
    """`content` with bytes written over it; None is zeros."""
    slots = list(content)
    for index, at in enumerate(SLOTS):
        if offset <= at < offset + length:
            slots[index] = 0 if data is None else value_of(data[at - offset : at - offset + BLOCK])
    return tuple(slots)


def bytes_of(content: Content, offset: int, length: int) -> bytes:
    data = bytearray(length)
    for value, at in zip(content, SLOTS, strict=True):
        if offset <= at < offset + length:
            data[at - offset : at - offset + BLOCK] = block_of(value)
    return bytes(data)


@dataclass
class Write:
    """A write of a host."""

    number: int
    volume: int
    slots: tuple[int, ...]
    value: int
    issued: int
    acknowledged: int | None = None

    def before(self, other: "Write") -> bool:
        """A host could know that this one was first."""
        return self.acknowledged is not None and self.acknowledged < other.issued


@dataclass
class Epoch:
    """The life of one storage processor from a start to the next: what its stores held then, and what was
    written since.
    """

    base: dict[int, Content]
    writes: list[Write] = field(default_factory=list)
    ended: int | None = None


class Hosts:
    """Every write of every host, by epochs of the storage processor that took it."""

    def __init__(self, volumes_of: dict[int, list[int]]) -> None:
        self._volumes_of = volumes_of
        self.epochs: dict[int, list[Epoch]] = {
            processor: [Epoch(dict.fromkeys(volumes, EMPTY))] for processor, volumes in volumes_of.items()
        }
        self.by_value: dict[int, Write] = {}

    def issued(self, processor: int, write: Write) -> None:
        self.epochs[processor][-1].writes.append(write)
        self.by_value[write.value] = write

    def restarted(self, processor: int, now: int, base: dict[int, Content]) -> None:
        epochs = self.epochs[processor]
        epochs[-1].ended = now
        epochs.append(Epoch(base))

    def impossible(self, image: dict[int, Content]) -> str | None:
        """Why no host could meet this image: for every choice of epochs a reason. None where it is a
        consistent cut.
        """
        reasons: list[str] = []

        def choose(processors: list[int], chosen: list[Epoch]) -> bool:
            if not processors:
                reason = self._inconsistent(image, chosen)
                if reason is not None:
                    reasons.append(reason)
                return reason is None
            first, *rest = processors
            return any(choose(rest, [*chosen, epoch]) for epoch in reversed(self.epochs[first]))

        return None if choose(list(self._volumes_of), []) else "; ".join(reasons[:4])

    def _inconsistent(self, image: dict[int, Content], epochs: list[Epoch]) -> str | None:
        writes = [write for epoch in epochs for write in epoch.writes]
        known = {write.value: write for write in writes}
        base = {volume: content for epoch in epochs for volume, content in epoch.base.items()}
        seen: dict[tuple[int, int], Write | None] = {}
        for volume, content in image.items():
            for slot, value in enumerate(content):
                write = known.get(value)
                if write is not None and write.volume == volume and slot in write.slots:
                    seen[volume, slot] = write
                elif value == base[volume][slot]:
                    seen[volume, slot] = None
                else:
                    return f"volume {volume} slot {slot} holds {value}, which nobody wrote there"
        held = [write for write in seen.values() if write is not None]
        newest = max((write.issued for write in held), default=-1)
        if any(epoch.ended is not None and newest > epoch.ended for epoch in epochs):
            return "a write from after the restart"
        for write in writes:
            due = write in held or (write.acknowledged is not None and write.acknowledged < newest)
            if due and (missing := self._missing(write, seen)) is not None:
                return f"write {write.number} is missing in slot {missing}, a later one is there"
        return None

    @staticmethod
    def _missing(write: Write, seen: dict[tuple[int, int], Write | None]) -> int | None:
        for slot in write.slots:
            there = seen[write.volume, slot]
            if there is None or there.before(write):
                return slot
        return None

    def lost(self, processor: int, volume: int, content: Content) -> str | None:
        """An acknowledged write that a store no longer has."""
        known = self.epochs[processor][-1]
        for write in known.writes:
            if write.volume != volume or write.acknowledged is None:
                continue
            for slot in write.slots:
                there = self.by_value.get(content[slot])
                if there is None or there.before(write):
                    found = content[slot]
                    return f"write {write.number} was acknowledged, volume {volume} slot {slot} has {found}"
        return None

    def not_held(self, image: dict[int, Content], asked: int) -> str | None:
        """A write acknowledged before `asked` that an image lacks."""
        for epochs in self.epochs.values():
            epoch = next(each for each in epochs if each.ended is None or each.ended > asked)
            for write in epoch.writes:
                if write.acknowledged is None or write.acknowledged >= asked:
                    continue
                for slot in write.slots:
                    there = self.by_value.get(image[write.volume][slot])
                    if there is None or there.before(write):
                        return f"write {write.number} was acknowledged before"
        return None
