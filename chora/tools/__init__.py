"""The registry of tools. A tool is one function in its noun's module; every tool in a module is registered."""

from __future__ import annotations

from types import ModuleType

from chora.tools import (
    artifact,
    batch,
    collection,
    config,
    content,
    dependencies,
    discovery,
    edits,
    reading,
    storage,
    utility,
    validation,
)
from chora.tools.tool import DEFAULT_TOOLSET, Tool

MODULES: tuple[ModuleType, ...] = (
    utility,
    content,
    batch,
    artifact,
    collection,
    config,
    discovery,
    dependencies,
    validation,
    storage,
    reading,
    edits,
)
"""Each module of this package that has tools."""

ALL_TOOLS: dict[str, Tool] = {
    value.name: value for module in MODULES for value in vars(module).values() if isinstance(value, Tool)
}
TOOLS: dict[str, Tool] = {name: tool for name, tool in ALL_TOOLS.items() if DEFAULT_TOOLSET in tool.toolsets}
"""The tools that a server offers unless its settings say otherwise."""
