"""Which front end shows a volume: the array's own iSCSI target, the kernel's, or the machine itself as a
disk. Each volume has one at a time, and may be moved.
"""

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from iscsi_rp.array.catalogue import Catalogue
from iscsi_rp.array.initiators import Initiators
from iscsi_rp.array.volumes import ServedVolume
from iscsi_rp.control.array_models import FrontEnd, KernelTarget
from iscsi_rp.control.config import LioConfig
from iscsi_rp.errors import ConflictError, Error
from iscsi_rp.frontend import IscsiServer
from iscsi_rp.iscsi.access import Access
from iscsi_rp.iscsi.latency import Histogram, Latency

if TYPE_CHECKING:
    from iscsi_rp.array.kernel import Kernel

GRACE_S: Final = 5.0
"For commands in flight."


class FrontEnds:
    """Nothing of the kernel's target is loaded before a volume needs it."""

    def __init__(
        self,
        server: IscsiServer,
        iqn: str,
        lio: LioConfig,
        volumes: Mapping[str, ServedVolume],
        catalogue: Catalogue,
        initiators: Initiators,
    ) -> None:
        """`server` has the target `iqn` already. `volumes` are by UUID, and change while this lives."""
        self._server = server
        self._iqn = iqn
        self._lio = lio
        self._volumes = volumes
        self._catalogue = catalogue
        self._initiators = initiators
        self._kernel: Kernel | None = None
        self._starting = asyncio.Lock()
        self.error: str | None = None
        "Why the kernel's target is not there though volumes need it."
        initiators.enforced = self._set_access
        initiators.check = self._check_access

    async def start(self) -> None:
        """Show what the catalogue has. Without the kernel's target its volumes are not shown, and the others
        are: `error` says so.
        """
        for volume in self._volumes.values():
            if volume.row.front_end is FrontEnd.EMBEDDED:
                self._server.set_lun(self._iqn, volume.row.lun, volume.unit)
        if any(volume.row.front_end is not FrontEnd.EMBEDDED for volume in self._volumes.values()):
            try:
                await self.kernel()
            except Error as error:
                self.error = error.message

    async def close(self) -> None:
        await self._server.close(GRACE_S)
        if self._kernel is not None:
            await self._kernel.close(GRACE_S)

    async def kernel(self) -> "Kernel":
        """The kernel's front ends. Raises `LioMissingError`, `NoKernelTargetError`, `ConflictError`."""
        async with self._starting:
            if self._kernel is None:
                try:
                    from iscsi_rp.array.kernel import Kernel
                except ImportError as error:
                    raise ConflictError(
                        f"a package for the kernel's target is missing: {error.name}",
                        hint="Install it: `pip install 'iscsi-rp[lio]'`.",
                    ) from None
                kernel = Kernel(self._lio, self._volumes, self._catalogue, self._initiators.access)
                await kernel.start()
                self._kernel, self.error = kernel, None
            return self._kernel

    # Volumes.

    async def show(self, volume: ServedVolume) -> None:
        """Raises the errors of the kernel's front ends; then nobody sees it."""
        if volume.row.front_end is FrontEnd.EMBEDDED:
            self._server.set_lun(self._iqn, volume.row.lun, volume.unit)
        else:
            await (await self.kernel()).show(volume)

    async def hide(self, volume: ServedVolume) -> bytes:
        """Nobody sees it any more, and no command for it is under way. Returns its persistent reservations
        that survive a loss of power. Raises the errors of the kernel's front ends; then it is as it was.
        """
        if volume.row.front_end is not FrontEnd.EMBEDDED:
            return await (await self.kernel()).hide(volume)
        try:
            async with asyncio.timeout(GRACE_S):
                await self._server.withdraw_lun(self._iqn, volume.row.lun)
        except TimeoutError:
            self._server.set_lun(self._iqn, volume.row.lun, volume.unit)
            raise _still_busy(volume) from None
        return volume.unit.reservations.stored

    async def move(self, volume: ServedVolume, front_end: FrontEnd) -> None:
        """Have another front end show it. Whatever fails, one of the two does."""
        before = volume.row.front_end
        if front_end is not FrontEnd.EMBEDDED:
            await self.kernel()
        registrations = await self.hide(volume)
        try:
            await _at_rest(volume)
            await self._give(volume, front_end, registrations)
        except Error:
            await self._give(volume, before, registrations)
            raise

    async def _give(self, volume: ServedVolume, front_end: FrontEnd, registrations: bytes) -> None:
        await asyncio.to_thread(self._catalogue.move, volume.row.uuid, front_end, registrations)
        volume.moved(front_end, registrations)
        await self.show(volume)

    async def resized(self, volume: ServedVolume) -> None:
        """A volume has another size now."""
        if volume.row.front_end is not FrontEnd.EMBEDDED:
            await (await self.kernel()).apply()

    async def users(self, volume: ServedVolume) -> list[str]:
        """Who is logged in and sees it."""
        if volume.row.front_end is not FrontEnd.EMBEDDED:
            return [] if self._kernel is None else await self._kernel.users(volume)
        logged_in = sorted({session.initiator.lower() for session in self._server.sessions()})
        name = volume.row.name
        return [each for each in logged_in if name in self._initiators.shown_to(each).values()]

    # What is told.

    def latency(self, volume: ServedVolume) -> Histogram:
        """How long its commands took, since it is shown."""
        if volume.row.front_end is not FrontEnd.EMBEDDED and self._kernel is not None:
            return self._kernel.latency(volume) or Latency().histogram()
        return self._server.latency(volume.unit)

    async def device(self, volume: ServedVolume) -> str | None:
        """The disk of this machine that a local volume is."""
        if volume.row.front_end is not FrontEnd.LOCAL or self._kernel is None:
            return None
        return await self._kernel.device(volume)

    async def status(self) -> KernelTarget | None:
        """The kernel's target; None where no volume needs it."""
        if self._kernel is not None:
            return await self._kernel.status()
        if self.error is not None:
            return KernelTarget(iqn=self._lio.iqn, portals=[], volumes=[], error=self.error)
        return None

    def _check_access(self, access: Access) -> None:
        if self._kernel is not None:
            self._kernel.check_access(access)

    async def _set_access(self, access: Access) -> None:
        async with self._starting:  # while it starts it has the rules as they were
            kernel = self._kernel
        if kernel is not None:
            await kernel.set_access(access)


async def _at_rest(volume: ServedVolume) -> None:
    """Nothing of the volume's logical unit goes on behind it: no command that the kernel has given up, no
    formatting that began after it was asked whether there is any. Raises `ConflictError`.
    """
    over = asyncio.Event()
    volume.unit.holds.after_all(over.set)
    try:
        async with asyncio.timeout(GRACE_S):
            await over.wait()
    except TimeoutError:
        raise _still_busy(volume) from None
    if volume.unit.medium.sense is not None:
        raise ConflictError(f"volume {volume.row.name!r} is being formatted or sanitized")


def _still_busy(volume: ServedVolume) -> ConflictError:
    return ConflictError(
        f"commands for volume {volume.row.name!r} have been under way for {GRACE_S:.0f} s",
        hint="See whether its store answers; then try again.",
    )
