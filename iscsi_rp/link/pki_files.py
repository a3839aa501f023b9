"""The files of a certificate authority: each is as it was, or as it should be, whatever is interrupted."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from iscsi_rp.errors import Error


class PkiFileError(Error):
    """A file of the authority cannot be read or written."""


class DamagedFileError(Error):
    """A file of the authority is damaged."""

    hint = (
        "Put it back from a backup, or from the machine to which it was copied last; `iscsi-rp pki list` then"
        " shows whether a revocation is missing."
    )


def read(path: Path) -> bytes:
    """Raises PkiFileError."""
    with typed(f"cannot read {path}"):
        return path.read_bytes()


def write(*files: tuple[Path, bytes, int]) -> None:
    """Puts (path, content, mode) in place, durably, in this order; the caller has the folder's lock.

    All are written before the first is put in place, so a full disk changes nothing. Raises PkiFileError.
    """
    for folder in {path.parent for path, _, _ in files}:
        with typed(f"cannot write {folder}"):
            for left in folder.glob(".*.new"):  # by a process that was killed
                left.unlink()
    news = [path.with_name(f".{path.name}.new") for path, _, _ in files]
    try:
        for new, (path, data, mode) in zip(news, files, strict=True):
            with typed(f"cannot write {path}"):
                _write_new(new, data, mode)
        for new, (path, _, _) in zip(news, files, strict=True):
            with typed(f"cannot write {path}"):
                new.replace(path)
                sync(path.parent)
    except BaseException:
        for new in news:
            with contextlib.suppress(OSError):
                new.unlink()
        raise


def _write_new(path: Path, data: bytes, mode: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fchmod(fd, mode)
        os.fsync(fd)


def make_folder(path: Path) -> None:
    """It may be there already. Raises PkiFileError."""
    with typed(f"cannot make {path}"):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        sync(path.parent)


def sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time; the others wait. Raises PkiFileError."""
    with typed(f"cannot open {folder}"):
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


@contextlib.contextmanager
def typed(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise PkiFileError(f"{what}: {error.strerror}") from error


@contextlib.contextmanager
def undamaged(path: Path) -> Iterator[None]:
    """Raises DamagedFileError for what `cryptography` refuses, a key with a password, too."""
    try:
        yield
    except InvalidSignature as error:
        raise DamagedFileError(f"{path} is damaged: the authority has not signed this") from error
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise DamagedFileError(f"{path} is damaged, or not what its name says") from error
