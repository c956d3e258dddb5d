"""HTTP requests to the server: with the access token, along redirects, and with retries while it restarts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import msgspec
import trio
from msgspec import UNSET

from chora import __version__, fetch
from chora.bridge.messages import (
    Backoff,
    BridgedMessage,
    CallFailure,
    ConnectionLost,
    NotJson,
    UpstreamUnreachable,
    split_messages,
)
from chora.errors import UsageError
from chora.fetch import Address, ConnectionPool, FetchFailed, HttpResponse
from chora.secrets import FoundSecret

log = logging.getLogger("chora.bridge")

REDIRECT_LIMIT = 3  # that a request may follow
REFUSAL_LIMIT = 1024 * 1024  # bytes that are read of the body of a refusal
REFUSAL_TIMEOUT = 10.0  # seconds to read it
PERMANENT_REDIRECTS = (301, 308)
"""Redirects that hold for all further requests, whatever the method."""
UNAVAILABLE = (502, 503, 504)
"""The statuses of a proxy without its server, and of a server that starts or stops."""


FindToken = Callable[[bool], FoundSecret | None]
"""Finds the access token; the argument is whether the server has demanded one, which justifies a longer search."""


class Upstream:
    """Sends requests to the server.

    Args:
        address: where it is.
        token: finds the access token.
        headers: sent with every request.
        trust: a PEM file with a CA, or the server's own certificate, that is trusted besides the system's.
    """

    def __init__(
        self,
        address: Address,
        token: FindToken,
        headers: Sequence[tuple[str, str]] = (),
        trust: str = "",
    ) -> None:
        self.address = address
        self.reached = False
        """Whether the server has ever answered."""
        self._find_token = token
        self._token = token(False)
        self._trust = trust
        self._headers = [("user-agent", f"chora/{__version__}"), ("accept-encoding", "identity"), *headers]
        self._pool = ConnectionPool(address.origin, trust=trust)

    async def send_request(
        self,
        method: str,
        headers: Sequence[tuple[str, str]],
        body: bytes = b"",
        *,
        address: Address | None = None,
        retry_time: float = 0.0,
        repeatable: bool = True,
    ) -> HttpResponse:
        """Send a request; returns the response after its head.

        Args:
            method, headers, body: the request.
            address: where to, if not to the server's address.
            retry_time: seconds to go on trying while the server can't be reached.
            repeatable: it does no harm if it is carried out twice.

        Raises:
            UpstreamUnreachable: the server can't be reached; nothing was carried out.
            ConnectionLost: the request may have been carried out.
            CallFailure: the server refuses, or redirects elsewhere.
        """
        until = trio.current_time() + retry_time
        pause, redirects, renewed = Backoff(), 0, False
        redirected: Address | None = None  # where this request alone was redirected to
        while True:
            target = redirected or address or self.address
            try:
                response = await self._pool.request(method, target.target, self._with_token(headers), body)
            except fetch.CertificateRejected as refused:
                raise CallFailure(f"{target}: {refused}.", "Name the CA that signed it with --trust FILE.") from refused
            except fetch.ConnectFailed as absent:
                wait = pause.next_pause()
                if trio.current_time() + wait > until:
                    hint = "Nothing was carried out. See that the server runs, then make the call again."
                    raise UpstreamUnreachable(f"{target} can't be reached: {absent}.", hint, retryable=True) from absent
                await trio.sleep(wait)
                continue
            except fetch.ConnectionBroken as broken:
                if repeatable and isinstance(broken, fetch.StaleConnection):
                    continue
                wait = pause.next_pause()
                if repeatable and trio.current_time() + wait <= until:
                    await trio.sleep(wait)
                    continue
                raise ConnectionLost(target, broken) from broken
            except FetchFailed as failed:
                raise CallFailure(
                    f"{target} doesn't answer properly: {failed}.", _CHECK_ADDRESS, carried_out=True
                ) from failed
            status = response.status
            if status in UNAVAILABLE and repeatable:
                wait = pause.next_pause()
                if trio.current_time() + wait <= until:
                    await self._discard(response)
                    await trio.sleep(wait)
                    continue
            self.reached = True
            if 300 <= status < 400 and (location := response.header("location")) is not None:
                await self._discard(response)
                redirects += 1
                redirected = self._follow_redirect(
                    target, location, method, status, redirects, chosen=address is not None
                )
                continue
            if status == 401 and not renewed and await self._renew_token():
                await self._discard(response)
                renewed = True
                continue
            return response

    def close(self) -> None:
        """Close the idle connections."""
        self._pool.close()

    def describe_refusal(self, response: HttpResponse) -> CallFailure:
        """The failure of a message that was refused without a JSON-RPC error."""
        status, there = response.status, self.address
        match status:
            case 401 if "resource_metadata" in (response.header("www-authenticate") or "") and not self._token:
                hint = (
                    "It wants a sign-in by a person, which `chora connect` can't do; "
                    "have it give out an access token and name it with --token keyring:NAME, file:PATH or env:NAME."
                )
                return CallFailure(f"{there} wants a sign-in (HTTP 401).", hint)
            case 401 if self._token is None:
                hint = "Name one with --token keyring:NAME, file:PATH or env:NAME, or set the secret chora_token."
                return CallFailure(f"{there} wants an access token (HTTP 401).", hint)
            case 401:
                hint = "Put a valid one there; it is read again with the next call."
                origin = self._token.origin if self._token else ""
                return CallFailure(f"{there} refuses the access token ({origin}, HTTP 401).", hint)
            case 403:
                hint = "Check what the access token allows, and that the server knows itself by this host name."
                return CallFailure(f"{there} forbids it (HTTP 403).", hint)
            case 404 | 405 | 406:
                return CallFailure(f"There is no MCP endpoint at {there} (HTTP {status}).", _CHECK_ADDRESS)
            case 413:
                return CallFailure(f"The message is too long for {there} (HTTP 413).", "Send less at once.")
            case 429:
                after = response.header("retry-after") or ""
                when = f"in {after[:9]} s" if after.isdecimal() else "later"
                return CallFailure(
                    f"{there} gets too many requests (HTTP 429).", f"Make the call again {when}.", retryable=True
                )
            case _ if status in UNAVAILABLE:
                hint = "It may be starting or stopping; make the call again in a moment."
                return CallFailure(f"{there} isn't available (HTTP {status}).", hint, retryable=True, carried_out=True)
            case _:
                hint = "Its log may say why."
                return CallFailure(f"{there} failed (HTTP {status}).", hint, carried_out=status >= 500)

    async def read_refusal(self, response: HttpResponse) -> tuple[bytes, BridgedMessage | None]:
        """The body of a refusal, and the JSON-RPC error in it, if it is one."""
        with trio.move_on_after(REFUSAL_TIMEOUT):
            try:
                body = await response.read(REFUSAL_LIMIT)
                ((body, message),) = split_messages(body)
            except (FetchFailed, NotJson, ValueError):
                return b"", None
            return (body, message) if message.error is not UNSET and message.method is UNSET else (b"", None)
        return b"", None

    # -- tokens and redirects -----------------------------------------------------------------------------

    def _with_token(self, headers: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        token = [] if self._token is None else [("authorization", f"Bearer {self._token.secret.reveal()}")]
        return [*self._headers, *headers, *token]

    async def _renew_token(self) -> bool:
        """Look the token up again, as it may have been changed; returns whether it was."""
        before = self._token
        found = await trio.to_thread.run_sync(self._find_token_again, abandon_on_cancel=True)
        if found is None or (before is not None and found.secret.reveal() == before.secret.reveal()):
            return False
        log.info("the token was read again from %s", found.origin)
        self._token = found
        return True

    def _find_token_again(self) -> FoundSecret | None:
        try:
            return self._find_token(True)
        except UsageError:  # it was found at the start; the server's refusal says enough
            return None

    def _follow_redirect(
        self, address: Address, location: str, method: str, status: int, count: int, *, chosen: bool
    ) -> Address | None:
        """Follow a redirect, if it leads to the same server and keeps the request as it is.

        Credentials never follow a redirect to another origin (RFC 9110 §15.4; CVE-2018-18074), nor from https to http.

        Returns:
            The address for this request alone; None if all requests go there from now on. A GET may be redirected
            once, for example to a sign-in page.

        Raises:
            CallFailure: the redirect isn't followed.
        """
        try:
            new = address.join(location)
        except ValueError:
            raise CallFailure(f"{address} redirects to an invalid address (HTTP {status}).", _CHECK_ADDRESS) from None
        plain = address.origin._replace(scheme="http", port=80)
        secured = address.origin._replace(scheme="https", port=443)
        is_same = new.origin == address.origin or (address.origin == plain and new.origin == secured)
        if count > REDIRECT_LIMIT:
            raise CallFailure(f"{address} redirects in a circle.", _CHECK_ADDRESS)
        if not is_same:
            hint = "That is another server, which must not see the access token. If it is right, connect to it."
            raise CallFailure(f"{address} redirects to {new}.", hint)
        if method != "GET" and status not in (307, 308):
            raise CallFailure(
                f"{address} redirects to {new} (HTTP {status}), where messages can't follow.", _CHECK_ADDRESS
            )
        if new.origin != address.origin:
            self._pool.close()
            self._pool = ConnectionPool(new.origin, trust=self._trust)
            self.address = self.address._replace(origin=new.origin)
        if chosen or not (method == "POST" or status in PERMANENT_REDIRECTS):
            return new
        log.info("%s redirects to %s", address, new)
        self.address = new
        return None

    async def _discard(self, response: HttpResponse) -> None:
        """Discard a response, keeping its connection if it is short."""
        async with response:
            with trio.move_on_after(REFUSAL_TIMEOUT):
                try:
                    await response.drain()
                except FetchFailed:
                    return


_CHECK_ADDRESS = "Check the address: it should be the server's MCP endpoint, often /mcp or /sse."


def code_of(message: BridgedMessage) -> int:
    """The code of a JSON-RPC error; 0 if there is none."""
    try:
        return msgspec.json.decode(b"{}" if message.error is UNSET else message.error, type=_Error).code
    except msgspec.DecodeError:
        return 0


class _Error(msgspec.Struct, frozen=True):
    code: int = 0
