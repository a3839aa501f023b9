"""FORMAT UNIT, SANITIZE, START STOP UNIT: what they do to the blocks, and to commands meanwhile."""

from collections.abc import Sequence
from typing import Any

import pytest

from iscsi_rp.block import MemoryDevice
from iscsi_rp.device import WRITE, Done, Io, MediumError
from tests.unit.scsi import rig
from tests.unit.scsi.rig import BLOCK, Host, make_unit
from tests.unit.scsi.test_holds import LateDevice

FORMAT = bytes((4, 0, 0, 0, 0, 0))
ERASE = bytes((0x48, 0x02)) + bytes(8)
EXIT = bytes((0x48, 0x1F)) + bytes(8)
START, STOP = bytes((0x1B, 0, 0, 0, 1, 0)), bytes((0x1B, 0, 0, 0, 0, 0))
REQUEST_SENSE = bytes((3, 0, 0, 0, 252, 0))
REPORT_LUNS = bytes((0xA0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0))
SANITIZING, FORMATTING, STOPPED = (2, 4, 0x1B), (2, 4, 4), (2, 4, 2)


def overwrite(
    pattern: bytes, *, passes: int = 1, invert: bool = False, immediate: bool = False
) -> tuple[bytes, bytes]:
    data = bytes((0x80 * invert | passes, 0)) + len(pattern).to_bytes(2, "big") + pattern
    return bytes((0x48, 0x80 * immediate | 1)) + bytes(5) + len(data).to_bytes(2, "big") + b"\0", data


class Recording(MemoryDevice):
    """Memory full of ones that remembers what was written."""

    def __init__(self) -> None:
        super().__init__(64 * BLOCK)
        self._data[:] = b"\xff" * len(self._data)
        self.writes: list[Io] = []

    def submit(self, batch: Sequence[Io], done: Done) -> None:
        self.writes += [(*io[:3], bytes(io[3] or b""), *io[4:]) for io in batch if io[0] == WRITE]
        super().submit(batch, done)

    def content(self) -> bytes:
        return bytes(self._data)


@pytest.mark.parametrize("length", [1, 3, 4, BLOCK // 2, BLOCK])
def test_overwrite_repeats_the_pattern_in_each_block(length: int) -> None:
    device = Recording()
    host = Host(make_unit(device))
    pattern = bytes(range(1, 256)) * 3
    host.good(*overwrite(pattern[:length]))
    block = (pattern[:length] * BLOCK)[:BLOCK]
    assert device.content() == block * 64
    assert all(fua for *_, fua, _ in device.writes)


def test_passes_are_inverted_by_turns() -> None:
    device = Recording()
    host = Host(make_unit(device))
    host.good(*overwrite(b"\x0f", passes=3, invert=True))
    assert [bytes(io[3] or b"")[0] for io in device.writes] == [0x0F, 0xF0, 0x0F]


@pytest.mark.parametrize("cdb", [FORMAT, ERASE])
def test_format_and_block_erase_leave_zeros(cdb: bytes) -> None:
    device = Recording()
    host = Host(make_unit(device))
    host.good(cdb)
    assert device.content() == bytes(64 * BLOCK)
    assert bool(device.writes) == (cdb is ERASE)


@pytest.mark.parametrize(
    ("cdb", "data", "sense"),
    [
        (overwrite(b"x" * 4, passes=0)[0], overwrite(b"x" * 4, passes=0)[1], (5, 0x26, 0)),
        (overwrite(b"xxxx")[0], b"\x01\0\0\0xxxx", (5, 0x26, 0)),
        (overwrite(b"xxxx")[0], b"\x01\0\0\x05xxxx", (5, 0x26, 0)),
        (overwrite(b"xxxx")[0], b"\x01\0\0\x04", (5, 0x1A, 0)),
        (*overwrite(b""), (5, 0x24, 0)),
        (*overwrite(b"x" * (BLOCK + 1)), (5, 0x24, 0)),
        (ERASE[:8] + b"\x01\0", b"x", (5, 0x24, 0)),
        (bytes((0x48, 0x42)) + bytes(8), None, (5, 0x24, 0)),
        (bytes((0x48, 0x02, 0, 1)) + bytes(6), None, (5, 0x24, 0)),
        (bytes((0x48, 0x03)) + bytes(8), None, (5, 0x24, 0)),
        (bytes((4, 0xC0, 0, 0, 0, 0)), None, (5, 0x24, 0)),
        (bytes((4, 0x08, 0, 0, 0, 0)), None, (5, 0x24, 0)),
        (bytes((4, 0x10, 0, 0, 0, 0)), bytes(3), (5, 0x1A, 0)),
        (bytes((4, 0x30, 0, 0, 0, 0)), bytes(7), (5, 0x1A, 0)),
        (bytes((4, 0x10, 0, 0, 0, 0)), b"\0\x08\0\0", (5, 0x26, 0)),
        (bytes((4, 0x10, 0, 0, 0, 0)), b"\0\x10\0\0", (5, 0x26, 0)),
        (bytes((4, 0x10, 0, 0, 0, 0)), b"\0\0\0\x04", (5, 0x26, 0)),
        (bytes((4, 0x10, 0, 0, 0, 0)), b"\x01\0\0\0", (5, 0x26, 0)),
    ],
)
def test_what_makes_no_sense_changes_nothing(cdb: bytes, data: bytes | None, sense: Any) -> None:
    device = Recording()
    host = Host(make_unit(device))
    assert host.do(cdb, data).sense == sense
    assert device.content() == b"\xff" * 64 * BLOCK
    host.good(rig.READ)


@pytest.mark.parametrize("immediate", [False, True])
@pytest.mark.parametrize("formatting", [False, True])
def test_meanwhile_the_medium_is_out_of_reach_and_progress_is_told(immediate: bool, formatting: bool) -> None:
    device = LateDevice()
    unit = make_unit(device)
    host = Host(unit)
    other = Host(unit, 2)
    if formatting:
        cdb, data = bytes((4, 0x10, 0, 0, 0, 0)), bytes((0, 0x02 * immediate, 0, 0))
    else:
        cdb, data = overwrite(b"x", passes=2, immediate=immediate)
    answers = host.start(cdb, data)
    device.turn(0)
    device.turn(0)  # it serves: the first block was read
    assert [answer.status for answer in answers] == [0] * immediate
    busy = FORMATTING if formatting else SANITIZING
    for command in (rig.READ, rig.TEST_UNIT_READY, START, STOP, cdb):
        assert other.do(command, data).sense == busy
    assert other.good(REPORT_LUNS)
    device.turn(0)
    device.turn(0)
    unit.reset()
    assert other.attention() == (0x29, 3)
    told = other.good(REQUEST_SENSE)
    assert (told[2], told[12], told[13]) == busy
    assert told[15] == 0x80
    if not formatting:
        assert int.from_bytes(told[16:18], "big") == 0x8000
    device.finish()
    assert [answer.status for answer in answers] == [0]
    assert bytes(device.data) == (b"\0" if formatting else b"x") * device.size
    assert other.start(rig.READ) == []
    device.finish()


@pytest.mark.parametrize("exit_allowed", [False, True])
def test_a_failure_lasts_until_it_is_done_again_or_left(exit_allowed: bool) -> None:
    device = LateDevice()
    host = Host(make_unit(device))
    cdb, data = overwrite(b"x")
    cdb = bytes((0x48, 0x21 if exit_allowed else 0x01)) + cdb[2:]
    device.failing = True
    answers = host.start(cdb, data)
    device.finish()
    device.failing = False
    failed = (3, 0x31, 3)
    assert [answer.sense for answer in answers] == [failed]
    assert host.do(rig.READ).sense == failed
    if exit_allowed:
        host.good(EXIT)
    else:
        assert host.do(EXIT).sense == (5, 0x24, 0)
        formatting = host.start(FORMAT)
        device.finish()
        assert [answer.sense for answer in formatting] == [failed]
        assert host.do(rig.READ).sense == failed
        host.start(cdb, data)
        device.finish()
    reading = host.start(rig.READ)
    device.finish()
    assert reading[0].status == 0


def test_exit_failure_mode_without_a_failure_is_nothing() -> None:
    Host(make_unit()).good(EXIT)


def test_stopped_until_started() -> None:
    unit = make_unit()
    host, other = Host(unit), Host(unit, 2)
    host.good(STOP)
    for command in (rig.READ, rig.TEST_UNIT_READY, FORMAT):
        assert other.do(command).sense == STOPPED
    assert other.good(REPORT_LUNS)
    assert other.good(REQUEST_SENSE)[12:14] == bytes(STOPPED[1:])
    other.good(START)
    host.good(rig.READ)
    host.good(bytes((0x1B, 0, 0, 0, 0x30, 0)))  # STANDBY: a read brings it back
    host.good(rig.READ)
    assert host.do(bytes((0x1B, 0, 0, 0, 2, 0))).sense == (5, 0x24, 0)
    assert host.do(bytes((0x1B, 0, 0, 0, 0x50, 0))).sense == (5, 0x24, 0)


def test_a_flush_that_fails_does_not_stop() -> None:
    class Unflushable(MemoryDevice):
        def submit(self, batch: Sequence[Io], done: Done) -> None:
            done([(io[5], MediumError()) for io in batch]) if batch[0][0] == 4 else super().submit(
                batch, done
            )

    host = Host(make_unit(Unflushable(64 * BLOCK)))
    assert host.do(STOP).status == 2
    host.good(rig.READ)
