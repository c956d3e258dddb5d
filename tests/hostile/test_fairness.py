"""One caller that floods the server: the others hardly notice."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from chora.access import LOCAL, Principal
from chora.engine.engine import Engine
from chora.errors import Busy, LimitExceeded
from chora.metrics import Metrics
from chora.protocol.server import McpServer
from chora.protocol.session import Session
from chora.provider import project_server
from chora.render import RenderJob
from chora.render.pool import RenderPool
from chora.request_context import Caller, caller
from chora.settings import RenderSettings
from chora.tools import TOOLS
from tests.conftest import Asking, Project, content, requirement
from tests.hostile.measures import bounded, is_well, linux, prepare
from tests.http_client import HELLO, MODERN, message
from tests.patience import PATIENCE

pytestmark = linux

# Slow enough that a line forms, and within the patience of the settings.
ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
SLOW = "{% for a in range(400) %}{% for b in range(1000) %}{% endfor %}{% endfor %}{{ n }}"


@pytest.fixture
def project(project: Project) -> Project:
    prepare(project).save(content("slow", pattern={"type": "jinja2", "template": SLOW}))
    return project


@pytest.fixture
def server(engine: Engine) -> McpServer:
    return project_server(engine, TOOLS, Metrics())


async def call(server: McpServer, session: Session, id: int, tool: str, **arguments: Any) -> dict[str, Any]:
    params: dict[str, Any] = {"name": tool, "arguments": arguments}
    if session.revision is None:
        params["_meta"] = MODERN
    reply = await server.answer(session, msgspec.json.encode(message("tools/call", params, id)))
    assert reply is not None
    return msgspec.json.decode(reply.body)["result"]["structuredContent"]


async def greeted(server: McpServer) -> Session:
    session = Session("http", LOCAL)
    await server.answer(session, msgspec.json.encode(message("initialize", HELLO, 0)))
    return session


@pytest.mark.parametrize("era", ["sessions", "principals"])
async def test_a_flood_by_one_caller_does_not_delay_others(project: Project, ask: Asking, server: McpServer, era: str):
    """With two hundred queued renders of one caller, another waits for one of them; the excess gets busy."""
    if era == "sessions":
        greedy, modest = await greeted(server), await greeted(server)
    else:
        greedy, modest = Session("http", Principal("greedy")), Session("http", Principal("modest"))
    await is_well(ask)
    outcomes: list[str] = []

    async def flood(number: int) -> None:
        context = {"n": number}
        body = await call(server, greedy, number, "preview_generation", content_config_id="slow", context=context)
        outcomes.append("ok" if body["success"] else body["error"]["code"])

    async with bounded(project), trio.open_nursery() as nursery:
        for number in range(200):
            nursery.start_soon(flood, number)
        await trio.testing.wait_all_tasks_blocked()
        assert ask.engine.templates.pool.statistics().waiting == 128
        body = await call(server, modest, 1, "preview_generation", content_config_id="good")
        assert body["success"], body
        before = outcomes.count("ok")
        nursery.cancel_scope.cancel()
    # A scanned call has to queue again to be rendered, and the queue may be full by then.
    assert outcomes.count("busy") >= 200 - 128 - 1
    assert before <= 3, "another caller waited for the whole line"
    await is_well(ask)


async def test_cancelled_floods_leave_nothing(project: Project, ask: Asking, server: McpServer):
    """Queued renders of disconnected callers are removed."""
    await is_well(ask)
    for _ in range(3):
        session = await greeted(server)
        async with bounded(project):
            with trio.move_on_after(0.2):
                async with trio.open_nursery() as nursery:
                    for number in range(100):
                        nursery.start_soon(
                            partial(call, server, session, number, "preview_generation", content_config_id="slow")
                        )
        assert ask.engine.templates.pool.statistics().waiting == 0
        await is_well(ask)


WAIT_LIMIT = 10.0
"""Seconds that a good render waits at most, by the default limits, whatever fills the queue."""


@pytest.mark.parametrize("flood", ["sessions", "principals", "contents"])
@requirement("render.fair")
async def test_good_renders_wait_little_while_bombs_fill_the_queue(project: Project, flood: str):
    """With the default limits, and endless templates of ten sessions, or principals, or each another one: a render
    that was good before is done within seconds, and one that never ran is done or refused as busy."""
    async with running_pool() as pool:
        good = RenderJob("Hello {{ name }}", "good", context={"name": "you"})
        caller.set(Caller("good" if flood == "principals" else "all", "good"))
        await pool.render_template(good)

        async def drop_bombs(number: int, session: int) -> None:
            caller.set(Caller(f"bad {session}" if flood == "principals" else "all", f"bad {session}"))
            text = f"{ENDLESS}{number if flood == 'contents' else ''}"
            while True:
                try:
                    await pool.render_template(RenderJob(text, "bomb"))
                except LimitExceeded:
                    continue
                except Busy:
                    await trio.sleep(0.2)

        async with trio.open_nursery() as nursery:
            for number in range(300):
                nursery.start_soon(drop_bombs, number, number % 10)
            await trio.sleep(0.5)
            assert pool.statistics().waiting == RenderSettings().queue
            waits: list[float] = []
            refused = 0
            for number in range(40):
                fresh = RenderJob(f"Hello {number}", "good") if number % 2 else good
                began = trio.current_time()
                try:
                    with trio.fail_after(PATIENCE):
                        await pool.render_template(fresh)
                    waits.append(trio.current_time() - began)
                except Busy:
                    refused += 1
                await trio.sleep(0.5)
            nursery.cancel_scope.cancel()
    assert max(waits) < WAIT_LIMIT, waits
    assert len(waits) >= 20, f"{refused} of 40 were refused"


@asynccontextmanager
async def running_pool() -> AsyncGenerator[RenderPool]:
    """Template workers with the default limits."""
    async with trio.open_nursery() as nursery:
        pool = RenderPool(RenderSettings())
        await nursery.start(pool.serve)
        await pool.warm_up()
        yield pool
        nursery.cancel_scope.cancel()
