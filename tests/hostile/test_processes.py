"""Several processes writing to one project at once: an HTTP server, a stdio server, and commands."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import msgspec
import trio

from chora import this_process
from chora.hashing import sha256
from chora.store import SqliteStore
from tests.conftest import Project, artifact, child, content
from tests.hostile.measures import linux, prepare, process, serving
from tests.http_client import HELLO, message
from tests.patience import PATIENCE

pytestmark = linux

ROUNDS = 12
COMMANDS = 3


def fill(project: Project) -> None:
    """A content, an artifact and a collection for each writer, and shared ones."""
    prepare(project)
    for who in ("http", "pipes", "command", "all"):
        pattern = {"type": "jinja2", "template": "{{ body }}"}
        project.save(
            content(f"text-{who}", pattern=pattern),
            artifact(f"page-{who}", [child(f"text-{who}")]),
            {
                "type": "collection",
                "id": f"pack-{who}",
                "name": who,
                "members": [{"id": f"page-{who}", "type": "artifact", "path": f"configs/artifact/page-{who}.json"}],
                "output": {"base_path": f"outputs/{who}"},
            },
        )


def calls(who: str, number: int) -> list[tuple[str, dict[str, Any]]]:
    """The calls of one writer: to its own configs and to the shared ones."""
    body = f"{who} {number} " + "x" * (number * 137 % 5000)
    draft = content(f"made-{who}-{number}", elements=[{"name": "a", "format": "text", "example_output": body}])
    context: dict[str, Any] = {"context": {"body": body}, "force": True}
    return [
        ("generate_content", {"content_config_id": f"text-{who}", **context}),
        ("generate_content", {"content_config_id": "text-all", **context}),
        ("assemble_artifact", {"artifact_config_id": f"page-{who}", **context}),
        ("generate_collection", {"collection_config_path": f"pack-{who}", **context}),
        ("draft_config", {"config_type": "content", "config_data": draft}),
    ]


async def test_http_stdio_and_commands_share_a_project(project: Project):
    """Every call succeeds, everything acknowledged is stored once and complete, and files hold the last text."""
    fill(project)
    ids: list[str] = []
    bodies: dict[str, str] = {}
    saved: set[str] = set()

    def note(tool: str, arguments: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
        assert result["success"], (tool, result)
        if tool == "generate_content":
            ids.append(result["metadata"]["version_id"])
            bodies[ids[-1]] = arguments["context"]["body"]
        return result

    async with (
        serving(project) as (_, client),
        process(project, "stdio", stdin=-1, stdout=-1) as piped,
    ):
        assert piped.stdin is not None
        assert piped.stdout is not None
        received = bytearray()

        async def over_http(tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
            answer = (await client.call(tool, **arguments)).json()
            return note(tool, arguments, answer["result"]["structuredContent"])

        async def over_pipes(tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
            body = message("tools/call", {"name": tool, "arguments": arguments}, 2)
            return note(tool, arguments, (await say(body))["result"]["structuredContent"])

        async def say(body: dict[str, Any]) -> dict[str, Any]:
            assert piped.stdin is not None
            assert piped.stdout is not None
            await piped.stdin.send_all(msgspec.json.encode(body) + b"\n")
            while True:
                while b"\n" not in received:
                    received.extend(await piped.stdout.receive_some(65536))
                line, _, rest = bytes(received).partition(b"\n")
                received[:] = rest
                if (answer := msgspec.json.decode(line)).get("id") == body["id"]:
                    return answer

        async def write(who: str, ask: Any) -> None:
            made: dict[str, Any] = {}
            for number in range(ROUNDS):
                for tool, arguments in calls(who, number):
                    made = await ask(tool, arguments)
                config_id = f"made-{who}-{number}"
                saved.add(config_id)
                await ask("save_config", {"draft_id": made["draft_id"], "config_id": config_id})

        async def command(number: int) -> None:
            for tool, arguments in calls("command", number)[:4]:
                line = this_process.own_command(
                    "--project", str(project.root), "call", tool, json.dumps(arguments), "--json"
                )
                done = await trio.run_process(
                    line, env=this_process.child_environment(), capture_stdout=True, capture_stderr=True, check=False
                )
                note(tool, arguments, msgspec.json.decode(done.stdout))

        await say(message("initialize", HELLO, 1))
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(write, "http", over_http)
                nursery.start_soon(write, "pipes", over_pipes)
                for number in range(COMMANDS):
                    nursery.start_soon(command, number)
        assert (await client.http.get("/ready")).status_code == 200

    assert len(ids) == len(set(ids)) == 2 * (2 * ROUNDS + COMMANDS)
    with contextlib.closing(SqliteStore(project.root / ".chora/storage.db")) as store:
        for name in ("text-http", "text-pipes", "text-command", "text-all"):
            found = {each.version_id: each.body for each in store.versions(name)}
            known = {version_id: body for version_id, body in bodies.items() if version_id in found}
            assert {version_id: found[version_id] for version_id in known} == known
            for version_id in known:
                del bodies[version_id]
        assert bodies == {}, "acknowledged, and nowhere"
        assert store.counts()["drafts"] == 0
        for who in ("http", "pipes"):
            (output,) = [each for each in store.outputs() if each.path == f"outputs/page-{who}.md"]
            written = project.read(output.path)
            assert written.startswith(f"{who} {ROUNDS - 1} ")
            assert (output.sha256, output.pending) == (sha256(written.encode()), None)
    for config_id in saved:
        assert json.loads(project.read(f"configs/content/{config_id}/{config_id}-content.json"))["id"] == config_id
    assert not list(project.root.rglob("*.tmp"))
