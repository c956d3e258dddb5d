"""The shelf of context sources: where a value may come from, one file each.

A source is a module with a `TYPE` and `async def fetch(source, reach)`, and with `SELECTORS` if there are any that
it applies itself. What it returns is data: nothing of it is ever rendered, opened or run.
"""

from __future__ import annotations

from types import ModuleType

from chora.sources import content_config, external_file, inline_data

SOURCES: tuple[ModuleType, ...] = (inline_data, external_file, content_config)

BY_TYPE: dict[str, ModuleType] = {source.TYPE: source for source in SOURCES}
