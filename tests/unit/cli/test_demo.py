"""The demonstration: its parts, the whole of it with a shorter attack, and that ^C leaves nothing behind."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from iscsi_rp.cli import demo_attack, demo_files, demo_tools
from iscsi_rp.cli.demo_tools import BlockWriter, ToolError
from iscsi_rp.cli.main import main
from iscsi_rp.errors import ConflictError, UsageError

SEARCH = os.environ["PATH"] + ":/usr/sbin:/sbin"
needs_tools = pytest.mark.skipif(
    any(shutil.which(tool, path=SEARCH) is None for tool in demo_tools.PACKAGES),
    reason="needs qemu-utils, qemu-block-extra and e2fsprogs",
)
IMAGE_BYTES = 64 << 20


@pytest.fixture
def share(tmp_path: Path) -> Path:
    """A file system with the demonstration's files, and a local stand-in for the LUN beside it."""
    demo_files.make_files(tmp_path / "files", seed=3, in_each=5)
    demo_files.make_image(tmp_path / "share.ext4", tmp_path / "files", IMAGE_BYTES)
    shutil.copyfile(tmp_path / "share.ext4", tmp_path / "lun")
    return tmp_path


@pytest.fixture
def short_path() -> Iterator[Path]:
    """For sockets: their paths may have 107 bytes."""
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory)


@needs_tools
def test_files_come_back_from_the_image_as_they_went_in(share: Path) -> None:
    demo_files.check(share / "share.ext4")
    demo_files.extract(share / "share.ext4", share / "out")
    assert demo_files.hashes(share / "out") == demo_files.hashes(share / "files")


@needs_tools
def test_a_damaged_file_system_is_found(share: Path) -> None:
    with (share / "lun").open("r+b") as lun:
        lun.write(bytes(1 << 20))
    with pytest.raises(ToolError, match="e2fsck exited with"):
        demo_files.check(share / "lun")


@needs_tools
def test_later_work_is_brought_to_the_lun_block_by_block(share: Path) -> None:
    (share / "note.txt").write_text("later\n" * 5000)
    demo_files.add_file(share / "share.ext4", share / "note.txt")
    blocks = list(demo_files.changed_blocks(share / "lun", share / "share.ext4"))
    demo_attack.write_blocks(str(share / "lun"), share / "share.ext4", blocks)
    assert (share / "lun").read_bytes() == (share / "share.ext4").read_bytes()


@needs_tools
def test_the_attack_hits_every_file_and_nothing_else(share: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_attack, "ATTACK_S", 0.1)
    known = demo_files.hashes(share / "files")
    blocks = demo_files.file_blocks(share / "lun", share, sorted(known))
    attack = demo_attack.encrypt(str(share / "lun"), blocks, lambda done: None)
    assert attack.before_ns < attack.first_ns
    demo_files.check(share / "lun")
    demo_files.extract(share / "lun", share / "out")
    found = demo_files.hashes(share / "out")
    assert found.keys() == known.keys()
    assert all(found[name] != known[name] for name in known)
    assert demo_tools.holds(str(share / "lun"), attack.first_block * 4096, 4096, demo_attack.PATTERN)
    assert not demo_tools.holds(str(share / "lun"), 0, 4096, demo_attack.PATTERN)


@needs_tools
def test_a_write_that_fails_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "lun").write_bytes(bytes(4096))
    with pytest.raises(ToolError, match="qemu-io could not write"), BlockWriter(str(tmp_path / "lun")) as lun:
        lun.write("-P 1", 1 << 30, 4096)


def test_missing_tools_are_named_with_their_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_tools, "PACKAGES", {"no-such-tool": "no-such-package"})
    with pytest.raises(UsageError, match="no-such-tool") as caught:
        demo_tools.require_tools()
    assert caught.value.hint == "apt-get install no-such-package"


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_tools, "PACKAGES", {})
    (tmp_path / "precious").touch()
    done = CliRunner().invoke(main, ["demo", "--state", str(tmp_path)])
    assert done.exit_code == ConflictError.exit_code
    assert "is not empty" in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


@pytest.mark.slow
@needs_tools
def test_the_whole_story(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_attack, "ATTACK_S", 2.0)
    done = CliRunner().invoke(main, ["demo"])
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[-1].startswith("PROVEN: all 201 files")


@pytest.mark.slow
@needs_tools
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_ends_it_early_leaves_nothing_behind(number: signal.Signals, short_path: Path) -> None:
    command = [sys.executable, "-m", "iscsi_rp", "demo"]
    environment = {**os.environ, "TMPDIR": str(short_path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        words = process.stdout.readline().replace(",", " ").split()
        pids = [int(word) for word in words if word.isdigit()]
        process.send_signal(number)
    assert process.returncode != 0
    assert len(pids) == 2
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert list(short_path.iterdir()) == []
