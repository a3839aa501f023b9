"""Commands that write: what they refuse, and what they say of data that does not fit."""

from typing import Any

import pytest

from iscsi_rp.block import MemoryDevice
from iscsi_rp.scsi.blocks import compare
from iscsi_rp.scsi.sense import CheckCondition
from tests.unit.scsi.rig import BLOCK, Host, make_unit

BLOCKS = 64
ONES, TWOS = b"\1" * BLOCK, b"\2" * BLOCK


def compare_and_write(lba: int, blocks: int, flags: int = 0) -> bytes:
    return bytes((0x89, flags)) + lba.to_bytes(8, "big") + bytes((0, 0, 0, blocks, 0, 0))


def write_atomic(lba: int, blocks: int, *, flags: int = 0, boundary: int = 0) -> bytes:
    lengths = boundary.to_bytes(2, "big") + blocks.to_bytes(2, "big")
    return bytes((0x9C, flags)) + lba.to_bytes(8, "big") + lengths + b"\0\0"


def host_of(size: int = BLOCKS * BLOCK) -> Host:
    return Host(make_unit(MemoryDevice(size)))


def stored(host: Host, lba: int, blocks: int = 1) -> bytes:
    return host.good(bytes((0x28, 0)) + lba.to_bytes(4, "big") + bytes((0, 0, blocks, 0)))


@pytest.mark.parametrize(
    ("cdb", "data", "sense"),
    [
        (compare_and_write(0, 1), ONES, (5, 0x24, 0)),
        (compare_and_write(0, 1), ONES * 3, (5, 0x24, 0)),
        (compare_and_write(0, 1), None, (5, 0x24, 0)),
        (compare_and_write(0, 0), ONES, (5, 0x24, 0)),
        (compare_and_write(0, 1, 0x20), ONES * 2, (5, 0x24, 0)),
        (compare_and_write(BLOCKS - 1, 2), ONES * 4, (5, 0x21, 0)),
        (compare_and_write(BLOCKS, 0), None, (5, 0x21, 0)),
        (compare_and_write(1 << 63, 1), ONES * 2, (5, 0x21, 0)),
        (write_atomic(0, 2), ONES * 2, (5, 0x24, 0)),
        (write_atomic(0, 1, boundary=1), ONES, (5, 0x24, 0)),
        (write_atomic(0, 1, flags=0x20), ONES, (5, 0x24, 0)),
        (write_atomic(BLOCKS, 0), None, (5, 0x21, 0)),
        (write_atomic(BLOCKS - 1, 2), ONES * 2, (5, 0x21, 0)),
    ],
)
def test_what_is_refused_changes_nothing(cdb: bytes, data: bytes | None, sense: Any) -> None:
    host = host_of()
    assert host.do(cdb, data).sense == sense
    assert stored(host, 0, BLOCKS) == bytes(BLOCKS * BLOCK)


@pytest.mark.parametrize(
    ("code", "size", "at"),
    [(0x28, 10, 7), (0x2F, 10, 7), (0xA8, 12, 6), (0x88, 16, 10), (0x93, 16, 10)],
)
def test_the_field_pointer_of_a_length_beyond_the_limit(code: int, size: int, at: int) -> None:
    """0x93 is within the limit of WRITE SAME, but for 0 blocks, which are all."""
    host = host_of(1 << 26)
    cdb = bytearray(size)
    cdb[0] = code
    if code != 0x93:
        cdb[at : size - 2 if size > 10 else 9] = (0x4001).to_bytes(2 if size == 10 else 4, "big")
    answer = host.do(bytes(cdb), bytes(BLOCK))
    assert answer.sense == (5, 0x24, 0)
    assert answer.data[15:18] == bytes((0xC0, 0, at))


def test_compare_and_write_swaps_or_tells_where_it_differs() -> None:
    host = host_of()
    host.good(compare_and_write(3, 2, 0x18), bytes(2 * BLOCK) + ONES + TWOS)
    assert stored(host, 3, 2) == ONES + TWOS
    answer = host.do(compare_and_write(3, 2), ONES + TWOS[:-1] + b"\0" + TWOS * 2)
    assert answer.sense == (0xE, 0x1D, 0)
    assert answer.data[0] & 0x80
    assert int.from_bytes(answer.data[3:7], "big") == 2 * BLOCK - 1
    assert stored(host, 3, 2) == ONES + TWOS
    host.good(compare_and_write(3, 0))


def test_the_longest_compare_and_write_is_as_long_as_the_page_says() -> None:
    host = host_of(300 * BLOCK)
    limit = host.good(bytes((0x12, 1, 0xB0, 0, 255, 0)))[5]
    assert limit == 255
    host.good(compare_and_write(0, limit), bytes(limit * BLOCK) + ONES * limit)
    assert stored(host, limit - 1, 2) == ONES + bytes(BLOCK)


def test_one_block_is_written_atomically() -> None:
    host = host_of()
    page = host.good(bytes((0x12, 1, 0xB0, 0, 255, 0)))
    fields = [int.from_bytes(page[at : at + 4], "big") for at in range(44, 64, 4)]
    assert fields == [1, 1, 1, 0, 0]
    host.good(write_atomic(5, 1, flags=0x18), TWOS)
    assert stored(host, 5) == TWOS
    host.good(write_atomic(5, 0))


def test_orwrite_adds_bits() -> None:
    host = host_of()
    orwrite = bytes((0x8B, 0)) + (1).to_bytes(8, "big") + (2).to_bytes(4, "big") + b"\0\0"
    host.good(orwrite, ONES * 2)
    host.good(orwrite, TWOS * 2)
    assert stored(host, 1, 2) == b"\3" * 2 * BLOCK


@pytest.mark.parametrize("at", [0, 1, 511, 512, 4095, 4096, 9999])
def test_compare_finds_the_first_difference(at: int) -> None:
    data = bytearray(10_000)
    other = bytearray(data)
    compare(bytes(data), other)
    other[at:] = b"\xff" * (len(other) - at)
    with pytest.raises(CheckCondition) as raised:
        compare(bytes(data), memoryview(other))
    assert raised.value.sense.information == at
