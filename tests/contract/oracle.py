"""The Python SDK's low-level server, offering the same as some of the fixtures: what ours is compared with."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx2
import mcp_types as types
import trio
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import NotificationOptions, Server
from mcp.shared.exceptions import MCPError
from mcp.shared.message import SessionMessage
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from tests.contract import fixture_server

OFFERED = ("test_simple_text", "test_error_handling", "test_x_mcp_header")
"""The tools that both servers have."""


def no_such(what: str) -> MCPError:
    return MCPError(types.INVALID_PARAMS, f"There is no {what}")


async def list_tools(context: object, params: object) -> types.ListToolsResult:
    tools = [types.Tool.model_validate(fixture_server.TOOLS[name].describe()) for name in OFFERED]
    return types.ListToolsResult(tools=tools, ttl_ms=300_000, cache_scope="private")


async def call_tool(context: object, params: types.CallToolRequestParams) -> types.CallToolResult:
    if params.name not in OFFERED:
        raise no_such(f"tool {params.name}")
    fixture = fixture_server.TOOLS[params.name]
    try:
        content = await fixture.run(fixture, None, params.arguments or {})  # pyright: ignore[reportArgumentType]
    except fixture_server.Failure as error:
        said = types.TextContent(type="text", text=str(error))
        return types.CallToolResult(content=[said], is_error=True)
    return types.CallToolResult.model_validate({"content": content})


async def list_resources(context: object, params: object) -> types.ListResourcesResult:
    resources = [
        types.Resource(uri=each.uri, name=each.name, description=each.description, mime_type=each.mime_type)
        for each in fixture_server.FixtureResources(Counter()).list_resources(None).resources
    ]
    return types.ListResourcesResult(resources=resources, ttl_ms=0, cache_scope="private")


async def list_templates(context: object, params: object) -> types.ListResourceTemplatesResult:
    template = {
        "uriTemplate": fixture_server.TEMPLATE,
        "name": "template",
        "mimeType": "application/json",
    }
    listed = {"resourceTemplates": [template], "ttlMs": 300_000, "cacheScope": "public"}
    return types.ListResourceTemplatesResult.model_validate(listed)


async def read_resource(
    context: ServerRequestContext[Any], params: types.ReadResourceRequestParams
) -> types.ReadResourceResult:
    if params.uri != "test://static-text":
        raise MCPError(-32602 if context.protocol_version in MODERN_PROTOCOL_VERSIONS else -32002, "Not here")
    said = "This is the content of the static text resource."
    contents = types.TextResourceContents(uri=params.uri, mime_type="text/plain", text=said)
    return types.ReadResourceResult(contents=[contents], ttl_ms=300_000, cache_scope="public")


async def subscribe(context: object, params: types.SubscribeRequestParams) -> types.EmptyResult:
    return types.EmptyResult()


async def unsubscribe(context: object, params: types.UnsubscribeRequestParams) -> types.EmptyResult:
    return types.EmptyResult()


async def list_prompts(context: object, params: object) -> types.ListPromptsResult:
    prompts = fixture_server.FixturePrompts(Counter()).list_prompts()
    listed = {"prompts": prompts, "ttlMs": 300_000, "cacheScope": "public"}
    return types.ListPromptsResult.model_validate(listed)


async def get_prompt(context: object, params: types.GetPromptRequestParams) -> types.GetPromptResult:
    if params.name != "test_simple_prompt":
        raise no_such(f"prompt {params.name}")
    said = {"type": "text", "text": "This is a simple prompt for testing."}
    return types.GetPromptResult.model_validate(
        {"description": "For the conformance suite", "messages": [{"role": "user", "content": said}]}
    )


async def complete(context: object, params: types.CompleteRequestParams) -> types.CompleteResult:
    fitting = [each for each in ("paris", "park", "party") if each.startswith(params.argument.value)]
    return types.CompleteResult(completion=types.Completion(values=fitting, total=len(fitting), has_more=False))


async def set_level(context: object, params: types.SetLevelRequestParams) -> types.EmptyResult:
    return types.EmptyResult()


Say = Callable[[bytes], Awaitable[None]]


def make_oracle() -> Server[Any]:
    """The SDK's server."""
    with warnings.catch_warnings(action="ignore"):  # logging is deprecated, which is to say that it is there
        return Server[Any](
            "oracle",
            version="1",
            on_list_tools=list_tools,
            on_call_tool=call_tool,
            on_list_resources=list_resources,
            on_list_resource_templates=list_templates,
            on_read_resource=read_resource,
            on_subscribe_resource=subscribe,
            on_unsubscribe_resource=unsubscribe,
            on_list_prompts=list_prompts,
            on_get_prompt=get_prompt,
            on_completion=complete,
            on_set_logging_level=set_level,
        )


@asynccontextmanager
async def oracle() -> AsyncGenerator[tuple[Say, list[Any]]]:
    """A conversation with the SDK's server: what says a line to it, and what it has answered so far."""
    server = make_oracle()
    to_server, incoming = anyio.create_memory_object_stream[SessionMessage | Exception](16)
    outgoing, from_server = anyio.create_memory_object_stream[SessionMessage](64)
    answers: list[Any] = []

    async def say(line: bytes) -> None:
        # What the SDK's own stdio transport does with a line.
        try:
            message = types.jsonrpc_message_adapter.validate_json(line, by_name=False)
        except Exception as error:
            await to_server.send(error)
        else:
            await to_server.send(SessionMessage(message))

    async def listen() -> None:
        async for sent in from_server:
            answers.append(sent.message.model_dump(by_alias=True, exclude_unset=True, mode="json"))

    options = server.create_initialization_options(
        NotificationOptions(prompts_changed=True, resources_changed=True, tools_changed=True)
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.run, incoming, outgoing, options)
        nursery.start_soon(listen)
        yield say, answers
        nursery.cancel_scope.cancel()
    for stream in (to_server, incoming, outgoing, from_server):
        await stream.aclose()


@asynccontextmanager
async def oracle_over_http() -> AsyncGenerator[httpx2.AsyncClient]:
    """A client of the SDK's server, Streamable HTTP with answers in JSON."""
    app = make_oracle().streamable_http_app(json_response=True)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://127.0.0.1:8000") as client,
    ):
        yield client
