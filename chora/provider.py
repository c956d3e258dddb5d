"""What chora serves over MCP: the tools, resources and prompts of one project."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import unquote

import msgspec

from chora.engine.engine import Engine
from chora.errors import StorageError
from chora.metrics import Metrics
from chora.peer_memory import PeerMemory, limit_by_settings
from chora.prompts import ProjectPrompts
from chora.protocol import wire
from chora.protocol.server import McpServer
from chora.protocol.types import Call, ToolAnswer
from chora.resources import ProjectResources
from chora.tools.tool import DEFAULT_TOOLSET, Tool

INSTRUCTIONS = (
    "chora composes documents and code from configuration. A content config makes one text with a generator; an "
    "artifact config assembles texts into files; a collection config builds many artifacts. Start with "
    "list_content_configs and list_artifact_configs. To author one: draft_config, test_config, save_config. "
    "preview_generation shows a text without storing it; generate_content stores it; assemble_artifact writes files. "
    "Configs, schemas, templates and stored texts can be read as resources; manual://overview describes every field."
)


ALWAYS_OFFERED = ("hello_world",)
"""Tools that belong to every toolset: the uptime probe, the benchmarker and `chora bench` call them, as monitors do."""


class ProjectProvider:
    """Serves one project.

    Args:
        engine: the project.
        tools: all tools by name; those that the settings leave out are withheld.
        metrics: the durations of calls, for the capabilities resource.
    """

    instructions = INSTRUCTIONS

    def __init__(self, engine: Engine, tools: Mapping[str, Tool], metrics: Metrics) -> None:
        self._engine = engine
        self.withheld = hidden_tools(tools, engine.settings.mcp.toolsets, read_only=engine.settings.mcp.read_only)
        self.tools = {name: tool for name, tool in tools.items() if name not in self.withheld}
        self.resources = ProjectResources(engine, self.tools, metrics, tuple(wire.REVISIONS))
        self.prompts = ProjectPrompts(self.resources)

    async def call_tool(self, name: str, arguments: bytes | msgspec.Raw, call: Call) -> ToolAnswer:
        return await self.tools[name].run_tool(self._engine, arguments, call)

    def dependent_changes(self, uri: str) -> tuple[Iterable[str], bool]:
        scheme, _, content_id = uri.partition("://")
        if scheme == "config":
            return (f"config://{content_id.partition('/')[0]}/",), False
        if scheme != "content" or "/" in content_id:
            return (), False
        try:
            existence_changed = self._engine.store.content_state(unquote(content_id)).versions <= 1
        except StorageError:
            existence_changed = False
        return (f"{uri}/versions",), existence_changed


def hidden_tools(tools: Mapping[str, Tool], toolsets: Iterable[str], *, read_only: bool) -> dict[str, str]:
    """The tools that the settings leave out, and the reason of each."""
    wanted = set(toolsets) or {DEFAULT_TOOLSET}
    reasons: dict[str, str] = {}
    for name, tool in tools.items():
        if read_only and not tool.read_only:
            reasons[name] = "This server only reads: the setting mcp.read_only is on."
        elif not tool.toolsets & wanted and name not in ALWAYS_OFFERED:
            reasons[name] = f"This server leaves out the toolset {tool.toolset}: mcp.toolsets doesn't name it."
    return reasons


def project_server(engine: Engine, tools: Mapping[str, Tool], metrics: Metrics, **settings: Any) -> McpServer:
    """A server of one project, within the limits of its settings; the rest are those of `McpServer`."""
    limits = engine.settings.limits
    memory = PeerMemory(limit_by_settings(limits))
    return McpServer(
        ProjectProvider(engine, tools, metrics), metrics, memory=memory, answer_limit=limits.answer, **settings
    )
