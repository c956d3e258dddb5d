"""The shelf of context sources: where a value may come from, one file each.

A source is a module with a `TYPE` and `async def fetch(source, reach)`, and with `SELECTORS` if there are any that
it applies itself. It reads through its `Reach`, which notes what was read. What it returns is data: nothing of it is
ever rendered, opened or run.
"""

from __future__ import annotations

from types import ModuleType

from chora.sources import (
    artifact_config,
    content_config,
    ephemeral_output,
    external_file,
    git_reference,
    inline_data,
)

SOURCES: tuple[ModuleType, ...] = (
    inline_data,
    external_file,
    git_reference,
    content_config,
    artifact_config,
    ephemeral_output,
)

BY_TYPE: dict[str, ModuleType] = {source.TYPE: source for source in SOURCES}
