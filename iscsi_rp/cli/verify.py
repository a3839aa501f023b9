"""`iscsi-rp verify`: is the copy what the volume is?"""

import click

from iscsi_rp.cli.output import follow, json_option, print_json
from iscsi_rp.cli.parameters import group_argument
from iscsi_rp.cli.site import Site, pass_site
from iscsi_rp.control.models import Job
from iscsi_rp.errors import Error, VerifyError
from iscsi_rp.units import format_size


@click.command()
@group_argument
@json_option
@pass_site
def verify(site: Site, group: str, as_json: bool) -> None:
    """Compare each volume of a group with its copy, by hashes. Exits with 7 when they differ."""
    job = follow(site.array, site.array.verify(group), f"verifying {group}", quiet=as_json)
    compared, different = _figure(job, "compared_bytes"), _figure(job, "different_bytes")
    if as_json:
        print_json(job)
    if not job.result.get("equal"):
        raise VerifyError(
            f"group {group!r}: {format_size(different)} of {format_size(compared)} differ from the copy",
            hint="`iscsi-rp status` shows whether the group is SPLITTING; if it is, please report this.",
        )
    if not as_json:
        click.echo(f"group {group}: equal, {format_size(compared)} compared")


def _figure(job: Job, name: str) -> int:
    value = job.result.get(name)
    if not isinstance(value, int):
        raise Error(f"the verification has no figure {name!r}")
    return value
