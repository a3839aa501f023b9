"""`python -m tests.kernel.conformance`: libiscsi's suite on LIO, our handler and fileio.

The target is the same, and the backstore differs. What passes with fileio has to pass with ours, unless it
is explained here. A suite that does not end counts as failed.
"""

import argparse
import sys
from collections.abc import Iterable, Mapping
from typing import Final

from tests.conformance import suite
from tests.conformance.explained import FAULTS
from tests.kernel.guest import Guest, guest
from tests.kernel.rootfs import rootfs
from tests.kernel.site import KERNEL_IQN, KERNEL_PORTALS, Daemons

SIZE_MIB: Final = 64
FAMILIES: Final = ("ALL", "iSCSI", "LINUX")
LIMIT_S: Final = 200
"Of one suite."
FILEIO: Final = """
    core=/sys/kernel/config/target/core/fileio_9/file
    mkdir -p $core && cd $core
    truncate -s $1M /srv/fileio.img
    echo -n fd_dev_name=/srv/fileio.img,fd_dev_size=$(($1 << 20)),fd_buffered_io=1 > control
    echo 1 > enable
    echo 1 > attrib/emulate_tpu; echo 1 > attrib/emulate_tpws
    group=/sys/kernel/config/target/iscsi/iqn.2026-11.io.iscsi-rp:fileio/tpgt_1
    mkdir -p $group/np/192.0.2.5:3260 $group/lun/lun_0
    ln -s $core $group/lun/lun_0/port
    for each in authentication=0 generate_node_acls=1 demo_mode_write_protect=0 cache_dynamic_acls=1; do
        echo ${each#*=} > $group/attrib/${each%=*}
    done
    echo 1 > $group/enable
"""
_OVERFLOW: Final = (
    "a user backstore is given the buffer of a command, not its residual: where the CDB asks for more than "
    "the initiator expects, the kernel cannot tell, and the answer has no place for it"
)
WORSE: Final[Mapping[str, str]] = {
    **FAULTS,
    **dict.fromkeys(
        (
            "iSCSIResiduals.Read10Invalid",
            "iSCSIResiduals.Read10Residuals",
            "iSCSIResiduals.Read12Residuals",
            "iSCSIResiduals.Read16Residuals",
            "iSCSIResiduals.WriteVerify12Residuals",
        ),
        _OVERFLOW,
    ),
}
"Suite.Test that passes or is skipped with fileio, and not with ours -> why."


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kernel.conformance", description=__doc__)
    parser.add_argument("-t", "--test", nargs="+", default=FAMILIES, metavar="FAMILY[.SUITE]")
    tests = suite.by_suite(parser.parse_args().test)
    with guest(rootfs()) as running:
        daemons = Daemons(running)
        daemons.start()
        lun = daemons.create_volume("suite", "--front-end", "lio", size=f"{SIZE_MIB}MiB")
        running.shell("ip address add 192.0.2.5/32 dev lo")
        running.shell(FILEIO, str(SIZE_MIB))
        ours = _run(running, f"iscsi://{KERNEL_PORTALS['A']}:3260/{KERNEL_IQN}/{lun}", tests)
        theirs = _run(running, "iscsi://192.0.2.5:3260/iqn.2026-11.io.iscsi-rp:fileio/0", tests)
    return _show(_verdicts(ours), _verdicts(theirs), ours, theirs)


def _run(running: Guest, url: str, tests: Iterable[str]) -> suite.Report:
    report = suite.Report()
    listed = suite.listed()
    for name in tests:
        before = report.ran
        command = (
            "timeout",
            "-k",
            "5",
            str(LIMIT_S),
            "stdbuf",
            "-oL",
            "iscsi-test-cu",
            "-d",
            "-n",
            "-v",
            "-t",
        )
        result = running.run(*command, name, url, timeout_s=LIMIT_S + 20, check=False)
        suite.read(report, name.partition(".")[0], result.out + result.err)
        expected = sum(each == name or each.startswith(f"{name}.") for each in listed)
        if report.ran - before != expected:
            report.broken.append(f"{name}: {report.ran - before} of {expected} tests; {result.out[-300:]}")
    return report


def _verdicts(report: suite.Report) -> dict[str, str]:
    """Of all that did not pass."""
    return {name: "skipped" for name, _ in report.skips} | {name: "failed" for name, _ in report.failures}


def _show(
    ours: Mapping[str, str], theirs: Mapping[str, str], report: suite.Report, fileio: suite.Report
) -> int:
    print(f"{'TEST':60}  OURS     FILEIO")
    for name in sorted(ours.keys() | theirs.keys()):
        print(f"{name:60}  {ours.get(name, 'passed'):7}  {theirs.get(name, 'passed')}")
    worse = {
        name
        for name, verdict in ours.items()
        if name not in theirs or (verdict, theirs[name]) == ("failed", "skipped")
    }
    said = dict(report.skips + report.failures)
    for name in sorted(worse):
        print(f"WORSE {name}: {WORSE.get(_test(name), f'not explained: {said[name]}')}")
    explained = {_test(name) for name in worse} == WORSE.keys()
    for test in sorted(WORSE.keys() - {_test(name) for name in worse}):
        print(f"WORSE {test}: explained, and does not happen")
    for each in report.broken:
        print(f"BROKEN {each}")
    print(f"kernel conformance fileio: {fileio}")
    print(f"kernel conformance: {report}")
    return 0 if explained and not report.broken else 1


def _test(name: str) -> str:
    return name.partition(".")[2]


if __name__ == "__main__":
    sys.exit(main())
