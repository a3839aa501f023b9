"""`python -m tests.differential --seed 1 --count 5000`: the same commands to tgt and to us, answer by answer.

Compared are status, sense, residual, the data that came in, and at the end both disks. A difference must be
explained (`explained.py`), and every explanation must have its difference.
"""

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Final

from iscsi_rp.block import create_file
from tests.bench.tgt import Tgt
from tests.differential.explained import EXPLAINED
from tests.differential.stream import BLOCK, Step, steps
from tests.differential.wire import Answer, Wire
from tests.kit.target_process import target_processes

SIZE_BYTES: Final = 1 << 20
SEED: Final = 1
COUNT: Final = 6000

_IDENTITY: Final = ("INQUIRY", "MODE SENSE", "REPORT LUNS", "REQUEST SENSE")
"Commands whose data names the product: only status and sense are compared."
_ATTENTIONS: Final = 8


def main() -> int:
    options = _options()
    with tempfile.TemporaryDirectory(prefix="iscsi-rp-", dir="/var/tmp") as folder:
        found, equal = _compare(Path(folder), options.seed, options.count)
    unknown = found.keys() - EXPLAINED.keys()
    unneeded = EXPLAINED.keys() - found.keys()
    for difference, count in sorted(found.items()):
        print(f"{count:5} {difference}: {EXPLAINED.get(difference, 'NOT EXPLAINED')}")
    for difference in sorted(unneeded):
        print(f"explained, but it did not occur: {difference}")
    if not equal:
        print("the disks differ")
    wrong = len(unknown) + len(unneeded) + (not equal)
    print(f"differential: commands {options.count} differences {sum(found.values())} unexplained {wrong}")
    return 1 if wrong else 0


def _compare(folder: Path, seed: int, count: int) -> tuple[Counter[str], bool]:
    images = [folder / name for name in ("ours", "tgt")]
    for image in images:
        create_file(image, SIZE_BYTES)
    found: Counter[str] = Counter()
    tgt = Tgt(images[1], folder)
    try:
        tgt.start()
        with target_processes(images[0]) as target:
            wires = [Wire(url) for url in (target.url(), tgt.url)]
            for wire in wires:
                _clear_attentions(wire)
            for step in steps(seed, count, SIZE_BYTES // BLOCK - 1):
                mine, theirs = (wire.command(step.cdb, step.expected, step.data) for wire in wires)
                if difference := _difference(step, mine, theirs):
                    found[difference] += 1
            for wire in wires:
                wire.close()
    finally:
        tgt.stop()
    ours, other = (image.read_bytes() for image in images)
    return found, ours == other


def _clear_attentions(wire: Wire) -> None:
    for _ in range(_ATTENTIONS):
        if not wire.command(bytes(16), 0, None).status:
            return


def _difference(step: Step, mine: Answer, theirs: Answer) -> str | None:
    if (mine.status, mine.sense) != (theirs.status, theirs.sense):
        return f"{step.name}: {_outcome(mine)}, tgt {_outcome(theirs)}"
    if step.name.startswith(_IDENTITY):
        return None
    if mine.residual != theirs.residual:
        return f"{step.name}: residual {mine.residual}, tgt {theirs.residual}"
    if mine.data != theirs.data:
        return f"{step.name}: other data"
    return None


def _outcome(answer: Answer) -> str:
    if answer.sense is not None:
        key, code, qualifier = answer.sense
        return f"{key:x}/{code:02x}/{qualifier:02x}"
    return f"status {answer.status:02x}h" if answer.status else "GOOD"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.differential", description=__doc__)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--count", type=int, default=COUNT)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
