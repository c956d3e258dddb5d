"""The reading of raw documents into the Structs of the config formats.

A document is read tolerantly: `read` works on a copy, turns every known deviation into what the format says
(one `Issue` each, naming what to write), and converts the copy into a Struct. Only when that fails is
jsonschema imported, to collect every fault at once. The raw document stays as it was and is what gets saved,
so keys that chora doesn't know survive.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import msgspec
from msgspec import UNSET, Struct, inspect

from chora import model
from chora.errors import LimitExceeded, ValidationFailed
from chora.model import (
    KINDS,
    PATTERNS,
    SCHEMA_VERSION_PATTERN,
    STRUCTS,
    VALUE_TYPES,
    VERSION_PATTERN,
    Kind,
    LongSource,
    Severity,
    ShortSource,
    Source,
    SourceType,
    schema,
)
from chora.nesting import DEPTH_LIMIT, decode_json

if TYPE_CHECKING:
    from jsonschema import ValidationError as JsonSchemaError

"""Levels of nesting a document may have."""
ID_LIMIT = 255
"""Characters of an id that anybody could ask for."""
VALUES_LIMIT = 100_000
"""Values a document may hold: reading takes microseconds for each, and nothing else happens meanwhile."""
ISSUES_LIMIT = 100
"""Remarks, and faults, that one reading reports; a file with more has one fault many times."""

# -- what a reading gives -----------------------------------------------------------------------------------


class Issue(Struct, frozen=True, kw_only=True):
    """One remark on a document: where, what stood there, what fits, and what to write instead."""

    severity: Severity
    code: str
    message: str
    path: str
    """A JSON path, such as `$.metadata.version`."""
    found: str = ""
    expected: str = ""
    write: str = ""


class ParsedConfig(NamedTuple):
    """A document that was read.

    `config` is a `ContentConfig`, `ArtifactConfig` or `CollectionConfig`, by `kind`. `raw` is the document
    itself, with everything that `config` doesn't know; it is shared, so leave it as it is.
    """

    kind: Kind
    config: Any
    raw: dict[str, Any]
    warnings: list[Issue]
    origin: str = ""
    """How the document was called: the path of its file, or the id of a draft."""


def parse_config(kind: Kind, document: object, *, where: str, expected_id: str | None = None) -> ParsedConfig:
    """Read a raw document into its Struct.

    Args:
        kind: what the document is expected to be.
        document: plain JSON data; it is left as it is.
        where: how to call the document in messages, such as its path.
        expected_id: the id it is known by elsewhere; another one inside is a warning.

    Raises:
        ValidationFailed: it doesn't fit; `details.schema_errors` lists every fault.
        LimitExceeded: it holds more values than `MOST_VALUES`.
    """
    reading = _Reading(kind)
    try:
        copy = _Copying(where).copy_of(document)
    except _NotPlain as fault:
        raise _refusal(kind, where, document, [fault.issue()], []) from None
    if (record := _object(copy)) is None:
        raise _refusal(kind, where, document, list(_schema_faults(kind, copy)), [])
    reading.tidy(record)
    try:
        config = msgspec.convert(record, STRUCTS[kind])
    except msgspec.ValidationError as error:
        raise _refusal(kind, where, document, reading.every_fault(record, str(error)), reading.remarks) from None
    if reading.faults:
        raise _refusal(kind, where, document, reading.every_fault(record, ""), reading.remarks)
    parsed = ParsedConfig(kind, config, cast("dict[str, Any]", document), reading.remarks, where)
    return parsed if expected_id is None else describe_expected(parsed, expected_id)


def describe_expected(parsed: ParsedConfig, expected_id: str) -> ParsedConfig:
    """The same, with a warning if the id inside is another one than the config is known by."""
    if parsed.config.id == expected_id:
        return parsed
    remark = _issue(
        "warning", "id_mismatch", "$.id", parsed.config.id, _json(expected_id), f'"id": {_json(expected_id)}'
    )
    return parsed._replace(warnings=[*parsed.warnings, remark])


# -- plain data ---------------------------------------------------------------------------------------------


class _NotPlain(Exception):
    """A value that JSON hasn't, or that lies too deep."""

    def __init__(self, found: str, expected: str, write: str) -> None:
        super().__init__(expected)
        self.found, self.expected, self.write = found, expected, write
        self.steps: list[str | int] = []

    def issue(self) -> Issue:
        path = _path(reversed(self.steps))
        message = f"{path} is {self.found}; it must be {self.expected}."
        return Issue(
            severity="error",
            code="not_json",
            message=message,
            path=path,
            found=self.found,
            expected=self.expected,
            write=self.write,
        )


class _Copying:
    """The making of a copy that shares nothing changeable with the original; `where` is how to call that one."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._left = VALUES_LIMIT

    def copy_of(self, value: object, depth: int = 0) -> Any:
        """The copy.

        Raises:
            _NotPlain: it holds something that can't be written as JSON, or is nested too deeply.
            LimitExceeded: it holds too many values.
        """
        if isinstance(value, dict | list):
            if depth >= DEPTH_LIMIT:
                raise _NotPlain(
                    f"nested more than {DEPTH_LIMIT} levels deep", "nested less deeply", "it in fewer levels"
                )
            self._left -= len(cast("dict[object, object] | list[object]", value))
            if self._left < 0:
                message = f"{self._where} holds more than {VALUES_LIMIT:,} values."
                raise LimitExceeded(message, "Split the config.", limit="config.values", path=self._where)
            if isinstance(value, dict):
                return self._copy_of_object(cast("dict[object, object]", value), depth + 1)
            return self._copy_of_list(cast("list[object]", value), depth + 1)
        if isinstance(value, str):
            if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
                raise _NotPlain("text with half a surrogate pair", "text that UTF-8 can hold", "the whole character")
        elif isinstance(value, float):
            if not math.isfinite(value):
                raise _NotPlain(str(value), "a finite number", "it as a string")
        elif isinstance(value, int):
            if value.bit_length() > 1024:
                raise _NotPlain("a number of more than 300 digits", "a smaller number", "it as a string")
        elif value is not None:
            raise _NotPlain(_a(type(value).__name__), "a value that JSON has", "it as a string")
        return value

    def _copy_of_object(self, value: dict[object, object], depth: int) -> dict[str, Any]:
        copy: dict[str, Any] = {}
        for key, each in value.items():
            name = self.copy_of(key)
            if not isinstance(name, str):
                raise _NotPlain(f"an object with the key {name}", "an object whose keys are text", f'"{name}"')
            try:
                # Most of a config is plain text, and not asking further halves the time.
                copy[name] = each if type(each) is str and each.isascii() else self.copy_of(each, depth)
            except _NotPlain as fault:
                fault.steps.append(name)
                raise
        return copy

    def _copy_of_list(self, value: list[object], depth: int) -> list[Any]:
        copy: list[Any] = []
        try:
            for each in value:
                copy.append(self.copy_of(each, depth))
        except _NotPlain as fault:
            fault.steps.append(len(copy))
            raise
        return copy


def _object(value: object) -> dict[str, Any] | None:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def _objects(value: object) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a list with their places; nothing if it isn't one."""
    for index, each in enumerate(cast("list[object]", value) if isinstance(value, list) else ()):
        if (record := _object(each)) is not None:
            yield index, record


# -- tolerant reading ---------------------------------------------------------------------------------------


class _Field(NamedTuple):
    """What the tolerant reader needs to know of a Struct's field."""

    shape: Literal["record", "records", "sources", "word", "version", "schema_version", "name", "other"]
    required: bool
    nullable: bool
    words: tuple[str, ...]
    fields: dict[str, _Field]


_NOTHING = inspect.NoneType()


@functools.cache
def _fields(struct: type[Struct]) -> dict[str, _Field]:
    """The fields of a Struct by the key they are written under."""
    return _fields_of(cast(inspect.StructType, inspect.type_info(struct)))


def _fields_of(struct: inspect.StructType) -> dict[str, _Field]:
    return {field.encode_name: _field(field.required, field.type) for field in struct.fields}


def _field(required: bool, kind: inspect.Type) -> _Field:
    if isinstance(kind, inspect.Metadata):
        return _field(required, kind.type)
    if isinstance(kind, inspect.UnionType) and len(others := [each for each in kind.types if each != _NOTHING]) == 1:
        return _field(required, others[0])
    shape = "other"
    words: tuple[str, ...] = ()
    fields: dict[str, _Field] = {}
    match kind:
        case inspect.StructType():
            shape, fields = "record", _fields_of(kind)
        case inspect.VarTupleType(item_type=inspect.StructType(cls=cls) as item):
            shape, fields = ("sources", {}) if cls is Source else ("records", _fields_of(item))
        case inspect.LiteralType():
            shape, words = "word", tuple(str(value) for value in kind.values)
        case inspect.StrType(pattern=str(pattern)):
            shape = (
                "version"
                if pattern == VERSION_PATTERN
                else "schema_version"
                if pattern == SCHEMA_VERSION_PATTERN
                else "name"
            )
        case _:
            pass
    return _Field(shape, required, isinstance(kind, inspect.AnyType), words, fields)


_OTHER_NAMES = {"bdd_scenario_assembly": "bdd_scenario", "overlay": "merge", "json_merge": "merge"}
"""What chora-compose also called a generator or a composition strategy."""


class _Foreign(NamedTuple):
    """A key that another dialect of chora-compose configs has where this one has `native`."""

    key: str
    native: str
    write: str


_ELEMENTS = '"elements": [{"name": "intro", "format": "markdown", "example_output": "…"}]'
_PATTERN = '"generation": {"patterns": [{"id": "main", "type": "jinja2", "template": "intro.md.j2"}]}'
_CHILDREN = '"content": {"children": [{"id": "intro", "path": "configs/content/intro.json"}]}'
_FOREIGN: dict[Kind, tuple[_Foreign, ...]] = {
    "content": (
        _Foreign("content_config", "metadata", 'its keys at the top level, beside "type": "content"'),
        _Foreign("content_elements", "elements", _ELEMENTS),
        _Foreign("content_element", "elements", _ELEMENTS),
        _Foreign("content_id", "id", '"id": "intro", beside "type": "content"'),
        _Foreign("generator_type", "generation", _PATTERN),
        _Foreign("template_path", "generation", _PATTERN),
    ),
    "artifact": (
        _Foreign("artifact_config", "metadata", 'its keys at the top level, beside "type": "artifact"'),
        _Foreign("artifact_id", "id", '"id": "handbook", beside "type": "artifact"'),
        _Foreign("composition", "content", _CHILDREN),
    ),
    "collection": (
        _Foreign("collection_config", "members", 'its keys at the top level, beside "type": "collection"'),
        _Foreign("collection_id", "id", '"id": "season-pack", beside "type": "collection"'),
    ),
}


class _Reading:
    """One tolerant reading: turns a copy into what the format says, and remembers what had to be turned."""

    def __init__(self, kind: Kind) -> None:
        self.kind: Kind = kind
        self.remarks: list[Issue] = []
        self.faults: list[Issue] = []
        self._explained: list[str] = []
        self._another_kind = False
        self._written: list[tuple[list[Any], int, dict[str, Any]]] = []

    def tidy(self, document: dict[str, Any]) -> None:
        """Normalise a document in place."""
        if (found := document.get("type")) != self.kind and found in KINDS:
            self._another_kind = True
            message = f"This is {_a(found)} config, not {_a(self.kind)} config; it belongs in configs/{found}/."
            self._fault("wrong_kind", "$.type", found, _json(self.kind), f'"type": {_json(self.kind)}', message)
            return
        self._refuse_dialects(document)
        if self.kind != "collection":
            self._settle_schema_ref(document)
        match self.kind:
            case "content":
                self._settle_patterns(document)
                self._settle_elements(document)
            case "artifact":
                metadata = _object(document.get("metadata")) or {}
                self._settle_name(metadata, "compositionStrategy", "$.metadata")
                self._settle_composition(metadata)
            case "collection":
                for index, member in _objects(document.get("members")):
                    self._settle_age(member, f"$.members[{index}]")
        self._walk(document, _fields(STRUCTS[self.kind]), "$")
        self._check_across(document)

    def every_fault(self, document: dict[str, Any], refusal: str) -> list[Issue]:
        """Everything that is wrong with a tidied document that `refusal` came from."""
        if self._another_kind:
            return self.faults
        for items, index, written in self._written:
            items[index] = written
        found = list(self.faults)
        for fault in _schema_faults(self.kind, document):
            if len(found) >= ISSUES_LIMIT:
                break
            if not self._is_explained(fault):
                found.append(fault)
        self.remarks = [remark for remark in self.remarks if not self._is_explained(remark)]
        if not found:
            # The two judges differ in corners, such as 3.0 for a whole number; then the stricter one's word stands.
            problem, _, path = refusal.partition(" - at `")
            path = path.rstrip("`") or "$"
            message = f"{path}: {problem[:1].lower()}{problem[1:]}."
            found.append(Issue(severity="error", code="wrong_type", message=message, path=path))
        return found

    def _is_explained(self, issue: Issue) -> bool:
        return any(issue.path == path or issue.path.startswith((f"{path}.", f"{path}[")) for path in self._explained)

    def _remark(
        self, code: str, path: str, found: object, expected: str, write: str, message: str, *, info: bool = False
    ) -> None:
        if len(self.remarks) < ISSUES_LIMIT:
            self.remarks.append(_issue("info" if info else "warning", code, path, found, expected, write, message))

    def _fault(
        self, code: str, path: str, found: object, expected: str, write: str, message: str | None = None
    ) -> None:
        """A fault that the schema can't see, or would explain worse; what the schema says about it is left out."""
        if len(self.faults) < ISSUES_LIMIT:
            self.faults.append(_issue("error", code, path, found, expected, write, message))
            self._explained.append(path)

    # -- other dialects --

    def _refuse_dialects(self, document: dict[str, Any]) -> None:
        if isinstance(found := document.get("type"), str) and found.endswith(("_config", "_element")):
            self._foreign("$.type", found, f"type {found}", f'"type": {_json(self.kind)}')
        for foreign in _FOREIGN[self.kind]:
            if foreign.key in document and foreign.native not in document:
                self._foreign(f"$.{foreign.key}", document[foreign.key], foreign.key, foreign.write)
                self._explained.append(f"$.{foreign.native}")
        if isinstance(name := document.get("id"), str) and "_" in name:
            self._foreign("$.id", name, "underscores in ids", f'"id": {_json(_slug(name))}')
        if self.kind == "content":
            self._refuse_element_dialects(document)
        elif self.kind == "artifact":
            content = _object(document.get("content")) or {}
            for index, child in _objects(content.get("children")):
                if isinstance(name := child.get("id"), str) and "_" in name:
                    path = f"$.content.children[{index}].id"
                    self._foreign(path, name, "underscores in ids", f'"id": {_json(_slug(name))}')

    def _refuse_element_dialects(self, document: dict[str, Any]) -> None:
        elements = document.get("elements")
        if (template := _object(elements)) is not None:
            self._foreign("$.elements", template, "elements as an object", _ELEMENTS)
        for index, element in _objects(elements):
            other = [key for key in ("id", "generation_pattern", "template") if key in element]
            if other and "name" not in element:
                write = {"name": _slug(str(element.get("id", ""))) or "intro", "format": "text"}
                if isinstance(text := element.get("example_output"), str):
                    write["example_output"] = text
                self._foreign(f"$.elements[{index}]", element, f"elements with {' and '.join(other)}", _json(write))
        generation = _object(document.get("generation")) or {}
        if "generator" in generation and "patterns" not in generation:
            self._foreign("$.generation.generator", generation["generator"], "generation.generator", _PATTERN)

    def _foreign(self, path: str, found: object, dialect: str, write: str) -> None:
        message = f"{path} belongs to another dialect of chora-compose configs ({dialect}), which isn't read."
        self._fault("dialect", path, found, f"the {self.kind} format", write, message)

    # -- known deviations --

    def _settle_schema_ref(self, document: dict[str, Any]) -> None:
        right = {"id": f"{self.kind}-schema", "version": "3.1"}
        write = f'"schemaRef": {_json(right)}'
        if (found := document.get("schemaRef")) is None:
            document["schemaRef"] = right
            self._remark("schema_ref_missing", "$.schemaRef", _ABSENT, _json(right), write, "$.schemaRef is missing.")
        elif (reference := _object(found)) is not None:
            if reference.get("id") != right["id"] or "version" not in reference:
                message = f"$.schemaRef is {_show(found)}; it is read as {_json(right)}."
                self._remark("schema_ref", "$.schemaRef", found, _json(right), write, message)
                reference["id"] = right["id"]
                reference.pop("uri", None)
            if str(reference.setdefault("version", right["version"])) not in ("3.1", "3.1.0"):
                message = f"$.schemaRef.version is {_show(reference['version'])}; the config is read as version 3.1."
                self._remark("schema_version", "$.schemaRef.version", reference["version"], '"3.1"', write, message)

    def _settle_patterns(self, document: dict[str, Any]) -> None:
        generation = _object(document.get("generation")) or {}
        for index, pattern in _objects(generation.get("patterns")):
            path = f"$.generation.patterns[{index}]"
            self._settle_name(pattern, "type", path)
            options = _object(pattern.setdefault("generation_config", {})) if "context" in pattern else None
            if options is not None:
                found = pattern.pop("context")
                below = _object(options.get("context"))
                above = _object(found)
                options["context"] = found if below is None or above is None else {**above, **below}
                write = f'"generation_config": {{"context": {_show(found)}}}'
                message = f"{path}.context is read as {path}.generation_config.context."
                self._remark("pattern_context", f"{path}.context", found, "generation_config.context", write, message)

    def _settle_name(self, record: dict[str, Any], key: str, path: str) -> None:
        if isinstance(found := record.get(key), str) and (name := _OTHER_NAMES.get(found)):
            record[key] = name
            message = f"{path}.{key} is {_json(found)}, an old name of {_json(name)}."
            self._remark("old_name", f"{path}.{key}", found, _json(name), f'"{key}": {_json(name)}', message)

    def _settle_elements(self, document: dict[str, Any]) -> None:
        """An empty list is what skeletons begin with; unless a generator shows elements, none are needed."""
        patterns = [pattern for _, pattern in _objects((_object(document.get("generation")) or {}).get("patterns"))]
        if document.get("elements") == [] and patterns and patterns[0].get("type") != "demonstration":
            del document["elements"]
            message = "$.elements is empty, which is read as absent."
            self._remark("empty", "$.elements", [], "elements, or no such key", "nothing: leave elements out", message)

    def _settle_composition(self, metadata: dict[str, Any]) -> None:
        """Options that chora-compose's manuals put under a name of their own for each strategy."""
        for key in ("mergeConfig", "customConfig"):
            if (found := _object(metadata.get(key))) is not None and "compositionConfig" not in metadata:
                options = metadata["compositionConfig"] = metadata.pop(key)
                if key == "customConfig" and "tool" in options:
                    options["composer"] = options.pop("tool")
                    options["options"] = options.pop("arguments", {})
                path = f"$.metadata.{key}"
                message = f"{path} is read as $.metadata.compositionConfig."
                write = f'"compositionConfig": {_show(options)}'
                self._remark("old_name", path, found, "compositionConfig", write, message)

    def _settle_age(self, member: dict[str, Any], path: str) -> None:
        key = "freshness_threshold_days"
        if "max_age_days" in member and key not in member:
            found = member[key] = member.pop("max_age_days")
            message = f"{path}.max_age_days is read as {path}.{key}."
            self._remark("old_name", f"{path}.max_age_days", found, key, f'"{key}": {_show(found)}', message)

    # -- every field, by its type --

    def _walk(self, record: dict[str, Any], fields: dict[str, _Field], path: str) -> None:
        for key, value in list(record.items()):
            if (field := fields.get(key)) is None:
                if not key.startswith("$"):  # $schema and $comment are for editors and people
                    self._unknown(record, fields, key, path)
                continue
            here = f"{path}.{key}"
            if value is None and not field.required and not field.nullable:
                del record[key]
                message = f"{here} is null, which is read as absent."
                self._remark("null", here, None, "a value, or no such key", f"nothing: leave {key} out", message)
            elif field.shape == "record" and (inner := _object(value)) is not None:
                self._walk(inner, field.fields, here)
            elif field.shape == "records":
                for index, item in _objects(value):
                    self._walk(item, field.fields, f"{here}[{index}]")
            elif field.shape == "sources":
                for index, item in _objects(value):
                    self._settle_source(cast("list[Any]", value), index, item, f"{here}[{index}]")
            elif field.shape != "other" and (tidied := _tidied(field, value)) != value:
                record[key] = tidied
                message = f"{here} is {_show(value)}; it is read as {_json(tidied)}."
                self._remark("spelling", here, value, _json(tidied), f'"{key}": {_json(tidied)}', message)

    def _unknown(self, record: dict[str, Any], fields: dict[str, _Field], key: str, path: str) -> None:
        if len(self.remarks) >= ISSUES_LIMIT:
            return
        import difflib

        here = _path([key], path)
        known = [name for name in fields if name not in record]
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.7)
        message = f"{here} means nothing to chora; it is kept and has no effect."
        if near:
            message += f" Did you mean {near[0]}?"
        expected = f"one of {', '.join(fields)}"
        write = f'"{near[0]}": {_show(record[key])}' if near else ""
        self._remark("unknown_key", here, record[key], expected, write, message, info=True)

    # -- sources --

    def _settle_source(self, items: list[Any], index: int, written: dict[str, Any], path: str) -> None:
        """Put one `Source` in the place of either spelling; what the schema refuses stays for it to explain."""
        spelling = LongSource if _is_long(written) else ShortSource
        self._walk(written, _fields(spelling), path)
        try:
            source = msgspec.convert(written, spelling)
        except msgspec.ValidationError:
            items[index] = None  # nothing that a Source could be made of, so that the conversion fails as well
        else:
            items[index] = self._long(source, path) if isinstance(source, LongSource) else self._short(source, path)
        self._written.append((items, index, written))

    def _long(self, source: LongSource, path: str) -> Source:
        data = None
        if source.source_type == "inline_data":
            try:
                data = _Copying(path).copy_of(decode_json(source.source_locator))
            except (msgspec.MsgspecError, _NotPlain):
                data = source.source_locator
        self._check_git(source.source_type, source.source_locator, f"{path}.source_locator", "source_locator")
        return Source(
            type=source.source_type,
            id=source.id,
            locator=source.source_locator,
            selector=_part(source.data_selector),
            required=source.required,
            notes=source.notes,
            data=data,
        )

    def _short(self, source: ShortSource, path: str) -> Source:
        name = source.id or source.output_as or ""
        data = None
        match source.type:
            case "inline_data":
                key, locator, data = "data", None, source.data
                if data is not UNSET:
                    locator = _json(data)
                    if not name and not isinstance(data, dict):
                        expected = "an object, or a source with an id"
                        self._fault("no_landing", path, data, expected, '"id": "my-name", beside "data"')
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
            self._fault("missing", f"{path}.{key}", _ABSENT, expected, f'"{key}": {_SHORT_EXAMPLES[key]}')
        return Source(
            type=source.type,
            id=name,
            locator=locator or "",
            selector=_part(source.selector),
            required=source.required,
            notes=source.notes,
            data=data,
            repository=source.repo or source.repo_path or ".",
        )

    def _check_git(self, kind: SourceType, locator: str, path: str, key: str) -> None:
        if kind == "git_reference" and not all(locator.partition(":")):
            self._fault("wrong_form", path, locator, "ref:path", f'"{key}": {_json("HEAD:" + locator.strip(":"))}')

    # -- what no schema sees --

    def _check_across(self, document: dict[str, Any]) -> None:
        match self.kind:
            case "content":
                patterns = (_object(document.get("generation")) or {}).get("patterns")
                self._check_unique(document.get("elements"), "name", "$.elements")
                self._check_unique(patterns, "id", "$.generation.patterns")
                for index, pattern in _objects(patterns):
                    self._check_pattern(document, pattern, index)
            case "collection":
                self._check_unique(document.get("members"), "id", "$.members")
                self._check_member_names(document)
                for index, rule in _objects((_object(document.get("validation")) or {}).get("rules")):
                    if isinstance(found := rule.get("type"), str) and found not in _RULES:
                        path = f"$.validation.rules[{index}].type"
                        message = f"{path} is {_json(found)}, a rule chora doesn't know; it isn't checked."
                        expected = f"one of {', '.join(_RULES)}"
                        self._remark("unknown_rule_type", path, found, expected, f'"type": "{_RULES[0]}"', message)
            case "artifact":
                pass

    def _check_unique(self, items: object, key: str, path: str) -> None:
        first: dict[str, int] = {}
        for index, item in _objects(items):
            if isinstance(name := item.get(key), str) and first.setdefault(name, index) != index:
                here = f"{path}[{index}].{key}"
                message = f"{here} is {_json(name)}, as {path}[{first[name]}].{key} is already."
                self._fault("duplicate", here, name, "unique in the list", f'"{key}": {_json(name + "-2")}', message)

    def _check_pattern(self, document: dict[str, Any], pattern: dict[str, Any], index: int) -> None:
        path = f"$.generation.patterns[{index}]"
        if index == 0 and pattern.get("type") == "demonstration" and "elements" not in document:
            self._fault("missing", "$.elements", _ABSENT, "what the demonstration generator shows", _ELEMENTS)
        options = _object(pattern.get("generation_config")) or {}
        if "context" not in options:
            return
        if (context := _object(options["context"])) is None:
            write = '"context": {"name": "value"}'
            self._fault("wrong_type", f"{path}.generation_config.context", options["context"], "an object", write)
            return
        for name, value in context.items():
            shape = _object(value) or {}
            word = shape.get("type")
            if shape.get("source") == "runtime" and word is not None and str(word).lower() not in VALUE_TYPES:
                here = _path([name, "type"], f"{path}.generation_config.context")
                expected = f"one of {', '.join(dict.fromkeys(VALUE_TYPES.values()))}"
                message = f"{here} is {_show(word)}, which isn't a type; values of any type are taken."
                self._remark("unknown_type", here, word, expected, '"type": "string"', message)

    def _check_member_names(self, document: dict[str, Any]) -> None:
        members = {str(member.get("id")) for _, member in _objects(document.get("members"))}
        overrides = (_object(document.get("context")) or {}).get("overrides")
        forced = (_object(document.get("generation")) or {}).get("force_members")
        named = [(name, _path([name], "$.context.overrides")) for name in _object(overrides) or {}]
        for index, name in enumerate(cast("list[object]", forced) if isinstance(forced, list) else ()):
            named.append((str(name), f"$.generation.force_members[{index}]"))
        for name, path in named:
            if name not in members:
                message = f"{path} names {_json(name)}, which isn't a member; it has no effect."
                self._remark("unknown_member", path, name, "the id of a member", "", message)


_RULES = ("all_members_present", "no_failures")
_SHORT_EXAMPLES = {
    "data": '{"name": "value"}',
    "path": '"data/readings.json"',
    "file": '"docs/safety.md"',
    "config_id": '"my-config"',
    "output_id": '"my-config"',
}


def _is_long(source: dict[str, Any]) -> bool:
    return "source_type" in source or "source_locator" in source


def _part(selector: str) -> str:
    return "" if selector == "whole_content" else selector


def _tidied(field: _Field, value: Any) -> Any:
    """A value as the format spells it, if only its spelling is off."""
    match field.shape:
        case "word" if isinstance(value, str) and value not in field.words:
            return {_folded(word): word for word in field.words}.get(_folded(value), value)
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


# -- faults, and what to write instead ----------------------------------------------------------------------

_ABSENT: Any = object()
"""What stands where nothing does."""

_SYNONYMS = {
    "bash": "code",
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
"""Words that people write where the format has another for the same."""


def _refusal(kind: Kind, where: str, document: object, faults: list[Issue], remarks: list[Issue]) -> ValidationFailed:
    """The error for a document that doesn't fit."""
    message = f"{where} is not {_a(kind)} config: {faults[0].message}"
    if len(faults) > 1:
        message += f" There {'is one more fault' if len(faults) == 2 else f'are {len(faults) - 1} more faults'}."
    if any(fault.code == "dialect" for fault in faults):
        hint = "Write what each fault names, or let `chora import --convert` convert the file."
    else:
        hint = (
            f"Write {faults[0].write}." if faults[0].write else "The format's JSON Schema is at schema://" + kind + "."
        )
    details: dict[str, Any] = {"file": where, "schema_errors": [_plain(fault) for fault in faults]}
    if remarks:
        details["warnings"] = [_plain(remark) for remark in remarks]
    if isinstance(config_id := (_object(document) or {}).get("id"), str) and len(config_id) <= ID_LIMIT:
        details["config_id"] = config_id
    return ValidationFailed(message, hint, **details)


def _plain(issue: Issue) -> dict[str, str]:
    return {
        "path": issue.path,
        "message": issue.message,
        "found": issue.found,
        "expected": issue.expected,
        "write": issue.write,
    }


def _schema_faults(kind: Kind, document: object) -> Iterator[Issue]:
    """Everything in which a document doesn't fit its schema, in the order of the schema."""
    judge, definitions = _judge(kind)
    for error in judge.iter_errors(document):
        yield from _explain(error, definitions)


@functools.cache
def _judge(kind: Kind) -> tuple[Any, dict[str, Any]]:
    """What finds every fault by the schema of a kind, and the schema's definitions.

    The schema library takes a thousand times as long as msgspec. So of a list's items it is only shown those that
    msgspec refuses, and no more of them than anybody would read about.
    """
    import jsonschema  # 0.2 s, which only a config that doesn't fit shall cost

    def faults(validator: Any, rule: dict[str, Any], steps: Iterable[tuple[Any, Any]]) -> Iterator[JsonSchemaError]:
        refused = ((step, each) for step, each in steps if not _fits(each, rule))
        for step, each in itertools.islice(refused, ISSUES_LIMIT):
            yield from validator.descend(each, rule, path=step)

    def items(validator: Any, rule: Any, instance: Any, _: Any) -> Iterator[JsonSchemaError]:
        if isinstance(instance, list):
            yield from faults(validator, rule, enumerate(cast("list[Any]", instance)))

    def members(validator: Any, rule: Any, instance: Any, _: Any) -> Iterator[JsonSchemaError]:
        if isinstance(instance, dict):
            yield from faults(validator, rule, cast("dict[str, Any]", instance).items())

    library: Any = jsonschema  # whose stubs leave out what its functions take
    of_lists = library.validators.extend(
        library.Draft202012Validator, {"items": items, "additionalProperties": members}
    )
    published = schema(kind)
    return of_lists(published), published["$defs"]


_PLAIN_TYPES = {"string": str, "object": dict}


def _fits(value: object, rule: dict[str, Any]) -> bool:
    """Whether an item of a list, or a value of an object, is surely as its rule in the schema says."""
    if (plain := rule.get("type")) is not None:
        return isinstance(value, _PLAIN_TYPES[plain])
    name = rule["$ref"].rpartition("/")[2]
    if name == "Source" and (record := _object(value)) is not None:  # in the schema it stands for its two spellings
        name = "LongSource" if _is_long(record) else "ShortSource"
    try:
        msgspec.convert(value, getattr(model, name))
    except msgspec.ValidationError:
        return False
    return True


def _explain(error: JsonSchemaError, definitions: dict[str, Any]) -> Iterator[Issue]:
    """One fault as the schema library found it, in our words."""
    found = error.instance
    rule = cast("dict[str, Any]", error.schema)
    if error.validator == "anyOf" and isinstance(found, dict):
        spelling = 0 if _is_long(cast("dict[str, Any]", found)) else 1
        for inner in error.context or ():
            if inner.schema_path[0] == spelling:
                yield from _explain(inner, definitions)
        return
    path = _path(error.absolute_path)
    key = error.absolute_path[-1] if error.absolute_path else None
    if error.validator == "required":
        # One error for each missing name, and only its sentence says which.
        key = error.message.removeprefix("'").partition("' is a required property")[0]
        rule = rule["properties"][key]
        found, path = _ABSENT, f"{path}.{key}"
    better = _better(found, rule, definitions)
    write = f"{_json(key)}: {_json(better)}" if isinstance(key, str) else _json(better)
    code = {"required": "missing", "enum": "not_one_of", "type": "wrong_type"}.get(str(error.validator), "wrong_form")
    yield _issue("error", code, path, found, _describe(rule, definitions), write)


def _describe(rule: dict[str, Any], definitions: dict[str, Any]) -> str:
    """What a schema asks for, in words."""
    if "$ref" in rule:
        return _describe(definitions[rule["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in rule:
        return " or ".join(dict.fromkeys(_describe(choice, definitions) for choice in rule["anyOf"]))
    if "enum" in rule:
        words = ", ".join(_json(word) for word in rule["enum"])
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


def _better(found: object, rule: dict[str, Any], definitions: dict[str, Any]) -> Any:
    """A value that fits, as near to what was found as can be guessed."""
    example = _example(rule, definitions)
    if found is _ABSENT or isinstance(found, bool):
        return example
    if "enum" in rule:
        import difflib

        word = str(found).partition("|")[0].strip().lower()  # people copy "one|two|three" from a reference
        words = cast("list[str]", rule["enum"])
        if _SYNONYMS.get(word) in words:
            return _SYNONYMS[word]
        return next(iter(difflib.get_close_matches(word, words, n=1)), example)
    if "pattern" in rule:
        slug = _slug(str(found))
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


def _issue(
    severity: Severity, code: str, path: str, found: object, expected: str, write: str, message: str | None = None
) -> Issue:
    shown = "nothing" if found is _ABSENT else _show(found)
    if message is None:
        is_ = "missing" if found is _ABSENT else shown
        message = f"{path} is {is_}; it must be {expected}."
    return Issue(severity=severity, code=code, message=message, path=path, found=shown, expected=expected, write=write)


def _path(steps: Iterable[str | int], start: str = "$") -> str:
    """A JSON path; keys that aren't plain words are quoted."""
    for step in steps:
        if isinstance(step, int):
            start += f"[{step}]"
        else:
            start += f".{step}" if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", step) else f"[{_json(step)}]"
    return start


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _show(value: object) -> str:
    """A value in one short line."""
    text = _json(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text[:ID_LIMIT].lower()).strip("-")


def _a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"
