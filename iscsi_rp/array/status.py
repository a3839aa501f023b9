"""The array as it is now: its sessions, its groups, and what an operator should know."""

from collections.abc import Iterable, Iterator

from iscsi_rp.array.protection import ProtectedGroup, Protection
from iscsi_rp.array.volumes import ServedVolume
from iscsi_rp.clock import utc_ns
from iscsi_rp.control.array_models import (
    KernelTarget,
    Processor,
    RefusedLogin,
    RefusedLogins,
    Resync,
    Session,
    SplitterMode,
    SplitterStatus,
)
from iscsi_rp.control.models import Alert
from iscsi_rp.frontend import Logins, SessionStatus
from iscsi_rp.replication.regions import KEY_SHIFT, REGION_BYTES
from iscsi_rp.splitter.core import Mode


def session_model(status: SessionStatus) -> Session:
    """A session as the front end sees it."""
    return Session(
        id=status.id,
        initiator=status.initiator,
        target=status.target,
        peer=status.peer,
        portal=status.portal,
        processor=Processor.of(status.portal_group),
        since_ns=status.since_ns,
        auth=status.auth,
        digests=status.digests,
        commands=status.commands,
        outstanding=status.outstanding,
        read_bytes=status.bytes_read,
        written_bytes=status.bytes_written,
    )


def refused_model(logins: Logins) -> RefusedLogins:
    """The logins that the front end refused."""
    last = [
        RefusedLogin(time_ns=each.time_ns, peer=each.peer, **each.refusal._asdict())
        for each in reversed(logins.last_refused)
    ]
    return RefusedLogins(by_reason=dict(logins.refused), last=last)


def splitter_status(group: ProtectedGroup, protection: Protection) -> SplitterStatus:
    """A group as its splitter sees it."""
    splitter = group.splitter
    core = splitter.core
    to_send = sum(each.to_send for each in core.marks.maps)
    resync = None
    if core.mode is Mode.RESYNCING:
        done = max(0, core.resync.total - to_send) * REGION_BYTES
        elapsed_s = max(1e-3, (utc_ns() - splitter.mode_since_ns) / 1e9)
        rate = done / elapsed_s
        left = to_send * REGION_BYTES
        resync = Resync(
            done_bytes=done,
            total_bytes=core.resync.total * REGION_BYTES,
            rate_bytes_s=rate,
            remaining_s=left / rate if rate else None,
        )
    return SplitterStatus(
        group=splitter.name,
        appliance=protection.appliance or "",
        mode=SplitterMode(core.mode.value),
        since_ns=splitter.mode_since_ns,
        session=core.session,
        marked_bytes=sum(each.dirty for each in core.marks.maps) * REGION_BYTES,
        to_sync_bytes=to_send * REGION_BYTES,
        inflight=len(core.sent) + len(core.held),
        resync=resync,
        last_error=splitter.last_error if core.mode is not Mode.SPLITTING else None,
    )


def array_alerts(volumes: Iterable[ServedVolume], protection: Protection) -> Iterator[Alert]:
    groups = protection.groups.values()
    for volume in volumes:
        if volume.error:
            group = next((each for each in groups if volume in each.volumes), None)
            yield _offline(volume.row.name, volume.error, group)
    for group in groups:
        yield from _group_alerts(group)
    if protection.way.remote and (trouble := protection.link_error or protection.way.trouble):
        yield Alert(
            code="appliance-link",
            text=f"link to the appliance: {trouble}",
            next_step="See that the appliance runs, and what `iscsi-rp status` says on its machine.",
        )
    for name, reason in protection.conflicts.items():
        yield Alert(
            code="cannot-attach",
            text=f"group {name!r} cannot be attached: {reason}",
            next_step="Delete the group at its appliance, or free its volumes.",
            group=name,
        )


def _offline(volume: str, reason: str, group: ProtectedGroup | None) -> Alert:
    name = group.splitter.name if group else None
    text = f"volume {volume!r}{f' of group {name!r}' if name else ''} is offline: {reason}"
    next_step = "Bring its store back and start the array again."
    if group and group.splitter.core.mode is Mode.RESYNCING:
        text += "; the group stays RESYNCING, without new images"
        next_step += (
            f" Without it: `iscsi-rp group delete {name}`, and protect the other volumes by a new group."
        )
    return Alert(code="volume-offline", text=text, next_step=next_step, group=name)


def _group_alerts(group: ProtectedGroup) -> Iterator[Alert]:
    name, core = group.splitter.name, group.splitter.core
    if core.mode is Mode.MARKING:
        yield Alert(
            code="not-protected",
            text=f"group {name!r} is not protected: {group.splitter.last_error or 'starting'}",
            next_step="Hosts go on; what they write is marked. See that the appliance runs.",
            group=name,
        )
    unreadable = [
        group.volumes[place] for place in sorted({key >> KEY_SHIFT for key in core.resync.unreadable})
    ]
    for volume in unreadable:
        if not volume.error:
            yield Alert(
                code="store-unreadable",
                text=f"group {name!r}: regions of volume {volume.row.name!r} cannot be read and stay marked",
                next_step="Look at its store's medium; reading is tried again every few seconds.",
                group=name,
            )


def kernel_alerts(kernel: KernelTarget | None) -> Iterator[Alert]:
    if kernel is not None and kernel.error is not None:
        yield Alert(
            code="kernel-target",
            text=f"the kernel's target is not as it should be: {kernel.error}",
            next_step="See `iscsi-rp lio show`; `iscsi-rp lio apply` tries again at once.",
        )
