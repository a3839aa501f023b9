"""Sense data in both formats says the same, as far as the format can."""

from hypothesis import given
from hypothesis import strategies as st

from iscsi_rp.scsi.sense import Sense

BYTE = st.integers(0, 255)
PLAIN = st.builds(Sense, st.integers(0, 15), BYTE, BYTE)
INFORMATION = st.none() | st.integers(0, (1 << 64) - 1) | st.sampled_from([(1 << 32) - 1, 1 << 32])
TWO_BYTES = st.integers(0, (1 << 16) - 1)


def descriptors(data: bytes) -> dict[int, bytes]:
    at, found = 8, {}
    while at < len(data):
        found[data[at]] = data[at + 2 : at + 2 + data[at + 1]]
        at += 2 + data[at + 1]
    assert at == len(data)
    return found


@given(PLAIN, INFORMATION, st.none() | TWO_BYTES, st.booleans(), st.none() | TWO_BYTES)
def test_both_formats(
    plain: Sense, information: int | None, field: int | None, in_parameters: bool, progress: int | None
) -> None:
    sense = plain._replace(
        information=information,
        field=field,
        in_parameters=in_parameters,
        progress=None if field else progress,
    )
    if sense.field is not None:
        specific = bytes((0x80 if in_parameters else 0xC0,)) + sense.field.to_bytes(2, "big")
    elif sense.progress is not None:
        specific = b"\x80" + sense.progress.to_bytes(2, "big")
    else:
        specific = b""

    fixed = sense.encode()
    assert (len(fixed), fixed[7], fixed[0] & 0x7F) == (18, 10, 0x70)
    assert (fixed[2], fixed[12], fixed[13]) == plain[:3]
    # It has four bytes for the information, and says whether they mean anything.
    valid = information is not None and information < 1 << 32
    assert bool(fixed[0] & 0x80) == valid
    assert int.from_bytes(fixed[3:7], "big") == (information if valid else 0)
    assert fixed[15:18] == (specific or bytes(3))

    described = sense.encode(descriptor=True)
    assert (described[0], described[7]) == (0x72, len(described) - 8)
    assert tuple(described[1:4]) == plain[:3]
    found = descriptors(described)
    assert found.keys() == ({0} if information is not None else set()) | ({2} if specific else set())
    if information is not None:
        assert found[0] == b"\x80\0" + information.to_bytes(8, "big")
    if specific:
        assert found[2] == b"\0\0" + specific + b"\0"
