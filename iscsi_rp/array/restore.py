"""Restoring production to an image: the array's part.

Hosts are blocked, durably. The regions that the appliance names are fetched from the image and written
through the splitter like any write, so that the journal has the way back too. Hosts get production again only
when the appliance has made it durable that the restore is complete; a restore that is broken off at any point
begins again from the start.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Final

from iscsi_rp.device import FLUSH, WRITE, ZERO, Io, IoError, Result
from iscsi_rp.errors import Error
from iscsi_rp.replication import frames as wire
from iscsi_rp.replication.regions import REGION_BYTES
from iscsi_rp.splitter.group import GroupSplitter

FETCH_BYTES: Final = 1 << 20
FETCHES_AT_ONCE: Final = 4
DRAIN_POLL_S: Final = 0.01


class RestoreError(Error):
    """The restore was broken off."""


class Restore:
    """One attempt, in one session."""

    def __init__(self, splitter: GroupSplitter, position: int, send: Callable[[bytes], None]) -> None:
        self._splitter = splitter
        self._position = position
        self._send = send
        self._touched: asyncio.Future[Sequence[tuple[int, range]]] = (
            asyncio.get_running_loop().create_future()
        )
        self._fetches: dict[int, asyncio.Future[bytes]] = {}
        self._number = 0

    async def run(self) -> None:
        """With hosts blocked: write every region and make it durable, then say so. Raises RestoreError,
        IoError.
        """
        await self._drained()
        self._send(wire.frame(wire.BLOCKED, a=self._position))
        pieces = self._pieces(await self._touched)
        async with asyncio.TaskGroup() as group:
            for _ in range(FETCHES_AT_ONCE):
                group.create_task(self._worker(pieces))
        for device in self._splitter.devices:
            await _submitted(device.submit_behind_block, (FLUSH, 0, 0, None, False, None))
        self._send(wire.frame(wire.RESTORED, a=self._position))

    async def _drained(self) -> None:
        """Until every write of the hosts is in the journal: what was touched is asked for after that."""
        core = self._splitter.core
        while core.sent or core.held or core.storing or core.marks.any_waiting:
            await asyncio.sleep(DRAIN_POLL_S)

    def touched(self, regions: Sequence[tuple[int, range]]) -> None:
        """Ranges of region numbers with their volume: all that was written after the image."""
        if not self._touched.done():
            self._touched.set_result(regions)

    def _pieces(self, touched: Sequence[tuple[int, range]]) -> Iterator[tuple[int, int, int]]:
        for volume, regions in touched:
            start, end = regions.start * REGION_BYTES, regions.stop * REGION_BYTES
            end = min(end, self._splitter.devices[volume].size)
            for offset in range(start, end, FETCH_BYTES):
                yield volume, offset, min(FETCH_BYTES, end - offset)

    async def _worker(self, pieces: Iterator[tuple[int, int, int]]) -> None:
        for volume, offset, length in pieces:
            data = await self._fetch(volume, offset, length)
            if len(data) != length:
                raise RestoreError("the appliance sent less of the image than was asked for")
            zeros = data == bytes(length)
            io: Io = (ZERO if zeros else WRITE, offset, length, None if zeros else data, False, None)
            await _submitted(self._splitter.devices[volume].submit_behind_block, io)

    def _fetch(self, volume: int, offset: int, length: int) -> Awaitable[bytes]:
        self._number += 1
        future = asyncio.get_running_loop().create_future()
        self._fetches[self._number] = future
        self._send(wire.frame(wire.FETCH, volume=volume, sequence=self._number, a=offset, b=length))
        return future

    def data(self, frame: wire.Frame) -> None:
        """A DATA frame arrived."""
        future = self._fetches.pop(frame[3], None)
        if future is not None and not future.done():
            future.set_result(bytes(frame[6]))


async def _submitted(submit: Callable[[Sequence[Io], Any], None], io: Io) -> None:
    """Submit one operation and wait for it. Raises its IoError."""
    future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()

    def done(results: Sequence[tuple[Any, Result]]) -> None:
        if not future.done():
            future.set_result(results[0][1])

    submit([io], done)
    result = await future
    if isinstance(result, IoError):
        raise result
