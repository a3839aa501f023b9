from pathlib import Path

import pytest

from iscsi_rp.array import catalogue as catalogue_module
from iscsi_rp.array.catalogue import (
    MAX_LUNS,
    Attachment,
    AttachmentState,
    Catalogue,
    VolumeRow,
    naa_of,
)
from iscsi_rp.control.array_models import Processor, Sector, VolumeKind
from iscsi_rp.control.database import Database
from iscsi_rp.errors import ConflictError, NotFoundError
from iscsi_rp.scsi.medium import Work

GIB = 1 << 30


def add(catalogue: Catalogue, name: str) -> str:
    return catalogue.add_volume(name, VolumeKind.FILE, Path(f"/v/{name}.img"), GIB).uuid


def test_an_array_keeps_its_identity_and_counts_its_starts(tmp_path: Path) -> None:
    seen = []
    for _ in range(3):
        catalogue = Catalogue.open(tmp_path / "catalogue.db")
        seen.append((catalogue.array_id, catalogue.count_restart()))
        catalogue.close()
    assert [restarts for _, restarts in seen] == [1, 2, 3]
    assert len({array_id for array_id, _ in seen}) == 1


def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    catalogue = Catalogue.open(tmp_path / "catalogue.db")
    first, second = add(catalogue, "first"), add(catalogue, "second")
    catalogue.add_volume("scratch", VolumeKind.MEMORY, None, GIB, Sector.N4K, Processor.B)
    catalogue.set_sweep_needed(second, True)
    attachment = Attachment("id-1", "db", "cluster", (second, first))
    catalogue.attach(attachment)
    catalogue.set_attachment_state("id-1", AttachmentState.RESTORING, 17)
    before = catalogue.volumes(), catalogue.attachments()
    catalogue.close()

    catalogue = Catalogue.open(tmp_path / "catalogue.db")
    assert (catalogue.volumes(), catalogue.attachments()) == before
    assert [(v.name, v.lun, v.sweep_needed) for v in catalogue.volumes()] == [
        ("first", 0, False),
        ("second", 1, True),
        ("scratch", 2, False),
    ]
    assert catalogue.attachments() == [
        Attachment("id-1", "db", "cluster", (second, first), AttachmentState.RESTORING, 17)
    ]


def test_work_on_a_medium_is_unfinished_until_it_is_taken_back(tmp_path: Path) -> None:
    for work in (*Work, None):
        catalogue = Catalogue.open(tmp_path / "catalogue.db")
        uuid = catalogue.volumes()[0].uuid if catalogue.volumes() else add(catalogue, "data")
        catalogue.set_unfinished(uuid, work)
        catalogue.close()
        catalogue = Catalogue.open(tmp_path / "catalogue.db")
        assert [volume.unfinished for volume in catalogue.volumes()] == [work]
        catalogue.close()


def test_a_catalogue_of_the_second_version_is_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "catalogue.db"
    old = Database.open(path, catalogue_module._STEPS[:2])
    with old.transaction() as db:
        db.execute("INSERT INTO array (array_id, restarts) VALUES ('the-array', 1)")
        db.execute(
            "INSERT INTO volume VALUES ('u', 'data', 3, 'memory', NULL, 8192, 512, 0, 4096, 'B', x'01', NULL)"
        )
    old.close()
    for _ in range(2):
        catalogue = Catalogue.open(path)
        assert catalogue.volumes() == [
            VolumeRow("u", "data", 3, VolumeKind.MEMORY, None, 8192, 512, 4096, Processor.B, b"\x01")
        ]
        catalogue.close()


def test_names_and_paths_are_given_once(tmp_path: Path) -> None:
    catalogue = Catalogue.open(tmp_path / "catalogue.db")
    add(catalogue, "data")
    with pytest.raises(ConflictError, match="data"):
        catalogue.add_volume("data", VolumeKind.FILE, Path("/v/other.img"), GIB)
    with pytest.raises(ConflictError, match=r"data\.img"):
        catalogue.add_volume("other", VolumeKind.FILE, Path("/v/data.img"), GIB)
    assert len(catalogue.volumes()) == 1


def test_a_free_lun_is_used_again_and_they_end(tmp_path: Path) -> None:
    catalogue = Catalogue.open(tmp_path / "catalogue.db")
    uuids = [add(catalogue, f"v{n}") for n in range(4)]
    catalogue.remove_volume(uuids[1])
    assert catalogue.add_volume("again", VolumeKind.MEMORY, None, GIB).lun == 1
    for n in range(4, MAX_LUNS):
        add(catalogue, f"v{n}")
    with pytest.raises(ConflictError, match="no LUN"):
        add(catalogue, "too-many")


def test_a_volume_is_in_one_group_and_stays_while_it_is(tmp_path: Path) -> None:
    catalogue = Catalogue.open(tmp_path / "catalogue.db")
    uuid = add(catalogue, "data")
    catalogue.attach(Attachment("id-1", "one", "cluster", (uuid,)))
    with pytest.raises(ConflictError):
        catalogue.attach(Attachment("id-2", "two", "cluster", (uuid,)))
    assert [a.group_name for a in catalogue.attachments()] == ["one"]
    with pytest.raises(ConflictError):
        catalogue.remove_volume(uuid)
    catalogue.detach("id-1")
    catalogue.remove_volume(uuid)
    assert catalogue.volumes() == []


def test_what_is_not_there_is_not_found(tmp_path: Path) -> None:
    catalogue = Catalogue.open(tmp_path / "catalogue.db")
    with pytest.raises(NotFoundError):
        catalogue.remove_volume("no-such")
    with pytest.raises(NotFoundError):
        catalogue.set_sweep_needed("no-such", True)
    with pytest.raises(NotFoundError):
        catalogue.detach("no-such")
    with pytest.raises(NotFoundError):
        catalogue.set_attachment_state("no-such", AttachmentState.ATTACHED)
    with pytest.raises(NotFoundError):
        catalogue.attach(Attachment("id", "name", "cluster", ("no-such",)))
    assert catalogue.attachments() == []


def test_the_naa_is_type_6_and_follows_from_the_uuid() -> None:
    uuid = "12345678-9abc-4def-8123-456789abcdef"
    assert naa_of(uuid) == "6001405123456789abc4def8123456789"[:32]
    assert len(bytes.fromhex(naa_of(uuid))) == 16
