"""Who may speak for an array: links over real TLS, with certificates of one authority."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from iscsi_rp.appliance.catalogue import Catalogue
from iscsi_rp.appliance.receiver import MAX_PROCESSORS
from iscsi_rp.appliance.service import Service
from iscsi_rp.errors import NotFoundError
from iscsi_rp.frontend import IscsiServer
from iscsi_rp.link.connection import Link, connect
from iscsi_rp.link.credentials import Credentials
from iscsi_rp.link.pki import Authority, Identity, Role
from iscsi_rp.link.tls import Tls
from iscsi_rp.replication import frames as wire
from iscsi_rp.replication.messages import Alert, Announce, Groups, Hello, Welcome, parse
from tests.unit.appliance.test_service import VOLUMES, create
from tests.unit.link.test_connection import End, until
from tests.unit.link.test_tls import free_port

RPA = Identity(Role.APPLIANCE, "rpa-1")
MINE = Identity(Role.ARRAY, "array-1")
OTHER = Identity(Role.ARRAY, "array-2")


class Site:
    def __init__(self, folder: Path, service: Service, port: int) -> None:
        self.service = service
        self._folder, self._port = folder, port
        self._ways: list[Tls] = []

    async def link(self, identity: Identity) -> tuple[Link, End]:
        way = Tls("127.0.0.1", self._port, Credentials(self._folder, identity), RPA)
        self._ways.append(way)
        end = End()
        return await connect(way, end.on_frames, end.on_lost), end

    async def announce(self, identity: Identity, array_id: str, name: str) -> End:
        link, end = await self.link(identity)
        message = Announce(array_id=array_id, name=name, volumes=VOLUMES)
        link.send(wire.frame(wire.ANNOUNCE, payload=message.encode()))
        await until(lambda: end.frames)
        return end

    async def hello(self, identity: Identity, array_id: str, processor: str = "sp-a") -> End:
        """For the group that there is."""
        (group,) = self.service.groups.values()
        link, end = await self.link(identity)
        message = Hello(
            array_id=array_id,
            processor=processor if "/" in processor else f"{array_id}/{processor}",
            group=group.row.group_id,
            fresh=True,
            volumes=VOLUMES[:1],
        )
        link.send(wire.frame(wire.HELLO, payload=message.encode()))
        await until(lambda: end.frames)
        return end

    async def close(self) -> None:
        for way in self._ways:
            await way.close()


@asynccontextmanager
async def site(folder: Path) -> AsyncIterator[Site]:
    """An appliance with a group of array-1, whose id is `id-1`."""
    authority = Authority.create(folder / "pki", "site")
    for identity in (RPA, MINE, OTHER):
        authority.issue(identity)
    catalogue = Catalogue.open(folder / "catalogue.db")
    server = IscsiServer()
    port = free_port()
    way = Tls("127.0.0.1", port, Credentials(folder / "pki", RPA))
    service = Service("rpa-1", folder, catalogue, server, way)
    await service.start()
    await service.links.start()
    at = Site(folder / "pki", service, port)
    try:
        await at.announce(MINE, "id-1", "array-1")
        await service.create_group(create("db"))
        yield at
    finally:
        await at.close()
        await service.stop()
        await server.close(1.0)
        catalogue.close()


def refusal(end: End) -> str:
    (frame,) = end.frames
    assert frame[0] == wire.REFUSED
    return parse(Alert, frame[6]).text


def test_an_array_speaks_for_itself_and_for_no_other(tmp_path: Path) -> None:
    async def test() -> None:
        async with site(tmp_path) as at:
            assert at.service.links.arrays == ["array-1"]
            said = refusal(await at.announce(OTHER, "id-1", "array-1"))
            assert said == "array array-2 speaks for array array-1"
            assert at.service.links.arrays == ["array-1"]
            assert said in (await at.service.status()).alerts[0].text

    asyncio.run(test())


def test_an_appliance_is_no_array(tmp_path: Path) -> None:
    async def test() -> None:
        async with site(tmp_path) as at:
            said = refusal(await at.announce(RPA, "id-9", "rpa-1"))
            assert said == "appliance rpa-1 speaks for array rpa-1"

    asyncio.run(test())


def test_a_group_takes_writes_of_its_own_array_only(tmp_path: Path) -> None:
    async def test() -> None:
        async with site(tmp_path) as at:
            for array_id in ("id-1", "id-2"):
                assert refusal(await at.hello(OTHER, array_id)) == "array array-2 speaks for array array-1"
            assert refusal(await at.hello(MINE, "id-2")) == "the group is another array's"
            assert refusal(await at.hello(MINE, "id-1", "id-2/sp-a")).startswith("id-2/sp-a is not a storage")
            assert at.service.groups["db"].receiver.sessions == {}
            welcomed = await at.hello(MINE, "id-1")
            await until(lambda: welcomed.frames[-1][0] == wire.WELCOME)
            assert parse(Welcome, welcomed.frames[-1][6]).full_sweep

    asyncio.run(test())


def test_an_array_is_told_of_its_own_groups_only(tmp_path: Path) -> None:
    async def test() -> None:
        async with site(tmp_path) as at:
            mine = await at.announce(MINE, "id-1", "array-1")
            assert [group.name for group in parse(Groups, mine.frames[0][6]).groups] == ["db"]
            other = await at.announce(OTHER, "id-2", "array-2")
            assert parse(Groups, other.frames[0][6]).groups == []

    asyncio.run(test())


def test_an_id_with_groups_stays_with_its_array(tmp_path: Path) -> None:
    """Also while that is away: another one can neither keep it out, nor is one that was given a new name told
    that it has no groups, for it would detach them.
    """

    async def test() -> None:
        async with site(tmp_path) as at:
            mine = await at.announce(MINE, "id-1", "array-1")
            said = refusal(await at.announce(OTHER, "id-1", "array-2"))
            assert said == "array array-2 has the id of array array-1"
            assert mine.lost == []
            mine.links[0].close("it goes")
            await until(lambda: not at.service.links.arrays)
            assert refusal(await at.announce(OTHER, "id-1", "array-2")) == said
            again = await at.announce(MINE, "id-1", "array-1")
            assert [group.name for group in parse(Groups, again.frames[0][6]).groups] == ["db"]

    asyncio.run(test())


def test_an_id_without_groups_is_of_whoever_is_connected_with_it(tmp_path: Path) -> None:
    async def test() -> None:
        async with site(tmp_path) as at:
            first = await at.announce(OTHER, "id-2", "array-2")
            assert (
                refusal(await at.announce(MINE, "id-2", "array-1"))
                == "array array-1 has the id of array array-2"
            )
            assert first.lost == []

    asyncio.run(test())


def test_nothing_behind_a_refused_frame_counts(tmp_path: Path) -> None:
    async def test() -> None:
        async with site(tmp_path) as at:
            (group,) = at.service.groups.values()
            link, end = await at.link(MINE)
            bad = Announce(array_id="id-9", name="array-2", volumes=[])
            hello = Hello(
                array_id="id-1",
                processor="id-1/sp-a",
                group=group.row.group_id,
                fresh=True,
                volumes=VOLUMES[:1],
            )
            link.send(
                wire.frame(wire.ANNOUNCE, payload=bad.encode())
                + wire.frame(wire.HELLO, payload=hello.encode())
            )
            await until(lambda: end.lost)
            assert refusal(end) == "array array-1 speaks for array array-2"
            assert group.receiver.state.last_session == 0

    asyncio.run(test())


def test_a_group_has_so_many_storage_processors_and_no_more(tmp_path: Path) -> None:
    async def test() -> None:
        async with site(tmp_path) as at:
            for number in range(MAX_PROCESSORS):
                welcomed = await at.hello(MINE, "id-1", f"sp-{number}")
                await until(lambda end=welcomed: end.frames[-1][0] == wire.WELCOME)  # type: ignore[misc]
            assert "4 storage processors already" in refusal(await at.hello(MINE, "id-1", "sp-x"))
            again = await at.hello(MINE, "id-1", "sp-0")
            await until(lambda: again.frames[-1][0] == wire.WELCOME)

    asyncio.run(test())


def test_of_announcements_that_come_at_once_the_last_counts(tmp_path: Path) -> None:
    async def test() -> None:
        async with site(tmp_path) as at:
            link, end = await at.link(MINE)
            frames = [
                wire.frame(
                    wire.ANNOUNCE,
                    payload=Announce(array_id="id-1", name="array-1", volumes=VOLUMES[:count]).encode(),
                )
                for count in (2, 0, 1)
            ]
            link.send(b"".join(frames))
            await until(lambda: end.frames)
            await asyncio.sleep(0.1)
            assert len(end.frames) == 1
            assert at.service.links.find_volume("data")[0].volumes == VOLUMES[:1]
            with pytest.raises(NotFoundError):
                at.service.links.find_volume("log")

    asyncio.run(test())
