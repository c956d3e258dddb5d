"""Composing an artifact's pieces into one text."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import given as for_all
from hypothesis import strategies as st

from chora.config_parsing import parse_config
from chora.engine.building.build import Build
from chora.engine.building.compose import compose, merge_sections
from chora.engine.building.pieces import GatheredPieces, Piece
from chora.engine.engine import Engine, open_engine
from chora.errors import CompositionFailed, LimitExceeded
from chora.model import ArtifactConfig
from chora.settings import load
from tests.conftest import Project, artifact, child, requirement

quietly = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def configured(*outputs: dict[str, Any], **metadata: Any) -> ArtifactConfig:
    return parse_config("artifact", artifact("sheet", [child("a")], *outputs, **metadata), where="sheet").config


def gathered(*texts: str) -> GatheredPieces:
    return GatheredPieces([Piece(f"p{number}", body, True, None) for number, body in enumerate(texts)], [], [], [])


async def composed(
    engine: Engine,
    *texts: str,
    context: dict[str, Any] | None = None,
    strategy: str = "concat",
    output: str = "markdown",
    **options: Any,
) -> str:
    """The texts as pieces p0, p1… put together."""
    metadata = {"compositionStrategy": strategy, "compositionConfig": options}
    config = configured({"file": "o.x", "format": output}, **metadata)
    build = Build(engine)
    return await compose(engine, config, gathered(*texts), context or {}, build.new_recorder().record)


# -- concat -----------------------------------------------------------------------------------------------------


@requirement("composition.concat")
@pytest.mark.parametrize(
    ("texts", "whole"),
    [
        ([], ""),
        (["a"], "a"),
        (["a\n"], "a\n"),
        (["a\n", "b\n"], "a\n\nb\n"),
        (["a\n\n", "b"], "a\n\n\nb"),
        (["", "b\n", ""], "\n\nb\n\n"),
    ],
)
async def test_pieces_are_joined_by_a_blank_line(engine: Engine, texts: list[str], whole: str):
    """A newline at the end of a piece doesn't add to it; that of the last piece stays."""
    assert await composed(engine, *texts) == whole


@requirement("composition.concat")
async def test_a_configured_separator_joins_the_pieces(engine: Engine):
    """Literally, whatever it is."""
    assert await composed(engine, "a\n", "b\n", separator="\n---\n") == "a\n---\nb\n"


# -- merge ------------------------------------------------------------------------------------------------------


@requirement("composition.merge.data")
async def test_objects_merge_deeply_in_order(engine: Engine):
    """A later piece wins; arrays are replaced, and null is replaced by anything."""
    one, other = '{"a": {"x": 1, "y": [1]}, "n": null}', '{"a": {"y": [2]}, "n": "now", "b": true}'
    whole = msgspec.json.decode(await composed(engine, one, other, strategy="merge", output="json"))
    assert whole == {"a": {"x": 1, "y": [2]}, "n": "now", "b": True}


async def test_yaml_pieces_merge_into_data(engine: Engine):
    """Also together with JSON pieces."""
    whole = await composed(engine, "a:\n  x: 1\n", '{"a": {"y": 2}}', strategy="merge", output="yaml")
    assert msgspec.json.decode(whole) == {"a": {"x": 1, "y": 2}}


@requirement("composition.merge.conflict")
@pytest.mark.parametrize(
    ("one", "other", "path"),
    [
        ('{"a": {"b": 1}}', '{"a": {"b": "x"}}', "$.a.b"),
        ('{"a": {"b": 1}}', '{"a": 1}', "$.a"),
        ('{"odd key": []}', '{"odd key": {}}', '$["odd key"]'),
    ],
)
async def test_a_clash_of_types_is_named_by_its_path(engine: Engine, one: str, other: str, path: str):
    """As a JSONPath in the details."""
    with pytest.raises(CompositionFailed) as failed:
        await composed(engine, one, other, strategy="merge", output="json")
    assert failed.value.details["conflict_path"] == path
    assert failed.value.details["content_pieces"] == ["p0", "p1"]


@pytest.mark.parametrize("body", ["[1]", "just text", "a: [", "4"])
async def test_a_piece_that_is_no_object_cannot_be_merged_into_data(engine: Engine, body: str):
    """The error names the piece."""
    with pytest.raises(CompositionFailed) as failed:
        await composed(engine, "{}", body, strategy="merge", output="json")
    assert failed.value.details["content_id"] == "p1"
    assert failed.value.hint


@requirement("composition.merge.text")
async def test_text_under_equal_headings_is_merged_under_the_first(engine: Engine):
    """No line is lost, and equal lines appear once."""
    one = "# Notes\n\nIntro\n\n## Setup\n\nFirst\n\n\n\n## End\n\nBye\n"
    other = "## setup\n\nSecond\n\n## End\n\nBye\n\n# More\n"
    whole = await composed(engine, one, other, strategy="merge")
    assert whole == "# Notes\n\nIntro\n\n## Setup\n\nFirst\n\nSecond\n\n## End\n\nBye\n\n# More\n"


async def test_headings_can_all_be_kept(engine: Engine):
    """In the order of the pieces."""
    whole = await composed(engine, "## A\n\nx\n", "## A\n\ny\n", strategy="merge", duplicateHeaders="keep-all")
    assert whole == "## A\n\nx\n\n## A\n\ny\n"


async def test_fenced_code_is_left_unchanged(engine: Engine):
    """Number signs in a fence aren't headings, and its blank lines stay."""
    body = "## A\n\n```sh\n# not a heading\n\n\n## A\n```\n"
    assert await composed(engine, body, "~~~~\n## A\n~~~\n~~~~\n", strategy="merge") == (
        "## A\n\n```sh\n# not a heading\n\n\n## A\n```\n\n~~~~\n## A\n~~~\n~~~~\n".replace("```\n\n~~~~", "```\n\n~~~~")
    )


@requirement("composition.merge.text")
@pytest.mark.parametrize(
    ("kept", "whole"),
    [("normalize", "## A\n\nx\n\ny\n\n## B\n"), ("keep", "## A\n\nx\n\n\n\ny\n\n## B\n")],
)
async def test_runs_of_blank_lines_become_one_unless_they_are_kept(engine: Engine, kept: str, whole: str):
    """Between lines of a section; at its ends there is one in any case."""
    body = "## A\n\n\n\nx\n\n\n\ny\n\n\n\n## B\n"
    assert await composed(engine, body, strategy="merge", blankLines=kept) == whole


@pytest.mark.parametrize(
    "fence",
    [
        "```\n# a\n\n\nb\n```",
        "   ```\n# a\n\n\nb\n```",
        "~~~~\n```\n\n\n~~~\n# a\n~~~~~",
        "```sh\n# a\n\n\n``` x\n# b\n   ```",
    ],
)
def test_a_fence_ends_with_a_line_of_as_many_of_its_marks(fence: str):
    """However far in the first one is; from there on headings are headings, and blank lines become one."""
    text = f"# A\n\n{fence}\n\n\n\nx\n\n# A\n\ny\n"
    assert merge_sections([text]) == f"# A\n\n{fence}\n\nx\n\ny\n"
    assert merge_sections([text], normalize=False) == f"# A\n\n{fence}\n\n\n\nx\n\ny\n"


async def test_large_texts_merge_in_a_thread(engine: Engine):
    """With the same result."""
    body = "## A\n\n" + "word " * 5000
    assert await composed(engine, body, "## A\n\nmore", strategy="merge") == body.rstrip() + " \n\nmore\n"


@for_all(st.lists(st.text(alphabet="#a \n`", max_size=30), max_size=4))
def test_no_line_of_text_is_lost_by_merging(texts: list[str]):
    """Every line that isn't blank is in the result, whatever the pieces look like."""
    whole = {line.strip() for line in merge_sections(texts).splitlines()}
    wanted = {line.strip() for text in texts for line in text.splitlines() if line.strip()}
    missing = {line for line in wanted - whole if " ".join(line.split()) not in {" ".join(w.split()) for w in whole}}
    assert not missing


@for_all(st.lists(st.text(alphabet="#ab \n", max_size=40), max_size=4))
def test_merging_a_merged_text_changes_nothing(texts: list[str]):
    """The merge is idempotent."""
    once = merge_sections(texts)
    assert merge_sections([once]) == once


# -- template ---------------------------------------------------------------------------------------------------


@requirement("composition.template")
async def test_a_template_sees_the_pieces_and_the_context(project: Project, engine: Engine):
    """By number, by id, and in included templates; a change of either template is noticed."""
    project.write("configs/templates/sheet.j2", "{% include 'head.j2' %}{{ pieces[1].text }}|{{ by_id.p0 }}|{{ who }}")
    project.write("configs/templates/head.j2", "{{ pieces | length }}:")
    config = configured(compositionStrategy="template", compositionConfig={"template": "sheet.j2"})
    build = Build(engine)
    seen = build.new_recorder()
    assert await compose(engine, config, gathered("A", "B"), {"who": "you"}, seen.record) == "2:B|A|you"
    assert {"configs/templates/sheet.j2", "configs/templates/head.j2"} <= set(seen.inputs)


async def test_undefined_names_of_a_composition_template_are_warnings_of_the_artifact(project: Project):
    """In a lenient project, as those of a content are."""
    loaded = load(project.root, {}, {"templates.undefined": "lenient"})
    async with open_engine(project.root, loaded.settings) as engine:
        config = configured(compositionStrategy="template", compositionConfig={"template": "<{{ gone }}>"})
        parts = gathered("A")
        assert await compose(engine, config, parts, {}, Build(engine).new_recorder().record) == "<>"
        assert parts.warnings == ["The composition template: gone is undefined and was rendered empty"]


@pytest.mark.parametrize("template", [None, "missing.j2", "{{ missing }}", "{% if %}"])
async def test_a_template_that_fails_is_a_failed_composition(engine: Engine, template: str | None):
    """The details say what went wrong."""
    options: dict[str, Any] = {} if template is None else {"template": template}
    with pytest.raises(CompositionFailed) as failed:
        await composed(engine, "A", strategy="template", **options)
    assert failed.value.details["composition_strategy"] == "template"
    assert failed.value.details["error_type"]
    assert failed.value.hint


@requirement("sources.never-rendered")
async def test_text_of_a_piece_is_never_rendered(engine: Engine):
    """It is data, even if it looks like a template."""
    assert await composed(engine, "{{ 1 + 1 }}", strategy="template", template="{{ by_id.p0 }}!") == "{{ 1 + 1 }}!"


# -- custom -----------------------------------------------------------------------------------------------------


def composer(function: Any) -> dict[str, Any]:
    return {"zip": SimpleNamespace(NAME="zip", compose=function)}


@requirement("composition.custom")
async def test_a_registered_composer_is_given_everything(engine: Engine):
    """The pieces, the context and its own options."""

    async def compose(*, pieces: list[dict[str, str]], context: dict[str, Any], options: dict[str, Any]) -> str:
        return options["joint"].join(piece["text"] for piece in pieces) + context["end"]

    engine.composers = composer(compose)
    options: dict[str, Any] = {"composer": "zip", "options": {"joint": "-"}}
    assert await composed(engine, "a", "b", strategy="custom", context={"end": "."}, **options) == "a-b."


@requirement("composition.custom")
@pytest.mark.parametrize("name", [None, "other"])
async def test_only_registered_composers_are_run(engine: Engine, name: str | None):
    """The hint says how to register one, and the details list those that are, by name."""
    options: dict[str, Any] = {"composer": name} if name else {}
    with pytest.raises(CompositionFailed) as failed:
        await composed(engine, "a", strategy="custom", **options)
    assert failed.value.details["available_composers"] == []
    engine.composers = {each: composer(print)["zip"] for each in ("zip", "join", "list")}
    with pytest.raises(CompositionFailed) as failed:
        await composed(engine, "a", strategy="custom", **options)
    assert failed.value.details["available_composers"] == ["join", "list", "zip"]


@requirement("generators.plugins.exit")
async def test_a_composer_that_breaks_fails_the_composition(engine: Engine):
    """Whatever it raises or returns."""

    async def breaks(**rest: Any) -> str:
        raise KeyError("x")

    async def wrong(**rest: Any) -> Any:
        return 5

    async def refuses(**rest: Any) -> str:
        raise LimitExceeded("Too much.", "Less.")

    async def quits(**rest: Any) -> str:
        sys.exit(3)

    for function, error in (
        (quits, "SystemExit"),
        (breaks, "KeyError"),
        (wrong, "NotText"),
        (refuses, "LimitExceeded"),
    ):
        engine.composers = composer(function)
        with pytest.raises((CompositionFailed, LimitExceeded)) as failed:
            await composed(engine, "a", strategy="custom", composer="zip")
        assert failed.value.details.get("error_type", type(failed.value).__name__) == error


@pytest.mark.parametrize("char", ["\v", "\f", "\x85", "\u2028"])
async def test_merging_keeps_characters_that_end_no_line(engine: Engine, char: str):
    """Form feeds and line separators are characters within a line."""
    whole = await composed(engine, f"# A\n\none{char}# B\n", f"# A\n\ntwo{char}x\n", strategy="merge")
    assert whole == f"# A\n\none{char}# B\n\ntwo{char}x\n"
