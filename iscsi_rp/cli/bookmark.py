"""`iscsi-rp bookmark`: named images."""

import click

from iscsi_rp.cli.output import json_option, print_json, print_table, yes_option
from iscsi_rp.cli.parameters import group_argument
from iscsi_rp.cli.site import Site, complete_bookmark, pass_site
from iscsi_rp.control.appliance_models import BookmarkCreate
from iscsi_rp.units import format_time


@click.group()
def bookmark() -> None:
    """Bookmarks: images with a name."""


@bookmark.command("create")
@group_argument
@click.argument("name")
@click.option(
    "--consistency",
    type=click.Choice(["crash", "application"]),
    default="crash",
    show_default=True,
    help="`application`: the applications were quiesced by whoever makes it.",
)
@json_option
@pass_site
def create(site: Site, group: str, name: str, consistency: str, as_json: bool) -> None:
    """Name this moment. It holds every write that was acknowledged before."""
    request = BookmarkCreate.model_validate({"name": name, "consistency": consistency})
    made = site.appliance.create_bookmark(group, request)
    if as_json:
        print_json(made)
    else:
        click.echo(f"bookmark {made.name}: {format_time(made.time_ns)}, position {made.position}")


@bookmark.command("list")
@group_argument
@json_option
@pass_site
def list_(site: Site, group: str, as_json: bool) -> None:
    """List the bookmarks of a group."""
    bookmarks = site.appliance.list_bookmarks(group)
    if as_json:
        print_json(bookmarks)
        return
    rows = [(mark.name, format_time(mark.time_ns), mark.position, mark.consistency) for mark in bookmarks]
    columns = ("BOOKMARK", "TIME", "POSITION", "CONSISTENCY")
    print_table(columns, rows, f"no bookmarks: make one by `iscsi-rp bookmark create {group} NAME`")


@bookmark.command("delete")
@group_argument
@click.argument("name", shell_complete=complete_bookmark)
@yes_option
@pass_site
def delete(site: Site, group: str, name: str, yes: bool) -> None:
    """Forget a bookmark. Its image stays as long as others of its time do."""
    if not yes:
        click.confirm(f"delete bookmark {name} of group {group}?", abort=True)
    site.appliance.delete_bookmark(group, name)
    click.echo(f"bookmark {name}: deleted")
