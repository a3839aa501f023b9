"""The appliance's service over its real parts, in one process, with an array that only announces volumes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from iscsi_rp.appliance.catalogue import Catalogue
from iscsi_rp.appliance.service import Service
from iscsi_rp.control.models import GroupCreate
from iscsi_rp.errors import UsageError
from iscsi_rp.frontend import IscsiServer
from iscsi_rp.link.connection import connect
from iscsi_rp.replication import frames as wire
from iscsi_rp.replication.messages import Announce, VolumeInfo

MIB = 1 << 20
VOLUMES = [VolumeInfo(uuid=f"uuid-{name}", name=name, size=MIB, block_size=512) for name in ("data", "log")]


@asynccontextmanager
async def appliance(state: Path) -> AsyncIterator[Service]:
    """All of the daemon but its API and its portals."""
    catalogue = Catalogue.open(state / "catalogue.db")
    server = IscsiServer()
    service = Service("rpa-1", state, catalogue, server, state / "replication.sock")
    await service.start()
    await service.links.start()
    array = await connect(state / "replication.sock", lambda *_: None, lambda *_: None)
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
