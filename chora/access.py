"""Who may do what: bearer tokens, scopes, principals."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from contextvars import ContextVar
from typing import Literal, NamedTuple

from chora.config import Secret
from chora.errors import Unauthorized, UsageError

Scope = Literal["read", "write", "admin"]
SCOPES: tuple[Scope, ...] = ("read", "write", "admin")
"""What a token is good for: what changes nothing, also what makes things, also what destroys them."""


class Principal(NamedTuple):
    """Whoever is speaking, as far as we know."""

    name: str
    scope: Scope = "admin"
    routine: bool = False
    """Calls all the time and by itself; the log mentions it only when debugging."""

    def may(self, scope: Scope) -> bool:
        """Whether what takes this scope is within reach."""
        return SCOPES.index(self.scope) >= SCOPES.index(scope)


caller: ContextVar[str] = ContextVar("caller", default="local")
"""Whose work is being done, as far as it has to be shared out fairly: a session, or a principal without one."""

LOCAL = Principal("local")
"""Whoever started us on stdio, or reaches a loopback door that has no token."""


class Gate:
    """Checks the tokens at the HTTP door.

    Only hashes are kept, and they are compared in constant time.

    Args:
        host: the address the door is bound to.
        token: what everybody needs to know; None lets everybody in, which only a loopback door may.

    Raises:
        UsageError: a door beyond loopback without a token.
    """

    def __init__(self, host: str, token: Secret | None) -> None:
        self.public = not is_loopback(host)
        if self.public and token is None:
            raise UsageError(
                f"chora won't listen on {host} without a token: whoever reaches it could read and write the project.",
                "Give one in CHORA_TOKEN_FILE or as the secret chora_token, or bind 127.0.0.1.",
                host=host,
            )
        self._known: dict[bytes, Principal] = {}
        self._open = token is None
        if token is not None:
            self.admit(token, Principal("token"))

    def admit(self, token: Secret, principal: Principal) -> None:
        """Let a token in for as long as this process lives."""
        self._known[_digest(token.reveal())] = principal

    def identify(self, authorization: str | None) -> Principal:
        """Whom an Authorization header stands for.

        Raises:
            Unauthorized: a token is needed and none, or a wrong one, was given.
        """
        if authorization is None:
            if self._open:
                return LOCAL
            raise Unauthorized("This server needs a token.", "Send it as `Authorization: Bearer …`.")
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() == "bearer":
            digest = _digest(token.strip())
            for known, principal in self._known.items():
                if hmac.compare_digest(known, digest):
                    return principal
        if self._open:
            return LOCAL
        raise Unauthorized("The token is not valid here.", "Send a valid one as `Authorization: Bearer …`.")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
