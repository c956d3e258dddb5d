"""Access tokens of an external issuer: chora as the resource server of an OAuth 2.1 authorization server.

The issuer's keys are fetched when they are first needed, and again when a token names an unknown one. Tokens are
validated here, as RFC 8725 (best practices for JSON Web Tokens) demands, without a request to the issuer.
"""

from __future__ import annotations

import logging
import math
from typing import Any, NamedTuple, cast
from urllib.parse import urlsplit

import msgspec
import trio

from chora import fetch
from chora.access import SCOPES, Principal, Scope, is_loopback
from chora.errors import Busy, Forbidden, Unauthorized, UsageError
from chora.settings import OauthSettings

log = logging.getLogger("chora.oauth")

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Asymmetric signatures only, which the issuer alone can make: no shared secrets and no `none` (RFC 8725 §3.1)."""
LEEWAY = 30
"""Seconds by which the issuer's clock may be off."""
TOKEN_LIMIT = 16 * 1024
"""Characters of a token."""
KEYS_LIMIT = 512 * 1024
"""Bytes of the issuer's metadata, and of its keys."""
FETCH_TIMEOUT = 10.0
"""Seconds in which the issuer must send its keys."""
FETCH_INTERVAL = 30.0
"""Seconds between two fetches of keys: any client can send tokens with invented key ids (CWE-770)."""
RETRY_INTERVAL = 5.0
"""Seconds between a fetch that failed and the next one. Meanwhile it isn't known whether a token is valid."""
METADATA_PATHS = ("/.well-known/oauth-authorization-server", "/.well-known/openid-configuration")


class IssuedIdentity(NamedTuple):
    """The principal of a token, and when it expires, in seconds since 1970."""

    principal: Principal
    expires_at: float


class Issuer:
    """An authorization server whose tokens are accepted.

    Args:
        settings: its URL, and the resource that its tokens must be issued for.

    Raises:
        UsageError: the settings don't fit together.
    """

    def __init__(self, settings: OauthSettings) -> None:
        for key, url in (("issuer", settings.issuer), ("resource", settings.resource), ("keys", settings.keys)):
            if url or key != "keys":
                _check_url(f"oauth.{key}", url)
        self.url = settings.issuer
        self.resource = settings.resource
        self._settings = settings
        self._keys: dict[str | None, Any] = {}
        self._fetching = trio.Lock()
        self._next_fetch = -math.inf
        self._fetch_failed = False
        """Whether the last fetch of keys failed, so that a key that isn't known may exist."""

    @property
    def metadata_url(self) -> str:
        """The URL of our protected resource metadata, RFC 9728 §3.1."""
        parts = urlsplit(self.resource)
        return f"{parts.scheme}://{parts.netloc}/.well-known/oauth-protected-resource{parts.path.rstrip('/')}"

    @property
    def metadata(self) -> dict[str, Any]:
        """Our protected resource metadata, RFC 9728 §2."""
        return {
            "resource": self.resource,
            "authorization_servers": [self.url],
            "scopes_supported": [self._settings.scopes + scope for scope in SCOPES],
            "bearer_methods_supported": ["header"],
            "resource_name": "chora",
        }

    @property
    def challenge(self) -> bytes:
        """The `WWW-Authenticate` header for requests without a valid token, RFC 9728 §5.1."""
        scope = self._settings.scopes + SCOPES[0]
        return f'Bearer realm="chora", resource_metadata="{self.metadata_url}", scope="{scope}"'.encode()

    async def identify(self, token: str) -> IssuedIdentity:
        """Validate a token and find its principal.

        Raises:
            Unauthorized: it isn't one of the issuer's, isn't issued for us, or has expired.
            Forbidden: it has none of our scopes.
            Busy: the issuer's keys can't be had just now, so it isn't known whether it is valid.
        """
        import jwt  # the import takes 100 ms and is needed with an issuer only

        try:
            if len(token) > TOKEN_LIMIT:
                raise jwt.InvalidTokenError("it is too long")
            head = jwt.get_unverified_header(token)
            if head.get("alg") not in ALGORITHMS:
                raise jwt.InvalidTokenError("its signature algorithm isn't accepted")
            key = await self._get_key(head.get("kid"))
            if key is None:
                raise jwt.InvalidTokenError("the issuer has no such key")
            claims = jwt.decode(
                token,
                key,
                algorithms=[head["alg"]],
                audience=self.resource,  # a token for another resource isn't ours: RFC 8707, RFC 8725 §3.9
                issuer=self.url,  # RFC 8725 §3.8
                leeway=LEEWAY,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
            until = float(claims["exp"]) + LEEWAY
        except (jwt.PyJWTError, ValueError, TypeError, ArithmeticError, RecursionError) as error:
            # The reason goes to the log only: it would help an attacker more than the client.
            log.info("a token was refused: %s", str(error)[:200])
            raise Unauthorized("The token is not valid here.", f"Get a new one from {self.url}.") from None
        return IssuedIdentity(self._principal(claims), until)

    def _principal(self, claims: dict[str, Any]) -> Principal:
        given = claims.get("scope", claims.get("scp", ""))
        words = given.split() if isinstance(given, str) else cast("list[Any]", given if isinstance(given, list) else [])
        held: list[Scope] = [scope for scope in SCOPES if self._settings.scopes + scope in words]
        if not held:
            raise Forbidden(
                "The token has none of the scopes of this server.",
                f"Ask {self.url} for one of {', '.join(self.metadata['scopes_supported'])}.",
            )
        # The name appears in logs, so it has no line breaks (CWE-117); the key tells subjects with one name apart.
        subject: str = claims["sub"]
        name = "".join(letter if letter.isprintable() else "?" for letter in subject[:200])
        return Principal(f"{name} at {urlsplit(self.url).hostname}", held[-1], key=f"subject {subject}")

    # -- keys -----------------------------------------------------------------------------------------------

    async def _get_key(self, name: str | None) -> Any:
        """The issuer's key of this id; without an id, its only key. None if the issuer has none.

        Raises:
            Busy: the key isn't known, and the issuer couldn't be asked.
        """
        if self._find_key(name) is None:
            async with self._fetching:
                if self._find_key(name) is None and trio.current_time() >= self._next_fetch:
                    self._next_fetch = trio.current_time() + FETCH_INTERVAL
                    self._fetch_failed = not await self._fetch_keys()
                    if self._fetch_failed:
                        self._next_fetch = trio.current_time() + RETRY_INTERVAL
        if (key := self._find_key(name)) is None and self._fetch_failed:
            # A client that is told that its token isn't valid throws it away, or has its user log in again.
            raise Busy(
                "The token can't be checked: the keys of its issuer can't be fetched.",
                f"Try again in a moment with the same token; the log says what is wrong with {self.url}.",
                retry_after=max(1, math.ceil(self._next_fetch - trio.current_time())),
            )
        return key

    def _find_key(self, name: str | None) -> Any:
        if name is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(name)

    async def _fetch_keys(self) -> bool:
        """Fetch the issuer's keys; returns whether that succeeded."""
        import jwt

        try:
            with trio.fail_after(FETCH_TIMEOUT):
                url = self._settings.keys or await self._find_keys_url()
                document = await _fetch(url)
            found: dict[str | None, Any] = {}
            for each in jwt.PyJWKSet.from_dict(document).keys:
                if each.public_key_use in (None, "sig"):
                    found[each.key_id] = each
            self._keys = found
            return True
        except (
            fetch.FetchFailed,
            UsageError,
            trio.TooSlowError,
            jwt.PyJWTError,
            ValueError,
            TypeError,
            RecursionError,
        ) as error:
            log.warning("the keys of %s can't be fetched: %s", self.url, error or type(error).__name__)
            return False

    async def _find_keys_url(self) -> str:
        """The URL of the issuer's keys, from its metadata.

        Raises:
            FetchFailed, ValueError: it has no valid metadata.
        """
        parts = urlsplit(self.url)
        failure: Exception | None = None
        for place in METADATA_PATHS:
            # RFC 8414 §3.1 puts the issuer's path behind the well-known one, OpenID Connect Discovery before it.
            path = parts.path.rstrip("/")
            for target in dict.fromkeys((f"{place}{path}", f"{path}{place}")):
                try:
                    metadata = await _fetch(f"{parts.scheme}://{parts.netloc}{target}")
                except (fetch.FetchFailed, ValueError) as error:
                    failure = error
                    continue
                # RFC 8414 §3.3: metadata that name another issuer must not be used.
                if metadata.get("issuer") == self.url and isinstance(metadata.get("jwks_uri"), str):
                    return _check_url("its jwks_uri", metadata["jwks_uri"])
        raise failure or ValueError("its metadata are those of another issuer")


async def _fetch(url: str) -> dict[str, Any]:
    address = fetch.parse_address(url)
    pool = fetch.ConnectionPool(address.origin)
    try:
        async with await pool.request("GET", address.target, [("accept", "application/json")]) as response:
            if response.status != 200:
                raise fetch.FetchFailed(f"{address} answers {response.status}")
            return msgspec.json.decode(await response.read(KEYS_LIMIT), type=dict[str, Any])
    finally:
        pool.close()


def _check_url(key: str, url: str) -> str:
    """Check a URL of the issuer: keys that come over plain HTTP can be replaced on the way (CWE-319).

    Raises:
        UsageError: it is no https URL, nor one of this machine.
    """
    try:
        origin = fetch.parse_address(url).origin
    except ValueError as error:
        raise UsageError(f"{key} is {url!r}, which is no URL: {error}.", "Write it in full.", setting=key) from None
    if origin.scheme != "https" and not is_loopback(origin.host):
        raise UsageError(f"{key} is {url}, over which keys could be forged on the way.", "Use https.", setting=key)
    return url
