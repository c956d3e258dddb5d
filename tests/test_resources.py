"""Resources: every URI family, current and old spellings, the list and the completions."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chora import __version__, settings
from chora.config_parsing import parse_config
from chora.engine.engine import Engine, open_engine
from chora.errors import (
    ChoraError,
    ConfigNotFound,
    ContentNotFound,
    GeneratorNotFound,
    InvalidConfigId,
    InvalidInput,
    JobNotFound,
    LimitExceeded,
    ManifestNotFound,
    PermissionDenied,
    ResourceNotFound,
)
from chora.files import SOURCE_LIMIT
from chora.generators import GENERATORS
from chora.hashing import sha256
from chora.manual import PAGES, read_page
from chora.manual.tables import option_tables
from chora.metrics import Metrics
from chora.model import KINDS, Kind
from chora.protocol.types import ResourceStat
from chora.provider import ProjectProvider
from chora.resources import FAMILIES, ProjectResources, configs
from chora.resources.families import matching_families
from chora.resources.provider import PAGE_SIZE
from chora.resources.tool_examples import TOOL_EXAMPLES
from chora.store import Version
from chora.store.records import Job
from chora.tools import ALL_TOOLS, TOOLS
from chora.tools.batch import CONCURRENCY, CONTENTS_LIMIT
from tests.conftest import Asking, Project, artifact, child, requirement, text
from tests.documents import collection


@pytest.fixture
async def resources(engine: Engine) -> ProjectResources:
    return ProjectResources(engine, TOOLS, Metrics(), ("2024-11-05", "2026-07-28"))


def read(resources: ProjectResources, uri: str) -> Any:
    """A resource's JSON."""
    contents = resources.read_resource(uri)
    assert contents.mime_type == "application/json"
    return json.loads(contents.text)


def stored(body: str, content_id: str = "note", version_id: str = "") -> Version:
    return Version(
        content_id=content_id,
        body=body,
        sha256=sha256(body.encode()),
        fingerprint=sha256(body.encode()),
        generator="demonstration",
        generator_version="1.0.0",
        generated_at="2026-11-22T10:15:30.123Z",
        version_id=version_id,
    )


def uris(resources: ProjectResources) -> list[str]:
    return [each.uri for each in resources.list_resources().resources]


# -- families ---------------------------------------------------------------------------------------------------


@requirement("resources.config", "resources.namespaced")
async def test_configs_are_read_as_they_are_written(resources: ProjectResources, project: Project):
    """All three kinds, with keys that chora doesn't know; a YAML config is read as JSON."""
    project.save({**text("note", "Closed."), "x-mine": 1}, artifact("sheet", [child("note")]))
    project.write("configs/collection/pack.yaml", json.dumps(collection(id="pack")))
    assert read(resources, "config://content/note")["x-mine"] == 1
    assert read(resources, "config://artifact/sheet")["content"]["children"][0]["id"] == "note"
    assert read(resources, "config://collection/pack")["name"] == "Season pack"
    with pytest.raises(ConfigNotFound) as caught:
        resources.read_resource("config://content/nots")
    assert "note" in str(caught.value.hint)


@requirement("resources.config-lists")
@pytest.mark.parametrize("kind", KINDS)
async def test_the_configs_of_a_kind_are_listed_a_page_at_a_time(
    resources: ProjectResources, project: Project, kind: Kind
):
    """Each page has the total and the URI of the next one; together they list every config once, with a URI to read."""
    make: dict[str, Any] = {
        "content": lambda id: text(id, "x"),
        "artifact": lambda id: artifact(id, [child("note")]),
        "collection": lambda id: collection(id=id),
    }
    names = [f"note-{number:03}" for number in range(2 * configs.PAGE + 7)]
    project.save(*(make[kind](name) for name in names))
    project.write(f"configs/{kind}/broken.json", "{")
    seen: list[str] = []
    uri: str | None = f"config://{kind}/"
    while uri is not None:
        page = read(resources, uri)
        assert page["total"] == len(names)
        assert 0 < len(page["configs"]) <= configs.PAGE
        assert (page["invalid_total"], page["invalid"][0]["file_path"]) == (1, f"configs/{kind}/broken.json")
        assert len(resources.read_resource(uri).text) <= 32 * 1024
        for each in page["configs"]:
            assert read(resources, each["uri"])["id"] == each["id"]
        seen += [each["id"] for each in page["configs"]]
        uri = page["next"]
    assert seen == names
    assert resources.complete(f"config://{kind}/{{?offset}}", "offset", {}) == ["0", "50", "100"]


@pytest.mark.parametrize(
    "uri",
    ["config://content", "choracompose://config/content/", "CONFIG://content/?offset=0", "config://content/?other=1"],
)
async def test_a_list_of_configs_has_several_spellings(resources: ProjectResources, project: Project, uri: str):
    """With or without a slash and a query, and in the namespace of chora-compose; all are the same to a subscriber."""
    project.save(text("note", "Closed."))
    assert [each["id"] for each in read(resources, uri)["configs"]] == ["note"]
    assert resources.canonical_uri(uri) == "config://content/"


@pytest.mark.parametrize("offset", ["-1", "x", "1.0", "9" * 30, "%F0"])
async def test_an_offset_that_is_no_number_is_refused(resources: ProjectResources, offset: str):
    """The hint says how a list begins; one beyond the end is an empty page."""
    with pytest.raises(InvalidInput) as caught:
        resources.read_resource(f"config://content/?offset={offset}")
    assert "config://content/ for the first page" in str(caught.value.hint)
    beyond = read(resources, "config://content/?offset=999999999")
    assert (beyond["configs"], beyond["next"], beyond["total"]) == ([], None, 0)


async def test_a_list_of_configs_changes_with_each_of_them(engine: Engine):
    """Subscribers of the list hear of a config that changes."""
    provider = ProjectProvider(engine, TOOLS, Metrics())
    assert provider.dependent_changes("config://artifact/sheet") == (("config://artifact/",), False)


@requirement("resources.schema")
@pytest.mark.parametrize("kind", KINDS)
async def test_schemas_are_read_by_kind(resources: ProjectResources, kind: str):
    """What an author needs to write a config."""
    assert kind in read(resources, f"schema://{kind}")["title"]
    assert resources.read_resource(f"schema://{kind}").fixed
    with pytest.raises(ResourceNotFound):
        resources.read_resource("schema://novel")


@requirement("resources.content")
async def test_texts_are_read_by_content_and_by_version(resources: ProjectResources, engine: Engine):
    """Without a version the newest; each version and the list of versions have their own URIs; old spellings too."""
    first = await engine.store.add_version(stored("one"))
    second = await engine.store.add_version(stored("zwei ü"))
    for spelling in ("content://note", "content://generated/note", "choracompose://content/note", "CONTENT://note/"):
        assert resources.read_resource(spelling).text == "zwei ü"
    for spelling in ("content://note/{}", "content://note/v/{}", "content://generated/note/v/{}"):
        assert resources.read_resource(spelling.format(first.version_id)).text == "one"
    for spelling in ("content://note/versions", "content://generated/note/versions"):
        listed = read(resources, spelling)
        assert listed["total_versions"] == 2
        assert [each["version"] for each in listed["versions"]] == [first.version_id, second.version_id]
        assert [each["is_latest"] for each in listed["versions"]] == [False, True]
        assert listed["versions"][1]["size_bytes"] == 7
    with pytest.raises(ContentNotFound, match="No text of 'missing' is stored"):
        resources.read_resource("content://missing")
    with pytest.raises(ContentNotFound, match="No text of 'missing' is stored"):
        resources.read_resource("content://missing/versions")
    with pytest.raises(ContentNotFound) as caught:
        resources.read_resource("content://note/20200101T000000000Z-0000")
    assert "content://note/versions" in str(caught.value.hint)


async def test_a_content_may_have_an_id_that_old_spellings_used(resources: ProjectResources, engine: Engine):
    """`generated` is a valid id: an existing content wins over the meaning of the old spelling."""
    version = await engine.store.add_version(stored("mine", "generated"))
    await engine.store.add_version(stored("other", "note"))
    assert resources.read_resource(f"content://generated/{version.version_id}").text == "mine"
    assert resources.read_resource("content://generated").text == "mine"
    assert resources.read_resource("content://generated/note").text == "other"


async def test_a_deleted_text_is_listed_but_cannot_be_read(resources: ProjectResources, engine: Engine):
    """Its metadata may be kept, its body is gone."""
    gone = await engine.store.add_version(stored("gone"))
    await engine.store.delete_versions([gone.version_id], keep_metadata=True)
    with pytest.raises(ContentNotFound, match="There is no text of note with the version"):
        resources.read_resource(f"content://note/{gone.version_id}")
    with pytest.raises(ContentNotFound, match="No text of 'note' is stored"):
        resources.read_resource("content://note")
    (only,) = read(resources, "content://note/versions")["versions"]
    assert (only["deleted"], only["is_latest"], only["size_bytes"]) == (True, False, 0)
    listed = {each.uri: each for each in resources.list_resources().resources}
    if known := listed.get("content://note"):
        assert known.stat is not None
        assert known.stat().size is None


async def test_a_text_beyond_ten_megabytes_is_refused(resources: ProjectResources, engine: Engine):
    """The error names the limit."""
    await engine.store.add_version(stored("ü" * (SOURCE_LIMIT // 2) + "x"))
    with pytest.raises(LimitExceeded) as caught:
        resources.read_resource("content://note")
    assert caught.value.details["bytes"] == SOURCE_LIMIT
    assert caught.value.hint
    await engine.store.add_version(stored("ü" * (SOURCE_LIMIT // 2)))
    assert len(resources.read_resource("content://note").text or "") == SOURCE_LIMIT // 2


@requirement("resources.generator")
@pytest.mark.parametrize("generator", GENERATORS, ids=lambda module: module.NAME)
async def test_generators_are_described(resources: ProjectResources, generator: Any):
    """Each under its name, with the description from its module."""
    shown = read(resources, f"generator://{generator.NAME}")
    assert shown["version"] == generator.VERSION
    assert shown["capabilities"] == list(generator.CAPABILITIES)
    assert shown["module"] == generator.__name__


@requirement("resources.generator", "manual.one-text")
@pytest.mark.parametrize("generator", GENERATORS, ids=lambda module: module.NAME)
async def test_a_generator_says_how_it_is_used(resources: ProjectResources, generator: Any):
    """Its options as the manual has them, the smallest config and examples, in no more than 16 KiB."""
    uri = f"generator://{generator.NAME}"
    shown = read(resources, uri)
    assert [table["paths"] for table in shown["options"]] == [table.paths for table in option_tables(generator.Options)]
    assert all(field["description"] for table in shown["options"] for field in table["fields"])
    for document in (shown["skeleton"], *(example["config"] for example in shown["examples"])):
        assert parse_config("content", document, where=uri).config.generation.patterns[0].type == generator.NAME
    assert shown["examples"]
    assert all(resources.read_resource(page).mime_type == "text/markdown" for page in shown["manual"])
    assert len(resources.read_resource(uri).text) <= 16 * 1024


@requirement("manual.one-text")
async def test_the_manual_is_read_page_by_page(resources: ProjectResources):
    """As it stands in the package; a name that pages use among themselves is right too."""
    for page in PAGES:
        assert f"manual://{page}" in uris(resources)
        assert resources.read_resource(f"manual://{page}").text == read_page(page)
        assert resources.read_resource(f"manual://{page}.md").text == read_page(page)
    assert resources.complete("manual://{page}", "page", {}) == list(PAGES)
    with pytest.raises(ResourceNotFound) as caught:
        resources.read_resource("manual://novel")
    assert "There are overview, content" in str(caught.value.hint)


async def test_the_old_generator_lists_still_work(resources: ProjectResources):
    """`list`, `builtin` and `plugins` are the lists of chora-compose."""
    for name in ("list", "builtin"):
        assert read(resources, f"generator://{name}")["total_count"] == len(GENERATORS)
    assert read(resources, "generator://plugins")["generators"] == []
    with pytest.raises(GeneratorNotFound):
        resources.read_resource("generator://magic")


async def test_templates_are_read_by_their_encoded_name(resources: ProjectResources, project: Project):
    """Slashes are percent-encoded, and decoded once."""
    project.write("configs/templates/parts/head 100%.j2", "# {{ title }}")
    assert "template://parts%2Fhead%20100%25.j2" in uris(resources)
    assert resources.read_resource("template://parts%2Fhead%20100%25.j2").text == "# {{ title }}"
    assert resources.read_resource("choracompose://template/parts%2Fhead%20100%25.j2").text == "# {{ title }}"
    for uri in ("template://parts%252Fhead%20100%25.j2", "template://parts/head%20100%25.j2", "template://x.j2"):
        with pytest.raises(ResourceNotFound):
            resources.read_resource(uri)


@pytest.mark.parametrize("name", ["..%2F..%2Fchora.toml", "chora.toml", ".env", "%2Fetc%2Fpasswd", "..", "", "a%00b"])
async def test_only_files_in_the_template_folders_are_read_as_templates(
    resources: ProjectResources, project: Project, name: str
):
    """A config may name a template anywhere in the project, but only those in the template folders have URIs."""
    project.write(".env", "KEY=1")
    project.write("configs/templates/a.j2", "a")
    with pytest.raises(ResourceNotFound, match="There is no template"):
        resources.read_resource(f"template://{name}")


async def test_a_template_that_is_not_text_is_refused(resources: ProjectResources, project: Project):
    """The error has a hint."""
    project.write("templates/logo.png", b"\x89PNG\xff")
    with pytest.raises(InvalidInput) as caught:
        resources.read_resource("template://logo.png")
    assert "UTF-8" in caught.value.message


@requirement("resources.manifest")
@pytest.mark.parametrize("base", ["outputs/pack", "outputs/{{ collection_id }}", "outputs/{{collection_id}}"])
async def test_a_manifest_is_read_from_its_collections_output(resources: ProjectResources, project: Project, base: str):
    """It is listed once it exists."""
    project.save(collection(id="pack", output={"base_path": base}))
    with pytest.raises(ManifestNotFound) as caught:
        resources.read_resource("manifest://pack")
    assert "generate_collection" in str(caught.value.hint)
    assert "manifest://pack" not in uris(resources)
    project.write("outputs/pack/manifest.json", '{"collection_id": "pack"}')
    assert read(resources, "manifest://pack") == {"collection_id": "pack"}
    assert "manifest://pack" in uris(resources)


@pytest.mark.parametrize(
    ("base", "error", "problem"),
    [
        ("outputs/{{ day }}", ManifestNotFound, "The collection pack has no manifest yet"),
        ("outputs/{% if x %}a{% endif %}", ManifestNotFound, "The collection pack has no manifest yet"),
        ("../elsewhere", PermissionDenied, "leads outside the project"),
    ],
)
async def test_a_manifest_without_a_known_path_is_not_found(
    resources: ProjectResources, project: Project, base: str, error: type[ChoraError], problem: str
):
    """A path that depends on a build's context, or lies outside the project, doesn't break the list."""
    project.save(collection(id="pack", output={"base_path": base}))
    assert "manifest://pack" not in uris(resources)
    with pytest.raises(error, match=problem):
        resources.read_resource("manifest://pack")


async def test_jobs_are_read_without_their_secrets(resources: ProjectResources, engine: Engine):
    """State, progress and result; values under keys that name secrets are redacted."""
    await engine.store.save_job(
        Job(
            job_id="job-1",
            key="k",
            tool="generate_collection",
            arguments={"context": {"api_key": "sk-1", "monkey": "Ada"}},
            principal="local",
            status="done",
            created_at="2026-11-22T10:15:30.123Z",
            updated_at="2026-11-22T10:16:30.123Z",
            progress={"done": 3, "total": 3},
            result='{"success": true}',
        )
    )
    shown = read(resources, "job://job-1")
    assert shown["arguments"] == {"context": {"api_key": "***", "monkey": "Ada"}}
    assert shown["result"] == {"success": True}
    (listed,) = [each for each in resources.list_resources().resources if each.uri == "job://job-1"]
    assert listed.stat is not None
    assert listed.stat().modified == "2026-11-22T10:16:30.123Z"
    with pytest.raises(JobNotFound):
        resources.read_resource("job://job-2")


# -- capabilities -----------------------------------------------------------------------------------------------


@requirement("resources.capabilities.server")
async def test_server_capabilities_show_version_limits_and_counts(resources: ProjectResources, engine: Engine):
    """Those of the code, the settings and the project."""
    shown = read(resources, "capabilities://server")
    assert shown["version"] == __version__
    assert shown["mcp_version"] == "2026-07-28"
    assert shown["tool_count"] == len(TOOLS)
    assert shown["generator_count"] == len(GENERATORS)
    assert shown["resource_count"] == len(resources.list_resources().resources)
    assert shown["limits"]["max_content_size_bytes"] == engine.settings.render.output
    assert shown["limits"]["max_source_size_bytes"] == SOURCE_LIMIT
    assert shown["limits"]["max_batch_size"] == CONTENTS_LIMIT == 50
    assert shown["concurrency_limits"]["max_parallel_generations"] == CONCURRENCY
    (upstream,) = shown["upstream_dependencies"]
    assert (upstream["generator"], upstream["credentials_required"]) == ("code_generation", ["anthropic_api_key"])
    assert shown["limits"]["max_artifact_components"] == 100
    assert shown["limits"]["ephemeral_retention_days"] == engine.settings.storage.retention_days
    assert shown["concurrency_limits"]["queue_size"] == engine.settings.render.queue
    assert shown["features"]["content_generation"] is True
    fewer = ProjectResources(engine, {}, Metrics())
    assert not any(
        value
        for name, value in read(fewer, "capabilities://server")["features"].items()
        if name not in ("resource_providers", "capability_discovery")
    )


@requirement("resources.capabilities.tools")
async def test_tool_capabilities_show_the_registered_tools(engine: Engine):
    """Every tool in its category, with both schemas and the duration of past calls."""
    metrics = Metrics()
    resources = ProjectResources(engine, TOOLS, metrics)
    shown = read(resources, "capabilities://tools")
    assert shown["metadata"]["total_count"] == len(TOOLS)
    by_name = {tool["name"]: tool for tools in shown["tools_by_category"].values() for tool in tools}
    assert set(by_name) == set(TOOLS)
    for category, tools in shown["tools_by_category"].items():
        for tool in tools:
            assert tool["category"] == category == TOOLS[tool["name"]].category
            assert tool["input_schema"] == TOOLS[tool["name"]].input_schema
            success = TOOLS[tool["name"]].output_schema["anyOf"][0]
            assert {"success", *tool["output_fields"]} == set(success["properties"])
            (example,) = tool["examples"]
            TOOLS[tool["name"]].decode_arguments(msgspec.json.encode(example))
            assert all(shown["metadata"]["errors"][error["code"]] for error in tool["common_errors"])
    assert len(resources.read_resource("capabilities://tools").text or "") <= 24 * 1024
    assert set(TOOL_EXAMPLES) == set(ALL_TOOLS)
    codes = [error["code"] for error in by_name["generate_content"]["common_errors"]]
    assert codes == ["invalid_input", "config_not_found", "invalid_context"]
    assert by_name["generate_content"]["performance"]["typical_ms"] is None
    metrics.call_seconds.observe(0.010, "generate_content")
    metrics.call_seconds.observe(0.030, "generate_content")
    again = read(resources, "capabilities://tools")["tools_by_category"]["Core generation"]
    assert {tool["name"]: tool for tool in again}["generate_content"]["performance"]["typical_ms"] == 20.0


@requirement("resources.capabilities.resources")
async def test_resource_capabilities_show_every_uri_family(resources: ProjectResources, project: Project):
    """Patterns, parameters and examples that exist."""
    project.save(text("note", "Closed."))
    shown = read(resources, "capabilities://resources")["resources"]
    assert set(shown) == {family.scheme for family in FAMILIES}
    assert "content://{content_id}/{version_id}" in shown["content"]["patterns"]
    assert "content_id" in shown["config"]["parameters"]
    for family in FAMILIES:
        assert family.description in shown[family.scheme]["description"]
    for scheme in shown.values():
        for example in scheme["examples"]:
            resources.read_resource(example)


@requirement("resources.capabilities.generators")
async def test_generator_capabilities_show_every_generator(resources: ProjectResources):
    """And how one is chosen."""
    shown = read(resources, "capabilities://generators")
    assert list(shown["generators"]) == [generator.NAME for generator in GENERATORS]
    assert shown["metadata"]["generator_count"] == len(GENERATORS)
    assert shown["selection_strategy"]["fallback"] == "demonstration"
    with pytest.raises(ResourceNotFound):
        resources.read_resource("capabilities://magic")


# -- URIs -------------------------------------------------------------------------------------------------------


@requirement("resources.not-found")
@pytest.mark.parametrize(
    "uri", ["", "x", "nope://x", "content:note", "config://content/a/b/c", "choracompose://", "://"]
)
async def test_an_unknown_uri_is_not_found(resources: ProjectResources, uri: str):
    """The hint says where to look."""
    with pytest.raises(ResourceNotFound) as caught:
        resources.read_resource(uri)
    assert "resources/list" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("uri", "named"),
    [
        ("manual://", "overview"),
        ("schema://", "content, artifact or collection"),
        ("generator://", "Name of a generator"),
        ("capabilities://", "server"),
        ("content://", "Id of a content"),
    ],
)
async def test_a_uri_without_a_name_says_which_there_are(resources: ProjectResources, uri: str, named: str):
    """A page or a topic is no config id."""
    with pytest.raises(InvalidConfigId, match="The URI ends where a name is wanted") as caught:
        resources.read_resource(uri)
    assert named in str(caught.value.hint)


@pytest.mark.parametrize("part", ["..", "a%2Fb", "a%5Cb", "%00", "%0A", "%20", "%FF", "a" * 256])
async def test_an_id_in_a_uri_is_validated(resources: ProjectResources, part: str):
    """Decoded once, then checked as any id, so that no path can be passed as one (CWE-22)."""
    with pytest.raises(InvalidConfigId):
        resources.read_resource(f"config://content/{part}")
    with pytest.raises(InvalidConfigId):
        resources.read_resource(f"content://note/{part}")


@given(st.text(max_size=60), st.sampled_from([family.scheme for family in FAMILIES]))
def test_no_uri_breaks_the_parser(rest: str, scheme: str):
    """Any string fits a family, isn't found, or is refused with an error that callers can act on."""
    try:
        for family, arguments in matching_families(f"{scheme}://{rest}"):
            assert set(arguments) == set(family.parameters)
    except InvalidConfigId:
        pass


async def test_changes_are_published_under_one_spelling(resources: ProjectResources, engine: Engine):
    """Whichever spelling a client subscribes to, and whether the resource exists or not."""
    await engine.store.add_version(stored("one"))
    assert resources.canonical_uri("choracompose://config/content/note") == "config://content/note"
    assert resources.canonical_uri("content://generated/note") == "content://note"
    assert resources.canonical_uri("content://generated/missing") == "content://generated/missing"
    assert resources.canonical_uri("template://a%2Fb.j2") == "template://a%2Fb.j2"
    assert resources.canonical_uri("config://content/%6Eote") == "config://content/note"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ProjectResources, "_locate", lambda resources, uri: pytest.fail("something was read"))
        assert resources.canonical_uri("content://note/%76ersion") == "content://note/version"
    with pytest.raises(ResourceNotFound, match="There is no resource nope://x"):
        resources.canonical_uri("nope://x")


# -- the list ---------------------------------------------------------------------------------------------------


async def test_everything_listed_can_be_read(resources: ProjectResources, project: Project, ask: Asking):
    """With the name, description, type and size that the list gives."""
    project.save(text("note", "Closed."), artifact("sheet", [child("note")]), collection(id="pack"))
    project.write("configs/templates/a.j2", "ä")
    await ask("generate_content", content_config_id="note")
    listed = resources.list_resources().resources
    assert {"config://content/note", "content://note", "config://collection/pack", "template://a.j2"} <= {
        each.uri for each in listed
    }
    for each in listed:
        contents = resources.read_resource(each.uri)
        assert each.name
        assert each.description
        assert each.mime_type == contents.mime_type
        assert isinstance(contents.text, str)
        measure = each.stat() if each.stat else ResourceStat()
        assert measure.size in (None, len(contents.text.encode()))
    measured = {each.uri: each.stat() for each in listed if each.stat}
    assert measured["content://note"].size == 7
    assert measured["template://a.j2"].size == 2
    assert measured["config://content/note"].modified is not None


async def test_a_file_that_vanishes_while_it_is_listed_has_no_size(resources: ProjectResources, project: Project):
    """It stays in the list, which was right when it was begun."""
    project.save(text("note", "Closed."))
    (listed,) = [each for each in resources.list_resources().resources if each.uri == "config://content/note"]
    (project.root / "configs/content/note.json").unlink()
    assert listed.stat is not None
    assert listed.stat() == ResourceStat()


async def test_a_broken_config_is_not_listed(resources: ProjectResources, project: Project):
    """The others are."""
    project.save(text("note", "Closed."))
    project.write("configs/content/broken.json", "{")
    assert [uri for uri in uris(resources) if uri.startswith("config://content")] == ["config://content/note"]


async def test_pages_hold_every_resource_once_while_others_are_added_or_removed(
    resources: ProjectResources, project: Project
):
    """A cursor names the last resource of its page, so that additions and removals shift nothing."""
    for number in range(250):
        project.save(text(f"note-{number:03}", "x"))
    seen: list[str] = []
    page = resources.list_resources()
    seen += [each.uri for each in page.resources]
    assert len(seen) == PAGE_SIZE
    project.save(text("note-000a", "x"))
    (project.root / "configs/content/note-001.json").unlink()
    while page.cursor is not None:
        page = resources.list_resources(page.cursor)
        assert 0 < len(page.resources) <= PAGE_SIZE
        seen += [each.uri for each in page.resources]
    assert len(seen) == len(set(seen))
    assert {f"config://content/note-{number:03}" for number in range(250)} <= set(seen)
    assert seen == sorted(seen)


async def test_texts_are_listed_page_by_page_too(resources: ProjectResources, engine: Engine):
    """Each once, and a page begins after the last one of the page before."""
    await engine.store.add_records(
        stored("x", f"text-{number:03}", f"20260101T000000000Z-{number:04x}") for number in range(230)
    )
    seen: list[str] = []
    cursor: str | None = None
    while True:
        page = resources.list_resources(cursor)
        assert len(page.resources) == PAGE_SIZE or page.cursor is None
        seen += [each.uri for each in page.resources]
        if (cursor := page.cursor) is None:
            break
    assert [uri for uri in seen if uri.startswith("content://")] == [
        f"content://text-{number:03}" for number in range(230)
    ]
    assert seen == sorted(seen)


@pytest.mark.parametrize("cursor", ["x", "ü", "abc", "ff"])
async def test_an_invalid_cursor_is_refused(resources: ProjectResources, cursor: str):
    """The hint says to start from the first page."""
    with pytest.raises(InvalidInput, match="isn't one of this list"):
        resources.list_resources(cursor)


# -- completion -------------------------------------------------------------------------------------------------


async def test_every_parameter_completes_to_existing_values(
    resources: ProjectResources, project: Project, engine: Engine
):
    """A version completes to those of the content chosen before."""
    project.save(text("note", "x"), artifact("sheet", [child("note")]), collection(id="pack"))
    project.write("templates/parts/a.j2", "a")
    version = await engine.store.add_version(stored("one"))
    assert resources.complete("config://content/{content_id}", "content_id", {}) == ["note"]
    assert resources.complete("config://artifact/{artifact_id}", "artifact_id", {}) == ["sheet"]
    assert resources.complete("choracompose://manifest/{collection_id}", "collection_id", {}) == ["pack"]
    assert resources.complete("content://{content_id}", "content_id", {}) == ["note"]
    versions = "content://{content_id}/{version_id}"
    assert resources.complete(versions, "version_id", {"content_id": "note"}) == [version.version_id]
    assert resources.complete(versions, "version_id", {}) == []
    deleted = await engine.store.add_version(stored("two"))
    newer = await engine.store.add_version(stored("three"))
    await engine.store.delete_versions([deleted.version_id], keep_metadata=True)
    assert resources.complete(versions, "version_id", {"content_id": "note"}) == [version.version_id, newer.version_id]
    generators = resources.complete("generator://{generator_type}", "generator_type", {})
    assert generators == sorted(generators)
    assert {"bdd_scenario", "code_generation", "demonstration", "jinja2", "template_fill"} <= set(generators)
    assert resources.complete("template://{name}", "name", {}) == ["parts/a.j2"]
    project.write("templates/z.j2", "z")
    project.write("configs/templates/b.j2", "b")
    assert resources.complete("template://{name}", "name", {}) == ["b.j2", "parts/a.j2", "z.j2"]
    assert resources.complete("schema://{schema_name}", "schema_name", {}) == list(KINDS)
    assert "tools" in resources.complete("capabilities://{topic}", "topic", {})
    assert resources.complete("job://{job_id}", "job_id", {}) == []
    assert resources.complete("job://{job_id}", "other", {}) == []
    with pytest.raises(ResourceNotFound, match="There is no resource template"):
        resources.complete("nope://{x}", "x", {})


async def test_every_parameter_of_every_template_can_be_completed(resources: ProjectResources):
    """No family has a parameter that completion doesn't know."""
    for family in FAMILIES:
        for parameter in family.parameters:
            assert "{" + parameter + "}" in family.template.replace("{?", "{")
            resources.complete(family.template, parameter, {})


async def test_plugin_generators_are_marked_as_such(project: Project):
    """In the lists and in the capabilities."""
    project.write("chora.toml", '[plugins]\ngenerators = ["shout.py"]\n')
    project.write(
        "shout.py",
        'NAME = "shout"\nVERSION = "0.1.0"\nDESCRIPTION = "Shouts."\nCAPABILITIES = ("uppercase",)\n'
        'async def generate(job):\n    return "HELLO"\n'
        "from typing import Annotated\nfrom msgspec import Meta, Struct\n"
        'class Options(Struct):\n    times: Annotated[int, Meta(description="How often")] = 1\n',
    )
    async with open_engine(project.root, settings.load(project.root, {}).settings) as engine:
        resources = ProjectResources(engine, TOOLS, Metrics())
        shout = read(resources, "generator://shout")
        assert shout["source"] == "plugin"
        assert [field["description"] for field in shout["options"][0]["fields"]] == ["How often"]
        assert shout["skeleton"]["generation"]["patterns"] == [{"id": "main", "type": "shout"}]
        assert [each["name"] for each in read(resources, "generator://plugins")["generators"]] == ["shout"]
        assert "generator://shout" in uris(resources)
        assert "shout" in resources.complete("generator://{generator_type}", "generator_type", {})
        shown = read(resources, "capabilities://generators")
        assert (shown["metadata"]["plugin_count"], shown["generators"]["shout"]["status"]) == (1, "beta")
        assert read(resources, "capabilities://server")["features"]["generator_plugins"] is True
