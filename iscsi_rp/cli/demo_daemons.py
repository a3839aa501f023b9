"""The two daemons of the demonstration: real processes, with a state and ports that nobody else uses."""

import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from iscsi_rp.control.client import ApplianceClient, ArrayClient
from iscsi_rp.control.config import ApplianceConfig, ArrayConfig, Config, Portal
from iscsi_rp.errors import Error, UnreachableError

IQN: Final = "iqn.2026-11.io.iscsi-rp:demo"
START_S: Final = 30.0
STOP_S: Final = 15.0


class Daemons:
    """Array and appliance over `directory`, from `__enter__` until `__exit__`."""

    def __init__(self, directory: Path) -> None:
        array_port, appliance_port = _free_ports()
        self.config_path = directory / "iscsi-rp.toml"
        self.portal = Portal("127.0.0.1", array_port)
        self._config = Config(
            state=directory / "state",
            array=ArrayConfig(iqn=IQN, portals=[self.portal]),
            appliance=ApplianceConfig(portals=[Portal("127.0.0.1", appliance_port)]),
        )
        self._logs = {name: directory / f"{name}.log" for name in ("array", "appliance")}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.array = ArrayClient(self._config.array_socket)
        self.appliance = ApplianceClient(self._config.appliance_socket)

    @property
    def pids(self) -> dict[str, int]:
        return {name: process.pid for name, process in self._processes.items()}

    def __enter__(self) -> "Daemons":
        self.config_path.write_text(self._config.toml())
        try:
            for name, path in self._logs.items():
                command = [sys.executable, "-m", "iscsi_rp", "--config", str(self.config_path), name, "run"]
                # A session of their own: ^C ends the demonstration, and that ends them.
                with path.open("ab") as log:
                    self._processes[name] = subprocess.Popen(
                        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                    )
            self._wait_ready()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _wait_ready(self) -> None:
        deadline_s = time.monotonic() + START_S
        for name, client in (("array", self.array), ("appliance", self.appliance)):
            while True:
                try:
                    client.status()
                    break
                except UnreachableError:
                    if self._processes[name].poll() is not None or time.monotonic() > deadline_s:
                        said = self._logs[name].read_text(errors="replace").strip().splitlines()[-3:]
                        raise Error(f"the {name} did not start: {' / '.join(said)}") from None
                    time.sleep(0.05)

    def _stop(self) -> None:
        self.array.close()
        self.appliance.close()
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _free_ports() -> tuple[int, int]:
    """Two TCP ports of the loopback on which nobody listens now."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        return one.getsockname()[1], two.getsockname()[1]
