"""The context sources: where a value may come from, one file each.

A source is a module with a `TYPE`, a `DESCRIPTION`, what its `LOCATOR` is, its `LIMITS` if it has any, and
`async def fetch(source, access)`, and with `SELECTORS` if it applies some selectors itself. It reads through its
`SourceAccess`, which records what was read. It returns data, which is never rendered, opened or run.

A new source is one module here, its name in `SOURCES` and in the independence contract of `pyproject.toml`.
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
