"""The bench's parts, with the real clients against the project's own target."""

import shutil
from pathlib import Path

import pytest

from tests.bench import cases, load, report, sessions
from tests.bench.cases import Case
from tests.bench.pairs import Outcome
from tests.kit.processes import free_port
from tests.kit.target_process import target_process, target_processes

CLIENTS = ("iscsi-perf", "qemu-img")

needs_clients = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in CLIENTS), reason="needs libiscsi-bin and qemu-utils"
)


def test_every_case_has_a_name_of_its_own() -> None:
    names = [case.name for case in cases.all_cases()]
    assert len(set(names)) == len(names) == 4 * 2 * 2 * 2 + 2 * 2
    assert {"randread-4k-qd32-unsplit", "write-64k-qd1-split", "read-1m-qd32-unsplit", *cases.QUICK} <= set(
        names
    )


@needs_clients
def test_the_clients_figures_are_read(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(8 << 20))
    with target_process(disk) as url:
        assert load.reads_per_s(url, Case("randread", 4, 32, split=False)) > 100
        assert load.writes_per_s(url, Case("randwrite", 4, 32, split=False), 2048) > 100
        assert disk.read_bytes() == b"\xa5" * (8 << 20)  # scattered writes come by every block


def test_several_sessions_at_once_are_counted_each(tmp_path: Path) -> None:
    disks = [tmp_path / f"disk-{number}" for number in range(2)]
    for disk in disks:
        disk.write_bytes(bytes(1 << 20))
    client = sessions.Client(tmp_path)
    with target_processes(*disks) as target:
        found = client.run([target.url(0), target.url(1)], depth=8, reads=50, digest=True)
        assert len(found) == 2
        assert min(found) > 100
        assert all(b"\xa5" in disk.read_bytes() for disk in disks)
        with pytest.raises(load.LoadError):
            client.run([target.url(9)], depth=8, reads=50)


@needs_clients
def test_a_server_that_is_not_there_is_an_error() -> None:
    with pytest.raises(load.LoadError, match="qemu-img"):
        load.write(f"iscsi://127.0.0.1:{free_port()}/iqn.2026-11.none/0", 1, 4096, 1, scattered=False)


def test_missing_tools_are_named_with_their_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(load.LoadError, match="libiscsi-bin, qemu-utils and qemu-block-extra, tgt"):
        load.require_tools()


def test_the_report_has_a_line_for_scripts_and_one_for_people() -> None:
    outcome = Outcome(
        name="write-4k-qd1-split",
        ours_per_s=5000.0,
        tgt_per_s=8000.0,
        ratio=0.625,
        ratio_quartiles=(0.6, 0.65),
        pairs=11,
        cpu_s={"array": 3.0},
        memory_bytes={"array": {"VmHWM": 90 << 20, "RssAnon": 60 << 20}},
    )
    assert report.ratio_lines([outcome]) == ["ratio write-4k-qd1-split 0.625"]
    assert report.row(outcome).split() == [
        "write-4k-qd1-split", "5,000", "8,000", "0.62", "0.60-0.65", "array", "3.0", "array", "90",
    ]  # fmt: skip
