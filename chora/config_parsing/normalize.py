"""Normalising a document field by field: spellings, nulls, unknown keys, and the two spellings of sources."""

from __future__ import annotations

import re
from typing import Any, cast

import msgspec
from msgspec import UNSET

from chora.config_parsing.fields import Field, fields_of_struct
from chora.config_parsing.issues import ABSENT, ISSUES_LIMIT, IssueCollector, json_path, shorten, to_json
from chora.config_parsing.plain_data import NotPlainData, PlainCopy, as_object, objects_of
from chora.model import LongSource, ShortSource, Source, SourceType
from chora.nesting import decode_json
from chora.wording import find_nearest

_SHORT_EXAMPLES = {
    "data": '{"name": "value"}',
    "path": '"data/readings.json"',
    "file": '"docs/safety.md"',
    "config_id": '"my-config"',
    "output_id": '"my-config"',
}


class FieldNormalizer:
    """Normalises the fields of one document in place.

    Args:
        issues: gets a warning for each change.
    """

    def __init__(self, issues: IssueCollector) -> None:
        self._issues = issues
        self._written: list[tuple[list[Any], int, dict[str, Any]]] = []
        """Where sources were replaced, and what was written there."""

    def restore_sources(self) -> None:
        """Put back the sources as they were written, for the schema to explain."""
        for items, index, written in self._written:
            items[index] = written

    def normalize_record(self, record: dict[str, Any], fields: dict[str, Field], path: str) -> None:
        """Normalise a record whose fields are known."""
        for key, value in list(record.items()):
            if (field := fields.get(key)) is None:
                if not key.startswith("$"):  # $schema and $comment are for editors and people
                    self._warn_unknown(record, fields, key, path)
                continue
            here = f"{path}.{key}"
            if value is None and not field.required and not field.nullable:
                del record[key]
                message = f"{here} is null, which is read as absent."
                self._issues.warn("null", here, None, "a value, or no such key", f"nothing: leave {key} out", message)
            elif field.shape == "record" and (inner := as_object(value)) is not None:
                self.normalize_record(inner, field.fields, here)
            elif field.shape == "records":
                for index, item in objects_of(value):
                    self.normalize_record(item, field.fields, f"{here}[{index}]")
            elif field.shape == "sources":
                for index, item in objects_of(value):
                    self._normalize_source(cast("list[Any]", value), index, item, f"{here}[{index}]")
            elif field.shape != "other" and (normalized := _normalize_value(field, value)) != value:
                record[key] = normalized
                message = f"{here} is {shorten(value)}; it is read as {to_json(normalized)}."
                self._issues.warn(
                    "spelling", here, value, to_json(normalized), f'"{key}": {to_json(normalized)}', message
                )

    def _warn_unknown(self, record: dict[str, Any], fields: dict[str, Field], key: str, path: str) -> None:
        if len(self._issues.warnings) >= ISSUES_LIMIT:
            return
        here = json_path([key], path)
        known = [name for name in fields if name not in record]
        near = find_nearest(key, known, 1, cutoff=0.7)
        message = f"{here} means nothing to chora; it is kept and has no effect."
        if near:
            message += f" Did you mean {near[0]}?"
        expected = f"one of {', '.join(fields)}"
        write = f'"{near[0]}": {shorten(record[key])}' if near else ""
        self._issues.warn("unknown_key", here, record[key], expected, write, message, info=True)

    def _normalize_source(self, items: list[Any], index: int, written: dict[str, Any], path: str) -> None:
        """Replace either spelling by one `Source`; what the schema refuses stays, for it to explain."""
        spelling = LongSource if is_long_spelling(written) else ShortSource
        self.normalize_record(written, fields_of_struct(spelling), path)
        try:
            source = msgspec.convert(written, spelling)
        except msgspec.ValidationError:
            items[index] = None  # fails the conversion as well
        else:
            items[index] = normalized = (
                self._from_long(source, path) if isinstance(source, LongSource) else self._from_short(source, path)
            )
            if normalized.matches is not None and not normalized.selector.startswith("$"):
                expected = "a JSONPath as selector, which alone can match several values"
                key = "data_selector" if spelling is LongSource else "selector"
                self._issues.fail("wrong_form", f"{path}.matches", source.matches, expected, f'"{key}": "$.items[*]"')
            if normalized.delimiter and not normalized.locator.lower().endswith((".csv", ".tsv")):
                expected = "a file that ends with .csv"
                write = "nothing: leave delimiter out"
                self._issues.fail("wrong_form", f"{path}.delimiter", source.delimiter, expected, write)
        self._written.append((items, index, written))

    def _from_long(self, source: LongSource, path: str) -> Source:
        data = None
        if source.source_type == "inline_data":
            try:
                data = PlainCopy(path).copy_of(decode_json(source.source_locator))
            except (msgspec.MsgspecError, NotPlainData):
                data = source.source_locator
        self._check_git_locator(source.source_type, source.source_locator, f"{path}.source_locator", "source_locator")
        return Source(
            type=source.source_type,
            id=source.id,
            locator=source.source_locator,
            selector=_selector_of(source.data_selector),
            required=source.required,
            notes=source.notes,
            data=data,
            matches=source.matches,
            delimiter="\t" if source.delimiter == "tab" else source.delimiter,
        )

    def _from_short(self, source: ShortSource, path: str) -> Source:
        name = source.id or source.output_as or ""
        data = None
        match source.type:
            case "inline_data":
                key, locator, data = "data", None, source.data
                if data is not UNSET:
                    locator = to_json(data)
                    if not name and not isinstance(data, dict):
                        expected = "an object, or a source with an id"
                        self._issues.fail("unnamed_source", path, data, expected, '"id": "my-name", beside "data"')
            case "external_file":
                key, locator = "path", source.path
            case "git_reference":
                key, locator = "file", source.file or source.file_path
                locator = locator and f"{source.ref or source.reference or 'HEAD'}:{locator}"
            case "content_config" | "artifact_config":
                key, locator = "config_id", source.config_id or source.reference
            case "ephemeral_output":
                key, locator = "output_id", source.output_id or source.content_id
        if not locator:
            expected = f"what a source of type {source.type} needs"
            self._issues.fail("missing", f"{path}.{key}", ABSENT, expected, f'"{key}": {_SHORT_EXAMPLES[key]}')
        return Source(
            type=source.type,
            id=name,
            locator=locator or "",
            selector=_selector_of(source.selector),
            required=source.required,
            notes=source.notes,
            data=data,
            matches=source.matches,
            delimiter="\t" if source.delimiter == "tab" else source.delimiter,
            repository=source.repo or source.repo_path or ".",
        )

    def _check_git_locator(self, kind: SourceType, locator: str, path: str, key: str) -> None:
        if kind == "git_reference" and not all(locator.partition(":")):
            self._issues.fail(
                "wrong_form", path, locator, "ref:path", f'"{key}": {to_json("HEAD:" + locator.strip(":"))}'
            )


def is_long_spelling(source: dict[str, Any]) -> bool:
    """Whether a source is written with `source_type` and `source_locator`."""
    return "source_type" in source or "source_locator" in source


def _selector_of(selector: str) -> str:
    return "" if selector == "whole_content" else selector


def _normalize_value(field: Field, value: Any) -> Any:
    """A value as the format spells it, if only its spelling is off."""
    match field.shape:
        case "word" if isinstance(value, str) and value not in field.words:
            return {_folded(word): word for word in field.words}.get(_folded(value), value)
        case "flag" if isinstance(value, str):  # true and false in YAML 1.1 alone
            return {"yes": True, "on": True, "no": False, "off": False}.get(value.lower(), value)
        case "name" if isinstance(value, str):
            return value.strip()  # a YAML block ends with a newline, which `$` in a pattern lets pass
        case "version" | "schema_version" if isinstance(value, str | int | float):
            version = str(value).strip().removeprefix("v")  # YAML reads an unquoted 1.0 as a number
            if not re.fullmatch(r"[0-9]+(\.[0-9]+){0,2}", version):
                return value
            parts = 3 if field.shape == "version" else 2
            return version + ".0" * (parts - 1 - version.count("."))
        case _:
            return value


def _folded(word: str) -> str:
    return word.strip().lower().replace("-", "_")
