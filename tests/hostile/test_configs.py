"""Hostile config files and messages, through the tools, over HTTP and over stdio."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
import trio

from chora.access import LOCAL
from chora.metrics import Metrics
from chora.protocol import wire
from chora.protocol.session import Session
from chora.provider import project_server
from chora.tools import TOOLS
from tests.conftest import Asking, Project, artifact, child, content, text
from tests.hostile.measures import MIB, bounded, is_well, linux, prepare, process, serving, settled
from tests.http_client import HELLO, message
from tests.patience import PATIENCE

pytestmark = linux


@pytest.fixture
def project(project: Project) -> Project:
    return prepare(project)


# -- files ------------------------------------------------------------------------------------------------------

VALID = msgspec.json.encode(text("odd", "x"))


def with_part(part: bytes) -> bytes:
    """A config that would be valid but for one more key."""
    return VALID[:-1] + b',"more":' + part + b"}"


def laughs(levels: int) -> bytes:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join([*lines, "type: content", "id: odd"]).encode()


MERGES = "\n".join(
    ["m0: &m0 {k: v}", *(f"m{n}: &m{n}\n  <<: [{', '.join([f'*m{n - 1}'] * 9)}]\n  k{n}: v" for n in range(1, 9))]
).encode()

FILES: dict[str, tuple[str, bytes]] = {
    # too deep
    "deep lists": (".json", b"[" * 500_000),
    "deep lists, closed": (".json", b"[" * 400_000 + b"]" * 400_000),
    "deep objects": (".json", b'{"a":' * 150_000),
    "deep part": (".json", with_part(b"[" * 100 + b"]" * 100)),
    "deep flow": (".yaml", b"[" * 50_000),
    "deep flow, closed": (".yaml", b"[" * 5_000 + b"]" * 5_000),
    "deep maps": (".yaml", b"{a: " * 5_000),
    "deep blocks": (".yaml", b"\n".join(b" " * n + b"a:" for n in range(1_200))),
    "deep dashes": (".yaml", b"- " * 100_000),
    "deep questions": (".yaml", b"? " * 100_000),
    # too much
    "laughs": (".yaml", laughs(9)),
    "merges": (".yaml", MERGES),
    "alias of itself": (".yaml", b"&a [*a, *a]"),
    "map of itself": (".yaml", b"type: content\nid: odd\nmore: &a\n  b: *a\n"),
    "many values": (".yaml", b"a: [" + b"x," * 400_000 + b"]"),
    "many anchors": (".yaml", b"\n".join(b"k%d: &a%d x" % (n, n) for n in range(40_000))),
    "many documents": (".yaml", b"--- a\n" * 150_000),
    "many keys": (".json", with_part(json.dumps({f"k{n}": n for n in range(60_000)}).encode())),
    "many elements": (
        ".json",
        VALID.replace(b'"elements":[', b'"elements":[' + b'{"name":"a","format":"text"},' * 25_000),
    ),
    "a byte too large": (".json", VALID + b" " * (MIB + 1 - len(VALID))),
    "a byte too large, as YAML": (".yaml", VALID + b" " * (MIB + 1 - len(VALID))),
    "a long key": (".json", with_part(b'{"' + b"k" * 900_000 + b'": 1}')),
    "a long id": (".json", VALID.replace(b'"odd"', b'"' + b"o" * 900_000 + b'"')),
    "a long line of blanks": (".yaml", b"a:" + b" " * 900_000 + b"&"),
    "a long comment": (".yaml", b"#" * 900_000 + b"\n&"),
    # numbers
    "huge exponent": (".json", with_part(b"1e999999999")),
    "huge integer": (".json", with_part(b"1" * 500_000)),
    "huge order": (".json", VALID.replace(b'"x"', b"1" + b"0" * 400)),
    "huge integer, as YAML": (".yaml", b"type: content\nid: odd\nmore: " + b"1" * 500_000),
    "huge hexadecimal": (".yaml", b"type: content\nid: odd\nmore: 0x" + b"f" * 500_000),
    "sexagesimal": (".yaml", b"type: content\nid: odd\nmore: 1" + b":59" * 100_000),
    "sexagesimal fraction": (".yaml", b"type: content\nid: odd\nmore: 1" + b":59" * 100_000 + b".5"),
    "no number": (".yaml", b"type: content\nid: odd\nmore: .nan"),
    "no number in JSON": (".json", with_part(b"NaN")),
    "impossible date": (".yaml", b"type: content\nid: odd\nmore: 2026-99-99"),
    # encodings
    "UTF-16": (".json", VALID.decode().encode("utf-16")),
    "UTF-32": (".yaml", VALID.decode().encode("utf-32")),
    "Latin-1": (".json", with_part('"Nørvik"'.encode("latin-1"))),
    "overlong": (".json", with_part(b'"\xc0\xaf"')),
    "half a character": (".json", with_part(b'"\\ud800"')),
    "half a character in bytes": (".json", with_part(b'"\xed\xa0\x80"')),
    "NUL": (".json", VALID + b"\0"),
    "NUL, as YAML": (".yaml", b"type: content\n\0id: odd"),
    "binary": (".json", bytes(range(256)) * 100),
    "byte order marks": (".json", b"\xef\xbb\xbf\xef\xbb\xbf" + VALID),
    # not what it says
    "tag of Python": (".yaml", b"!!python/object/apply:os.system ['touch hacked']"),
    "tag of Python, newer": (".yaml", b"a: !!python/object/new:type {}"),
    "own tag": (".yaml", b"!include /etc/passwd"),
    "binary tag": (".yaml", b"type: content\nid: odd\nmore: !!binary aGk="),
    "set": (".yaml", b"type: content\nid: odd\nmore: !!set {a, b}"),
    "keys that are lists": (".yaml", b"type: content\nid: odd\n[a, b]: c"),
    "keys that are maps": (".yaml", b"? {a: b}\n: c"),
    "list": (".json", b"[]"),
    "text": (".json", b'"odd"'),
    "null": (".yaml", b"null"),
    "another kind": (".json", VALID.replace(b'"content"', b'"collection"', 1)),
    "id with a slash": (".json", VALID.replace(b'"odd"', b'"../odd"')),
    "id with NUL": (".json", VALID.replace(b'"odd"', b'"odd\\u0000"')),
    "id that is blank": (".json", VALID.replace(b'"odd"', b'" "')),
    "id that is data": (".json", VALID.replace(b'"odd"', b'{"odd": 1}')),
    "id of another": (".json", VALID.replace(b'"odd"', b'"good"')),
    "two ids": (".json", with_part(b'1,"id":"good"')),
    "all of it twice": (".json", VALID[:-1] + b"," + VALID[1:]),
    "two ids, as YAML": (".yaml", b"type: content\nid: good\nid: odd\n"),
}


async def test_invalid_files_are_reported(project: Project, ask: Asking):
    """Each with its fault, in bounded time, and the lists still have the others."""
    await is_well(ask)
    for kind, (suffix, body) in FILES.items():
        target = project.write(f"configs/content/odd{suffix}", body)
        async with bounded(project, memory=120 * MIB):
            answer = await ask.answer("generate_content", {"content_config_id": "odd", "force": True})
            if not answer["success"]:
                codes = ("validation_failed", "limit_exceeded", "config_not_found", "generation_failed")
                assert answer["error"]["code"] in codes, (kind, answer)
                assert len(json.dumps(answer)) < 100_000, kind
            for tool in ("list_content_configs", "list_content"):
                assert len(json.dumps(await ask(tool))) < 500_000, kind
            await is_well(ask)
        assert not Path("hacked").exists()
        target.unlink()


@pytest.mark.parametrize("folder", ["artifact", "collection"])
async def test_invalid_artifacts_and_collections_are_reported(project: Project, ask: Asking, folder: str):
    """The same bodies for the other kinds; slow decoding was tested above."""
    await is_well(ask)
    for kind, (suffix, body) in FILES.items():
        if kind.startswith("many"):
            continue
        target = project.write(f"configs/{folder}/odd{suffix}", body.replace(b'"content"', f'"{folder}"'.encode(), 1))
        async with bounded(project, memory=120 * MIB):
            if folder == "artifact":
                answers = [
                    await ask.answer("assemble_artifact", {"artifact_config_id": "odd"}),
                    await ask.answer("trace_dependencies", {"artifact_config_id": "odd"}),
                ]
            else:
                answers = [
                    await ask.answer(tool, {"collection_config_path": "odd"})
                    for tool in ("generate_collection", "validate_collection_config", "list_collection_members")
                ]
            for answer in answers:
                assert answer["success"] or answer["error"]["code"] in (
                    *("validation_failed", "limit_exceeded", "config_not_found", "invalid_config"),
                    *("composition_failed", "missing_content"),
                ), (kind, answer)
            await is_well(ask)
        target.unlink()


async def test_invalid_drafts_are_refused(project: Project, ask: Asking):
    """An argument has the same limits as a file."""
    await is_well(ask)
    for kind, (_, body) in FILES.items():
        data = body.decode("utf-8", "replace")
        async with bounded(project, memory=120 * MIB, written=5 * MIB):
            answer = await ask.answer("draft_config", {"config_type": "content", "config_data": data})
            if answer["success"]:
                await ask.answer("test_config", {"draft_id": answer["draft_id"]})
            else:
                assert answer["error"]["code"] in (
                    *("validation_error", "invalid_context", "limit_exceeded", "invalid_config_id"),
                ), (kind, answer)
            await is_well(ask)


SOURCES: dict[str, tuple[str, bytes]] = {
    **{f"{kind}{suffix}": (f"data/odd{suffix}", body) for kind, (suffix, body) in FILES.items()},
    "deep TOML": ("data/odd.toml", b"a = " + b"[" * 5_000),
    "huge TOML": ("data/odd.toml", b"a = 0x" + b"f" * 500_000),
    "dotted TOML": ("data/odd.toml", b".".join([b"a"] * 50_000) + b" = 1"),
    "deep tables": ("data/odd.toml", b"[" + b".".join([b"a"] * 50_000) + b"]"),
    "many tables": ("data/odd.toml", b"\n".join(b"[a.b%d]" % n for n in range(20_000))),
    "inline tables": ("data/odd.toml", b"a = " + b"{b = " * 5_000),
    "wide CSV": ("data/odd.csv", b",".join(b"c%d" % n for n in range(100_000)) + b"\n" + b"1\n" * 10_000),
    "open quote": ("data/odd.csv", b'a,b\n1,"' + b"x" * 5_000_000),
    "many columns": ("data/odd.csv", b"a" + b"," * 1_000_000),
    "NULs in CSV": ("data/odd.csv", b"a,b\n\0,\0\n"),
    "many rows": ("data/odd.csv", b"a\n" + b"1\n" * 900_000),
}


async def test_invalid_sources_are_refused(project: Project, ask: Asking):
    """A context source is read with the same limits, and its value must fit a worker."""
    await is_well(ask)
    for kind, (path, body) in SOURCES.items():
        target = project.write(path, body)
        source = {"id": "x", "source_type": "external_file", "source_locator": path}
        project.save(content("note", pattern={"type": "jinja2", "template": "{{ x|length }}\n"}, sources=[source]))
        async with bounded(project, memory=400 * MIB):
            answer = await ask.answer("generate_content", {"content_config_id": "note", "force": True})
            if not answer["success"]:
                codes = ("generation_failed", "limit_exceeded", "invalid_context")
                assert answer["error"]["code"] in codes, (kind, answer)
                assert len(json.dumps(answer)) < 100_000, kind
            await is_well(ask)
        target.unlink()


async def test_ten_thousand_files(project: Project, ask: Asking):
    """A folder of many files takes its time once, and then comes from the cache."""
    folder = project.root / "configs/content"
    for number in range(10_001):
        (folder / f"c{number}.json").write_bytes(VALID.replace(b'"odd"', b'"c%d"' % number))
    await is_well(ask)
    async with bounded(project, memory=300 * MIB, written=6 * MIB):
        assert (await ask("list_content_configs"))["total"] == 10_002
        await ask.refused("generate_content", "config_not_found", content_config_id="nowhere")
        assert (await ask("generate_content", content_config_id="c9999"))["success"]
        await is_well(ask)


@pytest.mark.parametrize("count", [2_000])
async def test_very_wide_and_cyclic_configs_end(project: Project, ask: Asking, count: int):
    """Artifacts of themselves, cyclic contents and thousands of children: with an error or a result."""
    source = {"id": "x", "source_type": "content_config", "data_selector": "output"}
    pattern = {"type": "jinja2", "template": "{{ x }}"}
    project.save(
        content("a", pattern=pattern, sources=[{**source, "source_locator": "b"}]),
        content("b", pattern=pattern, sources=[{**source, "source_locator": "a"}]),
        content("own", pattern=pattern, sources=[{**source, "source_locator": "own"}]),
        text("leaf", "x"),
        artifact("wide", [child("leaf", order=n) for n in range(count)]),
        artifact("circle", [child("a"), child("b")]),
        *(
            {
                "type": "collection",
                "id": id,
                "name": id,
                "members": [{"id": other, "type": "collection", "path": f"configs/collection/{other}.json"}],
            }
            for id, other in (("one", "two"), ("two", "one"), ("me", "me"))
        ),
    )
    await is_well(ask)
    calls = [
        ("generate_content", {"content_config_id": "a"}),
        ("generate_content", {"content_config_id": "own"}),
        ("assemble_artifact", {"artifact_config_id": "circle"}),
        ("generate_collection", {"collection_config_path": "one"}),
        ("generate_collection", {"collection_config_path": "me"}),
        ("check_collection_cache", {"collection_config_path": "one", "check_member_cache": True}),
        ("list_collection_members", {"collection_config_path": "one", "recursive": True}),
        ("validate_collection_config", {"collection_config_path": "me", "check_member_configs": True}),
        ("check_freshness", {"collection_config_path": "one"}),
        ("assemble_artifact", {"artifact_config_id": "wide"}),
        ("trace_dependencies", {"artifact_config_id": "wide"}),
        ("batch_generate", {"content_ids": ["leaf"] * count}),
    ]
    for tool, arguments in calls:
        async with bounded(project, memory=150 * MIB, written=4 * MIB):
            answer = await ask.answer(tool, arguments)
            assert answer["success"] or answer["error"]["code"] in (
                *("generation_failed", "composition_failed", "circular_reference", "max_depth_exceeded"),
                *("validation_failed", "missing_content", "invalid_input", "limit_exceeded", "manifest_not_found"),
            ), (tool, answer)
            await is_well(ask)


# -- messages ---------------------------------------------------------------------------------------------------


def call_of(arguments: bytes) -> bytes:
    return (
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"generate_content","arguments":'
        + arguments
        + b"}}"
    )


GOOD_CALL = call_of(b'{"content_config_id":"good","force":true}')

MESSAGES: dict[str, bytes] = {
    "nothing": b" ",
    "no JSON": b"hello",
    "deep lists": b"[" * 1_000_000,
    "deep arguments": call_of(b'{"context":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "deep in a text": call_of(msgspec.json.encode({"content_config_id": "good", "context": "[" * 1_000_000})),
    "deep params": b'{"jsonrpc":"2.0","id":1,"method":"ping","params":' + b'{"a":' * 200 + b"1" + b"}" * 201,
    "deep id": b'{"jsonrpc":"2.0","id":' + b"[" * 60 + b"]" * 60 + b',"method":"ping"}',
    "many lists": call_of(b'{"content_config_id":"good","context":{"x":[' + b"[]," * 1_000_000 + b"[]]}}"),
    "many keys": call_of(b'{"content_config_id":"good",' + b",".join(b'"k%d":1' % n for n in range(200_000)) + b"}"),
    "the same key": call_of(b'{"content_config_id":"good"' + b',"force":true' * 200_000 + b"}"),
    "two methods": b'{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/list"}',
    "two ids": b'{"jsonrpc":"2.0","id":1,"id":[1],"method":"ping"}',
    "huge id": b'{"jsonrpc":"2.0","id":' + b"1" * 100_000 + b',"method":"ping"}',
    "long id": b'{"jsonrpc":"2.0","id":"' + b"i" * 1_000_000 + b'","method":"ping"}',
    "huge exponent": b'{"jsonrpc":"2.0","id":1e999999,"method":"ping"}',
    "no number": b'{"jsonrpc":"2.0","id":NaN,"method":"ping"}',
    "long method": b'{"jsonrpc":"2.0","id":1,"method":"' + b"m" * 1_000_000 + b'"}',
    "long tool": b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"' + b"t" * 1_000_000 + b'"}}',
    "null method": b'{"jsonrpc":"2.0","id":1,"method":null}',
    "list params": b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":[1]}',
    "text params": b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":"x"}',
    "no version": b'{"id":1,"method":"ping"}',
    "other version": b'{"jsonrpc":"9.9","id":1,"method":"ping"}',
    "half a character": b'{"jsonrpc":"2.0","id":"\\ud800","method":"ping"}',
    "half a method": b'{"jsonrpc":"2.0","id":1,"method":"\\udfff"}',
    "UTF-16": GOOD_CALL.decode().encode("utf-16-le").replace(b"\n", b""),
    "Latin-1": b'{"jsonrpc":"2.0","id":1,"method":"p\xefng"}',
    "byte order mark": b"\xef\xbb\xbf" + GOOD_CALL,
    "NULs": b"\0" * 100_000,
    "NUL after it": GOOD_CALL + b"\0",
    "half a message": GOOD_CALL[:-10],
    "two messages": GOOD_CALL + GOOD_CALL,
    "batch of nothing": b"[]",
    "batch of numbers": b"[1,2,3]",
    "batch of many": b"[" + b",".join([GOOD_CALL] * 1000) + b"]",
    "answer to nothing": b'{"jsonrpc":"2.0","id":1,"result":{}}',
    "error to nothing": b'{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"x"}}',
    "progress token": call_of(b"{}").replace(b'"arguments"', b'"_meta":{"progressToken":{"a":[]}},"arguments"'),
    "cancelling nothing": b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":{"a":1}}}',
    "bad resource": b'{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"config://content/../../x"}}',
    "long resource": b'{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"' + b"u" * 900_000 + b'"}}',
    "bad completion": b'{"jsonrpc":"2.0","id":1,"method":"completion/complete","params":{"ref":{"type":"x"}}}',
    "bad cursor": b'{"jsonrpc":"2.0","id":1,"method":"resources/list","params":{"cursor":"' + b"9" * 90_000 + b'"}}',
    "too large by a byte": GOOD_CALL + b" " * (4 * MIB + 1 - len(GOOD_CALL)),
}


async def test_hostile_messages_over_http(project: Project):
    """Each gets its status, and the next call works."""
    async with serving(project) as (server, client):
        await client.initialize()

        async def is_well() -> None:
            answer = await client.post(GOOD_CALL)
            assert answer.json()["result"]["structuredContent"]["success"] is True, answer.text

        await is_well()
        await settled(server)
        for kind, body in MESSAGES.items():
            async with bounded(project, server.pid, memory=150 * MIB):
                answer = await client.post(body)
                assert answer.status_code in (200, 202, 400, 413), (kind, answer)
                assert len(answer.content) < len(body) + 100_000, kind  # an id is echoed, whatever its length
                assert "Traceback" not in answer.text
                assert "internal_error" not in answer.text, (kind, answer.text)
                await is_well()


async def test_hostile_messages_over_stdio(project: Project):
    """Line by line: a response or none, and the next call works."""
    async with process(project, "stdio", stdin=-1, stdout=-1) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        received = bytearray()

        async def ask(line: bytes) -> list[bytes]:
            """The response to a message with the id `well`, and everything before it."""
            assert server.stdin is not None
            assert server.stdout is not None
            await server.stdin.send_all(line + b"\n" + well + b"\n")
            with trio.fail_after(PATIENCE):
                while b'"id":"well"' not in received or not received.endswith(b"\n"):
                    received.extend(await server.stdout.receive_some(65536))
            lines = bytes(received).splitlines()
            received.clear()
            return lines

        well = msgspec.json.encode(message("initialize", HELLO, "well"))
        await ask(b"")
        well = GOOD_CALL.replace(b'"id":1', b'"id":"well"')
        await ask(b"")
        await settled(server)
        for kind, body in MESSAGES.items():
            async with bounded(project, server.pid, memory=150 * MIB):
                answers = await ask(body.replace(b"\n", b" "))
                (good,) = [msgspec.json.decode(each) for each in answers if b'"id":"well"' in each]
                assert good["result"]["structuredContent"]["success"] is True, (kind, good)
                assert "internal_error" not in str(answers), (kind, answers)


@pytest.mark.parametrize("levels", [2, 30, 60, 300, 900])
async def test_batches_in_batches(ask: Asking, levels: int):
    """A nested batch isn't a valid message, at any depth."""
    server = project_server(ask.engine, TOOLS, Metrics())
    session = Session("memory", LOCAL)
    session.revision = wire.REVISIONS["2025-03-26"]
    ping = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
    reply = await server.answer(session, b"[" * levels + ping + b"]" * levels)
    assert reply is not None
    answer = msgspec.json.decode(reply.body)
    (answer,) = answer if isinstance(answer, list) else [answer]
    assert answer["error"]["code"] in (wire.INVALID_REQUEST, wire.PARSE_ERROR)
