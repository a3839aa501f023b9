"""`iscsi-rp config`: what is in force, and whether a file is right."""

from pathlib import Path

import click

from iscsi_rp.cli.output import json_option, print_json
from iscsi_rp.cli.site import Site, pass_site
from iscsi_rp.control.config import find_config, load_config


@click.group()
def config() -> None:
    """The configuration of the daemons."""


@config.command("show")
@json_option
@pass_site
def show(site: Site, as_json: bool) -> None:
    """Print what is in force, defaults included, as TOML."""
    if as_json:
        print_json(site.config)
    else:
        click.echo(f"# {find_config(site.config_path) or 'no file: these are the defaults'}")
        click.echo(site.config.toml(), nl=False)


@config.command("check")
@click.argument("file", type=click.Path(path_type=Path), required=False)
@pass_site
def check(site: Site, file: Path | None) -> None:
    """Check FILE, or the file that would be used. Exits with 3 when something is wrong."""
    path = find_config(file or site.config_path)
    load_config(path, site.state)
    click.echo(f"{path}: ok" if path else "no file: the defaults hold")
