"""docs/cli.md and docs/management.md are true: every command, exit code, route and metric stands in them."""

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from iscsi_rp.cli.main import main
from iscsi_rp.control.appliance_api import appliance_app
from iscsi_rp.control.array_api import array_app
from iscsi_rp.control.config import Config
from iscsi_rp.errors import Error
from tests.unit.control.services import MemoryAppliance, MemoryArray

DOCS = Path(__file__).parents[3] / "docs"
CLI = (DOCS / "cli.md").read_text()
MANAGEMENT = (DOCS / "management.md").read_text()


def commands(
    command: click.Command, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            yield from commands(below, (*path, name))


ALL = list(commands(main))


@pytest.mark.parametrize(("path", "command"), ALL, ids=[" ".join(path) or "iscsi-rp" for path, _ in ALL])
def test_every_command_has_help(path: tuple[str, ...], command: click.Command) -> None:
    result = CliRunner().invoke(main, [*path, "--help"])
    assert result.exit_code == 0, result.output
    assert command.help
    assert command.help.splitlines()[0] in " ".join(result.output.split())
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not isinstance(parameter.type, click.Choice):
            assert parameter.help, f"{path}: {parameter.name} has no help"


def test_every_command_stands_in_the_docs_and_no_other() -> None:
    leaves = {
        " ".join(["iscsi-rp", *path, *(p.make_metavar(click.Context(command)) for p in arguments(command))])
        for path, command in ALL
        if not isinstance(command, click.Group)
    }
    documented = set(re.findall(r"^\| `(iscsi-rp [^`]*)` \|", CLI, re.MULTILINE))
    assert documented == leaves


def arguments(command: click.Command) -> list[click.Parameter]:
    return [p for p in command.params if isinstance(p, click.Argument) and p.required]


@pytest.mark.parametrize(
    "path", [path for path, _ in ALL if path[-1:] in (("list",), ("show",), ("status",))]
)
def test_every_query_takes_json(path: tuple[str, ...]) -> None:
    assert "--json" in CliRunner().invoke(main, [*path, "--help"]).output


def test_every_exit_code_stands_in_the_docs() -> None:
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", CLI, re.MULTILINE)}
    assert documented == {0, *(error.exit_code for error in errors(Error))}


def errors(error: type[Error]) -> Iterator[type[Error]]:
    yield error
    for below in error.__subclasses__():
        yield from errors(below)


def test_every_route_stands_in_the_docs() -> None:
    array = MemoryArray()
    for app in (array_app(array), appliance_app(MemoryAppliance(array))):
        for path, methods in app.openapi()["paths"].items():
            line = next((line for line in MANAGEMENT.splitlines() if f" {path}`" in line), "")
            for method in methods:
                assert method.upper() in line, f"{method.upper()} {path} is not in docs/management.md"


def test_the_configuration_in_the_docs_is_the_default(tmp_path: Path) -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", MANAGEMENT, re.DOTALL)
    uncommented = re.sub(r" +#.*", "", text)
    assert uncommented == Config(state=Path("/var/lib/iscsi-rp")).toml()
