"""`iscsi-rp initiator`: who may log in to the array, and what they see."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from iscsi_rp.cli.chap import chap_options
from iscsi_rp.cli.output import json_option, print_facts, print_json, print_table, yes_option
from iscsi_rp.cli.site import Site, complete_initiator, complete_volume, pass_site
from iscsi_rp.control.access_models import (
    Authentication,
    Initiator,
    InitiatorChange,
    InitiatorCreate,
    ShownVolume,
)
from iscsi_rp.errors import UsageError
from iscsi_rp.units import format_size

F = TypeVar("F", bound=Callable[..., Any])

initiator_argument = click.argument("name", metavar="INITIATOR", shell_complete=complete_initiator)


def lun_option(default: str) -> Callable[[F], F]:
    return click.option(
        "--lun",
        "luns",
        multiple=True,
        metavar="VOLUME[=LUN]",
        shell_complete=complete_volume,
        help=f"A volume that it sees, by a LUN of its own if given; repeated. {default}",
    )


@click.group()
def initiator() -> None:
    """Initiators: who may log in, how they prove it, which LUNs they see."""


@initiator.command("list")
@json_option
@pass_site
def list_(site: Site, as_json: bool) -> None:
    """List the initiators that are listed, or logged in."""
    initiators = site.array.list_initiators()
    if as_json:
        print_json(initiators)
        return
    rows = [
        (
            i.name,
            "yes" if i.listed else "no",
            _auth(i),
            _luns(i),
            len(i.sessions),
            i.commands,
            format_size(i.read_bytes),
            format_size(i.written_bytes),
        )
        for i in initiators
    ]
    columns = ("INITIATOR", "LISTED", "AUTHENTICATION", "LUNS", "SESSIONS", "COMMANDS", "READ", "WRITTEN")
    print_table(columns, rows, "no initiators: list one by `iscsi-rp initiator add IQN`")


@initiator.command("show")
@initiator_argument
@json_option
@pass_site
def show(site: Site, name: str, as_json: bool) -> None:
    """Show one initiator."""
    found = site.array.initiator(name)
    if as_json:
        print_json(found)
    else:
        _print(found)


@initiator.command("add")
@click.argument("name", metavar="INITIATOR")
@chap_options
@lun_option("Default: all volumes.")
@json_option
@pass_site
def add(site: Site, name: str, luns: Sequence[str], as_json: bool, chap: Authentication | None) -> None:
    """List an initiator, by its iSCSI name. Secrets have 12 bytes at least."""
    shown = [_shown(text) for text in luns] or None
    request = InitiatorCreate(name=name, authentication=chap or Authentication(), luns=shown)
    made = site.array.add_initiator(request)
    if as_json:
        print_json(made)
    else:
        _print(made)


@initiator.command("set")
@initiator_argument
@chap_options
@click.option("--no-chap", is_flag=True, help="It logs in without authentication.")
@lun_option("Those given are all that it sees.")
@click.option("--all-luns", is_flag=True, help="It sees all volumes, by the array's LUNs.")
@json_option
@pass_site
def set_(
    site: Site,
    name: str,
    no_chap: bool,
    luns: Sequence[str],
    all_luns: bool,
    as_json: bool,
    chap: Authentication | None,
) -> None:
    """Change an initiator: CHAP as a whole, LUNs as a whole. Its sessions go on, with other LUNs at once."""
    if no_chap and chap is not None:
        raise UsageError("either --no-chap or --chap-user")
    if chap is None and not no_chap and not luns and not all_luns:
        raise UsageError(
            "nothing is to be changed", hint="`iscsi-rp initiator set --help` shows what can be."
        )
    request = InitiatorChange(
        authentication=Authentication() if no_chap else chap,
        luns=[_shown(text) for text in luns] or None,
        all_luns=all_luns,
    )
    changed = site.array.change_initiator(name, request)
    if as_json:
        print_json(changed)
    else:
        _print(changed)


@initiator.command("remove")
@initiator_argument
@yes_option
@pass_site
def remove(site: Site, name: str, yes: bool) -> None:
    """Take an initiator from the list, its secrets and its LUNs with it."""
    if not yes:
        click.confirm(f"forget initiator {name}, its secrets and its LUNs?", abort=True)
    site.array.remove_initiator(name)
    click.echo(f"initiator {name}: no longer listed")


def _shown(text: str) -> ShownVolume:
    volume, equals, lun = text.partition("=")
    if equals and not lun.isdecimal():
        raise UsageError(f"{text!r} is not VOLUME or VOLUME=LUN")
    return ShownVolume(volume=volume, lun=int(lun) if equals else None)


def _auth(found: Initiator) -> str:
    if not found.chap_user:
        return "none"
    return "mutual CHAP" if found.mutual_user else "CHAP"


def _luns(found: Initiator) -> str:
    return ", ".join(f"{lun.volume}={lun.lun}" for lun in found.luns) if found.masked else "all"


def _print(found: Initiator) -> None:
    print_facts(
        [
            ("initiator", found.name),
            ("listed", "yes" if found.listed else "no"),
            ("authentication", _auth(found)),
            ("CHAP user", found.chap_user),
            ("user of the array", found.mutual_user),
            ("LUNs", _luns(found) or "none"),
            ("sessions", ", ".join(map(str, found.sessions)) or "none"),
            ("commands", found.commands or None),
        ]
    )
