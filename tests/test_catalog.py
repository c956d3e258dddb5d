"""Finding configs in every layout, caching them, and reporting invalid files."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from chora import catalog as module
from chora import file_stamps
from chora.catalog import Catalog, FoundConfig
from chora.errors import (
    ConfigNotFound,
    InvalidConfigId,
    LimitExceeded,
    PermissionDenied,
    StorageError,
    ValidationFailed,
)
from chora.files import CONFIG_LIMIT, PATH_LIMIT, Folder
from chora.model import KINDS, Kind
from tests.conftest import requirement


def config(kind: Kind, config_id: str) -> dict[str, Any]:
    """A small config of a kind."""
    if kind == "collection":
        return {
            "type": "collection",
            "id": config_id,
            "name": "A pack",
            "members": [{"id": "sheet", "type": "artifact", "path": "sheet.json"}],
            "output": {"base_path": "outputs/pack"},
        }
    document: dict[str, Any] = {
        "type": kind,
        "id": config_id,
        "schemaRef": {"id": f"{kind}-schema", "version": "3.1"},
        "metadata": {"description": "A note", "version": "1.0.0"},
    }
    if kind == "artifact":
        outputs = [{"file": "outputs/sheet.md", "format": "markdown"}]
        document["metadata"] = {"title": "A sheet", "purpose": "For the desk", "outputs": outputs}
        document["content"] = {"children": [{"id": "note", "path": "configs/content/note.json"}]}
    return document


YAML = """\
type: content
id: tides
schemaRef: {id: content-schema, version: "3.1"}
metadata:
  description: >
    Weekly tides
  version: 1.0.0
evolution:
  history:
    - {date: 2026-03-01, type: creation, description: first}
"""


class Project:
    """A folder to put configs into."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = Folder(root)

    def put(self, path: str, kind: Kind = "content", config_id: str = "note") -> str:
        return self.write(path, json.dumps(config(kind, config_id)))

    def write(self, path: str, body: str | bytes) -> str:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(body.encode() if isinstance(body, str) else body)
        return path

    def catalog(self, configs: str = "") -> Catalog:
        return Catalog(self.folder, configs)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.fixture
def trust_times_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trust modification times without a delay, so that no test has to wait."""
    monkeypatch.setattr(file_stamps, "RACY", -(10**18))


# -- where ------------------------------------------------------------------------------------------------------


@requirement("layouts.content", "layouts.artifact")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "layout", ["{kind}/note", "{kind}/note-{kind}", "{kind}/note/note-{kind}", "{kind}/note/note", "{kind}s/note"]
)
@pytest.mark.parametrize("suffix", [".json", ".yaml", ".yml"])
def test_a_config_is_found_in_every_layout(project: Project, kind: Kind, layout: str, suffix: str) -> None:
    """Flat and nested, singular and plural, JSON and YAML."""
    path = project.put(f"configs/{layout.format(kind=kind)}{suffix}", kind)
    found = project.catalog().find_config(kind, "note")
    assert found.path == path
    assert found.parsed.config.id == "note"
    assert found.parsed.warnings == []


def test_the_layouts_have_an_order(project: Project) -> None:
    """Of several matching files the first is taken: flat, then nested; singular first."""
    places = [
        "configs/artifact/note.json",
        "configs/artifact/note.yaml",
        "configs/artifact/note-artifact.json",
        "configs/artifact/note/note-artifact.json",
        "configs/artifact/note/note.json",
        "configs/artifacts/note.json",
    ]
    for path in places:
        project.put(path, "artifact")
    for path in places:
        assert project.catalog().find_config("artifact", "note").path == path
        (project.root / path).unlink()


@requirement("layouts.id-inside")
def test_the_id_inside_finds_a_file_of_another_name(project: Project) -> None:
    """As a last resort."""
    path = project.put("configs/content/deep/er/whatever.json")
    assert project.catalog().find_config("content", "note") == FoundConfig(
        path, project.catalog().open_config("content", path).parsed
    )


def test_a_file_named_after_another_id_is_found_with_a_warning(project: Project) -> None:
    """Its name wins over the id inside, and the warning names both."""
    project.put("configs/content/intro.json", config_id="note")
    (warning,) = project.catalog().find_config("content", "intro").parsed.warnings
    assert (warning.code, warning.write) == ("id_mismatch", '"id": "intro"')
    assert project.catalog().find_config("content", "note").parsed.warnings == []


def test_the_ids_that_there_are_begin_with_the_most_similar_ones(project: Project) -> None:
    """Then all others, sorted."""
    for name in ("alpha", "beta", "harbour", "tides"):
        project.put(f"configs/content/{name}.json", config_id=name)
    assert project.catalog().list_alike("harbor", "content") == ["harbour", "alpha", "beta", "tides"]
    assert project.catalog().list_alike("tide", "content") == ["tides", "alpha", "beta", "harbour"]


def test_a_path_may_be_as_long_as_linux_has_them(project: Project) -> None:
    """One that is longer is refused as none, before anything is looked up."""
    fits = "a/" * ((PATH_LIMIT - 5) // 2) + "x.json"
    assert len(fits) == PATH_LIMIT
    with pytest.raises(ConfigNotFound):
        project.catalog().open_config("content", fits)
    with pytest.raises(InvalidConfigId, match=r"has 4,097 characters; 4,096 are allowed"):
        project.catalog().open_config("content", f"a{fits}")


def test_the_error_of_a_missing_config_lists_the_searched_paths(project: Project) -> None:
    """And the id under its tool's parameter, and similar ids."""
    project.put("configs/content/note.json")
    with pytest.raises(ConfigNotFound) as caught:
        project.catalog().find_config("content", "notes")
    error = caught.value
    assert "'notes'" in error.message
    assert error.hint == "Did you mean note?"
    assert error.details["content_config_id"] == "notes"
    assert error.details["searched_paths"] == [
        "configs/content/notes.json",
        "configs/content/notes/notes-content.json",
        "configs/content/**",
        "configs/contents/**",
    ]


def test_the_error_of_a_long_missing_id_names_no_layouts(project: Project) -> None:
    """Each would repeat the id, which makes the error longer than a client can use."""
    with pytest.raises(ConfigNotFound) as caught:
        project.catalog().find_config("content", "x" * 41)
    assert caught.value.details["searched_paths"] == ["configs/content/**", "configs/contents/**"]


@pytest.mark.parametrize(
    ("kind", "parameter", "hint"),
    [
        ("content", "content_config_id", "list_content_configs"),
        ("artifact", "artifact_config_id", "list_artifact_configs"),
        ("collection", "collection_config_path", "in the folder collection/"),
    ],
)
def test_without_near_ids_the_hint_names_the_list(project: Project, kind: Kind, parameter: str, hint: str) -> None:
    """In an empty project the hint says how to list configs."""
    with pytest.raises(ConfigNotFound) as caught:
        project.catalog().find_config(kind, "note")
    assert caught.value.details[parameter] == "note"
    assert hint in str(caught.value.hint)
    with pytest.raises(ConfigNotFound) as caught:
        project.catalog().open_config(kind, "sub/note.json")
    assert caught.value.details[parameter] == "sub/note.json"
    assert caught.value.details["searched_paths"] == [
        "sub/note.json",
        "configs/sub/note.json",
        f"configs/{kind}/sub/note.json",
        f"configs/{kind}s/sub/note.json",
    ]


def test_the_config_folder_is_the_existing_one(project: Project) -> None:
    """`configs`, else `chora-configs`, unless the setting names another."""
    catalog = project.catalog()
    assert catalog.root == "configs"
    project.put("chora-configs/content/note.json")
    assert catalog.root == "chora-configs"
    assert catalog.find_config("content", "note").path == "chora-configs/content/note.json"
    assert catalog.path_to_save("content", "new") == "chora-configs/content/new/new-content.json"
    project.put("configs/content/note.json")
    assert catalog.find_config("content", "note").path == "configs/content/note.json"
    project.put("etc/content/note.json")
    for setting in ("etc", "./etc/", str(project.root / "etc")):
        assert project.catalog(setting).find_config("content", "note").path == "etc/content/note.json"
    project.put("content/note.json")
    assert project.catalog(".").find_config("content", "note").path == "content/note.json"
    with pytest.raises(PermissionDenied, match="leads outside the project"):
        project.catalog("../elsewhere")


# -- by path ----------------------------------------------------------------------------------------------------


@requirement("layouts.paths")
@pytest.mark.parametrize(
    "path",
    [
        "configs/artifact/note.json",
        "./configs//artifact/note.json",
        "configs/artifact/../artifact/note.json",
        "artifact/note.json",
        "note.json",
        "note",
        "configs/artifact/note",
    ],
)
def test_a_path_is_tried_from_three_folders(project: Project, path: str) -> None:
    """From the project root, the config folder or the folder of its kind, with or without suffix."""
    where = project.put("configs/artifact/note.json", "artifact")
    catalog = project.catalog()
    assert catalog.open_config("artifact", path).path == where
    assert catalog.open_config("artifact", path).path == where
    assert catalog.open_config("artifact", str(project.root / where)).path == where


def test_paths_are_tried_in_order(project: Project) -> None:
    """The project root before the config folder, and that before the folder of the kind."""
    paths = ["note.json", "configs/note.json", "configs/content/note.json"]
    for path in paths:
        project.put(path)
    for path in paths:
        assert project.catalog().open_config("content", "note.json").path == path
        (project.root / path).unlink()


def test_a_mere_name_is_an_id_in_the_end(project: Project) -> None:
    """A collection may be named by its id alone, wherever its file is."""
    path = project.put("configs/collection/deep/packs.json", "collection", "season-pack")
    assert project.catalog().open_config("collection", "season-pack").path == path
    with pytest.raises(ConfigNotFound) as caught:
        project.catalog().open_config("collection", "season-pak")
    assert caught.value.hint == "Did you mean season-pack?"


@requirement("layouts.member-paths")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "layout", ["{kind}/note/note-{kind}", "{kind}s/note", "{kind}s/note-{kind}", "{kind}/other-name"]
)
@pytest.mark.parametrize(
    "path",
    [
        *("note", "note-{kind}", "note.json", "note-{kind}.yaml", "{kind}s/note.json", "{kind}/note-{kind}.json"),
        *("configs/{kind}s/note-{kind}.json", "configs/{kind}/note", "configs/{kind}/note/note-{kind}.json"),
        *("note/note.json", "configs/note.json"),
    ],
)
def test_the_name_of_a_missing_file_tells_the_id(project: Project, kind: Kind, layout: str, path: str) -> None:
    """A config that was saved in another layout than a member or child was written for is found all the same."""
    where = project.put(f"configs/{layout.format(kind=kind)}.json", kind)
    found = project.catalog().open_config(kind, path.format(kind=kind))
    assert (found.path, found.parsed.config.id) == (where, "note")


def test_the_name_of_a_missing_file_means_what_it_says_first(project: Project) -> None:
    """An id may end like a kind; of a file elsewhere, the name tells nothing."""
    for config_id in ("note", "note-content"):
        project.put(f"configs/content/{config_id}/{config_id}-content.json", "content", config_id)
    assert project.catalog().open_config("content", "contents/note-content.json").parsed.config.id == "note-content"
    for path in ("drafts/old/note.json", "configs/artifact/x/note.json", "sub/deep/note.json"):
        with pytest.raises(ConfigNotFound):
            project.catalog().open_config("content", path)


@requirement("layouts.inside-project")
@pytest.mark.parametrize("path", ["../outside.json", "/etc/hostname.json", "configs/../../outside.json", "link/x.json"])
def test_a_path_that_leaves_the_project_is_denied(tmp_path: Path, path: str) -> None:
    """By `..`, an absolute path or a link, whether the target exists or not (CWE-22)."""
    outside = Project(tmp_path)
    outside.put("outside.json")
    outside.put("other/x.json")
    (tmp_path / "project").mkdir()
    project = Project(tmp_path / "project")
    (project.root / "link").symlink_to(tmp_path / "other", target_is_directory=True)
    with pytest.raises(PermissionDenied, match="leads outside the project"):
        project.catalog().open_config("content", path)


def test_dots_that_stay_inside_are_fine(project: Project) -> None:
    """A path relative to the config folder may go up within the project."""
    project.put("common/note.json")
    project.put("configs/content/other.json", config_id="other")
    assert project.catalog().open_config("content", "../common/note.json").path == "common/note.json"


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("", "The path '' is empty."),
        ("  ", "The path '  ' is empty."),
        ("a\0b", "holds control characters."),
        ("a\nb.json", "holds control characters."),
        ("a/" * 3000, "has 6,000 characters; 4,096 are allowed."),
    ],
)
def test_an_invalid_path_is_refused(project: Project, path: str, problem: str) -> None:
    """Empty and very long paths and control characters, before the disk is accessed; only the beginning is shown."""
    with pytest.raises(InvalidConfigId, match=re.escape(problem)) as refused:
        project.catalog().open_config("content", path)
    assert len(refused.value.message) < 200


def test_a_path_may_be_as_long_as_a_disk_allows(project: Project) -> None:
    """It is looked for, and not found."""
    with pytest.raises(ConfigNotFound):
        project.catalog().open_config("content", "a/" * 2046 + "a")


@pytest.mark.parametrize("config_id", ["", "   ", "a" * 256, "..", "a..b", "a/b", "a\\b", "a\nb", "a\0", "\x7f"])
def test_an_invalid_id_is_refused(project: Project, config_id: str) -> None:
    """Empty, too long and path-like ids, everywhere."""
    catalog = project.catalog()
    for use in (
        catalog.check_id,
        lambda i: catalog.find_config("content", i),
        lambda i: catalog.path_to_save("content", i),
    ):
        with pytest.raises(InvalidConfigId) as caught:
            use(config_id)
        assert len(caught.value.message) < 250


def test_an_ordinary_id_is_accepted(project: Project) -> None:
    """Whether it fits the format is validated by the format."""
    for config_id in ("a", "Weekly Report", "a" * 255, "a.b"):
        project.catalog().check_id(config_id)


# -- all --------------------------------------------------------------------------------------------------------


def test_a_listing_has_every_file_sorted_by_id(project: Project) -> None:
    """Readable files by id, others by path with the reason; none is missing."""
    project.put("configs/content/z.json", config_id="alpha")
    project.put("configs/content/sub/a.yaml", config_id="beta")
    project.write("configs/content/broken.json", "{")
    project.write("configs/content/data.json", "[1, 2]")
    project.put("configs/contents/sheet.json", "artifact", "sheet")
    project.write("configs/content/readme.md", "# Not a config")
    listing = project.catalog().list_configs("content")
    assert [(found.parsed.config.id, found.path) for found in listing.found] == [
        ("alpha", "configs/content/z.json"),
        ("beta", "configs/content/sub/a.yaml"),
    ]
    assert [broken.path for broken in listing.invalid] == [
        "configs/content/broken.json",
        "configs/content/data.json",
        "configs/contents/sheet.json",
    ]
    assert "ends too soon" in listing.invalid[0].error
    assert listing.invalid[1].cause.code == "validation_failed"
    assert "This is an artifact config" in listing.invalid[2].error
    assert project.catalog().list_configs("collection") == ([], [])


def test_a_file_in_both_folders_counts_once(project: Project) -> None:
    """The same name under the singular and the plural folder is one config, the singular's."""
    project.put("configs/artifact/sub/x.json", "artifact")
    project.put("configs/artifacts/sub/x.json", "artifact")
    listing = project.catalog().list_configs("artifact")
    assert [found.path for found in listing.found] == ["configs/artifact/sub/x.json"]
    assert listing.invalid == []


def test_of_two_files_with_one_id_the_found_one_counts(project: Project) -> None:
    """The file that a lookup takes is listed; the other one is listed as invalid and names the first."""
    project.put("configs/content/a.json")
    project.put("configs/content/b.json")
    project.put("configs/content/note/note.json")
    catalog = project.catalog()
    listing = catalog.list_configs("content")
    assert [found.path for found in listing.found] == ["configs/content/note/note.json"]
    assert catalog.find_config("content", "note").path == "configs/content/note/note.json"
    assert [broken.path for broken in listing.invalid] == ["configs/content/a.json", "configs/content/b.json"]
    assert "configs/content/note/note.json" in listing.invalid[0].error


def test_looking_up_a_broken_file_reports_its_faults(project: Project) -> None:
    """By name or by the id inside."""
    broken = {**config("content", "note"), "metadata": {"description": ""}}
    project.write("configs/content/other.json", json.dumps(broken))
    for config_id in ("note", "other"):
        with pytest.raises(ValidationFailed) as caught:
            project.catalog().find_config("content", config_id)
        assert caught.value.details["file"] == "configs/content/other.json"
    assert project.catalog().path_to_save("content", "note") == "configs/content/other.json"


# -- saving -----------------------------------------------------------------------------------------------------


@requirement("layouts.save-nested")
def test_a_new_config_goes_into_the_nested_layout(project: Project) -> None:
    """New contents and artifacts get a folder each, collections a file."""
    catalog = project.catalog()
    assert catalog.path_to_save("content", "note") == "configs/content/note/note-content.json"
    assert catalog.path_to_save("artifact", "note") == "configs/artifact/note/note-artifact.json"
    assert catalog.path_to_save("collection", "note") == "configs/collection/note.json"


@requirement("layouts.save-nested")
@pytest.mark.parametrize("path", ["configs/content/note.json", "configs/contents/x/y.yaml"])
def test_a_config_is_saved_where_it_is(project: Project, path: str) -> None:
    """An existing config keeps its place, whatever its layout."""
    project.put(path)
    assert project.catalog().path_to_save("content", "note") == path


def test_a_config_is_not_saved_over_another_one(project: Project) -> None:
    """A file of the right name with another id isn't overwritten."""
    project.put("configs/content/intro/intro-content.json", config_id="intro-content")
    assert project.catalog().path_to_save("content", "intro") == "configs/content/intro.json"


# -- the cache --------------------------------------------------------------------------------------------------


class Counting(Folder):
    """A folder that counts reads."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.reads: list[str] = []

    def read_bytes(self, path: str | Path, *, limit: int = CONFIG_LIMIT) -> bytes:
        self.reads.append(str(path))
        return super().read_bytes(path, limit=limit)


@pytest.mark.usefixtures("trust_times_at_once")
def test_an_unchanged_file_is_read_once(project: Project) -> None:
    """Finding, opening and listing share the cache; a changed file is read again."""
    path = project.put("configs/content/note.json")
    folder = Counting(project.root)
    catalog = Catalog(folder)
    first = catalog.find_config("content", "note").parsed
    assert catalog.open_config("content", path).parsed is first
    assert catalog.list_configs("content").found[0].parsed is first
    assert folder.reads == [path]
    document = config("content", "note")
    document["metadata"]["description"] = "Another"
    project.write(path, json.dumps(document))
    assert catalog.find_config("content", "note").parsed.config.metadata.description == "Another"
    assert len(folder.reads) == 2


@pytest.mark.usefixtures("trust_times_at_once")
def test_the_times_of_a_file_may_be_set_back(project: Project) -> None:
    """A change of the same size under the old modification time is still noticed."""
    path = project.put("configs/content/note.json")
    catalog = project.catalog()
    catalog.find_config("content", "note")
    status = (project.root / path).stat()
    project.write(path, json.dumps(config("content", "note")).replace("A note", "B note"))
    os.utime(project.root / path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert catalog.find_config("content", "note").parsed.config.metadata.description == "B note"


def test_a_recently_written_file_is_not_cached(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second write within the clock's resolution could go unnoticed."""
    monkeypatch.setattr(file_stamps, "RACY", 10**18)
    project.put("configs/content/note.json")
    folder = Counting(project.root)
    catalog = Catalog(folder)
    catalog.find_config("content", "note")
    catalog.find_config("content", "note")
    assert len(folder.reads) == 2


@pytest.mark.usefixtures("trust_times_at_once")
def test_a_file_that_changes_while_it_is_read_is_not_cached(project: Project) -> None:
    """The bytes read may be outdated."""
    path = project.put("configs/content/note.json")

    class Racing(Counting):
        def read_bytes(self, path: str | Path, *, limit: int = CONFIG_LIMIT) -> bytes:
            data = super().read_bytes(path, limit=limit)
            project.write(str(path), data + b" ")
            return data

    folder = Racing(project.root)
    catalog = Catalog(folder)
    catalog.find_config("content", "note")
    catalog.find_config("content", "note")
    assert folder.reads == [path, path]


@pytest.mark.usefixtures("trust_times_at_once")
def test_a_parse_error_is_cached_too(project: Project) -> None:
    """The file isn't read again, and each lookup raises a new error."""
    project.write("configs/content/note.json", "{")
    folder = Counting(project.root)
    catalog = Catalog(folder)
    errors: list[ValidationFailed] = []
    for _ in range(2):
        with pytest.raises(ValidationFailed) as caught:
            catalog.find_config("content", "note")
        errors.append(caught.value)
    assert errors[0] is not errors[1]
    assert errors[0].as_dict() == errors[1].as_dict()
    assert len(folder.reads) == 1


@pytest.mark.usefixtures("trust_times_at_once")
def test_the_cache_is_bounded(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The least recently used file is evicted, and a removed one too."""
    paths = [project.put(f"configs/content/n{index}.json", config_id=f"n{index}") for index in range(3)]
    size = (project.root / paths[0]).stat().st_size
    monkeypatch.setattr(module, "CACHE_LIMIT", 2 * size)
    folder = Counting(project.root)
    catalog = Catalog(folder)
    for name in ("n0", "n1", "n0", "n2", "n0", "n1"):
        catalog.find_config("content", name)
    assert folder.reads == [paths[0], paths[1], paths[2], paths[1]]
    (project.root / paths[0]).unlink()
    (project.root / paths[1]).unlink()
    with pytest.raises(ConfigNotFound):
        catalog.find_config("content", "n1")
    with pytest.raises(ConfigNotFound):
        catalog.open_config("content", paths[1])


def test_a_file_that_goes_away_is_simply_not_there(project: Project) -> None:
    """Removal between lookup and reading is no error."""
    project.put("configs/content/note.json")
    project.put("configs/content/note-content.json")

    class Vanishing(Folder):
        def read_bytes(self, path: str | Path, *, limit: int = CONFIG_LIMIT) -> bytes:
            if str(path).endswith("note.json"):
                raise FileNotFoundError(2, "No such file", str(path))
            return super().read_bytes(path, limit=limit)

    catalog = Catalog(Vanishing(project.root))
    assert catalog.find_config("content", "note").path == "configs/content/note-content.json"
    assert [found.path for found in catalog.list_configs("content").found] == ["configs/content/note-content.json"]


def test_a_failing_disk_is_a_storage_error(project: Project) -> None:
    """It names the file, and is in the listing."""
    project.put("configs/content/note.json")

    class Failing(Folder):
        def read_bytes(self, path: str | Path, *, limit: int = CONFIG_LIMIT) -> bytes:
            raise OSError(5, "Input/output error")

    catalog = Catalog(Failing(project.root))
    with pytest.raises(StorageError, match=r"note\.json can't be read: Input/output error") as caught:
        catalog.find_config("content", "note")
    expected = {"path": "configs/content/note.json", "error_type": "OSError", "errno": 5}
    assert caught.value.details == {**expected, "reason": caught.value.message}
    assert catalog.list_configs("content").invalid[0].path == "configs/content/note.json"


def test_a_huge_file_is_refused(project: Project) -> None:
    """Beyond the limit it isn't read, and the listing says so."""
    project.write("configs/content/note.json", b" " * (CONFIG_LIMIT + 1))
    with pytest.raises(LimitExceeded, match="is larger than 1,048,576 bytes"):
        project.catalog().find_config("content", "note")
    assert "larger than" in project.catalog().list_configs("content").invalid[0].error


@requirement("layouts.inside-project")
def test_a_link_out_of_the_project_is_denied(tmp_path: Path) -> None:
    """A config file that is such a link isn't read."""
    Project(tmp_path).put("outside.json")
    (tmp_path / "project").mkdir()
    project = Project(tmp_path / "project")
    link = project.root / "configs/content/note.json"
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "outside.json")
    with pytest.raises(PermissionDenied, match="leads outside the project"):
        project.catalog().find_config("content", "note")
    (project.root / "configs/content/folder.json").mkdir()
    with pytest.raises(ConfigNotFound):
        project.catalog().find_config("content", "folder")


# -- JSON and YAML ----------------------------------------------------------------------------------------------


@requirement("layouts.yaml", "rulings.c15")
def test_yaml_reads_as_the_same_config(project: Project) -> None:
    """With dates and block texts, it equals its JSON form."""
    project.write("configs/content/tides.yaml", YAML)
    parsed = project.catalog().find_config("content", "tides").parsed
    assert parsed.warnings == []
    assert parsed.config.metadata.description == "Weekly tides\n"
    assert parsed.config.evolution.history[0].date == "2026-03-01"
    assert parsed.raw["evolution"]["history"][0]["date"] == "2026-03-01"


def test_yaml_values_without_json_form_are_refused(project: Project) -> None:
    """Infinities, at their path; a key that isn't text is the text that it is in JSON."""
    project.write("configs/content/tides.yaml", YAML + "true: 1\n")
    assert project.catalog().find_config("content", "tides").parsed.raw["true"] == 1
    project.write("configs/content/tides.yaml", YAML + "extra: .inf\n")
    with pytest.raises(ValidationFailed, match=r"\$\.extra is inf"):
        project.catalog().find_config("content", "tides")


def test_duplicate_keys_are_reported(project: Project) -> None:
    """In JSON the last one counts, with a warning; in YAML they are refused."""
    plain = json.dumps(config("content", "tides"))
    project.write("configs/content/tides.json", plain)
    before = project.catalog().find_config("content", "tides").parsed.warnings
    twice = (
        plain.replace('"metadata": {', '"metadata": {"version": "0.0.1", "version": "0.0.2", ')[:-1]
        + ', "x": 1, "x": [2]}'
    )
    project.write("configs/content/tides.json", twice)
    parsed = project.catalog().find_config("content", "tides").parsed
    assert parsed.raw["x"] == [2]
    new = [issue for issue in parsed.warnings if issue not in before]
    assert [(issue.code, issue.severity) for issue in new[:2]] == [("duplicate_key", "warning")] * 2
    assert {issue.found for issue in new if issue.code == "duplicate_key"} == {"'version'", "'x'"}
    many = plain[:-1] + "".join(f', "k{number}": 1, "k{number}": 2' for number in range(1000)) + "}"
    project.write("configs/content/tides.json", many)
    remarks = project.catalog().find_config("content", "tides").parsed.warnings
    assert sum(issue.code == "duplicate_key" for issue in remarks) == 100
    project.write(
        "configs/content/tides.json", plain[:-1] + ', "deep": ' + "[" * 60 + "]" * 60 + ', "n": 1' + "0" * 280 + "}"
    )
    assert not [
        each
        for each in project.catalog().find_config("content", "tides").parsed.warnings
        if each.code == "duplicate_key"
    ]
