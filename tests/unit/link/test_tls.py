"""Links between machines: real TLS on loopback, with certificates of a real authority."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import structlog.testing

from iscsi_rp.clock import utc_ns
from iscsi_rp.errors import ConflictError, Error, UnreachableError
from iscsi_rp.link import connection, tls
from iscsi_rp.link.connection import Link, Listener, connect
from iscsi_rp.link.credentials import Credentials
from iscsi_rp.link.pki import AUTHORITY, Authority, Identity, Role
from iscsi_rp.link.tls import PeerError, Tls
from iscsi_rp.replication import frames as wire
from iscsi_rp.replication.frames import MAX_PAYLOAD
from tests.unit.link.test_connection import End, until

ARRAY = Identity(Role.ARRAY, "array-1")
APPLIANCE = Identity(Role.APPLIANCE, "rpa-1")
DAY_NS = 86400 * 10**9


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return authority(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return authority(tmp_path_factory.mktemp("foreign"))


def authority(folder: Path) -> Path:
    made = Authority.create(folder, "site")
    for identity in (ARRAY, APPLIANCE):
        made.issue(identity)
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def client(folder: Path) -> ssl.SSLContext:
    """Of whoever is not as careful as we: it believes in the authority, and has no certificate yet."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(folder / AUTHORITY)
    return context


class Site:
    """An appliance that listens, and whatever connects to it."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self.above, self.below = End(), End()
        self.way = Tls("127.0.0.1", port, Credentials(folder, APPLIANCE))
        self._ways = [self.way]

    async def connect(self, folder: Path | None = None, identity: Identity = ARRAY) -> Link:
        way = Tls("127.0.0.1", self.port, Credentials(folder or self.folder, identity), APPLIANCE)
        self._ways.append(way)
        return await connect(way, self.below.on_frames, self.below.on_lost)

    async def refused(self, folder: Path, identity: Identity = ARRAY) -> str:
        """Try to speak; nothing of it arrives. What the appliance says of it."""
        with contextlib.suppress(Error):
            link = await self.connect(folder, identity)
            link.send(wire.frame(wire.END))
        await until(lambda: self.way.trouble)
        assert self.above.frames == []
        assert self.above.links == []
        return str(self.way.trouble)

    async def refused_as(self, context: ssl.SSLContext) -> str:
        """The same by a context that `Credentials` would not make."""
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", self.port, ssl=context, server_hostname=""
            )
            writer.write(wire.frame(wire.END))
            await reader.read()
            writer.close()
        await until(lambda: self.way.trouble)
        assert self.above.links == []
        return str(self.way.trouble)

    async def close(self) -> None:
        for way in self._ways:
            await way.close()


def run(folder: Path, test: Callable[[Site], Awaitable[None]]) -> None:
    async def main() -> None:
        async with listening(folder) as site:
            await test(site)

    asyncio.run(main())


@contextlib.asynccontextmanager
async def listening(folder: Path) -> AsyncIterator[Site]:
    site = Site(folder, free_port())
    listener = Listener(site.way, site.above.on_frames, site.above.on_lost)
    await listener.start()
    try:
        yield site
    finally:
        await listener.close()
        await site.close()


def test_frames_go_both_ways_and_each_side_knows_the_other(site: Path) -> None:
    async def test(at: Site) -> None:
        link = await at.connect()
        sizes = (0, 5, MAX_PAYLOAD, 3 << 20)
        for number, size in enumerate(sizes):
            link.send(wire.frame(wire.HELLO, sequence=number, payload=bytes([number]) * size))
        await until(lambda: len(at.above.frames) == len(sizes))
        assert [(frame[3], frame[6]) for frame in at.above.frames] == [
            (number, bytes([number]) * size) for number, size in enumerate(sizes)
        ]
        (there,) = at.above.links
        assert (there.identity, link.identity) == (ARRAY, APPLIANCE)
        there.send(wire.frame(wire.PROBE, a=7))
        await until(lambda: at.below.frames)
        assert at.way.trouble is None
        link.close("done")
        await until(lambda: at.above.lost and at.below.lost)

    run(site, test)


def test_what_comes_with_the_end_of_the_handshake_is_not_lost(site: Path) -> None:
    """The client may send before the other side has looked at its certificate."""

    async def test(at: Site) -> None:
        for number in range(30):
            link = await at.connect()
            link.send(wire.frame(wire.HELLO, sequence=number, payload=bytes(1000)))
            await until(lambda number=number: len(at.above.frames) == number + 1)  # type: ignore[misc]
            link.close("done")
        assert [frame[3] for frame in at.above.frames] == list(range(30))

    run(site, test)


def test_who_is_not_of_this_site_is_refused_and_others_go_on(site: Path, foreign: Path) -> None:
    async def test(at: Site) -> None:
        good = await at.connect()
        said = await at.refused(foreign)
        assert said.startswith(f"a connection from 127.0.0.1 to 127.0.0.1:{at.port} (TLS) was refused: ")
        good.send(wire.frame(wire.END))
        await until(lambda: at.above.frames)

    run(site, test)


@pytest.mark.parametrize(
    ("since_days", "days", "reason"), [(-40, 30, "certificate has expired"), (2, 30, "not yet valid")]
)
def test_a_certificate_counts_in_its_time_only(
    tmp_path: Path, since_days: int, days: int, reason: str
) -> None:
    made = Authority.open(authority(tmp_path))
    late = Identity(Role.ARRAY, "late")
    made.issue(late, days, now_ns=utc_ns() + since_days * DAY_NS)

    async def test(at: Site) -> None:
        assert reason in await at.refused(tmp_path, late)

    run(tmp_path, test)


def test_a_certificate_of_another_authority_is_refused_by_both(site: Path, foreign: Path) -> None:
    """Also of one that believes in ours."""
    context = client(site)
    context.load_cert_chain(foreign / ARRAY.file_name)

    async def test(at: Site) -> None:
        assert "does not hold" in await at.refused_as(context)
        with pytest.raises(PeerError, match="does not hold"):
            await at.connect(foreign)

    run(site, test)


def test_an_appliance_that_is_another_one_is_not_spoken_to(tmp_path: Path) -> None:
    made = Authority.open(authority(tmp_path))
    made.issue(Identity(Role.APPLIANCE, "rpa-2"))

    async def test(at: Site) -> None:
        for wanted in (Identity(Role.APPLIANCE, "rpa-2"), Identity(Role.ARRAY, "rpa-1")):
            way = Tls("127.0.0.1", at.port, Credentials(tmp_path, ARRAY), wanted)
            with pytest.raises(PeerError, match=f"is appliance rpa-1 and not {wanted}"):
                await connect(way, at.below.on_frames, at.below.on_lost)
            await way.close()
        assert at.below.links == []

    run(tmp_path, test)


def test_a_revocation_ends_what_stands_and_nothing_new_comes(tmp_path: Path) -> None:
    made = Authority.open(authority(tmp_path))
    other = Identity(Role.ARRAY, "array-2")
    made.issue(other)

    async def test(at: Site) -> None:
        link = await at.connect()
        made.revoke(ARRAY)
        await until(lambda: not link.open)
        assert "certificate revoked" in await at.refused(tmp_path)
        again = await at.connect(identity=other)
        again.send(wire.frame(wire.END))
        await until(lambda: at.above.frames)
        assert at.above.links[0].identity == other

    run(tmp_path, test)


def test_who_is_revoked_while_it_proves_itself_does_not_get_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "WATCH_S", 0.1)
    made = Authority.open(authority(tmp_path))

    async def test(at: Site) -> None:
        context = Credentials(tmp_path, ARRAY).context(server=False)
        sock = socket.create_connection(("127.0.0.1", at.port))
        sock.setblocking(False)
        await until(lambda: at.way._handshakes)
        await asyncio.sleep(0.3)  # by now the appliance has read its files
        made.revoke(ARRAY)
        await until(lambda: at.way._signature == Credentials(tmp_path, APPLIANCE).signature())
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection(sock=sock, ssl=context, server_hostname="")
            writer.write(wire.frame(wire.END))
            assert await asyncio.wait_for(reader.read(), 10) == b""
            writer.transport.abort()
        await until(lambda: not at.way._handshakes)
        assert at.above.links == []

    run(tmp_path, test)


def test_an_appliance_that_is_revoked_is_not_spoken_to(tmp_path: Path) -> None:
    made = Authority.open(authority(tmp_path))
    made.revoke(APPLIANCE)

    async def test(at: Site) -> None:
        with pytest.raises(PeerError, match="certificate revoked"):
            await at.connect()

    run(tmp_path, test)


@pytest.mark.parametrize(
    "plain", [b"GET / HTTP/1.1\r\n\r\n", wire.frame(wire.END), b"\x16\x03\x01\xff\xff" + bytes(99)]
)
def test_what_is_no_tls_is_refused(site: Path, plain: bytes) -> None:
    async def test(at: Site) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", at.port)
        writer.write(plain)
        with contextlib.suppress(ConnectionResetError):
            await reader.read()
        writer.close()
        await until(lambda: at.way.trouble)
        assert at.above.links == []

    run(site, test)


def test_an_older_tls_is_refused(site: Path) -> None:
    context = Credentials(site, ARRAY).context(server=False)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2

    async def test(at: Site) -> None:
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            await asyncio.open_connection("127.0.0.1", at.port, ssl=context, server_hostname="")
        await until(lambda: at.way.trouble)

    run(site, test)


def test_who_has_no_certificate_is_refused(site: Path) -> None:
    context = client(site)

    async def test(at: Site) -> None:
        assert "peer did not return a certificate" in await at.refused_as(context)

    run(site, test)


def test_a_certificate_of_ours_that_names_no_daemon_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Authority.create(tmp_path, "site")
    made.issue(APPLIANCE)
    with monkeypatch.context() as patch:
        patch.setattr(Identity, "uri", property(lambda _: "https://array-1.example"))
        made.issue(ARRAY)
    context = client(tmp_path)
    context.load_cert_chain(tmp_path / ARRAY.file_name)

    async def test(at: Site) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", at.port, ssl=context, server_hostname="")
        writer.write(wire.frame(wire.END))
        await until(lambda: at.way.trouble)
        assert "does not say who it is" in str(at.way.trouble)
        assert at.above.links == []
        writer.transport.abort()

    run(tmp_path, test)


def test_who_says_nothing_holds_up_nobody_and_is_let_go(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "HANDSHAKE_S", 1.0)
    monkeypatch.setattr(tls, "MAX_HANDSHAKES", 4)

    async def test(at: Site) -> None:
        silent = [await asyncio.open_connection("127.0.0.1", at.port) for _ in range(4)]
        one_more, writer = await asyncio.open_connection("127.0.0.1", at.port)
        with contextlib.suppress(ConnectionResetError):
            assert await asyncio.wait_for(one_more.read(), 0.5) == b""
        writer.close()
        assert "too many connections" in str(at.way.trouble)
        async with asyncio.timeout(10):
            for reader, each in silent:
                with contextlib.suppress(ConnectionResetError):
                    assert await reader.read() == b""
                each.close()
        good = await at.connect()
        good.send(wire.frame(wire.END))
        await until(lambda: at.above.frames)

    run(site, test)


def test_who_fills_the_places_keeps_out_nobody_at_another_address(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "MAX_HANDSHAKES", 4)

    async def test(at: Site) -> None:
        silent = [
            await asyncio.open_connection("127.0.0.1", at.port, local_addr=("127.0.0.2", 0)) for _ in range(4)
        ]
        await until(lambda: len(at.way._handshakes) == 4)
        good = await at.connect()
        good.send(wire.frame(wire.END))
        await until(lambda: at.above.frames)
        with contextlib.suppress(ConnectionResetError):
            assert await asyncio.wait_for(silent[0][0].read(), 1) == b""
        for _, writer in silent:
            writer.close()

    run(site, test)


def test_one_peer_has_so_many_links_and_no_more(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "MAX_LINKS", 2)

    async def test(at: Site) -> None:
        links = [await at.connect() for _ in range(3)]
        await until(lambda: at.way.trouble)
        assert "array array-1 has 2 links already" in str(at.way.trouble)
        await until(lambda: sum(link.open for link in links) == 2)
        next(link for link in links if link.open).close("it goes")
        await until(lambda: len(at.below.lost) == 2)
        again = await at.connect()
        again.send(wire.frame(wire.END))
        await until(lambda: at.above.frames)

    run(site, test)


def test_who_is_refused_a_thousand_times_does_not_fill_the_log(site: Path) -> None:
    async def test(at: Site) -> None:
        with structlog.testing.capture_logs() as logs:
            for number in range(40):
                reader, writer = await asyncio.open_connection("127.0.0.1", at.port)
                writer.write([b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + bytes(99)][number % 2])
                with contextlib.suppress(ConnectionResetError):
                    await reader.read()
                writer.close()
        assert 1 <= len([each for each in logs if each["event"] == "connection refused"]) <= 3

    run(site, test)


def test_nobody_there(site: Path) -> None:
    async def main() -> None:
        at = Site(site, free_port())
        with pytest.raises(UnreachableError, match="Connect"):
            await at.connect()
        await at.close()

    asyncio.run(main())


def test_a_port_that_is_taken(site: Path) -> None:
    async def test(at: Site) -> None:
        again = Site(site, at.port)
        with pytest.raises(ConflictError, match="cannot listen"):
            await Listener(again.way, at.above.on_frames, at.above.on_lost).start()
        await again.close()

    run(site, test)


def test_a_link_ends_with_its_peers_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "WATCH_S", 0.1)
    made = Authority.open(authority(tmp_path))
    short = Identity(Role.ARRAY, "short")
    made.issue(short, 1, now_ns=utc_ns() - DAY_NS + 4 * 10**9)

    async def test(at: Site) -> None:
        standing, ending = await at.connect(), await at.connect(identity=short)
        for link in (standing, ending):
            link.send(wire.frame(wire.END))
        await until(lambda: len(at.above.frames) == 2)
        await until(lambda: not ending.open)
        assert at.above.lost == ["the certificate of array short has expired"]
        assert standing.open

    run(tmp_path, test)


def test_a_link_that_never_says_what_it_is_for_ends(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "FIRST_FRAME_S", 0.3)

    async def test(at: Site) -> None:
        link = await at.connect()
        await until(lambda: not link.open and at.above.lost)  # each end sees it at its own time
        assert at.above.lost == ["it has not said what it is for"]

    run(site, test)
