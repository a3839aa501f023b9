"""Group commit: one thread that does work in order, and one sync for all durable work that it found
waiting.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import TypeAlias, TypeVar

from iscsi_rp.device import IoError

Committed: TypeAlias = Callable[[IoError | None], None]
T = TypeVar("T")


class CommitQueue:
    """Posted to from any thread. Its length is bounded by those who post: each device has its own limit."""

    def __init__(self, sync: Callable[[], IoError | None], name: str) -> None:
        """`sync` makes everything done so far durable, or tells why that cannot be."""
        self._sync = sync
        self._thread = ThreadPoolExecutor(1, name)
        self._lock = Lock()
        self._waiting: list[tuple[Callable[[], None], Committed | None]] = []
        self._busy = False

    def post(self, work: Callable[[], None], committed: Committed | None = None) -> None:
        """Call `work`, which must not raise, and `committed` after the sync behind it, both in the thread."""
        with self._lock:
            self._waiting.append((work, committed))
            if self._busy:
                return
            self._busy = True
        self._thread.submit(self._run)

    def call(self, work: Callable[[], T]) -> T:
        """Post `work` and wait for what it returns or raises."""
        future: Future[T] = Future()

        def job() -> None:
            try:
                future.set_result(work())
            except Exception as error:
                future.set_exception(error)

        self.post(job)
        return future.result()

    def close(self) -> None:
        """Finish what is waiting; nothing may be posted from now on."""
        self._thread.shutdown()

    def _run(self) -> None:
        while True:
            with self._lock:
                batch, self._waiting = self._waiting, []
                if not batch:
                    self._busy = False
                    return
            for work, _ in batch:
                work()
            if to_tell := [committed for _, committed in batch if committed]:
                error = self._sync()
                for committed in to_tell:
                    committed(error)
