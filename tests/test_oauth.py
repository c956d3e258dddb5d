"""Tokens of an authorization server; here a small one that serves its keys over HTTP."""

import base64
import hmac
import re
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import jwt
import msgspec
import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from trio.testing import MockClock

from chora import oauth
from chora.errors import Busy, Forbidden, Unauthorized, UsageError
from chora.oauth import Issuer
from chora.settings import OauthSettings
from chora.transport.http import sessions
from tests.conftest import OpenHttpClient, requirement
from tests.http_client import BOTH, MODERN, message
from tests.patience import PATIENCE

RESOURCE = "https://docs.example/mcp"


class Authority:
    """An authorization server: the documents it shows, by path, and how often it was asked."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.asked: list[str] = []
        self.keys: dict[str, Any] = {}
        self.algorithms: dict[str, str] = {}
        self.documents: dict[str, Any] = {
            "/.well-known/oauth-authorization-server": {"issuer": url, "jwks_uri": f"{url}/keys"}
        }
        self.stuck = False
        self.status = b"200 OK"
        self.add("first", rsa.generate_private_key(65537, 2048), "RS256")

    def add(self, name: str, key: Any, algorithm: str) -> None:
        self.keys[name] = key
        self.algorithms[name] = algorithm
        public = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
        known = self.documents.setdefault("/keys", {"keys": []})["keys"]
        known.append({**public, "kid": name, "use": "sig", "alg": algorithm})

    def token(self, key: str = "first", **claims: Any) -> str:
        """A token of an hour; a claim that is None is left out."""
        all_claims = {
            "iss": self.url,
            "aud": RESOURCE,
            "sub": "ann",
            "exp": int(time.time()) + 3600,
            "scope": "openid chora:write",
            **claims,
        }
        kept = {name: value for name, value in all_claims.items() if value is not None}
        return jwt.encode(kept, self.keys[key], self.algorithms[key], headers={"kid": key})

    def settings(self, **rest: Any) -> OauthSettings:
        return OauthSettings(**{"issuer": self.url, "resource": RESOURCE, **rest})

    async def serve(self, stream: trio.SocketStream) -> None:
        request = b""
        while b"\r\n\r\n" not in request and (piece := await stream.receive_some(4096)):
            request += piece
        path = request.split(b" ")[1].decode()
        self.asked.append(path)
        if self.stuck:
            await trio.sleep_forever()
        found = self.documents.get(path)
        body = found if isinstance(found, bytes) else msgspec.json.encode(found)
        status = b"404 Not Found" if found is None else self.status
        head = b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
        await stream.send_all(head % (status, len(body)) + body)
        await stream.aclose()


@asynccontextmanager
async def standing() -> AsyncGenerator[Authority]:
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listener.socket.getsockname()[1]
        authority = Authority(f"http://127.0.0.1:{port}")
        nursery.start_soon(trio.serve_listeners, authority.serve, [listener])
        yield authority
        nursery.cancel_scope.cancel()


@pytest.fixture
async def authority() -> AsyncGenerator[Authority]:
    async with standing() as here:
        yield here


Log = pytest.LogCaptureFixture


async def refused(issuer: Issuer, token: str, log: Log) -> str:
    """Why a token is refused: the log says it, the error doesn't."""
    log.set_level("INFO", "chora.oauth")
    log.clear()
    with pytest.raises(Unauthorized) as caught:
        await issuer.identify(token)
    assert caught.value.message == "The token is not valid here."
    assert caught.value.hint == f"Get a new one from {issuer.url}."
    (reason,) = [found[1] for record in log.records if (found := _REFUSED.fullmatch(record.getMessage()))]
    return reason


_REFUSED = re.compile(r"a token was refused: (.*)")


async def test_a_token_of_the_issuer_is_accepted(authority: Authority):
    """As its subject, with the highest of our scopes that it has; the keys are fetched once."""
    issuer = Issuer(authority.settings())
    with trio.fail_after(PATIENCE):
        principal, until = await issuer.identify(authority.token())
        assert (principal.name, principal.scope, principal.key) == ("ann at 127.0.0.1", "write", "subject ann")
        assert until == pytest.approx(time.time() + 3600 + oauth.LEEWAY, abs=60)  # pyright: ignore[reportUnknownMemberType]
        assert (
            await issuer.identify(authority.token(scope="chora:read chora:admin", sub="bob"))
        ).principal.scope == "admin"
        assert (await issuer.identify(authority.token(scope=None, scp=["chora:read"]))).principal.scope == "read"
        assert (await issuer.identify(authority.token(aud=["other", RESOURCE]))).principal.scope == "write"
    assert authority.asked == ["/.well-known/oauth-authorization-server", "/keys"]


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [(ec.generate_private_key(ec.SECP256R1()), "ES256"), (ed25519.Ed25519PrivateKey.generate(), "EdDSA")],
)
async def test_elliptic_curve_signatures_are_accepted(authority: Authority, key: Any, algorithm: str):
    """As well as RSA."""
    authority.add("second", key, algorithm)
    with trio.fail_after(PATIENCE):
        assert (await Issuer(authority.settings()).identify(authority.token("second"))).principal.scope == "write"


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"iss": "https://other.example"}, "Invalid issuer"),
        ({"aud": "https://other.example/mcp"}, "Audience doesn't match"),
        ({"aud": None}, 'missing the "aud" claim'),
        ({"aud": RESOURCE + "/"}, "Audience doesn't match"),
        ({"exp": 1}, "Signature has expired"),
        ({"exp": None}, 'missing the "exp" claim'),
        ({"exp": "soon"}, "(exp) must be an integer"),
        ({"iss": None}, 'missing the "iss" claim'),
        ({"sub": None}, 'missing the "sub" claim'),
        ({"exp": float("inf")}, "(exp) must be an integer"),
        ({"exp": 10**400}, "too large"),
        ({"exp": True}, "Signature has expired"),
        ({"exp": [2**40]}, "(exp) must be an integer"),
        ({"aud": ["https://other.example", "http://127.0.0.1"]}, "Audience doesn't match"),
        ({"nbf": 2**40}, "not yet valid (nbf)"),
        ({"iat": 2**40}, "not yet valid (iat)"),
        ({"sub": 7}, "Subject must be a string"),
    ],
)
async def test_a_token_for_another_resource_is_refused(
    authority: Authority, claims: dict[str, Any], reason: str, caplog: Log
):
    """For another server, by another issuer, for another time, or without these claims; and for no other reason."""
    with trio.fail_after(PATIENCE):
        assert reason in await refused(Issuer(authority.settings()), authority.token(**claims), caplog)


@requirement("server.oauth")
async def test_a_forged_signature_is_refused(authority: Authority, caplog: Log):
    """None, HMAC with our public key, another key under the same id, a changed claim (CWE-347); each for its own
    reason.
    """
    issuer = Issuer(authority.settings())
    good = authority.token()
    head, body, signature = good.split(".")
    claims = jwt.decode(good, options={"verify_signature": False})

    def part(value: Any) -> str:
        return base64.urlsafe_b64encode(msgspec.json.encode(value)).rstrip(b"=").decode()

    stranger = rsa.generate_private_key(65537, 2048)
    unsigned, forged = "its signature algorithm isn't accepted", "Signature verification failed"
    bad = [
        (jwt.encode(claims, None, "none"), unsigned),  # pyright: ignore[reportArgumentType]
        (f"{part({'alg': 'none', 'kid': 'first'})}.{body}.", unsigned),
        (jwt.encode(claims, b"x" * 32, "HS256", headers={"kid": "first"}), unsigned),
        (jwt.encode(claims, stranger, "RS256", headers={"kid": "first"}), forged),
        (f"{head}.{part({**claims, 'scope': 'chora:admin'})}.{signature}", forged),
        (f"{head}.{body}.{signature[:-4]}AAAA", forged),
        (f"{head}.{body}.", forged),
        (f"{part({'alg': ['RS256'], 'kid': 'first'})}.{body}.{signature}", unsigned),
        (f"{part({'alg': 'RS256', 'kid': ['first']})}.{body}.{signature}", "must be a string"),
        (f"{part([])}.{body}.{signature}", "must be a json object"),
        ("..", "header"),
        ("a.b.c", "header"),
        ("ü.ü.ü", "header"),
        (good + "x" * oauth.TOKEN_LIMIT, "it is too long"),
    ]
    with trio.fail_after(PATIENCE):
        for token, reason in bad:
            assert reason in await refused(issuer, token, caplog)
        assert (await issuer.identify(good)).principal.name.startswith("ann")


@pytest.mark.parametrize(
    "scope",
    [
        None,
        "",
        "openid",
        "read",
        "chora:",
        "chora:everything",
        "chora:adminx",
        [],
        ["write"],
        [["chora:read"]],
        7,
        {"chora:admin": 1},
    ],
)
async def test_a_token_without_our_scopes_is_refused(authority: Authority, scope: Any):
    """The error lists our scopes."""
    with trio.fail_after(PATIENCE), pytest.raises(Forbidden) as caught:
        await Issuer(authority.settings()).identify(authority.token(scope=scope))
    assert "chora:read, chora:write, chora:admin" in str(caught.value.hint)


async def test_a_symmetric_key_in_the_key_set_is_ignored(authority: Authority, caplog: Log):
    """It is published, so anyone could sign with it."""
    secret = b"shared between two and shown to all"
    shown = {"kty": "oct", "k": base64.urlsafe_b64encode(secret).rstrip(b"=").decode(), "kid": "shared"}
    authority.documents["/keys"]["keys"].append(shown)
    claims = jwt.decode(authority.token(), options={"verify_signature": False})
    head = base64.urlsafe_b64encode(b'{"alg":"RS256","kid":"shared"}').rstrip(b"=")
    body = base64.urlsafe_b64encode(msgspec.json.encode(claims)).rstrip(b"=")
    signature = base64.urlsafe_b64encode(hmac.digest(secret, head + b"." + body, "sha256")).rstrip(b"=")
    issuer = Issuer(authority.settings())
    with trio.fail_after(PATIENCE):
        reason = await refused(issuer, b".".join([head, body, signature]).decode(), caplog)
        assert "does not match the key's algorithm" in reason
        assert (await issuer.identify(authority.token())).principal.scope == "write"


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        ({"crit": ["b64"], "b64": True}, "Critical extension 'b64'"),
        ({"crit": ["exp"]}, "Unsupported critical extension: exp"),
        ({"crit": []}, "Invalid 'crit' header"),
        ({"b64": False}, "b64"),
    ],
)
async def test_a_token_with_critical_headers_is_refused(
    authority: Authority, head: dict[str, Any], reason: str, caplog: Log
):
    """RFC 7515: what `crit` lists has to be understood, and nothing is supported."""
    claims = jwt.decode(authority.token(), options={"verify_signature": False})
    token = jwt.encode(claims, authority.keys["first"], "RS256", headers={"kid": "first", **head})
    with trio.fail_after(PATIENCE):
        assert reason in await refused(Issuer(authority.settings()), token, caplog)


async def test_only_signing_keys_of_supported_kinds_are_used(authority: Authority, caplog: Log):
    """No encryption keys, which may be less protected, and no other curves."""
    authority.add("hidden", rsa.generate_private_key(65537, 2048), "RS256")
    authority.documents["/keys"]["keys"][-1]["use"] = "enc"
    authority.add("odd", ec.generate_private_key(ec.SECP256K1()), "ES256K")
    issuer = Issuer(authority.settings())
    with trio.fail_after(PATIENCE):
        assert (await issuer.identify(authority.token())).principal.scope == "write"
        for key, reason in (
            ("hidden", "the issuer has no such key"),
            ("odd", "its signature algorithm isn't accepted"),
        ):
            assert await refused(issuer, authority.token(key), caplog) == reason


async def test_the_audience_must_match_exactly(authority: Authority, caplog: Log):
    """Neither the issuer itself nor a longer URL that begins like ours."""
    issuer = Issuer(authority.settings())
    with trio.fail_after(PATIENCE):
        for audience in (authority.url, RESOURCE + "/", RESOURCE[:-1], [authority.url]):
            assert await refused(issuer, authority.token(aud=audience), caplog) == "Audience doesn't match"


async def test_a_token_that_is_too_long_is_refused(authority: Authority, monkeypatch: pytest.MonkeyPatch, caplog: Log):
    """Before it is parsed; one as long as the limit is accepted."""
    issuer = Issuer(authority.settings())
    with trio.fail_after(PATIENCE):
        assert await issuer.identify(authority.token(note="x" * 8_000))
        assert await refused(issuer, authority.token(note="x" * oauth.TOKEN_LIMIT), caplog) == "it is too long"
        full = authority.token(note="full")
        monkeypatch.setattr(oauth, "TOKEN_LIMIT", len(full))
        assert await issuer.identify(full)
        monkeypatch.setattr(oauth, "TOKEN_LIMIT", len(full) - 1)
        assert await refused(Issuer(authority.settings()), full, caplog) == "it is too long"


async def test_the_issuers_metadata_must_match(authority: Authority, caplog: pytest.LogCaptureFixture):
    """Another issuer in it, or keys at a URL without TLS, are refused."""
    for document, reason in (
        ({"issuer": "https://other.example", "jwks_uri": f"{authority.url}/keys"}, "another issuer"),
        ({"issuer": authority.url, "jwks_uri": "http://far.example/keys"}, "keys could be forged"),
    ):
        authority.documents |= dict.fromkeys(oauth.METADATA_PATHS, document)
        caplog.clear()
        with trio.fail_after(PATIENCE), pytest.raises(Busy):
            await Issuer(authority.settings()).identify(authority.token())
        assert reason in caplog.text
        assert "/keys" not in authority.asked


async def test_a_key_in_the_token_is_ignored(authority: Authority, caplog: Log):
    """In its header or at a URL there (`jwk`, `jku`, `x5u`), whether its id is one of the issuer's or not."""
    stranger = rsa.generate_private_key(65537, 2048)
    own = jwt.get_algorithm_by_name("RS256").to_jwk(stranger.public_key(), as_dict=True)
    claims = jwt.decode(authority.token(), options={"verify_signature": False})
    there = f"{authority.url}/elsewhere"
    authority.documents["/elsewhere"] = {"keys": [{**own, "kid": "mine"}]}
    issuer = Issuer(authority.settings(keys=f"{authority.url}/keys"))
    with trio.fail_after(PATIENCE):
        for extra in ({"jwk": own}, {"jku": there}, {"x5u": there}, {"kid": there}):
            token = jwt.encode(claims, stranger, "RS256", headers={"kid": "mine", **extra})
            assert await refused(issuer, token, caplog) == "the issuer has no such key"
            token = jwt.encode(claims, stranger, "RS256", headers={**extra, "kid": "first"})
            assert await refused(issuer, token, caplog) == "Signature verification failed"
    assert authority.asked == ["/keys"]


async def test_long_subjects_stay_distinct(authority: Authority):
    """However long their common beginning; and a name is one line."""
    issuer = Issuer(authority.settings())
    with trio.fail_after(PATIENCE):
        first = (await issuer.identify(authority.token(sub="a" * 300 + "b"))).principal
        second = (await issuer.identify(authority.token(sub="a" * 300 + "c"))).principal
        assert first != second
        assert len(first.name) < 250
        odd = (await issuer.identify(authority.token(sub="x\nERROR forged\x1b[2J"))).principal
        assert odd.name == "x?ERROR forged?[2J at 127.0.0.1"


@pytest.mark.parametrize("head", [b'{"alg":' + b"[" * 8000, b'{"alg":"RS256","kid":' + b"9" * 8000 + b"}", b"\xff"])
async def test_a_malformed_token_is_refused(authority: Authority, head: bytes, caplog: Log):
    """With the same refusal as any other."""
    odd = base64.urlsafe_b64encode(head).rstrip(b"=").decode()
    with trio.fail_after(PATIENCE):
        assert "header" in await refused(Issuer(authority.settings()), f"{odd}.e30.AAAA", caplog)


async def test_a_new_key_is_fetched_when_a_token_names_it(authority: Authority, mock_clock: MockClock, caplog: Log):
    """At intervals, however many tokens have made-up key ids."""
    issuer = Issuer(authority.settings(keys=f"{authority.url}/keys"))
    await issuer.identify(authority.token())
    authority.add("second", rsa.generate_private_key(65537, 2048), "RS256")
    for _ in range(3):
        assert await refused(issuer, authority.token("second"), caplog) == "the issuer has no such key"
    assert authority.asked == ["/keys"]
    mock_clock.jump(oauth.FETCH_INTERVAL)
    assert (await issuer.identify(authority.token("second"))).principal.scope == "write"
    assert (await issuer.identify(authority.token())).principal.scope == "write"
    assert authority.asked == ["/keys", "/keys"]


async def test_a_token_that_names_no_key_is_checked_with_the_only_one(authority: Authority, caplog: Log):
    """With several keys it isn't guessed which."""
    issuer = Issuer(authority.settings())
    claims = jwt.decode(authority.token(), options={"verify_signature": False})
    nameless = jwt.encode(claims, authority.keys["first"], "RS256")
    with trio.fail_after(PATIENCE):
        assert (await issuer.identify(nameless)).principal.scope == "write"
        authority.add("second", rsa.generate_private_key(65537, 2048), "RS256")
        assert await refused(Issuer(authority.settings()), nameless, caplog) == "the issuer has no such key"


@pytest.mark.parametrize(
    "documents",
    [
        {},
        {"/.well-known/oauth-authorization-server": b"<html>"},
        {
            "/.well-known/oauth-authorization-server": {
                "issuer": "https://other.example",
                "jwks_uri": "https://x.example/",
            }
        },
        {"/.well-known/oauth-authorization-server": {"issuer": "SELF", "jwks_uri": 7}},
        {"/.well-known/oauth-authorization-server": {"issuer": "SELF", "jwks_uri": "http://far.example/keys"}},
        {"/keys": {"keys": [{"kty": "odd"}]}},
        {"/keys": []},
        {"/keys": b"{" * 100_000},
        {"/keys": b'{"keys": "' + b"x" * oauth.KEYS_LIMIT + b'"}'},
    ],
)
async def test_without_the_issuers_keys_no_token_is_accepted(
    authority: Authority, documents: dict[str, Any], caplog: pytest.LogCaptureFixture
):
    """The log has the reason; the next fetch may succeed."""
    own = authority.documents
    authority.documents = {
        path: {name: authority.url if value == "SELF" else value for name, value in document.items()}
        if isinstance(document, dict)
        else document
        for path, document in documents.items()
    }
    issuer = Issuer(authority.settings(keys=f"{authority.url}/keys" if "/keys" in documents else ""))
    with trio.fail_after(PATIENCE):
        with pytest.raises(Busy):
            await issuer.identify(authority.token())
        assert "can't be fetched" in caplog.text
        authority.documents = own
        issuer._next_fetch = 0  # as if the pause were over
        assert (await issuer.identify(authority.token())).principal.scope == "write"


@pytest.mark.parametrize("status", [b"500 Internal Server Error", b"503 Service Unavailable", b"403 Forbidden"])
async def test_keys_of_an_error_response_are_ignored(
    authority: Authority, status: bytes, caplog: pytest.LogCaptureFixture
):
    """Whatever JSON it has; when the issuer works again, the token is accepted."""
    authority.status = status
    issuer = Issuer(authority.settings())
    with trio.fail_after(PATIENCE):
        with pytest.raises(Busy):
            await issuer.identify(authority.token())
        assert "can't be fetched" in caplog.text
        authority.status = b"200 OK"
        issuer._next_fetch = 0  # as if the pause were over
        assert (await issuer.identify(authority.token())).principal.scope == "write"


async def test_keys_are_found_at_openids_metadata_paths(authority: Authority):
    """After or before the path of the issuer."""
    document = authority.documents.pop("/.well-known/oauth-authorization-server")
    authority.url += "/realms/docs"
    document["issuer"] = authority.url
    authority.documents["/realms/docs/.well-known/openid-configuration"] = document
    with trio.fail_after(PATIENCE):
        assert (await Issuer(authority.settings()).identify(authority.token())).principal.scope == "write"


async def test_a_silent_issuer_times_out(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """Requests that wait for its keys are refused."""
    monkeypatch.setattr(oauth, "FETCH_TIMEOUT", 0.2)
    authority.stuck = True
    with trio.fail_after(PATIENCE), pytest.raises(Busy):
        await Issuer(authority.settings()).identify(authority.token())
    assert "can't be fetched" in caplog.text


@requirement("server.oauth.unreachable")
async def test_while_the_issuer_is_away_no_token_is_called_invalid(
    authority: Authority, mock_clock: MockClock, caplog: Log
):
    """A client would throw a good token away. Nothing of it is remembered, known keys go on working, and however many
    ask, the issuer is tried again at intervals.
    """
    issuer = Issuer(authority.settings(keys=f"{authority.url}/keys"))
    authority.status = b"502 Bad Gateway"
    for _ in range(3):
        with pytest.raises(Busy) as caught:
            await issuer.identify(authority.token())
        assert caught.value.http_status == 503
        assert caught.value.details["retry_after"] == oauth.RETRY_INTERVAL
    assert authority.asked == ["/keys"]
    mock_clock.jump(oauth.RETRY_INTERVAL - 0.1)
    with pytest.raises(Busy) as caught:
        await issuer.identify(authority.token())
    assert caught.value.details["retry_after"] == 1
    authority.status = b"200 OK"
    mock_clock.jump(oauth.RETRY_INTERVAL)
    assert (await issuer.identify(authority.token())).principal.scope == "write"

    authority.status = b"502 Bad Gateway"
    authority.add("second", rsa.generate_private_key(65537, 2048), "RS256")
    mock_clock.jump(oauth.FETCH_INTERVAL)
    with pytest.raises(Busy):
        await issuer.identify(authority.token("second"))
    assert (await issuer.identify(authority.token())).principal.scope == "write"
    assert await refused(issuer, authority.token(exp=1), caplog) == "Signature has expired"
    authority.status = b"200 OK"
    mock_clock.jump(oauth.RETRY_INTERVAL)
    assert (await issuer.identify(authority.token("second"))).principal.scope == "write"


@requirement("server.oauth.unreachable")
async def test_over_http_an_unreachable_issuer_is_503(authority: Authority, http_client: OpenHttpClient):
    """With the seconds to wait, and without a challenge to get another token."""
    authority.status = b"502 Bad Gateway"
    async with http_client(oauth__issuer=authority.url, oauth__resource=RESOURCE) as client:
        response = await client.ask_modern("tools/list", authorization=f"Bearer {authority.token()}")
        assert response.status_code == 503
        assert 1 <= int(response.headers["retry-after"]) <= oauth.RETRY_INTERVAL
        assert "www-authenticate" not in response.headers
        assert "can't be checked" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"issuer": "http://id.example"}, "oauth.issuer"),
        ({"issuer": "id.example"}, "oauth.issuer"),
        ({"issuer": "https://id.example", "resource": ""}, "oauth.resource"),
        ({"issuer": "https://id.example", "resource": "http://docs.example/mcp"}, "oauth.resource"),
        ({"issuer": "https://id.example", "keys": "ftp://id.example/keys"}, "oauth.keys"),
    ],
)
def test_settings_that_could_be_forged_are_refused(settings: dict[str, Any], said: str):
    """At start, by name."""
    with pytest.raises(UsageError, match=said):
        Issuer(OauthSettings(**{"resource": RESOURCE, **settings}))


async def test_the_server_publishes_the_issuer_of_its_tokens(authority: Authority, http_client: OpenHttpClient):
    """RFC 9728: the 401 names the metadata, which name the issuer; then a token is accepted."""
    async with http_client(oauth__issuer=authority.url, oauth__resource=RESOURCE) as client:
        refused = await client.ask_modern("tools/list")
        assert refused.status_code == 401
        challenge = refused.headers["www-authenticate"]
        assert 'resource_metadata="https://docs.example/.well-known/oauth-protected-resource/mcp"' in challenge
        assert 'scope="chora:read"' in challenge
        for path in ("/.well-known/oauth-protected-resource/mcp", "/.well-known/oauth-protected-resource"):
            metadata = (await client.http.get(path)).json()
            assert metadata["resource"] == RESOURCE
            assert metadata["authorization_servers"] == [authority.url]
        token = f"Bearer {authority.token(scope='chora:read')}"
        assert (await client.ask_modern("tools/list", authorization=token)).status_code == 200
        drafted = await client.ask_modern("tools/call", {"name": "draft_config", "arguments": {}}, authorization=token)
        error = drafted.json()["result"]["structuredContent"]["error"]
        assert (error["code"], error["details"]["scope"]) == ("forbidden", "write")
        nothing = f"Bearer {authority.token(scope='openid')}"
        assert (await client.ask_modern("tools/list", authorization=nothing)).status_code == 403


@pytest.mark.slow("waits until a token expires")
async def test_a_session_outlives_its_token(
    authority: Authority, http_client: OpenHttpClient, monkeypatch: pytest.MonkeyPatch
):
    """Its streams end with the token; with a new token the session goes on."""
    monkeypatch.setattr(sessions, "SWEEP_INTERVAL", 0.05)
    monkeypatch.setattr(oauth, "LEEWAY", 0)
    async with http_client(oauth__issuer=authority.url, oauth__resource=RESOURCE) as client:
        client.http.headers["authorization"] = f"Bearer {authority.token()}"
        await client.initialize()
        soon = {"authorization": f"Bearer {authority.token(exp=int(time.time()) + 3)}"}
        sent = {"accept": BOTH, "mcp-session-id": client.session, **soon}
        with trio.fail_after(PATIENCE):
            async with client.http.stream("GET", "/mcp", headers=sent) as stream:
                assert stream.status_code == 200
                pieces = stream.aiter_text()
                await anext(pieces)
                assert [piece async for piece in pieces if not piece.startswith(":")] == []
        assert (await client.ask("ping")).status_code == 200
        assert (await client.ask("ping", **soon)).status_code == 401


@pytest.mark.slow("waits until a token expires")
async def test_a_stream_of_the_old_transport_ends_with_its_token(
    authority: Authority, http_client: OpenHttpClient, monkeypatch: pytest.MonkeyPatch
):
    """Its session is that stream."""
    monkeypatch.setattr(sessions, "SWEEP_INTERVAL", 0.05)
    monkeypatch.setattr(oauth, "LEEWAY", 0)
    async with http_client(oauth__issuer=authority.url, oauth__resource=RESOURCE) as client:
        sent = {"authorization": f"Bearer {authority.token(exp=int(time.time()) + 3)}"}
        with trio.fail_after(PATIENCE):
            async with client.http.stream("GET", "/sse", headers={"accept": "text/event-stream", **sent}) as stream:
                assert stream.status_code == 200
                pieces = [piece async for piece in stream.aiter_text()]
        assert "event: endpoint" in "".join(pieces)


@pytest.mark.slow("waits until a token expires")
async def test_a_subscription_ends_with_its_token(
    authority: Authority, http_client: OpenHttpClient, monkeypatch: pytest.MonkeyPatch
):
    """It has no session that a later token could continue."""
    monkeypatch.setattr(sessions, "SWEEP_INTERVAL", 0.05)
    monkeypatch.setattr(oauth, "LEEWAY", 0)
    async with http_client(oauth__issuer=authority.url, oauth__resource=RESOURCE) as client:
        client.http.headers["authorization"] = f"Bearer {authority.token(exp=int(time.time()) + 3)}"
        body = message("subscriptions/listen", {"notifications": {"toolsListChanged": True}, "_meta": MODERN}, 1)
        sent = {"accept": BOTH, "mcp-protocol-version": "2026-07-28", "mcp-method": "subscriptions/listen"}
        with trio.fail_after(PATIENCE):
            response = await client.http.post("/mcp", json=body, headers=sent)
        assert response.status_code == 200
        assert '"resultType":"complete"' in response.text
