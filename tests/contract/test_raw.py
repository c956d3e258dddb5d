"""The raw judge has nothing against the product, and notices each change that neither suite nor client noticed."""

from collections.abc import Callable
from typing import Any

import pytest

from chora.protocol import tool_calls
from chora.protocol.server import McpServer
from chora.tools.tool import Tool
from chora.transport.http import streamable
from chora.transport.http.security import RequestSecurity
from tests.conftest import Project, Serve, requirement
from tests.contract import raw
from tests.contract.conformance import LEGS
from tests.contract.installation import RunningChora

Change = Callable[[pytest.MonkeyPatch], None]


def accept_with_200(patch: pytest.MonkeyPatch) -> None:
    send_empty = streamable.send_empty
    patch.setattr(streamable, "send_empty", lambda send, status: send_empty(send, 200))


def accept_every_origin(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RequestSecurity, "check_origin", lambda self, scope: None)


def drop_structured_content(patch: pytest.MonkeyPatch) -> None:
    encode = tool_calls._call_result

    def without(answer: Any, revision: Any) -> bytes:
        return encode(answer, revision._replace(structured=False))

    patch.setattr(tool_calls, "_call_result", without)


def drop_updates(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(McpServer, "notify_resource_changed", lambda self, uri: None)
    patch.setattr(raw, "PATIENCE", 12.0)  # a quarter of it is waited for the notification


def list_no_output_schemas(patch: pytest.MonkeyPatch) -> None:
    describe = Tool.describe
    patch.setattr(Tool, "describe", lambda self: {k: v for k, v in describe(self).items() if k != "outputSchema"})


async def faults_of(hello: Project, serve: Serve, revision: str) -> list[raw.Check]:
    async with serve(hello.root) as opened:
        checks = await raw.judge(RunningChora(opened.url, hello.root, {}), revision, "http")
    assert len(checks) > 100
    return [each for each in checks if each.fault]


@pytest.mark.parametrize("revision", LEGS)
@requirement("server.conformance")
async def test_the_product_is_as_every_revision_wants_it(hello: Project, serve: Serve, revision: str):
    """Lists, results, failures, notifications and refusals, message by message."""
    assert await faults_of(hello, serve, revision) == []


@pytest.mark.parametrize("revision", ["2025-06-18", "2026-07-28"])
@pytest.mark.parametrize(
    ("change", "statement"),
    [
        (accept_with_200, "notifications/cancelled: accepted, with no body"),
        (accept_every_origin, "a web page of another origin: refused"),
        (drop_structured_content, "structured content that is its text"),
        (drop_updates, "a subscriber is notified of a new text"),
        (list_no_output_schemas, "an output schema where the revision has one"),
    ],
)
@requirement("server.conformance")
async def test_what_the_suite_does_not_see_is_noticed(
    hello: Project, serve: Serve, monkeypatch: pytest.MonkeyPatch, revision: str, change: Change, statement: str
):
    """Each of these changes passed the whole suite and every client once."""
    change(monkeypatch)
    faults = await faults_of(hello, serve, revision)
    assert any(statement in each.statement for each in faults), faults
