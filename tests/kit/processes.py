"""The product's daemons as real processes: started, killed, stopped in their tracks and started again."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

Found = TypeVar("Found")

READY_S: Final = 30.0
STOP_S: Final = 20.0


class ProcessError(Exception):
    """A daemon did not start, did not stop, or died on its own."""


class Daemon:
    """One process of `command`, its output appended to `log`."""

    def __init__(self, name: str, command: list[str], log: Path) -> None:
        self.name = name
        self._command = command
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        if self._process is None:
            raise ProcessError(f"{self.name} was not started")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> int:
        """SIGTERM, and the exit code. Raises `ProcessError` when it does not end."""
        if self._process is None:
            return 0
        self._process.terminate()
        try:
            return self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ProcessError(f"{self.name} did not end within {STOP_S} s of SIGTERM") from None

    def pause(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def log_tail(self, lines: int = 30) -> str:
        text = self._log.read_text(errors="replace") if self._log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def until(self, what: str, ask: Callable[[], Found | None], timeout_s: float = READY_S) -> Found:
        """The first answer of `ask` that is not None; `ProcessError` when the daemon dies or time ends."""
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s:
            if not self.running:
                raise ProcessError(f"{self.name} ended while waiting for {what}:\n{self.log_tail()}")
            found = ask()
            if found is not None:
                return found
            time.sleep(0.02)
        raise ProcessError(f"{self.name}: {what} did not come within {timeout_s:.0f} s:\n{self.log_tail()}")


def iscsi_rp(*arguments: str) -> list[str]:
    """The command line of `iscsi-rp`, run by this interpreter."""
    return [sys.executable, "-m", "iscsi_rp", *arguments]


def free_ports(count: int) -> list[int]:
    """TCP ports of the loopback that nobody listens on now, all different."""
    with contextlib.ExitStack() as probes:
        sockets = [probes.enter_context(socket.socket()) for _ in range(count)]
        for probe in sockets:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in sockets]


def free_port() -> int:
    return free_ports(1)[0]
