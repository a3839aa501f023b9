"""`iscsi-rp up` with the real daemons."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from iscsi_rp.control.client import ApplianceClient, ArrayClient
from iscsi_rp.control.config import ApplianceConfig, ArrayConfig, Config, Portal
from iscsi_rp.errors import ConflictError, UnreachableError
from tests.kit.processes import free_port, iscsi_rp

TIMEOUT_S: Final = 30.0

pytestmark = pytest.mark.slow


class Up:
    def __init__(self, folder: Path) -> None:
        self.array_portal, self.appliance_portal = (Portal("127.0.0.1", free_port()) for _ in range(2))
        self.config = Config(
            state=folder / "state",
            array=ArrayConfig(portals=[self.array_portal]),
            appliance=ApplianceConfig(portals=[self.appliance_portal]),
        )
        path = folder / "c.toml"
        path.write_text(self.config.toml())
        self._command = iscsi_rp("--config", str(path), "up")
        self._log = folder / "up.log"

    def start(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def wait_ready(self) -> None:
        deadline_s = time.monotonic() + TIMEOUT_S
        while "next, in another terminal" not in self.log():
            assert time.monotonic() < deadline_s, self.log()
            time.sleep(0.02)

    def log(self) -> str:
        return self._log.read_text()

    def answering(self) -> list[str]:
        names = []
        for client in (ArrayClient(self.config.array_socket), ApplianceClient(self.config.appliance_socket)):
            with client:
                try:
                    client.metrics()
                    names.append(client.daemon)
                except UnreachableError:
                    pass
        return names


def daemon_of(process: subprocess.Popen[bytes], name: str) -> int:
    """Its process id."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    (pid,) = (
        pid for pid in children if name.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    )
    return int(pid)


@contextmanager
def running(up: Up) -> Iterator[subprocess.Popen[bytes]]:
    with up.start() as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()


@pytest.fixture
def up(tmp_path: Path) -> Up:
    return Up(tmp_path)


def test_it_starts_both_and_a_signal_stops_both(up: Up) -> None:
    with running(up) as process:
        up.wait_ready()
        assert str(up.array_portal) in up.log()
        assert str(up.appliance_portal) in up.log()
        assert up.answering() == ["array", "appliance"]
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT_S) == 0
    assert up.answering() == []


@pytest.mark.parametrize("name", ["array", "appliance"])
def test_when_one_dies_the_other_is_stopped_and_nothing_is_restarted(up: Up, name: str) -> None:
    with running(up) as process:
        up.wait_ready()
        os.kill(daemon_of(process, name), signal.SIGKILL)
        assert process.wait(TIMEOUT_S) == 1
    assert f"error: the {name} ended by SIGKILL; stopping" in up.log()
    assert up.answering() == []


def test_a_port_in_use_ends_it_with_the_daemons_own_error(up: Up) -> None:
    portal = up.array_portal
    with socket.create_server((portal.host, portal.port)), running(up) as process:
        assert process.wait(TIMEOUT_S) == ConflictError.exit_code
    assert f"error: {portal} is in use" in up.log()
    assert "Traceback" not in up.log()
    assert up.answering() == []


def test_a_second_one_on_the_same_state_is_refused_and_the_first_goes_on(up: Up) -> None:
    with running(up):
        up.wait_ready()
        with up.start() as second:
            assert second.wait(TIMEOUT_S) == ConflictError.exit_code
        assert "error: the array is running already" in up.log()
        assert up.answering() == ["array", "appliance"]
