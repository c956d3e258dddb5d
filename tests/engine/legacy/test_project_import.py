"""Importing old projects: configs, templates and history, with no overwrite and no silent loss."""

import json
import os
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from chora.catalog import Catalog
from chora.config_parsing import parse_config
from chora.engine.legacy import history_import
from chora.engine.legacy.conversion import convert, kind_of
from chora.engine.legacy.import_state import ImportResult
from chora.engine.legacy.project_import import import_project
from chora.errors import InvalidInput, ProjectNotFound, ValidationFailed, WriteFailed
from chora.files import Folder
from chora.hashing import sha256
from chora.store import SqliteStore, Store, Version
from chora.store.filesystem import FilesystemStore
from tests.conftest import requirement

Put = Callable[[str, Any], Path]


def content(id: str, **rest: Any) -> dict[str, Any]:
    return {
        "type": "content",
        "id": id,
        "schemaRef": {"id": "content-schema", "version": "3.1"},
        "metadata": {"description": "Tides", "version": "1.0.0"},
        **rest,
    }


def artifact(id: str, *children: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "artifact",
        "id": id,
        "schemaRef": {"id": "artifact-schema", "version": "3.1"},
        "metadata": {"title": id, "purpose": "p", "outputs": [{"file": f"outputs/{id}.md", "format": "markdown"}]},
        "content": {"children": list(children)},
    }


def files(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """The old project, empty at first."""
    root = tmp_path / "old"
    root.mkdir()
    return root


@pytest.fixture
def new(tmp_path: Path) -> Path:
    """The new project, empty at first."""
    root = tmp_path / "new"
    root.mkdir()
    return root


@pytest.fixture
def put(old: Path) -> Put:
    """Write a file into the old project; what isn't text is written as JSON."""

    def write(path: str, body: Any) -> Path:
        target = old / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(
            body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else json.dumps(body).encode()
        )
        return target

    return write


@pytest.fixture
async def store() -> AsyncGenerator[Store]:
    store = SqliteStore(None)
    yield store
    store.close()


async def run_import(old: Path, new: Path, store: Store, **how: Any) -> ImportResult:
    """Import, and check that the old project is unchanged."""
    before = files(old)
    done = await import_project(old, Folder(new), store, **how)
    if old != new:
        assert files(old) == before
    return done


def reasons(done: ImportResult) -> dict[str, str]:
    return {skipped.path: skipped.reason for skipped in done.skipped}


# -- files ------------------------------------------------------------------------------------------------------


async def test_configs_templates_and_their_inputs_are_imported(old: Path, new: Path, store: Store, put: Put):
    """Every layout, byte for byte, with the data and templates that configs name; the settings become lenient."""
    source = {"id": "tides", "source_type": "external_file", "source_locator": "data/tides.json"}
    put("configs/content/flat.json", content("flat", inputs={"sources": [source]}))
    put("configs/content/nested/nested-content.json", content("nested"))
    put("configs/content/y.yaml", "type: content\nid: y\nmetadata: {description: d, version: 1.0.0}\n")
    put("configs/artifacts/a-artifact.json", artifact("a", {"id": "flat", "path": "configs/content/flat.json"}))
    put("configs/templates/a.j2", "{{ a }}")
    put("templates/deep/b.md", b"\xff not text")
    put("data/tides.json", {"low": 1})
    put("data/unnamed.json", {})
    put("configs/content/season/2026.json", {"low": [1]})
    data = {"id": "s", "source_type": "external_file", "source_locator": "configs/content/season/2026.json"}
    put("configs/content/season.json", content("season", inputs={"sources": [data]}))
    put("outputs/a.md", "an output")
    put(".git/config", "hidden")
    put("configs/.DS_Store", "hidden")
    done = await run_import(old, new, store)
    expected = {path: data for path, data in files(old).items() if not path.startswith((".", "outputs", "configs/."))}
    del expected["data/unnamed.json"]
    settings = files(new).pop("chora.toml").decode()
    assert {path: data for path, data in files(new).items() if path != "chora.toml"} == expected
    assert 'undefined = "lenient"' in settings
    assert 'rules = "chora-compose"' in settings
    assert done.settings_written
    assert sorted(done.copied) == sorted(expected)
    assert (done.skipped, done.converted, done.warnings, done.unchanged) == ([], [], [], 0)
    catalog = Catalog(Folder(new))
    assert [found.parsed.config.id for found in catalog.list_configs("content").found] == [
        "flat",
        "nested",
        "season",
        "y",
    ]
    assert [found.parsed.config.id for found in catalog.list_configs("artifact").found] == ["a"]


async def test_repeating_an_import_changes_nothing(old: Path, new: Path, store: Store, put: Put):
    """Also when configs are converted; what is new in the old project is imported."""
    put("configs/content/a.json", content("a"))
    put("configs/content/b.json", {"content_id": "b", "generator_type": "jinja2", "template_path": "b.j2"})
    put("ephemeral/content/a/v1/2025-10-15T10-15-00Z.json", {"content": "x"})
    put("ephemeral/drafts/draft-20251015T101500-abc.json", content("a"))
    first = await run_import(old, new, store, to_convert=True)
    assert (first.versions.imported, first.drafts.imported, len(first.converted)) == (1, 1, 1)
    before, versions = files(new), store.versions("a")
    second = await run_import(old, new, store, to_convert=True)
    assert files(new) == before
    assert store.versions("a") == versions
    assert (second.copied, second.converted, second.unchanged) == ([], [], 2)
    assert (second.versions.imported, second.versions.already_there) == (0, 1)
    assert (second.drafts.imported, second.drafts.already_there) == (0, 1)
    assert not second.settings_written
    put("configs/content/c.json", content("c"))
    assert (await run_import(old, new, store)).copied == ["configs/content/c.json"]


async def test_a_dry_run_reports_the_same_and_writes_nothing(old: Path, new: Path, store: Store, put: Put):
    """Neither files nor records."""
    put("configs/content/a.json", content("a"))
    put("configs/content/b.json", {"content_id": "b", "generator_type": "jinja2", "template_path": "b.j2"})
    put("ephemeral/a/20251015T101500123456.md", "x")
    planned = await run_import(old, new, store, to_convert=True, dry_run=True)
    assert files(new) == {}
    assert set(store.counts().values()) == {0}
    done = await run_import(old, new, store, to_convert=True)
    assert msgspec.structs.replace(planned, dry_run=False) == done


async def test_nothing_is_overwritten(old: Path, new: Path, store: Store, put: Put):
    """An existing, different file stays and is named; so do settings, with a warning if they are strict."""
    put("configs/content/a.json", content("a"))
    put("configs/templates/t.j2", "theirs")
    put("configs/templates/same.j2", "same")
    put("configs/content/b.json", {"content_id": "b", "generator_type": "jinja2", "template_path": "b.j2"})
    put("chora.toml", "[http]\nport = 1\n")
    for path, body in (
        ("chora.toml", "# mine\n"),
        ("configs/content/a.json", "mine"),
        ("configs/content/b.json", "mine"),
        ("configs/templates/t.j2", "mine"),
        ("configs/templates/same.j2", "same"),
    ):
        target = new / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(body)
    before = files(new)
    done = await run_import(old, new, store, to_convert=True, is_strict=True)
    assert files(new) == before
    assert (done.copied, done.converted, done.unchanged, done.settings_written) == ([], [], 1, False)
    assert sorted(reasons(done)) == [
        "chora.toml",
        "configs/content/a.json",
        "configs/content/b.json",
        "configs/templates/t.j2",
    ]
    assert "something else" in reasons(done)["configs/content/a.json"]
    assert "Settings" in reasons(done)["chora.toml"]
    assert "lenient" in done.warnings[0]
    assert (await run_import(old, new, store)).warnings == []


@requirement("rulings.c38")
async def test_the_other_config_folder_is_found(old: Path, new: Path, store: Store, put: Put):
    """`chora-configs` stays as it is, or is imported into our config folder; artifacts refer to the new paths of their
    children.
    """
    put("chora-configs/content/a.json", content("a"))
    put("chora-configs/artifact/b.json", artifact("b", {"id": "a", "path": "chora-configs/content/a.json"}))
    put("chora-configs/templates/t.j2", "t")
    await run_import(old, new, store)
    assert {*files(new)} - {"chora.toml"} == {*files(old)}
    other = new.with_name("other")
    (other / "configs").mkdir(parents=True)
    done = await run_import(old, other, store)
    assert {*files(other)} - {"chora.toml"} == {
        "configs/content/a.json",
        "configs/artifact/b.json",
        "chora-configs/templates/t.j2",
    }
    [moved] = done.converted
    assert moved.changes == ["a: its path is configs/content/a.json"]
    assert json.loads((other / "configs/artifact/b.json").read_text())["content"]["children"] == [
        {"id": "a", "path": "configs/content/a.json"}
    ]
    assert len(Catalog(Folder(other)).list_configs("artifact").found) == 1


async def test_what_isn_t_understood_is_listed_with_the_reason(old: Path, new: Path, store: Store, put: Put):
    """Broken files, other formats, stray files, links that lead out: each has its sentence, and none is imported."""
    put("configs/content/broken.json", "{")
    put("configs/content/binary.json", b"\xff\xfe")
    put("configs/content/dialect.json", {"content_id": "x", "generator_type": "jinja2"})
    put("configs/content/note.txt", "a note")
    put("configs/content/data.json", {"low": 1})
    put("configs/content/list.json", [1])
    put("configs/odd/large.json", " " * 1_100_000)
    put("ephemeral/content/a/v1/2025-10-15T10-15-00Z.json", "{")
    put("ephemeral/content/a/v1/2025-10-15T10-15-01Z.json", [1])
    put("ephemeral/content/a/v1/2025-10-15T10-15-02Z.json", {"generated_at": "2025-10-15T10:15:02Z"})
    put("ephemeral/content/a/v1/sometime.json", {"content": "x"})
    put("ephemeral/content/a/v1/2025-10-15T10-15-03Z.md", "x")
    put("ephemeral/content/a/stray.json", {})
    put("ephemeral/content/a.json", {})
    put("ephemeral/a/0001-10-15T10-15-00.md", "x")
    put("ephemeral/a/2025-13-15T10-15-00.md", "x")
    put("ephemeral/a/2025-10-15T10-15-00.bin", b"\xff")
    put("ephemeral/a/2025-10-15T10-16-00.meta.json", {})
    put("ephemeral/drafts/x.json", {"a": 1})
    put("ephemeral/drafts/y.json", "{")
    put("ephemeral/drafts/z.txt", "")
    if os.name != "nt":
        (old / "configs/content/out.json").symlink_to("/etc/passwd")
    done = await run_import(old, new, store)
    said = reasons(done)
    expected = {path for path in files(old) if path != "configs/content/out.json"}
    assert set(said) == expected
    assert set(files(new)) == {"chora.toml"}
    assert set(store.counts().values()) == {0}
    assert "--convert" in said["configs/content/dialect.json"]
    assert "no config names it" in said["configs/content/note.txt"]
    assert "larger than" in said["configs/odd/large.json"]
    assert "has no content" not in said["ephemeral/content/a/v1/sometime.json"]
    assert "when it was generated" in said["ephemeral/content/a/v1/sometime.json"]
    assert "no text that it belongs to" in said["ephemeral/a/2025-10-15T10-16-00.meta.json"]
    assert all(reason.endswith(".") for reason in said.values())


async def test_a_config_that_is_too_large_once_it_is_converted_is_listed(old: Path, new: Path, store: Store, put: Put):
    """Each name of an element becomes an object, so that there are more values than a config may have."""
    document = {**content("big"), "elements": {f"e{number}": "x" for number in range(15_000)}}
    put("configs/content/big.json", document)
    result = await import_project(old, Folder(new), store, to_convert=True)
    reasons = {skipped.path: skipped.reason for skipped in result.skipped}
    assert "20,000 values" in reasons["configs/content/big.json"]
    assert not (new / "configs/content/big").exists()


async def test_what_can_t_be_written_is_reported(old: Path, new: Path, store: Store, put: Put):
    """A folder in a file's place, and a file in a folder's."""
    put("configs/content/a.json", content("a"))
    (new / "configs/content/a.json").mkdir(parents=True)
    done = await run_import(old, new, store)
    assert "regular file" in reasons(done)["configs/content/a.json"]
    other = new.with_name("other")
    other.mkdir()
    (other / "configs").write_text("a file")
    with pytest.raises(WriteFailed, match="can't be written"):
        await run_import(old, other, store)


async def test_a_folder_that_is_no_project_is_refused(tmp_path: Path, new: Path, store: Store):
    """The error says what a project has."""
    with pytest.raises(InvalidInput, match="no chora-compose project") as caught:
        await import_project(new, Folder(new), store)
    assert "chora-configs" in str(caught.value.hint)
    with pytest.raises(ProjectNotFound, match="can't be reached"):
        await import_project(tmp_path / "none", Folder(new), store)


# -- history ----------------------------------------------------------------------------------------------------


@requirement("legacy.history")
async def test_history_is_imported_with_its_times_and_order(old: Path, new: Path, store: Store, put: Put):
    """Both layouts, with all metadata of each text; ids follow the times."""
    put(
        "ephemeral/content/tides/v1/2025-10-15T10-15-00Z.json",
        {
            "content_id": "tides",
            "version": "1.2.0",
            "generated_at": "2025-10-15T12:15:00+02:00",
            "generator_type": "jinja2",
            "context_hash": "abc",
            "content": "Ebbe\n",
            "metadata": {"generation_time_ms": 3, "generator_version": "2"},
        },
    )
    put("ephemeral/content/tides/v1/metadata.json", {"total_generations": 1})
    put("ephemeral/content/tides/v2/2025-10-16T10-15-00.5Z.json", {"content": {"a": 1}, "version": 2})
    put("ephemeral/tides/2025-10-14T08-00-00.000001.md", "first\r\n")
    put("ephemeral/tides/2025-10-14T08-00-00.000001.meta.json", {"generator": "template_fill", "version": "1.0.0"})
    put("ephemeral/tides/2025-10-14T08-00-00.000002.md", "second")
    put("ephemeral/tides/20251017_101500.txt", "last")
    put("ephemeral/tides/20251017_101500.txt.meta.json", {"timestamp": "2025-10-17T10:15:00", "content_id": "tides"})
    if os.name != "nt":
        (old / "ephemeral/tides/latest").symlink_to("20251017_101500.txt")
    done = await run_import(old, new, store)
    assert done.skipped == []
    assert done.versions.imported == 5
    found = store.versions("tides")
    assert [each.body for each in found] == ["first\r\n", "second", "Ebbe\n", '{"a":1}', "last"]
    assert [each.generated_at for each in found] == [
        "2025-10-14T08:00:00.000Z",
        "2025-10-14T08:00:00.000Z",
        "2025-10-15T10:15:00.000Z",
        "2025-10-16T10:15:00.500Z",
        "2025-10-17T10:15:00.000Z",
    ]
    assert [each.version_id[:19] for each in found] == [
        "20251014T080000000Z",
        "20251014T080000000Z",
        "20251015T101500000Z",
        "20251016T101500500Z",
        "20251017T101500000Z",
    ]
    assert [each.config_version for each in found] == ["1.0.0", None, "1.2.0", None, None]
    assert [each.generator for each in found] == ["template_fill", "unknown", "jinja2", "unknown", "unknown"]
    third = found[2]
    assert (third.sha256, third.fingerprint, third.generator_version) == (sha256(b"Ebbe\n"), "imported abc", "2")
    assert third.metadata["generation_time_ms"] == 3
    assert third.metadata["imported_from"] == "ephemeral/content/tides/v1/2025-10-15T10-15-00Z.json"
    assert store.latest_version("tides") == found[4]


async def test_texts_of_one_millisecond_keep_their_order(old: Path, new: Path, store: Store, put: Put):
    """By the whole time, whatever folder they are in; those of the same microsecond by their path."""
    put("ephemeral/content/tides/v1/a.json", {"content": "third", "generated_at": "2025-10-14T08:00:00.000003"})
    put("ephemeral/content/tides/v1/b.json", {"content": "fourth", "generated_at": "2025-10-14T08:00:00.000003"})
    put("ephemeral/content/tides/v2/c.json", {"content": "second", "generated_at": "2025-10-14T08:00:00.000002"})
    put("ephemeral/tides/2025-10-14T08-00-00.000001.md", "first")
    put("ephemeral/zone/2025-10-14T08-00-00.000000.md", "of another content")
    await run_import(old, new, store)
    assert [each.body for each in store.versions("tides")] == ["first", "second", "third", "fourth"]
    assert len({each.generated_at for each in store.versions("tides")}) == 1
    assert [each.body for each in store.records(Version)] == [
        "of another content",
        "first",
        "second",
        "third",
        "fourth",
    ]


async def test_contents_of_the_same_time_are_stored_by_their_names(old: Path, new: Path, store: Store, put: Put):
    """Whatever their files are called."""
    for name, content_id in (("a", "zone"), ("b", "tides"), ("c", "area")):
        put(
            f"ephemeral/{name}/2025-10-14T08-00-00.md.meta.json",
            {"content_id": content_id, "generated_at": "2025-10-14T08:00:00Z"},
        )
        put(f"ephemeral/{name}/2025-10-14T08-00-00.md", name)
    await run_import(old, new, store)
    assert [each.content_id for each in store.records(Version)] == ["area", "tides", "zone"]


async def test_metadata_without_a_text_is_listed_by_path(old: Path, new: Path, store: Store, put: Put):
    """However many there are."""
    paths = [f"ephemeral/{name}/2025-10-15T10-16-00.meta.json" for name in "abcdefgh"]
    for path in reversed(paths):
        put(path, {})
    done = await run_import(old, new, store)
    assert [each.path for each in done.skipped] == paths


async def test_drafts_are_imported_with_their_times(old: Path, new: Path, store: Store, put: Put):
    """From all places that drafts were stored in, as records or as bare configs."""
    whole = {
        "draft_id": "draft-20251015T101500-abc123",
        "config_type": "artifact",
        "config_data": {"id": "a"},
        "description": "mine",
        "created_at": "2025-10-15T10:15:00Z",
        "updated_at": "2025-10-15T11:15:00.250Z",
    }
    put("ephemeral/drafts/draft-20251015T101500-abc123.json", whole)
    put("ephemeral/drafts/content/draft-20251016T101500-b.json", {"id": "b"})
    put("drafts/artifact/draft-20251017T101500-c.json", {"type": "artifact", "id": "c", "description": "of the config"})
    aged = put("drafts/nameless.json", {"config": content("d")})
    os.utime(aged, (1_760_000_000, 1_760_000_000))
    done = await run_import(old, new, store)
    assert done.skipped == []
    assert [(each.draft_id, each.config_type, each.created_at) for each in store.drafts()] == [
        ("nameless", "content", "2025-10-09T08:53:20.000Z"),
        ("draft-20251015T101500-abc123", "artifact", "2025-10-15T10:15:00.000Z"),
        ("draft-20251016T101500-b", "content", "2025-10-16T10:15:00.000Z"),
        ("draft-20251017T101500-c", "artifact", "2025-10-17T10:15:00.000Z"),
    ]
    kept = store.draft("draft-20251015T101500-abc123")
    assert kept is not None
    assert (kept.config_data, kept.description, kept.updated_at) == ({"id": "a"}, "mine", "2025-10-15T11:15:00.250Z")
    put("ephemeral/drafts/draft-20251015T101500-abc123.json", {**whole, "config_data": {"id": "other"}})
    again = await run_import(old, new, store)
    assert (again.drafts.imported, again.drafts.already_there) == (0, 3)
    assert "another draft" in reasons(again)["draft-20251015T101500-abc123"]
    assert store.draft("draft-20251015T101500-abc123") == kept


@pytest.mark.parametrize("backend", ["sqlite", "filesystem"])
async def test_a_project_can_be_its_own_source(old: Path, put: Put, backend: str):
    """Only its history and settings are imported; with the filesystem backend the store is in the same folder."""
    put("configs/content/a.json", content("a"))
    put("configs/content/b.json", {"content_id": "b"})
    put("ephemeral/content/a/v1/2025-10-15T10-15-00Z.json", {"content": "x", "version": "1.0.0"})
    put("ephemeral/content/a/v1/metadata.json", {"total_generations": 1})
    put("ephemeral/a/2025-10-16T10-15-00.md", "y")
    put("ephemeral/drafts/content/draft-20251015T101500-a.json", {"id": "a"})
    before = files(old)
    store: Store = SqliteStore(None) if backend == "sqlite" else FilesystemStore(old / "ephemeral")
    for expected in (2, 0, 0):
        done = await run_import(old, old, store, to_convert=True)
        assert done.versions.imported == expected
        assert (done.copied, done.converted) == ([], [])
        assert [each.path for each in done.skipped] == ["configs/content/b.json"], "which chora can't read"
        assert [each.body for each in store.versions("a")] == ["x", "y"]
        assert len(store.drafts()) == 1
    assert {path: data for path, data in files(old).items() if path in before} == before
    assert "lenient" in (old / "chora.toml").read_text()
    mine = await store.add_version(msgspec.structs.replace(store.versions("a")[0], version_id="", body="mine"))
    await store.add_sample(imports_sample())
    done = await run_import(old, old, store)
    assert (done.versions.imported, len(done.skipped)) == (0, 1)
    assert store.latest_version("a") == mine


def imports_sample() -> Any:
    from chora.store import Sample

    return Sample(kind="probe", at="2026-01-01T00:00:00.000Z", ok=True, milliseconds=1.0)


async def test_the_files_of_another_chora_keep_their_ids(old: Path, new: Path, store: Store):
    """Its filesystem store has the old layout; deleted texts stay deleted."""
    theirs = FilesystemStore(old / "ephemeral")
    await theirs.add_version(first := imports_version("one"))
    kept = await theirs.add_version(imports_version("two"))
    gone = await theirs.add_version(imports_version("three"))
    await theirs.delete_versions([gone.version_id], keep_metadata=True)
    done = await run_import(old, new, store)
    assert done.versions.imported == 3
    assert store.version_infos(first.content_id) == theirs.version_infos(first.content_id)
    found = store.version(first.content_id, kept.version_id)
    assert found is not None
    assert found.body == "two"
    assert (await run_import(old, new, store)).versions.already_there == 3


def imports_version(body: str) -> Any:
    from chora.store import Version

    return Version(
        content_id="a",
        body=body,
        sha256=sha256(body.encode()),
        fingerprint="f",
        generator="jinja2",
        generator_version="1",
        generated_at="2026-01-01T00:00:00.000Z",
        stage="approved",
        approved=True,
    )


async def test_many_records_are_stored_in_steps(
    old: Path, new: Path, store: Store, put: Put, monkeypatch: pytest.MonkeyPatch
):
    """Records of the same moment, of several contents too, get ids of their own."""
    monkeypatch.setattr(history_import, "BATCH", 4)
    for number in range(10):
        put(f"ephemeral/content/c{number % 4}/v1/2025-10-15T10-15-00Z-{number}.json", {"content": str(number)})
    assert (await run_import(old, new, store)).versions.imported == 10
    assert store.counts()["versions"] == 10
    assert [each.body for each in store.versions("c1")] == ["1", "5", "9"]
    assert (await run_import(old, new, store)).versions.already_there == 10


# -- older forms of configs -------------------------------------------------------------------------------------


@requirement("rulings.c37")
@pytest.mark.parametrize(
    ("kind", "document", "expected", "left", "changes"),
    [
        (
            "content",
            {"content_id": "Daily_Report", "generator_type": "jinja2", "template_path": "a.j2", "context": {"x": 1}},
            {
                "id": "daily-report",
                "metadata": {"description": "daily report", "version": "1.0.0"},
                "generation": {
                    "patterns": [
                        {
                            "id": "main",
                            "type": "jinja2",
                            "template": "a.j2",
                            "generation_config": {"context": {"x": 1}},
                        }
                    ]
                },
            },
            [],
            [
                'type: "content"',
                "id: \"daily-report\" instead of 'Daily_Report'",
                "schemaRef: content-schema 3.1",
                "metadata.description: 'daily report'",
                'metadata.version: "1.0.0"',
                "generator_type: is the first pattern's type",
                "template_path: is the first pattern's template",
                "context: is the first pattern's context",
                "generation.patterns[0].id: 'main'",
            ],
        ),
        (
            "content",
            {
                "type": "content_element",
                "id": "intro",
                "description": "An intro",
                "version": "2.0.0",
                "content_element": {"id": "Head_Line", "format": "md", "example_output": "# Hi"},
            },
            {
                "id": "intro",
                "metadata": {"description": "An intro", "version": "2.0.0"},
                "elements": [{"name": "head_line", "format": "markdown", "example_output": "# Hi"}],
            },
            [],
            [
                "type: \"content\" instead of 'content_element'",
                "schemaRef: content-schema 3.1",
                "description: moved into metadata",
                "version: moved into metadata",
                "content_element: is called elements",
                "elements: is a list",
                "elements[0].name: 'head_line'",
                "elements[0].format: 'markdown'",
            ],
        ),
        (
            "content",
            {
                "content_config": {
                    "id": "x",
                    "metadata": {"title": "The X", "version": "1.0.0"},
                    "elements": {"template": "x.j2", "style": "plain"},
                }
            },
            {
                "id": "x",
                "metadata": {"title": "The X", "version": "1.0.0", "description": "The X"},
                "generation": {"patterns": [{"id": "main", "template": "x.j2", "type": "jinja2"}]},
            },
            ["elements.style"],
            [
                "content_config: its keys stand at the top level",
                'type: "content"',
                "schemaRef: content-schema 3.1",
                "metadata.description: 'The X'",
                "elements.template: is the first pattern's template",
                "generation.patterns[0].id: 'main'",
            ],
        ),
        (
            "content",
            {
                "type": "content",
                "id": "x",
                "metadata": {"description": "d", "version": "1.0.0"},
                "content_elements": {
                    "intro": {"generation_pattern": "template_fill", "template": "{{ a }}"},
                    "body": "literally",
                    "end": {"generation_pattern": "demonstration", "format": "python"},
                    "you": {"generation_pattern": "user_input", "format": "text"},
                },
            },
            {
                "id": "x",
                "metadata": {"description": "d", "version": "1.0.0"},
                "elements": [
                    {"name": "intro", "format": "text"},
                    {"name": "body", "example_output": "literally", "format": "text"},
                    {"name": "end", "format": "code", "output_format": "python"},
                    {"name": "you", "format": "text", "generation_source": "human"},
                ],
                "generation": {"patterns": [{"id": "main", "type": "template_fill", "template": "{{ a }}"}]},
            },
            ["elements[2]: a generator of its own, {'type': 'demonstration'}"],
            [
                "schemaRef: content-schema 3.1",
                "content_elements: is called elements",
                "elements: is a list",
                "elements[0].format: 'text'",
                "elements[0]: its generator is the config's",
                "elements[1].format: 'text'",
                "elements[2].format: 'code'",
                "elements[3].generation_pattern: is generation_source human",
            ],
        ),
        (
            "content",
            {
                "type": "content",
                "id": "x",
                "metadata": {"description": "d", "version": "1.0.0"},
                "generation": {"generator": {"type": "jinja2", "template": "x.j2"}},
                "elements": ["one", {"id": "7", "format": "json"}],
            },
            {
                "id": "x",
                "metadata": {"description": "d", "version": "1.0.0"},
                "elements": [
                    {"name": "part-1", "example_output": "one", "format": "text"},
                    {"name": "x-7", "format": "json"},
                ],
                "generation": {"patterns": [{"id": "main", "type": "jinja2", "template": "x.j2"}]},
            },
            [],
            [
                "schemaRef: content-schema 3.1",
                "generation.generator: is the first pattern",
                "generation.patterns[0].id: 'main'",
                "elements[0].name: 'part-1'",
                "elements[0].format: 'text'",
                "elements[1].name: 'x-7'",
            ],
        ),
        (
            "content",
            {
                "type": "content",
                "id": "x",
                "metadata": {"description": "d", "version": "1.0.0"},
                "elements": {"name": "a", "format": "text"},
                "generation": {
                    "generator": "demonstration",
                    "patterns": [{"type": "jinja2", "template_file": "a.j2"}, {"id": "main", "type": "jinja2"}],
                },
            },
            {
                "id": "x",
                "metadata": {"description": "d", "version": "1.0.0"},
                "elements": [{"name": "a", "format": "text"}],
                "generation": {
                    "patterns": [
                        {"id": "main-2", "type": "demonstration"},
                        {"type": "jinja2", "id": "main-3", "template": "a.j2"},
                        {"id": "main", "type": "jinja2"},
                    ]
                },
            },
            [],
            [
                "schemaRef: content-schema 3.1",
                "generation.generator: is the first pattern",
                "generation.patterns[0].id: 'main-2'",
                "generation.patterns[1].id: 'main-3'",
                "generation.patterns[1].template_file: is called template",
                "elements: is a list",
            ],
        ),
        (
            "artifact",
            {
                "artifact_id": "Hand_Book",
                "description": "All of it",
                "composition": {"members": ["intro", {"content_id": "the_end"}], "strategy": "merge", "glue": "-"},
                "output": {"primary_file": "outputs/book.md", "mode": 1},
            },
            {
                "id": "hand-book",
                "metadata": {
                    "description": "All of it",
                    "purpose": "All of it",
                    "title": "hand book",
                    "compositionStrategy": "merge",
                    "outputs": [{"file": "outputs/book.md", "format": "markdown"}],
                },
                "content": {
                    "children": [
                        {"id": "intro", "path": "configs/content/intro.json"},
                        {"id": "the-end", "path": "configs/content/the-end.json"},
                    ]
                },
            },
            ["composition.glue", "output.mode"],
            [
                'type: "artifact"',
                "id: \"hand-book\" instead of 'Hand_Book'",
                "schemaRef: artifact-schema 3.1",
                "description: moved into metadata",
                "metadata.purpose: 'All of it'",
                "metadata.title: 'hand book'",
                "composition.members: are content.children",
                "composition.strategy: is metadata.compositionStrategy",
                "content.children[0].path: 'configs/content/intro.json'",
                "content.children[1].id: 'the-end'",
                "content.children[1].path: 'configs/content/the-end.json'",
                "metadata.outputs: from the file that was named",
                "metadata.outputs[0].format: 'markdown'",
            ],
        ),
        (
            "artifact",
            {
                "artifact_config": {
                    "id": "a",
                    "title": "A",
                    "purpose": "p",
                    "outputs": ["src/a.py", {"file": "b.feature"}],
                    "content": {"children": [{"path": "configs/content/My_Part.json"}]},
                }
            },
            {
                "id": "a",
                "metadata": {
                    "title": "A",
                    "purpose": "p",
                    "outputs": [{"file": "src/a.py", "format": "code"}, {"file": "b.feature", "format": "bdd"}],
                },
                "content": {"children": [{"path": "configs/content/My_Part.json", "id": "my-part"}]},
            },
            [],
            [
                "artifact_config: its keys stand at the top level",
                'type: "artifact"',
                "schemaRef: artifact-schema 3.1",
                "title: moved into metadata",
                "purpose: moved into metadata",
                "content.children[0].id: 'my-part'",
                "outputs: moved into metadata",
                "metadata.outputs[0].format: 'code'",
                "metadata.outputs[1].format: 'bdd'",
            ],
        ),
        (
            "artifact",
            {
                "artifact_id": "a",
                "metadata": {"title": "A", "purpose": "p"},
                "output_path": "out/a.json",
                "composition": {"children": [{"id": "x", "path": "x.json"}]},
            },
            {
                "id": "a",
                "metadata": {"title": "A", "purpose": "p", "outputs": [{"file": "out/a.json", "format": "json"}]},
                "content": {"children": [{"id": "x", "path": "x.json"}]},
            },
            [],
            [
                'type: "artifact"',
                'id: "a"',
                "schemaRef: artifact-schema 3.1",
                "composition.members: are content.children",
                "metadata.outputs: from the file that was named",
                "metadata.outputs[0].format: 'json'",
            ],
        ),
        (
            "collection",
            {"collection_id": "Pack", "composition": {"members": ["a"], "x": 1}, "output": "outputs/pack"},
            {
                "id": "pack",
                "name": "pack",
                "members": [{"id": "a", "path": "configs/artifact/a.json", "type": "artifact"}],
                "output": {"base_path": "outputs/pack"},
            },
            ["composition.x"],
            [
                'type: "collection"',
                "id: \"pack\" instead of 'Pack'",
                "name: 'pack'",
                "composition.members: are members",
                "members[0].path: 'configs/artifact/a.json'",
                "members[0].type: 'artifact'",
                "output.base_path: 'outputs/pack'",
            ],
        ),
        (
            "collection",
            {
                "collection_config": {
                    "id": "pack",
                    "metadata": {"title": "The pack"},
                    "members": [{"artifact_id": "a", "path": "a.json"}],
                }
            },
            {
                "id": "pack",
                "name": "The pack",
                "metadata": {"title": "The pack"},
                "members": [{"path": "a.json", "id": "a", "type": "artifact"}],
                "output": {"base_path": "outputs/collections/pack"},
            },
            [],
            [
                "collection_config: its keys stand at the top level",
                'type: "collection"',
                "name: 'The pack'",
                "members[0].id: 'a'",
                "members[0].type: 'artifact'",
                "output.base_path: 'outputs/collections/pack'",
            ],
        ),
    ],
)
def test_an_older_form_is_converted_as_far_as_possible(
    kind: Any, document: Any, expected: Any, left: list[str], changes: list[str]
):
    """The result is valid; every change is reported, and so is every key without a counterpart."""
    given = json.dumps(document)
    with pytest.raises(ValidationFailed):
        parse_config(kind, document, where="it")
    assert kind_of(document) == kind
    conversion = convert(kind, document, f"configs/{kind}/x.json")
    assert json.dumps(document) == given
    first = ["type", "id"] if kind == "collection" else ["type", "id", "schemaRef"]
    assert [*conversion.document][: len(first)] == first
    plain = dict(conversion.document)
    assert plain.pop("type") == kind
    if kind != "collection":
        assert plain.pop("schemaRef") == {"id": f"{kind}-schema", "version": "3.1"}
    assert plain == expected
    assert conversion.left == left
    assert conversion.changes == changes
    parse_config(kind, conversion.document, where="it")
    again = convert(kind, conversion.document, f"configs/{kind}/x.json")
    assert (again.document, again.changes, again.left) == (conversion.document, [], [])


def test_every_change_of_a_conversion_is_reported():
    """In the order in which they are made, with the old place and the new one."""
    document = {
        "type": "content",
        "id": "x",
        "metadata": {"description": "d", "version": "1.0.0"},
        "generator_type": "jinja2",
        "template_path": "x.j2",
    }
    assert convert("content", document, "configs/content/x.json").changes == [
        "schemaRef: content-schema 3.1",
        "generator_type: is the first pattern's type",
        "template_path: is the first pattern's template",
        "generation.patterns[0].id: 'main'",
    ]


@pytest.mark.parametrize(
    ("kind", "document"),
    [
        ("content", {"type": "content", "elements": 7, "generation": {"patterns": [7]}, "metadata": 7}),
        ("content", {"type": "content", "elements": [7]}),
        ("artifact", {"type": "artifact", "content": {"children": [7]}, "metadata": {"outputs": [7, {"file": 7}]}}),
        ("artifact", {"type": "artifact", "content": 7, "metadata": {"outputs": 7}}),
        ("collection", {"type": "collection", "members": [7]}),
        ("collection", {"type": "collection", "members": 7, "output": {}}),
    ],
)
def test_invalid_configs_are_not_converted(kind: Any, document: Any):
    """Reading them says what is wrong."""
    conversion = convert(kind, document, "configs/x/some-thing.json")
    assert conversion.document["id"] == "some-thing"
    with pytest.raises(ValidationFailed):
        parse_config(kind, conversion.document, where="it")


def test_what_is_no_config_has_no_kind():
    """Other data isn't taken for a config."""
    assert kind_of({"low": 1}) is None
    assert kind_of({"type": "FeatureCollection"}) is None


async def test_references_follow_converted_configs(old: Path, new: Path, store: Store, put: Put):
    """A content with a new id gets a new file, and the artifacts and collections that name it are changed."""
    put("configs/content/daily_report.yaml", "content_id: daily_report\ngenerator_type: jinja2\ntemplate_path: t.j2\n")
    put("configs/content/plain.json", content("plain"))
    put("configs/content/hopeless.json", {"content_id": "h", "elements": 7})
    child = {"id": "daily_report", "path": "configs/content/daily_report.yaml"}
    put("configs/artifact/all_parts.json", {**artifact("all_parts"), "content": {"children": [child]}})
    member = {"id": "all", "type": "artifact", "path": "all_parts.json"}
    collection = {"type": "collection", "id": "c", "name": "C", "members": [member], "output": {"base_path": "o"}}
    put("configs/collection/c.json", collection)
    put("configs/loose.json", {"content_id": "loose", "generator_type": "jinja2", "template_path": "t.j2"})
    done = await run_import(old, new, store, to_convert=True)
    assert {each.source: each.path for each in done.converted} == {
        "configs/content/daily_report.yaml": "configs/content/daily-report/daily-report-content.json",
        "configs/artifact/all_parts.json": "configs/artifact/all-parts/all-parts-artifact.json",
        "configs/collection/c.json": "configs/collection/c.json",
        "configs/loose.json": "configs/content/loose.json",
    }
    assert list(reasons(done)) == ["configs/content/hopeless.json"]
    assert "can't be converted" in reasons(done)["configs/content/hopeless.json"]
    catalog = Catalog(Folder(new))
    [found] = catalog.list_configs("artifact").found
    assert [(child.id, child.path) for child in found.parsed.config.content.children] == [
        ("daily-report", "configs/content/daily-report/daily-report-content.json")
    ]
    [found] = catalog.list_configs("collection").found
    [member] = found.parsed.config.members
    assert (member.id, member.path) == ("all-parts", "configs/artifact/all-parts/all-parts-artifact.json")
    assert (await run_import(old, new, store, to_convert=True)).converted == []


def test_a_child_keeps_its_id_whatever_its_path():
    """The name of the file is the id of one that has none."""
    children = [{"id": "tides", "path": "configs/content/other.json"}, {"path": "configs/content/other.json"}]
    document = {"type": "artifact", "artifact_id": "page", "content": {"children": children}}
    converted = convert("artifact", document, "configs/artifact/page.json").document
    assert [child["id"] for child in converted["content"]["children"]] == ["tides", "other"]
