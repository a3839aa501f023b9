"""The server with real initiators, and its life: ports, targets that come and go, closing."""

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from iscsi_rp.block import MemoryDevice, create_file
from iscsi_rp.device import Done, Io
from iscsi_rp.frontend import AddressError, IscsiServer, PortInUseError
from iscsi_rp.frontend import iscsi_stream as stream_module
from iscsi_rp.iscsi import NoSuchTargetError, TargetExistsError, TargetNameError
from iscsi_rp.scsi import Identity, LogicalUnit
from tests.kit.target_process import target_process
from tests.unit.iscsi.initiator import IQN, NAA, OPEN, Pdu, command, login, pdu, read_10, split, write_10

needs_qemu = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-utils is not installed")
needs_libiscsi = pytest.mark.skipif(shutil.which("iscsi-ls") is None, reason="libiscsi-bin is not installed")


def unit(device: Any = None) -> LogicalUnit:
    return LogicalUnit(device or MemoryDevice(1 << 20), Identity(NAA, "t"))


def run(*command_: str) -> str:
    done = subprocess.run(command_, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_qemu
@pytest.mark.parametrize("block_size", [512, 4096])
def test_qemu_copies_a_disk_there_and_finds_it_equal(tmp_path: Path, block_size: int) -> None:
    source, store = tmp_path / "source", tmp_path / "store"
    create_file(store, 24 << 20)
    with source.open("wb") as file:
        for at in (0, 3 << 20, (20 << 20) + 4096):
            file.seek(at)
            file.write(bytes(range(256)) * 8192)
        file.truncate(24 << 20)
    with target_process(store, block_size=block_size) as url:
        run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", str(source), url)
        run("qemu-img", "compare", "-f", "raw", "-F", "raw", str(source), url)
    assert store.read_bytes() == source.read_bytes()


@needs_qemu
def test_qemu_writes_with_fua_discards_and_flushes(tmp_path: Path) -> None:
    create_file(tmp_path / "store", 1 << 20)
    steps = ("write -f -P 7 64k 64k", "discard 96k 32k", "flush", "read -P 7 64k 32k", "read -P 0 96k 32k")
    with target_process(tmp_path / "store") as url:
        run("qemu-io", "-f", "raw", *(word for step in steps for word in ("-c", step)), url)
    assert (tmp_path / "store").read_bytes()[64 << 10 : 128 << 10] == b"\x07" * (32 << 10) + bytes(32 << 10)


@needs_libiscsi
def test_discovery_lists_the_target(tmp_path: Path) -> None:
    create_file(tmp_path / "store", 4 << 20)
    with target_process(tmp_path / "store") as url:
        portal = url.rpartition("/iqn")[0]
        listed = run("iscsi-ls", "-s", portal)
    assert "Target:iqn.2026-01.io.iscsi-rp:test" in listed
    assert "Lun:0" in listed


async def receive(reader: asyncio.StreamReader) -> Pdu:
    header = await reader.readexactly(48)
    (answer,) = split(header + await reader.readexactly(int.from_bytes(header[5:8], "big") + 3 & ~3))
    return answer


async def talk(address: tuple[str, int], *pdus: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Log in, learn that the unit was powered on, and send PDUs, whose CmdSNs begin with 2."""
    reader, writer = await asyncio.open_connection(*address)
    writer.writelines((login(OPEN), command(bytes(6), 0x80, 0, itt=1, sn=1)))
    assert (await receive(reader)).head[36] == 0
    await receive(reader)
    writer.writelines(pdus)
    return reader, writer


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_closing_lets_commands_in_flight_finish(host: str) -> None:
    class Slow(MemoryDevice):
        def submit(self, batch: Sequence[Io], done: Done) -> None:
            kept = [(*io[:3], io[3] and bytes(io[3]), *io[4:]) for io in batch]
            asyncio.get_running_loop().call_later(0.1, super().submit, kept, done)

    async def main() -> None:
        server = IscsiServer()
        server.add_target(IQN, {0: unit(Slow(1 << 20))})
        address = await server.listen(host, 0)
        reader, writer = await talk(address, command(write_10(0, 1), 0xA1, 512, b"x" * 512, itt=1, sn=2))
        while not server.sessions() or not server.sessions()[0].outstanding:
            await asyncio.sleep(0.001)
        await server.close(5.0)
        asked, answer, dropped = split(await reader.read())
        assert (asked.opcode, asked.head[36]) == (0x32, 1)
        assert (answer.opcode, answer.head[3]) == (0x21, 0)
        assert (dropped.opcode, dropped.head[36]) == (0x32, 3)
        writer.close()
        await writer.wait_closed()

    asyncio.run(main())


def test_targets_come_and_go_while_running() -> None:
    async def main() -> None:
        server = IscsiServer()
        address = await server.listen("127.0.0.1", 0)
        server.add_target(IQN, {0: unit()})
        with pytest.raises(TargetExistsError):
            server.add_target(IQN, {})
        with pytest.raises(TargetNameError):
            server.add_target("disk one", {})
        reader, writer = await talk(address)
        server.set_lun(IQN, 1, unit())
        server.set_lun(IQN, 0, None)
        assert [status.target for status in server.sessions()] == [IQN]
        await server.remove_target(IQN)
        assert [each.head[36] for each in split(await reader.read())] == [0, 0, 1, 3]
        assert server.sessions() == []
        with pytest.raises(NoSuchTargetError):
            await server.remove_target(IQN)
        writer.close()
        await server.close()

    asyncio.run(main())


def test_a_port_in_use_and_an_address_that_is_not_ours() -> None:
    async def main() -> None:
        one, two = IscsiServer(), IscsiServer()
        _, port = await one.listen("127.0.0.1", 0)
        with pytest.raises(PortInUseError):
            await two.listen("127.0.0.1", port)
        with pytest.raises(AddressError):
            await two.listen("203.0.113.1", port)
        await one.close()
        await two.close()

    asyncio.run(main())


def test_who_does_not_log_in_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "LOGIN_S", 0.05)

    async def main() -> None:
        server = IscsiServer()
        reader, writer = await asyncio.open_connection(*await server.listen("127.0.0.1", 0))
        async with asyncio.timeout(5):
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
        writer.close()
        await server.close()

    asyncio.run(main())


def test_a_reader_that_never_reads_is_not_listened_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its commands stay in its socket; what waits for it stays bounded."""
    read_64k = bytes([0x28, 0, 0, 0, 0, 0, 0, 0, 128, 0])

    async def main() -> None:
        server = IscsiServer()
        server.add_target(IQN, {0: unit()})
        address = await server.listen("127.0.0.1", 0)
        many = [command(read_64k, 0xC1, 65536, itt=n + 1, sn=n + 2) for n in range(2000)]
        _, writer = await talk(address, *many)
        before = -1
        while server.sessions()[0].commands != before:
            before = server.sessions()[0].commands
            await asyncio.sleep(0.2)
        assert 0 < before < 2000
        writer.transport.abort()
        await server.close()

    asyncio.run(main())


async def connect_with_little_room(
    address: tuple[str, int],
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A reader into whose socket little goes."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
    sock.connect(address)
    return await asyncio.open_connection(sock=sock)


def test_what_waits_for_a_slow_reader_is_sent_though_its_session_ends() -> None:
    """It logs out in the same breath, and begins to read when the answers have long been too many for
    sockets and transport.
    """
    count, size = 12, 1 << 20
    content = bytes(range(251)) * (size // 251 + 1)

    class Filled(MemoryDevice):
        def __init__(self) -> None:
            super().__init__(size)
            self._data[:] = content[:size]

    async def main() -> None:
        server = IscsiServer()
        server.add_target(IQN, {0: unit(Filled())})
        reader, writer = await connect_with_little_room(await server.listen("127.0.0.1", 0))
        writer.write(login(OPEN) + command(bytes(6), 0x80, 0, itt=1, sn=1))
        await receive(reader)
        await receive(reader)
        reads = [command(read_10(0, size >> 9), 0xC1, size, itt=n + 2, sn=n + 2) for n in range(count)]
        writer.write(b"".join((*reads, pdu(0x46, 0x80, itt=99, sn=count + 2))))
        while server.sessions():
            await asyncio.sleep(0.01)
        *answers, last = split(await reader.read())
        assert [answer.itt for answer in answers if answer.opcode == 0x21] == list(range(2, count + 2))
        assert b"".join(answer.data for answer in answers) == content[:size] * count
        assert (last.opcode, last.head[2]) == (0x26, 0)
        writer.close()
        await server.close()

    asyncio.run(main())


def test_an_answer_does_not_overtake_what_waits_for_the_socket() -> None:
    """The reader makes room and asks for more before the transport has had its turn."""

    def read(n: int) -> bytes:
        return command(read_10(0, 128), 0xC1, 65536, itt=n, sn=n)

    async def main() -> None:
        server = IscsiServer()
        server.add_target(IQN, {0: unit()})
        reader, writer = await connect_with_little_room(await server.listen("127.0.0.1", 0))
        writer.write(login(OPEN | {"MaxRecvDataSegmentLength": "65536"}))
        writer.write(command(bytes(6), 0x80, 0, itt=1, sn=1))
        await receive(reader)
        await receive(reader)
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        sock, last = writer.get_extra_info("socket"), 1
        (stream,) = server._streams.all()
        while not stream._transport.get_write_buffer_size():
            last += 1
            writer.write(read(last))
            await asyncio.sleep(0.001)
        raw = socket.socket(fileno=os.dup(sock.fileno()))
        received = bytearray()
        while len(received) < 1 << 20:
            with contextlib.suppress(BlockingIOError):
                received += raw.recv(1 << 20)
        last += 1
        raw.send(read(last))
        while len(received) < (last - 1) * (48 + 65536):
            await asyncio.sleep(0.001)
            with contextlib.suppress(BlockingIOError):
                received += raw.recv(1 << 20)
        assert [answer.itt for answer in split(bytes(received))] == list(range(2, last + 1))
        raw.close()
        writer.transport.abort()
        await server.close()

    asyncio.run(main())
