"""What is told of logins: lines in the log, so many at a time; the refusals, counted and kept."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import pytest
from structlog.testing import capture_logs

from iscsi_rp.frontend import IscsiServer
from iscsi_rp.frontend import iscsi_server as server_module
from iscsi_rp.frontend import logins as logins_module
from iscsi_rp.iscsi import Access, Chap, InitiatorAccess
from tests.unit.iscsi.initiator import IQN, NAME, login, pdu

LOGOUT = pdu(0x46, 0x80, itt=2, sn=1)
DISCOVERY = {"InitiatorName": NAME, "SessionType": "Discovery"}
LISTED = Access(True, {NAME: InitiatorAccess()})
Line = MutableMapping[str, Any]


async def said(address: tuple[str, int], *pdus: bytes) -> str:
    """Say it, and be told all that comes; the address that we came from."""
    reader, writer = await asyncio.open_connection(*address)
    host, port = writer.get_extra_info("sockname")
    writer.writelines(pdus)
    writer.write_eof()
    await reader.read()
    writer.close()
    await writer.wait_closed()
    return f"{host}:{port}"


def serve(access: Access, script: Callable[[IscsiServer, tuple[str, int]], Awaitable[None]]) -> list[Line]:
    """What the log says of `script(server, address)`."""

    async def main() -> None:
        server = IscsiServer()
        server.add_target(IQN, {})
        server.set_access(access)
        try:
            await script(server, await server.listen("127.0.0.1", 0))
        finally:
            await server.close(1.0)

    with capture_logs() as lines:
        asyncio.run(main())
    return list(lines)


def test_logins_and_logouts_are_logged() -> None:
    peers = []

    async def script(_: IscsiServer, address: tuple[str, int]) -> None:
        peers.append(await said(address, login(), LOGOUT))
        peers.append(await said(address, login(DISCOVERY)))

    lines = serve(LISTED, script)
    assert [(line["event"], line["log_level"]) for line in lines] == [
        ("login", "info"),
        ("logout", "info"),
        ("login", "info"),
        ("session ended", "info"),
    ]
    assert [line["target"] for line in lines] == [IQN, IQN, "discovery", "discovery"]
    assert [line["peer"] for line in lines] == [peers[0]] * 2 + [peers[1]] * 2
    assert {line["initiator"] for line in lines} == {NAME}
    assert (lines[0]["auth"], lines[0]["session"]) == ("none", 1)


@pytest.mark.parametrize(
    ("access", "target", "reason"),
    [
        (Access(True), IQN, "authorization failure"),
        (LISTED, IQN + "x", "target not found"),
        (
            Access(True, {NAME: InitiatorAccess(Chap("host", b"what nobody knows"))}),
            IQN,
            "authentication failure",
        ),
    ],
)
def test_a_refusal_is_logged_counted_and_kept(access: Access, target: str, reason: str) -> None:
    async def script(server: IscsiServer, address: tuple[str, int]) -> None:
        peer = await said(address, login({"InitiatorName": NAME, "TargetName": target}))
        assert {name: number for name, number in server.logins.refused.items() if number} == {reason: 1}
        (kept,) = server.logins.last_refused
        assert (kept.peer, kept.refusal.initiator, kept.refusal.reason) == (peer, NAME, reason)

    (line,) = serve(access, script)
    assert (line["event"], line["log_level"]) == ("login refused", "warning")
    assert (line["initiator"], line["reason"]) == (NAME, reason)
    assert "nobody knows" not in repr(line)


def test_peers_do_not_choose_how_long_the_log_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logins_module, "SESSIONS_LOGGED", 3)
    wanted = logins_module.REFUSALS_LOGGED + 7

    async def script(server: IscsiServer, address: tuple[str, int]) -> None:
        for _ in range(4):
            await said(address, login())
        for number in range(wanted):
            await said(address, login({"InitiatorName": f"{NAME}{number}", "TargetName": "iqn.2026-01.x:y"}))
        assert server.logins.refused["target not found"] == wanted
        names = [kept.refusal.initiator for kept in server.logins.last_refused]
        assert names == [f"{NAME}{number}" for number in range(wanted)][-logins_module.KEPT :]
        server.logins.tick()
        await said(address, login({"InitiatorName": NAME, "TargetName": "iqn.2026-01.x:y"}))

    lines = serve(Access(), script)
    events = [line["event"] for line in lines]
    assert events == [
        *("login", "session ended", "login"),
        *["login refused"] * logins_module.REFUSALS_LOGGED,
        *("more logins refused", "more logins and logouts", "login refused"),
    ]
    assert [line["number"] for line in lines if "number" in line] == [7, 5]


def test_the_server_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "TICK_S", 0.02)
    monkeypatch.setattr(logins_module, "REFUSALS_LOGGED", 0)

    async def script(_: IscsiServer, address: tuple[str, int]) -> None:
        await said(address, login({"InitiatorName": NAME, "TargetName": "iqn.2026-01.x:y"}))
        await asyncio.sleep(0.2)

    assert [(line["event"], line["number"]) for line in serve(Access(), script)] == [
        ("more logins refused", 1)
    ]
