"""The official SDK's client against every transport, in both eras."""

import json
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
import pytest
import trio
from mcp import Client
from mcp.shared.exceptions import MCPDeprecationWarning, MCPError
from mcp.shared.message import SessionMessage
from mcp.types import ElicitResult, PromptReference, ResourceTemplateReference, jsonrpc_message_adapter

from chora import __version__, client
from chora.access import LOCAL
from chora.engine.engine import Engine
from chora.metrics import Metrics
from chora.protocol.session import Session
from chora.provider import project_server
from chora.tools import TOOLS
from tests.conftest import Project, Serve, artifact, child, requirement, text
from tests.patience import PATIENCE

Connect = Callable[..., AbstractAsyncContextManager[Client]]


@asynccontextmanager
async def memory_streams(engine: Engine) -> AsyncGenerator[tuple[Any, Any]]:
    """The core behind in-memory streams, with no transport of ours in between."""
    to_client, from_server = anyio.create_memory_object_stream[Any](16)
    to_server, from_client = anyio.create_memory_object_stream[Any](16)
    server, session = project_server(engine, TOOLS, Metrics()), Session("memory", LOCAL)

    async def reply(body: bytes) -> None:
        await to_client.send(SessionMessage(jsonrpc_message_adapter.validate_json(body)))

    async def answer(body: bytes) -> None:
        answer = await server.answer(session, body, reply)
        if answer is not None:
            await reply(answer.body)

    async def listen() -> None:
        async for message in from_client:
            nursery.start_soon(answer, message.message.model_dump_json(by_alias=True, exclude_none=True).encode())

    async def report_progress() -> None:
        while True:
            await reply(await session.notifications.wait_next())

    server.broadcaster.subscribe(session.notifications)
    engine.changes.subscribe(server.notify_resource_changed)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        nursery.start_soon(report_progress)
        yield from_server, to_server
        nursery.cancel_scope.cancel()
    for stream in (to_client, from_server, to_server, from_client):
        await stream.aclose()


@pytest.fixture(params=["auto", "legacy"])
def mode(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=["memory", "stdio", "http", "sse"])
def connect(request: pytest.FixtureRequest, hello: Project, engine: Engine, serve: Serve, mode: str) -> Connect:
    """A connected SDK client, over every transport and in both modes."""

    @asynccontextmanager
    async def connected(**options: Any) -> AsyncGenerator[Client]:
        with trio.fail_after(PATIENCE):
            if request.param == "memory":
                async with Client(memory_streams(engine), mode=mode, **options) as one:
                    yield one
            elif request.param == "stdio":
                command = [sys.executable, "-m", "chora", "--project", str(hello.root), "stdio"]
                async with client.connect(command, mode=mode, **options) as one:
                    yield one
            else:
                path = {"http": "/mcp", "sse": "/sse"}[request.param]
                async with (
                    serve(hello.root) as opened,
                    client.connect(opened.url + path, mode=mode, **options) as one,
                ):
                    yield one

    return connected


@requirement("server.one-core")
async def test_the_client_negotiates_the_requested_era(connect: Connect, mode: str):
    """`auto` uses the modern era on every transport, `legacy` the newest revision with a handshake."""
    async with connect() as one:
        assert one.protocol_version == {"auto": "2026-07-28", "legacy": "2025-11-25"}[mode]


@requirement("tools.category", "tools.hints")
async def test_every_tool_is_listed_with_schemas_and_hints(connect: Connect):
    """tools/list shows exactly the registry, each with object schemas, a title, hints and its category."""
    async with connect() as one:
        listed = (await one.list_tools()).tools
    assert [tool.name for tool in listed] == list(TOOLS)
    for tool in listed:
        assert tool.title
        assert tool.description
        assert tool.input_schema["type"] == "object"
        assert tool.output_schema is not None
        assert tool.output_schema["type"] == "object"
        assert tool.annotations is not None
        assert tool.annotations.read_only_hint is TOOLS[tool.name].read_only
        assert tool.meta == {"chora/category": TOOLS[tool.name].category}


async def test_structured_and_text_content_are_the_same_json(connect: Connect):
    """n8n reads the text, the SDKs the structure; both have live values."""
    async with connect() as one:
        answer = await one.call_tool("hello_world", {"name": "Ada"})
    assert answer.is_error is not True
    assert answer.structured_content is not None
    assert answer.structured_content["message"].startswith("Hello, Ada!")
    assert answer.structured_content["version"] == __version__
    assert answer.structured_content["tools_available"] == len(TOOLS)
    assert json.loads(answer.content[0].text) == answer.structured_content  # pyright: ignore[reportAttributeAccessIssue]


async def test_a_document_is_drafted_tested_saved_and_assembled(connect: Connect, hello: Project):
    """The main workflow, end to end, over every transport."""
    async with connect() as one:

        async def call(tool: str, **arguments: Any) -> dict[str, Any]:
            answer = await one.call_tool(tool, arguments)
            assert answer.is_error is not True, answer
            assert answer.structured_content is not None
            return answer.structured_content

        for document in (text("farewell", "Good night."), artifact("notice", [child("greeting"), child("farewell")])):
            draft = await call("draft_config", config_type=document["type"], config_data=document)
            if document["type"] == "content":
                tested = await call("test_config", draft_id=draft["draft_id"])
                assert tested["preview_content"] == "Good night."
            await call("save_config", draft_id=draft["draft_id"], config_id=document["id"])
        # save_config writes the nested layout; the child's path names the flat one, and finds it.
        assembled = await call("assemble_artifact", artifact_config_id="notice", context='{"name": "Ada"}')
    assert assembled["status"] == "assembled"
    assert assembled["metadata"]["generated_content"] == ["greeting", "farewell"]
    written = hello.read("outputs/notice.md")
    assert written == "# Hello, Ada!\n\nThis file was composed by chora.\n\nGood night."


async def test_a_failure_reaches_the_model_as_a_result(connect: Connect):
    """A wrong id is an `isError` result with a code and a hint, not a protocol error."""
    async with connect() as one:
        answer = await one.call_tool("generate_content", {"content_config_id": "greting"})
    assert answer.is_error is True
    assert answer.structured_content is not None
    error = answer.structured_content["error"]
    assert error["code"] == "config_not_found"
    assert "greeting" in error["hint"]


async def test_progress_is_reported_to_clients_that_ask_for_it(connect: Connect):
    """assemble_artifact reports each child to a caller that sent a progress token."""
    seen: list[tuple[float, float | None, str | None]] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        seen.append((progress, total, message))

    async with connect() as one:
        await one.call_tool("assemble_artifact", {"artifact_config_id": "hello"}, progress_callback=note)
    assert seen == [(1, 1, "greeting")]


async def test_an_unknown_tool_is_a_protocol_error(connect: Connect):
    """-32602: other arguments wouldn't help the model."""
    async with connect() as one:
        with pytest.raises(MCPError) as caught:
            await one.call_tool("make_coffee", {})
    assert caught.value.error.code == -32602


@requirement("rulings.c31")
async def test_names_of_chora_compose_are_accepted_on_call(connect: Connect):
    """Clients that knew the tools under a namespace keep working."""
    async with connect() as one:
        answer = await one.call_tool("choracompose__hello_world", {})
    assert answer.is_error is not True


# -- resources, prompts, completion, notifications --------------------------------------------------------------


async def test_resources_are_listed_and_read(connect: Connect):
    """Listed ones can be read, and so can those that only match a template, in either spelling."""
    async with connect() as one:
        await one.call_tool("generate_content", {"content_config_id": "greeting"})
        listed = {resource.uri: resource for resource in (await one.list_resources()).resources}
        assert listed["content://greeting"].mime_type == "text/plain"
        assert listed["content://greeting"].size is not None
        for uri in ("content://greeting", "choracompose://content/greeting", "content://generated/greeting"):
            (contents,) = (await one.read_resource(uri)).contents
            assert contents.uri == uri
            assert contents.text.startswith("# Hello, World!")  # pyright: ignore[reportAttributeAccessIssue]
        for uri in listed:
            assert (await one.read_resource(uri)).contents
        templates = {template.uri_template for template in (await one.list_resource_templates()).resource_templates}
        assert {"content://{content_id}/{version_id}", "template://{name}", "job://{job_id}"} <= templates


async def test_a_missing_resource_has_a_hint(connect: Connect, mode: str):
    """With the error code of the era."""
    async with connect() as one:
        with pytest.raises(MCPError) as caught:
            await one.read_resource("content://missing")
    assert caught.value.error.code == {"auto": -32602, "legacy": -32002}[mode]
    assert "resources/list" in caught.value.error.data["hint"]


async def test_prompts_are_listed_and_got(connect: Connect):
    """A prompt has what the model needs; an unknown one is refused."""
    async with connect() as one:
        assert [prompt.name for prompt in (await one.list_prompts()).prompts] == [
            "author-config",
            "refresh-stale",
            "review-content",
        ]
        await one.call_tool("generate_content", {"content_config_id": "greeting"})
        got = await one.get_prompt("review-content", {"content_id": "greeting"})
        kinds = [message.content.type for message in got.messages]
        assert kinds == ["text", "resource", "text"]
        for name, arguments in (("make-coffee", {}), ("author-config", {"kind": "content"})):
            with pytest.raises(MCPError) as caught:
                await one.get_prompt(name, arguments)
            assert caught.value.error.code == -32602


async def test_arguments_are_completed(connect: Connect):
    """Of prompts and of resource templates."""
    async with connect() as one:
        kinds = await one.complete(PromptReference(name="author-config"), {"name": "kind", "value": "a"})
        assert kinds.completion.values == ["artifact"]
        template = ResourceTemplateReference(uri="config://content/{content_id}")
        ids = await one.complete(template, {"name": "content_id", "value": "gr"})
        assert (ids.completion.values, ids.completion.total, ids.completion.has_more) == (["greeting"], 1, False)


async def test_a_subscriber_is_notified_of_a_new_text(connect: Connect, mode: str):
    """By the means of its era; reading then gives the new text."""
    if mode == "legacy":
        updated = trio.Event()
        seen: list[str] = []

        async def note(message: Any) -> None:
            params = getattr(getattr(message, "root", message), "params", None)
            if (uri := getattr(params, "uri", None)) is not None:
                seen.append(str(uri))
                updated.set()

        async with connect() as one:
            one.session._message_handler = note
            with pytest.warns(MCPDeprecationWarning):
                await one.subscribe_resource("content://greeting")  # pyright: ignore[reportDeprecated]
            await one.call_tool("generate_content", {"content_config_id": "greeting"})
            with trio.fail_after(PATIENCE):
                await updated.wait()
        assert seen == ["content://greeting"]
    else:
        async with connect() as one, one.listen(resource_subscriptions=["content://greeting"]) as subscription:
            await one.call_tool("generate_content", {"content_config_id": "greeting"})
            with trio.fail_after(PATIENCE):
                assert (await anext(subscription)).uri == "content://greeting"  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("action", ["accept", "decline"])
async def test_a_user_is_asked_before_a_config_is_replaced(connect: Connect, hello: Project, action: Any):
    """Through the SDK's client, in both eras; the answer decides."""
    asked: list[str] = []

    async def answer(context: Any, params: Any) -> ElicitResult:
        asked.append(params.message)
        return ElicitResult(action=action, content={"confirm": True} if action == "accept" else None)

    before = hello.read("configs/content/greeting.json")
    async with connect(elicitation_callback=answer) as one:
        arguments = {"config_type": "content", "config_data": text("greeting", "replaced")}
        drafted = (await one.call_tool("draft_config", arguments)).structured_content
        assert drafted is not None
        saved = await one.call_tool("save_config", {"draft_id": drafted["draft_id"], "config_id": "greeting"})
    assert len(asked) == 1
    assert bool(saved.is_error) is (action == "decline")
    assert (hello.read("configs/content/greeting.json") == before) is (action == "decline")
