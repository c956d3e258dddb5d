"""get_config, get_text and list_collections, for clients that can't read resources."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from chora.engine.engine import Engine
from chora.protocol.types import Call
from chora.tools import ALL_TOOLS
from chora.tools.reading import CONFIG_BYTES
from chora.tools.tool import HEAD_LIMIT
from tests.conftest import Asking, Project, artifact, child, content, requirement, text
from tests.tools.test_collection import member, pack


@requirement("tools.reading")
@pytest.mark.parametrize(
    ("config_id", "kind"), [("note", "content"), ("sheet", "artifact"), ("pack", "collection"), ("both", None)]
)
async def test_get_config(ask: Asking, project: Project, config_id: str, kind: str | None):
    """A config as it is written, unknown keys too; the kind is needed only where several have the id."""
    documents = {
        "note": {**text("note", "x"), "more": {"kept": [1]}},
        "sheet": artifact("sheet", [child("note")]),
        "pack": pack("pack", [member("sheet")]),
        "both": text("both", "x"),
    }
    project.save(*documents.values(), artifact("both", [child("both")]))
    if config_id == "both":
        refused = await ask.refused("get_config", "invalid_input", config_id="both")
        assert refused["details"]["allowed"] == ["content", "artifact"]
        kind = "content"
        found = await ask("get_config", config_id="both", config_type=kind)
    else:
        found = await ask("get_config", config_id=config_id)
    assert (found["config"], found["config_type"], found["truncated"]) == (documents[config_id], kind, False)
    assert found["resource"] == f"config://{kind}/{config_id}"
    assert project.read(found["file_path"])


@requirement("tools.reading")
async def test_a_large_config_is_named_as_a_resource(ask: Asking, project: Project, engine: Engine):
    """It isn't cut, as half a config is none; the command line gets it whole."""
    project.save(content("large", note="x" * CONFIG_BYTES))
    found = await ask("get_config", config_id="large")
    assert (found["config"], found["truncated"]) == (None, True)
    assert found["resource"] == "config://content/large"
    run = ALL_TOOLS["get_config"].run_tool
    answer = await run(engine, msgspec.json.encode({"config_id": "large"}), Call("http"))
    assert [link.uri for link in answer.links] == [found["resource"]]
    whole = await run(engine, msgspec.json.encode({"config_id": "large"}), Call("cli"))
    assert msgspec.json.decode(whole.body)["config"]["note"] == "x" * CONFIG_BYTES
    assert whole.links == ()


@requirement("tools.reading")
async def test_what_is_missing_is_named_with_what_there_is(ask: Asking, project: Project):
    """As by the other tools."""
    project.save(text("note", "x"), pack("pack", [member("note")]))
    assert (await ask.refused("get_config", "config_not_found", config_id="nota"))["hint"] == "Did you mean note?"
    other = await ask.refused("get_config", "config_not_found", config_id="note", config_type="artifact")
    assert other["hint"].startswith("note is a content")
    await ask.refused("get_config", "invalid_config_id", config_id="../note")
    never = await ask.refused("get_text", "content_not_found", content_id="note")
    assert "generate_content" in never["hint"]
    await ask.refused("get_text", "invalid_config_id", content_id="../note")
    await ask("generate_content", content_config_id="note")
    await ask.refused("get_text", "content_not_found", content_id="note", version_id="gone")


@requirement("tools.reading")
@pytest.mark.parametrize("body", ["short", "", "x" * (2 * HEAD_LIMIT + 5), "ü€😀" * HEAD_LIMIT])
async def test_get_text_gives_a_text_in_parts(ask: Asking, project: Project, body: str):
    """Each part within 16 KiB; together they are the whole text, whatever its characters take."""
    project.save(text("note", body or "{# nothing #}"))
    made = await ask("generate_content", content_config_id="note")
    parts: list[str] = []
    offset: int | None = 0
    while offset is not None:
        part = await ask("get_text", content_id="note", offset=offset)
        assert part["version_id"] == made["metadata"]["version_id"]
        assert len(part["text"].encode()) <= HEAD_LIMIT
        assert part["content_length"] == made["content_length"]
        parts.append(part["text"])
        offset = part["next_offset"]
    whole = "".join(parts)
    assert len(whole) == made["content_length"]
    assert whole.startswith(made["content"])
    beyond = await ask("get_text", content_id="note", offset=len(whole) + 1)
    assert (beyond["text"], beyond["next_offset"]) == ("", None)


@requirement("tools.reading")
async def test_get_text_of_an_older_version(ask: Asking, project: Project):
    """By its id; one that was deleted has no text."""
    versions: list[Any] = []
    for body in ("one", "two"):
        project.save(text("note", body))
        versions.append((await ask("generate_content", content_config_id="note"))["metadata"]["version_id"])
    assert (await ask("get_text", content_id="note"))["text"].strip() == "two"
    assert (await ask("get_text", content_id="note", version_id=versions[0]))["text"].strip() == "one"
    await ask("delete_content", content_id="note", preserve_metadata=True)
    await ask.refused("get_text", "content_not_found", content_id="note", version_id=versions[0])


@requirement("tools.reading")
async def test_get_text_of_what_has_none_says_what_to_do(ask: Asking, project: Project):
    """By what the id is of, or is like."""
    project.save(text("note", "x"), artifact("sheet", [child("note")]))
    for content_id, words in (("note", "generate_content makes it"), ("notes", "note"), ("sheet", "assemble_artifact")):
        error = await ask.refused("get_text", "content_not_found", content_id=content_id)
        assert words in error["hint"]


@requirement("tools.reading")
async def test_list_collections(ask: Asking, project: Project):
    """A page of them, and the files that can't be read."""
    project.save(text("note", "x"), artifact("sheet", [child("note")]))
    project.save(*(pack(f"c{number:02}", [member("sheet")], description="All") for number in range(60)))
    project.write("configs/collection/broken.json", "{")
    first = await ask("list_collections")
    assert (first["total"], len(first["collections"]), first["next_offset"]) == (60, 50, 50)
    assert first["collections"][0] == {
        "id": "c00",
        "file_path": "configs/collection/c00.json",
        "name": "The c00",
        "description": "All",
        "member_count": 1,
    }
    assert [each["file_path"] for each in first["invalid"]] == ["configs/collection/broken.json"]
    rest = await ask("list_collections", offset=50)
    assert ([each["id"] for each in rest["collections"]][-1], rest["next_offset"]) == ("c59", None)
