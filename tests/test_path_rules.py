"""What may not be read as text, and what may not be written as an output."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from chora import settings
from chora.engine.engine import open_engine
from chora.errors import PermissionDenied
from chora.files import Folder, open_project_folder
from chora.path_rules import find_invisible
from tests.conftest import Asking, Project, artifact, child, content, requirement, text

SECRETS = [
    *(".git/config", "sub/.git/HEAD", ".GIT/config", ".git", ".chora/other.db", ".chora/tokens/me.json", ".env"),
    *(
        "deploy/.env.production",
        ".netrc",
        ".git-credentials",
        ".g\u200cit/config",
        "./.git/config",
        "a/../.git/config",
        "keys/token",
    ),
]


@pytest.fixture
def secretive(project: Project) -> Project:
    """A project with files that nobody may read as text, and links that lead to them."""
    project.write("chora.toml", '[http]\ntoken = "file:keys/token"\n')
    for path in SECRETS:
        if path not in (".git",) and "./" not in path and not path.startswith((".GIT", ".g\u200c")):
            project.write(path, "hunter2")
    (project.root / "a").mkdir()
    (project.root / "notes.md").symlink_to(".git/config")
    (project.root / "inner").symlink_to(".chora")
    return project


@requirement("files.secrets-unread")
@pytest.mark.parametrize("path", [*SECRETS, "notes.md", "inner/other.db"])
async def test_data_of_git_and_chora_and_secrets_are_never_read_as_text(secretive: Project, path: str):
    """By no spelling of the path, and through no link of a checkout; no text of them is in the error."""
    folder = open_project_folder(secretive.root, settings.load(secretive.root, {}).settings)
    for act in (folder.read_bytes, folder.read_text):
        with pytest.raises((PermissionDenied, FileNotFoundError)) as caught:
            act(path)
        assert "hunter2" not in str(caught.value)
        if isinstance(caught.value, FileNotFoundError):  # another case is another file here
            assert path.startswith(".GIT")
            assert not (secretive.root / path).exists()
        elif path != ".git":
            assert "never read as text" in caught.value.message
            assert caught.value.hint


async def test_what_only_looks_like_a_secret_is_read(project: Project):
    """Examples of settings, and names that merely begin so."""
    for path in (".env.example", "environment.md", "git/config", ".github/x.md", "chora/notes.md"):
        project.write(path, "text")
        assert Folder(project.root).read_text(path) == "text"


@requirement("files.secrets-unread")
@pytest.mark.parametrize("path", [".git/config", ".chora/secret.txt", ".env", "notes.md"])
async def test_neither_sources_nor_templates_nor_includes_read_them(secretive: Project, ask: Asking, path: str):
    """The answer names the rule, and holds nothing of the file."""
    secretive.write(".chora/secret.txt", "hunter2")
    source = {"id": "s", "type": "external_file", "source_locator": path}
    pattern = {"type": "jinja2", "template": "{{ s }}", "generation_config": {"context": {}}}
    secretive.save(
        content("source", pattern=pattern, sources=[source]),
        content("template", pattern={"type": "jinja2", "template": path}),
        content("include", pattern={"type": "jinja2", "template": f"{{% include '{path}' %}}"}),
    )
    for name in ("source", "template", "include"):
        body = await ask.answer("generate_content", {"content_config_id": name})
        assert "hunter2" not in str(body)
        assert body["success"] is False or name == "template", (name, body)  # else it was taken for a literal text


PROGRAMS = [
    *(".envrc", ".mcp.json", ".claude/settings.json", ".vscode/tasks.json", ".github/workflows/x.yml", "docs/.hidden"),
    *("docs/HEAD", "docs/head", "HEAD", "docs/commondir", "repo/config", "repo/objects/x", "repo/refs/heads/x"),
    *("conftest.py", "docs/conftest.py", "sitecustomize.py", "usercustomize.py", "docs/x.pth", "docs/X.PTH"),
    *("Jenkinsfile", "azure-pipelines.yml", "docs/bitbucket-pipelines.yaml"),
    *("plugin.py", "pkg/plugin.py", "PLUGIN.py", "configs/content/new.json", "chora-configs/x.json", "templates/t.j2"),
]
NEVER = [
    *(".git/config", ".git/hooks/pre-commit", "sub/.git/config", ".chora/storage.db", ".chora/tokens/a.json"),
    *("chora.toml", "CHORA.toml", "ephemeral/drafts/x.json", "var/telemetry/events.jsonl"),
]
UNSEEN = ["docs/a\u202ecod.exe", "docs/a\u200bb.md", "docs/a\nb.md", "docs/\x1b[2Jx", "a\u2066b/c.md", "docs/\u3164.md"]
FINE = [
    *("README.md", "docs/objects/lamp.md", "docs/refs/index.md", "docs/head.md", "docs/config", "src/main.py"),
    *("docs/my-conftest.py", "outputs/config.yml", "Übersicht/Größe.md", "docs/日本.md", "config/app.md"),
]


@pytest.fixture
def guarded(project: Project) -> Project:
    project.write("chora.toml", '[plugins]\ngenerators = ["plugin.py"]\n')
    project.write("repo/HEAD", "ref: refs/heads/main\n")
    return project


def folder_of(project: Project, *allow: str, **more: Any) -> Folder:
    more.setdefault("plugins.generators", ("plugin.py", "pkg.plugin"))
    return open_project_folder(
        project.root, settings.load(project.root, {}, {"paths.allow": allow or None, **more}).settings
    )


@requirement("outputs.no-programs")
@pytest.mark.parametrize("path", [*PROGRAMS, *NEVER, *UNSEEN])
async def test_an_output_never_becomes_a_program(guarded: Project, path: str):
    """Nor replaces what chora loads or keeps; the error names the rule and, where there is one, the setting."""
    folder = folder_of(guarded)
    before = guarded.files()
    with pytest.raises(PermissionDenied) as caught:
        await folder.write_file(path, b"x")
    assert guarded.files() == before
    assert ("paths.allow" in str(caught.value.hint)) == (path in PROGRAMS)
    assert find_invisible(caught.value.message) is None


ANOTHER_FOLDER = "Write the output to another folder."
ANOTHER_NAME = "Write to a file of another name; if the project is meant to write this one, name it in paths.allow."


@pytest.mark.parametrize(
    ("path", "said", "hint"),
    [
        ("sub/.GIT/config", "is where git keeps its own data", ANOTHER_FOLDER),
        (".chora/storage.db", "is where chora keeps its own data", ANOTHER_FOLDER),
        (".chora/chora.toml", "holds settings, which no output may change", ANOTHER_FOLDER),
        ("CHORA.toml", "holds settings, which no output may change", ANOTHER_FOLDER),
        (".vscode/tasks.json", "is in .vscode, which programs take their settings from", ANOTHER_NAME),
        ("docs/.npmrc", "begins with a dot: programs take their settings from such files", ANOTHER_NAME),
        ("repo/objects/x", "would become part of the git repository that its folder looks like", ANOTHER_NAME),
        ("docs/conftest.py", "would be run by Python by its name alone", ANOTHER_NAME),
        ("Jenkinsfile", "would be run by a continuous integration service", ANOTHER_NAME),
        ("templates/t.j2", "is among what chora itself loads: configs, templates, plugins", ANOTHER_NAME),
    ],
)
def test_the_error_says_which_rule_a_name_breaks(guarded: Project, path: str, said: str, hint: str):
    """With the path as it was written, and what to do."""
    with pytest.raises(PermissionDenied) as caught:
        folder_of(guarded).check_writable(path)
    assert (caught.value.message, caught.value.hint) == (f"{path} {said}.", hint)
    assert caught.value.details == {"path": path}


def test_a_settings_file_of_another_folder_is_an_output_like_others(guarded: Project):
    """Chora reads the one of the project alone."""
    folder_of(guarded).check_writable("examples/chora.toml")


@requirement("outputs.allowed")
@pytest.mark.parametrize("path", PROGRAMS)
async def test_a_setting_lists_what_a_project_allows(guarded: Project, path: str):
    """By path, by pattern, or by folder; and nothing else."""
    pattern = "/".join(["*"] * path.count("/") + [path.rsplit("/", 1)[-1]])
    for allow in (path, pattern):
        folder_of(guarded, allow).check_writable(path)
    if "/" in path:
        folder_of(guarded, f"{path.split('/')[0]}/").check_writable(path)
    for allow in ("other/", "*.other", f"{path}x"):
        with pytest.raises(PermissionDenied):
            folder_of(guarded, allow).check_writable(path)


@pytest.mark.parametrize("path", [*NEVER, *UNSEEN])
async def test_what_git_and_chora_keep_can_t_be_allowed(guarded: Project, path: str):
    """Nor what can't be seen."""
    for allow in (path, f"{path.split('/')[0]}/"):
        with pytest.raises(PermissionDenied):
            folder_of(guarded, allow).check_writable(path)


@pytest.mark.parametrize("path", FINE)
async def test_other_names_are_fine(guarded: Project, path: str):
    """Folders may be called as those of git, as long as no HEAD is there."""
    await folder_of(guarded).write_file(path, b"x")
    assert (guarded.root / path).read_bytes() == b"x"


async def test_git_sees_no_repository_in_what_outputs_can_write(guarded: Project):
    """All parts of one are tried; git doesn't take the folder for a repository."""
    folder, written = folder_of(guarded), 0
    for path in ("HEAD", "config", "objects/x", "refs/x", "commondir", "gitdir", ".git"):
        try:
            await folder.write_file(f"site/{path}", b"x" if path != "HEAD" else b"ref: refs/heads/main\n")
            written += 1
        except PermissionDenied:
            continue
    assert written
    command = ["git", "-C", str(guarded.root / "site"), "rev-parse", "--git-dir"]
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(guarded.root)}
    assert subprocess.run(command, env=environment, capture_output=True).returncode != 0


@requirement("outputs.no-programs")
async def test_every_way_to_name_an_output_is_held_to_the_rule(project: Project, ask: Asking):
    """The config, the argument, a collection's folder, its manifest, and the templates of names."""
    project.save(
        text("note", "x"),
        artifact("plain", [child("note")], {"file": "out.md", "format": "text"}),
        artifact("hidden", [child("note")], {"file": ".github/workflows/x.yml", "format": "text"}),
    )
    members = [{"id": "plain", "type": "artifact", "path": "plain.json"}]
    for name, base in (("dotted", ".vscode"), ("inside", "configs/out"), ("unseen", "o\u202eut")):
        project.save(
            {"type": "collection", "id": name, "name": name, "members": members, "output": {"base_path": base}}
        )
    await ask.refused("assemble_artifact", "permission_denied", artifact_config_id="hidden")
    for path in (".envrc", "conftest.py", "docs/HEAD", "configs/content/note.json", "a\u202eb.md"):
        await ask.refused("assemble_artifact", "permission_denied", artifact_config_id="plain", output_path=path)
    for name in ("dotted", "inside", "unseen"):
        await ask.refused("generate_collection", "permission_denied", collection_config_path=name)
        body = await ask("validate_collection_config", collection_config_path=name)
        assert body["valid"] is False
    await ask.refused("generate_collection", "permission_denied", collection_config_path="dotted", output_path=".x")
    assert not (project.root / ".github").exists()


@pytest.mark.parametrize("letter", ["\u202e", "\u200b", "\ufeff", "\u2028", "\u3164"])
async def test_ids_hold_no_invisible_characters(project: Project, ask: Asking, letter: str):
    """An id is shown to people, who decide by it."""
    for tool, field in (("generate_content", "content_config_id"), ("assemble_artifact", "artifact_config_id")):
        error = await ask.refused(tool, "invalid_config_id", **{field: f"a{letter}b"})
        assert find_invisible(error["message"]) is None


@requirement("errors.no-absolute-paths")
async def test_no_answer_names_the_folder_of_the_project(project: Project, ask: Asking):
    """Not a success, a failure of the disk, a limit, or the status; `Asking` checks every other answer of a tool."""
    project.save(text("note", "x"), artifact("plain", [child("note")], {"file": "out.md", "format": "text"}))
    body = await ask("generate_content", content_config_id="note")
    assert body["metadata"]["storage_path"] == ".chora/storage.db"
    for path in (f"{project.root}/../x.md", f"{project.root}/.envrc", f"{project.root}"):
        await ask.refused("assemble_artifact", "permission_denied", artifact_config_id="plain", output_path=path)
    (project.root / "out.md").mkdir()
    for _ in range(2):
        await ask.answer("assemble_artifact", {"artifact_config_id": "plain"})
    (project.root / ".chora" / "storage.db").rename(project.root / "moved.db")
    error = (await ask.answer("generate_content", {"content_config_id": "note", "force": True}))["error"]
    assert error["details"]["storage_path"] == ".chora/storage.db"


async def test_a_store_elsewhere_is_named_without_its_folder(project: Project, tmp_path: Path):
    """Where the settings put it is the machine's business, too."""
    elsewhere = tmp_path / "data"
    loaded = settings.load(project.root, {}, {"storage.path": str(elsewhere / "s.db")})
    project.save(text("note", "x"))
    async with open_engine(project.root, loaded.settings) as engine:
        body = await Asking(engine)("generate_content", content_config_id="note")
        assert body["metadata"]["storage_path"] == "s.db"
