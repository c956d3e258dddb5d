"""The smallest config of each kind that is valid, to begin one with."""

from __future__ import annotations

import copy
from typing import Any

_PATTERNS: dict[str, dict[str, Any]] = {
    "jinja2": {"template": "# Hello, {{ name }}!\n", "generation_config": {"context": {"name": "World"}}},
    "demonstration": {},
    "template_fill": {"template": "# Hello, {{ name }}!\n", "generation_config": {"context": {"name": "World"}}},
    "bdd_scenario": {
        "generation_config": {
            "feature": {"title": "Lending books"},
            "scenarios": [
                {"title": "A book is lent", "steps": ["Given a book", "When Ines borrows it", "Then it is out"]}
            ],
        }
    },
    "code_generation": {
        "generation_config": {"prompt": "Write a function that adds two numbers.", "language": "python"}
    },
}
"""What the pattern of each built-in generator needs besides id and type."""

_ELEMENTS: dict[str, list[dict[str, Any]]] = {
    "demonstration": [{"name": "intro", "format": "markdown", "example_output": "# Hello, World!\n"}]
}
"""The elements that a generator needs."""

_CONTENT: dict[str, Any] = {
    "type": "content",
    "id": "my-content",
    "schemaRef": {"id": "content-schema", "version": "3.1"},
    "metadata": {"description": "What this text is for", "version": "1.0.0"},
}
_ARTIFACT: dict[str, Any] = {
    "type": "artifact",
    "id": "my-artifact",
    "schemaRef": {"id": "artifact-schema", "version": "3.1"},
    "metadata": {
        "title": "My artifact",
        "purpose": "Whom it serves",
        "outputs": [{"file": "outputs/my-artifact.md", "format": "markdown"}],
    },
    "content": {"children": [{"id": "my-content", "path": "configs/content/my-content.json"}]},
}
_COLLECTION: dict[str, Any] = {
    "type": "collection",
    "id": "my-collection",
    "name": "My collection",
    "members": [{"id": "my-artifact", "type": "artifact", "path": "configs/artifact/my-artifact.json"}],
    "output": {"base_path": "outputs/my-collection"},
}

GENERATORS = tuple(_PATTERNS)
"""The generators of which there is a skeleton, the usual one first."""


def skeleton(kind: str, generator: str = GENERATORS[0]) -> dict[str, Any]:
    """A config of a kind that fits its format as it is; of a content, one for a generator.

    Nothing in it is shared: the caller may change it.
    """
    if kind != "content":
        return copy.deepcopy(_ARTIFACT if kind == "artifact" else _COLLECTION)
    elements = {"elements": _ELEMENTS[generator]} if generator in _ELEMENTS else {}
    pattern = {"id": "main", "type": generator, **_PATTERNS.get(generator, {})}
    return copy.deepcopy({**_CONTENT, **elements, "generation": {"patterns": [pattern]}})
