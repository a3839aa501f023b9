"""Every rule switched off is caught: by a directed run where there is one, else by random seeds. With all
rules on, nothing is.
"""

from contextlib import ExitStack

import pytest

from tests.kit.planting import plant
from tests.simulation import replication
from tests.simulation.replication import Broken
from tests.simulation.rules import REPLICATION
from tests.simulation.script import SCENARIOS, Script

MOST_SEEDS = 300
RANDOM = sorted(REPLICATION.keys() - SCENARIOS.keys())


def planted(rule: str) -> ExitStack:
    stack = ExitStack()
    for each in REPLICATION[rule]:
        stack.enter_context(plant(*each))
    return stack


def outcome(rule: str) -> str | None:
    script = Script(processors=2 if rule == "seal" else 1)
    try:
        SCENARIOS[rule](script)
    except Broken as broken:
        return str(broken)
    return script.outcome()


@pytest.mark.parametrize("rule", SCENARIOS)
def test_directed_run_holds(rule: str) -> None:
    assert outcome(rule) is None


@pytest.mark.parametrize("rule", SCENARIOS)
def test_directed_run_catches_the_missing_rule(rule: str) -> None:
    with planted(rule):
        assert outcome(rule) is not None


@pytest.mark.parametrize("rule", RANDOM)
def test_random_seeds_catch_the_missing_rule(rule: str) -> None:
    with planted(rule):
        assert any(_breaks(seed) for seed in range(MOST_SEEDS)), f"{rule} is not missed in {MOST_SEEDS} seeds"


def _breaks(seed: int) -> bool:
    try:
        return replication.run(seed) is not None
    except Exception:  # a rule left out may also end in a state that the code says cannot be
        return True


def test_random_seeds_hold() -> None:
    broken = {seed: report for seed in range(100) if (report := replication.run(seed))}
    assert not broken, "\n".join(broken.values())
