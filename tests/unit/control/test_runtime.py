"""The selector that looks again before it sleeps is a selector like any other."""

import asyncio
import os
import selectors
import threading
import time
from collections.abc import Iterator

import pytest

from iscsi_rp.control.runtime import EagerSelector


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def test_what_comes_while_it_looks_again_or_sleeps_is_found(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    with EagerSelector() as selector:
        selector.register(reader, selectors.EVENT_READ)
        for delay_s in (0.0, 20e-6, 0.02):  # there already, while it looks again, while it sleeps
            timer = threading.Timer(delay_s, os.write, (writer, b"x"))
            timer.start()
            assert [key.fd for key, _ in selector.select(5.0)] == [reader]
            assert os.read(reader, 1) == b"x"
            timer.join()


@pytest.mark.parametrize("just_worked", [False, True])
def test_the_timeout_holds(pipe: tuple[int, int], just_worked: bool) -> None:
    reader, writer = pipe
    with EagerSelector() as selector:
        selector.register(reader, selectors.EVENT_READ)
        if just_worked:
            os.write(writer, b"x")
            assert selector.select(1.0)
            os.read(reader, 1)
        began = time.monotonic()
        assert selector.select(0.05) == []
        assert time.monotonic() - began >= 0.05
        assert selector.select(0) == []


def test_an_idle_loop_takes_no_processor() -> None:
    async def wait() -> float:
        before = time.process_time()
        await asyncio.sleep(0.5)
        return time.process_time() - before

    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(EagerSelector())) as runner:
        assert runner.run(wait()) < 0.1
