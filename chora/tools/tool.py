"""A tool: a function whose annotations describe it to an agent.

    @tool(title="Say hello", category="Utility", read_only=True)
    async def hello_world(engine: Engine, arguments: HelloWorld, call: Call) -> Hello:
        '''Answers with a greeting …'''

The name, the docstring and the two Structs become name, description, input and output schema. `Tool.run_tool`
decodes the arguments, calls the function and encodes the result, for MCP as for the command line.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, cast, get_type_hints

import msgspec
from msgspec import Meta, Struct

from chora.access import Scope
from chora.engine.building.context import json_type
from chora.engine.engine import Engine
from chora.errors import CATEGORIES, ChoraError, Internal, InvalidContext, InvalidInput, LimitExceeded
from chora.hashing import digest_of
from chora.leniency import is_unset
from chora.nesting import DEPTH_LIMIT, TooManyValues, check_json_structure, decode_json, is_too_deep
from chora.peer_memory import answer_too_large
from chora.protocol.types import Call, InputRequired, Link, Progress, ToolAnswer
from chora.secrets import redact
from chora.tools.lenient_arguments import relax_arguments
from chora.tools.schemas import input_schema, object_schema, schema_at
from chora.wording import find_nearest

log = logging.getLogger("chora.tools")

Category = Literal[
    "Core generation",
    "Config lifecycle",
    "Storage",
    "Discovery",
    "Validation",
    "Collections",
    "Utility",
    "Reading",
    "Edits",
]

DEFAULT_TOOLSET = "default"
"""The toolset that a server offers unless its settings name others."""
OPT_IN: frozenset[Category] = frozenset({"Reading", "Edits"})
"""Categories whose tools are offered only where the settings name their toolset."""

Context = Annotated[
    Any,
    Meta(
        description="Variables for the templates",
        extra_json_schema={"type": "object"},
    ),
]
"""A context as clients send it: some can only send objects as strings."""

HEAD_LIMIT = 16 * 1024
"""The largest text in a result, in bytes, where a resource has all of it: of a longer one the head, with a link."""
WHOLE_LIMIT = 256 * 1024
"""The same for a text that no resource has, such as a preview."""


class ToolArguments(Struct, forbid_unknown_fields=True):
    """The arguments of a tool."""


class ToolResult(Struct, kw_only=True):
    """The result of a tool that succeeds."""

    success: Literal[True] = True

    def links(self) -> Sequence[Link]:
        """The resources that the result links to."""
        return ()


class TextResult(ToolResult, kw_only=True):
    """A result with a text of any length; `truncate_text` gives the values of these fields."""

    truncated: bool = False
    content_length: int
    resource: str | None = None

    def links(self) -> Sequence[Link]:
        return () if self.resource is None else (Link(self.resource, self.resource.partition("://")[2]),)


class TextHead(NamedTuple):
    """The part of a text in a result."""

    text: str
    truncated: bool
    length: int
    """The length of the whole text, in characters."""
    resource: str | None
    """The URI of the whole text, if this is only the head."""


FAILURE_SCHEMA: dict[str, Any] = {
    "title": "Failure",
    "type": "object",
    "properties": {
        "success": {"type": "boolean", "const": False},
        "error": {
            "type": "object",
            "properties": {
                "code": {"type": "string"},
                "message": {"type": "string"},
                "hint": {"type": "string"},
                "details": {"type": "object"},
            },
            "required": ["code", "message", "hint", "details"],
        },
    },
    "required": ["success", "error"],
}

RUNNING_SCHEMA: dict[str, Any] = {
    "title": "Running",
    "type": "object",
    "properties": {
        "success": {"type": "boolean", "const": True},
        "status": {"type": "string", "const": "running"},
        "job": {"type": "string"},
        "progress": {"type": "object"},
        "hint": {"type": "string"},
    },
    "required": ["success", "status", "job", "progress"],
}
"""The result of a call whose work continues as a job: the same call again joins it or gets its result."""

_encode = msgspec.json.Encoder().encode


class Tool:
    """One tool, described by its function."""

    def __init__(
        self,
        function: Callable[[Engine, Any, Call], Awaitable[ToolResult]],
        *,
        title: str,
        category: Category,
        read_only: bool = False,
        destructive: bool = False,
        idempotent: bool = False,
        long: bool = False,
        scope: Scope | None = None,
        quick: Callable[[Engine, Any, Call], Awaitable[ToolResult | None]] | None = None,
        limits: Mapping[str, int] | None = None,
    ) -> None:
        hints = get_type_hints(function, include_extras=True)
        self.function = function
        self.name = function.__name__
        self.title = title
        self.category: Category = category
        self.description = inspect.cleandoc(function.__doc__ or "")
        self.read_only = read_only
        self.scope: Scope = scope or ("read" if read_only else "write")
        self.toolset = category.lower().replace(" ", "-")
        self.toolsets = frozenset({self.toolset} if category in OPT_IN else {self.toolset, DEFAULT_TOOLSET})
        self.long = long
        self._quick = quick
        self.limits = limits or {}
        """What a call may have of something, by names of the tool's own; `capabilities://server` shows it."""
        self.annotations = {
            "title": title,
            "readOnlyHint": read_only,
            "destructiveHint": destructive,
            "idempotentHint": idempotent,
            "openWorldHint": False,
        }
        self.arguments_type = cast("type[ToolArguments]", hints["arguments"])
        self.input_schema = input_schema(self.arguments_type)
        self.output_schema = _output_schema(hints["return"], long)
        self._decoder = msgspec.json.Decoder(self.arguments_type)
        self._optional_texts = {
            field.name: field.default
            for field in msgspec.structs.fields(self.arguments_type)
            if not field.required and self.input_schema["properties"][field.name].get("type") == "string"
        }

    def describe(self) -> dict[str, Any]:
        """The tool as in `tools/list`."""
        return {
            "name": self.name,
            "title": self.title,
            "description": self.description,
            "inputSchema": self.input_schema,
            "outputSchema": self.output_schema,
            "annotations": self.annotations,
            "_meta": {"chora/category": self.category},
        }

    def decode_arguments(self, encoded: bytes | msgspec.Raw) -> ToolArguments:
        """Decode the arguments into the tool's Struct.

        Raises:
            InvalidInput: they don't fit; the details name the path and the expectation.
            LimitExceeded: they hold too many values.
        """
        try:
            check_json_structure(encoded)
            try:
                arguments = self._decoder.decode(encoded)
            except msgspec.ValidationError:
                given = msgspec.json.decode(encoded)
                if not isinstance(given, dict):
                    raise
                arguments = msgspec.convert(
                    relax_arguments(cast("dict[str, Any]", given), self.arguments_type), self.arguments_type
                )
        except TooManyValues as error:
            raise _too_many_values(f"The arguments of {self.name}", error) from None
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise self._explain(str(error)) from None
        for name, default in self._optional_texts.items():
            if getattr(arguments, name) == "":
                setattr(arguments, name, default)
        return arguments

    def _explain(self, problem: str) -> InvalidInput:
        """The error for arguments that don't fit: what is right at this place stands in its hint and details."""
        problem, _, path = problem.partition(" - at `")
        path = path.rstrip("`") or "$"
        at = schema_at(self.input_schema, path)
        details: dict[str, Any] = {}
        hint = f"The arguments are: {self.signature()}."
        if problem.startswith("Invalid enum value") and "enum" in at:
            details = {"allowed": at["enum"]}
            hint = f"{path.removeprefix('$.')} is one of {', '.join(map(str, at['enum']))}."
        elif problem.startswith("Object contains unknown field"):
            wrong, known = problem.partition("`")[2].rstrip("`"), list(at.get("properties", {}))
            nearest = find_nearest(wrong, known, 1)
            details = {"allowed": known}
            if path != "$":
                hint = f"{path.removeprefix('$.')} has: {', '.join(known)}."
            if nearest:
                hint = f"Did you mean {nearest[0]}? {hint}"
        return InvalidInput(
            f"The arguments of {self.name} don't fit at {path}: {problem}.",
            hint,
            tool=self.name,
            field=path,
            issue=problem,
            **details,
        )

    def signature(self) -> str:
        """The arguments on one line, required ones first: `content_config_id, [context], [force]`."""
        required = self.input_schema.get("required", [])
        optional = [f"[{name}]" for name in self.input_schema.get("properties", {}) if name not in required]
        return ", ".join([*required, *optional]) or "none"

    async def run_tool(self, engine: Engine, encoded: bytes | msgspec.Raw, call: Call) -> ToolAnswer:
        """Run the tool and encode its result; a failure is a result, too."""
        try:
            arguments = self.decode_arguments(encoded)
            # The command line waits without limit, and its end ends the work; so it needs no job.
            if (known := await self._answer_quickly(engine, arguments, call)) is not None:
                answer = known
                if engine.jobs.has_undelivered_results:
                    await engine.jobs.discard_result(self._key_of(_normalized_arguments(arguments), call))
            elif self.long and call.transport != "cli":
                answer = await self._run_as_job(engine, arguments, call)
            else:
                answer = await self._run_function(engine, arguments, call)
        except ChoraError as error:
            answer = _failure(error)
        return answer

    async def _answer_quickly(self, engine: Engine, arguments: ToolArguments, call: Call) -> ToolAnswer | None:
        """The result, if it takes no work; a job would cost more."""
        if self._quick is None:
            return None
        return await self._call_function(self._quick, engine, arguments, call)

    async def _run_function(self, engine: Engine, arguments: ToolArguments, call: Call) -> ToolAnswer:
        answer = await self._call_function(self.function, engine, arguments, call)
        assert answer is not None
        return answer

    async def _call_function(
        self,
        function: Callable[[Engine, Any, Call], Awaitable[ToolResult | None]],
        engine: Engine,
        arguments: ToolArguments,
        call: Call,
    ) -> ToolAnswer | None:
        try:
            try:
                result = await function(engine, arguments, call)
            except ChoraError as error:
                return _failure(error)  # outside this try, a result that can't be encoded is a bug
            if result is None:
                return None
            encoded, limit = _encode(result), engine.settings.limits.answer
            if len(encoded) > limit and call.transport != "cli":
                # What was done stays done; the sentence must not invite to do it again.
                error = answer_too_large(self.name, len(encoded), limit)
                if not self.read_only:
                    error.message += " The call was carried out."
                return _failure(error)
            return ToolAnswer(encoded, False, links=tuple(result.links()))
        except InputRequired:
            raise
        except Exception as error:  # a bug: the log gets the traceback, the caller an incident id (CWE-209)
            incident = Internal(error, where=self.name)
            log.exception("incident %s in %s", incident.incident, self.name)
            return ToolAnswer(_encode(incident.as_dict()), True, incident.code, CATEGORIES["internal"].exit_code)

    def _key_of(self, arguments: dict[str, Any], call: Call) -> str:
        """The key of a job: equal for equal calls."""
        return digest_of([self.name, arguments, call.principal.name])

    async def _run_as_job(self, engine: Engine, arguments: ToolArguments, call: Call) -> ToolAnswer:
        values = _normalized_arguments(arguments)

        async def work(report: Progress) -> ToolAnswer:
            return await self._run_function(engine, arguments, call._replace(progress=report))

        key = self._key_of(values, call)
        outcome = await engine.jobs.run_job(key, self.name, values, call.principal.name, work, call.progress)
        if isinstance(outcome, ToolAnswer):
            return outcome._replace(links=tuple(Link(*link) for link in outcome.links))  # lists, if they were stored
        progress = {name: value for name, value in outcome.job.progress.items() if name in ("done", "total", "message")}
        running = {
            "success": True,
            "status": "running",
            "job": outcome.job.job_id,
            "progress": progress,
            "hint": "The work goes on. Make the same call again to wait for it and get its result.",
        }
        return ToolAnswer(_encode(running), False, "running")


def _failure(error: ChoraError) -> ToolAnswer:
    # No error holds a secret by design; if one does all the same, it is redacted (CWE-532, CWE-209).
    body = redact(_encode(error.as_dict()).decode()).encode()
    return ToolAnswer(body, True, error.code, error.exit_code)


def _normalized_arguments(arguments: ToolArguments) -> dict[str, Any]:
    return {name: _normalize(value) for name, value in msgspec.structs.asdict(arguments).items()}


def _normalize(value: Any) -> Any:
    """An argument in the form it has if it isn't sent as a string."""
    if isinstance(value, str) and value.lstrip()[:1] == "{":
        with contextlib.suppress(msgspec.DecodeError):
            return decode_json(value)
    return None if value in ("", {}, False) else value


def tool(
    *,
    title: str,
    category: Category,
    read_only: bool = False,
    destructive: bool = False,
    idempotent: bool = False,
    long: bool = False,
    scope: Scope | None = None,
    quick: Callable[[Engine, Any, Call], Awaitable[ToolResult | None]] | None = None,
    limits: Mapping[str, int] | None = None,
) -> Callable[[Callable[[Engine, Any, Call], Awaitable[ToolResult]]], Tool]:
    """Make a function a tool; the flags become its annotations.

    A `long` tool may outlive its call as a job. `scope` is the required scope of a token; by default `read` for a
    read-only tool and `write` for others. `quick` returns the result if it takes no work, else None.
    """

    def make(function: Callable[[Engine, Any, Call], Awaitable[ToolResult]]) -> Tool:
        return Tool(
            function,
            title=title,
            category=category,
            read_only=read_only,
            destructive=destructive,
            idempotent=idempotent,
            long=long,
            scope=scope,
            quick=quick,
            limits=limits,
        )

    return make


def _output_schema(result: type[Struct], long: bool) -> dict[str, Any]:
    """The schema of what a call may return: its result, the running job, or a failure, which some clients check."""
    success = object_schema(result)
    success["required"] = ["success", *success["required"]]
    return {"type": "object", "anyOf": [success, *([RUNNING_SCHEMA] if long else []), FAILURE_SCHEMA]}


def truncate_text(text: str, call: Call, uri: str | None = None) -> TextHead:
    """Truncate a text that is too long for a result; the command line always gets the whole text.

    Args:
        text: the whole text.
        call: the call, for its transport.
        uri: the resource with the whole text, if there is one.
    """
    # A character has at most four bytes in UTF-8 (RFC 3629), so most texts needn't be encoded to know that they fit.
    limit = WHOLE_LIMIT if uri is None else HEAD_LIMIT
    if call.transport == "cli" or len(text) <= limit // 4 or len(data := text.encode()) <= limit:
        return TextHead(text, False, len(text), None)
    return TextHead(data[:limit].decode(errors="ignore"), True, len(text), uri)


def parse_context(value: Any) -> dict[str, Any]:
    """Parse a context argument into an object; what a form sends for an empty field is `{}`.

    Raises:
        InvalidContext: as `parse_object`, or it is nested too deeply.
    """
    context = {} if is_unset(value) else parse_object(value, "context")
    if is_too_deep(context):
        raise InvalidContext(
            f"context is nested more than {DEPTH_LIMIT} levels deep.",
            "Pass it in fewer levels.",
            parameter="context",
            received_type="object",
            expected_type="object",
        )
    return context


def parse_object(value: Any, parameter: str) -> dict[str, Any]:
    """Parse an argument into an object: an object is unchanged, a JSON string parsed, nothing and null are `{}`.

    Raises:
        InvalidContext: it is something else, or a string that isn't the JSON of an object.
        LimitExceeded: it holds too many values.
    """
    if isinstance(value, str):
        try:
            value = decode_json(value) if value.strip() else None
        except TooManyValues as error:
            raise _too_many_values(parameter, error) from None
        except msgspec.DecodeError as error:
            raise InvalidContext(
                f"{parameter} is a string that is not JSON: {error}.",
                "Pass an object, or a string holding the JSON of one.",
                parameter=parameter,
                received_type="string",
                expected_type="object",
                parse_error=str(error),
                received=value[:100],
            ) from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        kind = json_type(value)
        raise InvalidContext(
            f"{parameter} is of type {kind}, not an object.",
            'Pass an object such as {"name": "value"}.',
            parameter=parameter,
            received_type=kind,
            expected_type="object",
        )
    return cast("dict[str, Any]", value)


def _too_many_values(what: str, error: TooManyValues) -> LimitExceeded:
    return LimitExceeded(
        f"{what} can't be decoded: {error}.",
        "Put the data into a file, and name it as a source.",
        limit="arguments.values",
    )


def milliseconds_since(started: float) -> int:
    """Whole milliseconds since a `time.monotonic()`."""
    return round((time.monotonic() - started) * 1000)
