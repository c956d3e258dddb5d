"""Loaded by every Python process that `tests/test_nofollow.py` starts: reports who opens files of a project how.

Each line of the report is `ok` or `bypass`, the audit event (docs.python.org/3/library/audit_events.html), the path,
and the place in chora that caused it.
"""

from __future__ import annotations

import os
import sys
from types import FrameType
from typing import Any

PROJECT = os.environ.get("AUDIT_PROJECT", "")
REPORT = os.environ.get("AUDIT_REPORT", "")
PACKAGE = os.environ.get("AUDIT_PACKAGE", "")
MODULE = f"{PACKAGE}/nofollow.py"
EVENTS = {
    *("open", "os.listdir", "os.scandir", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink"),
    *("os.truncate", "os.chmod", "os.chown", "os.utime", "os.setxattr", "sqlite3.connect", "shutil.copyfile"),
    *("shutil.move", "shutil.rmtree", "glob.glob", "tempfile.mkstemp", "tempfile.mkdtemp"),
}
NOFOLLOW = 0x01000000  # SQLITE_OPEN_NOFOLLOW
_reporting = False


def report(event: str, path: str, frame: FrameType | None) -> None:
    """Write one line, if the path is in the project, or relative to a folder that the event doesn't name."""
    global _reporting
    while frame is not None and not frame.f_code.co_filename.startswith(f"{PACKAGE}/"):
        frame = frame.f_back
    place = f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame else "outside of chora"
    if not (path.startswith(f"{PROJECT}/") or path == PROJECT or (frame is not None and not path.startswith("/"))):
        return
    verdict = "ok" if frame is not None and frame.f_code.co_filename == MODULE else "bypass"
    _reporting = True
    try:
        with open(REPORT, "a") as file:
            file.write(f"{verdict} {event} {path} {place}\n")
    finally:
        _reporting = False


def hook(event: str, arguments: tuple[Any, ...]) -> None:
    if event not in EVENTS or _reporting:
        return
    for argument in arguments[: 2 if event in ("os.rename", "os.link", "shutil.move") else 1]:
        if isinstance(argument, str | bytes | os.PathLike):
            report(event, os.fsdecode(argument), sys._getframe(1))


def check_connection(db: Any) -> None:
    """apsw raises no audit events; a database of the project that was opened without NOFOLLOW is a bypass."""
    global _reporting
    if db.filename and db.filename.startswith(f"{PROJECT}/"):
        _reporting = True
        with open(REPORT, "a") as file:
            file.write(f"{'ok' if db.open_flags & NOFOLLOW else 'bypass'} apsw.Connection {db.filename} sqlite\n")
        _reporting = False


if PROJECT:
    import apsw

    apsw.connection_hooks.append(check_connection)
    sys.addaudithook(hook)
