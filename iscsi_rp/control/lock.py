"""One daemon for one state directory."""

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from iscsi_rp.errors import ConfigError, ConflictError


class StateLock:
    """Held from entry to exit, or to the end of the process. Raises ConflictError where another process
    holds it.
    """

    def __init__(self, state: Path) -> None:
        self._path = state / "lock"
        self._fd = -1

    def __enter__(self) -> Self:
        try:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._close()
            raise ConflictError(
                f"another daemon uses {self._path.parent}",
                hint="Stop it first, or give this one another `state` directory.",
            ) from None
        except OSError as error:
            self._close()
            raise ConfigError(f"cannot lock {self._path}: {error.strerror}") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
