"""Other dialects of chora-compose configs: recognised, and refused with what to write instead."""

from __future__ import annotations

from typing import Any, NamedTuple

from chora.config_parsing.issues import IssueCollector, slug_of, to_json
from chora.config_parsing.plain_data import as_object, objects_of
from chora.model import Kind


class _ForeignKey(NamedTuple):
    """A key that another dialect of chora-compose configs has where this one has `native`."""

    key: str
    native: str
    write: str


ELEMENTS_EXAMPLE = '"elements": [{"name": "intro", "format": "markdown", "example_output": "…"}]'
_PATTERN_EXAMPLE = '"generation": {"patterns": [{"id": "main", "type": "jinja2", "template": "intro.md.j2"}]}'
_CHILDREN_EXAMPLE = '"content": {"children": [{"id": "intro", "path": "configs/content/intro.json"}]}'
_FOREIGN_KEYS: dict[Kind, tuple[_ForeignKey, ...]] = {
    "content": (
        _ForeignKey("content_config", "metadata", 'its keys at the top level, beside "type": "content"'),
        _ForeignKey("content_elements", "elements", ELEMENTS_EXAMPLE),
        _ForeignKey("content_element", "elements", ELEMENTS_EXAMPLE),
        _ForeignKey("content_id", "id", '"id": "intro", beside "type": "content"'),
        _ForeignKey("generator_type", "generation", _PATTERN_EXAMPLE),
        _ForeignKey("template_path", "generation", _PATTERN_EXAMPLE),
    ),
    "artifact": (
        _ForeignKey("artifact_config", "metadata", 'its keys at the top level, beside "type": "artifact"'),
        _ForeignKey("artifact_id", "id", '"id": "handbook", beside "type": "artifact"'),
        _ForeignKey("composition", "content", _CHILDREN_EXAMPLE),
    ),
    "collection": (
        _ForeignKey("collection_config", "members", 'its keys at the top level, beside "type": "collection"'),
        _ForeignKey("collection_id", "id", '"id": "season-pack", beside "type": "collection"'),
    ),
}


def refuse_dialects(kind: Kind, document: dict[str, Any], issues: IssueCollector) -> None:
    """Add an error for each sign of another dialect."""
    if isinstance(found := document.get("type"), str) and found.endswith(("_config", "_element")):
        _refuse(issues, kind, "$.type", found, f"type {found}", f'"type": {to_json(kind)}')
    for foreign in _FOREIGN_KEYS[kind]:
        if foreign.key in document and foreign.native not in document:
            _refuse(issues, kind, f"$.{foreign.key}", document[foreign.key], foreign.key, foreign.write)
            issues.suppress_schema_errors(f"$.{foreign.native}")
    if isinstance(name := document.get("id"), str) and "_" in name:
        _refuse(issues, kind, "$.id", name, "underscores in ids", f'"id": {to_json(slug_of(name))}')
    if kind == "content":
        _refuse_element_dialects(document, issues)
    elif kind == "artifact":
        content = as_object(document.get("content")) or {}
        for index, child in objects_of(content.get("children")):
            if isinstance(name := child.get("id"), str) and "_" in name:
                path = f"$.content.children[{index}].id"
                _refuse(issues, kind, path, name, "underscores in ids", f'"id": {to_json(slug_of(name))}')


def _refuse_element_dialects(document: dict[str, Any], issues: IssueCollector) -> None:
    elements = document.get("elements")
    if (template := as_object(elements)) is not None:
        _refuse(issues, "content", "$.elements", template, "elements as an object", ELEMENTS_EXAMPLE)
    for index, element in objects_of(elements):
        other = [key for key in ("id", "generation_pattern", "template") if key in element]
        if other and "name" not in element:
            write = {"name": slug_of(str(element.get("id", ""))) or "intro", "format": "text"}
            if isinstance(text := element.get("example_output"), str):
                write["example_output"] = text
            _refuse(
                issues,
                "content",
                f"$.elements[{index}]",
                element,
                f"elements with {' and '.join(other)}",
                to_json(write),
            )
    generation = as_object(document.get("generation")) or {}
    if "generator" in generation and "patterns" not in generation:
        _refuse(
            issues,
            "content",
            "$.generation.generator",
            generation["generator"],
            "generation.generator",
            _PATTERN_EXAMPLE,
        )


def _refuse(issues: IssueCollector, kind: Kind, path: str, found: object, dialect: str, write: str) -> None:
    message = f"{path} belongs to another dialect of chora-compose configs ({dialect}), which isn't read."
    issues.fail("dialect", path, found, f"the {kind} format", write, message)
