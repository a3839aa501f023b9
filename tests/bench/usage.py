"""What a process used, from /proc (proc(5))."""

import os
import re
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """User and system time of all its threads so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def memory_bytes(pid: int) -> dict[str, int]:
    """`VmHWM` (peak resident) and `RssAnon` (resident, not of files)."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.findall(r"^(VmHWM|RssAnon):\s+(\d+) kB", status, re.MULTILINE)
    return {name: int(kib) << 10 for name, kib in found}


def reset_peak(pid: int) -> None:
    """Begin `VmHWM` anew."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
