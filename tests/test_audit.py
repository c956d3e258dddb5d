"""The audit log: one line per call, per refusal and per change of readiness, and nothing that was sent but names."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import trio

from chora.access import Principal, Tokens
from chora.audit import BURST, INTERVAL, VALUE_LENGTH, AuditLog, Subjects
from chora.engine.engine import open_engine
from chora.logs import JsonLinesFormatter, TextFormatter
from chora.metrics import Metrics
from chora.protocol.server import McpServer
from chora.protocol.session import Session
from chora.provider import project_server
from chora.settings import load
from chora.store import SqliteStore
from chora.tools import TOOLS
from chora.web.health import HealthStatus
from tests.conftest import OpenHttpClient, Project, Serve, requirement
from tests.http_client import HELLO, MODERN, message
from tests.patience import PATIENCE


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


Lines = Callable[[], list[str]]


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Lines:
    """The audit lines so far, and none of them again."""
    caplog.set_level(logging.DEBUG, "chora.audit")

    def take() -> list[str]:
        found = [record.getMessage() for record in caplog.records if record.name == "chora.audit"]
        caplog.clear()
        return found

    return take


async def ask(server: McpServer, session: Session, method: str, **params: Any) -> None:
    request = message(method, {**params, "_meta": MODERN}, 1)
    assert await server.answer(session, msgspec.json.encode(request)) is not None


@requirement("audit.calls")
async def test_every_call_is_one_line(hello: Project, lines: Lines):
    """Who, by which transport, which tool, on what, outcome and time; also of unknown tools, refused calls, resources
    and prompts; never the content of arguments.
    """
    async with open_engine(hello.root, load(hello.root, {}).settings) as engine:
        server = project_server(engine, TOOLS, Metrics())
        ada = Session("http", Principal("ada", "read"))
        secret = {"context": {"password": "hunter2"}}
        asked: list[tuple[str, dict[str, Any], str]] = [
            ("preview_generation", {"content_config_id": "greeting", **secret}, "on=greeting outcome=ok"),
            ("preview_generation", {"content_config_id": "none"}, "on=none outcome=config_not_found"),
            ("generate_content", {"content_config_id": "greeting", **secret}, "on=greeting outcome=forbidden"),
            ("hello_world", {"nme": "hunter2"}, "outcome=invalid_input"),
            ("no_such_tool", {"content_id": "hunter2"}, "outcome=-32602"),
        ]
        for tool, arguments, end in asked:
            await ask(server, ada, "tools/call", name=tool, arguments=arguments)
            (line,) = lines()
            assert line.startswith(f"audit call: who=ada via=http tool={tool} {end} ms="), line
            assert "hunter2" not in line
        await ask(server, ada, "resources/read", uri="content://none")
        (line,) = lines()
        assert line.startswith("audit call: who=ada via=http tool=resources/read on=content://none outcome="), line
        assert "outcome=ok" not in line
        await ask(server, ada, "prompts/get", name="author-config", arguments={})
        (line,) = lines()
        assert line.startswith("audit call: who=ada via=http tool=prompts/get on=author-config outcome="), line
        for method in ("tools/list", "resources/list", "ping"):
            await ask(server, ada, method)
        assert lines() == []


async def test_a_cancelled_call_is_a_line(hello: Project, lines: Lines):
    """It may have done something."""
    async with open_engine(hello.root, load(hello.root, {}).settings) as engine:
        server = project_server(engine, TOOLS, Metrics())
        with trio.move_on_after(0):
            await ask(
                server,
                Session("stdio", Principal("local")),
                "tools/call",
                name="generate_content",
                arguments={"content_config_id": "greeting"},
            )
    (line,) = lines()
    assert "on=greeting outcome=cancelled" in line


@requirement("audit.injection")
def test_nothing_that_was_sent_ends_or_disguises_a_line(lines: Lines):
    """Line ends, terminal controls and bidirectional formats are escaped, quotes too, and everything is short."""
    audit = AuditLog()
    hostile = "x\n12:00:00 INFO audit call: who=admin\r\x1b[2J\u202e\u2028\x85 outcome=ok"
    audit.record_call(hostile, "http", "tool", hostile, "ok", 0.1)
    audit.record_refusal(hostile, f"GET /{hostile}", "forbidden")
    audit.record_readiness("failing", [hostile])
    audit.record_call("ada", "http", "tool", "é" * 100_000, "ok", 0.1)
    found = lines()
    assert len(found) == 4
    for line in found:
        assert line.isprintable(), line
        assert len(line) < 4 * VALUE_LENGTH + 100
    assert found[0].count("who=") == 3  # ours, and those within the quotes
    assert 'who="x\\\\n12:00:00 INFO audit call: who=admin' in found[0]


@requirement("audit.injection")
@pytest.mark.parametrize("formatter", [TextFormatter(), JsonLinesFormatter()], ids=["text", "json"])
def test_no_line_of_the_log_can_be_forged(formatter: logging.Formatter):
    """Of whatever logger."""
    hostile = "a\n12:00:00 INFO  all is well\x1b[A\u202e"
    record = logging.LogRecord("chora", logging.INFO, "", 0, "config %s", (hostile,), None)
    shown = formatter.format(record)
    assert "\n" not in shown
    assert "\x1b" not in shown
    assert shown.isprintable() or isinstance(formatter, JsonLinesFormatter)
    try:
        raise RuntimeError(hostile)
    except RuntimeError:
        record.exc_info = sys.exc_info()
    shown = formatter.format(record)
    assert not re.search(r"^12:00:00", shown, re.MULTILINE), "nor by the text of an exception"
    assert "\x1b" not in shown


def test_json_lines_have_the_fields(caplog: pytest.LogCaptureFixture):
    """For collectors, which needn't take the message apart."""
    caplog.set_level(logging.INFO, "chora.audit")
    AuditLog().record_call("ada", "http", "hello_world", "", "ok", 0.25)
    line = json.loads(JsonLinesFormatter().format(caplog.records[-1]))
    assert line["audit"] == {
        "event": "call",
        "who": "ada",
        "via": "http",
        "tool": "hello_world",
        "outcome": "ok",
        "ms": "250.0",
    }
    assert line["logger"] == "chora.audit"


@requirement("audit.refusals")
def test_a_flood_of_refusals_does_not_fill_the_log(lines: Lines):
    """Beyond some at once, one every few seconds is logged; what is left out is counted; calls are all logged."""
    clock = Clock()
    audit = AuditLog(clock)
    for _ in range(10_000):
        audit.record_refusal("203.0.113.9", "POST /mcp", "unauthorized")
    assert len(lines()) == BURST
    audit.record_call("reader", "http", "delete_content", "a", "forbidden", 0.0)
    audit.record_call("ada", "http", "hello_world", "", "ok", 0.0)
    (line,) = lines()
    assert "who=ada" in line
    clock.now += 2 * INTERVAL
    audit.record_refusal("203.0.113.9", "POST /mcp", "unauthorized")
    left_out, refusal = lines()
    assert left_out == f"audit refusals left out: count={10_000 - BURST + 1}"
    assert refusal == 'audit refusal: who=203.0.113.9 request="POST /mcp" outcome=unauthorized'
    for _ in range(10_000):
        clock.now += 0.01
        audit.record_refusal("203.0.113.9", "POST /mcp", "unauthorized")
    found = lines()
    assert 20 <= len(found) <= 100 / INTERVAL + 1
    assert sum(line.startswith("audit refusal:") for line in found) >= 10
    clock.now += 2 * INTERVAL
    audit.record_call("ada", "http", "hello_world", "", "ok", 0.0)
    left_out, call = lines()
    assert left_out.startswith("audit refusals left out: count=")
    assert "who=ada" in call
    for _ in range(10_000):
        audit.record_refusal("203.0.113.9", "POST /mcp", "unauthorized")
    lines()
    audit.close()
    (line,) = lines()
    assert line.startswith("audit refusals left out: count=")
    audit.close()
    assert lines() == []


@requirement("audit.refusals")
async def test_refused_requests_are_lines(http_client: OpenHttpClient, hello: Project, lines: Lines):
    """401 and 403 and their kin, with the client's address; a request that is served is none."""
    Tokens(hello.root / ".chora/tokens").create_token("ada", "read")
    async with http_client() as client:
        lines()
        wrong = {"authorization": "Bearer chora_not-a-token-of-this-server"}
        assert (await client.http.get("/status.json")).status_code == 401
        assert (await client.http.post("/mcp", headers=wrong)).status_code == 401
        assert (await client.http.get("/", headers={"origin": "https://evil.example"})).status_code == 403
        assert (await client.http.get("/health", headers={"host": "evil.example"})).status_code == 403
        assert (await client.http.get("/ready")).status_code == 200
        found = [line for line in lines() if "refusal" in line]
    assert found == [
        'audit refusal: who=127.0.0.1 request="GET /status.json" outcome=unauthorized',
        'audit refusal: who=127.0.0.1 request="POST /mcp" outcome=unauthorized',
        'audit refusal: who=127.0.0.1 request="GET /" outcome=forbidden',
        'audit refusal: who=127.0.0.1 request="GET /health" outcome=forbidden',
    ]


@requirement("audit.readiness")
async def test_a_change_of_readiness_is_a_line(hello: Project, lines: Lines):
    """With its reasons, also when nobody asks; no change is none, and other numbers in a reason are none."""
    async with open_engine(hello.root, load(hello.root, {}).settings) as engine:
        audit = AuditLog()
        free = [2_000]

        def check_outputs() -> None:
            if free[0] < 1_000:
                from chora.errors import StorageError

                raise StorageError(f"The disk of outputs is full: {free[0]} bytes are left.")

        health = HealthStatus(engine.store, Metrics(), None, check_outputs, audit)
        health.state = "ready"
        for number in (2_000, 2_000, 300, 200, 100, 5_000):
            free[0] = number
            await health.readiness()
        health.begin_draining()
        await health.readiness()
        assert lines() == [
            "audit readiness: state=ready",
            'audit readiness: state=failing reasons="The disk of outputs is full: 300 bytes are left."',
            "audit readiness: state=ready",
            'audit readiness: state=draining reasons="The server is stopping."',
        ]


@requirement("audit.readiness")
async def test_the_server_watches_its_own_readiness(hello: Project, serve: Serve, caplog: pytest.LogCaptureFixture):
    """From its start, whether or not a client asks, and without writing."""
    caplog.set_level(logging.INFO, "chora.audit")
    with trio.fail_after(PATIENCE):
        async with serve(hello.root) as opened:
            assert isinstance(opened.engine.store, SqliteStore)
            while "audit readiness: state=ready" not in caplog.text:
                await trio.sleep(0.01)


@requirement("audit.calls")
def test_stdio_has_an_audit_log_too(hello: Project):
    """On stderr, with the principal `local`; the level of the log decides as for any line."""
    requests = [
        message("initialize", HELLO, 1),
        message("tools/call", {"name": "preview_generation", "arguments": {"content_config_id": "greeting"}}, 2),
    ]
    for level, count in (("INFO", 1), ("WARNING", 0)):
        done = subprocess.run(
            [sys.executable, "-m", "chora", "--project", str(hello.root), "stdio"],
            input=b"".join(msgspec.json.encode(each) + b"\n" for each in requests),
            env={**os.environ, "CHORA_LOG_LEVEL": level},
            capture_output=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0
        found = [line for line in done.stderr.decode().splitlines() if "audit call" in line]
        assert len(found) == count
        assert all("who=local via=stdio tool=preview_generation on=greeting outcome=ok" in line for line in found)


def test_what_a_call_is_about_is_found_without_building_the_rest():
    """Ids and paths as they were sent, in the order of the schema; what isn't JSON of an object has none."""
    subjects, schema = Subjects(), {"properties": {"b_id": {}, "context": {}, "output_path": {}, "a_ids": {}}}

    def find(arguments: bytes) -> str:
        return subjects.find("tool", schema, arguments)

    assert find(b'{"a_ids": ["x", "y"], "b_id": "one", "context": {"b_id": "no"}}') == 'one,["x", "y"]'
    assert find(b'{"output_path": "outputs/a.md", "b_id": null}') == "outputs/a.md"
    assert find(b"[1]") == find(b"{}") == find(b"{") == ""
    assert len(find(b'{"b_id": "' + b"x" * 1_000_000 + b'"}')) <= 4 * VALUE_LENGTH
    assert subjects.find("other", {}, b'{"b_id": "one"}') == ""
