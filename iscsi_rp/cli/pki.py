"""`iscsi-rp pki`: the site's certificate authority. It works on files, and wants no daemon."""

import click

from iscsi_rp.cli.output import json_option, print_json, print_table, yes_option
from iscsi_rp.cli.site import Site, complete, pass_site
from iscsi_rp.clock import utc_ns
from iscsi_rp.control.models import Answer
from iscsi_rp.link.certificates import AUTHORITY_DAYS
from iscsi_rp.link.pki import (
    AUTHORITY,
    AUTHORITY_KEY,
    REVOKED,
    VALIDITY_DAYS,
    Authority,
    Identity,
    Role,
    State,
)
from iscsi_rp.units import format_time


class _Certificate(Answer):
    role: Role
    name: str
    serial: str
    "Hexadecimal."
    not_before_ns: int
    not_after_ns: int
    revoked_ns: int | None
    state: State


def _valid_names(site: Site, context: click.Context) -> list[str]:
    now_ns = utc_ns()
    issued = Authority.open(site.config.pki_folder).certificates()
    valid = [each.identity for each in issued if each.state(now_ns) is State.VALID]
    return sorted({each.name for each in valid if each.role == context.params.get("role")})


role_argument = click.argument("role", metavar="ROLE", type=click.Choice([role.value for role in Role]))
name_argument = click.argument("name", shell_complete=complete(_valid_names))


@click.group()
def pki() -> None:
    """Certificates, by which array and appliance on two machines know each other."""


@pki.command("init")
@click.option("--name", default="site", show_default=True, metavar="SITE", help="A name of it, for people.")
@pass_site
def init(site: Site, name: str) -> None:
    """Make the site's certificate authority, on one machine of the site."""
    folder = site.config.pki_folder
    Authority.create(folder, name)
    click.echo(f"authority of {name}: made in {folder}")
    click.echo(f"  keep {folder / AUTHORITY_KEY} secret, and a copy of the folder: no other machine has them")
    click.echo("  next: `iscsi-rp pki issue array NAME` and `iscsi-rp pki issue appliance NAME`")


@pki.command("issue")
@role_argument
@name_argument
@click.option(
    "--days",
    type=click.IntRange(1, AUTHORITY_DAYS),
    default=VALIDITY_DAYS,
    show_default=True,
    help="How long it is valid.",
)
@click.option("--renew", is_flag=True, help="Another one; those that there are stay valid.")
@pass_site
def issue(site: Site, role: str, name: str, days: int, renew: bool) -> None:
    """Issue a certificate, with a new key, to an array or an appliance by its name."""
    identity = Identity(Role(role), name)
    authority = Authority.open(site.config.pki_folder)
    issued = authority.issue(identity, days, renew=renew)
    click.echo(
        f"{identity}: certificate {issued.serial_text}, valid until {format_time(issued.not_after_ns)}"
    )
    click.echo(f"copy these three files to the machine of {identity}, into its folder `pki`:")
    for file in (AUTHORITY, REVOKED, identity.file_name):
        click.echo(f"  {authority.folder / file}")
    click.echo(f"{identity.file_name} has the private key: mode 0600 there, and remove it here afterwards")


@pki.command("list")
@json_option
@pass_site
def list_(site: Site, as_json: bool) -> None:
    """List the certificates that were issued."""
    now_ns = utc_ns()
    found = [
        _Certificate(
            role=each.identity.role,
            name=each.identity.name,
            serial=each.serial_text,
            not_before_ns=each.not_before_ns,
            not_after_ns=each.not_after_ns,
            revoked_ns=each.revoked_ns,
            state=each.state(now_ns),
        )
        for each in Authority.open(site.config.pki_folder).certificates()
    ]
    if as_json:
        print_json(found)
        return
    rows = [(c.role, c.name, c.serial, format_time(c.not_after_ns), c.state) for c in found]
    columns = ("ROLE", "NAME", "SERIAL", "VALID UNTIL", "STATE")
    print_table(columns, rows, "nothing was issued: `iscsi-rp pki issue array NAME` does")


@pki.command("revoke")
@role_argument
@name_argument
@yes_option
@pass_site
def revoke(site: Site, role: str, name: str, yes: bool) -> None:
    """Revoke every valid certificate of a name, for ever."""
    identity = Identity(Role(role), name)
    authority = Authority.open(site.config.pki_folder)
    if not yes and (count := len(authority.valid(identity))):
        click.confirm(f"revoke {_certificates(count)} of {identity}? This cannot be undone", abort=True)
    lost = authority.revoke(identity)
    click.echo(f"{identity}: {_certificates(len(lost))} revoked")
    click.echo(f"copy {authority.folder / REVOKED} into the folder `pki` of every machine of the site:")
    click.echo("  until a machine has it, the certificate still counts there; its daemon notices in seconds")


def _certificates(count: int) -> str:
    return f"{count} certificate{'s' if count != 1 else ''}"
