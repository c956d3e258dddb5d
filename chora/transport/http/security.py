"""Request security: which names, origins, proxies and tokens are accepted, before the body is read."""

from __future__ import annotations

import re

from chora.access import Authenticator, Principal, bearer_token, is_loopback
from chora.errors import Forbidden, InvalidInput
from chora.oauth import Issuer
from chora.settings import HttpSettings
from chora.transport.http.asgi import EXPIRES_AT, Scope, header_value, header_values

FORWARDED = (
    *(b"forwarded", b"via", b"x-real-ip", b"x-client-ip", b"true-client-ip", b"cf-connecting-ip", b"fastly-client-ip"),
    *(b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-forwarded-port", b"x-forwarded-server"),
    *(b"x-original-forwarded-for", b"x-cluster-client-ip", b"x-envoy-external-address", b"fly-client-ip"),
)
"""Headers that proxies add to a request: RFC 7239, RFC 9110 §7.6.3, and what proxies and networks add in practice."""

SINGLE_HEADERS = (b"authorization", b"origin", b"mcp-protocol-version", b"mcp-session-id")
"""Headers that decide who may do what; of two, a proxy might check the one and we take the other."""

_HOST = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{0,5})?")
"""A name or an address and perhaps a port, as in a Host header and at the end of an Origin."""


class RequestSecurity:
    """Checks where a request comes from and who makes it.

    Args:
        authenticator: checks the tokens of chora itself.
        http: the settings, for the allowed hosts and origins.
        issuer: an external issuer of tokens.
    """

    def __init__(self, authenticator: Authenticator, http: HttpSettings, issuer: Issuer | None = None) -> None:
        self.authenticator = authenticator
        self.issuer = issuer
        self.challenge = b'Bearer realm="chora"' if issuer is None else issuer.challenge
        """The `WWW-Authenticate` header of a 401 response, RFC 6750 §3."""
        self._hosts = {http.host.lower(), *(host.lower() for host in http.allowed_hosts)}
        self._origins = {origin.lower().rstrip("/") for origin in http.allowed_origins}

    def resolve_proxy(self, scope: Scope) -> bool:
        """Take the Host from a trusted proxy's headers; returns whether the client is on this machine.

        Forwarding headers of any other client prove nothing (RFC 7239 §8.1). So a request that came through a
        proxy that isn't trusted counts as remote. HTTP/1.0 counts as one: MCP clients don't speak it, and nginx does
        to the servers behind it, without a header of its own.
        """
        if not any(header_values(scope, name) for name in FORWARDED):
            return scope["http_version"] != "1.0"
        proxy = scope["client"][0] if scope["client"] else ""
        if not self.authenticator.is_trusted_proxy(proxy):
            return False
        hosts = header_values(scope, b"x-forwarded-host")
        if hosts:
            others = [(name, value) for name, value in scope["headers"] if name != b"host"]
            # Every proxy appends; the last name is the one that the trusted proxy was asked for.
            scope["headers"] = [*others, (b"host", hosts[-1].rpartition(",")[2].strip().encode("latin-1"))]
        return is_loopback(self.authenticator.client_address(header_values(scope, b"x-forwarded-for")))

    def client_of(self, scope: Scope) -> str:
        """The address of the client, for the log; behind a trusted proxy, as that says."""
        peer = scope["client"][0] if scope["client"] else ""
        forwarded = header_values(scope, b"x-forwarded-for")
        if forwarded and self.authenticator.is_trusted_proxy(peer):
            return self.authenticator.client_address(forwarded) or peer
        return peer

    def check_single_headers(self, scope: Scope) -> None:
        """Refuse a request that has one of the headers twice that may stand once (RFC 9110 §5.3).

        Raises:
            InvalidInput: it has.
        """
        for name in SINGLE_HEADERS:
            if len(header_values(scope, name)) > 1:
                raise InvalidInput(f"The header {name.decode()} stands more than once.", "Send it once.")

    def check_host(self, scope: Scope) -> None:
        """Refuse a Host that isn't ours, and more or fewer than one (RFC 9112 §3.2).

        This stops DNS rebinding: a web page whose name was pointed at our address sends its own name. CVE-2025-66414
        and CVE-2025-66416 are this attack on other MCP servers.
        """
        hosts = header_values(scope, b"host")
        name = _host_name(hosts[0]) if len(hosts) == 1 else None
        if name is None or not (name in self._hosts or is_loopback(name)):
            raise Forbidden(
                f"The Host {hosts[0][:100] if hosts else '(none)'} is not a name of this server.",
                "Use its address, or add the name to the setting http.allowed_hosts.",
            )

    def check_origin(self, scope: Scope) -> None:
        """Refuse web pages of other origins, as MCP demands of every HTTP transport (CWE-346, CWE-352)."""
        for origin in header_values(scope, b"origin"):
            if not self._is_allowed(origin):
                raise Forbidden(
                    f"Requests from the origin {origin[:100]} are not allowed.",
                    "A page of a file, or in a sandbox, has no origin that could be allowed; serve it over HTTP."
                    if origin == "null"
                    else "Add it to the setting http.allowed_origins if they should be.",
                )

    def allowed_origin(self, scope: Scope) -> str | None:
        """The origin of the web page that makes a request, if its answer may be shown to it."""
        origins = header_values(scope, b"origin")
        return origins[0] if len(origins) == 1 and self._is_allowed(origins[0]) else None

    def _is_allowed(self, origin: str) -> bool:
        name = _host_name(origin.partition("://")[2])
        return origin.lower().rstrip("/") in self._origins or (name is not None and is_loopback(name))

    async def authenticate(self, scope: Scope, *, is_local: bool) -> Principal:
        """The principal of a request; notes in the scope when its token expires.

        Raises:
            Unauthorized: a token is needed and none, or a wrong one, was given.
            Forbidden: the token has none of our scopes.
        """
        given = header_value(scope, b"authorization")
        # Only a JSON Web Token has three parts; the tokens of chora have one.
        if self.issuer is not None and (token := bearer_token(given) or "").count(".") == 2:
            principal, scope[EXPIRES_AT] = await self.issuer.identify(token)
            return principal
        return self.authenticator.authenticate(given, is_local=is_local)


def _host_name(host: str) -> str | None:
    """The name in a Host header, without its port; None if it isn't one."""
    found = _HOST.fullmatch(host)
    return None if found is None else found[1].strip("[]").lower()
