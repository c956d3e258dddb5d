"""Shared by the tests of the tools: the shape of results, forms of a context, and a failing store."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest

from chora.errors import StorageError
from chora.store import Draft, SqliteStore, Version
from tests.patience import may_have_taken

STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
VERSION_ID = re.compile(r"\d{8}T\d{9}Z-[0-9a-f]{4}")
FINGERPRINT = re.compile("sha256:[0-9a-f]{64}")

CONTEXTS = [
    pytest.param({"name": "Ada"}, id="object"),
    pytest.param('{"name": "Ada"}', id="string"),
    pytest.param(' {"name":\n"Ada"}', id="string with blanks"),
]
"""One context in every accepted form."""

EMPTY = [None, "", "{}", {}, "null", "  "]
"""Everything that means no context."""

NO_CONTEXTS = [([1], "array"), (5, "number"), ("x=1", "string"), ("[1]", "array"), (True, "boolean")]
"""Invalid contexts, and the type that the error names."""

NO_IDS = ["", " ", "a/b", "..", "a\\b", "x" * 256]
"""Invalid ids."""


def taken(result: dict[str, Any], *fields: str) -> dict[str, Any]:
    """Check that a result has exactly these fields, `success` and its duration, and return it without these two."""
    assert result.pop("success") is True
    assert set(result) == set(fields)
    if "duration_ms" in result:
        assert isinstance(result["duration_ms"], int)
        assert may_have_taken(result.pop("duration_ms") / 1000)
    return result


class FailingStore(SqliteStore):
    """A store that can be read, and refuses every write and deletion."""

    async def add_version(self, version: Version) -> Version:
        raise _full()

    async def save_draft(self, draft: Draft) -> None:
        raise _full()

    async def delete_versions(self, version_ids: Sequence[str], *, keep_metadata: bool = False) -> None:
        raise _full()


FULL: dict[str, Any] = {
    "reason": "The database failed: full.",
    "path": "x",
    "storage_path": "x",
    "error_type": "FullError",
    "errno": 28,
}
"""The details of a full disk."""


def _full() -> StorageError:
    return StorageError(FULL["reason"], "Free some disk space.", storage_path="x", error_type="FullError", errno=28)
