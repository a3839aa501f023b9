"""A guest that is provisioned as Vagrant's machine `host` is, by the same scripts."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.kernel import guest as machine
from tests.kernel.guest import CHECKOUT, Guest, Result
from tests.kernel.rootfs import rootfs
from tests.kernel.site import eventually

PATH: Final = "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SETTINGS: Final = CHECKOUT / "tests/lab/settings.yaml"


class Lab:
    """The machine, and the scripts of `vagrant/` in it."""

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


@pytest.fixture(scope="session")
def root() -> Path:
    return rootfs()


@pytest.fixture(scope="module")
def fresh(root: Path) -> Iterator[Lab]:
    with machine.guest(root) as running:
        yield Lab(running)


@pytest.fixture(scope="module")
def lab(fresh: Lab) -> Lab:
    """Provisioned."""
    done = fresh.run("provision/provision.sh", "host")
    assert done.code == 0, done
    return fresh
