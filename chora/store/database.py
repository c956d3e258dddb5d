# pyright: reportUnknownMemberType=false
# (apsw's stubs name a buffer type that Python 3.11 does not have)
"""One connection to a SQLite database of ours: opening it, its schema, its rows as records, and its errors."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_origin

import apsw
import msgspec

from chora.disk import keep_private, unsafe_path_error
from chora.errors import StorageError, io_details
from chora.nofollow import CREATE, UnsafePath, check_file, open_folder
from chora.store.records import (
    Completion,
    Cost,
    Draft,
    Event,
    Job,
    Output,
    Record,
    Sample,
    Trace,
    Version,
)

R = TypeVar("R", bound=Record)
APPLICATION_ID = 0x63686F72  # "chor"; distinguishes our databases from other SQLite files
BUSY_TIMEOUT = 5000  # milliseconds
PAGE_SIZE = 4096  # bytes of a page of the file, SQLite's own choice
QUICK_CHECK_TIMEOUT = 0.1
"""Seconds after which the check for damage on opening is given up; a database of 50 MB needs a fifth of that."""
PROGRESS_STEPS = 1000  # instructions of SQLite's virtual machine between two looks at the clock
TABLES: dict[type[Record], str] = {
    Version: "versions",
    Draft: "drafts",
    Output: "outputs",
    Trace: "traces",
    Job: "jobs",
    Cost: "costs",
    Completion: "completions",
    Sample: "samples",
    Event: "events",
}
"""The table of each kind of record; its columns are the fields, objects are stored as JSON text."""
_JSON_FIELDS: dict[type[Record], frozenset[str]] = {
    kind: frozenset(field.name for field in msgspec.structs.fields(kind) if get_origin(field.type) is dict)
    for kind in TABLES
}


def migrations() -> list[tuple[int, str]]:
    """The numbered migration scripts, oldest first."""
    files = (resources.files("chora.store") / "migrations").iterdir()
    return sorted((int(file.name[:4]), file.read_text("utf-8")) for file in files if file.name.endswith(".sql"))


SCHEMA_DIGESTS = {
    1: "4cbb1a7fc4b625541a65974899ca537161b220d9c5f09de68f38d33ea045bbed",
    2: "6f72bbddc65848db3c39656143b05b86d207e2e805f983d9854ed10499b088af",
    3: "54a59ca21f662405d01927d43c32a7631bfc27fb8d106f19a40f67f9922f2180",
}
"""What `schema_digest` gives for the schema of each number: comparing it takes a tenth of making the schema."""
OWN_OF_SQLITE = ("sqlite_sequence", "sqlite_stat1", "sqlite_stat4")
"""Tables that SQLite makes by itself, such as for ANALYZE."""

SchemaKey = tuple[str, str, str]
"""What something in a schema is (table, index, trigger or view), its name, and its table."""


def read_schema(db: apsw.Connection) -> dict[SchemaKey, str]:
    """The schema of a database: how each thing in it was defined."""
    rows = cast(
        "list[tuple[str, str, str, str | None]]",
        db.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY name, type").fetchall(),
    )
    return {(kind, name, table): sql or "" for kind, name, table, sql in rows if name not in OWN_OF_SQLITE}


def schema_digest(schema: dict[SchemaKey, str]) -> str:
    return sha256(msgspec.json.encode(sorted(schema.items()))).hexdigest()


def make_schema(version: int) -> dict[SchemaKey, str]:
    """The schema that the migrations up to a number make."""
    with contextlib.closing(apsw.Connection(":memory:")) as db:
        for number, script in migrations():
            if number <= version:
                db.execute(script)
        return read_schema(db)


def find_schema_problem(db: apsw.Connection, version: int) -> str | None:
    """What in a database isn't as chora makes it, such as a trigger that deletes what was acknowledged; None if all is.

    Args:
        db: the database.
        version: the number of its schema.
    """
    found = read_schema(db)
    if schema_digest(found) == SCHEMA_DIGESTS.get(version):
        return None
    known = make_schema(version)
    problems = [f"the {kind} {name[:80]!r} is not one of chora's" for kind, name, _ in found.keys() - known.keys()]
    problems += [f"the {kind} {name} is missing" for kind, name, _ in known.keys() - found.keys()]
    problems += [f"the {key[0]} {key[1]} is another" for key in known.keys() & found.keys() if known[key] != found[key]]
    shown = ", ".join(sorted(problems)[:3])
    return f"{shown}, and {len(problems) - 3} more" if len(problems) > 3 else shown or None


class StatementTimeout:
    """Interrupts what a connection executes once its time is up."""

    def __init__(self, db: apsw.Connection) -> None:
        self._until = math.inf
        db.set_progress_handler(lambda: time.monotonic() > self._until, PROGRESS_STEPS)

    @contextmanager
    def limit(self, seconds: float) -> Generator[None]:
        """Limit statements executed inside to `seconds` in all; apsw.InterruptError is raised beyond."""
        self._until = time.monotonic() + seconds
        try:
            yield
        finally:
            self._until = math.inf


def has_wal(path: Path) -> bool:
    """Whether the WAL of a database holds changes: a process has it open, or was killed."""
    try:
        status = check_file(path.with_name(f"{path.name}-wal"))
    except OSError:
        return False
    return status is not None and status.st_size > 0


def file_identity(path: Path | None) -> tuple[int, int] | None:
    """Device and inode, which distinguish a file from one that replaced it."""
    if path is None:
        return None
    try:
        status = check_file(path)
    except OSError:
        return None
    return None if status is None else (status.st_dev, status.st_ino)


DATABASE_SUFFIXES = ("", "-wal", "-shm", "-journal")
"""The database, and the files that SQLite keeps beside it."""


def connect(place: Path | str, flags: int, *, parameters: str = "") -> apsw.Connection:
    """Open a database: the only place that does.

    SQLite follows no link to it (SQLITE_OPEN_NOFOLLOW), nor to the files beside it. A pipe in the place of one of them
    would block, so all of them are looked at first. A new database is readable by its owner alone, and SQLite gives
    the files beside it the same permissions.

    Args:
        place: the file; text is the URI of a database in memory.
        flags: how, `SQLITE_OPEN_…`.
        parameters: those of a URI, such as `mode=ro`.

    Raises:
        UnsafePath: a link leads there, or something else than a file is there.
        apsw.Error: SQLite refuses.
    """
    if isinstance(place, Path):
        with open_folder(place.parent) as folder:
            found = [folder.check_file(place.name + suffix) for suffix in DATABASE_SUFFIXES]
            if found[0] is None and flags & apsw.SQLITE_OPEN_CREATE:
                with contextlib.suppress(FileExistsError):  # another process was faster
                    os.close(folder.open_file(place.name, CREATE))
        flags |= apsw.SQLITE_OPEN_NOFOLLOW
        if parameters:
            flags, place = flags | apsw.SQLITE_OPEN_URI, f"{place.absolute().as_uri()}?{parameters}"
    db = apsw.Connection(str(place), flags)
    db.set_busy_timeout(BUSY_TIMEOUT)
    # Nothing in a schema may call functions or change the schema itself (sqlite.org/security.html, 1.2).
    db.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
    db.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
    db.execute("PRAGMA recursive_triggers = ON")  # else INSERT OR REPLACE removes rows that no trigger counts
    return db


def keep_store_private(path: Path) -> None:
    """Take permissions of others from a database, the files beside it, and the folder `.chora`, which holds nothing
    else than chora's own; another folder may hold other things."""
    for suffix in DATABASE_SUFFIXES:
        keep_private(path.with_name(path.name + suffix))
    if path.parent.name == ".chora":
        keep_private(path.parent)


def migrate_schema(db: apsw.Connection, path: Path | None) -> None:
    """Bring the schema up to date, one transaction per step.

    A database that isn't ours is refused before anything is written, including the journal mode.
    """
    scripts = migrations()
    newest = scripts[-1][0]
    with transaction(db, "DEFERRED"):  # a consistent view: another process may be creating it right now
        is_ours = db.pragma("application_id") == APPLICATION_ID
        is_empty = not db.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall()
        version = cast(int, db.pragma("user_version"))
        problem = find_schema_problem(db, version) if is_ours and version <= newest else None
    if not is_ours and not is_empty:
        raise StorageError(
            f"{path} is a database of another program; chora leaves it unchanged.",
            "Point the setting storage.path at another file.",
            storage_path=str(path),
        )
    if version > newest:
        raise StorageError(
            f"{path} was written by a newer chora (schema {version}, this one knows {newest}).",
            "Install the newer chora again, or restore a backup made by this one.",
            storage_path=str(path),
        )
    if problem is not None:
        raise StorageError(
            f"{path} doesn't have the schema that chora makes: {problem}.",
            "Another program has changed it. `chora doctor --repair` makes a new database with all records and keeps "
            "this one; `chora restore` puts a backup in its place.",
            storage_path=str(path),
            error_type="SchemaError",
        )
    if not is_empty:
        _quick_check(db, path)
    _enable_wal(db)
    db.execute("PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON")
    while version < newest:
        with transaction(db):
            # Another process may have migrated while we waited for the lock.
            version = cast(int, db.pragma("user_version"))
            if version < newest:
                number, script = scripts[version]
                db.execute(script)
                db.pragma("application_id", APPLICATION_ID)
                db.pragma("user_version", number)
                version = number


def _quick_check(db: apsw.Connection, path: Path | None) -> None:
    """Refuse a damaged database before it is changed; of a large one, only as much is checked as time allows."""
    with contextlib.suppress(apsw.InterruptError), StatementTimeout(db).limit(QUICK_CHECK_TIMEOUT):
        found = cast(str, db.execute("PRAGMA quick_check(1)").fetchall()[0][0])
        if found != "ok":
            raise StorageError(
                f"{path} is damaged: {' '.join(found.split())}.",
                "`chora doctor` says what can be saved, `chora restore` puts a backup in its place.",
                storage_path=str(path),
                error_type="CorruptError",
            )
    db.set_progress_handler(None)


def _enable_wal(db: apsw.Connection) -> None:
    """Change to WAL mode; SQLite's busy timeout doesn't apply while another process does the same."""
    deadline = time.monotonic() + BUSY_TIMEOUT / 1000
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
        except apsw.BusyError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


def put_record(db: apsw.Connection, record: Record) -> None:
    """Write a record, replacing one of the same identity."""
    columns: dict[str, Any] = {name: getattr(record, name) for name in record.__struct_fields__}
    for name in _JSON_FIELDS[type(record)]:
        columns[name] = msgspec.json.encode(columns[name]).decode()
    if isinstance(record, Version):
        columns["size"] = len(record.body.encode())
    marks = ", ".join("?" * len(columns))
    sql = f"INSERT OR REPLACE INTO {TABLES[type(record)]} ({', '.join(columns)}) VALUES ({marks})"
    db.execute(sql, tuple(columns.values()))


def record_of(kind: type[R], row: Sequence[Any], names: Sequence[str] = ()) -> R:
    """The record in a row of all its columns, or of the named ones.

    Raises:
        msgspec.MsgspecError: the row doesn't fit the record.
    """
    objects = _JSON_FIELDS[kind]
    fields = {
        name: msgspec.json.decode(value) if name in objects else value
        for name, value in zip(names or kind.__struct_fields__, row, strict=True)
    }
    return msgspec.convert(fields, kind, strict=False)


@contextmanager
def transaction(db: apsw.Connection, kind: Literal["IMMEDIATE", "DEFERRED"] = "IMMEDIATE") -> Generator[None]:
    db.execute(f"BEGIN {kind}")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # after a full disk, SQLite has rolled back by itself
            db.execute("ROLLBACK")
        raise


_ERRNO: dict[type[apsw.Error], int] = {
    apsw.FullError: errno.ENOSPC,
    apsw.BusyError: errno.EBUSY,
    apsw.PermissionsError: errno.EACCES,
    apsw.ReadOnlyError: errno.EROFS,
    apsw.NoMemError: errno.ENOMEM,
}
"""What the system says in the same case; SQLite keeps the number itself to itself."""


@contextmanager
def translate_errors(path: Path | None) -> Generator[None]:
    """Translate exceptions of SQLite into StorageError; the only place that does."""
    try:
        yield
    except apsw.Error as error:
        advice: dict[type[apsw.Error], str] = {
            apsw.FullError: "Free some disk space; nothing that was acknowledged is lost.",
            apsw.BusyError: "Another process holds the lock of the database for long; try again.",
            apsw.CorruptError: "The file is damaged and was left unchanged; `chora doctor` says what can be saved, or "
            "restore a backup.",
            apsw.NotADBError: "The file is not a database; it was left unchanged. Move it away or restore a backup.",
            apsw.InterruptError: "The statement took too long and was interrupted; request less, or check whether the "
            "disk is slow.",
            apsw.CantOpenError: "Check that the folder exists and may be written.",
            apsw.ReadOnlyError: "Check the permissions of the file and its folder.",
            apsw.IOError: "Check the disk: it failed, or is full.",
        }
        raise StorageError(
            f"The database {path or 'in memory'} failed: {error}.",
            advice.get(type(error)),
            storage_path=str(path),
            error_type=type(error).__name__,
            errno=_ERRNO.get(type(error)),
        ) from error
    except UnsafePath as error:
        raise unsafe_path_error(error) from error
    except OSError as error:
        raise StorageError(
            f"The database folder of {path} can't be created: {error.strerror}.",
            "Check that the folder above it may be written, or point the setting storage.path elsewhere.",
            **io_details(error, storage_path=str(path)),
        ) from error
