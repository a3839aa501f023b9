import asyncio
import signal
import socket
import stat
from pathlib import Path

import pytest

from iscsi_rp.control.array_api import array_app
from iscsi_rp.control.client import ArrayClient
from iscsi_rp.control.server import ApiServer
from iscsi_rp.errors import ConfigError, ConflictError
from tests.unit.control.services import MemoryArray


def api_server(path: Path) -> ApiServer:
    return ApiServer(array_app(MemoryArray()), path)


def ask(path: Path) -> str:
    with ArrayClient(path) as client:
        return client.status().name


def test_it_answers_from_start_to_stop_to_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "state" / "api.sock"

    async def scenario() -> None:
        server = api_server(path)
        await server.start()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert await asyncio.to_thread(ask, path) == "array-1"
        await server.stop()
        await server.stop()

    asyncio.run(scenario())
    assert not path.exists()


def test_signals_are_left_to_the_daemon(tmp_path: Path) -> None:
    def handler(*_: object) -> None: ...

    before = signal.signal(signal.SIGTERM, handler)

    async def scenario() -> None:
        server = api_server(tmp_path / "api.sock")
        await server.start()
        await asyncio.to_thread(ask, tmp_path / "api.sock")
        assert signal.getsignal(signal.SIGTERM) is handler
        await server.stop()

    try:
        asyncio.run(scenario())
    finally:
        signal.signal(signal.SIGTERM, before)


def test_the_socket_of_a_dead_daemon_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    async def scenario() -> None:
        server = api_server(path)
        await server.start()
        assert await asyncio.to_thread(ask, path) == "array-1"
        await server.stop()

    asyncio.run(scenario())


def test_the_socket_of_a_living_daemon_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"

    async def scenario() -> None:
        first = api_server(path)
        await first.start()
        with pytest.raises(ConflictError, match="already running"):
            await api_server(path).start()
        assert await asyncio.to_thread(ask, path) == "array-1"
        await first.stop()

    asyncio.run(scenario())


@pytest.mark.parametrize("name", ["x" * 120, "file/api.sock"])
def test_a_socket_that_cannot_be_made_is_the_configurations_fault(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=name[:4]):
        asyncio.run(api_server(tmp_path / name).start())
