"""`python -m tests.crash`: kill -9 of array and appliance under load; nothing may be lost."""

import argparse
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from iscsi_rp.errors import Error
from tests.crash.checks import GROUP, Checks, Score
from tests.crash.history import History
from tests.crash.writer import Writer
from tests.kit.initiator import InitiatorError
from tests.kit.processes import Daemon, ProcessError
from tests.kit.stack import IQN, SPLIT_TIMEOUT_S, Stack

SIZES: Final = {"one": 64 << 20, "two": 32 << 20}
JOURNAL_BYTES: Final = 1 << 30
"Small, so that a run of many kills trims too."
LOAD_S: Final = 1.5
DOWN_S: Final = 0.8
AGAIN: Final = 0.25
"Share of kills that follow the one before during its resynchronisation."
STALL_S: Final = 4.0
STORE_S: Final = 1.5
"What a busy machine may need beyond `split_timeout`."


def main() -> int:
    options = _options()
    directory = Path(tempfile.mkdtemp(prefix="iscsi-rp-crash-", dir=options.directory))
    print(f"crash: seed {options.seed}, files in {directory}", flush=True)
    trial = Trial(directory, options.seed, options.tls)
    whole = False
    try:
        trial.run(options.kills)
        whole = True
    except (Error, InitiatorError, ProcessError, TimeoutError) as error:
        print(f"not run to the end: {error}", trial.stack.logs(), sep="\n", file=sys.stderr, flush=True)
    finally:
        trial.close()
    good = whole and not trial.score.lost and not trial.score.broken
    if good:
        shutil.rmtree(directory)
    print(
        f"slowest write {trial.slowest_s:.2f} s; images trimmed before they were read {trial.score.refused}"
    )
    print(
        f"crash: kills {trial.kills} acknowledged {trial.history.acknowledged} lost {trial.score.lost} "
        f"images {trial.score.images} broken {trial.score.broken}"
    )
    return 0 if good else 1


class Trial:
    """One group of two volumes under load, and the kills."""

    def __init__(self, directory: Path, seed: int, tls: bool) -> None:
        self.kills = 0
        self.slowest_s = 0.0
        self.score = Score()
        self.stack = Stack(directory, tls=tls)
        self.history = History(list(SIZES.values()))
        self._random = random.Random(seed)
        self._writer: Writer | None = None

    def run(self, kills: int) -> None:
        """Raises what the stack raises when it does not come back."""
        checks = self._begin()
        stall_after = self._random.randrange(max(1, kills))
        while self.kills < kills:
            self._load(checks)
            self._kill(checks.writer)
            while self.kills < kills and self._random.random() < AGAIN:
                time.sleep(self._random.uniform(0, LOAD_S / 3))
                self._kill(checks.writer)
            self.stack.wait_splitting(GROUP)
            checks.quiet()
            checks.under_load()
            if self.kills > stall_after:
                stall_after = kills  # once a run
                self._stall(checks.writer)
        self._judge(checks.writer)
        checks.writer.stop()
        self.stack.stop()
        self._tracebacks()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.array_may_die.set()
        self.stack.kill()
        if self._writer is not None:
            self._writer.stop()

    def _begin(self) -> Checks:
        self.stack.start()
        volumes = [self.stack.create_volume(name, size) for name, size in SIZES.items()]
        self.stack.protect(GROUP, list(SIZES), JOURNAL_BYTES)
        luns = [volume.lun for volume in volumes]
        self._writer = Writer(self.history, self.stack.portal, IQN, luns, self._random.randrange(2**32))
        self._writer.start()
        return Checks(self.stack, self.history, self._writer, list(SIZES), luns, self._random, self.score)

    def _load(self, checks: Checks) -> None:
        for _ in range(2):
            time.sleep(self._random.uniform(0, LOAD_S / 2))
            checks.bookmark()
        time.sleep(self._random.uniform(0, LOAD_S / 2))
        self._judge(checks.writer)

    def _kill(self, writer: Writer) -> None:
        victims = self._random.choice(
            ((self.stack.array,), (self.stack.appliance,), (self.stack.array, self.stack.appliance))
        )
        array_dies = self.stack.array in victims
        if array_dies:
            writer.array_may_die.set()
        for victim in victims:
            victim.kill()
        sessions = writer.sessions
        self.kills += 1
        print(f"kill {self.kills}: {_names(victims)}; {self.history.acknowledged} acknowledged", flush=True)
        time.sleep(self._random.uniform(0, DOWN_S))
        self.stack.start()
        if array_dies:
            self.stack.array.until("the writer's session", lambda: writer.sessions > sessions or None)
            writer.array_may_die.clear()
        self._judge(writer)

    def _stall(self, writer: Writer) -> None:
        """A hung appliance: host writes go on within `split_timeout` (BOUNDED)."""
        self._judge(writer)
        writer.longest_s, before = 0.0, self.history.acknowledged
        self.stack.appliance.pause()
        time.sleep(STALL_S)
        stalled = self.history.acknowledged - before
        self.stack.appliance.resume()
        self.stack.wait_splitting(GROUP)
        slowest = f"the slowest {writer.longest_s:.2f} s"
        told = f"appliance stopped for {STALL_S:.0f} s: {stalled} writes meanwhile, {slowest}"
        print(told, flush=True)
        if writer.longest_s > SPLIT_TIMEOUT_S + STORE_S or not stalled:
            self.score.report("BOUNDED", [told])

    def _judge(self, writer: Writer) -> None:
        """What the host saw since the last time."""
        self.slowest_s = max(self.slowest_s, writer.longest_s)
        failures, writer.failures = writer.failures, []
        if not writer.is_alive():
            failures.append("the writer is dead")
        self.score.report("host I/O", failures[:5])

    def _tracebacks(self) -> None:
        for daemon in (self.stack.array, self.stack.appliance):
            tail = daemon.log_tail(10**6)
            if "Traceback" in tail:
                self.score.report(f"{daemon.name}'s log", tail[tail.index("Traceback") :].splitlines()[:20])


def _names(daemons: tuple[Daemon, ...]) -> str:
    return " and ".join(daemon.name for daemon in daemons)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--kills", type=int, default=10, help="how many (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=time.time_ns() % 2**32, help="of the writes and the moments"
    )
    parser.add_argument("--tls", action="store_true", help="array and appliance as on two machines")
    parser.add_argument("--directory", type=Path, help="where the files go")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
