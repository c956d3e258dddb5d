"""A request that is being answered, and what the handlers of methods need of one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import UNSET

from chora.peer_memory import Holding
from chora.protocol import wire
from chora.protocol.requesting_client import Notify, RequestingClient, StateSigner
from chora.protocol.session import Session
from chora.protocol.wire import RequestParams, Revision, RpcError

DropConnection = Callable[[float], Awaitable[None]]

LIST_TTL = 300_000
"""Milliseconds for which a client may reuse a list, which only a restart changes."""


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
    holding: Holding
    """What is held for it, until its answer is sent."""

    def make_client(self, target: str, signer: StateSigner) -> RequestingClient:
        """The client that made the request, for work on `target`: the name of a tool or prompt."""
        return RequestingClient(
            self.session,
            self.revision,
            self.params,
            f"{self.method} {target}",
            self.notify,
            self.drop_connection,
            signer,
        )


class RequestCancelled(Exception):
    """The client cancelled its request, which gets no answer."""


def uri_of(request: McpRequest) -> str:
    if request.params.uri is UNSET:
        raise RpcError(wire.INVALID_PARAMS, f"{request.method} needs the uri of a resource")
    return request.params.uri


def cacheable(revision: Revision, cache_scope: Literal["public", "private"] = "public") -> dict[str, Any]:
    """The cache fields of a result that can't change while the server runs; none in revisions without them.

    Args:
        revision: the client's.
        cache_scope: `private` for a result that depends on who asks.
    """
    return {"ttlMs": LIST_TTL, "cacheScope": cache_scope} if revision.era == "modern" else {}


def not_cacheable(revision: Revision) -> dict[str, Any]:
    """The cache fields of a result that may change at any time."""
    return {"ttlMs": 0, "cacheScope": "private"} if revision.era == "modern" else {}
