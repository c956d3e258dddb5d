"""The registry of sources, data written in a config, and other contents as context."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

import chora.sources
from chora import settings
from chora.catalog import Catalog, FoundConfig
from chora.config_parsing import parse_config
from chora.errors import Busy, ChoraError, GenerationFailed, StorageFailed
from chora.files import Folder
from chora.model import Source
from chora.nesting import DEPTH_LIMIT
from chora.render.pool import RenderPool
from chora.sources import BY_TYPE, SOURCES, content_config, inline_data
from chora.sources.source import SourceAccess, SourceFailed
from tests.conftest import Project, content, requirement, text

PARTS = {"data_files", "selectors", "source"}


def test_every_source_is_registered():
    """Every module of the package that isn't one of PARTS is a source, and has the required attributes."""
    found = {module.name for module in pkgutil.iter_modules(chora.sources.__path__)} - PARTS
    assert found == {source.__name__.rpartition(".")[2] for source in SOURCES}
    assert {source.TYPE: source for source in SOURCES} == BY_TYPE
    assert all(callable(source.fetch) for source in SOURCES)


def source_access(
    project: Project,
    generate: Callable[[FoundConfig], Any] | None = None,
    stored: Callable[[str, str], list[str]] | None = None,
    noted: dict[str, str] | None = None,
) -> SourceAccess:
    """What sources may use in this project; `generate` returns the text or raises."""

    async def run(found: FoundConfig) -> str:
        assert generate is not None
        return generate(found)

    folder = Folder(project.root)
    notes = {} if noted is None else noted

    def note(path: str) -> None:
        notes.setdefault(path, "file")

    return SourceAccess(
        folder,
        Catalog(folder),
        RenderPool(settings.RenderSettings()),
        run,
        stored or (lambda content_id, strategy: []),
        note,
        notes.__setitem__,
    )


@requirement("sources.inline-data")
@pytest.mark.parametrize(
    ("written", "value"),
    [
        ({"source_locator": '{"a": [1]}'}, {"a": [1]}),
        ({"source_locator": "[1, 2]"}, [1, 2]),
        ({"source_locator": "5"}, 5),
        ({"source_locator": '"x"'}, "x"),
        ({"source_locator": "null"}, None),
        ({"source_locator": "plain {text"}, "plain {text"),
        (
            {"source_locator": "[" * (DEPTH_LIMIT + 1) + "]" * (DEPTH_LIMIT + 1)},
            "[" * (DEPTH_LIMIT + 1) + "]" * (DEPTH_LIMIT + 1),
        ),
        ({"source_locator": "[" * 5000}, "[" * 5000),
    ],
)
async def test_an_inline_locator_is_parsed_as_json(project: Project, written: dict[str, Any], value: Any):
    """If it isn't JSON, or is nested too deep, it is text."""
    document = content("a", sources=[{"id": "s", "source_type": "inline_data", **written}])
    (source,) = parse_config("content", document, where="a").config.inputs.sources
    assert await inline_data.fetch(source, source_access(project)) == value


@pytest.mark.parametrize("value", [{"a": 1}, [1], "text", 0, False, None])
async def test_inline_data_in_the_short_form_is_taken_unchanged(project: Project, value: Any):
    """Text in `data` stays text, also if it looks like JSON."""
    document = content("a", sources=[{"id": "s", "type": "inline_data", "data": value}])
    (source,) = parse_config("content", document, where="a").config.inputs.sources
    assert await inline_data.fetch(source, source_access(project)) == value


@requirement("sources.content-config")
@pytest.mark.parametrize("locator", ["note", "configs/content/note.json", "content/note.json", "note.json"])
async def test_a_content_config_is_found_by_id_and_by_path(project: Project, locator: str):
    """Without a selector its value is the config, with unknown keys."""
    document = text("note", "hello") | {"extra": 1}
    project.save(document)
    source = Source(type="content_config", locator=locator)
    assert await content_config.fetch(source, source_access(project)) == document


@requirement("sources.content-config")
async def test_the_selector_output_generates_the_named_config(project: Project):
    """By path it is the file at the path, even if another file has the same id."""
    project.save(text("note", "one"))
    project.write("configs/content/other/draft.json", msgspec.json.encode(text("note", "two")))
    asked: list[str] = []

    def generate(found: FoundConfig) -> str:
        asked.append(found.path)
        return "the text"

    for locator in ("note", "configs/content/other/draft.json"):
        source = Source(type="content_config", locator=locator, selector="output")
        assert await content_config.fetch(source, source_access(project, generate)) == "the text"
    assert asked == ["configs/content/note.json", "configs/content/other/draft.json"]


@pytest.mark.parametrize(
    ("locator", "problem"),
    [
        ("missing", "There is no content config 'missing'"),
        ("content/missing.json", "There is no content config at 'content/missing.json'"),
        ("../x.json", "The path '../x.json' leads outside the project"),
        ("broken", "configs/content/broken.json is not JSON"),
        ("", "The config id '' is empty"),
    ],
)
async def test_an_unavailable_config_is_a_missing_value(project: Project, locator: str, problem: str):
    """Not found, outside, broken: with the error's sentence, without its full stop."""
    project.write("configs/content/broken.json", "{")
    with pytest.raises(SourceFailed) as failed:
        await content_config.fetch(Source(type="content_config", locator=locator), source_access(project))
    assert str(failed.value).startswith(problem)
    assert not str(failed.value).endswith(".")


async def test_a_text_that_cannot_be_generated_is_a_missing_value(project: Project):
    """The other content's error becomes the source's."""
    project.save(text("note", "one"))

    def generate(found: FoundConfig) -> str:
        raise GenerationFailed("note: there is no template.")

    source = Source(type="content_config", locator="note", selector="output")
    with pytest.raises(SourceFailed, match=r"note: there is no template$"):
        await content_config.fetch(source, source_access(project, generate))


@pytest.mark.parametrize("error", [Busy("wait"), StorageFailed("disk full")])
async def test_a_server_failure_is_not_a_missing_value(project: Project, error: ChoraError):
    """An optional source must not become null because the server was busy."""
    project.save(text("note", "one"))

    def generate(found: FoundConfig) -> str:
        raise error

    source = Source(type="content_config", locator="note", selector="output")
    with pytest.raises(type(error)):
        await content_config.fetch(source, source_access(project, generate))
