"""The proxy of the environment: who is reached through it, and how."""

import base64

import httpx2
import pytest
import trio
import trustme

from chora.fetch import ConnectFailed, ConnectionPool, Origin
from chora.fetch.proxies import find_proxy
from tests.conftest import requirement
from tests.patience import PATIENCE
from tests.upstream import http, playing

HTTPS, HTTP = Origin("https", "docs.example", 443), Origin("http", "docs.example", 80)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(
    ("environment", "origin", "found"),
    [
        ({}, HTTPS, None),
        ({"HTTPS_PROXY": "http://proxy.example:3128"}, HTTPS, "proxy.example:3128"),
        ({"https_proxy": "http://proxy.example:3128"}, HTTPS, "proxy.example:3128"),
        ({"HTTPS_PROXY": "proxy.example:3128"}, HTTPS, "proxy.example:3128"),
        ({"HTTPS_PROXY": "http://proxy.example"}, HTTPS, "proxy.example:80"),
        ({"HTTPS_PROXY": "http://[2001:db8::1]:8080"}, HTTPS, "[2001:db8::1]:8080"),
        ({"HTTPS_PROXY": "http://proxy.example:3128"}, HTTP, None),
        ({"HTTP_PROXY": "http://proxy.example:3128"}, HTTP, "proxy.example:3128"),
        ({"HTTP_PROXY": "http://proxy.example:3128", "REQUEST_METHOD": "GET"}, HTTP, None),
        ({"ALL_PROXY": "http://proxy.example:3128"}, HTTP, "proxy.example:3128"),
        ({"ALL_PROXY": "http://proxy.example:3128"}, HTTPS, "proxy.example:3128"),
        *(
            ({"ALL_PROXY": "http://proxy.example:3128", "NO_PROXY": names}, HTTPS, found)
            for names, found in (
                ("docs.example", None),
                ("DOCS.example", None),
                ("other.example, docs.example", None),
                ("docs.example:443", None),
                ("docs.example:80", "proxy.example:3128"),
                ("example", None),
                (".example", None),
                ("*.example", None),
                ("*", None),
                ("ocs.example", "proxy.example:3128"),
                ("", "proxy.example:3128"),
            )
        ),
        *(
            ({"ALL_PROXY": "http://proxy.example:3128", "NO_PROXY": "10.0.0.0/8"}, Origin("http", host, 80), found)
            for host, found in (("10.1.2.3", None), ("11.1.2.3", "proxy.example:3128"))
        ),
        *(
            ({"ALL_PROXY": "http://proxy.example:3128"}, Origin("http", host, 8000), None)
            for host in ("localhost", "127.0.0.1", "127.9.9.9", "::1", "chora.localhost")
        ),
    ],
)
def test_the_proxy_of_a_server(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], origin: Origin, found: str | None
):
    """As in other programs; this machine is always reached directly."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    proxy = find_proxy(origin)
    assert (None if proxy is None else proxy.netloc) == found


@pytest.mark.parametrize("url", ["socks5://proxy.example:1080", "https://proxy.example", "http://", "http://a:b:c"])
def test_what_is_no_http_proxy_is_refused(monkeypatch: pytest.MonkeyPatch, url: str):
    """Not passed by: a user who sets one may want nothing to go past it."""
    monkeypatch.setenv("HTTPS_PROXY", url)
    with pytest.raises(ConnectFailed, match="HTTPS_PROXY"):
        find_proxy(HTTPS)


@requirement("connect.proxy")
async def test_plain_http_names_its_server_to_the_proxy(monkeypatch: pytest.MonkeyPatch):
    """In the absolute form, with the password for the proxy alone (RFC 9112 §3.2.2)."""
    with trio.fail_after(PATIENCE):
        async with playing(lambda _: http(b"{}")) as proxy:
            monkeypatch.setenv("HTTP_PROXY", f"http://me:p%40ss@127.0.0.1:{proxy.port}")
            pool = ConnectionPool(HTTP)
            for _ in range(2):
                async with await pool.request("GET", "/mcp", []) as response:
                    assert await response.read(100) == b"{}"
            pool.close()
    for received in proxy.requests:
        assert (received.target, received.headers["host"]) == ("http://docs.example/mcp", "docs.example")
        assert base64.b64decode(received.headers["proxy-authorization"].removeprefix("Basic ")) == b"me:p@ss"
    assert proxy.connections == 1


@requirement("connect.proxy")
async def test_https_goes_through_a_tunnel(monkeypatch: pytest.MonkeyPatch, tmp_path: object):
    """The proxy sees the name of the server and nothing else; the certificate is that of the server."""
    authority = trustme.CA()
    with trio.fail_after(PATIENCE), authority.cert_pem.tempfile() as trust:
        import ssl

        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("docs.example").configure_cert(context)

        async def serve_tls(stream: trio.abc.Stream) -> None:
            await stream.send_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
            secure = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
            head = b""
            while b"\r\n\r\n" not in head:
                head += await secure.receive_some()
            heads.append(head)
            await secure.send_all(http(b"secret"))
            await trio.sleep_forever()

        heads: list[bytes] = []
        async with playing(lambda _: serve_tls) as proxy:
            monkeypatch.setenv("HTTPS_PROXY", f"http://me:pass@127.0.0.1:{proxy.port}")
            pool = ConnectionPool(HTTPS, trust=trust)
            async with await pool.request("GET", "/mcp", [("authorization", "Bearer t")]) as response:
                assert await response.read(100) == b"secret"
            pool.close()
    (received,) = proxy.requests
    assert (received.method, received.target) == ("CONNECT", "docs.example:443")
    assert "authorization" not in received.headers
    assert heads[0].startswith(b"GET /mcp HTTP/1.1\r\n")
    assert b"proxy-authorization" not in heads[0]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (http(b"", "407 Proxy Authentication Required"), "wants a name and a password"),
        (http(b"", "403 Forbidden"), "HTTP 403"),
        (b"garbage\r\n\r\n", "doesn't answer as an HTTP proxy"),
        (b"x" * 100_000, "doesn't answer as an HTTP proxy"),
        (None, "doesn't answer as an HTTP proxy"),
    ],
)
async def test_a_proxy_that_refuses_is_named_without_its_password(
    monkeypatch: pytest.MonkeyPatch, answer: bytes | None, why: str
):
    """Nothing reached the server."""
    with trio.fail_after(PATIENCE):
        async with playing(lambda _: answer) as proxy:
            monkeypatch.setenv("HTTPS_PROXY", f"http://me:pass-word@127.0.0.1:{proxy.port}")
            pool = ConnectionPool(HTTPS)
            with pytest.raises(ConnectFailed, match=why) as caught:
                await pool.request("GET", "/mcp", [])
    assert f"the proxy 127.0.0.1:{proxy.port}" in str(caught.value)
    assert "pass-word" not in str(caught.value)


async def test_the_api_of_the_model_is_asked_through_the_proxy(monkeypatch: pytest.MonkeyPatch):
    """By the same rules as everything else."""
    from chora.llm import model_proxy

    assert model_proxy(httpx2, "") is None
    monkeypatch.setenv("HTTPS_PROXY", "http://me:pass@proxy.example:3128")
    found = model_proxy(httpx2, "")
    assert str(found.url) == "http://proxy.example:3128"
    assert model_proxy(httpx2, "http://127.0.0.1:9/") is None
