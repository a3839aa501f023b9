import asyncio
from collections.abc import Awaitable, Callable

import pytest
from pydantic import JsonValue

from iscsi_rp.control.jobs import MAX_JOBS, Jobs, Progress
from iscsi_rp.control.models import Job, JobState
from iscsi_rp.errors import ConflictError, NotFoundError

Work = Callable[[Progress], Awaitable[dict[str, JsonValue]]]


async def halfway(progress: Progress) -> dict[str, JsonValue]:
    progress.total, progress.done, progress.message = 10, 5, "reading"
    await asyncio.sleep(3600)
    return {}


async def well(progress: Progress) -> dict[str, JsonValue]:
    progress.total = progress.done = 10
    return {"equal": True}


async def refused(_: Progress) -> dict[str, JsonValue]:
    raise ConflictError("not now")


async def buggy(_: Progress) -> dict[str, JsonValue]:
    raise ZeroDivisionError("a bug")


async def ended(work: Work) -> Job:
    jobs = Jobs()
    job = jobs.start("verify", "db", work)
    async with asyncio.timeout(5):
        while jobs.get(job.id).state is JobState.RUNNING:
            await asyncio.sleep(0)
    assert not jobs.running("verify", "db")
    return jobs.get(job.id)


@pytest.mark.parametrize(
    ("work", "state", "message"),
    [
        (well, JobState.DONE, ""),
        (refused, JobState.FAILED, "not now"),
        (buggy, JobState.FAILED, "internal error (ZeroDivisionError)"),
    ],
)
def test_every_job_comes_to_an_end(work: Work, state: JobState, message: str) -> None:
    job = asyncio.run(ended(work))
    assert (job.state, job.message) == (state, message)
    assert job.finished_ns is not None
    assert job.finished_ns >= job.started_ns
    assert job.result == ({"equal": True} if state is JobState.DONE else {})


def test_a_running_job_says_how_far_it_is_and_stops_with_the_daemon() -> None:
    async def scenario() -> None:
        jobs = Jobs()
        job = jobs.start("verify", "db", halfway)
        await asyncio.sleep(0)
        now = jobs.get(job.id)
        assert (now.state, now.done, now.total, now.message) == (JobState.RUNNING, 5, 10, "reading")
        assert jobs.running("verify", "db")
        assert not jobs.running("verify", "other")
        await jobs.stop()
        assert (jobs.get(job.id).state, jobs.get(job.id).message) == (JobState.FAILED, "the daemon stopped")

    asyncio.run(scenario())


def test_old_jobs_are_forgotten_but_none_that_runs() -> None:
    async def scenario() -> None:
        jobs = Jobs()
        first = jobs.start("verify", "db", halfway)
        second = jobs.start("verify", "db", well)
        for _ in range(MAX_JOBS):
            await asyncio.sleep(0)
            jobs.start("verify", "db", well)
        assert jobs.get(first.id).state is JobState.RUNNING
        with pytest.raises(NotFoundError):
            jobs.get(second.id)
        await jobs.stop()

    asyncio.run(scenario())
