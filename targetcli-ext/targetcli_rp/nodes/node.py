"""What all nodes have in common: children and status are what the daemons say when one looks."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Callable, ClassVar, Optional

from targetcli_rp.api import Api
from targetcli_rp.errors import RpError
from targetcli_rp.shell import ExecutionError, ShellNode
from targetcli_rp.site import Site
from targetcli_rp.units import format_size

Summary = tuple[str, Optional[bool]]
"A line of text, and whether it is well; None where that is not the question."
Offers = dict[str, Callable[[Any], Iterable[str]]]

_ANSWERS = ("true", "false")
_FLAGS: Offers = dict.fromkeys(
    ("destroy", "dry_run", "force", "latest", "preallocate", "writable", "yes"), lambda _: _ANSWERS
)


class Node(ShellNode):  # type: ignore[misc]
    offers: ClassVar[Offers] = {}
    "What completes a parameter, by its name."

    @property
    def site(self) -> Site:
        site: Site = self.parent.site
        return site

    def wanted(self) -> Mapping[str, Callable[[str, Node], Node]]:
        """The children that there are now: name and class. May raise `RpError`."""
        return {}

    def shown(self) -> Summary:
        """What stands behind its name in `ls`. May raise `RpError`."""
        return ("", None)

    # --- what configshell asks ---

    def summary(self) -> Summary:
        try:
            return self.shown()
        except RpError as error:
            return (error.brief, False)
        except KeyError as error:
            return (str(_other_version(error)), False)

    def _list_children(self) -> set[Node]:
        try:
            wanted = self.wanted()
        except (RpError, KeyError):
            wanted = {}  # the summary says why
        for child in list(self._children):
            if child.name not in wanted:
                self.remove_child(child)
        for name in wanted.keys() - {child.name for child in self._children}:
            wanted[name](name, self)
        children: set[Node] = self._children
        return children

    children = property(_list_children)

    def get_child(self, name: str) -> Any:
        self._list_children()
        return super().get_child(name)

    def execute_command(
        self, command: str, pparams: Sequence[str] = (), kparams: Mapping[str, str] | None = None
    ) -> Any:
        self.site.forget()
        try:
            return super().execute_command(command, list(pparams), dict(kparams or {}))
        except (RpError, ValueError) as error:
            raise ExecutionError(str(error)) from error
        except KeyError as error:
            raise ExecutionError(str(_other_version(error))) from error
        finally:
            self.site.forget()

    def get_completion_method(self, command: str) -> Any:
        return super().get_completion_method(command) or self._complete

    def _complete(self, parameters: Mapping[str, str], text: str, current_param: str) -> list[str]:
        """Names that begin with what was typed; none when the daemon is not there: completion is silent."""
        offer = self.offers.get(current_param) or _FLAGS.get(current_param)
        try:
            names = sorted(offer(self)) if offer else []
        except (RpError, KeyError):
            names = []
        found = [name for name in names if name.startswith(text)]
        return [f"{found[0]} "] if len(found) == 1 and not found[0].endswith("=") else found

    def refresh(self) -> None:
        self.site.forget()

    def ui_command_refresh(self) -> None:
        """
        Asks the daemons anew. Each command does so by itself.
        """
        self.refresh()

    def ui_command_status(self) -> None:
        """
        Displays the node's status, as ls does.
        """
        self.say(f"Status for {self.path}: {self.summary()[0]}")

    # --- what commands share ---

    def say(self, text: str) -> None:
        self.shell.con.display(text)

    def say_table(self, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        cells = [["-" if cell is None or cell == "" else str(cell) for cell in row] for row in rows]
        widths = [max(map(len, column)) for column in zip(columns, *cells)]
        for row in (columns, *cells):
            self.say("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())

    def say_facts(self, facts: Sequence[tuple[str, object]]) -> None:
        """Name and value, a line each; what is None is left out."""
        given = [(f"{name}:", value) for name, value in facts if value is not None]
        width = max(len(name) for name, _ in given)
        for name, value in given:
            self.say(f"{name.ljust(width)}  {value}")

    def flag(self, value: str | None) -> bool:
        """Whether a parameter that is true or false is true. Not given is false. Raises `ValueError`."""
        return bool(self.ui_eval_param(value, "bool", False))

    def confirm(self, question: str, yes: str | None) -> None:
        """Asks, unless `yes` answers; where nobody can be asked, the answer is no. Raises `RpError`."""
        if self.flag(yes):
            return
        if not sys.stdin.isatty():
            raise RpError(f"{question} Nobody answered, so it was not done.", "Answer by yes=true.")
        self.shell.con.raw_write(f"{question} [y/N]: ")
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise RpError("nothing was done")

    def follow(self, api: Api, job: Any, title: str) -> Any:
        """Waits for a job and shows on a terminal how far it is. Raises `RpError` where it fails."""
        on_terminal = sys.stdout.isatty()
        for now in api.follow(job):
            if on_terminal:
                done, total = _amount(now["done"], now["unit"]), _amount(now["total"], now["unit"])
                self.shell.con.raw_write(f"\r\033[K{title}: {done} of {total} {now['message']}")
        if on_terminal:
            self.shell.con.raw_write("\r\033[K")
        return now


class Listing(Node):
    """A node with a child for each of what a daemon lists."""

    item: ClassVar[type[Any]]

    def records(self) -> dict[str, Any]:
        """What is listed, by name. May raise `RpError`."""
        raise NotImplementedError

    def wanted(self) -> Mapping[str, Callable[[str, Node], Node]]:
        return dict.fromkeys(self.records(), type(self).item)

    def names(self) -> Iterable[str]:
        return self.records().keys()


class Item(Node):
    """A child of a `Listing`."""

    @property
    def record(self) -> Any:
        """What the daemon says of it now. Raises `RpError` when it is gone."""
        records = self.parent.records()
        if self.name not in records:
            raise RpError(f"there is no {self.name!r} any more")
        return records[self.name]


def counted(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}" + ("" if number == 1 else "s")


def joined(*parts: str | None) -> str:
    return ", ".join(part for part in parts if part)


def _amount(value: int, unit: str) -> str:
    return format_size(value) if unit == "bytes" else f"{value} {unit}"


def _other_version(error: KeyError) -> RpError:
    return RpError(
        f"the daemon speaks another version of the API: it has no {error}",
        "Restart the daemons after an upgrade; targetcli-rp is to be of their version.",
    )
