"""Every tool as a client meets it: parameters, defaults, nulls, strings for objects, each result field, each code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from chora import __version__, config
from chora.engine.drafts import PREVIEW_LIMIT
from chora.engine.engine import Engine
from chora.errors import StorageError
from chora.files import Folder
from chora.generators import GENERATORS, jinja2
from chora.render.pool import RenderPool
from chora.stamps import sha256
from chora.store import Draft, SqliteStore, Version
from chora.tools import TOOLS
from chora.tools.tool import Call
from tests.conftest import Asking, Project, artifact, child, content, text, unchanged

STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
VERSION_ID = re.compile(r"\d{8}T\d{9}Z-[0-9a-f]{4}")


def taken(result: dict[str, Any], *fields: str) -> dict[str, Any]:
    """A result without `success` and its duration, and with exactly these fields besides."""
    assert result.pop("success") is True
    assert set(result) == set(fields)
    if "duration_ms" in result:
        assert isinstance(result["duration_ms"], int)
        assert result.pop("duration_ms") >= 0
    return result


NOTHING = [pytest.param({}, id="left out"), pytest.param(None, id="null")]
CONTEXTS = [
    pytest.param({"name": "Ada"}, id="object"),
    pytest.param('{"name": "Ada"}', id="string"),
    pytest.param(' {"name":\n"Ada"}', id="string with blanks"),
]
EMPTY = [None, "", "{}", {}, "null", "  "]


class FailingStore(SqliteStore):
    """A store that can be read, and refuses everything new."""

    async def add_version(self, version: Version) -> Version:
        raise StorageError(
            "The database failed: full.", "Free some disk space.", storage_path="x", error_type="FullError"
        )

    async def save_draft(self, draft: Draft) -> None:
        raise StorageError(
            "The database failed: full.", "Free some disk space.", storage_path="x", error_type="FullError"
        )


@pytest.fixture
def greeting(project: Project) -> Project:
    """`greeting` greets whoever the context names, `sheet` is an artifact of it."""
    pattern = {"type": "template_fill", "template": "Hello {{ name }}!"}
    project.save(content("greeting", pattern=pattern), artifact("sheet", [child("greeting")]))
    return project


# -- hello_world ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "name"), [({}, "World"), ({"name": None}, "World"), ({"name": ""}, "World"), ({"name": "Ada"}, "Ada")]
)
async def test_hello_world(ask: Asking, arguments: dict[str, Any], name: str):
    """Reports what is true now: version, tools, transport."""
    assert taken(
        await ask("hello_world", **arguments), "message", "version", "tools_available", "status", "transport"
    ) == {
        "message": f"Hello, {name}! This is chora.",
        "version": __version__,
        "tools_available": len(TOOLS),
        "status": "operational",
        "transport": "test",
    }


async def test_hello_world_fails_when_the_store_does(ask: Asking, engine: Engine, tmp_path: Path):
    """It is what the probe calls: a server without a store is not up."""
    store = SqliteStore(tmp_path / "gone.db")
    engine.store.close()
    engine.store = store
    store.close()
    assert (await ask.answer("hello_world", {}))["error"]["code"] == "storage_error"
    engine.store = SqliteStore(None)
    await ask.refused("hello_world", "invalid_input", name="x" * 1001)


# -- generate_content -------------------------------------------------------------------------------------------

GENERATED = ("content_id", "status", "content", "generator", "duration_ms", "metadata")


@pytest.mark.parametrize("context", CONTEXTS)
async def test_generate_content(ask: Asking, greeting: Project, engine: Engine, context: Any):
    """A new text, stored, with everything that is known of it."""
    result = taken(await ask("generate_content", content_config_id="greeting", context=context), *GENERATED)
    version = engine.store.latest_version("greeting")
    assert version is not None
    assert result == {
        "content_id": "greeting",
        "status": "generated",
        "content": "Hello Ada!",
        "generator": "template_fill",
        "metadata": {
            "context_variables": ["name"],
            "ephemeral_stored": True,
            "storage_path": str(greeting.root / ".chora/storage.db"),
            "generator_version": "1.0.0",
            "version_id": version.version_id,
            "generated_at": version.generated_at,
            "fingerprint": version.fingerprint,
            "from_cache": False,
            "warnings": [],
        },
    }
    assert VERSION_ID.fullmatch(version.version_id)
    assert STAMP.fullmatch(version.generated_at)
    assert re.fullmatch("sha256:[0-9a-f]{64}", version.fingerprint)


async def test_generate_content_again(ask: Asking, greeting: Project):
    """Skipped with the full text and the real generator while nothing changed; made anew by change or force."""
    arguments: dict[str, Any] = {"content_config_id": "greeting", "context": {"name": "Ada"}}
    first = await ask("generate_content", **arguments)
    skipped = await ask("generate_content", **arguments, force=None)
    assert (skipped["status"], skipped["content"], skipped["generator"]) == ("skipped", "Hello Ada!", "template_fill")
    assert skipped["metadata"] == {**first["metadata"], "from_cache": True}
    forced = await ask("generate_content", **arguments, force=True)
    assert (forced["status"], forced["metadata"]["from_cache"]) == ("regenerated", False)
    assert forced["metadata"]["version_id"] > first["metadata"]["version_id"]
    other = await ask("generate_content", content_config_id="greeting", context={"name": "Bob"})
    assert (other["status"], other["content"]) == ("regenerated", "Hello Bob!")


@pytest.mark.parametrize("empty", EMPTY)
@pytest.mark.parametrize("name", ["generate_content", "preview_generation"])
async def test_an_empty_context_is_none(ask: Asking, project: Project, name: str, empty: Any):
    """Null, nothing, blanks and `{}`, as values or as strings, all mean the same."""
    project.save(text("note", "x"))
    assert await ask(name, content_config_id="note", context=empty)


@pytest.mark.parametrize("name", ["generate_content", "preview_generation"])
async def test_generating_fails_with_the_codes_of_the_reference(ask: Asking, project: Project, name: str):
    """Each with the details that its code promises."""
    missing = await ask.refused(name, "config_not_found", content_config_id="gone")
    assert missing["details"]["content_config_id"] == "gone"
    assert "configs/content/gone.json" in missing["details"]["searched_paths"]
    assert "configs/content/gone/gone-content.json" in missing["details"]["searched_paths"]

    project.save(content("odd", pattern={"type": "oracle"}))
    nobody = await ask.refused(name, "generator_not_found", content_config_id="odd")
    assert nobody["details"] == {"generator_type": "oracle", "available_generators": [each.NAME for each in GENERATORS]}

    project.save(content("fill", pattern={"type": "jinja2", "template": "\n{{ missing }}"}))
    failed = await ask.refused(name, "generation_failed", content_config_id="fill", context={"b": 1, "a": 2})
    assert failed["details"] == {
        "generator_type": "jinja2",
        "error_type": "UndefinedError",
        "content_config_id": "fill",
        "available_context": ["a", "b", "content_id"],
        "template_path": "<inline>",
        "template_line": 2,
        "missing_variable": "missing",
    }
    for config_id in ("", " ", "a/b", "..", "a\\b", "x" * 256):
        await ask.refused(name, "invalid_config_id", content_config_id=config_id)
    for context, received in (([], "array"), (5, "number"), ("x=1", "string"), ("[]", "array"), (True, "boolean")):
        wrong = await ask.refused(name, "invalid_context", content_config_id="fill", context=context)
        assert wrong["details"]["received_type"] == received
        assert wrong["details"]["expected_type"] == "object"
    for arguments in (
        {},
        {"content_config_id": None},
        {"content_config_id": "fill", "force": "yes", "show_metadata": "yes"},
    ):
        await ask.refused(name, "invalid_input", **arguments)


async def test_a_text_that_cannot_be_stored_is_a_storage_failure(
    ask: Asking, greeting: Project, engine: Engine, tmp_path: Path
):
    """Although it was made."""
    engine.store = FailingStore(tmp_path / "full.db")
    failed = await ask.refused(
        "generate_content", "storage_failed", content_config_id="greeting", context={"name": "x"}
    )
    assert failed["details"] == {"storage_path": "x", "error_type": "FullError"}
    engine.store.close()


async def test_a_busy_house_says_so(ask: Asking, project: Project, engine: Engine):
    """The same call may succeed in a moment."""
    project.save(content("note", pattern={"type": "jinja2", "template": "{{ 1 }}"}))
    engine.templates.pool = RenderPool(config.Render())  # one that doesn't run, and says so
    await ask.refused("generate_content", "busy", content_config_id="note")


# -- preview_generation -----------------------------------------------------------------------------------------

PREVIEWED = ("content_id", "preview_content", "content_length", "content_hash", "generator", "metadata", "duration_ms")


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("arguments", [{}, {"show_metadata": None}, {"show_metadata": False}])
async def test_preview_generation(
    ask: Asking, greeting: Project, engine: Engine, context: Any, arguments: dict[str, Any]
):
    """The text and its facts; nothing is stored, told or written."""
    with unchanged(greeting):
        result = await ask("preview_generation", content_config_id="greeting", context=context, **arguments)
    assert taken(result, *PREVIEWED) == {
        "content_id": "greeting",
        "preview_content": "Hello Ada!",
        "content_length": 10,
        "content_hash": sha256(b"Hello Ada!"),
        "generator": "template_fill",
        "metadata": None,
    }
    assert engine.store.counts()["versions"] == 0
    assert not (greeting.root / "var").exists()


async def test_preview_generation_with_metadata(ask: Asking, project: Project):
    """Variables, template, generator and warnings of sources and render."""
    project.write("templates/a.j2", "{{ x }}{{ y }}")
    source = {"id": "gone", "source_type": "external_file", "source_locator": "gone", "required": False}
    pattern = {"type": "jinja2", "template": "a.j2", "generation_config": {"undefined": "lenient"}}
    project.save(content("note", pattern=pattern, sources=[source]), text("plain", "x"))
    result = await ask("preview_generation", content_config_id="note", context={"x": "ü"}, show_metadata=True)
    assert (result["preview_content"], result["content_length"], result["content_hash"]) == (
        "ü",
        1,
        sha256("ü".encode()),
    )
    assert result["metadata"] == {
        "context_variables": ["gone", "x"],
        "template_path": "a.j2",
        "generator_type": "jinja2",
        "warnings": [
            "The optional source gone has no value: there is no file gone",
            "y is undefined and was rendered empty",
        ],
    }
    plain = await ask("preview_generation", content_config_id="plain", show_metadata=True)
    assert plain["metadata"]["template_path"] is None


# -- assemble_artifact ------------------------------------------------------------------------------------------

ASSEMBLED = ("artifact_id", "output_path", "content_count", "size_bytes", "status", "duration_ms", "metadata")


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("arguments", [{}, {"output_path": None, "force": None}])
async def test_assemble_artifact(ask: Asking, greeting: Project, context: Any, arguments: dict[str, Any]):
    """The file and everything that is known of it."""
    greeting.save(
        artifact("sheet", [child("gone", required=False), child("greeting"), child("end")]), text("end", "ü\n")
    )
    result = taken(await ask("assemble_artifact", artifact_config_id="sheet", context=context, **arguments), *ASSEMBLED)
    warnings = result["metadata"].pop("warnings")
    assert result == {
        "artifact_id": "sheet",
        "output_path": "outputs/sheet.md",
        "content_count": 2,
        "size_bytes": len("Hello Ada!\n\nü\n".encode()),
        "status": "assembled",
        "metadata": {
            "missing_content": ["gone"],
            "generated_content": ["greeting", "end"],
            "composition_strategy": "concat",
            "components": [{"content_id": "greeting", "size_bytes": 10}, {"content_id": "end", "size_bytes": 3}],
            "separator": "\n\n",
            "outputs": ["outputs/sheet.md"],
        },
    }
    assert len(warnings) == 1
    assert warnings[0].startswith("The optional child gone was left out: ")
    assert greeting.read("outputs/sheet.md") == "Hello Ada!\n\nü\n"


async def test_assemble_artifact_again(ask: Asking, greeting: Project):
    """Skipped, reassembled, forced, elsewhere."""
    arguments: dict[str, Any] = {"artifact_config_id": "sheet", "context": {"name": "Ada"}}
    await ask("assemble_artifact", **arguments)
    again = await ask("assemble_artifact", **arguments)
    assert (again["status"], again["metadata"]["generated_content"]) == ("skipped", [])
    forced = await ask("assemble_artifact", **arguments, force=True)
    assert (forced["status"], forced["metadata"]["generated_content"]) == ("reassembled", ["greeting"])
    elsewhere = await ask("assemble_artifact", **arguments, output_path="deep/er/x.md")
    assert (elsewhere["status"], elsewhere["output_path"]) == ("assembled", "deep/er/x.md")
    assert greeting.read("deep/er/x.md") == "Hello Ada!"


async def test_assemble_artifact_reports_its_progress(greeting: Project, engine: Engine):
    """To whoever asked for it."""
    told: list[tuple[float, float, str]] = []

    async def progress(done: float, total: float, what: str) -> None:
        told.append((done, total, what))

    arguments = msgspec.json.encode({"artifact_config_id": "sheet", "context": {"name": "x"}})
    await TOOLS["assemble_artifact"].run(engine, arguments, Call("test", progress=progress))
    assert told == [(1, 1, "greeting")]


async def test_assembling_fails_with_the_codes_of_the_reference(ask: Asking, greeting: Project):
    """Each with the details that its code promises."""
    missing = await ask.refused("assemble_artifact", "config_not_found", artifact_config_id="gone")
    assert missing["details"]["artifact_config_id"] == "gone"
    assert "configs/artifacts/gone/gone-artifact.json" in missing["details"]["searched_paths"]

    greeting.save(artifact("a", [child("no"), child("greeting"), child("nor")]))
    needed = await ask.refused("assemble_artifact", "missing_content", artifact_config_id="a", context={"name": "x"})
    assert needed["details"]["missing_content_ids"] == ["no", "nor"]
    assert needed["details"]["available_content_ids"] == ["greeting"]

    greeting.save(artifact("b", [child("greeting")], compositionStrategy="custom"))
    composed = await ask.refused(
        "assemble_artifact", "composition_failed", artifact_config_id="b", context={"name": "x"}
    )
    assert composed["details"]["composition_strategy"] == "custom"
    assert composed["details"]["content_pieces"] == ["greeting"]
    assert composed["details"]["error_type"]

    greeting.write("file", "")
    arguments: dict[str, Any] = {"artifact_config_id": "sheet", "context": {"name": "x"}}
    written = await ask.refused("assemble_artifact", "write_failed", **arguments, output_path="file/x.md")
    assert written["details"]["output_path"] == "file/x.md"
    assert isinstance(written["details"]["errno"], int)
    assert written["details"]["error_type"]

    greeting.write("mine.md", "mine")
    edited = await ask.refused("assemble_artifact", "output_edited", **arguments, output_path="mine.md", force=True)
    assert edited["details"]["output_path"] == "mine.md"
    assert "-mine" in edited["details"]["diff"]

    await ask.refused("assemble_artifact", "permission_denied", **arguments, output_path="../x.md")
    await ask.refused("assemble_artifact", "generation_failed", artifact_config_id="sheet")
    await ask.refused("assemble_artifact", "invalid_context", artifact_config_id="sheet", context="x")
    await ask.refused("assemble_artifact", "invalid_config_id", artifact_config_id="../sheet")
    await ask.refused("assemble_artifact", "invalid_input", artifact_config_id=None)


# -- draft_config, test_config, save_config ---------------------------------------------------------------------


@pytest.mark.parametrize("as_string", [False, True])
@pytest.mark.parametrize("arguments", [{}, {"description": None}, {"description": "for later"}])
async def test_draft_config(ask: Asking, project: Project, engine: Engine, as_string: bool, arguments: dict[str, Any]):
    """A checked config, kept without a file; where it would go, and what could be better."""
    document = {**text("note", "x"), "tags": ["a"]}
    data: Any = msgspec.json.encode(document).decode() if as_string else document
    with unchanged(project):
        result = await ask("draft_config", config_type="content", config_data=data, **arguments)
    result = taken(
        result,
        *(
            "draft_id",
            "config_type",
            "validation_status",
            "validation_issues",
            "preview_path",
            "created_at",
            "duration_ms",
        ),
    )
    (issue,) = result.pop("validation_issues")
    assert (issue["code"], issue["severity"], issue["path"]) == ("unknown_key", "info", "$.tags")
    draft = engine.store.draft(result["draft_id"])
    assert draft is not None
    assert (draft.config_data, draft.description) == (document, arguments.get("description"))
    assert STAMP.fullmatch(result.pop("created_at"))
    assert re.fullmatch(r"draft-\d{8}T\d{6}-[0-9a-f]{6}", result.pop("draft_id"))
    assert result == {
        "config_type": "content",
        "validation_status": "valid",
        "preview_path": "configs/content/note/note-content.json",
    }


async def test_drafting_fails_with_the_codes_of_the_reference(ask: Asking, engine: Engine, tmp_path: Path):
    """Each with the details that its code promises."""
    for data in ({}, None, "", {"type": "content"}, text("Bad Id", "x"), artifact("a", [])):
        wrong = await ask.refused("draft_config", "validation_error", config_type="content", config_data=data)
        assert wrong["details"]["config_type"] == "content"
        assert wrong["details"]["field"].startswith("$")
        assert wrong["details"]["issue"] == wrong["details"]["schema_errors"][0]["message"]
    for data in ("{", [1], 5, "text"):
        assert (await ask.refused("draft_config", "invalid_context", config_type="content", config_data=data))[
            "details"
        ]["parameter"] == "config_data"
    good = text("note", "x")
    for arguments in (
        {"config_type": "template", "config_data": good},
        {"config_type": None, "config_data": good},
        {"config_data": good},
        {"config_type": "content"},
        {"config_type": "content", "config_data": good, "description": "x" * 1001},
    ):
        await ask.refused("draft_config", "invalid_input", **arguments)
    engine.store = FailingStore(tmp_path / "full.db")
    full = await ask.refused("draft_config", "draft_creation_failed", config_type="content", config_data=good)
    assert full["details"]["reason"] == "The database failed: full."
    engine.store.close()


TESTED = (
    *("draft_id", "preview_content", "content_length", "generator_used", "validation_issues", "warnings"),
    *("estimated_cost", "duration_ms"),
)


@pytest.fixture
def drafted(engine: Engine, ask: Asking) -> Any:
    """Draft a config; gives the draft's id."""

    async def drafted(document: dict[str, Any]) -> str:
        return (await ask("draft_config", config_type=document["type"], config_data=document))["draft_id"]

    return drafted


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("arguments", [{}, {"dry_run": None}, {"dry_run": True}])
async def test_test_config(
    ask: Asking, project: Project, engine: Engine, drafted: Any, context: Any, arguments: dict[str, Any]
):
    """The text a draft would make; nothing is stored."""
    pattern = {
        "type": "template_fill",
        "template": "Hello {{ name }}{{ x }}!",
        "generation_config": {"undefined_behavior": "empty"},
    }
    draft_id = await drafted({**content("note", pattern=pattern), "tags": []})
    with unchanged(project):
        result = taken(await ask("test_config", draft_id=draft_id, context=context, **arguments), *TESTED)
    assert [issue["code"] for issue in result.pop("validation_issues")] == ["unknown_key"]
    assert result == {
        "draft_id": draft_id,
        "preview_content": "Hello Ada!",
        "content_length": 10,
        "generator_used": "template_fill",
        "warnings": ["x has no value and was left empty"],
        "estimated_cost": None,
    }
    assert engine.store.counts()["versions"] == 0


@pytest.mark.parametrize(("length", "cut"), [(PREVIEW_LIMIT, False), (PREVIEW_LIMIT + 1, True), (25_000, True)])
async def test_test_config_shows_the_head_of_a_long_text(ask: Asking, drafted: Any, length: int, cut: bool):
    """And says how long it is in all."""
    result = await ask("test_config", draft_id=await drafted(text("note", "x" * length)))
    assert result["content_length"] == length
    trailer = f"\n… ({length:,} characters in all)" if cut else ""
    assert result["preview_content"] == "x" * PREVIEW_LIMIT + trailer


async def test_test_config_can_store_the_text(ask: Asking, engine: Engine, drafted: Any):
    """Under the draft's id."""
    draft_id = await drafted(text("note", "x"))
    await ask("test_config", draft_id=draft_id, dry_run=False)
    assert [version.body for version in engine.store.versions(draft_id)] == ["x"]


async def test_testing_fails_with_the_codes_of_the_reference(ask: Asking, engine: Engine, drafted: Any):
    """Each with the details that its code promises."""
    gone = await ask.refused("test_config", "draft_not_found", draft_id="draft-20260101T000000-000000")
    assert gone["details"] == {"draft_id": "draft-20260101T000000-000000"}
    failing = await drafted(content("note", pattern={"type": "jinja2", "template": "{{ x }}"}))
    failed = await ask.refused("test_config", "test_execution_failed", draft_id=failing)
    assert (failed["details"]["generator"], failed["details"]["error"]) == ("jinja2", "generation_failed")
    assert failed["details"]["missing_variable"] == "x"
    await ask.refused("test_config", "invalid_context", draft_id=failing, context="x")
    pack = {
        "type": "collection",
        "id": "p",
        "name": "P",
        "members": [{"id": "a", "type": "artifact", "path": "a"}],
        "output": {"base_path": "o"},
    }
    await ask.refused("test_config", "test_failed", draft_id=await drafted(pack))
    await ask.refused("test_config", "invalid_input", draft_id=None)
    engine.store.close()
    engine.store = SqliteStore(None)
    await ask.refused("test_config", "draft_not_found", draft_id=failing)


SAVED = ("config_path", "config_id", "config_type", "backup_path", "duration_ms")


@pytest.mark.parametrize("arguments", [{}, {"overwrite": None}, {"overwrite": False}])
async def test_save_config(ask: Asking, project: Project, drafted: Any, arguments: dict[str, Any]):
    """A file, and the config works at once."""
    draft_id = await drafted(text("other", "hello"))
    assert taken(await ask("save_config", draft_id=draft_id, config_id="note", **arguments), *SAVED) == {
        "config_path": "configs/content/note/note-content.json",
        "config_id": "note",
        "config_type": "content",
        "backup_path": None,
    }
    assert (await ask("generate_content", content_config_id="note"))["content"] == "hello"
    await ask.refused("test_config", "draft_not_found", draft_id=draft_id)


async def test_save_config_over_another(ask: Asking, project: Project, drafted: Any):
    """With a backup beside it."""
    project.save(text("note", "old"))
    result = await ask("save_config", draft_id=await drafted(text("note", "new")), config_id="note", overwrite=True)
    assert result["config_path"] == "configs/content/note.json"
    assert msgspec.json.decode(project.read(result["backup_path"])) == text("note", "old")
    assert (await ask("list_content_configs"))["total"] == 1


async def test_saving_fails_with_the_codes_of_the_reference(ask: Asking, project: Project, drafted: Any):
    """Each with the details that its code promises; the draft stays."""
    project.save(text("note", "old"))
    draft_id = await drafted(text("note", "new"))
    with unchanged(project):
        exists = await ask.refused("save_config", "save_failed", draft_id=draft_id, config_id="note")
        assert exists["details"]["config_path"] == "configs/content/note.json"
        for config_id in ("", "Note", "../note", "a" * 300):
            await ask.refused("save_config", "save_failed", draft_id=draft_id, config_id=config_id)
        await ask.refused("save_config", "draft_not_found", draft_id="gone", config_id="note")
        await ask.refused("save_config", "invalid_input", draft_id=draft_id)
    project.write("configs/content/blocked", "")
    blocked = await ask.refused("save_config", "save_execution_failed", draft_id=draft_id, config_id="blocked")
    assert isinstance(blocked["details"]["errno"], int)
    assert await ask("test_config", draft_id=draft_id)


# -- list_generators, list_content_configs, list_artifact_configs -----------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "count", "filtered"),
    [
        ({}, 3, False),
        ({"generator_type": None, "include_plugins": None}, 3, False),
        ({"include_plugins": True}, 3, False),
        ({"include_plugins": False}, 3, True),
        ({"generator_type": "builtin"}, 3, True),
        ({"generator_type": "plugin"}, 0, True),
    ],
)
async def test_list_generators(ask: Asking, arguments: dict[str, Any], count: int, filtered: bool):
    """Those a config can name, with version and capabilities; never an error for finding none."""
    result = taken(await ask("list_generators", **arguments), "generators", "total_count", "filtered")
    assert (len(result["generators"]), result["total_count"], result["filtered"]) == (count, count, filtered)
    if count:
        assert result["generators"][1] == {
            "name": "jinja2",
            "type": "builtin",
            "version": jinja2.VERSION,
            "description": jinja2.DESCRIPTION,
            "capabilities": ["template", "conditionals", "loops", "filters"],
        }


async def test_listing_with_wrong_arguments_is_refused(ask: Asking):
    """A type that isn't one, a pattern that isn't text or too long."""
    await ask.refused("list_generators", "invalid_input", generator_type="other")
    for name in ("list_content_configs", "list_artifact_configs"):
        for pattern in (5, "x" * 256, ["a*"]):
            refused = await ask.refused(name, "invalid_input", filter_pattern=pattern)
            assert refused["details"]["field"] == "$.filter_pattern"


async def test_list_content_configs(ask: Asking, project: Project):
    """Every layout and language, each with its generator and the head of its description."""
    long = "About many things. " * 20
    project.save(content("api-b", pattern={"type": "jinja2", "template": "x.j2"}), text("shown", "x"), content("none"))
    project.write(
        "configs/content/api-a/api-a-content.yaml",
        f"type: content\nid: api-a\nmetadata: {{description: '{long}', version: 1.0.0}}\n",
    )
    result = taken(await ask("list_content_configs"), "total", "configs", "invalid", "duration_ms")
    assert result["total"] == 4
    assert result["invalid"] == []
    assert [each["id"] for each in result["configs"]] == ["api-a", "api-b", "none", "shown"]
    assert result["configs"][:2] == [
        {
            "id": "api-a",
            "file_path": "configs/content/api-a/api-a-content.yaml",
            "generator_type": None,
            "description": long,
            "title": long[:50],
        },
        {
            "id": "api-b",
            "file_path": "configs/content/api-b.json",
            "generator_type": "jinja2",
            "description": "About api-b",
            "title": "About api-b",
        },
    ]
    assert result["configs"][3]["generator_type"] == "demonstration", "the one that would run"


async def test_list_artifact_configs(ask: Asking, project: Project):
    """With the number of children; the purpose stands in for a description."""
    project.save(
        artifact("b", [child("x"), child("y")]), artifact("a", [child("x")], description="Described", title="A!")
    )
    result = taken(await ask("list_artifact_configs"), "total", "configs", "invalid", "duration_ms")
    assert result == {
        "total": 2,
        "configs": [
            {
                "id": "a",
                "file_path": "configs/artifact/a.json",
                "description": "Described",
                "title": "A!",
                "component_count": 1,
            },
            {
                "id": "b",
                "file_path": "configs/artifact/b.json",
                "description": "For the tests",
                "title": "b",
                "component_count": 2,
            },
        ],
        "invalid": [],
    }


@pytest.mark.parametrize("kind", ["content", "artifact"])
async def test_lists_take_a_glob_and_hide_nothing(ask: Asking, project: Project, kind: str):
    """Over ids, in full; a broken file is always shown, with its reason."""
    name = f"list_{kind}_configs"
    assert (await ask(name))["total"] == 0
    ids = ["api-one", "api-two", "my-api"]
    project.save(*(text(each, "x") if kind == "content" else artifact(each, [child("x")]) for each in ids))
    project.write(f"configs/{kind}/broken.json", "{")
    for pattern, found in (
        (None, ids),
        ("", ids),
        ("*", ids),
        ("api*", ["api-one", "api-two"]),
        ("api-???", ["api-one", "api-two"]),
        ("*-api", ["my-api"]),
        ("[am]*-[ot]*", ["api-one", "api-two"]),
        ("api", []),
        ("API*", []),
    ):
        result = await ask(name, filter_pattern=pattern)
        assert [each["id"] for each in result["configs"]] == found
        assert result["total"] == len(found)
        (invalid,) = result["invalid"]
        assert invalid["file_path"] == f"configs/{kind}/broken.json"
        assert "is not JSON" in invalid["error"]
    assert Folder(project.root).is_file(f"configs/{kind}/broken.json")
