"""How a daemon keeps its catalogue: an SQLite file, durable at each commit, of one process at a time."""

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from iscsi_rp.errors import ConfigError, ConflictError, Error


class CatalogueError(Error):
    """The catalogue cannot be read or written."""


class Database:
    """May be used from any thread. What SQLite cannot do is a CatalogueError."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path
        self._lock = threading.Lock()

    @classmethod
    def open(cls, path: Path, steps: Sequence[str]) -> Self:
        """Makes it where there is none, and brings an older one up to date. Step n, a script, makes schema
        version n of version n - 1; one that was released is never changed.

        ConflictError: another process has it. ConfigError: it is newer. CatalogueError: it is damaged.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # It may hold secrets. What SQLite puts beside it has the same mode.
            path.touch(mode=0o600)
            path.chmod(0o600)
            connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
        except (OSError, sqlite3.Error) as error:
            raise CatalogueError(f"cannot open {path}: {error}") from error
        database = cls(connection, path)
        try:
            database._prepare(steps)
        except BaseException:
            connection.close()
            raise
        return database

    def _prepare(self, steps: Sequence[str]) -> None:
        try:
            # Held for as long as it is open: two daemons on one state directory would undo each other's work.
            self._connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.execute("PRAGMA foreign_keys = ON")
            self._connection.executescript("BEGIN IMMEDIATE; COMMIT")
            (found,) = self._connection.execute("PRAGMA user_version").fetchone()
            for version, step in enumerate(steps[found:], start=found + 1):
                self._connection.executescript(
                    f"BEGIN IMMEDIATE; {step}; PRAGMA user_version = {version}; COMMIT"
                )
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise ConflictError(
                    f"{self._path} is in use by another process",
                    hint="Another daemon has this state directory: stop it, or choose another one.",
                ) from error
            raise CatalogueError(f"{self._path}: {error}") from error
        except sqlite3.DatabaseError as error:
            raise CatalogueError(f"{self._path} is damaged, or no catalogue: {error}") from error
        if found > len(steps):
            raise ConfigError(
                f"{self._path} has schema version {found}, and this iscsi-rp knows {len(steps)} at most",
                hint="Run the version of iscsi-rp that last used this state directory, or a newer one.",
            )

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All of it is durable when the block ends, or none. IntegrityError is left to the caller."""
        with self._lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                try:
                    yield self._connection
                    self._connection.execute("COMMIT")
                except BaseException:
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")
                    raise
            except sqlite3.IntegrityError:
                raise
            except sqlite3.Error as error:
                raise CatalogueError(f"{self._path}: {error}") from error

    def close(self) -> None:
        with self._lock:
            self._connection.close()
