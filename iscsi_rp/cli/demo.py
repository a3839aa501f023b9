"""`iscsi-rp demo`: ransomware encrypts a file share, and it comes back as it was a moment before."""

import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import click
from rich.console import Console

from iscsi_rp.cli import demo_tools
from iscsi_rp.cli.demo_daemons import Daemons
from iscsi_rp.cli.demo_story import Story
from iscsi_rp.errors import ConflictError


@click.command()
@click.option("--keep", is_flag=True, help="Leave the files behind, and say how to look at them.")
@click.option(
    "--state",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="An empty folder for the files (default: a temporary one).",
)
def demo(keep: bool, directory: Path | None) -> None:
    """Lose a file share to ransomware and get it back, in about two minutes.

    Starts an array and an appliance of its own, on free ports of the loopback. Exits with 0 only when every
    file came back unharmed.
    """
    demo_tools.require_tools()
    with ExitStack() as cleanup:
        before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        cleanup.callback(signal.signal, signal.SIGTERM, before)
        folder = _folder(directory, keep, cleanup)
        daemons = cleanup.enter_context(Daemons(folder))
        Story(daemons, folder, Console(highlight=False)).tell()
        if keep:
            click.echo(f"kept: {folder}; look around by `iscsi-rp --config {daemons.config_path} up`")


def _folder(given: Path | None, keep: bool, cleanup: ExitStack) -> Path:
    """Where the files go. What is temporary is removed at the end, unless it is to be kept."""
    if given is None and not keep:
        return Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="iscsi-rp-demo-")))
    if given is None:
        return Path(tempfile.mkdtemp(prefix="iscsi-rp-demo-"))
    given.mkdir(parents=True, exist_ok=True)
    if any(given.iterdir()):
        raise ConflictError(f"{given} is not empty", hint="Choose a new folder: the demonstration fills it.")
    return given.absolute()
