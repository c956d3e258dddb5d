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
    storage,
    utility,
    validation,
)
from chora.tools.tool import Tool

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
)

TOOLS: dict[str, Tool] = {
    value.name: value for module in MODULES for value in vars(module).values() if isinstance(value, Tool)
}
