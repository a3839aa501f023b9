"""Who may log in, as the catalogue keeps it; and a catalogue of the first version brought up to date."""

from pathlib import Path

import pytest

from iscsi_rp.array import catalogue as catalogue_module
from iscsi_rp.array.access_tables import InitiatorRow, RulesRow
from iscsi_rp.array.catalogue import Attachment, Catalogue
from iscsi_rp.control.array_models import Processor, VolumeKind
from iscsi_rp.control.database import Database
from iscsi_rp.errors import ConflictError, NotFoundError
from iscsi_rp.iscsi.access import Chap

CHAP, MUTUAL = Chap("host", b"x" * 12), Chap("array", b"\x00\xff" * 8)
NAME = "iqn.2026-11.test:host"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "catalogue.db"


def add(catalogue: Catalogue, name: str) -> str:
    return catalogue.add_volume(name, VolumeKind.MEMORY, None, 1 << 20).uuid


def test_initiators_and_rules_are_there_after_a_restart(path: Path) -> None:
    catalogue = Catalogue.open(path)
    first, second = add(catalogue, "first"), add(catalogue, "second")
    rows = [
        InitiatorRow("iqn.2026-11.test:all"),
        InitiatorRow(NAME, CHAP, MUTUAL, {0: second, 7: first}),
        InitiatorRow("iqn.2026-11.test:none", CHAP, None, {}),
    ]
    for row in rows:
        catalogue.access.add(row)
    rules = RulesRow(True, CHAP, MUTUAL)
    catalogue.access.set_rules(rules)
    catalogue.close()

    catalogue = Catalogue.open(path)
    assert catalogue.access.initiators() == rows
    assert catalogue.access.rules() == rules
    catalogue.access.set_rules(RulesRow())
    catalogue.access.replace(InitiatorRow(NAME, None, None, {1: first}))
    catalogue.access.remove("iqn.2026-11.test:all")
    assert [(row.name, row.chap, row.luns) for row in catalogue.access.initiators()] == [
        (NAME, None, {1: first}),
        ("iqn.2026-11.test:none", CHAP, {}),
    ]
    assert catalogue.access.rules() == RulesRow()


def test_a_volume_that_is_deleted_leaves_the_masks_but_not_unmasked_initiators(path: Path) -> None:
    catalogue = Catalogue.open(path)
    only = add(catalogue, "only")
    catalogue.access.add(InitiatorRow(NAME, luns={0: only}))
    catalogue.remove_volume(only)
    assert catalogue.access.initiators() == [InitiatorRow(NAME, luns={})]


def test_what_cannot_be_leaves_everything_as_it_was(path: Path) -> None:
    catalogue = Catalogue.open(path)
    volume = add(catalogue, "data")
    before = [InitiatorRow(NAME, CHAP, None, {0: volume})]
    catalogue.access.add(before[0])
    with pytest.raises(ConflictError, match="listed already"):
        catalogue.access.add(InitiatorRow(NAME))
    with pytest.raises(NotFoundError, match="volume"):
        catalogue.access.replace(InitiatorRow(NAME, luns={0: "no-such"}))
    with pytest.raises(NotFoundError, match="volume"):
        catalogue.access.replace(InitiatorRow(NAME, luns={0: volume, 1: volume}))
    for change in (catalogue.access.remove, lambda name: catalogue.access.replace(InitiatorRow(name))):
        with pytest.raises(NotFoundError, match="not listed"):
            change("iqn.2026-11.test:nobody")
    assert catalogue.access.initiators() == before


def test_registrations_owner_and_growth_are_kept_and_go_with_the_volume(path: Path) -> None:
    catalogue = Catalogue.open(path)
    uuid = add(catalogue, "data")
    catalogue.set_registrations(uuid, b"\x00keys")
    catalogue.set_owner(uuid, Processor.B)
    catalogue.begin_growing(uuid, 2 << 20)
    catalogue.close()
    catalogue = Catalogue.open(path)
    (row,) = catalogue.volumes()
    assert (row.registrations, row.owner, row.size_bytes) == (b"\x00keys", Processor.B, 1 << 20)
    assert row.growing_to_bytes == 2 << 20
    catalogue.end_growing(uuid, 2 << 20)
    (row,) = catalogue.volumes()
    assert (row.size_bytes, row.growing_to_bytes) == (2 << 20, None)
    catalogue.remove_volume(uuid)
    add(catalogue, "data")
    assert catalogue.volumes()[0].registrations == b""
    with pytest.raises(NotFoundError):
        catalogue.set_registrations(uuid, b"")


def test_a_catalogue_of_the_first_version_is_brought_up_to_date(path: Path) -> None:
    old = Database.open(path, (catalogue_module._VOLUMES_AND_ATTACHMENTS,))
    with old.transaction() as db:
        db.execute("INSERT INTO array VALUES ('the-array', 41)")
        db.execute("INSERT INTO volume VALUES ('u-1', 'data', 3, 'file', '/v/data.img', 4096, 512, 1)")
        db.execute("INSERT INTO volume VALUES ('u-2', 'big', 4, 'memory', NULL, 8192, 4096, 0)")
        db.execute("INSERT INTO attachment VALUES ('g', 'db', 'cluster', 'ATTACHED', NULL)")
        db.execute("INSERT INTO attached_volume VALUES ('g', 0, 'u-1')")
    old.close()
    for _ in range(2):
        catalogue = Catalogue.open(path)
        data, big = catalogue.volumes()
        assert (data.uuid, data.lun, data.path, data.sweep_needed) == ("u-1", 3, Path("/v/data.img"), True)
        assert (data.physical_block_size, data.owner, data.registrations) == (4096, Processor.A, b"")
        assert (data.unfinished, big.unfinished) == (None, None)
        assert (big.block_size, big.growing_to_bytes) == (4096, None)
        assert catalogue.attachments() == [Attachment("g", "db", "cluster", ("u-1",))]
        assert (catalogue.access.initiators(), catalogue.access.rules()) == ([], RulesRow())
        assert catalogue.array_id == "the-array"
        catalogue.close()
    assert Catalogue.open(path).count_restart() == 42
