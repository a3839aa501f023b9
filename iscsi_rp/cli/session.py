"""`iscsi-rp session`: who uses the array."""

import click

from iscsi_rp.cli.output import json_option, print_json, print_table
from iscsi_rp.cli.site import Site, pass_site
from iscsi_rp.units import format_size, format_time


@click.group()
def session() -> None:
    """Sessions of initiators with the array."""


@session.command("list")
@json_option
@pass_site
def list_(site: Site, as_json: bool) -> None:
    """List the sessions."""
    sessions = site.array.list_sessions()
    if as_json:
        print_json(sessions)
        return
    rows = [
        (
            s.initiator,
            s.peer,
            s.since_ns and format_time(s.since_ns),
            s.commands,
            format_size(s.read_bytes),
            format_size(s.written_bytes),
        )
        for s in sessions
    ]
    print_table(
        ("INITIATOR", "FROM", "SINCE", "COMMANDS", "READ", "WRITTEN"), rows, "no initiator is logged in"
    )
