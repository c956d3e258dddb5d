"""batch_generate."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from chora.engine.engine import Engine
from chora.generators.registry import Generator
from chora.protocol.types import Call
from chora.tools import TOOLS
from tests.conftest import Asking, Project, content, requirement, text
from tests.patience import PATIENCE, may_have_taken
from tests.tools.answers import NO_CONTEXTS, VERSION_ID, taken

BATCH = (
    *("status", "total", "successful", "generated", "failed", "skipped", "results", "errors"),
    *("duration_ms", "metadata"),
)


@pytest.fixture
def three(project: Project) -> Project:
    """`a`, `b` and `c` greet; `broken` can't be generated."""
    pattern = {"type": "template_fill", "template": "{{ word }} {{ name }}"}
    project.save(*(content(each, pattern=pattern) for each in "abc"), content("broken", pattern={"type": "oracle"}))
    return project


@requirement("tools.batch-generate.result", "tools.batch-generate.order", "tools.batch-generate.content-ids")
@pytest.mark.parametrize(
    "arguments",
    [{}, {"individual_contexts": None, "force": None, "continue_on_error": None, "max_parallel": None}],
)
async def test_batch_generate(ask: Asking, three: Project, engine: Engine, arguments: dict[str, Any]):
    """Every text is generated and stored; the results are in the order of the ids, each id once."""
    result = taken(
        await ask(
            "batch_generate",
            content_ids=["c", "a", "b", "a"],
            shared_context='{"word": "Hello", "name": "all"}',
            **arguments,
        ),
        *BATCH,
    )
    for item in result["results"]:
        assert VERSION_ID.fullmatch(item.pop("version_id"))
        assert may_have_taken(item.pop("duration_ms") / 1000)
    executions = result["metadata"]["parallel_executions"]
    assert 0 <= result["metadata"].pop("parallel_efficiency") <= executions + 0.1
    assert result == {
        "status": "batch_complete",
        "total": 3,
        "successful": 3,
        "generated": 3,
        "failed": 0,
        "skipped": 0,
        "results": [
            {"content_id": each, "success": True, "status": "generated", "error": None} for each in ("c", "a", "b")
        ],
        "errors": [],
        "metadata": {"parallel_executions": 3},
    }
    assert [version.body for version in engine.store.versions("a")] == ["Hello all"]


@requirement(
    "tools.batch-generate.shared-context", "tools.batch-generate.individual-contexts", "tools.context.object-or-string"
)
@pytest.mark.parametrize("spelled", ["objects", "a string", "strings in an object"])
async def test_every_content_has_its_own_context(ask: Asking, three: Project, engine: Engine, spelled: str):
    """It is merged over the shared one, in every form."""
    own: Any = {"a": {"name": "Ada"}, "b": {"word": "Bye", "name": "Bob"}, "other": {"unused": True}}
    if spelled == "a string":
        own = msgspec.json.encode(own).decode()
    elif spelled == "strings in an object":
        own = {name: msgspec.json.encode(each).decode() for name, each in own.items()}
    shared = {"word": "Hello", "name": "all"}
    await ask("batch_generate", content_ids=["a", "b", "c"], shared_context=shared, individual_contexts=own)
    texts = [engine.store.versions(each)[-1].body for each in "abc"]
    assert texts == ["Hello Ada", "Bye Bob", "Hello all"]


@requirement("tools.batch-generate.force", "cache.skip")
async def test_a_batch_skips_what_is_unchanged(ask: Asking, three: Project):
    """Unless it is forced."""
    arguments: dict[str, Any] = {"content_ids": ["a", "b"], "shared_context": {"word": "x", "name": "y"}}
    await ask("batch_generate", **arguments)
    again = await ask("batch_generate", **arguments)
    assert (again["skipped"], again["generated"], again["successful"]) == (2, 0, 2)
    assert [item["status"] for item in again["results"]] == ["skipped", "skipped"]
    forced = await ask("batch_generate", **arguments, force=True)
    assert (forced["skipped"], forced["generated"]) == (0, 2)


@requirement("tools.batch-generate.partial")
async def test_a_failure_among_successes_is_reported_with_its_content(ask: Asking, three: Project):
    """The call succeeds, and the other texts are generated."""
    arguments: dict[str, Any] = {"shared_context": {"word": "x", "name": "y"}}
    result = await ask("batch_generate", content_ids=["broken", "a", "gone", "../a"], **arguments)
    assert (result["status"], result["total"], result["successful"], result["failed"]) == ("batch_partial", 4, 1, 3)
    codes = [item["error"] and item["error"]["code"] for item in result["results"]]
    assert codes == ["generator_not_found", None, "config_not_found", "invalid_config_id"]
    assert [item["status"] for item in result["results"]] == ["failed", "generated", "failed", "failed"]
    assert [each["content_id"] for each in result["errors"]] == ["broken", "gone", "../a"]
    assert result["errors"][0]["code"] == "generator_not_found"
    assert "oracle" in result["errors"][0]["message"]
    assert result["results"][0]["error"]["hint"]


@requirement("tools.batch-generate.all-failed")
async def test_a_batch_of_which_all_failed_is_an_error(ask: Asking, three: Project):
    """With every reason in the details."""
    failed = await ask.refused("batch_generate", "batch_failed", content_ids=["broken", "gone"])
    assert (failed["details"]["total"], failed["details"]["failed"]) == (2, 2)
    assert [item["error"]["code"] for item in failed["details"]["results"]] == [
        "generator_not_found",
        "config_not_found",
    ]
    assert [each["content_id"] for each in failed["details"]["errors"]] == ["broken", "gone"]
    assert "oracle" in failed["message"]


@requirement("tools.batch-generate.continue-on-error")
async def test_continue_on_error_false_starts_no_further_one(ask: Asking, three: Project, engine: Engine):
    """Contents that weren't started are failed, with a code of their own."""
    result = await ask(
        "batch_generate",
        content_ids=["a", "broken", "b", "c"],
        shared_context={"word": "x", "name": "y"},
        continue_on_error=False,
        max_parallel=1,
    )
    assert [item["error"] and item["error"]["code"] for item in result["results"]] == [
        None,
        "generator_not_found",
        "not_run",
        "not_run",
    ]
    assert (result["successful"], result["failed"]) == (1, 3)
    assert engine.store.content_ids() == ["a"]


@requirement("tools.batch-generate.max-parallel")
@pytest.mark.parametrize(
    ("given", "at_once"), [({}, 4), ({"max_parallel": None}, 4), ({"max_parallel": 1}, 1), ({"max_parallel": 10}, 6)]
)
async def test_the_contents_of_a_batch_are_generated_concurrently(
    ask: Asking, project: Project, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], at_once: int
):
    """Four at once, or `max_concurrent`, and never more than there are."""
    ids = [f"n{number}" for number in range(6)]
    project.save(*(text(each, "x") for each in ids))
    most = running = 0
    gathered = trio.Event()

    async def slow(*arguments: Any) -> Any:
        nonlocal most, running
        running += 1
        most = max(most, running)
        if running == at_once:
            gathered.set()
        await gathered.wait()
        await trio.testing.wait_all_tasks_blocked()
        running -= 1
        return await run(*arguments)

    run = Generator.generate_text
    monkeypatch.setattr(Generator, "generate_text", slow)
    with trio.fail_after(PATIENCE):
        result = await ask("batch_generate", content_ids=ids, **given)
    assert most == at_once
    assert result["metadata"]["parallel_executions"] == at_once


@requirement("tools.batch-generate.limits", "tools.error.invalid-input")
async def test_the_size_and_concurrency_of_a_batch_are_limited(ask: Asking, three: Project):
    """1 to 50 distinct ids, 1 to 10 at once."""
    for ids, count in (([], 0), ([f"n{n}" for n in range(51)], 51)):
        refused = await ask.refused("batch_generate", "invalid_input", content_ids=ids)
        assert refused["details"] == {"field": "content_ids", "received": count, "constraint": "1 to 50"}
    for wrong in (11, -1):
        refused = await ask.refused("batch_generate", "invalid_input", content_ids=["a"], max_parallel=wrong)
        assert refused["details"] == {"field": "max_parallel", "received": wrong, "constraint": "1 to 10"}
    for arguments in ({}, {"content_ids": None}, {"content_ids": "a"}, {"content_ids": [1]}):
        await ask.refused("batch_generate", "invalid_input", **arguments)
    fifty = ["a"] * 100 + [f"n{n}" for n in range(49)]
    assert (await ask("batch_generate", content_ids=fifty, shared_context={"word": 1, "name": 2}))["total"] == 50


@requirement("tools.error.invalid-context", "tools.batch-generate.individual-contexts")
async def test_a_wrong_context_names_its_content(ask: Asking, three: Project):
    """Before anything is generated."""
    for context, received in NO_CONTEXTS:
        shared = await ask.refused("batch_generate", "invalid_context", content_ids=["a"], shared_context=context)
        assert shared["details"]["received_type"] == received
        assert "content_id" not in shared["details"]
        own = await ask.refused(
            "batch_generate", "invalid_context", content_ids=["a", "b"], individual_contexts={"b": context}
        )
        assert (own["details"]["content_id"], own["details"]["received_type"]) == ("b", received)
        await ask.refused("batch_generate", "invalid_context", content_ids=["a"], individual_contexts=context)


@requirement("tools.progress")
async def test_a_batch_reports_its_progress(three: Project, engine: Engine):
    """Content by content."""
    steps: list[tuple[float, float, str]] = []

    async def progress(done: float, total: float, what: str) -> None:
        steps.append((done, total, what))

    arguments = msgspec.json.encode(
        {"content_ids": ["a", "gone"], "shared_context": {"word": "x", "name": "y"}, "max_parallel": 1}
    )
    await TOOLS["batch_generate"].run_tool(engine, arguments, Call("cli", progress=progress))
    assert steps == [(1, 2, "a: generated"), (2, 2, "gone: failed")]
    silent = await TOOLS["batch_generate"].run_tool(engine, arguments, Call("cli"))
    assert msgspec.json.decode(silent.body)["skipped"] == 1
