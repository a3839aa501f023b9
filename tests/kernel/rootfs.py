"""The root file system of the guest: Debian packages and User-Mode Linux in a folder, made once and kept.

It has the release and the sources of the machine it is made on, so that the guest's Python can run the
machine's virtual environment. It stands below `$ISCSI_RP_LAB`, else `/var/cache/iscsi-rp-lab`, under a name
made of all that went into it; whoever wants it anew removes the folder.
"""

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Final

ENVIRONMENT: Final = "ISCSI_RP_LAB"
LAB: Final = Path("/var/cache/iscsi-rp-lab")

PACKAGES: Final = (
    "dbus",
    "e2fsprogs",
    "fio",
    "iproute2",
    "kmod",
    "libiscsi-bin",
    "libtcmu2",
    "multipath-tools",
    "open-iscsi",
    "openssh-server",
    "procps",
    "python3",
    "python3-configshell-fb",
    "python3-pexpect",
    "python3-rtslib-fb",
    "sg3-utils",
    "targetcli-fb",
    "tcmu-runner",
    "udev",
    "user-mode-linux",
)
LEFT_OUT: Final = ("/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/man/*")
BUILD_S: Final = 1200


class LabError(Exception):
    """The guest could not be made, did not boot, or is gone."""


def rootfs() -> Path:
    """The folder of the root file system; it takes a minute to make, and 400 MB.

    Raises `LabError` where it cannot be made.
    """
    suite = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    command = [
        *("mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}"),
        '--aptopt=APT::Install-Recommends "false"',
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT),
        '--customize-hook=ln -s uml/modules "$1/usr/lib/modules"',
        suite,
    ]
    digest = hashlib.sha256("\0".join(command).encode()).hexdigest()[:12]
    lab = Path(os.environ.get(ENVIRONMENT, LAB))
    lab.mkdir(parents=True, exist_ok=True)
    finished = lab / f"{suite}-{digest}"
    with (lab / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not finished.exists():
            making = finished.with_suffix(".making")
            shutil.rmtree(making, ignore_errors=True)
            _make([*command, str(making), *_sources()])
            making.rename(finished)
    return finished


def _make(command: list[str]) -> None:
    if shutil.which("mmdebstrap") is None:
        raise LabError("mmdebstrap is missing: `make kernel` installs it, or `apt-get install mmdebstrap`")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_S, check=False)
    except subprocess.TimeoutExpired:
        raise LabError(f"mmdebstrap did not end within {BUILD_S} s") from None
    if done.returncode:
        raise LabError(f"mmdebstrap ended with {done.returncode}:\n{done.stderr[-4000:]}")


def _sources() -> list[str]:
    """What this machine's apt has of Debian, as lines of a sources.list."""
    fields = "deb $(REPO_URI) $(RELEASE) $(COMPONENT)"
    command = ["apt-get", "indextargets", "--format", fields, "Created-By: Packages", "Origin: Debian"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    if not lines:
        raise LabError("apt knows no packages of Debian: run `apt-get update` first")
    return sorted(set(lines))
