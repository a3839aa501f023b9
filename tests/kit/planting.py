"""Planting a bug: a function runs with one fragment of its source replaced.

So a test can show that a rule is necessary, and that it would be missed, without a switch in the code itself.
"""

import __future__

import contextlib
import inspect
import sys
import textwrap
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def plant(owner: Any, name: str, old: str, new: str) -> Iterator[None]:
    """Inside, `owner.name` (of a class or a module) has `new` where its source has `old`, which must occur
    exactly once.
    """
    original = inspect.getattr_static(owner, name)
    function = inspect.unwrap(getattr(original, "__func__", original))
    source = textwrap.dedent(inspect.getsource(function))
    if source.count(old) != 1:
        raise AssertionError(f"{name} has {old!r} {source.count(old)} times, not once: plant the bug anew")
    module = sys.modules[function.__module__]
    namespace: dict[str, Any] = {}
    code = compile(
        source.replace(old, new),
        inspect.getfile(function),
        "exec",
        flags=__future__.annotations.compiler_flag,
    )
    exec(code, module.__dict__, namespace)
    setattr(owner, name, namespace[name])
    try:
        yield
    finally:
        setattr(owner, name, original)
