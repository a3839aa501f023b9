"""REPORT SUPPORTED OPERATION CODES and TASK MANAGEMENT FUNCTIONS: the table, as initiators read it."""

import struct

import pytest

from iscsi_rp.scsi.opcodes import TABLE
from tests.unit.scsi.rig import Host, make_unit


def report(options: int, code: int = 0, action: int = 0, *, rctd: bool = False) -> bytes:
    return struct.pack(">BBBBHIxx", 0xA3, 0x0C, rctd << 7 | options, code, action, 1 << 16)


@pytest.mark.parametrize("rctd", [False, True])
def test_all_commands_are_the_table(rctd: bool) -> None:
    data = Host(make_unit()).good(report(0, rctd=rctd))
    assert int.from_bytes(data[:4], "big") == len(data) - 4
    at, found = 4, {}
    while at < len(data):
        code, action, flags, size = struct.unpack_from(">BxHxBH", data, at)
        at += 8
        if flags & 0x02:
            found[code, action if flags & 1 else None] = size, data[at : at + 12]
            at += 12
        else:
            found[code, action if flags & 1 else None] = size, b""
    assert found.keys() == TABLE.keys()
    for key, (size, timeouts) in found.items():
        assert size == len(TABLE[key].usage)
        assert len(timeouts) == (12 if rctd else 0)
        if rctd:
            assert timeouts == b"\0\x0a\0\0" + bytes(4) + TABLE[key].timeout_s.to_bytes(4, "big")
            assert TABLE[key].timeout_s > 0


@pytest.mark.parametrize("rctd", [False, True])
def test_each_command_alone(rctd: bool) -> None:
    host = Host(make_unit())
    for (code, action), row in TABLE.items():
        for options in (3, 1 if action is None else 2):
            data = host.good(report(options, code, action or 0, rctd=rctd))
            assert data[:2] == bytes((0, 0x83 if rctd else 0x03))
            assert data[2:4] == len(row.usage).to_bytes(2, "big")
            assert data[4 : 4 + len(row.usage)] == row.usage
            assert len(data) == 4 + len(row.usage) + (12 if rctd else 0)
        wrong = report(1, code) if action is not None else report(2, code)
        assert host.do(wrong).sense == (5, 0x24, 0)


@pytest.mark.parametrize("cdb", [report(1, 0xC0), report(3, 0xC0), report(3, 0x9E, 0x1F), report(3, 0x28, 1)])
def test_what_is_not_there_is_said_to_be_not_there(cdb: bytes) -> None:
    assert Host(make_unit()).good(cdb) == b"\0\x01\0\0"


@pytest.mark.parametrize("options", [4, 5, 6, 7])
def test_reserved_options(options: int) -> None:
    assert Host(make_unit()).do(report(options)).sense == (5, 0x24, 0)


def test_task_management_functions() -> None:
    host = Host(make_unit())
    cdb = bytes((0xA3, 0x0D, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0))
    assert host.good(cdb) == b"\xd8\0\0\0"
    extended = host.good(cdb[:2] + b"\x80" + cdb[3:])
    assert (extended[0], extended[3], len(extended)) == (0xD8, 12, 16)
