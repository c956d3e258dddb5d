"""JSON and YAML text into plain data, within bounds, with line and column of what can't be read."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Generator, Iterable
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from chora.errors import LimitExceeded, ValidationFailed
from chora.nesting import CONFIG_VALUES, DECODING_VALUES, DEPTH_LIMIT, NestedTooDeeply, TooManyValues, decode_json

if TYPE_CHECKING:
    import yaml

YAML_VALUES = 100_000
"""The most values in a YAML text: PyYAML takes longer for each than all later steps (CWE-400)."""
ALIASED_VALUES = 10_000
"""The most values of a YAML text with its aliases expanded: an alias bomb, CWE-776, has millions."""
NUMBER_LENGTH = 100
"""The most characters of a number in YAML."""


def decode(data: bytes, path: str, *, old_yaml: bool = False) -> object:
    """Decode a config file, JSON or YAML by the suffix of its name; `old_yaml` as for `decode_text`.

    Raises:
        ValidationFailed: it is neither; with line and column where they are known.
        LimitExceeded: a YAML file has too many values, or too many with its aliases expanded.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _decoding_error(
            path, "UTF-8 text", f"byte {error.start} is {data[error.start]:#04x}", "Save the file as UTF-8."
        ) from None
    language = "yaml" if path.endswith((".yaml", ".yml")) else "json"
    return decode_text(text, language, path, most_values=CONFIG_VALUES, old_yaml=old_yaml)


def decode_text(
    text: str,
    language: Literal["json", "yaml"],
    name: str,
    *,
    most_values: int = YAML_VALUES,
    old_yaml: bool = False,
    several: bool = False,
) -> object:
    """Decode a text.

    Args:
        text: the text.
        language: its language.
        name: its name in messages.
        most_values: the most values in YAML.
        old_yaml: read YAML 1.1, as chora-compose did, where `no` is false and 10:30 is 630; else 1.2's core schema.
        several: whether YAML may have several documents, which become a list.

    Raises:
        ValidationFailed: it is not of the language; with line and column where they are known.
        LimitExceeded: it has too many values, or YAML too many with its aliases expanded.
    """
    if language == "yaml":
        return _decode_yaml(text, name, most_values, old_yaml=old_yaml, several=several)
    try:
        return decode_json(text)
    except NestedTooDeeply as error:
        raise _decoding_error(name, "JSON", str(error), "Write it in fewer levels.") from None
    except TooManyValues:
        raise LimitExceeded(
            f"{name} holds more than {DECODING_VALUES:,} values.", "Split it.", limit="config.values", path=name
        ) from None
    except msgspec.MsgspecError as error:
        raise _explain_json(text, name, error) from None


def duplicate_keys(data: bytes) -> list[str]:
    """The keys that an object of a JSON document holds more than once; of their values, the last one counts."""
    import json  # msgspec doesn't report them

    twice: dict[str, None] = {}

    def collect(pairs: list[tuple[str, Any]]) -> None:
        if len({key for key, _ in pairs}) < len(pairs):
            seen: set[str] = set()
            twice.update((key, None) for key, _ in pairs if key in seen or seen.add(key))

    with contextlib.suppress(ValueError):  # it was decoded before; this is only for a warning
        json.loads(data.decode("utf-8-sig"), object_pairs_hook=collect, parse_int=str, parse_float=str)
    return list(twice)


def _explain_json(text: str, path: str, error: msgspec.MsgspecError) -> ValidationFailed:
    if not text.strip():
        return _decoding_error(path, "JSON", "it is empty", "Write a config into the file, or remove it.")
    problem = str(error).removeprefix("JSON is malformed: ")
    data = text.encode()
    if place := re.search(r" \(byte (\d+)\)$", problem):
        problem = problem[: place.start()]
        # For trailing characters, msgspec names the second byte.
        offset = int(place[1]) - (problem == "trailing characters")
    elif problem == "Input data was truncated":
        offset = len(data)
    else:
        return _decoding_error(path, "JSON", problem.partition(" - at")[0].lower(), "Write a value that JSON has.")
    before = data[:offset].decode(errors="replace")
    rest = text[len(before) :]
    if not rest:
        problem = "it ends too soon"
    elif problem == "trailing characters":
        problem = f"{rest[0]!r} stands after its end"
    else:
        problem = f"{rest[0]!r} doesn't belong there" + (f", {problem}" if "expected" in problem else "")
    line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
    return _decoding_error(path, "JSON", problem, _json_advice(before.rstrip(), rest), line, column)


def _json_advice(before: str, rest: str) -> str:
    """Advice for the likely cause of a misplaced character."""
    match rest[:1]:
        case "":
            return "Close the brackets and quotes that are open."
        case "/" | "#":
            return "JSON has no comments; remove it, or write the config in YAML."
        case "]" | "}" if before.endswith(","):
            return "Remove the comma before it."
        case ".":
            return "Write out what the dots stand for."
        case "'" | "“" | "”" | "„":
            return "Text stands in straight double quotes."
        case "\n" | "\r" | "\t":
            return "Inside a string write a line break as \\n and a tab as \\t."
        case "T" | "F" | "N" | "I":
            return "Write true, false or null; JSON has no NaN or Infinity."
        case '"' | "{" | "[":
            return "Put a comma before it."
        case _:
            return "Check the commas, brackets and double quotes around it."


def _decoding_error(
    path: str, language: str, problem: str, hint: str, line: int | None = None, column: int | None = None
) -> ValidationFailed:
    place = f" in line {line}, column {column}" if line else ""
    message = f"{path} is not {language}: {problem}{place}."
    return ValidationFailed(
        message,
        hint,
        file=path,
        line=line,
        column=column,
        schema_errors=[schema_error(message, problem + place, language, hint)],
    )


def schema_error(message: str, found: str, expected: str, write: str) -> dict[str, str]:
    """One entry of `schema_errors` in the details of a ValidationFailed, about a whole file."""
    return {"path": "$", "message": message, "found": found, "expected": expected, "write": write}


def _decode_yaml(text: str, path: str, most_values: int, *, old_yaml: bool, several: bool) -> object:
    import yaml

    try:
        with contextlib.closing(_parse_events(text)) as events:
            _check_events(events, path, most_values)
        loader: Any = yaml_loader(old_yaml=old_yaml)(text)
        try:
            nodes: list[Any] = []
            if several:
                while loader.check_node():
                    nodes.append(loader.get_node())
            elif (only := loader.get_single_node()) is not None:
                nodes.append(only)
            while len(nodes) > 1 and _is_empty(nodes[-1]):  # a file may end with ---
                nodes.pop()
            if not nodes:
                raise _decoding_error(path, "YAML", "it is empty", "Write a config into the file, or remove it.")
            sizes: dict[int, int] = {}
            for node in nodes:
                _write_out_keys(node, loader, set())
            _check_size(sum(_count_values(node, sizes, path) for node in nodes), sizes, path)
            values = [loader.construct_document(node) for node in nodes]
            return values if len(values) > 1 else values[0]
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (None, None)
        problem = error.problem or error.context or "it can't be parsed"
        raise _decoding_error(path, "YAML", problem, "Check indentation and quotes there.", line, column) from None
    except yaml.YAMLError as error:
        raise _decoding_error(path, "YAML", str(error).replace("\n", " "), "Save the file as plain text.") from None
    except ValueError as error:
        raise _decoding_error(path, "YAML", str(error), "Put the value in quotes.") from None


def _is_empty(node: Any) -> bool:
    return node.start_mark.index == node.end_mark.index


_CORE = {
    "null": (r"~|null|Null|NULL|", "~nN\0"),
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    "float": (
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
    "merge": (r"<<", "<"),
}
"""What a plain scalar is in the core schema of YAML 1.2.2 (section 10.3.2), and how it may begin; else it is text.

Merge keys are no longer part of YAML, but of most files that use anchors.
"""


@functools.cache
def yaml_loader(*, old_yaml: bool = False, dates: bool = False) -> Any:
    """PyYAML's safe loader (CWE-502), in C where it is available.

    It reads the core schema of YAML 1.2, with dates as the text that stands there or, with `dates`, as dates. By the
    rules of 1.1 dates become ISO 8601 text.
    """
    import yaml

    safe: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    loader: Any = type("Loader", (safe,), {} if old_yaml else {"yaml_implicit_resolvers": {}})

    def iso(constructor: Any, node: yaml.ScalarNode) -> str:
        with contextlib.suppress(ValueError):  # 2026-02-30 has the form of a date but is none: it stays text
            return constructor.construct_yaml_timestamp(node).isoformat()
        return node.value

    def date(constructor: Any, node: yaml.ScalarNode) -> Any:
        with contextlib.suppress(ValueError):
            return constructor.construct_yaml_timestamp(node)
        return node.value

    def number(constructor: Any, node: yaml.ScalarNode) -> Any:
        if len(node.value) > NUMBER_LENGTH:  # 1:59:59:… is sexagesimal and takes quadratic time
            raise ValueError(f"a number has more than {NUMBER_LENGTH} characters")
        kind = node.tag.rpartition(":")[2]
        if old_yaml:
            return getattr(constructor, f"construct_yaml_{kind}")(node)
        text = node.value.lower()
        if kind == "float":
            return float(text.replace(".inf", "inf").replace(".nan", "nan"))
        return int(text[2:], 8) if text.startswith("0o") else int(text, 16) if text.startswith("0x") else int(text)

    if not old_yaml:
        _add_core_resolvers(loader)
        if dates:
            (timestamps,) = [each for each in safe.yaml_implicit_resolvers["0"] if each[0].endswith(":timestamp")]
            loader.add_implicit_resolver(*timestamps, list("0123456789"))
    loader.add_constructor("tag:yaml.org,2002:timestamp", date if dates else iso)
    loader.add_constructor("tag:yaml.org,2002:int", number)
    loader.add_constructor("tag:yaml.org,2002:float", number)
    return loader


def _add_core_resolvers(reader_or_writer: Any) -> None:
    """Let a loader read, or a dumper quote, what isn't text in YAML 1.2."""
    for kind, (pattern, first) in _CORE.items():
        starts = ["" if letter == "\0" else letter for letter in first]
        reader_or_writer.add_implicit_resolver(f"tag:yaml.org,2002:{kind}", re.compile(rf"(?:{pattern})\Z"), starts)


def encode_yaml(document: Any) -> str:
    """Plain data, and dates, as YAML that reads the same by the rules of 1.1 and of 1.2."""
    import yaml

    dumper: Any = type("Dumper", (yaml.SafeDumper,), {})
    _add_core_resolvers(dumper)  # it quotes what is no text in 1.1 of itself
    return yaml.dump(document, Dumper=dumper, sort_keys=False, allow_unicode=True)


def _parse_events(text: str) -> Generator[Any]:
    loader: Any = yaml_loader()(text)
    try:
        while loader.check_event():
            yield loader.get_event()
    finally:
        loader.dispose()


def _check_events(events: Iterable[Any], path: str, most_values: int) -> None:
    """Check the events of YAML before it is composed: the composer accepts any depth, at quadratic cost (CWE-674)."""
    import yaml

    depth = values = 0
    for event in events:
        at = event.start_mark
        if isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if not isinstance(event, yaml.NodeEvent):
            continue
        if (values := values + 1) > most_values:
            raise LimitExceeded(
                f"{path} holds more than {most_values:,} values.",
                "Split it, or write it in JSON.",
                limit="config.values",
                path=path,
            )
        if (tag := getattr(event, "tag", None)) not in (None, "!", *_ALLOWED_TAGS):
            problem = f"the tag {tag} isn't read"
            raise _decoding_error(path, "plain YAML", problem, "Remove the tag.", at.line + 1, at.column + 1)
        if isinstance(event, yaml.CollectionStartEvent) and (depth := depth + 1) > DEPTH_LIMIT:
            problem = f"it is nested more than {DEPTH_LIMIT} levels deep"
            raise _decoding_error(path, "YAML", problem, "Write it in fewer levels.", at.line + 1, at.column + 1)


_ALLOWED_TAGS = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")


def _write_out_keys(node: Any, loader: Any, seen: set[int]) -> None:
    """Make the keys of mappings the text that they are in JSON: 1, 1.0 and true are one key to Python."""
    import yaml

    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for each in node.value:
            _write_out_keys(each, loader, seen)
    elif isinstance(node, yaml.MappingNode):
        for index, (key, value) in enumerate(node.value):
            if isinstance(key, yaml.ScalarNode) and key.tag in _WRITTEN_OUT:
                text = msgspec.json.encode(loader.construct_object(key)).decode()
                named = yaml.ScalarNode("tag:yaml.org,2002:str", text, key.start_mark, key.end_mark)
                node.value[index] = named, value
            _write_out_keys(value, loader, seen)


_WRITTEN_OUT = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "bool", "null"))


def _count_values(node: Any, sizes: dict[int, int], path: str) -> int:
    """Count the values of a node with its aliases expanded; duplicate keys are refused."""
    import yaml

    if (known := sizes.get(id(node))) is not None:
        if not known:
            raise _decoding_error(path, "YAML", "an alias stands inside what it names", "Write the value out.")
        return known
    sizes[id(node)] = 0
    size = 1
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen and key.value != "<<":
                    at = key.start_mark
                    problem = f"the key {key.value!r} stands twice"
                    raise _decoding_error(path, "YAML", problem, "Keep one of them.", at.line + 1, at.column + 1)
                seen.add(key.value)
            size += _count_values(key, sizes, path) + _count_values(value, sizes, path)
    elif isinstance(node, yaml.SequenceNode):
        size += sum(_count_values(each, sizes, path) for each in node.value)
    _check_size(size, sizes, path)
    sizes[id(node)] = size
    return size


def _check_size(size: int, sizes: dict[int, int], path: str) -> None:
    if size > ALIASED_VALUES and size > len(sizes):
        raise LimitExceeded(
            f"{path} has more than {ALIASED_VALUES:,} values with its aliases expanded.",
            "Write the values out instead of using aliases.",
            limit="config.aliases",
            path=path,
        )
