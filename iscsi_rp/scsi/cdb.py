"""Command descriptor blocks: their layouts and the ranges they name (SBC-4 5, SPC-4 4.2)."""

import struct
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeAlias

from iscsi_rp.device import READ, WRITE, Buffer

# flags, LBA, blocks
_LAYOUT_6: Final = struct.Struct(">xxHB")
_LAYOUT_10: Final = struct.Struct(">xBIxH")
_LAYOUT_12: Final = struct.Struct(">xBII")
_LAYOUT_16: Final = struct.Struct(">xBQI")

DPO: Final = 0x10
FUA: Final = 0x08

Unpack: TypeAlias = Callable[[Buffer], tuple[Any, ...]]

FAST: Final[dict[int, tuple[Unpack, int, int]]] = {
    0x28: (_LAYOUT_10.unpack_from, READ, 0xFF ^ DPO),
    0x88: (_LAYOUT_16.unpack_from, READ, 0xFF ^ DPO),
    0xA8: (_LAYOUT_12.unpack_from, READ, 0xFF ^ DPO),
    0x2A: (_LAYOUT_10.unpack_from, WRITE, 0xFF ^ DPO ^ FUA),
    0x8A: (_LAYOUT_16.unpack_from, WRITE, 0xFF ^ DPO ^ FUA),
    0xAA: (_LAYOUT_12.unpack_from, WRITE, 0xFF ^ DPO ^ FUA),
}
"""Opcode -> (layout, operation, flags that need the table) of READ and WRITE 10, 12 and 16."""


class Range(NamedTuple):
    flags: int
    "Byte 1 of the CDB; 0 in a 6-byte one."
    lba: int
    blocks: int


def decode_range(cdb: Buffer) -> Range:
    """LBA and length of the block commands, by the CDB's size, which its group code gives (SPC-4 4.2.5.1)."""
    group = cdb[0] >> 5
    if group == 0:
        low, blocks = _LAYOUT_6.unpack_from(cdb)
        return Range(0, (cdb[1] & 0x1F) << 16 | low, blocks or 256)
    if group in (1, 2):
        return Range(*_LAYOUT_10.unpack_from(cdb))
    if group == 5:
        return Range(*_LAYOUT_12.unpack_from(cdb))
    return Range(*_LAYOUT_16.unpack_from(cdb))


def length_at(cdb: Buffer) -> int:
    """The byte at which the length that `decode_range` gives begins: what a field pointer names."""
    return {0: 4, 1: 7, 2: 7, 5: 6}.get(cdb[0] >> 5, 10)


def uint(cdb: Buffer, at: int, length: int) -> int:
    """A big-endian number of `length` bytes."""
    return int.from_bytes(cdb[at : at + length], "big")
