"""The appliance's service over its real parts, in one process, with an array that only announces volumes."""

import asyncio
import fcntl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from iscsi_rp.appliance.catalogue import Catalogue
from iscsi_rp.appliance.service import Service
from iscsi_rp.control.appliance_models import GroupCreate
from iscsi_rp.errors import ConflictError, NotFoundError, UsageError
from iscsi_rp.frontend import IscsiServer
from iscsi_rp.link.connection import connect
from iscsi_rp.link.local import LocalSocket
from iscsi_rp.replication import frames as wire
from iscsi_rp.replication.messages import Announce, VolumeInfo

MIB = 1 << 20
VOLUMES = [VolumeInfo(uuid=f"uuid-{name}", name=name, size=MIB, block_size=512) for name in ("data", "log")]


@asynccontextmanager
async def appliance(state: Path) -> AsyncIterator[Service]:
    """All of the daemon but its API and its portals."""
    catalogue = Catalogue.open(state / "catalogue.db")
    server = IscsiServer()
    service = Service("rpa-1", state, catalogue, server, LocalSocket(state / "replication.sock"))
    await service.start()
    await service.links.start()
    array = await connect(LocalSocket(state / "replication.sock"), lambda *_: None, lambda *_: None)
    announce = Announce(array_id="array", name="array-1", volumes=VOLUMES)
    array.send(wire.frame(wire.ANNOUNCE, payload=announce.encode()))
    try:
        yield service
    finally:
        array.close("the array stops")
        await service.stop()
        await server.close(1.0)
        catalogue.close()


def create(name: str, journal_bytes: int = 16 * MIB, volume: str = "data") -> GroupCreate:
    return GroupCreate(name=name, volumes=[volume], journal_bytes=journal_bytes)


def test_a_journal_has_sixteen_segments_at_least(tmp_path: Path) -> None:
    async def test() -> None:
        async with appliance(tmp_path) as service:
            with pytest.raises(UsageError, match=r"of 16 MiB is too small .* 16 MiB at least") as caught:
                await service.create_group(create("db", 16 * MIB - 1))
            assert "--journal" in str(caught.value.hint)
            assert await service.list_groups() == []
            assert not (tmp_path / "groups").exists()
            assert not (tmp_path / "copies").exists()
            made = await service.create_group(create("db", 16 * MIB))
            assert made.journal_bytes_capacity == 16 * made.journal_bytes_used

    asyncio.run(test())


def test_what_a_deleted_group_left_is_listed_and_removed_at_last(tmp_path: Path) -> None:
    async def test() -> None:
        async with appliance(tmp_path) as service:
            await service.create_group(create("db"))
            left = await service.delete_group("db", destroy=False)
            assert left is not None
            assert left.journal.parent == tmp_path / "groups"
            assert left.copies == [tmp_path / "copies" / "db" / "data.img"]
            assert left.allocated_bytes >= MIB
            assert await service.list_groups() == []
        async with appliance(tmp_path) as service:
            assert await service.list_deleted_groups() == [left]
            for attempt in (service.create_group(create("db")), service.delete_group("db", destroy=False)):
                with pytest.raises(ConflictError, match="was deleted") as caught:
                    await attempt
                assert "`iscsi-rp group delete db --destroy`" in str(caught.value.hint)
            assert await service.delete_group("db", destroy=True) is None
            assert await service.list_deleted_groups() == []
            assert not left.journal.exists()
            assert not left.copies[0].parent.exists()
            with pytest.raises(NotFoundError):
                await service.delete_group("db", destroy=True)
            await service.create_group(create("db"))

    asyncio.run(test())


def test_a_deleted_group_has_no_claim_to_its_volumes(tmp_path: Path) -> None:
    async def test() -> None:
        async with appliance(tmp_path) as service:
            await service.create_group(create("db"))
            await service.delete_group("db", destroy=False)
            await service.create_group(create("other"))
            await service.delete_group("db", destroy=True)
            assert [group.name for group in await service.list_groups()] == ["other"]
            assert (tmp_path / "copies" / "other" / "data.img").exists()

    asyncio.run(test())


def test_a_copy_that_is_served_as_a_volume_is_not_removed_with_its_group(tmp_path: Path) -> None:
    async def test() -> None:
        async with appliance(tmp_path) as service:
            await service.create_group(create("db"))
            left = await service.delete_group("db", destroy=False)
            assert left is not None
            with left.copies[0].open("r+b") as served:
                fcntl.flock(served, fcntl.LOCK_EX)
                with pytest.raises(ConflictError, match=r"data\.img is in use"):
                    await service.delete_group("db", destroy=True)
            assert left.journal.exists()
            assert await service.list_deleted_groups() == [left]

    asyncio.run(test())


def test_a_group_that_is_not_made_leaves_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        async with appliance(tmp_path) as service:
            (tmp_path / "copies" / "db").mkdir(parents=True)
            (tmp_path / "copies" / "db" / "data.img").write_bytes(b"mine")
            with pytest.raises(ConflictError, match=r"data\.img: File exists"):
                await service.create_group(create("db"))
            assert (tmp_path / "copies" / "db" / "data.img").read_bytes() == b"mine"
            assert not list(tmp_path.glob("groups/*"))
            assert await service.list_deleted_groups() == []

    asyncio.run(test())
