"""The commands: any number of them from a seed, each with the name of what is odd about it."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

BLOCK: Final = 512
MOST_BLOCKS: Final = 16
"8 KiB: as much as any target takes with its command."


@dataclass(frozen=True, slots=True)
class Step:
    name: str
    "The command and what is odd about it: `READ(10), beyond the end`."
    cdb: bytes
    expected: int
    data: bytes | None


_READS: Final = {"READ(6)": 0x08, "READ(10)": 0x28, "READ(12)": 0xA8, "READ(16)": 0x88}
_WRITES: Final = {
    "WRITE(6)": 0x0A,
    "WRITE(10)": 0x2A,
    "WRITE(12)": 0xAA,
    "WRITE(16)": 0x8A,
    "WRITE AND VERIFY(10)": 0x2E,
    "WRITE AND VERIFY(12)": 0xAE,
    "WRITE AND VERIFY(16)": 0x8E,
}
_VERIFIES: Final = {"VERIFY(10)": 0x2F, "VERIFY(12)": 0xAF, "VERIFY(16)": 0x8F}
_SAMES: Final = {"WRITE SAME(10)": 0x41, "WRITE SAME(16)": 0x93}
_NO_DATA: Final = {
    "SYNCHRONIZE CACHE(10)": 0x35,
    "SYNCHRONIZE CACHE(16)": 0x91,
    "PRE-FETCH(10)": 0x34,
    "PRE-FETCH(16)": 0x90,
}
_OTHERS: Final = (
    ("TEST UNIT READY", "000000000000"),
    ("INQUIRY", "12000000ff00"),
    ("INQUIRY, 5 bytes", "120000000500"),
    ("INQUIRY, page code without EVPD", "12008000ff00"),
    ("INQUIRY, page 00h", "12010000ff00"),
    ("INQUIRY, page 83h", "12018300ff00"),
    ("INQUIRY, page that is not there", "12017f00ff00"),
    ("READ CAPACITY(10)", "25000000000000000000"),
    ("READ CAPACITY(16)", "9e100000000000000000000000200000"),
    ("MODE SENSE(6), all pages", "1a003f00ff00"),
    ("MODE SENSE(6), caching", "1a000800ff00"),
    ("MODE SENSE(6), page that is not there", "1a003000ff00"),
    ("MODE SENSE(10), control", "5a000a0000000000ff00"),
    ("REPORT LUNS", "a00000000000000000ff0000"),
    ("REPORT LUNS, 8 bytes", "a00000000000000000080000"),
    ("REQUEST SENSE", "0300000012 00"),
    ("an opcode that does not exist", "ff0000000000"),
    ("READ CAPACITY(16), service action that does not exist", "9e1f0000000000000000000000200000"),
)


def steps(seed: int, count: int, last_lba: int) -> Iterator[Step]:
    choose = random.Random(seed)
    for _ in range(count):
        yield _step(choose, last_lba)


def _step(choose: random.Random, last_lba: int) -> Step:
    kind = choose.randrange(8)
    if kind == 0:
        name, text = choose.choice(_OTHERS)
        return Step(name, bytes.fromhex(text).ljust(16, b"\0"), 255, None)
    if kind <= 2:
        return _transfer(choose, last_lba, _READS, writes=False)
    if kind <= 4:
        return _transfer(choose, last_lba, _WRITES, writes=True)
    name, code = choose.choice(list({5: _VERIFIES, 6: _SAMES, 7: _NO_DATA}[kind].items()))
    lba, blocks, odd = _range(choose, last_lba, zero=kind != 6)
    cdb = _cdb(code, lba, blocks)
    if kind == 6:
        fill = bytes((choose.randrange(1, 256),)) * BLOCK
        return Step(name + odd, cdb, BLOCK, fill)
    return Step(name + odd, cdb, 0, None)


def _transfer(choose: random.Random, last_lba: int, codes: dict[str, int], *, writes: bool) -> Step:
    name, code = choose.choice(list(codes.items()))
    six = code < 0x20
    lba, blocks, odd = _range(choose, last_lba, zero=not six, far=not six)
    cdb = bytearray(_cdb(code, lba, blocks))
    expected = blocks * BLOCK
    twist = choose.randrange(8) if not odd else 7
    if twist == 0 and not six:
        cdb[1] |= 0x20
        odd = ", with protection"
    elif twist == 1 and not six and not name.startswith("WRITE AND"):
        cdb[1] |= 0x18
        odd = ", DPO and FUA"
    elif twist == 2:
        expected += BLOCK
        odd = ", a block more expected"
    elif twist == 3 and blocks > 1:
        expected -= BLOCK
        odd = ", a block less expected"
    return Step(name + odd, bytes(cdb), expected, choose.randbytes(expected) if writes else None)


def _range(choose: random.Random, last_lba: int, *, zero: bool, far: bool = True) -> tuple[int, int, str]:
    """(LBA, blocks, what is odd)"""
    blocks = choose.randint(1, MOST_BLOCKS)
    odd = choose.randrange(12)
    if odd == 0:
        return last_lba - blocks + 2, blocks, ", one block beyond the end"
    if odd == 1 and far:
        return 0x7FFF_FFFF, blocks, ", far beyond the end"
    if odd == 2 and zero:
        return choose.randint(0, last_lba), 0, ", no blocks"
    if odd == 3 and zero:
        return last_lba + 2, 0, ", no blocks, beyond the end"
    return choose.randint(0, last_lba - blocks + 1), blocks, ""


def _cdb(code: int, lba: int, blocks: int) -> bytes:
    group = code >> 5
    if group == 0:
        cdb = bytes((code, lba >> 16 & 0x1F)) + (lba & 0xFFFF).to_bytes(2, "big") + bytes((blocks,))
    elif group in (1, 2):
        cdb = bytes((code, 0)) + lba.to_bytes(4, "big") + b"\0" + blocks.to_bytes(2, "big")
    elif group == 5:
        cdb = bytes((code, 0)) + lba.to_bytes(4, "big") + blocks.to_bytes(4, "big")
    else:
        cdb = bytes((code, 0)) + lba.to_bytes(8, "big") + blocks.to_bytes(4, "big")
    return cdb.ljust(16, b"\0")
