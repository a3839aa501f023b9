"""The extension imports nothing of iscsi_rp: what both write and read has to be the same all the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iscsi_rp import units as ours
from targetcli_rp import units

NOW_NS = 1_795_000_000_123_456_789
TIMES = st.integers(min_value=0, max_value=4_000_000_000 * ours.NS_PER_S)


@given(st.integers(min_value=0, max_value=1 << 60))
def test_sizes_are_written_alike(size_bytes: int) -> None:
    assert units.format_size(size_bytes) == ours.format_size(size_bytes)


@given(st.floats(min_value=0, max_value=1e8))
def test_durations_are_written_alike(seconds: float) -> None:
    assert units.format_duration(seconds) == ours.format_duration(seconds)


@given(TIMES)
def test_times_are_written_and_read_alike(time_ns: int) -> None:
    text = units.format_time(time_ns)
    assert text == ours.format_time(time_ns)
    assert units.parse_time(text, NOW_NS) == ours.parse_time(text, NOW_NS)


@pytest.mark.parametrize("text", ["512MiB", "10G", "10GB", "1.5TiB", "4096", "1.5", "big", "10GiB!", ""])
def test_sizes_are_read_alike(text: str) -> None:
    assert outcome(units.parse_size, text) == outcome(ours.parse_size, text)


@pytest.mark.parametrize(
    "text",
    [
        *("now", "30s ago", "1.5h ago", "14:30:00", "14:30:00.123456789", "14:30Z", "2026-11-23"),
        *("2026-11-23T01:50:49Z", "2026-11-23 01:50:49.123", "2026-11-23T01:50:49.5+02:00"),
    ],
)
def test_times_are_read_alike(text: str) -> None:
    assert units.parse_time(text, NOW_NS) == ours.parse_time(text, NOW_NS)


def test_a_time_needs_no_blank() -> None:
    for text in ("30s-ago", "30s_ago"):
        assert units.parse_time(text, NOW_NS) == ours.parse_time("30s ago", NOW_NS)
    for text in ("30s", "yesterday", "25:00:00"):
        with pytest.raises(
            ValueError, match=r"is not a time: expected for example \d{4}-\d\d-\d\dT\S+ or 30s-ago"
        ):
            units.parse_time(text, NOW_NS)


def outcome(parse: object, text: str) -> object:
    try:
        return parse(text)  # type: ignore[operator]
    except ValueError as error:
        return str(error)
