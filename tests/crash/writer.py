"""The host: a real initiator with writes in flight on all volumes at once, and the memory of each status."""

import random
import threading
import time
from collections.abc import Sequence
from typing import Final

from tests.crash.blocks import BLOCK, encode
from tests.crash.history import History
from tests.kit.initiator import GOOD, Initiator, InitiatorError

DEPTH: Final = 32
LARGEST_BLOCKS: Final = 16
WRITES_PER_S: Final = 1500
"Enough to be always in the way, little enough that two cores still serve the checks."
HOT_BLOCKS: Final = 512
"Half of the writes go here, so that blocks are overwritten often."
FLUSH_S: Final = 0.7

_RETRY_S: Final = 0.05


class Writer(threading.Thread):
    """Writes until `stop`. LUN `luns[n]` of target `iqn` is volume n of `history`."""

    def __init__(self, history: History, portal: str, iqn: str, luns: Sequence[int], seed: int) -> None:
        super().__init__(name="writer", daemon=True)
        self.failures: list[str] = []
        "What no host should see: a write that was refused, a session lost while the array lived."
        self.array_may_die = threading.Event()
        "While set, losing the session is no failure."
        self.sessions = 0
        "Logins that succeeded."
        self.longest_s = 0.0
        "The longest any acknowledged write took since this was last set to 0."
        self._history = history
        self._target = (portal, iqn)
        self._luns = luns
        self._random = random.Random(seed)
        self._busy: set[tuple[int, int]] = set()
        self._stopping = threading.Event()
        self._wanted = threading.Event()
        self._wanted.set()
        self._quiet = threading.Event()

    def pause(self, timeout_s: float = 60) -> None:
        """Returns when every write issued has its status. Raises `TimeoutError`."""
        self._quiet.clear()
        self._wanted.clear()
        if not self._quiet.wait(timeout_s):
            raise TimeoutError("the writer's last commands got no status")

    def resume(self) -> None:
        self._wanted.set()

    def stop(self) -> None:
        self._stopping.set()
        self.join(60)

    def run(self) -> None:
        while not self._stopping.is_set():
            try:
                with Initiator(*self._target, luns=self._luns) as initiator:
                    self.sessions += 1
                    self._session(initiator)
            except InitiatorError as error:
                self._busy.clear()
                if not self.array_may_die.is_set():
                    self.failures.append(f"session lost: {error}")
                self._stopping.wait(_RETRY_S)

    def _session(self, initiator: Initiator) -> None:
        depth, flush_at_s, issue_at_s = 1, 0.0, time.monotonic()
        while not self._stopping.is_set():
            now_s = time.monotonic()
            if now_s > flush_at_s:
                initiator.flush(self._random.choice(self._luns))
                depth, flush_at_s = self._random.randint(1, DEPTH), now_s + FLUSH_S
            issue_at_s = max(issue_at_s, now_s - 0.01)
            while self._wanted.is_set() and initiator.in_flight < depth and issue_at_s <= now_s:
                self._issue(initiator)
                issue_at_s += 1 / WRITES_PER_S
            if not self._wanted.is_set() and initiator.in_flight == 0:
                self._quiet.set()
            initiator.poll(0.005)

    def _issue(self, initiator: Initiator) -> None:
        volume, blocks = self._random.randrange(len(self._luns)), self._size()
        limit = self._history.sizes[volume] // BLOCK
        if self._random.random() < 0.5:
            limit = min(limit, HOT_BLOCKS)
        first = self._random.randrange(limit - blocks + 1)
        touched = {(volume, block) for block in range(first, first + blocks)}
        if touched & self._busy:
            return
        self._busy |= touched
        sequence = self._history.issue(volume, first, blocks)
        data = encode(volume, first, blocks, sequence)
        began_s = time.monotonic()

        def done(_: bytes | None, status: int | None) -> None:
            self._busy.difference_update(touched)
            if status == GOOD:
                self._history.acknowledge(sequence)
                self.longest_s = max(self.longest_s, time.monotonic() - began_s)
            elif status is not None:
                self.failures.append(f"write {sequence} got status {status:#04x}")

        initiator.submit_write(self._luns[volume], first * BLOCK, data, done)

    def _size(self) -> int:
        return 1 if self._random.random() < 0.6 else self._random.randint(1, LARGEST_BLOCKS)
