"""The checker is checked: each way in which an image can be wrong is planted and must be found."""

import random

import numpy as np
import pytest

from tests.crash.blocks import BLOCK, Sequences, decode, encode
from tests.crash.history import History

SIZES = (64 * BLOCK, 32 * BLOCK)


class Recorder:
    """A writer without a target: random writes, three in flight, applied as they were issued."""

    def __init__(self, seed: int, writes: int) -> None:
        self.random = random.Random(seed)
        self.history = History(SIZES)
        self.log: list[tuple[int, int, int, int]] = []
        "(sequence, volume, first block, blocks)"
        self.settled: set[int] = set()
        "Writes acknowledged before the last one was issued."
        flying: list[int] = []
        for _ in range(writes):
            while len(flying) >= 3:
                self.history.acknowledge(flying.pop(self.random.randrange(len(flying))))
            volume = self.random.randrange(2)
            blocks = self.random.randint(1, 8)
            first = self.random.randrange(SIZES[volume] // BLOCK - blocks)
            busy = [self.log[sequence - 1] for sequence in flying]
            if any(v == volume and f < first + blocks and first < f + b for _, v, f, b in busy):
                continue
            self.settled = set(range(1, len(self.log) + 1)) - set(flying)
            sequence = self.history.issue(volume, first, blocks)
            self.log.append((sequence, volume, first, blocks))
            flying.append(sequence)
        for sequence in flying:
            self.history.acknowledge(sequence)

    def image(self, count: int, without: int = 0) -> list[bytearray]:
        """The volumes after the first `count` writes, without the write `without`."""
        volumes = [bytearray(size) for size in SIZES]
        for sequence, volume, first, blocks in self.log[:count]:
            if sequence != without:
                data = encode(volume, first, blocks, sequence)
                volumes[volume][first * BLOCK : (first + blocks) * BLOCK] = data
        return volumes


def read(volumes: list[bytearray]) -> list[Sequences]:
    found = []
    for number, data in enumerate(volumes):
        sequences, wrong = decode(number, bytes(data))
        assert not wrong
        found.append(sequences)
    return found


@pytest.mark.parametrize("seed", range(20))
def test_every_prefix_is_explained(seed: int) -> None:
    recorder = Recorder(seed, 120)
    for count in range(0, len(recorder.log) + 1, 7):
        assert recorder.history.explain(read(recorder.image(count))) == []


@pytest.mark.parametrize("seed", range(20))
def test_a_lost_write_is_found(seed: int) -> None:
    recorder = Recorder(seed, 120)
    count = len(recorder.log)
    # the last write whose loss still shows: not all overwritten, and the last write depends on it
    whole = read(recorder.image(count))
    visible = {int(sequence) for volume in whole for sequence in np.unique(volume)}
    lost = max(visible & recorder.settled)
    image = read(recorder.image(count, without=lost))
    assert recorder.history.explain(image)
    assert recorder.history.lost(image) > 0
    assert recorder.history.lost(whole) == 0


def test_swapped_order_is_found() -> None:
    """The second of two dependent writes without the first, on another volume."""
    history = History(SIZES)
    first = history.issue(0, 5, 1)
    history.acknowledge(first)
    second = history.issue(1, 7, 1)
    volumes = [bytearray(size) for size in SIZES]
    volumes[1][7 * BLOCK : 8 * BLOCK] = encode(1, 7, 1, second)
    assert history.explain(read(volumes)) == [
        "volume 0 block 5: holds write 0, not 1",
    ]


def test_writes_in_flight_together_may_stand_in_either_order() -> None:
    history = History(SIZES)
    history.issue(0, 5, 1)
    second = history.issue(1, 7, 1)
    history.acknowledge(second)
    volumes = [bytearray(size) for size in SIZES]
    volumes[1][7 * BLOCK : 8 * BLOCK] = encode(1, 7, 1, second)
    assert history.explain(read(volumes)) == []


def test_a_torn_write_is_found() -> None:
    history = History(SIZES)
    sequence = history.issue(0, 4, 4)
    history.acknowledge(sequence)
    volumes = [bytearray(size) for size in SIZES]
    volumes[0][4 * BLOCK : 6 * BLOCK] = encode(0, 4, 4, sequence)[: 2 * BLOCK]
    assert history.explain(read(volumes)) == ["volume 0: write 1 is there only in part"]


def test_what_was_acknowledged_before_a_bookmark_must_be_in_it_and_nothing_issued_after() -> None:
    history = History(SIZES)
    early = history.issue(0, 0, 1)
    history.acknowledge(early)
    asked = history.now
    late = history.issue(0, 1, 1)
    history.acknowledge(late)
    volumes = [bytearray(size) for size in SIZES]
    assert history.explain(read(volumes), floor=asked)
    volumes[0][:BLOCK] = encode(0, 0, 1, early)
    assert history.explain(read(volumes), floor=asked, ceiling=asked) == []
    volumes[0][BLOCK : 2 * BLOCK] = encode(0, 1, 1, late)
    assert history.explain(read(volumes), ceiling=asked)


def test_damaged_and_misplaced_blocks_are_found() -> None:
    data = bytearray(encode(0, 3, 2, 9))
    _, wrong = decode(0, bytes(3 * BLOCK) + bytes(data))
    assert wrong == []
    _, wrong = decode(0, bytes(data))
    assert wrong == [
        "volume 0 block 0: holds block 3 of volume 0",
        "volume 0 block 1: holds block 4 of volume 0",
    ]
    data[2000] ^= 1
    _, wrong = decode(0, bytes(3 * BLOCK) + bytes(data))
    assert wrong == ["volume 0 block 3: damaged"]


def test_a_block_of_another_place_or_of_no_write_is_foreign() -> None:
    history = History(SIZES)
    history.acknowledge(history.issue(0, 4, 1))
    nowhere = [np.zeros(size // BLOCK, np.uint64) for size in SIZES]
    nowhere[0][5] = 1
    assert history.explain(nowhere) == ["volume 0 block 5: write 1 never covered it"]
    nowhere[0][5] = 77
    assert history.explain(nowhere) == ["volume 0: holds write 77, which was never issued"]
