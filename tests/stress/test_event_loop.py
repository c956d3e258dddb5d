"""No content that others wrote blocks the event loop: each entry point is tried with the worst that it takes.

One table per kind of entry point; a new tool, resource, prompt, method, source, selector or generator has no row yet,
and fails.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from chora import settings
from chora.engine.building import compose
from chora.engine.engine import Engine, open_engine
from chora.engine.legacy.project_import import import_project
from chora.engine.line_diff import COMPARED_LINES
from chora.engine.validation.checks import CHECKS
from chora.files import CONFIG_LIMIT, SOURCE_LIMIT
from chora.generators import GENERATORS
from chora.metrics import Metrics
from chora.model import KINDS, Source
from chora.nesting import CONFIG_VALUES, DECODING_VALUES, MESSAGE_VALUES
from chora.prompts import PROMPTS
from chora.protocol import wire
from chora.protocol.server import McpServer
from chora.protocol.session import Session
from chora.provider import project_server
from chora.render.validation import LANGUAGES
from chora.resources import FAMILIES
from chora.sources import BY_TYPE, selectors
from chora.sources.source import SourceAccess, SourceFailed
from chora.tools import ALL_TOOLS, TOOLS
from tests.anthropic_server import KEY, message, serving
from tests.conftest import Project, artifact, child, content, requirement
from tests.protocol.test_server import initialized_session
from tests.sources.test_git_reference import commit
from tests.sources.test_stored_texts import store as store_texts
from tests.stress.conftest import MIB
from tests.stress.heartbeat import RETAINED, Act, long_pauses, resident

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
    pytest.mark.slow("tries an entry point with the worst content that it takes"),
]

MODERN = {wire.VERSION_KEY: "2026-07-28", wire.CAPABILITIES_KEY: {}}
MESSAGE_LIMIT = 4 * MIB
CELLS = MESSAGE_VALUES - 1000

# -- shapes -----------------------------------------------------------------------------------------------------

PARTS: dict[str, str] = {
    "blanks": " ",
    "letters": "a",
    "lines": "a\n",
    "different lines": "",
    "braces": "{{",
    "a path": "a/",
    "dots": "../",
    "percent signs": "%61",
    "fences": "```\n",
    "headings": "# a\n",
    "quotes": '"',
    "open brackets": "[",
    "not ASCII": "\u202e\u00e9",
    "outside the BMP": "\U0001f600",
    "lists": "[],",
}
"""What texts are repetitions of: each is the worst for something that reads texts."""


def text_of(shape: str, size: int) -> str:
    """A text of a shape, of so many bytes at most."""
    if shape == "different lines":
        return "\n".join(map(str, range(size // 8)))
    part = PARTS[shape]
    text = part * (size // len(part.encode()))
    return f"[{text}[]]" if shape == "lists" else text


def texts(size: int) -> dict[str, str]:
    """A text of each shape."""
    return {shape: text_of(shape, size) for shape in PARTS}


VALUES: dict[str, Callable[[], Any]] = {
    "numbers": lambda: {"x": [1] * CELLS},
    "lists": lambda: {"x": [[]] * (CELLS // 2)},
    "keys": lambda: {f"k{number}": 1 for number in range(CELLS)},
    "rows": lambda: {"x": [{"a": 1, "b": ""}] * (CELLS // 4)},
    "levels": lambda: {"x": [msgspec.json.decode("[" * 60 + "]" * 60)] * (CELLS // 64)},
    "texts": lambda: {"x": ["a" * 30] * (CELLS // 2)},
}
"""Data as large as a message may hold."""


def argument_of(schema: Mapping[str, Any], text: str, value: Any) -> Any:
    """A value of an argument's type that is as large as can be."""
    kind = schema.get("type")
    kinds = kind if isinstance(kind, list) else [kind]
    if schema.get("enum"):
        return schema["enum"][0]
    if "object" in kinds:
        return value
    if "array" in kinds:
        return [argument_of(schema.get("items", {}), text[:30], value)] * 1000 if "items" in schema else value["x"]
    if "string" in kinds:
        return text
    if "boolean" in kinds:
        return True
    if "integer" in kinds or "number" in kinds:
        return schema.get("maximum", 1)
    return value


def hostile_arguments(tool: str) -> dict[str, dict[str, Any]]:
    """For each argument of a tool in turn, the worst values; the others are what is needed."""
    schema = ALL_TOOLS[tool].input_schema
    found: dict[str, dict[str, Any]] = {}
    needed = dict.fromkeys(schema.get("required", ()), "note")
    for name, about in schema.get("properties", {}).items():
        for shape, text in texts(MIB).items():
            found[f"{name}: {shape}"] = {**needed, name: argument_of(about, text, {"x": [text]})}
        for shape, make in VALUES.items():
            found[f"{name}: {shape}"] = {**needed, name: argument_of(about, "note", make())}
    return found


# -- how they are tried -----------------------------------------------------------------------------------------


@pytest.fixture
def server(engine: Engine) -> McpServer:
    engine.settings = msgspec.structs.replace(
        engine.settings, mcp=settings.McpSettings(toolsets=("default", "reading", "edits"))
    )
    return project_server(engine, ALL_TOOLS, Metrics())


def request(method: str, params: Any) -> bytes:
    """A message, if it is small enough to be read at all."""
    body = msgspec.json.encode({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
    return body if len(body) <= MESSAGE_LIMIT else body[:MESSAGE_LIMIT]


async def call(server: McpServer, tool: str, **arguments: Any) -> Any:
    """Call a tool until it has answered, and return its result."""
    body = request("tools/call", {"name": tool, "arguments": arguments})
    while True:
        reply = await server.answer(initialized_session(), body)
        assert reply is not None
        result = msgspec.json.decode(reply.body)["result"]["structuredContent"]
        if result.get("status") != "running":
            assert result["success"] or result["error"]["code"] != "invalid_input", result  # the test would try nothing
            return result


async def check(acts: Mapping[str, Act]) -> None:
    """None of these blocks the loop, and their memory is returned."""
    await next(iter(acts.values()))()  # modules are imported, caches filled, workers started
    before = resident()
    pauses = await long_pauses(acts)
    assert not pauses, pauses
    assert resident() - before < RETAINED


def bodies_of(server: McpServer, method: str, parameters: Iterable[tuple[str, Any]]) -> dict[str, Act]:
    """What answers a method with these parameters."""
    return {name: partial(server.answer, initialized_session(), request(method, each)) for name, each in parameters}


# -- messages ---------------------------------------------------------------------------------------------------


@requirement("hostile.event-loop")
@pytest.mark.parametrize("tool", ALL_TOOLS)
async def test_no_argument_of_a_tool_blocks_the_loop(tool: str, server: McpServer, project: Project):
    """Each argument, with texts and data as large as a message may be."""
    project.save(content("note", pattern={"type": "jinja2", "template": "{{ x }}\n"}))
    ordinary = {"ordinary": partial(call, server, "hello_world")}
    arguments = hostile_arguments(tool).items()
    await check(ordinary | bodies_of(server, "tools/call", ((n, {"name": tool, "arguments": a}) for n, a in arguments)))


@requirement("hostile.event-loop")
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.template)
async def test_no_uri_of_a_resource_blocks_the_loop(family: Any, server: McpServer, project: Project):
    """Each parameter of each template, when it is read, subscribed to or completed."""
    acts: dict[str, Act] = {}
    for shape, text in texts(MIB).items():
        uri = text.join(re.split(r"\{\w+\}", family.template.replace("{?offset}", "?offset={offset}")))
        completion = {"ref": {"type": "ref/resource", "uri": family.template}}
        for parameter in family.parameters:
            about = {
                **completion,
                "argument": {"name": parameter, "value": text},
                "context": {"arguments": {"a": text}},
            }
            acts |= bodies_of(server, "completion/complete", [(f"complete {shape}", about)])
        acts |= bodies_of(server, "resources/read", [(f"read {shape}", {"uri": uri})])
        acts |= bodies_of(server, "resources/subscribe", [(f"subscribe {shape}", {"uri": uri})])
    await check(acts)


@requirement("hostile.event-loop")
@pytest.mark.parametrize("prompt", PROMPTS, ids=lambda prompt: prompt.name)
async def test_no_argument_of_a_prompt_blocks_the_loop(prompt: Any, server: McpServer):
    """Each argument, when the prompt is read and when the argument is completed."""
    acts: dict[str, Act] = {}
    for shape, text in texts(MIB).items():
        for argument in prompt.arguments:
            given = {each.name: "content" for each in prompt.arguments} | {argument.name: text}
            about = {
                "ref": {"type": "ref/prompt", "name": prompt.name},
                "argument": {"name": argument.name, "value": text},
            }
            acts |= bodies_of(
                server, "prompts/get", [(f"get {argument.name}: {shape}", {"name": prompt.name, "arguments": given})]
            )
            acts |= bodies_of(server, "completion/complete", [(f"complete {argument.name}: {shape}", about)])
    await check(acts)


def parameters_of(method: str) -> dict[str, Any]:
    """Parameters that a method takes, all of which are texts."""
    known: dict[str, dict[str, Any]] = {
        "initialize": {"protocolVersion": "TEXT", "capabilities": {"x": "TEXT"}, "clientInfo": {"name": "TEXT"}},
        "ping": {},
        "server/discover": {},
        "tools/list": {"cursor": "TEXT"},
        "tools/call": {"name": "TEXT", "requestState": "TEXT", "inputResponses": {"x": {"action": "TEXT"}}},
        "resources/list": {"cursor": "TEXT"},
        "resources/templates/list": {"cursor": "TEXT"},
        "resources/read": {"uri": "TEXT"},
        "resources/subscribe": {"uri": "TEXT"},
        "resources/unsubscribe": {"uri": "TEXT"},
        "prompts/list": {"cursor": "TEXT"},
        "prompts/get": {"name": "TEXT", "arguments": {"TEXT": "x"}, "requestState": "TEXT"},
        "completion/complete": {"ref": {"type": "ref/prompt", "name": "TEXT"}, "argument": {"name": "a", "value": "a"}},
        "logging/setLevel": {"level": "TEXT"},
        "subscriptions/listen": {"notifications": {"resourceSubscriptions": ["TEXT"]}},
        "notifications/cancelled": {"requestId": "TEXT"},
        "unknown": {"x": "TEXT"},
    }
    return known[method]


METHODS = [
    *("initialize", "tools/call", "tools/list", "subscriptions/listen", "notifications/cancelled", "unknown"),
    *("ping", "server/discover", "logging/setLevel", "completion/complete", "prompts/get", "prompts/list"),
    *(f"resources/{name}" for name in ("list", "templates/list", "read", "subscribe", "unsubscribe")),
]


async def test_every_method_is_tried(server: McpServer):
    """A new one needs a row in `parameters_of`."""
    assert {*server._methods, *wire.METHOD_ERAS} <= set(METHODS)


@requirement("hostile.event-loop")
@pytest.mark.parametrize("method", METHODS)
async def test_no_envelope_blocks_the_loop(method: str, server: McpServer):
    """Parameters, `_meta`, ids and unknown fields, in both eras and as a batch."""
    acts: dict[str, Act] = {}
    example = msgspec.json.encode(parameters_of(method)).decode()

    def answer(session: Session, body: bytes) -> Act:
        async def act() -> None:
            with trio.move_on_after(0.5):  # a subscription doesn't end by itself
                await server.answer(session, body[:MESSAGE_LIMIT])

        return act

    handshake, old = initialized_session(), initialized_session("2025-03-26")
    for shape, text in texts(3 * MIB // 2).items():
        params = msgspec.json.decode(example.replace('"TEXT"', msgspec.json.encode(text).decode()))
        modern = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": MODERN}}
        acts[f"parameters: {shape}"] = answer(handshake, request(method, params))
        acts[f"modern parameters: {shape}"] = answer(handshake, msgspec.json.encode(modern))
        for name in ("traceparent", "trace_id", "progressToken", wire.LEVEL_KEY, "unknown"):
            meta = {"_meta": {**MODERN, name: text}}
            acts[f"_meta.{name}: {shape}"] = answer(handshake, request(method, {**params, **meta}))
        acts[f"id: {shape}"] = answer(
            handshake, msgspec.json.encode({"jsonrpc": "2.0", "id": text, "method": method, "params": params})
        )
        one = msgspec.json.encode({"jsonrpc": "2.0", "id": text[: 60 * 1024], "method": method, "params": {}})
        acts[f"a batch: {shape}"] = answer(old, b"[" + b",".join([one] * 49) + b"]")
    for shape, make in VALUES.items():
        value = make()
        acts[f"parameters: {shape}"] = answer(handshake, request(method, value))
        acts[f"_meta: {shape}"] = answer(handshake, request(method, {"_meta": {**MODERN, **value}}))
        for name in ("traceparent", wire.CAPABILITIES_KEY):
            acts[f"_meta.{name}: {shape}"] = answer(handshake, request(method, {"_meta": {**MODERN, name: value}}))
        acts[f"an answer: {shape}"] = answer(
            handshake, msgspec.json.encode({"jsonrpc": "2.0", "id": "unknown", "result": value})
        )
    await check({"ordinary": answer(handshake, request("ping", {})), **acts})


@requirement("hostile.event-loop")
@pytest.mark.parametrize("opening", ["[", "{", '{"a":', '"', "\\", "[1,", "0", "-", "t", " ", "\n", "\0", "\xff"])
async def test_no_bytes_block_the_loop(opening: str, server: McpServer):
    """Bytes that are no message, and responses that nobody waits for."""
    data = opening.encode("latin-1") * (MESSAGE_LIMIT // len(opening))
    around = {"bare": data, "in params": b'{"jsonrpc":"2.0","id":1,"method":"ping","params":' + data[:-100] + b"}"}
    around["a response"] = b'{"jsonrpc":"2.0","id":"x","result":' + data[:-100] + b"}"
    await check({name: partial(server.answer, initialized_session(), body) for name, body in around.items()})


# -- sources and selectors --------------------------------------------------------------------------------------

FILES: dict[str, Callable[[], bytes]] = {
    "a.json": lambda: b"[" + b"[]," * 3_300_000 + b"[]]",
    "texts.json": lambda: b"[" + b'"",' * 3_300_000 + b'""]',
    "number.json": lambda: b"1" * 9_900_000,
    "open.json": lambda: b"[" * 9_900_000,
    "values.json": lambda: b"[" + b"1," * (DECODING_VALUES - 10) + b"1]",
    "keys.json": lambda: b"{" + b",".join(b'"%d":1' % number for number in range(DECODING_VALUES // 2)) + b"}",
    "lists.json": lambda: b"[" + b"[]," * (DECODING_VALUES // 2 - 10) + b"[]]",
    "objects.json": lambda: b"[" + b'{"a":1},' * (DECODING_VALUES // 2 - 10) + b"{}]",
    "levels.json": lambda: b"[" + (b"[" * 60 + b"]" * 60 + b",") * (DECODING_VALUES // 62) + b"1]",
    "text.json": lambda: b'"' + b"a" * 9_900_000 + b'"',
    "escapes.json": lambda: b'"' + rb"\u00e9" * 1_600_000 + b'"',
    "number.toml": lambda: b"a = 1" + b"1" * 9_900_000,
    "list.toml": lambda: b"a = [" + b"1," * 4_900_000 + b"1]",
    "quotes.toml": lambda: b'\\"' * 4_900_000,
    "dots.toml": lambda: b"a." * 4_900_000 + b"b = 1",
    "spaces.toml": lambda: b"a" + b" " * 9_900_000,
    "list.yaml": lambda: b"[" + b"1," * 4_900_000 + b"1]",
    "dashes.yaml": lambda: b"- " * 4_900_000,
    "lines.yaml": lambda: b"- 1\n" * 2_400_000,
    "aliases.yaml": lambda: b"a: &a [1]\nb: [" + b"*a," * 90_000 + b"*a]",
    "rows.csv": lambda: b"a\n" + b"1\n" * 4_900_000,
    "columns.csv": lambda: b"a" + b"," * 9_900_000,
    "quote.csv": lambda: b'a\n"' + b"x" * 9_900_000,
    "lines.md": lambda: b"#\n" * 4_900_000,
    "text.txt": lambda: "é".encode() * 4_900_000,
    "bytes.bin": lambda: b"\xff" * 9_900_000,
}


@pytest.fixture
def note(project: Project) -> Callable[..., None]:
    """Saves the content `note`, which shows the length of a source."""

    def save(source: dict[str, Any]) -> None:
        pattern = {"type": "jinja2", "template": "{{ x | string | length }}\n"}
        project.save(content("note", pattern=pattern, sources=[{"id": "x", **source}]))

    return save


def make_note(server: McpServer, note: Callable[..., None], **source: Any) -> Act:
    async def act() -> None:
        note(source)
        await call(server, "generate_content", content_config_id="note", force=True)

    return act


Save = Callable[..., None]


def rows_of_external_file(server: McpServer, project: Project, note: Save) -> Iterable[tuple[str, Act]]:
    for name, make in FILES.items():
        data = make()
        assert len(data) <= SOURCE_LIMIT
        project.write(f"data/{name}", data)
        yield name, make_note(server, note, source_type="external_file", source_locator=f"data/{name}")


def rows_of_git_reference(server: McpServer, project: Project, note: Save) -> Iterable[tuple[str, Act]]:
    if shutil.which("git") is None:
        pytest.skip("git isn't installed")
    for name, make in FILES.items():
        project.write(name, make())
    commit(project.root, **{"readme_md": "x"})
    for name in FILES:
        yield name, make_note(server, note, source_type="git_reference", source_locator=f"HEAD:{name}")
    for shape, text in texts(500_000).items():
        yield f"locator: {shape}", make_note(server, note, source_type="git_reference", source_locator=f"HEAD:{text}")


def rows_of_inline_data(server: McpServer, project: Project, note: Save) -> Iterable[tuple[str, Act]]:
    for shape, text in texts(CONFIG_LIMIT // 8).items():
        yield shape, make_note(server, note, source_type="inline_data", source_locator=text)
    for shape, make in VALUES.items():
        data = msgspec.json.encode(make()).decode()
        yield shape, make_note(server, note, source_type="inline_data", source_locator=data)


def rows_of_content_config(server: McpServer, project: Project, note: Save) -> Iterable[tuple[str, Act]]:
    for shape, part in PARTS.items():
        config_id = shape.lower().replace(" ", "-")
        template = "{{ part * count }}"
        context = {"part": part or "abc\ndef\n", "count": 4_000_000 // len((part or "abc\ndef\n").encode())}
        pattern = {"type": "jinja2", "template": template, "generation_config": {"context": context}}
        source = {"source_type": "content_config", "data_selector": "output"}
        project.save(content(config_id, pattern=pattern))
        yield shape, make_note(server, note, **source, source_locator=config_id)
        for language in ("json", "yaml"):
            name = f"{language}-{config_id}"
            metadata = {"description": name, "version": "1.0.0", "output_format": language}
            project.save(content(name, pattern=pattern, metadata=metadata))
            yield f"{shape} as {language}", make_note(server, note, **source, source_locator=name)


def rows_of_artifact_config(server: McpServer, project: Project, note: Save) -> Iterable[tuple[str, Act]]:
    for number, shape in enumerate(PARTS):
        project.save(artifact(f"a{number}", [child(f"c{place}", notes=text_of(shape, 4000)) for place in range(100)]))
        yield shape, make_note(server, note, source_type="artifact_config", source_locator=f"a{number}")


def rows_of_ephemeral_output(server: McpServer, project: Project, note: Save) -> Iterable[tuple[str, Act]]:
    for number, shape in enumerate(PARTS):
        yield shape, make_note(server, note, source_type="ephemeral_output", source_locator=f"stored{number}:all")


SOURCE_ROWS: dict[str, Callable[[McpServer, Project, Save], Iterable[tuple[str, Act]]]] = {
    "external_file": rows_of_external_file,
    "git_reference": rows_of_git_reference,
    "inline_data": rows_of_inline_data,
    "content_config": rows_of_content_config,
    "artifact_config": rows_of_artifact_config,
    "ephemeral_output": rows_of_ephemeral_output,
}


@requirement("hostile.event-loop")
@pytest.mark.parametrize("source", BY_TYPE)
async def test_no_source_blocks_the_loop(source: str, server: McpServer, engine: Engine, project: Project, note: Save):
    """The worst texts and data that each may give, up to its limit."""
    if source == "ephemeral_output":
        for number, shape in enumerate(PARTS):
            await store_texts(engine, f"stored{number}", *[text_of(shape, 2_000_000)] * 3)
    await check(dict(SOURCE_ROWS[source](server, project, note)))


SELECTORS: dict[str, tuple[str, ...]] = {
    "whole_content": ("whole_content",),
    "$.a.b": ("$..*", "$.x[?@.a == 1]", "$" + ".x" * 500, "$[?match(@.a, '(a*)*b')]"),
    "## Title": ("## Heading", "# " + "a" * 100_000, "#" * 6 + " a"),
    "## 1.0 > ### Added": ("# a > ## b", "# a" + " > # a" * 300),
    "## Title > body": ("# a > ## b > body",),
    "front_matter": ("front_matter",),
    "body": ("body",),
    "function:name": ("function:name", "function:" + " " * 100_000 + "a"),
    "class:name": ("class:name",),
    "10-20": ("1000000-2000000", "1:", ":50", "99999999999999:"),
    "output": (),
}
"""By the form in `FORMS` of `chora.sources.selectors`; `output` is no selector of a text."""


def test_every_selector_is_tried():
    """A new one in `FORMS` of `chora.sources.selectors` needs a row here."""
    assert list(selectors.FORMS) == list(SELECTORS)


@requirement("hostile.event-loop")
@pytest.mark.parametrize("kind", SELECTORS)
async def test_no_selector_blocks_the_loop(kind: str, engine: Engine):
    """On the longest texts of a source, and on as much data as one may hold."""
    nothing: Any = None
    access = SourceAccess(nothing, nothing, engine.templates.pool, nothing, nothing, nothing, nothing)

    async def act(value: Any, selector: str) -> None:
        with suppress(SourceFailed):
            await selectors.select(value, Source(type="inline_data", selector=selector), access)

    code = {"indented code": "def name(\n" + " x\n" * 3_000_000, "one line": "def " + " " * 9_000_000}
    data = {
        "numbers": [1] * (DECODING_VALUES - 2),
        "rows": [{"a": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}] * (DECODING_VALUES // 2),
        "keys": {f"k{number}": 1 for number in range(DECODING_VALUES - 2)},
    }
    values = {**texts(SOURCE_LIMIT - 10), **code, **data}
    acts = {
        f"{selector[:20]} of {shape}": partial(act, value, selector)
        for selector in SELECTORS[kind]
        for shape, value in values.items()
    }
    await check({"ordinary": partial(act, "# a\n", "# a"), **acts})


# -- generators, models and configs -----------------------------------------------------------------------------


def generated(type: str, template: str, **options: Any) -> dict[str, Any]:
    return {"type": type, "template": template, "generation_config": options}


def rows_of_templates(type: str) -> Iterable[tuple[str, dict[str, Any]]]:
    for shape, text in texts(500_000).items():
        yield f"template: {shape}", {"pattern": generated(type, text)}
        yield f"context: {shape}", {"pattern": generated(type, "{{ x }}", context={"x": text})}
    for shape in ("numbers", "keys", "levels"):
        yield f"context: {shape}", {"pattern": generated(type, "{{ x }}", context=VALUES[shape]())}
    for shape, part in PARTS.items():
        big = {"part": part or "abc\n", "count": 4_000_000 // len((part or "abc\n").encode())}
        yield f"output: {shape}", {"pattern": generated(type, "{{ part * count }}", context=big)}


def rows_of_demonstration() -> Iterable[tuple[str, dict[str, Any]]]:
    yield from rows_of_templates("demonstration")
    elements = [{"name": f"e{number}", "format": "text", "example_output": "a" * 50} for number in range(5000)]
    yield "many elements", {"elements": elements}
    yield "one long element", {"elements": [{"name": "e", "format": "text", "example_output": " " * 900_000}]}
    names = [
        {"name": f"e{number}", "variableType": "string", "source": "elements.e.example_output"}
        for number in range(5000)
    ]
    yield "many variables", {"pattern": {"type": "demonstration", "template": "{e1}" * 100_000, "variables": names}}


def rows_of_bdd_scenario() -> Iterable[tuple[str, dict[str, Any]]]:
    yield from rows_of_templates("bdd_scenario")
    for name, line in {"steps": "Given {{a}}\n", "examples": "| a | b |\n", "tags": "@a ", "colons": "Given: "}.items():
        yield name, {"pattern": generated("bdd_scenario", "Feature: a\nScenario: b\n" + line * (400_000 // len(line)))}


GENERATOR_ROWS: dict[str, Callable[[], Iterable[tuple[str, dict[str, Any]]]]] = {
    "demonstration": rows_of_demonstration,
    "jinja2": lambda: rows_of_templates("jinja2"),
    "template_fill": lambda: rows_of_templates("template_fill"),
    "bdd_scenario": rows_of_bdd_scenario,
    "code_generation": lambda: rows_of_templates("code_generation"),
}


@requirement("hostile.event-loop")
@pytest.mark.parametrize("generator", [module.NAME for module in GENERATORS])
async def test_no_template_or_context_blocks_the_loop(generator: str, server: McpServer, project: Project):
    """Templates as long as a config may be, contexts as large, and outputs as large as they may become."""

    async def act(config: dict[str, Any]) -> None:
        project.save(content("note", **config))
        await call(server, "generate_content", content_config_id="note", force=True)
        await call(server, "preview_generation", content_config_id="note")

    await check({name: partial(act, config) for name, config in GENERATOR_ROWS[generator]()})


MODEL_ANSWERS: dict[str, str] = {
    **dict.fromkeys(PARTS, ""),
    "unclosed": "```python\n",
    "fences of all lengths": "",
    "Python": "x = (",
    "nested Python": "[",
    "lines of Python": "x = 1\n",
}


@requirement("hostile.event-loop")
@pytest.mark.parametrize("shape", MODEL_ANSWERS)
async def test_no_answer_of_a_model_blocks_the_loop(shape: str, project: Project, monkeypatch: pytest.MonkeyPatch):
    """Texts as long as an answer may be, as one block and as many."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    size = 7_500_000  # escaped, it is just within the limit of a reply
    part = MODEL_ANSWERS[shape]
    if shape in PARTS:
        text = text_of(shape, size)
    elif part:
        text = "```python\n" + part * (480_000 // len(part))
    else:
        text = "\n".join("`" * length for length in range(3, 2500))
    blocks = [{"type": "text", "text": text[start : start + 50]} for start in range(0, 1_000_000, 50)]
    pattern = {"type": "code_generation", "generation_config": {"prompt": "p", "language": "python", "retry_count": 0}}
    project.save(content("code", pattern=pattern))
    async with serving(message("ok"), message(text), message(text), message("", content=blocks)) as api:
        loaded = settings.load(project.root, {}, {"llm.base_url": api.url}).settings
        async with open_engine(project.root, loaded) as engine:
            server = project_server(engine, TOOLS, Metrics())
            act = partial(call, server, "generate_content", content_config_id="code", force=True)
            await check({"ordinary": act, "one block": act, "again": act, "many blocks": act})
        assert len(api.asked) >= 4


def hostile_configs(kind: str) -> dict[str, tuple[str, bytes]]:
    """By name: the suffix and the text of the worst configs of a kind."""
    base = content("bad") if kind == "content" else artifact("bad", [child("note")])
    if kind == "collection":
        base = {"type": "collection", "id": "bad", "members": [{"id": "a", "type": "artifact", "path": "a"}]}
    found: dict[str, tuple[str, bytes]] = {}

    def add(name: str, **fields: Any) -> None:
        found[name] = (".json", msgspec.json.encode({**base, **fields})[:CONFIG_LIMIT])

    for shape, text in texts(900_000).items():
        for field in ("id", "description", "unknown"):
            add(f"{field}: {shape}", **{field: text[: 900_000 // (2 if '"' in text else 1)]})
        found[f"JSON: {shape}"] = (".json", text.encode()[:CONFIG_LIMIT])
        found[f"YAML: {shape}"] = (".yaml", text.encode()[:CONFIG_LIMIT])
    small = [1] * (CONFIG_VALUES - 100)
    for field in ("metadata", "elements", "inputs", "generation", "validation", "content", "members", "context", "x"):
        add(f"{field}: numbers", **{field: small})
        add(f"{field}: objects", **{field: [{}] * (CONFIG_VALUES // 2)})
        add(f"{field}: keys", **{field: {f"k{number}": 1 for number in range(CONFIG_VALUES // 2)}})
        add(f"{field}: levels", **{field: [msgspec.json.decode("[" * 50 + "]" * 50)] * (CONFIG_VALUES // 60)})
    many = [{"id": f"e{number}", "path": "a", "type": "artifact"} for number in range(CONFIG_VALUES // 6)]
    add("many members", members=many)
    add("equal members", members=many[:1] * (CONFIG_VALUES // 6))
    add("many pieces", content={"children": many})
    add("many children", children=many)
    elements = [{"name": f"e{number}", "format": "text"} for number in range(CONFIG_VALUES // 4)]
    add("many elements", elements=elements)
    add("equal elements", elements=elements[:1] * (CONFIG_VALUES // 4))
    rules = [
        {"id": "r", "check_type": "presence", "target": f"element.e{number}"} for number in range(CONFIG_VALUES // 5)
    ]
    add("many rules", validation={"rules": rules})
    sources = [
        {"id": f"e{number}", "source_type": "inline_data", "source_locator": "1"}
        for number in range(CONFIG_VALUES // 5)
    ]
    add("many sources", inputs={"sources": sources})
    found["twice"] = (".json", b"{" + b",".join([b'"a":1'] * 90_000) + b"}")
    return found


@requirement("hostile.event-loop")
@pytest.mark.parametrize("kind", KINDS)
async def test_no_config_blocks_the_loop(kind: str, server: McpServer, project: Project):
    """Files of a kind up to the limit: listed, read, validated, and used."""
    uses = {
        "content": (("validate_content", "content_or_config_id"), ("generate_content", "content_config_id")),
        "artifact": (("validate_content", "content_or_config_id"), ("assemble_artifact", "artifact_config_id")),
        "collection": (
            ("validate_collection_config", "collection_config_path"),
            ("generate_collection", "collection_config_path"),
        ),
    }

    async def act(suffix: str, data: bytes) -> None:
        path = project.write(f"configs/{kind}/bad{suffix}", data)
        for tool, argument in uses[kind]:
            await call(server, tool, **{argument: "bad"})
        await server.answer(initialized_session(), request("resources/read", {"uri": f"config://{kind}/bad"}))
        await server.answer(initialized_session(), request("resources/list", {}))
        path.unlink()

    await check({name: partial(act, *each) for name, each in hostile_configs(kind).items()})


# -- rules and compositions -------------------------------------------------------------------------------------

RULE_OPTIONS: dict[str, list[dict[str, Any]]] = {
    "presence": [{}],
    "length": [{"min": 1}],
    "format": [{"format": language} for language in LANGUAGES],
    "syntax": [{"language": language} for language in LANGUAGES],
    "lint": [{"linter": "ruff"}],
    "regex": [{"pattern": "(a*)*b"}, {"pattern": "\\s+$"}, {"must_not_match": "a"}],
    "links": [{}],
    "schema": [{"schema": {"type": "object", "additionalProperties": {"pattern": "(a*)*b"}}}],
    "required_fields": [{"fields": ["a.b"]}],
    "completeness": [{}],
    "coherence": [{}],
}
"""By the type of a rule: the options that make it do its work."""


@requirement("hostile.event-loop")
@pytest.mark.parametrize("rule", CHECKS)
async def test_no_rule_blocks_the_loop(rule: str, server: McpServer, engine: Engine, project: Project):
    """On texts as long as they may become, as the whole text and as the section of an element."""
    bodies = {**texts(4_000_000), "a section": "# e\n" + "[a](b)\n" * 500_000, "links": "[a](a) " * 500_000}
    bodies |= {"data": "[" + "1," * 190_000 + "1]", "YAML": "- a\n" * 90_000, "anchors": "# a\n[a](#a)\n" * 300_000}
    if rule in ("format", "syntax"):  # in workers, until they are killed: a few show that
        bodies = {shape: bodies[shape] for shape in ("lines", "open brackets", "data")}
    for number, body in enumerate(bodies.values()):
        await store_texts(engine, f"c{number}", body)
        rules = [
            {"id": "r", "check_type": "custom", "target": target, "check_config": {"type": rule, **options}}
            for options in RULE_OPTIONS[rule]
            for target in ("generated_output", "element.e")
        ]
        project.save(content(f"c{number}", validation={"rules": rules}))
    acts = {
        shape: partial(call, server, "validate_content", content_or_config_id=f"c{number}")
        for number, shape in enumerate(bodies)
    }
    if rule == "links":
        for act in acts.values():  # the first reading of so many links takes 70 MiB, a second one nothing more
            await act()
    await check(acts)


COMPOSITIONS: dict[str, list[dict[str, Any]]] = {
    "concat": [{}],
    "merge": [{}, {"duplicateHeaders": "keep-all"}],
    "template": [{"template": "{% for piece in pieces %}{{ piece.text }}{% endfor %}"}],
}
"""By strategy: its options. A custom composer is a program of the project."""


def test_every_composition_is_tried():
    """A new strategy needs a row here."""
    assert set(COMPOSITIONS) == set(compose.STRATEGIES) - {"custom"}


@requirement("hostile.event-loop")
@pytest.mark.parametrize("strategy", COMPOSITIONS)
@pytest.mark.parametrize("form", ["markdown", "json", "yaml"])
async def test_no_composition_blocks_the_loop(strategy: str, form: str, server: McpServer, project: Project):
    """Of pieces as long as they may become, written in every format that is parsed, and in a slow encoding."""
    data = {
        "objects": lambda: '{"a": [' + "{}," * 90_000 + "{}]}",
        "levels": lambda: '{"a": [' + ("[" * 50 + "]" * 50 + ",") * 3_000 + "1]}",
        "keys": lambda: "{" + ",".join(f'"k{number}": 1' for number in range(90_000)) + "}",
        "YAML": lambda: "".join(f"k{number}: 1\n" for number in range(40_000)),
    }
    texts_of_pieces = texts(4_000_000) if form == "markdown" else {name: make() for name, make in data.items()}

    async def act(text: str, encoding: str, options: dict[str, Any]) -> None:
        project.write("data/x.txt", text)
        output = {"file": "outputs/page.md", "format": form, "encoding": encoding, "generated": True}
        about = {"composition_strategy": strategy, "composition_config": options}
        project.save(artifact("page", [child("one"), child("two")], output, **about))
        await call(server, "assemble_artifact", artifact_config_id="page", force=True)

    for name in ("one", "two"):
        source = {"id": "x", "source_type": "external_file", "source_locator": "data/x.txt"}
        project.save(content(name, pattern={"type": "jinja2", "template": "{{ x }}"}, sources=[source]))
    await check(
        {
            f"{shape} in {encoding} {options}": partial(act, text, encoding, options)
            for shape, text in texts_of_pieces.items()
            for encoding in ("utf-8", *(("cp437",) if form == "markdown" else ()))
            for options in COMPOSITIONS[strategy]
        }
    )


# -- merges and imports -----------------------------------------------------------------------------------------

LINES = COMPARED_LINES


def merges() -> dict[str, tuple[str, str, str]]:
    """The worst three texts to merge: what was written, what a person made of it, what will be written."""
    same = "a\n" * LINES
    different = "".join(f"{number}\n" for number in range(LINES))
    backwards = "".join(f"{number}\n" for number in reversed(range(LINES)))
    two = "a\nb\n" * (LINES // 2)
    long = "a" * 9_000_000
    return {
        "equal lines": (same, same[: len(same) // 2] + "b\n" + same[len(same) // 2 + 2 :], same + "c\n"),
        "different lines": (
            different,
            "".join(f"x{n}\n" for n in range(LINES)),
            "".join(f"y{n}\n" for n in range(LINES)),
        ),
        "backwards": (different, backwards, different + "x\n"),
        "alternating": (two, two.replace("a", "c", 100), two[4:]),
        "every other line": (different, different.replace("1", "x"), different.replace("2", "y")),
        "one long line": (long, long + "b", "b" + long),
        "too many lines": ("a\n" * 4_000_000, "b\n" + "a\n" * 4_000_000, "a\n" * 4_000_000 + "c\n"),
        "marks": ("<<<<<<<\n" * LINES, ">>>>>>>\n" * LINES, "=======\n" * LINES),
    }


@requirement("hostile.event-loop")
@pytest.mark.parametrize("on_edit", ["merge", "refuse"])
@pytest.mark.parametrize("shape", merges())
async def test_no_edited_output_blocks_the_loop(shape: str, on_edit: str, project: Project):
    """Texts that are merged, compared and refused, up to the size of an output."""
    base, edited, ours = merges()[shape]
    source = {"id": "x", "source_type": "external_file", "source_locator": "data/x.txt"}
    pattern = {"type": "jinja2", "template": "{{ x }}"}
    project.save(content("note", pattern=pattern, sources=[source]), artifact("page", [child("note")]))
    loaded = settings.load(project.root, {}, {"output.on_edit": on_edit}).settings
    async with open_engine(project.root, loaded) as engine:
        server = project_server(engine, TOOLS, Metrics())

        async def act() -> None:
            (project.root / "outputs/page.md").unlink(missing_ok=True)
            project.write("data/x.txt", base)
            await call(server, "assemble_artifact", artifact_config_id="page", force=True)
            project.write("outputs/page.md", edited)
            project.write("data/x.txt", ours)
            await call(server, "assemble_artifact", artifact_config_id="page", force=True)

        await check({shape: act})


@requirement("hostile.event-loop")
async def test_no_imported_project_blocks_the_loop(tmp_path: Path, engine: Engine):
    """The configs and the history of an old project, each file as large as it may be."""
    old = Project(tmp_path / "old")
    for kind in KINDS:
        for number, (suffix, data) in enumerate(hostile_configs(kind).values()):
            old.write(f"configs/{kind}/bad{number}{suffix}", data)
    for number, shape in enumerate(PARTS):
        text = text_of(shape, 2_000_000)
        old.write(f"ephemeral/content{number}/1.0.0/20260101T000000Z.txt", text)
        old.write(f"ephemeral/content{number}/1.0.0/20260101T000001Z.json", msgspec.json.encode({"content": text}))
        old.write(f"ephemeral/content{number}/1.0.0/20260101T000002Z.json", text)
        old.write(f"drafts/draft-{number}.json", text)
        old.write(f"templates/t{number}.j2", text)
    act = partial(import_project, old.root, engine.folder, engine.store, to_convert=True)
    pauses = await long_pauses({"import": act})
    assert not pauses, pauses
