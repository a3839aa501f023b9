"""EXTENDED COPY and RECEIVE COPY RESULTS."""

from collections.abc import Sequence
from random import Random
from typing import Any

import pytest

from iscsi_rp.block import MemoryDevice
from iscsi_rp.device import MAP, UNMAP, WRITE, Done, Io, MediumError, SpaceError, pack_runs
from iscsi_rp.scsi import Identity, LogicalUnit, copy_format
from tests.unit.scsi.rig import BLOCK, NAA, Host, make_unit
from tests.unit.scsi.test_holds import LateDevice

OTHER = NAA[:-1] + b"\x1b"
BLOCKS = 4096


def target(naa: bytes = NAA, *, kind: int = 0xE4, flags: int = 0, block: int = BLOCK) -> bytes:
    designator = bytes((1, 3, 0, 16)) + naa
    return bytes((kind, flags, 0, 0)) + designator.ljust(24, b"\0") + b"\0" + block.to_bytes(3, "big")


def segment(
    source_lba: int, to_lba: int, blocks: int, source: int = 0, to: int = 0, *, kind: int = 2, flags: int = 0
) -> bytes:
    head = bytes((kind, flags, 0, 24)) + source.to_bytes(2, "big") + to.to_bytes(2, "big") + b"\0\0"
    return head + blocks.to_bytes(2, "big") + source_lba.to_bytes(8, "big") + to_lba.to_bytes(8, "big")


def copy_list(
    targets: Sequence[bytes], segments: Sequence[bytes], *, identifier: int = 1, usage: int = 0
) -> bytes:
    first, second = b"".join(targets), b"".join(segments)
    head = bytes((identifier, usage << 3)) + len(first).to_bytes(2, "big") + bytes(4)
    return head + len(second).to_bytes(4, "big") + bytes(4) + first + second


def copy_cdb(data: bytes) -> bytes:
    return bytes((0x83, 0)) + bytes(8) + len(data).to_bytes(4, "big") + b"\0\0"


def results(action: int, identifier: int = 1) -> bytes:
    return bytes((0x84, action, identifier)) + bytes(7) + (1024).to_bytes(4, "big") + b"\0\0"


def between(*segments: bytes) -> tuple[bytes, bytes]:
    data = copy_list((target(), target(OTHER)), segments)
    return copy_cdb(data), data


class SparseDevice(MemoryDevice):
    """Memory that knows which MiB were never written, and remembers what was asked of it."""

    def __init__(self, size: int = BLOCKS * BLOCK, **options: Any) -> None:
        super().__init__(size, **options)
        self.ops: list[Io] = []
        self.error: Any = None

    def submit(self, batch: Sequence[Io], done: Done) -> None:
        for io in batch:
            self.ops.append(io)
            if io[0] == MAP and self.error is None:
                half = io[2] // 2 // BLOCK * BLOCK
                runs = (io[2],) if any(self._data[io[1] : io[1] + half]) else (0, half, io[2] - half)
                done([(io[5], pack_runs(runs))])
            elif self.error is not None and io[0] == WRITE:
                done([(io[5], self.error)])
            else:
                super().submit([io], done)

    def content(self, lba: int, blocks: int) -> bytes:
        return bytes(self._data[lba * BLOCK : (lba + blocks) * BLOCK])


class Rig:
    """A host with two LUNs."""

    def __init__(self, *devices: Any) -> None:
        self.devices = devices or (SparseDevice(), SparseDevice())
        units = [
            LogicalUnit(each, Identity(naa, "t"))
            for each, naa in zip(self.devices, (NAA, OTHER), strict=True)
        ]
        self.host = Host(units[0])
        self.host.nexus.luns.update(enumerate(units))  # type: ignore[attr-defined]
        self.units = units

    def copy(
        self, *segments: bytes, targets: Sequence[bytes] = (target(), target(OTHER)), **options: Any
    ) -> Any:
        data = copy_list(targets, segments, **options)
        return self.host.do(copy_cdb(data), data)

    def fill(self, device: int, lba: int, blocks: int) -> bytes:
        data = Random(lba).randbytes(blocks * BLOCK)
        self.devices[device].submit([(WRITE, lba * BLOCK, len(data), data, False, 0)], lambda _: None)
        self.devices[device].ops.clear()
        return data


def test_copies_within_a_unit_and_between_units() -> None:
    rig = Rig()
    data = rig.fill(0, 0, 3000)
    targets = target(flags=0xE0), target(OTHER)  # fields that SPC-4 ignores
    assert rig.copy(segment(0, 1000, 3000, to=1), segment(16, 3500, 100), targets=targets).status == 0
    assert rig.devices[1].content(1000, 3000) == data
    assert rig.devices[0].content(3500, 100) == data[16 * BLOCK : 116 * BLOCK]
    assert rig.devices[1].content(0, 1000) == bytes(1000 * BLOCK)
    status = rig.host.good(results(0))
    assert status == bytes.fromhex("00000008 01 0002 01") + (3100 // 2).to_bytes(4, "big")


def test_what_takes_no_space_is_not_written() -> None:
    rig = Rig()
    rig.fill(1, 0, 3000)
    data = rig.fill(0, 1500, 1500)
    rig.devices[0].ops.clear()
    assert rig.copy(segment(0, 0, 3000, to=1)).status == 0
    assert rig.devices[1].content(0, 3000) == bytes(1500 * BLOCK) + data
    assert [(io[0], io[1], io[2]) for io in rig.devices[1].ops] == [
        (UNMAP, 0, 1500 * BLOCK),
        (WRITE, 1500 * BLOCK, 1500 * BLOCK),
    ]


@pytest.mark.parametrize("in_destination_blocks", [False, True])
def test_units_of_other_block_sizes(in_destination_blocks: bool) -> None:
    rig = Rig(SparseDevice(), SparseDevice(block_size=4096))
    data = rig.fill(0, 8, 64)
    targets = target(), target(OTHER, block=4096)
    blocks, flags = (8, 2) if in_destination_blocks else (64, 0)
    assert rig.copy(segment(8, 3, blocks, to=1, flags=flags), targets=targets).status == 0
    assert rig.devices[1].content(24, 64) == data
    assert rig.copy(segment(8, 3, 4, to=1), targets=targets).sense == (0xA, 0x26, 0x0A)


@pytest.mark.parametrize(
    ("targets", "segments", "sense"),
    [
        ([target(kind=0xE0)], [], (5, 0x26, 0x07)),
        ([target()] * (copy_format.TARGETS + 1), [], (5, 0x26, 0x06)),
        ([target()], [segment(0, 8, 1)] * (copy_format.SEGMENTS + 1), (5, 0x26, 0x08)),
        ([target()], [segment(0, 8, 1, kind=0)], (5, 0x26, 0x09)),
        ([target(flags=0x01)], [segment(0, 8, 1)], (0xA, 0x0D, 0x03)),
        ([target(block=4096)], [segment(0, 8, 1)], (0xA, 0x0D, 0x03)),
        ([target(OTHER[:-1] + b"x")], [segment(0, 8, 1)], (0xA, 0x0D, 0x02)),
        ([target()], [segment(0, 8, 1, to=1)], (0xA, 0x08, 0x04)),
        ([target()], [segment(0, BLOCKS - 1, 2)], (0xA, 0x0D, 0x02)),
        ([target()], [segment(BLOCKS - 1, 0, 2)], (0xA, 0x0D, 0x02)),
        ([target()], [segment(0, 8, 1)[:-1]], (5, 0x1A, 0x00)),
        ([target()[:-1]], [], (5, 0x1A, 0x00)),
    ],
)
def test_lists_that_are_refused(targets: Any, segments: Any, sense: Any) -> None:
    rig = Rig()
    assert rig.copy(*segments, targets=targets).sense == sense
    assert not any(io[0] == WRITE for io in rig.devices[0].ops)


def test_every_truncation_is_refused() -> None:
    rig = Rig()
    data = copy_list([target()], [segment(0, 8, 1)])
    for length in range(1, len(data)):
        assert rig.host.do(copy_cdb(data[:length]), data[:length]).sense == (5, 0x1A, 0)
        assert rig.host.do(copy_cdb(data), data[:length]).sense == (5, 0x1A, 0)
    assert rig.host.do(copy_cdb(b"")).status == 0


def test_a_failed_copy_can_be_asked_for() -> None:
    rig = Rig()
    rig.fill(0, 0, 8)
    rig.devices[1].error = MediumError()
    assert rig.copy(segment(0, 8, 8), segment(0, 8, 8, to=1)).sense == (0xA, 0x0D, 0x01)
    assert rig.host.good(results(0))[4:7] == b"\x02\0\x01"
    details = rig.host.good(results(4))
    assert int.from_bytes(details[:4], "big") == len(details) - 4
    assert (details[56], details[60] & 0x7F, details[62] & 0x0F) == (2, 0x70, 0x0A)
    rig.devices[1].error = SpaceError()
    assert rig.copy(segment(0, 8, 8, to=1)).sense == (7, 0x27, 0x07)


def test_only_its_own_nexus_learns_of_a_copy_and_only_if_it_is_to_be_held() -> None:
    rig = Rig()
    assert rig.copy(segment(0, 8, 8), identifier=5, usage=2).status == 0
    assert rig.copy(segment(0, 8, 8), identifier=0, usage=3).status == 0
    assert rig.copy(segment(0, 8, 8), identifier=4, usage=3).sense == (5, 0x26, 0)
    assert rig.copy(segment(0, 8, 8), identifier=4, usage=1).sense == (5, 0x26, 0)
    assert rig.copy(segment(0, 8, 8), identifier=6).status == 0
    for identifier in (0, 4, 5):
        assert rig.host.do(results(0, identifier)).sense == (5, 0x24, 0)
    assert rig.host.good(results(0, 6))
    other = Host(rig.units[0], 2)
    assert other.do(results(0, 6)).sense == (5, 0x24, 0)
    rig.units[0].nexus_lost(rig.host.nexus)
    assert not rig.units[0].copies.over


def test_a_unit_that_the_initiator_does_not_see_or_may_not_write_is_no_destination() -> None:
    rig = Rig()
    other = Host(rig.units[1], 2)
    register = (0).to_bytes(8, "big") + (7).to_bytes(8, "big") + bytes(8)
    other.good(bytes((0x5F, 0, 0, 0, 0, 0, 0, 0, 24)), register)
    other.good(bytes((0x5F, 1, 0x01, 0, 0, 0, 0, 0, 24)), (7).to_bytes(8, "big") + bytes(16))
    assert rig.copy(segment(0, 8, 8, to=1)).sense == (0xA, 0x0D, 0x01)
    assert rig.copy(segment(0, 8, 8, source=1)).status == 0  # write exclusive: reading is allowed
    del rig.host.nexus.luns[1]  # type: ignore[attr-defined]
    assert rig.copy(segment(0, 8, 8, source=1)).sense == (0xA, 0x0D, 0x02)


class LateSparse(LateDevice):
    """A late device that knows no holes."""

    def _apply(self, io: Io) -> Any:
        return pack_runs((io[2],)) if io[0] == MAP else super()._apply(io)


def test_copies_under_way_are_bounded_named_once_and_can_be_stopped() -> None:
    device = LateSparse()
    rig = Rig(device, SparseDevice())
    answers = []
    for identifier in range(copy_format.COPIES):
        data = copy_list([target()], [segment(0, 1, 1)] * 2, identifier=identifier)
        answers.append(rig.host.start(copy_cdb(data), data))
    assert rig.copy(segment(0, 1, 1), targets=[target()], identifier=200).status == 0x28
    assert rig.host.good(results(0, 3))[4] == 0
    rig.units[0].copies.stop(rig.host.nexus)
    device.finish()
    assert [answer[0].sense for answer in answers] == [(0xA, 0, 0)] * copy_format.COPIES
    assert rig.host.good(results(0, 3))[4:7] == b"\x02\0\0"
    data = copy_list([target()], [segment(0, 1, 1)], identifier=3)
    first = rig.host.start(copy_cdb(data), data)
    assert rig.host.do(copy_cdb(data), data).sense == (5, 0, 0x16)
    rig.units[0].reset()
    device.finish()
    assert first[0].sense == (0xA, 0, 0)


def test_a_copy_writes_nothing_any_more_once_its_destination_is_sanitized() -> None:
    """The other unit manages the copy, and its read is on its way when the medium goes."""
    source, destination = LateSparse(), Rig().devices[1]
    rig = Rig(source, destination)
    answers = rig.host.start(*between(segment(0, 0, 4, to=1)))
    source.turn(0)
    source.turn(0)  # told its runs; the read is submitted
    assert source.busy
    eraser = Host(rig.units[1], 2)
    eraser.good(bytes((0x48, 0x02)) + bytes(8))
    destination.ops.clear()
    rig.units[1].medium.stopped = True
    source.finish()
    assert answers[0].sense == (0xA, 0x0D, 0x01)
    assert not destination.ops


@pytest.mark.parametrize("hidden", [0, 1], ids=["source", "destination"])
def test_a_copy_goes_no_further_once_a_unit_is_hidden_from_its_initiator(hidden: int) -> None:
    source, destination = LateSparse(), Rig().devices[1]
    rig = Rig(source, destination)
    answers = rig.host.start(*between(segment(0, 0, 4, to=1)))
    source.turn(0)
    source.turn(0)
    assert source.busy
    rig.host.nexus.luns[hidden] = make_unit()  # type: ignore[index]
    source.finish()
    assert answers[0].sense == (0xA, 0x0D, 0x02)
    assert not destination.ops


def test_what_copies_may_be_is_told_twice_and_the_same() -> None:
    rig = Rig()
    told = rig.host.good(results(3))
    assert int.from_bytes(told[:4], "big") == len(told) - 4
    assert (told[4], int.from_bytes(told[8:10], "big"), int.from_bytes(told[10:12], "big")) == (1, 8, 64)
    assert told[44:] == b"\x02\xe4"
    page = rig.host.good(bytes((0x12, 1, 0x8F, 4, 0, 0)))
    assert int.from_bytes(page[2:4], "big") == len(page) - 4
    at, kinds = 4, []
    while at < len(page):
        kinds.append(int.from_bytes(page[at : at + 2], "big"))
        length = int.from_bytes(page[at + 2 : at + 4], "big")
        assert not length % 4
        at += 4 + length
    assert kinds == [1, 4, 8, 0xC, 0x8001]
    assert at == len(page)
