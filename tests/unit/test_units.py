import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iscsi_rp import units

NOW_NS = 1_795_399_849_123_456_789  # 2026-11-23 01:50:49 UTC and a bit


@pytest.fixture(params=["UTC", "Europe/Berlin", "America/St_Johns"])
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield request.param
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0", 0),
        ("4096", 4096),
        ("512MiB", 512 << 20),
        ("10G", 10 << 30),
        ("10 GB", 10_000_000_000),
        ("1.5tib", 3 << 39),
        ("17B", 17),
    ],
)
def test_sizes_are_read_as_people_write_them(text: str, size_bytes: int) -> None:
    assert units.parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["", "-1", "ten", "1.5", "10 XiB", "0.3KiB", "1e9", "10GiBs"])
def test_what_is_not_a_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"size|bytes"):
        units.parse_size(text)


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (3 << 39, "1.5 TiB"),
        (512 << 20, "512 MiB"),
        (1 << 63, "8192 PiB"),
    ],
)
def test_sizes_are_shown_in_the_largest_unit(size_bytes: int, text: str) -> None:
    assert units.format_size(size_bytes) == text


@given(st.integers(0, 1023), st.sampled_from(["B", "KiB", "MiB", "GiB", "TiB"]))
def test_a_shown_whole_size_is_read_back(count: int, unit: str) -> None:
    size_bytes = units.parse_size(f"{count}{unit}")
    assert units.parse_size(units.format_size(size_bytes)) == size_bytes


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (0.0025, "2.5 ms"),
        (0.84, "840 ms"),
        (4.24, "4.2 s"),
        (42.4, "42 s"),
        (185, "3 min 5 s"),
        (7800, "2 h 10 min"),
        (356400, "4 d 3 h"),
        (60, "1 min 0 s"),
    ],
)
def test_durations_have_two_units_at_most(seconds: float, text: str) -> None:
    assert units.format_duration(seconds) == text


@given(st.integers(0, 4_000_000_000_000_000_000))
def test_a_shown_time_names_the_millisecond(time_ns: int) -> None:
    # The hour that the end of summer time repeats is ambiguous in local time; in UTC none is.
    shown = units.format_time(time_ns)
    assert units.parse_time(shown + "Z", NOW_NS) == time_ns // 1_000_000 * 1_000_000


@pytest.mark.usefixtures("zone")
def test_a_shown_time_can_be_typed_again_in_any_zone() -> None:
    assert units.parse_time(units.format_time(NOW_NS), NOW_NS) == NOW_NS // 1_000_000 * 1_000_000


def test_a_fraction_keeps_its_nanoseconds() -> None:
    assert units.parse_time("2026-11-23T01:30:49.123456789Z", NOW_NS) % units.NS_PER_S == 123_456_789


def test_zones_are_heeded() -> None:
    berlin = units.parse_time("2026-11-23T02:00:00+01:00", NOW_NS)
    assert berlin == units.parse_time("2026-11-23T01:00:00Z", NOW_NS)


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s ago", 30), ("10m ago", 600), ("1.5h ago", 5400), ("2 d ago", 172800)]
)
def test_ago_counts_back_from_now(text: str, seconds: int) -> None:
    assert units.parse_time(text, NOW_NS) == NOW_NS - seconds * units.NS_PER_S


@pytest.mark.usefixtures("zone")
def test_a_time_without_a_date_is_todays() -> None:
    day = units.format_time(NOW_NS)[:10]
    assert units.parse_time("00:00:01.5", NOW_NS) == units.parse_time(f"{day} 00:00:01.5", NOW_NS)


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01", "30s", "ago", "25:00"])
def test_what_is_not_a_time_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="ago"):
        units.parse_time(text, NOW_NS)
