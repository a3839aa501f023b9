"""Header and data digests: on both ways, at every cut, and what a wrong one leads to."""

from struct import pack

import pytest
from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from iscsi_rp.block import MemoryDevice

from .initiator import OPEN, SIZE, Link, Pdu, command, data_out, pdu, read_10, split, write_10

W, R = 0xA1, 0xC1
HEADER = {"HeaderDigest": "CRC32C"}
DATA = {"DataDigest": "CRC32C"}


def crc(data: bytes) -> bytes:
    return pack("<I", crc32c(data))


def test_the_checksum_is_that_of_the_standard() -> None:
    """RFC 7143 A.4: 32 bytes of zeros, 32 of ones."""
    assert crc(bytes(32)) == bytes.fromhex("aa36918a")
    assert crc(b"\xff" * 32) == bytes.fromhex("43aba862")


class DigestLink(Link):
    """Adds digests to what it sends, checks and removes those that come."""

    header = data = False

    def opened(self, keys: dict[str, str] | None = None, *, isid: int = 0x400001370001) -> "DigestLink":
        super().opened(keys, isid=isid)
        assert keys is not None
        self.header, self.data = "HeaderDigest" in keys, "DataDigest" in keys
        return self

    def digested(self, plain: bytes) -> bytes:
        head, segment = plain[:48], plain[48:]
        out = head + (crc(head) if self.header else b"") + segment
        return out + (crc(segment) if self.data and segment else b"")

    def checked(self, stream: bytes) -> list[Pdu]:
        plain, at = b"", 0
        while at < len(stream):
            head, at = stream[at : at + 48], at + 48
            if self.header:
                assert stream[at : at + 4] == crc(head)
                at += 4
            size = int.from_bytes(head[5:8], "big") + 3 & ~3
            segment, at = stream[at : at + size], at + size
            if self.data and segment:
                assert stream[at : at + 4] == crc(segment)
                at += 4
            plain += head + segment
        return split(plain)

    def exchange(self, *pieces: bytes) -> list[Pdu]:
        stream, answers = b"", b""
        for piece in pieces:
            stream += piece
            while taken := self.connection.receive(memoryview(stream)):
                stream = stream[taken:]
            answers += b"".join(self.connection.take_out())
        return self.checked(answers)


def write_and_read(link: DigestLink, size: int = 1024) -> list[bytes]:
    """Immediate, unsolicited and solicited data, a ping with padding, and a read of 600 bytes."""
    return [
        link.digested(each)
        for each in (
            command(write_10(0, 1), W, 512, b"a" * 512, itt=1, sn=1),
            command(write_10(1, 1), 0x21, 512, itt=2, sn=2),
            data_out(b"b" * 512, 0, itt=2),
            command(write_10(2, 2), W, 1024, b"c" * 512, itt=3, sn=3),
            data_out(b"d" * 512, 512, itt=3, ttt=1),
            pdu(0x40, 0x80, b"ping!", itt=9, word20=0xFFFFFFFF, sn=4),
            command(read_10(0, 4), R, 2046, itt=4, sn=4),
        )
    ]


@pytest.mark.parametrize("keys", [HEADER, DATA, HEADER | DATA])
def test_digests_go_both_ways(keys: dict[str, str]) -> None:
    link = DigestLink().opened(OPEN | keys)
    answers = link.exchange(*write_and_read(link))
    read = {answer.itt: answer for answer in answers}[4]
    assert read.data == b"".join(letter * 512 for letter in (b"a", b"b", b"c", b"d"))[:2046]
    assert [answer.data for answer in answers if answer.opcode == 0x20] == [b"ping!"]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_cuts_of_the_stream_give_the_same(data: st.DataObject) -> None:
    def told(answers: list[Pdu]) -> list[tuple[int, int, bytes]]:
        return sorted((answer.opcode, answer.itt, answer.data) for answer in answers)

    link = DigestLink(MemoryDevice(64 << 10)).opened(OPEN | HEADER | DATA)
    stream = b"".join(write_and_read(link))
    whole = told(link.exchange(stream))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    link = DigestLink(MemoryDevice(64 << 10)).opened(OPEN | HEADER | DATA)
    assert told(link.exchange(*pieces)) == whole


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 51), st.integers(0, 7))
def test_any_bit_of_a_header_that_flips_ends_the_connection(byte: int, bit: int) -> None:
    device = MemoryDevice(64 << 10)
    link = DigestLink(device).opened(OPEN | HEADER)
    damaged = bytearray(link.digested(command(write_10(0, 1), W, 512, b"x" * 512, itt=1, sn=1)))
    damaged[byte] ^= 1 << bit
    # With a damaged length of the additional header it may wait for more.
    following = link.digested(command(read_10(0, 1), R, 512, itt=2, sn=2))
    assert link.exchange(bytes(damaged), following * 30) == []
    assert link.connection.over
    assert bytes(device._data[:512]) == bytes(512)


@settings(max_examples=200, deadline=None)
@given(st.integers(48, 48 + 512 + 3), st.integers(0, 7))
def test_immediate_data_that_is_damaged_is_rejected_and_never_written(byte: int, bit: int) -> None:
    device = MemoryDevice(64 << 10)
    link = DigestLink(device).opened(OPEN | DATA)
    damaged = bytearray(link.digested(command(write_10(0, 1), W, 512, b"x" * 512, itt=1, sn=1)))
    damaged[byte] ^= 1 << bit
    (reject,) = link.exchange(bytes(damaged))
    assert (reject.opcode, reject.head[2]) == (0x3F, 0x02)
    assert reject.data == bytes(damaged[:48])
    assert bytes(device._data[:512]) == bytes(512)
    # It does not count as received: what follows tells us that the initiator does not know.
    link.exchange(link.digested(command(read_10(0, 1), R, 512, itt=2, sn=2)))
    assert link.connection.over


def test_damaged_data_out_fails_its_command_at_the_end_of_the_burst() -> None:
    link = DigestLink(MemoryDevice(SIZE)).opened(OPEN | DATA)
    (r2t,) = link.exchange(command(write_10(0, 2), W, 1024, itt=1, sn=1))
    ttt = r2t.word(20)
    damaged = bytearray(link.digested(data_out(b"x" * 512, 0, itt=1, ttt=ttt, final=False)))
    damaged[60] ^= 1
    (reject,) = link.exchange(bytes(damaged))
    assert (reject.opcode, reject.head[2]) == (0x3F, 0x02)
    (answer,) = link.exchange(link.digested(data_out(b"x" * 512, 512, itt=1, ttt=ttt, sn=1)))
    assert (answer.head[3], answer.data[4], answer.data[14:16]) == (0x02, 0x0B, b"\x47\x05")
    (read,) = link.exchange(command(read_10(0, 2), R, 1024, itt=2, sn=2))
    assert read.data == bytes(1024)
