"""The extension keeps to what a distribution's Python has, and its README lists its commands."""

import ast
import inspect
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from targetcli_rp.nodes.arrays import Array
from targetcli_rp.nodes.bookmarks import Bookmarks
from targetcli_rp.nodes.group import Group
from targetcli_rp.nodes.groups import Groups
from targetcli_rp.nodes.images import Images
from targetcli_rp.nodes.node import Node

EXTENSION = Path(__file__).parent.parent.parent.parent / "targetcli-ext"
SOURCES = sorted((EXTENSION / "targetcli_rp").rglob("*.py"))
README = (EXTENSION / "README.md").read_text()
OF_ALL = {"refresh", "status"}
PLACES: dict[str, Any] = {
    "arrays/ARRAY": Array,
    "groups": Groups,
    "groups/GROUP": Group,
    "groups/GROUP/bookmarks": Bookmarks,
    "groups/GROUP/images": Images,
}


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_it_imports_the_standard_library_and_the_shell_only(source: Path) -> None:
    imported = set()
    for node in ast.walk(ast.parse(source.read_text(), feature_version=(3, 9))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module
            imported.add(node.module.partition(".")[0])
    shell = {"configshell", "targetcli"} if source.name == "shell.py" else set()
    assert imported <= sys.stdlib_module_names | {"targetcli_rp"} | shell


def commands(node: Any) -> set[str]:
    inherited = {*dir(Node)} if node is not Node else set()
    return {name.removeprefix("ui_command_") for name in {*dir(node)} - inherited if "ui_command_" in name}


def test_every_command_stands_in_the_readme_with_its_parameters() -> None:
    listed: dict[str, dict[str, set[str]]] = {}
    for place, command, parameters in re.findall(
        r"^\| `([\w/]+)` \| `(\w+)([^`]*)` \|", README, re.MULTILINE
    ):
        words = re.findall(r"[a-z_]+(?==)|[A-Z]+|\blatest\b", parameters)
        listed.setdefault(place, {})[command] = {word.lower() for word in words}
    assert listed.keys() == PLACES.keys()
    for place, node in PLACES.items():
        assert listed[place].keys() == commands(node), place
        for command, named in listed[place].items():
            signature = inspect.signature(getattr(node, f"ui_command_{command}"))
            keywords = (
                {"volume", "group", "journal"} if command == "split" else {*signature.parameters} - {"self"}
            )
            assert named == keywords, f"{place} {command}"


def test_no_other_node_has_commands() -> None:
    def below(node: Any) -> set[Any]:
        return {node} | {each for child in node.__subclasses__() for each in below(child)}

    assert {node for node in below(Node) if commands(node)} - {Node} == {*PLACES.values()}
