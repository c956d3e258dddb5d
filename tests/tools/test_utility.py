"""hello_world."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from chora import __version__
from chora.engine.engine import Engine
from chora.protocol.types import Call
from chora.store import SqliteStore
from chora.tools import TOOLS
from tests.conftest import Asking, requirement
from tests.tools.answers import taken


@requirement("tools.hello-world.name", "tools.hello-world.live-values")
@pytest.mark.parametrize(
    ("arguments", "name"), [({}, "World"), ({"name": None}, "World"), ({"name": ""}, "World"), ({"name": "Ada"}, "Ada")]
)
async def test_hello_world(ask: Asking, arguments: dict[str, Any], name: str):
    """It reports the current version, tools and transport."""
    assert taken(
        await ask("hello_world", **arguments), "message", "version", "tools_available", "status", "transport"
    ) == {
        "message": f"Hello, {name}! This is chora.",
        "version": __version__,
        "tools_available": len(TOOLS),
        "status": "operational",
        "transport": "test",
    }


@requirement("tools.hello-world.live-values")
@pytest.mark.parametrize(("transport", "count"), [("stdio", 24), ("http", 7), ("cli", 0)])
async def test_hello_world_reports_the_call(engine: Engine, transport: str, count: int):
    """Neither the transport nor the number of tools is a constant."""
    answer = await TOOLS["hello_world"].run_tool(engine, b"{}", Call(transport, count))
    body = msgspec.json.decode(answer.body)
    assert (body["transport"], body["tools_available"]) == (transport, count)


@requirement("tools.hello-world.live-values")
async def test_hello_world_fails_when_the_store_does(ask: Asking, engine: Engine, tmp_path: Path):
    """The probe calls it: a server without a store isn't up."""
    store = SqliteStore(tmp_path / "gone.db")
    engine.store.close()
    engine.store = store
    store.close()
    assert (await ask.answer("hello_world", {}))["error"]["code"] == "storage_error"
    engine.store = SqliteStore(None)
    await ask.refused("hello_world", "invalid_input", name="x" * 1001)
