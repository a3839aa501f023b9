"""The `iscsi-rp` command: global options, and how errors end it."""

import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

from iscsi_rp.cli.access import access
from iscsi_rp.cli.bookmark import bookmark
from iscsi_rp.cli.config import config
from iscsi_rp.cli.daemons import appliance, array
from iscsi_rp.cli.demo import demo
from iscsi_rp.cli.group import group
from iscsi_rp.cli.host import host
from iscsi_rp.cli.image import image
from iscsi_rp.cli.initiator import initiator
from iscsi_rp.cli.lio import lio
from iscsi_rp.cli.pki import pki
from iscsi_rp.cli.recover import recover_production
from iscsi_rp.cli.session import session
from iscsi_rp.cli.site import Site
from iscsi_rp.cli.status import status
from iscsi_rp.cli.up import up
from iscsi_rp.cli.verify import verify
from iscsi_rp.cli.volume import volume
from iscsi_rp.control.error_json import complaint
from iscsi_rp.errors import Error, UsageError


class Commands(click.Group):
    def make_context(self, *args: Any, **settings: Any) -> click.Context:
        try:
            return super().make_context(*args, **settings)
        except click.exceptions.NoArgsIsHelpError:
            raise
        except click.UsageError as error:  # of an option before the command
            _show_usage(error, "iscsi-rp")
            raise click.exceptions.Exit(UsageError.exit_code) from None

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Error as error:
            _show(error)
            ctx.exit(error.exit_code)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            ctx.exit(UsageError.exit_code)
        except click.UsageError as error:
            _show_usage(error, ctx.command_path)
            ctx.exit(UsageError.exit_code)
        except click.Abort:
            if not sys.stdin.isatty():
                click.echo(err=True)  # the question stands there without an answer
            _show(
                Error("nothing was done", hint="--yes answers questions." if not sys.stdin.isatty() else None)
            )
            ctx.exit(Error.exit_code)
        except ValidationError as error:
            _show(UsageError(complaint(error.errors())))
            ctx.exit(UsageError.exit_code)


def _show_usage(error: click.UsageError, command: str) -> None:
    command = error.ctx.command_path if error.ctx else command
    _show(UsageError(error.format_message(), hint=f"`{command} --help` says how it is used."))


def _show(error: Error) -> None:
    for line in error.message.splitlines():
        click.echo(f"error: {line}", err=True)
    if error.hint:
        click.echo(f"hint: {error.hint}", err=True)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--config", type=click.Path(path_type=Path), help="The configuration file.")
@click.option(
    "--state", type=click.Path(path_type=Path), help="The folder of the daemons' state; wins over the file."
)
@click.version_option(package_name="iscsi-rp")
@click.pass_context
def main(context: click.Context, config: Path | None, state: Path | None) -> None:
    """An iSCSI target with a write splitter, and the appliance that gives back any moment.

    `iscsi-rp demo` shows it. `iscsi-rp up` starts both daemons here; the other commands talk to them.
    """
    context.obj = context.with_resource(closing(Site(config, state)))


for command in (
    up,
    status,
    volume,
    group,
    bookmark,
    image,
    recover_production,
    verify,
    session,
    initiator,
    access,
    lio,
    host,
    pki,
    config,
    array,
    appliance,
    demo,
):
    main.add_command(command)
