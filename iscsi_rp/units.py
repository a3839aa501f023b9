"""Sizes, times and durations as people write and read them. Bad text is a ValueError with an example."""

import re
from datetime import datetime, time
from typing import Final

KIB: Final = 1 << 10
MIB: Final = 1 << 20
GIB: Final = 1 << 30
TIB: Final = 1 << 40

NS_PER_S: Final = 1_000_000_000

_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtp]?)(i?b?)", re.IGNORECASE)
_AGO: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)\s+ago", re.IGNORECASE)
_FRACTION: Final = re.compile(r"(?<=:\d\d)\.(\d{1,9})")
_POWER: Final = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


def parse_size(text: str) -> int:
    """Bytes of `512MiB`, `10G` (binary, as with most storage tools), `10GB` (decimal), `1.5 TiB`, `4096`."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a size: expected for example 512MiB, 10GiB or 1.5TiB")
    number, prefix, suffix = match.groups()
    base = 1000 if prefix and suffix.lower() == "b" else 1024
    size_bytes = float(number) * base ** _POWER[prefix.lower()]
    if not size_bytes.is_integer():
        raise ValueError(f"{text!r} is not a whole number of bytes")
    return int(size_bytes)


def format_size(size_bytes: int) -> str:
    """`512 MiB`, `1.5 GiB`, `17 B`: at most one decimal."""
    value, unit = float(size_bytes), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if abs(value) < 1024 or unit == "PiB":
            break
        value /= 1024
    return f"{value:.1f}".removesuffix(".0") + " " + unit


def format_duration(seconds: float) -> str:
    """`2.5 ms`, `4.2 s`, `42 s`, `3 min 5 s`, `2 h 10 min`, `4 d 3 h`: two units at most."""
    if 0 < seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    for step, unit, below, below_unit in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= step:
            count, rest = divmod(whole, step)
            return f"{count} {unit} {rest // below} {below_unit}"
    raise AssertionError("unreachable: whole is at least a minute")


def parse_time(text: str, now_ns: int) -> int:
    """Nanoseconds since 1970 UTC of an ISO 8601 time or of `30s ago`.

    A time without a zone is local, one without a date is today's. A fraction may have nine digits.
    """
    text = text.strip()
    if text.lower() == "now":
        return now_ns
    if ago := _AGO.fullmatch(text):
        return now_ns - round(float(ago[1]) * _SECONDS[ago[2].lower()] * NS_PER_S)
    fraction = _FRACTION.search(text)
    # datetime keeps microseconds only, so the fraction is taken out and added as nanoseconds.
    moment = _whole_seconds(_FRACTION.sub("", text), text, now_ns)
    return int(moment.timestamp()) * NS_PER_S + (int(fraction[1].ljust(9, "0")) if fraction else 0)


def _whole_seconds(text: str, given: str, now_ns: int) -> datetime:
    try:
        return datetime.combine(_local(now_ns).date(), time.fromisoformat(text))
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        example = format_time(now_ns)
        raise ValueError(f"{given!r} is not a time: expected for example '{example}' or '30s ago'") from None


def format_time(time_ns: int) -> str:
    """Local time with milliseconds, cut off and not rounded: `2026-11-23 01:50:49.123`."""
    return f"{_local(time_ns):%Y-%m-%d %H:%M:%S}.{time_ns % NS_PER_S // 1_000_000:03d}"


def _local(time_ns: int) -> datetime:
    return datetime.fromtimestamp(time_ns // NS_PER_S)
