"""`python -m tests.conformance`: libiscsi's suite, all families, on a LUN of a server process.

The LUN is a 512n disk, one logical block a physical one. On others two tests of libiscsi 1.19 harm the run
without fault of the target: GetLBAStatus.UnmapSingle asks for LBA i + 1 and expects i + blocks per physical
block; CompareAndWrite.InvalidDataOutSize, where that command is missing, goes on changing byte 13 of CDBs.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from iscsi_rp.block import create_file
from tests.conformance.suite import Report, read_report
from tests.kit.target_process import target_process

SIZE_BYTES: Final = 1 << 30
TIME_LIMIT_S: Final = 230


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "lun"
        create_file(store, SIZE_BYTES)
        with target_process(store, physical_block_size=512) as url:
            output, code = _run(url)
    report = read_report(output)
    _show(report)
    if code or not report.complete:
        print(output[-2000:])
        print(f"The suite did not run to its end (exit code {code}).")
    print(report.summary())
    return 0 if report.complete and not code and not report.failed else 1


def _run(url: str) -> tuple[str, int]:
    # The last mode counts: verbose says which test skipped.
    command = ["iscsi-test-cu", "-d", "-n", "-v", url]
    try:
        done = subprocess.run(command, capture_output=True, timeout=TIME_LIMIT_S, check=False)
    except subprocess.TimeoutExpired as error:
        return (error.stdout or b"").decode(errors="replace"), -1
    return (done.stdout + done.stderr).decode(errors="replace"), done.returncode


def _show(report: Report) -> None:
    for suite, tests in report.failures.items():
        print(f"{suite}: {len(tests)} failed")
        for test in tests:
            print(f"  {test}")
    for suite, count in report.skips.items():
        print(f"{suite}: {count} skipped")


if __name__ == "__main__":
    sys.exit(main())
