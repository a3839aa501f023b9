"""What the service manager hears, at a real socket and from real daemons."""

import asyncio
import os
import select
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from iscsi_rp.control.notify import notify, serve_until
from tests.kit.processes import free_port, iscsi_rp

WATCHDOG_S = 0.2
START_S = 30.0
LISTENED = int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text()) + 1
"Messages that a socket keeps which nobody reads."


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The service manager's end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(START_S)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", str(int(WATCHDOG_S * 1e6)))
        yield listening


def heard(manager: socket.socket) -> str:
    return manager.recv(4096).decode()


def all_heard(manager: socket.socket) -> list[str]:
    said = []
    while select.select([manager], [], [], 0)[0]:
        said.append(heard(manager))
    return said


async def serve(seconds: float) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, stop.set)
    await serve_until(stop)


def test_a_manager_that_reads_nothing_holds_up_nobody(
    manager: socket.socket, capsys: pytest.CaptureFixture[str]
) -> None:
    async def tell() -> None:
        for _ in range(LISTENED):
            await notify("WATCHDOG=1")
        last = asyncio.create_task(notify("STOPPING=1"))
        begun = asyncio.get_running_loop().time()
        await asyncio.sleep(0.05)
        assert asyncio.get_running_loop().time() - begun < 0.5
        await last

    asyncio.run(tell())
    assert all_heard(manager) == ["WATCHDOG=1"] * LISTENED
    assert "was not told" in capsys.readouterr().out


def test_ready_then_alive_more_often_than_asked_then_stopping(manager: socket.socket) -> None:
    asyncio.run(serve(3 * WATCHDOG_S))
    first, *alive, last = all_heard(manager)
    assert (first, last) == ("READY=1", "STOPPING=1")
    assert set(alive) == {"WATCHDOG=1"}
    assert 4 <= len(alive) <= 7


def test_a_loop_that_is_stuck_is_not_alive(manager: socket.socket) -> None:
    async def stuck() -> None:
        serving = asyncio.create_task(serve(60))
        await asyncio.sleep(WATCHDOG_S)
        all_heard(manager)
        select.select([], [], [], 3 * WATCHDOG_S)  # the loop's thread, for too long
        assert all_heard(manager) == []
        serving.cancel()

    asyncio.run(stuck())


def test_without_a_watchdog_nothing_is_said_meanwhile(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WATCHDOG_USEC")
    asyncio.run(serve(WATCHDOG_S))
    assert all_heard(manager) == ["READY=1", "STOPPING=1"]


def test_an_abstract_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0iscsi-rp-test-{os.getpid()}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@iscsi-rp-test-{os.getpid()}")
        asyncio.run(notify("READY=1"))
        assert all_heard(listening) == ["READY=1"]


def test_nobody_to_tell_and_nobody_there_are_no_errors(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager.close()
    asyncio.run(notify("READY=1"))
    monkeypatch.delenv("NOTIFY_SOCKET")
    asyncio.run(notify("READY=1"))


@pytest.mark.parametrize("daemon", ["array", "appliance"])
def test_a_daemon_is_ready_when_its_api_answers(manager: socket.socket, tmp_path: Path, daemon: str) -> None:
    config = tmp_path / "iscsi-rp.toml"
    config.write_text(
        f'state = "state"\n[array]\nportals = ["127.0.0.1:{free_port()}"]\n'
        f'[appliance]\nportals = ["127.0.0.1:{free_port()}"]\n'
    )
    process = subprocess.Popen(
        iscsi_rp("--config", str(config), daemon, "run"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        assert heard(manager) == "READY=1"
        with socket.socket(socket.AF_UNIX) as api:
            api.connect(str(tmp_path / "state" / daemon / "api.sock"))
        assert heard(manager) == "WATCHDOG=1"
        process.send_signal(signal.SIGTERM)
        said = "WATCHDOG=1"
        while said == "WATCHDOG=1":
            said = heard(manager)
        assert said == "STOPPING=1"
        assert process.wait(START_S) == 0
    finally:
        process.kill()
        process.wait()
