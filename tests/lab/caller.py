"""Runs in the guest: has imported `iscsi-rp`, and calls it in a copy of itself for who asks (`iscsi-rp.sh`).

The copy has the asker's folder and standard streams. The code that it ends with goes to the asker's own pipe.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Final

import httpx  # noqa: F401  # what a command imports when it runs
import rich.table  # noqa: F401

from iscsi_rp.cli.main import main

CALLS: Final = Path("/run/iscsi-rp-calls")
SEPARATOR: Final = "\x1f"


def call(asker: str, arguments: list[str]) -> None:
    os.chdir(f"/proc/{asker}/cwd")
    for fd, mode in ((0, os.O_RDONLY), (1, os.O_WRONLY | os.O_APPEND), (2, os.O_WRONLY | os.O_APPEND)):
        os.dup2(os.open(f"/proc/{asker}/fd/{fd}", mode), fd)
    code: object = 1
    try:
        main(arguments, prog_name="iscsi-rp")
    except SystemExit as end:
        code = end.code
    finally:
        sys.stdout.flush()
        # Not for ever: an asker that was killed reads no more.
        signal.alarm(5)
        (CALLS / asker).write_text(f"{code or 0}\n")


def serve() -> None:
    CALLS.mkdir()
    os.mkfifo(CALLS / "requests")
    with open(os.open(CALLS / "requests", os.O_RDWR)) as requests:
        for line in requests:
            asker, *arguments = line.rstrip("\n").split(SEPARATOR)
            while _reaped():
                pass
            if os.fork() == 0:
                try:
                    call(asker, [each for each in arguments if each])
                finally:
                    os._exit(0)


def _reaped() -> bool:
    try:
        return os.waitpid(-1, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return False


if __name__ == "__main__":
    serve()
