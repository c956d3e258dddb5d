"""The MCP server: one message in, at most one answer out.

It knows nothing of bytes on pipes or sockets. A transport opens a `Session` per peer (per request in the modern
era over HTTP), hands every message to `Server.answer`, and sends what comes back.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

import msgspec
import trio
from msgspec import UNSET

from chora import __version__
from chora.access import Principal
from chora.engine.engine import Engine
from chora.errors import Forbidden
from chora.metrics import Metrics
from chora.protocol import wire
from chora.protocol.wire import Incoming, Params, Revision, RpcError
from chora.tools.tool import Answer, Call, Tool

Notify = Callable[[bytes], Awaitable[None]]

INSTRUCTIONS = (
    "chora composes documents and code from configuration. A content config makes one text with a generator; an "
    "artifact config assembles texts into files; a collection config builds many artifacts. Start with "
    "list_content_configs and list_artifact_configs. To author one: draft_config, test_config, save_config. "
    "preview_generation shows a text without storing it; generate_content stores it; assemble_artifact writes files."
)

LIST_TTL = 300_000
"""Milliseconds for which a client may reuse a list: what we offer changes with a restart."""

BATCH_LIMIT = 50
"""Messages in a batch, in the revisions that know batches."""

PREFIXES = ("choracompose:", "choracompose__")
"""Namespaces under which tools were known to clients of chora-compose."""


class Reply(NamedTuple):
    """An encoded answer; `error_code` is a JSON-RPC code when it is an error."""

    body: bytes
    error_code: int | None = None


class Session:
    """One peer's conversation.

    Args:
        transport: `stdio`, `http` or `sse`, for the log and for `hello_world`.
        principal: who is speaking.
    """

    def __init__(self, transport: str, principal: Principal) -> None:
        self.transport = transport
        self.principal = principal
        self.revision: Revision | None = None
        self.in_flight: dict[bytes, trio.CancelScope] = {}


class Server:
    """Answers MCP messages about one project.

    Args:
        engine: the project.
        tools: what is offered, by name.
        metrics: where calls are counted.
    """

    def __init__(self, engine: Engine, tools: Mapping[str, Tool], metrics: Metrics) -> None:
        self._engine = engine
        self._tools = dict(tools)
        self._metrics = metrics
        self._info = {"name": "chora", "title": "chora", "version": __version__}
        self._capabilities: dict[str, dict[str, bool]] = {"tools": {}}
        self._lists = {revision.name: self._encode_tools(revision) for revision in wire.REVISIONS.values()}
        self._modern_suffix = b',"resultType":"complete","_meta":' + wire.encode({wire.SERVER_KEY: self._info}) + b"}"
        self._methods: dict[str, Callable[[Session, Revision, Params], bytes]] = {
            "ping": lambda session, revision, params: b"{}",
            "tools/list": lambda session, revision, params: self._lists[revision.name],
            "server/discover": self._discover,
        }

    # -- in and out -----------------------------------------------------------------------------------------

    async def answer(self, session: Session, message: bytes, notify: Notify | None = None) -> Reply | None:
        """Handle one message and return the answer it is owed, if any.

        Args:
            session: the peer.
            message: JSON, one object; for revisions that know batches also an array of them.
            notify: sends a notification that belongs to this request; None when the transport can't.

        Nothing but cancellation is raised: what can't be understood is answered with a JSON-RPC error. A request
        that the peer itself cancelled is owed nothing.
        """
        if message.lstrip()[:1] == b"[":
            return await self._answer_batch(session, message, notify)
        id_bytes: bytes | None = None
        try:
            incoming = self.parse(message)
            if incoming.method is UNSET:
                return None  # a response; we ask clients nothing, so there is nothing it could answer
            if incoming.id is UNSET:
                self._hear(session, incoming)
                return None
            id_bytes = incoming.id_bytes
            return Reply(await self._request(session, incoming, notify))
        except RequestCancelled:
            return None
        except RpcError as error:
            return Reply(wire.error_response(id_bytes, error), error.code)

    async def _answer_batch(self, session: Session, message: bytes, notify: Notify | None) -> Reply | None:
        try:
            if session.revision is None or not session.revision.batches:
                raise RpcError(wire.INVALID_REQUEST, "Send one JSON-RPC message at a time, as an object")
            messages = wire.decode_batch(message)
            if not 0 < len(messages) <= BATCH_LIMIT:
                raise RpcError(wire.INVALID_REQUEST, f"A batch holds 1 to {BATCH_LIMIT} messages")
        except RpcError as error:
            return Reply(wire.error_response(None, error), error.code)
        except wire.DecodeFailures as error:
            failure = RpcError(wire.PARSE_ERROR, f"The message is not JSON: {error}")
            return Reply(wire.error_response(None, failure), failure.code)
        answers = [await self.answer(session, bytes(each), notify) for each in messages]
        given = [each.body for each in answers if each is not None]
        return Reply(b"[" + b",".join(given) + b"]") if given else None

    @staticmethod
    def parse(message: bytes) -> Incoming:
        """Read the envelope.

        Raises:
            RpcError: -32700 for what isn't JSON, -32600 for what isn't a JSON-RPC message.
        """
        if wire.too_deep(message):
            raise RpcError(wire.PARSE_ERROR, f"The message nests deeper than {wire.DEPTH_LIMIT} levels")
        try:
            incoming = wire.decode_incoming(message)
        except msgspec.ValidationError as error:
            raise RpcError(wire.INVALID_REQUEST, f"The message is not JSON-RPC 2.0: {error}") from None
        except wire.DecodeFailures as error:
            raise RpcError(wire.PARSE_ERROR, f"The message is not JSON: {error}") from None
        if (id_bytes := incoming.id_bytes) is not None and not wire.is_id(id_bytes):
            raise RpcError(wire.INVALID_REQUEST, "A request's id is a string or a number")
        return incoming

    @staticmethod
    def params_of(incoming: Incoming) -> Params:
        """Read the parameters.

        Raises:
            RpcError: -32602 when they don't have the shape every request has.
        """
        if incoming.params is UNSET:
            return Params()
        try:
            return wire.decode_params(incoming.params)
        except wire.DecodeFailures as error:
            raise RpcError(wire.INVALID_PARAMS, f"The parameters don't fit: {error}") from None

    # -- requests -------------------------------------------------------------------------------------------

    async def _request(self, session: Session, incoming: Incoming, notify: Notify | None) -> bytes:
        id_bytes = incoming.id_bytes
        assert id_bytes is not None
        assert isinstance(incoming.method, str)
        if incoming.method == "initialize":
            return wire.response(id_bytes, self._initialize(session, incoming))
        params = self.params_of(incoming)
        revision = self._revision_of(session, params, incoming.method)
        if incoming.method == "tools/call":
            result = await self._call(session, revision, params, id_bytes, notify)
        elif (method := self._methods.get(incoming.method)) and self._is_known(incoming.method, revision):
            result = method(session, revision, params)
        else:
            raise RpcError(wire.METHOD_NOT_FOUND, f"There is no method {incoming.method[:100]}")
        if revision.era == "modern":
            result = result[:-1] + self._modern_suffix
        return wire.response(id_bytes, result)

    @staticmethod
    def _is_known(method: str, revision: Revision) -> bool:
        return revision.era == {"ping": "handshake", "server/discover": "modern"}.get(method, revision.era)

    def _revision_of(self, session: Session, params: Params, method: str) -> Revision:
        """The revision a request is spoken in: its own envelope's, else the one the handshake settled."""
        meta = params.meta
        if meta is UNSET or meta.version is UNSET:
            if session.revision is not None:
                return session.revision
            if method == "ping":
                return wire.REVISIONS[wire.HANDSHAKE[-1]]
            raise RpcError(
                wire.INVALID_PARAMS,
                f"Send initialize first, or carry {wire.VERSION_KEY} and {wire.CAPABILITIES_KEY} in params._meta",
            )
        if meta.capabilities is UNSET:
            raise RpcError(wire.INVALID_PARAMS, f"params._meta lacks {wire.CAPABILITIES_KEY}")
        try:
            requested = msgspec.json.decode(meta.version, type=str)
        except msgspec.ValidationError:
            raise RpcError(wire.INVALID_PARAMS, f"{wire.VERSION_KEY} must be a string") from None
        return self.modern_revision(requested)

    @staticmethod
    def modern_revision(requested: str) -> Revision:
        """The modern revision of this name.

        Raises:
            RpcError: -32022, naming what is supported.
        """
        if requested not in wire.MODERN:
            raise RpcError(
                wire.UNSUPPORTED_VERSION,
                f"The revision {requested[:40]} is not supported here",
                {"supported": wire.MODERN, "requested": requested},
            )
        return wire.REVISIONS[requested]

    def _initialize(self, session: Session, incoming: Incoming) -> bytes:
        if incoming.params is UNSET:
            raise RpcError(wire.INVALID_PARAMS, "initialize needs params with a protocolVersion")
        try:
            wanted = wire.decode_initialize(incoming.params).protocol_version
        except wire.DecodeFailures as error:
            raise RpcError(wire.INVALID_PARAMS, f"The parameters of initialize don't fit: {error}") from None
        # A revision we don't know, or one without a handshake, gets our newest that has one as a counter-offer.
        session.revision = wire.REVISIONS[wanted if wanted in wire.HANDSHAKE else wire.HANDSHAKE[-1]]
        return wire.encode(
            {
                "protocolVersion": session.revision.name,
                "capabilities": self._capabilities,
                "serverInfo": self._info,
                "instructions": INSTRUCTIONS,
            }
        )

    def _discover(self, session: Session, revision: Revision, params: Params) -> bytes:
        return wire.encode(
            {
                "supportedVersions": wire.MODERN,
                "capabilities": self._capabilities,
                "instructions": INSTRUCTIONS,
                "ttlMs": LIST_TTL,
                "cacheScope": "public",
            }
        )

    def _encode_tools(self, revision: Revision) -> bytes:
        left_out = {
            *(() if revision.structured else ("title", "outputSchema")),
            *(() if revision.annotations else ("annotations",)),
        }
        tools = [
            {key: value for key, value in tool.describe().items() if key not in left_out}
            for tool in self._tools.values()
        ]
        listed: dict[str, Any] = {"tools": tools}
        if revision.era == "modern":
            listed |= {"ttlMs": LIST_TTL, "cacheScope": "public"}
        return wire.encode(listed)

    # -- tools ----------------------------------------------------------------------------------------------

    async def _call(
        self, session: Session, revision: Revision, params: Params, id_bytes: bytes, notify: Notify | None
    ) -> bytes:
        name = params.name
        if name is UNSET:
            raise RpcError(wire.INVALID_PARAMS, "tools/call needs the name of a tool")
        for prefix in PREFIXES:
            name = name.removeprefix(prefix)
        tool = self._tools.get(name)
        if tool is None:
            raise RpcError(wire.INVALID_PARAMS, f"There is no tool {name[:100]}; tools/list names them all")
        if id_bytes in session.in_flight:
            raise RpcError(wire.INVALID_REQUEST, "A request with this id is being answered already")

        progress = None
        if notify is not None and params.meta is not UNSET and params.meta.progress_token is not UNSET:
            progress = _progress(notify, params.meta.progress_token)
        arguments = params.arguments
        if arguments is UNSET or bytes(arguments) == b"null":
            arguments = b"{}"
        started = time.perf_counter()
        call = Call(session.transport, len(self._tools), progress, session.principal.routine)
        answer: Answer | None = None
        with trio.CancelScope() as scope:
            session.in_flight[id_bytes] = scope
            self._metrics.calls_in_flight.count(name)
            try:
                if session.principal.may(read_only=tool.read_only):
                    answer = await tool.run(self._engine, arguments, call)
                else:
                    refusal = _forbidden(session.principal, tool)
                    answer = Answer(wire.encode(refusal.as_dict()), True, refusal.code)
            finally:
                del session.in_flight[id_bytes]
                self._metrics.calls_in_flight.count(name, by=-1)
                self._metrics.calls.count(name, "cancelled" if answer is None else answer.code)
        if answer is None:
            raise RequestCancelled
        self._metrics.call_seconds.observe(time.perf_counter() - started, name)
        return _call_result(answer.body, answer.is_error, revision)

    def _hear(self, session: Session, incoming: Incoming) -> None:
        """Act on a notification; one we don't know is none of our business."""
        if incoming.method == "notifications/cancelled" and incoming.params is not UNSET:
            try:
                cancelled = wire.decode_cancelled(incoming.params)
            except wire.DecodeFailures:
                return
            if cancelled.request_id is not UNSET and (
                scope := session.in_flight.get(bytes(cancelled.request_id).strip())
            ):
                scope.cancel()


class RequestCancelled(Exception):
    """The client withdrew its request, so no answer is owed."""


def _progress(notify: Notify, token: int | str) -> Callable[[float, float, str], Awaitable[None]]:
    async def tell(done: float, total: float, what: str) -> None:
        await notify(
            wire.notification(
                "notifications/progress", {"progressToken": token, "progress": done, "total": total, "message": what}
            )
        )

    return tell


def _call_result(body: bytes, failed: bool, revision: Revision) -> bytes:
    """The `tools/call` result: the JSON as text and, where the revision knows it, as structured content."""
    result = b'{"content":[{"type":"text","text":' + wire.encode(body.decode()) + b"}]"
    if revision.structured:
        result += b',"structuredContent":' + body
    return result + (b',"isError":true}' if failed else b"}")


def _forbidden(principal: Principal, tool: Tool) -> Forbidden:
    return Forbidden(
        f"{principal.name} may only read, and {tool.name} changes things.",
        "Use a token with the scope write.",
        tool=tool.name,
        scope="write",
    )
