"""Raw conversations with the product, and the checks of them: what neither the conformance suite nor a client looks at.

`judge` talks with it in one revision over one transport, and returns its checks. What a revision must have is written
here again, and not looked up in chora's own table: a judge that asks the accused sees nothing.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import httpx2
import jsonschema
import jsonschema.exceptions
import trio

from tests.contract.installation import RunningChora
from tests.contract.messages_2024_11_05 import check_message
from tests.patience import PATIENCE
from tests.tools.test_answers import CATALOGUE

MODERN = "2026-07-28"
OFFERED = [name for name, (category, *_) in CATALOGUE.items() if category not in ("Reading", "Edits")]
"""What is listed unless the settings say otherwise."""
UPDATED = "notifications/resources/updated"
FOREIGN = "https://foreign.example"

META = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "raw", "version": "1"},
}


def greeting(name: str) -> str:
    """The text of the sample project."""
    return f"# Hello, {name}!\n\nThis file was composed by chora."


class Check(NamedTuple):
    """One statement about the product, and what was seen instead when it doesn't hold."""

    statement: str
    fault: str = ""


class Conversation:
    """Messages with a server in one revision, whichever way they go.

    Args:
        revision: which one.
        send: sends a message; it may last as long as the answer does.
        nursery: where it does so.
    """

    def __init__(self, revision: str, send: Callable[[Any], Awaitable[None]], nursery: trio.Nursery) -> None:
        self.revision = revision
        self.received: list[Any] = []
        """Every message of the server, in order; a batch as the list that it is."""
        self.methods: dict[int, str] = {}
        """The methods of the requests, by id."""
        self.send = send
        self.name = f"Ada {secrets.token_hex(4)}"
        """Whom the texts of this conversation greet, so that none was composed before."""
        self._nursery = nursery
        self._arrived = trio.Event()

    @property
    def is_modern(self) -> bool:
        return self.revision >= MODERN

    def receive(self, message: Any) -> None:
        """Take a message of the server."""
        self.received.append(message)
        self._arrived.set()
        self._arrived = trio.Event()

    def request(self, method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        """A request with an id of its own."""
        id = len(self.methods) + 1
        self.methods[id] = method
        meta = {"_meta": {**META, **(params or {}).get("_meta", {})}} if self.is_modern else {}
        return {"jsonrpc": "2.0", "id": id, "method": method, "params": {**(params or {}), **meta}}

    def start(self, message: dict[str, Any] | list[dict[str, Any]]) -> None:
        """Send without waiting."""
        self._nursery.start_soon(self.send, message)

    async def ask(self, method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        """The answer to a request."""
        message = self.request(method, params)
        self.start(message)
        return await self.wait_for(lambda each: isinstance(each, dict) and each.get("id") == message["id"])

    async def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """The result of a tool."""
        return (await self.ask("tools/call", {"name": tool, "arguments": arguments}))["result"]

    async def wait_for(self, fits: Callable[[Any], bool]) -> Any:
        """The first message that fits, which may have arrived already.

        Raises:
            trio.TooSlowError: none arrives.
        """
        with trio.fail_after(PATIENCE / 4):
            while True:
                for message in self.received:
                    if fits(message):
                        return message
                await self._arrived.wait()


# -- transports -------------------------------------------------------------------------------------------------


def http_headers(message: Any, revision: str, session: str = "") -> dict[str, str]:
    """The headers of a message that is posted."""
    headers = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
    if session:
        headers["mcp-session-id"] = session
    if not isinstance(message, dict) or message.get("method") != "initialize":
        headers["mcp-protocol-version"] = revision
    if revision >= MODERN and "method" in message:
        headers["mcp-method"] = message["method"]
        if (name := message.get("params", {}).get("name", message.get("params", {}).get("uri"))) is not None:
            headers["mcp-name"] = name
    return headers


async def read_events(response: httpx2.Response, take: Callable[[str, str], None]) -> None:
    """Pass on the events of a stream, as their kind and data."""
    kind = "message"
    async for line in response.aiter_lines():
        if line.startswith("event:"):
            kind = line[6:].strip()
        elif line.startswith("data:") and line[5:].strip():
            take(kind, line[5:].strip())
            kind = "message"


@asynccontextmanager
async def open_http(served: RunningChora, revision: str, nursery: trio.Nursery) -> AsyncGenerator[Conversation]:
    """Streamable HTTP; in the handshake era with a stream for what the server says by itself."""
    session = ""
    async with httpx2.AsyncClient(timeout=PATIENCE) as http:

        async def send(message: Any) -> None:
            nonlocal session
            headers = http_headers(message, revision, session)
            async with http.stream("POST", f"{served.url}/mcp", json=message, headers=headers) as response:
                session = session or response.headers.get("mcp-session-id", "")
                if response.headers.get("content-type", "").startswith("text/event-stream"):
                    await read_events(response, lambda kind, data: talk.receive(json.loads(data)))
                elif body := await response.aread():
                    talk.receive(json.loads(body))

        async def listen(*, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
            headers = {"accept": "text/event-stream", "mcp-session-id": session, "mcp-protocol-version": revision}
            async with http.stream("GET", f"{served.url}/mcp", headers=headers) as response:
                assert response.status_code == 200, response.status_code
                task_status.started()
                await read_events(response, lambda kind, data: talk.receive(json.loads(data)))

        talk = Conversation(revision, send, nursery)
        await greet(talk)
        if not talk.is_modern:
            await nursery.start(listen)
        yield talk
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_sse(served: RunningChora, revision: str, nursery: trio.Nursery) -> AsyncGenerator[Conversation]:
    """The transport of 2024-11-05: one stream for all answers, and posts that are only accepted."""
    async with httpx2.AsyncClient(timeout=PATIENCE) as http:
        endpoint = ""
        opened = trio.Event()

        def take(kind: str, data: str) -> None:
            nonlocal endpoint
            if kind == "endpoint":
                endpoint = data
                opened.set()
            else:
                talk.receive(json.loads(data))

        async def listen() -> None:
            async with http.stream("GET", f"{served.url}/sse", headers={"accept": "text/event-stream"}) as response:
                await read_events(response, take)

        async def send(message: Any) -> None:
            response = await http.post(httpx2.URL(f"{served.url}/sse").join(endpoint), json=message)
            answer = (response.status_code, response.content)
            assert answer == (202, b""), f"a post was answered with {answer}"

        talk = Conversation(revision, send, nursery)
        nursery.start_soon(listen)
        with trio.fail_after(PATIENCE):
            await opened.wait()
        await greet(talk)
        yield talk
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_program(
    command: list[str], environment: dict[str, str], revision: str, nursery: trio.Nursery
) -> AsyncGenerator[Conversation]:
    """A conversation with a program that has not begun: a line for each message. The program is ended afterwards."""
    process = await trio.lowlevel.open_process(command, stdin=-1, stdout=-1, stderr=-3, env=environment)
    stdin, stdout = process.stdin, process.stdout
    assert stdin is not None
    assert stdout is not None
    sending = trio.Lock()

    async def send(message: Any) -> None:
        async with sending:
            await stdin.send_all(json.dumps(message).encode() + b"\n")

    async def listen() -> None:
        rest = b""
        async for chunk in stdout:
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                talk.receive(json.loads(line))

    talk = Conversation(revision, send, nursery)
    nursery.start_soon(listen)
    try:
        yield talk
    finally:
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            process.terminate()
            await process.wait()


@asynccontextmanager
async def open_stdio(served: RunningChora, revision: str, nursery: trio.Nursery) -> AsyncGenerator[Conversation]:
    """A process of its own, which has the project to itself like any other."""
    async with open_program(served.command("stdio"), served.environment, revision, nursery) as talk:
        await greet(talk)
        yield talk


OPEN = {"http": open_http, "sse": open_sse, "stdio": open_stdio}


async def greet(talk: Conversation) -> None:
    """Begin a conversation as its revision does."""
    if talk.is_modern:
        await talk.ask("server/discover")
        return
    hello = {"protocolVersion": talk.revision, "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}}
    await talk.ask("initialize", hello)
    await talk.send({"jsonrpc": "2.0", "method": "notifications/initialized"})


@asynccontextmanager
async def converse(served: RunningChora, revision: str, transport: str) -> AsyncGenerator[Conversation]:
    """A conversation with the product that has begun."""
    async with trio.open_nursery() as nursery, OPEN[transport](served, revision, nursery) as talk:
        yield talk


# -- the checks -------------------------------------------------------------------------------------------------


def check(statement: str, seen: Any, wanted: Any = True) -> Check:
    """Whether something is as it must be."""
    return Check(statement, "" if seen == wanted else f"{seen!r}, not {wanted!r}"[:600])


def check_tools(tools: list[dict[str, Any]], revision: str) -> list[Check]:
    """Whether a list of tools is that of the catalogue, as the revision has it."""
    structured, annotated = revision >= "2025-06-18", revision >= "2025-03-26"
    checks = [check("the list: the tools of the catalogue", sorted(each["name"] for each in tools), sorted(OFFERED))]
    for tool in tools:
        name = tool["name"]
        _, hints, required, optional = CATALOGUE.get(name, ("", {}, [], []))
        schema = tool["inputSchema"]
        arguments = (schema["type"], sorted(schema.get("required", [])), sorted(schema["properties"]))
        checks.append(
            check(f"{name}: its arguments", arguments, ("object", sorted(required), sorted([*required, *optional])))
        )
        checks.append(check(f"{name}: a title where the revision has one", "title" in tool, structured))
        output = tool.get("outputSchema", {})
        described = output.get("type") == "object" and bool(output.get("properties") or output.get("anyOf"))
        checks.append(check(f"{name}: an output schema where the revision has one", described, structured))
        seen = {key: value for key, value in tool.get("annotations", {}).items() if value and key.endswith("Hint")}
        checks.append(
            check(
                f"{name}: hints where the revision has them",
                seen if annotated else tool.get("annotations"),
                hints if annotated else None,
            )
        )
    return checks


def check_result(what: str, result: dict[str, Any], schema: Mapping[str, Any] | None, revision: str) -> list[Check]:
    """Whether a tool's result is structured where the revision has that, as its schema and its text say."""
    text = json.loads(result["content"][0]["text"])
    if revision < "2025-06-18":
        links = [block["type"] for block in result["content"] if block["type"] == "resource_link"]
        return [check(f"{what}: text alone", ("structuredContent" in result, links), (False, []))]
    if schema is None:
        return [check(f"{what}: a schema to judge it by", False)]
    error = jsonschema.exceptions.best_match(
        jsonschema.Draft202012Validator(schema).iter_errors(result.get("structuredContent"))
    )
    return [
        check(f"{what}: structured content that is its text", result.get("structuredContent"), text),
        Check(f"{what}: as its output schema says", "" if error is None else error.message[:600]),
    ]


async def judge_results(talk: Conversation) -> AsyncGenerator[Check]:
    """Lists, results, failures and notifications of the product."""
    tools = (await talk.ask("tools/list"))["result"]["tools"]
    for each in check_tools(tools, talk.revision):
        yield each
    schemas = {each["name"]: each.get("outputSchema") for each in tools}

    async def judge_call(tool: str, **arguments: Any) -> tuple[dict[str, Any], list[Check]]:
        result = await talk.call(tool, **arguments)
        return json.loads(result["content"][0]["text"]), [
            check(
                f"{tool}{arguments}: whether it failed", result.get("isError") is True, "nobody" in arguments.values()
            ),
            *check_result(f"{tool}{arguments}", result, schemas[tool], talk.revision),
        ]

    text = greeting(talk.name)
    said, checks = await judge_call("hello_world", name=talk.name)
    checks.append(check("hello_world: its message", said["message"], f"Hello, {talk.name}! This is chora."))
    generated, more = await judge_call("generate_content", content_config_id="greeting", context={"name": talk.name})
    checks += [*more, check("generate_content: its text", generated["content"], text)]
    failed, more = await judge_call("generate_content", content_config_id="nobody")
    checks += [*more, check("generate_content: its error", failed["error"]["code"], "config_not_found")]
    for each in checks:
        yield each
    contents = (await talk.ask("resources/read", {"uri": "content://greeting"}))["result"]["contents"][0]
    seen = (contents["uri"], contents["mimeType"], contents["text"])
    yield check("a resource: its contents", seen, ("content://greeting", "text/plain", text))
    review = {"name": "review-content", "arguments": {"content_id": "greeting"}}
    messages = (await talk.ask("prompts/get", review))["result"]["messages"]
    yield check("a prompt: its messages", [each["content"]["type"] for each in messages], ["text", "resource", "text"])
    yield check("a prompt: the text to review", messages[1]["content"].get("resource", {}).get("text"), text)
    unknown = await talk.ask("tools/call", {"name": "make_coffee", "arguments": {}})
    yield check("an unknown tool: an error of the protocol", unknown.get("error", {}).get("code"), -32602)
    yield await judge_updates(talk)
    yield await judge_batch(talk)


async def judge_updates(talk: Conversation) -> Check:
    """Whether a subscriber is notified of a new text."""
    statement = "a subscriber is notified of a new text"
    if talk.is_modern:
        talk.start(
            talk.request("subscriptions/listen", {"notifications": {"resourceSubscriptions": ["content://greeting"]}})
        )
        await talk.wait_for(lambda each: each.get("method") == "notifications/subscriptions/acknowledged")
    else:
        await talk.ask("resources/subscribe", {"uri": "content://greeting"})
    await talk.call("generate_content", content_config_id="greeting", context={"name": f"{talk.name} again"})
    try:
        news = await talk.wait_for(lambda each: isinstance(each, dict) and each.get("method") == UPDATED)
    except trio.TooSlowError:
        return Check(statement, "nothing arrived")
    return check(statement, news["params"]["uri"], "content://greeting")


async def judge_batch(talk: Conversation) -> Check:
    """Whether several messages at once are answered at once, in the two revisions that know that, and refused else."""
    taken = "2024-11-05" <= talk.revision <= "2025-03-26"
    batch = [talk.request("resources/templates/list"), talk.request("prompts/list")]
    ids = [each["id"] for each in batch]
    talk.start(batch)
    answer = await talk.wait_for(lambda each: isinstance(each, list) or (each.get("id") is None and "error" in each))
    seen = sorted(each["id"] for each in answer) if isinstance(answer, list) else answer["error"]["code"]
    return check("a batch is answered as one, or refused where the revision has none", seen, ids if taken else -32600)


async def judge_http(served: RunningChora, revision: str) -> AsyncGenerator[Check]:
    """What Streamable HTTP must do with what isn't a request, and with web pages of others."""
    async with httpx2.AsyncClient(timeout=PATIENCE) as http:

        async def post(message: dict[str, Any], session: str = "", **headers: str) -> httpx2.Response:
            headers = {**http_headers(message, revision, session), **headers}
            return await http.post(f"{served.url}/mcp", json=message, headers=headers)

        async def get(path: str, **headers: str) -> int:
            async with http.stream(
                "GET", served.url + path, headers={"accept": "text/event-stream", **headers}
            ) as answer:
                return answer.status_code  # a stream that is accepted has no end

        hello = {"protocolVersion": revision, "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}}
        method, params = ("server/discover", {"_meta": META}) if revision >= MODERN else ("initialize", hello)
        first = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        notes = ("notifications/initialized", "notifications/cancelled")
        foreign = await post(first, origin=FOREIGN)
        yield check("a web page of another origin: refused", foreign.status_code, 403)
        yield check("a web page of another origin: no session", foreign.headers.get("mcp-session-id"), None)
        own = await post(first, origin=served.url)
        yield check("a web page of its own: answered", own.status_code, 200)
        session = own.headers.get("mcp-session-id", "")
        for note in notes[1:] if revision >= MODERN else notes:
            message = {"jsonrpc": "2.0", "method": note, "params": {"requestId": 99} if "cancel" in note else {}}
            answer = await post(message, session)
            yield check(f"{note}: accepted, with no body", (answer.status_code, answer.content), (202, b""))
            answer = await post(message, session, origin=FOREIGN)
            yield check(f"{note} of another origin: refused", answer.status_code, 403)
        if session:
            status = await get("/mcp", **{"mcp-session-id": session, "origin": FOREIGN})
            yield check("a stream for another origin: refused", status, 403)
            response = {"jsonrpc": "2.0", "id": 99, "result": {}}
            answer = await post(response, session)
            yield check(
                "an answer to nothing: accepted, with no body", (answer.status_code, answer.content), (202, b"")
            )
            answer = await post({**first, "method": "ping", "params": {}}, "no-such-session")
            yield check("an unknown session: not found", answer.status_code, 404)
        yield check("the SSE of 2024-11-05 for another origin: refused", await get("/sse", origin=FOREIGN), 403)


def transports_of(revision: str) -> tuple[str, ...]:
    """The transports to speak a revision over; the modern era has left that of 2024-11-05."""
    return tuple(each for each in OPEN if each != "sse" or revision < MODERN)


async def judge(served: RunningChora, revision: str, transport: str) -> list[Check]:
    """Every check of the product in one revision over one transport; one that can't be made is a fault."""
    checks: list[Check] = []

    async def judge_conversation() -> None:
        async with converse(served, revision, transport) as talk:
            async for each in judge_results(talk):
                checks.append(each)
        if revision == "2024-11-05":
            messages = [one for each in talk.received for one in (each if isinstance(each, list) else [each])]
            faults = [fault for each in messages if (fault := check_message(each, talk.methods))]
            checks.append(Check(f"{len(messages)} messages are as the schema says", "; ".join(faults)[:600]))

    async def judge_transport() -> None:
        if transport == "http":
            async for each in judge_http(served, revision):
                checks.append(each)

    for part in (judge_conversation, judge_transport):
        try:
            with trio.fail_after(PATIENCE):
                await part()
        except* (
            AssertionError,
            KeyError,
            IndexError,
            ValueError,
            TypeError,
            httpx2.HTTPError,
            trio.TooSlowError,
        ) as group:
            checks.append(
                Check(f"{part.__name__} could be finished", f"after {checks[-1:]}: {group.exceptions[0]!r}"[:600])
            )
    return checks
