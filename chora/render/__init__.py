"""Rendering in killable worker processes; here: the messages between the server and the workers, and their framing.

    pool.py         server: keeps workers, gives them jobs, kills them when their time is up
    processes.py    server: the worker processes, spawned or forked by a fork server
    worker.py       worker process: the fork server, resource limits, the loop over jobs
    sandbox.py      worker process: templates, expressions and queries; alone in importing jinja2 and jsonpath
    validation.py   worker process: checks texts and data, which can be as hostile as any template
    iregexp.py      worker process: the regular expressions of queries
    parsing.py      worker process, and for small files the server: data files into plain data
    text_parts.py   worker process, and for short texts the server: sections, definitions and lines of a text

Only plain data crosses: MessagePack of the Structs below, each message prefixed with its length.
"""

from __future__ import annotations

import struct
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from chora import settings
from chora.nesting import DECODING_LIMIT, NestedTooDeeply, is_too_deep

UndefinedMode = Literal["strict", "lenient"]
FailureKind = Literal[
    "syntax", "undefined", "template_not_found", "security", "runtime", "memory", "output", "recursion"
]


NESTED_TOO_DEEPLY = "it is nested too deeply"
"""The finding in a text that its parser gives up on, whether it is valid or not."""


class TemplateOptions(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How a template is parsed, in jinja2's own names."""

    trim_blocks: Annotated[bool, Meta(description="Leave out the newline behind a {% %} tag")] = False
    lstrip_blocks: Annotated[bool, Meta(description="Leave out the blanks before a {% %} tag that begins its line")] = (
        False
    )
    keep_trailing_newline: Annotated[
        bool, Meta(description="Keep the newline at the end of the template; jinja2 drops one")
    ] = False
    autoescape: Annotated[bool, Meta(description="Escape values for HTML; | safe excepts one")] = False
    extensions: Annotated[
        tuple[Literal["jinja2.ext.do", "jinja2.ext.loopcontrols"], ...],
        Meta(description="jinja2.ext.do adds {% do %}, jinja2.ext.loopcontrols {% break %} and {% continue %}"),
    ] = ()


class RenderJob(Struct, frozen=True, tag=True, omit_defaults=True):
    """Render one template.

    `template` is the text of the template `name`; when None, the text is `sources[name]`. Included, imported and
    extended templates come from `sources` too. `context` holds plain data: JSON values.
    """

    template: str | None
    name: str
    sources: dict[str, str] = {}
    context: dict[str, Any] = {}
    undefined: UndefinedMode = "strict"
    options: TemplateOptions = TemplateOptions()


class ScanJob(Struct, frozen=True, tag=True, omit_defaults=True):
    """Find the references of a template, without rendering it."""

    source: str
    name: str = "template"
    options: TemplateOptions = TemplateOptions()


class SelectJob(Struct, frozen=True, tag=True):
    """Select values from plain data by a JSONPath (RFC 9535); `name` names it in messages."""

    query: str
    data: Any
    name: str = "JSONPath"


class PartJob(Struct, frozen=True, tag=True):
    """Take the part of a text that the first of some selectors takes for which there is one (`text_parts`)."""

    text: str
    selectors: tuple[str, ...]
    name: str = "selector"


class EvaluateJob(Struct, frozen=True, tag=True, omit_defaults=True):
    """Evaluate an expression over plain data as a condition; using an undefined name is an error."""

    expression: str
    context: dict[str, Any] = {}
    name: str = "condition"


class MatchJob(Struct, frozen=True, tag=True, omit_defaults=True):
    """Find the first match of a regular expression in a text; `flags` are Python's letters, such as `im`."""

    pattern: str
    text: str
    flags: str = ""
    name: str = "pattern"


class CheckJob(Struct, frozen=True, tag=True, omit_defaults=True):
    """Check the syntax of a text in a language, one of `validation.LANGUAGES`. Nothing in it is run or resolved."""

    language: str
    text: str
    name: str = "text"


class CompareJob(Struct, frozen=True, tag=True, omit_defaults=True):
    """Validate plain data against a JSON Schema. References are only resolved inside the schema."""

    schema: Any
    data: Any
    name: str = "schema"


class ParseJob(Struct, frozen=True, tag=True, omit_defaults=True):
    """Parse the text of a data file; `name` is the file, whose extension names the language."""

    text: str
    name: str
    delimiter: str = ""
    """Of CSV; if empty, it is found out."""
    old_yaml: bool = False
    """Whether YAML is read as YAML 1.1."""


class RenderedText(Struct, frozen=True, tag=True):
    """The text, and in lenient mode the distinct undefined names that it used."""

    text: str
    undefined_names: list[str]
    """Those that were rendered empty."""
    undefined_tested: list[str] = []
    """Those that were only looked at, in a condition, a loop or a comparison."""


class TemplateReferences(Struct, frozen=True, tag=True):
    """The templates a source names, whether it may choose others while rendering, and the variables it uses."""

    references: list[str]
    dynamic: bool
    variables: list[str]
    fault: JobFailure | None = None
    """About a filter or a test that it names and that there is none of; the render fails if it comes there."""
    required: dict[str, int] = {}
    """The templates without which it can't be rendered, and the lines that name them."""


class SelectedValues(Struct, frozen=True, tag=True):
    """The values that a query selected, in order; `singular` if it can select no more than one (RFC 9535, 2.3.5.1)."""

    values: list[Any]
    singular: bool = False


class TextPart(Struct, frozen=True, tag=True):
    """A part of a text, and what the author of the selector should know."""

    text: str
    warning: str | None = None


class EvaluatedCondition(Struct, frozen=True, tag=True):
    """Whether the condition holds."""

    truth: bool


class MatchPosition(Struct, frozen=True, tag=True):
    """The index of the first character of the match; None if nothing matches."""

    index: int | None


class TextFinding(Struct, frozen=True):
    """What is wrong with a text or data, and where: line and column counted from 1, or a JSON path."""

    message: str
    line: int | None = None
    column: int | None = None
    path: str | None = None


class CheckResult(Struct, frozen=True, tag=True):
    """The findings in a text or in data; empty if it is valid."""

    findings: list[TextFinding]


class ParsedData(Struct, frozen=True, tag=True):
    """The data of a file, and what its author should know."""

    value: Any
    warning: str | None = None


class JobFailure(Struct, frozen=True, tag=True):
    """Why a job failed.

    `template` and `line` say where; `variable` is the name that was undefined. For `template_not_found`,
    `template` is the missing one.
    """

    kind: FailureKind
    message: str
    template: str | None = None
    line: int | None = None
    variable: str | None = None


WorkerJob = RenderJob | ScanJob | SelectJob | PartJob | EvaluateJob | MatchJob | CheckJob | CompareJob | ParseJob
JobOutcome = (
    RenderedText
    | TemplateReferences
    | SelectedValues
    | TextPart
    | EvaluatedCondition
    | MatchPosition
    | CheckResult
    | ParsedData
    | JobFailure
)


class WorkerAnswer(Struct, frozen=True):
    """A worker's answer to one job; `last` says that the worker ends after it."""

    outcome: JobOutcome
    last: bool = False


class RenderFailed(Exception):
    """A template that can't be rendered, or a worker that failed; `reason` has the facts."""

    def __init__(self, failure: JobFailure) -> None:
        super().__init__(failure.message)
        self.reason = failure


def check_depth(job: Struct) -> None:
    """Raise `NestedTooDeeply` for a job whose data couldn't be encoded or decoded on every Python (CWE-674)."""
    for name in ("context", "data", "schema"):
        if is_too_deep(getattr(job, name, None), DECODING_LIMIT):
            raise NestedTooDeeply


# -- between the pool and a worker --

_LENGTH = struct.Struct("!I")


def job_size_limit(render_settings: settings.RenderSettings) -> int:
    """The largest size of an encoded job, in bytes; decoded it takes several times as many."""
    return render_settings.memory // 8


def encode_frame(message: Struct | None) -> bytearray:
    """Encode a message with its length before it; None makes the empty frame that reports readiness.

    Raises:
        TypeError, ValueError, OverflowError: a context holds other than plain data.
    """
    framed = bytearray(_LENGTH.size)
    if message is not None:
        msgspec.msgpack.Encoder().encode_into(message, framed, _LENGTH.size)
        _LENGTH.pack_into(framed, 0, len(framed) - _LENGTH.size)
    return framed


class FrameReader:
    """Assembles one frame from the pieces it arrives in, up to `limit` bytes (CWE-770)."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._received = bytearray()

    def feed(self, piece: bytes | bytearray) -> memoryview | None:
        """Add a piece; returns the message once it is complete.

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

SINGLE_WORKER = "-"
"""In place of a control descriptor: run as a single worker, on stdin and stdout."""

COMMAND = struct.Struct("!cQ")
"""A command of the pool: fork or kill, and the number of the worker. A fork passes its socket along (SCM_RIGHTS)."""

FORK = b"F"
KILL = b"K"

REPORT = struct.Struct("!Qi")
"""A report of the fork server: the number of a worker that ended, and its exit status, negative for a signal."""
