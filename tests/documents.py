"""Config documents that use every part of their format, and the hands to change them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from chora.model import Kind

Document = dict[str, Any]

LONG = {"id": "s", "source_type": "external_file", "source_locator": "a.json"}
"""A source as content configs spell it."""


def content(**changes: Any) -> Document:
    """A content config that uses every part of the format, with top-level keys changed; None removes one."""
    document: Document = {
        "type": "content",
        "id": "tide-table",
        "schemaRef": {"id": "content-schema", "version": "3.1"},
        "metadata": {
            "description": "Weekly tides",
            "version": "2.1.0",
            "generation_frequency": "scheduled",
            "output_format": "markdown",
        },
        "instructions": {"global": "Be brief", "system_prompt": "You are a pilot", "user_prompt": "List the tides"},
        "inputs": {
            "sources": [
                {
                    "id": "readings",
                    "source_type": "external_file",
                    "source_locator": "data/tides.json",
                    "data_selector": "$.week",
                    "required": False,
                    "notes": "from the gauge",
                }
            ]
        },
        "ephemeralStorage": {
            "basePath": "ephemeral",
            "subfolderPattern": "a",
            "filenamePattern": "b",
            "format": "text",
        },
        "elements": [
            {
                "name": "table",
                "format": "markdown",
                "example_output": "| tide |",
                "generation_source": "template",
                "review_status": "approved",
            }
        ],
        "children": [{"id": "harbor-note", "path": "configs/content/harbor-note.json", "order": 1.5}],
        "generation": {
            "patterns": [
                {
                    "id": "render",
                    "type": "jinja2",
                    "template": "tides.j2",
                    "variables": [{"name": "week", "variableType": "number", "source": "elements.table", "default": 1}],
                    "generation_config": {"context": {"title": "Tides"}},
                }
            ]
        },
        "validation": {
            "rules": [{"id": "has-table", "check_type": "presence", "target": "element.table", "threshold": 1}]
        },
        "state": {"tracking": {"history": True, "versioning": False}},
        "evolution": {
            "stage": "approved",
            "history": [{"date": "2026-03-01", "type": "creation", "description": "first", "rationale": "needed"}],
        },
    }
    return _changed(document, changes)


def artifact(**changes: Any) -> Document:
    """An artifact config that uses every part of the format."""
    document: Document = {
        "type": "artifact",
        "id": "harbor-weekly",
        "schemaRef": {"id": "artifact-schema", "version": "3.1"},
        "metadata": {
            "title": "Weekly",
            "purpose": "For skippers",
            "type": "report",
            "version": "1.0.0",
            "description": "All of it",
            "compositionStrategy": "concat",
            "outputs": [
                {"file": "outputs/weekly.md", "format": "markdown", "encoding": "utf-8", "generated": True},
                {"file": "outputs/weekly.py", "format": "code", "language_dialect": "python"},
            ],
        },
        "content": {
            "children": [
                {
                    "id": "tide-table",
                    "path": "configs/content/tide-table.json",
                    "order": 2,
                    "retrievalStrategy": "version",
                    "version": "1.0.0",
                    "expected_source": "human",
                    "review_required": True,
                    "conditions": "in summer",
                }
            ]
        },
        "dependencies": [{"id": "gauge", "type": "external_system", "locator": "x", "relationship": "based_on"}],
        "validation": {"rules": [{"id": "all", "check_type": "completeness", "severity": "warning"}]},
        "state": {"tracking": {"history": False}},
        "evolution": {"stage": "review"},
    }
    return _changed(document, changes)


def collection(**changes: Any) -> Document:
    """A collection config that uses every part of the format."""
    document: Document = {
        "type": "collection",
        "id": "season-pack",
        "name": "Season pack",
        "description": "All sheets",
        "members": [
            {
                "id": "weekly",
                "type": "artifact",
                "path": "harbor-weekly.json",
                "order": 1,
                "freshness_threshold_days": 7,
                "context_override": {"sources": [{"type": "inline_data", "data": {"tone": "brief"}}]},
            },
            {"id": "desk", "type": "collection", "path": "desk.json", "required": False},
        ],
        "context": {
            "shared": {"sources": [{"type": "external_file", "path": "data/port.json", "selector": "$.contact"}]},
            "propagation": "override",
            "overrides": {"weekly": {"tone": "formal"}},
        },
        "generation": {"strategy": "sequential", "concurrency_limit": 2, "force": True, "force_members": ["desk"]},
        "output": {"base_path": "outputs/{{ collection_id }}", "structure": "flat", "manifest": False},
        "validation": {"rules": [{"type": "no_failures", "required": False}], "fail_fast": True},
        "freshness": {"enabled": False, "default_max_age_days": 0.5},
    }
    return _changed(document, changes)


def _changed(document: Document, changes: Document) -> Document:
    document |= changes
    return {key: value for key, value in document.items() if value is not None}


WHOLE: dict[Kind, Callable[..., Document]] = {"content": content, "artifact": artifact, "collection": collection}


def put(document: Document, path: str, value: Any) -> Document:
    """The document with a value at a dotted path; `...` removes what is there."""
    *steps, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    place: Any = document
    for step in steps:
        place = place[step]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return document


def objects_in(node: Any) -> Iterator[Document]:
    """Every object of a document, at any depth."""
    if isinstance(node, dict):
        yield node
        for each in node.values():
            yield from objects_in(each)
    elif isinstance(node, list):
        for each in node:
            yield from objects_in(each)
