"""Stores with a long history, made quickly, and what a statement costs: SQLite's own counters, not the clock."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import apsw

from chora.store import SqliteStore


def fill_history(
    store: SqliteStore, versions: int, *, contents: int = 1, others: int = 0, measured: int | None = None
) -> None:
    """Store versions, the oldest first, spread over contents `c0`, `c1`, …; as many jobs, costs and drafts as `others`
    says; and as many events and samples as `measured` says, else as many as others."""
    db = store._writer  # pyright: ignore[reportPrivateUsage]
    count = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {}) "
    day = "printf('2026%02d%02d', 1 + i / 2419200000, 1 + i / 86400000 % 28)"
    instant = (
        "printf('2026-%02d-%02dT%02d:%02d:%02d.%03dZ', 1 + i / 2419200000, 1 + i / 86400000 % 28, "
        "i / 3600000 % 24, i / 60000 % 60, i / 1000 % 60, i % 1000)"
    )
    compact = f"{day} || printf('T%02d%02d%02d%03dZ', i / 3600000 % 24, i / 60000 % 60, i / 1000 % 60, i % 1000)"
    db.execute("BEGIN IMMEDIATE")
    db.execute(
        f"{count.format(versions)} INSERT INTO versions SELECT {compact} || '-0000', 'c' || (i % {contents}), 'text', "
        f"'s', 'f' || i, 'jinja2', '1', {instant}, '1.0.0', 'draft', '{{}}', 0, 0, 4 FROM n"
    )
    if others:
        more = count.format(others)
        at = instant.replace("i", "(i * 1000)").replace("pr(i * 1000)ntf", "printf")
        often = count.format(others if measured is None else measured)
        db.execute(f"{often} INSERT INTO events SELECT {at}, 'chora.k', 'success', NULL, '{{}}' FROM n")
        db.execute(f"{often} INSERT INTO samples SELECT 'probe', {at}, i % 2, 1.5, '{{}}' FROM n")
        db.execute(f"{more} INSERT INTO costs SELECT {at}, 'c0', 'm', 1, 1, 0.25 FROM n")
        db.execute(
            f"{more} INSERT INTO jobs SELECT 'job-' || i, 'k' || i % 7, 't', '{{}}', 'p', 'done', {at}, {at}, '{{}}', "
            "NULL FROM n"
        )
        db.execute(f"{more} INSERT INTO drafts SELECT 'd' || i, 'content', '{{}}', NULL, {at}, {at} FROM n")
    db.execute("COMMIT")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


class Statement(NamedTuple):
    """An executed statement, and what it did."""

    sql: str
    steps: int
    """Instructions of SQLite's virtual machine."""
    scanned: int
    """Rows that were passed by without an index."""
    sorts: int


@contextmanager
def statements_of(store: SqliteStore, *, reads_only: bool = False) -> Generator[list[Statement]]:
    """Collect the statements that a store executes inside; with `reads_only` those on the event loop."""
    found: list[Statement] = []

    def note(event: dict[str, Any]) -> None:
        status = event["stmt_status"]
        found.append(
            Statement(
                event["sql"],
                status["SQLITE_STMTSTATUS_VM_STEP"],
                status["SQLITE_STMTSTATUS_FULLSCAN_STEP"],
                status["SQLITE_STMTSTATUS_SORT"],
            )
        )

    connections = [store._reader] if reads_only else [store._reader, store._writer]  # pyright: ignore
    for db in connections:
        cast(Any, db).trace_v2(apsw.SQLITE_TRACE_PROFILE, note, id="history")
    try:
        yield found
    finally:
        for db in connections:
            cast(Any, db).trace_v2(0, None, id="history")
