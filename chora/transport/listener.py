"""Binding the HTTP server: its address, its TLS files, and how many connections the process can afford."""

from __future__ import annotations

import contextlib
import errno
import logging
import ssl
import sys
from functools import partial
from typing import Any

import trio
from hypercorn.config import Config, Sockets

from chora.errors import UsageError, why_unreadable
from chora.peer_memory import PeerMemory
from chora.regular_files import read_regular_file
from chora.settings import HttpSettings, LimitSettings
from chora.transport.connection import ConnectionLimits
from chora.transport.http_server import HttpServer

log = logging.getLogger("chora")

PEM_LIMIT = 1024 * 1024
"""Bytes of a file with a certificate or a key."""
FREE_PORT_ATTEMPTS = 5
"""How often a free port is picked that has to be free for two families of addresses."""
RESERVED_DESCRIPTORS = 160
"""File descriptors that aren't for connections: the store, workers, watches, and refusals that are still sent."""


def make_http_server(
    app: Any, http: HttpSettings, limits: LimitSettings, memory: PeerMemory | None = None
) -> HttpServer:
    """A server of the `HttpApplication`, by the settings; `memory` is the account of what is held for peers."""
    return HttpServer(
        app,
        _hypercorn_config(http),
        ConnectionLimits(
            body=limits.body,
            header_time=limits.header_time,
            body_time=limits.body_time,
            write_stall=limits.write_stall,
            keep_alive=limits.keep_alive,
            connections=affordable_connections(limits.connections),
            grace=limits.grace,
        ),
        memory,
        app.error_headers,
    )


async def start_listening(nursery: trio.Nursery, server: HttpServer, http: HttpSettings) -> str:
    """Start the server in the nursery; returns its URL once it accepts connections.

    Raises:
        UsageError: the address can't be bound.
    """
    try:
        sockets = _bind_both_families(http) if http.host.lower() == "localhost" else None
        urls: list[str] = await nursery.start(partial(server.serve, sockets=sockets))
    except OSError as error:
        raise UsageError(
            f"chora can't listen on {http.host}:{http.port}: {error.strerror or error}.",
            "Choose another --port, or end what listens there.",
            host=http.host,
            port=http.port,
        ) from error
    return urls[0]


def loopback_url(url: str) -> str:
    """The URL by which this machine reaches a server that may be bound to all addresses."""
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")


def affordable_connections(connections: int) -> int:
    """At most as many connections as there are descriptors for, with enough left for everything else.

    A process that has used up its descriptors can't do anything any more, not even log that (CWE-770).
    """
    if sys.platform == "win32":
        return connections
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + RESERVED_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            raised = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
            soft = raised
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return connections
    affordable = max(1, soft - RESERVED_DESCRIPTORS)
    log.warning("limits.connections is lowered to %d: this process may have %d files open", affordable, soft)
    return affordable


def check_tls(http: HttpSettings) -> None:
    """Refuse TLS settings that would leave the server without TLS, or fail at the first connection.

    Raises:
        UsageError: one of certificate and key is missing, a file can't be read, or both don't belong together.
    """
    for named, missing in (("cert", "key"), ("key", "cert")):
        if getattr(http, named) and not getattr(http, missing):
            raise UsageError(
                f"http.{named} is set without http.{missing}: chora won't serve plain HTTP where TLS was meant.",
                f"Name the file in http.{missing} too, or remove http.{named}.",
                setting=f"http.{missing}",
            )
    if not http.cert:
        return
    for setting, path in (("http.cert", http.cert), ("http.key", http.key)):
        try:
            read_regular_file(path, PEM_LIMIT)
        except OSError as error:
            raise UsageError(
                f"{setting} names {path}, which can't be read: {why_unreadable(error)}.",
                "Give the path of a PEM file that this process may read.",
                setting=setting,
            ) from None
    try:
        # An encrypted key would have OpenSSL ask for its password on the terminal.
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(http.cert, http.key, password="")
    except (ssl.SSLError, ValueError) as error:
        raise UsageError(
            f"The certificate {http.cert} and the key {http.key} can't be used: {error}.",
            "Give a PEM file with the certificate and its chain, and one with its key, not encrypted.",
            setting="http.cert",
        ) from None


def _bind_both_families(http: HttpSettings) -> Sockets:
    """Sockets of `localhost` for IPv4 and IPv6, on one port: clients try either of its addresses, some only one.

    Raises:
        OSError: the port is in use.
    """
    for attempt in range(FREE_PORT_ATTEMPTS):
        config = _hypercorn_config(http)
        config.bind = [f"127.0.0.1:{http.port}"]
        sockets = config.create_sockets()
        bound = [*sockets.secure_sockets, *sockets.insecure_sockets]
        config.bind = [f"[::1]:{bound[0].getsockname()[1]}"]
        try:
            other = config.create_sockets()
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                log.warning("localhost is served on IPv4 only: %s", error.strerror or error)
                return sockets
            for each in bound:
                each.close()
            if http.port or attempt == FREE_PORT_ATTEMPTS - 1:
                raise
            continue  # a port that was free for one family only
        sockets.secure_sockets += other.secure_sockets
        sockets.insecure_sockets += other.insecure_sockets
        return sockets
    raise AssertionError


def _hypercorn_config(http: HttpSettings) -> Config:
    check_tls(http)
    config = Config()
    config.bind = [f"{f'[{http.host}]' if ':' in http.host else http.host}:{http.port}"]
    config.certfile = http.cert or None
    config.keyfile = http.key or None
    config.accesslog = None
    config.errorlog = logging.getLogger("chora.transport")
    return config
