"""The log: stdlib logging on stderr, as text for people or as JSON lines for collectors."""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import msgspec

from chora.errors import UsageError, why_unreadable
from chora.nofollow import open_folder
from chora.secrets import redact
from chora.settings import LogSettings
from chora.timestamps import now
from chora.wording import escape_unprintable, printable


class TextFormatter(logging.Formatter):
    """A line for people, its traceback below it; secrets are redacted in both."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s")
        self._second = (0, "")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        """The time of day, made once a second."""
        second = int(record.created)
        if second != self._second[0]:
            self._second = second, time.strftime("%H:%M:%S", time.localtime(second))
        return self._second[1]

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line itself, which no message can end or disguise (CWE-117)."""
        return escape_unprintable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        """The traceback, indented: the text of an exception can't look like a line of the log (CWE-117)."""
        return "\n".join(f"  {escape_unprintable(line)}" for line in super().formatException(ei).split("\n"))

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


class JsonLinesFormatter(logging.Formatter):
    """One JSON object per record; secrets are redacted."""

    def format(self, record: logging.LogRecord) -> str:
        line = {"at": now(), "level": record.levelname, "logger": record.name, "message": record.getMessage()}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        shown: dict[str, Any] = {key: printable(redact(value)) for key, value in line.items()}
        if (fields := getattr(record, "audit", None)) is not None:
            shown["audit"] = {key: redact(value) for key, value in fields.items()}
        return msgspec.json.encode(shown).decode()


class _FileHandler(logging.StreamHandler[TextIO]):
    """Writes to a file that is closed with it."""

    def close(self) -> None:
        super().close()
        self.stream.close()


def _open_log(file: str) -> TextIO:
    """The log file, to append to; no link is followed on the way."""
    path = Path(file)
    try:
        with open_folder(path.parent, make=True) as folder:
            descriptor = folder.open_file(path.name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    except OSError as error:
        raise UsageError(
            f"The log file {file} can't be written: {why_unreadable(error)}.", "Change log.file.", setting="log.file"
        ) from None
    return open(descriptor, "a", encoding="utf-8", buffering=1)


def start_logging(settings: LogSettings) -> None:
    """Send what chora logs to stderr, or to the file; those of other libraries from WARNING on.

    Raises:
        UsageError: the file can't be appended to.
    """
    handler = _FileHandler(_open_log(settings.file)) if settings.file else logging.StreamHandler(sys.stderr)
    if settings.format == "json":
        handler.setFormatter(JsonLinesFormatter())
    else:
        handler.setFormatter(TextFormatter())
    # No line shows these, and collecting them takes longer than all of the rest.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # pyright: ignore[reportAttributeAccessIssue, reportPrivateUsage]
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("chora").setLevel(settings.level)
