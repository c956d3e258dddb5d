"""Known deviations of existing configs: normalised in place, with a warning that names what to write."""

from __future__ import annotations

from typing import Any

from chora.config_parsing.issues import ABSENT, IssueCollector, shorten, to_json
from chora.config_parsing.plain_data import as_object, objects_of
from chora.model import Kind

_OTHER_NAMES = {"bdd_scenario_assembly": "bdd_scenario", "overlay": "merge", "json_merge": "merge"}
"""Other names that chora-compose had for generators and composition strategies."""


def normalize_deviations(kind: Kind, document: dict[str, Any], issues: IssueCollector) -> None:
    """Turn every known deviation of a document into what the format says."""
    if kind != "collection":
        _normalize_schema_ref(kind, document, issues)
    match kind:
        case "content":
            _normalize_patterns(document, issues)
            _normalize_elements(document, issues)
        case "artifact":
            metadata = as_object(document.get("metadata")) or {}
            _normalize_name(metadata, "compositionStrategy", "$.metadata", issues)
            _normalize_composition(metadata, issues)
        case "collection":
            for index, member in objects_of(document.get("members")):
                _normalize_age(member, f"$.members[{index}]", issues)


def _normalize_schema_ref(kind: Kind, document: dict[str, Any], issues: IssueCollector) -> None:
    right = {"id": f"{kind}-schema", "version": "3.1"}
    write = f'"schemaRef": {to_json(right)}'
    if (found := document.get("schemaRef")) is None:
        document["schemaRef"] = right
        issues.warn("schema_ref_missing", "$.schemaRef", ABSENT, to_json(right), write, "$.schemaRef is missing.")
    elif (reference := as_object(found)) is not None:
        if reference.get("id") != right["id"] or "version" not in reference:
            message = f"$.schemaRef is {shorten(found)}; it is read as {to_json(right)}."
            issues.warn("schema_ref", "$.schemaRef", found, to_json(right), write, message)
            reference["id"] = right["id"]
            reference.pop("uri", None)
        if str(reference.setdefault("version", right["version"])) not in ("3.1", "3.1.0"):
            message = f"$.schemaRef.version is {shorten(reference['version'])}; the config is read as version 3.1."
            issues.warn("schema_version", "$.schemaRef.version", reference["version"], '"3.1"', write, message)


def _normalize_patterns(document: dict[str, Any], issues: IssueCollector) -> None:
    generation = as_object(document.get("generation")) or {}
    for index, pattern in objects_of(generation.get("patterns")):
        path = f"$.generation.patterns[{index}]"
        _normalize_name(pattern, "type", path, issues)
        options = as_object(pattern.setdefault("generation_config", {})) if "context" in pattern else None
        if options is not None:
            found = pattern.pop("context")
            below = as_object(options.get("context"))
            above = as_object(found)
            options["context"] = found if below is None or above is None else {**above, **below}
            write = f'"generation_config": {{"context": {shorten(found)}}}'
            message = f"{path}.context is read as {path}.generation_config.context."
            issues.warn("pattern_context", f"{path}.context", found, "generation_config.context", write, message)


def _normalize_name(record: dict[str, Any], key: str, path: str, issues: IssueCollector) -> None:
    if isinstance(found := record.get(key), str) and (name := _OTHER_NAMES.get(found)):
        record[key] = name
        message = f"{path}.{key} is {to_json(found)}, an old name of {to_json(name)}."
        issues.warn("old_name", f"{path}.{key}", found, to_json(name), f'"{key}": {to_json(name)}', message)


def _normalize_elements(document: dict[str, Any], issues: IssueCollector) -> None:
    """Skeletons begin with an empty list; only the demonstration generator needs elements."""
    patterns = [pattern for _, pattern in objects_of((as_object(document.get("generation")) or {}).get("patterns"))]
    if document.get("elements") == [] and patterns and patterns[0].get("type") != "demonstration":
        del document["elements"]
        message = "$.elements is empty, which is read as absent."
        issues.warn("empty", "$.elements", [], "elements, or no such key", "nothing: leave elements out", message)


def _normalize_composition(metadata: dict[str, Any], issues: IssueCollector) -> None:
    """Options that chora-compose's manuals put under another name for each strategy."""
    for key in ("mergeConfig", "customConfig"):
        if (found := as_object(metadata.get(key))) is not None and "compositionConfig" not in metadata:
            options = metadata["compositionConfig"] = metadata.pop(key)
            if key == "customConfig" and "tool" in options:
                options["composer"] = options.pop("tool")
                options["options"] = options.pop("arguments", {})
            path = f"$.metadata.{key}"
            message = f"{path} is read as $.metadata.compositionConfig."
            write = f'"compositionConfig": {shorten(options)}'
            issues.warn("old_name", path, found, "compositionConfig", write, message)


def _normalize_age(member: dict[str, Any], path: str, issues: IssueCollector) -> None:
    key = "freshness_threshold_days"
    if "max_age_days" in member and key not in member:
        found = member[key] = member.pop("max_age_days")
        message = f"{path}.max_age_days is read as {path}.{key}."
        issues.warn("old_name", f"{path}.max_age_days", found, key, f'"{key}": {shorten(found)}', message)
