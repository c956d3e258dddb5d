"""Hostile repositories as sources of a generated text."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chora.sources import git_reference
from tests.conftest import Asking, Project, content
from tests.hostile.measures import MIB, bounded, is_well, linux, prepare
from tests.patience import PATIENCE

pytestmark = [linux, pytest.mark.skipif(shutil.which("git") is None, reason="git isn't installed")]

WHO = {
    f"GIT_{role}_{what}": f"ines{'@harbour.example' if what == 'EMAIL' else ''}"
    for role in ("AUTHOR", "COMMITTER")
    for what in ("NAME", "EMAIL")
}
INJECTED = "{{ 7 * 7 }}{% include '../chora.toml' %}--upload-pack=touch x"


@pytest.fixture
def project(project: Project) -> Project:
    return prepare(project)


def git(project: Project, *arguments: str) -> str:
    environment = {"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", **WHO}
    command = ["git", "-C", str(project.root), "-c", "init.defaultBranch=main", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE, env=environment).stdout


def commit(project: Project, **files: str) -> None:
    """Create a repository in the project with these files, `_` for a dot."""
    for name, body in files.items():
        project.write(name.replace("_", "."), body)
    git(project, "init", "--quiet")
    git(project, "add", "--all", ".")
    git(project, "commit", "--quiet", "--message", "x")


def put_object(project: Project, kind: str, size: int, body: bytes) -> str:
    """Write a loose object with any header; return the id it is stored under."""
    whole = f"{kind} {size}\0".encode() + body
    identity = hashlib.sha1(whole, usedforsecurity=False).hexdigest()
    project.write(f".git/objects/{identity[:2]}/{identity[2:]}", zlib.compress(whole, 9))
    return identity


def put_commit(project: Project, tree: bytes) -> None:
    """Make `main` a commit of a tree that git itself would not write."""
    root = put_object(project, "tree", len(tree), tree)
    body = f"tree {root}\nauthor a <a@b> 0 +0000\ncommitter a <a@b> 0 +0000\n\nx\n".encode()
    project.write(".git/refs/heads/main", put_object(project, "commit", len(body), body) + "\n")


def entry(mode: str, name: bytes, identity: str) -> bytes:
    return mode.encode() + b" " + name + b"\0" + bytes.fromhex(identity)


async def show(ask: Asking, project: Project, locator: str = "HEAD:a.md", **rest: Any) -> Any:
    source = {"id": "x", "source_type": "git_reference", "source_locator": locator, **rest}
    project.save(content("note", pattern={"type": "jinja2", "template": "[{{ x }}]"}, sources=[source]))
    return await ask.answer("generate_content", {"content_config_id": "note", "force": True})


Trap = Callable[[Project], object]


def lying_blob(project: Project) -> None:
    identity = put_object(project, "blob", 5, b"x" * 300 * MIB)
    put_commit(project, entry("100644", b"a.md", identity))


def boasting_blob(project: Project) -> None:
    identity = put_object(project, "blob", 10**15, b"x" * 1000)
    put_commit(project, entry("100644", b"a.md", identity))


def large_blob(project: Project) -> None:
    identity = put_object(project, "blob", 300 * MIB, b"x" * 300 * MIB)
    put_commit(project, entry("100644", b"a.md", identity))


def tree_of_itself(project: Project) -> None:
    # No tree can contain its own id; stored under another one, it is found all the same.
    identity = "11" * 20
    body = entry("40000", b"a", identity)
    whole = f"tree {len(body)}\0".encode() + body
    project.write(f".git/objects/{identity[:2]}/{identity[2:]}", zlib.compress(whole))
    put_commit(project, body)


def names_that_lead_out(project: Project) -> None:
    identity = put_object(project, "blob", 4, b"fine")
    put_commit(project, entry("100644", b"../a.md", identity) + entry("100644", b".git", identity))


def endless_references(project: Project) -> None:
    project.write(".git/refs/heads/main", "ref: refs/heads/main\n")


def long_reference(project: Project) -> None:
    project.write(".git/refs/heads/main", "a" * 50 * MIB)


def piped(name: str) -> Trap:
    def trap(project: Project) -> None:
        target = project.root / ".git" / name
        target.unlink(missing_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(target)

    return trap


def linked(name: str, to: str) -> Trap:
    def trap(project: Project) -> None:
        target = project.root / ".git" / name
        target.unlink(missing_ok=True)
        target.symlink_to(to)

    return trap


def broken(name: str, body: bytes) -> Trap:
    return lambda project: project.write(f".git/{name}", body)


TRAPS: dict[str, Trap] = {
    "blob that is larger than it says": lying_blob,
    "blob that says it is a petabyte": boasting_blob,
    "blob of 300 MB": large_blob,
    "tree in itself": tree_of_itself,
    "names that lead out": names_that_lead_out,
    "endless reference": endless_references,
    "long reference": long_reference,
    "pipe for HEAD": piped("HEAD"),
    "pipe for a branch": piped("refs/heads/main"),
    "pipe for the config": piped("config"),
    "pipe for commondir": piped("commondir"),
    "device for a branch": linked("refs/heads/main", "/dev/zero"),
    "HEAD elsewhere": linked("HEAD", "/etc/passwd"),
    "config elsewhere": linked("config", "/etc/passwd"),
    "config of nonsense": broken("config", b"[core\n\0" * 10_000),
    "config that includes itself": broken("config", b"[include]\n\tpath = config\n"),
    "format of tomorrow": broken("config", b"[core]\n\trepositoryformatversion = 99\n"),
    "binary HEAD": broken("HEAD", bytes(range(256)) * 1000),
    "pack of nonsense": broken("objects/pack/pack-" + "ab" * 20 + ".idx", b"\xfftOc" + b"\xff" * 5000),
    "shallow nonsense": broken("shallow", b"x" * 100_000),
}


@pytest.mark.parametrize("kind", TRAPS)
async def test_hostile_repositories_are_source_errors(
    project: Project, ask: Asking, kind: str, monkeypatch: pytest.MonkeyPatch
):
    """Within the deadline and bounded in cost; other texts can be generated."""
    commit(project, a_md="fine")
    assert (await show(ask, project))["content"] == "[fine]"
    await is_well(ask)
    TRAPS[kind](project)
    monkeypatch.setattr(git_reference, "DEADLINE", 0.3)  # a valid repository would need longer on some machines
    async with bounded(project):
        for locator in ("HEAD:a.md", "main:a/a/a/a.md"):
            answer = await show(ask, project, locator)
            harmless = {
                "shallow nonsense",
                "names that lead out",
                "pack of nonsense",
                "binary HEAD",
                "HEAD elsewhere",
                "pipe for HEAD",
            }
            if answer["success"]:  # git doesn't read what it doesn't need
                assert kind in harmless, answer
                assert answer["content"] == "[fine]"
            else:
                assert answer["error"]["code"] == "generation_failed", answer
                assert "root:" not in str(answer)
        await is_well(ask)


async def test_links_in_a_commit_are_texts(project: Project, ask: Asking):
    """A committed link gives its target path as text, and isn't followed."""
    (project.root / "a.md").symlink_to("/etc/passwd")
    commit(project)
    (project.root / "a.md").unlink()
    assert (await show(ask, project))["content"] == "[/etc/passwd]"


async def test_submodules_of_a_commit_are_not_entered(project: Project, ask: Asking):
    """The entry is a commit of another repository, not a file."""
    commit(project, a_md="fine")
    put_commit(project, entry("160000", b"sub", "ab" * 20))
    await is_well(ask)
    async with bounded(project):
        for locator in ("HEAD:sub", "HEAD:sub/a.md"):
            answer = await show(ask, project, locator)
            assert answer["error"]["code"] == "generation_failed"
        await is_well(ask)


async def test_texts_of_commits_are_data(project: Project, ask: Asking):
    """They aren't rendered, nor used as an option, a path or a locator."""
    commit(project, a_md=INJECTED)
    assert (await show(ask, project))["content"] == f"[{INJECTED}]"
    assert not Path("x").exists()


LOCATORS = [
    *("", ":", "HEAD", "HEAD:", ":a.md", "--all", "--batch:x", "-", "-:x", "HEAD:--version", "HEAD:-p", "HEAD:../../x"),
    *("HEAD:/etc/passwd", "HEAD:a.md\nHEAD:a.md", "HEAD:\0", "HEAD:" + "a/" * 40_000 + "x"),
    *("@{-1}:a.md", "HEAD~99999999999999999999:a.md", "HEAD^^^^^^^^^^^^:a.md", "x" * 100_000 + ":a.md", ":(top)a.md:x"),
    *("refs/../../config:a.md", "FETCH_HEAD:a.md", "\u202eHEAD:a.md", "HEAD:\u0430.md", "HEAD:./../a.md", "^HEAD:a.md"),
    *("HEAD..main:a.md", "HEAD:a.md:b", "origin/main:a.md", "ext::sh -c id:a.md", "HEAD --filter:a.md", "*:a.md"),
]


async def test_invalid_locators_are_refused(project: Project, ask: Asking):
    """Before git runs, or git finds nothing."""
    commit(project, a_md="fine")
    await show(ask, project)
    await is_well(ask)
    for locator in LOCATORS:
        async with bounded(project):
            answer = await show(ask, project, locator)
            assert not answer["success"], locator[:50]
            assert answer["error"]["code"] in ("generation_failed", "validation_failed"), (locator[:50], answer)
            assert len(str(answer)) < 20_000, locator[:50]
            await is_well(ask)


async def test_many_sources_of_one_repository(project: Project, ask: Asking):
    """A hundred of them run git one after the other, and leave no process."""
    commit(project, a_md="fine")
    sources = [{"id": f"s{n}", "source_type": "git_reference", "source_locator": "HEAD:a.md"} for n in range(100)]
    project.save(content("note", pattern={"type": "jinja2", "template": "{{ s0 }}{{ s99 }}"}, sources=sources))
    await is_well(ask)
    async with bounded(project):
        answer = await ask("generate_content", content_config_id="note")
        assert answer["content"] == "finefine"
        await is_well(ask)
