"""An HTTP/1.1 client: requests to one server over pooled connections, with a limit on everything it may send.

Responses are parsed here: h11 takes 90 µs more for a short call, a third of what the whole bridge adds to it.

    ConnectionPool      the connections to one server: `connections.py`
     └─ HttpResponse    the response to one request, its head, then its body in pieces or whole: `response.py`
         └─ EventReader the body as server-sent events: `events.py`
"""

from chora.fetch.addresses import Address, Origin, parse_address
from chora.fetch.connections import ConnectionPool
from chora.fetch.events import EventReader, ServerSentEvent
from chora.fetch.failures import (
    CertificateRejected,
    ConnectFailed,
    ConnectionBroken,
    FetchFailed,
    ResponseTooLarge,
    StaleConnection,
)
from chora.fetch.response import HttpResponse

__all__ = [
    "Address",
    "CertificateRejected",
    "ConnectFailed",
    "ConnectionBroken",
    "ConnectionPool",
    "EventReader",
    "FetchFailed",
    "HttpResponse",
    "Origin",
    "ResponseTooLarge",
    "ServerSentEvent",
    "StaleConnection",
    "parse_address",
]
