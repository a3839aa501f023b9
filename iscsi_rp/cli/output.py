"""How answers look: JSON when asked for, tables by rich on a terminal, aligned columns anywhere else."""

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click
from pydantic import BaseModel
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from iscsi_rp.control.appliance_models import Moment
from iscsi_rp.control.client import ApiClient
from iscsi_rp.control.models import Alert, Job
from iscsi_rp.units import format_size, format_time

F = TypeVar("F", bound=Callable[..., Any])


def json_option(command: F) -> F:
    return click.option(
        "--json", "as_json", is_flag=True, help="Print JSON: times in ns since 1970, sizes in bytes."
    )(command)


def yes_option(command: F) -> F:
    return click.option("--yes", is_flag=True, help="Do not ask.")(command)


def print_json(answer: BaseModel | Sequence[BaseModel] | dict[str, BaseModel | None] | None) -> None:
    click.echo(json.dumps(_plain(answer), indent=2))


def _plain(answer: Any) -> Any:
    if isinstance(answer, BaseModel):
        return answer.model_dump(mode="json")
    if isinstance(answer, dict):
        return {key: _plain(value) for key, value in answer.items()}
    if isinstance(answer, list):
        return [_plain(value) for value in answer]
    return answer


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], empty: str) -> None:
    """`empty` is what is said when there are no rows."""
    if not rows:
        click.echo(empty)
        return
    cells = [["-" if cell is None or cell == "" else str(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)
        for row in cells:
            table.add_row(*map(Text, row))
        Console().print(table)
    else:
        print_columns([list(columns), *cells])


def print_facts(facts: Sequence[tuple[str, object]]) -> None:
    """Name and value, a line each; what is None is left out."""
    print_columns([[f"{name}:", str(value)] for name, value in facts if value is not None])


def print_columns(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo(line.rstrip())


def print_alerts(alerts: Sequence[Alert]) -> None:
    for alert in alerts:
        click.secho(f"alert {alert.code}: {alert.text}", fg="yellow")
        click.echo(f"  next: {alert.next_step}")


def moment(value: Moment | None) -> str | None:
    return None if value is None else f"{format_time(value.time_ns)} (position {value.position})"


def amount(value: int, unit: str) -> str:
    return format_size(value) if unit == "bytes" else f"{value} {unit}"


def follow(client: ApiClient, job: Job, title: str, quiet: bool) -> Job:
    """Waits for the job, with a bar on a terminal. One that fails is raised as an Error."""
    if quiet or not sys.stderr.isatty():
        return client.wait(job)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[shown]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task(title, total=None, shown="")
        for now in client.follow(job):
            shown = f"{amount(now.done, now.unit)} of {amount(now.total, now.unit)} {now.message}"
            progress.update(bar, completed=now.done, total=now.total or None, shown=shown)
    return now
