"""Everything in which a document doesn't fit its JSON Schema, in words, with what to write instead.

msgspec stops at the first fault; the JSON Schema that is derived from the same Structs finds all of them. Only a config
that doesn't fit pays for importing jsonschema.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from chora import model
from chora.config_parsing.issues import ABSENT, ISSUES_LIMIT, Issue, json_path, make_issue, slug_of, to_json
from chora.config_parsing.normalize import is_long_spelling
from chora.config_parsing.plain_data import as_object
from chora.model import PATTERNS, Kind, schema
from chora.wording import find_nearest

if TYPE_CHECKING:
    from jsonschema import ValidationError as JsonSchemaError

_SYNONYMS = {
    "bash": "code",
    "config": "content_config",
    "critical": "error",
    "csv": "external_file",
    "data": "inline_data",
    "fatal": "error",
    "feature": "gherkin",
    "javascript": "code",
    "jinja2": "text",
    "manually": "manual",
    "md": "markdown",
    "plain": "text",
    "python": "code",
    "semver": "version",
    "shell": "code",
    "string": "text",
    "txt": "text",
    "typescript": "code",
    "yml": "yaml",
}
"""Words that people write where the format has another one."""


def schema_errors(kind: Kind, document: object) -> Iterator[Issue]:
    """An issue for each place that doesn't fit, in the order of the schema."""
    validator, definitions = _schema_validator(kind)
    for error in validator.iter_errors(document):
        yield from _explain(error, definitions)


@functools.cache
def _schema_validator(kind: Kind) -> tuple[Any, dict[str, Any]]:
    """What finds every error by the schema of a kind, and the schema's definitions.

    The schema library takes a thousand times as long as msgspec. So it only validates those items of a list
    that msgspec refuses, and of these no more than a person would read about.
    """
    import jsonschema  # takes 0.2 s

    def refused_items(
        validator: Any, rule: dict[str, Any], steps: Iterable[tuple[Any, Any]]
    ) -> Iterator[JsonSchemaError]:
        refused = ((step, each) for step, each in steps if not _fits(each, rule))
        for step, each in itertools.islice(refused, ISSUES_LIMIT):
            yield from validator.descend(each, rule, path=step)

    def items(validator: Any, rule: Any, instance: Any, _: Any) -> Iterator[JsonSchemaError]:
        if isinstance(instance, list):
            yield from refused_items(validator, rule, enumerate(cast("list[Any]", instance)))

    def members(validator: Any, rule: Any, instance: Any, _: Any) -> Iterator[JsonSchemaError]:
        if isinstance(instance, dict):
            yield from refused_items(validator, rule, cast("dict[str, Any]", instance).items())

    library: Any = jsonschema  # its stubs leave out parameters
    of_lists = library.validators.extend(
        library.Draft202012Validator, {"items": items, "additionalProperties": members}
    )
    published = schema(kind)
    return of_lists(published), published["$defs"]


_PLAIN_TYPES = {"string": str, "object": dict}


def _fits(value: object, rule: dict[str, Any]) -> bool:
    """Whether an item of a list, or a value of an object, surely fits its rule in the schema."""
    if (plain := rule.get("type")) is not None:
        return isinstance(value, _PLAIN_TYPES[plain])
    name = rule["$ref"].rpartition("/")[2]
    if name == "Source" and (record := as_object(value)) is not None:  # in the schema, either of its two spellings
        name = "LongSource" if is_long_spelling(record) else "ShortSource"
    try:
        msgspec.convert(value, getattr(model, name))
    except msgspec.ValidationError:
        return False
    return True


_NEVER_READ = {
    "requirement_id": '"source_type": "inline_data" with the requirement, or external_file with the file that has it'
}
"""Values of chora-compose that meant nothing, and what to write instead."""


def _explain(error: JsonSchemaError, definitions: dict[str, Any]) -> Iterator[Issue]:
    """An error of the schema library as an issue."""
    found = error.instance
    rule = cast("dict[str, Any]", error.schema)
    if error.validator == "anyOf" and isinstance(found, dict):
        spelling = 0 if is_long_spelling(cast("dict[str, Any]", found)) else 1
        for inner in error.context or ():
            if inner.schema_path[0] == spelling:
                yield from _explain(inner, definitions)
        return
    path = json_path(error.absolute_path)
    key = error.absolute_path[-1] if error.absolute_path else None
    if error.validator == "required":
        # There is one error for each missing name, and only its message says which.
        key = error.message.removeprefix("'").partition("' is a required property")[0]
        rule = rule["properties"][key]
        found, path = ABSENT, f"{path}.{key}"
    suggestion = _suggest(found, rule, definitions)
    written = _describe(rule, definitions) if suggestion is NONE_NEAR else to_json(suggestion)
    write = f"{to_json(key)}: {written}" if isinstance(key, str) else written
    if isinstance(found, str) and found in _NEVER_READ and error.validator == "enum":
        write, expected = _NEVER_READ[found], _describe(rule, definitions)
        message = f"{path} is {to_json(found)}, which chora-compose declared and never read; it must be {expected}."
        yield make_issue("error", "not_one_of", path, found, expected, write, message)
        return
    yield make_issue("error", "wrong_form", path, found, _describe(rule, definitions), write)


def _describe(rule: dict[str, Any], definitions: dict[str, Any]) -> str:
    """What a schema requires, in words."""
    if "$ref" in rule:
        return _describe(definitions[rule["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in rule:
        return " or ".join(dict.fromkeys(_describe(choice, definitions) for choice in rule["anyOf"]))
    if "enum" in rule:
        words = ", ".join(to_json(word) for word in rule["enum"])
        return f"one of {words}" if len(rule["enum"]) > 1 else words
    if "pattern" in rule:
        return PATTERNS[rule["pattern"]]
    match rule.get("type"):
        case "string" if "maxLength" in rule:
            return f"text of {rule.get('minLength', 0)} to {rule['maxLength']} characters"
        case "string":
            return "text, not empty" if "minLength" in rule else "text"
        case "array" if "maxItems" in rule:
            return f"a list of {rule.get('minItems', 0)} to {rule['maxItems']} items"
        case "array":
            return "a list of at least one item" if "minItems" in rule else "a list"
        case "integer" | "number" as number:
            words = "a whole number" if number == "integer" else "a number"
            bounds = (("minimum", "at least"), ("exclusiveMinimum", "above"), ("maximum", "at most"))
            return ", ".join([words, *(f"{word} {rule[bound]:g}" for bound, word in bounds if bound in rule)])
        case "boolean":
            return "true or false"
        case _:
            return "an object"


NONE_NEAR: Final = object()
"""Instead of a value, where any of several would be a guess."""


def _suggest(found: object, rule: dict[str, Any], definitions: dict[str, Any]) -> Any:
    """A value that fits, as close to what was found as can be guessed; `NONE_NEAR` if it can't."""
    example = _example(rule, definitions)
    if found is ABSENT or isinstance(found, bool):
        return example
    if "enum" in rule:
        word = str(found)[:200].partition("|")[0].strip().lower()  # people copy "one|two|three" from a reference
        words = cast("list[str]", rule["enum"])
        if _SYNONYMS.get(word) in words:
            return _SYNONYMS[word]
        holding = [each for each in words if word in each.split("_") or word.removesuffix("s") in each.split("_")]
        guess = example if "default" in rule or "examples" in rule else NONE_NEAR
        return next(iter([*find_nearest(word, words, 1), *holding]), guess)
    if "pattern" in rule:
        slug = slug_of(str(found))
        return slug if re.search(rule["pattern"], slug) else example
    match rule.get("type"), found:
        case "string", str() if len(found) > rule.get("maxLength", len(found)):
            return found[: rule["maxLength"]]
        case "string", int() | float():
            return str(found)
        case "boolean", "true" | "yes" | "True":
            return True
        case "boolean", "false" | "no" | "False":
            return False
        case "array", dict():
            return cast("list[object]", [found])
        case _:
            return example


def _example(rule: dict[str, Any], definitions: dict[str, Any]) -> Any:
    """A value that fits a schema."""
    if "$ref" in rule:
        return _example(definitions[rule["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in rule:
        return _example(rule["anyOf"][0], definitions)
    for key in ("examples", "default", "enum"):
        if key in rule:
            return rule[key] if key == "default" else rule[key][0]
    match rule.get("type"):
        case "object":
            properties = cast("dict[str, Any]", rule.get("properties", {}))
            return {name: _example(properties[name], definitions) for name in rule.get("required", ())}
        case "array":
            return [_example(rule["items"], definitions)] if rule.get("minItems") else []
        case "integer" | "number":
            return max(1, rule.get("minimum", 1))
        case "boolean":
            return True
        case _:
            return "…"
