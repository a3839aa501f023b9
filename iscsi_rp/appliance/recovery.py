"""Recovering production: what it would take, and the job that follows it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from pydantic import JsonValue

from iscsi_rp.appliance.group import KEEP_FREE_BYTES, RESTORE, Group
from iscsi_rp.clock import utc_ns
from iscsi_rp.control.appliance_models import Image, RecoveryPlan
from iscsi_rp.control.jobs import Progress
from iscsi_rp.errors import ConflictError
from iscsi_rp.units import format_size

POLL_S: Final = 0.05

Work = Callable[[Progress], Awaitable[dict[str, JsonValue]]]
"See `Jobs.start`."


async def plan(group: Group, image: Image) -> RecoveryPlan:
    """What recovering production to `image` would change."""
    return RecoveryPlan(
        group=group.row.name,
        image=image,
        volumes=[each.name for each in group.row.sets],
        later_writes=group.log.end - image.position,
        touched_bytes=await _touched_bytes(group, image),
    )


async def begin(group: Group, image: Image) -> Work:
    """Order it; the work of a job that ends when production is as `image`. Raises ConflictError,
    JournalError.
    """
    receiver = group.receiver
    if receiver.state.restoring is not None:
        raise ConflictError(f"production of group {group.row.name!r} is being recovered already")
    if receiver.span_from is not None or not receiver.sessions:
        raise ConflictError(
            f"the array is not in sync with group {group.row.name!r}",
            hint="Production can be recovered when `iscsi-rp status` shows SPLITTING.",
        )
    await _check_room(group, image)
    group.pin(RESTORE, image.position)
    group.restore(image.position)

    async def work(progress: Progress) -> dict[str, JsonValue]:
        return await _follow(group, image, progress)

    return work


async def _check_room(group: Group, image: Image) -> None:
    """What is written back goes through the journal, which can give up nothing newer than the image
    meanwhile.
    """
    needed = await _touched_bytes(group, image)
    free = group.free_bytes()
    if needed + KEEP_FREE_BYTES > free:
        raise ConflictError(
            f"the recovery may take {format_size(needed)} of the journal's file system, "
            f"which has {format_size(free)} free",
            hint="Free space there first.",
        )


async def _follow(group: Group, image: Image, progress: Progress) -> dict[str, JsonValue]:
    started = utc_ns()
    progress.message = "blocking hosts"
    progress.total = await _touched_bytes(group, image)
    while group.receiver.state.restoring is not None or group.receiver.span_from is not None:
        sessions = group.receiver.sessions.values()
        progress.done = sum(each.fetched_bytes for each in sessions)
        progress.message = "writing the image back" if sessions else "waiting for the array"
        await asyncio.sleep(POLL_S)
    progress.done = progress.total
    return {
        "position": image.position,
        "time_ns": image.time_ns,
        "restored_bytes": progress.total,
        "seconds": (utc_ns() - started) / 1e9,
    }


async def _touched_bytes(group: Group, image: Image) -> int:
    def touched() -> int:
        after = [group.replica.touched_after(image.position, each.index) for each in group.row.sets]
        return sum(length for extents in after for _, length in extents)

    return await asyncio.to_thread(touched)
