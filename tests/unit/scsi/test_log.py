"""Log pages: what is counted, told and set back."""

from collections.abc import Sequence

import pytest

from iscsi_rp.block import MemoryDevice
from iscsi_rp.device import BusyError, Done, Io, IoError, MediumError
from tests.unit.scsi.rig import BLOCK, READ, WRITE, Host, make_unit

VERIFY = bytes((0x2F, 0, 0, 0, 0, 0, 0, 0, 1, 0))


class Failing(MemoryDevice):
    def __init__(self) -> None:
        super().__init__(64 * BLOCK)
        self.error: IoError | None = None

    def submit(self, batch: Sequence[Io], done: Done) -> None:
        if self.error is None:
            return super().submit(batch, done)
        return done([(io[5], self.error) for io in batch])


def sense(page: int, subpage: int = 0, *, control: int = 1, pointer: int = 0) -> bytes:
    return bytes((0x4D, 0, control << 6 | page, subpage, 0)) + pointer.to_bytes(2, "big") + b"\1\0\0"


def select(page: int = 0, *, flags: int = 0x02, control: int = 1, size: int = 0) -> bytes:
    return bytes((0x4C, flags, control << 6 | page, 0, 0, 0, 0, 0, size, 0))


def page(host: Host, code: int, subpage: int = 0, *, control: int = 1) -> bytes:
    data = host.good(sense(code, subpage, control=control))
    assert data[:2] == bytes((0x80 | (0x40 if subpage else 0) | code, subpage))
    assert int.from_bytes(data[2:4], "big") == len(data) - 4
    return data[4:]


def errors(host: Host, *, control: int = 1) -> list[int]:
    """(write, read, verify)"""
    found = []
    for code in (2, 3, 5):
        data = page(host, code, control=control)
        assert data[:4] == b"\0\x06\x20\x08"
        found.append(int.from_bytes(data[4:], "big"))
    return found


def test_every_page_that_is_listed_is_there_and_no_other() -> None:
    host = Host(make_unit())
    listed = page(host, 0)
    assert listed == bytes((0, 2, 3, 5, 0x2F))
    for code in range(64):
        if code in listed:
            page(host, code)
        else:
            assert host.do(sense(code)).sense == (5, 0x24, 0)
    assert page(host, 0, 0xFF) == bytes((0, 0, 0, 0xFF, 2, 0, 3, 0, 5, 0, 0x2F, 0))
    assert page(host, 0x2F) == b"\0\0\x23\x04\0\0\xff\0"
    for wrong in (sense(2, 1), sense(0, 1), sense(2, pointer=7), sense(2, control=0)):
        assert host.do(wrong).sense == (5, 0x24, 0)


def test_errors_are_counted_by_what_met_them() -> None:
    device = Failing()
    host = Host(make_unit(device))
    device.error = MediumError()
    for cdb, times in ((WRITE, 1), (READ, 2), (VERIFY, 3), (bytes((0x08, 0, 0, 0, 1)), 4)):
        for _ in range(times):
            assert host.do(cdb, bytes(BLOCK)).sense is not None
    assert errors(host) == [1, 6, 3]
    device.error = BusyError()
    assert host.do(READ).status == 0x28
    assert errors(host) == [1, 6, 3]
    assert errors(host, control=3) == [0, 0, 0]


@pytest.mark.parametrize(
    ("cdb", "left"), [(select(), [0, 0, 0]), (select(3), [1, 0, 1]), (select(flags=0, control=3), [0, 0, 0])]
)
def test_setting_back_is_told_to_the_others(cdb: bytes, left: list[int]) -> None:
    device = Failing()
    unit = make_unit(device)
    one, two = Host(unit, 1), Host(unit, 2)
    device.error = MediumError()
    for failing in (WRITE, READ, VERIFY):
        one.do(failing, bytes(BLOCK))
    device.error = None
    one.good(cdb)
    assert (one.attention(), two.attention()) == (None, (0x2A, 2))
    assert errors(two) == left
    one.good(cdb)
    assert two.attention() is None


@pytest.mark.parametrize("cdb", [select(flags=1), select(size=8), select(0x2F)])
def test_what_log_select_refuses(cdb: bytes) -> None:
    assert Host(make_unit()).do(cdb, bytes(8)).sense == (5, 0x24, 0)


def test_the_self_test_reads_the_medium() -> None:
    device = Failing()
    host = Host(make_unit(device))
    host.good(bytes((0x1D, 4)))
    device.error = MediumError()
    assert host.do(bytes((0x1D, 4))).sense == (3, 0x11, 0)
    host.good(bytes((0x1D, 0x10)))
    assert host.do(bytes((0x1D, 0x20))).sense == (5, 0x24, 0)
