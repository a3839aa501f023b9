"""`iscsi-rp session`: who uses the array."""

import time
from collections.abc import Sequence
from typing import Final

import click

from iscsi_rp.cli.latency import print_latencies
from iscsi_rp.cli.output import json_option, print_json, print_table
from iscsi_rp.cli.site import Site, complete_initiator, pass_site
from iscsi_rp.control.array_models import Session
from iscsi_rp.errors import NotFoundError, UsageError
from iscsi_rp.units import format_size, format_time

RATE_S: Final = 1.0


@click.group()
def session() -> None:
    """Sessions of initiators with the array."""


@session.command("list")
@click.option("--rates", is_flag=True, help="Look for a second, and show what goes on in it.")
@click.option("--latency", is_flag=True, help="Show how long commands took, for each LUN.")
@json_option
@pass_site
def list_(site: Site, rates: bool, latency: bool, as_json: bool) -> None:
    """List the sessions."""
    if rates and (latency or as_json):
        raise UsageError(
            "--rates goes with no other option", hint="With --json, take the difference of two answers."
        )
    if latency:
        _latency(site, as_json)
    elif as_json:
        print_json(site.array.list_sessions())
    elif rates:
        before, begun = site.array.list_sessions(), time.monotonic()
        time.sleep(RATE_S)
        _rates(before, site.array.list_sessions(), time.monotonic() - begun)
    else:
        _sessions(site.array.list_sessions())
        if (kernel := site.array.status().kernel) is not None and kernel.sessions:
            rows = [(s.initiator, s.address, s.target, s.portal_group, s.state) for s in kernel.sessions]
            columns = ("INITIATOR, IN LIO", "FROM", "TARGET", "PORTAL GROUP", "STATE")
            print_table(columns, rows, "")


def _sessions(sessions: Sequence[Session]) -> None:
    rows = [
        (
            s.id,
            s.initiator,
            s.peer,
            s.processor,
            format_time(s.since_ns),
            s.auth,
            s.digests,
            s.commands,
            s.outstanding,
            format_size(s.read_bytes),
            format_size(s.written_bytes),
        )
        for s in sessions
    ]
    columns = (
        *("ID", "INITIATOR", "FROM", "SP", "SINCE", "AUTHENTICATION", "DIGESTS"),
        *("COMMANDS", "OUTSTANDING", "READ", "WRITTEN"),
    )
    print_table(columns, rows, "no initiator is logged in")


def _rates(before: Sequence[Session], after: Sequence[Session], seconds: float) -> None:
    earlier = {s.id: s for s in before}
    rows = []
    for s in after:
        if (e := earlier.get(s.id)) is not None:
            rows.append(
                (
                    s.id,
                    s.initiator,
                    s.processor,
                    round((s.commands - e.commands) / seconds),
                    format_size(round((s.read_bytes - e.read_bytes) / seconds)),
                    format_size(round((s.written_bytes - e.written_bytes) / seconds)),
                    s.outstanding,
                )
            )
    columns = ("ID", "INITIATOR", "SP", "COMMANDS/S", "READ/S", "WRITTEN/S", "OUTSTANDING")
    print_table(columns, rows, "no initiator is logged in")


def _latency(site: Site, as_json: bool) -> None:
    latencies = site.array.latencies()
    if as_json:
        print_json(latencies.sessions)
    else:
        print_latencies(
            ("ID", "INITIATOR", "LUN", "VOLUME"),
            (((s.session, s.initiator, s.lun, s.volume), s) for s in latencies.sessions),
        )


@session.command("disconnect")
@click.argument("which", metavar="SESSION", shell_complete=complete_initiator)
@pass_site
def disconnect(site: Site, which: str) -> None:
    """End a session by its ID, or all of an initiator by its name. It may log in again.

    It is asked to log out first, so that it can finish its commands.
    """
    if which.isdecimal():
        ids = [int(which)]
    else:
        ids = site.array.initiator(which).sessions
        if not ids:
            raise NotFoundError(f"initiator {which} is not logged in")
    for session_id in ids:
        site.array.disconnect(session_id)
        click.echo(f"session {session_id}: ended")
