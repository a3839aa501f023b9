"""MODE SENSE and MODE SELECT."""

from collections.abc import Sequence

import pytest

from iscsi_rp.block import MemoryDevice
from iscsi_rp.device import Done, Io, MediumError
from tests.unit.scsi.rig import BLOCK, READ, WRITE, Host, make_unit

CODES = [(1, 0), (2, 0), (8, 0), (0x0A, 0), (0x0A, 1), (0x1C, 0)]


def sense_10(host: Host, code: int, subpage: int = 0, *, flags: int = 0x08, control: int = 0) -> bytes:
    data = host.good(bytes((0x5A, flags, control << 6 | code, subpage, 0, 0, 0, 4, 0, 0)))
    assert int.from_bytes(data[:2], "big") == len(data) - 2
    return data


def pages(data: bytes) -> list[tuple[int, int]]:
    at, found = 0, []
    while at < len(data):
        if data[at] & 0x40:
            found.append((data[at] & 0x3F, data[at + 1]))
            at += 4 + int.from_bytes(data[at + 2 : at + 4], "big")
        else:
            found.append((data[at], 0))
            at += 2 + data[at + 1]
    assert at == len(data)
    return found


def select_6(
    host: Host, *selected: bytes, descriptor: bytes = b"", sp: int = 0
) -> tuple[int, int, int] | None:
    data = bytes((0, 0, 0, len(descriptor))) + descriptor + b"".join(selected)
    return host.do(bytes((0x15, 0x10 | sp, 0, 0, len(data), 0)), data).sense


def control(*, d_sense: bool = False, swp: bool = False) -> bytes:
    return bytes((0x0A, 0x0A, 0x02 | d_sense << 2, 0x10, swp << 3, 0x40)).ljust(12, b"\0")


def test_all_pages_and_all_subpages() -> None:
    host = Host(make_unit())
    assert pages(sense_10(host, 0x3F)[8:]) == [code for code in CODES if not code[1]]
    assert pages(sense_10(host, 0x3F, 0xFF)[8:]) == CODES
    assert pages(sense_10(host, 0x0A, 0xFF)[8:]) == [(0x0A, 0), (0x0A, 1)]
    for code in CODES:
        for kind in range(3):
            assert pages(sense_10(host, *code, control=kind)[8:]) == [code]
    assert host.do(bytes((0x5A, 0, 0x0A, 2, 0, 0, 0, 4, 0, 0))).sense == (5, 0x24, 0)
    assert host.do(bytes((0x5A, 0, 0x05, 0, 0, 0, 0, 4, 0, 0))).sense == (5, 0x24, 0)
    assert host.do(bytes((0x5A, 0, 0xCA, 0, 0, 0, 0, 4, 0, 0))).sense == (5, 0x39, 0)


def test_block_descriptors() -> None:
    host = Host(make_unit())
    short, long = sense_10(host, 0x0A, flags=0), sense_10(host, 0x0A, flags=0x10)
    assert (short[4], short[6:16]) == (0, b"\0\x08" + (64).to_bytes(4, "big") + BLOCK.to_bytes(4, "big"))
    assert (long[4], long[6:8]) == (1, b"\0\x10")
    assert long[8:24] == (64).to_bytes(8, "big") + bytes(4) + BLOCK.to_bytes(4, "big")


def test_what_can_be_changed_is_what_changes_and_others_are_told() -> None:
    unit = make_unit()
    one, two = Host(unit, 1), Host(unit, 2)
    assert sense_10(one, 0x0A, control=1)[10:14] == bytes((0x04, 0, 0x08, 0))
    assert select_6(one, control()) is None
    assert two.attention() is None
    assert select_6(one, control(swp=True)) is None
    assert (one.attention(), two.attention()) == (None, (0x2A, 1))
    assert sense_10(two, 0x0A)[3] & 0x80
    assert sense_10(two, 0x0A)[8:20] == control(swp=True)
    assert sense_10(two, 0x0A, control=2)[8:20] == control()
    assert two.do(WRITE, bytes(BLOCK)).sense == (7, 0x27, 0)


@pytest.mark.parametrize("at", range(2, 12))
def test_what_cannot_be_changed_is_refused_and_nothing_of_the_list_is_done(at: int) -> None:
    host = Host(make_unit())
    bad = bytearray(bytes((0x08, 0x12, 0x04)).ljust(20, b"\0"))
    bad[at] ^= 0x01
    assert select_6(host, control(swp=True), bytes(bad)) == (5, 0x26, 0)
    answer = host.do(bytes((0x15, 0x10, 0, 0, 36, 0)), bytes(4) + control(swp=True) + bytes(bad))
    assert answer.data[15:18] == bytes((0x80, 0, 16 + at))
    assert host.do(WRITE, bytes(BLOCK)).status == 0


def test_saving_is_refused() -> None:
    assert select_6(Host(make_unit()), control(), sp=1) == (5, 0x24, 0)


@pytest.mark.parametrize(
    ("descriptor", "refused"),
    [
        (bytes(6) + b"\x02\0", False),
        ((64).to_bytes(4, "big") + b"\0\0\x02\0", False),
        (b"\xff\xff\xff\xff\0\0\x02\0", False),
        ((63).to_bytes(4, "big") + b"\0\0\x02\0", True),
        ((64).to_bytes(4, "big") + b"\0\0\x10\0", True),
        (bytes(16), True),
    ],
)
def test_block_descriptors_may_not_change_the_unit(descriptor: bytes, refused: bool) -> None:
    sense = select_6(Host(make_unit()), control(), descriptor=descriptor)
    assert sense == ((5, 0x26, 0) if refused else None)


def test_each_cut_of_a_parameter_list_is_refused() -> None:
    host = Host(make_unit())
    extension = sense_10(host, 0x0A, 1)[8:]
    whole = bytes(8) + control(d_sense=True) + extension
    for size in range(1, len(whole)):
        answer = host.do(bytes((0x55, 0x10, 0, 0, 0, 0, 0, 0, size, 0)), whole[:size])
        # At these lengths it is whole: the header, and one page behind it.
        assert (
            answer.status == 0
            if size in (8, 20)
            else answer.data[12 if answer.data[0] == 0x70 else 2] == 0x1A
        )
    assert host.do(bytes((0x55, 0x10, 0, 0, 0, 0, 0, 0, len(whole), 0)), whole).status == 0


def test_sense_in_descriptor_format_from_every_side() -> None:
    class Broken(MemoryDevice):
        def submit(self, batch: Sequence[Io], done: Done) -> None:
            done([(io[5], MediumError()) for io in batch])

    host = Host(make_unit(Broken(64 * BLOCK)))
    assert select_6(host, control(d_sense=True)) is None
    for cdb in (READ, bytes((0x35,)), bytes((0x28, 0, 0, 0, 0, 99, 0, 0, 1)), bytes((0xFF,))):
        answer = host.do(cdb)
        assert (answer.status, answer.data[0]) == (2, 0x72)
        assert len(answer.data) == 8 + answer.data[7]
    # The field pointer, as a sense key specific descriptor.
    assert host.do(bytes((0xFF,))).data == bytes((0x72, 5, 0x20, 0, 0, 0, 0, 8, 2, 6, 0, 0, 0xC0, 0, 0, 0))
    host.unit.reset()
    assert host.attention() == (0x29, 3)
    assert host.do(READ).data[0] == 0x70
