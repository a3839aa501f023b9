"""One timed run of a real client against one LUN: `iscsi-perf` reads, `qemu-img bench` writes."""

import re
import shutil
import subprocess
from typing import Final

from tests.bench.cases import Case

TOOLS: Final = {"iscsi-perf": "libiscsi-bin", "qemu-img": "qemu-utils and qemu-block-extra", "tgtd": "tgt"}

READ_S: Final = 1
"`iscsi-perf` takes whole seconds."
WRITE_S: Final = 1.2
"How long the slower of both servers should be busy with one run of writes."
CALIBRATION_S: Final = 0.4

_SCATTER: Final = 8191
"Steps of this many blocks: odd, so that every block of a disk of 2^n blocks has its turn, and far apart."
_READ_THROUGH_BYTES: Final = 256 << 10
_PATIENCE_S: Final = 120

_IOPS = re.compile(r"iops average (\d+)")
_SECONDS = re.compile(r"Run completed in ([0-9.]+) seconds")


class LoadError(Exception):
    """The client is missing, failed or said nothing that can be read."""


def require_tools() -> None:
    """Raises `LoadError` naming the Debian packages of the tools that are missing."""
    missing = sorted(package for tool, package in TOOLS.items() if shutil.which(tool) is None)
    if missing:
        raise LoadError(f"missing tools, install: {', '.join(missing)}")


def reads_per_s(url: str, case: Case) -> float:
    """Mean of one run of `READ_S`."""
    command = ["iscsi-perf", "-m", str(case.depth), "-b", str(case.size_bytes // 512), "-t", str(READ_S)]
    if case.scattered:
        command.append("-r")
    found = _IOPS.findall(_run([*command, url]))
    if not found:
        raise LoadError(f"iscsi-perf on {url} named no iops")
    return float(found[-1])


def read_through(url: str, size_bytes: int) -> None:
    """Read the disk from its beginning to its end, once."""
    command = ["qemu-img", "bench", "-t", "none", "-f", "raw", "-d", "8", "-s", str(_READ_THROUGH_BYTES)]
    _run([*command, "-S", str(_READ_THROUGH_BYTES), "-c", str(size_bytes // _READ_THROUGH_BYTES), url])


def writes_per_s(url: str, case: Case, count: int) -> float:
    """Mean of one run of `count` writes."""
    return count / write(url, count, case.size_bytes, case.depth, scattered=case.scattered)


def write(url: str, count: int, size_bytes: int, depth: int, *, scattered: bool) -> float:
    """Write `count` blocks and return the seconds it took."""
    step_bytes = size_bytes * (_SCATTER if scattered else 1)
    command = ["qemu-img", "bench", "-w", "-t", "none", "-f", "raw", "--pattern=165"]
    command += ["-d", str(depth), "-c", str(count), "-s", str(size_bytes), "-S", str(step_bytes), url]
    found = _SECONDS.search(_run(command))
    if found is None:
        raise LoadError(f"qemu-img bench on {url} named no time")
    return float(found[1])


def write_count(url: str, case: Case) -> int:
    """How many writes keep this server busy for `WRITE_S`, tried by doubling."""
    count = 64
    while (
        took_s := write(url, count, case.size_bytes, case.depth, scattered=case.scattered)
    ) < CALIBRATION_S:
        count *= 2 if took_s > CALIBRATION_S / 8 else 8
    return max(64, int(count * WRITE_S / took_s))


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_PATIENCE_S)
    except subprocess.TimeoutExpired as error:
        raise LoadError(f"{command[0]} did not end within {_PATIENCE_S} s") from error
    if done.returncode != 0:
        raise LoadError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout
