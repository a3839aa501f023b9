"""A guest for each file of tests, with the array in it and the kernel's initiator in front of that."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel import guest as machine
from tests.kernel.guest import Guest
from tests.kernel.rootfs import rootfs
from tests.kernel.site import Daemons, OpenIscsi


@pytest.fixture(scope="session")
def root() -> Path:
    return rootfs()


@pytest.fixture(scope="module")
def guest(root: Path) -> Iterator[Guest]:
    with machine.guest(root) as running:
        yield running


@pytest.fixture(scope="module")
def daemons(guest: Guest) -> Iterator[Daemons]:
    """The array runs; what its daemons logged is looked at in the end."""
    running = Daemons(guest)
    running.start()
    yield running
    running.stop_all()


@pytest.fixture(scope="module")
def initiator(guest: Guest, daemons: Daemons) -> OpenIscsi:
    return OpenIscsi(guest)
