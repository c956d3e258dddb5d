"""The table of resource families, and which of them a URI matches."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import parse_qsl, unquote

from chora.catalog import Catalog
from chora.errors import InvalidConfigId
from chora.manual import PAGES
from chora.model import KINDS
from chora.resources.capabilities import TOPICS, list_capabilities, read_capabilities, topics
from chora.resources.configs import config_family, config_list_family, list_schemas, read_schema, schema_names
from chora.resources.contents import (
    CONTENT_ID,
    VERSION_ID,
    count_contents,
    list_contents,
    read_content,
    read_version,
    read_versions,
)
from chora.resources.family import JSON, MARKDOWN, TEXT, Family, Parameter, list_none
from chora.resources.generators import generator_names, list_generators, read_generator
from chora.resources.jobs import job_ids, list_jobs, read_job
from chora.resources.manifests import collection_ids, list_manifests, read_manifest
from chora.resources.manual import list_pages, page_names, read_manual
from chora.resources.templates import list_templates, read_template, template_names
from chora.resources.uris import Arguments, shorten, uri_parts

FAMILIES: tuple[Family, ...] = (
    *(config_family(kind) for kind in KINDS),
    *(config_list_family(kind) for kind in KINDS),
    Family(
        "schema",
        "schema://{schema_name}",
        "Config schema",
        "The JSON Schema of a config format",
        JSON,
        {"schema_name": Parameter("content, artifact or collection", schema_names)},
        read_schema,
        list_schemas,
        fixed=True,
    ),
    Family(
        "manual",
        "manual://{page}",
        "Manual",
        "A page of the manual of the config formats; overview names the others",
        MARKDOWN,
        {"page": Parameter(", ".join(PAGES), page_names)},
        read_manual,
        list_pages,
        fixed=True,
    ),
    Family(
        "content",
        "content://{content_id}",
        "Generated text",
        "The newest stored text of a content",
        TEXT,
        {"content_id": CONTENT_ID},
        read_content,
        list_contents,
        old_templates=("content://generated/{content_id}",),
        count_resources=count_contents,
    ),
    Family(
        "content",
        "content://{content_id}/versions",
        "Versions of a text",
        "The stored versions of a content",
        JSON,
        {"content_id": CONTENT_ID},
        read_versions,
        list_none,
        old_templates=("content://generated/{content_id}/versions",),
    ),
    Family(
        "content",
        "content://{content_id}/{version_id}",
        "Version of a text",
        "One stored text of a content",
        TEXT,
        {"content_id": CONTENT_ID, "version_id": VERSION_ID},
        read_version,
        list_none,
        old_templates=("content://{content_id}/v/{version_id}", "content://generated/{content_id}/v/{version_id}"),
    ),
    Family(
        "generator",
        "generator://{generator_type}",
        "Generator",
        "A generator that a content config can name",
        JSON,
        {"generator_type": Parameter("Name of a generator", generator_names)},
        read_generator,
        list_generators,
        fixed=True,
    ),
    Family(
        "capabilities",
        "capabilities://{topic}",
        "Capabilities",
        "What the server, its tools, resources and generators can do",
        JSON,
        {"topic": Parameter(", ".join(TOPICS), topics)},
        read_capabilities,
        list_capabilities,
    ),
    Family(
        "manifest",
        "manifest://{collection_id}",
        "Collection manifest",
        "What a collection was built into, and when",
        JSON,
        {"collection_id": Parameter("Id of a collection", collection_ids)},
        read_manifest,
        list_manifests,
    ),
    Family(
        "template",
        "template://{name}",
        "Template",
        "A template file; slashes in its name are percent-encoded",
        TEXT,
        {"name": Parameter("Name of a template", template_names, is_id=False)},
        read_template,
        list_templates,
    ),
    Family(
        "job",
        "job://{job_id}",
        "Job",
        "A call that runs in the background: its state, progress and result",
        JSON,
        {"job_id": Parameter("Id of a job", job_ids)},
        read_job,
        list_jobs,
    ),
)
"""Every family; of two that a URI matches, the first one counts."""


def matching_families(uri: str) -> Iterator[tuple[Family, Arguments]]:
    """The families that a URI matches, with its arguments: today's templates before the old ones."""
    parts = uri_parts(uri)
    path, _, query = uri.partition("?")
    path_parts = parts if path == uri else uri_parts(path)
    for family, pattern, has_query in _PATTERNS:
        if has_query:
            if path_parts == pattern:
                yield family, _query_arguments(family, query)
        elif len(pattern) == len(parts) and all(
            wanted == part or wanted[:1] == "{" for wanted, part in zip(pattern, parts, strict=True)
        ):
            values = {wanted[1:-1]: part for wanted, part in zip(pattern, parts, strict=True) if wanted[:1] == "{"}
            yield family, {name: _decode_part(family.parameters[name], part) for name, part in values.items()}


def _patterns() -> Iterator[tuple[Family, list[str], bool]]:
    spellings = [(family, family.template) for family in FAMILIES]
    spellings += [(family, old) for family in FAMILIES for old in family.old_templates]
    spellings.sort(key=lambda each: "{?" not in each[1])
    for family, template in spellings:
        path, has_query, _ = template.partition("{?")
        yield family, uri_parts(path), bool(has_query)


_PATTERNS = tuple(_patterns())
"""Every template in parts, and whether it has a query: those first, as elsewhere a query would be taken for an id."""

QUERY_LENGTH = 1000
"""Characters of a query that are read."""


def _query_arguments(family: Family, query: str) -> Arguments:
    """The parameters of a family in a query, each of them once and empty if it isn't there; others mean nothing."""
    given = dict(parse_qsl(query[:QUERY_LENGTH]))
    return {name: given.get(name, "") for name in family.parameters}


def _decode_part(parameter: Parameter, part: str) -> str:
    try:
        value = unquote(part, errors="strict")
    except UnicodeDecodeError:
        raise InvalidConfigId(
            f"{shorten(part)} is not UTF-8.", "Percent-encode UTF-8 text.", id=shorten(part)
        ) from None
    if parameter.is_id:
        if not value.strip():
            raise InvalidConfigId(
                "The URI ends where a name is wanted.",
                f"Write one behind it: {parameter.description}. resources/list shows what there is.",
                id=value,
            )
        Catalog.check_id(value)
    return value
