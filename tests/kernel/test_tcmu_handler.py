"""The kernel's handler when its store hangs, its ring breaks, somebody else has its backstore, and when
events of the kernel are lost.
"""

import sys

import pytest

from tests.kernel.guest import CHECKOUT, Guest

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize(
    "story", ["withdrawn", "broken", "reset", "busy", "busy_and_blocked", "twice", "overrun"]
)
def test_the_handler(guest: Guest, story: str) -> None:
    guest.shell('cd "$1" && "$2" -m tests.kernel.tcmu_handler "$3"', str(CHECKOUT), sys.executable, story)
