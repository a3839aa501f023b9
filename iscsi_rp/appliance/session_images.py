"""Images read for the sessions of a group: hashes compared, and what production is restored from."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import structlog

from iscsi_rp.appliance.session import Session
from iscsi_rp.errors import Error
from iscsi_rp.journal.replica import Replica
from iscsi_rp.replication import frames as wire
from iscsi_rp.replication.digests import equal_regions
from iscsi_rp.replication.messages import region_frames
from iscsi_rp.replication.regions import REGION_SHIFT, region_count

_T = TypeVar("_T")

_log = structlog.get_logger(__name__)


class SessionImages:
    """The receiver's `Images`. Reads in `threads`, answers on `loop`, in whatever order the reads end."""

    def __init__(
        self, group: str, replica: Replica, threads: ThreadPoolExecutor, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._group = group
        self._replica = replica
        self._threads = threads
        self._loop = loop
        self._reads: set[asyncio.Task[None]] = set()

    def compare(
        self, session: Session, frame: wire.Frame, at: int, compared: Callable[[bytes], None]
    ) -> None:
        self._read(lambda: self._compare(session.volumes[frame[2]], frame, at), compared)

    def _compare(self, volume: int, frame: wire.Frame, at: int) -> bytes:
        _, purpose, _, _, offset, length, digests, _ = frame
        replica = self._replica
        try:
            equal = equal_regions(replica.read(volume, offset, length, at), digests)
            if purpose == wire.COMPARE_VERIFY and replica.copy_is_current(volume, offset, length, at):
                copy = replica.read_copy(volume, offset, length)
                if replica.copy_is_current(volume, offset, length, at):
                    equal = bytes(a & b for a, b in zip(equal, equal_regions(copy, digests), strict=True))
        except Error as error:
            _log.error("cannot compare", group=self._group, reason=error.message)
            # What cannot be read is not equal: it is sent again, or reported.
            return bytes(len(digests) // wire.DIGEST_BYTES)
        return equal

    def send_touched(self, session: Session, position: int) -> None:
        def touched() -> list[bytes]:
            pieces: list[bytes] = []
            for place, volume in enumerate(session.volumes):
                runs = (
                    (volume, offset >> REGION_SHIFT, region_count(length))
                    for offset, length in self._replica.touched_after(position, volume)
                )
                pieces.extend(region_frames(runs, {volume: place}))
            pieces.append(wire.frame(wire.TOUCHED, a=position))
            return pieces

        def send(pieces: list[bytes]) -> None:
            for piece in pieces:
                session.peer.send(piece)

        self._read(touched, send)

    def fetch(self, session: Session, frame: wire.Frame, position: int) -> None:
        _, _, place, sequence, offset, length, _, _ = frame

        def answer() -> bytes:
            try:
                data = self._replica.read(session.volumes[place], offset, length, position)
            except Error as error:
                _log.error("cannot read the image", group=self._group, reason=error.message)
                data = b""  # shorter than asked for: the restore is broken off
            return wire.frame(wire.DATA, volume=place, sequence=sequence, a=offset, b=length, payload=data)

        def send(frame: bytes) -> None:
            session.fetches -= 1
            session.fetched_bytes += length
            session.peer.send(frame)

        self._read(answer, send)

    def _read(self, work: Callable[[], _T], then: Callable[[_T], None]) -> None:
        async def run() -> None:
            then(await self._loop.run_in_executor(self._threads, work))

        task = self._loop.create_task(run())
        self._reads.add(task)
        task.add_done_callback(self._reads.discard)
