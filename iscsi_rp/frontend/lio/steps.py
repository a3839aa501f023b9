"""One change of LIO: what a plan is a list of."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import TypeAlias


class Kind(StrEnum):
    CREATE = "create"
    CHANGE = "change"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class Step:
    """One change. No text of it has a secret."""

    kind: Kind
    text: str
    "For people: `create backstore data, 64 MiB`."
    _do: Callable[[], None] = field(repr=False, compare=False)

    def apply(self) -> None:
        """Do it. Blocks while the kernel asks the handler: not for the event loop's thread, which is the one
        that answers. Raises `LioError`.
        """
        self._do()


Steps: TypeAlias = list[Step]


def create(text: str, do: Callable[..., None], *arguments: object) -> Step:
    return Step(Kind.CREATE, f"create {text}", partial(do, *arguments))


def change(text: str, do: Callable[..., None], *arguments: object) -> Step:
    return Step(Kind.CHANGE, f"change {text}", partial(do, *arguments))


def remove(text: str, do: Callable[..., None], *arguments: object) -> Step:
    return Step(Kind.REMOVE, f"remove {text}", partial(do, *arguments))


def apply(steps: Iterable[Step], said: Callable[[Step], None] | None = None) -> None:
    """Do them in their order, each after `said` was told; not in the event loop's thread (`Step.apply`).

    Raises `LioError` at the first that fails. What was done stays done: the next plan goes on from there.
    """
    for step in steps:
        if said is not None:
            said(step)
        step.apply()
