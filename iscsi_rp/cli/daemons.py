"""`iscsi-rp array run` and `iscsi-rp appliance run`: one daemon, in the foreground."""

import click

from iscsi_rp.cli.site import Site, pass_site


@click.group()
def array() -> None:
    """The array: serves volumes by iSCSI, and splits their writes."""


@array.command("run")
@click.pass_context
@pass_site
def run_array(site: Site, context: click.Context) -> None:
    """Run the array in the foreground, until SIGTERM or ^C."""
    from iscsi_rp.array.daemon import main

    context.exit(main(site.config))


@click.group()
def appliance() -> None:
    """The appliance: journals groups, keeps copies, serves images."""


@appliance.command("run")
@click.pass_context
@pass_site
def run_appliance(site: Site, context: click.Context) -> None:
    """Run the appliance in the foreground, until SIGTERM or ^C."""
    from iscsi_rp.appliance.daemon import main

    context.exit(main(site.config))
