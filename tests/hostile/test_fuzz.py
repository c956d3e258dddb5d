"""Fuzzing of configs, selectors, contexts and messages: always a result with a known code, in time.

`FUZZ_SECONDS` says how long each of them is tried (`just fuzz` tries for long); `FUZZ_SEED` repeats a run.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
import trio
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from chora.access import LOCAL
from chora.engine.engine import Engine
from chora.errors import subclasses
from chora.metrics import Metrics
from chora.protocol import wire
from chora.protocol.session import Session
from chora.protocol.types import Call
from chora.provider import project_server
from chora.tools import ALL_TOOLS
from tests.conftest import Asking, Project, answer_schema, artifact, child, content, text
from tests.hostile.measures import linux, prepare
from tests.patience import PATIENCE

pytestmark = linux

SECONDS = float(os.environ.get("FUZZ_SECONDS", "3"))
SEED = int(os.environ.get("FUZZ_SEED", "1"))
ROUND = 40

KNOWN = {error.code for error in subclasses()} - {"internal_error"}
RPC_CODES = {
    *(wire.PARSE_ERROR, wire.INVALID_REQUEST, wire.METHOD_NOT_FOUND, wire.INVALID_PARAMS),
    *(wire.RESOURCE_NOT_FOUND, wire.UNSUPPORTED_VERSION),
}


@pytest.fixture
def project(project: Project) -> Project:
    return prepare(project)


class Complaints(logging.Handler):
    """Collects log records with a traceback or an incident."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info or "incident" in record.getMessage() or record.levelno >= logging.ERROR:
            self.records.append(self.format(record))


async def fuzz(values: st.SearchStrategy[Any], attempt: Callable[[Any], Awaitable[None]]) -> None:
    """Try values until the time is up, in rounds that are each repeatable by their seed."""
    complaints = Complaints()
    log = logging.getLogger("chora")
    log.addHandler(complaints)

    async def in_time(value: Any) -> None:
        with trio.fail_after(PATIENCE):
            await attempt(value)
        assert complaints.records == []

    def rounds() -> None:
        until = time.monotonic() + SECONDS
        number = SEED
        while time.monotonic() < until:

            @seed(number)
            @settings(
                max_examples=ROUND,
                deadline=None,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
            )
            @given(values)
            def once(value: Any) -> None:
                if time.monotonic() < until:
                    trio.from_thread.run(in_time, value)

            once()
            number += 1

    try:
        await trio.to_thread.run_sync(rounds)
    finally:
        log.removeHandler(complaints)


async def use(engine: Engine, tool: str, arguments: bytes) -> dict[str, Any]:
    """Call a tool with these bytes, and check the result's schema and error code."""
    answer = await ALL_TOOLS[tool].run_tool(engine, arguments, Call("test", len(ALL_TOOLS)))
    body = msgspec.json.decode(answer.body)
    answer_schema(tool).validate(body)
    assert body["success"] or body["error"]["code"] in KNOWN, (tool, arguments[:2000], body)
    return body


# -- the inputs -------------------------------------------------------------------------------------------------

WORDS = st.sampled_from(
    [
        *(
            "",
            " ",
            "$",
            "$.a",
            "$..*",
            "..",
            "../..",
            "/etc/passwd",
            "x.json",
            "good",
            "note",
            "\0",
            "\ud800",
            "\u202e",
        ),
        *("{{ 1 }}", "{{ x.y.z }}", "{% for a in b %}", "{{ ''.__class__ }}", "{#", "## A", "1-2", ":", "5:1", "-1"),
        *("function:a", "class:", "whole_content", "output", "template_fill", "jinja2", "demonstration", "markdown"),
        *("all", "latest", "template", "(a+)+$", "[", "2026-99-99", "1e999", "null", "true", "3.1", "outputs/a.md"),
    ]
)
TEXTS = WORDS | st.text(max_size=30) | st.text(alphabet="$.[]()*?@'\"-:0123456789ab#{} %|=!&<>,\\", max_size=40)
NUMBERS = st.integers() | st.floats() | st.sampled_from([0, -1, 2**31, 2**63, 2**64, 2**70, 1e308, 10**400])
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=12
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values in a document."""
    found = [path] if path else []
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        found += places(each, (*path, key))
    return found


@st.composite
def mutated(draw: st.DrawFn, documents: list[Any]) -> bytes:
    """A valid document with some values replaced, removed or doubled, and sometimes some bytes changed."""
    document = copy.deepcopy(draw(st.sampled_from(documents)))
    for _ in range(draw(st.integers(1, 3))):
        ways = places(document)
        if not ways:
            break
        *way, last = draw(st.sampled_from(ways))
        holder = document
        for step in way:
            holder = holder[step]
        match draw(st.sampled_from(["replace", "replace", "remove", "rename", "double"])):
            case "replace":
                holder[last] = draw(VALUES)
            case "remove":
                del holder[last]
            case "rename" if isinstance(holder, dict):
                holder[draw(TEXTS)] = holder.pop(last)
            case _ if isinstance(holder, list):
                holder.append(copy.deepcopy(holder[last]))
            case _:
                holder[last] = [holder[last], holder[last]]
    body = bytearray(json.dumps(document).encode())
    for _ in range(draw(st.sampled_from([0, 0, 0, 0, 1, 3]))):
        body[draw(st.integers(0, len(body) - 1))] = draw(st.integers(0, 255))
    return bytes(body)


def sources_of(**rest: Any) -> dict[str, Any]:
    return {"id": "x", "source_type": "external_file", "source_locator": "data/x.json", "data_selector": "$.a", **rest}


CONTENTS = [
    text("fuzz", "x"),
    content("fuzz", pattern={"type": "jinja2", "template": "{{ x }} {{ name }}"}, sources=[sources_of()]),
    content(
        "fuzz",
        pattern={"type": "template_fill", "template": "{{ x }}", "variables": [{"name": "x", "source": "x"}]},
        sources=[sources_of(), sources_of(id="y", source_type="inline_data", data={"a": [1]})],
        elements=[{"name": "a", "format": "text", "example_output": "b"}],
    ),
    content("fuzz", pattern={"type": "bdd_scenario", "template": "x", "generation_config": {"context": {"a": 1}}}),
    content(
        "fuzz",
        pattern={"type": "jinja2", "template": "x", "generation_config": {"undefined": "lenient", "trim_blocks": True}},
        sources=[sources_of(source_type="content_config", source_locator="good", data_selector="output")],
        validation={"rules": [{"id": "r", "type": "regex", "config": {"pattern": "x"}, "severity": "error"}]},
    ),
]
ARTIFACTS = [
    artifact("fuzz", [child("good", order=1, required=False, conditions="x == 1", retrievalStrategy="latest")]),
    artifact("fuzz", [child("good")], compositionConfig={"template": "{{ pieces }}"}, compositionStrategy="template"),
]
COLLECTIONS = [
    {
        "type": "collection",
        "id": "fuzz",
        "name": "Fuzz",
        "members": [{"id": "fuzz", "type": "artifact", "path": "configs/artifact/fuzz.json", "order": 1}],
        "context": {"shared": {"sources": [{"type": "inline_data", "data": {"a": 1}}]}, "strategy": "merge"},
        "generation": {"strategy": "sequential", "concurrency_limit": 2},
        "output": {"base_path": "outputs/{{ a }}", "structure": "flat", "manifest": True},
        "validation": {"rules": [{"id": "r", "type": "completeness"}]},
    }
]


async def test_any_config_is_accepted_or_refused(project: Project, ask: Asking):
    """By every tool that reads one."""
    project.write("data/x.json", '{"a": [1, {"b": "c"}]}')
    project.save(*CONTENTS[:1], *ARTIFACTS[:1])
    kinds = {
        "content": ("generate_content", "validate_content", "preview_generation"),
        "artifact": ("assemble_artifact", "trace_dependencies"),
        "collection": ("generate_collection", "validate_collection_config", "check_freshness"),
    }
    names = {"content": "content_config_id", "artifact": "artifact_config_id", "collection": "collection_config_path"}

    async def attempt(value: tuple[str, bytes]) -> None:
        kind, body = value
        target = project.write(f"configs/{kind}/fuzz.json", body)
        for tool in kinds[kind]:
            name = "content_or_config_id" if tool == "validate_content" else names[kind]
            await use(ask.engine, tool, json.dumps({name: "fuzz"}).encode())
        await use(ask.engine, "list_content_configs", b"{}")
        arguments = {"config_type": kind, "config_data": body.decode("utf-8", "replace")}
        await use(ask.engine, "draft_config", json.dumps(arguments).encode())
        target.unlink()

    tried = [("content", CONTENTS), ("artifact", ARTIFACTS), ("collection", COLLECTIONS)]
    await fuzz(st.one_of([st.tuples(st.just(kind), mutated(documents)) for kind, documents in tried]), attempt)


async def test_any_selector_takes_a_part_or_is_refused(project: Project, ask: Asking):
    """In any text."""

    async def attempt(value: tuple[str, Any, str]) -> None:
        selector, data, ending = value
        project.write(f"data/x.{ending}", json.dumps(data))
        source = sources_of(source_locator=f"data/x.{ending}", data_selector=selector)
        document = content("fuzz", pattern={"type": "jinja2", "template": "{{ x }}"}, sources=[source])
        project.write("configs/content/fuzz.json", json.dumps(document))
        await use(ask.engine, "preview_generation", b'{"content_config_id": "fuzz"}')

    paths = st.lists(st.sampled_from(["$", ".a", "..", "*", "[0]", "[?@.a]", "[-1]", "['a']", "[1:2:0]"]), max_size=8)
    selectors = TEXTS | paths.map("".join) | st.from_regex(r"\$[.\[\]*?@()a-b0-9'=!&|<> -]{0,30}", fullmatch=True)
    await fuzz(st.tuples(selectors, VALUES, st.sampled_from(["json", "yaml", "toml", "csv", "md", "py"])), attempt)


async def test_any_context_is_rendered_or_refused(project: Project, ask: Asking):
    """And so are all other arguments."""
    template = "{% for k in x %}{{ k }}{% endfor %}{{ x.a.b|default(1) }}{{ x|tojson }}"
    project.save(content("fuzz", pattern={"type": "jinja2", "template": template}))

    async def attempt(value: tuple[Any, Any, Any]) -> None:
        context, name, more = value
        for tool in ("generate_content", "preview_generation"):
            arguments = {"content_config_id": name, "context": context, **more}
            await use(ask.engine, tool, json.dumps(arguments).encode())

    contexts = st.dictionaries(st.just("x") | TEXTS, VALUES, max_size=3)
    await fuzz(
        st.tuples(
            contexts | contexts.map(json.dumps) | VALUES,
            st.just("fuzz") | VALUES,
            st.just({}) | st.dictionaries(st.sampled_from(["force", "show_metadata", "x"]), SCALARS, max_size=2),
        ),
        attempt,
    )


MESSAGES: list[Any] = [
    {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    for method, params in [
        ("initialize", {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t"}}),
        ("ping", {}),
        ("tools/list", {"cursor": "a"}),
        ("resources/list", {}),
        ("resources/read", {"uri": "config://content/good"}),
        ("resources/read", {"uri": "content://good/versions"}),
        ("resources/subscribe", {"uri": "content://good"}),
        ("prompts/get", {"name": "author-config", "arguments": {"kind": "content"}}),
        ("completion/complete", {"ref": {"type": "ref/resource", "uri": "x"}, "argument": {"name": "a", "value": ""}}),
        ("notifications/cancelled", {"requestId": 1}),
        *(
            ("tools/call", {"name": tool.name, "arguments": dict.fromkeys(tool.input_schema["properties"], "good")})
            for tool in ALL_TOOLS.values()
        ),
        ("server/discover", {"_meta": {wire.VERSION_KEY: "2026-07-28", wire.CAPABILITIES_KEY: {}}}),
    ]
]


async def test_any_message_gets_a_valid_response(project: Project, ask: Asking):
    """Of the protocol, in every revision."""
    server = project_server(ask.engine, ALL_TOOLS, Metrics())

    async def attempt(value: tuple[str, bytes]) -> None:
        revision, body = value
        session = Session("memory", LOCAL)
        session.revision = wire.REVISIONS[revision]
        reply = await server.answer(session, body)
        if reply is None:
            return
        answers = json.loads(reply.body)
        for answer in answers if isinstance(answers, list) else [answers]:
            assert ("result" in answer) != ("error" in answer), answer
            if "error" in answer:
                assert answer["error"]["code"] in RPC_CODES, (body[:2000], answer)
            elif answer["result"].get("isError"):
                failure = json.loads(answer["result"]["content"][0]["text"])
                assert failure["error"]["code"] in KNOWN, (body[:2000], failure)

    bodies = mutated(MESSAGES) | mutated([MESSAGES[:2], MESSAGES[3:6]]) | st.binary(max_size=100)
    await fuzz(st.tuples(st.sampled_from(wire.HANDSHAKE_REVISIONS), bodies), attempt)
