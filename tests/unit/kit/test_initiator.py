"""The initiator of the proofs, against the project's own target."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.initiator import GOOD, Initiator, InitiatorError
from tests.kit.processes import free_port
from tests.kit.target_process import IQN, target_process

SIZE = 1 << 20
BLOCK = 4096


@pytest.fixture
def portal(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "disk").write_bytes(bytes(SIZE))
    with target_process(tmp_path / "disk") as url:
        yield url.split("/")[2]


def test_what_is_written_is_read(portal: str) -> None:
    data = os.urandom(2 * BLOCK)
    with Initiator(portal, IQN) as initiator:
        assert initiator.capacity(0) == (SIZE, 512)
        initiator.write(0, BLOCK, data, fua=True)
        initiator.flush(0)
        assert initiator.read(0, BLOCK, len(data)) == data
        initiator.unmap(0, BLOCK, BLOCK)
        assert initiator.read(0, BLOCK, len(data)) == bytes(BLOCK) + data[BLOCK:]


def test_a_queue_of_writes_gets_a_status_each(portal: str) -> None:
    statuses = []
    with Initiator(portal, IQN) as initiator:
        for number in range(SIZE // BLOCK):
            data = number.to_bytes(4, "big") * (BLOCK // 4)
            initiator.submit_write(0, number * BLOCK, data, lambda _, status: statuses.append(status))
            initiator.drain(below=32)
        initiator.drain()
        assert statuses == [GOOD] * (SIZE // BLOCK)
        read = initiator.read(0, 0, SIZE)
    assert [read[at : at + 4] for at in range(0, SIZE, BLOCK)] == [
        number.to_bytes(4, "big") for number in range(SIZE // BLOCK)
    ]


def test_beyond_the_end_is_an_error_and_the_session_goes_on(portal: str) -> None:
    statuses: list[int | None] = []
    with Initiator(portal, IQN) as initiator:
        with pytest.raises(InitiatorError, match="ILLEGAL_REQUEST"):
            initiator.write(0, SIZE, bytes(BLOCK))
        initiator.submit_write(0, SIZE, bytes(BLOCK), lambda _, status: statuses.append(status))
        initiator.drain()
        initiator.write(0, 0, bytes(BLOCK))
    assert statuses == [2]  # CHECK CONDITION, SAM-5 5.3.1


def test_a_lost_session_leaves_no_status(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(bytes(SIZE))
    statuses: list[int | None] = []
    with target_process(tmp_path / "disk") as url:
        initiator = Initiator(url.split("/")[2], IQN)
    with pytest.raises(InitiatorError):  # noqa: PT012 - which of both notices is libiscsi's affair
        while True:
            initiator.submit_write(0, 0, bytes(BLOCK), lambda _, status: statuses.append(status))
            initiator.poll()
    assert set(statuses) <= {None}
    assert initiator.in_flight == 0


def test_nobody_listens() -> None:
    with pytest.raises(InitiatorError):
        Initiator(f"127.0.0.1:{free_port()}", IQN)
