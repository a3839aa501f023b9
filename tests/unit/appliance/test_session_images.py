"""Images for sessions, over a real log whose record is damaged on the disk."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from iscsi_rp.appliance.session_images import SessionImages
from iscsi_rp.journal.files import OsDirectory, OsFile
from iscsi_rp.journal.replica import Replica
from iscsi_rp.replication import frames as wire
from iscsi_rp.replication.digests import region_digests
from iscsi_rp.replication.frames import Frame
from iscsi_rp.replication.regions import REGION_BYTES
from tests.unit.appliance.rig import PAGE, SIZE, Rig, Splitter


def test_what_cannot_be_read_is_not_equal_and_breaks_a_restore_off(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "copy").write_bytes(bytes(SIZE))
    rig = Rig(tmp_path / "log")
    splitter = Splitter(rig).join()
    splitter.write()
    rig.sync()
    digests = region_digests(PAGE + bytes(REGION_BYTES - len(PAGE)))
    frame: Frame = (wire.HASHES, wire.COMPARE_SWEEP, 0, 2, 0, REGION_BYTES, digests, 0)

    async def script() -> None:
        copies = {0: OsFile(tmp_path / "copy")}
        replica = Replica.open(rig.log, OsDirectory(tmp_path / "log"), copies, {0: SIZE})
        with ThreadPoolExecutor(1) as threads:
            images = SessionImages("g", replica, threads, asyncio.get_running_loop())

            async def compared() -> bytes:
                answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
                done: Callable[[bytes], None] = answer.set_result
                images.compare(splitter.session, frame, rig.log.end, done)
                return await answer

            assert await compared() == b"\1"
            for path in (tmp_path / "log").glob("log-*"):
                path.write_bytes(path.read_bytes().replace(PAGE, b"q" * len(PAGE)))
            assert await compared() == b"\0"
            splitter.session.fetches = 1
            images.fetch(splitter.session, frame, rig.log.end)
            async with asyncio.timeout(10):
                while splitter.session.fetches:
                    await asyncio.sleep(0.01)
            ((*_, data, _),) = splitter.taken(wire.DATA)
            assert data == b""

    asyncio.run(script())
