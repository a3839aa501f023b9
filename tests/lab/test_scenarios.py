"""Each scenario of `vagrant/scenarios`, killed in its middle and then run to its end."""

import time
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
def test_scenario(lab: Lab, capsys: pytest.CaptureFixture[str], script: str) -> None:
    name = script.removesuffix(".sh")
    begun = lab.guest.start(*lab.command(f"scenarios/{script}"))
    eventually("its file system", lambda: mounts(lab) != "")
    time.sleep(MIDDLE_S)
    assert not begun.ended, begun.wait(check=False)
    lab.guest.run("kill", "-KILL", "--", f"-{begun.pid}")
    killed = begun.wait(check=False)
    assert killed.code == -9, killed
    start = time.monotonic()
    done = lab.run(f"scenarios/{script}")
    took_s = time.monotonic() - start
    with capsys.disabled():
        reason = (done.err.strip().splitlines() or ["?"])[-1]
        print(f"\nscenario {name} {f'ok {took_s:.0f}' if done.code == 0 else f'failed: {reason}'}")
        for line in done.out.splitlines():
            if ": proved: " in line:
                print(f"    {line.partition(': proved: ')[2]}")
    assert done.code == 0, done.out + done.err
    assert ": proved: " in done.out
    assert mounts(lab) == ""
    assert lab.guest.shell("grep Traceback /var/log/iscsi-rp-*.log || true") == ""


def mounts(lab: Lab) -> str:
    """Of a scenario."""
    return lab.guest.shell("grep /mnt/lab- /proc/mounts || true")
