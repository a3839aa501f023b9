"""The groups that an array is attached to: their splitters and sessions, and what the appliance says about
them.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import structlog

from iscsi_rp.array.catalogue import Attachment, AttachmentState, Catalogue
from iscsi_rp.array.session import RETRY_S, GroupSession
from iscsi_rp.array.volumes import ServedVolume
from iscsi_rp.control.array_models import VolumeKind
from iscsi_rp.errors import ConflictError, Error
from iscsi_rp.link.connection import Link, Way, connect
from iscsi_rp.replication import frames as wire
from iscsi_rp.replication.messages import Alert, Announce, GroupInfo, Groups, Hello, VolumeInfo, parse
from iscsi_rp.splitter.group import GroupSplitter, Volume, load_maps
from iscsi_rp.splitter.map_file import MapFile

PROCESSOR: Final = "sp-a"
"The array's only storage processor so far."
RESTORING: Final = "production is being restored to an image"

_log = structlog.get_logger(__name__)


class ProtectedGroup:
    """One attachment: a splitter under its volumes, and the session that it keeps with the appliance."""

    def __init__(
        self, attachment: Attachment, volumes: Sequence[ServedVolume], splitter: GroupSplitter
    ) -> None:
        self.attachment = attachment
        self.volumes = volumes
        self.splitter = splitter
        self.session: GroupSession | None = None
        self.state_lock = asyncio.Lock()

    @property
    def restoring(self) -> bool:
        return self.splitter.devices[0].blocked is not None

    def set_blocked(self, reason: str | None) -> None:
        for device in self.splitter.devices:
            device.blocked = reason


class Protection:
    """All attachments of an array, kept as the appliance wants them."""

    def __init__(
        self,
        catalogue: Catalogue,
        volumes: Mapping[str, ServedVolume],
        way: Way,
        name: str,
        split_timeout_s: float,
    ) -> None:
        """`volumes` are by UUID, and change while this lives."""
        self._catalogue = catalogue
        self._volumes = volumes
        self.way = way
        self._name = name
        self._split_timeout_s = split_timeout_s
        self.groups: dict[str, ProtectedGroup] = {}
        "By group id."
        self.appliance: str | None = None
        "Name of the appliance that is connected."
        self.link_error: str | None = None
        "Why none is."
        self.conflicts: dict[str, str] = {}
        "Group name to why it could not be attached."
        self._link: Link | None = None
        self._lost = asyncio.Event()
        self._heard = False
        "The appliance has answered on this link."
        self.changing = asyncio.Lock()
        "Held while groups are attached or detached, and by whoever needs that none is."
        self._tasks: set[asyncio.Task[None]] = set()
        self._runner: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Splitters of all attachments first: no write may pass unsplit. Then sessions, and the
        appliance's wishes.
        """
        for attachment in self._catalogue.attachments():
            try:
                await self._protect(attachment)
            except (Error, OSError) as error:
                self.conflicts[attachment.group_name] = str(error)
                _log.error("cannot protect", group=attachment.group_name, reason=str(error))
                for uuid in attachment.volumes:  # rather no service than a write that is not split
                    await self._volumes[uuid].take_offline(f"its group cannot be protected: {error}")
        self._runner = asyncio.create_task(self._run(), name="management-link")

    async def stop(self) -> None:
        if self._runner is not None:
            self._runner.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._runner
        if self._link is not None:
            self._link.close("the array stops")
        for task in list(self._tasks):
            task.cancel()
        for group in self.groups.values():
            if group.session is not None:
                await group.session.stop()
            await group.splitter.close()

    # -- the management connection

    async def _run(self) -> None:
        attempt = 0
        while True:
            try:
                self._link = await connect(self.way, self._frames, self._on_lost)
            except Error as error:
                self.link_error = error.message
            else:
                self._lost.clear()
                self._heard = False
                self.announce()
                await self._lost.wait()
                if self._heard:
                    attempt = 0
            await asyncio.sleep(RETRY_S[min(attempt, len(RETRY_S) - 1)])
            attempt += 1

    def announce(self) -> None:
        """Tell the appliance which volumes there are."""
        if self._link is None:
            return
        volumes = [
            VolumeInfo(uuid=row.uuid, name=row.name, size=row.size_bytes, block_size=row.block_size)
            for row in (volume.row for volume in self._volumes.values())
        ]
        announce = Announce(array_id=self._catalogue.array_id, name=self._name, volumes=volumes)
        self._link.send(wire.frame(wire.ANNOUNCE, payload=announce.encode()))

    def _on_lost(self, link: Link, reason: str) -> None:
        if link is self._link:
            self._link = None
            self.appliance = None
            self.link_error = reason
            self._lost.set()

    def _frames(self, link: Link, frames: Sequence[wire.Frame]) -> None:
        for frame in frames:
            if frame[0] == wire.REFUSED:
                link.close(f"the appliance refuses: {parse(Alert, frame[6]).text}")
                return
            if frame[0] != wire.GROUPS:
                raise wire.RemoteProtocolError(f"a frame of type {frame[0]} on a management connection")
            groups = parse(Groups, frame[6])
            self._heard = True
            self.link_error = None
            self.appliance = groups.name
            task = asyncio.create_task(self._reconcile(groups))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    # -- attaching and detaching

    async def _reconcile(self, wanted: Groups) -> None:
        """Attach what the appliance lists and we do not know, detach what it no longer lists."""
        async with self.changing:
            listed = {group.id for group in wanted.groups}
            for group in list(self.groups.values()):
                if (
                    group.attachment.cluster_id == wanted.cluster_id
                    and group.attachment.group_id not in listed
                ):
                    await self._detach(group)
            for info in wanted.groups:
                if info.id in self.groups:
                    continue
                try:
                    await self._attach(wanted.cluster_id, info)
                    self.conflicts.pop(info.name, None)
                except (Error, OSError) as error:
                    self.conflicts[info.name] = str(error)
                    _log.error("cannot attach", group=info.name, reason=str(error))

    async def _attach(self, cluster_id: str, info: GroupInfo) -> None:
        if missing := [uuid for uuid in info.volumes if uuid not in self._volumes]:
            raise ConflictError(f"group {info.name!r} wants volumes that this array does not have: {missing}")
        attachment = Attachment(info.id, info.name, cluster_id, tuple(info.volumes))
        await asyncio.to_thread(self._catalogue.attach, attachment)
        try:
            await self._protect(attachment)
        except (Error, OSError):
            await asyncio.to_thread(self._catalogue.detach, attachment.group_id)
            raise
        _log.info("attached", group=info.name, cluster=cluster_id)

    async def _protect(self, attachment: Attachment) -> None:
        """Put a splitter under the group's volumes and keep a session."""
        served = [self._volumes[uuid] for uuid in attachment.volumes]
        volumes = [self._split_volume(volume) for volume in served]
        maps, reasons = await asyncio.to_thread(load_maps, volumes)
        for reason in reasons:
            _log.warning("full sweep due", group=attachment.group_name, reason=reason)
        splitter = GroupSplitter(
            attachment.group_name, volumes, maps, self._split_timeout_s, self._sweep_orderer(attachment)
        )
        group = ProtectedGroup(attachment, served, splitter)
        if attachment.state is AttachmentState.RESTORING:
            group.set_blocked(RESTORING)
        self.groups[attachment.group_id] = group
        for volume, device in zip(served, splitter.devices, strict=True):
            volume.group = attachment.group_name
            await volume.exchanged(device)
        group.session = GroupSession(
            splitter,
            self.way,
            self._hello_maker(attachment),
            lambda position: self._block(group, position),
            lambda: self._unblock(group),
        )

    def _split_volume(self, volume: ServedVolume) -> Volume:
        row = volume.row
        path = volume.map_path
        if row.kind is VolumeKind.MEMORY:
            path.unlink(
                missing_ok=True
            )  # it has lost its content with the process: everything is to be compared
        path.parent.mkdir(parents=True, exist_ok=True)
        return Volume(row.uuid, row.name, volume.store, MapFile(path), row.sweep_needed)

    def _sweep_orderer(self, attachment: Attachment) -> Callable[[int, bool], None]:
        def order(volume: int, due: bool) -> None:
            self._catalogue.set_sweep_needed(attachment.volumes[volume], due)

        return order

    def _hello_maker(self, attachment: Attachment) -> Callable[[bool, list[VolumeInfo]], Hello]:
        def make(fresh: bool, volumes: list[VolumeInfo]) -> Hello:
            return Hello(
                array_id=self._catalogue.array_id,
                processor=f"{self._catalogue.array_id}/{PROCESSOR}",
                group=attachment.group_id,
                fresh=fresh,
                volumes=volumes,
            )

        return make

    async def _detach(self, group: ProtectedGroup) -> None:
        if group.session is not None:
            await group.session.stop()
        for volume in group.volumes:
            await volume.exchanged(volume.store)
            volume.group = None
        await group.splitter.close()
        for split in group.splitter.volumes:
            await asyncio.to_thread(split.map_file.remove)
        await asyncio.to_thread(self._catalogue.detach, group.attachment.group_id)
        del self.groups[group.attachment.group_id]
        _log.info("detached", group=group.attachment.group_name)

    # -- restoring production

    async def _block(self, group: ProtectedGroup, position: int) -> None:
        group.set_blocked(RESTORING)
        async with group.state_lock:
            group.set_blocked(RESTORING)  # again: an unblocking of an earlier restore may have been under way
            await asyncio.to_thread(
                self._catalogue.set_attachment_state,
                group.attachment.group_id,
                AttachmentState.RESTORING,
                position,
            )

    async def _unblock(self, group: ProtectedGroup) -> None:
        async with group.state_lock:
            if not group.restoring:
                return
            await asyncio.to_thread(
                self._catalogue.set_attachment_state, group.attachment.group_id, AttachmentState.ATTACHED
            )
            group.set_blocked(None)
