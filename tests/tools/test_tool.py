"""Tools: valid schemas, validated arguments, and errors with a hint."""

import json
from typing import Any

import jsonschema
import msgspec
import pytest
import trio

from chora import settings
from chora.engine.engine import Engine, open_engine
from chora.generators.registry import Generator
from chora.protocol.types import Call
from chora.tools import ALL_TOOLS, MODULES, TOOLS
from chora.tools.tool import HEAD_LIMIT, WHOLE_LIMIT, Tool, ToolArguments, ToolResult, tool, truncate_text
from tests.conftest import Asking, Project, artifact, child, requirement, text
from tests.patience import PATIENCE

CALL = Call("test", len(TOOLS))


async def run(engine: Engine, name: str, /, **arguments: Any) -> Any:
    """The result of a tool, validated against its output schema."""
    answer = await TOOLS[name].run_tool(engine, msgspec.json.encode(arguments), CALL)
    body = json.loads(answer.body)
    jsonschema.validate(body, TOOLS[name].output_schema)
    assert body["success"] is not answer.is_error
    return body


@pytest.mark.parametrize("each", TOOLS.values(), ids=TOOLS.keys())
def test_every_tool_describes_itself(each: Tool):
    """A name that clients accept, a title, one or two sentences, object schemas, every argument described."""
    assert each.name.replace("_", "").isalnum()
    assert each.title
    assert 20 < len(each.description) < 600
    jsonschema.Draft202012Validator.check_schema(each.input_schema)
    jsonschema.Draft202012Validator.check_schema(each.output_schema)
    assert each.input_schema["type"] == each.output_schema["type"] == "object"
    assert msgspec.json.decode(msgspec.json.encode(each.describe()))["_meta"]["chora/category"] == each.category


def test_the_registry_holds_what_the_modules_define():
    """Deleting a function unregisters its tool; it is named nowhere else."""
    defined = [value for module in MODULES for value in vars(module).values() if isinstance(value, Tool)]
    assert list(ALL_TOOLS.values()) == defined
    assert len({each.name for each in defined}) == len(defined)


@pytest.mark.parametrize("each", TOOLS.values(), ids=TOOLS.keys())
@pytest.mark.parametrize("arguments", [b"[]", b"7", b"{", b"\xff", b'{"no_such_argument": 1}', b"[" * 2000])
async def test_invalid_arguments_are_named(engine: Engine, each: Tool, arguments: bytes):
    """invalid_input, with the path, the problem and the valid arguments."""
    answer = await each.run_tool(engine, arguments, CALL)
    error = json.loads(answer.body)["error"]
    assert (answer.is_error, error["code"], answer.exit_code) == (True, "invalid_input", 2)
    assert error["details"]["tool"] == each.name
    assert each.signature() in error["hint"]


@requirement("tools.null-is-absent")
@pytest.mark.parametrize("each", TOOLS.values(), ids=TOOLS.keys())
async def test_null_means_absent_for_optional_arguments(engine: Engine, each: Tool):
    """Clients send explicit nulls; only required arguments are missed."""
    optional = set(each.input_schema["properties"]) - set(each.input_schema.get("required", []))
    answer = await each.run_tool(engine, msgspec.json.encode(dict.fromkeys(optional)), CALL)
    if each.input_schema.get("required"):
        assert "missing required" in json.loads(answer.body)["error"]["message"]
    else:
        assert not answer.is_error


@requirement("tools.error.internal-error")
async def test_a_bug_is_reported_to_the_log_and_an_id_to_the_caller(engine: Engine, caplog: pytest.LogCaptureFixture):
    """Of the exception the caller gets only the type and an incident id, which leads to the traceback in the log
    (CWE-209).
    """

    class Nothing(ToolArguments):
        pass

    @tool(title="Break", category="Utility")
    async def broken(engine: Engine, arguments: Nothing, call: Call) -> ToolResult:
        """Fails with an unexpected exception."""
        raise ZeroDivisionError("an internal secret")

    answer = await broken.run_tool(engine, b"{}", CALL)
    error = json.loads(answer.body)["error"]
    assert error["code"] == "internal_error"
    assert error["details"]["error_type"] == "ZeroDivisionError"
    assert "internal secret" not in answer.body.decode()
    assert error["details"]["incident"] in caplog.text
    assert "an internal secret" in caplog.text, "only the log has it"


async def test_hello_world_reports_live_values(engine: Engine):
    """The transport and the number of tools are those of the call."""
    body = await run(engine, "hello_world", name="Ada")
    assert (body["transport"], body["tools_available"]) == ("test", len(TOOLS))


async def test_results_follow_the_listed_schemas(engine: Engine, project: Project):
    """Each tool's success and failure, called over MCP."""
    project.save(text("one", "first"), artifact("both", [child("one"), child("two")]))
    drafted = await run(engine, "draft_config", config_type="content", config_data=json.dumps(text("two", "second")))
    tested = await run(engine, "test_config", draft_id=drafted["draft_id"])
    assert tested["preview_content"] == "second"
    await run(engine, "save_config", draft_id=drafted["draft_id"], config_id="two")
    assert (await run(engine, "generate_content", content_config_id="one"))["status"] == "generated"
    preview = await run(engine, "preview_generation", content_config_id="two", show_metadata=True)
    assert preview["metadata"]["generator_type"] == "demonstration"
    assert (await run(engine, "assemble_artifact", artifact_config_id="both"))["content_count"] == 2
    assert {each["id"] for each in (await run(engine, "list_content_configs"))["configs"]} == {"one", "two"}
    assert (await run(engine, "list_artifact_configs", filter_pattern="b*"))["total"] == 1
    assert (await run(engine, "list_artifact_configs", filter_pattern="x*"))["total"] == 0
    assert (await run(engine, "list_generators", generator_type="plugin"))["filtered"] is True
    for name, arguments in (
        ("generate_content", {"content_config_id": "none"}),
        ("assemble_artifact", {"artifact_config_id": "none"}),
        ("test_config", {"draft_id": "none"}),
        ("save_config", {"draft_id": "none", "config_id": "x"}),
        ("draft_config", {"config_type": "content", "config_data": {}}),
    ):
        assert (await run(engine, name, **arguments))["success"] is False


@requirement("tools.list-configs.invalid")
async def test_listings_name_what_is_broken(engine: Engine, project: Project):
    """A config file that can't be read is listed with the reason."""
    project.save(text("good", "fine"))
    project.write("configs/content/bad.json", "{ not json")
    project.write("configs/artifact/worse.yaml", "a: [")
    contents = await run(engine, "list_content_configs")
    assert [each["id"] for each in contents["configs"]] == ["good"]
    assert [each["file_path"] for each in contents["invalid"]] == ["configs/content/bad.json"]
    assert contents["invalid"][0]["error"]
    assert len((await run(engine, "list_artifact_configs"))["invalid"]) == 1


# -- long texts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body", ["", "short", "x" * HEAD_LIMIT, "ü" * (HEAD_LIMIT // 2), "\U0001f600" * (HEAD_LIMIT // 4)]
)
def test_a_text_that_fits_is_whole(body: str):
    """Up to 16 KiB, counted in bytes."""
    assert truncate_text(body, Call("http"), "content://x") == (body, False, len(body), None)


@requirement("tools.long-texts")
@pytest.mark.parametrize("character", ["x", "ü", "€", "\U0001f600"])
def test_a_longer_text_is_cut_and_linked(character: str):
    """Between characters, never within one; the length is that of the complete text."""
    body = "y" + character * HEAD_LIMIT
    head = truncate_text(body, Call("stdio"), "content://x/1")
    assert head.truncated
    assert (head.length, head.resource) == (len(body), "content://x/1")
    assert body.startswith(head.text)
    assert HEAD_LIMIT - 4 < len(head.text.encode()) <= HEAD_LIMIT
    assert truncate_text(body, Call("stdio")).resource is None


def test_the_command_line_gets_all_of_it():
    """It may be redirected into a file."""
    body = "x" * (HEAD_LIMIT + 1)
    assert truncate_text(body, Call("cli"), "content://x") == (body, False, len(body), None)


@requirement("tools.long-texts")
async def test_generated_and_previewed_texts_are_cut(ask: Asking, project: Project):
    """generate_content adds a link to the stored text; preview_generation, which stores nothing, doesn't."""
    project.save(text("long", "x" * (HEAD_LIMIT + 1)), text("short", "x"), text("huge", "x" * (WHOLE_LIMIT + 1)))
    made = await ask("generate_content", content_config_id="long")
    assert (made["truncated"], made["content_length"]) == (True, HEAD_LIMIT + 1)
    assert made["resource"] == f"content://long/{made['metadata']['version_id']}"
    assert len(made["content"]) == HEAD_LIMIT
    again = await ask("regenerate_content", content_config_id="long")
    assert len(again["content"]) == len(again["previous_version"]["content"]) == HEAD_LIMIT
    seen = await ask("preview_generation", content_config_id="long")
    assert (seen["truncated"], len(seen["preview_content"])) == (False, HEAD_LIMIT + 1), (
        "no resource has the rest of it"
    )
    seen = await ask("preview_generation", content_config_id="huge")
    assert (seen["truncated"], seen["content_length"], seen["resource"]) == (True, WHOLE_LIMIT + 1, None)
    assert len(seen["preview_content"]) == WHOLE_LIMIT
    short = await ask("generate_content", content_config_id="short")
    assert (short["truncated"], short["content_length"], short["resource"]) == (False, 1, None)


async def test_a_result_links_to_the_text_it_cut(ask: Asking, project: Project):
    """Transports with links show them next to the text."""
    project.save(text("long", "x" * (HEAD_LIMIT + 1)))
    arguments = b'{"content_config_id": "long"}'
    answer = await TOOLS["generate_content"].run_tool(ask.engine, arguments, Call("http"))
    (link,) = answer.links
    assert (link.uri[:15], link.name[:5], link.mime_type) == ("content://long/", "long/", "text/plain")
    assert (await TOOLS["generate_content"].run_tool(ask.engine, arguments, Call("cli"))).links == ()
    assert (await TOOLS["hello_world"].run_tool(ask.engine, b"{}", Call("http"))).links == ()


# -- what clients send ------------------------------------------------------------------------------------------


@requirement("tools.context.object-or-string")
async def test_lists_and_objects_may_come_as_strings(ask: Asking, project: Project):
    """Some clients can send nothing but strings; invalid ones are named as they were sent."""
    project.save(text("one", "first"), artifact("both", [child("one")]))
    assert (await ask("batch_generate", content_ids='["one"]'))["total"] == 1
    assert (await ask("list_content", filter='{"generated": true}'))["total"] == 1
    assert (await ask("cleanup_ephemeral", filter='{"content_ids": ["one"]}'))["total_content_checked"] == 1
    for wrong in ("[1]", "[", "{}", "one"):
        refused = await ask.refused("batch_generate", "invalid_input", content_ids=wrong)
        assert refused["details"]["field"].startswith("$.content_ids")
    assert (await ask("hello_world", name="{[}"))["message"].startswith("Hello, {[}!"), "text stays text"


# -- jobs -------------------------------------------------------------------------------------------------------


@requirement("tools.running-schema", "jobs.same-call-joins")
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("generate_content", {"content_config_id": "note"}),
        ("regenerate_content", {"content_config_id": "note"}),
        ("assemble_artifact", {"artifact_config_id": "sheet"}),
        ("batch_generate", {"content_ids": ["note"]}),
    ],
)
async def test_a_call_past_its_budget_becomes_a_job(
    project: Project, monkeypatch: pytest.MonkeyPatch, name: str, arguments: dict[str, Any]
):
    """It returns a running job, by its schema; the same call, in any equal form, gets the result."""
    project.save(text("note", "x"), artifact("sheet", [child("note")]))
    may_end = trio.Event()

    async def slow(*arguments: Any) -> Any:
        await may_end.wait()
        return await run(*arguments)

    run = Generator.generate_text
    monkeypatch.setattr(Generator, "generate_text", slow)
    loaded = settings.load(project.root, {}, {"jobs.call_budget": 0.05})
    with trio.fail_after(PATIENCE):
        async with open_engine(project.root, loaded.settings) as engine:
            ask = Asking(engine)
            started = await ask(name, **arguments)
            assert started["status"] == "running"
            assert started["job"].startswith("job-")
            assert "again" in started["hint"]
            joined = await ask(name, **arguments, force=None) if name != "regenerate_content" else started
            assert joined["job"] == started["job"]
            may_end.set()
            ended = await ask(name, **arguments)
            while ended.get("status") == "running":
                ended = await ask(name, **arguments)
            assert "job" not in ended
            (job,) = engine.jobs.list_jobs()
            assert (job.job_id, job.tool, job.status) == (started["job"], name, "done")
            assert len(engine.store.versions("note")) == 1


@requirement("tools.long-texts", "jobs.same-call-joins")
async def test_the_result_of_a_job_has_its_links(project: Project):
    """Also when the result waited in the store."""
    project.save(text("long", "x" * (HEAD_LIMIT + 1)))
    loaded = settings.load(project.root, {}, {"jobs.call_budget": 1e-9})
    with trio.fail_after(PATIENCE):
        async with open_engine(project.root, loaded.settings) as engine:
            arguments = b'{"content_config_id": "long"}'
            answer = await TOOLS["regenerate_content"].run_tool(engine, arguments, Call("http"))
            while answer.code == "running":
                await trio.sleep(0.01)
                answer = await TOOLS["regenerate_content"].run_tool(engine, arguments, Call("http"))
    (link,) = answer.links
    assert link.uri.startswith("content://long/")
