"""`iscsi-rp volume`: what the array serves."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from iscsi_rp.cli.latency import print_latencies
from iscsi_rp.cli.output import json_option, print_facts, print_json, print_table, yes_option
from iscsi_rp.cli.parameters import ABSOLUTE_PATH, size, volume_argument
from iscsi_rp.cli.site import Site, pass_site
from iscsi_rp.control.array_models import (
    FrontEnd,
    Processor,
    Sector,
    Volume,
    VolumeChange,
    VolumeCreate,
    VolumeKind,
    VolumeMove,
)
from iscsi_rp.errors import UsageError
from iscsi_rp.units import format_size

F = TypeVar("F", bound=Callable[..., Any])


def owner_option(help_text: str) -> Callable[[F], F]:
    return click.option("--owner", type=click.Choice([sp.value for sp in Processor]), help=help_text)


def front_end_option(**settings: Any) -> Callable[[F], F]:
    return click.option("--front-end", type=click.Choice([each.value for each in FrontEnd]), **settings)


@click.group()
def volume() -> None:
    """Volumes: what hosts see as LUNs."""


@volume.command("create")
@click.argument("name", metavar="VOLUME")
@click.option("--size", "size_bytes", type=size, help="As 10GiB. Default: as large as what is at --path.")
@click.option(
    "--kind", type=click.Choice([kind.value for kind in VolumeKind]), default="file", show_default=True
)
@click.option("--path", type=ABSOLUTE_PATH, help="The store. Default: a file below the array's state.")
@click.option("--preallocate", is_flag=True, help="Take the space now, and not as it is written.")
@click.option(
    "--sector", type=click.Choice([sector.value for sector in Sector]), default="512e", show_default=True
)
@owner_option("The storage processor by which it is best reached. Default: A.")
@front_end_option(default="embedded", show_default=True, help="What shows it to hosts.")
@json_option
@pass_site
def create(
    site: Site,
    name: str,
    size_bytes: int | None,
    kind: str,
    path: Path | None,
    preallocate: bool,
    sector: str,
    owner: str | None,
    front_end: str,
    as_json: bool,
) -> None:
    """Make a volume, or serve what is at --path."""
    request = VolumeCreate.model_validate(
        {
            "name": name,
            "size_bytes": size_bytes,
            "kind": kind,
            "path": path,
            "preallocate": preallocate,
            "sector": sector,
            "owner": owner or Processor.A,
            "front_end": front_end,
        }
    )
    made = site.array.create_volume(request)
    if as_json:
        print_json(made)
    else:
        click.echo(f"volume {made.name}: {format_size(made.size_bytes)}, LUN {made.lun}")
        _print_ways(site, made)


@volume.command("list")
@click.option("--latency", is_flag=True, help="Show how long commands took since the array started.")
@json_option
@pass_site
def list_(site: Site, latency: bool, as_json: bool) -> None:
    """List the volumes."""
    if latency:
        figures = site.array.latencies().volumes
        if as_json:
            print_json(figures)
        else:
            print_latencies(("VOLUME",), (((v.volume,), v) for v in figures))
        return
    volumes = site.array.list_volumes()
    if as_json:
        print_json(volumes)
    else:
        print_volumes(volumes)


@volume.command("show")
@volume_argument
@json_option
@pass_site
def show(site: Site, name: str, as_json: bool) -> None:
    """Show one volume."""
    found = site.array.volume(name)
    if as_json:
        print_json(found)
        return
    print_facts(
        [
            ("volume", found.name),
            ("state", found.state),
            ("error", found.error),
            ("size", f"{format_size(found.size_bytes)} in blocks of {found.block_size} bytes"),
            ("physical blocks", f"{found.physical_block_size} bytes"),
            ("owner", f"SP {found.owner}"),
            ("front end", found.front_end),
            ("disk", found.device),
            ("LUN", found.lun),
            ("NAA", found.naa),
            ("UUID", found.uuid),
            ("kind", found.kind),
            ("path", found.path),
            ("group", found.group or "none"),
        ]
    )


@volume.command("set")
@volume_argument
@owner_option("The storage processor by which it is best reached.")
@json_option
@pass_site
def set_(site: Site, name: str, owner: str | None, as_json: bool) -> None:
    """Change a volume, while hosts use it."""
    if owner is None:
        raise UsageError("nothing is to be changed", hint="Give --owner.")
    changed = site.array.change_volume(name, VolumeChange(owner=Processor(owner)))
    if as_json:
        print_json(changed)
    else:
        click.echo(f"volume {name}: owned by SP {changed.owner}")


@volume.command("resize")
@volume_argument
@click.argument("size_bytes", metavar="SIZE", type=size)
@click.option("--preallocate", is_flag=True, help="Take the space now, and not as it is written.")
@json_option
@pass_site
def resize(site: Site, name: str, size_bytes: int, preallocate: bool, as_json: bool) -> None:
    """Make a volume larger, while hosts use it; they are told."""
    changed = site.array.change_volume(name, VolumeChange(size_bytes=size_bytes, preallocate=preallocate))
    if as_json:
        print_json(changed)
    else:
        click.echo(f"volume {name}: {format_size(changed.size_bytes)}")


@volume.command("move")
@volume_argument
@front_end_option(required=True, help="What is to show it.")
@click.option("--force", is_flag=True, help="Even while hosts use it: they lose it.")
@json_option
@pass_site
def move(site: Site, name: str, front_end: str, force: bool, as_json: bool) -> None:
    """Have another front end show a volume, with its data, its NAA and what is registered for good."""
    request = VolumeMove(front_end=FrontEnd(front_end), force=force)
    moved = site.array.move_volume(name, request)
    if as_json:
        print_json(moved)
    else:
        click.echo(f"volume {name}: shown by the front end {moved.front_end}")
        _print_ways(site, moved)


def _print_ways(site: Site, volume: Volume) -> None:
    """How hosts reach it."""
    if volume.front_end is FrontEnd.LOCAL:
        click.echo(f"on this machine: {volume.device or f'/dev/disk/by-id/wwn-0x{volume.naa}'}")
        return
    status = site.array.status()
    iqn, portals = status.iqn, status.portals
    if volume.front_end is FrontEnd.LIO and status.kernel is not None:
        iqn, portals = status.kernel.iqn, status.kernel.portals
    for portal in portals:
        click.echo(f"for initiators: iscsi://{portal.address}/{iqn}/{volume.lun}")


@volume.command("delete")
@volume_argument
@click.option("--destroy", is_flag=True, help="Remove its file too. What is in it is lost.")
@click.option("--force", is_flag=True, help="Even while initiators use it.")
@click.option("--dry-run", is_flag=True, help="Show what would be lost, and for whom.")
@yes_option
@pass_site
def delete(site: Site, name: str, destroy: bool, force: bool, dry_run: bool, yes: bool) -> None:
    """Stop serving a volume. Its store stays, unless --destroy is given."""
    found = site.array.volume(name)
    if dry_run:
        _print_deletion(site, found, destroy)
        return
    if not yes:
        lost = "and destroy what is in it" if destroy else "(its store stays)"
        click.confirm(f"delete volume {name} {lost}?", abort=True)
    site.array.delete_volume(name, destroy, force)
    click.echo(f"volume {name}: deleted" + (f", {_fate(found, destroy)}" if found.path else ""))


def _fate(volume: Volume, destroy: bool) -> str:
    """What becomes of its store."""
    gone = destroy and volume.kind is VolumeKind.FILE
    return f"{volume.path or 'memory'} {'is removed' if gone else 'stays'}"


def _print_deletion(site: Site, found: Volume, destroy: bool) -> None:
    print_facts(
        [
            ("volume", f"{found.name}, {format_size(found.size_bytes)}, LUN {found.lun}"),
            ("store", _fate(found, destroy)),
            ("in use by", ", ".join(users(site, [found.name])) or "nobody"),
            ("group", found.group and f"{found.group}: to be deleted first"),
        ]
    )


def users(site: Site, volumes: Sequence[str]) -> list[str]:
    """The initiators that are logged in and see one of these volumes."""
    return [
        each.name
        for each in site.array.list_initiators()
        if each.sessions and any(lun.volume in volumes for lun in each.luns)
    ]


def print_volumes(volumes: Sequence[Volume]) -> None:
    rows = [
        (v.name, v.lun, format_size(v.size_bytes), v.owner, v.kind, v.group, v.state, v.error or v.path)
        for v in volumes
    ]
    columns = ("VOLUME", "LUN", "SIZE", "SP", "KIND", "GROUP", "STATE", "STORE")
    print_table(columns, rows, "no volumes: make one by `iscsi-rp volume create NAME --size 1GiB`")
