"""Kills a command on the authority's folder at each of its steps: `python -m … FOLDER ACTION`.

FOLDER has a folder `before`. For each step there is a folder `after-N`, a copy of it in which the action was
killed at the Nth thing that it did to the file system; the last one was not killed. It ends with 1 if a
private key could be read by others at any of the steps.
"""

import os
import shutil
import sys
from pathlib import Path
from typing import Any, Final

from iscsi_rp.link.pki import Authority, Identity, Role

ONE: Final = Identity(Role.ARRAY, "one")
EVENTS: Final = ("open", "os.chmod", "os.mkdir", "os.remove", "os.rename")
KILLED, READABLE, DONE = 9, 1, 0


def act(folder: Path, action: str) -> None:
    if action == "create":
        Authority.create(folder, "site")
    elif action == "issue":
        Authority.open(folder).issue(ONE, renew=True)
    else:
        Authority.open(folder).revoke(ONE)


class Killer:
    """An audit hook (PEP 578)."""

    def __init__(self, folder: Path, step: int) -> None:
        self._folder = folder
        self._left = step
        self._looking = False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._looking or event not in EVENTS:
            return
        self._looking = True
        if self._readable():
            os._exit(READABLE)
        if self._left == 0:
            os._exit(KILLED)
        self._left -= 1
        self._looking = False

    def _readable(self) -> bool:
        files = [path for path in self._folder.rglob("*") if path.is_file()]
        secret = [path for path in files if b"PRIVATE" in path.read_bytes()]
        return any(path.stat().st_mode & 0o077 for path in secret)


def main(root: Path, action: str) -> int:
    os.umask(0)
    for step in range(1000):
        folder = root / f"after-{step}"
        shutil.copytree(root / "before", folder)
        child = os.fork()
        if child == 0:
            try:
                sys.addaudithook(Killer(folder, step))
                act(folder, action)
                os._exit(DONE)
            finally:
                os._exit(70)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code != KILLED:
            return code
    return 71


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
