"""Artifacts: children in order, composed, and written only where chora may write."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import yaml
from hypothesis import given
from hypothesis import strategies as st

from chora import app, config
from chora.engine import assemble as module
from chora.engine import edits
from chora.engine.assemble import Assembled, assemble, encode, gather_pieces
from chora.engine.engine import Engine, Given, Work
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
from chora.model import ArtifactConfig
from chora.reading import read
from chora.render.pool import RenderPool
from chora.stamps import now, sha256
from chora.store import Output
from tests.conftest import Project, artifact, child, content, text, unchanged

needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="permissions and links")
needs_user = pytest.mark.skipif(getattr(os, "geteuid", lambda: 1)() == 0, reason="root may write anywhere")


async def run(
    engine: Engine, artifact_id: str = "sheet", context: dict[str, Any] | None = None, **rest: Any
) -> Assembled:
    options = {name: rest.pop(name) for name in ("force", "dry", "progress") if name in rest}
    parsed = engine.catalog.find("artifact", artifact_id).parsed
    return await assemble(Work(engine, **options), parsed, Given(context or {}), **rest)


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
    """By what is on disk and what it would be, not by the mere file; then the file isn't touched."""
    await run(engine)
    before = (sheet.root / "outputs/sheet.md").stat()
    again = await run(engine)
    assert (again.status, [piece.generated for piece in again.pieces.pieces]) == ("skipped", [False, False])
    assert (sheet.root / "outputs/sheet.md").stat() == before
    sheet.save(text("two", "Changed\n"))
    changed = await run(engine)
    assert (changed.status, sheet.read("outputs/sheet.md")) == ("reassembled", "One\n\nChanged\n")
    assert [piece.generated for piece in changed.pieces.pieces] == [False, True]
    (sheet.root / "outputs/sheet.md").unlink()
    assert (await run(engine)).status == "reassembled"
    assert sheet.read("outputs/sheet.md") == "One\n\nChanged\n"
    assert (known(engine).sha256, known(engine).pending) == (sha256(b"One\n\nChanged\n"), None)


async def test_force_generates_every_child_again(sheet: Project, engine: Engine):
    """And says so, although the text is the same."""
    assert (await run(engine, force=True)).status == "assembled"
    forced = await run(engine, force=True)
    assert (forced.status, [piece.generated for piece in forced.pieces.pieces]) == ("reassembled", [True, True])
    assert len(engine.store.versions("one")) == 2


async def test_children_stand_by_order_then_by_place(project: Project, engine: Engine):
    """No order counts as 0; equal orders keep their place; fractions and whole numbers mix."""
    orders: list[float | None] = [2, None, 1, 0, 1.5, 1, None]
    project.save(*(text(f"t{number}", str(number)) for number in range(len(orders))))
    children = [
        child(f"t{number}", **({} if order is None else {"order": order})) for number, order in enumerate(orders)
    ]
    project.save(artifact("sheet", children))
    await run(engine)
    assert project.read("outputs/sheet.md").split("\n\n") == ["1", "3", "6", "2", "5", "4", "0"]


async def test_the_context_is_given_to_every_child(project: Project, engine: Engine):
    """Each renders with what the caller passed."""
    pattern = {"type": "template_fill", "template": "{{ content_id }} for {{ who }}"}
    project.save(
        content("one", pattern=pattern),
        content("two", pattern=pattern),
        artifact("sheet", [child("one"), child("two")]),
    )
    await run(engine, context={"who": "Ada"})
    assert project.read("outputs/sheet.md") == "one for Ada\n\ntwo for Ada"


async def test_progress_is_told_after_every_child(sheet: Project, engine: Engine):
    """How many are done, of how many, and which; an optional child that fails counts as well."""
    sheet.save(artifact("sheet", [child("one"), child("gone", required=False), child("two")]))
    told: list[tuple[float, float, str]] = []

    async def progress(done: float, total: float, what: str) -> None:
        told.append((done, total, what))

    await run(engine, progress=progress)
    assert told == [(1, 3, "one"), (2, 3, "gone"), (3, 3, "two")]


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
    """In the shape that a batch can be made of; with what there is instead."""
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


async def test_a_busy_house_leaves_no_optional_child_out(sheet: Project, engine: Engine):
    """Else a document would lose a part because the server had much to do."""
    sheet.save(content("three", pattern={"type": "jinja2", "template": "{{ 1 }}"}))
    sheet.save(artifact("sheet", [child("one"), child("three", required=False)]))
    engine.templates.pool = RenderPool(config.Render())  # one that doesn't run, and says so
    with unchanged(sheet), pytest.raises(Busy):
        await run(engine)


async def test_a_child_is_found_by_its_path_or_else_by_its_id(project: Project, engine: Engine):
    """Below the project, the config folder, or nowhere; another id inside is a warning."""
    project.write("configs/content/deep/a.json", msgspec.json.encode(text("inner", "by path")))
    project.write("configs/content/b/b-content.json", msgspec.json.encode(text("b", "by id")))
    children = [{"id": "a", "path": "content/deep/a.json"}, {"id": "b", "path": "elsewhere/b.json"}]
    project.save(artifact("sheet", children))
    made = await run(engine)
    assert project.read("outputs/sheet.md") == "by path\n\nby id"
    assert made.pieces.warnings == ["content/deep/a.json holds inner, not a; it was taken all the same"]
    assert [piece.content_id for piece in made.pieces.pieces] == ["a", "b"]


async def test_a_child_outside_the_project_is_denied(project: Project, engine: Engine):
    """Whatever its id."""
    project.save(text("a", "x"), artifact("sheet", [{"id": "a", "path": "../a.json"}]))
    with pytest.raises(PermissionDenied):
        await run(engine)


async def test_warnings_of_children_name_the_child(project: Project, engine: Engine):
    """In the order of the children."""
    lenient = {"undefined_behavior": "empty"}
    pattern = {"type": "template_fill", "template": "{{ x }}.", "generation_config": lenient}
    project.save(
        content("a", pattern=pattern), content("b", pattern=pattern), artifact("sheet", [child("b"), child("a")])
    )
    assert (await run(engine)).pieces.warnings == [f"{name}: x has no value and was left empty" for name in "ba"]


async def test_a_dry_gathering_stores_nothing(sheet: Project, engine: Engine):
    """The pieces are made in memory."""
    parsed = engine.catalog.find("artifact", "sheet").parsed
    with unchanged(sheet):
        work = Work(engine, dry=True)
        pieces = await gather_pieces(work, parsed.config, Given({}), work.seen())
    assert [piece.text for piece in pieces.pieces] == ["One\n", "Two\n"]
    assert engine.store.counts()["versions"] == 0


async def test_an_artifact_has_a_largest_size(sheet: Project, engine: Engine, monkeypatch: pytest.MonkeyPatch):
    """By its pieces while they are gathered, and by the bytes of a file in its encoding."""
    monkeypatch.setattr(module, "OUTPUT_LIMIT", 9)
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
    with unchanged(sheet), pytest.raises(LimitExceeded):
        await run(engine)


# -- composing and encoding -------------------------------------------------------------------------------------


def configured(*outputs: dict[str, Any], **metadata: Any) -> ArtifactConfig:
    return read("artifact", artifact("sheet", [child("a")], *outputs, **metadata), where="sheet").config


def encoded(body: str, format: str, **rest: Any) -> bytes:
    artifact_config = configured(out("o.x", format, **rest))
    return encode(artifact_config, artifact_config.metadata.outputs[0], body)


@pytest.mark.parametrize("format", ["markdown", "code", "bdd", "text", "html", "xml"])
def test_texts_are_written_as_they_are(format: str):
    """Not a byte is changed."""
    assert encoded("a: [1,\r\n{ü}", format) == "a: [1,\r\n{ü}".encode()


def test_json_and_yaml_are_written_anew():
    """Indented, in their own order, with dates and numbers as they were."""
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
def test_written_anew_means_the_same(value: Any):
    """Whatever the document says, it still says, and a second time nothing changes."""
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
def test_yaml_written_anew_means_the_same(value: Any):
    """In YAML too."""
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
        (BILLION, "yaml", "when its aliases are written out"),
        ("a: !!python/name:os.system x", "yaml", "the tag"),
        ("a: 2026-02-30", "yaml", "can't be written anew: day is out of range for month"),
    ],
)
def test_pieces_that_are_not_of_the_format_are_refused(body: str, format: str, problem: str):
    """The message says what is wrong with them; the details say where it was to go."""
    with pytest.raises(CompositionFailed) as failed:
        encoded(body, format)
    assert problem in failed.value.message
    assert failed.value.hint
    assert failed.value.details["composition_strategy"] == "concat"
    assert failed.value.details["output_path"] == "o.x"
    assert failed.value.details["error_type"]


@pytest.mark.parametrize("format", ["binary", "test_results"])
def test_formats_that_text_cannot_be_are_refused(format: str):
    """A text is no binary."""
    with pytest.raises(CompositionFailed, match=f"outputs of format {format} can't be composed") as failed:
        encoded("x", format)
    assert failed.value.hint
    assert failed.value.details["error_type"] == "UnknownFormat"


def test_an_output_has_its_encoding():
    """As Python knows it."""
    assert encoded("ü€", "text", encoding="utf-16-le") == "ü€".encode("utf-16-le")
    assert encoded("ü", "text", encoding="latin-1") == b"\xfc"


@pytest.mark.parametrize(
    "encoding", ["latin-1", "ascii", "nonsense", "base64", "rot13", "idna", "undefined", "a\0b", ""]
)
def test_a_text_that_does_not_fit_its_encoding_is_refused(encoding: str):
    """Whatever the codec raises for it."""
    with pytest.raises(CompositionFailed, match="the text doesn't fit the encoding") as failed:
        encoded("€" * 100, "text", encoding=encoding)
    assert failed.value.hint == "Write utf-8."


# -- outputs ----------------------------------------------------------------------------------------------------


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
    sheet.save(text("one", "[" + "1, " * module.INLINE_LENGTH + "1]"))
    assert (await run(engine)).status == "reassembled"
    assert len(msgspec.json.decode(sheet.read("o/a.json"))) == module.INLINE_LENGTH + 1


async def test_output_path_replaces_the_first_output_only(sheet: Project, engine: Engine):
    """With its format and encoding; the others stay where they are."""
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
    """Not by its name, nor by a detour, nor through a link."""
    (sheet.root / "link.md").symlink_to("a.md")
    sheet.save(artifact("sheet", [child("one")], *map(out, outputs)))
    with unchanged(sheet), pytest.raises(CompositionFailed, match=r"names a\.md as output twice") as failed:
        await run(engine)
    assert failed.value.hint


@pytest.mark.parametrize(
    "path",
    ["../out.md", "/tmp/out.md", "outputs/../../out.md", "link/out.md", "out-link.md", "", "a\0b", ".", "outputs"],
)
@needs_posix
async def test_an_output_outside_the_project_is_denied(sheet: Project, engine: Engine, tmp_path: Path, path: str):
    """By any road, and before anything is generated; a folder is no output either."""
    (sheet.root / "outputs").mkdir()
    (sheet.root / "link").symlink_to(tmp_path)
    (sheet.root / "out-link.md").symlink_to(tmp_path / "out.md")
    with unchanged(sheet), pytest.raises(PermissionDenied):
        await run(engine, output_path=path)
    assert not (tmp_path / "out.md").exists()
    assert engine.store.counts()["versions"] == (2 if path == "outputs" else 0)


@pytest.mark.parametrize(
    "path", [".chora/storage.db", ".chora/new.md", ".chora/storage.db-wal", ".chora/x/../storage.db", "link.db"]
)
@needs_posix
async def test_choras_own_data_is_no_output(sheet: Project, engine: Engine, path: str):
    """Not even one that is declared generated."""
    (sheet.root / "link.db").symlink_to(".chora/storage.db")
    sheet.save(artifact("sheet", [child("one")], out(path, generated=True)))
    with pytest.raises(PermissionDenied, match="is where chora keeps its own data") as failed:
        await run(engine)
    assert failed.value.hint
    assert engine.store.counts()["versions"] == 0


async def test_the_database_is_no_output_wherever_it_lies(project: Project):
    """Settings can put it into another folder."""
    (project.root / "chora.toml").write_text('[storage]\npath = "data/my.db"\n')
    project.save(text("one", "x"), artifact("sheet", [child("one")], out("data/my.db-wal", generated=True)))
    async with app.opened(project.root, config.load(project.root, {})) as engine:
        with pytest.raises(PermissionDenied):
            await run(engine)
        for path in ("data/other.md", "data/my.db.md"):
            await run(engine, output_path=path)


async def test_outputs_stay_beneath_their_folders(project: Project):
    """The setting paths.outputs bounds them, and nothing else."""
    (project.root / "chora.toml").write_text('[paths]\noutputs = ["outputs", "docs/made"]\n')
    project.save(text("one", "x"), artifact("sheet", [child("one")]))
    async with app.opened(project.root, config.load(project.root, {})) as engine:
        await run(engine)
        await run(engine, output_path="docs/made/deep/a.md")
        for path in ("a.md", "docs/a.md", "outputs2/a.md", "outputs", "docs/made/../a.md"):
            with unchanged(project), pytest.raises(PermissionDenied) as failed:
                await run(engine, output_path=path)
            assert "paths.outputs" in str(failed.value.hint)


@needs_posix
async def test_a_link_within_the_project_is_followed(sheet: Project, engine: Engine):
    """The file it leads to is written, and the link stays one."""
    sheet.write("docs/real.md", "One\n\nTwo\n")
    (sheet.root / "outputs").symlink_to("docs")
    made = await run(engine, output_path="outputs/real.md")
    assert made.output_path == "docs/real.md"
    sheet.save(text("two", "Three\n"))
    await run(engine, output_path="outputs/real.md")
    assert sheet.read("docs/real.md") == "One\n\nThree\n"
    assert (sheet.root / "outputs").is_symlink()


# -- whose text is in a file ------------------------------------------------------------------------------------


async def test_an_equal_file_of_others_is_adopted(sheet: Project, engine: Engine):
    """It holds what chora would write; from then on it is known for ours."""
    sheet.write("outputs/sheet.md", "One\n\nTwo\n")
    assert (await run(engine)).status == "skipped"
    assert (known(engine).sha256, known(engine).pending) == (sha256(b"One\n\nTwo\n"), None)
    sheet.save(text("two", "Three\n"))
    assert (await run(engine)).status == "reassembled"


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("ours", [False, True])
async def test_a_text_that_chora_did_not_write_is_never_overwritten(
    sheet: Project, engine: Engine, ours: bool, force: bool
):
    """Neither an edited output nor a file of others, not even by force; the error shows the difference."""
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
    """Taking a change over is the way out that the hint names."""
    await run(engine)
    sheet.write("outputs/sheet.md", "One\n\nTwo, edited\n")
    sheet.save(text("two", "Two, edited\n"))
    assert (await run(engine)).status == "skipped"
    sheet.save(text("two", "Two again\n"))
    assert (await run(engine)).status == "reassembled"


async def test_nothing_is_written_when_one_output_was_edited(sheet: Project, engine: Engine):
    """All outputs are looked at before the first is written."""
    sheet.save(artifact("sheet", [child("one")], out("a.md"), out("b.md")))
    await run(engine)
    sheet.write("b.md", "edited")
    sheet.save(text("one", "New\n"))
    with unchanged(sheet), pytest.raises(OutputEdited, match=r"b\.md was edited"):
        await run(engine)
    sheet.write("b.md", "One\n")
    await run(engine)
    assert (sheet.read("a.md"), sheet.read("b.md")) == ("New\n", "New\n")


async def test_a_generated_output_is_overwritten_whatever_it_holds(sheet: Project, engine: Engine):
    """Nobody is meant to edit it: a file of others, an edit, and one too large to be ours."""
    sheet.save(artifact("sheet", [child("one")], out("a.md", generated=True)))
    sheet.write("a.md", "somebody's")
    assert (await run(engine)).status == "assembled"
    assert sheet.read("a.md") == "One\n"
    sheet.write("a.md", "edited")
    assert (await run(engine)).status == "reassembled"
    with (sheet.root / "a.md").open("wb") as file:
        file.truncate(module.OUTPUT_LIMIT + 1)
    assert (await run(engine)).status == "reassembled"
    assert sheet.read("a.md") == "One\n"


async def test_a_file_too_large_to_be_ours_is_left_alone(sheet: Project, engine: Engine):
    """It counts as edited, without being read whole."""
    sheet.write("outputs/sheet.md", "")
    with (sheet.root / "outputs/sheet.md").open("wb") as file:
        file.truncate(module.OUTPUT_LIMIT + 1)
    with pytest.raises(OutputEdited) as failed:
        await run(engine)
    assert failed.value.details["diff"] == "(too large to compare)"


def difference(current: str, data: str) -> str:
    return edits.diff("a.md", current.encode(), data.encode())


def test_a_difference_shows_the_first_lines_that_differ():
    """With their true numbers, however far down, and no longer than can be read."""
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
    ] + ["… and more"] * (1499 + edits.DIFF_WINDOW - 1 < 2000)
    assert difference("a\nb", "a\nb\nc").splitlines()[2:] == ["@@ -2 +2,2 @@", " b", "+c"]
    assert difference("", "a").splitlines()[2:] == ["@@ -0,0 +1 @@", "+a"]
    assert difference("a\r\n", "a\n") == "(only line ends differ)"
    long = difference("\n".join("y" * 5000 for _ in lines), "\n".join(lines)).splitlines()
    assert (len(long), long[-1]) == (edits.DIFF_LINES + 1, "… and more")
    assert max(map(len, long)) == 200


def test_a_difference_takes_no_time_whatever_differs():
    """difflib alone would take most of a minute for this one, and hold up everything else."""
    began = time.process_time()
    difference("\n".join(str(n % 199) for n in range(30_000)), "\n".join(str(n * 7 % 211) for n in range(30_000)))
    difference("x" * 5_000_000, "y" * 5_000_000)
    assert time.process_time() - began < 5


# -- a write that was interrupted -------------------------------------------------------------------------------

OLD, NEW = b"One\n\nTwo\n", b"One\n\nNew\n"


def pending(old: bytes | None, new: bytes) -> Output:
    """What the store knows between the announcement of a write and its end."""
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
        pytest.param(OLD, pending(None, NEW), NEW, None, id="somebody's file where there was none"),
        pytest.param(b"", pending(None, NEW), NEW, None, id="somebody's empty file"),
    ],
)
async def test_after_a_crash_a_file_is_known_by_either_hash(
    sheet: Project, engine: Engine, on_disk: bytes | None, record: Output, wanted: bytes, status: str | None
):
    """What was there before and what was to be written are ours, anything else is not; then all is settled."""
    if on_disk is not None:
        sheet.write("outputs/sheet.md", on_disk)
    await engine.store.save_outputs([record])
    if wanted == NEW:
        sheet.save(text("two", "New\n"))
    if status is None:
        with unchanged(sheet), pytest.raises(OutputEdited):
            await run(engine)
        assert known(engine) == record
    else:
        assert (await run(engine)).status == status
        assert (sheet.root / "outputs/sheet.md").read_bytes() == wanted
        assert (known(engine).sha256, known(engine).pending) == (sha256(wanted), None)


async def test_a_settled_output_is_not_written_to_the_store_again(sheet: Project, engine: Engine):
    """Assembling what is unchanged costs no transaction."""
    await run(engine)
    before = known(engine)
    await run(engine)
    assert known(engine) == before


@needs_posix
@needs_user
async def test_a_folder_that_may_not_be_written_is_a_failure(sheet: Project, engine: Engine):
    """The old text stays, the error says why, and once the folder is open again all goes on."""
    await run(engine)
    sheet.save(text("two", "New\n"))
    (sheet.root / "outputs").chmod(0o500)
    with unchanged(sheet), pytest.raises(WriteFailed) as failed:
        await run(engine)
    (sheet.root / "outputs").chmod(0o700)
    assert failed.value.details == {"output_path": "outputs/sheet.md", "error_type": "PermissionError", "errno": 13}
    assert (await run(engine)).status == "reassembled"


async def test_a_disk_that_refuses_is_a_failure(sheet: Project, engine: Engine):
    """A file in place of the folder: nothing is written, and the error names path and errno."""
    sheet.write("outputs", "a file")
    with unchanged(sheet), pytest.raises(WriteFailed) as failed:
        await run(engine)
    assert failed.value.details["output_path"] == "outputs/sheet.md"
    assert isinstance(failed.value.details["errno"], int)
    assert failed.value.hint
    (sheet.root / "outputs").unlink()
    assert (await run(engine)).status == "reassembled"


async def test_of_several_outputs_those_before_the_failure_are_ours(sheet: Project, engine: Engine):
    """The first was written, the second couldn't be; the next call finishes, and takes neither for an edit."""
    sheet.save(artifact("sheet", [child("one")], out("a.md"), out("folder/b.md")))
    sheet.write("folder", "a file")
    with pytest.raises(WriteFailed):
        await run(engine)
    assert sheet.read("a.md") == "One\n"
    (sheet.root / "folder").unlink()
    sheet.save(text("one", "New\n"))
    assert (await run(engine)).outputs == ["a.md", "folder/b.md"]
    assert (sheet.read("a.md"), sheet.read("folder/b.md")) == ("New\n", "New\n")


async def test_of_several_outputs_those_after_the_failure_are_still_ours(sheet: Project, engine: Engine):
    """They hold the old text, which was announced to be replaced; nobody takes it for an edit."""
    sheet.save(artifact("sheet", [child("one")], out("folder/a.md"), out("b.md")))
    await run(engine, output_path="a.md")
    sheet.write("folder", "a file")
    sheet.save(text("one", "New\n"))
    with pytest.raises(WriteFailed):
        await run(engine)
    assert sheet.read("b.md") == "One\n"
    (sheet.root / "folder").unlink()
    await run(engine)
    assert (sheet.read("folder/a.md"), sheet.read("b.md")) == ("New\n", "New\n")


# -- events, and several at once --------------------------------------------------------------------------------


async def test_an_assembly_is_told_as_an_event(sheet: Project, engine: Engine):
    """Success and failure."""
    await run(engine)
    with pytest.raises(PermissionDenied):
        await run(engine, output_path="../x")
    lines = (sheet.root / "var/telemetry/events.jsonl").read_bytes().splitlines()
    good, bad = (
        event for event in map(msgspec.json.decode, lines) if event["event_type"] == "chora.artifact_assembled"
    )
    assert (good["status"], good["output_path"], good["error_message"]) == ("success", "outputs/sheet.md", None)
    assert (good["artifact_config_id"], good["section_count"]) == ("sheet", 2)
    assert (bad["status"], bad["output_path"]) == ("error", None)
    assert bad["error_message"].endswith("leads outside the project.")
    assert min(good["duration_ms"], bad["duration_ms"]) >= 0


async def test_two_assemblies_of_one_file_do_not_take_each_other_for_an_edit(project: Project, engine: Engine):
    """They come one after the other from look to write."""
    project.save(
        content("one", pattern={"type": "template_fill", "template": "{{ n }}"}), artifact("sheet", [child("one")])
    )

    async def several(number: int) -> None:
        for turn in range(3):
            await run(engine, context={"n": f"{number} {turn}"})

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            for number in range(6):
                nursery.start_soon(several, number)
    assert project.read("outputs/sheet.md") in {f"{number} {turn}" for number in range(6) for turn in range(3)}
    assert known(engine).pending is None


async def test_a_cancelled_assembly_leaves_nothing_half_done(sheet: Project, engine: Engine):
    """The next one goes through."""
    with trio.move_on_after(0) as scope:
        await run(engine)
    assert scope.cancelled_caught
    assert (await run(engine)).status == "assembled"


async def test_a_file_that_two_artifacts_name_is_worth_a_warning(project: Project, engine: Engine):
    """Each of them takes the other's text away, so whoever assembles learns of it."""
    project.save(text("one", "first"), text("two", "second"))
    shared = out("outputs/shared.md")
    project.save(artifact("a", [child("one")], shared), artifact("b", [child("two")], shared))
    first = await assemble(Work(engine), engine.catalog.find("artifact", "a").parsed, Given({}))
    second = await assemble(Work(engine), engine.catalog.find("artifact", "b").parsed, Given({}))
    again = await assemble(Work(engine), engine.catalog.find("artifact", "b").parsed, Given({}))
    assert first.pieces.warnings == again.pieces.warnings == []
    assert second.pieces.warnings == ["outputs/shared.md was written by the artifact a before"]


async def test_a_crash_and_then_a_failed_write_leave_the_file_known(
    project: Project, engine: Engine, monkeypatch: pytest.MonkeyPatch
):
    """What lies on disk when a write begins is remembered, whichever earlier write had put it there."""
    project.save(text("one", "first"), artifact("note", [child("one")]))
    parsed = engine.catalog.find("artifact", "note").parsed
    await assemble(Work(engine), parsed, Given({}))
    # A kill right after the rename: the file is new, and the store still calls it pending.
    before = known(engine, "outputs/note.md")
    await engine.store.save_outputs([msgspec.structs.replace(before, pending=sha256(b"second"))])
    project.write("outputs/note.md", "second")

    async def refuse(path: str, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    project.save(text("one", "third"))
    with monkeypatch.context() as full_disk:
        full_disk.setattr(engine.folder, "write", refuse)
        with pytest.raises(WriteFailed):
            await assemble(Work(engine), parsed, Given({}))
    assert project.read("outputs/note.md") == "second"
    project.save(text("one", "fourth"))
    assert (await assemble(Work(engine), parsed, Given({}))).status == "reassembled"
    assert project.read("outputs/note.md") == "fourth"
