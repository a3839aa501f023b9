"""The files by which the kernel gives a user backstore to a process: `/dev/uioN` with its memory, and what is
written to configfs around a change of hands.
"""

import contextlib
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple, Self

from iscsi_rp.errors import Error

UIO: Final = Path("/sys/class/uio")
CORE: Final = Path("/sys/kernel/config/target/core")
_PREFIX: Final = "tcm-user"
_RESET_AND_RETRY: Final = 1
"Commands in the ring are answered BUSY, so that initiators send them again."
_KICK: Final = bytes(4)


class TcmuDeviceError(Error):
    """A user backstore cannot be taken into service."""


class Place(NamedTuple):
    """A user backstore of the kernel."""

    hba: str
    name: str
    subtype: str
    "Which handler it is for."
    config: str
    "What it means is the handler's affair."
    minor: int
    "Of `/dev/uioN`."

    @classmethod
    def parse(cls, name: str, minor: int) -> Self | None:
        """From `tcm-user/HBA/NAME/SUBTYPE/CONFIGURATION`; None for a UIO device of another kind."""
        prefix, *parts = name.strip().split("/", 4)
        if prefix != _PREFIX or len(parts) != 4:
            return None
        hba, name, subtype, config = parts
        return cls(hba, name, subtype, config, minor)

    @property
    def configfs(self) -> Path:
        return CORE / f"user_{self.hba}" / self.name


def scan(subtype: str) -> Iterator[Place]:
    """The backstores of a subtype that are there."""
    for device in UIO.glob("uio*"):
        try:
            place = Place.parse((device / "name").read_text(), int(device.name.removeprefix("uio")))
        except OSError:  # it went meanwhile
            continue
        if place is not None and place.subtype == subtype:
            yield place


def wants_reply(place: Place) -> bool:
    """Whether the kernel waits for an answer to what it tells of the backstore."""
    try:
        return int((place.configfs / "attrib/nl_reply_supported").read_text()) > 0
    except (OSError, ValueError):
        return False


def block(place: Place, blocked: bool) -> None:
    """While it is blocked the kernel answers new commands BUSY, and initiators send them again. Waits for the
    kernel: not on the event loop. Raises `TcmuDeviceError`.
    """
    _write(place.configfs / "action/block_dev", int(blocked))


def reset_ring(place: Place) -> None:
    """Empty the ring; as `block`. Nobody may have it mapped who still looks at its data."""
    _write(place.configfs / "action/reset_ring", _RESET_AND_RETRY)


def _write(path: Path, value: int) -> None:
    # One write(2): a buffered file may write twice, and tells of the error only when it is closed.
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, b"%d" % value)
        finally:
            os.close(fd)
    except OSError as error:
        raise TcmuDeviceError(f"cannot write {value} to {path}: {error.strerror}") from error


class Uio:
    """An open `/dev/uioN`, with its memory."""

    def __init__(self, place: Place) -> None:
        """Raises `TcmuDeviceError`: it is not there, or another process has it."""
        path = Path(f"/dev/uio{place.minor}")
        try:
            size = int((UIO / path.name / "maps/map0/size").read_text(), 0)
            self.fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise TcmuDeviceError(
                f"cannot open {path} of backstore {place.name!r}: {error.strerror}",
                hint="Another process that handles it has to let go of it first.",
            ) from error
        try:
            # Numbers are given anew: what was told of it may be about the one that had it before.
            if (found := Place.parse((UIO / path.name / "name").read_text(), place.minor)) != place:
                raise TcmuDeviceError(f"{path} is of {found}, not of backstore {place.name!r}")
            self.memory = mmap.mmap(self.fd, size)
        except (OSError, ValueError) as error:
            os.close(self.fd)
            raise TcmuDeviceError(f"cannot map {path}: {error}") from error
        except TcmuDeviceError:
            os.close(self.fd)
            raise

    def clear(self) -> None:
        """Take note of the kernel's events: what it has put in before now is in the ring."""
        try:
            os.read(self.fd, 4)
        except BlockingIOError:
            pass

    def kick(self) -> None:
        """Tell the kernel that there are answers."""
        os.write(self.fd, _KICK)

    def close(self) -> None:
        """What still holds on to the memory, the data of a write that is under way, keeps it: until that is
        over the kernel gives the device to nobody else.
        """
        with contextlib.suppress(BufferError):
            self.memory.close()
        del self.memory
        os.close(self.fd)
