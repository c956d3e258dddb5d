"""The audit log: who called what on what with which outcome, who was refused, and whether the server was ready.

One line each, by the logger `chora.audit`: `name=value` in the text format, an object `audit` in JSON lines. Of what
was sent, a line has names, ids and paths only, shortened, and no characters that could end or disguise it (CWE-117).
Refusals are limited, so that a flood of them can't fill the log or hide in it (CWE-779): what is left out is counted.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Raw, Struct

from chora.wording import escape_unprintable

log = logging.getLogger("chora.audit")

VALUE_LENGTH = 120
"""Characters of a value at most."""
SUBJECT_ENDINGS = ("_id", "_ids", "_path")
"""Arguments whose names end so say what a call is about."""
REFUSED = ("unauthorized", "forbidden")
"""Outcomes that count as refusals."""
BURST = 50
"""Refusals that are logged at once."""
INTERVAL = 2.0
"""Seconds after which one more is logged."""


class AuditLog:
    """Writes the audit log of one process.

    Args:
        clock: seconds, for the limit of refusals.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left = float(BURST)
        self._counted_at = clock()
        self._left_out = 0
        self._readiness: tuple[str, tuple[str, ...]] | None = None

    def record_call(
        self, who: str, via: str, what: str, subject: str, outcome: str, seconds: float, *, routine: bool = False
    ) -> None:
        """A call and its outcome.

        Args:
            who: the principal.
            via: the transport.
            what: the tool, or the method where it is none.
            subject: what it was about; may be empty.
            outcome: `ok`, or the code of its error.
            seconds: how long it took.
            routine: whether it is one of those that come regularly and automatically, for the level `DEBUG`.
        """
        self._report_left_out()
        if outcome in REFUSED and not self._may_log_refusal():
            return
        fields = {
            "who": who,
            "via": via,
            "tool": what,
            "on": subject,
            "outcome": outcome,
            "ms": f"{seconds * 1000:.1f}",
        }
        _write(logging.DEBUG if routine else logging.INFO, "call", fields)

    def record_refusal(self, who: str, what: str, outcome: str) -> None:
        """A request that was refused before it was a call.

        Args:
            who: the principal, or the address of a client without one.
            what: the method and the path of the request.
            outcome: the code of the error.
        """
        self._report_left_out()
        if self._may_log_refusal():
            _write(logging.WARNING, "refusal", {"who": who, "request": what, "outcome": outcome})

    def record_readiness(self, state: str, reasons: Sequence[str]) -> None:
        """Whether the server is ready, if that or its reasons have changed, other than in numbers."""
        key = state, tuple("".join(char for char in reason if not char.isdigit()) for reason in reasons)
        if key != self._readiness:
            self._readiness = key
            level = logging.WARNING if state == "failing" else logging.INFO
            _write(level, "readiness", {"state": state, "reasons": "; ".join(reasons)}, length=10 * VALUE_LENGTH)

    def close(self) -> None:
        """Say how many refusals were left out, at the end of the process."""
        self._left = 2.0
        self._report_left_out()

    def _may_log_refusal(self) -> bool:
        if self._left < 1:
            self._left_out += 1
            return False
        self._left -= 1
        return True

    def _report_left_out(self) -> None:
        """Refill what may be logged; once there is room again, say how many were left out."""
        now = self._clock()
        self._left = min(float(BURST), self._left + (now - self._counted_at) / INTERVAL)
        self._counted_at = now
        if self._left_out and self._left >= 2:  # one for this line, and one for the refusal that may follow
            self._left -= 1
            _write(logging.WARNING, "refusals left out", {"count": str(self._left_out)})
            self._left_out = 0


def _write(level: int, kind: str, fields: dict[str, str], *, length: int = VALUE_LENGTH) -> None:
    if not log.isEnabledFor(level):
        return
    shown = {name: _shorten(value, length) for name, value in fields.items() if value}
    line = " ".join(f"{name}={_quote(value)}" for name, value in shown.items())
    log.log(level, "audit %s: %s", kind, line, extra={"audit": {"event": kind, **shown}})


def _shorten(value: str, length: int) -> str:
    shown = escape_unprintable(value[: length + 1])
    return shown if len(shown) <= length else f"{shown[:length]}…"


def _quote(value: str) -> str:
    """A value that holds a blank, a quote or an equals sign in quotes, so that it can't be taken for several."""
    return msgspec.json.encode(value).decode() if any(char in value for char in ' "=') else value


# -- what a call is about ---------------------------------------------------------------------------------------


class Subjects:
    """Finds what calls are about in their arguments, without building the rest of them."""

    def __init__(self) -> None:
        self._decoders: dict[str, msgspec.json.Decoder[Struct] | None] = {}

    def find(self, tool: str, schema: Mapping[str, Any], arguments: bytes | Raw) -> str:
        """Ids and paths among the arguments, as they were sent; empty if there are none.

        Args:
            tool: the name of the tool.
            schema: of its arguments.
            arguments: a JSON object.
        """
        if tool not in self._decoders:
            self._decoders[tool] = _make_decoder(schema)
        if (decoder := self._decoders[tool]) is None:
            return ""
        try:
            found = decoder.decode(arguments)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return ""
        given = (bytes(memoryview(each)[: 4 * VALUE_LENGTH]) for each in msgspec.structs.astuple(found) if each)
        return ",".join(each.decode("utf-8", "replace").strip('"') for each in given if each != b"null")


def _make_decoder(schema: Mapping[str, Any]) -> msgspec.json.Decoder[Struct] | None:
    names = [name for name in schema.get("properties", {}) if name.endswith(SUBJECT_ENDINGS)]
    fields: list[tuple[str, Any, Any]] = [(name, Raw, Raw()) for name in names]
    return msgspec.json.Decoder(msgspec.defstruct("Subjects", fields)) if names else None
