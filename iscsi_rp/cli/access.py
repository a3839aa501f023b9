"""`iscsi-rp access`: what holds for initiators that are not listed, and for discovery."""

import click

from iscsi_rp.cli.chap import chap_options
from iscsi_rp.cli.output import json_option, print_facts, print_json, yes_option
from iscsi_rp.cli.site import Site, pass_site
from iscsi_rp.control.access_models import AccessChange, AccessMode, AccessRules, Authentication
from iscsi_rp.errors import UsageError


@click.group()
def access() -> None:
    """Rules for all initiators: who may log in unlisted, and discovery."""


@access.command("show")
@json_option
@pass_site
def show(site: Site, as_json: bool) -> None:
    """Show the rules."""
    _show(site.array.access(), as_json)


@access.command("set")
@click.option("--mode", type=click.Choice([mode.value for mode in AccessMode]), help="Who may log in.")
@chap_options
@click.option("--no-chap", is_flag=True, help="Discovery has no user of its own.")
@yes_option
@json_option
@pass_site
def set_(
    site: Site, mode: str | None, no_chap: bool, yes: bool, as_json: bool, chap: Authentication | None
) -> None:
    """Change the rules. CHAP here is that of discovery sessions; logins have that of their initiator.

    open: initiators that are not listed may log in, without authentication, and see all volumes. listed: they
    are refused, discover nothing, and their sessions end.
    """
    if no_chap and chap is not None:
        raise UsageError("either --no-chap or --chap-user")
    if mode is None and chap is None and not no_chap:
        raise UsageError("nothing is to be changed", hint="`iscsi-rp access set -h` shows what can be.")
    if mode == AccessMode.LISTED and not yes:
        _confirm_listed(site)
    request = AccessChange(
        mode=None if mode is None else AccessMode(mode), discovery=Authentication() if no_chap else chap
    )
    _show(site.array.change_access(request), as_json)


def _confirm_listed(site: Site) -> None:
    ended = [each.name for each in site.array.list_initiators() if each.sessions and not each.listed]
    if ended:
        click.echo(f"logged in and not listed: {', '.join(ended)}", err=True)
        click.confirm("end their sessions, and refuse them from now on?", abort=True, err=True)


def _show(rules: AccessRules, as_json: bool) -> None:
    if as_json:
        print_json(rules)
        return
    chap = rules.discovery_chap_user
    print_facts(
        [
            ("mode", rules.mode),
            (
                "discovery",
                f"CHAP, user {chap}" if chap else "without authentication, or by the initiator's own CHAP",
            ),
            ("user of the array", rules.discovery_mutual_user),
        ]
    )
