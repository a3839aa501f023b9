"""`python -m tests.bench`: iscsi-rp against Debian's tgt, alternately, on files of the same size."""

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.bench import cases, report, sessions
from tests.bench.depth import measure_depth
from tests.bench.load import LoadError, read_through, require_tools
from tests.bench.memory import measure_memory
from tests.bench.ours import Ours
from tests.bench.pairs import Outcome, measure
from tests.bench.sustained import measure_sustained
from tests.bench.tgt import Tgt
from tests.kit.processes import ProcessError

PAIRS: Final = 11
QUICK_PAIRS: Final = 2
IMAGE_BYTES: Final = 1 << 30
QUICK_IMAGE_BYTES: Final = 512 << 20

_CHUNK: Final = 8 << 20


def main() -> int:
    options = _options()
    try:
        require_tools()
        with tempfile.TemporaryDirectory(prefix="iscsi-rp-bench-", dir=options.directory) as directory:
            return _run(options, Path(directory))
    except (LoadError, ProcessError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1


def _run(options: argparse.Namespace, directory: Path) -> int:
    if options.memory:
        return measure_memory(directory)
    if options.image_depth:
        return measure_depth(directory)
    if options.sustained:
        measure_sustained(directory)
        return 0
    chosen = [case for case in cases.all_cases() if _wanted(case.name, options)]
    also = [name for name in (sessions.MIXED, sessions.DIGEST) if _wanted(name, options)]
    if not chosen and not also:
        raise LoadError("no case of that name; names are like randread-4k-qd32-unsplit")
    size_bytes = QUICK_IMAGE_BYTES if options.quick else IMAGE_BYTES
    pairs = QUICK_PAIRS if options.quick else options.pairs
    outcomes, fairness = _compare(chosen, also, size_bytes, directory, pairs, options.tls)
    print("", *report.ratio_lines(outcomes), *fairness, sep="\n")
    report.write_json(outcomes)
    print(f"bench: cases {len(outcomes)} written to {report.RESULTS}")
    return 0


def _compare(
    chosen: list[cases.Case], also: list[str], size_bytes: int, directory: Path, pairs: int, tls: bool
) -> tuple[list[Outcome], list[str]]:
    """Each server has a file of its own, in the page cache as its own way of reading brings it there. Returns
    the outcomes, and a line about the fairness of many sessions where that was measured.
    """
    outcomes: list[Outcome] = []
    fairness: list[str] = []
    images = [directory / name for name in ("tgt-image", "image")]
    for image in images:
        _preallocate(image, size_bytes)
    tgt, ours = Tgt(images[0], directory), Ours(images[1], directory, tls=tls)
    print(report.heading(), flush=True)
    try:
        tgt.start()
        ours.start()
        if sessions.DIGEST in also:
            outcomes.append(sessions.measure_digest(ours, directory, pairs))
            print(report.row(outcomes[-1]), flush=True)
        if sessions.MIXED in also:
            outcome, mine, theirs = sessions.measure_mixed(ours, tgt, directory, pairs)
            outcomes.append(outcome)
            fairness.append(f"fairness {sessions.MIXED} {mine:.3f} tgt {theirs:.3f}")
            print(report.row(outcome), flush=True)
        for case in chosen:
            if case.split:
                ours.split()
            for url in (tgt.url, ours.url):
                read_through(url, size_bytes)  # a machine may take back what was not used for a while
            outcomes.append(measure(case, ours, tgt, pairs))
            print(report.row(outcomes[-1]), flush=True)
    finally:
        ours.kill()
        tgt.stop()
    return outcomes, fairness


def _wanted(name: str, options: argparse.Namespace) -> bool:
    if options.only:
        return any(part in name for part in options.only)
    return not options.quick or name in cases.QUICK


def _preallocate(image: Path, size_bytes: int) -> None:
    """Written, not only reserved, so that no first write pays for the file system; not in the page cache."""
    with image.open("wb") as file:
        for _ in range(size_bytes // _CHUNK):
            file.write(bytes(_CHUNK))
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="a few cases, two pairs each: does it run at all"
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="cases whose name holds one of these")
    parser.add_argument("--pairs", type=int, default=PAIRS, help="pairs a case (default: %(default)s)")
    parser.add_argument(
        "--directory", type=Path, default=Path("/var/tmp"), help="where the files go: a real disk"
    )
    parser.add_argument("--tls", action="store_true", help="array and appliance as on two machines")
    parser.add_argument("--memory", action="store_true", help="instead: memory of both over 10 GiB of writes")
    parser.add_argument("--sustained", action="store_true", help="instead: writes beyond a full journal")
    parser.add_argument("--image-depth", action="store_true", help="instead: an image 100,000 writes back")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
