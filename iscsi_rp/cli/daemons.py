"""`iscsi-rp array` and `iscsi-rp appliance`: one daemon, in the foreground, and what an array serves how."""

import click

from iscsi_rp.cli.lio import print_kernel
from iscsi_rp.cli.output import json_option, print_alerts, print_facts, print_json, print_table
from iscsi_rp.cli.site import Site, pass_site
from iscsi_rp.control.array_models import FrontEnd


@click.group()
def array() -> None:
    """The array: serves volumes by iSCSI, and splits their writes."""


@array.command("status")
@json_option
@pass_site
def status(site: Site, as_json: bool) -> None:
    """Show by which front end each volume is served."""
    found = site.array.status()
    if as_json:
        print_json(found)
        return
    portals = ", ".join(f"{portal.address} (SP {portal.processor})" for portal in found.portals)
    print_facts([("array", found.name), ("embedded target", f"{found.iqn} at {portals}")])
    if found.kernel is not None:
        print_kernel(found.kernel)
    rows = [
        (v.name, v.front_end, "-" if v.front_end is FrontEnd.LOCAL else v.lun, v.device, v.naa, v.group)
        for v in found.volumes
    ]
    print_table(("VOLUME", "FRONT END", "LUN", "DISK", "NAA", "GROUP"), rows, "no volumes")
    print_alerts(found.alerts)


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
