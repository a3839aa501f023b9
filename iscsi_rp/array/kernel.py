"""The array's volumes in the kernel's target: backstores that it serves, and what LIO is to show of them.

What LIO has is compared with what it should have at each change, and put right; only what the array has made
is ever removed. rtslib waits for the kernel, so all of it runs in a thread.
"""

import asyncio
import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import structlog

from iscsi_rp.array.catalogue import Catalogue, VolumeRow
from iscsi_rp.array.targetcli import Targetcli
from iscsi_rp.array.volumes import ServedVolume
from iscsi_rp.control.array_models import FrontEnd, KernelSession, KernelTarget, Portal
from iscsi_rp.control.config import LioConfig
from iscsi_rp.errors import Error
from iscsi_rp.frontend.lio import (
    Acl,
    Backstore,
    Desired,
    LioConflictError,
    Login,
    Loopback,
    Owned,
    Target,
    apply,
    disk_of,
    ensure,
    plan,
    port_naa,
    registrations,
    sessions_of,
)
from iscsi_rp.frontend.tcmu_netlink import Event
from iscsi_rp.frontend.tcmu_server import TcmuServer
from iscsi_rp.iscsi.access import Access, InitiatorAccess
from iscsi_rp.iscsi.latency import Histogram
from iscsi_rp.scsi.persistent_format import decode, encode

AGAIN_S: Final = 10.0
"What could not be put right, an address that is not there yet, is tried again."
STATUS_S: Final = 5.0
"What is told of LIO waits for it, and for a change of it, at most."
REMOVAL_S: Final = 2.0
"From the removal of a backstore to the kernel's word of it, at most."

_log = structlog.get_logger(__name__)


class Kernel:
    """The front ends `lio` and `local`."""

    def __init__(
        self, config: LioConfig, volumes: Mapping[str, ServedVolume], catalogue: Catalogue, access: Access
    ) -> None:
        """`volumes` are by UUID, and change while this lives."""
        self._config = config
        self._volumes = volumes
        self._catalogue = catalogue
        self._access = access
        self._server = TcmuServer(self._happened)
        self._targetcli = Targetcli(self._server, self._in_lio, made_here=bool(config.portals))
        self._going: set[str] = set()
        "UUIDs of volumes that are hidden, whatever their rows still say."
        self._new: set[str] = set()
        "UUIDs of volumes that come from elsewhere: what LIO may have kept of them is of another time."
        self._changing = asyncio.Lock()
        self._repairing: asyncio.Task[None] | None = None
        self._disturbed = False
        "Somebody else removed a backstore of ours: it is to be looked whether LIO is as it should be."
        self.error: str | None = None
        "Why LIO is not as it should be."

    async def start(self) -> None:
        """Serve the backstores that are there. Raises `LioMissingError`, `NoKernelTargetError`."""
        await asyncio.to_thread(ensure)
        await self._server.start()
        for volume in self._shown():
            # The kernel looks at a disk of this machine when it is made, and then it has to answer.
            blocked = volume.row.front_end is FrontEnd.LIO
            await self._server.serve(volume.row.name, volume.unit, blocked=blocked)
        await self._put_right()
        # Not before: an initiator may have lost its right to what LIO still lets it see.
        for volume in self._shown():
            await self._server.unblock(volume.row.name)
        await self._targetcli.start()
        self._repairing = asyncio.create_task(self._repair(), name="lio")

    async def close(self, grace_s: float) -> None:
        """LIO stays as it is, with the backstores blocked: initiators wait for the next start."""
        if self._repairing is not None:
            self._repairing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._repairing
        await self._targetcli.stop()
        await self._server.close(grace_s)

    # Volumes. Each raises the errors of `frontend.lio`.

    async def show(self, volume: ServedVolume) -> None:
        row = volume.row
        self._going.discard(row.uuid)
        await self._server.serve(row.name, volume.unit)
        self._targetcli.volumes_changed()
        try:
            self._new.add(row.uuid)
            await self.apply()
        except Error:
            await self._server.withdraw(row.name)
            raise
        finally:
            self._new.discard(row.uuid)

    async def hide(self, volume: ServedVolume) -> bytes:
        """The persistent reservations that LIO kept for it (APTPL). It is not made anew until it is shown;
        where this fails it is as it was.
        """
        row = volume.row
        # Before anything is changed: what cannot be read could not be made anew either.
        await asyncio.to_thread(registrations.read, row.uuid, self._config.iqn)
        self._going.add(row.uuid)
        try:
            await self.apply()
            await self._removed(row.name)
            kept = encode(await asyncio.to_thread(registrations.read, row.uuid, self._config.iqn))
        except BaseException:
            self._going.discard(row.uuid)
            await self._put_right()
            raise
        await self._server.withdraw(row.name)
        self._targetcli.volumes_changed()
        return kept

    async def _removed(self, name: str) -> None:
        """The kernel has said so; else it is a backstore that others made. Raises `LioConflictError`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(REMOVAL_S):
                while self._server.devices(name):
                    await asyncio.sleep(REMOVAL_S / 40)
        if self._server.devices(name):
            raise LioConflictError(
                f"volume {name!r} has a backstore that the array did not make",
                hint="Delete it where it was made, as in targetcli: `/backstores/user:rpsplit delete NAME`.",
            )

    async def users(self, volume: ServedVolume) -> list[str]:
        """Who is logged in and may use it; of a local one, its disk where it is mounted or open."""
        if volume.row.front_end is FrontEnd.LIO:
            return sorted(
                {each.initiator for each in await asyncio.to_thread(sessions_of, {volume.row.name})}
            )
        device = await self.device(volume)
        used = device is not None and await asyncio.to_thread(_in_use, Path(device))
        return [device] if used and device else []

    async def device(self, volume: ServedVolume) -> str | None:
        """The disk that a local volume is."""
        return await asyncio.to_thread(disk_of, port_naa(volume.row.uuid))

    def check_access(self, access: Access) -> None:
        """Raises `LioUnsupportedError`."""
        self._desired(access)

    async def set_access(self, access: Access) -> None:
        self._access = access
        await self.apply()

    def latency(self, volume: ServedVolume) -> Histogram | None:
        return self._server.latency(volume.row.name)

    # What LIO has.

    async def apply(self) -> list[str]:
        """Make LIO what it should be; what was done."""
        async with self._changing:
            desired = self._desired(self._access)
            owned = _owned_in(await asyncio.to_thread(self._catalogue.owned_in_lio))
            await asyncio.to_thread(self._catalogue.set_owned_in_lio, _owned_text(owned | Owned.of(desired)))
            try:
                done = await asyncio.to_thread(_apply, desired, owned)
            except Error as error:
                self.error = error.message
                raise
            await asyncio.to_thread(self._catalogue.set_owned_in_lio, _owned_text(Owned.of(desired)))
            await self._forget_registrations()
            self.error = None
            return done

    async def _forget_registrations(self) -> None:
        """LIO has been told those that came with a move, and keeps them from now on."""
        for volume in self._shown():
            if volume.row.registrations:
                await asyncio.to_thread(self._catalogue.set_registrations, volume.row.uuid, b"")
                volume.row = replace(volume.row, registrations=b"")

    async def differences(self) -> list[str]:
        """What `apply` would do."""
        async with self._changing:
            owned = _owned_in(await asyncio.to_thread(self._catalogue.owned_in_lio))
            steps = await asyncio.to_thread(lambda: plan(self._desired(self._access), owned=owned))
            return [step.text for step in steps]

    async def status(self) -> KernelTarget:
        """Within `STATUS_S`, whatever LIO does."""
        error, differs, sessions = self.error, list[str](), list[Login]()
        try:
            async with asyncio.timeout(STATUS_S):
                sessions = await asyncio.to_thread(sessions_of, self._in_lio())
                differs = await self.differences()
        except Error as failed:
            error = failed.message
        except TimeoutError:
            error = f"a change of LIO has not come to its end within {STATUS_S:.0f} s"
        served = [volume.row.name for volume in self._shown() if self._server.devices(volume.row.name)]
        portals = [Portal(address=str(portal), processor=portal.sp) for portal in self._config.portals]
        return KernelTarget(
            iqn=self._config.iqn,
            portals=portals,
            volumes=served,
            sessions=[KernelSession(**each._asdict()) for each in sessions],
            bus=self._targetcli.state.value,
            differs=differs,
            error=error,
        )

    async def _put_right(self) -> None:
        try:
            for text in await self.apply():
                _log.info("lio", done=text)
        except Error as error:
            _log.error("LIO is not as it should be", reason=error.message)

    async def _repair(self) -> None:
        while True:
            await asyncio.sleep(AGAIN_S)
            if self.error is not None or self._disturbed:
                self._disturbed = False
                await self._put_right()

    def _happened(self, event: Event, config: str) -> None:
        if event is Event.REMOVED and not self._changing.locked():
            self._disturbed = True

    def _shown(self) -> list[ServedVolume]:
        return [
            volume
            for uuid, volume in self._volumes.items()
            if volume.row.front_end is not FrontEnd.EMBEDDED and uuid not in self._going
        ]

    def _in_lio(self) -> set[str]:
        return {volume.row.name for volume in self._shown() if volume.row.front_end is FrontEnd.LIO}

    def _desired(self, access: Access) -> Desired:
        made = [
            volume
            for volume in self._shown()
            if self._config.portals or volume.row.front_end is FrontEnd.LOCAL
        ]
        luns = {each.row.lun: each.row.name for each in made if each.row.front_end is FrontEnd.LIO}
        return Desired(
            [self._backstore(each.row) for each in made],
            self._target(luns, access) if luns else None,
            [
                Loopback(port_naa(each.row.uuid), each.row.name)
                for each in made
                if each.row.front_end is FrontEnd.LOCAL
            ],
        )

    def _backstore(self, row: VolumeRow) -> Backstore:
        told = decode(row.registrations) if row.registrations or row.uuid in self._new else None
        return Backstore(row.name, row.uuid, row.size_bytes, row.block_size, registrations=told)

    def _target(self, luns: Mapping[int, str], access: Access) -> Target:
        portals: dict[int, list[tuple[str, int]]] = {}
        for portal in self._config.portals:
            portals.setdefault(portal.sp.portal_group, []).append((portal.host, portal.port))
        return Target(
            self._config.iqn,
            portals,
            luns,
            not access.listed_only,
            [_acl(name, proof, luns) for name, proof in access.initiators.items()],
        )


def _acl(name: str, access: InitiatorAccess, luns: Mapping[int, str]) -> Acl:
    shown = luns
    if access.luns is not None:
        shown = {lun: luns[mapped] for lun, mapped in access.luns.items() if mapped in luns}
    return Acl(name, shown, access.chap, access.mutual)


def _apply(desired: Desired, owned: Owned) -> list[str]:
    """Blocks."""
    done: list[str] = []
    apply(plan(desired, owned=owned), lambda step: done.append(step.text))
    return done


def _owned_text(owned: Owned) -> str:
    return json.dumps(
        {
            "backstores": sorted(owned.backstores),
            "targets": sorted(owned.targets),
            "loopbacks": sorted(owned.loopbacks),
        }
    )


def _owned_in(text: str) -> Owned:
    if not text:
        return Owned()
    stored = json.loads(text)
    backstores = frozenset((name, serial) for name, serial in stored["backstores"])
    return Owned(backstores, frozenset(stored["targets"]), frozenset(stored["loopbacks"]))


def _in_use(device: Path) -> bool:
    """Mounted, part of another device, or open for writing by somebody who wants it alone."""
    try:
        os.close(os.open(device, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError:
        return True
    return False
