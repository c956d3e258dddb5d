"""The tools of a server: their list, and calls with their results."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import msgspec
import trio
from msgspec import UNSET

from chora.access import SCOPES, Principal, authorize
from chora.audit import AuditLog, Subjects
from chora.errors import Forbidden
from chora.metrics import Metrics
from chora.protocol import wire
from chora.protocol.provider import Provider
from chora.protocol.request import McpRequest, RequestCancelled, cacheable
from chora.protocol.requesting_client import RequestingClient, StateSigner
from chora.protocol.types import Call, InputRequired, Link, ToolAnswer
from chora.protocol.wire import Revision, RpcError
from chora.request_context import caller, event_listener

LOG_FLUSH_INTERVAL = 0.1
"""Seconds between two flushes of the log messages of a call."""
LEGACY_TOOL_PREFIXES = ("choracompose:", "choracompose__")
"""Prefixes that clients of chora-compose put before tool names."""


class ToolCalls:
    """Lists and calls the tools of a provider.

    Args:
        provider: whose tools.
        metrics: where calls are counted.
        audit: where they are recorded.
        state_signer: signs the state of questions to clients.
    """

    def __init__(self, provider: Provider, metrics: Metrics, audit: AuditLog, state_signer: StateSigner) -> None:
        self._provider = provider
        self._metrics = metrics
        self._audit = audit
        self._subjects = Subjects()
        self._state_signer = state_signer
        described = [tool.describe() for tool in provider.tools.values()]
        self.lists = {
            (revision.name, scope): _encode_tools(
                [each for each, tool in zip(described, provider.tools.values(), strict=True) if tool.scope in included],
                revision,
            )
            for revision in wire.REVISIONS.values()
            for scope, included in ((each, SCOPES[: SCOPES.index(each) + 1]) for each in SCOPES)
        }
        """The encoded result of `tools/list`, by revision and by the scope of who asks: the tools that it allows."""
        self.parameter_headers = {
            each["name"]: mirrored for each in described if (mirrored := _find_parameter_headers(each["inputSchema"]))
        }
        """By tool: the arguments that HTTP requests repeat in headers, and the headers' names."""

    async def call_tool(self, request: McpRequest) -> bytes:
        """`tools/call`: call a tool and encode its result; the audit log gets a line whatever happens."""
        session, params = request.session, request.params
        name = "" if params.name is UNSET else canonical_tool_name(params.name)
        subject = ""
        if params.arguments is not UNSET and (tool := self._provider.tools.get(name)) is not None:
            subject = self._subjects.find(name, tool.describe()["inputSchema"], params.arguments)
        outcome, started = _Outcome(), time.perf_counter()
        try:
            return await self._call_tool(request, outcome)
        except RpcError as error:
            outcome.code = outcome_of(error)
            raise
        finally:
            self._audit.record_call(
                session.principal.name,
                session.transport,
                name or "tools/call",
                subject,
                outcome.code,
                time.perf_counter() - started,
                routine=session.principal.routine,
            )

    async def _call_tool(self, request: McpRequest, outcome: _Outcome) -> bytes:
        session, params, id_bytes = request.session, request.params, request.id_bytes
        if params.name is UNSET:
            raise RpcError(wire.INVALID_PARAMS, "tools/call needs the name of a tool")
        name = canonical_tool_name(params.name)
        if name not in self._provider.tools and name not in self._provider.withheld:
            raise RpcError(wire.INVALID_PARAMS, f"There is no tool {name[:100]}; tools/list names them all")
        if id_bytes in session.in_flight:
            raise RpcError(wire.INVALID_REQUEST, "A request with this id is being answered already")
        client = request.make_client(name, self._state_signer)
        arguments = params.arguments
        if arguments is UNSET or bytes(arguments) == b"null":
            arguments = b"{}"
        principal = session.principal
        call = Call(session.transport, len(self._provider.tools), client.progress, principal, client)
        started = time.perf_counter()
        answer: ToolAnswer | None = None
        token = caller.set(session.caller)
        with trio.CancelScope() as scope:
            session.in_flight[id_bytes] = scope
            self._metrics.calls_in_flight.count(name)
            try:
                self._check_allowed(name, principal)
                if client.log_level is None:
                    answer = await self._provider.call_tool(name, arguments, call)
                else:
                    answer = await self._call_tool_with_log_messages(name, arguments, call, client)
                outcome.code = answer.code
            except Forbidden as refusal:
                answer = ToolAnswer(wire.encode(refusal.as_dict()), True, refusal.code)
                outcome.code = refusal.code
            except InputRequired:
                outcome.code = "input_required"
                raise
            finally:
                caller.reset(token)
                del session.in_flight[id_bytes]
                self._metrics.calls_in_flight.count(name, by=-1)
                self._metrics.calls.count(name, outcome.code)
        if answer is None:
            raise RequestCancelled
        self._metrics.call_seconds.observe(time.perf_counter() - started, name)
        return _call_result(answer, request.revision)

    def _check_allowed(self, name: str, principal: Principal) -> None:
        """Whether a tool may be called here, and by this principal.

        Raises:
            Forbidden: it may not.
        """
        if (reason := self._provider.withheld.get(name)) is not None:
            raise Forbidden(f"{name} can't be called here. {reason}", "Use the tools of tools/list.", tool=name)
        authorize(principal, name, self._provider.tools[name].scope)

    async def _call_tool_with_log_messages(
        self, name: str, arguments: bytes | msgspec.Raw, call: Call, client: RequestingClient
    ) -> ToolAnswer:
        """Call a tool for a client that gets the events of the call as log messages."""

        def log_event(event: dict[str, Any]) -> None:
            failed = event["status"] in ("failure", "failed", "error")
            client.queue_log_message("error" if failed else "info", event, event["event_type"])

        async def flush_regularly() -> None:
            while True:
                await client.flush_log_messages()
                await trio.sleep(LOG_FLUSH_INTERVAL)

        answer: ToolAnswer | None = None
        failure: InputRequired | RpcError | None = None
        token = event_listener.set(log_event)
        try:
            async with trio.open_nursery() as background:
                background.start_soon(flush_regularly)
                try:
                    answer = await self._provider.call_tool(name, arguments, call)
                except (InputRequired, RpcError) as error:  # raised below, outside the nursery and its exception group
                    failure = error
                background.cancel_scope.cancel()
        finally:
            event_listener.reset(token)
        await client.flush_log_messages()
        client.log_level = None  # work that goes on as a job sends no more log messages
        if failure is not None:
            raise failure
        assert answer is not None
        return answer


class _Outcome:
    """How a call ends: `ok`, or the code of its error."""

    def __init__(self) -> None:
        self.code = "cancelled"


def outcome_of(error: RpcError) -> str:
    """The outcome of a call that ends with a JSON-RPC error."""
    match error.data:
        case {"code": str(code)}:
            return code
        case _:
            return str(error.code)


def canonical_tool_name(name: str) -> str:
    """A tool's name without the prefix that clients of chora-compose put before it."""
    for prefix in LEGACY_TOOL_PREFIXES:
        name = name.removeprefix(prefix)
    return name


def _call_result(answer: ToolAnswer, revision: Revision) -> bytes:
    """The `tools/call` result: the JSON as text and, where the revision has them, structured content and links."""
    if answer.content is not None:
        result = b'{"content":' + wire.encode(answer.content)
        return result + (b',"isError":true}' if answer.is_error else b"}")
    result = b'{"content":[{"type":"text","text":' + wire.encode(answer.body.decode()) + b"}"
    if revision.structured:
        result += b"".join(b"," + wire.encode(_resource_link(link)) for link in answer.links)
        result += b'],"structuredContent":' + answer.body
    else:
        result += b"]"
    return result + (b',"isError":true}' if answer.is_error else b"}")


def _resource_link(link: Link) -> dict[str, str]:
    return {"type": "resource_link", "uri": link.uri, "name": link.name, "mimeType": link.mime_type}


def _encode_tools(described: Sequence[dict[str, Any]], revision: Revision) -> bytes:
    left_out = {
        *(() if revision.structured else ("title", "outputSchema")),
        *(() if revision.annotations else ("annotations",)),
    }
    tools = [{key: value for key, value in tool.items() if key not in left_out} for tool in described]
    return wire.encode({"tools": tools} | cacheable(revision, "private"))  # each principal sees what its scope allows


def _find_parameter_headers(schema: dict[str, Any]) -> dict[str, str]:
    """The arguments of a tool that HTTP requests repeat in headers, and the headers' names in lower case."""
    properties: dict[str, dict[str, Any]] = schema.get("properties", {})
    return {
        name: f"mcp-param-{each['x-mcp-header'].lower()}"
        for name, each in properties.items()
        if isinstance(each.get("x-mcp-header"), str)
    }
