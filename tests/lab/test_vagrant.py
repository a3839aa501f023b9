"""The lab's scripts and its Vagrantfile, as far as a machine that starts none of Vagrant's can tell."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.kernel.guest import CHECKOUT

pytestmark = pytest.mark.lab


def test_shellcheck_has_nothing_to_say() -> None:
    scripts = [str(path) for path in sorted((CHECKOUT / "vagrant").rglob("*.sh"))]
    assert len(scripts) > 15
    found = subprocess.run(
        ["shellcheck", "-x", "-P", "SCRIPTDIR", *scripts, str(CHECKOUT / "tests/lab/iscsi-rp.sh")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (found.returncode, found.stdout) == (0, "")


def validate(tmp_path: Path, vagrantfile: str, *options: str, provider: str = "libvirt") -> tuple[int, str]:
    """Code and output of `vagrant validate`, with nothing written into the checkout."""
    (tmp_path / "Vagrantfile").write_text(vagrantfile)
    shutil.copy(CHECKOUT / "vagrant/settings.yaml", tmp_path)
    done = subprocess.run(
        ["vagrant", "validate", *options],
        cwd=tmp_path,
        env={
            **os.environ,
            "VAGRANT_HOME": str(tmp_path / "home"),
            "VAGRANT_CHECKPOINT_DISABLE": "1",
            "VAGRANT_DEFAULT_PROVIDER": provider,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


VAGRANTFILE = (CHECKOUT / "vagrant/Vagrantfile").read_text()


def test_the_vagrantfile_is_valid_for_libvirt(tmp_path: Path) -> None:
    code, said = validate(tmp_path, VAGRANTFILE)
    assert code == 0, said
    code, said = validate(tmp_path, VAGRANTFILE.replace("libvirt.cpus", "libvirt.processors"))
    assert code != 0
    assert "processors" in said


def test_the_vagrantfile_is_valid_but_for_the_provider(tmp_path: Path) -> None:
    """All that can be asked for VirtualBox, without which Vagrant does not look at its settings."""
    code, said = validate(tmp_path, VAGRANTFILE, "--ignore-provider", provider="")
    assert code == 0, said
    code, said = validate(tmp_path, VAGRANTFILE.replace("vm.hostname", "vm.hostnam"), "--ignore-provider")
    assert code != 0
