"""The kernel's modules, configfs, and the package with which the tools of LIO look at it."""

import importlib
import os
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from iscsi_rp.frontend.lio import configfs
from iscsi_rp.frontend.lio.errors import LioMissingError

NEEDED: Final = ("target_core_mod", "target_core_user", "iscsi_target_mod", "tcm_loop")
STATE: Final = Path("/etc/target")
"Where LIO's tools have the kernel keep what outlives a reboot. It does if the folder is there at first."
_COMMAND_S: Final = 30.0


def ensure(needed: Iterable[str] = NEEDED) -> None:
    """Load what is needed and mount configfs, unless that was done. Blocks for up to some seconds: not for
    the event loop's thread. Raises `LioMissingError`.
    """
    rtslib()
    with configfs.refused("make", STATE):
        (STATE / "pr").mkdir(parents=True, exist_ok=True)
    if not configfs.MOUNT_POINT.is_dir():
        _load("configfs")
    if not os.path.ismount(configfs.MOUNT_POINT):
        _run(
            ["mount", "-t", "configfs", "configfs", str(configfs.MOUNT_POINT)],
            "configfs is not mounted, and cannot be",
            f"As root: `mount -t configfs configfs {configfs.MOUNT_POINT}`.",
        )
    for module in needed:
        _load(module)
    folder = Path(configfs.read(configfs.TARGET / "dbroot"), "pr")
    with configfs.refused("make", folder):
        folder.mkdir(
            parents=True, exist_ok=True
        )  # without it the kernel fails a registration that is to last


def rtslib() -> Any:
    """The package `rtslib_fb`, which only this front end needs. Raises `LioMissingError`."""
    try:
        return importlib.import_module("rtslib_fb")
    except ImportError as error:  # also where the libudev below it is missing
        raise LioMissingError(
            f"the Python package rtslib_fb cannot be used: {error}",
            hint="Install what LIO needs: `pip install 'iscsi-rp[lio]'`, and libudev (Debian: libudev1).",
        ) from error


def _load(module: str) -> None:
    if not Path("/sys/module", module).is_dir():
        _run(
            ["modprobe", module],
            f"the kernel module {module} is not loaded, and cannot be",
            f"As root: `modprobe {module}`; if the kernel {platform.release()} has none, install one with LIO"
            " (Debian: linux-image-amd64), or use the embedded front end.",
        )


def _run(command: list[str], what: str, hint: str) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_COMMAND_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LioMissingError(f"{what}: {error}", hint=hint) from error
    if done.returncode:
        raise LioMissingError(f"{what}: {done.stderr.strip()}", hint=hint)
