"""`vagrant/README.md` is true: its commands, in their order, print what it shows; and how long they take."""

from collections.abc import Callable
from itertools import pairwise
from typing import Final

import pytest

from tests.kernel.guest import CHECKOUT
from tests.kit.shown import Shown, matches, shown
from tests.lab.conftest import Lab

pytestmark = pytest.mark.lab

ADDRESSES: Final = {
    "192.168.57.11": "192.0.2.11",
    "192.168.57.12": "192.0.2.12",
    "192.168.57.21": "192.0.2.21",
    "192.168.57.31": "192.0.2.1",
    "192.168.57.32": "192.0.2.2",
}
"Vagrant's, and the guests'."
MARK: Final = "@@@ "


def test_its_commands_print_what_it_shows(lab: Lab, record_property: Callable[[str, str], None]) -> None:
    commands = list(shown(page()[0], "#"))
    assert len(commands) > 25
    took_s = typed(lab, commands)
    rewound = next(number for number, each in enumerate(commands) if each.command.startswith("cp "))
    first_s = sum(took_s[: rewound + 1])
    record_property(
        "figure", f"provisioned to the first file back, by the README's commands: {first_s:.0f} s"
    )
    assert 0 < first_s < 180


def test_three_its_commands_print_what_it_shows(three: dict[str, Lab]) -> None:
    commands = [each for each in shown(page()[1], "#") if "scenarios/" not in each.command]
    assert len(commands) >= 3
    typed(three["host"], commands)


def page() -> tuple[str, str]:
    """What is typed on `host` alone, and what where three machines work together."""
    text = (CHECKOUT / "vagrant/README.md").read_text()
    for there, here in ADDRESSES.items():
        text = text.replace(there, here)
    alone, _, together = text.partition("## Three machines")
    return alone, together


def typed(lab: Lab, commands: list[Shown]) -> list[float]:
    """The seconds that each takes in a shell of root's in the checkout; it has to print what is shown."""
    lines = ["exec 2>&1", f"cd {CHECKOUT}"]
    for each in commands:
        lines += [f'echo "{MARK}$EPOCHREALTIME"', each.command]
    lines.append(f'echo "{MARK}$EPOCHREALTIME"')
    said = lab.shell("\n".join(lines), timeout_s=400).split(MARK)[1:]
    times = [float(each.partition("\n")[0]) for each in said]
    for each, output in zip(commands, said, strict=False):
        printed = output.partition("\n")[2]
        assert matches(printed, each.output), f"{each.command} printed\n{printed}\nand not\n{each.output}"
    return [end - start for start, end in pairwise(times)]
