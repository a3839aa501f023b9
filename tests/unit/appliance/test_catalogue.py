from dataclasses import replace
from pathlib import Path

import pytest

from iscsi_rp.appliance.catalogue import _SCHEMA, Access, Catalogue, DeletedGroup, Group, ReplicationSet
from iscsi_rp.control.database import Database
from iscsi_rp.errors import ConflictError, NotFoundError

DATA = ReplicationSet(0, "array", "uuid-1", "data", 1 << 30, 512, Path("/c/data.img"))
LOG = ReplicationSet(1, "array", "uuid-2", "log", 1 << 20, 512, Path("/c/log.img"))
DB = Group("id-1", "db", 10 << 30, Path("/g/id-1"), (DATA, LOG), "array-1")


def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    catalogue = Catalogue.open(tmp_path / "catalogue.db")
    cluster_id = catalogue.cluster_id
    catalogue.add_group(DB)
    catalogue.set_access("id-1", Access(17, True))
    catalogue.close()
    catalogue = Catalogue.open(tmp_path / "catalogue.db")
    assert catalogue.cluster_id == cluster_id
    assert catalogue.groups() == [replace(DB, access=Access(17, True))]


def test_one_image_is_served_or_none(tmp_path: Path) -> None:
    catalogue = Catalogue.open(tmp_path / "catalogue.db")
    catalogue.add_group(DB)
    for access in (Access(17, True), Access(18, False), None):
        catalogue.set_access("id-1", access)
        assert catalogue.groups()[0].access == access
    with pytest.raises(NotFoundError):
        catalogue.set_access("id-2", Access(17, True))


@pytest.mark.parametrize(
    "second",
    [
        replace(DB, group_id="id-2", directory=Path("/g/id-2"), sets=()),
        replace(DB, group_id="id-2", name="other", sets=()),
        Group("id-2", "other", 1, Path("/g/id-2"), (replace(DATA, copy_path=Path("/c/new.img")),), "array-1"),
        Group("id-2", "other", 1, Path("/g/id-2"), (replace(DATA, volume_uuid="uuid-3"),), "array-1"),
    ],
    ids=["name", "directory", "volume", "copy"],
)
def test_name_directory_volume_and_copy_belong_to_one_group(tmp_path: Path, second: Group) -> None:
    catalogue = Catalogue.open(tmp_path / "catalogue.db")
    catalogue.add_group(DB)
    with pytest.raises(ConflictError):
        catalogue.add_group(second)
    assert catalogue.groups() == [DB]


def test_what_a_deleted_group_left_is_remembered_until_it_is_forgotten(tmp_path: Path) -> None:
    catalogue = Catalogue.open(tmp_path / "catalogue.db")
    catalogue.add_group(DB)
    catalogue.set_access("id-1", Access(17, True))
    left = catalogue.delete_group(DB, 4711)
    assert left == DeletedGroup("id-1", "db", DB.directory, (DATA.copy_path, LOG.copy_path), 4711)
    with pytest.raises(NotFoundError):
        catalogue.delete_group(DB, 4712)
    catalogue.close()
    catalogue = Catalogue.open(tmp_path / "catalogue.db")
    assert (catalogue.groups(), catalogue.deleted_groups()) == ([], [left])
    again = replace(DB, group_id="id-2", directory=Path("/g/id-2"))
    catalogue.add_group(again)
    catalogue.forget_group("id-1")
    assert (catalogue.groups(), catalogue.deleted_groups()) == ([again], [])


def test_a_catalogue_from_before_deleted_groups_is_brought_up_to_date(tmp_path: Path) -> None:
    first = Database.open(tmp_path / "catalogue.db", (_SCHEMA,))
    with first.transaction() as db:
        db.execute("INSERT INTO consistency_group VALUES ('id-1', 'db', 1, '/g/id-1', 0)")
    first.close()
    catalogue = Catalogue.open(tmp_path / "catalogue.db")
    assert [group.array_name for group in catalogue.groups()] == [""]
    assert catalogue.delete_group(DB, 1) == catalogue.deleted_groups()[0]
