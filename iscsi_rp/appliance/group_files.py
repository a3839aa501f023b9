"""The files of a group: its copy volumes, and the folder of journal and base. All of this blocks."""

import contextlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from iscsi_rp.appliance import catalogue
from iscsi_rp.block.store import StoreMissingError, open_store
from iscsi_rp.errors import ConflictError


def make_files(row: catalogue.Group) -> None:
    """Sparse copy volumes and an empty folder for a new group. Raises ConflictError, and leaves nothing."""
    made: list[Path] = []
    try:
        for each in row.sets:
            each.copy_path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(each.copy_path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            made.append(each.copy_path)
            try:
                os.ftruncate(descriptor, each.size_bytes)
            finally:
                os.close(descriptor)
        row.directory.mkdir(parents=True, mode=0o700)
    except OSError as error:
        for path in made:
            path.unlink()
        raise ConflictError(
            f"cannot make {error.filename}: {error.strerror}",
            hint="Move it away. Where a deleted group left it, `iscsi-rp group list --deleted` shows that."
            if isinstance(error, FileExistsError)
            else None,
        ) from error


def destroy_files(directory: Path, copies: Sequence[Path]) -> None:
    """Remove journal and copies of a group that is closed.

    Raises ConflictError where a copy is in use, and then nothing is removed; or where something cannot be
    removed, and then it can be tried again.
    """
    for copy in copies:
        with contextlib.suppress(StoreMissingError):
            os.close(open_store(copy, read_only=True)[0])
    try:
        if directory.exists():
            shutil.rmtree(directory)
        for copy in copies:
            copy.unlink(missing_ok=True)
    except OSError as error:
        raise ConflictError(f"cannot remove {error.filename}: {error.strerror}") from error


def allocated_bytes(directory: Path, copies: Sequence[Path]) -> int:
    """What journal and copies take of their file systems; what is not there, or just goes, takes nothing."""
    total = 0
    for path in (*directory.glob("*"), *copies):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_blocks * 512  # its unit, whatever the file system's (inode(7))
    return total
