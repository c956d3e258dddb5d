"""The fixtures of the conformance suite, served by chora's own protocol server over its own transports.

    python -m tests.contract.fixture_server [--port 8000 | --stdio]

The suite's scenarios name the tools, resources and prompts, and what each must do. Each use is counted, so that the
runner can tell a real pass from one without a call.
"""

from __future__ import annotations

import argparse
import base64
import struct
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import msgspec
import trio

from chora import settings
from chora.access import Authenticator, Scope
from chora.errors import ResourceNotFound
from chora.metrics import Metrics
from chora.protocol.broadcast import ListName
from chora.protocol.requesting_client import NoAnswer, Question, RequestingClient
from chora.protocol.server import McpServer
from chora.protocol.types import Call, Resource, ResourceContents, ResourcePage, ToolAnswer
from chora.transport import stdio
from chora.transport.http import HttpApplication
from chora.transport.listener import make_http_server, start_listening
from chora.transport.pipes import Pipes, take_stdio

PAUSE = 0.05
"""Seconds between two messages of a fixture."""

Block = dict[str, Any]
Run = Callable[["Fixture", RequestingClient, dict[str, Any]], Awaitable[list[Block]]]


class Failure(Exception):
    """A fixture that fails on purpose, with the message of its answer."""


class Fixtures(NamedTuple):
    """A server of fixtures that listens, and how often each fixture was used, by name or URI."""

    url: str
    calls: Counter[str]


class Fixture(NamedTuple):
    """One tool."""

    name: str
    description: str
    schema: dict[str, Any]
    run: Run
    scope: Scope = "read"

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "description": self.description, "inputSchema": self.schema}


TOOLS: dict[str, Fixture] = {}


def tool(description: str, **schema: Any) -> Callable[[Run], Run]:
    """Register a tool under the name of its function; it takes no arguments unless a schema says so."""

    def shelve(run: Run) -> Run:
        name = run.__name__
        TOOLS[name] = Fixture(name, description, {"type": "object", "properties": {}, **schema}, run)
        return run

    return shelve


# -- content ----------------------------------------------------------------------------------------------------


def text(said: str) -> Block:
    return {"type": "text", "text": said}


def embedded(uri: str, mime_type: str, said: str) -> Block:
    return {"type": "resource", "resource": {"uri": uri, "mimeType": mime_type, "text": said}}


def red_dot() -> bytes:
    """A picture of one red pixel, PNG."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0\xff\0\0"))
        + chunk(b"IEND", b"")
    )


def silence() -> bytes:
    """A moment of silence, WAV: ten samples of 8 bits at 8 kHz."""
    body = b"\x80" * 10
    form = struct.pack("<HHIIHH", 1, 1, 8000, 8000, 1, 8)
    chunks = b"fmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


PICTURE: Block = {"type": "image", "data": base64.b64encode(red_dot()).decode(), "mimeType": "image/png"}
SOUND: Block = {"type": "audio", "data": base64.b64encode(silence()).decode(), "mimeType": "audio/wav"}


@tool("Answers with a text")
async def test_simple_text(fixture: Fixture, client: RequestingClient, arguments: dict[str, Any]) -> list[Block]:
    return [text("This is a simple text response for testing.")]


@tool("Answers with a picture")
async def test_image_content(fixture: Fixture, client: RequestingClient, arguments: dict[str, Any]) -> list[Block]:
    return [PICTURE]


@tool("Answers with a sound")
async def test_audio_content(fixture: Fixture, client: RequestingClient, arguments: dict[str, Any]) -> list[Block]:
    return [SOUND]


@tool("Answers with a resource")
async def test_embedded_resource(fixture: Fixture, client: RequestingClient, arguments: dict[str, Any]) -> list[Block]:
    return [embedded("test://embedded-resource", "text/plain", "This is an embedded resource content.")]


@tool("Answers with a text, a picture and a resource")
async def test_multiple_content_types(
    fixture: Fixture, client: RequestingClient, arguments: dict[str, Any]
) -> list[Block]:
    data = embedded("test://mixed-content-resource", "application/json", '{"test":"data","value":123}')
    return [text("Multiple content types test:"), PICTURE, data]


@tool("Fails")
async def test_error_handling(fixture: Fixture, client: RequestingClient, arguments: dict[str, Any]) -> list[Block]:
    raise Failure("This tool intentionally returns an error for testing")


@tool(
    "Has a schema of many words",
    **{
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$defs": {
            "address": {
                "$anchor": "addressDef",
                "type": "object",
                "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
            }
        },
        "properties": {
            "name": {"type": "string"},
            "address": {"$ref": "#/$defs/address"},
            "contactMethod": {"type": "string", "enum": ["phone", "email"]},
            "phone": {"type": "string"},
            "email": {"type": "string"},
        },
        "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
        "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
        "then": {"required": ["phone"]},
        "else": {"required": ["email"]},
        "additionalProperties": False,
    },
)
async def json_schema_2020_12_tool(
    fixture: Fixture, client: RequestingClient, arguments: dict[str, Any]
) -> list[Block]:
    return [text(f"Called with {', '.join(sorted(arguments)) or 'nothing'}")]


@tool(
    "Wants an argument repeated in a header",
    properties={"region": {"type": "string", "x-mcp-header": "Region"}},
    required=["region"],
)
async def test_x_mcp_header(fixture: Fixture, client: RequestingClient, arguments: dict[str, Any]) -> list[Block]:
    return [text(f"Region: {arguments['region']}")]


# -- telling ----------------------------------------------------------------------------------------------------


@tool("Says in the log how it goes")
async def test_tool_with_logging(fixture: Fixture, client: RequestingClient, arguments: dict[str, Any]) -> list[Block]:
    for said in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        client.queue_log_message("info", said, fixture.name)
        await trio.sleep(PAUSE)
    return [text("Tool with logging executed successfully")]


@tool("Says something in the log, if it is wanted")
async def test_logging_tool(fixture: Fixture, client: RequestingClient, arguments: dict[str, Any]) -> list[Block]:
    client.queue_log_message("info", "Looking", fixture.name)
    return [text("Looked")]


@tool("Tells how far it is")
async def test_tool_with_progress(fixture: Fixture, client: RequestingClient, arguments: dict[str, Any]) -> list[Block]:
    for done in (0, 50, 100):
        if client.progress is not None:
            await client.progress(done, 100, f"Completed step {done} of 100")
        await trio.sleep(PAUSE)
    return [text("Tool with progress executed successfully")]


@tool("Drops the connection before it is done; its answer comes on the resumed stream")
async def test_reconnection(fixture: Fixture, client: RequestingClient, arguments: dict[str, Any]) -> list[Block]:
    await client.drop_connection(PAUSE)
    await trio.sleep(4 * PAUSE)
    return [text("The connection was dropped, and this came later")]


# -- asking -----------------------------------------------------------------------------------------------------


def form(message: str, required: Sequence[str] = (), **properties: Any) -> Question:
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    return Question("elicitation/create", {"message": message, "requestedSchema": schema | {"required": [*required]}})


def completion(prompt: str, tokens: int) -> Question:
    messages = [{"role": "user", "content": text(prompt)}]
    return Question("sampling/createMessage", {"messages": messages, "maxTokens": tokens})


ROOTS = Question("roots/list", {})
NAME = form("What is your name?", ["name"], name={"type": "string"})
CONFIRM = form("Please confirm", ["ok"], ok={"type": "boolean"})


def shown(answer: dict[str, Any]) -> str:
    """What a person or a model answered, in short."""
    if "action" in answer:
        return f"action={answer['action']}, content={msgspec.json.encode(answer.get('content')).decode()}"
    return msgspec.json.encode(answer.get("content", answer.get("roots"))).decode()


async def asked(client: RequestingClient, questions: Mapping[str, Question], state: Any = None) -> str:
    """The answers to all questions, in short."""
    answers = await client.ask_client(questions, state)
    return "; ".join(f"{name}: {shown(answer)}" for name, answer in answers.items())


@tool("Asks the client's model", properties={"prompt": {"type": "string"}}, required=["prompt"])
async def test_sampling(fixture: Fixture, client: RequestingClient, arguments: dict[str, Any]) -> list[Block]:
    return [text(f"LLM response: {await asked(client, {'answer': completion(arguments['prompt'], 100)})}")]


@tool("Asks the person at the client", properties={"message": {"type": "string"}}, required=["message"])
async def test_elicitation(fixture: Fixture, client: RequestingClient, arguments: dict[str, Any]) -> list[Block]:
    question = form(
        arguments["message"],
        ["username", "email"],
        username={"type": "string", "description": "User's response"},
        email={"type": "string", "description": "User's email address"},
    )
    return [text(f"User response: {await asked(client, {'user': question})}")]


@tool("Asks with a form that is filled in already")
async def test_elicitation_sep1034_defaults(
    fixture: Fixture, client: RequestingClient, arguments: dict[str, Any]
) -> list[Block]:
    question = form(
        "Review what is filled in",
        name={"type": "string", "default": "John Doe"},
        age={"type": "integer", "default": 30},
        score={"type": "number", "default": 95.5},
        status={"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        verified={"type": "boolean", "default": True},
    )
    return [text(f"Elicitation completed: {await asked(client, {'form': question})}")]


def titled(*titles: str) -> list[dict[str, str]]:
    return [{"const": f"value{number}", "title": title} for number, title in enumerate(titles, 1)]


@tool("Asks with every kind of choice")
async def test_elicitation_sep1330_enums(
    fixture: Fixture, client: RequestingClient, arguments: dict[str, Any]
) -> list[Block]:
    options = ["option1", "option2", "option3"]
    names = {"enum": ["opt1", "opt2", "opt3"], "enumNames": ["Option One", "Option Two", "Option Three"]}
    question = form(
        "Choose",
        untitledSingle={"type": "string", "enum": options},
        titledSingle={"type": "string", "oneOf": titled("First Option", "Second Option", "Third Option")},
        legacyEnum={"type": "string", **names},
        untitledMulti={"type": "array", "items": {"type": "string", "enum": options}},
        titledMulti={"type": "array", "items": {"anyOf": titled("First Choice", "Second Choice", "Third Choice")}},
    )
    return [text(f"Elicitation completed: {await asked(client, {'form': question})}")]


@tool("Needs a client with a model")
async def test_missing_capability(fixture: Fixture, client: RequestingClient, arguments: dict[str, Any]) -> list[Block]:
    return [text(await asked(client, {"answer": completion("Anything", 10)}))]


@tool("Tells how far it is, and asks if it may")
async def test_streaming_elicitation(
    fixture: Fixture, client: RequestingClient, arguments: dict[str, Any]
) -> list[Block]:
    if client.progress is not None:
        await client.progress(1, 2, "Half")
    if client.supports("elicitation/create"):
        return [text(await asked(client, {"user_name": NAME}))]
    return [text("Nobody can be asked")]


@tool("Asks for a name, and is called again with it")
async def test_input_required_result_elicitation(
    fixture: Fixture, client: RequestingClient, arguments: dict[str, Any]
) -> list[Block]:
    answers = await client.ask_client({"user_name": NAME})
    return [text(f"Hello, {answers['user_name'].get('content', {}).get('name', 'stranger')}!")]


@tool("Asks the client's model, and is called again with what it says")
async def test_input_required_result_sampling(
    fixture: Fixture, client: RequestingClient, arguments: dict[str, Any]
) -> list[Block]:
    return [text(await asked(client, {"capital_question": completion("What is the capital of France?", 100)}))]


@tool("Asks for the client's roots, and is called again with them")
async def test_input_required_result_list_roots(
    fixture: Fixture, client: RequestingClient, arguments: dict[str, Any]
) -> list[Block]:
    return [text(await asked(client, {"client_roots": ROOTS}))]


@tool("Asks, and gets back what it knew then")
async def test_input_required_result_request_state(
    fixture: Fixture, client: RequestingClient, arguments: dict[str, Any]
) -> list[Block]:
    said = await asked(client, {"confirm": CONFIRM}, {"asked": "confirm"})
    if client.state != {"asked": "confirm"}:
        raise Failure(f"The state didn't come back: {client.state!r}")
    return [text(f"state-ok: {said}")]


@tool("Asks, and takes no other state back than the one it gave")
async def test_input_required_result_tampered_state(
    fixture: Fixture, client: RequestingClient, arguments: dict[str, Any]
) -> list[Block]:
    return [text(f"integrity-ok: {await asked(client, {'confirm': CONFIRM}, {'asked': 'confirm'})}")]


@tool("Asks a person, a model and a client at once")
async def test_input_required_result_multiple_inputs(
    fixture: Fixture, client: RequestingClient, arguments: dict[str, Any]
) -> list[Block]:
    questions = {"user_name": NAME, "greeting": completion("Generate a greeting", 50), "client_roots": ROOTS}
    return [text(await asked(client, questions, {"asked": sorted(questions)}))]


@tool("Asks twice, the second time knowing the first answer")
async def test_input_required_result_multi_round(
    fixture: Fixture, client: RequestingClient, arguments: dict[str, Any]
) -> list[Block]:
    known = client.state or {"step": 1}
    if known["step"] == 1:
        first = await client.ask_client(
            {"step1": form("Step 1: What is your name?", ["name"], name={"type": "string"})}, known
        )
        known = {"step": 2, "name": first["step1"].get("content", {}).get("name")}
    color = form("Step 2: What is your favorite color?", ["color"], color={"type": "string"})
    second = await client.ask_client({"step2": color}, known)
    return [text(f"{known['name']} likes {second['step2'].get('content', {}).get('color')}")]


@tool("Asks for what the client can be asked for, and nothing else")
async def test_input_required_result_capabilities(
    fixture: Fixture, client: RequestingClient, arguments: dict[str, Any]
) -> list[Block]:
    questions = {"elicit_input": NAME, "sample_input": completion("Sample request", 50), "client_roots": ROOTS}
    possible = {name: question for name, question in questions.items() if client.supports(question.method)}
    return [text(await asked(client, possible) if possible else "Nobody can be asked")]


# -- what changes -----------------------------------------------------------------------------------------------

TRIGGERS: dict[str, ListName] = {"test_trigger_tool_change": "tools", "test_trigger_prompt_change": "prompts"}


@tool("Says that the list of tools changed")
async def test_trigger_tool_change(
    fixture: Fixture, client: RequestingClient, arguments: dict[str, Any]
) -> list[Block]:
    return [text("Mutation triggered")]


@tool("Says that the list of prompts changed")
async def test_trigger_prompt_change(
    fixture: Fixture, client: RequestingClient, arguments: dict[str, Any]
) -> list[Block]:
    return [text("Mutation triggered")]


# -- resources and prompts --------------------------------------------------------------------------------------

TEMPLATE = "test://template/{id}/data"


class FixtureResources:
    """The resources of the suite."""

    def __init__(self, calls: Counter[str]) -> None:
        self._calls = calls
        self._fixed = {
            "test://static-text": ResourceContents(
                "This is the content of the static text resource.", "text/plain", fixed=True
            ),
            "test://static-binary": ResourceContents(red_dot(), "image/png", fixed=True),
            "test://watched-resource": ResourceContents("Watched resource content", "text/plain"),
        }

    def list_resources(self, cursor: str | None) -> ResourcePage:
        listed = [
            Resource(uri, uri.removeprefix("test://"), "For the conformance suite", contents.mime_type)
            for uri, contents in self._fixed.items()
        ]
        return ResourcePage(listed, None)

    def list_templates(self) -> Sequence[dict[str, Any]]:
        return [{"uriTemplate": TEMPLATE, "name": "template", "mimeType": "application/json"}]

    def read_resource(self, uri: str) -> ResourceContents:
        self._calls[uri] += 1
        if (contents := self._fixed.get(uri)) is not None:
            return contents
        before, after = TEMPLATE.split("{id}")
        id = uri.removeprefix(before).removesuffix(after)
        if uri != before + id + after:
            raise ResourceNotFound(f"There is no resource {uri}.", "resources/list names them all.")
        body = {"id": id, "templateTest": True, "data": f"Data for ID: {id}"}
        return ResourceContents(msgspec.json.encode(body).decode(), "application/json")

    def canonical_uri(self, uri: str) -> str:
        self._calls[uri] += 1
        if uri not in self._fixed:
            raise ResourceNotFound(f"There is no resource {uri}.", "resources/list names them all.")
        return uri

    def complete(self, template: str, parameter: str, arguments: dict[str, str], typed: str = "") -> Sequence[str]:
        return ()


class FixturePrompts:
    """The prompts of the suite."""

    ARGUMENTS: Mapping[str, Sequence[str]] = {
        "test_simple_prompt": (),
        "test_prompt_with_arguments": ("arg1", "arg2"),
        "test_prompt_with_embedded_resource": ("resourceUri",),
        "test_prompt_with_image": (),
        "test_input_required_result_prompt": (),
    }

    def __init__(self, calls: Counter[str]) -> None:
        self._calls = calls

    def list_prompts(self) -> Sequence[dict[str, Any]]:
        return [
            {
                "name": name,
                "description": "For the conformance suite",
                "arguments": [{"name": each, "description": "A text", "required": True} for each in arguments],
            }
            for name, arguments in self.ARGUMENTS.items()
        ]

    def get_prompt(
        self, name: str, arguments: dict[str, str], client: RequestingClient
    ) -> tuple[str, list[dict[str, Any]]]:
        self._calls[name] += 1
        if name == "test_simple_prompt":
            blocks = [text("This is a simple prompt for testing.")]
        elif name == "test_prompt_with_arguments":
            blocks = [text(f"Prompt with arguments: arg1='{arguments['arg1']}', arg2='{arguments['arg2']}'")]
        elif name == "test_prompt_with_embedded_resource":
            resource = embedded(arguments["resourceUri"], "text/plain", "Embedded resource content for testing.")
            blocks = [resource, text("Please process the embedded resource above.")]
        elif name == "test_prompt_with_image":
            blocks = [PICTURE, text("Please analyze the image above.")]
        elif name == "test_input_required_result_prompt":
            question = form("What context should the prompt use?", ["context"], context={"type": "string"})
            blocks = [
                text(f"In this context: {shown(client.require_answers({'user_context': question})['user_context'])}")
            ]
        else:
            raise ResourceNotFound(f"There is no prompt {name}.", "prompts/list names them all.")
        return "For the conformance suite", [{"role": "user", "content": block} for block in blocks]

    def complete(self, name: str, argument: str, typed: str = "") -> Sequence[str]:
        self._calls["completion/complete"] += 1
        return ("paris", "park", "party")


# -- the server -------------------------------------------------------------------------------------------------


class FixtureProvider:
    """Everything that the suite calls for."""

    instructions = "For the conformance suite of MCP."
    withheld: Mapping[str, str] = {}

    def __init__(self, list_changed: Callable[[ListName], None]) -> None:
        self.calls = Counter[str]()
        self.tools = TOOLS
        self.resources = FixtureResources(self.calls)
        self.prompts = FixturePrompts(self.calls)
        self._list_changed = list_changed

    async def call_tool(self, name: str, arguments: bytes | msgspec.Raw, call: Call) -> ToolAnswer:
        self.calls[name] += 1
        fixture = self.tools[name]
        if name in TRIGGERS:
            self._list_changed(TRIGGERS[name])
        try:
            given = msgspec.json.decode(arguments, type=dict[str, Any])
            content = await fixture.run(fixture, cast("RequestingClient", call.client), given)
        except (Failure, NoAnswer, msgspec.ValidationError) as error:
            return ToolAnswer(b"{}", True, "failed", content=[text(str(error))])
        return ToolAnswer(b"{}", False, content=content)

    def dependent_changes(self, uri: str) -> tuple[Iterable[str], bool]:
        return (), False


async def no_pages(scope: Any, receive: Any, send: Any) -> None:
    """The app for all other paths: 404."""
    await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


async def serve_http(
    server: McpServer, *, port: int = 0, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve over HTTP, on loopback, until cancelled; `started` gets the URL."""
    http, limits = settings.HttpSettings(port=port), settings.LimitSettings(grace=1.0)
    application = HttpApplication(server, Authenticator(http.host, None), http, limits, no_pages, Metrics())
    http_server = make_http_server(application, http, limits)
    async with trio.open_nursery() as nursery:
        url = await start_listening(nursery, http_server, http)
        await nursery.start(application.serve, http_server.draining)
        task_status.started(url)
        await trio.sleep_forever()


def make_server() -> tuple[FixtureProvider, McpServer]:
    """The fixtures, and a server of them, which some of the fixtures notify."""
    provider = FixtureProvider(lambda name: server.notify_list_changed(name))
    server = McpServer(provider, Metrics(), name="fixtures")
    return provider, server


async def serve(*, port: int = 0, task_status: trio.TaskStatus[Fixtures] = trio.TASK_STATUS_IGNORED) -> None:
    """Serve the fixtures over HTTP until cancelled."""
    provider, server = make_server()
    async with trio.open_nursery() as nursery:
        url: str = await nursery.start(partial(serve_http, server, port=port))
        task_status.started(Fixtures(url, provider.calls))


async def serve_stdio(pipes: Pipes, calls: Path | None) -> None:
    """Serve the fixtures on stdin and stdout until the client ends, then add to a file what was used, a JSON line."""
    provider, server = make_server()
    await stdio.serve(server, pipes, limit=settings.LimitSettings().body, grace=1.0, stopping=trio.Event())
    if calls is not None:
        with calls.open("ab") as file:
            file.write(msgspec.json.encode(provider.calls) + b"\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--port", type=int, default=8000, help="TCP port on loopback")
    parser.add_argument("--stdio", action="store_true", help="stdin and stdout instead")
    parser.add_argument("--calls", type=Path, help="with --stdio, a file to append the calls to")
    given = parser.parse_args()
    if given.stdio:
        trio.run(serve_stdio, take_stdio(), given.calls)
        return

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            fixtures: Fixtures = await nursery.start(partial(serve, port=given.port))
            print(f"The fixtures are at {fixtures.url}/mcp. Ctrl-C ends it.", flush=True)

    trio.run(run)


if __name__ == "__main__":
    main()
