"""The conformance runner finds faults, and the fixture server serves what the suite expects."""

from collections import Counter
from collections.abc import AsyncGenerator
from typing import Any

import httpx2
import msgspec
import pytest
import trio

from chora.access import LOCAL
from chora.metrics import Metrics
from chora.protocol import wire
from chora.protocol.server import McpServer
from chora.protocol.session import Session
from chora.tools import TOOLS as PRODUCT_TOOLS
from tests.conftest import requirement
from tests.contract import conformance, fixture_server, raw
from tests.contract.conformance import LEGS, Scenario, expected, find_faults, read_verdict
from tests.contract.messages_2024_11_05 import check_message
from tests.http_client import BOTH, HELLO, MODERN, message
from tests.patience import PATIENCE

LEG = LEGS[0]


def check(status: str, id: str = "some-check") -> dict[str, Any]:
    return {"id": id, "status": status, "errorMessage": f"it says {status}"}


def test_the_expected_passes_add_up_to_those_of_the_sdks_example_server():
    """The table of scenarios is complete; what the suite notes is counted apart, so that 83 passed and not 84."""
    scenarios = expected().values()
    assert [sum(scenario.marks[column] for scenario in scenarios) for column in range(len(LEGS))] == [
        52,
        54,
        56,
        83,
        152,
    ]
    assert [sum(scenario.noted[column] for scenario in scenarios) for column in range(len(LEGS))] == [0, 0, 0, 1, 1]


def test_every_revision_that_chora_speaks_has_a_leg():
    """Old and new; none is spoken without being judged."""
    assert list(LEGS) == list(wire.REVISIONS)


def test_every_fixture_that_a_scenario_needs_exists():
    """Names in the table are those of the registry, so that no count stays zero because of a typo."""
    prompts = fixture_server.FixturePrompts.ARGUMENTS
    for scenario in expected().values():
        for name in (*scenario.calls, *scenario.instead):
            assert name in fixture_server.TOOLS or name in prompts or "/" in name, name


def test_checks_are_counted_by_their_status():
    """A warning counts as a failure; an INFO check doesn't count, except for the ones listed."""
    statuses = ["SUCCESS", "SUCCESS", "FAILURE", "WARNING", "SKIPPED", "INFO"]
    verdict = read_verdict([*map(check, statuses), check("INFO", "server-sse-streams-functional")])
    assert (verdict.passed, verdict.failed, verdict.warned, verdict.skipped, verdict.noted) == (2, 1, 1, 1, 1)
    assert verdict.findings == ["some-check: it says FAILURE", "some-check: it says WARNING"]


NOTE = check("INFO", "server-sse-streams-functional")


def faults_of(verdicts: dict[str, list[dict[str, Any]]], calls: dict[str, int]) -> list[str]:
    scenarios = {
        "simple": Scenario([2, 0, 0, 0, 0], calls={"a_tool": 1}),
        "other": Scenario([0, 2, 0, 0, 0]),
        "noting": Scenario([1, 0, 0, 0, 0], noted=[1, 0, 0, 0, 0]),
    }
    verdicts = {"noting": [check("SUCCESS"), NOTE], **verdicts}
    read = {name: read_verdict(checks) for name, checks in verdicts.items()}
    return find_faults(LEG, "http", scenarios, read, calls)


def test_a_leg_with_the_expected_passes_has_no_faults():
    """Scenarios of other legs aren't missed."""
    assert faults_of({"simple": [check("SUCCESS")] * 2}, {"a_tool": 1}) == []


@pytest.mark.parametrize(
    ("verdicts", "calls", "fault"),
    [
        ({"simple": [check("SUCCESS")]}, {"a_tool": 1}, "1 passed, 2 should"),
        ({"simple": [*[check("SUCCESS")] * 2, check("FAILURE")]}, {"a_tool": 1}, "it says FAILURE"),
        ({"simple": [*[check("SUCCESS")] * 2, check("WARNING")]}, {"a_tool": 1}, "it says WARNING"),
        ({}, {}, "simple: the suite didn't run it"),
        ({"simple": [check("SUCCESS")] * 2, "noting": [NOTE, NOTE]}, {"a_tool": 1}, "noting: 0 passed, 1 should"),
        ({"simple": [check("SUCCESS")] * 2, "noting": [check("SUCCESS")]}, {"a_tool": 1}, "noting: 0 noted, 1 should"),
        ({"simple": [check("SUCCESS")] * 2, "new": []}, {"a_tool": 1}, "new: it isn't in scenarios.toml"),
        ({"simple": [check("SUCCESS")] * 2}, {"a_tool": 0}, "hollow, a_tool was used 0 times"),
    ],
)
@requirement("server.conformance")
def test_any_deviation_is_a_fault(verdicts: dict[str, list[dict[str, Any]]], calls: dict[str, int], fault: str):
    """Failures, warnings, fewer passes or notes, notes instead of passes, missing or new scenarios, hollow passes."""
    faults = faults_of(verdicts, calls)
    assert len(faults) == 1
    assert fault in faults[0]


def test_the_product_must_pass_the_checks_without_fixtures():
    """Checks that need fixtures are left out."""
    scenarios = {"mixed": Scenario([2], product=True, needing=["fixture"]), "fixed": Scenario([2])}
    without = read_verdict([check("SUCCESS"), check("FAILURE", "fixture")], needing=frozenset({"fixture"}))
    assert find_faults(LEG, "product", scenarios, {"mixed": without}, {}) == []
    failing = read_verdict([check("FAILURE")])
    assert len(find_faults(LEG, "product", scenarios, {"mixed": failing}, {})) == 2
    assert find_faults(LEG, "product", scenarios, {}, {}) == [f"{LEG} product mixed: the suite didn't run it"]


def test_scenarios_about_http_are_skipped_over_stdio():
    """They have no expected passes there."""
    scenarios = {"http-only": Scenario([2], http=True)}
    verdicts = {"http-only": read_verdict([check("FAILURE")])}
    assert find_faults(LEG, "stdio", scenarios, verdicts, {}) == []
    assert len(find_faults(LEG, "http", scenarios, verdicts, {})) == 2


# -- the raw checks ----------------------------------------------------------------------------------------------

SCHEMA = {"type": "object", "properties": {"message": {"type": "string"}}, "required": ["message"]}
RESULT = {"content": [{"type": "text", "text": '{"message":"Hello"}'}], "structuredContent": {"message": "Hello"}}
BARE = {"content": RESULT["content"]}


@pytest.mark.parametrize(
    ("result", "schema", "revision", "faults"),
    [
        (RESULT, SCHEMA, "2025-06-18", 0),
        (BARE, None, "2025-03-26", 0),
        (RESULT, SCHEMA, "2025-03-26", 1),
        (BARE, SCHEMA, "2025-06-18", 2),
        (RESULT, None, "2025-06-18", 1),
        ({**RESULT, "structuredContent": {"message": 1}}, SCHEMA, "2025-06-18", 2),
        ({**RESULT, "structuredContent": {"message": "Bye"}}, SCHEMA, "2026-07-28", 1),
    ],
)
@requirement("server.conformance")
def test_results_are_judged_by_value_schema_and_revision(result: Any, schema: Any, revision: str, faults: int):
    """Structured content that is missing, another than the text, not as its schema, or before its time."""
    assert len([each for each in raw.check_result("it", result, schema, revision) if each.fault]) == faults


@pytest.mark.parametrize("lost", ["title", "outputSchema", "annotations", "inputSchema"])
@pytest.mark.parametrize("revision", ["2025-06-18", "2025-11-25", "2026-07-28"])
def test_a_list_that_lost_something_is_a_fault(lost: str, revision: str):
    """One of the tools without a title, output schema, hints or arguments."""
    tools = [tool.describe() for tool in PRODUCT_TOOLS.values()]
    assert [each for each in raw.check_tools(tools, revision) if each.fault] == []
    tools[0] = {key: value for key, value in tools[0].items() if key != lost} | (
        {"inputSchema": {"type": "object", "properties": {}}} if lost == "inputSchema" else {}
    )
    assert [each.fault for each in raw.check_tools(tools, revision) if each.fault] != []


def test_messages_of_2024_11_05_are_judged_by_their_own_schemas():
    """Requests' results by the method, notifications by their own, errors by the envelope."""
    methods = {1: "tools/list", 2: "ping"}
    listed = {"tools": [{"name": "a", "inputSchema": {"type": "object"}}]}
    good = ({"id": 1, "result": listed}, {"id": 2, "result": {}}, {"id": 3, "error": {"code": 1, "message": "no"}})
    good = (*good, {"method": "notifications/tools/list_changed"}, {"method": "roots/list", "id": 1})
    bad = (
        *({"id": 1, "result": {"tools": [{"name": "a"}]}}, {"id": 3, "error": {"code": 1}}, {"method": raw.UPDATED}),
        *({"id": 2}, {"method": "notifications/other"}, {"method": raw.UPDATED, "params": {"uri": 1}}),
    )
    for each, fits in ((each, each in good) for each in (*good, *bad)):
        assert (check_message({"jsonrpc": "2.0", **each}, methods) == "") is fits, each


# -- the fixtures -----------------------------------------------------------------------------------------------


@pytest.fixture
async def http(nursery: trio.Nursery) -> AsyncGenerator[httpx2.AsyncClient]:
    """A client before the server of fixtures."""
    with trio.fail_after(PATIENCE):
        served = await nursery.start(fixture_server.serve)
        async with httpx2.AsyncClient(base_url=served.url, timeout=PATIENCE, headers={"accept": BOTH}) as client:
            yield client
        nursery.cancel_scope.cancel()


def events(body: str) -> list[Any]:
    """What a stream of events held."""
    return [
        msgspec.json.decode(line[5:]) for line in body.splitlines() if line.startswith("data:") and line[5:].strip()
    ]


async def call(http: httpx2.AsyncClient, tool: str, **meta: Any) -> httpx2.Response:
    params = {"name": tool, "_meta": {**MODERN, **meta}}
    headers = {"mcp-protocol-version": "2026-07-28", "mcp-method": "tools/call", "mcp-name": tool}
    return await http.post("/mcp", json=message("tools/call", params, 1), headers=headers)


async def test_fixtures_are_served_by_choras_own_http_application(http: httpx2.AsyncClient):
    """A handshake, and the list of tools with an unchanged schema."""
    opened = await http.post("/mcp", json=message("initialize", HELLO, 1))
    session = {"mcp-session-id": opened.headers["mcp-session-id"]}
    assert opened.json()["result"]["serverInfo"]["name"] == "fixtures"
    listed = (await http.post("/mcp", json=message("tools/list", None, 2), headers=session)).json()["result"]["tools"]
    schemas = {tool["name"]: tool["inputSchema"] for tool in listed}
    assert schemas["json_schema_2020_12_tool"] == fixture_server.TOOLS["json_schema_2020_12_tool"].schema
    assert (await http.get("/")).status_code == 404


async def test_progress_comes_before_the_answer(http: httpx2.AsyncClient):
    """Three notifications, with the token of the request."""
    messages = events((await call(http, "test_tool_with_progress", progressToken="t")).text)
    assert [each["params"]["progress"] for each in messages[:-1]] == [0, 50, 100]
    assert {each["params"]["progressToken"] for each in messages[:-1]} == {"t"}
    assert messages[-1]["result"]["content"][0]["type"] == "text"


async def test_pictures_and_sounds_are_what_they_say(http: httpx2.AsyncClient):
    """By their first bytes."""
    assert fixture_server.red_dot().startswith(b"\x89PNG\r\n")
    assert fixture_server.silence()[:4] + fixture_server.silence()[8:12] == b"RIFFWAVE"
    (block,) = (await call(http, "test_audio_content")).json()["result"]["content"]
    assert block == fixture_server.SOUND


async def test_every_use_is_counted(nursery: trio.Nursery):
    """Tools by name, resources by URI; so passes without a use are found."""
    with trio.fail_after(PATIENCE):
        served = await nursery.start(fixture_server.serve)
        async with httpx2.AsyncClient(base_url=served.url, timeout=PATIENCE, headers={"accept": BOTH}) as client:
            await call(client, "test_simple_text")
            await call(client, "test_simple_text")
    assert served.calls == Counter({"test_simple_text": 2})
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("tool", "outcome"),
    [
        ("test_missing_capability", lambda answer: answer["error"]["code"] == wire.MISSING_CAPABILITY),
        (
            "test_input_required_result_elicitation",
            lambda answer: answer["result"]["resultType"] == "input_required",
        ),
        ("test_error_handling", lambda answer: answer["result"]["isError"] is True),
    ],
)
async def test_a_call_with_log_messages_may_require_input(tool: str, outcome: Any):
    """Or fail with a protocol error."""
    server = McpServer(fixture_server.FixtureProvider(lambda name: None), Metrics())
    meta = {**MODERN, wire.CAPABILITIES_KEY: {"elicitation": {}}, "io.modelcontextprotocol/logLevel": "info"}

    async def ignore_notification(message: bytes) -> None:
        pass

    asked = msgspec.json.encode(message("tools/call", {"name": tool, "_meta": meta}, 1))
    reply = await server.answer(Session("memory", LOCAL), asked, ignore_notification)
    assert reply is not None
    assert outcome(msgspec.json.decode(reply.body)), reply.body


def test_a_missing_conformance_suite_is_reported_with_the_recipe(monkeypatch: pytest.MonkeyPatch, tmp_path: Any):
    """The runner ends with a sentence rather than a traceback."""
    from tests.contract import installation

    monkeypatch.setattr(installation, "PACKAGES", tmp_path / "nothing")
    with pytest.raises(installation.ToolsNotInstalled, match="just conformance"):
        conformance.find_node()
