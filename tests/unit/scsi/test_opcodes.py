"""Every opcode and service action: what changes the store says so in the table; and the commands' answers."""

from collections.abc import Sequence
from itertools import product
from typing import Any

import pytest

from iscsi_rp.block import MemoryDevice, ReadOnlyDevice
from iscsi_rp.device import UNMAP, WRITE, ZERO, Done, Io, NotReadyError
from iscsi_rp.scsi import Identity, LogicalUnit, Nexus, serve_absent
from iscsi_rp.scsi.opcodes import TABLE, find
from tests.unit.scsi.test_copy import copy_list, segment, target

NAA = bytes.fromhex("6001405000000000000000000000001a")
BLOCK = 512
ALL_ONES = b"\xff" * BLOCK


class RecordingDevice(MemoryDevice):
    """Memory that remembers what was asked of it."""

    def __init__(self) -> None:
        super().__init__(64 * BLOCK)
        self.ops: list[int] = []

    def submit(self, batch: Sequence[Io], done: Done) -> None:
        self.ops += [io[0] for io in batch]
        super().submit(batch, done)

    def content(self) -> bytes:
        return bytes(self._data)


def unit_over(device: Any) -> tuple[LogicalUnit, Nexus]:
    """A logical unit, and a nexus that knows that it was powered on."""
    unit = LogicalUnit(device, Identity(NAA, "t"))
    nexus = Nexus("iqn.2026-01.test:i", {0: unit})
    assert execute(unit, nexus, bytes(6))[1][12:14] == b"\x29\x00"
    return unit, nexus


def execute(unit: LogicalUnit, nexus: Nexus, cdb: bytes, data: bytes | None = None) -> tuple[int, bytes, int]:
    answers: list[Any] = []
    unit.submit(nexus, [("tag", cdb.ljust(16, b"\0"), data)], answers.extend)
    ((tag, status, payload, transfer),) = answers
    assert tag == "tag"
    return status, bytes(payload), transfer


COPY = copy_list([target(NAA)], [segment(0, 8, 1)])
OVERWRITE = b"\x01\0\0\x01\xff"
LENGTHS = {0x04: (0,), 0x42: (24,), 0x48: (0, len(OVERWRITE)), 0x83: (len(COPY),)}
"Of opcodes that have no blocks to count."


def cdbs(code: int) -> list[bytes]:
    """CDBs of an opcode that could do something: every service action, with a length of one."""
    found = []
    for action, flags, length in product(range(32), (0, 0x08, 0x20), LENGTHS.get(code, (1,))):
        cdb = bytearray(32 if code == 0x7F else 16)
        cdb[0] = code
        if code == 0x7F:
            cdb[7], cdb[9], cdb[10], cdb[31] = 24, action, flags, length
        else:
            cdb[1] = action | flags
            cdb[{0: 4, 1: 8, 2: 8, 5: 9}.get(code >> 5, 13)] = length
        found.append(bytes(cdb))
    return found


DATA = (
    ALL_ONES,
    bytes(BLOCK),
    b"\x5a" * BLOCK + ALL_ONES,
    b"\0\x16\0\x10" + bytes(4) + bytes(8) + b"\0\0\0\x02" + bytes(4),
    COPY,
    OVERWRITE,
)


def test_nothing_changes_the_store_but_rows_that_say_so() -> None:
    changed: set[tuple[int, int | None]] = set()
    for code in range(256):
        for cdb in cdbs(code):
            row = find(cdb)
            for data in DATA if row is not None else DATA[:1]:
                device = RecordingDevice()
                device.submit([(WRITE, 0, 4 * BLOCK, b"\x5a" * 4 * BLOCK, False, 0)], lambda _: None)
                before = device.content()
                unit, nexus = unit_over(device)
                device.ops.clear()
                status, _, _ = execute(unit, nexus, cdb, data)
                writes = {op for op in device.ops if op in (WRITE, ZERO, UNMAP)}
                if device.content() != before or writes:
                    assert row is not None
                    assert row.changes_blocks
                    assert writes
                    changed.add((code, row.service_action))
                if row is None:
                    assert status == 0x02
                    assert not device.ops
    assert changed == {key for key, row in TABLE.items() if row.changes_blocks}


def test_no_service_action_of_a_variable_length_cdb_is_served_beyond_the_table() -> None:
    device = RecordingDevice()
    unit, nexus = unit_over(device)
    device.ops.clear()
    for action in range(1 << 16):
        if (0x7F, action) not in TABLE:
            cdb = b"\x7f" + bytes(6) + b"\x18" + action.to_bytes(2, "big") + bytes(21) + b"\x01"
            assert execute(unit, nexus, cdb, ALL_ONES)[0] == 0x02
    assert not device.ops


def test_rows_that_change_blocks_are_refused_on_a_read_only_device() -> None:
    for row in TABLE.values():
        device = RecordingDevice()
        unit, nexus = unit_over(ReadOnlyDevice(device))
        cdb = bytearray(cdbs(row.code)[0])
        cdb[1] = row.service_action or 0
        status, sense, _ = execute(unit, nexus, bytes(cdb), ALL_ONES)
        refused = status == 0x02 and sense[2] == 0x07 and sense[12] == 0x27
        assert refused == row.changes_blocks, row.name


def test_usage_masks_have_the_length_of_their_cdb() -> None:
    lengths = {0: 6, 1: 10, 2: 10, 4: 16, 5: 12}
    for row in TABLE.values():
        assert len(row.usage) == lengths[row.code >> 5], row.name
        assert row.usage[0] == row.code


def test_unknown_opcode_and_unknown_service_action() -> None:
    unit, nexus = unit_over(RecordingDevice())
    assert execute(unit, nexus, b"\xc0")[1][12:14] == b"\x20\x00"
    assert execute(unit, nexus, b"\x9e\x11")[1][12:14] == b"\x24\x00"


@pytest.mark.parametrize("code", [0x28, 0x2A, 0x88, 0x8A, 0xA8, 0xAA])
def test_ranges_beyond_the_medium_are_refused(code: int) -> None:
    device = RecordingDevice()
    unit, nexus = unit_over(device)
    cdb = bytearray(16)
    cdb[0] = code
    lba_end, count_at = (5, 8) if code < 0x80 else (9, 13) if code < 0xA0 else (5, 9)
    cdb[lba_end], cdb[count_at] = 63, 1
    assert execute(unit, nexus, bytes(cdb), ALL_ONES)[0] == 0
    device.ops.clear()
    cdb[count_at] = 2
    status, sense, _ = execute(unit, nexus, bytes(cdb), ALL_ONES * 2)
    assert (status, sense[2], sense[12:14]) == (0x02, 0x05, b"\x21\x00")
    assert not device.ops


def test_verify_and_write_same_and_unmap() -> None:
    device = RecordingDevice()
    unit, nexus = unit_over(device)
    assert execute(unit, nexus, bytes([0x41, 0, 0, 0, 0, 2, 0, 0, 3]), ALL_ONES)[0] == 0
    assert device.content()[2 * BLOCK : 5 * BLOCK] == ALL_ONES * 3
    verify = bytes([0x2F, 0x02, 0, 0, 0, 1, 0, 0, 2])
    status, sense, _ = execute(unit, nexus, verify, bytes(BLOCK) + ALL_ONES[:-1] + b"\0")
    assert (status, sense[2], sense[12]) == (0x02, 0x0E, 0x1D)
    assert int.from_bytes(sense[3:7], "big") == 2 * BLOCK - 1
    assert execute(unit, nexus, verify, bytes(BLOCK) + ALL_ONES)[0] == 0
    assert execute(unit, nexus, bytes([0x2F, 0x06, 0, 0, 0, 2, 0, 0, 3]), ALL_ONES)[0] == 0
    list_ = b"\0\x16\0\x10" + bytes(4) + (2).to_bytes(8, "big") + (1).to_bytes(4, "big") + bytes(4)
    assert execute(unit, nexus, bytes([0x42, 0, 0, 0, 0, 0, 0, 0, 24]), list_)[0] == 0
    assert device.content()[2 * BLOCK : 4 * BLOCK] == bytes(BLOCK) + ALL_ONES


def test_errors_of_the_device_become_sense() -> None:
    class Offline(RecordingDevice):
        def submit(self, batch: Sequence[Io], done: Done) -> None:
            done([(io[5], NotReadyError()) for io in batch])

    unit, nexus = unit_over(Offline())
    for cdb in (b"\0", bytes([0x28, 0, 0, 0, 0, 0, 0, 0, 1]), bytes([0x35])):
        status, sense, _ = execute(unit, nexus, cdb)
        assert (status, sense[2], sense[12:14]) == (0x02, 0x02, b"\x04\x00")


def test_software_write_protect_lasts_until_reset() -> None:
    unit, nexus = unit_over(RecordingDevice())
    page = bytes([0x0A, 0x0A, 0x02, 0x10, 0x08, 0x40]).ljust(12, b"\0")
    assert execute(unit, nexus, bytes([0x15, 0x10, 0, 0, 16]), bytes(4) + page)[0] == 0
    write = bytes([0x2A, 0, 0, 0, 0, 0, 0, 0, 1])
    assert execute(unit, nexus, write, ALL_ONES)[1][2] == 0x07
    unit.reset()
    assert execute(unit, nexus, bytes(6))[1][12:14] == b"\x29\x03"
    assert execute(unit, nexus, write, ALL_ONES)[0] == 0


def test_absent_lun() -> None:
    nexus = Nexus("i", {})
    answers: list[Any] = []
    inquiry = bytes([0x12, 0, 0, 0, 36]).ljust(16, b"\0")
    serve_absent(nexus, [(1, inquiry, None), (2, bytes(16), None)], answers.extend)
    assert answers[0][2][0] == 0x7F
    assert answers[1][1] == 0x02
    assert answers[1][2][12:14] == b"\x25\x00"


@pytest.mark.parametrize("allocation", range(0, 70, 7))
def test_allocation_length_cuts(allocation: int) -> None:
    unit, nexus = unit_over(RecordingDevice())
    for head in ([0x12, 1, 0x83, 0], [0x12, 0, 0, 0], [0x1A, 0, 0x3F, 0]):
        status, data, transfer = execute(unit, nexus, bytes([*head, allocation]))
        assert status == 0
        assert len(data) == transfer == min(allocation, len(data)) <= allocation
