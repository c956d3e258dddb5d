"""The MCP server: one message in, at most one answer out.

It knows nothing of pipes or sockets. A transport opens a `Session` per client (per request in the modern era over
HTTP), passes every message to `McpServer.answer`, and sends what comes back.
"""

from __future__ import annotations

import base64
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import msgspec
import trio
from msgspec import UNSET

from chora import __version__
from chora.access import Principal, authorize
from chora.errors import ChoraError, Forbidden, Internal
from chora.metrics import Metrics
from chora.nesting import DEPTH_LIMIT, is_json_too_deep
from chora.protocol import wire
from chora.protocol.broadcast import (
    LIST_CHANGES,
    RESOURCE_UPDATED,
    SUBSCRIPTION_LIMIT,
    URI_LIMIT,
    Broadcaster,
    ChangeNotification,
    ListName,
    NotificationQueue,
    QueueClosed,
)
from chora.protocol.provider import Provider
from chora.protocol.requesting_client import Notify, RequestingClient, StateSigner
from chora.protocol.session import Session
from chora.protocol.types import Call, InputRequired, Link, Resource, ResourceStat, ToolAnswer
from chora.protocol.wire import IncomingMessage, RequestParams, Revision, RpcError
from chora.request_context import caller, event_listener, trace_id

log = logging.getLogger("chora.protocol")

DropConnection = Callable[[float], Awaitable[None]]

LIST_TTL = 300_000
"""Milliseconds for which a client may reuse a list, which only a restart changes."""

COMPLETION_LIMIT = 100
"""Values in one completion."""
LOG_FLUSH_INTERVAL = 0.1
"""Seconds between two flushes of the log messages of a call."""
OPEN_SUBSCRIPTIONS_LIMIT = 16
"""Subscriptions that one client may have open at a time."""

TRACE_LIMIT = 128
"""Characters of a trace id that are kept."""

BATCH_LIMIT = 50
"""Messages in a batch, in the revisions that have batches."""
BATCH_BYTES = 16 * 1024 * 1024
"""Bytes of answers to one batch, after which no further request in it is carried out."""

LEGACY_TOOL_PREFIXES = ("choracompose:", "choracompose__")
"""Prefixes that clients of chora-compose put before tool names."""


class EncodedReply(NamedTuple):
    """An encoded answer; `error_code` is a JSON-RPC code when it is an error."""

    body: bytes
    error_code: int | None = None


class McpServer:
    """Answers MCP messages.

    Args:
        provider: the tools, resources and prompts that it serves.
        metrics: where calls are counted.
        name: the server's name in its answers.
        level: the least level of log messages for clients that haven't set one; None sends them none.
    """

    def __init__(self, provider: Provider, metrics: Metrics, *, name: str = "chora", level: str | None = None) -> None:
        self.broadcaster = Broadcaster()
        self.first_request_answered = trio.Event()
        """Set after the first answer; work that would have delayed it starts then."""
        self._provider = provider
        self._metrics = metrics
        self._default_log_level = level
        self._state_signer = StateSigner(secrets.token_bytes(32))
        self._server_info = {"name": name, "title": name, "version": __version__}
        described = [tool.describe() for tool in provider.tools.values()]
        self._tool_lists = {revision.name: _encode_tools(described, revision) for revision in wire.REVISIONS.values()}
        self.parameter_headers = {
            each["name"]: mirrored for each in described if (mirrored := _find_parameter_headers(each["inputSchema"]))
        }
        """By tool: the arguments that HTTP requests repeat in headers, and the headers' names."""
        self._modern_suffix = b',"resultType":"complete"' + self._result_meta()
        self._methods: dict[str, Callable[[McpRequest], dict[str, Any]]] = {
            "ping": lambda request: {},
            "server/discover": self._discover,
            "resources/list": self._list_resources,
            "resources/templates/list": self._list_templates,
            "resources/read": self._read_resource,
            "resources/subscribe": self._subscribe,
            "resources/unsubscribe": self._unsubscribe,
            "prompts/list": self._list_prompts,
            "prompts/get": self._get_prompt,
            "completion/complete": self._complete,
            "logging/setLevel": self._set_level,
        }

    def _result_meta(self) -> bytes:
        """The end of a modern result, which names the server."""
        return b',"_meta":' + wire.encode({wire.SERVER_KEY: self._server_info}) + b"}"

    def notify_resource_changed(self, uri: str) -> None:
        """Notify the subscribers of a resource that it changed. Never waits."""
        if self.broadcaster.is_empty:
            return
        self.broadcaster.publish(ChangeNotification(RESOURCE_UPDATED, uri))
        others, list_changed = self._provider.dependent_changes(uri)
        for other in others:
            self.broadcaster.publish(ChangeNotification(RESOURCE_UPDATED, other))
        if list_changed:
            self.notify_list_changed("resources")

    def notify_list_changed(self, name: ListName) -> None:
        """Notify all clients that a list changed. Never waits."""
        self.broadcaster.publish(LIST_CHANGES[name])

    # -- messages --------------------------------------------------------------------------------------------

    async def answer(
        self,
        session: Session,
        message: bytes,
        notify: Notify | None = None,
        drop_connection: DropConnection | None = None,
    ) -> EncodedReply | None:
        """Handle one message and return its answer, if it gets one.

        Args:
            session: of the client.
            message: JSON, one object; for revisions that know batches also an array of them.
            notify: sends a message that belongs to this request; None when the transport can't.
            drop_connection: drops the connection that waits for the answer, when the client can resume the stream.

        Nothing but cancellation is raised: what can't be understood is answered with a JSON-RPC error. A request
        that the client cancelled gets no answer.
        """
        if message.lstrip()[:1] == b"[":
            return await self._answer_batch(session, message, notify)
        return await self._answer_one(session, message, notify, drop_connection)

    async def _answer_one(
        self,
        session: Session,
        message: bytes,
        notify: Notify | None,
        drop_connection: DropConnection | None = None,
        *,
        is_refused: bool = False,
    ) -> EncodedReply | None:
        id_bytes: bytes | None = None
        try:
            incoming = self.parse_message(message)
            if incoming.method is UNSET:
                self._handle_response(session, incoming)
                return None
            if incoming.id is UNSET:
                self._handle_notification(session, incoming)
                return None
            id_bytes = bytes(incoming.id).strip()
            if is_refused:
                text = f"The answers to this batch are longer than {BATCH_BYTES:,} bytes; send this one by itself"
                raise RpcError(wire.INVALID_REQUEST, text)
            reply = EncodedReply(await self._handle_request(session, incoming, id_bytes, notify, drop_connection))
            self.first_request_answered.set()
            return reply
        except RequestCancelled:
            return None
        except RpcError as error:
            return EncodedReply(wire.error_response(id_bytes, error), error.code)

    async def _answer_batch(self, session: Session, message: bytes, notify: Notify | None) -> EncodedReply | None:
        try:
            if session.revision is None or not session.revision.batches:
                raise RpcError(wire.INVALID_REQUEST, "Send one JSON-RPC message at a time, as an object")
            messages = wire.decode_batch(message)
            if not 0 < len(messages) <= BATCH_LIMIT:
                raise RpcError(wire.INVALID_REQUEST, f"A batch holds 1 to {BATCH_LIMIT} messages")
        except RpcError as error:
            return EncodedReply(wire.error_response(None, error), error.code)
        except wire.DECODE_ERRORS as error:
            failure = RpcError(wire.PARSE_ERROR, f"The message is not JSON: {error}")
            return EncodedReply(wire.error_response(None, failure), failure.code)
        # A batch within a batch is refused: each level would multiply the answers by 50 (CWE-405).
        replies: list[bytes] = []
        size = 0
        for each in messages:
            reply = await self._answer_one(session, bytes(each), notify, is_refused=size > BATCH_BYTES)
            if reply is not None:
                replies.append(reply.body)
                size += len(reply.body)
            await trio.lowlevel.checkpoint()  # other tasks run between two messages of a batch
        return EncodedReply(b"[" + b",".join(replies) + b"]") if replies else None

    @staticmethod
    def parse_message(message: bytes) -> IncomingMessage:
        """Decode the envelope of a message.

        Raises:
            RpcError: -32700 for what isn't JSON, -32600 for what isn't a JSON-RPC message.
        """
        if is_json_too_deep(message):
            raise RpcError(wire.PARSE_ERROR, f"The message nests deeper than {DEPTH_LIMIT} levels")
        try:
            incoming = wire.decode_incoming(message)
        except msgspec.ValidationError as error:
            raise RpcError(wire.INVALID_REQUEST, f"The message is not JSON-RPC 2.0: {error}") from None
        except wire.DECODE_ERRORS as error:
            raise RpcError(wire.PARSE_ERROR, f"The message is not JSON: {error}") from None
        if incoming.method is UNSET:
            return incoming  # a response gets no answer, not even an error
        if (id_bytes := incoming.id_bytes) is not None and not wire.is_id(id_bytes):
            raise RpcError(wire.INVALID_REQUEST, "A request's id is a string or a number")
        return incoming

    @staticmethod
    def params_of(incoming: IncomingMessage) -> RequestParams:
        """Decode the parameters of a message.

        Raises:
            RpcError: -32602 when they don't have the shape every request has.
        """
        if incoming.parameters is None:
            return RequestParams()
        try:
            return wire.decode_params(incoming.parameters)
        except wire.DECODE_ERRORS as error:
            raise RpcError(wire.INVALID_PARAMS, f"The parameters don't fit: {error}") from None

    # -- requests -------------------------------------------------------------------------------------------

    async def _handle_request(
        self,
        session: Session,
        incoming: IncomingMessage,
        id_bytes: bytes,
        notify: Notify | None,
        drop_connection: DropConnection | None,
    ) -> bytes:
        method = incoming.method
        assert method is not UNSET
        params = self.params_of(incoming)
        if method == "initialize" and (params.meta is UNSET or params.meta.version is UNSET):
            return wire.response(id_bytes, self._initialize(session, incoming))
        revision = self._revision_of(session, params, method)
        raw = incoming.parameters or msgspec.Raw(b"{}")
        request = McpRequest(session, revision, method, params, raw, id_bytes, notify, drop_connection)
        token = None if (found := _trace_of(params)) is None else trace_id.set(found)
        try:
            return wire.response(id_bytes, await self._dispatch(request))
        finally:
            if token is not None:
                trace_id.reset(token)

    async def _dispatch(self, request: McpRequest) -> bytes:
        method, revision = request.method, request.revision
        in_era = revision.era == wire.METHOD_ERAS.get(method, revision.era)
        try:
            if method == "tools/call":
                result = await self._call_tool(request)
            elif method == "tools/list":
                result = self._tool_lists[revision.name]
            elif method == "subscriptions/listen" and in_era:
                return await self._serve_subscription(request)
            elif (answer := self._methods.get(method)) and in_era:
                result = _run_handler(request, answer)
            else:
                raise RpcError(wire.METHOD_NOT_FOUND, f"There is no method {method[:100]}")
        except InputRequired as required:
            return wire.encode(required.result)[:-1] + self._result_meta()
        return result[:-1] + self._modern_suffix if revision.era == "modern" else result

    def _requesting_client(self, request: McpRequest, target: str) -> RequestingClient:
        purpose = f"{request.method} {target}"
        return RequestingClient(
            request.session,
            request.revision,
            request.params,
            purpose,
            request.notify,
            request.drop_connection,
            self._state_signer,
        )

    def _revision_of(self, session: Session, params: RequestParams, method: str) -> Revision:
        """The revision of a request: its own envelope's, else that of the handshake."""
        meta = params.meta
        if meta is UNSET or meta.version is UNSET:
            if session.revision is not None:
                return session.revision
            if method == "ping":
                return wire.REVISIONS[wire.HANDSHAKE_REVISIONS[-1]]
            raise RpcError(
                wire.INVALID_PARAMS,
                f"Send initialize first, or carry {wire.VERSION_KEY} and {wire.CAPABILITIES_KEY} in params._meta",
            )
        if meta.capabilities is UNSET:
            raise RpcError(wire.INVALID_PARAMS, f"params._meta lacks {wire.CAPABILITIES_KEY}")
        if bytes(meta.capabilities).lstrip()[:1] != b"{":
            raise RpcError(wire.INVALID_PARAMS, f"{wire.CAPABILITIES_KEY} must be an object")
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
        if requested not in wire.MODERN_REVISIONS:
            raise RpcError(
                wire.UNSUPPORTED_VERSION,
                f"The revision {requested[:40]} is not supported here",
                {"supported": wire.MODERN_REVISIONS, "requested": requested},
            )
        return wire.REVISIONS[requested]

    def _initialize(self, session: Session, incoming: IncomingMessage) -> bytes:
        if incoming.params is UNSET:
            raise RpcError(wire.INVALID_PARAMS, "initialize needs params with a protocolVersion")
        try:
            offered = wire.decode_initialize(incoming.params)
        except wire.DECODE_ERRORS as error:
            raise RpcError(wire.INVALID_PARAMS, f"The parameters of initialize don't fit: {error}") from None
        # For an unknown revision, or one without a handshake, the server answers with its newest handshake revision.
        wanted = offered.protocol_version
        session.revision = wire.REVISIONS[
            wanted if wanted in wire.HANDSHAKE_REVISIONS else wire.HANDSHAKE_REVISIONS[-1]
        ]
        session.capabilities = offered.capabilities
        session.log_level = self._default_log_level
        for change in LIST_CHANGES.values():
            session.notifications.subscribed[change] = ""
        return wire.encode(
            {
                "protocolVersion": session.revision.name,
                "capabilities": _capabilities(session.revision),
                "serverInfo": self._server_info,
                "instructions": self._provider.instructions,
            }
        )

    def _discover(self, request: McpRequest) -> dict[str, Any]:
        answer = {
            "supportedVersions": wire.MODERN_REVISIONS,
            "capabilities": _capabilities(request.revision),
            "instructions": self._provider.instructions,
        }
        return answer | _cacheable(request.revision)

    def _set_level(self, request: McpRequest) -> dict[str, Any]:
        try:
            request.session.log_level = wire.parse_log_level(wire.decode_level(request.raw).level)
        except wire.DECODE_ERRORS as error:
            raise RpcError(wire.INVALID_PARAMS, f"The parameters of logging/setLevel don't fit: {error}") from None
        return {}

    # -- resources ------------------------------------------------------------------------------------------

    def _list_resources(self, request: McpRequest) -> dict[str, Any]:
        page = self._provider.resources.list_resources(request.params.cursor)
        listed: dict[str, Any] = {"resources": [_describe_resource(each, request.revision) for each in page.resources]}
        if page.cursor is not None:
            listed["nextCursor"] = page.cursor
        return listed | _not_cacheable(request.revision)

    def _list_templates(self, request: McpRequest) -> dict[str, Any]:
        return {"resourceTemplates": list(self._provider.resources.list_templates())} | _cacheable(request.revision)

    def _read_resource(self, request: McpRequest) -> dict[str, Any]:
        uri = _uri_of(request)
        contents = self._provider.resources.read_resource(uri)
        body: dict[str, str] = (
            {"text": contents.text}
            if isinstance(contents.text, str)
            else {"blob": base64.b64encode(contents.text).decode()}
        )
        read = {"contents": [{"uri": uri, "mimeType": contents.mime_type, **body}]}
        return read | (_cacheable(request.revision) if contents.fixed else _not_cacheable(request.revision))

    def _subscribe(self, request: McpRequest) -> dict[str, Any]:
        uri = _uri_of(request)
        change = ChangeNotification(RESOURCE_UPDATED, self._canonical_uri(uri))
        wanted = request.session.notifications.subscribed
        if len(wanted) - len(LIST_CHANGES) >= SUBSCRIPTION_LIMIT and change not in wanted:
            raise RpcError(wire.INVALID_REQUEST, f"A session may subscribe to {SUBSCRIPTION_LIMIT:,} resources")
        wanted[change] = uri
        return {}

    def _unsubscribe(self, request: McpRequest) -> dict[str, Any]:
        uri = _uri_of(request)
        wanted = request.session.notifications.subscribed
        for change in [change for change, known in wanted.items() if change.uri and uri in (change.uri, known)]:
            del wanted[change]
        return {}

    def _canonical_uri(self, uri: str) -> str:
        """The URI under which changes of a resource are published.

        Raises:
            ResourceNotFound, InvalidConfigId: no resource could have this URI.
        """
        if len(uri) > URI_LIMIT:
            raise RpcError(wire.INVALID_PARAMS, f"A URI to subscribe to has at most {URI_LIMIT:,} characters")
        return self._provider.resources.canonical_uri(uri)

    async def _serve_subscription(self, request: McpRequest) -> bytes:
        """`subscriptions/listen`: the response is a stream of notifications until client or server end it.

        Returns when the server ends it; the client ends it by cancelling.
        """
        session, id_bytes, notify = request.session, request.id_bytes, request.notify
        try:
            wanted_filter = wire.decode_listen(request.raw).notifications
        except wire.DECODE_ERRORS as error:
            raise RpcError(wire.INVALID_PARAMS, f"The parameters of subscriptions/listen don't fit: {error}") from None
        if notify is None:
            raise RpcError(wire.INVALID_REQUEST, "The answer is a stream: accept text/event-stream")
        if id_bytes in session.in_flight:
            raise RpcError(wire.INVALID_REQUEST, "A request with this id is being answered already")
        if len(session.subscriptions) >= OPEN_SUBSCRIPTIONS_LIMIT:
            raise RpcError(wire.INVALID_REQUEST, f"{OPEN_SUBSCRIPTIONS_LIMIT} subscriptions may be open at a time")
        meta = {wire.SUBSCRIPTION_KEY: msgspec.Raw(id_bytes)}
        queue = NotificationQueue(meta=meta)
        queue.subscribed, accepted = self._accepted_filter(wanted_filter)
        acknowledged = {"notifications": accepted, "_meta": meta}
        with trio.CancelScope() as scope:
            session.in_flight[id_bytes] = scope
            session.subscriptions.add(queue)
            self.broadcaster.subscribe(queue)
            try:
                await notify(wire.notification("notifications/subscriptions/acknowledged", acknowledged))
                while True:
                    await notify(await queue.wait_next())
            except QueueClosed:
                return wire.encode({"resultType": "complete", "_meta": {**meta, wire.SERVER_KEY: self._server_info}})
            finally:
                self.broadcaster.unsubscribe(queue)
                session.subscriptions.discard(queue)
                del session.in_flight[id_bytes]
        raise RequestCancelled

    def _accepted_filter(
        self, wanted_filter: wire.SubscriptionFilter
    ) -> tuple[dict[ChangeNotification, str], dict[str, Any]]:
        """The part of a subscription's filter that is accepted, for the queue and for the acknowledgement."""
        wanted: dict[ChangeNotification, str] = {}
        accepted: dict[str, Any] = {}
        lists: tuple[tuple[ListName, str, bool | None], ...] = (
            ("tools", "toolsListChanged", wanted_filter.tools_list_changed),
            ("prompts", "promptsListChanged", wanted_filter.prompts_list_changed),
            ("resources", "resourcesListChanged", wanted_filter.resources_list_changed),
        )
        for name, key, is_wanted in lists:
            if is_wanted:
                wanted[LIST_CHANGES[name]] = ""
                accepted[key] = True
        uris = list(dict.fromkeys(wanted_filter.resource_subscriptions or ()))
        if len(uris) > SUBSCRIPTION_LIMIT:
            raise RpcError(wire.INVALID_PARAMS, f"A subscription may name {SUBSCRIPTION_LIMIT:,} resources")
        kept: list[str] = []
        for uri in uris:
            try:
                change = ChangeNotification(RESOURCE_UPDATED, self._canonical_uri(uri))
            except (ChoraError, RpcError):
                continue  # no resource can have this URI; the acknowledgement leaves it out
            wanted[change] = uri
            kept.append(uri)
        if kept:
            accepted["resourceSubscriptions"] = kept
        return wanted, accepted

    # -- prompts and completion -----------------------------------------------------------------------------

    def _list_prompts(self, request: McpRequest) -> dict[str, Any]:
        left_out = () if request.revision.structured else ("title",)
        prompts = [
            {key: value for key, value in prompt.items() if key not in left_out}
            for prompt in self._provider.prompts.list_prompts()
        ]
        return {"prompts": prompts} | _cacheable(request.revision)

    def _get_prompt(self, request: McpRequest) -> dict[str, Any]:
        params = request.params
        if params.name is UNSET:
            raise RpcError(wire.INVALID_PARAMS, "prompts/get needs the name of a prompt")
        arguments = b"{}" if params.arguments is UNSET or bytes(params.arguments) == b"null" else params.arguments
        try:
            texts = wire.decode_texts(arguments)
        except wire.DECODE_ERRORS as error:
            raise RpcError(wire.INVALID_PARAMS, f"The arguments of a prompt are texts by name: {error}") from None
        description, messages = self._provider.prompts.get_prompt(
            params.name, texts, self._requesting_client(request, params.name)
        )
        if not request.revision.structured:
            messages = [_without_resource_link(message) for message in messages]
        return {"description": description, "messages": messages}

    def _complete(self, request: McpRequest) -> dict[str, Any]:
        try:
            completion = wire.decode_complete(request.raw)
        except wire.DECODE_ERRORS as error:
            raise RpcError(wire.INVALID_PARAMS, f"The parameters of completion/complete don't fit: {error}") from None
        if completion.ref.type == "ref/prompt":
            values = self._provider.prompts.complete(completion.ref.name, completion.argument.name)
        else:
            known_arguments = (completion.context.arguments if completion.context else None) or {}
            values = self._provider.resources.complete(completion.ref.uri, completion.argument.name, known_arguments)
        matching = _matching_values(values, completion.argument.value)
        shown = matching[:COMPLETION_LIMIT]
        return {"completion": {"values": shown, "total": len(matching), "hasMore": len(matching) > len(shown)}}

    # -- tools ----------------------------------------------------------------------------------------------

    def tool_name(self, name: str) -> str:
        """A tool's name without the prefix that clients of chora-compose put before it."""
        for prefix in LEGACY_TOOL_PREFIXES:
            name = name.removeprefix(prefix)
        return name

    async def _call_tool(self, request: McpRequest) -> bytes:
        session, params, id_bytes = request.session, request.params, request.id_bytes
        if params.name is UNSET:
            raise RpcError(wire.INVALID_PARAMS, "tools/call needs the name of a tool")
        name = self.tool_name(params.name)
        if name not in self._provider.tools and name not in self._provider.withheld:
            raise RpcError(wire.INVALID_PARAMS, f"There is no tool {name[:100]}; tools/list names them all")
        if id_bytes in session.in_flight:
            raise RpcError(wire.INVALID_REQUEST, "A request with this id is being answered already")
        client = self._requesting_client(request, name)
        arguments = params.arguments
        if arguments is UNSET or bytes(arguments) == b"null":
            arguments = b"{}"
        principal = session.principal
        call = Call(
            session.transport, len(self._provider.tools), client.progress, principal.routine, principal.name, client
        )
        started = time.perf_counter()
        answer: ToolAnswer | None = None
        code = "cancelled"
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
                code = answer.code
            except Forbidden as refusal:
                answer = ToolAnswer(wire.encode(refusal.as_dict()), True, refusal.code)
                code = refusal.code
            except InputRequired:
                code = "input_required"
                raise
            finally:
                caller.reset(token)
                del session.in_flight[id_bytes]
                self._metrics.calls_in_flight.count(name, by=-1)
                self._metrics.calls.count(name, code)
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
            client.log("error" if failed else "info", event, event["event_type"])

        async def flush_regularly() -> None:
            while True:
                await client.flush()
                await trio.sleep(LOG_FLUSH_INTERVAL)

        answer: ToolAnswer | None = None
        failure: InputRequired | RpcError | None = None
        token = event_listener.set(log_event)
        try:
            async with trio.open_nursery() as beside:
                beside.start_soon(flush_regularly)
                try:
                    answer = await self._provider.call_tool(name, arguments, call)
                except (InputRequired, RpcError) as error:  # raised below, outside the nursery and its exception group
                    failure = error
                beside.cancel_scope.cancel()
        finally:
            event_listener.reset(token)
        await client.flush()
        client.log_level = None  # work that goes on as a job sends no more log messages
        if failure is not None:
            raise failure
        assert answer is not None
        return answer

    def _handle_notification(self, session: Session, incoming: IncomingMessage) -> None:
        """Act on a notification; unknown ones are ignored."""
        if incoming.method == "notifications/cancelled" and incoming.params is not UNSET:
            try:
                cancelled = wire.decode_cancelled(incoming.params)
            except wire.DECODE_ERRORS:
                return
            if cancelled.request_id is not UNSET and (
                scope := session.in_flight.get(bytes(cancelled.request_id).strip())
            ):
                scope.cancel()

    @staticmethod
    def _handle_response(session: Session, incoming: IncomingMessage) -> None:
        """Resolve the pending request that a response of the client belongs to; any other response is dropped."""
        if incoming.id is UNSET:
            return
        try:
            number = wire.decode_text(incoming.id)
            result = UNSET if incoming.result is UNSET else wire.decode_any(incoming.result)
            error = UNSET if incoming.error is UNSET else wire.decode_any(incoming.error)
        except wire.DECODE_ERRORS:
            return
        if (pending := session.pending_requests.get(number)) is not None:
            pending.resolve(result, error)


class McpRequest(NamedTuple):
    """A request that is being answered."""

    session: Session
    revision: Revision
    method: str
    params: RequestParams
    raw: msgspec.Raw
    """The parameters as they were sent."""
    id_bytes: bytes
    notify: Notify | None
    drop_connection: DropConnection | None


class RequestCancelled(Exception):
    """The client cancelled its request, which gets no answer."""


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
    return wire.encode({"tools": tools} | _cacheable(revision))


def _find_parameter_headers(schema: dict[str, Any]) -> dict[str, str]:
    """The arguments of a tool that HTTP requests repeat in headers, and the headers' names in lower case."""
    properties: dict[str, dict[str, Any]] = schema.get("properties", {})
    return {
        name: f"mcp-param-{each['x-mcp-header'].lower()}"
        for name, each in properties.items()
        if isinstance(each.get("x-mcp-header"), str)
    }


def _capabilities(revision: Revision) -> dict[str, dict[str, bool]]:
    capabilities: dict[str, dict[str, bool]] = {
        "logging": {},
        "tools": {"listChanged": True},
        "resources": {"subscribe": True, "listChanged": True},
        "prompts": {"listChanged": True},
    }
    return {**capabilities, "completions": {}} if revision.completions else capabilities


def _cacheable(revision: Revision) -> dict[str, Any]:
    """The cache fields of a result that can't change while the server runs; none in revisions without them."""
    return {"ttlMs": LIST_TTL, "cacheScope": "public"} if revision.era == "modern" else {}


def _not_cacheable(revision: Revision) -> dict[str, Any]:
    """The cache fields of a result that may change at any time."""
    return {"ttlMs": 0, "cacheScope": "private"} if revision.era == "modern" else {}


_PARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")


def _trace_of(params: RequestParams) -> str | None:
    """The trace id of a request: that of a W3C `traceparent`, else `trace_id` as it is."""
    if params.meta is UNSET:
        return None
    parent, plain = params.meta.traceparent, params.meta.trace_id
    if isinstance(parent, str) and (found := _PARENT.fullmatch(parent)) and found[1].strip("0"):
        return found[1]
    return plain[:TRACE_LIMIT] if isinstance(plain, str) and plain else None


def _run_handler(request: McpRequest, answer: Callable[[McpRequest], dict[str, Any]]) -> bytes:
    """Run a handler; a ChoraError becomes a JSON-RPC error, a bug is logged and becomes one with an incident id."""
    try:
        return wire.encode(answer(request))
    except (RpcError, InputRequired):
        raise
    except ChoraError as error:
        code = wire.INTERNAL_ERROR
        if error.category == "missing" and request.method.startswith("resources/"):
            code = wire.INVALID_PARAMS if request.revision.era == "modern" else wire.RESOURCE_NOT_FOUND
        elif error.category in ("invalid", "missing", "unauthenticated", "denied", "conflict"):
            code = wire.INVALID_PARAMS
        about = {} if request.params.uri is UNSET else {"uri": request.params.uri}
        raise RpcError(
            code, error.message, {**error.details, **about, "code": error.code, "hint": error.hint}
        ) from None
    except Exception as error:
        incident = Internal(error, where=request.method)
        log.exception("incident %s in %s", incident.incident, request.method)
        raise RpcError(wire.INTERNAL_ERROR, incident.message, {**incident.details, "code": incident.code}) from None


def _uri_of(request: McpRequest) -> str:
    if request.params.uri is UNSET:
        raise RpcError(wire.INVALID_PARAMS, f"{request.method} needs the uri of a resource")
    return request.params.uri


def _describe_resource(resource: Resource, revision: Revision) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "uri": resource.uri,
        "name": resource.name,
        "description": resource.description,
        "mimeType": resource.mime_type,
    }
    stat = ResourceStat() if resource.stat is None else resource.stat()
    if stat.size is not None:
        shown["size"] = stat.size
    if stat.modified is not None and revision.structured:
        shown["annotations"] = {"lastModified": stat.modified}
    return shown


def _without_resource_link(message: dict[str, Any]) -> dict[str, Any]:
    """A message for revisions without resource links: the link as a sentence."""
    content = message["content"]
    if content["type"] != "resource_link":
        return message
    return {**message, "content": {"type": "text", "text": f"See also the resource {content['uri']}."}}


def _matching_values(values: Sequence[str], typed: str) -> list[str]:
    """The values that match what was typed: those that begin with it, then those that contain it."""
    wanted = typed.casefold()
    begin = [value for value in values if value.casefold().startswith(wanted)]
    contain = [value for value in values if wanted in value.casefold() and not value.casefold().startswith(wanted)]
    return begin + contain
