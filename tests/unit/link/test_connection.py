"""Links over a real Unix socket: large frames, garbage, peers that vanish or never read."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from iscsi_rp.errors import ConflictError, UnreachableError
from iscsi_rp.link import connection
from iscsi_rp.link.connection import Link, Listener, connect
from iscsi_rp.link.local import LocalSocket
from iscsi_rp.replication import frames as wire
from iscsi_rp.replication.frames import HEADER_BYTES, MAX_PAYLOAD, Frame


class End:
    """What one end of a connection was told."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.links: list[Link] = []
        self.lost: list[str] = []

    def on_frames(self, link: Link, frames: list[Frame]) -> None:
        if link not in self.links:
            self.links.append(link)
        self.frames += frames

    def on_lost(self, link: Link, reason: str) -> None:
        self.lost.append(reason)


@contextlib.asynccontextmanager
async def listening(path: Path, end: End) -> AsyncIterator[Listener]:
    listener = Listener(LocalSocket(path), end.on_frames, end.on_lost)
    await listener.start()
    try:
        yield listener
    finally:
        await listener.close()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def run(tmp_path: Path, test: Callable[[Path, End, End], Awaitable[None]]) -> None:
    """With a listener at the path, its end, and an end for whoever connects."""
    path = tmp_path / "link.sock"

    async def main() -> None:
        above = End()
        async with listening(path, above):
            await test(path, above, End())

    asyncio.run(main())


def test_frames_arrive_in_order_and_larger_than_the_buffer(tmp_path: Path) -> None:
    payloads = [b"small", bytes(MAX_PAYLOAD), os.urandom(3 << 20), b"", b"last"]

    async def test(path: Path, above: End, below: End) -> None:
        link = await connect(LocalSocket(path), below.on_frames, below.on_lost)
        assert link.open
        for number, payload in enumerate(payloads):
            link.send(wire.frame(wire.HELLO, sequence=number, payload=payload))
        await until(lambda: len(above.frames) == len(payloads))
        assert [(frame[3], frame[6]) for frame in above.frames] == list(enumerate(payloads))
        (there,) = above.links
        there.send_all([wire.frame(wire.PROBE, a=1), wire.frame(wire.PROBE, a=2)])
        await until(lambda: len(below.frames) == 2)
        link.close("done")
        assert not link.open
        link.send(wire.frame(wire.END))
        await until(lambda: above.lost and below.lost)
        assert (above.lost, below.lost) == (["the peer closed the connection"], ["done"])
        assert len(above.frames) == len(payloads)

    run(tmp_path, test)


def test_a_frame_that_comes_byte_by_byte(tmp_path: Path) -> None:
    data = wire.frame(wire.HELLO, sequence=7, payload=b"payload") + wire.frame(wire.END)

    async def test(path: Path, above: End, below: End) -> None:
        _, writer = await asyncio.open_unix_connection(str(path))
        for byte in data:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)
        await until(lambda: len(above.frames) == 2)
        assert [(frame[0], frame[6]) for frame in above.frames] == [
            (wire.HELLO, b"payload"),
            (wire.END, b""),
        ]
        writer.close()
        await writer.wait_closed()
        await until(lambda: above.lost)

    run(tmp_path, test)


DAMAGED = bytearray(wire.frame(wire.HELLO, payload=b"payload"))
DAMAGED[-1] ^= 1


@pytest.mark.parametrize(
    ("garbage", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n", "frame of type"),
        (b"\xff" * 100, "frame of type 255"),
        (wire.HEADER.pack(MAX_PAYLOAD + 1, wire.HELLO, 0, 0, 0, 0, 0, 0), f"{MAX_PAYLOAD + 1} bytes"),
        (bytes(DAMAGED), "CRC32C"),
    ],
    ids=["http", "ones", "too long", "damaged"],
)
def test_garbage_ends_the_connection_and_no_other(tmp_path: Path, garbage: bytes, reason: str) -> None:
    async def test(path: Path, above: End, below: End) -> None:
        good = await connect(LocalSocket(path), below.on_frames, below.on_lost)
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(garbage)
        async with asyncio.timeout(10):
            assert await reader.read() == b""
        writer.close()
        await until(lambda: above.lost)
        assert len(above.lost) == 1
        assert reason in above.lost[0]
        assert above.frames == []
        good.send(wire.frame(wire.END))
        await until(lambda: above.frames)
        assert good.open

    run(tmp_path, test)


def test_an_owner_that_refuses_a_frame_ends_the_connection(tmp_path: Path) -> None:
    async def main() -> None:
        above, below = End(), End()

        def refuse(link: Link, frames: list[Frame]) -> None:
            raise wire.RemoteProtocolError("not now")

        listener = Listener(LocalSocket(tmp_path / "link.sock"), refuse, above.on_lost)
        await listener.start()
        link = await connect(LocalSocket(tmp_path / "link.sock"), below.on_frames, below.on_lost)
        link.send(wire.frame(wire.END))
        await until(lambda: above.lost and below.lost)
        assert above.lost == ["not now"]
        await listener.close()

    asyncio.run(main())


def test_a_peer_that_closes_in_the_middle_of_a_frame(tmp_path: Path) -> None:
    async def test(path: Path, above: End, below: End) -> None:
        _, writer = await asyncio.open_unix_connection(str(path))
        writer.write(wire.frame(wire.END) + wire.frame(wire.HELLO, payload=b"x" * 100)[: HEADER_BYTES + 50])
        await until(lambda: above.frames)
        writer.close()
        await until(lambda: above.lost)
        assert (above.lost, len(above.frames)) == (["the peer closed the connection"], 1)

    run(tmp_path, test)


def test_what_was_queued_is_delivered_before_a_close(tmp_path: Path) -> None:
    async def test(path: Path, above: End, below: End) -> None:
        link = await connect(LocalSocket(path), below.on_frames, below.on_lost)
        link.send(wire.frame(wire.HELLO, payload=bytes(MAX_PAYLOAD)))
        link.close("done")
        await until(lambda: above.lost)
        assert [len(frame[6]) for frame in above.frames] == [MAX_PAYLOAD]

    run(tmp_path, test)


def test_a_peer_that_never_reads_is_given_up_at_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "MAX_UNSENT_BYTES", 1 << 20)

    async def test(path: Path, above: End, below: End) -> None:
        with socket.socket(socket.AF_UNIX) as silent:
            silent.setblocking(False)
            await asyncio.get_running_loop().sock_connect(silent, str(path))
            silent.send(wire.frame(wire.END))
            await until(lambda: above.links)
            (link,) = above.links
            sent_bytes = 0
            while link.open:
                link.send(wire.frame(wire.DATA, payload=bytes(1 << 18)))
                sent_bytes += 1 << 18
                assert sent_bytes < 64 << 20
                await asyncio.sleep(0)
            await until(lambda: above.lost)
            assert above.lost == ["the peer does not read"]
            assert sent_bytes > 1 << 20

    run(tmp_path, test)


# -- the listener


def test_the_socket_is_the_owners_alone_and_goes_with_the_listener(tmp_path: Path) -> None:
    async def test(path: Path, above: End, below: End) -> None:
        assert path.stat().st_mode & 0o777 == 0o600

    run(tmp_path, test)
    assert not (tmp_path / "link.sock").exists()


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "link.sock"))

    async def test(path: Path, above: End, below: End) -> None:
        link = await connect(LocalSocket(path), below.on_frames, below.on_lost)
        link.send(wire.frame(wire.END))
        await until(lambda: above.frames)

    run(tmp_path, test)


def test_a_live_one_is_a_conflict_and_lives_on(tmp_path: Path) -> None:
    async def test(path: Path, above: End, below: End) -> None:
        with pytest.raises(ConflictError, match="another appliance"):
            await Listener(LocalSocket(path), below.on_frames, below.on_lost).start()
        link = await connect(LocalSocket(path), below.on_frames, below.on_lost)
        link.send(wire.frame(wire.END))
        await until(lambda: above.frames)

    run(tmp_path, test)


def test_a_file_in_its_place_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "link.sock"
    path.write_text("precious")
    end = End()
    with pytest.raises(ConflictError, match="not a socket"):
        asyncio.run(Listener(LocalSocket(path), end.on_frames, end.on_lost).start())
    assert path.read_text() == "precious"


def test_nobody_there(tmp_path: Path) -> None:
    end = End()
    with pytest.raises(UnreachableError, match="no appliance answers"):
        asyncio.run(connect(LocalSocket(tmp_path / "none.sock"), end.on_frames, end.on_lost))


def test_a_listener_that_closes_ends_its_links(tmp_path: Path) -> None:
    below, above = End(), End()

    async def main() -> None:
        async with listening(tmp_path / "link.sock", above):
            link = await connect(LocalSocket(tmp_path / "link.sock"), below.on_frames, below.on_lost)
            link.send(wire.frame(wire.END))
            await until(lambda: above.frames)
        await until(lambda: below.lost)

    asyncio.run(main())
    assert (above.lost, below.lost) == (["the appliance stops"], ["the peer closed the connection"])
