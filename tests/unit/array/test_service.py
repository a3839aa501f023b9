"""The array's service over its real parts, in one process: what it refuses, and what changes when."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from iscsi_rp.array import initiators as initiators_module
from iscsi_rp.array import kernel
from iscsi_rp.array.catalogue import Catalogue, VolumeRow
from iscsi_rp.array.front_ends import FrontEnds
from iscsi_rp.array.initiators import Initiators
from iscsi_rp.array.protection import Protection
from iscsi_rp.array.service import Service
from iscsi_rp.array.space import SpaceWatch
from iscsi_rp.array.volumes import ServedVolume
from iscsi_rp.control.access_models import (
    AccessChange,
    AccessMode,
    Authentication,
    ChapCredentials,
    InitiatorChange,
    InitiatorCreate,
    ShownVolume,
)
from iscsi_rp.control.array_models import (
    FrontEnd,
    Portal,
    Processor,
    VolumeChange,
    VolumeCreate,
    VolumeKind,
    VolumeMove,
)
from iscsi_rp.control.config import LioConfig
from iscsi_rp.device import WRITE, BlockDevice, Done, Io
from iscsi_rp.errors import ConflictError, NotFoundError, UsageError
from iscsi_rp.frontend import IscsiServer
from iscsi_rp.frontend.lio import LioError, LioUnsupportedError
from iscsi_rp.iscsi.access import Access
from iscsi_rp.link.local import LocalSocket
from iscsi_rp.scsi.medium import Work
from tests.kit.initiator import Initiator, InitiatorError

IQN = "iqn.2026-11.io.iscsi-rp:service"
VMWARE = "iqn.1998-01.com.vmware:esx"
HOST, OTHER = "iqn.2026-11.test:host", "iqn.2026-11.test:other"
SIZE = 1 << 20


class Array:
    """Everything of the daemon but its API and its processes."""

    def __init__(self, state: Path) -> None:
        self.catalogue = Catalogue.open(state / "catalogue.db")
        self.volumes: dict[str, ServedVolume] = {}
        self.protection = Protection(
            self.catalogue, self.volumes, LocalSocket(state / "none.sock"), "array-1", 1.5
        )
        self.server = IscsiServer()
        self.server.add_target(IQN, {})
        self.initiators = Initiators(self.catalogue, self.server, self.volumes)
        self.front_ends = FrontEnds(
            self.server, IQN, LioConfig(), self.volumes, self.catalogue, self.initiators
        )
        self.service = Service(
            "array-1",
            IQN,
            state,
            self.catalogue,
            self.server,
            self.volumes,
            self.protection,
            SpaceWatch(self.volumes, 10.0),
            self.initiators,
            self.front_ends,
            lambda row: self._serve(row, state),
        )
        self.service.portals.append(Portal(address="127.0.0.1:3260", processor=Processor.A))

    def _serve(self, row: VolumeRow, state: Path) -> ServedVolume:
        return ServedVolume(row, state / "maps")

    async def create(self, *names: str, **options: Any) -> None:
        for name in names:
            request = {"name": name, "size_bytes": SIZE, "kind": VolumeKind.MEMORY, **options}
            await self.service.create_volume(VolumeCreate.model_validate(request))

    async def close(self) -> None:
        await self.service.stop()
        await self.server.close(1.0)
        self.catalogue.close()


def run(state: Path, test: Callable[[Array], Awaitable[None]]) -> None:
    async def main() -> None:
        array = Array(state)
        try:
            await test(array)
        finally:
            await array.close()

    asyncio.run(main())


def shown(*pairs: tuple[str, int | None]) -> list[ShownVolume]:
    return [ShownVolume(volume=volume, lun=lun) for volume, lun in pairs]


def test_a_volume_grows_only_within_reason(tmp_path: Path) -> None:
    async def test(array: Array) -> None:
        await array.create("data")
        change = array.service.change_volume
        for size, error, reason in (
            (SIZE, ConflictError, "already"),
            (SIZE - 512, ConflictError, "can only grow"),
            (SIZE + 511, UsageError, "multiple of the block size"),
        ):
            with pytest.raises(error, match=reason):
                await change("data", VolumeChange(size_bytes=size))
        with pytest.raises(ConflictError, match="storage processor B has no portal"):
            await change("data", VolumeChange(owner=Processor.B))
        with pytest.raises(ConflictError, match="storage processor B has no portal"):
            await array.create("other", owner=Processor.B)
        assert (await change("data", VolumeChange(size_bytes=SIZE + 512))).size_bytes == SIZE + 512

    run(tmp_path, test)


def test_a_path_is_a_file_or_a_block_device_and_what_it_was_called(tmp_path: Path) -> None:
    file = tmp_path / "disk.img"
    file.write_bytes(bytes(SIZE))
    os.mkfifo(tmp_path / "fifo")

    async def test(array: Array) -> None:
        for path, kind, reason in (
            (tmp_path, VolumeKind.FILE, "neither a file nor a block device"),
            (tmp_path / "fifo", VolumeKind.FILE, "neither a file nor a block device"),
            (file, VolumeKind.BLOCK, "is not a block device"),
        ):
            with pytest.raises(ConflictError, match=reason):
                await array.create("data", kind=kind, path=path, size_bytes=None)
        await array.create("data", kind=VolumeKind.FILE, path=file, size_bytes=None)

    run(tmp_path, test)


def test_a_volume_does_not_grow_while_it_is_being_attached(tmp_path: Path) -> None:
    async def test(array: Array) -> None:
        await array.create("data")
        (volume,) = array.volumes.values()
        async with array.protection.changing:
            growing = asyncio.create_task(
                array.service.change_volume("data", VolumeChange(size_bytes=2 * SIZE))
            )
            await asyncio.sleep(0.05)
            volume.group = "db"
        with pytest.raises(ConflictError, match="is in group 'db'"):
            await growing
        assert volume.joint.size == SIZE

    run(tmp_path, test)


def test_a_volume_is_not_deleted_while_it_is_being_attached(tmp_path: Path) -> None:
    async def test(array: Array) -> None:
        await array.create("data")
        (volume,) = array.volumes.values()
        async with array.protection.changing:
            deleting = asyncio.create_task(array.service.delete_volume("data", destroy=False, force=False))
            await asyncio.sleep(0.05)
            volume.group = "db"
        with pytest.raises(ConflictError, match="is in group 'db'"):
            await deleting
        assert list(array.volumes.values()) == [volume]

    run(tmp_path, test)


def test_a_deleted_volume_gives_its_store_back_whatever_a_front_end_refuses(tmp_path: Path) -> None:
    async def refuse(access: Access) -> None:
        raise LioError("no")

    async def test(array: Array) -> None:
        await array.create("data", kind=VolumeKind.FILE)
        (volume,) = array.volumes.values()
        array.initiators.enforced = refuse
        with pytest.raises(LioError):
            await array.service.delete_volume("data", destroy=True, force=False)
        assert array.volumes == {}
        assert volume.row.path is not None
        assert not volume.row.path.exists()
        await array.create("data", kind=VolumeKind.FILE)

    run(tmp_path, test)


class Kernel:
    """The kernel's front end where there is no LIO."""

    def __init__(self, told: list[Access]) -> None:
        self._told = told

    def check_access(self, access: Access) -> None:
        pass

    async def set_access(self, access: Access) -> None:
        self._told.append(access)

    async def show(self, volume: ServedVolume) -> None:
        pass

    async def close(self, grace_s: float) -> None:
        pass


def test_rules_that_change_while_the_kernels_front_end_starts_reach_it(tmp_path: Path) -> None:
    told: list[Access] = []

    async def test(array: Array) -> None:
        async with array.front_ends._starting:
            adding = asyncio.create_task(array.initiators.add(InitiatorCreate(name=HOST)))
            await asyncio.sleep(0.05)
            array.front_ends._kernel = Kernel(told)  # type: ignore[assignment]
        await adding
        assert [list(access.initiators) for access in told] == [[HOST]]

    run(tmp_path, test)


def test_what_lio_cannot_have_is_not_listed(tmp_path: Path) -> None:
    """It would keep every later change from LIO: an initiator that is removed would go on being let in."""

    async def test(array: Array) -> None:
        await array.create("data")
        (volume,) = array.volumes.values()
        await array.initiators.add(InitiatorCreate(name=VMWARE))
        volume.row = replace(volume.row, front_end=FrontEnd.LIO)
        lio = LioConfig.model_validate({"portals": ["127.0.0.1:3262"]})
        array.front_ends._kernel = kernel.Kernel(lio, array.volumes, array.catalogue, array.initiators.access)
        chap = ChapCredentials(user="host", secret=SecretStr("NULL secret word"))
        for change in (
            array.initiators.add(InitiatorCreate(name=f"{VMWARE}_2")),
            array.initiators.change(VMWARE, InitiatorChange(authentication=Authentication(chap=chap))),
        ):
            with pytest.raises(LioUnsupportedError):
                await change
        (listed,) = await array.initiators.list()
        assert (listed.name, listed.chap_user) == (VMWARE, None)

    run(tmp_path, test)


def test_a_mask_names_volumes_that_are_there_each_once(tmp_path: Path) -> None:
    async def test(array: Array) -> None:
        await array.create("a", "b")
        await array.initiators.add(InitiatorCreate(name=HOST, luns=shown(("b", None))))
        for luns, error, reason in (
            (shown(("a", 1), ("b", None)), ConflictError, "LUN 1 is given twice"),
            (shown(("a", 1), ("a", 2)), ConflictError, "'a' is given twice"),
            (shown(("c", 1)), NotFoundError, "'c'"),
        ):
            with pytest.raises(error, match=reason):
                await array.initiators.change(HOST, InitiatorChange(luns=luns))
        assert array.initiators.shown_to(HOST) == {1: "b"}
        await array.service.delete_volume("b", destroy=False, force=False)
        assert array.initiators.shown_to(HOST) == {}
        await array.create("c")  # it has the LUN that b had, and nobody allowed it
        assert array.initiators.shown_to(HOST) == {}
        assert array.initiators.shown_to(OTHER) == {0: "a", 1: "c"}

    run(tmp_path, test)


def test_how_many_are_listed_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(initiators_module, "MAX_INITIATORS", 1)

    async def test(array: Array) -> None:
        await array.initiators.add(InitiatorCreate(name=HOST))
        with pytest.raises(ConflictError, match="no more"):
            await array.initiators.add(InitiatorCreate(name=OTHER))

    run(tmp_path, test)


def test_a_volume_is_deleted_while_only_others_are_logged_in(tmp_path: Path) -> None:
    async def test(array: Array) -> None:
        await array.create("used", "unused")
        await array.initiators.add(InitiatorCreate(name=HOST, luns=shown(("used", 0))))
        host, port = await array.server.listen("127.0.0.1", 0)
        with await asyncio.to_thread(Initiator, f"{host}:{port}", IQN, name=HOST) as session:
            with pytest.raises(ConflictError, match=HOST):
                await array.service.delete_volume("used", destroy=False, force=False)
            await array.service.delete_volume("unused", destroy=False, force=False)
            await array.service.delete_volume("used", destroy=False, force=True)
            await asyncio.to_thread(session.close)
        assert array.volumes == {}

    run(tmp_path, test)


class Held:
    """A device that does not get to its writes before it is told to."""

    def __init__(self, below: BlockDevice) -> None:
        self.below = below
        self.size, self.block_size, self.read_only = below.size, below.block_size, False
        self.writes: list[tuple[list[Io], Done]] = []

    def submit(self, batch: Sequence[Io], done: Done) -> None:
        if any(io[0] == WRITE for io in batch):
            self.writes.append(([(*io[:3], bytes(io[3] or b""), *io[4:]) for io in batch], done))
        else:
            self.below.submit(batch, done)

    def go_on(self) -> None:
        for batch, done in self.writes:
            self.below.submit(batch, done)


def test_a_volume_goes_when_the_writes_that_are_under_way_have_ended(tmp_path: Path) -> None:
    async def test(array: Array) -> None:
        await array.create("data")
        (volume,) = array.volumes.values()
        held = Held(volume.store)
        await volume.exchanged(held)
        host, port = await array.server.listen("127.0.0.1", 0)
        with await asyncio.to_thread(Initiator, f"{host}:{port}", IQN, name=HOST) as session:
            session.submit_write(0, 0, bytes(512), lambda data, status: None)
            while not held.writes:
                await asyncio.to_thread(session.poll, 0.1)
            deleting = asyncio.create_task(array.service.delete_volume("data", destroy=False, force=True))
            await asyncio.sleep(0.2)
            assert not deleting.done()
            held.go_on()
            await deleting
            await asyncio.to_thread(session.close)

    run(tmp_path, test)


def test_a_volume_stays_where_it_is_while_it_is_formatted(tmp_path: Path) -> None:
    """The old logical unit would clear blocks that hosts write by the new one."""

    async def test(array: Array) -> None:
        await array.create("data")
        (volume,) = array.volumes.values()
        array.front_ends._kernel = Kernel([])  # type: ignore[assignment]
        unit = volume.unit
        unit.medium.working = Work.FORMAT  # a host began between the question and the move
        with pytest.raises(ConflictError, match="being formatted"):
            await array.front_ends.move(volume, FrontEnd.LIO)
        assert volume.row.front_end is FrontEnd.EMBEDDED
        assert volume.unit is unit
        assert array.server._node.target(IQN).luns == {volume.row.lun: unit}

    run(tmp_path, test)


def test_status_has_the_logins_that_were_refused(tmp_path: Path) -> None:
    async def test(array: Array) -> None:
        await array.create("data")
        host, port = await array.server.listen("127.0.0.1", 0)
        await array.initiators.set_rules(AccessChange(mode=AccessMode.LISTED))
        with pytest.raises(InitiatorError):
            await asyncio.to_thread(Initiator, f"{host}:{port}", IQN, name=HOST)
        told = (await array.service.status()).refused_logins
        assert told.by_reason["authorization failure"] == len(told.last) == 1
        assert (told.last[0].initiator, told.last[0].reason) == (HOST, "authorization failure")
        assert told.last[0].peer.startswith("127.0.0.1:")

    run(tmp_path, test)


def test_without_the_packages_for_lio_it_says_which_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "iscsi_rp.array.kernel", None)

    async def test(array: Array) -> None:
        with pytest.raises(ConflictError, match="package for the kernel's target") as refused:
            await array.create("data", front_end=FrontEnd.LIO)
        assert refused.value.hint is not None
        assert "iscsi-rp[lio]" in refused.value.hint
        assert array.catalogue.volumes() == []
        await array.create("data")
        with pytest.raises(ConflictError, match="package for the kernel's target"):
            await array.service.move_volume("data", VolumeMove(front_end=FrontEnd.LOCAL))
        (volume,) = await array.service.list_volumes()
        assert volume.front_end is FrontEnd.EMBEDDED

    run(tmp_path, test)
