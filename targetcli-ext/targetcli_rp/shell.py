"""The classes of targetcli's shell that nodes are made of.

They are targetcli's own: configshell is installed under two names, and the shell knows an error only by the
class of the name that its targetcli uses (2.1: `configshell_fb`, 3: `configshell`).
"""

from __future__ import annotations

try:
    from targetcli.ui_node import ExecutionError
    from targetcli.ui_node import UINode as ShellNode
except ImportError:  # no targetcli: then only tests get here, with a tree of configshell
    from configshell import ConfigNode as ShellNode
    from configshell import ExecutionError

__all__ = ["ExecutionError", "ShellNode"]
