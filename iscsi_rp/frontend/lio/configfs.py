"""Reads and writes configfs, whose files are the kernel's settings and whose folders are its objects.

A setting is written by one `write` of its own: a buffered file tells the error late or never, and may write
twice.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from iscsi_rp.frontend.lio.errors import LioError

MOUNT_POINT: Final = Path("/sys/kernel/config")
TARGET: Final = MOUNT_POINT / "target"
CORE: Final = TARGET / "core"
_LONGEST: Final = 1 << 16


@contextlib.contextmanager
def refused(what: str, path: Path) -> Iterator[None]:
    """Makes an `OSError` in the block a `LioError`; `what` is the verb to the path."""
    try:
        yield
    except OSError as error:
        raise LioError.of(what, str(path), error.errno) from error


def read(path: Path) -> str:
    """A setting, without the new line that the kernel puts behind it."""
    with refused("read", path):
        handle = os.open(path, os.O_RDONLY)
        try:
            return os.read(handle, _LONGEST).decode(errors="surrogateescape").removesuffix("\n")
        finally:
            os.close(handle)


def write(path: Path, value: str | bytes) -> None:
    with refused("set", path):
        handle = os.open(path, os.O_WRONLY)
        try:
            os.write(handle, value.encode() if isinstance(value, str) else value)
        finally:
            os.close(handle)


def settings(folder: Path) -> dict[str, str]:
    """All settings in a folder that can be read."""
    with refused("read", folder):
        files = [
            entry.name for entry in os.scandir(folder) if entry.is_file() and entry.stat().st_mode & 0o400
        ]
    return {name: read(folder / name) for name in files}


def folders(folder: Path) -> list[Path]:
    """The objects in a folder, in order; none where it is not there: its module has not been used yet."""
    if not folder.exists():
        return []
    with refused("read", folder):
        return sorted(Path(entry.path) for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False))


def link(folder: Path) -> Path | None:
    """What the link in the folder of a LUN leads to; None: it has none, for it is half made."""
    with refused("read", folder):
        for entry in os.scandir(folder):
            if entry.is_symlink():
                return Path(entry.path).readlink()  # its last parts are all that is looked at
    return None
