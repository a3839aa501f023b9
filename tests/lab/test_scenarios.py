"""Each scenario of `vagrant/scenarios`, killed in its middle and then run to its end."""

import time
from collections.abc import Callable
from typing import Final

import pytest

from tests.kernel.guest import CHECKOUT
from tests.kernel.site import eventually
from tests.lab.conftest import Lab

pytestmark = pytest.mark.lab

SCENARIOS: Final = sorted(path.name for path in (CHECKOUT / "vagrant/scenarios").glob("[0-9]*.sh"))
MIDDLE_S: Final = 2.0
"After its file system was mounted it goes on for so long before it is killed."


@pytest.mark.parametrize("script", SCENARIOS)
def test_scenario(lab: Lab, record_property: Callable[[str, str], None], script: str) -> None:
    begun = lab.guest.start(*lab.command(f"scenarios/{script}"))
    eventually("its file system", lambda: begun.ended or mounts(lab))
    time.sleep(MIDDLE_S)
    assert not begun.ended, begun.wait(check=False)
    lab.guest.run("kill", "-KILL", "--", f"-{begun.pid}")
    killed = begun.wait(check=False)
    assert killed.code == -9, killed
    start = time.monotonic()
    done = lab.run(f"scenarios/{script}")
    record_property("seconds", f"{time.monotonic() - start:.0f}")
    if done.code:
        record_property("failed", "; ".join(done.err.strip().splitlines()[-2:]) or f"code {done.code}")
    assert done.code == 0, done.out + done.err
    proved = [line.partition(": proved: ")[2] for line in done.out.splitlines() if ": proved: " in line]
    assert proved
    record_property("proved", "\n".join(proved))
    assert mounts(lab) == ""
    assert lab.guest.shell("grep Traceback /var/log/iscsi-rp-*.log || true") == ""


def mounts(lab: Lab) -> str:
    """Of a scenario."""
    return lab.guest.shell("grep /mnt/lab- /proc/mounts || true")
