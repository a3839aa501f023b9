"""`iscsi-rp up`: array and appliance as two processes, watched from the foreground."""

import asyncio
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

import click

from iscsi_rp.cli.site import Site, pass_site
from iscsi_rp.control.client import ApiClient
from iscsi_rp.control.config import Config
from iscsi_rp.errors import ConflictError, UnreachableError

POLL_S: Final = 0.1
STOP_TIMEOUT_S: Final = 30.0


@click.command()
@click.option("--config", type=click.Path(path_type=Path), help="As before the command.")
@click.option("--state", type=click.Path(path_type=Path), help="As before the command.")
@click.pass_context
@pass_site
def up(site: Site, context: click.Context, config: Path | None, state: Path | None) -> None:
    """Start array and appliance here, until ^C. Nothing is restarted: if one ends, the other is stopped."""
    with closing(Site(config or site.config_path, state or site.state)) as chosen:
        context.exit(asyncio.run(_up(chosen)))


async def _up(site: Site) -> int:
    clients: tuple[ApiClient, ...] = (site.array, site.appliance)
    for client in clients:
        if await asyncio.to_thread(_answers, client):
            raise ConflictError(
                f"the {client.daemon} is running already", hint="Stop it first, or choose another --state."
            )
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    daemons = {name: await _start(site, name) for name in ("appliance", "array")}
    ends = {asyncio.create_task(process.wait()): name for name, process in daemons.items()}
    stopped = asyncio.create_task(stop.wait())
    ready = asyncio.create_task(_ready(clients))
    try:
        await asyncio.wait({ready, stopped, *ends}, return_when=asyncio.FIRST_COMPLETED)
        if ready.done():
            ready.result()
            _welcome(site.config, " ".join(["iscsi-rp", *site.arguments()]))
            await asyncio.wait({stopped, *ends}, return_when=asyncio.FIRST_COMPLETED)
        code = next((_report(name, end.result()) for end, name in ends.items() if end.done()), 0)
    finally:
        ready.cancel()
        stopped.cancel()
        # The array first: its hosts are logged out while their writes still find the appliance.
        for name in ("array", "appliance"):
            await _stop(daemons[name], name)
    return code


async def _start(site: Site, name: str) -> Process:
    # In a process group of its own: ^C of the terminal reaches a daemon through us only, and once.
    command = [sys.executable, "-m", "iscsi_rp", *site.arguments(), name, "run"]
    return await asyncio.create_subprocess_exec(*command, process_group=0)


async def _ready(clients: Sequence[ApiClient]) -> None:
    for client in clients:
        while not await asyncio.to_thread(_answers, client):
            await asyncio.sleep(POLL_S)


def _answers(client: ApiClient) -> bool:
    with suppress(UnreachableError):
        client.metrics()
        return True
    return False


def _report(name: str, code: int) -> int:
    """A daemon that ends by itself, even in peace, leaves the other one alone: that is a failure."""
    why = f"by {signal.Signals(-code).name}" if code < 0 else f"with code {code}"
    click.echo(f"error: the {name} ended {why}; stopping", err=True)
    return code if code > 0 else 1


async def _stop(process: Process, name: str) -> None:
    if process.returncode is not None:
        return
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
    except TimeoutError:
        click.echo(f"error: the {name} did not stop within {STOP_TIMEOUT_S:.0f} s; killing it", err=True)
        process.kill()
        await process.wait()


def _welcome(config: Config, command: str) -> None:
    click.echo(
        f"array {config.array.name}: {config.array.iqn} at {', '.join(map(str, config.array.portals))}"
    )
    images = ", ".join(map(str, config.appliance.portals))
    click.echo(f"appliance {config.appliance.name}: images at {images}")
    click.echo(f"state: {config.state}")
    click.echo(f"next, in another terminal: {command} volume create data --size 1GiB")
