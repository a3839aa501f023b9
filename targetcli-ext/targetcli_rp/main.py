"""`targetcli-rp`: the stock shell of the targetcli that is installed, with iscsi-rp in its tree."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from importlib.machinery import SourceFileLoader
from types import ModuleType
from typing import Any

from targetcli_rp.errors import RpError
from targetcli_rp.site import Site, find_state

OPTIONS = ("--config", "--state")
USAGE = """\
Usage: targetcli-rp [--config FILE] [--state DIR] [--version|--help|CMD]
  --config FILE\t\tThe configuration of iscsi-rp, as `iscsi-rp --config`
  --state DIR\t\tThe state of its daemons, as `iscsi-rp --state`
  --version\t\tPrint the version of targetcli
  CMD\t\t\tRun a command of the shell and exit
  <nothing>\t\tEnter the shell: that of targetcli, with /recoverpoint in its tree"""


def main() -> None:
    options, command = _split(sys.argv[1:])
    if command[:1] in (["--help"], ["-h"], ["help"]):
        print(USAGE)
        return
    try:
        site = Site(find_state(options.get("--state"), options.get("--config")))
        shell = _with_recoverpoint(_stock_shell(), site)
    except ImportError as error:
        sys.exit(f"targetcli-rp: no targetcli for {sys.executable}: {error}\n{_INSTALL}")
    except RpError as error:
        sys.exit(f"targetcli-rp: {error}")
    sys.argv[1:] = command
    shell.main()


_INSTALL = "hint: Install targetcli (Debian: targetcli-fb), and targetcli-rp for the same Python."


def _split(arguments: list[str]) -> tuple[dict[str, str], list[str]]:
    """Our options, which stand first, and what is the shell's."""
    options = {}
    rest = list(arguments)
    while rest and rest[0].partition("=")[0] in OPTIONS:
        name, given, value = rest.pop(0).partition("=")
        if not given:
            if not rest:
                sys.exit(f"targetcli-rp: {name} wants a value")
            value = rest.pop(0)
        options[name] = value
    return options, rest


def _stock_shell() -> ModuleType:
    """targetcli's shell: a module of targetcli 3, a script before. Raises `ImportError`."""
    if importlib.util.find_spec("targetcli") is None:
        raise ImportError("No module named 'targetcli'")
    if importlib.util.find_spec("targetcli.targetcli_shell"):
        return importlib.import_module("targetcli.targetcli_shell")
    script = shutil.which("targetcli")
    if script is None:
        raise ImportError("no command 'targetcli'")
    spec = importlib.util.spec_from_file_location(
        "targetcli_shell", script, loader=SourceFileLoader("targetcli_shell", script)
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"{script} is not Python")
    module = importlib.util.module_from_spec(spec)
    # Or its byte code would be left in a folder beside it, in /usr/bin.
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = writes
    return module


def _with_recoverpoint(shell: Any, site: Site) -> Any:
    from targetcli_rp.root import root_class  # it imports targetcli, which may not be there

    shell.UIRoot = root_class(shell.UIRoot, site)
    # With the preference auto_use_daemon, each command would go to `targetclid`, whose tree is another.
    shell.switch_to_daemon = lambda *_: None
    return shell


if __name__ == "__main__":
    main()
