"""The MCP server: one message in, at most one answer out.

It knows nothing of bytes on pipes or sockets. A transport opens a `Session` per peer (per request in the modern
era over HTTP), hands every message to `Server.answer`, and sends what comes back.
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
from chora.access import Principal
from chora.errors import ChoraError, Forbidden, Internal
from chora.metrics import Metrics
from chora.nesting import DEPTH_LIMIT, is_json_too_deep
from chora.protocol import wire
from chora.protocol.broadcast import (
    LISTS,
    SUBSCRIPTION_LIMIT,
    UPDATED,
    URI_LIMIT,
    Broadcaster,
    Change,
    List,
    NotificationQueue,
    QueueClosed,
)
from chora.protocol.provider import Provider
from chora.protocol.requesting_client import Notify, RequestingClient, StateSigner
from chora.protocol.session import Session
from chora.protocol.types import Call, InputRequired, Link, Resource, ResourceStat, ToolAnswer
from chora.protocol.wire import Incoming, Params, Revision, RpcError
from chora.request_context import caller, event_listener, trace_id

log = logging.getLogger("chora.protocol")

HangUp = Callable[[float], Awaitable[None]]

LIST_TTL = 300_000
"""Milliseconds for which a client may reuse a list: what we offer changes with a restart."""

COMPLETIONS = 100
"""Values that a completion may offer."""
LOG_INTERVAL = 0.1
"""Seconds between two looks at the log messages that wait to be sent."""
STREAM_LIMIT = 16
"""Subscriptions that one peer may have open at a time."""

TRACE_LIMIT = 128
"""Characters of a trace id that are kept."""

BATCH_LIMIT = 50
"""Messages in a batch, in the revisions that know batches."""
BATCH_BYTES = 16 * 1024 * 1024
"""Of answers to one batch, after which no further request in it is carried out."""

PREFIXES = ("choracompose:", "choracompose__")
"""Namespaces under which tools were known to clients of chora-compose."""


class Reply(NamedTuple):
    """An encoded answer; `error_code` is a JSON-RPC code when it is an error."""

    body: bytes
    error_code: int | None = None


class Server:
    """Answers MCP messages with what there is on offer.

    Args:
        offer: tools, resources and prompts.
        metrics: where calls are counted.
        name: by which the server introduces itself.
        level: the log messages that a client with a handshake gets before it says which it wants; None sends none.
    """

    def __init__(self, offer: Provider, metrics: Metrics, *, name: str = "chora", level: str | None = None) -> None:
        self.hub = Broadcaster()
        self.greeted = trio.Event()
        """Set once somebody was answered: whatever made that take longer can be done from now on."""
        self._offer = offer
        self._metrics = metrics
        self._level = level
        self._seal = StateSigner(secrets.token_bytes(32))
        self._info = {"name": name, "title": name, "version": __version__}
        described = [tool.describe() for tool in offer.tools.values()]
        self._lists = {revision.name: _encode_tools(described, revision) for revision in wire.REVISIONS.values()}
        self.mirrored = {each["name"]: mirrored for each in described if (mirrored := _mirrored(each["inputSchema"]))}
        """Of tools that want arguments repeated in headers: the argument and the header's name."""
        self._modern_suffix = b',"resultType":"complete"' + self._signature()
        self._methods: dict[str, Callable[[Request], dict[str, Any]]] = {
            "ping": lambda ask: {},
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

    def _signature(self) -> bytes:
        """How a modern result ends: with who made it."""
        return b',"_meta":' + wire.encode({wire.SERVER_KEY: self._info}) + b"}"

    def changed(self, uri: str) -> None:
        """Tell whoever subscribed to a resource that it changed. Never waits."""
        if self.hub.is_empty:
            return
        self.hub.publish(Change(UPDATED, uri))
        others, list_changed = self._offer.touched(uri)
        for other in others:
            self.hub.publish(Change(UPDATED, other))
        if list_changed:
            self.list_changed("resources")

    def list_changed(self, name: List) -> None:
        """Tell everybody that a list isn't what it was. Never waits."""
        self.hub.publish(LISTS[name])

    # -- in and out -----------------------------------------------------------------------------------------

    async def answer(
        self, session: Session, message: bytes, notify: Notify | None = None, hang_up: HangUp | None = None
    ) -> Reply | None:
        """Handle one message and return the answer it is owed, if any.

        Args:
            session: the peer.
            message: JSON, one object; for revisions that know batches also an array of them.
            notify: sends a message that belongs to this request; None when the transport can't.
            hang_up: drops the connection on which the answer is awaited, when the client can come back for it.

        Nothing but cancellation is raised: what can't be understood is answered with a JSON-RPC error. A request
        that the peer itself cancelled is owed nothing.
        """
        if message.lstrip()[:1] == b"[":
            return await self._answer_batch(session, message, notify)
        return await self._answer_one(session, message, notify, hang_up)

    async def _answer_one(
        self,
        session: Session,
        message: bytes,
        notify: Notify | None,
        hang_up: HangUp | None = None,
        *,
        is_refused: bool = False,
    ) -> Reply | None:
        id_bytes: bytes | None = None
        try:
            incoming = self.parse(message)
            if incoming.method is UNSET:
                self._settle(session, incoming)
                return None
            if incoming.id is UNSET:
                self._hear(session, incoming)
                return None
            id_bytes = bytes(incoming.id).strip()
            if is_refused:
                text = f"The answers to this batch are longer than {BATCH_BYTES:,} bytes; send this one by itself"
                raise RpcError(wire.INVALID_REQUEST, text)
            reply = Reply(await self._request(session, incoming, id_bytes, notify, hang_up))
            self.greeted.set()
            return reply
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
        # A batch in a batch is no message, and would be answered 50 times 50 times 50.
        given: list[bytes] = []
        size = 0
        for each in messages:
            reply = await self._answer_one(session, bytes(each), notify, is_refused=size > BATCH_BYTES)
            if reply is not None:
                given.append(reply.body)
                size += len(reply.body)
            await trio.lowlevel.checkpoint()  # others have their turn between two of many
        return Reply(b"[" + b",".join(given) + b"]") if given else None

    @staticmethod
    def parse(message: bytes) -> Incoming:
        """Read the envelope.

        Raises:
            RpcError: -32700 for what isn't JSON, -32600 for what isn't a JSON-RPC message.
        """
        if is_json_too_deep(message):
            raise RpcError(wire.PARSE_ERROR, f"The message nests deeper than {DEPTH_LIMIT} levels")
        try:
            incoming = wire.decode_incoming(message)
        except msgspec.ValidationError as error:
            raise RpcError(wire.INVALID_REQUEST, f"The message is not JSON-RPC 2.0: {error}") from None
        except wire.DecodeFailures as error:
            raise RpcError(wire.PARSE_ERROR, f"The message is not JSON: {error}") from None
        if incoming.method is UNSET:
            return incoming  # a response; an answer to one that is odd would only be odd to the other side
        if (id_bytes := incoming.id_bytes) is not None and not wire.is_id(id_bytes):
            raise RpcError(wire.INVALID_REQUEST, "A request's id is a string or a number")
        return incoming

    @staticmethod
    def params_of(incoming: Incoming) -> Params:
        """Read the parameters.

        Raises:
            RpcError: -32602 when they don't have the shape every request has.
        """
        if incoming.parameters is None:
            return Params()
        try:
            return wire.decode_params(incoming.parameters)
        except wire.DecodeFailures as error:
            raise RpcError(wire.INVALID_PARAMS, f"The parameters don't fit: {error}") from None

    # -- requests -------------------------------------------------------------------------------------------

    async def _request(
        self, session: Session, incoming: Incoming, id_bytes: bytes, notify: Notify | None, hang_up: HangUp | None
    ) -> bytes:
        method = incoming.method
        assert method is not UNSET
        params = self.params_of(incoming)
        if method == "initialize" and (params.meta is UNSET or params.meta.version is UNSET):
            return wire.response(id_bytes, self._initialize(session, incoming))
        revision = self._revision_of(session, params, method)
        raw = incoming.parameters or msgspec.Raw(b"{}")
        ask = Request(session, revision, method, params, raw, id_bytes, notify, hang_up)
        token = None if (found := _trace_of(params)) is None else trace_id.set(found)
        try:
            return wire.response(id_bytes, await self._answer_request(ask))
        finally:
            if token is not None:
                trace_id.reset(token)

    async def _answer_request(self, ask: Request) -> bytes:
        method, revision = ask.method, ask.revision
        known = revision.era == wire.ERAS.get(method, revision.era)
        try:
            if method == "tools/call":
                result = await self._call(ask)
            elif method == "tools/list":
                result = self._lists[revision.name]
            elif method == "subscriptions/listen" and known:
                return await self._listen(ask)
            elif (answer := self._methods.get(method)) and known:
                result = _carefully(ask, answer)
            else:
                raise RpcError(wire.METHOD_NOT_FOUND, f"There is no method {method[:100]}")
        except InputRequired as required:
            return wire.encode(required.result)[:-1] + self._signature()
        return result[:-1] + self._modern_suffix if revision.era == "modern" else result

    def _peer(self, ask: Request, target: str) -> RequestingClient:
        purpose = f"{ask.method} {target}"
        return RequestingClient(ask.session, ask.revision, ask.params, purpose, ask.notify, ask.hang_up, self._seal)

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
            offered = wire.decode_initialize(incoming.params)
        except wire.DecodeFailures as error:
            raise RpcError(wire.INVALID_PARAMS, f"The parameters of initialize don't fit: {error}") from None
        # A revision we don't know, or one without a handshake, gets our newest that has one as a counter-offer.
        wanted = offered.protocol_version
        session.revision = wire.REVISIONS[wanted if wanted in wire.HANDSHAKE else wire.HANDSHAKE[-1]]
        session.capabilities = offered.capabilities
        session.level = self._level
        for change in LISTS.values():
            session.mailbox.wanted[change] = ""
        return wire.encode(
            {
                "protocolVersion": session.revision.name,
                "capabilities": _capabilities(session.revision),
                "serverInfo": self._info,
                "instructions": self._offer.instructions,
            }
        )

    def _discover(self, ask: Request) -> dict[str, Any]:
        answer = {
            "supportedVersions": wire.MODERN,
            "capabilities": _capabilities(ask.revision),
            "instructions": self._offer.instructions,
        }
        return answer | _lasting(ask.revision)

    def _set_level(self, ask: Request) -> dict[str, Any]:
        try:
            ask.session.level = wire.level(wire.decode_level(ask.raw).level)
        except wire.DecodeFailures as error:
            raise RpcError(wire.INVALID_PARAMS, f"The parameters of logging/setLevel don't fit: {error}") from None
        return {}

    # -- resources ------------------------------------------------------------------------------------------

    def _list_resources(self, ask: Request) -> dict[str, Any]:
        page = self._offer.resources.page(ask.params.cursor)
        listed: dict[str, Any] = {"resources": [_resource(each, ask.revision) for each in page.resources]}
        if page.cursor is not None:
            listed["nextCursor"] = page.cursor
        return listed | _passing(ask.revision)

    def _list_templates(self, ask: Request) -> dict[str, Any]:
        return {"resourceTemplates": list(self._offer.resources.templates())} | _lasting(ask.revision)

    def _read_resource(self, ask: Request) -> dict[str, Any]:
        uri = _uri_of(ask)
        contents = self._offer.resources.read(uri)
        body: dict[str, str] = (
            {"text": contents.text}
            if isinstance(contents.text, str)
            else {"blob": base64.b64encode(contents.text).decode()}
        )
        read = {"contents": [{"uri": uri, "mimeType": contents.mime_type, **body}]}
        return read | (_lasting(ask.revision) if contents.fixed else _passing(ask.revision))

    def _subscribe(self, ask: Request) -> dict[str, Any]:
        uri = _uri_of(ask)
        change = Change(UPDATED, self._subscribable(uri))
        wanted = ask.session.mailbox.wanted
        if len(wanted) - len(LISTS) >= SUBSCRIPTION_LIMIT and change not in wanted:
            raise RpcError(wire.INVALID_REQUEST, f"A session may subscribe to {SUBSCRIPTION_LIMIT:,} resources")
        wanted[change] = uri
        return {}

    def _unsubscribe(self, ask: Request) -> dict[str, Any]:
        uri = _uri_of(ask)
        wanted = ask.session.mailbox.wanted
        for change in [change for change, known in wanted.items() if change.uri and uri in (change.uri, known)]:
            del wanted[change]
        return {}

    def _subscribable(self, uri: str) -> str:
        """The URI under which changes of a resource are told.

        Raises:
            ResourceNotFound, InvalidConfigId: no resource could have this URI.
        """
        if len(uri) > URI_LIMIT:
            raise RpcError(wire.INVALID_PARAMS, f"A URI to subscribe to has at most {URI_LIMIT:,} characters")
        return self._offer.resources.canonical(uri)

    async def _listen(self, ask: Request) -> bytes:
        """`subscriptions/listen`: its response is a stream of what it asked for, until the peer or the server ends it.

        It returns when the server does; the peer's end is a cancellation.
        """
        session, id_bytes, notify = ask.session, ask.id_bytes, ask.notify
        try:
            wishes = wire.decode_listen(ask.raw).notifications
        except wire.DecodeFailures as error:
            raise RpcError(wire.INVALID_PARAMS, f"The parameters of subscriptions/listen don't fit: {error}") from None
        if notify is None:
            raise RpcError(wire.INVALID_REQUEST, "The answer is a stream: accept text/event-stream")
        if id_bytes in session.in_flight:
            raise RpcError(wire.INVALID_REQUEST, "A request with this id is being answered already")
        if len(session.listening) >= STREAM_LIMIT:
            raise RpcError(wire.INVALID_REQUEST, f"{STREAM_LIMIT} subscriptions may be open at a time")
        meta = {wire.SUBSCRIPTION_KEY: msgspec.Raw(id_bytes)}
        mailbox = NotificationQueue(meta=meta)
        mailbox.wanted, honored = self._honor(wishes)
        acknowledged = {"notifications": honored, "_meta": meta}
        with trio.CancelScope() as scope:
            session.in_flight[id_bytes] = scope
            session.listening.add(mailbox)
            self.hub.subscribe(mailbox)
            try:
                await notify(wire.notification("notifications/subscriptions/acknowledged", acknowledged))
                while True:
                    await notify(await mailbox.wait_next())
            except QueueClosed:
                return wire.encode({"resultType": "complete", "_meta": {**meta, wire.SERVER_KEY: self._info}})
            finally:
                self.hub.unsubscribe(mailbox)
                session.listening.discard(mailbox)
                del session.in_flight[id_bytes]
        raise RequestCancelled

    def _honor(self, wishes: wire.Wishes) -> tuple[dict[Change, str], dict[str, Any]]:
        """What of a subscription's wishes can come true, as a mailbox and as the acknowledgement say it."""
        wanted: dict[Change, str] = {}
        honored: dict[str, Any] = {}
        lists: tuple[tuple[List, str, bool | None], ...] = (
            ("tools", "toolsListChanged", wishes.tools_list_changed),
            ("prompts", "promptsListChanged", wishes.prompts_list_changed),
            ("resources", "resourcesListChanged", wishes.resources_list_changed),
        )
        for name, key, asked in lists:
            if asked:
                wanted[LISTS[name]] = ""
                honored[key] = True
        uris = list(dict.fromkeys(wishes.resource_subscriptions or ()))
        if len(uris) > SUBSCRIPTION_LIMIT:
            raise RpcError(wire.INVALID_PARAMS, f"A subscription may name {SUBSCRIPTION_LIMIT:,} resources")
        kept: list[str] = []
        for uri in uris:
            try:
                change = Change(UPDATED, self._subscribable(uri))
            except (ChoraError, RpcError):
                continue  # what can't exist never changes; the acknowledgement says that it isn't waited for
            wanted[change] = uri
            kept.append(uri)
        if kept:
            honored["resourceSubscriptions"] = kept
        return wanted, honored

    # -- prompts and completion -----------------------------------------------------------------------------

    def _list_prompts(self, ask: Request) -> dict[str, Any]:
        left_out = () if ask.revision.structured else ("title",)
        prompts = [
            {key: value for key, value in prompt.items() if key not in left_out} for prompt in self._offer.prompts.all()
        ]
        return {"prompts": prompts} | _lasting(ask.revision)

    def _get_prompt(self, ask: Request) -> dict[str, Any]:
        params = ask.params
        if params.name is UNSET:
            raise RpcError(wire.INVALID_PARAMS, "prompts/get needs the name of a prompt")
        arguments = b"{}" if params.arguments is UNSET or bytes(params.arguments) == b"null" else params.arguments
        try:
            texts = wire.decode_texts(arguments)
        except wire.DecodeFailures as error:
            raise RpcError(wire.INVALID_PARAMS, f"The arguments of a prompt are texts by name: {error}") from None
        description, messages = self._offer.prompts.get(params.name, texts, self._peer(ask, params.name))
        if not ask.revision.structured:
            messages = [_linkless(message) for message in messages]
        return {"description": description, "messages": messages}

    def _complete(self, ask: Request) -> dict[str, Any]:
        try:
            asked = wire.decode_complete(ask.raw)
        except wire.DecodeFailures as error:
            raise RpcError(wire.INVALID_PARAMS, f"The parameters of completion/complete don't fit: {error}") from None
        if asked.ref.type == "ref/prompt":
            values = self._offer.prompts.complete(asked.ref.name, asked.argument.name)
        else:
            settled = (asked.context.arguments if asked.context else None) or {}
            values = self._offer.resources.complete(asked.ref.uri, asked.argument.name, settled)
        fitting = _fitting(values, asked.argument.value)
        shown = fitting[:COMPLETIONS]
        return {"completion": {"values": shown, "total": len(fitting), "hasMore": len(fitting) > len(shown)}}

    # -- tools ----------------------------------------------------------------------------------------------

    def tool_name(self, name: str) -> str:
        """A tool's name without the namespace that clients of chora-compose put before it."""
        for prefix in PREFIXES:
            name = name.removeprefix(prefix)
        return name

    async def _call(self, ask: Request) -> bytes:
        session, params, id_bytes = ask.session, ask.params, ask.id_bytes
        if params.name is UNSET:
            raise RpcError(wire.INVALID_PARAMS, "tools/call needs the name of a tool")
        name = self.tool_name(params.name)
        if name not in self._offer.tools and name not in self._offer.withheld:
            raise RpcError(wire.INVALID_PARAMS, f"There is no tool {name[:100]}; tools/list names them all")
        if id_bytes in session.in_flight:
            raise RpcError(wire.INVALID_REQUEST, "A request with this id is being answered already")
        peer = self._peer(ask, name)
        arguments = params.arguments
        if arguments is UNSET or bytes(arguments) == b"null":
            arguments = b"{}"
        principal = session.principal
        call = Call(session.transport, len(self._offer.tools), peer.progress, principal.routine, principal.name, peer)
        started = time.perf_counter()
        answer: ToolAnswer | None = None
        code = "cancelled"
        token = caller.set(session.caller)
        with trio.CancelScope() as scope:
            session.in_flight[id_bytes] = scope
            self._metrics.calls_in_flight.count(name)
            try:
                if (refusal := self._refusal(name, principal)) is not None:
                    answer = ToolAnswer(wire.encode(refusal.as_dict()), True, refusal.code)
                elif peer.level is None:
                    answer = await self._offer.call(name, arguments, call)
                else:
                    answer = await self._call_aloud(name, arguments, call, peer)
                code = answer.code
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
        return _call_result(answer, ask.revision)

    def _refusal(self, name: str, principal: Principal) -> Forbidden | None:
        """Why a tool isn't for this principal, if it isn't."""
        if (reason := self._offer.withheld.get(name)) is not None:
            return Forbidden(f"{name} can't be called here. {reason}", "Use the tools of tools/list.", tool=name)
        scope = self._offer.tools[name].scope
        if principal.may(scope):
            return None
        return Forbidden(
            f"{principal.name} lacks the scope {scope}, which {name} takes.",
            f"Use a token with the scope {scope}.",
            tool=name,
            scope=scope,
        )

    async def _call_aloud(
        self, name: str, arguments: bytes | msgspec.Raw, call: Call, peer: RequestingClient
    ) -> ToolAnswer:
        """Call a tool whose caller wants to hear what happens meanwhile."""

        def hear(event: dict[str, Any]) -> None:
            failed = event["status"] in ("failure", "failed", "error")
            peer.log("error" if failed else "info", event, event["event_type"])

        async def tell() -> None:
            while True:
                await peer.flush()
                await trio.sleep(LOG_INTERVAL)

        answer: ToolAnswer | None = None
        failure: InputRequired | RpcError | None = None
        token = event_listener.set(hear)
        try:
            async with trio.open_nursery() as beside:
                beside.start_soon(tell)
                try:
                    answer = await self._offer.call(name, arguments, call)
                except (InputRequired, RpcError) as error:  # to be raised without a group around it
                    failure = error
                beside.cancel_scope.cancel()
        finally:
            event_listener.reset(token)
        await peer.flush()
        peer.level = None  # work that goes on as a job has nobody to tell any more
        if failure is not None:
            raise failure
        assert answer is not None
        return answer

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

    @staticmethod
    def _settle(session: Session, incoming: Incoming) -> None:
        """Take the answer to something the client was asked; one to anything else is dropped."""
        if incoming.id is UNSET:
            return
        try:
            number = wire.decode_text(incoming.id)
            result = UNSET if incoming.result is UNSET else wire.decode_any(incoming.result)
            error = UNSET if incoming.error is UNSET else wire.decode_any(incoming.error)
        except wire.DecodeFailures:
            return
        if (waiting := session.waiting.get(number)) is not None:
            waiting.settle(result, error)


class Request(NamedTuple):
    """A request that is being answered."""

    session: Session
    revision: Revision
    method: str
    params: Params
    raw: msgspec.Raw
    """The parameters as they were sent."""
    id_bytes: bytes
    notify: Notify | None
    hang_up: HangUp | None


class RequestCancelled(Exception):
    """The client withdrew its request, so no answer is owed."""


def _call_result(answer: ToolAnswer, revision: Revision) -> bytes:
    """The `tools/call` result: the JSON as text and, where the revision knows them, as structured content and links."""
    if answer.content is not None:
        result = b'{"content":' + wire.encode(answer.content)
        return result + (b',"isError":true}' if answer.is_error else b"}")
    result = b'{"content":[{"type":"text","text":' + wire.encode(answer.body.decode()) + b"}"
    if revision.structured:
        result += b"".join(b"," + wire.encode(_linked(link)) for link in answer.links)
        result += b'],"structuredContent":' + answer.body
    else:
        result += b"]"
    return result + (b',"isError":true}' if answer.is_error else b"}")


def _linked(link: Link) -> dict[str, str]:
    return {"type": "resource_link", "uri": link.uri, "name": link.name, "mimeType": link.mime_type}


def _encode_tools(described: Sequence[dict[str, Any]], revision: Revision) -> bytes:
    left_out = {
        *(() if revision.structured else ("title", "outputSchema")),
        *(() if revision.annotations else ("annotations",)),
    }
    tools = [{key: value for key, value in tool.items() if key not in left_out} for tool in described]
    return wire.encode({"tools": tools} | _lasting(revision))


def _mirrored(schema: dict[str, Any]) -> dict[str, str]:
    """The arguments that a tool wants repeated in headers, and the headers' names in lower case."""
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


def _lasting(revision: Revision) -> dict[str, Any]:
    """What a result that stays true while the server runs says of that, where the revision has words for it."""
    return {"ttlMs": LIST_TTL, "cacheScope": "public"} if revision.era == "modern" else {}


def _passing(revision: Revision) -> dict[str, Any]:
    """What a result that may be outdated at once says of that."""
    return {"ttlMs": 0, "cacheScope": "private"} if revision.era == "modern" else {}


_PARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")


def _trace_of(params: Params) -> str | None:
    """The trace a request says it belongs to: of a W3C `traceparent` the trace id, else `trace_id` as it is."""
    if params.meta is UNSET:
        return None
    parent, plain = params.meta.traceparent, params.meta.trace_id
    if isinstance(parent, str) and (found := _PARENT.fullmatch(parent)) and found[1].strip("0"):
        return found[1]
    return plain[:TRACE_LIMIT] if isinstance(plain, str) and plain else None


def _carefully(ask: Request, answer: Callable[[Request], dict[str, Any]]) -> bytes:
    """The answer; its failures as errors of the protocol, and bugs told to the log in full and to the peer as an id."""
    try:
        return wire.encode(answer(ask))
    except (RpcError, InputRequired):
        raise
    except ChoraError as error:
        code = wire.INTERNAL_ERROR
        if error.category == "missing" and ask.method.startswith("resources/"):
            code = wire.INVALID_PARAMS if ask.revision.era == "modern" else wire.RESOURCE_NOT_FOUND
        elif error.category in ("invalid", "missing", "unauthenticated", "denied", "conflict"):
            code = wire.INVALID_PARAMS
        about = {} if ask.params.uri is UNSET else {"uri": ask.params.uri}
        raise RpcError(
            code, error.message, {**error.details, **about, "code": error.code, "hint": error.hint}
        ) from None
    except Exception as error:
        incident = Internal(error, where=ask.method)
        log.exception("incident %s in %s", incident.incident, ask.method)
        raise RpcError(wire.INTERNAL_ERROR, incident.message, {**incident.details, "code": incident.code}) from None


def _uri_of(ask: Request) -> str:
    if ask.params.uri is UNSET:
        raise RpcError(wire.INVALID_PARAMS, f"{ask.method} needs the uri of a resource")
    return ask.params.uri


def _resource(resource: Resource, revision: Revision) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "uri": resource.uri,
        "name": resource.name,
        "description": resource.description,
        "mimeType": resource.mime_type,
    }
    measure = ResourceStat() if resource.stat is None else resource.stat()
    if measure.size is not None:
        shown["size"] = measure.size
    if measure.modified is not None and revision.structured:
        shown["annotations"] = {"lastModified": measure.modified}
    return shown


def _linkless(message: dict[str, Any]) -> dict[str, Any]:
    """A message for revisions that know no links to resources: the link as a sentence."""
    content = message["content"]
    if content["type"] != "resource_link":
        return message
    return {**message, "content": {"type": "text", "text": f"See also the resource {content['uri']}."}}


def _fitting(values: Sequence[str], typed: str) -> list[str]:
    """The values that what was typed may become: first those that begin so, then those that hold it."""
    wanted = typed.casefold()
    begin = [value for value in values if value.casefold().startswith(wanted)]
    hold = [value for value in values if wanted in value.casefold() and not value.casefold().startswith(wanted)]
    return begin + hold
