"""Each scenario of `vagrant/scenarios`, killed in its middle and then run to its end."""

import time
from collections.abc import Callable, Sequence
from typing import Final

import pytest

from tests.kernel.guest import CHECKOUT
from tests.kernel.site import eventually
from tests.kit.shown import matches, shown
from tests.lab.conftest import Lab

pytestmark = pytest.mark.lab

SCENARIOS: Final = sorted(path.name for path in (CHECKOUT / "vagrant/scenarios").glob("[0-9]*.sh"))
THREE: Final = "08-three-machines.sh"
MIDDLE_S: Final = 2.0
"After its middle was reached it goes on for so long before it is killed."


@pytest.mark.parametrize("script", [each for each in SCENARIOS if each != THREE])
def test_scenario(lab: Lab, record_property: Callable[[str, str], None], script: str) -> None:
    killed_and_run([lab], script, lambda: bool(mounts(lab)), record_property)


@pytest.mark.parametrize("script", [THREE])
def test_three_scenario(
    three: dict[str, Lab], record_property: Callable[[str, str], None], script: str
) -> None:
    """It is killed while the link is cut."""
    rules = three["appliance"].guest
    machines = [three["host"], three["array"], three["appliance"]]
    said = killed_and_run(
        machines, script, lambda: "blackhole" in rules.run("ip", "rule").out, record_property
    )
    assert "blackhole" not in rules.run("ip", "rule").out
    page = (CHECKOUT / "vagrant/README.md").read_text()
    (printed,) = (each.output for each in shown(page, "#") if each.command == f"vagrant/scenarios/{script}")
    assert matches(said, printed), said


def killed_and_run(
    machines: Sequence[Lab],
    script: str,
    in_its_middle: Callable[[], bool],
    record_property: Callable[[str, str], None],
) -> str:
    """What the scenario prints, on the first of these machines of a site."""
    lab = machines[0]
    begun = lab.guest.start(*lab.command(f"scenarios/{script}"))
    eventually("its middle", lambda: begun.ended or in_its_middle(), 120)
    time.sleep(MIDDLE_S)
    assert not begun.ended, begun.wait(check=False)
    lab.guest.run("kill", "-KILL", "--", f"-{begun.pid}")
    killed = begun.wait(check=False)
    assert killed.code == -9, killed
    start = time.monotonic()
    done = lab.run(f"scenarios/{script}", timeout_s=300)
    record_property("seconds", f"{time.monotonic() - start:.0f}")
    if done.code:
        record_property("failed", "; ".join(done.err.strip().splitlines()[-2:]) or f"code {done.code}")
    assert done.code == 0, done.out + done.err
    proved = [line.partition(": proved: ")[2] for line in done.out.splitlines() if ": proved: " in line]
    assert proved
    record_property("proved", "\n".join(proved))
    assert mounts(lab) == ""
    for each in machines:
        assert each.guest.shell("grep Traceback /var/log/iscsi-rp-*.log || true") == ""
    return done.out


def mounts(lab: Lab) -> str:
    """Of a scenario."""
    return lab.guest.shell("grep /mnt/lab- /proc/mounts || true")
