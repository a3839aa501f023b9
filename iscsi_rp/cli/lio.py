"""`iscsi-rp lio`: what the kernel's target has of the array's volumes."""

import click

from iscsi_rp.cli.output import json_option, print_facts, print_json
from iscsi_rp.cli.site import Site, pass_site
from iscsi_rp.control.array_models import KernelTarget
from iscsi_rp.errors import ConflictError


@click.group()
def lio() -> None:
    """The kernel's target (LIO): shows volumes of the front ends lio and local."""


@lio.command("show")
@json_option
@pass_site
def show(site: Site, as_json: bool) -> None:
    """Show what it serves, and whether it is as it should be."""
    kernel = _kernel(site)
    if as_json:
        print_json(kernel)
    else:
        print_kernel(kernel)


@lio.command("apply")
@click.option("--dry-run", is_flag=True, help="Show what would be changed.")
@pass_site
def apply(site: Site, dry_run: bool) -> None:
    """Make it what it should be. What others have made in LIO is not touched."""
    steps = _kernel(site).differs if dry_run else site.array.apply_to_lio()
    for step in steps:
        click.echo(f"would {step}" if dry_run else step)
    if not steps:
        click.echo("LIO is as it should be: nothing to change")


def _kernel(site: Site) -> KernelTarget:
    kernel = site.array.status().kernel
    if kernel is None:
        raise ConflictError(
            "no volume is shown by the kernel's target",
            hint="Make one by `iscsi-rp volume create NAME --size SIZE --front-end lio`.",
        )
    return kernel


def print_kernel(kernel: KernelTarget) -> None:
    portals = ", ".join(f"{portal.address} (SP {portal.processor})" for portal in kernel.portals)
    print_facts(
        [
            ("kernel target", f"{kernel.iqn} at {portals}" if portals else "made by others, as in targetcli"),
            ("backstores served", ", ".join(kernel.volumes) or "none"),
            ("targetcli", kernel.bus or None),
            ("error", kernel.error),
            *(("to be changed", text) for text in kernel.differs),
        ]
    )
