"""INQUIRY: who the unit is, and by which path."""

import struct

from iscsi_rp.block import MemoryDevice
from iscsi_rp.scsi import Identity, LogicalUnit
from tests.unit.scsi.rig import BLOCK, NAA, Host, make_unit


def page(host: Host, code: int) -> bytes:
    data = host.good(bytes((0x12, 1, code, 4, 0, 0)))
    assert data[:2] == bytes((0, code))
    assert int.from_bytes(data[2:4], "big") == len(data) - 4
    return data[4:]


def designators(host: Host) -> list[tuple[int, int, bytes]]:
    data, at, found = page(host, 0x83), 0, []
    while at < len(data):
        found.append((data[at], data[at + 1], data[at + 4 : at + 4 + data[at + 3]]))
        at += 4 + data[at + 3]
    assert at == len(data)
    return found


def test_standard_data() -> None:
    data = Host(make_unit()).good(bytes((0x12, 0, 0, 0, 255, 0)))
    assert data[:4] == bytes((0, 0, 6, 0x12))
    assert data[4] == len(data) - 5
    assert data[5] & 0x30 == 0x30
    assert data[6] & 0x10
    assert data[7] == 0x02
    alone = LogicalUnit(MemoryDevice(BLOCK), Identity(NAA, "t"))
    assert not Host(alone).good(bytes((0x12, 0, 0, 0, 255, 0)))[6] & 0x10


def test_names_of_the_unit_are_the_same_on_every_path_and_those_of_the_path_are_not() -> None:
    unit = make_unit()
    a, b = designators(Host(unit, 1, sp=1)), designators(Host(unit, 1, sp=2))
    assert a[:2] == b[:2] == [(1, 3, NAA), (2, 1, b"ISCSI-RPt   ")]
    assert a[2:5] == [
        (0x51, 0x94, b"\0\0\0\1"),
        (0x51, 0x95, b"\0\0\0\1"),
        (0x53, 0x98, b"iqn.2026-01.test:disk,t,0x0001\0\0"),
    ]
    assert b[2:4] == [(0x51, 0x94, b"\0\0\0\2"), (0x51, 0x95, b"\0\0\0\2")]
    assert b[4][2].startswith(b"iqn.2026-01.test:disk,t,0x0002\0")
    assert a[5] == b[5] == (0x53, 0xA8, b"iqn.2026-01.test:disk\0\0\0")


def test_every_page_that_is_listed_is_there_and_no_other() -> None:
    host = Host(make_unit())
    listed = page(host, 0)
    assert listed == bytes((0x00, 0x80, 0x83, 0x86, 0x87, 0x88, 0x8F, 0xB0, 0xB1, 0xB2, 0xB3))
    for code in range(256):
        if code in listed:
            page(host, code)
        else:
            assert host.do(bytes((0x12, 1, code, 4, 0, 0))).sense == (5, 0x24, 0)


def test_ports() -> None:
    data, at, found = page(Host(make_unit()), 0x88), 0, []
    while at < len(data):
        port, transport, size = struct.unpack_from(">xxHxxHxxH", data, at)
        assert transport == 0
        assert data[at + 12 : at + 14] == b"\x53\x98"
        found.append((port, data[at + 16 : at + 12 + size].rstrip(b"\0")))
        at += 12 + size
    assert found == [(sp, b"iqn.2026-01.test:disk,t,0x000%d" % sp) for sp in (1, 2)]


def test_referrals_name_the_groups_of_all_blocks() -> None:
    unit = make_unit()
    host = Host(unit)
    assert page(host, 0x86)[4] == 0x10
    cdb = bytes((0x9E, 0x13)) + bytes(8) + (256).to_bytes(4, "big") + bytes(2)
    unit.set_owner(2)
    assert host.attention() == (0x2A, 6)
    data = host.good(cdb)
    assert data[:4] == (28).to_bytes(4, "big")
    assert struct.unpack(">xxxBQQBxHBxH", data[4:]) == (2, 0, unit.size_blocks - 1, 1, 1, 0, 2)
    assert host.do(cdb[:2] + unit.size_blocks.to_bytes(8, "big") + cdb[10:]).sense == (5, 0x21, 0)
