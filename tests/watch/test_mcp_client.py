"""The small MCP client of the probes: it validates what it gets."""

import contextlib
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
import trustme

from chora import this_process
from chora.watch.mcp_client import CallFailed, connect_http, start_process
from tests.conftest import Project, Serve
from tests.patience import PATIENCE


@asynccontextmanager
async def answering(*answers: bytes) -> AsyncGenerator[str]:
    """A server that sends one canned answer per connection; yields its address."""
    waiting = list(answers)

    async def serve_one(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(waiting.pop(0))

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, serve_one, 0, host="127.0.0.1"))
        yield f"http://127.0.0.1:{listener.socket.getsockname()[1]}/mcp"
        nursery.cancel_scope.cancel()


def http(body: bytes, kind: bytes = b"application/json", status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 " + status + b"\r\ncontent-type: " + kind + b"\r\ncontent-length: %d\r\n\r\n" % len(body) + body


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "connection failed"),
        (b"nonsense\r\n\r\n", "connection failed"),
        (http(b"<html>"), "not JSON-RPC"),
        (http(b"[]"), "not JSON-RPC"),
        (http(b"{}"), "without a result"),
        (http(b'{"error": {"message": "sorry"}}', status=b"400 Bad Request"), "HTTP 400, sorry"),
        (http(b'{"error": {}}'), "without a result"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc", "connection failed"),
        (http(b"", kind=b"text/event-stream"), "not JSON-RPC"),
    ],
)
async def test_an_invalid_response_is_an_error(answer: bytes, reason: str):
    """Each kind of invalid response ends in one sentence."""
    with trio.fail_after(PATIENCE):
        async with answering(answer) as url, connect_http(url) as caller:
            with pytest.raises(CallFailed, match=reason):
                await caller.call("hello_world", {})


async def test_a_response_may_be_a_stream_or_text_content():
    """The last event of a stream is the response; without structured content the text is the result."""
    stream = b'event: message\r\ndata: {"method":"x"}\r\n\r\ndata: {"result":{"content":[{"text":"hi"}]}}\r\n\r\n'
    for each in (stream, stream.replace(b"\r\n", b"\n")):
        async with answering(http(each, kind=b"text/event-stream; charset=utf-8")) as url, connect_http(url) as caller:
            answer = await caller.call("hello_world", {})
        assert answer.result == {"text": "hi"}
        assert not answer.is_error


async def test_an_endless_answer_is_cut(monkeypatch: pytest.MonkeyPatch):
    """Memory stays bounded, whatever the server sends."""
    monkeypatch.setattr("chora.watch.mcp_client.ANSWER_LIMIT", 1000)
    async with answering(http(b"x" * 5000)) as url, connect_http(url) as caller:
        with pytest.raises(CallFailed, match="larger than"):
            await caller.call("hello_world", {})


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/mcp", "nothing", "http://127.0.0.1:1/mcp"])
async def test_an_unreachable_address_is_an_error(url: str):
    """Wrong scheme, no address, no server."""
    with pytest.raises(CallFailed):
        async with connect_http(url):
            pass


async def test_tls_trusts_the_configured_certificate(hello: Project, serve: Serve, tmp_path: Path):
    """Our own certificate is trusted when it is configured, whichever CA issued it, and not otherwise."""
    issued = trustme.CA().issue_cert("chora.example")  # its issuer is in no trust store
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    issued.private_key_pem.write_to_path(key)
    issued.cert_chain_pems[0].write_to_path(cert)
    async with serve(hello.root, {"http.cert": str(cert), "http.key": str(key)}) as opened:
        assert opened.url.startswith("https://")
        async with connect_http(opened.target.url, trust=str(cert)) as caller:
            assert (await caller.call("hello_world", {})).result["success"]
        with pytest.raises(CallFailed):
            async with connect_http(opened.target.url) as caller:
                await caller.call("hello_world", {})


# -- over stdio -------------------------------------------------------------------------------------------------


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("pass", "ended"),
        ("input(); print('nonsense \"id\"', flush=True); input()", "not JSON-RPC"),
        ('input(); print(\'{"id":1,"error":{"message":"sorry"}}\', flush=True); input()', "sorry"),
    ],
)
async def test_a_process_that_does_not_speak_mcp_is_an_error(code: str, reason: str):
    """It ends, writes something else, or returns an error: each gives one sentence."""
    with trio.fail_after(PATIENCE), pytest.raises(CallFailed, match=reason):
        async with start_process(python(code), this_process.child_environment()):
            pass


async def test_a_process_that_cannot_be_started_is_an_error():
    """The command doesn't exist."""
    with pytest.raises(CallFailed, match="can't be started"):
        async with start_process(["/nonexistent/chora"], {}):
            pass


async def test_a_process_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch):
    """After its stdin was closed and a pause."""
    monkeypatch.setattr("chora.watch.mcp_client.EXIT_TIMEOUT", 0.2)
    stubborn = 'import time\nprint(\'{"id":1,"result":{}}\', flush=True)\nwhile True: time.sleep(1)'
    with trio.fail_after(PATIENCE):
        async with start_process(python(stubborn), this_process.child_environment()):
            pass


async def test_an_answer_may_be_as_large_as_the_limit(monkeypatch: pytest.MonkeyPatch):
    """With the end of its line, or as a body; one byte more is refused."""
    answer = b'{"id":1,"result":{"content":[],"structuredContent":{"a":1}}}'
    lines = python(f"input(); print({answer.decode()!r}, flush=True); input()")
    body = answer.replace(b'"id":1', b'"id":2')
    for spare in (0, -1):
        refused = pytest.raises(CallFailed, match="larger than") if spare else contextlib.nullcontext()
        monkeypatch.setattr("chora.watch.mcp_client.ANSWER_LIMIT", len(answer) + 1 + spare)
        with trio.fail_after(PATIENCE), refused:
            async with start_process(lines, this_process.child_environment()):
                pass
        monkeypatch.setattr("chora.watch.mcp_client.ANSWER_LIMIT", len(body) + spare)
        async with answering(http(body)) as url, connect_http(url) as caller:
            with pytest.raises(CallFailed, match="larger than") if spare else contextlib.nullcontext():
                assert (await caller.call("hello_world", {})).result == {"a": 1}


async def test_an_endless_line_is_cut(monkeypatch: pytest.MonkeyPatch):
    """A server that never ends its line doesn't fill the memory."""
    monkeypatch.setattr("chora.watch.mcp_client.ANSWER_LIMIT", 1000)
    with trio.fail_after(PATIENCE), pytest.raises(CallFailed, match="larger than"):
        async with start_process(
            python("input(); print('x' * 5000, flush=True); input()"), this_process.child_environment()
        ):
            pass
