"""The HTTP client: what it sends, accepts and refuses."""

import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

from chora.fetch import (
    CertificateRejected,
    ConnectFailed,
    ConnectionBroken,
    ConnectionPool,
    EventReader,
    FetchFailed,
    Origin,
    ResponseTooLarge,
    ServerSentEvent,
    StaleConnection,
    parse_address,
)
from chora.fetch.connections import ClientConnection
from chora.fetch.limits import HEAD_LIMIT, IDLE_LIMIT, LINE_LIMIT
from tests.conftest import Project, Serve
from tests.patience import PATIENCE
from tests.upstream import END, Answer, ReceivedRequest, chunk, http, playing


@asynccontextmanager
async def pool(url: str, **rest: Any) -> AsyncGenerator[ConnectionPool]:
    """Connections, and none left behind."""
    connections = ConnectionPool(parse_address(url).origin, **rest)
    try:
        yield connections
    finally:
        connections.close()


async def ask(answer: Answer, limit: int = 10_000) -> bytes:
    """The body of one answer."""
    with trio.fail_after(PATIENCE):
        async with (
            playing(lambda _: answer) as upstream,
            pool(upstream.url) as connections,
            await connections.request("POST", "/mcp", [], b"x") as response,
        ):
            return await response.read(limit)


@pytest.mark.parametrize("pieces", [[b"x" * 100], [b"x" * 60, b"x" * 40], [b"x"] * 100], ids=["whole", "two", "bytes"])
async def test_a_body_may_be_as_large_as_the_limit(pieces: list[bytes]):
    """With a length or in chunks; one byte more is refused."""

    async def chunked(peer: trio.abc.Stream) -> None:
        await peer.send_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for piece in pieces:
            await peer.send_all(chunk(piece))
        await peer.send_all(END)

    for answer in (http(b"".join(pieces)), chunked):
        assert await ask(answer, 100) == b"x" * 100
        with pytest.raises(ResponseTooLarge, match="larger than 99 bytes"):
            await ask(answer, 99)


@pytest.mark.parametrize(
    ("url", "origin", "target"),
    [
        ("http://127.0.0.1:8000/mcp", "http://127.0.0.1:8000", "/mcp"),
        ("https://Example.com", "https://example.com", "/"),
        ("https://example.com:443/a?b=c#d", "https://example.com", "/a?b=c"),
        ("http://[::1]:8000/sse", "http://[::1]:8000", "/sse"),
        ("http://bücher.example/mcp", "http://xn--bcher-kva.example", "/mcp"),
        ("http://host:0/", "http://host:0", "/"),
        ("http://[fe80::1%25eth0]:8/", "http://[fe80::1%25eth0]:8", "/"),
    ],
)
def test_a_url_is_parsed(url: str, origin: str, target: str):
    """Into server and path; default ports are left out."""
    address = parse_address(url)
    assert (str(address.origin), address.target) == (origin, target)
    assert "?" not in str(address)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nothing",
        "ftp://host/x",
        "http://",
        "http://me:pw@host/",
        "http://host:x/",
        "http://host/ü",
        "http://evil.example[::1]/",
        "http://[::1]evil.example/",
        "http://[::1",
        "http://a,b/",
        "http://a\\b/",
        "http://a%2eb/",
        "http://host:99999/",
        "http://host:1:2/",
        "http://host:٣/",
        "http://good.example\\@evil.example/",
        "http://me@host/",
        "http://ho st/",
        "//host/",
        "file:///etc/passwd",
        "http://" + "ü" * 99,
    ],
)
def test_an_invalid_url_is_refused(url: str):
    """With a sentence for every fault."""
    with pytest.raises(ValueError, match=r"\w"):
        parse_address(url)


async def test_a_connection_is_reused_until_it_is_stale():
    """One for many requests; a new one when the server has closed it, or announced that."""
    answers = [http(b"1"), http(b"2", connection="close"), http(b"3", keep_alive="timeout=1, max=5"), http(b"4")]
    with trio.fail_after(PATIENCE):
        async with playing(lambda _: answers.pop(0)) as upstream, pool(upstream.url) as connections:
            seen: list[tuple[bytes, int]] = []
            for _ in range(4):
                async with await connections.request("GET", "/") as response:
                    seen.append((await response.read(10), upstream.connections))
        assert seen == [(b"1", 1), (b"2", 1), (b"3", 2), (b"4", 3)]


@pytest.mark.parametrize(
    ("head", "connections"),
    [
        (b"connection: keep-alive\r\nconnection: close\r\n", 2),
        (b"connection: a, Close\r\n", 2),
        (b"keep-alive: timeout=1\r\n", 2),
        (b"keep-alive: timeout=0\r\n", 2),
        (b"keep-alive: timeout=2\r\n", 1),
        (b"keep-alive: max=1, timeout=60\r\n", 1),
        (b"x: close\r\n", 1),
    ],
)
async def test_a_connection_is_kept_as_long_as_the_server_wants(head: bytes, connections: int):
    """Whichever header says so."""
    answer = b"HTTP/1.1 200 OK\r\n" + head + b"content-length: 1\r\n\r\nx"
    with trio.fail_after(PATIENCE):
        async with playing(lambda _: answer) as upstream, pool(upstream.url) as there:
            for _ in range(2):
                async with await there.request("GET", "/") as response:
                    assert await response.read(10) == b"x"
            assert upstream.connections == connections


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\ntransfer-encoding: chunked\r\n\r\n" + chunk(b"x") + END,
    ],
)
async def test_an_ambiguous_connection_is_not_reused(answer: bytes):
    """HTTP/1.0 servers close it; with two lengths, a proxy may see the next response begin elsewhere (CWE-444)."""
    with trio.fail_after(PATIENCE):
        async with playing(lambda _: answer) as upstream, pool(upstream.url) as there:
            for _ in range(2):
                async with await there.request("GET", "/") as response:
                    assert await response.read(10) == b"x"
            assert upstream.connections == 2


async def test_bytes_after_a_response_are_not_the_next_one():
    """A connection with excess bytes isn't used again (CWE-444)."""
    answers = [http(b"1") + http(b"smuggled"), http(b"2")]
    with trio.fail_after(PATIENCE):
        async with playing(lambda _: answers.pop(0)) as upstream, pool(upstream.url) as there:
            for body in (b"1", b"2"):
                async with await there.request("GET", "/") as response:
                    assert await response.read(10) == body
            assert upstream.connections == 2


async def test_a_pooled_connection_that_ends_is_an_error_of_its_own():
    """An idempotent request may then be repeated; on a new connection it is just broken."""
    answers: list[Answer] = [http(b"1"), None, None]
    with trio.fail_after(PATIENCE):
        async with playing(lambda _: answers.pop(0)) as upstream, pool(upstream.url) as connections:
            async with await connections.request("GET", "/") as response:
                await response.read(10)
            with pytest.raises(StaleConnection, match="ended without an answer"):
                await connections.request("GET", "/")
            with pytest.raises(ConnectionBroken) as caught:
                await connections.request("GET", "/")
            assert not isinstance(caught.value, StaleConnection)


async def test_a_reused_connection_that_begins_to_answer_is_not_stale():
    """The request may have been carried out."""

    async def break_off(stream: trio.abc.Stream) -> None:
        await stream.send_all(b"HTTP/1.1 2")
        await stream.aclose()

    answers: list[Answer] = [http(b"1"), break_off]
    with trio.fail_after(PATIENCE):
        async with playing(lambda _: answers.pop(0)) as upstream, pool(upstream.url) as there:
            async with await there.request("GET", "/") as response:
                await response.read(10)
            with pytest.raises(ConnectionBroken) as caught:
                await there.request("GET", "/")
            assert not isinstance(caught.value, StaleConnection)


async def test_an_unsolicited_response_is_refused():
    """A pooled connection that received something meanwhile isn't used again."""
    taken, sent = trio.Event(), trio.Event()

    async def speak_out_of_turn(stream: trio.abc.Stream) -> None:
        await stream.send_all(http(b"1"))
        await taken.wait()
        await stream.send_all(http(b"smuggled"))
        sent.set()

    answers: list[Answer] = [speak_out_of_turn, http(b"2")]
    with trio.fail_after(PATIENCE):
        async with playing(lambda _: answers.pop(0)) as upstream, pool(upstream.url) as there:
            async with await there.request("GET", "/") as response:
                assert await response.read(10) == b"1"
            taken.set()
            await sent.wait()
            async with await there.request("GET", "/") as response:
                assert await response.read(10) == b"2"


async def test_at_most_a_few_connections_are_kept():
    """The others are closed."""
    async with playing(lambda _: http(b"x")) as upstream, pool(upstream.url) as connections:
        responses = [await connections.request("GET", "/") for _ in range(IDLE_LIMIT + 2)]
        used = [response._connection for response in responses]
        for response in responses:
            async with response:
                await response.read(10)
        assert connections._idle == used[2:]


async def test_bodies_come_in_every_framing():
    """By length, in chunks with extensions and trailers, to the end of the connection, and none at all."""

    async def to_the_end(stream: trio.abc.Stream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\nall of it")
        await stream.aclose()

    async def in_pieces(stream: trio.abc.Stream) -> None:
        whole = (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4;a=b\r\nin p\r\n5\r\niece\xc3\r\n0\r\nx: y\r\n\r\n"
        )
        for byte in whole:
            await stream.send_all(bytes([byte]))

    assert await ask(http(b"length")) == b"length"
    assert await ask(in_pieces) == b"in piece\xc3"
    assert await ask(to_the_end) == b"all of it"
    longest = b"a: %b\r\n" % (b"x" * 1021) * 64  # 64 KiB without the line ends
    assert await ask(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + longest + b"\r\n") == b""
    assert await ask(b"HTTP/1.1 204 No Content\r\n\r\n") == b""
    assert await ask(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + http(b"late")) == b"late"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"nonsense\r\n\r\n", "not HTTP"),
        (b"HTTP/2 200\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", "malformed"),
        (b"HTTP/1.1 200 OK\r\nx: a\r\n folded: b\r\n\r\n", "malformed"),
        (b"HTTP/1.1 200 OK\r\ncontent-length : 1\r\n\r\nx", "malformed"),
        (b"HTTP/1.1 200 OK\r\nx: a\ncontent-length: 1\r\n\r\nx", "malformed"),
        (b"HTTP/1.1 200 OK\r\nx: a\rcontent-length: 1\r\n\r\nx", "malformed"),
        (b"HTTP/1.1 200 OK\r\n: a\r\n\r\n", "malformed"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx", "two lengths"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1, 1\r\n\r\nx", "no number"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: +1\r\n\r\nx", "no number"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\nx", "no number"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1_0\r\n\r\nx", "no number"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1e1\r\n\r\nx", "no number"),
        (b"HTTP/1.1 200 OK\r\ncontent-length:\r\n\r\nx", "no number"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9999999999999999\r\n\r\nx", "no number"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", "two"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "coding"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n", "coding"),
        (b"HTTP/1.1 200 OK\r\ncontent-encoding: identity\r\ncontent-encoding: gzip\r\n\r\n", "compressed"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-1\r\nx\r\n0\r\n\r\n", "no size"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0x1\r\nx\r\n0\r\n\r\n", "no size"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1_0\r\nx\r\n0\r\n\r\n", "no size"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\nx\r\n0\r\n\r\n", "no size"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"f" * 16 + b"\r\nx\r\n0\r\n\r\n", "no size"),
        (b"HTTP/1.1 099 Odd\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1  200 OK\r\n\r\n", "not HTTP"),
        (b"\r\nHTTP/1.1 200 OK\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\na: b\r\n folded\r\n\r\n", "malformed"),
        (b"HTTP/1.1 200 OK\r\na: b\nc: d\r\n\r\n", "malformed"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", "two lengths"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", "no number"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n", "transfer coding"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", "no size"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"1" * 20_000, "no size"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n", "longer than it says"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n" + b"a: b\r\n" * 20_000, "trailers"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "protocol"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 100, "interim"),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 20_000, "larger than"),
        (http(b"x", content_encoding="gzip"), "compressed"),
        (http(b"x" * 20_000), "larger than"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunk(b"x" * 6000) * 2, "larger than"),
    ],
)
async def test_an_invalid_response_is_refused(answer: bytes, reason: str):
    """Also any that is ambiguous or doesn't end."""
    with pytest.raises(FetchFailed, match=reason):
        await ask(answer)


class Pieces(trio.abc.Stream):
    """A server whose answer arrives in exactly these pieces."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        pass

    async def wait_send_all_might_not_block(self) -> None:
        pass

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return self.pieces.pop(0)

    async def aclose(self) -> None:
        pass


async def ask_pieces(*pieces: bytes) -> bytes:
    """The body of an answer that arrives in these pieces."""
    stream: Any = Pieces(*pieces)
    connection = ClientConnection(ConnectionPool(Origin("http", "127.0.0.1", 1)), stream, stream)
    return await (await connection.send_request("GET", "/", [], b"")).read(10)


async def test_a_head_and_a_line_may_be_as_long_as_the_limit_before_their_end_arrives():
    """64 KiB of a head and 16 KiB of a line between chunks; one byte more is refused."""
    assert (HEAD_LIMIT, LINE_LIMIT) == (65_536, 16_384)
    start, length = b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n", HEAD_LIMIT
    head = start + b"x: " + b"a" * (length - len(start) - 3)
    assert await ask_pieces(head, b"\r\n\r\ny") == b"y"
    with pytest.raises(FetchFailed, match="its head is larger than 65,536 bytes"):
        await ask_pieces(head + b"a", b"\r\n\r\ny")
    chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    line = b"1;" + b"a" * (LINE_LIMIT - 2)
    assert await ask_pieces(chunked, line, b"\r\ny\r\n0\r\n\r\n") == b"y"
    with pytest.raises(FetchFailed, match="a chunk has no size"):
        await ask_pieces(chunked, line + b"a", b"\r\ny\r\n0\r\n\r\n")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n",
    ],
)
async def test_an_incomplete_response_is_an_error(answer: bytes):
    """Wherever it is cut."""

    async def hang_up(stream: trio.abc.Stream) -> None:
        await stream.send_all(answer)
        await stream.aclose()

    with pytest.raises(ConnectionBroken):
        await ask(hang_up)


async def test_a_reset_is_a_broken_connection():
    """While waiting for the response."""

    async def reset(stream: trio.abc.Stream) -> None:
        assert isinstance(stream, trio.SocketStream)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        await stream.aclose()

    with pytest.raises(ConnectionBroken, match="connection broke:"):
        await ask(reset)


async def test_header_values_cannot_inject_headers():
    """An invalid value is never sent (CWE-113)."""
    async with playing(lambda _: http(b"x")) as upstream, pool(upstream.url) as connections:
        for value in ("a\r\nb: c", "a\nb: c", "a\rb: c", "ü", "\0"):
            with pytest.raises(ValueError, match="header"):
                await connections.request("GET", "/", [("x", value)])
        assert upstream.requests == []


async def test_an_unreachable_server_is_known_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch):
    """Refused, unknown, or silent: the request wasn't carried out."""
    monkeypatch.setattr("chora.fetch.connections.CONNECT_TIMEOUT", 0.2)
    with trio.fail_after(PATIENCE):
        for url in ("http://127.0.0.1:1/", "http://no.such.host.invalid/"):
            with pytest.raises(ConnectFailed):
                await ConnectionPool(parse_address(url).origin).request("GET", "/")
        with socket.socket() as full:
            full.bind(("127.0.0.1", 0))
            full.listen(1)
            with pytest.raises(ConnectFailed, match=r"within 0.2 s|hung up"):
                await ConnectionPool(Origin("https", "127.0.0.1", full.getsockname()[1])).request("GET", "/")


async def test_tls_certificates_are_verified(hello: Project, serve: Serve, tmp_path: Path):
    """A private CA may be trusted; for another name, or without the CA, nothing is sent."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    key, cert, trust = tmp_path / "key.pem", tmp_path / "cert.pem", tmp_path / "ca.pem"
    issued.private_key_pem.write_to_path(key)
    issued.cert_chain_pems[0].write_to_path(cert)
    authority.cert_pem.write_to_path(trust)
    async with serve(hello.root, {"http.cert": str(cert), "http.key": str(key)}) as opened:
        origin = parse_address(opened.url).origin
        renamed = str(origin._replace(host="localhost"))
        for url, how in ((opened.url, {}), (renamed, {"any_name": True})):
            async with (
                pool(url, trust=str(trust), **how) as connections,
                await connections.request("GET", "/health") as response,
            ):
                assert response.status == 200
                assert b"alive" in await response.read(1000)
        for url, given in ((opened.url, ""), (renamed, str(trust))):
            with pytest.raises(CertificateRejected, match="isn't trusted"):
                await ConnectionPool(parse_address(url).origin, trust=given).request("GET", "/health")


async def test_a_server_without_tls_is_an_error_of_its_own():
    """https to a server of http."""

    async def babble(stream: trio.abc.Stream) -> None:
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, babble, listeners)
        port = listeners[0].socket.getsockname()[1]
        with pytest.raises(ConnectFailed, match="there is no TLS to be had"), trio.fail_after(PATIENCE):
            await ConnectionPool(Origin("https", "127.0.0.1", port)).request("GET", "/")
        nursery.cancel_scope.cancel()


# -- event streams ----------------------------------------------------------------------------------------------


async def events(*pieces: bytes, limit: int = 1000) -> tuple[list[ServerSentEvent], float | None]:
    """The events in a stream that arrives in these pieces, and when to come back."""

    async def stream(peer: trio.abc.Stream) -> None:
        await peer.send_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for piece in pieces:
            await peer.send_all(chunk(piece))
        await peer.send_all(END)

    found: list[ServerSentEvent] = []
    with trio.fail_after(PATIENCE):
        async with (
            playing(lambda _: stream) as upstream,
            pool(upstream.url) as connections,
            await connections.request("GET", "/") as response,
        ):
            cut = EventReader(response, limit)
            while (event := await cut.receive()) is not None:
                found.append(event)
            return found, cut.retry


async def test_events_are_cut_at_every_kind_of_line_end():
    """LF, CRLF and CR; the same events in whatever pieces they arrive."""
    expected = [
        ServerSentEvent("message", b"one\ntwo", None),
        ServerSentEvent("other", b"{}", "7"),
        ServerSentEvent("message", b" \xc3\xbc", ""),
    ]
    for end in (b"\n", b"\r\n", b"\r"):
        lines = [b"data: one", b"data:two", b"", b": a comment", b"event: other", b"data: {}", b"id: 7", b"", b""]
        lines += [b"data:  \xc3\xbc", b"id", b"retry: 1500", b"retry: soon", b"unknown: x", b"nothing", b""]
        whole = b"\xef\xbb\xbf" + end.join(lines) + end
        assert await events(whole) == (expected, 1.5)
        assert await events(*(bytes([byte]) for byte in whole)) == (expected, 1.5)


async def test_an_incomplete_event_is_dropped():
    """It needs an empty line; an id with a null character is ignored; an id alone is an update."""
    assert (await events(b"id: 1\n\nid: \0\ndata: x\n\ndata: cut"))[0] == [
        ServerSentEvent("message", b"", "1"),
        ServerSentEvent("message", b"x", None),
    ]


@pytest.mark.parametrize(
    "pieces", [(b"data: " + b"x" * 2000,), (b"data: x\n" * 500,), (b"data: ", *[b"x" * 500] * 4), (b":" + b"c" * 2000,)]
)
async def test_an_endless_event_is_refused(pieces: tuple[bytes, ...]):
    """One long line, or many lines."""
    with pytest.raises(ResponseTooLarge, match="larger than 1,000 bytes"):
        await events(*pieces)


async def test_an_event_of_countless_small_lines_is_refused():
    """Each line costs more than its bytes."""
    with pytest.raises(ResponseTooLarge, match="larger than 20,000 bytes"):
        await events(b"data:\n" * 1000, limit=20_000)


async def test_comments_are_unlimited():
    """A server may keep a silent stream open."""
    assert (await events(*[b": ping\r\n\r\n"] * 300, b"data: x\n\n"))[0] == [ServerSentEvent("message", b"x", None)]


def test_requests_arrive_unchanged():
    """The test server parses them itself."""
    request = ReceivedRequest("POST", "/", {}, b'{"id": 1, "method": "ping"}')
    assert request.answers({"a": 1}) == b'{"jsonrpc":"2.0","id":1,"result":{"a":1}}'
