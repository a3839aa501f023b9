"""Kinds of values on a command line, and the options that several commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from iscsi_rp.cli.site import complete_bookmark, complete_group, complete_volume
from iscsi_rp.clock import utc_ns
from iscsi_rp.control.appliance_models import ImageSelector
from iscsi_rp.errors import UsageError
from iscsi_rp.units import parse_size, parse_time

F = TypeVar("F", bound=Callable[..., Any])


def size(text: str) -> int:
    """Bytes: the type of an option."""
    try:
        return parse_size(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def time(text: str) -> int:
    """An ISO 8601 time or `30s ago`, as nanoseconds since 1970 UTC: the type of an option."""
    try:
        return parse_time(text, utc_ns())
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def time_or_latest(text: str) -> int | str:
    return text if text == "latest" else time(text)


ABSOLUTE_PATH: Final = click.Path(path_type=Path, resolve_path=True)

journal_option = click.option(
    "--journal",
    "journal_bytes",
    type=size,
    default="10GiB",
    show_default=True,
    help="The journal's capacity.",
)
group_argument = click.argument("group", shell_complete=complete_group)
volume_argument = click.argument("name", metavar="VOLUME", shell_complete=complete_volume)

_TIME_HELP: Final = "The newest image at or before it: ISO 8601, local unless it has a zone, or '30s ago'."


def image_options(command: F) -> F:
    """`--latest`, `--time`, `--bookmark`, `--position`: to be read by `selector`."""
    for option in (
        click.option(
            "--position", type=click.IntRange(min=0), help="The image at this position of the history."
        ),
        click.option(
            "--bookmark", metavar="NAME", shell_complete=complete_bookmark, help="The bookmark's image."
        ),
        click.option("--time", "when", type=time_or_latest, metavar="TIME", help=_TIME_HELP),
        click.option("--latest", is_flag=True, help="The newest image."),
    ):
        command = option(command)
    return command


def selector(
    latest: bool, when: int | str | None, bookmark: str | None, position: int | None
) -> ImageSelector | None:
    """What was chosen by `image_options`; None where nothing was. UsageError: more than one."""
    ways = (latest or None, when, bookmark, position)
    given = sum(way is not None for way in ways)
    if given > 1:
        raise UsageError("choose an image by one of --latest, --time, --bookmark and --position only")
    if not given:
        return None
    if isinstance(when, int):
        return ImageSelector(time_ns=when)
    return ImageSelector(latest=latest or when == "latest", bookmark=bookmark, position=position)
