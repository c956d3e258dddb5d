"""Finding and reading the config files of a project, in the folder layouts that chora-compose had.

A config is found by its file's name, in any of the layouts, and as a last resort by the id inside. Files are
read anew only when they changed; a file that can't be read stands in its listing with the reason.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import itertools
import os
import re
import stat
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec

from chora.config_parsing import DEPTH_LIMIT, ISSUES_LIMIT, Issue, ParsedConfig, describe_expected, parse_config
from chora.errors import (
    ChoraError,
    ConfigNotFound,
    InvalidConfigId,
    LimitExceeded,
    PermissionDenied,
    StorageError,
    ValidationFailed,
    io_details,
)
from chora.file_stamps import FileStamp
from chora.files import CONFIG_LIMIT, Folder
from chora.hashing import sha256
from chora.model import Kind

if TYPE_CHECKING:
    import yaml

SUFFIXES = (".json", ".yaml", ".yml")
ROOTS = ("configs", "chora-configs")
CACHE_LIMIT = 16 * 1024 * 1024
"""Bytes of files whose parsed form is kept; in memory it takes up to ten times as much."""
YAML_VALUES = 100_000
YAML_CONFIG_VALUES = 20_000
"""Values that a YAML text may hold, and a YAML config: PyYAML takes longer for each than all that follows."""
ALIASED_VALUES = 10_000
"""Values that a YAML text may come to when its aliases are written out."""
NUMBER_LENGTH = 100
"""Characters that a number in a YAML file may have."""

CONFIGS = "configs:"
"""How a search through all files of a kind is noted."""

OnRead = Callable[[str], None]

_SHAPES = ("{id}", "{id}-{kind}", "{id}/{id}-{kind}", "{id}/{id}")
_PARAMETERS: dict[Kind, str] = {
    "content": "content_config_id",
    "artifact": "artifact_config_id",
    "collection": "collection_config_path",
}
_LISTS: dict[Kind, str] = {
    "content": "list_content_configs shows every content config.",
    "artifact": "list_artifact_configs shows every artifact config.",
    "collection": "Collection configs stand in the collection folder of the configs.",
}


class FoundConfig(NamedTuple):
    """A config and the project-relative path of its file."""

    path: str
    parsed: ParsedConfig


class InvalidConfigFile(NamedTuple):
    """A file that is no config, why in a sentence, and the error itself."""

    path: str
    error: str
    fault: ChoraError


class Listing(NamedTuple):
    """All files of a kind: configs by id, and what isn't one by path."""

    found: list[FoundConfig]
    invalid: list[InvalidConfigFile]


class _CacheEntry(NamedTuple):
    stamp: FileStamp
    result: ParsedConfig | ChoraError


class Catalog:
    """The config files of a project.

    Args:
        folder: the project folder.
        configs: the config folder in it; empty takes `configs`, else `chora-configs`, whichever is there.
    """

    def __init__(self, folder: Folder, configs: str = "") -> None:
        self._folder = folder
        self._prefix = f"{folder.root}{os.sep}"
        self._configs = folder.relative(configs) if configs else ""
        self._kept: dict[tuple[Kind, str], _CacheEntry] = {}
        self._kept_bytes = 0

    @property
    def root(self) -> str:
        """The config folder, relative to the project."""
        # Asked for with every lookup, and a third of the cost of a Path's.
        present = (root for root in ROOTS if os.path.isdir(self._prefix + root))  # noqa: PTH112
        return self._configs or next(present, ROOTS[0])

    @staticmethod
    def check_id(config_id: str) -> None:
        """Refuse what can't be an id because it is empty, too long, or a path in disguise.

        Raises:
            InvalidConfigId: it is one of these.
        """
        if not config_id.strip():
            problem = "is empty"
        elif len(config_id) > 255:
            problem = f"has {len(config_id)} characters; 255 are allowed"
        elif re.search(r"\.\.|[/\\\x00-\x1f\x7f]", config_id):
            problem = "holds `..`, a slash, a backslash or a control character"
        else:
            return
        shown = config_id if len(config_id) <= 80 else f"{config_id[:79]}…"
        raise InvalidConfigId(
            f"The config id {shown!r} {problem}.",
            "An id is lower-case letters, digits and hyphens, such as weekly-report.",
            id=shown,
        )

    def find(self, kind: Kind, config_id: str, noting: OnRead | None = None) -> FoundConfig:
        """The config of this id: by its file's name, in the order of the layouts, else by the id inside.

        `noting` hears of every path that was looked at, whether something was there or not; and, when no name
        led to the config, of the folder that had to be searched, by its kind behind `CONFIGS`.

        Raises:
            InvalidConfigId: it can't be an id.
            ConfigNotFound: there is none; the hint names ids that are near.
            ValidationFailed: its file doesn't fit the format.
            LimitExceeded, PermissionDenied, StorageError: its file can't be read.
        """
        self.check_id(config_id)
        for path in self._named(kind, config_id):
            if noting:
                noting(path)
            if parsed := self._read(kind, path):
                return FoundConfig(path, describe_expected(parsed, config_id))
        if noting:
            noting(CONFIGS + kind)
        listing = self.all(kind)
        for found in listing.found:
            if found.parsed.config.id == config_id:
                if noting:
                    noting(found.path)
                return found
        for broken in listing.invalid:
            if broken.fault.details.get("config_id") == config_id:
                raise _again(broken.fault)
        near = difflib.get_close_matches(config_id, [found.parsed.config.id for found in listing.found])
        searched = [*self._named(kind, config_id), *(f"{at}/**" for at in self._folders(kind))]
        raise ConfigNotFound(
            f"There is no {kind} config {config_id!r}.",
            f"Did you mean {' or '.join(near)}?" if near else _LISTS[kind],
            **{_PARAMETERS[kind]: config_id, "searched_paths": searched},
        )

    def open(self, kind: Kind, path: str, noting: OnRead | None = None) -> FoundConfig:
        """The config at a path: as it is given, else under the config folder, else under the folder of its kind.

        A path without a suffix is tried with each of them, and a mere name is an id in the end. An absolute path
        must lie inside the project.

        Raises:
            InvalidConfigId: the path is empty or holds control characters.
            PermissionDenied: the path leads outside the project.
            ConfigNotFound: nothing is there.
            ValidationFailed: its file doesn't fit the format.
            LimitExceeded, StorageError: its file can't be read.
        """
        if not path.strip() or re.search(r"[\x00-\x1f\x7f]", path):
            raise InvalidConfigId(f"The path {path!r} is empty or holds control characters.", id=path)
        if (kind, path) in self._kept:
            if noting:
                noting(path)
            if parsed := self._read(kind, path):
                return FoundConfig(path, parsed)
        outside: PermissionDenied | None = None
        searched: list[str] = []
        for base in ("", self.root, *self._folders(kind)):
            for suffix in ("",) if path.endswith(SUFFIXES) else SUFFIXES:
                try:
                    searched.append(where := self._clean(base, path + suffix))
                    if noting:
                        noting(where)
                    if parsed := self._read(kind, where):
                        return FoundConfig(where, parsed)
                except PermissionDenied as error:
                    outside = outside or error
            if Path(path).is_absolute():
                break
        if outside:
            raise outside
        if "/" not in path and not path.endswith(SUFFIXES):
            return self.find(kind, path, noting)
        raise ConfigNotFound(
            f"There is no {kind} config at {path!r}.",
            _LISTS[kind],
            **{_PARAMETERS[kind]: path, "searched_paths": list(dict.fromkeys(searched))},
        )

    def all(self, kind: Kind) -> Listing:
        """Every file of a kind. Of two with one id the one that `find` takes counts; the other is invalid."""
        found: dict[str, list[FoundConfig]] = {}
        invalid: list[InvalidConfigFile] = []
        for path in self._files(kind):
            try:
                parsed = self._read(kind, path)
            except ChoraError as error:
                invalid.append(InvalidConfigFile(path, error.message, error))
            else:
                if parsed:  # it may have been removed since the folder was read
                    found.setdefault(parsed.config.id, []).append(FoundConfig(path, parsed))
        chosen: list[FoundConfig] = []
        for config_id, rivals in sorted(found.items()):
            if len(rivals) > 1:
                ranks = {path: rank for rank, path in enumerate(self._named(kind, config_id))}
                rivals.sort(key=lambda rival: (ranks.get(rival.path, len(ranks)), rival.path))
            chosen.append(rivals[0])
            invalid += [_shadowed(rival, rivals[0]) for rival in rivals[1:]]
        return Listing(chosen, sorted(invalid, key=lambda broken: broken.path))

    def digest(self, kind: Kind) -> str:
        """A hash that changes when a file of a kind appears, vanishes or goes by another id."""
        listing = self.all(kind)
        names = [(found.path, found.parsed.config.id) for found in listing.found]
        return sha256(msgspec.json.encode([names, [broken.path for broken in listing.invalid]]))

    def where_to_save(self, kind: Kind, config_id: str) -> str:
        """Where the config already is, else where a new one belongs, project-relative.

        Raises:
            InvalidConfigId: it can't be an id.
        """
        self.check_id(config_id)
        listing = self.all(kind)
        for found in listing.found:
            if found.parsed.config.id == config_id:
                return found.path
        for broken in listing.invalid:
            if broken.fault.details.get("config_id") == config_id:
                return broken.path
        shape = "{id}" if kind == "collection" else "{id}/{id}-{kind}"
        usual = f"{self._folders(kind)[0]}/{shape.format(id=config_id, kind=kind)}.json"
        # A file of this name that holds another id isn't this config, and isn't to be replaced by it.
        free = (path for path in (usual, *self._named(kind, config_id)) if self._stamp(path) is None)
        return next(free, usual)

    # -- places --

    def _folders(self, kind: Kind) -> tuple[str, str]:
        at = "" if (root := self.root) == "." else f"{root}/"
        return f"{at}{kind}", f"{at}{kind}s"

    def _named(self, kind: Kind, config_id: str) -> Iterator[str]:
        """Where a config of this id may be by its name, in the order of search."""
        for at in self._folders(kind):
            for shape in _SHAPES:
                name = f"{at}/{shape.format(id=config_id, kind=kind)}"
                yield from (name + suffix for suffix in SUFFIXES)

    def _files(self, kind: Kind) -> Iterator[str]:
        """The files of a kind; one that stands in both folders under the same name only once."""
        seen: set[str] = set()
        for at in self._folders(kind):
            for path in self._folder.files(at, SUFFIXES):
                if (name := path.removeprefix(f"{at}/")) not in seen:
                    seen.add(name)
                    yield path

    def _clean(self, base: str, path: str) -> str:
        """A path as the cache knows it: project-relative, forward slashes, without `.` and `..`."""
        joined = PurePosixPath(base, path)
        if joined.is_absolute() or ".." in joined.parts or Path(path).is_absolute():
            return self._folder.relative(str(joined))
        return str(joined)

    # -- reading --

    def _stamp(self, path: str) -> FileStamp | None:
        """The file's stamp, None if no regular file is there. Reading goes through the folder, which checks more."""
        try:
            # A third of the cost of a Path's, and it is nearly all that finding an unchanged config costs.
            status = os.stat(self._prefix + path)  # noqa: PTH116
        except (OSError, ValueError):
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        return FileStamp.of(status)

    def _read(self, kind: Kind, path: str) -> ParsedConfig | None:
        """What the file holds, None if there is none. Raises what `find` raises for a file that is no config."""
        if (stamp := self._stamp(path)) is None:
            self._forget((kind, path))
            return None
        key = (kind, path)
        if (kept := self._kept.get(key)) and kept.stamp == stamp:
            self._kept[key] = self._kept.pop(key)  # the least recently used one stays first
            result = kept.result
        else:
            started = time.time_ns()
            try:
                result = self._parse(kind, path)
            except FileNotFoundError:
                return None
            self._forget(key)
            if stamp.is_at_rest(started) and self._stamp(path) == stamp:
                self._keep(key, _CacheEntry(stamp, result))
        if isinstance(result, ChoraError):
            raise _again(result)
        return result

    def _parse(self, kind: Kind, path: str) -> ParsedConfig | ChoraError:
        try:
            data = self._folder.read_bytes(path, limit=CONFIG_LIMIT)
            parsed = parse_config(kind, decode(data, path), where=path)
            remarks = _keys_written_twice(data) if path.endswith(".json") else []
            return parsed._replace(warnings=[*remarks, *parsed.warnings]) if remarks else parsed
        except FileNotFoundError:
            raise
        except OSError as error:
            details = io_details(error, path=path)
            return StorageError(f"{path} can't be read: {error.strerror}.", "Check the disk.", **details)
        except ChoraError as error:
            return _again(error)

    def _keep(self, key: tuple[Kind, str], kept: _CacheEntry) -> None:
        self._kept[key] = kept
        self._kept_bytes += kept.stamp.size
        while self._kept_bytes > CACHE_LIMIT:
            self._forget(next(iter(self._kept)))

    def _forget(self, key: tuple[Kind, str]) -> None:
        if kept := self._kept.pop(key, None):
            self._kept_bytes -= kept.stamp.size


def _again(error: ChoraError) -> ChoraError:
    """The same error without where it was raised, which would keep the file's content in memory."""
    return type(error)(error.message, error.hint, **error.details)


def _shadowed(rival: FoundConfig, chosen: FoundConfig) -> InvalidConfigFile:
    config_id = rival.parsed.config.id
    fault = ValidationFailed(
        f"{rival.path} has the id {config_id}, and so has {chosen.path}, which is the one that counts.",
        "Give one of them another id, or remove it.",
        file=rival.path,
        schema_errors=[_fault("two configs with one id", f'"id": "{config_id}"', "an id of its own", "another id")],
    )
    return InvalidConfigFile(rival.path, fault.message, fault)


# -- decoding ---------------------------------------------------------------------------------------------------


def decode(data: bytes, path: str) -> object:
    """The document in a config file, JSON or YAML by the ending of its name.

    Raises:
        ValidationFailed: it is neither; with line and column where they are known.
        LimitExceeded: a YAML file whose values or aliases come to too much.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _undecodable(
            path, "UTF-8 text", f"byte {error.start} is {data[error.start]:#04x}", "Save the file as UTF-8."
        ) from None
    language = "yaml" if path.endswith((".yaml", ".yml")) else "json"
    return decode_text(text, language, path, most_values=YAML_CONFIG_VALUES)


def decode_text(text: str, language: Literal["json", "yaml"], name: str, *, most_values: int = YAML_VALUES) -> object:
    """The document that a text holds.

    Args:
        text: what to read.
        language: how it is written.
        name: how to call the text in messages.
        most_values: how many values YAML may hold.

    Raises:
        ValidationFailed: it is not of the language; with line and column where they are known.
        LimitExceeded: YAML whose values or aliases come to too much.
    """
    if language == "yaml":
        return _decode_yaml(text, name, most_values)
    try:
        return msgspec.json.decode(text)
    except RecursionError:
        raise _undecodable(name, "JSON", "it is nested too deeply", "Write it in fewer levels.") from None
    except msgspec.MsgspecError as error:
        raise _explain_json(text, name, error) from None


def _keys_written_twice(data: bytes) -> list[Issue]:
    """A remark on every key that stands twice in an object of a JSON document; of the values, the last one counts."""
    import json  # msgspec doesn't tell

    twice: dict[str, None] = {}

    def look(pairs: list[tuple[str, Any]]) -> None:
        if len({key for key, _ in pairs}) < len(pairs):
            seen: set[str] = set()
            twice.update((key, None) for key, _ in pairs if key in seen or seen.add(key))

    with contextlib.suppress(ValueError, RecursionError):  # it has been understood already; this is only for the remark
        json.loads(data.decode("utf-8-sig"), object_pairs_hook=look, parse_int=str, parse_float=str)
    return [
        Issue(
            severity="warning",
            code="duplicate_key",
            message=f"The key {_shortened(key)} stands twice in one object; the last one counts.",
            path="$",
            found=_shortened(key),
            expected="every key once",
            write="one of them",
        )
        for key in itertools.islice(twice, ISSUES_LIMIT)
    ]


def _shortened(key: str) -> str:
    return repr(key if len(key) <= 80 else f"{key[:79]}…")


def _explain_json(text: str, path: str, error: msgspec.MsgspecError) -> ValidationFailed:
    if not text.strip():
        return _undecodable(path, "JSON", "it is empty", "Write a config into the file, or remove it.")
    problem = str(error).removeprefix("JSON is malformed: ")
    data = text.encode()
    if place := re.search(r" \(byte (\d+)\)$", problem):
        problem = problem[: place.start()]
        # Of what follows the end, msgspec names the second byte.
        offset = int(place[1]) - (problem == "trailing characters")
    elif problem == "Input data was truncated":
        offset = len(data)
    else:
        return _undecodable(path, "JSON", problem.partition(" - at")[0].lower(), "Write a value that JSON has.")
    before = data[:offset].decode(errors="replace")
    rest = text[len(before) :]
    if not rest:
        problem = "it ends too soon"
    elif problem == "trailing characters":
        problem = f"{rest[0]!r} stands after its end"
    else:
        problem = f"{rest[0]!r} doesn't belong there" + (f", {problem}" if "expected" in problem else "")
    line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
    return _undecodable(path, "JSON", problem, _json_advice(before.rstrip(), rest), line, column)


def _json_advice(before: str, rest: str) -> str:
    """The likely cause of a character that doesn't belong where it stands."""
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


def _undecodable(
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
        schema_errors=[_fault(message, problem + place, language, hint)],
    )


def _fault(message: str, found: str, expected: str, write: str) -> dict[str, str]:
    return {"path": "$", "message": message, "found": found, "expected": expected, "write": write}


def _decode_yaml(text: str, path: str, most_values: int) -> object:
    import yaml

    try:
        with contextlib.closing(_events(text)) as events:
            _survey(events, path, most_values)
        loader: Any = _yaml_loader()(text)
        try:
            node = loader.get_single_node()
            if node is None:
                raise _undecodable(path, "YAML", "it is empty", "Write a config into the file, or remove it.")
            _measure(node, {}, path)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (None, None)
        problem = error.problem or error.context or "it can't be parsed"
        raise _undecodable(path, "YAML", problem, "Check indentation and quotes there.", line, column) from None
    except yaml.YAMLError as error:
        raise _undecodable(path, "YAML", str(error).replace("\n", " "), "Save the file as plain text.") from None
    except ValueError as error:
        raise _undecodable(path, "YAML", str(error), "Put the value in quotes.") from None


@functools.cache
def _yaml_loader() -> Any:
    """PyYAML's safe loader, in C where it is compiled in, with dates read as ISO 8601 text."""
    import yaml

    safe: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    loader: Any = type("Loader", (safe,), {})

    def iso(constructor: Any, node: yaml.ScalarNode) -> str:
        with contextlib.suppress(ValueError):  # 2026-02-30 has the form of a date; as text it is what it was
            return constructor.construct_yaml_timestamp(node).isoformat()
        return node.value

    def short(constructor: Any, node: yaml.ScalarNode) -> Any:
        if len(node.value) > NUMBER_LENGTH:  # 1:59:59:… counts in sixties, in quadratic time
            raise ValueError(f"a number has more than {NUMBER_LENGTH} characters")
        kind = node.tag.rpartition(":")[2]
        return getattr(constructor, f"construct_yaml_{kind}")(node)

    loader.add_constructor("tag:yaml.org,2002:timestamp", iso)
    loader.add_constructor("tag:yaml.org,2002:int", short)
    loader.add_constructor("tag:yaml.org,2002:float", short)
    return loader


def _events(text: str) -> Generator[Any]:
    loader: Any = _yaml_loader()(text)
    try:
        while loader.check_event():
            yield loader.get_event()
    finally:
        loader.dispose()


def _survey(events: Iterable[Any], path: str, most_values: int) -> None:
    """Go over a YAML file before anything is built of it: the parser itself takes any depth, at quadratic cost."""
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
        if (tag := getattr(event, "tag", None)) not in (None, "!", *_TAGS):
            problem = f"the tag {tag} isn't read"
            raise _undecodable(path, "plain YAML", problem, "Remove the tag.", at.line + 1, at.column + 1)
        if isinstance(event, yaml.CollectionStartEvent) and (depth := depth + 1) > DEPTH_LIMIT:
            problem = f"it is nested more than {DEPTH_LIMIT} levels deep"
            raise _undecodable(path, "YAML", problem, "Write it in fewer levels.", at.line + 1, at.column + 1)


_TAGS = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")


def _measure(node: Any, sizes: dict[int, int], path: str) -> int:
    """How many values a node comes to with its aliases written out; keys that stand twice are refused."""
    import yaml

    if (known := sizes.get(id(node))) is not None:
        if not known:
            raise _undecodable(path, "YAML", "an alias stands inside what it names", "Write the value out.")
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
                    raise _undecodable(path, "YAML", problem, "Keep one of them.", at.line + 1, at.column + 1)
                seen.add(key.value)
            size += _measure(key, sizes, path) + _measure(value, sizes, path)
    elif isinstance(node, yaml.SequenceNode):
        size += sum(_measure(each, sizes, path) for each in node.value)
    if size > ALIASED_VALUES and size > len(sizes):
        raise LimitExceeded(
            f"{path} comes to more than {ALIASED_VALUES:,} values when its aliases are written out.",
            "Write the values out instead of using aliases.",
            limit="config.aliases",
            path=path,
        )
    sizes[id(node)] = size
    return size
