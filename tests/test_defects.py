"""Defects that chora-compose was known for, one test each, through the tools or the real server."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
import trio

from chora import __version__, settings, this_process
from chora.cli import COMMANDS
from chora.engine.engine import Engine, open_engine
from chora.generators.registry import Generator
from chora.metrics import Metrics
from chora.resources import ProjectResources
from chora.timestamps import format_timestamp
from chora.tools import TOOLS
from tests import http_client
from tests.conftest import Asking, OpenHttpClient, Project, artifact, child, content, requirement, text, unchanged
from tests.patience import PATIENCE


@pytest.fixture
def resources(engine: Engine) -> ProjectResources:
    return ProjectResources(engine, TOOLS, Metrics())


def fill(id: str, template: str, **rest: Any) -> dict[str, Any]:
    """A content whose text is a filled template."""
    return content(id, pattern={"type": "template_fill", "template": template}, **rest)


# -- seen by reading its source ---------------------------------------------------------------------------------


@requirement("defects.lists-empty")
async def test_lists_show_what_there_is(ask: Asking, project: Project):
    """list_content_configs and list_artifact_configs were always empty: they read attributes that weren't there."""
    project.save(text("note", "x"), artifact("sheet", [child("note")]))
    assert [each["id"] for each in (await ask("list_content_configs"))["configs"]] == ["note"]
    assert [each["id"] for each in (await ask("list_artifact_configs"))["configs"]] == ["sheet"]


@requirement("defects.lists-empty")
async def test_lists_do_not_swallow_what_is_wrong(ask: Asking, project: Project):
    """A file that couldn't be read made the lists empty, without a word."""
    project.save(text("note", "x"))
    project.write("configs/content/broken.json", "{")
    listed = await ask("list_content_configs")
    assert (listed["total"], [each["file_path"] for each in listed["invalid"]]) == (1, ["configs/content/broken.json"])


@requirement("defects.resources-broken")
async def test_content_and_generators_can_be_read_as_resources(
    ask: Asking, project: Project, resources: ProjectResources
):
    """content:// and generator:// called methods that no store and no registry had."""
    project.save(text("note", "hello"))
    made = await ask("generate_content", content_config_id="note")
    assert resources.read_resource("content://note").text == "hello"
    assert resources.read_resource(f"content://note/{made['metadata']['version_id']}").text == "hello"
    for generator in (await ask("list_generators"))["generators"]:
        assert json.loads(resources.read_resource(f"generator://{generator['name']}").text)["name"] == generator["name"]


@requirement("defects.schemas-missing")
@pytest.mark.parametrize("kind", ["content", "artifact", "collection"])
async def test_schemas_can_be_read_as_resources(resources: ProjectResources, kind: str):
    """schema:// looked for files in a folder that had none."""
    jsonschema.Draft202012Validator.check_schema(json.loads(resources.read_resource(f"schema://{kind}").text))


@requirement("defects.sources-unresolved")
async def test_sources_are_resolved_when_a_content_is_generated(ask: Asking, project: Project):
    """generate_content never looked at inputs.sources."""
    project.write("data/port.json", '{"name": "Norrvik"}')
    source = {"id": "port", "source_type": "external_file", "source_locator": "data/port.json"}
    project.save(fill("note", "{{ port.name }}", sources=[source]))
    assert (await ask("generate_content", content_config_id="note"))["content"] == "Norrvik"


@requirement("defects.skips-whenever-stored", "rulings.c5")
@pytest.mark.parametrize("change", ["context", "config", "template", "source"])
async def test_a_stored_text_is_only_taken_if_nothing_changed(ask: Asking, project: Project, change: str):
    """generate_content skipped whenever anything was stored, whatever the context was."""
    project.write("configs/templates/a.j2", "{{ name }} {{ port }}")
    project.write("port.txt", "Norrvik")
    source = {"id": "port", "source_type": "external_file", "source_locator": "port.txt"}
    document = content("note", pattern={"type": "jinja2", "template": "a.j2"}, sources=[source])
    project.save(document)
    first = await ask("generate_content", content_config_id="note", context={"name": "Ada"})
    name = "Bob" if change == "context" else "Ada"
    match change:
        case "config":
            project.save({**document, "metadata": {"description": "Another", "version": "1.0.1"}})
        case "template":
            project.write("configs/templates/a.j2", "{{ port }} {{ name }}")
        case "source":
            project.write("port.txt", "Sorrvik")
        case _:
            pass
    again = await ask("generate_content", content_config_id="note", context={"name": name})
    assert again["status"] == "regenerated"
    assert again["metadata"]["fingerprint"] != first["metadata"]["fingerprint"]


@requirement("defects.assembly-needs-everything-stored", "rulings.c6", "rulings.c7")
async def test_an_assembly_makes_what_is_missing_and_takes_what_is_stored(
    ask: Asking, project: Project, engine: Engine
):
    """assemble_artifact wanted every child stored, optional ones too, and then made them all again."""
    project.save(text("stored", "a"), text("new", "b"))
    project.save(artifact("sheet", [child("stored"), child("new"), child("gone", required=False)]))
    await ask("generate_content", content_config_id="stored")
    made = await ask("assemble_artifact", artifact_config_id="sheet")
    assert made["metadata"]["generated_content"] == ["new"]
    assert made["metadata"]["missing_content"] == ["gone"]
    assert len(engine.store.versions("stored")) == 1


@requirement("defects.artifact-skips-on-existence")
async def test_an_existing_file_is_written_anew_when_its_text_changed(ask: Asking, project: Project):
    """assemble_artifact skipped as soon as the file was there, which was the first complaint about staleness."""
    project.save(text("note", "old"), artifact("sheet", [child("note")]))
    await ask("assemble_artifact", artifact_config_id="sheet")
    project.save(text("note", "new"))
    assert (await ask("assemble_artifact", artifact_config_id="sheet"))["status"] == "reassembled"
    assert project.read("outputs/sheet.md") == "new"


@requirement("defects.previous-time-unknown")
async def test_regenerating_knows_when_the_previous_text_was_made(ask: Asking, project: Project):
    """regenerate_content always called the time of the previous text unknown."""
    project.save(text("note", "x"))
    first = await ask("generate_content", content_config_id="note")
    again = await ask("regenerate_content", content_config_id="note")
    assert again["previous_version"]["generated_at"] == first["metadata"]["generated_at"]


@requirement("defects.set-based-diff")
async def test_a_diff_counts_duplicates_and_order(ask: Asking, project: Project):
    """regenerate_content compared sets of lines: a line that was doubled or moved was no change."""
    project.save(fill("note", "{{ lines }}"))

    async def changes(before: str, after: str) -> dict[str, Any]:
        await ask("generate_content", content_config_id="note", context={"lines": before}, force=True)
        made = await ask("regenerate_content", content_config_id="note", context={"lines": after})
        return made["changes"]

    doubled = await changes("a\nb", "a\na\nb")
    assert (doubled["lines_added"], doubled["lines_removed"], doubled["lines_changed"]) == (1, 0, 0)
    moved = await changes("a\nb\nc", "c\na\nb")
    assert moved["lines_added"] == moved["lines_removed"] == 1
    replaced = await changes("a\nb\nc", "a\nx\nc")
    assert replaced["diff_summary"] == "+0 -0 ~1"


@requirement("defects.list-content-constants")
async def test_list_content_tells_the_truth_about_versions(ask: Asking, project: Project, engine: Engine):
    """list_content said of every content that it was generated just now, once."""
    project.save(text("note", "x"), text("other", "y"))
    for _ in range(3):
        made = await ask("generate_content", content_config_id="note", force=True)
    note, other = (await ask("list_content"))["content"]
    assert (note["versions_available"], note["last_generated"]) == (3, made["metadata"]["generated_at"])  # pyright: ignore[reportPossiblyUnboundVariable]
    assert (other["versions_available"], other["last_generated"], other["generated"]) == (0, None, False)


@requirement("defects.delete-scan-not-recursive")
@pytest.mark.parametrize(
    "path",
    [
        "configs/artifact/sheet.json",
        "configs/artifact/sheet/sheet-artifact.json",
        "configs/artifacts/sheet/sheet-artifact.json",
        "configs/artifact/deep/er/sheet.yaml",
    ],
)
async def test_a_reference_in_any_folder_protects_a_content(ask: Asking, project: Project, path: str):
    """delete_content looked for artifacts in one folder only, and failed at reading them."""
    project.save(text("note", "x"))
    project.write(path, msgspec.json.encode(artifact("sheet", [child("note")])))
    await ask("generate_content", content_config_id="note")
    refused = await ask.refused("delete_content", "referenced_by_artifacts", content_id="note")
    assert refused["details"]["artifact_ids"] == ["sheet"]


@requirement("defects.preserve-metadata-by-suffix")
@pytest.mark.parametrize("output_format", ["markdown", "json", "yaml", "python", "gherkin", "html"])
async def test_metadata_can_be_kept_of_any_text(ask: Asking, project: Project, engine: Engine, output_format: str):
    """delete_content kept metadata only of .txt and .md files."""
    document = text("note", "x")
    document["metadata"]["output_format"] = output_format
    project.save(document)
    await ask("generate_content", content_config_id="note")
    await ask("delete_content", content_id="note", preserve_metadata=True)
    (info,) = engine.store.version_infos("note")
    assert (info.deleted, info.size) == (True, 0)


@requirement("defects.validation-misses-texts")
async def test_a_stored_text_is_validated_and_warnings_leave_it_valid(ask: Asking, project: Project):
    """validate_content looked for texts in the wrong folder, and warnings alone made them invalid."""
    project.save(text("note", "Berth 4 is closed, see [TBD]"))
    await ask("generate_content", content_config_id="note")
    found = await ask("validate_content", content_or_config_id="note")
    assert "content_incomplete" in [issue["code"] for issue in found["issues"]]
    assert found["warning_count"] > 0
    assert found["valid"] is True


@requirement("defects.batch-ignores-continue-on-error")
async def test_a_batch_stops_at_the_first_error_if_asked(ask: Asking, project: Project):
    """batch_generate ignored continue_on_error."""
    project.save(content("broken", pattern={"type": "oracle"}), text("a", "x"), text("b", "x"))
    result = await ask("batch_generate", content_ids=["a", "broken", "b"], continue_on_error=False, max_parallel=1)
    assert [item["status"] for item in result["results"]] == ["generated", "failed", "failed"]
    assert result["results"][2]["error"]["code"] == "not_run"


@requirement("defects.batch-unbounded")
async def test_a_batch_has_an_upper_bound(ask: Asking):
    """batch_generate took any number of contents, and any number at once."""
    await ask.refused("batch_generate", "invalid_input", content_ids=[f"c{number}" for number in range(51)])
    await ask.refused("batch_generate", "invalid_input", content_ids=["a"], max_parallel=11)


@requirement("defects.batch-serial")
async def test_a_batch_overlaps(ask: Asking, project: Project, monkeypatch: pytest.MonkeyPatch):
    """batch_generate awaited synchronous calls, so that its texts were made one after the other."""
    project.save(*(text(id, "x") for id in "abc"))
    started: list[str] = []
    all_started = trio.Event()

    async def meet(generator: Any, job: Any) -> Any:
        started.append(job.config.id)
        if len(started) == 3:
            all_started.set()
        await all_started.wait()
        return await run(generator, job)

    run = Generator.generate_text
    monkeypatch.setattr(Generator, "generate_text", meet)
    with trio.fail_after(PATIENCE):
        result = await ask("batch_generate", content_ids=["a", "b", "c"])
    assert result["successful"] == 3


@requirement("defects.batch-regenerated-uncounted")
async def test_a_batch_counts_what_it_made_again(ask: Asking, project: Project):
    """batch_generate left regenerated contents out of its sums."""
    project.save(text("a", "x"), text("b", "x"))
    await ask("batch_generate", content_ids=["a"])
    result = await ask("batch_generate", content_ids=["a", "b"], force=True)
    assert (result["generated"], result["successful"]) == (2, 2)
    assert result["total"] == result["generated"] + result["skipped"] + result["failed"]


@requirement("defects.shallow-merge")
async def test_modifying_one_key_keeps_its_siblings(ask: Asking, engine: Engine):
    """modify_config merged at the top only: changing one key of metadata dropped the others."""
    drafted = await ask("draft_config", config_type="content", config_data=text("note", "x"))
    await ask("modify_config", config_id=drafted["draft_id"], updates={"metadata": {"description": "New"}})
    draft = engine.store.draft(drafted["draft_id"])
    assert draft is not None
    assert draft.config_data["metadata"] == {"description": "New", "version": "1.0.0"}


@requirement("defects.drafts-never-expire", "rulings.c17")
async def test_drafts_expire_after_thirty_days(ask: Asking, engine: Engine):
    """Nothing ever removed a draft."""
    ids: list[str] = []
    for age in (29, 31):
        made = await ask("draft_config", config_type="content", config_data=text("note", "x"))
        draft = engine.store.draft(made["draft_id"])
        assert draft is not None
        then = format_timestamp(datetime.now(UTC) - timedelta(days=age))
        await engine.store.save_draft(msgspec.structs.replace(draft, updated_at=then))
        ids.append(made["draft_id"])
    assert (await ask("cleanup_ephemeral"))["drafts_deleted"] == 1
    assert [engine.store.draft(draft_id) is None for draft_id in ids] == [False, True]


@requirement("defects.drafts-swept-as-content")
async def test_cleaning_up_texts_leaves_drafts(ask: Asking, engine: Engine):
    """cleanup_ephemeral took the folder of the drafts for a content, and swept it."""
    made = await ask("draft_config", config_type="content", config_data=text("note", "x"))
    nothing = {"keep_versions": 0, "keep_days": 0, "keep_latest": False}
    cleaned = await ask("cleanup_ephemeral", retention=nothing)
    assert (cleaned["drafts_deleted"], cleaned["total_content_checked"]) == (0, 0)
    assert engine.store.draft(made["draft_id"]) is not None


@requirement("defects.saved-artifacts-unreachable", "rulings.c16")
async def test_a_saved_artifact_can_be_loaded_again(ask: Asking, project: Project):
    """save_config wrote to one folder and the loader read from another, singular against plural."""
    project.save(text("note", "x"))
    drafted = await ask("draft_config", config_type="artifact", config_data=artifact("sheet", [child("note")]))
    await ask("save_config", draft_id=drafted["draft_id"], config_id="weekly")
    assert (await ask("assemble_artifact", artifact_config_id="weekly"))["artifact_id"] == "weekly"
    assert (await ask("list_artifacts"))["artifacts"][0]["id"] == "weekly"


@requirement("defects.id-differs-from-config-id")
async def test_a_config_goes_by_the_id_it_is_saved_under(ask: Asking, project: Project):
    """The id inside a saved file could be another one than that of the call."""
    drafted = await ask("draft_config", config_type="content", config_data=text("inner", "x"))
    saved = await ask("save_config", draft_id=drafted["draft_id"], config_id="outer")
    assert json.loads(project.read(saved["config_path"]))["id"] == "outer"
    await ask.refused("generate_content", "config_not_found", content_config_id="inner")


@requirement("defects.test-hooks-in-signatures")
@pytest.mark.parametrize("name", TOOLS)
def test_no_hook_for_tests_is_a_parameter(name: str):
    """Parameters that began with an underscore stood in public signatures, for tests to inject things by."""
    assert not [each for each in TOOLS[name].input_schema["properties"] if each.startswith("_")]
    assert list(inspect.signature(TOOLS[name].function).parameters) == ["engine", "arguments", "call"]


@requirement("defects.llm-key-read-once")
async def test_a_key_is_looked_for_whenever_it_is_needed(ask: Asking, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The key was read once, when the registry was made: one that came later was never seen."""

    async def status() -> str:
        shown = (await ask("list_generators"))["generators"]
        return next(each["status"] for each in shown if each["name"] == "code_generation")

    assert await status() == "unavailable"
    file = tmp_path / "key"
    file.write_text(" sk-ant-test \n")
    monkeypatch.setenv("ANTHROPIC_API_KEY_FILE", str(file))
    assert await status() == "available"
    monkeypatch.delenv("ANTHROPIC_API_KEY_FILE")
    assert await status() == "unavailable"


@requirement("defects.output-path-traversal")
@pytest.mark.parametrize("path", ["../x.md", "outputs/../../x.md", "/etc/x.md", ".chora/storage.db"])
async def test_an_output_stays_inside_the_project(ask: Asking, project: Project, path: str):
    """output_path wasn't checked at all."""
    project.save(text("note", "x"), artifact("sheet", [child("note")]))
    with unchanged(project):
        await ask.refused("assemble_artifact", "permission_denied", artifact_config_id="sheet", output_path=path)
    assert not (project.root.parent / "x.md").exists()


@requirement("defects.telemetry-breaks-work", "events.never-fail")
async def test_events_that_cannot_be_written_break_nothing(ask: Asking, project: Project):
    """A failure to write an event failed the generation."""
    project.write("var", "a file in the way")
    project.save(text("note", "x"))
    assert (await ask("generate_content", content_config_id="note"))["content"] == "x"


@requirement("defects.validation-event-never-emitted", "events.validation-completed")
async def test_a_validation_emits_an_event(ask: Asking, project: Project):
    """`chora.validation_completed` was in the schema and never emitted."""
    project.save(text("note", "A text that is long enough."))
    await ask("validate_content", content_or_config_id="note")
    events = [json.loads(line) for line in project.read("var/telemetry/events.jsonl").splitlines()]
    (event,) = [each for each in events if each["event_type"] == "chora.validation_completed"]
    assert event["status"] == "success"
    assert event["validation_passed"] is True


@requirement("defects.literal-replacement")
async def test_backslashes_in_values_are_literal(ask: Asking, project: Project):
    """The demonstration generator fed values to a regex replacement, and template_fill unescaped them."""
    path = "C:\\new\\table \\1 \\g<0>"
    demonstration = {
        "type": "demonstration",
        "template": "{{ where }}",
        "variables": [{"name": "where", "source": "elements.body.example_output"}],
    }
    project.save(fill("filled", "{{ where }}"), {**text("shown", path), **content("shown", pattern=demonstration)})
    assert (await ask("generate_content", content_config_id="filled", context={"where": path}))["content"] == path
    assert (await ask("generate_content", content_config_id="shown"))["content"] == path


@requirement("defects.demonstration-without-template")
async def test_a_demonstration_without_a_template_shows_its_elements(ask: Asking, project: Project):
    """The example of the specification, a pattern without template or variables, gave an empty text."""
    project.save(
        content(
            "harbor-note",
            elements=[
                {"name": "line", "format": "text", "example_output": "Berth 4 is closed on Friday."},
                {"name": "more", "format": "text", "example_output": "Ask at the desk."},
            ],
            pattern={"type": "demonstration"},
        )
    )
    made = await ask("generate_content", content_config_id="harbor-note")
    assert made["content"] == "Berth 4 is closed on Friday.\n\nAsk at the desk."


@requirement("defects.stale-source-cache")
async def test_a_source_is_read_anew_in_every_call(ask: Asking, project: Project):
    """The resolver remembered sources for the life of the process."""
    source = {"id": "port", "source_type": "external_file", "source_locator": "port.txt"}
    project.save(fill("note", "{{ port }}", sources=[source]))
    for name in ("Norrvik", "Sorrvik"):
        project.write("port.txt", name)
        assert (await ask("generate_content", content_config_id="note"))["content"] == name


@requirement("defects.separator-piles-up")
async def test_pieces_stand_one_blank_line_apart(ask: Asking, project: Project):
    """Trailing newlines of pieces made three and more between them."""
    project.save(text("a", "one\n"), text("b", "two\n"), artifact("sheet", [child("a"), child("b")]))
    await ask("assemble_artifact", artifact_config_id="sheet")
    assert project.read("outputs/sheet.md") == "one\n\ntwo\n"


@requirement("defects.estimated-cost-null")
async def test_the_cost_of_a_test_is_estimated(ask: Asking, project: Project, monkeypatch: pytest.MonkeyPatch):
    """estimated_cost was always null; for what asks a paid model it is known before it is asked."""
    pattern = {"type": "code_generation", "generation_config": {"prompt": "Sort", "model": "claude-3-haiku-20240307"}}
    project.save(content("code", pattern=pattern))
    shown = await ask("preview_generation", content_config_id="code")
    assert shown["metadata"]["cost"]["estimated_usd"] > 0


# -- the pilot's notes ------------------------------------------------------------------------------------------


@requirement("defects.no-cli-no-version")
def test_there_is_a_command_line_and_a_version():
    """The installed package had neither, so its readiness couldn't be checked."""
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)
    assert {"generate", "assemble", "collect", "serve", "stdio", "version"} <= set(COMMANDS)


@requirement("defects.health-404")
async def test_health_is_there(http_client: OpenHttpClient):
    """/health was documented and answered 404; it and /ready need no token."""
    async with http_client() as client:
        health = await client.http.get("/health")
        assert (health.status_code, health.json()["status"]) == (200, "alive")
        ready = await client.http.get("/ready")
        assert (ready.status_code, ready.json()["status"]) == (200, "ready")


@requirement("defects.hello-hard-coded")
async def test_hello_counts_tools_and_knows_its_transport(http_client: OpenHttpClient):
    """hello_world always said four tools and stdio."""
    async with http_client() as client:
        await client.initialize()
        said = (await client.call("hello_world")).json()["result"]["structuredContent"]
    assert (said["tools_available"], said["transport"]) == (len(TOOLS), "http")


@requirement("defects.conditions-unused", "assembly.conditions")
async def test_a_condition_includes_a_child_or_leaves_it_out(ask: Asking, project: Project):
    """There was no conditional inclusion: `conditions` was never read."""
    project.save(text("a", "all"), text("b", "crew only"))
    project.save(artifact("sheet", [child("a"), child("b", conditions='audience == "crew"')]))
    for audience, expected in (("crew", "all\n\ncrew only"), ("guests", "all")):
        await ask("assemble_artifact", artifact_config_id="sheet", context={"audience": audience})
        assert project.read("outputs/sheet.md") == expected


@requirement("defects.mismatch-without-help", "rulings.c35")
async def test_a_config_of_another_dialect_says_what_to_write(ask: Asking, project: Project):
    """Configs whose schemaRef has a uri, or version 1.0, failed without a helpful word."""
    document = text("note", "x")
    document["schemaRef"] = {"uri": "https://example.org/content-schema", "version": "1.0"}
    drafted = await ask("draft_config", config_type="content", config_data=document)
    assert any('"schemaRef"' in issue["write"] for issue in drafted["validation_issues"])
    project.write(
        "configs/content/other.json", '{"content_id": "other", "generator_type": "jinja2", "template_path": "a"}'
    )
    refused = await ask.refused("generate_content", "validation_failed", content_config_id="other")
    assert "dialect" in json.dumps(refused["details"])
    assert any(each.get("write") for each in refused["details"]["schema_errors"])


@requirement("defects.json-cannot-be-assembled")
async def test_json_pieces_can_become_one_document(ask: Asking, project: Project):
    """Concatenating two JSON texts gave a file that was no JSON."""
    output = {"file": "outputs/all.json", "format": "json"}
    project.save(text("a", '{"berth": 4}'), text("b", '{"open": true}'))
    project.save(artifact("sheet", [child("a"), child("b")], output, compositionStrategy="merge"))
    await ask("assemble_artifact", artifact_config_id="sheet")
    assert json.loads(project.read("outputs/all.json")) == {"berth": 4, "open": True}
    project.save(artifact("sheet", [child("a"), child("b")], output))
    await ask.refused("assemble_artifact", "composition_failed", artifact_config_id="sheet")


@requirement("defects.force-missing")
async def test_force_reaches_the_children_of_an_artifact(ask: Asking, project: Project, engine: Engine):
    """The composer had no force: a fresh text needed a call for every child."""
    project.save(text("a", "x"), text("b", "x"), artifact("sheet", [child("a"), child("b")]))
    await ask("assemble_artifact", artifact_config_id="sheet")
    forced = await ask("assemble_artifact", artifact_config_id="sheet", force=True)
    assert forced["metadata"]["generated_content"] == ["a", "b"]
    assert len(engine.store.versions("a")) == 2


@requirement("defects.retrieval-strategy-unwired", "assembly.retrieval")
async def test_a_retrieval_strategy_is_followed(ask: Asking, project: Project):
    """retrievalStrategy was read and never used."""
    approved = {**text("note", "approved"), "evolution": {"stage": "approved"}}
    project.save(approved)
    await ask("generate_content", content_config_id="note")
    project.save(text("note", "draft"))
    await ask("generate_content", content_config_id="note")
    for strategy, expected in (("approved_only", "approved"), ("latest", "draft"), ("all", "approved\n\ndraft")):
        project.save(artifact("sheet", [child("note", retrievalStrategy=strategy)]))
        await ask("assemble_artifact", artifact_config_id="sheet")
        assert project.read("outputs/sheet.md") == expected


@requirement("defects.no-context-for-collections")
async def test_a_collection_takes_context_in_its_call(ask: Asking, project: Project):
    """generate_collection had no context parameter."""
    project.save(fill("note", "{{ season }}"), artifact("sheet", [child("note")]))
    members = [{"id": "sheet", "type": "artifact", "path": "sheet.json"}]
    project.save({"type": "collection", "id": "pack", "name": "P", "members": members, "output": {"base_path": "out"}})
    await ask("generate_collection", collection_config_path="pack", context={"season": "winter"})
    assert project.read("out/sheet/sheet.md") == "winter"


@requirement("defects.git-references", "sources.git-reference")
async def test_a_git_reference_is_a_file_as_a_commit_has_it(ask: Asking, project: Project):
    """Full git references stood on the roadmap; options in their place are refused."""
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}

    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.invalid"]
        subprocess.run(
            ["git", *identity, *arguments], cwd=project.root, env=environment, check=True, capture_output=True
        )

    git("init", "-q")
    project.write("safety.md", "# Safety\n\nLife vests.\n")
    git("add", "safety.md")
    git("commit", "-qm", "first")
    project.write("safety.md", "changed since\n")
    source = {"id": "policy", "source_type": "git_reference", "source_locator": "HEAD:safety.md"}
    project.save(fill("note", "{{ policy }}", sources=[source]))
    assert "Life vests." in (await ask("generate_content", content_config_id="note"))["content"]
    source["source_locator"] = "--upload-pack=touch x:safety.md"
    project.save(fill("note", "{{ policy }}", sources=[source]))
    await ask.refused("generate_content", "generation_failed", content_config_id="note")


# -- traps of the protocol --------------------------------------------------------------------------------------


@requirement("traps.streamable-http")
async def test_both_ways_over_http_are_there(http_client: OpenHttpClient):
    """/sse is a legacy transport; /mcp speaks the one that replaced it."""
    async with http_client() as client:
        await client.initialize()
        async with client.http.stream("GET", "/sse") as response:
            assert response.status_code == 200
            assert response.headers["content-type"].startswith("text/event-stream")


@requirement("traps.version-ids", "identity.version-ids")
async def test_version_ids_are_fit_for_uris(ask: Asking, project: Project, resources: ProjectResources):
    """They held `:` and `+`, which the pattern of their own resource didn't match."""
    project.save(text("note", "x"))
    made = await ask("generate_content", content_config_id="note")
    version_id = made["metadata"]["version_id"]
    assert re.fullmatch(r"\d{8}T\d{9}Z-[0-9a-f]{4}", version_id)
    assert resources.read_resource(f"content://note/{version_id}").text == "x"


@requirement("traps.tools-stay-callable")
async def test_a_tool_is_a_function_that_can_be_called(engine: Engine):
    """Fifteen of seventeen tests failed because decorating a function made it uncallable."""
    from chora.protocol.types import Call

    tool = TOOLS["hello_world"]
    answer: Any = await tool.function(engine, tool.decode_arguments(b"{}"), Call("test"))
    assert answer.message == "Hello, World! This is chora."


@requirement("traps.filter-and-format")
async def test_a_parameter_may_be_called_filter(ask: Asking, project: Project):
    """Parameters named after built-in functions got in the way of them."""
    project.save(text("note", "x"))
    assert (await ask("list_content", filter={"generated": False}))["total"] == 1


@requirement("traps.is-error-and-envelope")
async def test_a_failure_is_an_error_and_an_envelope(http_client: OpenHttpClient):
    """Clients that look at isError and those that look at `success` learn the same; the text is the same JSON."""
    async with http_client() as client:
        await client.initialize()
        failed = (await client.call("generate_content", content_config_id="gone")).json()["result"]
        fine = (await client.call("hello_world")).json()["result"]
    assert failed["isError"] is True
    assert failed["structuredContent"]["success"] is False
    assert failed["structuredContent"]["error"]["code"] == "config_not_found"
    assert json.loads(failed["content"][0]["text"]) == failed["structuredContent"]
    assert fine.get("isError", False) is False
    assert fine["structuredContent"]["success"] is True


@requirement("traps.other-spellings", "rulings.c2", "rulings.c31")
@pytest.mark.parametrize("name", ["hello_world", "choracompose:hello_world", "choracompose__hello_world"])
async def test_names_are_bare_and_the_old_ones_are_understood(http_client: OpenHttpClient, name: str):
    """A colon isn't allowed in a tool's name everywhere, and prompts of old still use it."""
    async with http_client() as client:
        await client.initialize()
        called = (await client.ask("tools/call", {"name": name, "arguments": {}})).json()["result"]
        assert called["structuredContent"]["success"] is True
        listed = (await client.ask("tools/list")).json()["result"]["tools"]
    assert [tool["name"] for tool in listed] == list(TOOLS)
    assert all(re.fullmatch(r"[a-z_]+", tool["name"]) for tool in listed)


@requirement("defects.concurrent-traces", "events.trace-id")
async def test_two_requests_at_once_keep_their_traces_apart(http_client: OpenHttpClient, hello: Project):
    """An environment variable was the only place for a trace, so that one server could have but one."""
    hello.save(text("a", "x"), text("b", "y"))
    async with http_client() as client:
        await client.initialize()

        async def generate_as(content_id: str) -> None:
            meta = {"traceparent": f"00-{content_id * 32}-{'1' * 16}-01"}
            asked = {"name": "generate_content", "arguments": {"content_config_id": content_id}, "_meta": meta}
            await client.ask("tools/call", asked, id=content_id)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(generate_as, "a")
            nursery.start_soon(generate_as, "b")
    events = [json.loads(line) for line in hello.read("var/telemetry/events.jsonl").splitlines()]
    traces = {each["content_config_id"]: each["trace_id"] for each in events if "content_config_id" in each}
    assert {id: trace[:1] for id, trace in traces.items()} == {"a": "a", "b": "b"}


@requirement("traps.stdout-is-protocol")
async def test_stdout_of_stdio_is_protocol_alone(hello: Project):
    """Anything printed there breaks the client; the log goes to stderr."""
    hello.write("configs/content/broken.json", "{")
    messages = [
        http_client.message("initialize", http_client.HELLO, 1),
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        http_client.message("tools/call", {"name": "list_content_configs", "arguments": {}}, 2),
        http_client.message(
            "tools/call", {"name": "generate_content", "arguments": {"content_config_id": "broken"}}, 3
        ),
    ]
    command = this_process.own_command("--project", str(hello.root), "stdio")
    with trio.fail_after(PATIENCE):
        done = await trio.run_process(
            command,
            stdin=b"".join(msgspec.json.encode(each) + b"\n" for each in messages),
            capture_stdout=True,
            capture_stderr=True,
            env={**os.environ, "CHORA_LOG_LEVEL": "DEBUG"},
        )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(line["jsonrpc"] == "2.0" for line in lines)
    assert {line["id"] for line in lines if "id" in line} == {1, 2, 3}
    assert done.stderr


@requirement("defects.shared-store")
async def test_the_project_can_be_opened_by_two_processes(project: Project):
    """Ephemeral storage wasn't shared between replicas; here what one makes the other has."""
    project.save(text("note", "x"))
    async with open_engine(project.root, settings.load(project.root, {}).settings) as one:
        await Asking(one)("generate_content", content_config_id="note")
        async with open_engine(project.root, settings.load(project.root, {}).settings) as other:
            again = await Asking(other)("generate_content", content_config_id="note")
    assert again["status"] == "skipped"
