import sqlite3
from pathlib import Path

import pytest

from iscsi_rp.control.database import CatalogueError, Database
from iscsi_rp.errors import ConfigError, ConflictError

STEPS = ("CREATE TABLE thing (name TEXT PRIMARY KEY)",)
LATER = "ALTER TABLE thing ADD COLUMN size INTEGER NOT NULL DEFAULT 7"


def add(database: Database, *names: str) -> None:
    with database.transaction() as db:
        for name in names:
            db.execute("INSERT INTO thing VALUES (?)", (name,))


def names(database: Database) -> list[str]:
    with database.transaction() as db:
        return [name for (name,) in db.execute("SELECT name FROM thing ORDER BY name")]


def test_a_transaction_is_there_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    database = Database.open(tmp_path / "c.db", STEPS)
    add(database, "kept")
    with pytest.raises(sqlite3.IntegrityError):
        add(database, "dropped", "kept")
    database.close()
    database = Database.open(tmp_path / "c.db", STEPS)
    assert names(database) == ["kept"]


def test_a_commit_is_flushed(tmp_path: Path) -> None:
    database = Database.open(tmp_path / "c.db", STEPS)
    with database.transaction() as db:
        assert db.execute("PRAGMA synchronous").fetchone() == (2,)
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_nobody_else_may_read_it_or_what_stands_beside_it(tmp_path: Path) -> None:
    (tmp_path / "c.db").touch(mode=0o644)
    database = Database.open(tmp_path / "c.db", STEPS)
    add(database, "secret")
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {
        "c.db": 0o600,
        "c.db-wal": 0o600,
    }


def test_one_process_at_a_time(tmp_path: Path) -> None:
    database = Database.open(tmp_path / "c.db", STEPS)
    with pytest.raises(ConflictError, match="in use"):
        Database.open(tmp_path / "c.db", STEPS)
    database.close()
    Database.open(tmp_path / "c.db", STEPS).close()


def test_a_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    Database.open(tmp_path / "c.db", (*STEPS, LATER)).close()
    before = (tmp_path / "c.db").read_bytes()
    with pytest.raises(ConfigError, match="version 2"):
        Database.open(tmp_path / "c.db", STEPS)
    assert (tmp_path / "c.db").read_bytes() == before


def test_an_older_schema_is_brought_up_to_date_step_by_step(tmp_path: Path) -> None:
    database = Database.open(tmp_path / "c.db", STEPS)
    add(database, "kept")
    database.close()
    for steps in ((*STEPS, LATER, "UPDATE thing SET size = size + 1"),) * 2:
        database = Database.open(tmp_path / "c.db", steps)
        with database.transaction() as db:
            assert db.execute("SELECT name, size FROM thing").fetchall() == [("kept", 8)]
            assert db.execute("PRAGMA user_version").fetchone() == (3,)
        database.close()


def test_a_step_that_fails_leaves_the_version_before_it(tmp_path: Path) -> None:
    Database.open(tmp_path / "c.db", STEPS).close()
    with pytest.raises(CatalogueError):
        Database.open(tmp_path / "c.db", (*STEPS, LATER, f"{LATER}2; UPDATE absent SET size = 1"))
    database = Database.open(tmp_path / "c.db", (*STEPS, LATER))
    with database.transaction() as db:
        assert db.execute("PRAGMA user_version").fetchone() == (2,)
        assert [name for _, name, *_ in db.execute("PRAGMA table_info(thing)")] == ["name", "size"]


def test_what_is_no_catalogue_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(CatalogueError, match="damaged"):
        Database.open(path, STEPS)
    assert path.read_bytes() == b"no database at all" * 100


def test_errors_of_sqlite_have_our_type(tmp_path: Path) -> None:
    database = Database.open(tmp_path / "c.db", STEPS)
    with pytest.raises(CatalogueError, match="no such table"), database.transaction() as db:
        db.execute("SELECT * FROM absent")
    with pytest.raises(sqlite3.IntegrityError), database.transaction() as db:
        db.execute("INSERT INTO thing VALUES ('a'), ('a')")
    assert names(database) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CatalogueError, match="file"):
        Database.open(tmp_path / "file" / "c.db", STEPS)
