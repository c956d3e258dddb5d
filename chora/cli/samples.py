"""The sample projects that `init` and `demo` write."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from chora.nofollow import OpenFolder, find_status, open_folder

SETTINGS = """\
# Settings of this project; `chora config` lists all of them with their values and origins. `chora manual` describes
# configs and templates.

[templates]
undefined = "strict"
"""

IGNORED = """\
# What chora keeps for itself: its store, its event log, and configs that were replaced.
/.chora/
/var/
*.backup
"""

GREETING = {
    "type": "content",
    "id": "greeting",
    "schemaRef": {"id": "content-schema", "version": "3.1"},
    "metadata": {"description": "Greets the name in the context", "version": "1.0.0"},
    "generation": {
        "patterns": [
            {
                "id": "render",
                "type": "jinja2",
                "template": "greeting.md.j2",
                "generation_config": {"context": {"name": "World"}},
            }
        ]
    },
}
HELLO = {
    "type": "artifact",
    "id": "hello",
    "schemaRef": {"id": "artifact-schema", "version": "3.1"},
    "metadata": {
        "title": "Hello",
        "purpose": "Shows how contents become a file",
        "outputs": [{"file": "outputs/hello.md", "format": "markdown"}],
    },
    "content": {"children": [{"id": "greeting", "path": "configs/content/greeting.json"}]},
}

INIT: dict[str, str | dict[str, Any]] = {
    "chora.toml": SETTINGS,
    ".gitignore": IGNORED,
    "configs/templates/greeting.md.j2": "# Hello, {{ name }}!\n\nThis file was composed by chora.\n",
    "configs/content/greeting.json": GREETING,
    "configs/artifact/hello.json": HELLO,
}

DEMO: dict[str, str | dict[str, Any]] = {
    "chora.toml": SETTINGS,
    ".gitignore": IGNORED,
    "data/library.yaml": """\
name: Tidewater Library
street: 4 Harbour Lane
hours:
  Monday: closed
  Tuesday: 10 to 18
  Saturday: 9 to 13
""",
    "data/evenings.json": {
        "evenings": [
            {"date": "2026-12-03", "title": "Maps of the old harbour", "guest": "Ines Holm", "seats": 40},
            {"date": "2026-12-10", "title": "Knots, read aloud", "guest": None, "seats": 12},
        ]
    },
    "configs/templates/evenings.md.j2": """\
## Evenings in {{ library.name }}

{% for evening in program.evenings -%}
- **{{ evening.date }}** {{ evening.title }}
  {%- if evening.guest %}, with {{ evening.guest }}{% endif %} ({{ evening.seats }} seats)
{% endfor %}
{%- set seats = program.evenings | sum(attribute="seats") %}
{{ seats }} seats in all.
""",
}
"""The files of the demo: data and a template. The configs are drafted over MCP, as by an agent."""


def replace_text(folder: OpenFolder, name: str, text: str) -> None:
    """Write a file of a project that no server has open yet."""
    with open(folder.open_file(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), "w", encoding="utf-8") as file:
        file.write(text)


def write_sample(root: Path, files: dict[str, str | dict[str, Any]]) -> list[str]:
    """Write the files that don't exist yet; returns their paths, relative to `root`."""
    written: list[str] = []
    for path, content in files.items():
        target = root / path
        if find_status(target) is not None:
            continue
        if isinstance(content, str):
            text = content
        else:
            text = msgspec.json.format(msgspec.json.encode(content), indent=2).decode() + "\n"
        with open_folder(target.parent, make=True, mode=0o777) as folder:
            replace_text(folder, target.name, text)
        written.append(path)
    return written
