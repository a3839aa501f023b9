"""`python -m tests.fuzz --seconds 600`: each harness in turn gets its share of the time; 1 on a finding.

A harness runs in a process of its own, guided by the coverage of `iscsi_rp.iscsi` and `iscsi_rp.scsi`
(atheris, libFuzzer). It starts from `corpus/` and, with `--keep`, leaves there the inputs that reach more.
An input that breaks something is left in the current folder, to be fixed and then kept in the corpus.
"""

import argparse
import hashlib
import importlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.fuzz.keep import smallest

HARNESSES: Final = ("stream", "login", "scsi")
CORPUS: Final = Path(__file__).parent / "corpus"
INPUT_BYTES: Final = 2048
INPUT_LIMIT_S: Final = 10
MEMORY_MIB: Final = 1024


def main() -> int:
    options = _options()
    if options.worker:
        return _work(options.worker, options.rest)
    chosen = options.only or HARNESSES
    broken = 0
    for name in chosen:
        print(f"=== {name}", flush=True)
        broken += _run(name, options.seconds // len(chosen), keep=options.keep) != 0
    print(f"fuzz: harnesses {len(chosen)} seconds {options.seconds} broken {broken}")
    return 1 if broken else 0


def _run(name: str, seconds: int, *, keep: bool) -> int:
    kept = CORPUS / name
    with tempfile.TemporaryDirectory() as folder:
        worker = [sys.executable, "-m", "tests.fuzz", "--worker", name]
        limits = [f"-max_len={INPUT_BYTES}", f"-timeout={INPUT_LIMIT_S}", f"-rss_limit_mb={MEMORY_MIB}"]
        limits.append("-len_control=0")
        found = Path(folder) / "found"
        found.mkdir()
        limits += [f"-max_total_time={seconds}", "-print_final_stats=1"]
        folders = [str(found), str(kept)]
        code = subprocess.run([*worker, f"-artifact_prefix=broken-{name}-", *limits, *folders]).returncode
        if keep and not code:
            harness = importlib.import_module(f"tests.fuzz.{name}")
            inputs = [path.read_bytes() for path in (*kept.iterdir(), *found.iterdir())]
            shutil.rmtree(kept)
            kept.mkdir()
            for data in smallest(inputs, harness.fuzz):
                (kept / hashlib.sha1(data).hexdigest()).write_bytes(data)
    return code


def _work(name: str, arguments: list[str]) -> int:
    try:
        import atheris
    except ImportError:
        print("fuzz: atheris is missing: pip install '.[dev]', Linux on x86-64 only", file=sys.stderr)
        return 1
    with atheris.instrument_imports(include=["iscsi_rp.iscsi", "iscsi_rp.scsi"]):
        harness = importlib.import_module(f"tests.fuzz.{name}")
    atheris.Setup([sys.argv[0], *arguments], harness.fuzz)
    atheris.Fuzz()
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=600, help="for all together (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=HARNESSES, help="these harnesses")
    parser.add_argument("--keep", action="store_true", help="bring the corpus up to date")
    parser.add_argument("--worker", choices=HARNESSES, help=argparse.SUPPRESS)
    options, rest = parser.parse_known_args()
    if rest and not options.worker:
        parser.error(f"unknown: {' '.join(rest)}")
    options.rest = rest
    return options


if __name__ == "__main__":
    sys.exit(main())
