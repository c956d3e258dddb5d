"""The settings: their schema, and where their values come from.

`load` merges defaults < `chora.toml` < old environment names < `CHORA_<SECTION>_<KEY>` < flags and records
the origin of every value. Other modules get their section, never the environment.

One module, because a new setting is one field of its section, with its description, default and bounds.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, cast, get_args, get_origin

import msgspec
from msgspec import Meta, Struct

from chora.errors import PermissionDenied, UsageError, hide_folder, why_unreadable
from chora.old_settings import LEGACY_VALUES, OLD_BACKENDS, OLD_MEANINGS, OLD_NAMES, SUCCEEDED_NAMES
from chora.path_rules import check_named_file
from chora.regular_files import read_regular_file
from chora.wording import find_nearest

MIB = 1024 * 1024
TOML_LIMIT = MIB
"""Bytes of `chora.toml`."""

# The upper bounds keep infinity and what overflows a clock or a C integer out of deadlines and counts.
Positive = Annotated[float, Meta(gt=0, le=1e9)]
Count = Annotated[int, Meta(ge=1, le=1_000_000_000)]
Bytes = Annotated[int, Meta(le=1 << 40)]
SecretReference = Annotated[str, Meta(pattern=r"^(keyring:.+|file:.+|env:\w+)?$")]
Origin = Annotated[str, Meta(pattern=r"^[A-Za-z][A-Za-z0-9+.-]*://[^/?#*\s]+/?$")]
"""A web origin, RFC 6454 §6.1. There is no `*`: any page that a user has open could call tools as that user."""


class HttpSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Where the HTTP server listens, and which hosts, origins and proxies it trusts."""

    host: Annotated[str, Meta(description="Address to bind; other than loopback needs a token")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="TCP port; 0 picks a free one")] = 8000
    allowed_hosts: Annotated[
        tuple[str, ...], Meta(description="Host names accepted besides loopback ones and `host`")
    ] = ()
    allowed_origins: Annotated[
        tuple[Origin, ...],
        Meta(
            description="Web origins that may call and read answers (CORS), besides loopback ones: https://n8n.example"
        ),
    ] = ()
    trusted_proxies: Annotated[
        tuple[str, ...], Meta(description="Addresses or networks of proxies whose X-Forwarded headers are trusted")
    ] = ()
    cert: Annotated[str, Meta(description="TLS certificate chain, a PEM file")] = ""
    key: Annotated[str, Meta(description="TLS private key, a PEM file")] = ""
    token: Annotated[
        SecretReference,
        Meta(description="Source of the access token: keyring:NAME, file:PATH or env:NAME; if empty, the usual places"),
    ] = ""
    sse: Annotated[bool, Meta(description="Serve the 2024-11-05 SSE transport at /sse")] = True


class OauthSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Tokens of an authorization server, OAuth 2.1, besides those that chora issues itself."""

    issuer: Annotated[
        str, Meta(description="Its issuer URL, e.g. https://id.example; if empty, no such tokens are accepted")
    ] = ""
    resource: Annotated[
        str, Meta(description="The public URL of /mcp, the audience of the tokens, e.g. https://docs.example/mcp")
    ] = ""
    keys: Annotated[str, Meta(description="URL of its keys (JWKS); if empty, from the issuer's metadata")] = ""
    scopes: Annotated[str, Meta(description="The prefix of read, write and admin in the scopes of its tokens")] = (
        "chora:"
    )


class LimitSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Limits for one peer."""

    body: Annotated[Bytes, Meta(ge=1024, description="Largest request body or stdio line, bytes")] = 4 * MIB
    header_time: Annotated[Positive, Meta(description="Seconds to receive a request head")] = 10.0
    body_time: Annotated[Positive, Meta(description="Seconds to receive a whole request body")] = 30.0
    write_stall: Annotated[Positive, Meta(description="Seconds a write may wait for a peer that doesn't read")] = 30.0
    keep_alive: Annotated[Positive, Meta(description="Seconds an idle connection stays open")] = 75.0
    connections: Annotated[Count, Meta(description="Open connections at once")] = 4096
    sessions: Annotated[Count, Meta(description="MCP sessions at once; beyond it the longest idle one ends")] = 1024
    sessions_each: Annotated[Count, Meta(description="MCP sessions of one token at once")] = 1024
    idle: Annotated[Positive, Meta(description="Seconds after which an unused MCP session ends")] = 1800.0
    grace: Annotated[Positive, Meta(description="Seconds for calls in flight at shutdown")] = 5.0
    memory: Annotated[
        Bytes,
        Meta(
            ge=0,
            description="Memory held for all clients together, bytes: requests, unread answers, sessions. 0 is a "
            "quarter of the memory of the machine or container, 72 to 256 MiB",
        ),
    ] = 0
    answer: Annotated[Bytes, Meta(ge=256 * 1024, description="Largest answer of a tool or resource, bytes")] = 8 * MIB


class StorageSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Where versions, drafts and records of outputs are stored."""

    backend: Annotated[
        Literal["sqlite", "filesystem", "memory"],
        Meta(description="A database, readable files, or the memory of this process"),
    ] = "sqlite"
    path: Annotated[str, Meta(description="SQLite database, relative to the project")] = ".chora/storage.db"
    folder: Annotated[str, Meta(description="Folder of the filesystem backend, relative to the project")] = "ephemeral"
    retention_days: Annotated[
        int, Meta(ge=0, le=100_000, description="Days that drafts and old texts are kept; 0 keeps them forever")
    ] = 30


class PathSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Where files live, relative to the project."""

    configs: Annotated[str, Meta(description="Config folder; if empty, configs/ or else chora-configs/")] = ""
    templates: Annotated[tuple[str, ...], Meta(description="Template folders, in order, after the project root")] = (
        "templates",
        "configs/templates",
        "chora-configs/templates",
    )
    outputs: Annotated[
        tuple[str, ...], Meta(description="Folders outputs may be written beneath; `.` is the project")
    ] = (".",)
    allow: Annotated[
        tuple[str, ...],
        Meta(
            description="Outputs that are allowed although programs would run or load them: paths, patterns such as "
            ".github/workflows/*.yml, or folders with a slash at the end"
        ),
    ] = ()
    events: Annotated[str, Meta(description="Event file, JSON lines")] = "var/telemetry/events.jsonl"


Rules = Literal["chora", "chora-compose"]
"""What a config means where the two differ."""


class ConfigSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """How configs are read."""

    rules: Annotated[
        Rules,
        Meta(
            description="What a config means where the two differ, such as whether a selector with one match gives a "
            "list; chora-compose where there is no chora.toml"
        ),
    ] = "chora"

    @property
    def old_yaml(self) -> bool:
        """Whether YAML is read as YAML 1.1, as chora-compose did."""
        return self.rules == "chora-compose"


class TemplateSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """How templates are rendered."""

    undefined: Annotated[
        Literal["strict", "lenient"],
        Meta(description="Whether an undefined variable is an error, or empty with a warning"),
    ] = "strict"


class RenderSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Limits for one template; beyond them the worker process is killed."""

    workers: Annotated[Count, Meta(description="Template worker processes")] = 2
    wall: Annotated[Positive, Meta(description="Seconds per render")] = 5.0
    memory: Annotated[Bytes, Meta(ge=64 * MIB, description="Address space of a worker, bytes")] = 512 * MIB
    output: Annotated[Bytes, Meta(ge=1024, description="Largest rendered text, bytes")] = 4 * MIB
    queue: Annotated[
        Count, Meta(description="Waiting renders, at most half of them of one caller; beyond it the error is `busy`")
    ] = 256


class BackupSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Regular backups by `chora serve`."""

    every: Annotated[float, Meta(ge=0, le=1e9, description="Hours between two backups; 0 disables them")] = 0.0
    keep: Annotated[Count, Meta(description="Backups kept; older ones are deleted")] = 7
    folder: Annotated[str, Meta(description="Their folder, relative to the project or absolute")] = ".chora/backups"


class OutputSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """How output files are written."""

    on_edit: Annotated[
        Literal["refuse", "merge", "overwrite"],
        Meta(description="When a person edited an output: keep it and fail, merge both, or overwrite it"),
    ] = "refuse"


class JobSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Jobs: work that takes longer than its call."""

    call_budget: Annotated[Positive, Meta(description="Seconds after which a call returns the status `running`")] = 45.0
    running: Annotated[Count, Meta(description="Jobs at once; beyond it the error is `busy`")] = 8
    keep_days: Annotated[Positive, Meta(description="Days that a finished job's result is kept")] = 7.0


class LlmSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The language model behind code_generation; its key is the secret anthropic_api_key."""

    model: Annotated[str, Meta(min_length=1, description="Model, unless the config names one")] = "claude-sonnet-5"
    api_key: Annotated[
        SecretReference,
        Meta(description="Source of the key: keyring:NAME, file:PATH or env:NAME; if empty, the usual places"),
    ] = ""
    base_url: Annotated[str, Meta(description="Address of the Messages API; if empty, Anthropic's own")] = ""
    budget_run: Annotated[float, Meta(ge=0, le=1e9, description="Limit of one call, US dollars; 0 is no limit")] = 1.0
    budget_day: Annotated[float, Meta(ge=0, le=1e9, description="Limit of 24 hours, US dollars; 0 is no limit")] = 10.0
    budget_project: Annotated[
        float, Meta(ge=0, le=1e9, description="Limit of the project, US dollars; 0 is no limit")
    ] = 0.0


class ValidationSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """How texts are checked."""

    linters: Annotated[
        tuple[str, ...], Meta(description="Programs that a lint rule may run, found on PATH; they read stdin")
    ] = ("ruff", "yamllint")
    lint_time: Annotated[Positive, Meta(description="Seconds a linter may take")] = 10.0


class PluginSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Code of the project; only what is named here is loaded."""

    generators: Annotated[
        tuple[str, ...], Meta(description="Modules to import, or files relative to the project, one generator each")
    ] = ()
    composers: Annotated[
        tuple[str, ...], Meta(description="Modules or files with a composer each, for compositionStrategy custom")
    ] = ()


class ProbeSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The uptime probe and the latency benchmarker, started by `chora serve`."""

    interval: Annotated[Positive, Meta(description="Seconds between two calls of the uptime probe")] = 60.0
    latency_interval: Annotated[Positive, Meta(description="Seconds between benchmark rounds")] = 300.0
    latency_calls: Annotated[Count, Meta(description="Calls in a benchmark round")] = 10


Toolset = Literal[
    "default",
    "core-generation",
    "config-lifecycle",
    "storage",
    "discovery",
    "validation",
    "collections",
    "utility",
    "reading",
    "edits",
]


class McpSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """What the server offers to agents."""

    toolsets: Annotated[
        tuple[Toolset, ...],
        Meta(
            description="Tools that are offered, besides hello_world: default is all but those of reading (get_config, "
            "get_text, list_collections) and of edits (list_edits, settle_edit); if empty, default"
        ),
    ] = ()
    read_only: Annotated[bool, Meta(description="Offer only the tools that change nothing")] = False


class LogSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The log: on stderr, or in a file."""

    level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], Meta(description="Lowest level logged")] = "INFO"
    format: Annotated[Literal["text", "json"], Meta(description="For people or for log collectors")] = "text"
    file: Annotated[
        str,
        Meta(
            description="File to append to instead of stderr; in chora.toml one in the project, such as "
            "var/chora.log; SIGHUP opens it anew"
        ),
    ] = ""


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """`chora.toml`: every section is optional."""

    http: HttpSettings = HttpSettings()
    oauth: OauthSettings = OauthSettings()
    limits: LimitSettings = LimitSettings()
    storage: StorageSettings = StorageSettings()
    paths: PathSettings = PathSettings()
    configs: ConfigSettings = ConfigSettings()
    templates: TemplateSettings = TemplateSettings()
    render: RenderSettings = RenderSettings()
    backup: BackupSettings = BackupSettings()
    output: OutputSettings = OutputSettings()
    jobs: JobSettings = JobSettings()
    llm: LlmSettings = LlmSettings()
    validation: ValidationSettings = ValidationSettings()
    plugins: PluginSettings = PluginSettings()
    mcp: McpSettings = McpSettings()
    probe: ProbeSettings = ProbeSettings()
    log: LogSettings = LogSettings()


OTHER_NAMES = {"CHORA_PROJECT", "CHORA_BASE_PATH", "CHORA_TRACE_ID", "CHORA_TOKEN", "CHORA_TOKEN_FILE"}
"""`CHORA_*` names that aren't settings; any other one is a misspelling worth a warning."""


class LoadedSettings(NamedTuple):
    """The effective settings, the origin of each (`section.key` → origin), warnings, and the flags that were given."""

    settings: Settings
    origins: dict[str, str]
    warnings: list[str]
    flags: Mapping[str, Any] = {}

    def changes(self, newer: Settings) -> list[str]:
        """The settings (`section.key`) that have another value in newer ones."""
        return [
            key
            for key in self.origins
            for section, _, name in [key.partition(".")]
            if getattr(getattr(self.settings, section), name) != getattr(getattr(newer, section), name)
        ]


def load(project: Path, env: Mapping[str, str] | None = None, flags: Mapping[str, Any] | None = None) -> LoadedSettings:
    """Merge every source of settings for one project.

    Args:
        project: the project folder.
        env: the environment; the process's own when None.
        flags: `section.key` → value, as the command line gave them; None values are ignored.

    Raises:
        UsageError: an unknown key or a value that doesn't fit, with file, line and path.
    """
    env = os.environ if env is None else env
    values: dict[str, Any] = {}
    origins: dict[str, str] = dict.fromkeys(_setting_fields(), "default")
    warnings: list[str] = []

    hide_folder(Path(os.path.realpath(project)))
    toml = project / "chora.toml"
    try:
        path = Path(os.path.realpath(project)) / "chora.toml"
        text = read_regular_file(path, TOML_LIMIT, links=False).decode("utf-8-sig")
    except FileNotFoundError:
        # An existing chora-compose project has no chora.toml, and was written for chora-compose's rules.
        for key, value in LEGACY_VALUES.items():
            values[key], origins[key] = value, "no chora.toml"
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{toml} can't be read: {why_unreadable(error)}.", file=str(toml)) from None
    else:
        for key, value, line in _parse_toml(toml, text):
            values[key], origins[key] = value, f"chora.toml:{line}"

    for name, key in OLD_NAMES.items():
        if text := OLD_MEANINGS.get(name, str)(env.get(name) or ""):
            values[key], origins[key] = _from_text(key, text, name), name
    for name, text in env.items():
        if name in SUCCEEDED_NAMES:
            warnings.append(f"The environment variable {name} isn't used any more: {SUCCEEDED_NAMES[name]}.")
            continue
        if not name.startswith("CHORA_") or name in OTHER_NAMES or name in OLD_NAMES:
            continue
        section, _, field = name.removeprefix("CHORA_").lower().partition("_")
        if (key := f"{section}.{field}") in origins:
            values[key], origins[key] = _from_text(key, text, name), name
        else:
            warnings.append(f"The environment variable {name} is unknown to chora; is it misspelt?")
    for key, value in (flags or {}).items():
        if value is not None:
            values[key], origins[key] = value, "--" + key.partition(".")[2].replace("_", "-")

    if (backend := values.get("storage.backend")) in OLD_BACKENDS:
        values["storage.backend"] = new = OLD_BACKENDS[backend]
        warnings.append(f"storage.backend {backend} is called {new} ({origins['storage.backend']}); nothing is kept.")
    if isinstance(file := values.get("log.file"), str) and file:
        values["log.file"] = _locate_log(os.path.realpath(project), file, origins["log.file"])

    tree: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        section, _, field = key.partition(".")
        tree.setdefault(section, {})[field] = value
    try:
        return LoadedSettings(msgspec.convert(tree, Settings), origins, warnings, flags or {})
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at `$.")
        key = path.rstrip("`").partition("[")[0]
        raise UsageError(
            f"The setting {key} doesn't fit: {problem[:1].lower()}{problem[1:]} (from {origins.get(key, '?')}).",
            _hint_for(key),
            setting=key,
            origin=origins.get(key),
        ) from None


def settings_table(loaded: LoadedSettings) -> list[dict[str, Any]]:
    """One row per setting: key, value, default, origin and description."""
    values = msgspec.to_builtins(loaded.settings)
    return [
        {
            "key": key,
            "value": values[section.encode_name][field.encode_name],
            "default": msgspec.to_builtins(field.default),
            "origin": loaded.origins[key],
            "meaning": _description(field),
        }
        for key, (section, field) in _setting_fields().items()
    ]


def _setting_fields() -> dict[str, tuple[msgspec.structs.FieldInfo, msgspec.structs.FieldInfo]]:
    return {
        f"{section.name}.{field.name}": (section, field)
        for section in msgspec.structs.fields(Settings)
        for field in msgspec.structs.fields(section.type)
    }


def _description(field: msgspec.structs.FieldInfo) -> str:
    notes: tuple[Any, ...] = getattr(field.type, "__metadata__", ())
    return next((note.description for note in reversed(notes) if getattr(note, "description", None)), "")


def _locate_log(root: str, file: str, origin: str) -> str:
    """The absolute path of the log file.

    One that the project names lies in it and is no program's: a checkout must not have lines appended to a user's
    start-up file (CWE-73). The environment and the command line are the operator's.

    Raises:
        UsageError: the project names another one.
    """
    if not origin.startswith("chora.toml"):
        absolute = os.path.join(root, file)
        return os.path.join(os.path.realpath(os.path.dirname(absolute)), os.path.basename(absolute))  # noqa: PTH119
    try:
        return check_named_file(root, file)
    except PermissionDenied as error:
        raise UsageError(
            f"log.file can't be written, as {origin} says: {error.message}",
            "Name a file such as var/chora.log; CHORA_LOG_FILE may name any file.",
            setting="log.file",
        ) from None


def _hint_for(key: str) -> str:
    """The hint for an invalid value."""
    kind: Any = _setting_fields()[key][1].type
    if get_origin(choice := kind.__origin__) is Literal:
        return f"Write one of {', '.join(get_args(choice))}."
    if key == "http.allowed_origins":
        return "Name each origin with its scheme, as the browser does, such as https://n8n.example; `*` isn't one."
    return "`chora config` lists every setting with its value and origin."


def _from_text(key: str, text: str, name: str) -> Any:
    kind: Any = _setting_fields()[key][1].type
    if get_origin(kind.__origin__) is tuple:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    try:
        if key == "storage.backend" and text in OLD_BACKENDS:
            return text  # renamed, with a warning, wherever it stands
        return msgspec.convert(text.upper() if key == "log.level" else text, kind, strict=False)
    except msgspec.ValidationError as error:
        raise UsageError(
            f"{name}={text!r} doesn't fit {key}: {error}.", _hint_for(key), setting=key, origin=name
        ) from None


def _parse_toml(file: Path, text: str) -> list[tuple[str, Any, int]]:
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a number of thousands of digits is a ValueError, too
        reason = "it is nested too deep" if isinstance(error, RecursionError) else str(error)
        raise UsageError(f"{file} is not TOML: {reason}.", file=str(file)) from None
    keys = _setting_fields()
    sections = {key.partition(".")[0] for key in keys}
    found: list[tuple[str, Any, int]] = []
    for section, fields in document.items():
        if section not in sections or not isinstance(fields, dict):
            raise _unknown_key(file, section, _find_line(text, section), keys if section in sections else sections)
        for field, value in cast("dict[str, Any]", fields).items():
            key, line = f"{section}.{field}", _find_line(text, section, field)
            if key not in keys:
                raise _unknown_key(file, key, line, keys)
            found.append((key, value, line))
    return found


def _unknown_key(file: Path, key: str, line: int, known: Iterable[str]) -> UsageError:
    elsewhere = [each for each in known if each.partition(".")[2] == key.partition(".")[2]] if "." in key else []
    near = elsewhere or find_nearest(key, known, count=1, cutoff=0.5)
    return UsageError(
        f"{file}, line {line}: there is no setting {key}.",
        f"Did you mean {near[0]}?" if near else "`chora config` lists every setting.",
        file=str(file),
        line=line,
        setting=key,
    )


def _find_line(text: str, *key: str) -> int:
    """The line of a key, or else of its table; tomllib parses without positions."""
    table: tuple[str, ...] = ()
    nearest = 1
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[++([^\]]+)\]", line):
            here = table = _split_key(header[1])
        elif assignment := re.match(r"([\w\s.\"'-]+)=", line):
            here = (*table, *_split_key(assignment[1]))
        else:
            continue
        if here == key:
            return number
        if here == key[: len(here)]:
            nearest = number
    return nearest


def _split_key(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip(" \t\"'") for part in dotted.split("."))
