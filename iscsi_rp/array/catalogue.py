"""What an array knows for good: itself, its volumes, and the groups of appliances they are attached to."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Final, Self
from uuid import UUID, uuid4

from iscsi_rp.array.access_tables import AccessTables
from iscsi_rp.control.array_models import FrontEnd, Processor, Sector, VolumeKind
from iscsi_rp.control.database import Database
from iscsi_rp.errors import ConflictError, NotFoundError
from iscsi_rp.scsi.medium import Work

MAX_LUNS: Final = 256
"LUNs of one target: single level addressing by peripheral device (SAM-5 4.7.7.2)."

_VOLUMES_AND_ATTACHMENTS: Final = """
CREATE TABLE array (array_id TEXT NOT NULL, restarts INTEGER NOT NULL);
CREATE TABLE volume (
    uuid TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, lun INTEGER NOT NULL UNIQUE, kind TEXT NOT NULL,
    path TEXT UNIQUE, size_bytes INTEGER NOT NULL, block_size INTEGER NOT NULL,
    sweep_needed INTEGER NOT NULL);
CREATE TABLE attachment (
    group_id TEXT PRIMARY KEY, group_name TEXT NOT NULL UNIQUE, cluster_id TEXT NOT NULL, state TEXT NOT NULL,
    restore_position INTEGER);
CREATE TABLE attached_volume (
    group_id TEXT NOT NULL REFERENCES attachment ON DELETE CASCADE, place INTEGER NOT NULL,
    volume_uuid TEXT NOT NULL UNIQUE REFERENCES volume, PRIMARY KEY (group_id, place));
"""
_PROCESSORS_AND_ACCESS: Final = """
ALTER TABLE volume ADD COLUMN physical_block_size INTEGER NOT NULL DEFAULT 4096;
ALTER TABLE volume ADD COLUMN owner TEXT NOT NULL DEFAULT 'A';
ALTER TABLE volume ADD COLUMN registrations BLOB NOT NULL DEFAULT x'';
ALTER TABLE volume ADD COLUMN growing_to_bytes INTEGER;
CREATE TABLE access (listed_only INTEGER NOT NULL, chap_user TEXT, chap_secret BLOB, mutual_user TEXT,
    mutual_secret BLOB);
INSERT INTO access (listed_only) VALUES (0);
CREATE TABLE initiator (
    name TEXT PRIMARY KEY, chap_user TEXT, chap_secret BLOB, mutual_user TEXT, mutual_secret BLOB,
    masked INTEGER NOT NULL);
CREATE TABLE shown_lun (
    initiator TEXT NOT NULL REFERENCES initiator ON DELETE CASCADE, lun INTEGER NOT NULL,
    volume_uuid TEXT NOT NULL REFERENCES volume ON DELETE CASCADE,
    PRIMARY KEY (initiator, lun), UNIQUE (initiator, volume_uuid));
"""
_UNFINISHED_WORK: Final = "ALTER TABLE volume ADD COLUMN unfinished TEXT"
_FRONT_ENDS: Final = """
ALTER TABLE volume ADD COLUMN front_end TEXT NOT NULL DEFAULT 'embedded';
ALTER TABLE array ADD COLUMN owned_in_lio TEXT NOT NULL DEFAULT '';
"""
_STEPS: Final = (_VOLUMES_AND_ATTACHMENTS, _PROCESSORS_AND_ACCESS, _UNFINISHED_WORK, _FRONT_ENDS)


def naa_of(uuid: str) -> str:
    """32 hexadecimal digits: NAA type 6 (SPC-4 7.8.6.6) with the company id 001405 and 25 digits of the UUID.

    001405 is what LIO uses. It is taken so that what initiators know of Linux targets (claim rules of ESXi,
    device tables of multipath) holds here too.
    """
    return "6001405" + UUID(uuid).hex[:25]


@dataclass(frozen=True, slots=True)
class VolumeRow:
    uuid: str
    name: str
    lun: int
    kind: VolumeKind
    path: Path | None
    size_bytes: int
    block_size: int
    physical_block_size: int = 4096
    owner: Processor = Processor.A
    registrations: bytes = b""
    "Persistent reservations that survive a loss of power (APTPL), as the logical unit encodes them."
    growing_to_bytes: int | None = None
    "A resize that was begun: the store has this size, or will have it soon."
    sweep_needed: bool = False
    "Its dirty map cannot be trusted: only a full sweep finds what differs from the copy."
    unfinished: Work | None = None
    "Formatting or sanitizing that was begun and has not ended well."
    front_end: FrontEnd = FrontEnd.EMBEDDED

    @property
    def naa(self) -> str:
        return naa_of(self.uuid)


class AttachmentState(StrEnum):
    ATTACHED = "ATTACHED"
    RESTORING = "RESTORING"
    "Hosts are blocked until production is recovered; this survives a restart."


@dataclass(frozen=True, slots=True)
class Attachment:
    """A consistency group of an appliance, with the volumes in the group's order."""

    group_id: str
    group_name: str
    cluster_id: str
    volumes: tuple[str, ...]
    "UUIDs"
    state: AttachmentState = AttachmentState.ATTACHED
    restore_position: int | None = None
    "The image, while RESTORING."


class Catalogue:
    """Each change is durable when the method returns. That flushes a disk: not on the event loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.access = AccessTables(database)
        with database.transaction() as db:
            if db.execute("SELECT count(*) FROM array").fetchone() == (0,):
                db.execute("INSERT INTO array (array_id, restarts) VALUES (?, 0)", (str(uuid4()),))
            (self.array_id,) = db.execute("SELECT array_id FROM array").fetchone()

    @classmethod
    def open(cls, path: Path) -> Self:
        """See `Database.open` for the errors."""
        return cls(Database.open(path, _STEPS))

    def close(self) -> None:
        self._database.close()

    def count_restart(self) -> int:
        """The number of this start of the array: 1 is its first."""
        with self._database.transaction() as db:
            db.execute("UPDATE array SET restarts = restarts + 1")
            (restarts,) = db.execute("SELECT restarts FROM array").fetchone()
        return int(restarts)

    def volumes(self) -> list[VolumeRow]:
        """By LUN."""
        with self._database.transaction() as db:
            rows = db.execute(
                "SELECT uuid, name, lun, kind, path, size_bytes, block_size, physical_block_size, owner,"
                " registrations, growing_to_bytes, sweep_needed, unfinished, front_end"
                " FROM volume ORDER BY lun"
            ).fetchall()
        return [_volume(*row) for row in rows]

    def add_volume(
        self,
        name: str,
        kind: VolumeKind,
        path: Path | None,
        size_bytes: int,
        sector: Sector = Sector.E512,
        owner: Processor = Processor.A,
        front_end: FrontEnd = FrontEnd.EMBEDDED,
    ) -> VolumeRow:
        """A new volume, with a new UUID and the lowest free LUN.

        ConflictError: name or path is taken, or no LUN is free.
        """
        with (
            _taken(f"there is a volume {name!r}, or one at {path}, already"),
            self._database.transaction() as db,
        ):
            used = {lun for (lun,) in db.execute("SELECT lun FROM volume")}
            lun = next((lun for lun in range(MAX_LUNS) if lun not in used), None)
            if lun is None:
                raise ConflictError(f"the array has {MAX_LUNS} volumes, and no LUN is free")
            block, physical = sector.block_size, sector.physical_block_size
            row = VolumeRow(str(uuid4()), name, lun, kind, path, size_bytes, block, physical, owner)
            row = replace(row, front_end=front_end)
            db.execute(
                "INSERT INTO volume (uuid, name, lun, kind, path, size_bytes, block_size,"
                " physical_block_size, owner, front_end, sweep_needed)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0)",
                (
                    row.uuid,
                    name,
                    lun,
                    kind.value,
                    None if path is None else str(path),
                    size_bytes,
                    block,
                    physical,
                    owner.value,
                    front_end.value,
                ),
            )
        return row

    def remove_volume(self, uuid: str) -> None:
        """ConflictError: it is attached to a group."""
        with _taken("the volume is in a group"), self._database.transaction() as db:
            _expect_one(db.execute("DELETE FROM volume WHERE uuid = ?", (uuid,)), "volume", uuid)

    def set_sweep_needed(self, uuid: str, needed: bool) -> None:
        self._set_volume(uuid, "sweep_needed = ?", needed)

    def set_owner(self, uuid: str, owner: Processor) -> None:
        self._set_volume(uuid, "owner = ?", owner.value)

    def set_registrations(self, uuid: str, registrations: bytes) -> None:
        self._set_volume(uuid, "registrations = ?", registrations)

    def move(self, uuid: str, front_end: FrontEnd, registrations: bytes) -> None:
        """Another front end shows it from now on, with these registrations."""
        with self._database.transaction() as db:
            changed = db.execute(
                "UPDATE volume SET front_end = ?, registrations = ? WHERE uuid = ?",
                (front_end.value, registrations, uuid),
            )
            _expect_one(changed, "volume", uuid)

    def owned_in_lio(self) -> str:
        """What `set_owned_in_lio` was last given."""
        with self._database.transaction() as db:
            (owned,) = db.execute("SELECT owned_in_lio FROM array").fetchone()
        return str(owned)

    def set_owned_in_lio(self, owned: str) -> None:
        with self._database.transaction() as db:
            db.execute("UPDATE array SET owned_in_lio = ?", (owned,))

    def set_unfinished(self, uuid: str, work: Work | None) -> None:
        self._set_volume(uuid, "unfinished = ?", work)

    def begin_growing(self, uuid: str, size_bytes: int) -> None:
        """Before its store grows."""
        self._set_volume(uuid, "growing_to_bytes = ?", size_bytes)

    def end_growing(self, uuid: str, size_bytes: int) -> None:
        """After its store grew, or could not: it has that size now."""
        self._set_volume(uuid, "size_bytes = ?, growing_to_bytes = NULL", size_bytes)

    def _set_volume(self, uuid: str, columns: str, value: object) -> None:
        with self._database.transaction() as db:
            changed = db.execute(f"UPDATE volume SET {columns} WHERE uuid = ?", (value, uuid))
            _expect_one(changed, "volume", uuid)

    def attachments(self) -> list[Attachment]:
        """By name of the group."""
        with self._database.transaction() as db:
            rows = db.execute(
                "SELECT group_id, group_name, cluster_id, state, restore_position"
                " FROM attachment ORDER BY group_name"
            ).fetchall()
            volumes = db.execute(
                "SELECT group_id, volume_uuid FROM attached_volume ORDER BY place"
            ).fetchall()
        return [
            Attachment(
                group_id,
                group_name,
                cluster_id,
                tuple(uuid for of_group, uuid in volumes if of_group == group_id),
                AttachmentState(state),
                restore_position,
            )
            for group_id, group_name, cluster_id, state, restore_position in rows
        ]

    def attach(self, attachment: Attachment) -> None:
        """ConflictError: the group is attached, or a volume is in another. NotFoundError: no such volume."""
        a = attachment
        with (
            _taken(f"group {a.group_name!r}, or one of its volumes, is attached already"),
            self._database.transaction() as db,
        ):
            for uuid in a.volumes:
                if db.execute("SELECT 1 FROM volume WHERE uuid = ?", (uuid,)).fetchone() is None:
                    raise NotFoundError(f"there is no volume {uuid}")
            db.execute(
                "INSERT INTO attachment VALUES (?, ?, ?, ?, ?)",
                (a.group_id, a.group_name, a.cluster_id, a.state.value, a.restore_position),
            )
            db.executemany(
                "INSERT INTO attached_volume VALUES (?, ?, ?)",
                [(a.group_id, place, uuid) for place, uuid in enumerate(a.volumes)],
            )

    def set_attachment_state(
        self, group_id: str, state: AttachmentState, restore_position: int | None = None
    ) -> None:
        with self._database.transaction() as db:
            changed = db.execute(
                "UPDATE attachment SET state = ?, restore_position = ? WHERE group_id = ?",
                (state.value, restore_position, group_id),
            )
            _expect_one(changed, "group", group_id)

    def detach(self, group_id: str) -> None:
        with self._database.transaction() as db:
            _expect_one(
                db.execute("DELETE FROM attachment WHERE group_id = ?", (group_id,)), "group", group_id
            )


def _volume(
    uuid: str,
    name: str,
    lun: int,
    kind: str,
    path: str | None,
    size_bytes: int,
    block_size: int,
    physical_block_size: int,
    owner: str,
    registrations: bytes,
    growing_to_bytes: int | None,
    sweep_needed: int,
    unfinished: str | None,
    front_end: str,
) -> VolumeRow:
    return VolumeRow(
        uuid,
        name,
        lun,
        VolumeKind(kind),
        None if path is None else Path(path),
        size_bytes,
        block_size,
        physical_block_size,
        Processor(owner),
        registrations,
        growing_to_bytes,
        bool(sweep_needed),
        None if unfinished is None else Work(unfinished),
        FrontEnd(front_end),
    )


@contextmanager
def _taken(message: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.IntegrityError as error:
        raise ConflictError(message) from error


def _expect_one(cursor: sqlite3.Cursor, kind: str, key: str) -> None:
    if cursor.rowcount != 1:
        raise NotFoundError(f"there is no {kind} {key}")
