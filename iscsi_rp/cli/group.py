"""`iscsi-rp group`: consistency groups."""

from contextlib import suppress
from pathlib import Path

import click

from iscsi_rp.cli.output import (
    json_option,
    moment,
    print_alerts,
    print_facts,
    print_json,
    print_table,
    yes_option,
)
from iscsi_rp.cli.parameters import ABSOLUTE_PATH, group_argument, journal_option
from iscsi_rp.cli.site import Site, complete_volume, pass_site
from iscsi_rp.control.appliance_models import DeletedGroup, GroupCreate, GroupStatus
from iscsi_rp.control.array_models import ArrayStatus
from iscsi_rp.errors import UnreachableError
from iscsi_rp.units import format_duration, format_size, format_time


@click.group()
def group() -> None:
    """Consistency groups: volumes that are protected together."""


@group.command("create")
@click.argument("name", metavar="GROUP")
@click.option(
    "--volume",
    "volumes",
    multiple=True,
    required=True,
    shell_complete=complete_volume,
    help="May be repeated.",
)
@journal_option
@click.option(
    "--copy-directory", type=ABSOLUTE_PATH, help="Where the copies go. Default: below the appliance's state."
)
@json_option
@pass_site
def create(
    site: Site,
    name: str,
    volumes: tuple[str, ...],
    journal_bytes: int,
    copy_directory: Path | None,
    as_json: bool,
) -> None:
    """Protect volumes: journal every write of theirs, and keep a copy."""
    request = GroupCreate(
        name=name, volumes=list(volumes), journal_bytes=journal_bytes, copy_directory=copy_directory
    )
    made = site.appliance.create_group(request)
    if as_json:
        print_json(made)
    else:
        click.echo(
            f"group {made.name}: {made.state}; `iscsi-rp status` shows how its first synchronisation goes"
        )


@group.command("list")
@click.option("--deleted", is_flag=True, help="What deleted groups left: journals and copies.")
@json_option
@pass_site
def list_(site: Site, deleted: bool, as_json: bool) -> None:
    """List the groups."""
    if deleted:
        _list_deleted(site.appliance.list_deleted_groups(), as_json)
        return
    groups = site.appliance.list_groups()
    if as_json:
        print_json(groups)
        return
    rows = [
        (g.name, g.state, ", ".join(v.name for v in g.volumes), moment(g.latest), format_duration(g.window_s))
        for g in groups
    ]
    columns = ("GROUP", "STATE", "VOLUMES", "LATEST IMAGE", "WINDOW")
    print_table(columns, rows, "no groups: make one by `iscsi-rp group create NAME --volume VOLUME`")


def _list_deleted(left: list[DeletedGroup], as_json: bool) -> None:
    if as_json:
        print_json(left)
        return
    rows = [
        (
            each.name,
            format_time(each.deleted_ns),
            format_size(each.allocated_bytes),
            each.journal,
            ", ".join(map(str, each.copies)),
        )
        for each in left
    ]
    columns = ("GROUP", "DELETED", "SPACE", "JOURNAL", "COPIES")
    print_table(columns, rows, "no deleted group left anything")


@group.command("show")
@group_argument
@json_option
@pass_site
def show(site: Site, group: str, as_json: bool) -> None:
    """Show one group: splitter, images, journal, copy, spans without images, alerts."""
    found = site.appliance.group(group)
    array = _array_status(site)
    if array is not None:
        alerts = [alert for alert in array.alerts if alert.group == group]
        found = found.model_copy(update={"alerts": [*found.alerts, *alerts]})
    if as_json:
        print_json(found)
        return
    modes = {each.group: each.mode for each in array.groups} if array else {}
    _print_group(found, modes.get(group, "not attached") if array else "unknown: the array does not answer")
    print_table(
        ("VOLUME", "SIZE", "COPY"),
        [(v.name, format_size(v.size_bytes), v.copy_path) for v in found.volumes],
        "",
    )
    if found.spans:
        rows = [(moment(span.first), moment(span.last) or "now") for span in found.spans]
        print_table(("NO IMAGES AFTER", "UNTIL"), rows, "")
    print_alerts(found.alerts)


def _array_status(site: Site) -> ArrayStatus | None:
    with suppress(UnreachableError):
        return site.array.status()
    return None


def _print_group(found: GroupStatus, splitter: str) -> None:
    access = found.access
    print_facts(
        [
            ("group", found.name),
            ("state", found.state),
            ("splitter", splitter),
            (
                "arrays",
                ", ".join(f"{s.array} (session {s.session})" for s in found.sessions) or "none connected",
            ),
            ("latest image", moment(found.latest)),
            ("oldest image", moment(found.window_start)),
            ("window", format_duration(found.window_s)),
            ("positions", f"{found.end} received, {found.durable} durable, {found.sealed} sealed"),
            (
                "copy",
                f"at {found.distributed}, {found.lag_writes} writes ({format_size(found.lag_bytes)}) behind",
            ),
            (
                "journal",
                f"{format_size(found.journal_bytes_used)} of {format_size(found.journal_bytes_capacity)}",
            ),
            ("image access", access and f"{format_time(access.time_ns)} at {access.portal}, {access.iqn}"),
            ("restoring to", moment(found.restoring)),
        ]
    )


@group.command("delete")
@group_argument
@click.option("--destroy", is_flag=True, help="Remove journal and copies too. Every image is lost.")
@yes_option
@pass_site
def delete(site: Site, group: str, destroy: bool, yes: bool) -> None:
    """Stop protecting a group. Journal and copies stay, unless --destroy is given.

    With --destroy of a group that was deleted before, remove what it left.
    """
    if not yes:
        lost = (
            "and destroy its journal, its copies and every image" if destroy else "(journal and copies stay)"
        )
        click.confirm(f"delete group {group} {lost}?", abort=True)
    left = site.appliance.delete_group(group, destroy)
    click.echo(f"group {group}: deleted{' and destroyed' if destroy else ''}")
    if left is not None:
        click.echo(f"journal and copies stay: {', '.join(map(str, (left.journal, *left.copies)))}")
        click.echo(f"  next: `iscsi-rp group delete {group} --destroy` removes them")
