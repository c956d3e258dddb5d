"""Paths out of the project and special files, through every argument and config key that takes a path."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from chora.engine.legacy.project_import import import_project
from chora.protocol.types import Call
from chora.tools import TOOLS
from tests.conftest import Asking, Project, artifact, child, content, text
from tests.hostile.measures import MIB, bounded, is_well, linux, prepare
from tests.sources.test_git_reference import commit

pytestmark = linux

SECRET = "hunter2"


@pytest.fixture
def project(project: Project) -> Project:
    return prepare(project)


@pytest.fixture
def outside(project: Project) -> Path:
    """A folder next to the project, with a secret in every file type, and links to it from inside."""
    folder = project.root.parent / "outside"
    (folder / "objects").mkdir(parents=True)
    (folder / "HEAD").write_text(SECRET)
    for name in ("secret.json", "secret.j2", "secret.txt", "configs"):
        (folder / name).write_text(f'{{"{SECRET}": "{SECRET}"}}')
    links = {
        "out": "../outside",
        "absolute": str(folder),
        "chain1": "chain2",
        "chain2": "./chain3",
        "chain3": "out",
        "loop": "loop",
        "loop1": "loop2",
        "loop2": "loop1",
        "root": "/",
        "secret.json": "../outside/secret.json",
        "secret.j2": "../outside/secret.j2",
        "self": "/proc/self",
        "parent": "..",
        "here": ".",
        "dangling": "../outside/new",
        "dangling.json": "../outside/new.json",
    }
    for name, target in links.items():
        (project.root / name).symlink_to(target)
    return folder


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# -- every argument and key that takes a path -------------------------------------------------------------------

Entry = Callable[[Asking, Project, str], Awaitable[Any]]


async def as_source(ask: Asking, project: Project, path: str) -> Any:
    source = {"id": "x", "source_type": "external_file", "source_locator": path}
    project.save(content("note", pattern={"type": "jinja2", "template": "{{ x }}"}, sources=[source]))
    return await ask.answer("generate_content", {"content_config_id": "note", "force": True})


async def as_repository(ask: Asking, project: Project, path: str) -> Any:
    shared = {"sources": [{"id": "x", "type": "git_reference", "repo": path, "file": "x.txt"}]}
    project.save(content("note", pattern={"type": "jinja2", "template": "{{ x }}"}))
    project.save(artifact("notice", [child("note")]), collection(context={"shared": shared}))
    return await ask.answer("generate_collection", {"collection_config_path": "all", "force": True})


async def as_config_source(ask: Asking, project: Project, path: str) -> Any:
    source = {"id": "x", "source_type": "content_config", "source_locator": path}
    project.save(content("note", pattern={"type": "jinja2", "template": "{{ x }}"}, sources=[source]))
    return await ask.answer("generate_content", {"content_config_id": "note", "force": True})


async def as_template(ask: Asking, project: Project, path: str) -> Any:
    project.save(content("note", pattern={"type": "jinja2", "template": path}))
    return await ask.answer("generate_content", {"content_config_id": "note", "force": True})


async def as_include(ask: Asking, project: Project, path: str) -> Any:
    project.save(content("note", pattern={"type": "jinja2", "template": "{% include name %}"}))
    arguments = {"content_config_id": "note", "force": True, "context": {"name": path}}
    return await ask.answer("generate_content", arguments)


async def as_output(ask: Asking, project: Project, path: str) -> Any:
    project.save(text("note", "written"), artifact("notice", [child("note")], {"file": path, "format": "markdown"}))
    return await ask.answer("assemble_artifact", {"artifact_config_id": "notice"})


async def as_output_path(ask: Asking, project: Project, path: str) -> Any:
    project.save(text("note", "written"), artifact("notice", [child("note")]))
    return await ask.answer("assemble_artifact", {"artifact_config_id": "notice", "output_path": path})


async def as_child(ask: Asking, project: Project, path: str) -> Any:
    project.save(artifact("notice", [{"id": "note", "path": path}]))
    return await ask.answer("assemble_artifact", {"artifact_config_id": "notice"})


def collection(**rest: Any) -> dict[str, Any]:
    member = {"id": "notice", "type": "artifact", "path": "configs/artifact/notice.json"}
    output = {"base_path": "outputs/collections/all"}
    return {"type": "collection", "id": "all", "name": "All", "members": [member], "output": output, **rest}


async def as_config(ask: Asking, project: Project, path: str) -> Any:
    return await ask.answer("generate_collection", {"collection_config_path": path})


async def as_listed(ask: Asking, project: Project, path: str) -> Any:
    return await ask.answer("list_collection_members", {"collection_config_path": path})


async def as_member(ask: Asking, project: Project, path: str) -> Any:
    project.save(collection(members=[{"id": "notice", "type": "artifact", "path": path}]))
    return await ask.answer("generate_collection", {"collection_config_path": "all"})


async def as_base_path(ask: Asking, project: Project, path: str) -> Any:
    project.save(text("note", "written"), artifact("notice", [child("note")]), collection(output={"base_path": path}))
    return await ask.answer("generate_collection", {"collection_config_path": "all"})


async def as_collection_output(ask: Asking, project: Project, path: str) -> Any:
    project.save(text("note", "written"), artifact("notice", [child("note")]), collection())
    return await ask.answer("generate_collection", {"collection_config_path": "all", "output_path": path})


async def as_freshness(ask: Asking, project: Project, path: str) -> Any:
    project.save(text("note", "written"), artifact("notice", [child("note")]), collection())
    return await ask.answer("check_freshness", {"collection_config_path": "all", "output_path": path})


async def as_schema(ask: Asking, project: Project, path: str) -> Any:
    project.save(text("note", "{}"))
    await ask("generate_content", content_config_id="note")
    rules = [{"id": "r", "type": "schema", "config": {"schema": path}}]
    return await ask.answer("validate_content", {"content_or_config_id": "note", "validation_rules": rules})


async def as_content_id(ask: Asking, project: Project, path: str) -> Any:
    return await ask.answer("generate_content", {"content_config_id": path})


async def as_saved_id(ask: Asking, project: Project, path: str) -> Any:
    draft = await ask("draft_config", config_type="content", config_data=text("draft", "x"))
    return await ask.answer("save_config", {"draft_id": draft["draft_id"], "config_id": path})


async def as_deleted_id(ask: Asking, project: Project, path: str) -> Any:
    return await ask.answer("delete_content", {"content_id": path, "force": True})


READING: dict[str, Entry] = {
    "source": as_source,
    "repository": as_repository,
    "config as source": as_config_source,
    "template": as_template,
    "include": as_include,
    "child": as_child,
    "config": as_config,
    "listed config": as_listed,
    "member": as_member,
    "schema": as_schema,
    "content id": as_content_id,
    "saved id": as_saved_id,
    "deleted id": as_deleted_id,
}
WRITING: dict[str, Entry] = {
    "output": as_output,
    "output_path": as_output_path,
    "base_path": as_base_path,
    "collection output": as_collection_output,
    "freshness": as_freshness,
}
ENTRIES = READING | WRITING

INSIDE = {
    "source": "x.txt",
    "repository": ".",
    "config as source": "configs/content/note.json",
    "template": "page.j2",
    "include": "page.j2",
    "child": "configs/content/note.json",
    "config": "configs/collection/all.json",
    "listed config": "configs/collection/all.json",
    "member": "configs/artifact/notice.json",
    "schema": "schema.json",
    "content id": "note",
    "saved id": "draft",
    "deleted id": "note",
    "output": "outputs/page.md",
    "output_path": "outputs/page.md",
    "base_path": "outputs/all",
    "collection output": "outputs/all",
    "freshness": "outputs/all",
}
"""A path that each entry takes."""


@pytest.mark.parametrize("entry", ENTRIES)
async def test_every_entry_takes_a_path_inside(project: Project, ask: Asking, entry: str):
    """What refuses the paths below looks at them: it isn't for another reason."""
    project.write("x.txt", "inside")
    project.write("templates/page.j2", "inside")
    project.write("schema.json", "{}")
    project.save(text("note", "inside"), artifact("notice", [child("note")]), collection())
    commit(project.root)
    await ask("generate_content", content_config_id="note")
    await ask("generate_collection", collection_config_path="all", output_path="outputs/all")
    answer = await ENTRIES[entry](ask, project, INSIDE[entry])
    assert answer["success"], answer
    if entry in ("schema", "repository"):
        assert answer.get("valid", True)
        assert not answer.get("failed"), answer


async def test_no_repository_outside_is_read(project: Project, ask: Asking):
    """By no path and through no link, though it is one that git reads; inside, it is read."""
    commit(project.root / "inner", x_txt=SECRET)
    assert (await as_repository(ask, project, "inner"))["success"]
    assert SECRET in project.read("outputs/collections/all/notice/notice.md")
    outside = project.root.parent / "outside"
    commit(outside, x_txt=SECRET)
    (project.root / "link").symlink_to(outside)
    for path in ("../outside", "link", str(outside), f"{outside}/.git", "link/.git", "inner/../../outside"):
        shutil.rmtree(project.root / "outputs", ignore_errors=True)
        answer = await as_repository(ask, project, path)
        assert not answer["success"], (path, answer)
        assert SECRET not in str(answer)
        assert not list((project.root / "outputs").rglob("*.md")), path


OUTWARD = [
    "../outside/secret.json",
    "../outside/secret.j2",
    "../outside",
    "./.././outside/secret.json",
    "configs/../../outside/secret.json",
    "configs/content/../../../outside/secret.json",
    "nowhere/../../outside/secret.json",
    "out/secret.json",
    "out/secret.j2",
    "absolute/secret.json",
    "chain1/secret.json",
    "chain1",
    "here/here/out/secret.json",
    "here/parent/outside/secret.json",
    "parent/outside/secret.json",
    "secret.json",
    "secret.j2",
    "self/environ",
    "self/cwd/secret.json",
    "self/fd/0",
    "root/etc/passwd",
    "/etc/passwd",
    "//etc/passwd",
    "/proc/self/environ",
    "/dev/zero",
    "file:///etc/passwd",
    "~/secret.json",
    "~root/secret.json",
    "$HOME/secret.json",
    "..",
    "../",
    "/",
    "dangling",
    "dangling.json",
    "dangling/new.json",
    "..\\outside\\secret.json",
    "C:\\Windows\\win.ini",
    "\\\\server\\share\\x",
]
ODD = [
    "",
    " ",
    ".",
    "./",
    "a\0b.json",
    "\0",
    "loop",
    "loop/x.json",
    "loop1/x.json",
    "x" * 255 + ".json",
    "x" * 5000,
    "x/" * 3000 + "x.json",
    "\u202ejson.x",
    "\u2024\u2024/x.json",
    "\uff0e\uff0e/outside/secret.json",
    "..\u2215outside\u2215secret.json",
    "\u200b../outside/secret.json",
    "e\u0301.json",
    "\u00e9.json",
    "\ufdfa" * 90,
    "CON",
    "nul.json",
    "com1.txt",
    "aux.json ",
    "trailing. ",
    "dots...",
    "a:b.json",
    "a?b*c<d>|.json",
    "-rf",
    "--help",
    "new\nline.json",
    "\x1b[31m.json",
    "%2e%2e/outside/secret.json",
    "..%2foutside%2fsecret.json",
    "CHORA.TOML",
    ".Git/config",
    "chora.toml",
    ".git/config",
    ".chora/storage.db",
    ".chora/storage.db-wal",
    "configs",
    "configs/content",
    "configs/content/good.json/x.json",
]
CODES = {
    "permission_denied", "config_not_found", "invalid_config_id", "invalid_input", "generation_failed",
    "composition_failed", "validation_failed", "write_failed", "missing_content", "save_failed", "output_edited",
    "content_not_found", "manifest_not_found", "validation_execution_failed", "storage_error", "limit_exceeded",
}  # fmt: skip


@pytest.mark.parametrize("entry", ENTRIES)
async def test_no_path_leads_out(project: Project, ask: Asking, outside: Path, entry: str):
    """Every one of them refuses paths that lead outside, shows nothing of the target and writes nothing there (CWE-22,
    CWE-59).
    """
    before = everything(outside)
    settings = project.read("chora.toml")
    await is_well(ask)
    for path in OUTWARD:
        async with bounded(project, written=2 * MIB):
            answer = await ENTRIES[entry](ask, project, path)
            assert SECRET not in str(answer), (path, answer)
            assert "root:x" not in str(answer), (path, answer)
            if not answer["success"]:
                assert answer["error"]["code"] in CODES, (path, answer)
            elif entry == "schema":
                assert answer["valid"] is False, (path, answer)
            elif entry in READING:  # a new config may be called like a link elsewhere
                assert entry == "saved id", (path, answer)
            else:  # on this system a backslash, a tilde and a colon are letters like others
                assert path.startswith(("~", "$", "..\\", "C:", "\\", "file:")) or entry == "freshness", (path, answer)
            await is_well(ask)
    assert everything(outside) == before
    assert not (outside / "new").exists()
    assert project.read("chora.toml") == settings


@pytest.mark.parametrize("entry", ENTRIES)
async def test_odd_paths_are_names_or_errors(project: Project, ask: Asking, outside: Path, entry: str):
    """A valid file name works, however odd; any other is an error with a known code."""
    before = everything(outside)
    settings = project.read("chora.toml")
    await is_well(ask)
    for path in ODD:
        async with bounded(project, written=2 * MIB):
            answer = await ENTRIES[entry](ask, project, path)
            assert answer["success"] or answer["error"]["code"] in CODES, (path[:80], answer)
            assert SECRET not in str(answer), (path[:80], answer)
            await is_well(ask)
    assert everything(outside) == before
    assert project.read("chora.toml") == settings
    assert not (project.root / ".git").exists()


# Lone surrogates can't be encoded in UTF-8, so these are sent as JSON escapes.
@pytest.mark.parametrize(
    ("tool", "body"),
    [
        ("generate_content", rb'{"content_config_id": "\ud800"}'),
        ("generate_content", rb'{"content_config_id": "good", "context": {"name": "\udfff"}}'),
        ("generate_content", rb'{"content_config_id": "good", "context": "{\"name\": \"\\ud800\"}"}'),
        ("assemble_artifact", rb'{"artifact_config_id": "notice", "output_path": "outputs/\ud800.md"}'),
        ("generate_collection", rb'{"collection_config_path": "\udc80/all"}'),
        ("draft_config", rb'{"config_type": "content", "config_data": {"id": "\ud800"}}'),
        ("validate_content", rb'{"content_or_config_id": "good", "validation_rules": [{"type": "\ud800"}]}'),
        ("list_content_configs", rb'{"filter_pattern": "\ud800*"}'),
        ("hello_world", rb'{"name": "\ud800"}'),
    ],
)
async def test_lone_surrogates_in_arguments(project: Project, ask: Asking, tool: str, body: bytes):
    """They are refused, or escaped in JSON that can be sent."""
    project.save(text("note", "x"), artifact("notice", [child("note")]))
    await is_well(ask)
    async with bounded(project):
        answer = await TOOLS[tool].run_tool(ask.engine, body, Call("test", len(TOOLS)))
        assert answer.code != "internal_error", answer
        answer.body.decode()
        await is_well(ask)


# -- special files ----------------------------------------------------------------------------------------------


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(10**12)


def bound_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made, contextlib.chdir(path.parent):
        made.bind(path.name)


SPECIAL: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "socket": bound_socket,
    "folder": Path.mkdir,
    "terabyte": sparse,
    "link to a device": lambda path: path.symlink_to("/dev/zero"),
    "link to a terminal": lambda path: path.symlink_to("/dev/tty"),
    "link to memory": lambda path: path.symlink_to("/proc/self/mem"),
    "not text": lambda path: path.write_bytes(b"\xff\xfe\x00\x80" * 100),
    "empty": Path.touch,
    "NULs": lambda path: path.write_bytes(b"\0" * 900_000),
}
if os.geteuid() != 0 if hasattr(os, "geteuid") else False:  # nothing is closed to root
    SPECIAL["closed"] = lambda path: (path.touch(), path.chmod(0))

PLACES: dict[str, tuple[str, Entry, str]] = {
    "source": ("data/odd.json", as_source, "data/odd.json"),
    "text source": ("data/odd.txt", as_source, "data/odd.txt"),
    "template": ("configs/templates/odd.j2", as_template, "odd.j2"),
    "computed include": ("configs/templates/odd.j2", as_include, "odd.j2"),
    "schema": ("data/odd.json", as_schema, "data/odd.json"),
    "child": ("configs/content/odd.json", as_child, "configs/content/odd.json"),
    "content": ("configs/content/odd.json", as_content_id, "odd"),
    "yaml": ("configs/content/odd.yaml", as_content_id, "odd"),
    "collection": ("configs/collection/odd.json", as_config, "odd"),
    "member": ("configs/artifact/odd.json", as_member, "configs/artifact/odd.json"),
    "repository": ("odd", as_repository, "odd"),
    "git folder": (".git", as_repository, "."),
    "output": ("outputs/odd.md", as_output, "outputs/odd.md"),
    "manifest": ("built/manifest.json", as_base_path, "built"),
    "folder of outputs": ("built", as_base_path, "built"),
}


@pytest.mark.parametrize("place", PLACES)
async def test_special_files(project: Project, ask: Asking, place: str):
    """Reading never waits for a pipe, reads a device to its end or allocates a terabyte."""
    where, entry, path = PLACES[place]
    await is_well(ask)
    for kind, make in SPECIAL.items():
        target = project.root / where
        target.parent.mkdir(parents=True, exist_ok=True)
        make(target)
        before = target.lstat()
        async with bounded(project, written=2 * MIB):
            answer = await entry(ask, project, path)
            if answer["success"]:
                harmless = {"schema", "text source", "template", "computed include", "folder of outputs"}
                assert place in harmless or kind in ("folder", "link to a device"), (kind, answer)
                assert len(str(answer)) < 2 * MIB
            else:
                assert answer["error"]["code"] in CODES, (kind, answer)
            for tool in ("list_content_configs", "list_artifact_configs", "list_content"):
                await ask(tool)
            await is_well(ask)
        after = target.lstat()
        assert (after.st_ino, after.st_mode, after.st_size) == (before.st_ino, before.st_mode, before.st_size), kind
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink()
    assert project.root.joinpath("chora.toml").exists()


async def test_a_hard_link_is_replaced_not_written_through(project: Project, ask: Asking):
    """A file elsewhere with the same inode stays unchanged."""
    elsewhere = project.root.parent / "elsewhere.md"
    await as_output(ask, project, "outputs/a.md")
    os.link(project.root / "outputs/a.md", elsewhere)
    project.save(text("note", "changed"))
    assert (await ask("assemble_artifact", artifact_config_id="notice"))["success"]
    assert elsewhere.read_text().strip() == "written"
    assert project.read("outputs/a.md").strip() == "changed"


@contextlib.contextmanager
def meanwhile(step: Callable[[], object]) -> Generator[None]:
    """Repeat an action in a thread."""
    stopping = threading.Event()

    def run() -> None:
        while not stopping.is_set():
            step()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


async def test_a_file_that_grows_while_it_is_read(project: Project, ask: Asking):
    """The read is bounded, whatever is appended meanwhile."""
    growing = project.write("data/log.txt", "x")
    await is_well(ask)
    with growing.open("ab", buffering=0) as file:

        def grow() -> None:
            if file.tell() > 40 * MIB:
                file.truncate(1)
            file.write(b"x" * MIB)

        with meanwhile(grow):
            for _ in range(5):
                async with bounded(project, memory=150 * MIB, written=100 * MIB):
                    answer = await as_source(ask, project, "data/log.txt")
                    assert answer["success"] or answer["error"]["code"] in ("generation_failed", "limit_exceeded")
    await is_well(ask)


FLIPPED: dict[str, tuple[Entry, str]] = {
    "source": (as_source, "swap/note.txt"),
    "template": (as_template, "swap/note.txt"),
    "config": (as_content_id, "swapped"),
    "schema": (as_schema, "swap/note.json"),
    "output": (as_output, "swap/new.md"),
    "output in a new folder": (as_output, "swap/deep/er/new.md"),
    "base path": (as_base_path, "swap/all"),
}


@pytest.mark.parametrize("way", ["links", "folder and link"])
@pytest.mark.parametrize("entry", FLIPPED)
async def test_a_link_that_flips_during_the_call(project: Project, ask: Asking, entry: str, way: str):
    """A folder that is swapped with a link to the outside is never followed there (CWE-367)."""
    outside = project.root.parent / "outside"
    outside.mkdir()
    inside = project.root / "inside"
    inside.mkdir()
    for folder, word in ((outside, SECRET), (inside, "harmless")):
        (folder / "note.txt").write_text(word)
        (folder / "note.json").write_text(f'{{"const": "{word}"}}')
        (folder / "swapped.json").write_text(f'{{"type": "content", "id": "swapped", "{word}": 1}}')
    (project.root / "configs/content/swapped.json").symlink_to("../../swap/swapped.json")
    swap, spare = project.root / "swap", project.root / "spare"
    if way == "links":
        targets = itertools.cycle([inside, outside])

        def flip() -> None:
            spare.symlink_to(next(targets))
            spare.replace(swap)

        flip()
    else:
        inside.rename(swap)

        def flip() -> None:  # chora may make the folder anew while it is away
            for step in (
                lambda: swap.rename(spare),
                lambda: swap.symlink_to(outside),
                swap.unlink,
                lambda: shutil.rmtree(swap, ignore_errors=True) if spare.exists() else None,
                lambda: spare.rename(swap),
            ):
                with contextlib.suppress(OSError):
                    step()

    await is_well(ask)
    before = everything(outside)
    use, path = FLIPPED[entry]
    outcomes: set[str] = set()
    deadline = time.monotonic() + 0.4
    with meanwhile(flip):
        while time.monotonic() < deadline:
            answer = await use(ask, project, path)
            assert SECRET not in str(answer), answer
            outcomes.add("ok" if answer["success"] else answer["error"]["code"])
            assert outcomes <= {"ok", *CODES}, answer
    assert everything(outside) == before
    await is_well(ask)


# -- chora import -----------------------------------------------------------------------------------------------


async def test_importing_a_hostile_folder(project: Project, ask: Asking, outside: Path):
    """Links to the outside, endless and special files of an old project aren't imported."""
    old = project.root.parent / "old"
    (old / "configs/content").mkdir(parents=True)
    (old / "configs/templates").mkdir(parents=True)
    (old / "ephemeral/storage").mkdir(parents=True)
    (old / "configs/content/secret.json").symlink_to(outside / "secret.json")
    (old / "configs/content/folder").symlink_to(outside)
    (old / "configs/templates/secret.j2").symlink_to("../../../outside/secret.j2")
    (old / "configs/artifact").symlink_to(outside)
    (old / "drafts").symlink_to(outside)
    os.mkfifo(old / "configs/content/pipe.json")
    os.mkfifo(old / "configs/templates/pipe.j2")
    sparse(old / "configs/content/large.json")
    (old / "configs/content/loop.json").symlink_to("loop.json")
    (old / "configs/content/deep.json").write_text("[" * 100_000)
    (old / "configs/content/bytes.json").write_bytes(b"\xff\xfe")
    before = everything(outside)
    await is_well(ask)
    async with bounded(project):
        await import_project(old, ask.engine.project_folder, ask.engine.store)
        await is_well(ask)
    assert everything(outside) == before
    assert [path for path, body in project.files().items() if "/" in path and SECRET in body.decode()] == []
