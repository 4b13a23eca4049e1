"""
The only module that speaks SQLite: the tables behind the receipts, in a file that may be lost at any moment.

Every row was true when it was written and names the exact state that it is true of, so that a row which survives
a crash while its neighbours do not is still true. Hence no waiting for the disk, and no repair: what cannot be
read is set aside.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence

    Receipt = tuple[int, int, int, str]
    """Size, mtime and ctime (in nanoseconds) of an inode, and the SHA-256 of the bytes that it held then."""

T = TypeVar("T")

_log = logging.getLogger(__name__)

_APPLICATION = 0x63694D43
"""SQLite's ``application_id`` of our files ("ciMC"), so that no other program's database is ever changed."""
_VERSION = 1
_SCHEMA = (
    """CREATE TABLE receipts (device TEXT, inode TEXT, size INTEGER, mtime INTEGER, ctime INTEGER, sha256 TEXT,
        path BLOB, PRIMARY KEY (device, inode)) WITHOUT ROWID""",
    """CREATE TABLE manifests (destination TEXT, snapshot TEXT, manifest BLOB, sha256 TEXT, noted REAL,
        PRIMARY KEY (destination, snapshot))""",
    "CREATE TABLE chores (name TEXT PRIMARY KEY, done REAL)",
    f"PRAGMA application_id = {_APPLICATION}",
    f"PRAGMA user_version = {_VERSION}",
)
_PATIENCE = 2.0
"""Seconds to wait for another process that is writing; all writes here take milliseconds."""
_BATCH = 500
"""Receipts that wait to be written together: one transaction costs as much as a small file."""
_WEIGHT = 64 * 1024 * 1024
"""Bytes of files behind waiting receipts: to hash them again, after a kill, takes a fraction of a second."""
_DELAY = 1.0
"""Seconds since the last transaction after which the next receipt waits for no other."""
_DAY = 86_400.0
_KEPT = 90 * _DAY
"""Seconds that the manifest of a snapshot is kept after it was last noted."""


class Remembered:
    """
    The database at *path*, opened when first needed; *clock* gives seconds since the epoch, *timer* seconds that never jump.

    Receipts are written in batches. A kill loses those that were not written, as a crash of the machine may lose any: their files are
    hashed again. Nothing here fails for the state of that file: from the first trouble on, nothing is remembered.
    """

    def __init__(
        self, path: Path, *, clock: Callable[[], float] = time.time, timer: Callable[[], float] = time.monotonic
    ) -> None:
        self._path = path
        self._clock = clock
        self._timer = timer
        self._waiting: dict[tuple[str, str], tuple[Receipt, Path]] = {}
        self._weight = 0
        self._flushed = -math.inf
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._given_up = False
        self._set_aside = False

    def receipt(self, inode: tuple[str, str]) -> Receipt | None:
        """The receipt of the (device, inode), or None when there is none."""
        sql = "SELECT size, mtime, ctime, sha256 FROM receipts WHERE device = ? AND inode = ?"
        with self._lock:
            if inode in self._waiting:
                return self._waiting[inode][0]

        def ask(db: sqlite3.Connection) -> Receipt | None:
            row: Receipt | None = db.execute(sql, inode).fetchone()
            return row

        return self._run(ask, otherwise=None)

    def keep_receipt(self, inode: tuple[str, str], receipt: Receipt, path: Path) -> None:
        """Keep *receipt*, until *path* leads to that inode no more. It is written at once, or soon with others."""
        now = self._timer()
        with self._lock:
            if self._given_up:
                return
            self._waiting[inode] = (receipt, path)
            self._weight += receipt[0]
            due = len(self._waiting) >= _BATCH or self._weight >= _WEIGHT or now - self._flushed >= _DELAY
        if due:
            self.flush()

    def flush(self) -> None:
        """Write the receipts that wait, in one transaction."""
        with self._lock:
            waiting, self._waiting = self._waiting, {}
            self._weight, self._flushed = 0, self._timer()
        if waiting:
            rows = [(*inode, *receipt, os.fsencode(path.absolute())) for inode, (receipt, path) in waiting.items()]
            self._run(partial(_insert, rows=rows), otherwise=None)

    def manifests(self, destination: str, snapshot: str) -> list[tuple[bytes, str]]:
        """The manifest kept under these keys with its SHA-256, as a list of one or none."""
        sql = "SELECT manifest, sha256 FROM manifests WHERE destination = ? AND snapshot = ?"
        return self._run(lambda db: db.execute(sql, (destination, snapshot)).fetchall(), otherwise=[])

    def keep_manifest(self, destination: str, snapshot: str, manifest: bytes, sha256: str) -> None:
        """Keep *manifest* under these keys; one that is there already is not written again, nor its time more than once a day."""
        known = "SELECT noted FROM manifests WHERE destination = ? AND snapshot = ? AND sha256 = ?"
        again = "UPDATE manifests SET noted = ? WHERE destination = ? AND snapshot = ? AND sha256 = ?"
        new = "INSERT OR REPLACE INTO manifests VALUES (?, ?, ?, ?, ?)"
        now = self._clock()
        self.flush()

        def keep(db: sqlite3.Connection) -> None:
            last = db.execute(known, (destination, snapshot, sha256)).fetchone()
            if last is not None and 0 <= now - last[0] < _DAY:
                return
            if db.execute(again, (now, destination, snapshot, sha256)).rowcount == 0:
                db.execute(new, (destination, snapshot, manifest, sha256, now))

        self._run(keep, otherwise=None)

    def close(self) -> None:
        """Write what waits, and close the database; the next question opens it again."""
        self.flush()
        with self._lock:
            self._disconnect()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _run(self, work: Callable[[sqlite3.Connection], T], *, otherwise: T) -> T:
        import sqlite3  # noqa: PLC0415  # 7 ms that only a restore needs

        with self._lock:
            while not self._given_up:
                try:
                    if self._connection is None:
                        self._connect()
                    assert self._connection is not None  # noqa: S101  # narrows the type
                    return work(self._connection)
                except (sqlite3.Error, OSError) as error:
                    self._disconnect()
                    self._recover(error)
        return otherwise

    def _connect(self) -> None:
        import sqlite3  # noqa: PLC0415  # as above

        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Whoever can write here can bless any bytes: the file is ours alone, and another's is not believed.
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        owner = self._path.stat()
        if owner.st_uid != os.geteuid() or owner.st_mode & 0o022:
            msg = "other users can write it"
            raise PermissionError(msg)
        db = sqlite3.connect(self._path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
        self._connection = db
        # A crash of the machine may cost the file; see above.
        db.execute("PRAGMA synchronous = OFF")
        if not _is_ours(db):
            _lay_out(db)
        self._prune(db)

    def _recover(self, error: Exception) -> None:
        """Begin anew after a corruption, once; give up after anything else."""
        import sqlite3  # noqa: PLC0415  # as above

        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB} and not self._set_aside:
            self._set_aside = True
            _log.warning("%s is damaged (%s): set aside, files are hashed anew", self._path, error)
            try:
                # Not deleted: the path may have been given by mistake. Another process that has it open goes on
                # writing to the file set aside, which harms nobody.
                self._path.replace(self._path.with_name(f"{self._path.name}.broken"))
                self._path.with_name(f"{self._path.name}-journal").unlink(missing_ok=True)
            except OSError as obstacle:
                error = obstacle
            else:
                return
        self._given_up = True
        _log.warning("%s cannot be used (%s): nothing is remembered, files are hashed anew", self._path, error)

    def _prune(self, db: sqlite3.Connection) -> None:
        """Once a day, forget the files that have vanished and the snapshots that nobody restores any more."""
        now = self._clock()
        last = db.execute("SELECT done FROM chores WHERE name = 'prune'").fetchone()
        if last is not None and 0 <= now - last[0] < _DAY:
            return
        db.execute("INSERT OR REPLACE INTO chores VALUES ('prune', ?)", (now,))
        rows = db.execute("SELECT device, inode, ctime, path FROM receipts").fetchall()
        gone = [row[:3] for row in rows if not _leads_to(row[3], row[:2])]
        destinations = db.execute("SELECT DISTINCT destination FROM manifests WHERE destination LIKE '/%'").fetchall()
        abandoned = [row for row in destinations if not Path(row[0]).is_dir()]
        db.execute("BEGIN IMMEDIATE")
        db.executemany("DELETE FROM receipts WHERE device = ? AND inode = ? AND ctime = ?", gone)
        db.execute("DELETE FROM manifests WHERE noted < ?", (now - _KEPT,))
        # Runners that live long restore into a new folder for every job.
        db.executemany("DELETE FROM manifests WHERE destination = ?", abandoned)
        db.execute("COMMIT")


def _insert(db: sqlite3.Connection, *, rows: Sequence[tuple[object, ...]]) -> None:
    db.execute("BEGIN IMMEDIATE")
    db.executemany("INSERT OR REPLACE INTO receipts VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
    db.execute("COMMIT")


def _leads_to(path: bytes, inode: tuple[str, str]) -> bool:
    try:
        seen = os.stat(path)  # noqa: PTH116  # bytes, as a file name need not be text
    except OSError:  # whatever the reason, the receipt costs one hashing at most
        return False
    return (str(seen.st_dev), str(seen.st_ino)) == inode


def _is_ours(db: sqlite3.Connection) -> bool:
    application = db.execute("PRAGMA application_id").fetchone()[0]
    version = db.execute("PRAGMA user_version").fetchone()[0]
    return bool((application, version) == (_APPLICATION, _VERSION))


def _lay_out(db: sqlite3.Connection) -> None:
    """Make the tables in an empty database, unless another process has just done so."""
    import sqlite3  # noqa: PLC0415  # as above

    db.execute("BEGIN IMMEDIATE")
    if not _is_ours(db):
        if db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            msg = "it belongs to another program or to another version of this one"
            raise sqlite3.NotSupportedError(msg)
        for statement in _SCHEMA:
            db.execute(statement)
    db.execute("COMMIT")
