"""What the catalogue keeps about initiators: who may log in, by which secrets, and what they see."""

import sqlite3
from dataclasses import dataclass
from typing import TypeAlias

from iscsi_rp.control.database import Database
from iscsi_rp.errors import ConflictError, NotFoundError
from iscsi_rp.iscsi.access import Chap

_Credentials: TypeAlias = tuple[str | None, bytes | None, str | None, bytes | None]


@dataclass(frozen=True, slots=True)
class InitiatorRow:
    name: str
    "iSCSI name, in lower case."
    chap: Chap | None = None
    mutual: Chap | None = None
    luns: dict[int, str] | None = None
    "Its LUN -> UUID of the volume; None: every volume, by the array's LUN."


@dataclass(frozen=True, slots=True)
class RulesRow:
    """What holds for those that are not listed, and for discovery sessions."""

    listed_only: bool = False
    chap: Chap | None = None
    mutual: Chap | None = None


class AccessTables:
    """Each change is durable when the method returns. That flushes a disk: not on the event loop."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def initiators(self) -> list[InitiatorRow]:
        """By name."""
        with self._database.transaction() as db:
            rows = db.execute(
                "SELECT name, masked, chap_user, chap_secret, mutual_user, mutual_secret"
                " FROM initiator ORDER BY name"
            ).fetchall()
            shown = db.execute("SELECT initiator, lun, volume_uuid FROM shown_lun ORDER BY lun").fetchall()
        return [
            InitiatorRow(
                name,
                *_chaps(*credentials),
                {lun: uuid for of, lun, uuid in shown if of == name} if masked else None,
            )
            for name, masked, *credentials in rows
        ]

    def add(self, row: InitiatorRow) -> None:
        """ConflictError: it is listed. NotFoundError: no such volume."""
        with self._database.transaction() as db:
            if db.execute("SELECT 1 FROM initiator WHERE name = ?", (row.name,)).fetchone():
                raise ConflictError(
                    f"initiator {row.name} is listed already",
                    hint=f"Change it by `iscsi-rp initiator set {row.name}`.",
                )
            _insert(db, row)

    def replace(self, row: InitiatorRow) -> None:
        """NotFoundError: it is not listed, or no such volume."""
        with self._database.transaction() as db:
            _delete(db, row.name)
            _insert(db, row)

    def remove(self, name: str) -> None:
        """NotFoundError: it is not listed."""
        with self._database.transaction() as db:
            _delete(db, name)

    def rules(self) -> RulesRow:
        with self._database.transaction() as db:
            listed_only, *credentials = db.execute(
                "SELECT listed_only, chap_user, chap_secret, mutual_user, mutual_secret FROM access"
            ).fetchone()
        return RulesRow(bool(listed_only), *_chaps(*credentials))

    def set_rules(self, rules: RulesRow) -> None:
        with self._database.transaction() as db:
            db.execute(
                "UPDATE access SET listed_only = ?, chap_user = ?, chap_secret = ?, mutual_user = ?,"
                " mutual_secret = ?",
                (rules.listed_only, *_columns(rules.chap, rules.mutual)),
            )


def _insert(db: sqlite3.Connection, row: InitiatorRow) -> None:
    db.execute(
        "INSERT INTO initiator (name, masked, chap_user, chap_secret, mutual_user, mutual_secret)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        (row.name, row.luns is not None, *_columns(row.chap, row.mutual)),
    )
    try:
        db.executemany(
            "INSERT INTO shown_lun (initiator, lun, volume_uuid) VALUES (?, ?, ?)",
            [(row.name, lun, uuid) for lun, uuid in (row.luns or {}).items()],
        )
    except sqlite3.IntegrityError as error:
        raise NotFoundError("a volume to be shown does not exist, or is shown twice") from error


def _delete(db: sqlite3.Connection, name: str) -> None:
    if db.execute("DELETE FROM initiator WHERE name = ?", (name,)).rowcount != 1:
        raise NotFoundError(
            f"initiator {name} is not listed", hint="`iscsi-rp initiator list` shows those that are."
        )


def _columns(chap: Chap | None, mutual: Chap | None) -> _Credentials:
    return (
        chap.user if chap else None,
        chap.secret if chap else None,
        mutual.user if mutual else None,
        mutual.secret if mutual else None,
    )


def _chaps(
    chap_user: str | None, chap_secret: bytes | None, mutual_user: str | None, mutual_secret: bytes | None
) -> tuple[Chap | None, Chap | None]:
    chap = None if chap_user is None or chap_secret is None else Chap(chap_user, chap_secret)
    mutual = None if mutual_user is None or mutual_secret is None else Chap(mutual_user, mutual_secret)
    return chap, mutual
