"""`python -m tests.soak`: memory and other people's work while very many come and go.

A round is 1,000 sessions that stay idle, then 10,000 connections that are opened and dropped: at once, after
half a login, after nonsense, after a whole login. After the second round the target may have no more than a
tenth above what it had after the first. Where it has, a third tells whether it goes on growing: when the
machine stood still for a moment, more connections may have been open at once than ever before. Then clients
ask for much and never read: the target's memory stays below its limits, and is given back. All the while a
host works; it must see no error.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from iscsi_rp.block import create_file
from iscsi_rp.frontend.iscsi_server import TICK_S
from iscsi_rp.iscsi.budget import ALL_HELD_BYTES, OWN_BYTES
from tests.bench.usage import memory_bytes
from tests.kit.target_process import IQN, TargetProcess, target_processes
from tests.soak import client

SESSIONS: Final = 1_000
CONNECTIONS: Final = 10_000
ROUNDS: Final = 2
MOST_ROUNDS: Final = 3
GROWTH: Final = 1.10
SILENT: Final = 64
"Clients that never read."
SILENT_COMMANDS: Final = 64
LONGEST_S: Final = 5.0
"A command of the host that works must not take longer."
_SETTLE_S: Final = 3.0


def main() -> int:
    options = _options()
    _allow_files()
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(prefix="iscsi-rp-", dir="/var/tmp") as folder:
        create_file(store := Path(folder) / "lun", 64 << 20)
        with target_processes(store) as target:
            wrong += _rounds(target, options.sessions, options.connections)
            wrong += _silent(target)
    for each in wrong:
        print(f"WRONG {each}")
    print(f"soak: sessions {options.sessions} connections {options.connections} wrong {len(wrong)}")
    return 1 if wrong else 0


def _rounds(target: TargetProcess, sessions: int, connections: int) -> list[str]:
    wrong: list[str] = []
    full: list[int] = []
    empty: list[int] = []
    with _working(target, wrong):
        while len(full) < ROUNDS or (_grown(full, empty) and len(full) < MOST_ROUNDS):
            began_s = time.monotonic()
            idle = [client.log_in(target.ports[at % 2], at) for at in range(sessions)]
            for at in range(connections):
                _DROPS[at % len(_DROPS)](target.ports[at % 2], at)
            full.append(_anonymous(target))
            for peer in idle:
                peer.close()
            empty.append(_anonymous(target))
            took_s = time.monotonic() - began_s
            print(
                f"round {len(full)}, {took_s:.0f} s: RssAnon {full[-1] >> 10} KiB with {sessions} sessions, "
                f"{empty[-1] >> 10} KiB without",
                flush=True,
            )
    return wrong + _grown(full, empty)


def _grown(full: list[int], empty: list[int]) -> list[str]:
    """What the last round took more of than the one before."""
    return [
        f"memory {what} grows: KiB {[each >> 10 for each in found]}"
        for what, found in (("with the sessions", full), ("without them", empty))
        if found[-1] > found[-2] * GROWTH
    ]


def _silent(target: TargetProcess) -> list[str]:
    """Clients that never read."""
    wrong: list[str] = []
    before = _anonymous(target)
    with _working(target, wrong):
        peers = [client.log_in(target.ports[0], at) for at in range(SILENT)]
        for peer in peers:
            client.ask_and_never_read(peer, SILENT_COMMANDS)
        during = _anonymous(target)
        for peer in peers:
            peer.close()
    given_back = ALL_HELD_BYTES // 4
    deadline_s = time.monotonic() + 2 * TICK_S  # the heap is given back with a tick
    while (after := _anonymous(target)) - before > given_back and time.monotonic() < deadline_s:
        pass
    print(
        f"{SILENT} clients that never read {SILENT_COMMANDS} MiB each: RssAnon KiB {before >> 10} before, "
        f"{during >> 10} during, {after >> 10} after",
        flush=True,
    )
    # What all may hold, and what each may hold in any case. The command that crosses it is taken whole, and
    # an answer of which the socket took a part is kept whole: the rest is pieces of the same buffer.
    limit = ALL_HELD_BYTES + SILENT * (OWN_BYTES + 2 * client.READ_BLOCKS * 512)
    if during - before > limit * GROWTH:
        wrong.append("what nobody reads takes more memory than the limits allow")
    if after - before > given_back:
        wrong.append("what nobody reads is not given back")
    return wrong


def _at_once(port: int, _: int) -> None:
    client.connect(port).close()


def _half_a_login(port: int, number: int) -> None:
    with client.connect(port) as peer:
        peer.sendall(client.login_request(number)[:60])


def _nonsense(port: int, _: int) -> None:
    with client.connect(port) as peer:
        peer.sendall(bytes(range(256)))


def _whole_login(port: int, number: int) -> None:
    client.log_in(port, 1_000_000 + number % 100).close()


_DROPS: Final[tuple[Callable[[int, int], None], ...]] = (_at_once, _half_a_login, _nonsense, _whole_login)


@contextmanager
def _working(target: TargetProcess, wrong: list[str]) -> Iterator[None]:
    """A host works meanwhile; what it suffered is added to `wrong`."""
    command = [sys.executable, "-m", "tests.soak.worker", f"127.0.0.1:{target.ports[0]}", IQN, "0"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdout.readline()
        yield
        process.stdin.close()
        found: dict[str, Any] = json.loads(process.stdout.read() or "{}")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    print("the host that works:", " ".join(f"{key} {value:.6g}" for key, value in found.items()), flush=True)
    if not found or found["errors"]:
        wrong.append("the host that works has errors")
    elif found["longest_ms"] > LONGEST_S * 1000:
        wrong.append("the host that works waited too long")


def _anonymous(target: TargetProcess) -> int:
    """Bytes of the target that are its own, once it has done what there was to do."""
    time.sleep(_SETTLE_S)
    return memory_bytes(target.pid)["RssAnon"]


def _allow_files() -> None:
    """As many as there may be, here and in the target."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--sessions", type=int, default=SESSIONS)
    parser.add_argument("--connections", type=int, default=CONNECTIONS, help="a round")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
