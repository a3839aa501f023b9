"""`iscsi-rp image`: moments of a group, and access to them."""

import click

from iscsi_rp.cli.output import json_option, moment, print_facts, print_json, print_table, yes_option
from iscsi_rp.cli.parameters import group_argument, image_options, selector, time
from iscsi_rp.cli.site import Site, pass_site
from iscsi_rp.control.appliance_models import ImageAccess, ImageList, ImageRequest
from iscsi_rp.errors import NotFoundError, UsageError
from iscsi_rp.units import format_duration, format_size, format_time


@click.group()
def image() -> None:
    """Images: the group as it was at a moment, as LUNs."""


@image.command("list")
@group_argument
@click.option("--since", "since_ns", type=time, help="No image before it.")
@click.option("--until", "until_ns", type=time, help="No image after it.")
@click.option(
    "--limit", type=click.IntRange(0, 1000), default=20, show_default=True, help="At most so many images."
)
@json_option
@pass_site
def list_(
    site: Site, group: str, since_ns: int | None, until_ns: int | None, limit: int, as_json: bool
) -> None:
    """List the stretches of time that have images, and the newest of these."""
    images = site.appliance.list_images(group, since_ns, until_ns, limit)
    if as_json:
        print_json(images)
    else:
        _print_images(images)


def _print_images(images: ImageList) -> None:
    if images.window is None:
        click.echo("no images yet: the first is there when the first synchronisation has ended")
        return
    print_facts([("window", f"{moment(images.window.first)} to {moment(images.window.last)}")])
    rows = [(moment(offered.first), moment(offered.last)) for offered in images.offered]
    print_table(("EVERY MOMENT FROM", "TO"), rows, "no images in this time")
    sample = [(format_time(i.time_ns), i.position, i.bookmark) for i in images.images]
    if sample:
        print_table(("TIME", "POSITION", "BOOKMARK"), sample, "")


@image.command("enable")
@group_argument
@image_options
@click.option(
    "--writable/--read-only", default=True, show_default=True, help="Writes are kept apart from the image."
)
@json_option
@pass_site
def enable(
    site: Site,
    group: str,
    latest: bool,
    when: int | str | None,
    bookmark: str | None,
    position: int | None,
    writable: bool,
    as_json: bool,
) -> None:
    """Serve an image, at once, as LUNs of a target of its own."""
    chosen = selector(latest, when, bookmark, position)
    if chosen is None:
        raise UsageError("which image?", hint="Give one of --latest, --time, --bookmark and --position.")
    access = site.appliance.enable_image(group, ImageRequest(**chosen.model_dump(), writable=writable))
    if as_json:
        print_json(access)
    else:
        _print_access(access)


@image.command("show")
@group_argument
@json_option
@pass_site
def show(site: Site, group: str, as_json: bool) -> None:
    """Show the image that is accessed."""
    access = site.appliance.image_access(group)
    if as_json:
        print_json(access)
    elif access is None:
        raise NotFoundError(
            f"no image of group {group!r} is accessed",
            hint=f"`iscsi-rp image enable {group} --latest` serves one.",
        )
    else:
        _print_access(access)


def _print_access(access: ImageAccess) -> None:
    log = f"{format_size(access.log_bytes_used)} of {format_size(access.log_bytes_capacity)}"
    print_facts(
        [
            ("image", f"{format_time(access.time_ns)}, position {access.position}, of group {access.group}"),
            ("mode", access.mode),
            (
                "writes",
                f"kept apart, {log} used" if access.writable else access.read_only_reason or "refused",
            ),
            ("ready after", format_duration(access.seconds_to_ready)),
        ]
    )
    rows = [
        (lun.volume, format_size(lun.size_bytes), f"iscsi://{access.portal}/{access.iqn}/{lun.lun}", lun.naa)
        for lun in access.luns
    ]
    print_table(("VOLUME", "SIZE", "FOR INITIATORS", "NAA"), rows, "")


@image.command("disable")
@group_argument
@yes_option
@pass_site
def disable(site: Site, group: str, yes: bool) -> None:
    """Stop serving the image. What was written to it is dropped; the image itself stays."""
    _confirm_loss(site, group, yes)
    site.appliance.disable_image(group)
    click.echo(f"group {group}: no image is accessed")


@image.command("undo")
@group_argument
@yes_option
@pass_site
def undo(site: Site, group: str, yes: bool) -> None:
    """Drop what was written to the image, and go on serving it."""
    _confirm_loss(site, group, yes)
    site.appliance.undo_writes(group)
    click.echo(f"group {group}: the image is as it was")


def _confirm_loss(site: Site, group: str, yes: bool) -> None:
    """Asks only where something would be lost."""
    access = None if yes else site.appliance.image_access(group)
    if access is not None and access.log_bytes_used:
        written = format_size(access.log_bytes_used)
        click.confirm(f"drop {written} written to the image of group {group}?", abort=True)
