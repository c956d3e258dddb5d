"""The inputs of a build: recorded before they are read, checked once a build, and compared later."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from chora import settings
from chora.engine.building.build import Build, CallerContext
from chora.engine.building.content import ContentTrace, build_content
from chora.engine.engine import Engine, open_engine
from chora.engine.file_digests import ABSENT, UNREADABLE
from chora.engine.inputs import InputChange, InputRecorder
from chora.hashing import sha256
from tests.conftest import Project, artifact, child, content, text

needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="permissions and links")
needs_user = pytest.mark.skipif(getattr(os, "geteuid", lambda: 1)() == 0, reason="root may read anything")


def test_an_input_is_recorded_once_and_before_it_is_read(tmp_path: Path):
    """An absolute path is recorded as the relative one."""
    counted: list[str] = []

    def digest(name: str) -> str:
        counted.append(name)
        return f"{name} {len(counted)}"

    seen = InputRecorder(digest, tmp_path)
    for name in ("a", "b", "a", str(tmp_path / "a"), str(tmp_path / "c/d")):
        seen.record(name)
    assert seen.inputs == {"a": "a 1", "b": "b 2", os.path.join("c", "d"): f"{os.path.join('c', 'd')} 3"}
    seen.record_digest("git:HEAD", "1")
    seen.record_all({"part": "2", "a": "a of a part"})
    assert seen.inputs["git:HEAD"] == "1"
    assert (seen.inputs["part"], seen.inputs["a"]) == ("2", "a of a part")
    assert seen.reproducible


# -- changes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (InputChange("data/a.json", ABSENT, "sha256:1"), "data/a.json is new"),
        (InputChange("data/a.json", "sha256:1", ABSENT), "data/a.json is gone"),
        (InputChange("data/a.json", "sha256:1", "sha256:2"), "data/a.json has changed"),
        (InputChange("data/a.json", "sha256:1", UNREADABLE), "data/a.json has changed"),
        (InputChange("configs:content", "1", "2"), "the set of content configs has changed"),
        (InputChange("templates:*", "1", "2"), "the set of templates has changed"),
        (InputChange("git:.\0main:a.md", "1", "2"), "main:a.md has changed"),
        (InputChange("git:.\0main:a.md", ABSENT, "2"), "main:a.md is new"),
        (InputChange("stored:note:approved_only", "1", "2"), "the stored texts of note have changed"),
        (InputChange("generator:jinja2", "1", "2"), "the generator jinja2 has another version"),
    ],
)
def test_a_change_is_described_in_words(change: InputChange, reason: str):
    """By the kind of input that changed."""
    assert change.reason == reason


async def reasons(engine: Engine, content_id: str = "note") -> list[str]:
    """Why the content is outdated, by its newest trace."""
    parsed = engine.catalog.find_config("content", content_id).parsed
    known = engine.traces.latest_trace(f"content:{parsed.origin}", ContentTrace)
    assert known is not None
    snapshot = Build(engine).snapshot
    found = await snapshot.find_changes(known.inputs)
    assert await snapshot.find_changes(known.inputs, first=True) == found[:1]
    return [change.reason for change in found]


async def make(engine: Engine, content_id: str = "note", context: dict[str, Any] | None = None, **rest: Any) -> str:
    parsed = engine.catalog.find_config("content", content_id).parsed
    return (await build_content(Build(engine, **rest), parsed, CallerContext(context or {}))).status


def git(project: Project, *arguments: str) -> None:
    identity = ["-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *identity, *arguments], cwd=project.root, check=True, capture_output=True)


async def test_every_kind_of_input_has_a_reason(project: Project, engine: Engine):
    """Files, templates and possible includes, configs by name and by id, git, stored texts, generators."""
    project.write("data/day.json", '{"name": "Friday"}')
    project.write("data/gone.json", "1")
    project.write("templates/page.j2", "{{ day.name }} {{ old }} {{ other }} {% include what %}\n")
    project.write("templates/part.j2", "part")
    project.write("doc.md", "committed\n")
    git(project, "init", "-q")
    git(project, "add", "doc.md")
    git(project, "commit", "-q", "-m", "one")
    project.write("configs/content/deep/other.json", msgspec.json.encode(text("other", "other")))
    sources = [
        {"id": "day", "source_type": "external_file", "source_locator": "data/day.json"},
        {"id": "gone", "source_type": "external_file", "source_locator": "data/gone.json"},
        {"id": "doc", "source_type": "git_reference", "source_locator": "HEAD:doc.md"},
        {"id": "old", "source_type": "ephemeral_output", "source_locator": "other:all"},
        {"id": "other", "source_type": "content_config", "source_locator": "other", "data_selector": "output"},
    ]
    pattern = {"type": "jinja2", "template": "page.j2", "generation_config": {"context": {"what": "part.j2"}}}
    project.save(content("note", pattern=pattern, sources=sources))
    await make(engine, "other")
    assert await make(engine) == "generated"
    assert await reasons(engine) == []
    assert await make(engine) == "skipped"

    project.write("data/day.json", '{"name": "Saturday"}')
    (project.root / "data/gone.json").unlink()
    project.write("templates/new.j2", "")
    project.write("doc.md", "again\n")
    git(project, "commit", "-q", "-a", "-m", "two")
    project.write("configs/content/note.json", project.read("configs/content/note.json") + " ")
    project.write("configs/content/another.json", msgspec.json.encode(text("another", "x")))
    await make(engine, "other", force=True)
    reported = await reasons(engine)
    assert sorted(reported) == sorted(
        [
            "configs/content/note.json has changed",
            "data/day.json has changed",
            "data/gone.json is gone",
            "the stored texts of other have changed",
            "the set of content configs has changed",
            "the set of templates has changed",
            "HEAD:doc.md has changed",
        ]
    )
    project.write("data/gone.json", "2")
    assert await make(engine) == "regenerated"
    assert await reasons(engine) == []


async def test_a_snapshot_checks_every_input_once(project: Project, engine: Engine):
    """All of a call sees one state of a file, except for what the call itself writes."""
    project.write("a.txt", "one")
    project.save(text("note", "x"))
    snapshot = Build(engine).snapshot
    stored = "stored:note:latest"
    before = {"a.txt": sha256(b"one"), stored: engine.digest_stored_texts("note", "latest")}
    assert await snapshot.find_changes(before) == []
    project.write("a.txt", "two")
    await make(engine)
    assert await snapshot.find_changes(before) == []
    assert snapshot.digest("a.txt") == sha256(b"one")
    assert not snapshot.still_current(before), "but it is known that the file isn't what was noted"
    snapshot.forget_file("a.txt")
    snapshot.forget_stored_texts("note")
    snapshot.forget_stored_texts("unknown")
    assert [change.name for change in await snapshot.find_changes(before)] == ["a.txt", stored]


async def test_an_unknown_strategy_is_a_digest_too(project: Project, engine: Engine):
    """The source fails; fixing it changes the config."""
    assert engine.digest_stored_texts("note", "newest") == "invalid_input"


async def test_a_file_that_changes_while_a_text_is_made_leaves_no_trace(project: Project):
    """Otherwise the text of one state would be taken for that of the other after changing the file back."""
    project.write("chora.toml", '[plugins]\ngenerators = ["slow.py"]\n')
    project.write("slow.py", SLOW)
    word = {"id": "word", "source_type": "external_file", "source_locator": "word.txt"}
    project.save(content("note", pattern={"type": "slow"}, sources=[word]), artifact("note", [child("note")]))
    project.write("word.txt", "one")
    async with open_engine(project.root, settings.load(project.root, {}).settings) as engine:
        build = Build(engine)
        build.snapshot.digest("word.txt")  # as another member of the same run had done
        project.write("word.txt", "two")
        parsed = engine.catalog.find_config("content", "note").parsed
        made = await build_content(build, parsed, CallerContext({}))
        assert made.version.body == "two"
        project.write("word.txt", "one")
        again = await build_content(Build(engine), parsed, CallerContext({}))
        assert again.version.body == "one"


SLOW = """
from chora.generators.generator import GeneratedText
NAME, VERSION, DESCRIPTION, CAPABILITIES = "slow", "1", "Repeats.", ()
async def generate(job):
    return GeneratedText(job.context["word"])
"""
