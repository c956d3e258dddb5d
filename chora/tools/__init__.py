"""The shelf of tools: what an agent can ask for. A tool is one function in its noun's file.

Whatever those files define as a tool is on the shelf; nothing else names it.
"""

from __future__ import annotations

from types import ModuleType

from chora.tools import artifact, config, content, discovery, utility
from chora.tools.tool import Tool

MODULES: tuple[ModuleType, ...] = (utility, content, artifact, config, discovery)

TOOLS: dict[str, Tool] = {
    value.name: value for module in MODULES for value in vars(module).values() if isinstance(value, Tool)
}
