"""What an operator of the array should know, as it is now."""

from collections.abc import Iterable, Iterator

from iscsi_rp.array.protection import Protection
from iscsi_rp.array.volumes import ServedVolume
from iscsi_rp.control.models import Alert
from iscsi_rp.splitter.core import Mode


def array_alerts(volumes: Iterable[ServedVolume], protection: Protection) -> Iterator[Alert]:
    for volume in volumes:
        if volume.error:
            yield Alert(
                code="volume-offline",
                text=f"volume {volume.row.name!r} is offline: {volume.error}",
                next_step="Bring its store back and start the array again.",
            )
    for group in protection.groups.values():
        name, reason = group.splitter.name, group.splitter.last_error or "starting"
        if group.splitter.core.mode is Mode.MARKING:
            yield Alert(
                code="not-protected",
                text=f"group {name!r} is not protected: {reason}",
                next_step="Hosts go on; what they write is marked. See that the appliance runs.",
            )
        if group.splitter.core.resync.unreadable:
            yield Alert(
                code="store-unreadable",
                text=f"group {name!r}: regions of a store cannot be read and stay marked",
                next_step="Look at the store's medium; reading is tried again every few seconds.",
            )
    for name, reason in protection.conflicts.items():
        yield Alert(
            code="cannot-attach",
            text=f"group {name!r} cannot be attached: {reason}",
            next_step="Delete the group at its appliance, or free its volumes.",
        )
