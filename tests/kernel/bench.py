"""`python -m tests.kernel.bench`: our handler against tcmu-runner's, in one guest, through tcm_loop.

4 KiB random writes by fio, pairs of runs in turns; what counts is the median of the ratios. tcmu-runner
serves a raw file by its qcow handler. All disks are alike, and were written once before. So were the guest's
memory and the disk that all of them stand on: the first touch of either is this machine's work, not theirs.
Each run begins when the appliance has distributed what the one before had written and nothing is left to be
written to the disk. It ends with a flush, whose time counts: else an unsplit disk would leave that work for
after the run, while a split one is flushed every few seconds. The ratio without it stands beside.

With `--seconds 30 --journal 512MiB` the journal is full from the second pair on, as one mostly is.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from statistics import median
from typing import Final, NamedTuple

from tests.kernel.guest import Guest, guest
from tests.kernel.rootfs import rootfs
from tests.kernel.site import Daemons, eventually

SIZE_MIB: Final = 192
TOUCH: Final = "dd if=/dev/zero of=/srv/touched bs=1M count=1300 conv=fsync status=none; rm /srv/touched"
"Nearly all of the guest's memory (its page cache), and as much of its disk."
RUNNER: Final = """
    mkdir -p /run/dbus && dbus-daemon --system --fork
    modprobe -a target_core_user tcm_loop sd_mod
    mount -t configfs configfs /sys/kernel/config
    mkdir -p /etc/target
    setsid tcmu-runner > /dev/null 2>&1 < /dev/null &
    sleep 3
    truncate -s $1M /srv/runner.img
    core=/sys/kernel/config/target/core/user_9/runner
    mkdir -p $core && cd $core
    echo -n dev_size=$(($1 << 20)) > control
    echo -n dev_config=qcow//srv/runner.img > control
    echo 1 > enable
    port=/sys/kernel/config/target/loopback/naa.5001405aaaaaaaaa/tpgt_1
    mkdir -p $port/lun/lun_0 && echo -n naa.5001405bbbbbbbbb > $port/nexus
    ln -s $core $port/lun/lun_0/port
    for _ in $(seq 50); do
        disk=$(ls /sys/class/scsi_device/$(cat $port/address):0/device/block 2> /dev/null) && break
        sleep 0.1
    done
    echo /dev/$disk
"""


class _Rates(NamedTuple):
    """Writes a second."""

    flushed: float
    before_flush: float


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kernel.bench", description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="of a run (default: %(default)s)")
    parser.add_argument("--journal", default="2GiB", help="of the split disk's group (default: %(default)s)")
    options = parser.parse_args()
    with guest(rootfs()) as running:
        running.shell(TOUCH, timeout_s=300)
        runner = running.shell(RUNNER, str(SIZE_MIB), timeout_s=60).strip()
        daemons = Daemons(running)
        for name in ("array", "appliance"):
            daemons.start(name)
        plain, split = _disk(daemons, "plain"), _disk(daemons, "split")
        daemons.protect("split", "split", journal=options.journal)
        for disk in (runner, plain, split):
            running.shell(f'dd if=/dev/zero "of=$1" bs=1M count={SIZE_MIB} oflag=direct status=none', disk)
        for name, ours, theirs in (
            ("tcmu-unsplit/tcmu-runner", plain, runner),
            ("tcmu-split/unsplit", split, plain),
        ):
            _compare(name, daemons, running, ours, theirs, options.pairs, options.seconds)
        daemons.stop_all()
    return 0


def _disk(daemons: Daemons, name: str) -> str:
    daemons.create_volume(name, "--front-end", "local", size=f"{SIZE_MIB}MiB")
    return eventually("the disk", lambda: str(daemons.query("volume", "show", name)["device"] or ""))


def _compare(
    name: str, daemons: Daemons, running: Guest, ours: str, theirs: str, pairs: int, seconds: int
) -> None:
    for disk in (ours, theirs):
        _writes(running, disk, seconds)
    pairs_of_rates: list[tuple[_Rates, _Rates]] = []
    for number in range(pairs):
        order: Sequence[str] = (ours, theirs) if number % 2 else (theirs, ours)
        by_disk = {}
        for disk in order:
            eventually("a quiet appliance", lambda: _is_quiet(daemons), timeout_s=120)
            running.run("sync", timeout_s=60)
            by_disk[disk] = _writes(running, disk, seconds)
        pairs_of_rates.append((by_disk[ours], by_disk[theirs]))
    one_s, other_s = (median(pair[side].flushed for pair in pairs_of_rates) for side in (0, 1))
    ratios = sorted(one.flushed / other.flushed for one, other in pairs_of_rates)
    before = median(one.before_flush / other.before_flush for one, other in pairs_of_rates)
    print(f"{name}: {one_s:.0f} and {other_s:.0f} a second, ratios {ratios[0]:.2f} to {ratios[-1]:.2f}")
    print(f"ratio {name} {median(ratios):.2f}, before the flush {before:.2f}", flush=True)


def _is_quiet(daemons: Daemons) -> bool:
    groups = daemons.status("appliance").get("groups", [])
    return bool(groups) and all(each["distributed"] == each["end"] for each in groups)


def _writes(running: Guest, disk: str, seconds: int) -> _Rates:
    """4 KiB random writes, 32 deep."""
    command = (
        *("fio", "--name=bench", f"--filename={disk}", "--rw=randwrite", "--bs=4k", "--iodepth=32"),
        *("--ioengine=libaio", "--direct=1", f"--runtime={seconds}", "--time_based", "--end_fsync=1"),
        "--output-format=json",
    )
    out = running.run(*command, timeout_s=seconds + 60).out
    written = json.loads(out[out.index("{") :])["jobs"][0]["write"]
    return _Rates(written["total_ios"] / written["runtime"] * 1000, written["total_ios"] / seconds)


if __name__ == "__main__":
    sys.exit(main())
