"""Artifacts: children in order, composed, and written only where chora may write."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
import trio
import yaml
from hypothesis import given
from hypothesis import strategies as st

from chora import settings
from chora.config_parsing import parse_config
from chora.engine import merging
from chora.engine.building.artifact import (
    BuiltArtifact,
    PlannedOutput,
    build_artifact,
    explain_stale_artifact,
    plan_artifact,
)
from chora.engine.building.build import Build, CallerContext
from chora.engine.building.collection import build_collection
from chora.engine.building.content import build_content
from chora.engine.building.encode import INLINE_LENGTH, encode_output
from chora.engine.building.pieces import gather_pieces
from chora.engine.engine import Engine, open_engine
from chora.engine.outputs import OUTPUT_LIMIT
from chora.errors import (
    Busy,
    ChoraError,
    CompositionFailed,
    GenerationFailed,
    InvalidContext,
    LimitExceeded,
    MissingContent,
    OutputEdited,
    PermissionDenied,
    ValidationFailed,
    WriteFailed,
)
from chora.events import Events
from chora.hashing import sha256
from chora.locks import NamedLocks
from chora.model import ArtifactConfig
from chora.render.pool import RenderPool
from chora.store import Output, SqliteStore
from chora.timestamps import now
from tests.conftest import Project, artifact, child, content, file_identity, requirement, text, unchanged
from tests.engine.building.test_content import Model
from tests.patience import PATIENCE, may_have_taken

needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="permissions and links")
needs_user = pytest.mark.skipif(getattr(os, "geteuid", lambda: 1)() == 0, reason="root may write anywhere")


async def run(
    engine: Engine, artifact_id: str = "sheet", context: dict[str, Any] | None = None, **rest: Any
) -> BuiltArtifact:
    options = {name: rest.pop(name) for name in ("force", "dry", "progress") if name in rest}
    parsed = engine.catalog.find_config("artifact", artifact_id).parsed
    return await build_artifact(Build(engine, **options), parsed, CallerContext(context or {}), **rest)


def out(file: str, format: str = "markdown", **rest: Any) -> dict[str, Any]:
    return {"file": file, "format": format, **rest}


def known(engine: Engine, path: str = "outputs/sheet.md") -> Output:
    found = engine.store.output(path)
    assert found is not None
    return found


@pytest.fixture
def sheet(project: Project) -> Project:
    """An artifact of two texts."""
    project.save(text("one", "One\n"), text("two", "Two\n"), artifact("sheet", [child("one"), child("two")]))
    return project


# -- pieces -----------------------------------------------------------------------------------------------------


async def test_children_are_composed_and_written(sheet: Project, engine: Engine):
    """Generated on demand, joined by a blank line, the folder made on the way."""
    made = await run(engine)
    assert sheet.read("outputs/sheet.md") == "One\n\nTwo\n"
    assert (made.artifact_id, made.output_path, made.outputs) == ("sheet", "outputs/sheet.md", ["outputs/sheet.md"])
    assert (made.size, made.status, made.strategy) == (9, "assembled", "concat")
    assert [(piece.content_id, piece.text, piece.generated) for piece in made.pieces.pieces] == [
        ("one", "One\n", True),
        ("two", "Two\n", True),
    ]
    latest = engine.store.latest_version("two")
    assert latest is not None
    assert made.pieces.pieces[1].version_id == latest.version_id


async def test_an_unchanged_artifact_is_skipped(sheet: Project, engine: Engine):
    """Its file is compared with what would be written, not only looked for; then it isn't touched."""
    await run(engine)
    before = file_identity(sheet.root / "outputs/sheet.md")
    again = await run(engine)
    assert (again.status, [piece.generated for piece in again.pieces.pieces]) == ("skipped", [False, False])
    assert file_identity(sheet.root / "outputs/sheet.md") == before
    sheet.save(text("two", "Changed\n"))
    changed = await run(engine)
    assert (changed.status, sheet.read("outputs/sheet.md")) == ("reassembled", "One\n\nChanged\n")
    assert [piece.generated for piece in changed.pieces.pieces] == [False, True]
    (sheet.root / "outputs/sheet.md").unlink()
    assert (await run(engine)).status == "reassembled"
    assert sheet.read("outputs/sheet.md") == "One\n\nChanged\n"
    assert (known(engine).sha256, known(engine).pending) == (sha256(b"One\n\nChanged\n"), None)


@requirement("cache.force")
async def test_force_generates_every_child_again(sheet: Project, engine: Engine):
    """And the result says so, although the text is the same."""
    assert (await run(engine, force=True)).status == "assembled"
    forced = await run(engine, force=True)
    assert (forced.status, [piece.generated for piece in forced.pieces.pieces]) == ("reassembled", [True, True])
    assert len(engine.store.versions("one")) == 2


@requirement("assembly.order")
async def test_children_are_sorted_by_order_then_by_position(project: Project, engine: Engine):
    """No order counts as 0; equal orders keep their position; fractions and integers mix."""
    orders: list[float | None] = [2, None, 1, 0, 1.5, 1, None]
    project.save(*(text(f"t{number}", str(number)) for number in range(len(orders))))
    children = [
        child(f"t{number}", **({} if order is None else {"order": order})) for number, order in enumerate(orders)
    ]
    project.save(artifact("sheet", children))
    await run(engine)
    assert project.read("outputs/sheet.md").split("\n\n") == ["1", "3", "6", "2", "5", "4", "0"]


async def test_the_context_is_given_to_every_child(project: Project, engine: Engine):
    """Each renders with the caller's context."""
    pattern = {"type": "template_fill", "template": "{{ content_id }} for {{ who }}"}
    project.save(
        content("one", pattern=pattern),
        content("two", pattern=pattern),
        artifact("sheet", [child("one"), child("two")]),
    )
    await run(engine, context={"who": "Ada"})
    assert project.read("outputs/sheet.md") == "one for Ada\n\ntwo for Ada"


async def test_progress_is_reported_after_every_child(sheet: Project, engine: Engine):
    """How many are done, of how many, and which; an optional child that fails counts as well."""
    sheet.save(artifact("sheet", [child("one"), child("gone", required=False), child("two")]))
    reported: list[tuple[float, float, str]] = []

    async def progress(done: float, total: float, what: str) -> None:
        reported.append((done, total, what))

    await run(engine, progress=progress)
    assert reported == [(1, 3, "one"), (2, 3, "gone"), (3, 3, "two")]


async def test_an_optional_child_that_fails_is_left_out(sheet: Project, engine: Engine):
    """Missing, broken or failing: it is listed, and a warning says why."""
    sheet.write("configs/content/broken.json", "{")
    sheet.save(content("failing", pattern={"type": "template_fill", "template": "{{ x }}"}))
    optional = [child(name, required=False) for name in ("gone", "broken", "failing")]
    sheet.save(artifact("sheet", [child("one"), *optional, child("two")]))
    made = await run(engine)
    assert sheet.read("outputs/sheet.md") == "One\n\nTwo\n"
    assert made.pieces.missing == ["gone", "broken", "failing"]
    assert [warning.partition(":")[0] for warning in made.pieces.warnings] == [
        f"The optional child {name} was left out" for name in ("gone", "broken", "failing")
    ]


async def test_required_children_without_a_config_are_all_named(sheet: Project, engine: Engine):
    """In the shape that batch_generate takes, and with the existing configs."""
    sheet.write("configs/content/broken.json", "{")
    children = [child("one"), child("gone"), child("maybe", required=False), child("away"), child("broken")]
    sheet.save(artifact("sheet", children))
    with unchanged(sheet), pytest.raises(MissingContent) as failed:
        await run(engine)
    assert failed.value.details == {
        "artifact_config_id": "sheet",
        "missing_content_ids": ["gone", "away"],
        "available_content_ids": ["one", "two"],
    }
    assert failed.value.hint


@pytest.mark.parametrize(
    ("document", "error"),
    [
        (content("bad", pattern={"type": "template_fill", "template": "{{ x }}"}), GenerationFailed),
        (content("bad", pattern={"type": "jinja2", "template": "{{ 1 +"}), GenerationFailed),
        ({**content("bad"), "metadata": {}}, ValidationFailed),
        (
            content(
                "bad",
                pattern={"type": "jinja2", "template": "{{ x }}", "generation_config": {"context": {"x": 10**30}}},
            ),
            InvalidContext,
        ),
    ],
)
async def test_a_required_child_that_fails_fails_the_artifact(
    sheet: Project, engine: Engine, document: dict[str, Any], error: type[ChoraError]
):
    """With the child's own code, and both ids in the details; no output is touched."""
    await run(engine)
    sheet.save(document, artifact("sheet", [child("one"), child("bad")]))
    with unchanged(sheet), pytest.raises(error) as failed:
        await run(engine)
    assert failed.value.details["artifact_config_id"] == "sheet"
    assert failed.value.details["content_id"] == "bad"


async def test_a_busy_server_fails_the_artifact(sheet: Project, engine: Engine):
    """An optional child isn't left out for it, or documents would lose parts under load."""
    sheet.save(content("three", pattern={"type": "jinja2", "template": "{{ 1 }}"}))
    sheet.save(artifact("sheet", [child("one"), child("three", required=False)]))
    engine.templates.pool = RenderPool(settings.RenderSettings())  # a generator that fails as busy
    with unchanged(sheet), pytest.raises(Busy, match="workers aren't running"):
        await run(engine)


async def test_a_child_is_found_by_its_path_or_else_by_its_id(project: Project, engine: Engine):
    """A path below the project or the config folder, else the id; another id inside the file is a warning."""
    project.write("configs/content/deep/a.json", msgspec.json.encode(text("inner", "by path")))
    project.write("configs/content/b/b-content.json", msgspec.json.encode(text("b", "by id")))
    children = [{"id": "a", "path": "content/deep/a.json"}, {"id": "b", "path": "elsewhere/b.json"}]
    project.save(artifact("sheet", children))
    made = await run(engine)
    assert project.read("outputs/sheet.md") == "by path\n\nby id"
    assert made.pieces.warnings == ["content/deep/a.json holds inner, not a; it was used all the same"]
    assert [piece.content_id for piece in made.pieces.pieces] == ["a", "b"]


async def test_a_child_outside_the_project_is_denied(project: Project, engine: Engine):
    """Whatever its id."""
    project.save(text("a", "x"), artifact("sheet", [{"id": "a", "path": "../a.json"}]))
    with pytest.raises(PermissionDenied, match="leads outside the project"):
        await run(engine)


async def test_warnings_of_children_name_the_child(project: Project, engine: Engine):
    """In the order of the children."""
    lenient = {"undefined_behavior": "empty"}
    pattern = {"type": "template_fill", "template": "{{ x }}.", "generation_config": lenient}
    project.save(
        content("a", pattern=pattern), content("b", pattern=pattern), artifact("sheet", [child("b"), child("a")])
    )
    assert (await run(engine)).pieces.warnings == [f"{name}: x has no value and was left empty" for name in "ba"]


async def test_gathering_pieces_dry_stores_nothing(sheet: Project, engine: Engine):
    """The pieces are generated in memory."""
    parsed = engine.catalog.find_config("artifact", "sheet").parsed
    with unchanged(sheet):
        build = Build(engine, dry=True)
        pieces = await gather_pieces(build, parsed.config, CallerContext({}), build.new_recorder())
    assert [piece.text for piece in pieces.pieces] == ["One\n", "Two\n"]
    assert engine.store.counts()["versions"] == 0


async def test_an_artifact_has_a_largest_size(sheet: Project, engine: Engine, monkeypatch: pytest.MonkeyPatch):
    """Counted by pieces while they are gathered, and by the bytes of a file in its encoding."""
    monkeypatch.setattr("chora.engine.building.encode.OUTPUT_LIMIT", 9)
    monkeypatch.setattr("chora.engine.building.pieces.OUTPUT_LIMIT", 9)
    await run(engine)
    sheet.save(text("two", "Longer\n"))
    with unchanged(sheet), pytest.raises(LimitExceeded) as failed:
        await run(engine)
    assert failed.value.details["limit"] == "artifact.size"
    assert failed.value.hint
    sheet.save(
        text("two", "Two\n"),
        artifact("sheet", [child("one"), child("two")], out("outputs/wide.txt", encoding="utf-16")),
    )
    with unchanged(sheet), pytest.raises(LimitExceeded, match="comes to more than 9 bytes"):
        await run(engine)


# -- names of outputs --------------------------------------------------------------------------------------------


@requirement("outputs.names-are-rendered")
@pytest.mark.parametrize(
    ("file", "context", "path"),
    [
        ("outputs/{{ tag }}.md", {"tag": "v1.0"}, "outputs/v1.0.md"),
        ("outputs/{{ release.tag }}/{{ artifact_id }}.md", {"release": {"tag": "v2"}}, "outputs/v2/sheet.md"),
        ("outputs/{% if beta %}beta{% else %}final{% endif %}.md", {"beta": True}, "outputs/beta.md"),
        ("outputs/{# note #}a.md", {}, "outputs/a.md"),
        ("outputs/{{ tag | lower | replace(' ', '-') }}.md", {"tag": "Big One"}, "outputs/big-one.md"),
        ("outputs/{a}.md", {}, "outputs/{a}.md"),
    ],
)
async def test_the_name_of_an_output_is_rendered(
    project: Project, engine: Engine, file: str, context: dict[str, Any], path: str
):
    """With the context that the composition sees; built, planned and recalled under that name."""
    project.save(text("one", "One\n"), artifact("sheet", [child("one")], out(file)))
    planned = await plan_artifact(
        Build(engine, dry=True), engine.catalog.find_config("artifact", "sheet").parsed, CallerContext(context)
    )
    assert [(each.path, each.action) for each in planned] == [(path, "create")]
    assert (await run(engine, context=context)).outputs == [path]
    assert project.read(path) == "One\n"
    assert [name for name in project.files() if "{{" in name] == []
    assert (await run(engine, context=context)).status == "skipped"
    assert known(engine, path).artifact_id == "sheet"


@requirement("outputs.names-are-rendered")
@pytest.mark.parametrize(
    ("file", "context", "problem"),
    [
        ("outputs/{{ tag }}.md", {}, "'tag' is undefined"),
        ("outputs/{{ tag", {}, "unexpected end of template"),
        ("outputs/{{ tag.items }}.md", {"tag": {}}, "has no attribute 'items'"),
        ("outputs/{{ tag }}.md", {"tag": "{{ x }}"}, "it comes to 'outputs/{{ x }}.md'"),
        ("outputs/{{ tag }}.md", {"tag": "a\nb"}, "it comes to"),
        ("{{ tag }}", {"tag": ""}, "it comes to ''"),
        ("outputs/{{ tag }}", {"tag": ""}, "it comes to 'outputs/'"),
        ("{{ tag }}", {"tag": " a.md"}, "it comes to ' a.md'"),
        ("outputs/", {}, "it is a folder"),
        ("outputs/sheets/", {}, "it is a folder"),
    ],
)
async def test_a_name_that_cannot_be_rendered_is_refused(
    project: Project, engine: Engine, file: str, context: dict[str, Any], problem: str
):
    """Nothing is written, in a lenient project neither."""
    project.save(text("one", "One\n"), artifact("sheet", [child("one")], out(file)))
    engine.settings = msgspec.structs.replace(engine.settings, templates=settings.TemplateSettings("lenient"))
    with unchanged(project), pytest.raises(CompositionFailed, match=r"names no file") as failed:
        await run(engine, context=context)
    assert problem in failed.value.message
    assert failed.value.details["error_type"] == "InvalidOutputName"


@requirement("outputs.names-are-rendered")
@pytest.mark.parametrize("tag", ["../../a", ".git/hooks/a", "../chora.toml"])
async def test_a_rendered_name_leads_nowhere_else(project: Project, engine: Engine, tag: str):
    """The rules for outputs apply to what it comes to (CWE-22)."""
    project.save(text("one", "One\n"), artifact("sheet", [child("one")], out("outputs/{{ tag }}")))
    with unchanged(project), pytest.raises(PermissionDenied):
        await run(engine, context={"tag": tag})


@requirement("outputs.one-file")
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("outputs/a.md", "outputs/a.md"),
        ("outputs/a.md", "outputs/A.md"),
        ("outputs/a/b.md", "outputs/A/b.md"),
        ("outputs/\u00e9.md", "outputs/e\u0301.md"),
        ("outputs/\u00c9.md", "outputs/e\u0301.md"),
        ("outputs/stra\u00dfe.md", "outputs/STRASSE.md"),
        ("outputs/{{ 'a' }}.md", "outputs/a.md"),
        ("outputs/a.md", "outputs/./a.md"),
    ],
)
async def test_names_that_are_one_file_on_some_disks_collide(project: Project, engine: Engine, first: str, second: str):
    """In one artifact, and in the members of a collection, whose other members are built."""
    project.save(text("one", "One\n"), artifact("sheet", [child("one")], out(first), out(second)))
    with unchanged(project), pytest.raises(CompositionFailed) as failed:
        await run(engine)
    assert failed.value.details["error_type"] == "DuplicateOutput"
    members = [{"id": name, "type": "artifact", "path": f"configs/artifact/{name}.json"} for name in ("left", "right")]
    project.save(
        artifact("left", [child("one")], out(first)),
        artifact("right", [child("one")], out(second)),
        {
            "type": "collection",
            "id": "pack",
            "name": "Pack",
            "members": members,
            "output": {"base_path": "outputs", "structure": "custom"},
            "generation": {"strategy": "sequential"},
        },
    )
    parsed = engine.catalog.find_config("collection", "pack").parsed
    with pytest.raises(CompositionFailed) as failed:
        await build_collection(Build(engine), parsed, CallerContext({}))
    assert failed.value.details["failed_members"] == ["right"]
    assert "as left does already" in failed.value.message


# -- composing and encoding -------------------------------------------------------------------------------------


def configured(*outputs: dict[str, Any], **metadata: Any) -> ArtifactConfig:
    return parse_config("artifact", artifact("sheet", [child("a")], *outputs, **metadata), where="sheet").config


def encoded(body: str, format: str, **rest: Any) -> bytes:
    artifact_config = configured(out("o.x", format, **rest))
    return encode_output(artifact_config, artifact_config.metadata.outputs[0], body)


@requirement("outputs.formats")
@pytest.mark.parametrize("format", ["markdown", "code", "bdd", "text", "html", "xml"])
def test_texts_are_written_unchanged(format: str):
    """Byte for byte."""
    assert encoded("a: [1,\r\n{ü}", format) == "a: [1,\r\n{ü}".encode()


@requirement("outputs.final-newline")
@pytest.mark.parametrize(
    ("body", "one", "keep"),
    [
        ("a", b"a\n", b"a"),
        ("a\n", b"a\n", b"a\n"),
        ("a\n\n\n", b"a\n", b"a\n\n\n"),
        ("a\r\nb\r\n", b"a\r\nb\r\n", b"a\r\nb\r\n"),
        ("a\r\n\r\n", b"a\r\n", b"a\r\n\r\n"),
        ("a  \n", b"a  \n", b"a  \n"),
        ("\na\n\nb", b"\na\n\nb\n", b"\na\n\nb"),
        ("", b"", b""),
        ("\n\n", b"", b"\n\n"),
    ],
)
def test_text_files_end_with_one_newline(body: str, one: bytes, keep: bytes):
    """Whatever the template gave, unless the output, or chora-compose's rules, keep that."""
    for format in ("markdown", "code", "bdd", "text", "html", "xml"):
        assert encoded(body, format, final_newline="one") == one
        assert encoded(body, format, final_newline="keep") == keep
    config = parse_config("artifact", artifact("sheet", [child("a")], out("o.x", final_newline=None)), where="a").config
    (output,) = config.metadata.outputs
    assert encode_output(config, output, body) == one
    assert encode_output(config, output, body, "chora-compose") == keep


@requirement("outputs.html")
@pytest.mark.parametrize(
    ("body", "warning"),
    [
        ("<h1>Tides</h1>\n<p>High <b>water</b></p>", None),
        ("<p>**High** water</p>", "outputs/page.html is declared as HTML and isn't: line 1: "),
        ("# Tides\n\nHigh water", "outputs/page.html is declared as HTML and isn't: "),
        ("<p>\n<em>High</p>", "outputs/page.html is declared as HTML and isn't: line 2: "),
    ],
)
async def test_markdown_in_an_html_file_is_warned_about(
    project: Project, engine: Engine, body: str, warning: str | None
):
    """The file is written, also by the next build, which has the same warning."""
    project.save(text("two", body), artifact("sheet", [child("two")], out("outputs/page.html", "html")))
    for _ in range(2):
        built = await run(engine)
        assert [each[: len(warning or "")] for each in built.pieces.warnings] == ([warning] if warning else [])
    assert project.read("outputs/page.html") == body


async def test_without_chora_toml_the_final_newline_is_the_templates(sheet: Project):
    """An old project's files stay as they were."""
    sheet.save(text("two", "Two"), artifact("sheet", [child("two")], out("outputs/sheet.md", final_newline=None)))
    for wanted in ("Two\n", "Two"):
        async with open_engine(sheet.root, settings.load(sheet.root, {}).settings) as engine:
            await run(engine)
            assert sheet.read("outputs/sheet.md") == wanted
        (sheet.root / "chora.toml").unlink(missing_ok=True)


TOUCHED: dict[str, Callable[[bytes], bytes]] = {
    "a newline at the end": lambda data: data + b"\n",
    "blank lines and spaces at the end": lambda data: data + b" \n\t\n",
    "no newline at the end": lambda data: data.rstrip(b"\n"),
    "CRLF": lambda data: data.replace(b"\n", b"\r\n"),
    "a byte-order mark": lambda data: b"\xef\xbb\xbf" + data,
    "all of that": lambda data: b"\xef\xbb\xbf" + data.replace(b"\n", b"\r\n") + b"\r\n ",
}


@requirement("outputs.tools-are-no-edits")
@pytest.mark.parametrize("touch", TOUCHED.values(), ids=TOUCHED.keys())
@pytest.mark.parametrize("mode", ["refuse", "merge", "overwrite"])
async def test_what_tools_change_of_themselves_is_no_edit(
    sheet: Project, engine: Engine, touch: Callable[[bytes], bytes], mode: str
):
    """The file stays so as long as the text does, without a warning; a new text replaces it."""
    on_edit(engine, mode)
    await run(engine)
    written = (sheet.root / SHEET).read_bytes()
    sheet.write(SHEET, touch(written))
    for _ in range(2):
        with unchanged(sheet):
            made = await run(engine)
        assert (made.status, made.pieces.warnings) == ("skipped", [])
    sheet.save(text("two", "New\n"))
    made = await run(engine)
    assert (made.status, made.pieces.warnings) == ("reassembled", [])
    assert (sheet.root / SHEET).read_bytes() == b"One\n\nNew\n"


@requirement("outputs.tools-are-no-edits")
@pytest.mark.parametrize("touch", TOUCHED.values(), ids=TOUCHED.keys())
async def test_a_real_edit_is_one_whatever_tools_add(sheet: Project, engine: Engine, touch: Callable[[bytes], bytes]):
    """It is refused, or merged line by line: no line counts as changed for its end alone."""
    on_edit(engine, "merge")
    await run(engine)
    sheet.write(SHEET, touch((sheet.root / SHEET).read_bytes().replace(b"One", b"One, edited")))
    sheet.save(text("two", "New\n"))
    on_edit(engine, "refuse")
    with unchanged(sheet), pytest.raises(OutputEdited):
        await run(engine)
    on_edit(engine, "merge")
    made = await run(engine)
    assert made.pieces.warnings == [f"{SHEET} was edited by hand; the edit was merged"]
    assert sheet.read(SHEET).split() == ["One,", "edited", "New"]


@pytest.mark.parametrize("touch", TOUCHED.values(), ids=TOUCHED.keys())
async def test_a_file_that_tools_have_touched_is_adopted(
    sheet: Project, engine: Engine, touch: Callable[[bytes], bytes]
):
    """Nobody wrote it down, and it holds what would be written."""
    sheet.write(SHEET, touch(b"One\n\nTwo\n"))
    with unchanged(sheet):
        await run(engine)
    assert known(engine).sha256 == sha256(b"One\n\nTwo\n")


@requirement("outputs.formats")
def test_json_and_yaml_are_written_in_canonical_form():
    """Indented, keys in their order, dates and numbers unchanged."""
    assert encoded(' {"b":1,"a":[1.0,12345678901234567890123,"ü",null]}', "json") == (
        '{\n  "b": 1,\n  "a": [\n    1.0,\n    12345678901234567890123,\n    "ü",\n    null\n  ]\n}\n'.encode()
    )
    assert encoded("b:   1\na: {day: 2026-11-22, n: 'no', ü: ~}\n", "yaml") == (
        "b: 1\na:\n  day: 2026-11-22\n  n: 'no'\n  ü: null\n".encode()
    )


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)


@given(json_values)
def test_canonical_json_has_the_same_value(value: Any):
    """The document's value is unchanged, and formatting it again changes nothing."""
    once = encoded(msgspec.json.encode(value).decode(), "json")
    assert msgspec.json.decode(once) == value
    assert encoded(once.decode(), "json") == once


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-9, 9) | st.text("ab: #'\n-", max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b c", "no"]), inner, max_size=3)
        ),
        max_leaves=8,
    )
)
def test_canonical_yaml_has_the_same_value(value: Any):
    """As for JSON."""
    once = encoded(yaml.safe_dump(value), "yaml")
    assert yaml.safe_load(once) == value
    assert encoded(once.decode(), "yaml") == once


BILLION = "\n".join(
    [
        "a: &a [x,x,x,x,x,x,x,x,x]",
        *(f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]" for a, b in zip("abcdef", "bcdefg", strict=True)),
    ]
)


@pytest.mark.parametrize(
    ("body", "format", "problem"),
    [
        ("{", "json", "sheet: the composed text is not JSON: it ends too soon in line 1, column 2."),
        ("", "json", "sheet: the composed text is not JSON: it is empty."),
        ('{"a": 1}\n\n{"b": 2}', "json", "'{' stands after its end in line 3, column 1"),
        ("[" * 65 + "]" * 65, "json", "can't be written anew: it has more than 64 levels"),
        ("a: [", "yaml", "is not YAML"),
        ("a: 1\na: 2", "yaml", "the key 'a' stands twice"),
        (BILLION, "yaml", "with its aliases expanded"),
        ("a: !!python/name:os.system x", "yaml", "the tag"),
    ],
)
def test_pieces_that_are_not_of_the_format_are_refused(body: str, format: str, problem: str):
    """The message says what is wrong with them, the details where they were to be written."""
    with pytest.raises(CompositionFailed) as failed:
        encoded(body, format)
    assert problem in failed.value.message
    assert failed.value.hint
    assert failed.value.details["composition_strategy"] == "concat"
    assert failed.value.details["output_path"] == "o.x"
    assert failed.value.details["error_type"]


@requirement("outputs.unsupported")
@pytest.mark.parametrize("format", ["binary", "test_results"])
def test_binary_formats_are_refused(format: str):
    """A text can't be written as one."""
    with pytest.raises(CompositionFailed, match=f"outputs of format {format} can't be composed") as failed:
        encoded("x", format)
    assert failed.value.hint
    assert failed.value.details["error_type"] == "UnknownFormat"


@requirement("outputs.encoding")
def test_an_output_has_its_encoding():
    """Any that Python knows."""
    assert encoded("ü€", "text", encoding="utf-16-le") == "ü€".encode("utf-16-le")
    assert encoded("ü", "text", encoding="latin-1") == b"\xfc"


@pytest.mark.parametrize(
    "encoding", ["latin-1", "ascii", "nonsense", "base64", "rot13", "idna", "undefined", "a\0b", ""]
)
def test_a_text_that_does_not_fit_its_encoding_is_refused(encoding: str):
    """Whichever exception the codec raises."""
    with pytest.raises(CompositionFailed, match="the text doesn't fit the encoding") as failed:
        encoded("€" * 100, "text", encoding=encoding)
    assert failed.value.hint == "Write utf-8."


# -- outputs ----------------------------------------------------------------------------------------------------


@requirement("outputs.every-one")
async def test_every_output_is_written(sheet: Project, engine: Engine):
    """Each in its own format; the first is the primary one."""
    sheet.save(
        text("one", '{"a": 1}'),
        artifact("sheet", [child("one")], out("o/a.json", "json"), out("o/b.yaml", "yaml"), out("c.txt", "text")),
    )
    made = await run(engine)
    assert (made.output_path, made.outputs) == ("o/a.json", ["o/a.json", "o/b.yaml", "c.txt"])
    assert sheet.read("o/a.json") == '{\n  "a": 1\n}\n'
    assert sheet.read("o/b.yaml") == "a: 1\n"
    assert sheet.read("c.txt") == '{"a": 1}'
    assert made.size == len(sheet.read("o/a.json"))
    assert (await run(engine)).status == "skipped"
    (sheet.root / "c.txt").unlink()
    assert (await run(engine)).status == "reassembled"
    assert {output.path for output in engine.store.outputs_of("sheet")} == {"o/a.json", "o/b.yaml", "c.txt"}
    sheet.save(text("one", "[" + "1, " * INLINE_LENGTH + "1]"))
    assert (await run(engine)).status == "reassembled"
    assert len(msgspec.json.decode(sheet.read("o/a.json"))) == INLINE_LENGTH + 1


@requirement("outputs.first-is-primary")
async def test_output_path_replaces_the_first_output_only(sheet: Project, engine: Engine):
    """With its format and encoding; the others stay as configured."""
    sheet.save(artifact("sheet", [child("one")], out("a.md", encoding="utf-16-le"), out("b.md")))
    made = await run(engine, output_path="else/where.md")
    assert made.outputs == ["else/where.md", "b.md"]
    assert (sheet.root / "else/where.md").read_bytes() == "One\n".encode("utf-16-le")
    assert sheet.read("b.md") == "One\n"
    assert not (sheet.root / "a.md").exists()
    inside = await run(engine, output_path=str(sheet.root / "abs.md"))
    assert inside.output_path == "abs.md"


@pytest.mark.parametrize("outputs", [["a.md", "a.md"], ["a.md", "./x/../a.md"], ["a.md", "link.md"]])
@needs_posix
async def test_two_outputs_cannot_be_one_file(sheet: Project, engine: Engine, outputs: list[str]):
    """Neither by equal paths, nor by `..`, nor through a link."""
    (sheet.root / "link.md").symlink_to("a.md")
    sheet.save(artifact("sheet", [child("one")], *map(out, outputs)))
    with unchanged(sheet), pytest.raises(CompositionFailed, match=r"names a\.md as output twice") as failed:
        await run(engine)
    assert failed.value.hint


async def test_outputs_that_are_one_file_are_named_in_order(sheet: Project, engine: Engine):
    """However many there are, and however the config orders them."""
    names = ["d.md", "b.md", "c.md", "a.md"]
    sheet.save(artifact("sheet", [child("one")], *map(out, [*names, "e.md", *names])))
    with unchanged(sheet), pytest.raises(CompositionFailed, match=r"names a\.md, b\.md, c\.md, d\.md as ") as failed:
        await run(engine)
    assert failed.value.details["output_path"] == "a.md"


@requirement("outputs.inside-project")
@pytest.mark.parametrize(
    "path",
    ["../out.md", "/tmp/out.md", "outputs/../../out.md", "link/out.md", "out-link.md", "", "a\0b", "."],
)
@needs_posix
async def test_an_output_outside_the_project_is_denied(sheet: Project, engine: Engine, tmp_path: Path, path: str):
    """By `..`, an absolute path or a link, before anything is generated (CWE-22)."""
    (sheet.root / "outputs").mkdir()
    (sheet.root / "link").symlink_to(tmp_path)
    (sheet.root / "out-link.md").symlink_to(tmp_path / "out.md")
    with unchanged(sheet), pytest.raises(PermissionDenied):
        await run(engine, output_path=path)
    assert not (tmp_path / "out.md").exists()
    assert engine.store.counts()["versions"] == 0


@pytest.mark.parametrize(
    "path", [".chora/storage.db", ".chora/new.md", ".chora/storage.db-wal", ".chora/x/../storage.db", "link.db"]
)
@needs_posix
async def test_choras_own_data_cannot_be_an_output(sheet: Project, engine: Engine, path: str):
    """Not even of an output that is declared generated."""
    (sheet.root / "link.db").symlink_to(".chora/storage.db")
    sheet.save(artifact("sheet", [child("one")], out(path, generated=True)))
    with pytest.raises(PermissionDenied, match="is where chora keeps its own data") as failed:
        await run(engine)
    assert failed.value.hint
    assert engine.store.counts()["versions"] == 0


async def test_the_database_cannot_be_an_output_wherever_it_is(project: Project):
    """Settings can put it into another folder."""
    (project.root / "chora.toml").write_text('[storage]\npath = "data/my.db"\n')
    project.save(text("one", "x"), artifact("sheet", [child("one")], out("data/my.db-wal", generated=True)))
    async with open_engine(project.root, settings.load(project.root, {}).settings) as engine:
        with pytest.raises(PermissionDenied, match="is where chora keeps its own data"):
            await run(engine)
        for path in ("data/other.md", "data/my.db.md"):
            await run(engine, output_path=path)


@requirement("outputs.inside-project")
async def test_outputs_stay_beneath_their_folders(project: Project):
    """They are bounded by the setting paths.outputs, and by nothing else."""
    (project.root / "chora.toml").write_text('[paths]\noutputs = ["outputs", "docs/made"]\n')
    project.save(text("one", "x"), artifact("sheet", [child("one")]))
    async with open_engine(project.root, settings.load(project.root, {}).settings) as engine:
        await run(engine)
        await run(engine, output_path="docs/made/deep/a.md")
        for path in ("a.md", "docs/a.md", "outputs2/a.md", "outputs", "docs/made/../a.md"):
            with unchanged(project), pytest.raises(PermissionDenied) as failed:
                await run(engine, output_path=path)
            assert "paths.outputs" in str(failed.value.hint)


@needs_posix
async def test_a_link_within_the_project_is_followed(sheet: Project, engine: Engine):
    """Its target is written, and the link stays a link."""
    sheet.write("docs/real.md", "One\n\nTwo\n")
    (sheet.root / "outputs").symlink_to("docs")
    made = await run(engine, output_path="outputs/real.md")
    assert made.output_path == "docs/real.md"
    sheet.save(text("two", "Three\n"))
    await run(engine, output_path="outputs/real.md")
    assert sheet.read("docs/real.md") == "One\n\nThree\n"
    assert (sheet.root / "outputs").is_symlink()


# -- files that chora didn't write ------------------------------------------------------------------------------


@requirement("outputs.adopted")
async def test_a_file_with_the_same_text_is_adopted(sheet: Project, engine: Engine):
    """It holds what chora would write; from then on it counts as chora's."""
    sheet.write("outputs/sheet.md", "One\n\nTwo\n")
    assert (await run(engine)).status == "skipped"
    assert (known(engine).sha256, known(engine).pending) == (sha256(b"One\n\nTwo\n"), None)
    sheet.save(text("two", "Three\n"))
    assert (await run(engine)).status == "reassembled"


@requirement("outputs.edited-stays")
@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("ours", [False, True])
async def test_a_text_that_chora_did_not_write_is_never_overwritten(
    sheet: Project, engine: Engine, ours: bool, force: bool
):
    """Neither an edited output nor another file, not even with force; the error shows the difference."""
    if ours:
        await run(engine)
    sheet.write("outputs/sheet.md", "One\n\nTwo, edited\n")
    with unchanged(sheet), pytest.raises(OutputEdited) as failed:
        await run(engine, force=force)
    error = failed.value
    assert error.message == (
        "outputs/sheet.md was edited after chora wrote it; it is left as it is."
        if ours
        else "outputs/sheet.md exists and was not written by chora; it is left as it is."
    )
    assert "force" in str(error.hint)
    assert error.details["output_path"] == "outputs/sheet.md"
    assert error.details["diff"] == (
        "--- outputs/sheet.md (on disk)\n+++ outputs/sheet.md (chora)\n@@ -2,2 +2,2 @@\n \n-Two, edited\n+Two"
    )
    sheet.write("outputs/sheet.md", "One\n\nTwo\n")
    assert (await run(engine)).status == "skipped"


async def test_an_edit_that_goes_into_the_config_is_adopted(sheet: Project, engine: Engine):
    """The hint names this as a way out: make the config produce the edited text."""
    await run(engine)
    sheet.write("outputs/sheet.md", "One\n\nTwo, edited\n")
    sheet.save(text("two", "Two, edited\n"))
    assert (await run(engine)).status == "skipped"
    sheet.save(text("two", "Two again\n"))
    assert (await run(engine)).status == "reassembled"


async def test_nothing_is_written_when_one_output_was_edited(sheet: Project, engine: Engine):
    """All outputs are checked before the first is written."""
    sheet.save(artifact("sheet", [child("one")], out("a.md"), out("b.md")))
    await run(engine)
    sheet.write("b.md", "edited")
    sheet.save(text("one", "New\n"))
    with unchanged(sheet), pytest.raises(OutputEdited, match=r"b\.md was edited"):
        await run(engine)
    sheet.write("b.md", "One\n")
    await run(engine)
    assert (sheet.read("a.md"), sheet.read("b.md")) == ("New\n", "New\n")


@requirement("outputs.edited-stays")
async def test_a_generated_output_is_overwritten_whatever_it_holds(sheet: Project, engine: Engine):
    """People aren't meant to edit it: a foreign file, an edit, or one too large to be chora's is replaced."""
    sheet.save(artifact("sheet", [child("one")], out("a.md", generated=True)))
    sheet.write("a.md", "another text")
    assert (await run(engine)).status == "assembled"
    assert sheet.read("a.md") == "One\n"
    sheet.write("a.md", "edited")
    assert (await run(engine)).status == "reassembled"
    with (sheet.root / "a.md").open("wb") as file:
        file.truncate(OUTPUT_LIMIT + 1)
    assert (await run(engine)).status == "reassembled"
    assert sheet.read("a.md") == "One\n"


async def test_a_file_too_large_to_be_ours_is_left_alone(sheet: Project, engine: Engine):
    """It counts as edited, without being read whole."""
    sheet.write("outputs/sheet.md", "")
    with (sheet.root / "outputs/sheet.md").open("wb") as file:
        file.truncate(OUTPUT_LIMIT + 1)
    with pytest.raises(OutputEdited) as failed:
        await run(engine)
    assert failed.value.details["diff"] == "(too large to compare)"


def difference(current: str, data: str) -> str:
    return merging.diff("a.md", current.encode(), data.encode())


def test_a_difference_shows_the_first_lines_that_differ():
    """With their line numbers, however far down, and of bounded length."""
    lines = [f"line {number}" for number in range(1, 2001)]
    changed = [*lines[:1499], "changed", *lines[1500:]]
    shown = difference("\n".join(lines), "\n".join(changed)).splitlines()
    assert shown == [
        "--- a.md (on disk)",
        "+++ a.md (chora)",
        "@@ -1499,3 +1499,3 @@",
        " line 1499",
        "-line 1500",
        "+changed",
        " line 1501",
    ] + ["… and more"] * (1499 + merging.DIFF_WINDOW - 1 < 2000)
    assert difference("a\nb", "a\nb\nc").splitlines()[2:] == ["@@ -2 +2,2 @@", " b", "+c"]
    assert difference("", "a").splitlines()[2:] == ["@@ -0,0 +1 @@", "+a"]
    assert difference("a\r\n", "a\n") == "(only line ends differ)"
    long = difference("\n".join("y" * 5000 for _ in lines), "\n".join(lines)).splitlines()
    assert (len(long), long[-1]) == (merging.DIFF_LINES + 1, "… and more")
    assert max(map(len, long)) == 200


def test_computing_a_difference_takes_bounded_time():
    """difflib alone would take most of a minute for this input, and block the event loop."""
    began = time.process_time()
    difference("\n".join(str(n % 199) for n in range(30_000)), "\n".join(str(n * 7 % 211) for n in range(30_000)))
    difference("x" * 5_000_000, "y" * 5_000_000)
    assert time.process_time() - began < 5


# -- a write that was interrupted -------------------------------------------------------------------------------

OLD, NEW = b"One\n\nTwo\n", b"One\n\nNew\n"


def pending(old: bytes | None, new: bytes) -> Output:
    """What the store has between the announcement of a write and its end."""
    return Output(
        path="outputs/sheet.md",
        artifact_id="sheet",
        sha256=None if old is None else sha256(old),
        pending=sha256(new),
        fingerprint="sha256:0",
        size=len(new),
        written_at=now(),
    )


@pytest.mark.parametrize(
    ("on_disk", "record", "wanted", "status"),
    [
        pytest.param(OLD, pending(OLD, NEW), NEW, "reassembled", id="killed before the rename"),
        pytest.param(NEW, pending(OLD, NEW), NEW, "skipped", id="killed after the rename"),
        pytest.param(
            NEW, pending(OLD, NEW), OLD, "reassembled", id="after the rename, and the text is the old one again"
        ),
        pytest.param(OLD, pending(OLD, NEW), OLD, "skipped", id="before the rename, and the text is the old one again"),
        pytest.param(None, pending(None, NEW), NEW, "reassembled", id="killed before the first file was there"),
        pytest.param(NEW, pending(None, NEW), OLD, "reassembled", id="killed once the first file was there"),
        pytest.param(b"edited", pending(OLD, NEW), NEW, None, id="edited after the crash"),
        pytest.param(OLD, pending(None, NEW), NEW, None, id="another program's file where there was none"),
        pytest.param(b"", pending(None, NEW), NEW, None, id="another program's empty file"),
    ],
)
async def test_after_a_crash_a_file_is_known_by_either_hash(
    sheet: Project, engine: Engine, on_disk: bytes | None, record: Output, wanted: bytes, status: str | None
):
    """The hash before the write and the announced one count as chora's, any other as an edit."""
    if on_disk is not None:
        sheet.write("outputs/sheet.md", on_disk)
    await engine.store.save_outputs([record])
    if wanted == NEW:
        sheet.save(text("two", "New\n"))
    if status is None:
        with unchanged(sheet), pytest.raises(OutputEdited, match="was edited after chora wrote it"):
            await run(engine)
        assert known(engine) == record
    else:
        assert (await run(engine)).status == status
        assert (sheet.root / "outputs/sheet.md").read_bytes() == wanted
        assert (known(engine).sha256, known(engine).pending) == (sha256(wanted), None)


async def test_an_unchanged_output_is_not_stored_again(sheet: Project, engine: Engine):
    """Assembling an unchanged artifact costs no transaction."""
    await run(engine)
    before = known(engine)
    await run(engine)
    assert known(engine) == before


@needs_posix
@needs_user
async def test_a_folder_that_may_not_be_written_is_a_failure(sheet: Project, engine: Engine):
    """The old text stays, the error says why, and once the folder is writable the next call succeeds."""
    await run(engine)
    sheet.save(text("two", "New\n"))
    (sheet.root / "outputs").chmod(0o500)
    with unchanged(sheet), pytest.raises(WriteFailed) as failed:
        await run(engine)
    (sheet.root / "outputs").chmod(0o700)
    assert failed.value.details == {"output_path": "outputs/sheet.md", "error_type": "PermissionError", "errno": 13}
    assert (await run(engine)).status == "reassembled"


async def test_a_failed_write_is_an_error(sheet: Project, engine: Engine):
    """A file in place of the folder: nothing is written, and the error names path and errno."""
    sheet.write("outputs", "a file")
    with unchanged(sheet), pytest.raises(WriteFailed) as failed:
        await run(engine)
    assert failed.value.details["output_path"] == "outputs/sheet.md"
    assert isinstance(failed.value.details["errno"], int)
    assert failed.value.hint
    (sheet.root / "outputs").unlink()
    assert (await run(engine)).status == "reassembled"


async def test_outputs_written_before_a_failure_are_not_edits(sheet: Project, engine: Engine):
    """The first was written, the second couldn't be; the next call finishes both."""
    sheet.save(artifact("sheet", [child("one")], out("a.md"), out("folder/b.md")))
    sheet.write("folder", "a file")
    with pytest.raises(WriteFailed, match=r"folder/b\.md couldn't be written"):
        await run(engine)
    assert sheet.read("a.md") == "One\n"
    (sheet.root / "folder").unlink()
    sheet.save(text("one", "New\n"))
    assert (await run(engine)).outputs == ["a.md", "folder/b.md"]
    assert (sheet.read("a.md"), sheet.read("folder/b.md")) == ("New\n", "New\n")


async def test_outputs_after_a_failed_one_are_not_edits(sheet: Project, engine: Engine):
    """They hold the old text although a new one was announced."""
    sheet.save(artifact("sheet", [child("one")], out("folder/a.md"), out("b.md")))
    await run(engine, output_path="a.md")
    sheet.write("folder", "a file")
    sheet.save(text("one", "New\n"))
    with pytest.raises(WriteFailed, match=r"folder/a\.md couldn't be written"):
        await run(engine)
    assert sheet.read("b.md") == "One\n"
    (sheet.root / "folder").unlink()
    await run(engine)
    assert (sheet.read("folder/a.md"), sheet.read("b.md")) == ("New\n", "New\n")


# -- events and concurrency -------------------------------------------------------------------------------------


@requirement("events.artifact-assembled")
async def test_an_assembly_emits_an_event(sheet: Project, engine: Engine):
    """On success, on failure, and when nothing has changed."""
    await run(engine)
    await run(engine)
    with pytest.raises(PermissionDenied, match="leads outside the project"):
        await run(engine, output_path="../x")
    lines = (sheet.root / "var/telemetry/events.jsonl").read_bytes().splitlines()
    good, again, bad = (
        event for event in map(msgspec.json.decode, lines) if event["event_type"] == "chora.artifact_assembled"
    )
    assert (good["status"], good["output_path"], good["error_message"]) == ("success", "outputs/sheet.md", None)
    assert (good["artifact_config_id"], good["section_count"]) == ("sheet", 2)
    assert [each["cache_hit"] for each in (good, again, bad)] == [False, True, False]
    assert (again["status"], again["output_path"]) == ("success", "outputs/sheet.md")
    assert (bad["status"], bad["output_path"], bad["error_code"]) == ("error", None, "permission_denied")
    assert bad["error_message"].endswith("leads outside the project.")
    assert may_have_taken(good["duration_ms"] / 1000)
    assert may_have_taken(bad["duration_ms"] / 1000)


async def test_two_assemblies_of_one_file_do_not_take_each_other_for_an_edit(project: Project, engine: Engine):
    """A lock covers everything from reading the file to writing it."""
    project.save(
        content("one", pattern={"type": "template_fill", "template": "{{ n }}"}), artifact("sheet", [child("one")])
    )

    async def several(number: int) -> None:
        for turn in range(3):
            await run(engine, context={"n": f"{number} {turn}"})

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for number in range(6):
                nursery.start_soon(several, number)
    assert project.read("outputs/sheet.md") in {f"{number} {turn}" for number in range(6) for turn in range(3)}
    assert known(engine).pending is None


async def test_a_cancelled_assembly_leaves_nothing_half_done(sheet: Project, engine: Engine):
    """The next one succeeds."""
    with trio.move_on_after(0) as scope:
        await run(engine)
    assert scope.cancelled_caught
    assert (await run(engine)).status == "assembled"


async def test_a_file_that_two_artifacts_write_is_a_warning(project: Project, engine: Engine):
    """Each of them replaces the other's text."""
    project.save(text("one", "first"), text("two", "second"))
    shared = out("outputs/shared.md")
    project.save(artifact("a", [child("one")], shared), artifact("b", [child("two")], shared))
    first = await build_artifact(Build(engine), engine.catalog.find_config("artifact", "a").parsed, CallerContext({}))
    second = await build_artifact(Build(engine), engine.catalog.find_config("artifact", "b").parsed, CallerContext({}))
    again = await build_artifact(Build(engine), engine.catalog.find_config("artifact", "b").parsed, CallerContext({}))
    assert first.pieces.warnings == again.pieces.warnings == []
    assert second.pieces.warnings == ["outputs/shared.md was written by the artifact a before"]


async def test_a_crash_and_then_a_failed_write_leave_the_file_known(
    project: Project, engine: Engine, monkeypatch: pytest.MonkeyPatch
):
    """The hash on disk when a write begins is kept, whichever earlier write put it there."""
    project.save(text("one", "first"), artifact("note", [child("one")]))
    parsed = engine.catalog.find_config("artifact", "note").parsed
    await build_artifact(Build(engine), parsed, CallerContext({}))
    # A kill right after the rename: the file is new, and the store still calls it pending.
    before = known(engine, "outputs/note.md")
    await engine.store.save_outputs([msgspec.structs.replace(before, pending=sha256(b"second"))])
    project.write("outputs/note.md", "second")

    async def refuse(path: str, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    project.save(text("one", "third"))
    with monkeypatch.context() as full_disk:
        full_disk.setattr(engine.folder, "write_file", refuse)
        with pytest.raises(WriteFailed, match="it still holds its old text"):
            await build_artifact(Build(engine), parsed, CallerContext({}))
    assert project.read("outputs/note.md") == "second"
    project.save(text("one", "fourth"))
    assert (await build_artifact(Build(engine), parsed, CallerContext({}))).status == "reassembled"
    assert project.read("outputs/note.md") == "fourth"


# -- edits that are merged or overwritten -----------------------------------------------------------------------


def on_edit(engine: Engine, mode: str) -> None:
    """Set `on_edit`, what happens to edited files."""
    engine.settings = msgspec.structs.replace(engine.settings, output=settings.OutputSettings(on_edit=cast(Any, mode)))


@pytest.fixture
def lines(project: Project) -> Project:
    """An artifact of five lines, some of which the caller can change."""
    template = "one {{ a }}\ntwo\nthree\nfour\nfive {{ b }}\n"
    pattern = {"type": "template_fill", "template": template, "generation_config": {"context": {"a": "", "b": ""}}}
    project.save(content("body", pattern=pattern), artifact("sheet", [child("body")]))
    return project


SHEET = "outputs/sheet.md"


async def test_an_edit_and_a_change_are_merged(lines: Project, engine: Engine):
    """Both are in the file, with a warning; a second time nothing happens."""
    on_edit(engine, "merge")
    await run(engine)
    lines.write(SHEET, lines.read(SHEET).replace("three", "three, edited"))
    made = await run(engine, context={"a": "A"})
    merged = "one A\ntwo\nthree, edited\nfour\nfive \n"
    assert lines.read(SHEET) == merged
    assert made.status == "reassembled"
    assert made.size == len(merged)
    assert made.pieces.warnings == [f"{SHEET} was edited by hand; the edit was merged"]
    before = file_identity(lines.root / SHEET)
    assert (await run(engine, context={"a": "A"})).status == "skipped"
    forced = await run(engine, context={"a": "A"}, force=True)
    assert forced.status == "reassembled"
    assert file_identity(lines.root / SHEET) == before
    await run(engine, context={"a": "A", "b": "B"})
    assert lines.read(SHEET) == merged.replace("five ", "five B")
    await run(engine, context={"a": "", "b": "B"})
    assert lines.read(SHEET) == "one \ntwo\nthree, edited\nfour\nfive B\n"


async def test_conflicting_changes_are_marked(lines: Project, engine: Engine):
    """Both sides are between conflict markers, once, however often it is merged, and each time a warning says so."""
    on_edit(engine, "merge")
    await run(engine)
    lines.write(SHEET, "one mine\ntwo\nthree, edited\nfour\nfive \n")

    def marked(theirs: str) -> str:
        conflict = f"{merging.YOURS}\none mine\n{merging.OURS}\none {theirs}\n{merging.END}\n"
        return f"{conflict}two\nthree, edited\nfour\nfive \n"

    for theirs in ("A", "B", "B", "C"):
        made = await run(engine, context={"a": theirs}, force=theirs == "B")
        assert lines.read(SHEET) == marked(theirs)
        (warning,) = made.pieces.warnings
        assert warning == f"{SHEET} was edited by hand; the edit was merged, with 1 conflict marked in it"
        assert made.conflicts == [SHEET]
    again = await run(engine, context={"a": "C"})
    assert (again.status, again.conflicts) == ("skipped", [SHEET]), "until it is settled"
    report = await planned(engine, context={"a": "C"})
    assert (report.action, report.reasons, report.conflicts) == ("merge", ["1 conflict with an edit is not settled"], 1)
    assert report.diff == "", "nothing would be written"
    lines.write(SHEET, "one ours\ntwo\nthree, edited\nfour\nfive \n")
    assert (await run(engine, context={"a": "C"})).conflicts == []
    assert (await planned(engine, context={"a": "C"})).action == "unchanged"
    await run(engine, context={"a": "C", "b": "B"})
    assert lines.read(SHEET) == "one ours\ntwo\nthree, edited\nfour\nfive B\n"


async def test_the_same_change_on_both_sides_is_no_conflict(lines: Project, engine: Engine):
    """The file counts as chora's again."""
    on_edit(engine, "merge")
    await run(engine)
    lines.write(SHEET, lines.read(SHEET).replace("one ", "one A"))
    made = await run(engine, context={"a": "A"})
    assert (made.status, made.pieces.warnings) == ("skipped", [])
    await run(engine, context={"a": "B"})
    assert lines.read(SHEET).startswith("one B\n")


@requirement("outputs.merge.base")
@pytest.mark.parametrize("mode", ["refuse", "overwrite"])
async def test_an_edit_can_be_merged_that_was_made_before_merging_was_asked_for(
    lines: Project, engine: Engine, mode: str
):
    """The base is kept whatever the setting says: who changes it does so because of an edit."""
    on_edit(engine, mode)
    await run(engine)
    lines.write(SHEET, "one \ntwo\nthree, edited\nfour\nfive \n")
    if mode == "refuse":
        with pytest.raises(OutputEdited) as failed:
            await run(engine, context={"a": "A"})
        assert "set [output] on_edit to merge" in (failed.value.hint or "")
    on_edit(engine, "merge")
    await run(engine, context={"a": "A"})
    assert lines.read(SHEET) == "one A\ntwo\nthree, edited\nfour\nfive \n"


@requirement("outputs.merge.base")
async def test_a_file_that_is_never_merged_has_no_base(lines: Project, engine: Engine):
    """A generated one, and one too long to be compared."""
    lines.save(artifact("sheet", [child("body")], out(SHEET, generated=True)))
    await run(engine)
    assert known(engine).base is None
    assert (await run(engine)).status == "skipped"


async def test_an_edit_cannot_be_merged_without_its_base(lines: Project, engine: Engine):
    """The file was written by a version that kept none; the error doesn't advise it, and it is kept from then on."""
    await run(engine)
    await engine.store.save_outputs([msgspec.structs.replace(known(engine), base=None)])
    lines.write(SHEET, "edited")
    with pytest.raises(OutputEdited) as refused:
        await run(engine, context={"a": "A"})
    assert "merge" not in (refused.value.hint or "")
    on_edit(engine, "merge")
    with unchanged(lines), pytest.raises(OutputEdited, match="the edit can't be told apart"):
        await run(engine, context={"a": "A"})
    lines.write(SHEET, "one \ntwo\nthree\nfour\nfive \n")
    written_at = known(engine).written_at
    assert (await run(engine)).status == "skipped"
    assert known(engine).base == lines.read(SHEET)
    assert known(engine).written_at == written_at, "it is as old as it was"
    lines.write(SHEET, "one \ntwo\nthree, edited\nfour\nfive \n")
    await run(engine, context={"a": "A"})
    assert lines.read(SHEET) == "one A\ntwo\nthree, edited\nfour\nfive \n"


async def test_a_file_of_others_is_not_merged(lines: Project, engine: Engine):
    """It has no base, and isn't overwritten either."""
    lines.write(SHEET, "another text\n")
    for mode in ("merge", "overwrite"):
        on_edit(engine, mode)
        with unchanged(lines), pytest.raises(OutputEdited, match="was not written by chora"):
            await run(engine)


async def test_an_edit_can_be_overwritten(lines: Project, engine: Engine):
    """With a warning, if the settings say so; a generated output without one."""
    on_edit(engine, "overwrite")
    await run(engine)
    lines.write(SHEET, "edited")
    made = await run(engine)
    assert lines.read(SHEET).startswith("one ")
    assert made.pieces.warnings == [f"{SHEET} was edited by hand; it was overwritten"]
    assert (await run(engine)).pieces.warnings == []


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le", "latin-1", "utf-8-sig"])
async def test_edits_are_merged_in_the_encoding_of_the_file(lines: Project, engine: Engine, encoding: str):
    """Non-ASCII letters on all three sides."""
    on_edit(engine, "merge")
    lines.save(artifact("sheet", [child("body")], out(SHEET, encoding=encoding)))
    await run(engine, context={"a": "ä", "b": "ö"})
    file = lines.root / SHEET
    edited = file.read_bytes().decode(encoding).replace("three", "drei ü")
    file.write_bytes(edited.encode(encoding))
    await run(engine, context={"a": "á", "b": "ö"})
    assert file.read_bytes() == "one á\ntwo\ndrei ü\nfour\nfive ö\n".encode(encoding)


@pytest.mark.parametrize("edited", [b"\xff\xfe\xff", b"x\n" * (merging.MERGE_LINES + 1)])
async def test_files_that_cannot_be_merged_are_refused(lines: Project, engine: Engine, edited: bytes):
    """Bytes that aren't text, and more lines than can be compared in time."""
    on_edit(engine, "merge")
    await run(engine)
    lines.write(SHEET, edited)
    with unchanged(lines), pytest.raises(OutputEdited, match="can't be told apart from what was written"):
        await run(engine, context={"a": "A"})


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("edit", ["one \ntwo\nmine\nfour\nfive \n", "mine\ntwo\nthree\nfour\nfive \n"])
@pytest.mark.parametrize("when", ["announced", "written"])
async def test_a_crash_in_a_merge_loses_no_edit(
    lines: Project, engine: Engine, monkeypatch: pytest.MonkeyPatch, edit: str, when: str
):
    """Between announcement and write, or between write and record: merging once more gives the same file."""
    on_edit(engine, "merge")
    await run(engine)
    lines.write(SHEET, edit)
    really = engine.folder.write_file

    async def die(path: str, data: bytes) -> None:
        if when == "written":
            await really(path, data)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(engine.folder, "write_file", die)
        with pytest.raises(Killed):
            await run(engine, context={"a": "A"})
    after_crash = lines.read(SHEET)
    assert (after_crash == edit) is (when == "announced")
    await run(engine, context={"a": "A"})
    merged = lines.read(SHEET)
    assert "mine" in merged
    assert "one A" in merged
    assert merged.count(merging.YOURS) == (edit.startswith("mine"))
    assert when == "announced" or merged == after_crash
    await run(engine, context={"a": "A"}, force=True)
    assert lines.read(SHEET) == merged
    assert known(engine).pending is None


# -- conditions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "taken"),
    [
        (None, True),
        ("", True),
        ("true", True),
        ('audience == "crew"', True),
        ('audience == "guests"', False),
        ("audience", True),
        ("not audience", False),
        ("missing is defined", False),
        ("missing is defined and missing.anything", False),
        ("  ", True),
        ("numbers", False),
        ("numbers | length == 0", True),
        ('artifact_id == "sheet" and content_id == "two"', True),
        ("member_id is defined", False),
    ],
)
async def test_a_child_is_included_when_its_condition_is_true(
    sheet: Project, engine: Engine, condition: str | None, taken: bool
):
    """It is evaluated in the caller's context with the reserved names."""
    two = child("two") if condition is None else child("two", conditions=condition)
    sheet.save(artifact("sheet", [child("one"), two]))
    made = await run(engine, context={"audience": "crew", "numbers": []})
    assert sheet.read(SHEET) == ("One\n\nTwo\n" if taken else "One\n")
    assert made.pieces.excluded == ([] if taken else ["two"])
    again = await run(engine, context={"audience": "crew", "numbers": []})
    assert (again.status, again.pieces.excluded) == ("skipped", made.pieces.excluded)


FAILING = {
    "1 +": "unexpected",
    "{% if x %}": "unexpected",
    "audience(": "unexpected",
    "in summer": "",
    "1 / 0": "division by zero",
    "audience.__class__.__mro__": "unsafe",
}
"""Conditions that don't parse, that fail, or that use what the sandbox forbids, and a word of the reason."""
UNDEFINED = {"always": "always", "env == prod": "env", "audience == crew": "crew", "missing.anything": "missing"}
"""Conditions that use an undefined name, and the name."""


@requirement("assembly.conditions-fail")
@pytest.mark.parametrize("condition", [*FAILING, *UNDEFINED])
async def test_a_condition_that_cannot_be_evaluated_is_a_failure(sheet: Project, engine: Engine, condition: str):
    """Or one about what isn't defined; an optional child fails the artifact too."""
    sheet.save(artifact("sheet", [child("one"), child("two", conditions=condition)]))
    with unchanged(sheet), pytest.raises(CompositionFailed, match="the condition of two can't be evaluated") as failed:
        await run(engine, context={"audience": "crew"})
    assert not failed.value.message.endswith("..")
    assert (UNDEFINED | FAILING)[condition] in failed.value.message
    assert failed.value.details["error_type"] == "InvalidCondition"
    assert failed.value.details["content_id"] == "two"
    assert ("is defined" in str(failed.value.hint)) == (condition in UNDEFINED)


@requirement("assembly.conditions-fail")
@pytest.mark.parametrize("condition", [*FAILING, *UNDEFINED])
async def test_in_a_project_of_chora_compose_such_a_condition_leaves_nothing_out(
    sheet: Project, engine: Engine, condition: str
):
    """It took no notice of conditions, so the child is included as it always was; a warning says why."""
    engine.settings = msgspec.structs.replace(
        engine.settings,
        templates=msgspec.structs.replace(engine.settings.templates, undefined="lenient"),
        configs=msgspec.structs.replace(engine.settings.configs, rules="chora-compose"),
    )
    sheet.save(artifact("sheet", [child("one"), child("two", conditions=condition)]))
    made = await run(engine, context={"audience": "crew"})
    assert sheet.read(SHEET) == "One\n\nTwo\n"
    assert made.pieces.excluded == []
    [warning] = [each for each in made.pieces.warnings if "condition" in each]
    assert warning.startswith("The child two was included, because its condition failed: ")
    assert (UNDEFINED | FAILING)[condition] in warning


@requirement("assembly.conditions-fail")
@pytest.mark.parametrize(
    ("undefined", "rules", "condition", "is_error"),
    [
        ("lenient", "chora", "always", False),
        ("lenient", "chora", "in summer", True),
        ("strict", "chora-compose", "always", True),
        ("strict", "chora-compose", "in summer", False),
    ],
)
async def test_each_setting_decides_about_its_own_conditions(
    sheet: Project, engine: Engine, undefined: Any, rules: Any, condition: str, is_error: bool
):
    """`templates.undefined` about names that aren't defined, `configs.rules` about what is no condition."""
    engine.settings = msgspec.structs.replace(
        engine.settings,
        templates=msgspec.structs.replace(engine.settings.templates, undefined=undefined),
        configs=msgspec.structs.replace(engine.settings.configs, rules=rules),
    )
    sheet.save(artifact("sheet", [child("one", conditions=condition)]))
    with pytest.raises(CompositionFailed) if is_error else nullcontext():
        assert (await run(engine)).pieces.excluded == []


async def test_children_may_all_be_excluded(sheet: Project, engine: Engine):
    """Then the file is empty, which a warning says, also when nothing is built again."""
    sheet.save(artifact("sheet", [child("one", conditions="false"), child("gone", conditions="false")]))
    made = await run(engine)
    assert (made.size, made.pieces.excluded) == (0, ["one", "gone"])
    assert sheet.read(SHEET) == ""
    assert made.pieces.warnings == ["every child was left out, so there is nothing to compose"]
    assert (await run(engine)).pieces.warnings == made.pieces.warnings


# -- selecting stored texts -------------------------------------------------------------------------------------


def versioned(body: str, version: str = "1.0.0", stage: str = "draft") -> dict[str, Any]:
    """The content `one` with a version and a review status."""
    document = text("one", body)
    document["metadata"]["version"] = version
    return {**document, "evolution": {"stage": stage}}


async def store_text(engine: Engine, project: Project, document: dict[str, Any]) -> None:
    """Generate a content from its current config."""
    project.save(document)
    await build_content(Build(engine), engine.catalog.find_config("content", document["id"]).parsed, CallerContext({}))


async def test_all_stored_texts_can_be_selected(sheet: Project, engine: Engine):
    """Oldest first, with the current one, which isn't included twice."""
    await store_text(engine, sheet, versioned("first"))
    await store_text(engine, sheet, versioned("second"))
    sheet.save(versioned("third"), artifact("sheet", [child("one", retrievalStrategy="all"), child("two")]))
    made = await run(engine)
    assert sheet.read(SHEET) == "first\n\nsecond\n\nthird\n\nTwo\n"
    assert [piece.generated for piece in made.pieces.pieces] == [False, False, True, True]
    assert (await run(engine)).status == "skipped"
    await store_text(engine, sheet, versioned("fourth"))
    await run(engine)
    assert sheet.read(SHEET) == "first\n\nsecond\n\nthird\n\nfourth\n\nTwo\n"


async def test_a_version_can_be_selected(sheet: Project, engine: Engine):
    """The newest text of that version; it is generated now only if the config has that version."""
    await store_text(engine, sheet, versioned("one", "1.0.0"))
    await store_text(engine, sheet, versioned("one, mended", "1.0.0"))
    await store_text(engine, sheet, versioned("two", "2.0.0"))
    for wanted, body in (("1.0.0", "one, mended"), ("2.0.0", "two")):
        sheet.save(artifact("sheet", [child("one", retrievalStrategy="version", version=wanted)]))
        await run(engine)
        assert sheet.read(SHEET) == body
    sheet.save(versioned("two, mended", "2.0.0"))
    assert (await run(engine)).pieces.pieces[0].generated
    assert sheet.read(SHEET) == "two, mended"


async def test_the_newest_approved_text_can_be_selected(sheet: Project, engine: Engine):
    """The current text counts only if its config is approved."""
    sheet.save(artifact("sheet", [child("one", retrievalStrategy="approved_only")]))
    await store_text(engine, sheet, versioned("approved", stage="approved"))
    await store_text(engine, sheet, versioned("in review", stage="review"))
    made = await run(engine)
    assert (sheet.read(SHEET), made.pieces.pieces[0].generated) == ("approved", False)
    sheet.save(versioned("approved again", stage="approved"))
    await run(engine)
    assert sheet.read(SHEET) == "approved again"
    (sheet.root / "configs/content/one.json").unlink()
    await run(engine)
    assert sheet.read(SHEET) == "approved again", "its config needn't be there any more"


@pytest.mark.parametrize(
    ("options", "error", "problem"),
    [
        ({"retrievalStrategy": "approved_only"}, MissingContent, "No stored text of one is approved_only"),
        (
            {"retrievalStrategy": "version", "version": "9.0.0"},
            MissingContent,
            "No stored text of one is version 9.0.0",
        ),
        ({"retrievalStrategy": "version"}, CompositionFailed, "retrieves a version and doesn't name one"),
    ],
)
async def test_a_selected_text_that_is_not_stored_is_missing(
    sheet: Project, engine: Engine, options: dict[str, Any], error: type[ChoraError], problem: str
):
    """A required one fails the artifact, with the existing ones in the details; an optional one is left out."""
    await store_text(engine, sheet, text("two", "Two\n"))
    sheet.save(artifact("sheet", [child("one", **options), child("two")]))
    with unchanged(sheet), pytest.raises(error) as failed:
        await run(engine)
    assert problem in failed.value.message
    assert failed.value.hint
    if error is MissingContent:
        assert failed.value.details["missing_content_ids"] == ["one"]
        assert failed.value.details["available_content_ids"] == ["two"]
    sheet.save(artifact("sheet", [child("one", required=False, **options), child("two")]))
    made = await run(engine)
    assert (sheet.read(SHEET), made.pieces.missing) == ("Two\n", ["one"])


async def test_a_child_without_an_approved_review_is_a_warning(sheet: Project, engine: Engine):
    """Until its config, or every one of its elements, is approved; also when nothing else has changed."""
    sheet.save(artifact("sheet", [child("one", review_required=True), child("two")]))
    warning = ["one asks for a review, and neither it nor all of its elements are approved"]
    assert (await run(engine)).pieces.warnings == warning
    assert (await run(engine)).pieces.warnings == warning
    element = {"name": "body", "format": "text", "example_output": "One\n", "review_status": "approved"}
    sheet.save(content("one", elements=[element]))
    assert (await run(engine)).pieces.warnings == []


async def test_warnings_are_the_same_when_nothing_has_changed(sheet: Project, engine: Engine):
    """Those of children and of the config; a warning about a file that was changed is given once."""
    pattern = {"type": "template_fill", "template": "{{ x }}", "generation_config": {"undefined_behavior": "empty"}}
    sheet.save(content("empty", pattern=pattern), text("inner", "y"))
    children = [child("empty"), child("a", path="configs/content/inner.json"), child("two", review_required=True)]
    sheet.save(artifact("other", [child("one")], out(SHEET)), artifact("sheet", children))
    await run(engine, "other")
    fresh = await run(engine)
    lasting = [
        "empty: x has no value and was left empty",
        "configs/content/inner.json holds inner, not a; it was used all the same",
        "two asks for a review, and neither it nor all of its elements are approved",
    ]
    assert fresh.pieces.warnings == [*lasting, f"{SHEET} was written by the artifact other before"]
    assert (await run(engine)).pieces.warnings == lasting


# -- plans ------------------------------------------------------------------------------------------------------


async def planned(engine: Engine, **rest: Any) -> PlannedOutput:
    """The plan for the first file; making it changes nothing."""
    parsed = engine.catalog.find_config("artifact", "sheet").parsed
    context = rest.pop("context", {})
    (first, *_) = await plan_artifact(
        Build(engine, dry=True, force=rest.pop("force", False)), parsed, CallerContext(context), **rest
    )
    return first


async def why(engine: Engine, context: dict[str, Any] | None = None, **rest: Any) -> list[str]:
    parsed = engine.catalog.find_config("artifact", "sheet").parsed
    return await explain_stale_artifact(Build(engine, dry=True), parsed, CallerContext(context or {}), **rest)


@pytest.mark.parametrize(
    ("action", "before", "mode"),
    [
        ("create", None, "refuse"),
        ("update", "ours", "refuse"),
        ("adopt", "One\n\nNew\n", "refuse"),
        ("merge", "One, edited\n\nTwo\n", "merge"),
        ("overwrite", "edited\n", "overwrite"),
        ("refuse", "edited\n", "refuse"),
    ],
)
async def test_a_plan_says_what_happens_to_a_file(
    sheet: Project, engine: Engine, action: str, before: str | None, mode: str
):
    """And why, with the difference; then assembling does exactly that."""
    on_edit(engine, mode)
    if before is not None:
        await run(engine)
        if before != "ours":
            sheet.write(SHEET, before)
    sheet.save(text("two", "New\n"))
    with unchanged(sheet):
        reported = await planned(engine)
    await engine.traces.save_traces()
    assert (reported.path, reported.action) == (SHEET, action)
    if action == "create":
        assert reported.reasons == ["it was never assembled"]
    else:
        assert "configs/content/two.json has changed" in reported.reasons
    assert bool(reported.diff) is (action != "adopt")
    if action == "merge":
        assert [line for line in reported.diff.splitlines() if line[:1] in "+-"][2:] == ["-Two", "+New"]
    if action == "refuse":
        with unchanged(sheet), pytest.raises(OutputEdited, match="was edited after chora wrote it"):
            await run(engine)
        return
    made = await run(engine)
    assert (sheet.root / SHEET).stat().st_size == reported.size == made.size
    assert made.status == {"create": "assembled", "adopt": "skipped"}.get(action, "reassembled")
    after = await planned(engine)
    assert (after.action, after.reasons, after.diff) == ("unchanged", [], "")
    assert action == "merge" or after.size == reported.size


async def test_a_forced_plan_looks_into_everything(sheet: Project, engine: Engine):
    """Although nothing has changed."""
    await run(engine)
    reported = await planned(engine, force=True)
    assert (reported.action, reported.reasons, reported.size) == ("unchanged", [], 9)


async def test_a_plan_says_what_a_model_would_cost(project: Project, engine: Engine):
    """Without calling it, also for an optional child; and whether the file exists yet."""
    pattern = {"type": "code_generation", "generation_config": {"prompt": "Write.", "model": "claude-sonnet-5"}}
    project.save(content("code", pattern=pattern), text("one", "One\n"))
    for required in (True, False):
        project.save(artifact("sheet", [child("one"), child("code", required=required)]))
        with unchanged(project):
            reported = await planned(engine)
        assert reported.action == "create"
        assert reported.reasons[0] == "it was never assembled"
        assert reported.reasons[1].startswith("a language model would be called, for up to $0.")
    project.write(SHEET, "x")
    assert (await planned(engine)).action == "update"
    pattern["generation_config"] = {"prompt": "Write.", "model": "unheard-of"}
    project.save(content("code", pattern=pattern))
    assert "a language model would be called, for an unknown amount" in (await planned(engine)).reasons
    project.save(content("code", pattern={"type": "template_fill", "template": "{{ x }}"}))
    project.save(artifact("sheet", [child("code")]))
    with pytest.raises(GenerationFailed, match="no value for x"):
        await planned(engine)


async def test_a_stale_artifact_says_why(sheet: Project, engine: Engine):
    """Each changed input by name; a changed context, path or setting as such."""
    data = {"id": "data", "source_type": "external_file", "source_locator": "data.json", "required": False}
    sheet.write("data.json", "1")
    sheet.save(content("one", pattern={"type": "template_fill", "template": "{{ data }}"}, sources=[data]))
    assert await why(engine) == ["it was never assembled"]
    await run(engine)
    assert await why(engine) == []
    assert await why(engine, {"x": 1}) == ["context `x` is new"]
    assert await why(engine, output_path="else.md") == ["its files go to another place"]
    sheet.write("data.json", "2")
    assert await why(engine) == ["data.json has changed"]
    assert await why(engine, {"x": 1}) == ["context `x` is new", "data.json has changed"]
    (sheet.root / SHEET).unlink()
    assert await why(engine) == ["data.json has changed", f"{SHEET} is gone"]
    on_edit(engine, "merge")
    another = "the setting output.on_edit has changed"
    assert await why(engine) == [another, "data.json has changed", f"{SHEET} is gone"]


async def test_an_artifact_without_an_optional_part_is_always_checked(sheet: Project, engine: Engine):
    """The part may be available now; the reason isn't "never assembled"."""
    sheet.save(artifact("sheet", [child("one"), child("three", required=False)]))
    assert (await run(engine)).status == "assembled"
    assert await why(engine) == ["a part of it was missing or provisional last time"]
    assert (await run(engine)).status == "skipped"
    sheet.save(text("three", "Three\n"))
    assert (await run(engine)).status == "reassembled"
    assert sheet.read(SHEET) == "One\n\nThree\n"
    assert await why(engine) == []


@requirement("reasons.named")
async def test_reasons_compare_with_the_last_build_also_without_an_optional_part(sheet: Project, engine: Engine):
    """Not with the last one that had all parts: what changed since then was built since then."""
    data = {"id": "data", "source_type": "external_file", "source_locator": "data.json", "required": False}
    sheet.write("data.json", "1")
    sheet.save(content("one", pattern={"type": "jinja2", "template": "{{ data }}"}, sources=[data]))
    await run(engine)
    (sheet.root / "data.json").unlink()
    assert await why(engine) == ["data.json is gone"]
    await run(engine)
    assert await why(engine) == ["a part of it was missing or provisional last time"]
    sheet.save(content("one", pattern={"type": "jinja2", "template": "{{ data }}!"}, sources=[data]))
    missing = "a part of it was missing or provisional last time"
    assert await why(engine) == [missing, "configs/content/one.json has changed"]
    await run(engine)
    assert await why(engine) == [missing]
    sheet.write("data.json", "2")
    assert (await run(engine)).status == "reassembled"
    assert await why(engine) == []


CHANGES: dict[str, Callable[[Project], object]] = {
    "a child's config": lambda project: project.save(text("two", "2\n")),
    "the artifact's config": lambda project: project.save(artifact("sheet", [child("two"), child("one")])),
    "the composition": lambda project: project.save(
        artifact("sheet", [child("one"), child("two")], compositionConfig={"separator": "--"})
    ),
    "another place for a child": lambda project: project.write(
        "configs/content/one/one-content.json", msgspec.json.encode(text("one", "never"))
    ),
    "the output": lambda project: (project.root / SHEET).unlink(),
    "an output's format": lambda project: project.save(
        artifact("sheet", [child("one"), child("two")], out(SHEET, "text", encoding="utf-16"))
    ),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_any_changed_input_is_noticed(sheet: Project, engine: Engine, change: str):
    """The result is the same as without stored traces."""
    await run(engine)
    assert (await run(engine)).status == "skipped"
    CHANGES[change](sheet)
    await run(engine)
    made = (sheet.root / SHEET).read_bytes()
    (sheet.root / SHEET).unlink()
    blank = Engine(
        folder=engine.folder,
        catalog=engine.catalog,
        templates=engine.templates,
        store=SqliteStore(None),
        events=Events(None),
        settings=engine.settings,
    )
    assert (await run(blank)).status == "assembled"
    blank.store.close()
    assert (sheet.root / SHEET).read_bytes() == made


async def test_a_composition_template_is_an_input(sheet: Project, engine: Engine):
    """And so are the templates it includes."""
    sheet.write("templates/whole.j2", "{% for piece in pieces %}{{ piece.text }}{% endfor %}{% include 'end.j2' %}")
    sheet.write("templates/end.j2", "end")
    options = {"compositionStrategy": "template", "compositionConfig": {"template": "whole.j2"}}
    sheet.save(artifact("sheet", [child("one")], **options))
    await run(engine)
    assert (await run(engine)).status == "skipped"
    sheet.write("templates/end.j2", "END")
    assert (await run(engine)).status == "reassembled"
    assert sheet.read(SHEET) == "One\nEND"


async def test_an_artifact_may_read_its_own_output(project: Project, engine: Engine):
    """The file is an input like any other: each call assembles again, as long as that changes it."""
    own = {"id": "before", "source_type": "external_file", "source_locator": SHEET, "required": False}
    template = "{{ (before or '') + ('+' if (before or '') | length < 3 else '') }}"
    project.save(content("grow", pattern={"type": "jinja2", "template": template}, sources=[own]))
    project.save(artifact("sheet", [child("grow")]))
    for body in ("+", "++", "+++", "+++"):
        await run(engine)
        assert project.read(SHEET) == body
    assert (await run(engine)).status == "skipped"


async def test_force_renews_the_age_of_an_unchanged_file(sheet: Project, engine: Engine):
    """Its age starts again, also when the traces are lost."""
    first = await run(engine)
    await trio.sleep(0.005)
    forced = await run(engine, force=True)
    assert forced.generated_at > first.generated_at
    assert known(engine).written_at == forced.generated_at
    assert (await run(engine)).generated_at == forced.generated_at


# -- locks ------------------------------------------------------------------------------------------------------


async def test_locks_of_one_name_exclude_each_other():
    """Also names that differ only in case, as some file systems take them for one; unused locks are removed."""
    locks = NamedLocks()
    inside: list[str] = []

    async def hold(*names: str) -> None:
        async with locks(*names):
            inside.append("in")
            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
            inside.append("out")

    async with trio.open_nursery() as nursery:
        for names in (("a",), ("A",), ("a", "b"), ("B", "b", "a")):
            nursery.start_soon(hold, *names)
    assert inside == ["in", "out"] * 4
    assert locks._held == {}  # pyright: ignore[reportPrivateUsage]


async def test_locks_taken_in_opposite_orders_do_not_deadlock():
    """They are always taken in the same order; other names don't wait at all."""
    locks = NamedLocks()
    done: list[int] = []

    async def hold(number: int, *names: str) -> None:
        for _ in range(10):
            async with locks(*names):
                await trio.lowlevel.checkpoint()
        done.append(number)

    with trio.fail_after(PATIENCE):
        async with locks("z"), trio.open_nursery() as nursery:
            nursery.start_soon(hold, 1, "a", "b", "c")
            nursery.start_soon(hold, 2, "c", "b", "a")
            nursery.start_soon(hold, 3, "b", "a")
    assert sorted(done) == [1, 2, 3]


async def test_a_lock_is_released_whatever_happens():
    """When its holder fails, and when a waiting task is cancelled."""
    locks = NamedLocks()
    with pytest.raises(KeyError):
        async with locks("a", "b"):
            raise KeyError

    async def wait() -> None:
        async with locks("b", "a"):
            raise AssertionError

    async with locks("b"):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        with trio.fail_after(PATIENCE):
            async with locks("a"):
                pass
    assert locks._held == {}  # pyright: ignore[reportPrivateUsage]


async def test_artifacts_with_the_same_files_in_opposite_order_do_not_deadlock(project: Project, engine: Engine):
    """And neither takes the other's text for an edit."""
    project.save(text("one", "1"), text("two", "2"))
    project.save(artifact("a", [child("one")], out("x.md"), out("y.md")))
    project.save(artifact("b", [child("two")], out("y.md"), out("x.md")))
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(run, engine, "a")
                nursery.start_soon(run, engine, "b")
    assert project.read("x.md") == project.read("y.md")


async def test_an_artifact_with_a_fallback_text_is_built_again(project: Project, engine: Engine):
    """As soon as the model answers, in all outputs; until then each call tries. A fallback isn't taken for an edit."""
    model = Model()
    engine.budgets.anthropic = cast(Any, model)
    options = {"prompt": "Write.", "model": "claude-sonnet-5", "fallback_template": "nothing yet"}
    outputs = [out("outputs/sheet.md"), out("outputs/sheet.txt", "text")]
    project.save(
        content("code", pattern={"type": "code_generation", "generation_config": options}),
        artifact("sheet", [child("code")], *outputs),
    )
    model.fails = True
    for turn in (1, 2):
        await run(engine)
        assert model.asked == turn
        for each in outputs:
            assert project.read(each["file"]).strip() == "nothing yet"
    model.fails = False
    assert (await run(engine)).status != "skipped"
    assert model.asked == 3
    for each in outputs:
        assert project.read(each["file"]).strip() == "answer 3"
    assert (await run(engine)).status == "skipped"
    assert model.asked == 3
