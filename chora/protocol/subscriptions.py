"""Subscriptions to changes: per session in handshake revisions, as a stream in modern ones."""

from __future__ import annotations

from typing import Any

import msgspec
import trio

from chora.errors import ChoraError
from chora.protocol import wire
from chora.protocol.broadcast import (
    LIST_CHANGES,
    RESOURCE_UPDATED,
    SUBSCRIPTION_BYTES,
    SUBSCRIPTION_LIMIT,
    URI_LIMIT,
    Broadcaster,
    ChangeNotification,
    ListName,
    NotificationQueue,
    QueueClosed,
)
from chora.protocol.provider import Provider
from chora.protocol.request import McpRequest, RequestCancelled, uri_of
from chora.protocol.session import STATE_LIMIT
from chora.protocol.wire import RpcError

OPEN_SUBSCRIPTIONS_LIMIT = 16
"""Subscriptions that one client, or one principal over HTTP, may have open at a time."""


def check_open_subscriptions(count: int) -> None:
    """Whether a client that has so many subscriptions open may open another one.

    Raises:
        RpcError: -32600, it may not.
    """
    if count >= OPEN_SUBSCRIPTIONS_LIMIT:
        raise RpcError(wire.INVALID_REQUEST, f"{OPEN_SUBSCRIPTIONS_LIMIT} subscriptions may be open at a time")


class Subscriptions:
    """Subscribes clients to changes of resources and lists.

    Args:
        provider: whose resources.
        broadcaster: publishes the changes.
        server_info: names the server in the last message of a stream.
    """

    def __init__(self, provider: Provider, broadcaster: Broadcaster, server_info: dict[str, str]) -> None:
        self._provider = provider
        self._broadcaster = broadcaster
        self._server_info = server_info

    def subscribe(self, request: McpRequest) -> dict[str, Any]:
        uri = uri_of(request)
        canonical = self._canonical_uri(uri)
        change = ChangeNotification(RESOURCE_UPDATED, canonical)
        notifications = request.session.notifications
        if change not in notifications.subscribed:
            added = SUBSCRIPTION_BYTES + len(canonical) + (0 if uri == canonical else len(uri))
            if notifications.state_bytes() + added > STATE_LIMIT:
                count = len(notifications.subscribed) - len(LIST_CHANGES)
                raise RpcError(
                    wire.INVALID_REQUEST,
                    f"A session's subscriptions take at most {STATE_LIMIT:,} bytes: it has {count} already. "
                    "Unsubscribe from some, or watch the list of resources",
                    {"code": "limit_exceeded"},
                )
            notifications.subscribed[change] = change.uri if uri == canonical else uri
        return {}

    def unsubscribe(self, request: McpRequest) -> dict[str, Any]:
        uri = uri_of(request)
        wanted = request.session.notifications.subscribed
        for change in [change for change, known in wanted.items() if change.uri and uri in (change.uri, known)]:
            del wanted[change]
        return {}

    async def serve_subscription(self, request: McpRequest) -> bytes:
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
        check_open_subscriptions(len(session.subscriptions))
        meta = {wire.SUBSCRIPTION_KEY: msgspec.Raw(id_bytes)}
        queue = NotificationQueue(meta=meta)
        queue.subscribed, accepted = self._accepted_filter(wanted_filter)
        acknowledged = {"notifications": accepted, "_meta": meta}
        with trio.CancelScope() as scope:
            session.in_flight[id_bytes] = scope
            session.subscriptions.add(queue)
            self._broadcaster.subscribe(queue)
            try:
                await notify(wire.notification("notifications/subscriptions/acknowledged", acknowledged))
                while True:
                    await notify(await queue.wait_next())
            except QueueClosed:
                return wire.encode({"resultType": "complete", "_meta": {**meta, wire.SERVER_KEY: self._server_info}})
            finally:
                self._broadcaster.unsubscribe(queue)
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

    def _canonical_uri(self, uri: str) -> str:
        """The URI under which changes of a resource are published.

        Raises:
            ResourceNotFound, InvalidConfigId: no resource could have this URI.
        """
        if len(uri) > URI_LIMIT:
            raise RpcError(wire.INVALID_PARAMS, f"A URI to subscribe to has at most {URI_LIMIT:,} characters")
        return self._provider.resources.canonical_uri(uri)
