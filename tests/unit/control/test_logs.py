"""Log lines never make a daemon wait for who reads them."""

import os
import time
from threading import Thread

from iscsi_rp.control.logs import QueuedLogger

LONG = "x" * 1000


def read_all(fd: int) -> list[str]:
    with os.fdopen(fd) as reader:
        return reader.read().splitlines()


def test_lines_are_written_in_their_order_before_the_end() -> None:
    reader, writer = os.pipe()
    logger = QueuedLogger(writer)
    for number in range(20):
        logger.info(f"line {number}")
    logger.close()
    os.close(writer)
    assert read_all(reader) == [f"line {number}" for number in range(20)]


def test_nobody_reads_and_the_daemon_goes_on_and_the_rest_is_counted() -> None:
    reader, writer = os.pipe()
    logger = QueuedLogger(writer, lines=100)
    begun = time.monotonic()
    for _ in range(1000):
        logger.warning(LONG)
    assert time.monotonic() - begun < 1
    lines: list[str] = []
    readers = Thread(target=lambda: lines.extend(read_all(reader)))
    readers.start()  # now somebody reads: there is room again
    time.sleep(0.5)
    logger.info("last")
    logger.close()
    os.close(writer)
    readers.join(5)
    *_, told, last = lines
    assert told.endswith("log lines were dropped: nobody read them")
    assert 0 < int(told.split()[0]) <= 900
    assert last == "last"


def test_a_reader_that_is_gone_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    logger = QueuedLogger(writer, lines=10)
    for _ in range(100):
        logger.error("line")
    logger.close()
    os.close(writer)
