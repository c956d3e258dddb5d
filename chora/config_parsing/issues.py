"""Issues of a config: what is wrong or odd, where, and what to write instead."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Struct

from chora.model import Severity
from chora.wording import cut_texts

ID_LIMIT = 255
"""Characters of the longest id."""
ISSUES_LIMIT = 100
"""Warnings, and errors, that are reported of one config; a file with more has one mistake many times."""
ABSENT: Any = object()
"""Stands for a value that isn't there."""


class Issue(Struct, frozen=True, kw_only=True):
    """One thing that is wrong with a document, or odd: where, what is there, what fits, and what to write instead."""

    severity: Severity
    code: str
    message: str
    path: str
    """A JSON path, such as `$.metadata.version`."""
    found: str = ""
    expected: str = ""
    write: str = ""

    def __post_init__(self) -> None:
        for name in ("message", "path", "expected", "write"):
            msgspec.structs.force_setattr(self, name, cut_texts(getattr(self, name)))


class IssueCollector:
    """The issues of one document while it is parsed."""

    def __init__(self) -> None:
        self.warnings: list[Issue] = []
        self.errors: list[Issue] = []
        self._explained: list[str] = []

    def warn(
        self, code: str, path: str, found: object, expected: str, write: str, message: str, *, info: bool = False
    ) -> None:
        """Add a warning, or an information."""
        if len(self.warnings) < ISSUES_LIMIT:
            severity: Severity = "info" if info else "warning"
            self.warnings.append(make_issue(severity, code, path, found, expected, write, message))

    def fail(self, code: str, path: str, found: object, expected: str, write: str, message: str | None = None) -> None:
        """Add an error that the schema can't see, or would explain worse; what the schema says there is left out."""
        if len(self.errors) < ISSUES_LIMIT:
            self.errors.append(make_issue("error", code, path, found, expected, write, message))
            self.suppress_schema_errors(path)

    def suppress_schema_errors(self, path: str) -> None:
        """Leave out what the schema says of a path and of everything below."""
        self._explained.append(path)

    def is_explained(self, issue: Issue) -> bool:
        """Whether an error explains what an issue is about."""
        return any(issue.path == path or issue.path.startswith((f"{path}.", f"{path}[")) for path in self._explained)


def make_issue(
    severity: Severity, code: str, path: str, found: object, expected: str, write: str, message: str | None = None
) -> Issue:
    shown = "nothing" if found is ABSENT else shorten(found)
    if message is None:
        is_ = "missing" if found is ABSENT else shown
        message = f"{path} is {is_}; it must be {expected}."
    return Issue(severity=severity, code=code, message=message, path=path, found=shown, expected=expected, write=write)


def json_path(steps: Iterable[str | int], start: str = "$") -> str:
    """A JSON path; keys that aren't plain words are quoted."""
    for step in steps:
        if isinstance(step, int):
            start += f"[{step}]"
        else:
            start += f".{step}" if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", step) else f"[{to_json(step)}]"
    return start


def to_json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def shorten(value: object) -> str:
    """A value in one short line."""
    text = to_json(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def slug_of(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text[:ID_LIMIT].lower()).strip("-")


def with_article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"
