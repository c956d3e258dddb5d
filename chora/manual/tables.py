"""The fields of config Structs and of generators' options, as rows of tables; the JSON Schemas say the same."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import msgspec
from msgspec import Struct

from chora.model import PATTERNS, Kind, LongSource, ShortSource, schema, schema_of

Rule = dict[str, Any]


class FieldRow(NamedTuple):
    """One field, in words."""

    name: str
    type: str
    default: str
    """JSON; `required` where there must be a value, and empty where it may be left out."""
    description: str


class FieldTable(NamedTuple):
    """The fields of an object, and where it stands."""

    paths: list[str]
    """Keys with dots between them, `[]` behind that of a list; of the root one that is empty."""
    description: str
    fields: list[FieldRow]

    def as_dict(self) -> dict[str, Any]:
        return {**self._asdict(), "fields": [row._asdict() for row in self.fields]}


def config_tables(kind: Kind) -> list[FieldTable]:
    """The objects of a config from its root on; sources have tables of their own."""
    return _tables(schema(kind))


def source_tables() -> list[FieldTable]:
    """The two spellings of a source."""
    return [*_tables(schema_of(LongSource)), *_tables(schema_of(ShortSource))]


def option_tables(options: type[Struct]) -> list[FieldTable]:
    """The options of a generator, and the objects in them."""
    return _tables(schema_of(options))


def _tables(root: Rule) -> list[FieldTable]:
    """The object of a schema, and each object in it once, although several fields may hold it."""
    definitions: dict[str, Rule] = root["$defs"]
    found: dict[str, FieldTable] = {"": FieldTable([""], root.get("description", ""), [])}
    waiting = [("", root)]
    while waiting:
        name, record = waiting.pop(0)
        table = found[name]
        for key, rule in cast("dict[str, Rule]", record.get("properties", {})).items():
            default = _default_of(rule, required=key in record.get("required", ()))
            table.fields.append(FieldRow(key, _type_of(rule, definitions), default, rule.get("description", "")))
            for inner, suffix in _references(rule):
                if inner == "Source":
                    continue
                if inner not in found:
                    found[inner] = FieldTable([], definitions[inner].get("description", ""), [])
                    waiting.append((inner, definitions[inner]))
                found[inner].paths.append(f"{table.paths[0]}.{key}{suffix}".lstrip("."))
    return list(found.values())


def _references(rule: Rule, suffix: str = "") -> list[tuple[str, str]]:
    """The objects that a value may be or hold, and how the path of each ends."""
    if "$ref" in rule:
        return [(rule["$ref"].rpartition("/")[2], suffix)]
    found = [each for choice in rule.get("anyOf", ()) for each in _references(choice, suffix)]
    if isinstance(rule.get("items"), dict):
        found += _references(rule["items"], f"{suffix}[]")
    return found


_PLAIN = {"string": "text", "boolean": "true or false", "integer": "whole number", "number": "number"}


def _type_of(rule: Rule, definitions: dict[str, Rule]) -> str:
    """What a value may be, in words."""
    if "$ref" in rule:
        name = rule["$ref"].rpartition("/")[2]
        return "source" if name == "Source" else "object" if definitions[name].get("type") == "object" else name
    if "anyOf" in rule:
        choices = [_type_of(choice, definitions) for choice in rule["anyOf"] if choice != {"type": "null"}]
        some = [
            each
            for each in choices
            if each.removeprefix("whole ") == each or each.removeprefix("whole ") not in choices
        ]
        return " or ".join(dict.fromkeys(some))
    if "enum" in rule:
        return ", ".join(f"`{word}`" if word else "empty" for word in rule["enum"])
    if "const" in rule:
        return f"`{rule['const']}`"
    kind = str(rule.get("type", ""))
    if kind == "array":
        return f"list of {_items_of(rule, definitions)}"
    if "pattern" in rule:
        return f"text: {PATTERNS[rule['pattern']]}"
    return _PLAIN.get(kind, "object" if kind == "object" else "anything") + _bounds_of(rule)


def _items_of(rule: Rule, definitions: dict[str, Rule]) -> str:
    items = rule.get("items")
    words = _type_of(cast("Rule", items), definitions) if isinstance(items, dict) and items else "anything"
    plural = {"object": "objects", "source": "sources", "text": "texts"}.get(words, words)
    least = ", at least one" if rule.get("minItems") else ""
    return plural + least + (f", at most {rule['maxItems']}" if "maxItems" in rule else "")


def _bounds_of(rule: Rule) -> str:
    """The limits of a number or of a text's length, in words."""
    least, most = rule.get("minimum"), rule.get("maximum")
    if "exclusiveMinimum" in rule:
        return f", above {rule['exclusiveMinimum']:g}" + (f", at most {most:,}" if most is not None else "")
    if least is not None:
        return f", {least} to {most:,}" if most is not None else f", at least {least}"
    if "maxLength" in rule:
        return f", {rule.get('minLength', 0)} to {rule['maxLength']:,} characters"
    return ", not empty" if rule.get("minLength") else ""


def _default_of(rule: Rule, *, required: bool) -> str:
    if required:
        return "required"
    value = rule.get("default")
    return "" if value in (None, "") or isinstance(value, dict) else msgspec.json.encode(value).decode()
