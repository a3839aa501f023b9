"""Frames at every cut of the stream, with every bit flipped, and at their limits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iscsi_rp.replication import frames as wire
from iscsi_rp.replication.frames import HEADER, HEADER_BYTES, MAX_PAYLOAD, Frame, RemoteProtocolError

U64 = (1 << 64) - 1
STREAM = (
    wire.write_header(wire.KIND_DATA, 1, 7, 4096, 5, b"hello")
    + b"hello"
    + wire.write_header(wire.KIND_UNMAP, 0, 8, 0, 1 << 30, b"")
    + wire.frame(wire.PROBE, a=U64)
    + wire.frame(wire.WELCOME, flags=255, volume=65535, sequence=U64, a=1, b=U64, payload=b"{}")
)
FRAMES: list[Frame] = [
    (wire.WRITE, wire.KIND_DATA, 1, 7, 4096, 5, b"hello", wire.checksum(b"hello")),
    (wire.WRITE, wire.KIND_UNMAP, 0, 8, 0, 1 << 30, b"", 0),
    (wire.PROBE, 0, 0, 0, U64, 0, b"", 0),
    (wire.WELCOME, 255, 65535, U64, 1, U64, b"{}", wire.checksum(b"{}")),
]
ENDS = [HEADER_BYTES + 5, 2 * HEADER_BYTES + 5, 3 * HEADER_BYTES + 5, 4 * HEADER_BYTES + 7]


def test_the_stream_is_as_long_as_its_frames() -> None:
    assert ENDS[-1] == len(STREAM)


@pytest.mark.parametrize("cut", range(len(STREAM) + 1))
def test_every_prefix_gives_the_frames_that_are_complete_in_it(cut: int) -> None:
    complete = sum(end <= cut for end in ENDS)
    used = ENDS[complete - 1] if complete else 0
    assert wire.decode(STREAM[:cut], cut) == (FRAMES[:complete], used)
    rest, used_of_rest = wire.decode(STREAM[used:], len(STREAM) - used)
    assert (rest, used_of_rest) == (FRAMES[complete:], len(STREAM) - used)


def test_byte_by_byte_in_one_buffer() -> None:
    buffer = bytearray(len(STREAM))
    found: list[Frame] = []
    filled = 0
    for byte in STREAM:
        buffer[filled] = byte
        filled += 1
        frames, used = wire.decode(buffer, filled)
        found += [(*frame[:6], bytes(frame[6]), frame[7]) for frame in frames]
        buffer[: filled - used] = buffer[used:filled]
        filled -= used
    assert (found, filled) == (FRAMES, 0)


@pytest.mark.parametrize("bit", range(8 * (HEADER_BYTES + 5)))
def test_a_flipped_bit_never_yields_another_payload(bit: int) -> None:
    """The header has no checksum of its own: its fields are checked by whoever knows what they must be."""
    damaged = bytearray(STREAM[: ENDS[0]])
    damaged[bit // 8] ^= 1 << bit % 8
    try:
        frames, used = wire.decode(damaged, len(damaged))
    except RemoteProtocolError:
        return
    if frames:
        assert bit // 8 < HEADER_BYTES
        assert frames[0] != FRAMES[0]
        # A payload of no bytes has no checksum: then the length in the header and in `b` disagree.
        assert frames[0][6] == b"hello" or (frames[0][6] == b"" and frames[0][5] == 5)
    else:
        assert used == 0
        assert wire.bytes_wanted(damaged, len(damaged)) > len(damaged)


@pytest.mark.parametrize("bit", range(40))
def test_a_payload_with_a_flipped_bit_is_refused(bit: int) -> None:
    damaged = bytearray(STREAM[: ENDS[0]])
    damaged[HEADER_BYTES + bit // 8] ^= 1 << bit % 8
    with pytest.raises(RemoteProtocolError, match="CRC32C"):
        wire.decode(damaged, len(damaged))


def test_a_payload_beyond_the_limit_is_refused_by_its_header_alone() -> None:
    header = HEADER.pack(MAX_PAYLOAD, wire.WRITE, wire.KIND_DATA, 0, 1, 0, MAX_PAYLOAD, 0)
    assert wire.decode(header, HEADER_BYTES) == ([], 0)
    assert wire.bytes_wanted(header, HEADER_BYTES) == HEADER_BYTES + MAX_PAYLOAD
    header = HEADER.pack(MAX_PAYLOAD + 1, wire.WRITE, wire.KIND_DATA, 0, 1, 0, MAX_PAYLOAD + 1, 0)
    with pytest.raises(RemoteProtocolError, match=f"{MAX_PAYLOAD + 1} bytes"):
        wire.decode(header, HEADER_BYTES)


def test_a_type_that_does_not_exist_is_refused() -> None:
    known = {*range(wire.ANNOUNCE, wire.BLOCKED + 1), *range(wire.GROUPS, wire.TOUCHED + 1)}
    for kind in range(256):
        header = HEADER.pack(0, kind, 0, 0, 0, 0, 0, 0)
        if kind in known:
            assert wire.decode(header, HEADER_BYTES)[0][0][0] == kind
        else:
            with pytest.raises(RemoteProtocolError, match=f"type {kind} "):
                wire.decode(header, HEADER_BYTES)


def test_nothing_behind_the_end_is_looked_at() -> None:
    buffer = STREAM[: ENDS[1]] + b"\xff" * HEADER_BYTES
    assert wire.decode(buffer, ENDS[1]) == (FRAMES[:2], ENDS[1])


@given(
    kind=st.sampled_from([wire.HELLO, wire.WRITE, wire.DATA, wire.TOUCHED]),
    flags=st.integers(0, 255),
    volume=st.integers(0, 65535),
    numbers=st.tuples(*[st.integers(0, U64)] * 3),
    payload=st.binary(max_size=200),
)
def test_every_field_comes_back(
    kind: int, flags: int, volume: int, numbers: tuple[int, int, int], payload: bytes
) -> None:
    sequence, a, b = numbers
    data = wire.frame(kind, flags=flags, volume=volume, sequence=sequence, a=a, b=b, payload=payload)
    crc = wire.checksum(payload) if payload else 0
    assert wire.decode(data, len(data)) == (
        [(kind, flags, volume, sequence, a, b, payload, crc)],
        len(data),
    )
    assert wire.bytes_wanted(data, len(data)) == len(data)


@given(st.binary(max_size=200))
def test_garbage_is_refused_or_incomplete_and_nothing_else(data: bytes) -> None:
    try:
        frames, used = wire.decode(data, len(data))
    except RemoteProtocolError:
        return
    assert used == sum(HEADER_BYTES + len(frame[6]) for frame in frames) <= len(data)
