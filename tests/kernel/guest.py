"""A machine with a Linux kernel of its own (User-Mode Linux), and what its processes answer.

Its root is the folder that `rootfs` makes, its first process `init.sh`; `agent.py` runs commands in it. The
checkout and the virtual environment stand in it at the paths that they have here, read-only; all that it
writes is in its memory, and on a disk at `/srv` that goes with it. Its network is its loopback, and cables to
other guests, which are socket pairs: nothing of it is this machine's.
"""

import compileall
import contextlib
import hashlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.kernel.rootfs import LabError

HERE: Final = Path(__file__).parent
CHECKOUT: Final = HERE.parent.parent
MEMORY_MIB: Final = 1536
DISK_BYTES: Final = 8 << 30
BOOT_S: Final = 60.0
FIRST_COMMAND: Final = ("dd", "if=/dev/zero", "of=/srv/first", "count=1", "conv=fsync", "status=none")
FIRST_COMMAND_S: Final = 5.0
GRACE_S: Final = 15.0
"How much longer than a command's own time-out the host waits: a process in state D does not end from inside."


@dataclass(frozen=True, slots=True)
class Result:
    """What a command left."""

    code: int
    out: str
    err: str


class CommandError(Exception):
    """A command in the guest failed, or took too long."""


class Running:
    """A command that runs in the guest."""

    def __init__(
        self, guest: "Guest", number: int, command: tuple[str, ...], timeout_s: float | None
    ) -> None:
        self._guest = guest
        self._number = number
        self._command = command
        self._deadline_s = None if timeout_s is None else time.monotonic() + timeout_s + GRACE_S
        self.pid = int(guest.answer(number, "pid", time.monotonic() + GRACE_S)["pid"])

    @property
    def ended(self) -> bool:
        return self._guest.answered(self._number)

    def kill(self, name: str = "KILL") -> None:
        """Send it a signal."""
        self._guest.run("kill", f"-{name}", str(self.pid))

    def wait(self, timeout_s: float = GRACE_S, *, check: bool = True) -> Result:
        """Its result; `timeout_s` counts where it was started without a time-out.

        Raises `CommandError` where it exceeded its time-out or, with `check`, failed.
        """
        deadline_s = self._deadline_s or time.monotonic() + timeout_s
        answer = self._guest.answer(self._number, "code", deadline_s)
        shown = " ".join(self._command)
        if answer["code"] is None:
            raise CommandError(f"{shown}: took too long\n{answer['out']}{answer['err']}")
        if check and answer["code"]:
            raise CommandError(f"{shown}: ended with {answer['code']}\n{answer['out']}{answer['err']}")
        return Result(answer["code"], answer["out"], answer["err"])


class Guest:
    """A guest that runs. Not for use by several threads."""

    def __init__(self, process: subprocess.Popen[bytes], line: socket.socket, console: Path) -> None:
        self._process = process
        self._line = line
        self._console = console
        self._buffer = b""
        self._answers: dict[int, dict[str, Any]] = {}
        self._numbers = itertools.count(1)
        self.answer(0, "pid", time.monotonic() + BOOT_S)

    def start(self, *command: str, timeout_s: float | None = None, stdin: str = "") -> Running:
        """Start a command; after `timeout_s` the guest kills it."""
        number = next(self._numbers)
        request = {"id": number, "command": command, "input": stdin, "timeout_s": timeout_s}
        self._line.settimeout(GRACE_S)
        self._line.sendall(json.dumps(request).encode() + b"\n")
        return Running(self, number, command, timeout_s)

    def run(self, *command: str, timeout_s: float = 60.0, stdin: str = "", check: bool = True) -> Result:
        """Run a command to its end. Raises `CommandError` (see `Running.wait`)."""
        return self.start(*command, timeout_s=timeout_s, stdin=stdin).wait(check=check)

    def shell(self, script: str, *arguments: str, timeout_s: float = 60.0) -> str:
        """What a script of bash prints; each of its commands has to succeed. `arguments` are $1, $2, ..."""
        command = ("bash", "-euo", "pipefail", "-c", script, "bash", *arguments)
        return self.run(*command, timeout_s=timeout_s).out

    def answered(self, number: int) -> bool:
        self._receive(time.monotonic())
        return "code" in self._answers.get(number, {})

    def answer(self, number: int, key: str, deadline_s: float) -> dict[str, Any]:
        """What the agent said of request `number`, once `key` is in it. Raises `LabError` at the deadline."""
        while key not in self._answers.get(number, {}):
            if not self._receive(deadline_s):
                raise LabError(f"the guest does not answer:\n{self.console()}")
        return self._answers[number]

    def console(self) -> str:
        """The end of what its kernel said."""
        return self._console.read_text(errors="replace")[-4000:]

    def _receive(self, deadline_s: float) -> bool:
        """Take in what the agent sends; False when nothing came by the deadline."""
        self._line.settimeout(max(deadline_s - time.monotonic(), 0.001))
        try:
            data = self._line.recv(1 << 16)
        except TimeoutError:
            return False
        if not data:
            raise LabError(f"the guest is gone:\n{self.console()}")
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            answer = json.loads(line)
            self._answers.setdefault(answer["id"], {}).update(answer)
        return True


@contextlib.contextmanager
def guest(root: Path, links: Sequence[socket.socket] = (), number: int = 0) -> Iterator[Guest]:
    """Boots a guest (3 s); its processes and its disk go with the block. Raises `LabError`.

    Each of `links` is the end of a `cable`: an interface vec0, vec1, ... with the guest of the other end.
    Guests with neighbouring numbers run on different processors.

    A guest was seen to stand still at its first command, once in some hundred boots, before anything of ours
    ran in it. Such a one is booted once more, and that is said.
    """
    with contextlib.ExitStack() as stack:
        try:
            running = stack.enter_context(_booted(root, links, number))
            running.run(*FIRST_COMMAND, timeout_s=FIRST_COMMAND_S)
        except (LabError, CommandError) as error:
            warnings.warn(f"a guest is booted again: {error}", stacklevel=3)
            stack.close()
            running = stack.enter_context(_booted(root, links, number))
        yield running


@contextlib.contextmanager
def _booted(root: Path, links: Sequence[socket.socket], number: int) -> Iterator[Guest]:
    # It cannot write there, and compiling takes longest.
    compileall.compile_dir(CHECKOUT / "iscsi_rp", quiet=2)
    init = _init(root)
    with tempfile.TemporaryDirectory(prefix="iscsi-rp-guest-", dir="/var/tmp") as folder:
        disk, console = Path(folder, "disk"), Path(folder, "console")
        with disk.open("wb") as file:
            file.truncate(DISK_BYTES)
        ours, theirs = socket.socketpair()
        with ours, theirs, console.open("wb") as output:
            process = subprocess.Popen(
                _command(root, init, Path(folder), disk, theirs.fileno(), links, number),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, "TMPDIR": "/dev/shm"},
                pass_fds=[theirs.fileno(), *(link.fileno() for link in links)],
                start_new_session=True,
            )
            theirs.close()
            try:
                running = Guest(process, ours, console)
                _let_disk_run(process.pid)
                yield running
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@contextlib.contextmanager
def cable() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends for two guests. Each message is a frame of Ethernet."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, other:
        for end in (one, other):
            # The kernel of a guest stands still while it waits for one.
            end.setblocking(False)
        yield one, other


def _init(root: Path) -> str:
    """Where `init.sh` stands in the root file system: under a name for its content, for another checkout that
    boots a guest of the same root meanwhile may have another one.
    """
    script = (HERE / "init.sh").read_bytes()
    path = root / f"init-{hashlib.sha256(script).hexdigest()[:12]}"
    if not path.exists():
        with tempfile.NamedTemporaryFile(dir=root, prefix="init-", delete=False) as file:
            file.write(script)
        Path(file.name).chmod(0o755)
        Path(file.name).rename(path)
    return f"/{path.name}"


def _command(
    root: Path,
    init: str,
    folder: Path,
    disk: Path,
    serial: int,
    links: Sequence[socket.socket],
    number: int,
) -> list[str]:
    # It has but one, and moving between two doubles the time to boot; guests of two workers take two.
    cpus = sorted(os.sched_getaffinity(0))
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    one_cpu = str(cpus[-1 - (worker + number) % len(cpus)])
    return [
        *("taskset", "-c", one_cpu, str(root / "usr/bin/linux.uml")),
        *(f"mem={MEMORY_MIB}M", "umid=guest", f"uml_dir={folder}/", f"ubd0={disk}"),
        *(
            "root=/dev/root",
            "rootfstype=hostfs",
            f"rootflags={root}",
            "ro",
            f"init={init}",
            "quiet",
            "oops=panic",
        ),
        *("con=null", "con0=null,fd:1", "ssl=null", f"ssl0=fd:{serial},fd:{serial}"),
        *(f"vec{index}:transport=fd,fd={link.fileno()}" for index, link in enumerate(links)),
        *(f"SHARES={','.join(_shares())}", f"AGENT={HERE / 'agent.py'}", f"PYTHON={sys.executable}"),
    ]


def _let_disk_run(kernel: int) -> None:
    """On any processor: a disk takes nothing of the one that its machine computes with. What works for it are
    those children of the guest's kernel that are no processes of the guest.
    """
    with contextlib.suppress(OSError):  # then it is slower
        for child in Path(f"/proc/{kernel}/task/{kernel}/children").read_text().split():
            if "TracerPid:\t0\n" in Path(f"/proc/{child}/status").read_text():
                os.sched_setaffinity(int(child), os.sched_getaffinity(0))


def _shares() -> list[str]:
    """The checkout, and where this Python and its packages are, unless the guest's own packages have them."""
    folders = {str(CHECKOUT), sys.prefix, sys.base_prefix}
    return sorted(
        folder
        for folder in folders
        if not folder.startswith("/usr") and not any(folder.startswith(f"{other}/") for other in folders)
    )
