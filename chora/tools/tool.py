"""What a tool is: a function whose annotations say everything an agent must know.

    @tool(title="Say hello", category="Utility", read_only=True)
    async def hello_world(engine: Engine, ask: HelloWorld, call: Call) -> Hello:
        '''Answers with a greeting …'''

The name, the docstring and the two Structs become name, description, input and output schema. `Tool.run` decodes
the arguments, runs the function and encodes the answer; every way of calling a tool goes through it.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, Literal, NamedTuple, cast, get_type_hints

import msgspec
from msgspec import Meta, Struct

from chora.access import Scope
from chora.engine.build.context import json_type
from chora.engine.engine import Engine
from chora.errors import CATEGORIES, ChoraError, Internal, InvalidContext, InvalidInput
from chora.hashing import digest_of
from chora.nesting import DEPTH_LIMIT, check_json_depth, decode_json, is_too_deep
from chora.protocol.types import Call, InputRequired, Link, Progress, ToolAnswer
from chora.secrets import redact

log = logging.getLogger("chora.tools")

Category = Literal[
    "Core generation", "Config lifecycle", "Storage", "Discovery", "Validation", "Collections", "Utility"
]

Context = Annotated[
    Any,
    Meta(
        description="Variables for the templates: an object, or the same as a JSON string",
        extra_json_schema={"type": ["object", "string", "null"]},
    ),
]
"""A context as clients send it: some can only send objects as strings."""


HEAD_LIMIT = 256 * 1024
"""Bytes of a text that an answer holds; of a longer one the head, and a link to the rest."""


class ToolArguments(Struct, forbid_unknown_fields=True):
    """The arguments of a tool."""


class ToolResult(Struct, kw_only=True):
    """What a tool answers when it succeeds."""

    success: Literal[True] = True

    def links(self) -> Sequence[Link]:
        """The resources it points to."""
        return ()


class LongText(ToolResult, kw_only=True):
    """An answer that holds a text of any length: `head_of` gives what belongs into these fields."""

    truncated: bool = False
    content_length: int
    resource: str | None = None

    def links(self) -> Sequence[Link]:
        return () if self.resource is None else (Link(self.resource, self.resource.partition("://")[2]),)


class Head(NamedTuple):
    """What an answer holds of a text."""

    text: str
    truncated: bool
    length: int
    """Of the whole text, in characters."""
    resource: str | None
    """Where the whole text can be read, when this isn't all of it."""


FAILURE_SCHEMA: dict[str, Any] = {
    "title": "Failure",
    "type": "object",
    "properties": {
        "success": {"const": False},
        "error": {
            "type": "object",
            "properties": {
                "code": {"type": "string"},
                "message": {"type": "string"},
                "hint": {"type": ["string", "null"]},
                "details": {"type": "object"},
            },
            "required": ["code", "message", "details"],
        },
    },
    "required": ["success", "error"],
}

RUNNING_SCHEMA: dict[str, Any] = {
    "title": "Running",
    "type": "object",
    "properties": {
        "success": {"const": True},
        "status": {"const": "running"},
        "job": {"type": "string"},
        "progress": {"type": "object"},
        "hint": {"type": "string"},
    },
    "required": ["success", "status", "job", "progress"],
}
"""What a call answers whose work goes on: the same call again joins it or gets its result."""

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
        self.long = long
        self._quick = quick
        self.annotations = {
            "title": title,
            "readOnlyHint": read_only,
            "destructiveHint": destructive,
            "idempotentHint": idempotent,
            "openWorldHint": False,
        }
        self.ask = cast("type[ToolArguments]", hints["ask"])
        self.input_schema = object_schema(self.ask)
        self.output_schema = _answer_schema(hints["return"], long)
        self._decoder = msgspec.json.Decoder(self.ask)

    def describe(self) -> dict[str, Any]:
        """The tool as `tools/list` shows it."""
        return {
            "name": self.name,
            "title": self.title,
            "description": self.description,
            "inputSchema": self.input_schema,
            "outputSchema": self.output_schema,
            "annotations": self.annotations,
            "_meta": {"chora/category": self.category},
        }

    def decode(self, arguments: bytes | msgspec.Raw) -> ToolArguments:
        """The arguments as the tool's Struct.

        Raises:
            InvalidInput: they don't fit; the details name the path and what was expected.
        """
        try:
            check_json_depth(arguments)
            try:
                return self._decoder.decode(arguments)
            except msgspec.ValidationError:
                if (unpacked := _unpacked(arguments)) is None:
                    raise
                return self._decoder.decode(unpacked)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            problem, _, path = str(error).partition(" - at `")
            path = path.rstrip("`") or "$"
            raise InvalidInput(
                f"The arguments of {self.name} don't fit at {path}: {problem}.",
                f"The arguments are: {self.signature()}.",
                tool=self.name,
                field=path,
                issue=problem,
            ) from None

    def signature(self) -> str:
        """The arguments on one line, required ones first: `content_config_id, [context], [force]`."""
        required = self.input_schema.get("required", [])
        optional = [f"[{name}]" for name in self.input_schema.get("properties", {}) if name not in required]
        return ", ".join([*required, *optional]) or "none"

    async def run(self, engine: Engine, arguments: bytes | msgspec.Raw, call: Call) -> ToolAnswer:
        """Run the tool and encode what it answers; a failure is an answer too."""
        started = time.perf_counter()
        try:
            ask = self.decode(arguments)
            # The command line waits as long as it takes, and ends the work by ending itself.
            if (known := await self._recall(engine, ask, call)) is not None:
                answer = known
                if engine.jobs.has_results:
                    await engine.jobs.give_up_result(self._key_of(_arguments_of(ask), call))
            elif self.long and call.transport != "cli":
                answer = await self._run_as_job(engine, ask, call)
            else:
                answer = await self._do(engine, ask, call)
        except ChoraError as error:
            answer = _failure(error)
        level = logging.DEBUG if call.routine else logging.INFO
        elapsed = (time.perf_counter() - started) * 1000
        log.log(level, "%s %s %s %.1f ms", call.transport, self.name, answer.code, elapsed)
        return answer

    async def _recall(self, engine: Engine, ask: ToolArguments, call: Call) -> ToolAnswer | None:
        """The answer if it can be had without any work; a job of its own would cost more than that."""
        if self._quick is None:
            return None
        return await self._attempt(self._quick, engine, ask, call)

    async def _do(self, engine: Engine, ask: ToolArguments, call: Call) -> ToolAnswer:
        answer = await self._attempt(self.function, engine, ask, call)
        assert answer is not None
        return answer

    async def _attempt(
        self,
        function: Callable[[Engine, Any, Call], Awaitable[ToolResult | None]],
        engine: Engine,
        ask: ToolArguments,
        call: Call,
    ) -> ToolAnswer | None:
        try:
            try:
                result = await function(engine, ask, call)
            except ChoraError as error:
                return _failure(error)  # what can't be encoded is a bug too
            return None if result is None else ToolAnswer(_encode(result), False, links=tuple(result.links()))
        except InputRequired:
            raise
        except Exception as error:  # a bug: told to the log in full, and to the caller as an id
            incident = Internal(error, where=self.name)
            log.exception("incident %s in %s", incident.incident, self.name)
            return ToolAnswer(_encode(incident.as_dict()), True, incident.code, CATEGORIES["internal"].exit_code)

    def _key_of(self, arguments: dict[str, Any], call: Call) -> str:
        """Tells the same call from another."""
        return digest_of([self.name, arguments, call.principal])

    async def _run_as_job(self, engine: Engine, ask: ToolArguments, call: Call) -> ToolAnswer:
        arguments = _arguments_of(ask)

        async def work(report: Progress) -> ToolAnswer:
            return await self._do(engine, ask, call._replace(progress=report))

        key = self._key_of(arguments, call)
        outcome = await engine.jobs.run(key, self.name, arguments, call.principal, work, call.progress)
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


def _unpacked(arguments: bytes | msgspec.Raw) -> bytes | None:
    """The arguments with objects and lists in the place of strings that hold their JSON; None if there are none.

    Some clients can send nothing but strings.
    """
    given = msgspec.json.decode(arguments)
    if not isinstance(given, dict):
        return None
    found: dict[str, Any] = {}
    for name, value in cast("dict[str, Any]", given).items():
        if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
            with contextlib.suppress(msgspec.DecodeError):
                found[name] = decode_json(value)
    return _encode({**given, **found}) if found else None


def _failure(error: ChoraError) -> ToolAnswer:
    # Nothing that fails knows a secret; should one get into a message all the same, it doesn't leave the house.
    body = redact(_encode(error.as_dict()).decode()).encode()
    return ToolAnswer(body, True, error.code, error.exit_code)


def _arguments_of(ask: ToolArguments) -> dict[str, Any]:
    return {name: _normalised(value) for name, value in msgspec.structs.asdict(ask).items()}


def _normalised(value: Any) -> Any:
    """An argument as it would be had it not been sent as a string."""
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
) -> Callable[[Callable[[Engine, Any, Call], Awaitable[ToolResult]]], Tool]:
    """Make a function a tool; the flags become its annotations.

    A long one may outlive its call as a job. `scope` is what a token needs, where that isn't `read` for a tool that
    changes nothing and `write` for any other; `quick` gives its answer when that takes no work, else None.
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
        )

    return make


def object_schema(struct: type[Struct]) -> dict[str, Any]:
    """The JSON Schema of a Struct with `type: object` at its root, as MCP wants it.

    msgspec puts a `$ref` there, and its docstrings as descriptions, which say nothing to a model.
    """
    (root,), components = msgspec.json.schema_components([struct], ref_template="#/$defs/{name}")
    name = root["$ref"].rpartition("/")[2]
    schema = {key: value for key, value in components.pop(name).items() if key != "description"}
    if components:
        schema["$defs"] = {
            key: {field: value for field, value in each.items() if field != "description"}
            for key, each in components.items()
        }
    return schema


def _answer_schema(result: type[Struct], long: bool) -> dict[str, Any]:
    """What a call may answer: the result, that it is running, or a failure. Some clients check failures too."""
    success = object_schema(result)
    definitions = success.pop("$defs", None)  # references are resolved from the root
    success["required"] = ["success", *success["required"]]
    answer: dict[str, Any] = {"type": "object", "anyOf": [success, *([RUNNING_SCHEMA] if long else []), FAILURE_SCHEMA]}
    return answer | {"$defs": definitions} if definitions else answer


def head_of(text: str, call: Call, uri: str | None = None) -> Head:
    """The text, or its head when it is too long for an answer; the command line always gets all of it.

    Args:
        text: all of it.
        call: who asks.
        uri: where all of it can be read, if it can.
    """
    # No character has more than four bytes, so most texts needn't be encoded to know that they fit.
    if call.transport == "cli" or len(text) <= HEAD_LIMIT // 4 or len(data := text.encode()) <= HEAD_LIMIT:
        return Head(text, False, len(text), None)
    return Head(data[:HEAD_LIMIT].decode(errors="ignore"), True, len(text), uri)


def context_of(value: Any) -> dict[str, Any]:
    """A context argument as an object.

    Raises:
        InvalidContext: as `object_of`, or it is nested too deeply.
    """
    context = object_of(value, "context")
    if is_too_deep(context):
        raise InvalidContext(
            f"context is nested more than {DEPTH_LIMIT} levels deep.",
            "Pass it in fewer levels.",
            parameter="context",
            received_type="object",
            expected_type="object",
        )
    return context


def object_of(value: Any, parameter: str) -> dict[str, Any]:
    """An argument as an object: an object as it is, a JSON string parsed, nothing and null as `{}`.

    Raises:
        InvalidContext: it is something else, or a string that isn't an object's JSON.
    """
    if isinstance(value, str):
        try:
            value = decode_json(value) if value.strip() else None
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


def milliseconds_since(started: float) -> int:
    """Whole milliseconds since a `time.monotonic()`."""
    return round((time.monotonic() - started) * 1000)
