"""What an appliance knows for good: its cluster, its groups, and the replication sets in them."""

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self
from uuid import uuid4

from iscsi_rp.control.database import Database
from iscsi_rp.errors import ConflictError, NotFoundError

_SCHEMA: Final = """
CREATE TABLE cluster (cluster_id TEXT NOT NULL);
CREATE TABLE consistency_group (
    group_id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, journal_bytes INTEGER NOT NULL,
    directory TEXT NOT NULL UNIQUE, lost INTEGER NOT NULL DEFAULT 0);
CREATE TABLE image_access (
    group_id TEXT PRIMARY KEY REFERENCES consistency_group ON DELETE CASCADE, position INTEGER NOT NULL,
    writable INTEGER NOT NULL);
CREATE TABLE replication_set (
    group_id TEXT NOT NULL REFERENCES consistency_group ON DELETE CASCADE, place INTEGER NOT NULL,
    array_id TEXT NOT NULL, volume_uuid TEXT NOT NULL, name TEXT NOT NULL, size_bytes INTEGER NOT NULL,
    block_size INTEGER NOT NULL, copy_path TEXT NOT NULL UNIQUE, PRIMARY KEY (group_id, place),
    UNIQUE (array_id, volume_uuid));
"""

_DELETED: Final = """
CREATE TABLE deleted_group (
    group_id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, directory TEXT NOT NULL,
    deleted_ns INTEGER NOT NULL);
CREATE TABLE deleted_copy (
    group_id TEXT NOT NULL REFERENCES deleted_group ON DELETE CASCADE, copy_path TEXT NOT NULL,
    PRIMARY KEY (group_id, copy_path));
"""
"What deleted groups left. They have no claim to volumes any more."

_OWNER: Final = "ALTER TABLE consistency_group ADD COLUMN array_name TEXT NOT NULL DEFAULT '';"


@dataclass(frozen=True, slots=True)
class ReplicationSet:
    """A production volume and its copy volume."""

    index: int
    "The volume's number in the records of the group's log: 16 bits."
    array_id: str
    volume_uuid: str
    name: str
    size_bytes: int
    block_size: int
    copy_path: Path


@dataclass(frozen=True, slots=True)
class Access:
    """An image that is served; it is served again after a restart."""

    position: int
    writable: bool


@dataclass(frozen=True, slots=True)
class Group:
    group_id: str
    name: str
    journal_bytes: int
    directory: Path
    "Of journal and base."
    sets: tuple[ReplicationSet, ...]
    array_name: str
    "Of the array that has its volumes: from another machine only who proves to be it may touch the group."
    access: Access | None = None
    lost: bool = False
    "The journal lost what was not durable, and may not have been able to note that itself."


@dataclass(frozen=True, slots=True)
class DeletedGroup:
    """A group that is no more, and whose files may be there still."""

    group_id: str
    name: str
    directory: Path
    copies: tuple[Path, ...]
    deleted_ns: int


class Catalogue:
    """Each change is durable when the method returns. That flushes a disk: not on the event loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        with database.transaction() as db:
            if db.execute("SELECT count(*) FROM cluster").fetchone() == (0,):
                db.execute("INSERT INTO cluster VALUES (?)", (str(uuid4()),))
            (self.cluster_id,) = db.execute("SELECT cluster_id FROM cluster").fetchone()

    @classmethod
    def open(cls, path: Path) -> Self:
        """See `Database.open` for the errors."""
        return cls(Database.open(path, (_SCHEMA, _DELETED, _OWNER)))

    def close(self) -> None:
        self._database.close()

    def groups(self) -> list[Group]:
        """By name."""
        with self._database.transaction() as db:
            rows = db.execute(
                "SELECT group_id, name, journal_bytes, directory, array_name, lost FROM consistency_group"
                " ORDER BY name"
            ).fetchall()
            return [
                Group(
                    group_id,
                    name,
                    journal_bytes,
                    Path(directory),
                    _sets(db, group_id),
                    array_name,
                    _access(db, group_id),
                    bool(lost),
                )
                for group_id, name, journal_bytes, directory, array_name, lost in rows
            ]

    def add_group(self, group: Group) -> None:
        """ConflictError: its name or directory is taken, or a volume or copy is in another group."""
        try:
            with self._database.transaction() as db:
                db.execute(
                    "INSERT INTO consistency_group VALUES (?, ?, ?, ?, 0, ?)",
                    (group.group_id, group.name, group.journal_bytes, str(group.directory), group.array_name),
                )
                db.executemany(
                    "INSERT INTO replication_set VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    [
                        (
                            group.group_id,
                            s.index,
                            s.array_id,
                            s.volume_uuid,
                            s.name,
                            s.size_bytes,
                            s.block_size,
                            str(s.copy_path),
                        )
                        for s in group.sets
                    ],
                )
        except sqlite3.IntegrityError as error:
            raise ConflictError(
                f"group {group.name!r}, or one of its volumes or copies, is there already"
            ) from error

    def delete_group(self, group: Group, deleted_ns: int) -> DeletedGroup:
        """Make it a deleted one, which is kept until it is forgotten."""
        left = DeletedGroup(
            group.group_id, group.name, group.directory, tuple(s.copy_path for s in group.sets), deleted_ns
        )
        with self._database.transaction() as db:
            removed = db.execute("DELETE FROM consistency_group WHERE group_id = ?", (group.group_id,))
            if removed.rowcount != 1:
                raise NotFoundError(f"there is no group {group.group_id}")
            db.execute(
                "INSERT INTO deleted_group VALUES (?, ?, ?, ?)",
                (left.group_id, left.name, str(left.directory), deleted_ns),
            )
            db.executemany(
                "INSERT INTO deleted_copy VALUES (?, ?)", [(left.group_id, str(copy)) for copy in left.copies]
            )
        return left

    def deleted_groups(self) -> list[DeletedGroup]:
        """By name."""
        with self._database.transaction() as db:
            rows = db.execute(
                "SELECT group_id, name, directory, deleted_ns FROM deleted_group ORDER BY name"
            ).fetchall()
            return [
                DeletedGroup(group_id, name, Path(directory), _copies(db, group_id), deleted_ns)
                for group_id, name, directory, deleted_ns in rows
            ]

    def forget_group(self, group_id: str) -> None:
        """Of a deleted group: its files are gone."""
        with self._database.transaction() as db:
            db.execute("DELETE FROM deleted_group WHERE group_id = ?", (group_id,))

    def set_lost(self, group_id: str, lost: bool) -> None:
        """See `Group.lost`."""
        with self._database.transaction() as db:
            db.execute("UPDATE consistency_group SET lost = ? WHERE group_id = ?", (lost, group_id))

    def set_access(self, group_id: str, access: Access | None) -> None:
        """NotFoundError: no such group."""
        try:
            with self._database.transaction() as db:
                db.execute("DELETE FROM image_access WHERE group_id = ?", (group_id,))
                if access is not None:
                    db.execute(
                        "INSERT INTO image_access VALUES (?, ?, ?)",
                        (group_id, access.position, access.writable),
                    )
        except sqlite3.IntegrityError as error:
            raise NotFoundError(f"there is no group {group_id}") from error


def _sets(db: sqlite3.Connection, group_id: str) -> tuple[ReplicationSet, ...]:
    rows = db.execute(
        "SELECT place, array_id, volume_uuid, name, size_bytes, block_size, copy_path FROM replication_set"
        " WHERE group_id = ? ORDER BY place",
        (group_id,),
    )
    return tuple(
        ReplicationSet(place, array_id, volume_uuid, name, size_bytes, block_size, Path(copy_path))
        for place, array_id, volume_uuid, name, size_bytes, block_size, copy_path in rows
    )


def _copies(db: sqlite3.Connection, group_id: str) -> tuple[Path, ...]:
    rows = db.execute("SELECT copy_path FROM deleted_copy WHERE group_id = ? ORDER BY copy_path", (group_id,))
    return tuple(Path(copy_path) for (copy_path,) in rows)


def _access(db: sqlite3.Connection, group_id: str) -> Access | None:
    row = db.execute("SELECT position, writable FROM image_access WHERE group_id = ?", (group_id,)).fetchone()
    return None if row is None else Access(row[0], bool(row[1]))
