"""The bridge on a bus of its own (`dbus-daemon`); tests/kernel/test_bus.py has targetcli and tcmu-runner."""

import asyncio
import contextlib
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from dbus_fast import BusType, Message, MessageType
from dbus_fast.aio import MessageBus
from structlog.testing import capture_logs

from iscsi_rp.frontend import tcmu_bus
from iscsi_rp.frontend.tcmu_bus import MANAGER, SERVICE, Bridge, BridgeState

CONFIG: Final = """\
<busconfig>
  <type>system</type>
  <listen>unix:path={}</listen>
  <policy context="default">
    <allow own="*"/>
    <allow send_destination="*"/>
    <allow receive_sender="*"/>
  </policy>
</busconfig>
"""
ROOT: Final = "/org/kernel/TCMUService1"
SOON_S: Final = 10.0


def check(config: str) -> str | None:
    return None if config == "rpsplit/data" else f"no volume {config}"


class Daemon:
    """A bus, at the address where the bridge looks for the system's."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "bus"
        self._config = folder / "bus.conf"
        self._config.write_text(CONFIG.format(self.socket))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [
            "dbus-daemon",
            "--nofork",
            "--nopidfile",
            "--print-address",
            f"--config-file={self._config}",
        ]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert self._process.stdout.readline()  # it listens

    def freeze(self) -> None:
        """It reads no more: what it is sent is unread when it is killed, and so the connection is reset."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self.socket.unlink(missing_ok=True)
            self._process = None


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    if shutil.which("dbus-daemon") is None:
        pytest.skip("dbus-daemon is missing: `make setup` as root installs it (package dbus)")
    daemon = Daemon(tmp_path)
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={daemon.socket}")
    monkeypatch.setattr(tcmu_bus, "LOOK_S", 0.05)
    monkeypatch.setattr(tcmu_bus, "MAX_PAUSE_S", 0.2)
    yield daemon
    daemon.kill()


@contextlib.asynccontextmanager
async def running() -> AsyncIterator[Bridge]:
    bridge = Bridge("rpsplit", "The name of a volume", check, lambda: None)
    await bridge.start()
    try:
        yield bridge
    finally:
        await bridge.stop()
        assert bridge.state is BridgeState.NO_BUS


async def reached(bridge: Bridge, state: BridgeState) -> None:
    async with asyncio.timeout(SOON_S):
        while bridge.state is not state:
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def client() -> AsyncIterator[MessageBus]:
    bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
    try:
        yield bus
    finally:
        bus.disconnect()
        await bus.wait_for_disconnect()  # type: ignore[no-untyped-call]


async def ask(bus: MessageBus, name: str, path: str, interface: str, member: str, *body: str) -> Any:
    """The answer's only value, or all of them; the name of the error where there is one."""
    reply = await bus.call(Message(name, path, interface, member, signature="s" * len(body), body=list(body)))
    if reply.message_type is MessageType.ERROR:
        return reply.error_name
    return reply.body[0] if len(reply.body) == 1 else reply.body


async def owners(bus: MessageBus) -> Any:
    name = "org.freedesktop.DBus"
    return await ask(bus, name, "/org/freedesktop/DBus", name, "ListQueuedOwners", SERVICE)


def run(script: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(script(), 6 * SOON_S))


def test_what_targetcli_asks(daemon: Daemon) -> None:
    async def script() -> None:
        async with running() as bridge, client() as bus:
            assert bridge.state is BridgeState.OWNER  # known when it has started
            found = await ask(bus, SERVICE, ROOT, "org.freedesktop.DBus.ObjectManager", "GetManagedObjects")
            assert list(found) == [f"{ROOT}/rpsplit"]
            assert found[f"{ROOT}/rpsplit"][SERVICE]["ConfigDesc"].value == "The name of a volume"
            for path, name in (
                (f"{ROOT}/rpsplit", SERVICE),
                (f"{ROOT}/HandlerManager1/rpsplit", f"{MANAGER}.rpsplit"),  # tcmu-runner's way
            ):
                assert await ask(bus, name, path, SERVICE, "CheckConfig", "rpsplit/data") == [True, "success"]
                refusal = [False, "no volume rpsplit/x"]
                assert await ask(bus, name, path, SERVICE, "CheckConfig", "rpsplit/x") == refusal
            await bridge.stop()
            assert await owners(bus) == "org.freedesktop.DBus.Error.NameHasNoOwner"

    daemon.start()
    run(script)


def test_no_bus_then_one_then_another(daemon: Daemon) -> None:
    async def script() -> None:
        async with running() as bridge:
            for frozen in (False, True):
                await asyncio.sleep(1)  # it tries, again and again
                assert bridge.state is BridgeState.NO_BUS
                daemon.start()
                await reached(bridge, BridgeState.OWNER)
                if frozen:
                    daemon.freeze()
                    await asyncio.sleep(5 * tcmu_bus.LOOK_S)  # it asks meanwhile, in vain
                daemon.kill()
                await reached(bridge, BridgeState.NO_BUS)

    with capture_logs() as lines:
        run(script)
    told = [line["reason"] for line in lines if line["log_level"] == "warning"]
    lost, none = "the bus has closed the connection", "no system bus: [Errno 2] No such file or directory"
    assert told == [none, lost, none, lost]


def test_a_bus_that_does_not_answer(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    async def script() -> None:
        silent = await asyncio.start_unix_server(lambda _reader, writer: held.append(writer), daemon.socket)
        async with running() as bridge:
            await asyncio.sleep(0.5)
            assert bridge.state is BridgeState.NO_BUS
        silent.close()
        for writer in held:
            writer.close()
            await writer.wait_closed()

    held: list[asyncio.StreamWriter] = []
    monkeypatch.setattr(tcmu_bus, "CALL_S", 0.1)
    with capture_logs() as lines:
        run(script)
    assert [line["reason"] for line in lines] == ["no system bus: TimeoutError"]
    assert len(held) > 1


def test_the_name_is_not_given_to_just_anybody(daemon: Daemon) -> None:
    async def script() -> None:
        async with running() as bridge, client() as bus:
            await reached(bridge, BridgeState.OWNER)
            await bus.request_name(SERVICE)  # and waits, but takes in no subtypes
            await asyncio.sleep(1)
            assert bridge.state is BridgeState.OWNER
            assert (await owners(bus))[1:] == [bus.unique_name]

    daemon.start()
    with capture_logs() as lines:
        run(script)
    assert [line["log_level"] for line in lines] == ["info", "warning"]
    assert lines[1]["reason"].startswith("RegisterHandler: ")


def test_the_name_has_an_owner_that_is_not_tcmu_runner(daemon: Daemon) -> None:
    async def script() -> None:
        async with client() as bus:
            await bus.request_name(SERVICE)
            async with running() as bridge:
                await reached(bridge, BridgeState.REFUSED)
                await bus.release_name(SERVICE)
                await reached(bridge, BridgeState.OWNER)

    daemon.start()
    run(script)


def test_tcmu_runner_refuses(daemon: Daemon) -> None:
    """The name stays here, and it is tried again."""

    def refuse(message: Message) -> Message | None:
        if message.member != "RegisterHandler":
            return None
        asked.append(message.body)
        return Message.new_method_return(message, "bs", [len(asked) > 2, "not today"])

    async def script() -> None:
        async with running() as bridge, client() as bus:
            await reached(bridge, BridgeState.OWNER)
            bus.add_message_handler(refuse)
            await bus.request_name(SERVICE)
            await reached(bridge, BridgeState.REGISTERED)
            assert (await owners(bus))[0] == bus.unique_name

    asked: list[Any] = []
    daemon.start()
    with capture_logs() as lines:
        run(script)
    assert asked == 3 * [["rpsplit", "The name of a volume"]]
    (refused,) = (line for line in lines if line["log_level"] == "warning")
    assert refused["reason"] == "tcmu-runner does not take it in: not today"


def test_two_arrays(daemon: Daemon) -> None:
    async def script() -> None:
        async with running() as first:
            await reached(first, BridgeState.OWNER)
            async with running() as second:
                await reached(second, BridgeState.REFUSED)
                await first.stop()
                await reached(second, BridgeState.OWNER)

    daemon.start()
    with capture_logs() as lines:
        run(script)
    (refused,) = (line for line in lines if line["log_level"] == "warning")
    assert refused["reason"] == "another process has org.kernel.TCMUService1.HandlerManager1.rpsplit"
    assert "Only one array" in refused["hint"]
