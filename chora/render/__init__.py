"""What the server and its template workers say to each other: jobs, outcomes and the frames they travel in.

    pool.py     the server's side: keeps workers, gives them jobs, kills them in time
    worker.py   the other side: renders in a sandbox and runs queries; alone in importing jinja2 and jsonpath
    judge.py    the other side too: judges texts and data, which can be as hostile as any template

Only plain data crosses: MessagePack of the Structs below, each message behind its length.
"""

from __future__ import annotations

import struct
from typing import Any, Literal

import msgspec
from msgspec import Struct

from chora import settings
from chora.nesting import DECODING_LIMIT, NestedTooDeeply, is_too_deep

Undefined = Literal["strict", "lenient"]
Kind = Literal["syntax", "undefined", "template_not_found", "security", "runtime", "memory", "output", "recursion"]


class Options(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How a template is read, in jinja2's own names."""

    trim_blocks: bool = False
    lstrip_blocks: bool = False
    keep_trailing_newline: bool = False
    autoescape: bool = False
    extensions: tuple[Literal["jinja2.ext.do", "jinja2.ext.loopcontrols"], ...] = ()


class Render(Struct, frozen=True, tag=True, omit_defaults=True):
    """Render one template.

    `template` is the text of the template `name`; when None, the text is `sources[name]`. What it includes,
    imports or extends comes from `sources` too. `context` holds plain data: what JSON can say.
    """

    template: str | None
    name: str
    sources: dict[str, str] = {}
    context: dict[str, Any] = {}
    undefined: Undefined = "strict"
    options: Options = Options()


class Scan(Struct, frozen=True, tag=True, omit_defaults=True):
    """Find out what a template refers to, without rendering it."""

    source: str
    name: str = "template"
    options: Options = Options()


class Select(Struct, frozen=True, tag=True):
    """Take the values that a JSONPath (RFC 9535) selects from plain data; `name` is how to call it in messages."""

    query: str
    data: Any
    name: str = "JSONPath"


class Evaluate(Struct, frozen=True, tag=True, omit_defaults=True):
    """Find out whether an expression is true of plain data; undefined names are empty."""

    expression: str
    context: dict[str, Any] = {}
    name: str = "condition"


class Match(Struct, frozen=True, tag=True, omit_defaults=True):
    """Find out where a regular expression first matches a text; `flags` are Python's letters, such as `im`."""

    pattern: str
    text: str
    flags: str = ""
    name: str = "pattern"


class Check(Struct, frozen=True, tag=True, omit_defaults=True):
    """Find out whether a text is of a language, one of `judge.LANGUAGES`. Nothing of it is run or resolved."""

    language: str
    text: str
    name: str = "text"


class Compare(Struct, frozen=True, tag=True, omit_defaults=True):
    """Find out in what plain data doesn't fit a JSON Schema. References lead nowhere but into the schema."""

    schema: Any
    data: Any
    name: str = "schema"


class Rendered(Struct, frozen=True, tag=True):
    """The text, and in lenient mode the distinct names that were used without being defined."""

    text: str
    undefined_names: list[str]


class Scanned(Struct, frozen=True, tag=True):
    """The templates a source names, whether it may choose more while rendering, and the variables it expects."""

    references: list[str]
    dynamic: bool
    variables: list[str]


class Selected(Struct, frozen=True, tag=True):
    """The values that a query selected, in its order."""

    values: list[Any]


class Evaluated(Struct, frozen=True, tag=True):
    """Whether the expression was true."""

    truth: bool


class Matched(Struct, frozen=True, tag=True):
    """The first character of the match, counted from 0, or None if nothing matches."""

    place: int | None


class Flaw(Struct, frozen=True):
    """What is wrong with a text or data, and where: a line and a column counted from 1, or a JSON path."""

    message: str
    line: int | None = None
    column: int | None = None
    path: str | None = None


class Checked(Struct, frozen=True, tag=True):
    """What is wrong, nothing if all is well."""

    flaws: list[Flaw]


class Failed(Struct, frozen=True, tag=True):
    """Why a job couldn't be done.

    `template` and `line` say where; `variable` is the name that was undefined. For `template_not_found`,
    `template` is the one that is missing.
    """

    kind: Kind
    message: str
    template: str | None = None
    line: int | None = None
    variable: str | None = None


Job = Render | Scan | Select | Evaluate | Match | Check | Compare
Outcome = Rendered | Scanned | Selected | Evaluated | Matched | Checked | Failed


class Answer(Struct, frozen=True):
    """A worker's answer to one job; `last` says that it ends now and takes no other."""

    outcome: Outcome
    last: bool = False


class RenderFailed(Exception):
    """A template that can't be rendered, or a worker that broke; `failed` has the facts."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(failed.message)
        self.failed = failed


# -- between the pool and a worker --

_LENGTH = struct.Struct("!I")


def job_limit(rules: settings.RenderSettings) -> int:
    """The most bytes a job may have; as objects it takes several times as many."""
    return rules.memory // 8


def check_depth(job: Struct) -> None:
    """Raises `NestedTooDeeply` for a job whose data couldn't be encoded or decoded on every Python."""
    for name in ("context", "data", "schema"):
        if is_too_deep(getattr(job, name, None), DECODING_LIMIT):
            raise NestedTooDeeply


def frame(message: Struct | None) -> bytearray:
    """A message behind its length; None makes the empty frame, by which a worker says that it is ready.

    Raises:
        TypeError, ValueError, OverflowError: a context holds what isn't plain data.
    """
    framed = bytearray(_LENGTH.size)
    if message is not None:
        msgspec.msgpack.Encoder().encode_into(message, framed, _LENGTH.size)
        _LENGTH.pack_into(framed, 0, len(framed) - _LENGTH.size)
    return framed


class Unframer:
    """Puts one frame together from the pieces it arrives in; `limit` bounds it, in bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._received = bytearray()

    def feed(self, piece: bytes | bytearray) -> memoryview | None:
        """The message, once it is complete.

        Raises:
            ValueError: the frame is larger than the limit, or something follows it.
        """
        self._received += piece
        if len(self._received) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._received)
        missing = _LENGTH.size + length - len(self._received)
        if length > self._limit or missing < 0:
            raise ValueError(f"a frame of {length} bytes doesn't fit the protocol")
        return None if missing else memoryview(self._received)[_LENGTH.size :]


# -- between the pool and the fork server --

DIRECT = "-"
"""In place of a control descriptor: be a single worker, on stdin and stdout."""

COMMAND = struct.Struct("!cQ")
"""What the pool says: fork or kill, and the number by which both know the worker. A fork brings its socket along."""

FORK = b"F"
KILL = b"K"

REPORT = struct.Struct("!Qi")
"""What the fork server says: the number of a worker that ended, and its exit status, negative for a signal."""
