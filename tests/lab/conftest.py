"""Guests, provisioned as Vagrant's machines are, by the same scripts; and a line for each scenario."""

import contextlib
import itertools
import socket
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.kernel import guest as machine
from tests.kernel.guest import CHECKOUT, Guest, Result, Running
from tests.kernel.rootfs import rootfs
from tests.kernel.site import eventually

PATH: Final = "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SETTINGS: Final = CHECKOUT / "tests/lab/settings.yaml"
ADDRESSES: Final = {
    "host": ("192.0.2.1", "192.0.2.2"),
    "array": ("192.0.2.11", "192.0.2.12"),
    "appliance": ("192.0.2.21",),
}
"Of the machines that work together, as in the settings."


class Lab:
    """A machine, and the scripts of `vagrant/` in it."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        guest.shell(
            """
            mkdir -p /usr/local/bin
            sed "2i PYTHON=$1" "$2/tests/lab/iscsi-rp.sh" > /usr/local/bin/iscsi-rp
            chmod +x /usr/local/bin/iscsi-rp
            """,
            *(sys.executable, str(CHECKOUT)),
        )
        guest.start("env", f"PYTHONPATH={CHECKOUT}", sys.executable, str(CHECKOUT / "tests/lab/caller.py"))
        requests = ("test", "-p", "/run/iscsi-rp-calls/requests")
        eventually("the caller", lambda: guest.run(*requests, check=False).code == 0)

    def command(self, script: str, *arguments: str) -> tuple[str, ...]:
        path = CHECKOUT / "vagrant" / script
        return ("env", f"ISCSI_RP_SETTINGS={SETTINGS}", f"PATH={PATH}", str(path), *arguments)

    def run(self, script: str, *arguments: str, timeout_s: float = 150.0) -> Result:
        """Run a script of `vagrant/`."""
        return self.guest.run(*self.command(script, *arguments), timeout_s=timeout_s, check=False)

    def shell(self, script: str, timeout_s: float = 60.0) -> str:
        """What a script prints that has the commands of `iscsi-rp`."""
        settings = f"export PATH={PATH} ISCSI_RP_SETTINGS={SETTINGS}"
        return self.guest.shell(f"{settings}\n{script}", timeout_s=timeout_s)

    def provision(self, name: str) -> Result:
        """As one of Vagrant's machines."""
        return self.run("provision/provision.sh", name)

    def provisioning(self, name: str) -> Running:
        return self.guest.start(*self.command("provision/provision.sh", name), timeout_s=150)


@pytest.fixture(scope="session")
def root() -> Path:
    return rootfs()


@contextlib.contextmanager
def booted(root: Path, links: Sequence[socket.socket] = (), number: int = 0) -> Iterator[Lab]:
    with machine.guest(root, links, number) as running:
        yield Lab(running)


@pytest.fixture(scope="session")
def lab(root: Path) -> Iterator[Lab]:
    """Provisioned as `host`. Each worker has one."""
    with booted(root) as fresh:
        done = fresh.provision("host")
        assert done.code == 0, done
        yield fresh


class _Scheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Any test to any worker, but those of three machines (`test_three_...`) to one, which begins with them.

    For this xdist has groups, which are not heeded by its 3.8 with pytest 9.
    """

    def _split_scope(self, nodeid: str) -> str:
        return "three" if "::test_three_" in nodeid else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    return _Scheduling(config, log)


@pytest.fixture(scope="session")
def three(root: Path) -> Iterator[dict[str, Lab]]:
    """host, array and appliance, with a cable between any two, provisioned and joined."""
    links: dict[str, dict[str, socket.socket]] = {name: {} for name in ADDRESSES}
    with contextlib.ExitStack() as stack, ThreadPoolExecutor() as pool:
        for one, other in itertools.combinations(ADDRESSES, 2):
            links[one][other], links[other][one] = stack.enter_context(machine.cable())

        def boot(number: int, name: str) -> Lab:
            return stack.enter_context(booted(root, list(links[name].values()), number))

        machines = dict(zip(ADDRESSES, pool.map(boot, itertools.count(), ADDRESSES), strict=True))
        key = machines["host"].shell("ssh-keygen -q -t ed25519 -N '' -f /srv/key && cat /srv/key")
        for name, each in machines.items():
            each.guest.shell(
                """
                (umask 077; printf %s "$1" > /srv/key)
                ssh-keygen -y -f /srv/key > /srv/key.pub
                hostname "$2"
                """,
                *(key, name),
            )
            for index, other in enumerate(links[name]):
                each.guest.shell(
                    'ip link set "$1" up; for there in "${@:2}"; do ip route add "$there" dev "$1"; done',
                    *(f"vec{index}", *ADDRESSES[other]),
                )
        started = {name: each.provisioning(name) for name, each in machines.items()}
        for name, running in started.items():
            waits = "services: left alone: until vagrant/provision/join.sh" in running.wait().out
            assert waits == (name != "host")
        joined = machines["host"].run("provision/join.sh")
        assert joined.code == 0, joined
        yield machines


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What each scenario proved, also where workers ran them: only reports come from there, no output."""
    reports = (each for some in terminalreporter.stats.values() for each in some)
    lines = [line for each in reports if isinstance(each, pytest.TestReport) for line in said_by(each)]
    for line in sorted(lines):
        terminalreporter.write_line(line)


def said_by(report: pytest.TestReport) -> Iterator[str]:
    said = dict(report.user_properties)
    if report.when == "call" and "figure" in said:
        yield str(said["figure"])
    if "_scenario[" not in report.nodeid:
        return
    script = report.nodeid.partition("[")[2].partition(".sh]")[0]
    scenario = f"scenario {script}"
    if report.failed:
        yield f"{scenario} failed: {said.get('failed') or report.longreprtext.strip().splitlines()[-1]}"
    elif report.when == "call" and "proved" in said:
        proved = (f"\n    {line}" for line in str(said["proved"]).splitlines())
        yield f"{scenario} ok {said['seconds']}{''.join(proved)}"
