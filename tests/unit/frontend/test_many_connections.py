"""Many connections: idle, short, silent; what they cost, and that the others do not feel them."""

import asyncio
import contextlib
import gc
from pathlib import Path

import pytest

from iscsi_rp.block import MemoryDevice
from iscsi_rp.frontend import IscsiServer, NoSuchSessionError
from iscsi_rp.frontend import iscsi_streams as streams_module
from iscsi_rp.iscsi import Access
from iscsi_rp.scsi import Identity, LogicalUnit
from tests.unit.frontend.test_iscsi_server import receive, talk, unit
from tests.unit.iscsi.initiator import IQN, NAA, OPEN, command, login, pdu, read_10, split, write_10

SESSIONS = 200
CONNECTIONS = 1000
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


async def opened(address: tuple[str, int], isid: int) -> Stream:
    reader, writer = await asyncio.open_connection(*address)
    writer.write(login(OPEN, isid=isid))
    assert (await receive(reader)).head[36] == 0
    return reader, writer


async def come_and_go(address: tuple[str, int], count: int) -> None:
    """Connections that say nothing, half a header, or log in, and end without a word."""
    for n in range(count):
        with contextlib.suppress(ConnectionResetError):
            _, writer = await asyncio.open_connection(*address)
            writer.write((b"", b"\x43" * 24, login(OPEN, isid=n % 7))[n % 3])
            writer.transport.abort()


async def ping(stream: Stream, sn: int) -> None:
    stream[1].write(pdu(0x40, 0x80, b"alive", itt=sn, word20=0xFFFFFFFF, sn=sn))
    answer = await receive(stream[0])
    assert (answer.opcode, answer.data) == (0x20, b"alive")


def test_memory_does_not_grow_and_running_sessions_do_not_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams_module, "CONNECTIONS", SESSIONS + CONNECTIONS // 2)

    async def main() -> None:
        server = IscsiServer()
        server.add_target(IQN, {0: unit()})
        address = await server.listen("127.0.0.1", 0)
        idle = [await opened(address, 1000 + n) for n in range(SESSIONS)]
        await come_and_go(address, CONNECTIONS)
        first = resident_bytes()
        await come_and_go(address, CONNECTIONS)
        assert resident_bytes() < 1.1 * first
        for stream in idle:
            await ping(stream, 1)
        idle.append(await opened(address, 1000 + SESSIONS))
        while len(server.sessions()) != SESSIONS + 1:
            await asyncio.sleep(0.01)
        for _, writer in idle:
            writer.transport.abort()
        await server.close(0.1)

    asyncio.run(main())


def test_an_idle_session_costs_little() -> None:
    async def main() -> None:
        server = IscsiServer()
        server.add_target(IQN, {0: unit()})
        address = await server.listen("127.0.0.1", 0)
        before = resident_bytes()
        idle = [await opened(address, n) for n in range(SESSIONS)]
        # The initiators' ends, streams with buffers of their own, are counted, too.
        assert resident_bytes() - before < SESSIONS * (64 << 10)
        for _, writer in idle:
            writer.transport.abort()
        await server.close(0.1)

    asyncio.run(main())


def test_with_one_connection_too_many_the_oldest_that_has_not_logged_in_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streams_module, "LOGINS", 3)

    async def main() -> None:
        server = IscsiServer()
        server.add_target(IQN, {0: unit()})
        address = await server.listen("127.0.0.1", 0)
        running = await opened(address, 1)
        silent = [await asyncio.open_connection(*address) for _ in range(4)]
        async with asyncio.timeout(5):  # much less than they have to log in
            with contextlib.suppress(ConnectionResetError):
                assert await silent[0][0].read() == b""
        later = await opened(address, 2)
        await ping(running, 1)
        await ping(later, 1)
        for _, writer in (*silent, running, later):
            writer.transport.abort()
        await server.close(0.1)

    asyncio.run(main())


def test_beyond_the_limit_nobody_gets_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams_module, "CONNECTIONS", 2)

    async def main() -> None:
        server = IscsiServer()
        server.add_target(IQN, {0: unit()})
        address = await server.listen("127.0.0.1", 0)
        running = [await opened(address, n) for n in range(2)]
        reader, writer = await asyncio.open_connection(*address)
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        for stream in running:
            await ping(stream, 1)
        for _, each in (*running, (reader, writer)):
            each.transport.abort()
        await server.close(0.1)

    asyncio.run(main())


def test_beginnings_of_pdus_stay_with_their_connections() -> None:
    """The streams share one receive buffer: PDUs that come in pieces, in turns, and larger than a piece."""

    async def main() -> None:
        server = IscsiServer()
        devices = [MemoryDevice(1 << 20) for _ in range(6)]
        for n, device in enumerate(devices):
            server.add_target(f"{IQN}{n}", {0: LogicalUnit(device, Identity(NAA, "t"))})
        address = await server.listen("127.0.0.1", 0)
        streams = []
        for n in range(6):
            reader, writer = await asyncio.open_connection(*address)
            writer.write(login(OPEN | {"TargetName": f"{IQN}{n}"}))
            await receive(reader)
            writer.write(command(bytes(6), 0x80, 0, itt=1, sn=1))
            await receive(reader)
            streams.append((reader, writer))
        data = [bytes([65 + n]) * 65536 for n in range(6)]
        pdus = [command(write_10(0, 128), 0xA1, 65536, data[n], itt=2, sn=2) for n in range(6)]
        for at in range(0, len(pdus[0]), 9001):
            for (_, writer), whole in zip(streams, pdus, strict=True):
                writer.write(whole[at : at + 9001])
                await asyncio.sleep(0.001)
        for (reader, writer), device, expected in zip(streams, devices, data, strict=True):
            answer = await receive(reader)
            assert (answer.opcode, answer.head[3]) == (0x21, 0)
            assert bytes(device._data[:65536]) == expected
            writer.transport.abort()
        await server.close(0.1)

    asyncio.run(main())


def test_a_flood_leaves_the_others_their_share() -> None:
    """One session has 128 commands waiting at any time, another one: it gets an answer between them."""

    async def main() -> None:
        server = IscsiServer()
        server.add_target(IQN, {0: unit()})
        address = await server.listen("127.0.0.1", 0)
        flood = await opened(address, 1)
        quiet = await opened(address, 2)
        loop = asyncio.get_running_loop()
        stop = loop.time() + 1.0
        answered = 0

        async def pour() -> None:
            nonlocal answered
            reader, writer = flood
            sn = 1
            while loop.time() < stop:
                many = [command(read_10(0, 8), 0xC1, 4096, itt=sn + n, sn=sn + n) for n in range(128)]
                writer.writelines(many)
                for _ in many:
                    await receive(reader)
                sn += 128
                answered += 128

        async def trickle() -> int:
            sn = 1
            while loop.time() < stop:
                await ping(quiet, sn)
                sn += 1
            return sn - 1

        _, pings = await asyncio.gather(pour(), trickle())
        assert answered
        assert pings > answered / 128
        for _, writer in (flood, quiet):
            writer.transport.abort()
        await server.close(0.1)

    asyncio.run(main())


def test_a_session_is_asked_to_log_out_and_then_dropped() -> None:
    async def main() -> None:
        server = IscsiServer()
        server.add_target(IQN, {0: unit()})
        address = await server.listen("127.0.0.1", 0)
        polite, rude = await opened(address, 1), await opened(address, 2)
        first, second = server.sessions()
        with pytest.raises(NoSuchSessionError):
            await server.disconnect(60000)
        leaving = asyncio.create_task(server.disconnect(first.id))
        asked = await receive(polite[0])
        assert (asked.opcode, asked.head[36]) == (0x32, 1)
        polite[1].write(pdu(0x46, 0x80, itt=5, sn=1))
        (answer,) = split(await polite[0].read())
        assert (answer.opcode, answer.head[2]) == (0x26, 0)
        await leaving
        assert [each.id for each in server.sessions()] == [second.id]
        await server.disconnect(second.id)
        assert [each.head[36] for each in split(await rude[0].read())] == [1, 3]
        assert server.sessions() == []
        for _, writer in (polite, rude):
            writer.close()
        await server.close(0.1)

    asyncio.run(main())


def test_initiators_are_told_that_luns_came_and_that_one_grew() -> None:
    async def main() -> None:
        server = IscsiServer()
        disk = unit()
        server.add_target(IQN, {0: disk})
        reader, writer = await talk(await server.listen("127.0.0.1", 0))
        server.set_lun(IQN, 300, unit())
        inventory = await receive(reader)
        assert (inventory.opcode, inventory.head[36]) == (0x32, 0)
        assert inventory.data[14:16] == b"\x3f\x0e"
        disk.capacity_changed()
        grown = await receive(reader)
        assert (grown.head[8:16], grown.data[14:16]) == (bytes(8), b"\x2a\x09")
        server.set_access(Access(listed_only=True), grace_s=0.1)
        events = [each.head[36] for each in split(await reader.read())]
        assert events[-2:] == [1, 3]
        writer.close()
        await server.close(0.1)

    asyncio.run(main())


def test_status_tells_who_is_there_and_how_fast() -> None:
    async def main() -> None:
        server = IscsiServer()
        disk = unit()
        server.add_target(IQN, {5: disk})
        address = await server.listen("127.0.0.1", 0, portal_group=2)
        read = pdu(0x01, 0xC1, lun=5 << 48, itt=2, word20=512, sn=2, tail=read_10(0, 1))
        probe = pdu(0x01, 0x80, lun=5 << 48, itt=1, sn=1)
        reader, writer = await asyncio.open_connection(*address)
        writer.writelines((login(OPEN | {"HeaderDigest": "None"}), probe, read))
        for _ in range(3):
            await receive(reader)
        (status,) = server.sessions()
        assert (status.portal, status.portal_group) == (f"127.0.0.1:{address[1]}", 2)
        assert (status.auth, status.digests, status.commands, status.bytes_read) == ("none", "none", 2, 512)
        assert status.isid == 0x400001370001
        assert sum(status.latency[5].reads) == 1
        assert server.latency_by_initiator() == {status.initiator: status.latency[5]}
        writer.transport.abort()
        while server.sessions():
            await asyncio.sleep(0.01)
        assert server.latency(disk) == status.latency[5]
        assert server.latency_by_initiator() == {status.initiator: status.latency[5]}
        await server.close(0.1)

    asyncio.run(main())
