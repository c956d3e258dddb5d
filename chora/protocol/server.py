"""The MCP server: one message in, at most one answer out.

It knows nothing of pipes or sockets. A transport opens a `Session` per client (per request in the modern era over
HTTP), passes every message to `McpServer.answer`, and sends what comes back.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import trio
from msgspec import UNSET

from chora import __version__
from chora.audit import AuditLog
from chora.errors import Busy, ChoraError, Internal, LimitExceeded
from chora.leniency import alike_ids, without_bom
from chora.metrics import Metrics
from chora.peer_memory import Holding, PeerMemory, answer_too_large, limit_by_settings
from chora.protocol import wire
from chora.protocol.broadcast import LIST_CHANGES, RESOURCE_UPDATED, Broadcaster, ChangeNotification, ListName
from chora.protocol.envelope import (
    check_values,
    decoded_bytes,
    find_id,
    params_of,
    parse_message,
    revision_of,
    trace_of,
)
from chora.protocol.prompt_methods import PromptMethods
from chora.protocol.provider import Provider
from chora.protocol.request import DropConnection, McpRequest, RequestCancelled, cacheable
from chora.protocol.requesting_client import Notify, StateSigner
from chora.protocol.resource_methods import ResourceMethods
from chora.protocol.session import Session
from chora.protocol.subscriptions import Subscriptions
from chora.protocol.tool_calls import ToolCalls, outcome_of
from chora.protocol.types import InputRequired
from chora.protocol.wire import IncomingMessage, Revision, RpcError
from chora.request_context import trace_id
from chora.settings import LimitSettings

log = logging.getLogger("chora.protocol")

ANSWER_RESERVE = 128 * 1024
"""Bytes that are held for the answer of a request before it is worked on; most answers need no more."""
AUDITED = ("resources/read", "prompts/get")
"""Methods that are recorded in the audit log besides `tools/call`: what they answer is the project's."""
WATCHED = ("resources/list", "resources/subscribe", "subscriptions/listen")
"""Methods after whose answer the client relies on being notified of every change."""
BATCH_LIMIT = 50
"""Messages in a batch, in the revisions that have batches."""
BATCH_BYTES = 16 * 1024 * 1024
"""Bytes of answers to one batch, after which no further request in it is carried out."""


class EncodedReply(NamedTuple):
    """An encoded answer; `error_code` is a JSON-RPC code when it is an error."""

    body: bytes
    error_code: int | None = None


class McpServer:
    """Answers MCP messages.

    Args:
        provider: the tools, resources and prompts that it serves.
        metrics: where calls are counted.
        memory: the account of what is held for peers; one of its own by default.
        answer_limit: bytes of an answer, as JSON; tools keep to it themselves.
        name: the server's name in its answers.
        level: the least level of log messages for clients that haven't set one; None sends them none.
        audit: where calls are recorded.
        is_watched: whether a watcher will report changes that others make; it sets `changes_known`.
    """

    def __init__(
        self,
        provider: Provider,
        metrics: Metrics,
        *,
        memory: PeerMemory | None = None,
        answer_limit: int = LimitSettings().answer,
        name: str = "chora",
        level: str | None = None,
        audit: AuditLog | None = None,
        is_watched: bool = False,
    ) -> None:
        self.memory = memory or PeerMemory(limit_by_settings(LimitSettings()))
        self.broadcaster = Broadcaster()
        self.first_request_answered = trio.Event()
        """Set after the first answer; work that would have delayed it starts then."""
        self.changes_known = trio.Event()
        """Set once changes that others make are noticed. Subscriptions wait for it: a change that came after one, but
        before what it is compared with, would never be reported."""
        if not is_watched:
            self.changes_known.set()
        self._provider = provider
        self._answer_limit = answer_limit
        self._default_log_level = level
        self._server_info = {"name": name, "title": name, "version": __version__}
        state_signer = StateSigner(secrets.token_bytes(32))
        self.audit = audit or AuditLog()
        """Where calls are recorded."""
        self._tool_calls = ToolCalls(provider, metrics, self.audit, state_signer)
        self._subscriptions = Subscriptions(provider, self.broadcaster, self._server_info)
        self.parameter_headers = self._tool_calls.parameter_headers
        """By tool: the arguments that HTTP requests repeat in headers, and the headers' names."""
        self._modern_suffix = b',"resultType":"complete"' + self._result_meta()
        resources, prompts = ResourceMethods(provider), PromptMethods(provider, state_signer)
        self._methods: dict[str, Callable[[McpRequest], dict[str, Any]]] = {
            "ping": lambda request: {},
            "server/discover": self._discover,
            "resources/list": resources.list_resources,
            "resources/templates/list": resources.list_templates,
            "resources/read": resources.read_resource,
            "resources/subscribe": self._subscriptions.subscribe,
            "resources/unsubscribe": self._subscriptions.unsubscribe,
            "prompts/list": prompts.list_prompts,
            "prompts/get": prompts.get_prompt,
            "completion/complete": prompts.complete,
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
        *,
        holding: Holding | None = None,
    ) -> EncodedReply | None:
        """Handle one message and return its answer, if it gets one.

        Args:
            session: of the client.
            message: JSON, one object; for revisions that know batches also an array of them.
            notify: sends a message that belongs to this request; None when the transport can't.
            drop_connection: drops the connection that waits for the answer, when the client can resume the stream.
            holding: what is held for the message and for its answer is charged to it; the transport charges the bytes
                of the message itself, and ends it when the answer is sent. None to hold it only until this returns.

        Nothing but cancellation is raised: what can't be understood is answered with a JSON-RPC error. A request
        that the client cancelled gets no answer.
        """
        message = without_bom(message)
        if holding is None:
            with self.memory.hold(session.principal.name) as own:
                return await self.answer(session, message, notify, drop_connection, holding=own)
        if message.lstrip()[:1] == b"[":
            return await self._answer_batch(session, message, notify, holding)
        return await self._answer_one(session, message, notify, drop_connection, holding)

    async def _answer_one(
        self,
        session: Session,
        message: bytes,
        notify: Notify | None,
        drop_connection: DropConnection | None,
        holding: Holding,
        *,
        is_refused: bool = False,
    ) -> EncodedReply | None:
        id_bytes: bytes | None = None
        try:
            incoming = parse_message(message)
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
            holding.charge(decoded_bytes(message) + ANSWER_RESERVE)
            reply = EncodedReply(
                await self._handle_request(session, incoming, id_bytes, notify, drop_connection, holding)
            )
            self.first_request_answered.set()
            return reply
        except RequestCancelled:
            return None
        except RpcError as error:
            return EncodedReply(wire.error_response(id_bytes or find_id(message), error), error.code)
        except (Busy, LimitExceeded) as error:  # of the holding; nothing was done
            failure = _rpc_error(wire.INTERNAL_ERROR, error)
            return EncodedReply(wire.error_response(id_bytes, failure), failure.code)

    async def _answer_batch(
        self, session: Session, message: bytes, notify: Notify | None, holding: Holding
    ) -> EncodedReply | None:
        try:
            if session.revision is None or not session.revision.batches:
                raise RpcError(wire.INVALID_REQUEST, "Send one JSON-RPC message at a time, as an object")
            check_values(message)
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
            reply = await self._answer_one(session, bytes(each), notify, None, holding, is_refused=size > BATCH_BYTES)
            if reply is not None:
                replies.append(reply.body)
                size += len(reply.body)
            await trio.lowlevel.checkpoint()  # other tasks run between two messages of a batch
        return EncodedReply(b"[" + b",".join(replies) + b"]") if replies else None

    # -- requests -------------------------------------------------------------------------------------------

    async def _handle_request(
        self,
        session: Session,
        incoming: IncomingMessage,
        id_bytes: bytes,
        notify: Notify | None,
        drop_connection: DropConnection | None,
        holding: Holding,
    ) -> bytes:
        method = incoming.method
        assert method is not UNSET
        params = params_of(incoming)
        if method == "initialize" and (params.meta is UNSET or params.meta.version is UNSET):
            return wire.response(id_bytes, self._initialize(session, incoming))
        revision = revision_of(session, params, method)
        raw = incoming.parameters or msgspec.Raw(b"{}")
        request = McpRequest(session, revision, method, params, raw, id_bytes, notify, drop_connection, holding)
        token = None if (found := trace_of(params)) is None else trace_id.set(found)
        try:
            result = await self._dispatch(request)
            if method != "tools/call" and len(result) > self._answer_limit:
                raise _rpc_error(wire.INTERNAL_ERROR, answer_too_large(method, len(result), self._answer_limit))
            try:
                holding.charge(max(0, len(result) - ANSWER_RESERVE))
            except (Busy, LimitExceeded) as error:
                holding.refused = False  # a 503 would have clients make the call again
                failed = type(error)(
                    f"{error.message} The call was carried out, but its answer is lost.", error.hint, **error.details
                )
                raise _rpc_error(wire.INTERNAL_ERROR, failed) from None
            return wire.response(id_bytes, result)
        finally:
            if token is not None:
                trace_id.reset(token)

    async def _dispatch(self, request: McpRequest) -> bytes:
        method, revision = request.method, request.revision
        in_era = revision.era == wire.METHOD_ERAS.get(method, revision.era)
        if method in WATCHED and not self.changes_known.is_set():
            self.first_request_answered.set()
            await self.changes_known.wait()
        try:
            if method == "tools/call":
                result = await self._tool_calls.call_tool(request)
            elif method == "tools/list":
                result = self._tool_calls.lists[revision.name, request.session.principal.scope]
            elif method == "subscriptions/listen" and in_era:
                return await self._subscriptions.serve_subscription(request)
            elif (answer := self._methods.get(method)) and in_era:
                result = self._run_audited(request, answer) if method in AUDITED else _run_handler(request, answer)
            else:
                raise RpcError(wire.METHOD_NOT_FOUND, f"There is no method {method[:100]}")
        except InputRequired as required:
            return wire.encode(required.result)[:-1] + self._result_meta()
        return result[:-1] + self._modern_suffix if revision.era == "modern" else result

    def _run_audited(self, request: McpRequest, answer: Callable[[McpRequest], dict[str, Any]]) -> bytes:
        """Run a handler whose calls are recorded, as those of tools are."""
        params, session = request.params, request.session
        subject = params.uri if params.uri is not UNSET else params.name if params.name is not UNSET else ""
        started, outcome = time.perf_counter(), "error"
        try:
            result = _run_handler(request, answer)
            outcome = "ok"
            return result
        except RpcError as error:
            outcome = outcome_of(error)
            raise
        except InputRequired:
            outcome = "input_required"
            raise
        finally:
            seconds = time.perf_counter() - started
            self.audit.record_call(session.principal.name, session.transport, request.method, subject, outcome, seconds)

    def _initialize(self, session: Session, incoming: IncomingMessage) -> bytes:
        if incoming.params is UNSET:
            raise RpcError(wire.INVALID_PARAMS, "initialize needs params with a protocolVersion")
        try:
            offered = wire.decode_initialize(incoming.params)
            declared = offered.capabilities
            capabilities = wire.decode_capabilities(msgspec.Raw(b"{}") if bytes(declared) == b"null" else declared)
        except wire.DECODE_ERRORS as error:
            raise RpcError(wire.INVALID_PARAMS, f"The parameters of initialize don't fit: {error}") from None
        # For an unknown revision, or one without a handshake, the server answers with its newest handshake revision.
        wanted = offered.protocol_version
        session.revision = wire.REVISIONS[
            wanted if wanted in wire.HANDSHAKE_REVISIONS else wire.HANDSHAKE_REVISIONS[-1]
        ]
        session.capabilities = capabilities
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
        return answer | cacheable(request.revision)

    def _set_level(self, request: McpRequest) -> dict[str, Any]:
        try:
            request.session.log_level = wire.parse_log_level(wire.decode_level(request.raw).level)
        except wire.DECODE_ERRORS as error:
            raise RpcError(wire.INVALID_PARAMS, f"The parameters of logging/setLevel don't fit: {error}") from None
        return {}

    def _handle_notification(self, session: Session, incoming: IncomingMessage) -> None:
        """Act on a notification; unknown ones are ignored."""
        if incoming.method == "notifications/cancelled" and incoming.params is not UNSET:
            try:
                cancelled = wire.decode_cancelled(incoming.params)
            except wire.DECODE_ERRORS:
                return
            if cancelled.request_id is not UNSET:
                ids = alike_ids(bytes(cancelled.request_id).strip())
                if (scope := next((found for id in ids if (found := session.in_flight.get(id))), None)) is not None:
                    scope.cancel()

    @staticmethod
    def _handle_response(session: Session, incoming: IncomingMessage) -> None:
        """Resolve the pending request that a response of the client belongs to; any other response is dropped."""
        if incoming.id is UNSET:
            return
        try:
            pending = session.pending_requests.get(bytes(incoming.id).strip().strip(b'"').decode())
            if pending is None:
                return
            result = UNSET if incoming.result is UNSET else wire.decode_any(incoming.result)
            error = UNSET if incoming.error is UNSET else wire.decode_any(incoming.error)
        except wire.DECODE_ERRORS:
            return
        pending.resolve(result, error)


def _capabilities(revision: Revision) -> dict[str, dict[str, bool]]:
    capabilities: dict[str, dict[str, bool]] = {
        "logging": {},
        "tools": {"listChanged": True},
        "resources": {"subscribe": True, "listChanged": True},
        "prompts": {"listChanged": True},
    }
    return {**capabilities, "completions": {}} if revision.completions else capabilities


def _rpc_error(code: int, error: ChoraError, **about: str) -> RpcError:
    """A ChoraError as a JSON-RPC error."""
    return RpcError(code, error.message, {**error.details, **about, "code": error.code, "hint": error.next_step})


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
        raise _rpc_error(code, error, **about) from None
    except Exception as error:
        incident = Internal(error, where=request.method)
        log.exception("incident %s in %s", incident.incident, request.method)
        raise RpcError(wire.INTERNAL_ERROR, incident.message, {**incident.details, "code": incident.code}) from None
