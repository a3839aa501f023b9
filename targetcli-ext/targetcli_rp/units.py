"""Sizes, times and durations as `iscsi-rp` writes and reads them. Bad text is a ValueError with an example.

targetcli's shell has no quotes and ends a value at a blank: `30s-ago` and `2026-11-23T01:50:49` have none.
"""

from __future__ import annotations

import re
from datetime import datetime, time

NS_PER_S = 1_000_000_000

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtp]?)(i?b?)", re.IGNORECASE)
_AGO = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)[\s_-]+ago", re.IGNORECASE)
_FRACTION = re.compile(r"(?<=:\d\d)\.(\d{1,9})")
_POWER = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


def parse_size(text: str) -> int:
    """Bytes of `512MiB`, `10G` (binary), `10GB` (decimal), `1.5TiB`, `4096`."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a size: expected for example 512MiB, 10GiB or 1.5TiB")
    number, prefix, suffix = match.groups()
    base = 1000 if prefix and suffix.lower() == "b" else 1024
    size_bytes = float(number) * base ** _POWER[prefix.lower()]
    if not size_bytes.is_integer():
        raise ValueError(f"{text!r} is not a whole number of bytes")
    return int(size_bytes)


def format_size(size_bytes: float) -> str:
    """`512 MiB`, `1.5 GiB`, `17 B`: at most one decimal."""
    value, unit = float(size_bytes), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if abs(value) < 1024 or unit == "PiB":
            break
        value /= 1024
    text = f"{value:.1f}"
    return f"{text[:-2] if text.endswith('.0') else text} {unit}"


def format_duration(seconds: float) -> str:
    """`4.2 s`, `42 s`, `3 min 5 s`, `2 h 10 min`, `4 d 3 h`: two units at most."""
    if 0 < seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for step, unit, below, below_unit in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= step:
            count, rest = divmod(whole, step)
            return f"{count} {unit} {rest // below} {below_unit}"
    return f"{whole} s"


def parse_time(text: str, now_ns: int) -> int:
    """Nanoseconds since 1970 UTC of an ISO 8601 time or of `30s-ago`.

    A time without a zone is local, one without a date is today's. A fraction may have nine digits.
    """
    text = text.strip()
    if text.lower() == "now":
        return now_ns
    ago = _AGO.fullmatch(text)
    if ago:
        return now_ns - round(float(ago[1]) * _SECONDS[ago[2].lower()] * NS_PER_S)
    fraction = _FRACTION.search(text)
    # datetime keeps microseconds only, so the fraction is taken out and added as nanoseconds.
    moment = _whole_seconds(_FRACTION.sub("", text), text, now_ns)
    return int(moment.timestamp()) * NS_PER_S + (int(fraction[1].ljust(9, "0")) if fraction else 0)


def _whole_seconds(text: str, given: str, now_ns: int) -> datetime:
    if text[-1:] in "Zz":  # which datetime knows only since Python 3.11
        text = text[:-1] + "+00:00"
    try:
        return datetime.combine(_local(now_ns).date(), time.fromisoformat(text))
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        example = format_time(now_ns).replace(" ", "T")
        raise ValueError(f"{given!r} is not a time: expected for example {example} or 30s-ago") from None


def format_time(time_ns: int) -> str:
    """Local time with milliseconds, cut off and not rounded: `2026-11-23 01:50:49.123`."""
    return f"{_local(time_ns):%Y-%m-%d %H:%M:%S}.{time_ns % NS_PER_S // 1_000_000:03d}"


def format_moment(moment: dict[str, int] | None) -> str | None:
    """Of the API's position and time."""
    return None if moment is None else f"{format_time(moment['time_ns'])} (position {moment['position']})"


def _local(time_ns: int) -> datetime:
    return datetime.fromtimestamp(time_ns // NS_PER_S)
