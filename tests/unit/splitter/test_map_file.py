"""The dirty map on a real file: missing, torn and whole."""

import os
from pathlib import Path

import pytest

from iscsi_rp.block import MemoryDevice
from iscsi_rp.replication.regions import REGION_BYTES
from iscsi_rp.splitter.group import Volume, load_maps
from iscsi_rp.splitter.map_file import MapFile
from iscsi_rp.splitter.region_map import BLOCK_BYTES, RegionMap

REGIONS = 100
SIZE = REGIONS * REGION_BYTES


def loaded(path: Path) -> tuple[RegionMap, str | None]:
    region_map, file = RegionMap("uuid", SIZE), MapFile(path)
    reason = file.load(region_map)
    file.close()
    return region_map, reason


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Of a map with region 5 marked."""
    path = tmp_path / "volume.map"
    region_map, file = RegionMap("uuid", SIZE), MapFile(path)
    assert file.load(region_map) is not None
    for region in range(REGIONS):
        region_map.clear(region)
    region_map.mark(5)
    file.create_durably(region_map)
    file.close()
    return path


def test_what_was_written_is_there(path: Path) -> None:
    region_map, reason = loaded(path)
    assert (reason, region_map.dirty, region_map.mark(5)) == (None, 1, False)


def test_blocks_are_written_where_they_belong(path: Path) -> None:
    region_map, file = RegionMap("uuid", SIZE), MapFile(path)
    file.load(region_map)
    region_map.mark(99)
    file.write([region_map.encode(0)])
    file.close()
    region_map, reason = loaded(path)
    assert (reason, region_map.dirty, region_map.mark(99)) == (None, 2, False)


def test_a_missing_map_means_a_full_sweep(tmp_path: Path) -> None:
    region_map, reason = loaded(tmp_path / "new.map")
    assert reason == "there is no dirty map yet"
    assert (region_map.dirty, region_map.sweep) == (REGIONS, True)


@pytest.mark.parametrize("size", [0, 100, BLOCK_BYTES, BLOCK_BYTES + 512])
def test_a_torn_map_means_a_full_sweep(path: Path, size: int) -> None:
    os.truncate(path, size)
    region_map, reason = loaded(path)
    assert reason is not None
    assert (region_map.dirty, region_map.sweep) == (REGIONS, True)


def test_a_sweep_that_was_ordered_in_the_second_place_is_due(path: Path) -> None:
    volume = Volume("uuid", "data", MemoryDevice(SIZE), MapFile(path), sweep_ordered=True)
    (region_map,), reasons = load_maps([volume])
    volume.map_file.close()
    assert reasons == ["data: an earlier write of the dirty map had failed"]
    assert (region_map.dirty, region_map.sweep, region_map.changed) == (REGIONS, True, set())
    again, reason = loaded(path)  # and is in the map from now on
    assert (again.dirty, again.sweep, reason) == (REGIONS, True, None)


def test_a_map_that_cannot_be_begun_is_an_error(tmp_path: Path) -> None:
    volume = Volume("uuid", "data", MemoryDevice(SIZE), MapFile(tmp_path / "none" / "volume.map"))
    with pytest.raises(FileNotFoundError):
        load_maps([volume])


def test_removing_is_idempotent(path: Path) -> None:
    file = MapFile(path)
    file.load(RegionMap("uuid", SIZE))
    file.remove()
    file.remove()
    assert not path.exists()
