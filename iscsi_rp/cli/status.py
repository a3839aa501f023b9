"""`iscsi-rp status`: both daemons at a glance."""

from collections.abc import Callable
from typing import TypeVar

import click

from iscsi_rp.cli.output import json_option, moment, print_alerts, print_facts, print_json, print_table
from iscsi_rp.cli.site import Site, pass_site
from iscsi_rp.cli.volume import print_volumes
from iscsi_rp.clock import utc_ns
from iscsi_rp.control.appliance_models import ApplianceStatus, GroupStatus
from iscsi_rp.control.array_models import ArrayStatus, RefusedLogins, SplitterStatus
from iscsi_rp.errors import UnreachableError
from iscsi_rp.units import format_duration, format_size

T = TypeVar("T")


@click.command()
@json_option
@pass_site
def status(site: Site, as_json: bool) -> None:
    """Show array, appliance, volumes, groups and alerts."""
    array, array_error = _ask(site.array.status)
    appliance, appliance_error = _ask(site.appliance.status)
    if site.config.is_alone and (array or appliance):
        array_error = appliance_error = None
    if as_json:
        print_json({"array": array, "appliance": appliance})
    else:
        _print(array, appliance)
    if error := array_error or appliance_error:
        raise error


def _ask(query: Callable[[], T]) -> tuple[T | None, UnreachableError | None]:
    """What one daemon says is shown even when the other is not there."""
    try:
        return query(), None
    except UnreachableError as error:
        return None, error


def _print(array: ArrayStatus | None, appliance: ApplianceStatus | None) -> None:
    if array is not None:
        portals = ", ".join(f"{portal.address} (SP {portal.processor})" for portal in array.portals)
        sessions = "1 session" if len(array.sessions) == 1 else f"{len(array.sessions)} sessions"
        if array.kernel is not None and array.kernel.sessions:
            sessions += f", {len(array.kernel.sessions)} in LIO"
        print_facts([("array", f"{array.name}, {array.iqn} at {portals}, {sessions}")])
        if array.refused_logins.last:
            print_facts([("refused logins", _refused(array.refused_logins))])
        print_volumes(array.volumes)
        if appliance is None and array.appliance:
            print_facts([("appliance", f"{array.appliance}, on another machine, connected")])
    if appliance is not None:
        arrays = ", ".join(appliance.arrays) or "no array"
        print_facts(
            [("appliance", f"{appliance.name}, images at {', '.join(appliance.portals)}, {arrays} connected")]
        )
    splitters = {splitter.group: splitter for splitter in array.groups} if array else {}
    groups = {group.name: group for group in appliance.groups} if appliance else {}
    names = sorted(splitters.keys() | groups.keys())
    if names:
        columns = ("GROUP", "STATE", "SPLITTER", "TO SYNC", "LATEST IMAGE", "WINDOW", "JOURNAL", "COPY LAG")
        print_table(columns, [_row(name, splitters.get(name), groups.get(name)) for name in names], "")
    print_alerts([*(array.alerts if array else ()), *(appliance.alerts if appliance else ())])


def _refused(logins: RefusedLogins) -> str:
    last = logins.last[0]
    ago = format_duration((utc_ns() - last.time_ns) / 1e9)
    return (
        f"{sum(logins.by_reason.values())}, the last {ago} ago: {last.initiator or 'an initiator'}"
        f" from {last.peer}: {last.reason} ({last.detail})"
    )


def _row(name: str, splitter: SplitterStatus | None, group: GroupStatus | None) -> list[object]:
    seen_by_array = [splitter.mode, to_sync(splitter)] if splitter else [None, None]
    if group is None:
        return [name, None, *seen_by_array, None, None, None, None]
    journal = f"{format_size(group.journal_bytes_used)} of {format_size(group.journal_bytes_capacity)}"
    window = format_duration(group.window_s)
    return [
        name,
        group.state,
        *seen_by_array,
        moment(group.latest),
        window,
        journal,
        format_size(group.lag_bytes),
    ]


def to_sync(splitter: SplitterStatus) -> str:
    text = format_size(splitter.to_sync_bytes or splitter.marked_bytes)
    if splitter.resync is not None and splitter.resync.remaining_s is not None:
        text += f", {format_duration(splitter.resync.remaining_s)} left"
    return text
