"""generate_content, regenerate_content and preview_generation."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from chora import llm, settings
from chora.access import Principal
from chora.engine.budget import Budgets
from chora.engine.engine import Engine
from chora.generators import GENERATORS
from chora.hashing import sha256
from chora.render.pool import RenderPool
from tests.anthropic_server import KEY, message, serving
from tests.conftest import Asking, Project, content, requirement, text, unchanged
from tests.patience import PATIENCE
from tests.tools.answers import (
    CONTEXTS,
    EMPTY,
    FINGERPRINT,
    FULL,
    NO_CONTEXTS,
    NO_IDS,
    STAMP,
    VERSION_ID,
    FailingStore,
    taken,
)

CUT = ("truncated", "content_length", "resource")
"""The fields about a text that may be too long for a result."""

MAKERS = ("generate_content", "regenerate_content", "preview_generation")

# -- common to all three ----------------------------------------------------------------------------------------


@requirement("tools.context.empty")
@pytest.mark.parametrize("empty", EMPTY)
@pytest.mark.parametrize("name", MAKERS)
async def test_an_empty_context_equals_no_context(ask: Asking, project: Project, name: str, empty: Any):
    """Null, an empty string, blanks and `{}`, as values or as strings."""
    project.save(text("note", "x"))
    assert await ask(name, content_config_id="note", context=empty)


@requirement(
    "tools.error.config-not-found",
    "tools.error.generator-not-found",
    "tools.error.generation-failed",
    "tools.error.invalid-config-id",
    "tools.error.invalid-context",
    "tools.generate-content.errors",
    "tools.regenerate-content.errors",
    "tools.preview-generation.errors",
)
@pytest.mark.parametrize("name", MAKERS)
async def test_generating_fails_with_the_codes_of_the_reference(ask: Asking, project: Project, name: str):
    """Each with the documented details."""
    missing = await ask.refused(name, "config_not_found", content_config_id="gone")
    assert missing["details"]["content_config_id"] == "gone"
    assert "configs/content/gone.json" in missing["details"]["searched_paths"]
    assert "configs/content/gone/gone-content.json" in missing["details"]["searched_paths"]

    project.save(content("odd", pattern={"type": "oracle"}))
    unknown = await ask.refused(name, "generator_not_found", content_config_id="odd")
    assert unknown["details"] == {
        "generator_type": "oracle",
        "available_generators": [each.NAME for each in GENERATORS],
    }

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
    project.save(content("lost", pattern={"type": "jinja2", "template": "gone.j2"}))
    lost = (await ask.refused(name, "generation_failed", content_config_id="lost"))["details"]
    assert (lost["error_type"], lost["template_path"]) == ("TemplateNotFound", "gone.j2")

    for config_id in NO_IDS:
        await ask.refused(name, "invalid_config_id", content_config_id=config_id)
    for context, received in NO_CONTEXTS:
        wrong = await ask.refused(name, "invalid_context", content_config_id="fill", context=context)
        assert wrong["details"]["received_type"] == received
        assert wrong["details"]["expected_type"] == "object"
    for arguments in (
        {},
        {"content_config_id": None},
        {"content_config_id": "fill", "force": "yes", "show_metadata": "yes", "compare": "yes"},
    ):
        await ask.refused(name, "invalid_input", **arguments)


@requirement("tools.error.storage-failed", "tools.generate-content.errors")
@pytest.mark.parametrize("name", ["generate_content", "regenerate_content"])
async def test_a_text_that_cannot_be_stored_is_a_storage_failure(
    ask: Asking, greeting: Project, engine: Engine, tmp_path: Path, name: str
):
    """Although it was generated."""
    engine.store = FailingStore(tmp_path / "full.db")
    failed = await ask.refused(name, "storage_failed", content_config_id="greeting", context={"name": "x"})
    assert failed["details"] == FULL
    engine.store.close()


async def test_a_busy_server_says_so(ask: Asking, project: Project, engine: Engine):
    """The same call may succeed in a moment."""
    project.save(content("note", pattern={"type": "jinja2", "template": "{{ 1 }}"}))
    engine.templates.pool = RenderPool(settings.RenderSettings())  # a generator that fails as busy
    await ask.refused("generate_content", "busy", content_config_id="note")


# -- generate_content -------------------------------------------------------------------------------------------

GENERATED = ("content_id", "status", "content", "generator", "duration_ms", "metadata", *CUT)


@requirement("tools.generate-content.result", "tools.context.object-or-string", "identity.version-ids")
@pytest.mark.parametrize("context", CONTEXTS)
async def test_generate_content(ask: Asking, greeting: Project, engine: Engine, context: Any):
    """A new text is stored; the result has all its fields."""
    result = taken(await ask("generate_content", content_config_id="greeting", context=context), *GENERATED)
    version = engine.store.latest_version("greeting")
    assert version is not None
    assert result == {
        "content_id": "greeting",
        "status": "generated",
        "content": "Hello Ada!",
        "truncated": False,
        "content_length": 10,
        "resource": None,
        "generator": "template_fill",
        "metadata": {
            "context_variables": ["name"],
            "ephemeral_stored": True,
            "storage_path": ".chora/storage.db",
            "generator_version": "1.0.0",
            "version_id": version.version_id,
            "generated_at": version.generated_at,
            "fingerprint": version.fingerprint,
            "from_cache": False,
            "warnings": [],
            "usage": None,
        },
    }
    assert VERSION_ID.fullmatch(version.version_id)
    assert STAMP.fullmatch(version.generated_at)
    assert FINGERPRINT.fullmatch(version.fingerprint)


@requirement("tools.generate-content.status", "tools.generate-content.force", "cache.skip", "cache.context")
async def test_generate_content_again(ask: Asking, greeting: Project):
    """Skipped, with the full text and its real generator, if nothing changed; generated again by a change or force."""
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


@requirement("tools.envelope.warnings", "sources.optional")
async def test_warnings_stand_in_the_metadata(ask: Asking, project: Project):
    """Also when the text is skipped the next time."""
    source = {"id": "gone", "source_type": "external_file", "source_locator": "gone", "required": False}
    pattern = {"type": "jinja2", "template": "{{ gone }}", "generation_config": {"undefined": "lenient"}}
    project.save(content("note", pattern=pattern, sources=[source]))
    for _ in range(2):
        made = await ask("generate_content", content_config_id="note")
        assert made["metadata"]["warnings"] == ["The optional source gone has no value: there is no file gone"]


# -- preview_generation -----------------------------------------------------------------------------------------

PREVIEWED = ("content_id", "preview_content", "content_hash", "generator", "metadata", "duration_ms", *CUT)


@requirement("tools.preview-generation.result", "tools.preview-generation.dry")
@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("arguments", [{}, {"show_metadata": None, "spend": None}, {"show_metadata": False}])
async def test_preview_generation(
    ask: Asking, greeting: Project, engine: Engine, context: Any, arguments: dict[str, Any]
):
    """The text and its metadata; nothing is stored, emitted or written."""
    with unchanged(greeting):
        result = await ask("preview_generation", content_config_id="greeting", context=context, **arguments)
    assert taken(result, *PREVIEWED) == {
        "content_id": "greeting",
        "preview_content": "Hello Ada!",
        "truncated": False,
        "content_length": 10,
        "resource": None,
        "content_hash": sha256(b"Hello Ada!"),
        "generator": "template_fill",
        "metadata": None,
    }
    assert engine.store.counts()["versions"] == 0
    assert not (greeting.root / "var").exists()
    made = await ask("generate_content", content_config_id="greeting", context=context)
    assert made["status"] == "generated", "and it isn't in a cache either"


@requirement("tools.preview-generation.dry")
async def test_a_preview_stores_no_text_of_its_sources(ask: Asking, project: Project, engine: Engine):
    """What is generated for another content's sake isn't kept either."""
    source = {"id": "x", "source_type": "content_config", "source_locator": "inner", "data_selector": "output"}
    project.save(
        text("inner", "deep"), content("note", pattern={"type": "jinja2", "template": "{{ x }}"}, sources=[source])
    )
    assert (await ask("preview_generation", content_config_id="note"))["preview_content"] == "deep"
    assert engine.store.counts()["versions"] == 0


@requirement("tools.preview-generation.metadata", "rulings.c32.config-wins")
async def test_preview_generation_with_metadata(ask: Asking, project: Project):
    """Variables, template, generator, and the warnings of sources and rendering."""
    project.write("templates/a.j2", "{{ x }}{{ y }}{{ x }}")
    source = {"id": "gone", "source_type": "external_file", "source_locator": "gone", "required": False}
    pattern = {"type": "jinja2", "template": "a.j2", "generation_config": {"undefined": "lenient"}}
    project.save(content("note", pattern=pattern, sources=[source]), text("plain", "x"))
    result = await ask("preview_generation", content_config_id="note", context={"x": "ü"}, show_metadata=True)
    assert (result["preview_content"], result["content_length"], result["content_hash"]) == (
        "üü",
        2,
        sha256("üü".encode()),
    )
    assert result["metadata"] == {
        "context_variables": ["gone", "x"],
        "template_path": "a.j2",
        "template_hash": sha256(b"{{ x }}{{ y }}{{ x }}"),
        "generator_type": "jinja2",
        "variable_usage": {"gone": 0, "x": 2},
        "cost": None,
        "usage": None,
        "warnings": [
            "The optional source gone has no value: there is no file gone",
            "y is undefined and was rendered empty",
            "gone isn't used by the template",
        ],
    }
    plain = await ask("preview_generation", content_config_id="plain", show_metadata=True)
    assert (plain["metadata"]["template_path"], plain["metadata"]["template_hash"]) == (None, None)
    assert plain["metadata"]["variable_usage"] == {}


@requirement("server.spending")
async def test_spending_takes_the_right_to_write(ask: Asking, project: Project, engine: Engine):
    """A token that may only read can't spend money; on a server that only reads, no token can."""
    project.save(content("code", pattern={"type": "code_generation", "generation_config": {"prompt": "Sort"}}))
    reader = Asking(engine, Principal("reader", "read"))
    preview = {"content_config_id": "code", "spend": True}
    refused = await reader.refused("preview_generation", "forbidden", **preview)
    assert refused["details"]["scope"] == "write"
    assert (await reader("preview_generation", content_config_id="code"))["metadata"]["cost"]["estimated_usd"] > 0
    writer = Asking(engine, Principal("writer", "write"))
    assert "key" in (await writer.refused("preview_generation", "generation_failed", **preview))["message"].lower()
    engine.settings = msgspec.structs.replace(engine.settings, mcp=settings.McpSettings(read_only=True))
    for each in (ask, writer):
        assert "only reads" in (await each.refused("preview_generation", "forbidden", **preview))["message"]


@requirement("tools.preview-generation.cost-guard")
async def test_preview_generation_calls_no_paid_model(ask: Asking, project: Project, engine: Engine):
    """It returns the prompt and the estimated cost; only `spend: true` calls the model."""
    pattern = {
        "type": "code_generation",
        "generation_config": {"prompt": "Sort {{ what }}", "model": "claude-3-5-sonnet-20241022"},
    }
    project.save(content("code", pattern=pattern))
    shown = await ask("preview_generation", content_config_id="code", context={"what": "berths"})
    assert "Sort berths" in shown["preview_content"]
    assert shown["generator"] == "code_generation"
    assert shown["metadata"]["cost"]["estimated_usd"] > 0
    assert "this is the prompt; the model wasn't called" in shown["metadata"]["warnings"]
    asked = await ask.refused(
        "preview_generation", "generation_failed", content_config_id="code", context={"what": 1}, spend=True
    )
    assert "key" in asked["message"].lower()


@requirement("tools.usage")
@pytest.mark.slow("imports the model's SDK")
async def test_a_result_has_what_its_text_cost(
    ask: Asking, project: Project, engine: Engine, monkeypatch: pytest.MonkeyPatch
):
    """Model, tokens and US dollars; of a stored text those of its generation, and of a free one nothing."""
    options = {"prompt": "Sort", "model": "claude-sonnet-5"}
    project.save(content("code", pattern={"type": "code_generation", "generation_config": options}), text("free", "x"))
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    async with serving(message("hi", tokens=(1000, 500))) as server:
        limits = settings.LlmSettings(base_url=server.url)
        engine.budgets = Budgets(engine.store, llm.Anthropic(limits), limits)
        with trio.fail_after(PATIENCE):
            shown = await ask("preview_generation", content_config_id="code", spend=True)
            made = await ask("generate_content", content_config_id="code")
            skipped = await ask("generate_content", content_config_id="code")
            again = await ask("regenerate_content", content_config_id="code")
    paid = {"model": "claude-sonnet-5", "input_tokens": 1000, "output_tokens": 500, "total_cost_usd": 0.007}
    for each, cached in ((shown, False), (made, True), (skipped, True), (again, False)):
        usage = each["metadata"]["usage"]
        expected = {**paid, "total_cost_usd": 0.0} if cached else paid
        assert {**usage, **expected, "cached": cached} == usage
    assert (await ask("generate_content", content_config_id="free"))["metadata"]["usage"] is None
    assert (await ask("regenerate_content", content_config_id="free"))["metadata"]["usage"] is None


# -- regenerate_content -----------------------------------------------------------------------------------------

REGENERATED = (
    *("content_id", "status", "content", "previous_version", "changes", "reason", "metadata", "duration_ms"),
    *CUT,
)


@requirement("tools.regenerate-content.result", "tools.regenerate-content.first-time")
@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("arguments", [{}, {"reason": None, "compare": None}])
async def test_regenerate_content_the_first_time(
    ask: Asking, greeting: Project, engine: Engine, context: Any, arguments: dict[str, Any]
):
    """There is nothing to compare with, and it is generated all the same."""
    result = taken(
        await ask("regenerate_content", content_config_id="greeting", context=context, **arguments), *REGENERATED
    )
    version = engine.store.latest_version("greeting")
    assert version is not None
    assert result == {
        "content_id": "greeting",
        "status": "regenerated",
        "content": "Hello Ada!",
        "truncated": False,
        "content_length": 10,
        "resource": None,
        "previous_version": None,
        "changes": None,
        "reason": None,
        "metadata": {
            "hash_new": sha256(b"Hello Ada!"),
            "hash_old": None,
            "version_id": version.version_id,
            "generator_type": "template_fill",
            "warnings": [],
            "usage": None,
        },
    }


@requirement("tools.regenerate-content.previous", "tools.regenerate-content.reason", "tools.regenerate-content.changes")
async def test_regenerate_content_reports_what_changed(ask: Asking, project: Project, engine: Engine):
    """Compared with the last stored text, with a real diff and the reason in the version's metadata."""
    project.save(content("note", pattern={"type": "template_fill", "template": "a\n{{ b }}\nc\nd\n"}))
    first = await ask("generate_content", content_config_id="note", context={"b": "b"})
    made = await ask(
        "regenerate_content", content_config_id="note", context={"b": "x\ny"}, reason="The tide table changed"
    )
    assert made["status"] == "regenerated"
    assert made["previous_version"] == {
        "content": "a\nb\nc\nd\n",
        "hash": sha256(b"a\nb\nc\nd\n"),
        "generated_at": first["metadata"]["generated_at"],
        "version_id": first["metadata"]["version_id"],
    }
    assert made["changes"] == {"lines_added": 1, "lines_removed": 0, "lines_changed": 1, "diff_summary": "+1 -0 ~1"}
    assert made["reason"] == "The tide table changed"
    assert (made["metadata"]["hash_old"], made["metadata"]["hash_new"]) == (
        sha256(b"a\nb\nc\nd\n"),
        sha256(b"a\nx\ny\nc\nd\n"),
    )
    version = engine.store.latest_version("note")
    assert version is not None
    assert version.metadata["reason"] == "The tide table changed"


@requirement("tools.regenerate-content.always", "tools.regenerate-content.changes")
async def test_regenerate_content_always_runs(ask: Asking, greeting: Project, engine: Engine):
    """Also when nothing changed; without `compare` there is no comparison."""
    arguments: dict[str, Any] = {"content_config_id": "greeting", "context": {"name": "Ada"}}
    await ask("generate_content", **arguments)
    same = await ask("regenerate_content", **arguments)
    assert same["changes"] == {"lines_added": 0, "lines_removed": 0, "lines_changed": 0, "diff_summary": "+0 -0 ~0"}
    uncompared = await ask("regenerate_content", **arguments, compare=False)
    assert uncompared["changes"] is None
    assert uncompared["previous_version"]["version_id"] == same["metadata"]["version_id"]
    assert len(engine.store.versions("greeting")) == 3
    await ask.refused("regenerate_content", "invalid_input", **arguments, reason="x" * 2001)


@requirement("tools.long-texts")
async def test_long_texts_of_both_versions_are_cut(ask: Asking, project: Project):
    """The new one has a link to the complete text."""
    project.save(content("long", pattern={"type": "template_fill", "template": "{{ a }}"}))
    await ask("generate_content", content_config_id="long", context={"a": "x" * 300_000})
    made = await ask("regenerate_content", content_config_id="long", context={"a": "y" * 300_000})
    assert (made["truncated"], made["content_length"]) == (True, 300_000)
    assert made["resource"] == f"content://long/{made['metadata']['version_id']}"
    assert len(msgspec.json.encode(made)) < 600_000
    assert re.fullmatch("x+", made["previous_version"]["content"])
