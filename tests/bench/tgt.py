"""Debian's tgt on a file: what we are measured against."""

import os
import subprocess
import time
from pathlib import Path
from typing import Final

from tests.bench.load import LoadError
from tests.kit.processes import Daemon, free_port

IQN: Final = "iqn.2026-11.io.iscsi-rp:tgt"
CONTROL: Final = str(1000 + os.getpid() % 30000)
"tgt's control port; one of its own, so that it meets no other tgtd of this machine."


class Tgt:
    """`tgtd` in the foreground, one target, LUN 1 on `image`."""

    def __init__(self, image: Path, directory: Path) -> None:
        if os.geteuid() != 0:
            raise LoadError("tgtd needs root; run the bench as root or through sudo")
        self._image = image
        port = free_port()
        self._portal = f"127.0.0.1:{port}"
        self.url = self._url(1)
        command = ["tgtd", "-f", "-C", CONTROL, "--iscsi", f"portal={self._portal}"]
        self._daemon = Daemon("tgtd", command, directory / "tgtd.log")

    def start(self) -> None:
        self._daemon.start()
        self._daemon.until("its control socket", lambda: self._admin("target", "show", check=False) or None)
        self._admin("target", "new", "--tid", "1", "-T", IQN)
        self._add_lun(1, self._image)
        self._admin("target", "bind", "--tid", "1", "-I", "ALL")
        time.sleep(0.2)

    def add_luns(self, images: list[Path]) -> list[str]:
        """LUN 2 and the following ones."""
        for lun, image in enumerate(images, 2):
            self._add_lun(lun, image)
        return [self._url(lun) for lun, _ in enumerate(images, 2)]

    def stop(self) -> None:
        self._daemon.kill()

    def pids(self) -> dict[str, int]:
        return {"tgtd": self._daemon.pid}

    def _url(self, lun: int) -> str:
        return f"iscsi://{self._portal}/{IQN}/{lun}"

    def _add_lun(self, lun: int, image: Path) -> None:
        self._admin("logicalunit", "new", "--tid", "1", "--lun", str(lun), "-b", str(image))

    def _admin(self, mode: str, operation: str, *rest: str, check: bool = True) -> bool:
        command = ["tgtadm", "-C", CONTROL, "--lld", "iscsi", "--mode", mode, "--op", operation, *rest]
        done = subprocess.run(command, capture_output=True, text=True)
        if check and done.returncode != 0:
            raise LoadError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.returncode == 0
