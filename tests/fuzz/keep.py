"""Choosing what is kept of a corpus: the shortest inputs that reach each line, and each way between lines."""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import Any, Final

import iscsi_rp

_ROOT: Final = str(Path(iscsi_rp.__file__).parent)
Arc = tuple[str, int, int]


def smallest(inputs: Iterable[bytes], run: Callable[[bytes], None]) -> list[bytes]:
    """Those of `inputs`, short ones first, that reach what none before them did."""
    seen: set[Arc] = set()
    kept = []
    for data in sorted(set(inputs), key=lambda each: (len(each), each)):
        found = _arcs(data, run)
        if not found <= seen:
            seen |= found
            kept.append(data)
    return kept


def _arcs(data: bytes, run: Callable[[bytes], None]) -> set[Arc]:
    arcs: set[Arc] = set()

    def enter(frame: FrameType, _: str, __: Any) -> Any:
        name = frame.f_code.co_filename
        if not name.startswith(_ROOT):
            return None
        before = 0

        def step(frame: FrameType, event: str, _: Any) -> Any:
            nonlocal before
            if event == "line":
                arcs.add((name, before, frame.f_lineno))
                before = frame.f_lineno
            return step

        return step

    sys.settrace(enter)
    try:
        run(data)
    finally:
        sys.settrace(None)
    return arcs
