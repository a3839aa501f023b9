"""The real files beneath the journal."""

import os
from pathlib import Path

import pytest

from iscsi_rp.journal.errors import JournalFullError, JournalIoError
from iscsi_rp.journal.files import OsDirectory, OsFile


def test_many_buffers_are_written_one_behind_the_other(tmp_path: Path) -> None:
    file = OsDirectory(tmp_path).open("f", create=True)
    parts = [bytes([n % 251]) * (n % 7) for n in range(2500)]
    file.pwritev(parts, 5)
    assert file.pread(1 << 20, 5) == b"".join(parts)
    assert file.size == 5 + sum(map(len, parts))


def test_a_hole_reads_as_zeros_and_is_not_allocated(tmp_path: Path) -> None:
    file = OsDirectory(tmp_path).open("f", create=True)
    file.pwritev([b"x" * (1 << 20)], 0)
    file.zero(65536, 1 << 19)
    assert file.pread(1 << 20, 0) == b"x" * 65536 + bytes(1 << 19) + b"x" * ((1 << 19) - 65536)
    assert list(file.data_extents(0, 1 << 20)) == [(0, 65536), (65536 + (1 << 19), (1 << 19) - 65536)]
    assert list(file.data_extents(70000, 4096)) == []
    assert file.size == 1 << 20


def test_allocated_space_reads_as_zeros(tmp_path: Path) -> None:
    file = OsDirectory(tmp_path).open("f", create=True)
    file.allocate(1 << 20)
    assert (tmp_path / "f").stat().st_blocks * 512 >= 1 << 20
    assert not any(file.pread(1 << 20, 0))


def test_a_map_shows_later_writes_and_starts_anywhere(tmp_path: Path) -> None:
    file = OsDirectory(tmp_path).open("f", create=True)
    file.truncate(10000)
    view = file.map(5000, 5000)
    file.pwritev([b"later"], 6000)
    assert bytes(view[1000:1005]) == b"later"
    assert view.readonly


def test_errors_are_typed(tmp_path: Path) -> None:
    directory = OsDirectory(tmp_path)
    with pytest.raises(FileNotFoundError):
        directory.open("f")
    file = directory.open("f", create=True)
    with pytest.raises(FileExistsError):
        directory.open("f", create=True)
    file.close()
    for attempt in (lambda: file.pread(1, 0), lambda: file.pwritev([b"x"], 0)):
        with pytest.raises(JournalIoError):
            attempt()


def test_a_full_disk_is_its_own_error() -> None:
    full = Path("/dev/full")
    if not os.access(full, os.W_OK):
        pytest.skip("there is no /dev/full")
    with pytest.raises(JournalFullError):
        OsFile(full).pwritev([b"x"], 0)
