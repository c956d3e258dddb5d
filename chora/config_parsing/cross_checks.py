"""Checks across the fields of a document, which no schema can express."""

from __future__ import annotations

from typing import Any, cast

from chora.config_parsing.dialects import ELEMENTS_EXAMPLE
from chora.config_parsing.issues import ABSENT, IssueCollector, json_path, shorten, to_json
from chora.config_parsing.plain_data import as_object, objects_of
from chora.model import VALUE_TYPES, Kind

COLLECTION_RULES = ("all_members_present", "no_failures")


def check_cross_references(kind: Kind, document: dict[str, Any], issues: IssueCollector) -> None:
    """Add an issue for each inconsistency of a normalised document."""
    match kind:
        case "content":
            patterns = (as_object(document.get("generation")) or {}).get("patterns")
            _check_unique(document.get("elements"), "name", "$.elements", issues)
            _check_unique(patterns, "id", "$.generation.patterns", issues)
            for index, pattern in objects_of(patterns):
                _check_pattern(document, pattern, index, issues)
        case "collection":
            _check_unique(document.get("members"), "id", "$.members", issues)
            _check_member_names(document, issues)
            for index, rule in objects_of((as_object(document.get("validation")) or {}).get("rules")):
                if isinstance(found := rule.get("type"), str) and found not in COLLECTION_RULES:
                    path = f"$.validation.rules[{index}].type"
                    message = f"{path} is {to_json(found)}, a rule that chora doesn't have; it isn't checked."
                    expected = f"one of {', '.join(COLLECTION_RULES)}"
                    issues.warn("unknown_rule_type", path, found, expected, f'"type": "{COLLECTION_RULES[0]}"', message)
        case "artifact":
            pass


def _check_unique(items: object, key: str, path: str, issues: IssueCollector) -> None:
    first: dict[str, int] = {}
    for index, item in objects_of(items):
        if isinstance(name := item.get(key), str) and first.setdefault(name, index) != index:
            here = f"{path}[{index}].{key}"
            message = f"{here} is {to_json(name)}, as {path}[{first[name]}].{key} is already."
            issues.fail("duplicate", here, name, "unique in the list", f'"{key}": {to_json(name + "-2")}', message)


def _check_pattern(document: dict[str, Any], pattern: dict[str, Any], index: int, issues: IssueCollector) -> None:
    path = f"$.generation.patterns[{index}]"
    if index == 0 and pattern.get("type") == "demonstration" and "elements" not in document:
        issues.fail("missing", "$.elements", ABSENT, "what the demonstration generator shows", ELEMENTS_EXAMPLE)
    options = as_object(pattern.get("generation_config")) or {}
    if "context" not in options:
        return
    if (context := as_object(options["context"])) is None:
        write = '"context": {"name": "value"}'
        issues.fail("wrong_type", f"{path}.generation_config.context", options["context"], "an object", write)
        return
    for name, value in context.items():
        shape = as_object(value) or {}
        word = shape.get("type")
        if shape.get("source") == "runtime" and word is not None and str(word).lower() not in VALUE_TYPES:
            here = json_path([name, "type"], f"{path}.generation_config.context")
            expected = f"one of {', '.join(dict.fromkeys(VALUE_TYPES.values()))}"
            message = f"{here} is {shorten(word)}, which isn't a type; values of any type are taken."
            issues.warn("unknown_type", here, word, expected, '"type": "string"', message)


def _check_member_names(document: dict[str, Any], issues: IssueCollector) -> None:
    members = {str(member.get("id")) for _, member in objects_of(document.get("members"))}
    overrides = (as_object(document.get("context")) or {}).get("overrides")
    forced = (as_object(document.get("generation")) or {}).get("force_members")
    named = [(name, json_path([name], "$.context.overrides")) for name in as_object(overrides) or {}]
    for index, name in enumerate(cast("list[object]", forced) if isinstance(forced, list) else ()):
        named.append((str(name), f"$.generation.force_members[{index}]"))
    for name, path in named:
        if name not in members:
            message = f"{path} names {to_json(name)}, which isn't a member; it has no effect."
            issues.warn("unknown_member", path, name, "the id of a member", "", message)
