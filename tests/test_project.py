"""Where the project is, and the places in it that the settings name."""

import sys
from pathlib import Path

import pytest

from chora.errors import ProjectNotFound
from chora.project import find_project, locate

Environment = dict[str, str]


@pytest.fixture
def below(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, two levels below `tmp_path`."""
    folder = tmp_path / "outer" / "inner"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


def test_a_named_project_comes_before_any_found(tmp_path: Path, below: Path):
    """--project, then CHORA_PROJECT, then CHORA_BASE_PATH, then what lies around here."""
    (below / "chora.toml").write_text("")
    named = {name: tmp_path / name for name in ("flag", "project", "base")}
    for folder in named.values():
        folder.mkdir()
    env = {"CHORA_PROJECT": str(named["project"]), "CHORA_BASE_PATH": str(named["base"])}
    assert find_project(named["flag"], env) == named["flag"]
    assert find_project(str(named["flag"]), env) == named["flag"]
    assert find_project(None, env) == named["project"]
    assert find_project("", {**env, "CHORA_PROJECT": ""}) == named["base"]
    assert find_project(None, {}) == below


@pytest.mark.parametrize("mark", ["chora.toml", "configs/", "chora-configs/", ".chora/"])
def test_the_nearest_folder_upward_is_the_project(tmp_path: Path, below: Path, mark: str):
    """Any of the marks makes a project, here before above."""

    def make(folder: Path) -> None:
        (folder / mark).mkdir() if mark.endswith("/") else (folder / mark).write_text("")

    make(tmp_path)
    assert find_project(None, {}) == tmp_path
    make(below.parent)
    assert find_project(None, {}) == below.parent
    make(below)
    assert find_project(None, {}) == below


def test_chora_toml_above_comes_before_folders_here(tmp_path: Path, below: Path):
    """A folder named configs is common; a chora.toml means it."""
    (below / "configs").mkdir()
    assert find_project(None, {}) == below
    (tmp_path / "chora.toml").write_text("")
    assert find_project(None, {}) == tmp_path


@pytest.mark.usefixtures("below")
def test_the_own_environment_names_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Without an environment, that of the process is used, and a relative name starts at the current folder."""
    monkeypatch.setenv("CHORA_PROJECT", "../..")
    assert find_project() == tmp_path


def test_a_home_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Config files of desktop clients hold `~` that no shell has replaced."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "notes").mkdir()
    assert find_project("~/notes", {}) == tmp_path / "notes"


@pytest.mark.parametrize("origin", ["--project", "CHORA_PROJECT", "CHORA_BASE_PATH"])
def test_a_named_project_that_isn_t_there_is_an_error(tmp_path: Path, below: Path, origin: str):
    """It isn't replaced by one that happens to lie around here."""
    (below / "chora.toml").write_text("")
    wrong = str(tmp_path / "wrong")
    with pytest.raises(ProjectNotFound) as caught:
        find_project(wrong if origin == "--project" else None, {origin: wrong})
    assert caught.value.message == f"{origin} names {wrong}, which is not a folder."
    assert caught.value.hint == f"Create it with: chora init {wrong}"
    (tmp_path / "wrong").write_text("a file")
    with pytest.raises(ProjectNotFound, match="which is not a folder"):
        find_project(wrong, {})


def test_a_project_that_can_t_be_reached_is_an_error(tmp_path: Path):
    """The home of an unknown user, and names too long for a disk, are refused in a sentence."""
    for wrong in ("~no-such-user/x", str(tmp_path / ("x" * 300))):
        with pytest.raises(ProjectNotFound, match=r"which can't be reached: .*[^.]\.$"):
            find_project(wrong, {})


@pytest.mark.usefixtures("below")
def test_without_a_project_the_hint_names_init():
    """No folder upward looks like a project."""
    with pytest.raises(ProjectNotFound) as caught:
        find_project(None, {})
    assert "chora init" in str(caught.value.hint)
    assert caught.value.details == {"searched": str(Path.cwd())}


def test_a_parent_folder_without_permission_is_skipped(below: Path, monkeypatch: pytest.MonkeyPatch):
    """The search goes on above it."""
    (below.parent.parent / "configs").mkdir()
    exists = Path.exists

    def closed(path: Path) -> bool:
        if path.parent in (below, below.parent):
            raise PermissionError(13, "Permission denied", str(path))
        return exists(path)

    monkeypatch.setattr(Path, "exists", closed)
    assert find_project(None, {}) == below.parent.parent


@pytest.mark.skipif(sys.platform == "win32", reason="there the current folder can't be removed")
def test_a_current_folder_that_is_gone_is_an_error(below: Path):
    """A shell left in a removed folder gets a sentence, not a traceback."""
    below.rmdir()
    with pytest.raises(ProjectNotFound, match="gone"):
        find_project(None, {})


def test_a_place_outside_the_project_may_be_reached_through_links(tmp_path: Path):
    """The settings name it on purpose; inside the project no link is followed."""
    root = tmp_path / "project"
    for folder in (root, tmp_path / "outside"):
        folder.mkdir()
    (root.parent / "alias").symlink_to("outside")
    assert locate(root, "../alias/storage.db") == root.parent / "outside" / "storage.db"
    assert locate(root, str(root.parent / "alias" / "s.db")) == root.parent / "outside" / "s.db"
    assert locate(root, "var/../var/e.jsonl") == root / "var" / "e.jsonl"
    (root / "var").symlink_to("../outside")
    assert locate(root, "var/e.jsonl") == root / "var" / "e.jsonl"
