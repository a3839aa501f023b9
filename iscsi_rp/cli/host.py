"""`iscsi-rp host`: the host-based splitter, which protects disks of the machine that the array runs on."""

import re
from pathlib import Path

import click

from iscsi_rp.cli.output import json_option, print_json, print_table, yes_option
from iscsi_rp.cli.parameters import journal_option, volume_argument
from iscsi_rp.cli.site import Site, pass_site
from iscsi_rp.control.appliance_models import GroupCreate
from iscsi_rp.control.array_models import FrontEnd, Volume, VolumeCreate, VolumeKind
from iscsi_rp.errors import ConflictError, Error, NotFoundError
from iscsi_rp.units import format_size


@click.group()
def host() -> None:
    """The host-based splitter: protects local disks of this machine."""


@host.command("attach")
@click.argument(
    "devices", metavar="DEVICE...", type=click.Path(path_type=Path, exists=True), nargs=-1, required=True
)
@click.option("--group", "group_name", required=True, help="The consistency group to make of them.")
@journal_option
@click.option("--dry-run", is_flag=True, help="Show what would be done.")
@json_option
@pass_site
def attach(
    site: Site,
    devices: tuple[Path, ...],
    group_name: str,
    journal_bytes: int,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Protect disks. Each gets a new one before it, with the same data, for the application to use instead.

    Nothing may use DEVICE meanwhile: unmount it first, and mount the new disk afterwards.
    """
    # Not what a link leads to: /dev/sdX may be another disk after the next start.
    names = {_name(device): device.absolute() for device in devices}
    if len(names) < len(devices):
        raise ConflictError("two of the devices would give their volumes the same name")
    if group_name in {group.name for group in site.appliance.list_groups()}:
        raise ConflictError(
            f"there is a group {group_name!r} already, and its volumes are for good",
            hint="Choose another name, or delete that group first.",
        )
    if dry_run:
        for name, device in names.items():
            click.echo(f"would serve {device} as volume {name}, a disk of this machine")
        click.echo(f"would protect {', '.join(names)} in group {group_name}")
        return
    made: list[Volume] = []
    try:
        made.extend(_serve(site, name, device) for name, device in names.items())
        site.appliance.create_group(
            GroupCreate(name=group_name, volumes=list(names), journal_bytes=journal_bytes)
        )
    except Error:
        for volume in made:
            site.array.delete_volume(volume.name)
        raise
    if as_json:
        print_json(made)
        return
    for volume in made:
        click.echo(f"volume {volume.name}: {volume.path} is now {volume.device or 'a disk to come'}")
        click.echo(f"for applications: /dev/disk/by-id/wwn-0x{volume.naa}")
    click.echo(f"group {group_name}: `iscsi-rp status` shows how its first synchronisation goes")


def _serve(site: Site, name: str, device: Path) -> Volume:
    return site.array.create_volume(
        VolumeCreate(name=name, kind=VolumeKind.BLOCK, path=device, front_end=FrontEnd.LOCAL)
    )


@host.command("detach")
@volume_argument
@click.option("--force", is_flag=True, help="Even while its disk is in use.")
@yes_option
@pass_site
def detach(site: Site, name: str, force: bool, yes: bool) -> None:
    """Take the splitter away from a disk; its group has to be deleted before. The data stays on DEVICE."""
    volume = site.array.volume(name)
    if volume.front_end is not FrontEnd.LOCAL:
        raise NotFoundError(
            f"volume {name!r} is no disk of this machine", hint="`iscsi-rp host list` shows what is."
        )
    if not yes:
        click.confirm(f"take the splitter from {volume.path}?", abort=True)
    site.array.delete_volume(name, force=force)
    click.echo(f"{volume.path}: use it directly from now on")


@host.command("list")
@json_option
@pass_site
def list_(site: Site, as_json: bool) -> None:
    """List the disks that are protected, and those in front of them."""
    status = site.array.status()
    volumes = [volume for volume in status.volumes if volume.front_end is FrontEnd.LOCAL]
    if as_json:
        print_json(volumes)
        return
    modes = {splitter.group: splitter.mode for splitter in status.groups}
    rows = [
        (v.name, v.path, v.device, format_size(v.size_bytes), v.group, modes.get(v.group or ""), v.state)
        for v in volumes
    ]
    columns = ("VOLUME", "DEVICE", "DISK", "SIZE", "GROUP", "SPLITTER", "STATE")
    print_table(columns, rows, "no disks: protect one by `iscsi-rp host attach /dev/DEVICE --group GROUP`")


def _name(device: Path) -> str:
    """A volume's name for `/dev/vg/data` or `/dev/disk/by-id/wwn-0x5000`: its last part."""
    return re.sub(r"[^a-z0-9._-]", "-", device.name.lower())[:63]
