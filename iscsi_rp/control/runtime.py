"""The process and the loop of both daemons."""

import asyncio
import os
import resource
import selectors
import signal
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from iscsi_rp.clock import monotonic_s
from iscsi_rp.control.config import Config
from iscsi_rp.control.logs import logging_apart

OPEN_FILES: Final = 65536
"A segment of a journal is an open file, and so is a session of an initiator."
LOOK_AGAIN_S: Final = 150e-6
"A loop that has just had work looks for more for so long before it sleeps."
JUST_S: Final = 1e-3
LATER_S: Final = 0.05


class EagerSelector(selectors.EpollSelector):
    """Looks again for a moment before it sleeps.

    A write 1 deep goes from process to process, and each in turn would sleep and be woken: that takes longer
    than the work itself. Whoever else wants the processor gets it meanwhile, and a loop without work sleeps
    at once.
    """

    _last_event_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout != 0:
            ready = self._look_again() or super().select(timeout)
        if ready:
            self._last_event_s = monotonic_s()
        return ready

    def _look_again(self) -> list[tuple[selectors.SelectorKey, int]]:
        now_s = monotonic_s()
        if now_s - self._last_event_s > JUST_S:
            return []
        while monotonic_s() - now_s < LOOK_AGAIN_S:
            if ready := super().select(0):
                return ready
            os.sched_yield()
        return []


def run_daemon(config: Config, run: Callable[[Config, asyncio.Event], Awaitable[None]]) -> int:
    """Run a daemon in the foreground until SIGTERM or SIGINT; the exit code."""
    _raise_open_files()

    async def until_signal() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await run(config, stop)

    # With one processor nothing comes while we look: whoever would send it is waiting for us.
    alone = len(os.sched_getaffinity(0)) == 1
    selector = selectors.EpollSelector() if alone else EagerSelector()
    loop_factory = partial(asyncio.SelectorEventLoop, selector)
    with logging_apart(), asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(until_signal())
    return 0


def later(then: Callable[[], None]) -> None:
    """Call `then` after a moment: what a device was too busy for is tried again."""
    asyncio.get_running_loop().call_later(LATER_S, then)


def _raise_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
