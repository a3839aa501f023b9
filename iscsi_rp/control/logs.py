"""Log lines of a daemon: to standard output, by a thread of their own.

Who reads them may stop reading (a pager, a terminal held by ^S, a full pipe). Hosts must not wait for that,
so what waits to be written has a limit, and lines beyond it are counted instead.
"""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Full, Queue
from typing import Final

import structlog

LINES: Final = 10_000
"Lines that may wait; one more is dropped, and counted."
_LAST_S: Final = 1.0
"How long the end of the daemon waits for the lines that are left."


class QueuedLogger:
    """What structlog gives each line to."""

    def __init__(self, fd: int, lines: int = LINES) -> None:
        """`fd` is written to without a buffer: at its end the interpreter waits for the lock of one."""
        self._fd = fd
        self._queue: Queue[str | None] = Queue(lines)
        self._dropped = 0
        self._writer = threading.Thread(target=self._write, name="log", daemon=True)
        self._writer.start()

    def msg(self, line: str) -> None:
        """Never blocks."""
        try:
            if self._dropped:
                self._queue.put_nowait(f"{self._dropped} log lines were dropped: nobody read them")
                self._dropped = 0
            self._queue.put_nowait(line)
        except Full:
            self._dropped += 1

    log = debug = info = warn = warning = fatal = failure = err = error = critical = exception = msg

    def close(self) -> None:
        """Write what waits, as long as somebody reads it."""
        try:
            self._queue.put(None, timeout=_LAST_S)
        except Full:
            return
        self._writer.join(_LAST_S)

    def _write(self) -> None:
        while (line := self._queue.get()) is not None:
            left = f"{line}\n".encode(errors="backslashreplace")
            try:
                while left:
                    left = left[os.write(self._fd, left) :]
            except OSError:
                return  # the reader is gone for good; what follows is dropped at the limit


@contextmanager
def logging_apart() -> Iterator[None]:
    """Have structlog write by a thread until the block ends."""
    logger = QueuedLogger(sys.stdout.fileno())
    structlog.configure(logger_factory=lambda *_: logger)
    try:
        yield
    finally:
        logger.close()
        structlog.reset_defaults()
