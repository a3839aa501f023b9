"""A group as it is now, as the management API tells it."""

from iscsi_rp.appliance.access import Access
from iscsi_rp.appliance.group import Group
from iscsi_rp.control.appliance_models import GroupSession, GroupState, GroupStatus, GroupVolume


def group_status(group: Group, access: Access | None) -> GroupStatus:
    """`access` is the image of the group that is accessed. Of a group that is not running little is told."""
    row = group.row
    volumes = [
        GroupVolume(
            index=each.index,
            name=each.name,
            uuid=each.volume_uuid,
            size_bytes=each.size_bytes,
            copy_path=each.copy_path,
        )
        for each in row.sets
    ]
    base = GroupStatus(
        name=row.name,
        id=row.group_id,
        state=GroupState.ERROR,
        volumes=volumes,
        journal_bytes_capacity=row.journal_bytes,
        alerts=list(group.alerts.values()),
    )
    return base.model_copy(update=_of_running(group, access)) if group.running else base


def _of_running(group: Group, access: Access | None) -> dict[str, object]:
    receiver, log, replica = group.receiver, group.log, group.replica
    offer = group.offer()
    window = offer.moment(offer.ranges[0][0]) if offer.ranges else None
    latest = offer.moment(offer.ranges[-1][1]) if offer.ranges else None
    behind = log.end - replica.distributed
    restoring = receiver.state.restoring
    return {
        "state": _state_of(group),
        "sessions": [
            GroupSession(
                array=each.processor,
                session=each.number,
                since_ns=each.since_ns,
                state="in sync" if each.ended else "resynchronising" if each.started else "starting",
            )
            for each in receiver.sessions.values()
        ],
        "end": log.end,
        "durable": log.durable,
        "sealed": receiver.offered,
        "distributed": replica.distributed,
        "window_start": window,
        "latest": latest,
        "window_s": (latest.time_ns - window.time_ns) / 1e9 if window and latest else 0.0,
        "journal_bytes_used": log.bytes_used,
        "lag_bytes": int(log.bytes_of(behind)),
        "lag_writes": behind,
        "spans": offer.spans(),
        "access": access.model() if access else None,
        "restoring": offer.moment(restoring) if restoring is not None else None,
    }


def _state_of(group: Group) -> GroupState:
    receiver = group.receiver
    if receiver.paused is not None:
        return GroupState.PAUSED
    if receiver.state.restoring is not None:
        return GroupState.RESTORING
    return GroupState.ACTIVE if receiver.span_from is None else GroupState.INITIALIZING
