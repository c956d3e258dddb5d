"""Stored texts and artifact configs as context."""

from __future__ import annotations

from typing import Any

import pytest

from chora.engine import retrieval
from chora.engine.building.build import Build, CallerContext
from chora.engine.building.content import build_content
from chora.engine.building.gather import source_access
from chora.engine.engine import Engine
from chora.errors import Busy, ChoraError, StorageError
from chora.model import Source
from chora.sources import artifact_config, ephemeral_output
from chora.sources.source import SourceAccess, SourceFailed
from chora.store import Version
from chora.timestamps import now
from tests.conftest import Project, artifact, child, content, requirement, text


def unavailable(*given: Any) -> Any:
    """A source access that records dependencies and has no texts."""


@pytest.fixture
async def access(engine: Engine) -> SourceAccess:
    """What sources may use in this project."""
    recorder = Build(engine).new_recorder()
    return source_access(engine, recorder, unavailable, unavailable)


async def store(engine: Engine, content_id: str, *bodies: str, approved: bool = False) -> None:
    for body in bodies:
        await engine.store.add_version(
            Version(
                content_id=content_id,
                body=body,
                sha256="sha256:x",
                fingerprint=f"sha256:{body}",
                generator="demonstration",
                generator_version="1.0.0",
                generated_at=now(),
                config_version="1.0.0",
                approved=approved,
            )
        )


def source(locator: str, **rest: Any) -> Source:
    return Source(type="ephemeral_output", locator=locator, **rest)


@requirement("sources.ephemeral-output")
@pytest.mark.parametrize(
    ("locator", "value"),
    [
        ("note", "three"),
        ("note:latest", "three"),
        ("note:", "three"),
        ("note:all", ["one", "two", "three"]),
        ("note:version:1.0.0", "three"),
        ("note:timestamp:20", "three"),
        ("note:approved_only", "two"),
        ("single:all", ["only"]),
    ],
)
async def test_a_stored_text_is_selected_by_its_strategy(
    engine: Engine, access: SourceAccess, locator: str, value: Any
):
    """One text; for `all` a list, also if it has one item."""
    await store(engine, "note", "one")
    await store(engine, "note", "two", approved=True)
    await store(engine, "note", "three")
    await store(engine, "single", "only")
    assert await ephemeral_output.fetch(source(locator), access) == value


WAYS = "write one of latest, all, version:X.Y.Z, timestamp:PREFIX, approved_only"


@pytest.mark.parametrize(
    ("locator", "problem"),
    [
        ("nothing", "there is no content 'nothing', and no text is stored of it"),
        ("nothing:all", "there is no content 'nothing', and no text is stored of it"),
        ("note:version:9.9.9", "nothing is stored of note that is version:9.9.9"),
        ("note:approved_only", "nothing is stored of note that is approved_only"),
        ("note:newest", f"'newest' is not a way to choose a stored text; {WAYS}"),
        ("note:version", f"'version' is not a way to choose a stored text; {WAYS}"),
        ("", "it names no content; write content-id or content-id:strategy"),
        (":all", "it names no content; write content-id or content-id:strategy"),
    ],
)
async def test_a_text_that_is_not_stored_is_a_missing_value(
    engine: Engine, access: SourceAccess, locator: str, problem: str
):
    """It isn't generated; the error's sentence has no full stop."""
    await store(engine, "note", "one")
    with pytest.raises(SourceFailed) as failed:
        await ephemeral_output.fetch(source(locator), access)
    assert str(failed.value) == problem


@pytest.mark.parametrize("error", [Busy("wait"), StorageError("disk full")])
async def test_a_server_failure_is_not_a_missing_value(access: SourceAccess, error: ChoraError):
    """An optional source must not become null because the disk was full."""

    def fail(content_id: str, strategy: str) -> list[str]:
        raise error

    with pytest.raises(type(error)):
        await ephemeral_output.fetch(source("note"), access._replace(stored=fail))


async def test_a_text_is_generated_again_when_the_stored_one_changes(project: Project, engine: Engine):
    """The stored text is an input like any file; the same text under another strategy is no change."""
    project.save(
        text("note", "one"),
        content(
            "quote",
            sources=[{"id": "said", "source_type": "ephemeral_output", "source_locator": "note:approved_only"}],
            pattern={"type": "jinja2", "template": "It says: {{ said }}"},
        ),
    )

    async def made() -> tuple[str, str]:
        done = await build_content(
            Build(engine), engine.catalog.find_config("content", "quote").parsed, CallerContext({})
        )
        return done.version.body, done.status

    await store(engine, "note", "first", approved=True)
    assert await made() == ("It says: first", "generated")
    await store(engine, "note", "draft")
    assert await made() == ("It says: first", "skipped")
    await store(engine, "note", "second", approved=True)
    assert await made() == ("It says: second", "regenerated")


@requirement("sources.never-rendered")
async def test_a_stored_text_is_never_rendered(project: Project, engine: Engine):
    """It is data, whatever it contains."""
    await store(engine, "note", "{{ 1 + 1 }}")
    project.save(
        content(
            "quote",
            sources=[{"id": "said", "source_type": "ephemeral_output", "source_locator": "note"}],
            pattern={"type": "jinja2", "template": "{{ said }}"},
        )
    )
    done = await build_content(Build(engine), engine.catalog.find_config("content", "quote").parsed, CallerContext({}))
    assert done.version.body == "{{ 1 + 1 }}"


def test_the_strategies_are_documented():
    """In the docstring of the source."""
    for strategy in retrieval.STRATEGIES:
        assert strategy in (ephemeral_output.__doc__ or "")


# -- artifact configs -------------------------------------------------------------------------------------------


@requirement("sources.artifact-config")
@pytest.mark.parametrize("locator", ["pack", "configs/artifact/pack.json", "artifact/pack.json", "pack.json"])
async def test_an_artifact_config_is_found_by_id_and_by_path(project: Project, access: SourceAccess, locator: str):
    """As data, with unknown keys."""
    document = artifact("pack", [child("note")]) | {"extra": 1}
    project.save(document)
    assert await artifact_config.fetch(Source(type="artifact_config", locator=locator), access) == document


@pytest.mark.parametrize(
    ("locator", "problem"),
    [
        ("missing", "There is no artifact config 'missing'"),
        ("artifact/missing.json", "There is no artifact config at 'artifact/missing.json'"),
        ("../x.json", "The path '../x.json' leads outside the project"),
        ("broken", "configs/artifact/broken.json is not JSON"),
        ("", "The config id '' is empty"),
        ("configs/content/note.json", "configs/content/note.json is not an artifact config"),
    ],
)
async def test_an_unavailable_artifact_config_is_a_missing_value(
    project: Project, access: SourceAccess, locator: str, problem: str
):
    """Not found, outside, broken, of another kind."""
    project.write("configs/artifact/broken.json", "{")
    project.save(text("note", "x"))
    with pytest.raises(SourceFailed) as failed:
        await artifact_config.fetch(Source(type="artifact_config", locator=locator), access)
    assert str(failed.value).startswith(problem)
    assert not str(failed.value).endswith(".")


async def test_a_disk_error_is_not_a_missing_config(
    project: Project, engine: Engine, access: SourceAccess, monkeypatch: pytest.MonkeyPatch
):
    """It fails the call."""
    project.save(artifact("pack", [child("note")]))

    def fail(*given: object, **named: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(engine.folder, "read_bytes", fail)
    with pytest.raises(StorageError):
        await artifact_config.fetch(Source(type="artifact_config", locator="pack"), access)
