"""The shelf of tools: what an agent can ask for. A tool is one function in its noun's file.

Whatever those files define as a tool is on the shelf; nothing else names it.
"""

from __future__ import annotations

from types import ModuleType

from chora.tools import artifact, batch, collection, config, content, discovery, storage, utility, validation
from chora.tools.tool import Tool

MODULES: tuple[ModuleType, ...] = (
    utility,
    content,
    batch,
    artifact,
    collection,
    config,
    discovery,
    validation,
    storage,
)

TOOLS: dict[str, Tool] = {
    value.name: value for module in MODULES for value in vars(module).values() if isinstance(value, Tool)
}
