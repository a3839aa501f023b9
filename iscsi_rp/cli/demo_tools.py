"""Programs of others that the demonstration uses: a real initiator (QEMU) and a real file system."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from iscsi_rp.errors import Error, UsageError

PACKAGES: Final = {
    "qemu-img": "qemu-utils qemu-block-extra",
    "qemu-io": "qemu-utils qemu-block-extra",
    "mke2fs": "e2fsprogs",
    "e2fsck": "e2fsprogs",
    "debugfs": "e2fsprogs",
}
_SBIN: Final = "/usr/sbin:/sbin"
"Where Debian keeps e2fsprogs; not in the search path of ordinary users."
_PATIENCE_S: Final = 300


class ToolError(Error):
    """A program that the demonstration uses failed."""


def require_tools() -> None:
    """Raises `UsageError` naming the Debian packages of what is missing."""
    missing = {tool: package for tool, package in PACKAGES.items() if _find(tool) is None}
    if missing:
        packages = sorted({name for package in missing.values() for name in package.split()})
        hint = f"apt-get install {' '.join(packages)}"
        raise UsageError(f"the demonstration needs {', '.join(missing)}", hint=hint)


def run(tool: str, *arguments: str | Path, expect: Sequence[int] = (0,)) -> str:
    """The standard output. Raises `ToolError` when the exit code is not among `expect`."""
    command = [_find(tool) or tool, *map(str, arguments)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_PATIENCE_S)
    except subprocess.TimeoutExpired as error:
        raise ToolError(f"{tool} did not end within {_PATIENCE_S} s") from error
    if done.returncode not in expect:
        said = (done.stderr or done.stdout).strip().splitlines()[-3:]
        raise ToolError(f"{tool} exited with {done.returncode}: {' / '.join(said)}")
    return done.stdout


def put(image: Path, url: str) -> None:
    """Write a local raw image onto a LUN."""
    run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", image, url)


def fetch(url: str, image: Path) -> None:
    """Read a whole LUN into a local raw image."""
    run("qemu-img", "convert", "-f", "raw", "-O", "raw", url, image)


def read(url: str, offset: int, length: int) -> None:
    """Have the initiator read a range of a LUN."""
    run("qemu-io", "-r", "-f", "raw", "-c", f"read {offset} {length}", url)


def holds(url: str, offset: int, length: int, pattern: int) -> bool:
    """Whether every byte of this range of the LUN is `pattern`."""
    said = run(
        "qemu-io", "-r", "-f", "raw", "-c", f"read -P {pattern:#x} {offset} {length}", url, expect=(0, 1)
    )
    return "verification failed" not in said


class BlockWriter:
    """A session of `qemu-io` that writes at our pace. A context manager; leaving it ends the session."""

    def __init__(self, url: str) -> None:
        command = [_find("qemu-io") or "qemu-io", "-f", "raw", url]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def write(self, options: str, offset: int, length: int) -> None:
        """qemu-io's `write`; returns when it has its status."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"write {options} {offset} {length}\n")
        self._process.stdin.flush()
        while "wrote " not in (line := self._process.stdout.readline()):
            if not line or "failed" in line or "error" in line.lower():
                raise ToolError(f"qemu-io could not write: {line.strip() or 'it ended'}")

    def __enter__(self) -> "BlockWriter":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            self._process.kill()
        self._process.communicate()


def _find(tool: str) -> str | None:
    return shutil.which(tool) or shutil.which(tool, path=_SBIN)
