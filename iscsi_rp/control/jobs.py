"""Jobs: work that goes on after the request for it was answered, and what became of it."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final
from uuid import uuid4

import structlog
from pydantic import JsonValue

from iscsi_rp.clock import utc_ns
from iscsi_rp.control.app import no_such
from iscsi_rp.control.models import Job, JobState
from iscsi_rp.errors import Error

MAX_JOBS: Final = 100
"Jobs remembered; older ones that are over are forgotten."

_log = structlog.get_logger(__name__)


class Progress:
    """What a job's work reports while it runs."""

    def __init__(self) -> None:
        self.done = 0
        self.total = 0
        self.message = ""


class Jobs:
    """The jobs of one daemon."""

    def __init__(self) -> None:
        self._jobs: OrderedDict[str, tuple[Job, Progress]] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()

    def start(
        self, kind: str, group: str, work: Callable[[Progress], Awaitable[dict[str, JsonValue]]]
    ) -> Job:
        """Run `work`; its answer is the job's result, its Error the job's failure."""
        job = Job(id=uuid4().hex[:12], kind=kind, group=group, state=JobState.RUNNING, started_ns=utc_ns())
        progress = Progress()
        self._jobs[job.id] = (job, progress)
        for old in [key for key, (each, _) in self._jobs.items() if each.state is not JobState.RUNNING]:
            if len(self._jobs) <= MAX_JOBS:
                break
            del self._jobs[old]
        task = asyncio.create_task(self._run(job, progress, work), name=f"{kind}-{group}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return job

    async def _run(
        self, job: Job, progress: Progress, work: Callable[[Progress], Awaitable[dict[str, JsonValue]]]
    ) -> None:
        try:
            result = await work(progress)
            change: dict[str, object] = {
                "state": JobState.DONE,
                "result": result,
                "message": progress.message,
            }
        except Error as error:
            change = {"state": JobState.FAILED, "message": error.message}
        except asyncio.CancelledError:
            change = {"state": JobState.FAILED, "message": "the daemon stopped"}
        except Exception as error:
            # A bug of ours. Without an end of the job, whoever follows it would wait for ever.
            _log.exception("job failed", kind=job.kind, group=job.group)
            change = {"state": JobState.FAILED, "message": f"internal error ({type(error).__name__})"}
        self._jobs[job.id] = (job.model_copy(update={**change, "finished_ns": utc_ns()}), progress)

    def get(self, job_id: str) -> Job:
        """Raises NotFoundError."""
        found = self._jobs.get(job_id)
        if found is None:
            raise no_such("job", job_id, "iscsi-rp status")
        job, progress = found
        update: dict[str, object] = {"done": progress.done, "total": progress.total}
        if job.state is JobState.RUNNING:
            update["message"] = progress.message
        return job.model_copy(update=update)

    def running(self, kind: str, group: str) -> bool:
        return any(
            (job.kind, job.group, job.state) == (kind, group, JobState.RUNNING)
            for job, _ in self._jobs.values()
        )

    async def stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
