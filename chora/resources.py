"""The resources of a project: configs, schemas, stored texts, templates, manifests, jobs, and what the server can do.

A family of resources is one row of `FAMILIES`: its URI template, how one of its resources is read, how they are listed,
and the values of its parameters. Every URI may also be written `choracompose://<scheme>/<rest>`.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, unquote

import msgspec

from chora import __version__
from chora.catalog import Catalog, FoundConfig
from chora.engine.engine import Engine
from chora.engine.manifest import fixed_manifest_path
from chora.errors import (
    ChoraError,
    ConfigNotFound,
    ContentNotFound,
    GeneratorNotFound,
    InvalidConfigId,
    InvalidContext,
    InvalidInput,
    JobNotFound,
    LimitExceeded,
    ManifestNotFound,
    PermissionDenied,
    ResourceNotFound,
)
from chora.events import redact_secrets
from chora.files import CONFIG_LIMIT, SOURCE_LIMIT
from chora.generators.registry import Generator
from chora.metrics import Metrics
from chora.model import KINDS, STRUCTS, CollectionGeneration, Kind, schema
from chora.protocol.types import Resource, ResourceContents, ResourcePage, ResourceStat
from chora.timestamps import format_timestamp

if TYPE_CHECKING:
    from chora.tools.tool import Tool

NAMESPACE = "choracompose"
JSON = "application/json"
TEXT = "text/plain"
PAGE_SIZE = 100
LISTED_JOBS_LIMIT = 100
"""The newest jobs are listed; any can be read."""
EXAMPLES = 2
TOPICS = ("server", "tools", "resources", "generators")

Arguments = dict[str, str]


class Parameter(NamedTuple):
    """A parameter of a URI template, and its possible values."""

    description: str
    values: Callable[[ProjectResources, Arguments], Iterable[str]]
    is_id: bool = True


class Family(NamedTuple):
    """Resources of one kind."""

    scheme: str
    template: str
    name: str
    description: str
    mime_type: str
    parameters: dict[str, Parameter]
    read: Callable[[ProjectResources, Arguments], str]
    list_resources: Callable[[ProjectResources], Iterable[Resource]]
    old_templates: tuple[str, ...] = ()
    """The templates of chora-compose."""
    fixed: bool = False


class ProjectResources:
    """The resources of one project.

    Args:
        engine: the project.
        tools: the tools of the server, by name.
        metrics: the durations of calls.
        revisions: the supported revisions of the protocol, oldest first.
    """

    def __init__(
        self, engine: Engine, tools: Mapping[str, Tool], metrics: Metrics, revisions: tuple[str, ...] = ()
    ) -> None:
        self.engine = engine
        self.tools = tools
        self.metrics = metrics
        self.revisions = revisions

    def read_resource(self, uri: str) -> ResourceContents:
        """Read the resource of a URI.

        Raises:
            ResourceNotFound, and other errors of the category missing: there is none.
            InvalidConfigId: an id in it can't be one.
            LimitExceeded: it is larger than 10 MB.
            ValidationFailed, PermissionDenied, StorageError: it can't be read.
        """
        family, _, text = self._locate(uri)
        if len(text) > SOURCE_LIMIT or len(text.encode()) > SOURCE_LIMIT:
            raise LimitExceeded(
                f"The resource {_shorten(uri)} is larger than {SOURCE_LIMIT:,} bytes.",
                "Read what it was made from, or a smaller part of it.",
                limit="resource.size",
                bytes=SOURCE_LIMIT,
            )
        return ResourceContents(text, family.mime_type, family.fixed)

    def canonical_uri(self, uri: str) -> str:
        """The spelling of a URI under which changes of the resource are published, whether it exists or not.

        Raises:
            ResourceNotFound: no resource could have this URI.
            InvalidConfigId: an id in it can't be one.
        """
        matching = list(_matching_families(uri))
        if len(matching) == 1:  # then nothing has to be read; subscriptions name many URIs
            family, arguments = matching[0]
        else:
            try:
                family, arguments, _ = self._locate(uri)
            except ChoraError:
                if not matching:
                    raise
                family, arguments = matching[0]
        return _fill_template(family.template, arguments)

    def _locate(self, uri: str) -> tuple[Family, Arguments, str]:
        missing: ChoraError | None = None
        for family, arguments in _matching_families(uri):
            try:
                return family, arguments, family.read(self, arguments)
            except ChoraError as error:
                if error.category != "missing":
                    raise
                missing = missing or error
        raise missing or ResourceNotFound(
            f"There is no resource {_shorten(uri)}.", "resources/list and resources/templates/list show what there is."
        )

    def list_resources(self, cursor: str | None = None) -> ResourcePage:
        """The resources that exist now by URI, a hundred at a time.

        Raises:
            InvalidInput: the cursor isn't one of ours.
        """
        after = "" if cursor is None else _decode_cursor(cursor)
        rest = [each for family in FAMILIES for each in family.list_resources(self) if each.uri > after]
        rest.sort(key=lambda each: each.uri)
        shown = rest[:PAGE_SIZE]
        return ResourcePage(shown, _encode_cursor(shown[-1].uri) if len(rest) > PAGE_SIZE else None)

    def list_templates(self) -> list[dict[str, Any]]:
        """The URI templates as `resources/templates/list` shows them."""
        return [
            {
                "uriTemplate": family.template,
                "name": family.name,
                "description": family.description,
                "mimeType": family.mime_type,
            }
            for family in FAMILIES
        ]

    def complete(self, template: str, parameter: str, arguments: Arguments) -> list[str]:
        """The values that a parameter of a URI template may have, given those that are arguments.

        Raises:
            ResourceNotFound: there is no such template.
        """
        wanted = _uri_parts(template)
        for family in FAMILIES:
            if wanted in (_uri_parts(each) for each in (family.template, *family.old_templates)):
                found = family.parameters.get(parameter)
                return [] if found is None else list(found.values(self, arguments))
        raise ResourceNotFound(
            f"There is no resource template {_shorten(template)}.", "resources/templates/list shows them all."
        )


# -- URIs -------------------------------------------------------------------------------------------------------


def config_uri(kind: Kind, config_id: str) -> str:
    return f"config://{kind}/{quote(config_id, safe='')}"


def content_uri(content_id: str, version_id: str = "") -> str:
    return "/".join(["content:/", *(quote(part, safe="") for part in (content_id, version_id) if part)])


def template_uri(name: str) -> str:
    return f"template://{quote(name, safe='')}"


def manifest_uri(collection_id: str) -> str:
    return f"manifest://{quote(collection_id, safe='')}"


def _fill_template(template: str, arguments: Arguments) -> str:
    for name, value in arguments.items():
        template = template.replace("{" + name + "}", quote(value, safe=""))
    return template


def _uri_parts(uri: str) -> list[str]:
    """Scheme and segments of a URI, without the namespace and a slash at the end."""
    scheme, _, rest = uri.partition("://")
    if scheme.lower() == NAMESPACE:
        scheme, _, rest = rest.partition("/")
    return [scheme.lower(), *rest.removesuffix("/").split("/")]


def _matching_families(uri: str) -> Iterator[tuple[Family, Arguments]]:
    """The families that a URI matches, with its arguments: today's templates before the old ones."""
    parts = _uri_parts(uri)
    spellings = [(family, family.template) for family in FAMILIES]
    spellings += [(family, old) for family in FAMILIES for old in family.old_templates]
    for family, template in spellings:
        pattern = _uri_parts(template)
        if len(pattern) == len(parts) and all(
            wanted == part or wanted[:1] == "{" for wanted, part in zip(pattern, parts, strict=True)
        ):
            values = {wanted[1:-1]: part for wanted, part in zip(pattern, parts, strict=True) if wanted[:1] == "{"}
            yield family, {name: _decode_part(family.parameters[name], part) for name, part in values.items()}


def _decode_part(parameter: Parameter, part: str) -> str:
    try:
        value = unquote(part, errors="strict")
    except UnicodeDecodeError:
        raise InvalidConfigId(
            f"{_shorten(part)} is not UTF-8.", "Percent-encode UTF-8 text.", id=_shorten(part)
        ) from None
    if parameter.is_id:
        Catalog.check_id(value)
    return value


def _encode_cursor(uri: str) -> str:
    return uri.encode().hex()


def _decode_cursor(cursor: str) -> str:
    try:
        return bytes.fromhex(cursor).decode()
    except ValueError:
        raise InvalidInput(
            "The cursor isn't one of this list.", "List from the beginning, without a cursor.", field="cursor"
        ) from None


def _shorten(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:199]}…"


def _format_json(value: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def _file_stat(resources: ProjectResources, path: str, *, sized: bool) -> Callable[[], ResourceStat]:
    def stat() -> ResourceStat:
        try:
            status = (resources.engine.folder.root / path).stat()
        except OSError:
            return ResourceStat()
        modified = format_timestamp(datetime.fromtimestamp(status.st_mtime, UTC))
        return ResourceStat(status.st_size if sized else None, modified)

    return stat


# -- configs ----------------------------------------------------------------------------------------------------


def _config_family(kind: Kind) -> Family:
    parameter = f"{kind}_id"

    def read(resources: ProjectResources, arguments: Arguments) -> str:
        return _format_json(resources.engine.catalog.find_config(kind, arguments[parameter]).parsed.raw)

    def ids(resources: ProjectResources, arguments: Arguments) -> list[str]:
        return [found.parsed.config.id for found in resources.engine.catalog.list_configs(kind).found]

    def found(resources: ProjectResources) -> Iterator[Resource]:
        for each in resources.engine.catalog.list_configs(kind).found:
            yield Resource(
                config_uri(kind, each.parsed.config.id),
                each.parsed.config.id,
                _describe_config(each),
                JSON,
                _file_stat(resources, each.path, sized=False),
            )

    return Family(
        "config",
        f"config://{kind}/{{{parameter}}}",
        f"{kind.capitalize()} config",
        f"One of the {kind} configs, as it is written",
        JSON,
        {parameter: Parameter(f"Id of the {kind} config", ids)},
        read,
        found,
    )


def _describe_config(found: FoundConfig) -> str:
    match found.parsed.kind:
        case "content":
            return f"Content config: {found.parsed.config.metadata.description}"
        case "artifact":
            return f"Artifact config: {found.parsed.config.metadata.title}"
        case "collection":
            return f"Collection config: {found.parsed.config.name}"


# -- schemas ----------------------------------------------------------------------------------------------------


def _read_schema(resources: ProjectResources, arguments: Arguments) -> str:
    for kind in KINDS:
        if kind == arguments["schema_name"]:
            return _format_json(schema(kind))
    name = arguments["schema_name"]
    raise ResourceNotFound(f"There is no schema {name!r}.", f"There are {', '.join(KINDS)}.")


def _schema_names(resources: ProjectResources, arguments: Arguments) -> tuple[str, ...]:
    return KINDS


def _list_schemas(resources: ProjectResources) -> Iterator[Resource]:
    for kind in KINDS:
        yield Resource(f"schema://{kind}", f"{kind} schema", f"The JSON Schema of {kind} configs", JSON)


# -- stored texts -----------------------------------------------------------------------------------------------


def _read_content(resources: ProjectResources, arguments: Arguments) -> str:
    version = resources.engine.store.latest_version(arguments["content_id"])
    if version is None:
        raise _content_not_found(arguments["content_id"])
    return version.body


def _read_version(resources: ProjectResources, arguments: Arguments) -> str:
    content_id, version_id = arguments["content_id"], arguments["version_id"]
    version = resources.engine.store.version(content_id, version_id)
    if version is None or version.deleted:
        raise ContentNotFound(
            f"There is no text of {content_id} with the version {version_id!r}.",
            f"Read {content_uri(content_id)}/versions for those there are.",
            content_id=content_id,
            version_id=version_id,
        )
    return version.body


def _read_versions(resources: ProjectResources, arguments: Arguments) -> str:
    content_id = arguments["content_id"]
    infos = resources.engine.store.version_infos(content_id)
    if not infos:
        raise _content_not_found(content_id)
    latest = next((info.version_id for info in reversed(infos) if not info.deleted), None)
    versions = [
        {
            "version": info.version_id,
            "timestamp": info.generated_at,
            "size_bytes": info.size,
            "is_latest": info.version_id == latest,
            "generator": info.generator,
            "config_version": info.config_version,
            "stage": info.stage,
            "approved": info.approved,
            "deleted": info.deleted,
        }
        for info in infos
    ]
    return _format_json({"content_id": content_id, "total_versions": len(versions), "versions": versions})


def _content_not_found(content_id: str) -> ContentNotFound:
    return ContentNotFound(
        f"No text of {content_id!r} is stored.",
        "Make one with generate_content; resources/list shows what is stored.",
        content_id=content_id,
    )


def _list_contents(resources: ProjectResources) -> Iterator[Resource]:
    for content_id in _stored_ids(resources, {}):

        def stat(content_id: str = content_id) -> ResourceStat:
            kept = [info for info in resources.engine.store.version_infos(content_id) if not info.deleted]
            return ResourceStat(kept[-1].size, kept[-1].generated_at) if kept else ResourceStat()

        yield Resource(content_uri(content_id), content_id, f"The newest text of {content_id}", TEXT, stat)


def _list_none(resources: ProjectResources) -> tuple[Resource, ...]:
    """Of versions only the newest is listed, as the content's text; their list is a resource of its own."""
    return ()


def _stored_ids(resources: ProjectResources, arguments: Arguments) -> list[str]:
    return resources.engine.store.content_ids()


def _version_ids(resources: ProjectResources, arguments: Arguments) -> list[str]:
    infos = resources.engine.store.version_infos(arguments.get("content_id", ""))
    return [info.version_id for info in infos if not info.deleted]


_CONTENT_ID = Parameter("Id of a content of which a text is stored", _stored_ids)
_VERSION_ID = Parameter("Id of a stored text", _version_ids)


# -- generators -------------------------------------------------------------------------------------------------


def _read_generator(resources: ProjectResources, arguments: Arguments) -> str:
    name, registry = arguments["generator_type"], resources.engine.generators
    if (generator := registry.by_name.get(name)) is not None:
        return _format_json(_describe_generator(resources, generator))
    # How chora-compose listed them.
    wanted = {"list": ("builtin", "plugin"), "builtin": ("builtin",), "plugins": ("plugin",)}.get(name)
    if wanted is not None:
        shown = [_describe_generator(resources, each) for each in registry.list_generators() if each.kind in wanted]
        return _format_json({"generators": shown, "total_count": len(shown)})
    names = [each.name for each in registry.list_generators()]
    raise GeneratorNotFound(
        f"There is no generator {name!r}.",
        f"There are {', '.join(names)}.",
        generator_type=name,
        available_generators=names,
    )


def _describe_generator(resources: ProjectResources, generator: Generator) -> dict[str, Any]:
    return {
        "type": generator.name,
        "name": generator.name,
        "version": generator.version,
        "source": generator.kind,
        "description": generator.description,
        "capabilities": list(generator.capabilities),
        "module": generator.module.__name__,
        "required_context_keys": [],
    }


def _generator_names(resources: ProjectResources, arguments: Arguments) -> list[str]:
    return sorted(resources.engine.generators.by_name)


def _list_generators(resources: ProjectResources) -> Iterator[Resource]:
    for generator in resources.engine.generators.list_generators():
        yield Resource(f"generator://{generator.name}", generator.name, generator.description, JSON)


# -- templates --------------------------------------------------------------------------------------------------


def template_files(resources: ProjectResources) -> dict[str, str]:
    """The files in the template folders, by the name that finds them; each with its project-relative path."""
    found: dict[str, str] = {}
    folder = resources.engine.folder
    for place in resources.engine.settings.paths.templates:
        for path in folder.list_files(place, ("",)):
            found.setdefault(path.removeprefix(f"{folder.relative(place)}/"), path)
    return found


def _read_template(resources: ProjectResources, arguments: Arguments) -> str:
    name = arguments["name"]
    # Templates may stand anywhere in the project, but what is no template mustn't be read as one.
    path = template_files(resources).get(name)
    if path is not None:
        try:
            return resources.engine.folder.read_text(path, limit=CONFIG_LIMIT)
        except FileNotFoundError:
            pass
        except UnicodeDecodeError:
            raise InvalidInput(f"The template {name!r} is not UTF-8 text.", "Save the file as UTF-8.") from None
    raise ResourceNotFound(f"There is no template {_shorten(name)!r}.", resources.engine.templates.advice())


def _template_names(resources: ProjectResources, arguments: Arguments) -> list[str]:
    return sorted(template_files(resources))


def _list_templates(resources: ProjectResources) -> Iterator[Resource]:
    for name, path in template_files(resources).items():
        yield Resource(template_uri(name), name, f"Template {path}", TEXT, _file_stat(resources, path, sized=True))


# -- collections' manifests -------------------------------------------------------------------------------------


def manifest_files(engine: Engine) -> dict[str, str]:
    """Where the manifest of each collection is, or would be, project-relative, by the collection's id."""
    found: dict[str, str] = {}
    for each in engine.catalog.list_configs("collection").found:
        try:
            found[each.parsed.config.id] = _manifest_path(engine, each)
        except (ManifestNotFound, PermissionDenied):
            continue
    return found


def _manifest_path(engine: Engine, found: FoundConfig) -> str:
    """Where a collection's manifest is; raises ManifestNotFound if that depends on the context of a build."""
    path = fixed_manifest_path(engine, found.parsed.config)
    if path is None:
        raise _manifest_not_found(found.parsed.config.id)
    return path


def _read_manifest(resources: ProjectResources, arguments: Arguments) -> str:
    found = resources.engine.catalog.find_config("collection", arguments["collection_id"])
    try:
        return resources.engine.folder.read_text(_manifest_path(resources.engine, found))
    except (FileNotFoundError, UnicodeDecodeError):
        raise _manifest_not_found(found.parsed.config.id) from None


def _manifest_not_found(collection_id: str) -> ManifestNotFound:
    return ManifestNotFound(
        f"The collection {collection_id} has no manifest yet.",
        "Make it with generate_collection; resources/list shows which collections have one.",
        collection_id=collection_id,
    )


def _collection_ids(resources: ProjectResources, arguments: Arguments) -> list[str]:
    return [found.parsed.config.id for found in resources.engine.catalog.list_configs("collection").found]


def _list_manifests(resources: ProjectResources) -> Iterator[Resource]:
    for collection_id, path in manifest_files(resources.engine).items():
        if resources.engine.folder.is_file(path):
            yield Resource(
                manifest_uri(collection_id),
                f"{collection_id} manifest",
                f"What the collection {collection_id} was built into",
                JSON,
                _file_stat(resources, path, sized=True),
            )


# -- jobs -------------------------------------------------------------------------------------------------------


def _read_job(resources: ProjectResources, arguments: Arguments) -> str:
    job = resources.engine.store.job(arguments["job_id"])
    if job is None:
        raise JobNotFound(
            f"There is no job {arguments['job_id']!r}.",
            "resources/list shows the newest ones.",
            job_id=arguments["job_id"],
        )
    record: dict[str, Any] = msgspec.to_builtins(job)
    result = None if job.result is None else msgspec.json.decode(job.result)
    return _format_json(record | {"arguments": redact_secrets(job.arguments), "result": result})


def _job_ids(resources: ProjectResources, arguments: Arguments) -> list[str]:
    return [job.job_id for job in resources.engine.store.jobs()]


def _list_jobs(resources: ProjectResources) -> Iterator[Resource]:
    for job in islice(resources.engine.store.jobs(), LISTED_JOBS_LIMIT):
        stat = ResourceStat(modified=job.updated_at)
        about = f"{job.tool}, {job.status}"
        yield Resource(f"job://{quote(job.job_id, safe='')}", job.job_id, about, JSON, lambda known=stat: known)


# -- capabilities -----------------------------------------------------------------------------------------------


def _read_capabilities(resources: ProjectResources, arguments: Arguments) -> str:
    match arguments["topic"]:
        case "server":
            return _format_json(_describe_server(resources))
        case "tools":
            return _format_json(_describe_tools(resources))
        case "resources":
            return _format_json(_describe_families(resources))
        case "generators":
            return _format_json(_describe_generators(resources))
        case other:
            raise ResourceNotFound(f"There are no capabilities called {other!r}.", f"There are {', '.join(TOPICS)}.")


def _topics(resources: ProjectResources, arguments: Arguments) -> tuple[str, ...]:
    return TOPICS


def _list_capabilities(resources: ProjectResources) -> Iterator[Resource]:
    for topic in TOPICS:
        about = "What the server can do" if topic == "server" else f"What the {topic} can do"
        yield Resource(f"capabilities://{topic}", f"{topic} capabilities", about, JSON)


def _describe_server(resources: ProjectResources) -> dict[str, Any]:
    tools, settings = resources.tools, resources.engine.settings
    components = msgspec.json.schema(STRUCTS["artifact"])["$defs"]["ArtifactContent"]["properties"]["children"]
    batch: dict[str, Any] = tools["batch_generate"].input_schema["properties"] if "batch_generate" in tools else {}
    return {
        "name": "chora",
        "version": __version__,
        "mcp_version": resources.revisions[-1] if resources.revisions else None,
        "mcp_versions": list(resources.revisions),
        "features": {
            "content_generation": "generate_content" in tools,
            "artifact_assembly": "assemble_artifact" in tools,
            "collection_generation": "generate_collection" in tools,
            "config_lifecycle": {"draft_config", "test_config", "modify_config", "save_config"} <= tools.keys(),
            "batch_operations": "batch_generate" in tools,
            "ephemeral_storage": {"cleanup_ephemeral", "delete_content"} <= tools.keys(),
            "resource_providers": bool(FAMILIES),
            "generator_plugins": bool(settings.plugins.generators),
            "capability_discovery": True,
            "validation_suggestions": False,
        },
        "limits": {
            "max_content_size_bytes": SOURCE_LIMIT,
            "max_artifact_components": components["maxItems"],
            "ephemeral_retention_days": settings.storage.retention_days,
            "max_batch_size": batch.get("content_ids", {}).get("maxItems"),
        },
        "concurrency_limits": {
            "max_concurrent_generations": settings.render.workers,
            "max_concurrent_assemblies": settings.jobs.running,
            "queue_size": settings.render.queue,
            "timeout_seconds": settings.jobs.call_budget,
            "max_parallel_generations": batch.get("max_parallel", {}).get("default"),
            "max_collection_concurrency": CollectionGeneration().concurrency_limit,
        },
        "runtime": {"python": platform.python_version(), "fastmcp": None, "platform": sys.platform},
        "upstream_dependencies": [],
        "tool_count": len(tools),
        "resource_count": sum(1 for family in FAMILIES for _ in family.list_resources(resources)),
        "generator_count": len(resources.engine.generators.list_generators()),
    }


_FAILURES: dict[str, type[ChoraError]] = {
    "context": InvalidContext,
    "content_config_id": ConfigNotFound,
    "artifact_config_id": ConfigNotFound,
    "collection_config_path": ConfigNotFound,
    "content_id": ContentNotFound,
}
"""The errors that an argument of a call may cause."""


def _describe_tools(resources: ProjectResources) -> dict[str, Any]:
    by_category: dict[str, list[dict[str, Any]]] = {}
    for tool in resources.tools.values():
        arguments: Iterable[str] = tool.input_schema.get("properties", {})
        failures = dict.fromkeys([InvalidInput, *(_FAILURES[name] for name in arguments if name in _FAILURES)])
        by_category.setdefault(tool.category, []).append(
            {
                "name": tool.name,
                "category": tool.category,
                "description": tool.description,
                "version": __version__,
                "input_schema": tool.input_schema,
                "output_schema": tool.output_schema,
                "examples": [],
                "common_errors": [{"code": each.code, "message": _error_summary(each)} for each in failures],
                "performance": {
                    "typical_ms": _mean_milliseconds(resources.metrics, tool.name),
                    "timeout_ms": round(resources.engine.settings.jobs.call_budget * 1000),
                },
            }
        )
    return {
        "tools_by_category": by_category,
        "metadata": {"total_count": len(resources.tools), "version": __version__},
    }


def _error_summary(error: type[ChoraError]) -> str:
    return (error.__doc__ or error.code.replace("_", " ").capitalize()).partition("\n")[0]


def _mean_milliseconds(metrics: Metrics, tool: str) -> float | None:
    """The mean time of a tool's calls so far, in milliseconds; None before the first."""
    counts = metrics.call_seconds.counts.get((tool,))
    return round(metrics.call_seconds.sums[tool,] / sum(counts) * 1000, 3) if counts else None


def _describe_families(resources: ProjectResources) -> dict[str, Any]:
    shown: dict[str, dict[str, Any]] = {}
    for family in FAMILIES:
        one = shown.setdefault(
            family.scheme,
            {"patterns": [], "mime_type": family.mime_type, "description": "", "parameters": {}, "examples": []},
        )
        one["patterns"] += [family.template, *family.old_templates]
        one["description"] = "; ".join(part for part in (one["description"], family.description) if part)
        one["parameters"] |= {name: parameter.description for name, parameter in family.parameters.items()}
        one["examples"] += [each.uri for each in islice(family.list_resources(resources), EXAMPLES)]
    return {"resources": shown, "metadata": {"namespace": f"{NAMESPACE}://", "total_count": len(shown)}}


def _describe_generators(resources: ProjectResources) -> dict[str, Any]:
    registry = resources.engine.generators
    shown: dict[str, Any] = {}
    for generator in registry.list_generators():
        names = [name for name, each in registry.by_name.items() if each is generator]
        shown[generator.name] = {
            **_describe_generator(resources, generator),
            "plugin_path": generator.module.__name__ if generator.is_plugin else None,
            "status": "beta" if generator.version.startswith("0.") else "stable",
            "indicators": {"config_field": "generation.patterns[0].type", "config_values": names, "confidence": 1.0},
            "requirements": {"fields": [], "dependencies": [], "env_vars": []},
            "best_for": list(generator.capabilities),
            "docs_uri": f"generator://{generator.name}",
            "upstream_dependencies": {},
        }
    plugins = sum(each["source"] == "plugin" for each in shown.values())
    return {
        "generators": shown,
        "selection_strategy": {
            "type": "explicit",
            "explanation": "generation.patterns[0].type names the generator; without a pattern it is demonstration, "
            "if every element has an example_output.",
            "fallback": "demonstration",
        },
        "metadata": {
            "version": __version__,
            "generator_count": len(shown),
            "builtin_count": len(shown) - plugins,
            "plugin_count": plugins,
        },
    }


# -- the families --------------------------------------------------------------------------------------------------

FAMILIES: tuple[Family, ...] = (
    *(_config_family(kind) for kind in KINDS),
    Family(
        "schema",
        "schema://{schema_name}",
        "Config schema",
        "The JSON Schema of a config format",
        JSON,
        {"schema_name": Parameter("content, artifact or collection", _schema_names)},
        _read_schema,
        _list_schemas,
        fixed=True,
    ),
    Family(
        "content",
        "content://{content_id}",
        "Generated text",
        "The newest stored text of a content",
        TEXT,
        {"content_id": _CONTENT_ID},
        _read_content,
        _list_contents,
        old_templates=("content://generated/{content_id}",),
    ),
    Family(
        "content",
        "content://{content_id}/versions",
        "Versions of a text",
        "Which texts of a content are stored",
        JSON,
        {"content_id": _CONTENT_ID},
        _read_versions,
        _list_none,
        old_templates=("content://generated/{content_id}/versions",),
    ),
    Family(
        "content",
        "content://{content_id}/{version_id}",
        "Version of a text",
        "One stored text of a content",
        TEXT,
        {"content_id": _CONTENT_ID, "version_id": _VERSION_ID},
        _read_version,
        _list_none,
        old_templates=("content://{content_id}/v/{version_id}", "content://generated/{content_id}/v/{version_id}"),
    ),
    Family(
        "generator",
        "generator://{generator_type}",
        "Generator",
        "A generator that a content config can name",
        JSON,
        {"generator_type": Parameter("Name of a generator", _generator_names)},
        _read_generator,
        _list_generators,
        fixed=True,
    ),
    Family(
        "capabilities",
        "capabilities://{topic}",
        "Capabilities",
        "What the server, its tools, resources and generators can do",
        JSON,
        {"topic": Parameter(", ".join(TOPICS), _topics)},
        _read_capabilities,
        _list_capabilities,
    ),
    Family(
        "manifest",
        "manifest://{collection_id}",
        "Collection manifest",
        "What a collection was built into, and when",
        JSON,
        {"collection_id": Parameter("Id of a collection", _collection_ids)},
        _read_manifest,
        _list_manifests,
    ),
    Family(
        "template",
        "template://{name}",
        "Template",
        "A template file; slashes in its name are percent-encoded",
        TEXT,
        {"name": Parameter("Name of a template", _template_names, is_id=False)},
        _read_template,
        _list_templates,
    ),
    Family(
        "job",
        "job://{job_id}",
        "Job",
        "Work that outlives its call: its state, progress and result",
        JSON,
        {"job_id": Parameter("Id of a job", _job_ids)},
        _read_job,
        _list_jobs,
    ),
)
"""Every family; of two that a URI matches, the first one counts."""
