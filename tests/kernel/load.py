"""fio in the guest: random writes, then everything that was written is read and compared."""

import json

from tests.kernel.guest import Guest, Running


def start_load(
    guest: Guest, disk: str, *, size: str = "32M", block: str = "4k", depth: int = 16, seconds: int = 0
) -> Running:
    """Writes each block of the first `size` of `disk` once, in random order, and then verifies them.

    `seconds`: about how long the writes are to take, by a limit of their rate. 0: as fast as they go.
    """
    blocks = _bytes(size) // _bytes(block)
    return guest.start(
        *("fio", "--name=verify", f"--filename={disk}", "--rw=randwrite", f"--bs={block}", f"--size={size}"),
        *(f"--iodepth={depth}", "--ioengine=libaio", "--direct=1", "--randrepeat=0"),
        *("--verify=crc32c", "--verify_fatal=1", "--output-format=json"),
        *([f"--rate_iops=,{max(blocks // seconds, 1)}"] if seconds else []),
        timeout_s=seconds + 90,
    )


def finish_load(load: Running) -> None:
    """Wait for its end. Raises `AssertionError` or `CommandError` for any error of I/O or of the data."""
    result = load.wait()
    (job,) = json.loads(result.out[result.out.index("{") :])["jobs"]
    assert job["error"] == 0, result.out
    assert job["write"]["total_ios"] == job["read"]["total_ios"] > 0, result.out


def _bytes(text: str) -> int:
    return int(text[:-1]) << {"k": 10, "M": 20}[text[-1]]
