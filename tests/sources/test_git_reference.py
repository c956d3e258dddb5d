"""Files of git commits as context, and what a hostile repository may try."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import trio

from chora import settings
from chora.catalog import Catalog
from chora.engine.engine import Engine
from chora.files import PATH_LIMIT, SOURCE_LIMIT, Folder
from chora.model import Source
from chora.render.pool import RenderPool
from chora.sources import git_reference
from chora.sources.git_reference import MISSING, find_repository, identify
from chora.sources.source import SourceAccess, SourceFailed
from tests.conftest import Project, requirement
from tests.patience import PATIENCE

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git isn't installed")

posix = pytest.mark.skipif(sys.platform == "win32", reason="links, pipes and programs by their first line")

IDENTITY = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "Ines",
    "GIT_AUTHOR_EMAIL": "ines@harbour.example",
    "GIT_COMMITTER_NAME": "Ines",
    "GIT_COMMITTER_EMAIL": "ines@harbour.example",
    "GIT_ALLOW_PROTOCOL": "file",
}


def git(folder: Path, *arguments: str) -> str:
    """Run git as the repository's owner would."""
    command = ["git", "-c", "init.defaultBranch=main", *arguments]
    done = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={"PATH": os.environ["PATH"], **IDENTITY},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def commit(folder: Path, **files: str | bytes) -> str:
    """Write files (a `__` in a name is a slash, a `_` a dot), commit them, and return the commit's id."""
    if not (folder / ".git").exists():
        folder.mkdir(parents=True, exist_ok=True)
        git(folder, "init", "--quiet")
    for name, body in files.items():
        target = folder / name.replace("__", "/").replace("_", ".")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(body.encode() if isinstance(body, str) else body)
    git(folder, "add", "--all", ".")
    git(folder, "commit", "--quiet", "--message", "change")
    return git(folder, "rev-parse", "HEAD")


Fetch = Callable[..., Any]


@pytest.fixture
def dependencies() -> dict[str, str]:
    """What the source reported as its dependencies."""
    return {}


@pytest.fixture
def fetch(project: Project, dependencies: dict[str, str]) -> Fetch:
    """Fetch `ref:path` from the repository that a folder of the project belongs to."""
    folder = Folder(project.root)

    def nothing(*given: Any) -> Any:
        raise AssertionError

    reach = SourceAccess(
        folder,
        Catalog(folder),
        RenderPool(settings.RenderSettings()),
        nothing,
        nothing,
        nothing,
        dependencies.__setitem__,
    )

    async def fetch(locator: str, repository: str = ".") -> str:
        source = Source(type="git_reference", locator=locator, repository=repository)
        with trio.fail_after(PATIENCE):
            return await git_reference.fetch(source, reach)

    return fetch


async def refused(fetch: Fetch, problem: str, locator: str = "HEAD:a.md", repository: str = ".") -> None:
    with pytest.raises(SourceFailed) as failed:
        await fetch(locator, repository)
    assert problem in str(failed.value)
    assert not str(failed.value).endswith(".")


# -- what is found ----------------------------------------------------------------------------------------------


@requirement("sources.git-reference")
async def test_a_file_is_read_from_its_commit(project: Project, fetch: Fetch):
    """By branch, tag, commit and relative names; the working tree doesn't matter."""
    first = commit(project.root, a_md="one\n")
    git(project.root, "tag", "v1")
    git(project.root, "tag", "--annotate", "v1-annotated", "--message", "first")
    git(project.root, "branch", "feature/#7-ü")
    commit(project.root, a_md="two\n", docs__b_md="deep\n")
    project.write("a.md", "edited\n")
    relatives = ("HEAD~1", "HEAD^", "main~", "v1^{commit}", "HEAD@{1}")
    for ref in (first, first[:10], "v1", "v1-annotated", "refs/tags/v1", "feature/#7-ü", *relatives):
        assert await fetch(f"{ref}:a.md") == "one\n", ref
    for ref in ("HEAD", "main", "refs/heads/main", "@"):
        assert await fetch(f"{ref}:a.md") == "two\n", ref
    assert await fetch("HEAD:docs/b.md") == "deep\n"
    assert await fetch("HEAD:./a.md") == "two\n"


async def test_packed_refs_and_objects(project: Project, fetch: Fetch):
    """After `git gc` there are no loose refs or objects."""
    commit(project.root, a_md="one\n")
    git(project.root, "tag", "v1")
    commit(project.root, a_md="two\n")
    git(project.root, "gc", "--quiet", "--aggressive")
    git(project.root, "pack-refs", "--all")
    git(project.root, "multi-pack-index", "write")
    assert not (project.root / ".git/refs/tags/v1").exists()
    assert (await fetch("v1:a.md"), await fetch("main:a.md")) == ("one\n", "two\n")


@pytest.mark.parametrize(
    "name", ["a b.md", "p blob", "ü.md", "-x.md", "--batch", "a:b.md", "{a}.md", "a*b", "HEAD", "x blob 5", "'q\".md"]
)
@posix
async def test_a_path_may_have_any_name(project: Project, fetch: Fetch, name: str):
    """Blanks, options and git's own syntax in a name are only a name, also when the file doesn't exist."""
    project.write(name, "found\n")
    commit(project.root)
    assert await fetch(f"HEAD:{name}") == "found\n"
    await refused(fetch, f"there is no HEAD:{name}x in the repository", f"HEAD:{name}x")
    await refused(fetch, "there is no", f"HEAD:no {name}")


async def test_a_byte_order_mark_is_no_part_of_the_text(project: Project, fetch: Fetch):
    """As in files of the project."""
    commit(project.root, a_md=b"\xef\xbb\xbfx", b_md="")
    assert (await fetch("HEAD:a.md"), await fetch("HEAD:b.md")) == ("x", "")


async def test_a_project_inside_a_repository(tmp_path: Path, project: Project, fetch: Fetch):
    """Paths start from the given folder, or from the top if they lead into the folder; nothing else can be read."""
    commit(tmp_path, **{"secret_md": "outside\n", "project__a_md": "in\n", "project__docs__b_md": "deep\n"})
    assert await fetch("HEAD:a.md") == "in\n"
    assert await fetch("HEAD:project/a.md") == "in\n"
    assert await fetch("HEAD:docs/b.md") == "deep\n"
    assert await fetch("HEAD:b.md", "docs") == "deep\n"
    assert await fetch("HEAD:project/docs/b.md", "docs") == "deep\n"
    for path in ("secret.md", "./secret.md", "../secret.md", "project/../secret.md", "/secret.md"):
        with pytest.raises(SourceFailed):
            await fetch(f"HEAD:{path}")
    with pytest.raises(SourceFailed):
        await fetch("HEAD:a.md", "docs")


async def test_a_repository_in_a_folder_of_the_project(project: Project, fetch: Fetch):
    """The nearest one is used; it may be bare or a `.git` folder."""
    commit(project.root, a_md="outer\n")
    commit(project.root / "sub", a_md="inner\n")
    git(project.root, "clone", "--quiet", "--bare", "--no-local", "sub", "bare.git")
    assert await fetch("HEAD:a.md") == "outer\n"
    for repository in ("sub", "./sub/", str(project.root / "sub"), "bare.git", "sub/.git"):
        assert await fetch("HEAD:a.md", repository) == "inner\n"


async def test_a_worktree(tmp_path: Path, project: Project, fetch: Fetch):
    """Its repository may be outside the project, if that has the worktree registered."""
    main = tmp_path / "main"
    commit(main, a_md="one\n")
    git(main, "worktree", "add", "--quiet", str(project.root / "tree"), "-b", "side")
    commit(project.root / "tree", a_md="side\n", sub__b_md="deep\n")
    assert await fetch("HEAD:a.md", "tree") == "side\n"
    assert await fetch("main:a.md", "tree") == "one\n"
    assert await fetch("HEAD:b.md", "tree/sub") == "deep\n"


async def test_a_submodule_inside_the_project(tmp_path: Path, project: Project, fetch: Fetch):
    """Its git folder is inside the project; the entry itself isn't a file."""
    commit(tmp_path / "library", a_md="library\n")
    commit(project.root, a_md="outer\n")
    git(
        project.root,
        "-c",
        "protocol.file.allow=always",
        "submodule",
        "--quiet",
        "add",
        str(tmp_path / "library"),
        "lib",
    )
    commit(project.root)
    assert (project.root / "lib/.git").is_file()
    assert await fetch("HEAD:a.md", "lib") == "library\n"
    await refused(fetch, "there is no HEAD:lib in the repository", "HEAD:lib")


@requirement("sources.git-kinds")
async def test_a_project_that_is_a_submodule(tmp_path: Path):
    """Its git folder is that of the outer repository, which knows where the submodule's files are."""
    commit(tmp_path / "library", a_md="library\n", docs__b_md="deep\n")
    outer = tmp_path / "outer"
    commit(outer, a_md="outer\n")
    allow = ("-c", "protocol.file.allow=always")
    git(outer, *allow, "submodule", "--quiet", "add", str(tmp_path / "library"), "vendor/lib")
    commit(outer)
    moved = outer / "vendor/lib"
    found = find_repository(Folder(moved), ".")
    assert found.git_folder == (outer / ".git/modules/vendor/lib")
    blob = await git_reference.find_blob(found, "HEAD:a.md")
    assert blob.size == len("library\n")
    inner = find_repository(Folder(moved / "docs"), ".")
    assert (inner.git_folder, inner.prefix) == (found.git_folder, "docs/")
    # another folder that names the same git folder is none of its
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    (stranger / ".git").write_text(f"gitdir: {found.git_folder}\n")
    with pytest.raises(SourceFailed, match="doesn't know of this folder"):
        find_repository(Folder(stranger), ".")


@requirement("sources.git-kinds")
@pytest.mark.parametrize("relative", [False, True])
async def test_a_project_that_is_a_linked_work_tree(tmp_path: Path, relative: bool):
    """HEAD is the work tree's own."""
    main = tmp_path / "main"
    commit(main, a_md="one\n")
    tree = tmp_path / "tree"
    git(main, "worktree", "add", "--quiet", str(tree), "-b", "side")
    commit(tree, a_md="side\n")
    if relative:  # as `worktree.useRelativePaths` writes them
        (tree / ".git").write_text("gitdir: ../main/.git/worktrees/tree\n")
        (main / ".git/worktrees/tree/gitdir").write_text("../../../../tree/.git\n")
    found = find_repository(Folder(tree), ".")
    assert (await git_reference.find_blob(found, "HEAD:a.md")).size == len("side\n")
    assert (await git_reference.find_blob(found, "main:a.md")).size == len("one\n")


@requirement("sources.git-kinds")
@pytest.mark.parametrize(
    ("path", "text", "data"),
    [
        ("a.json", '{"a": [1]}', {"a": [1]}),
        ("a.yaml", "a: no\n", {"a": "no"}),
        ("a.csv", "a,b\n1,2\n", [{"a": "1", "b": "2"}]),
        ("a.jsonl", "1\n2\n", [1, 2]),
        ("a.toml", "a = 1\n", {"a": 1}),
        ("a.md", "# A\n", "# A\n"),
        ("Makefile", "all:\n", "all:\n"),
    ],
)
async def test_the_suffix_decides_how_a_file_of_a_commit_is_parsed(
    project: Project, path: str, text: str, data: Any, engine: Engine
):
    """As it does for an external file; by chora-compose's rules it is text."""
    commit(project.root, **{path.replace(".", "_"): text})
    nothing: Any = None
    for rules, wanted in (("chora", data), ("chora-compose", text)):
        access = SourceAccess(
            engine.folder, engine.catalog, engine.templates.pool, nothing, nothing, lambda _: None, lambda *_: None
        )._replace(rules=cast(Any, rules))
        source = Source(type="git_reference", locator=f"HEAD:{path}")
        assert await git_reference.fetch(source, access) == wanted


# -- dependencies -----------------------------------------------------------------------------------------------


async def test_the_dependency_of_a_text_is_the_blob(project: Project, fetch: Fetch, dependencies: dict[str, str]):
    """A commit that leaves the file alone doesn't change it; one that changes the file does; a missing file is a
    dependency too.
    """
    commit(project.root, a_md="one\n")
    await fetch("HEAD:a.md")
    with pytest.raises(SourceFailed):
        await fetch("HEAD:b.md")
    (key, blob), (other, missing) = dependencies.items()
    assert blob == git(project.root, "rev-parse", "HEAD:a.md")
    assert missing == MISSING
    folder = Folder(project.root)
    assert await identify(folder, key) == blob
    commit(project.root, b_md="new\n")
    assert await identify(folder, key) == blob
    assert await identify(folder, other) == git(project.root, "rev-parse", "HEAD:b.md")
    commit(project.root, a_md="two\n")
    assert await identify(folder, key) not in (blob, MISSING)
    shutil.rmtree(project.root / ".git")
    assert await identify(folder, key) == MISSING


# -- errors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("locator", "problem"),
    [
        ("HEAD:gone.md", "there is no HEAD:gone.md in the repository"),
        ("HEAD:a.md/x", "there is no HEAD:a.md/x in the repository"),
        ("gone:a.md", "there is no gone:a.md in the repository"),
        ("deadbeef:a.md", "there is no deadbeef:a.md in the repository"),
        ("HEAD:docs", "HEAD:docs is a folder"),
        ("HEAD:.", "there is no HEAD:. in the repository"),
        ("HEAD:docs/", "HEAD:docs/ is a folder"),
        ("HEAD~999999999:a.md", "there is no HEAD~999999999:a.md"),
        ("a.md", "'a.md' is not of the form ref:path"),
        ("HEAD:", "'HEAD:' is not of the form ref:path"),
        (":a.md", "':a.md' is not of the form ref:path"),
        (":/change:a.md", "is not of the form ref:path"),
        ("", "'' is not of the form ref:path"),
        ("HEAD^{/change}:a.md", "is not of the form ref:path"),
        ("main@{yesterday}:a.md", "is not of the form ref:path"),
        ("@{-1}:a.md", "is not of the form ref:path"),
        ("@{upstream}:a.md", "is not of the form ref:path"),
        ("--version:a.md", "is not of the form ref:path"),
        ("-p:a.md", "is not of the form ref:path"),
        ("HEAD HEAD:a.md", "is not of the form ref:path"),
        ("HEAD\nHEAD:a.md", "is not of the form ref:path"),
        ("HEAD\0:a.md", "is not of the form ref:path"),
        ("x" * 251 + ":a.md", "is not of the form ref:path"),
        ("HEAD:a.md\nHEAD:docs/b.md", "is not a path inside the repository"),
        ("HEAD:a.md\0", "is not a path inside the repository"),
        ("HEAD:a.md\x7f", "is not a path inside the repository"),
        ("HEAD:../a.md", "is not a path inside the repository"),
        ("HEAD:docs/../../a.md", "is not a path inside the repository"),
        ("HEAD:a.bin", "HEAD:a.bin is not UTF-8 text"),
    ],
)
async def test_an_invalid_reference_is_an_error(project: Project, fetch: Fetch, locator: str, problem: str):
    """A missing file, a folder, not text, or a forbidden form: a sentence, and never an option of git's."""
    commit(project.root, a_md="x", docs__b_md="y", a_bin=b"\xff\xfe\x00")
    await refused(fetch, problem, locator)


async def test_a_path_may_be_as_long_as_a_path_in_the_project(project: Project, fetch: Fetch):
    """4096 characters; one more is refused before git is asked."""
    assert PATH_LIMIT == 4096
    commit(project.root, a_md="x")
    longest = "HEAD:" + "a" * PATH_LIMIT
    await refused(fetch, f"there is no {longest} in the repository", longest)
    await refused(fetch, f"'{'a' * 80}'… has more than 4,096 characters", longest + "a")


@pytest.mark.parametrize(
    ("repository", "problem"),
    [
        (".", "is in no git repository"),
        ("gone", "there is no folder gone"),
        ("file", "there is no folder file"),
        ("../", "leads outside the project"),
        ("/etc", "leads outside the project"),
        ("", "A path is empty"),
    ],
)
async def test_a_folder_without_a_repository_is_an_error(project: Project, fetch: Fetch, repository: str, problem: str):
    """Only folders of the project can be named."""
    project.write("file", "x")
    await refused(fetch, problem, repository=repository)


async def test_a_repository_without_a_commit(project: Project, fetch: Fetch):
    """It has no files yet."""
    git(project.root, "init", "--quiet")
    await refused(fetch, "there is no HEAD:a.md in the repository")


async def test_a_file_that_is_too_large(project: Project, fetch: Fetch, dependencies: dict[str, str]):
    """It is refused by its size, before it is read; a changed file is noticed."""
    commit(project.root, a_md=b"x" * (SOURCE_LIMIT + 1), b_md=b"x" * SOURCE_LIMIT)
    await refused(fetch, f"HEAD:a.md is larger than {SOURCE_LIMIT:,} bytes")
    assert list(dependencies.values()) == [git(project.root, "rev-parse", "HEAD:a.md")]
    assert len(await fetch("HEAD:b.md")) == SOURCE_LIMIT


async def test_a_broken_repository(project: Project, fetch: Fetch):
    """The first line of git's error is passed on."""
    commit(project.root, a_md="x")
    (project.root / ".git/HEAD").write_text("nonsense")
    await refused(fetch, "git failed: fatal: not a git repository")
    (project.root / ".git/HEAD").write_text("ref: refs/heads/main\n")
    (project.root / ".git/config").write_text("[broken")
    await refused(fetch, "git failed: fatal: bad config")


# -- repositories that use others' objects ----------------------------------------------------------------------


@pytest.fixture
def private(tmp_path: Path) -> Path:
    """A repository outside the project whose texts must stay unreadable."""
    commit(tmp_path / "private", a_md="secret\n")
    return tmp_path / "private"


def make_pipe(path: Path) -> None:
    if sys.platform != "win32":
        os.mkfifo(path)


def borrow_by_alternates(root: Path, private: Path) -> None:
    git(root, "init", "--quiet")
    (root / ".git/objects/info/alternates").write_text(f"{private}/.git/objects\n")


def borrow_by_dangling_alternates(root: Path, private: Path) -> None:
    git(root, "init", "--quiet")
    (root / ".git/objects/info/alternates").symlink_to(private / "list-that-may-appear")


def borrow_by_commondir(root: Path, private: Path) -> None:
    git(root, "init", "--quiet")
    (root / ".git/commondir").write_text(f"{private}/.git\n")


def borrow_by_a_linked_git_folder(root: Path, private: Path) -> None:
    (root / ".git").symlink_to(private / ".git")


def borrow_by_linked_objects(root: Path, private: Path) -> None:
    git(root, "init", "--quiet")
    shutil.rmtree(root / ".git/objects")
    (root / ".git/objects").symlink_to(private / ".git/objects")


def borrow_by_linked_folders_of_objects(root: Path, private: Path) -> None:
    git(root, "init", "--quiet")
    for folder in (private / ".git/objects").iterdir():
        if len(folder.name) == 2:
            (root / ".git/objects" / folder.name).symlink_to(folder)


def borrow_by_linked_folders_without_packs(root: Path, private: Path) -> None:
    borrow_by_linked_folders_of_objects(root, private)
    (root / ".git/objects/pack").rmdir()


def borrow_by_a_linked_folder_of_packs(root: Path, private: Path) -> None:
    git(private, "gc", "--quiet")
    git(root, "init", "--quiet")
    (root / ".git/objects/pack").rmdir()
    (root / ".git/objects/pack").symlink_to(private / ".git/objects/pack")


def borrow_by_a_linked_pack(root: Path, private: Path) -> None:
    git(private, "gc", "--quiet")
    git(root, "init", "--quiet")
    for file in (private / ".git/objects/pack").iterdir():
        (root / ".git/objects/pack" / file.name).symlink_to(file)


def borrow_by_linked_objects_each(root: Path, private: Path) -> None:
    git(root, "init", "--quiet")
    for file in (private / ".git/objects").glob("??/*"):
        target = root / ".git/objects" / file.parent.name / file.name
        target.parent.mkdir(exist_ok=True)
        target.symlink_to(file)


def borrow_by_a_file(root: Path, private: Path) -> None:
    (root / ".git").write_text(f"gitdir: {private}/.git\n")


def borrow_by_a_linked_file(root: Path, private: Path) -> None:
    git(private, "worktree", "add", "--quiet", str(private.parent / "tree"), "-b", "side")
    (root / ".git").symlink_to(private.parent / "tree/.git")


def borrow_a_foreign_worktree(root: Path, private: Path) -> None:
    git(private, "worktree", "add", "--quiet", str(private.parent / "tree"), "-b", "side")
    shutil.copy(private.parent / "tree/.git", root / ".git")


def borrow_by_a_worktree_of_ones_own(root: Path, private: Path) -> None:
    git(root, "init", "--quiet", "inner")
    own = root / "inner/.git/worktrees/w"
    own.mkdir(parents=True)
    (root / ".git").write_text(f"gitdir: {own}\n")
    (own / "HEAD").write_text("ref: refs/heads/main\n")
    (own / "gitdir").write_text(f"{root}/.git\n")
    (own / "commondir").write_text(f"{private}/.git\n")


def borrow_for_a_worktree(root: Path, private: Path) -> None:
    main = private.parent / "main"
    commit(main, b_md="mine\n")
    git(main, "worktree", "add", "--quiet", str(root / "tree"), "-b", "side")
    (main / ".git/objects/info/alternates").write_text(f"{private}/.git/objects\n")
    shutil.move(root / "tree/.git", root / ".git")
    (main / ".git/worktrees/tree/gitdir").write_text(f"{root}/.git\n")


def borrow_by_a_file_of_nonsense(root: Path, private: Path) -> None:
    (root / ".git").write_bytes(b"\xff" * 10_000)


def borrow_by_a_pipe(root: Path, private: Path) -> None:
    make_pipe(root / ".git")


def borrow_by_a_pipe_behind_a_file(root: Path, private: Path) -> None:
    (root / ".git").write_text("gitdir: ../trap\n")
    (root.parent / "trap").mkdir()
    make_pipe(root.parent / "trap/gitdir")


BORROWERS = [value for name, value in list(globals().items()) if name.startswith("borrow_")]


@posix
@pytest.mark.parametrize("borrow", BORROWERS, ids=lambda borrow: borrow.__name__)
async def test_no_repository_gives_access_to_another(
    project: Project, fetch: Fetch, private: Path, borrow: Callable[[Path, Path], None]
):
    """Whatever a project's git folder contains or links to, the texts of other repositories can't be read."""
    secret = git(private, "rev-parse", "HEAD")
    borrow(project.root, private)
    for ref in (secret, "HEAD", "main"):
        with pytest.raises(SourceFailed) as failed:
            await fetch(f"{ref}:a.md")
        assert "secret" not in str(failed.value)


@posix
async def test_git_itself_would_follow_the_links(private: Path, project: Project):
    """Most of them, so the test above tests something."""
    secret = git(private, "rev-parse", "HEAD")
    followed: list[str] = []
    for number, borrow in enumerate(BORROWERS):
        root = project.root / str(number)
        root.mkdir()
        outside = private.parent / f"p{number}" / "private"
        shutil.copytree(private, outside)
        borrow(root, outside)
        done = subprocess.run(
            ["git", f"--git-dir={root}/.git", "cat-file", "blob", f"{secret}:a.md"],
            capture_output=True,
            timeout=PATIENCE,
            stdin=subprocess.DEVNULL,
            env={"PATH": os.environ["PATH"], **IDENTITY},
        ) if not (root / ".git").is_fifo() else None  # fmt: skip
        if done is not None and done.stdout == b"secret\n":
            followed.append(borrow.__name__)
    assert len(followed) >= 10, followed


async def test_a_file_is_what_its_commit_holds(project: Project, fetch: Fetch):
    """Not what `git replace` shows instead, which no clone of the commit has."""
    commit(project.root, a_md="true\n", b_md="replaced\n")
    git(project.root, "replace", *(git(project.root, "rev-parse", f"HEAD:{name}") for name in ("a.md", "b.md")))
    assert git(project.root, "show", "HEAD:a.md") == "replaced"
    assert await fetch("HEAD:a.md") == "true\n"


async def test_a_repository_without_packs(project: Project, fetch: Fetch):
    """Git works without the folder, and so does the source."""
    commit(project.root, a_md="x\n")
    (project.root / ".git/objects/pack").rmdir()
    assert await fetch("HEAD:a.md") == "x\n"


async def test_objects_that_cannot_be_listed_are_not_trusted(
    project: Project, fetch: Fetch, monkeypatch: pytest.MonkeyPatch
):
    """Git could traverse the folder all the same, to an unknown place."""
    commit(project.root, a_md="x\n")

    def closed(folder: object) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(os, "scandir", closed)
    await refused(fetch, "borrows objects from another one")


# -- hostile configuration --------------------------------------------------------------------------------------


@requirement("sources.git-reference")
@posix
async def test_no_program_that_a_repository_configures_is_run(tmp_path: Path, project: Project, fetch: Fetch):
    """No monitor, pager, editor, filter, hook, helper or transport (CWE-78)."""
    trap = tmp_path / "trap"
    trap.write_text(f"#!/bin/sh\ntouch {tmp_path}/sprung\nexit 1\n")
    trap.chmod(0o755)
    first = commit(project.root, a_md="x\n", **{"_gitattributes": "*.md filter=bite diff=bite textconv=bite\n"})
    bite = "\n".join(
        [
            "[core]",
            *(f"{name} = {trap}" for name in ("fsmonitor", "pager", "editor", "askPass", "sshCommand", "gitProxy")),
            f"hooksPath = {tmp_path}/hooks",
            f"alternateRefsCommand = {trap}",
            '[filter "bite"]',
            f"clean = {trap}",
            f"smudge = {trap}",
            f"process = {trap}",
            '[diff "bite"]',
            f"textconv = {trap}",
            f"command = {trap}",
            "[diff]",
            f"external = {trap}",
            "[alias]",
            f"cat-file = !{trap}",
            "[credential]",
            f"helper = !{trap}",
            "[pager]",
            f"cat-file = {trap}",
            '[remote "origin"]',
            f"url = ext::{trap} %S",
            f"uploadpack = {trap}",
            "promisor = true",
            "partialclonefilter = blob:none",
            "[extensions]",
            "partialClone = origin",
            "[uploadpack]",
            f"packObjectsHook = {trap}",
            "[trace2]",
            f"eventTarget = {tmp_path}/sprung",
            "[gc]",
            "auto = 1",
        ]
    )
    with (project.root / ".git/config").open("a") as configuration:
        configuration.write(bite)
    (tmp_path / "hooks").mkdir()
    for hook in ("post-checkout", "reference-transaction", "pre-auto-gc", "fsmonitor-watchman"):
        shutil.copy(trap, tmp_path / "hooks" / hook)
    shutil.copy(trap, project.root / ".git/hooks/reference-transaction")
    assert await fetch("HEAD:a.md") == "x\n"
    # A missing object that a promisor remote could provide.
    tree = git(project.root, "rev-parse", f"{first}:a.md")
    (project.root / ".git/objects" / tree[:2] / tree[2:]).unlink()
    with pytest.raises(SourceFailed):
        await fetch("HEAD:a.md")
    assert not (tmp_path / "sprung").exists()


@posix
async def test_the_traps_work(tmp_path: Path, project: Project):
    """Plain git runs the program that a promisor remote names, so the test above tests something."""
    trap = tmp_path / "trap"
    trap.write_text(f"#!/bin/sh\ntouch {tmp_path}/sprung\nexit 1\n")
    trap.chmod(0o755)
    commit(project.root, a_md="x\n")
    blob = git(project.root, "rev-parse", "HEAD:a.md")
    with (project.root / ".git/config").open("a") as configuration:
        configuration.write(
            f'[remote "origin"]\nurl = {tmp_path}/x\nuploadpack = {trap}\npromisor = true\n'
            "[extensions]\npartialClone = origin\n"
        )
    git(project.root, "config", "core.repositoryFormatVersion", "1")
    (tmp_path / "x").mkdir()
    (project.root / ".git/objects" / blob[:2] / blob[2:]).unlink()
    environment = {"PATH": os.environ["PATH"], **IDENTITY}
    subprocess.run(
        ["git", "cat-file", "blob", blob], cwd=project.root, capture_output=True, timeout=PATIENCE, env=environment
    )
    assert (tmp_path / "sprung").exists()


@posix
async def test_a_configuration_that_never_ends(project: Project, fetch: Fetch, monkeypatch: pytest.MonkeyPatch):
    """An included pipe that has no writer ends with the deadline."""
    commit(project.root, a_md="x\n")
    make_pipe(project.root / ".git/pipe")
    with (project.root / ".git/config").open("a") as configuration:
        configuration.write("[include]\npath = pipe\n")
    monkeypatch.setattr(git_reference, "DEADLINE", 0.3)
    await refused(fetch, "git took longer than 0.3 s")


@posix
async def test_git_gets_no_secrets(tmp_path: Path, project: Project, fetch: Fetch, monkeypatch: pytest.MonkeyPatch):
    """Its environment has PATH and chora's own variables only, and configured values are passed on stdin, not as
    arguments.
    """
    commit(project.root, a_md="x\n")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "secret")
    monkeypatch.setenv("GIT_DIR", "/elsewhere")
    monkeypatch.setenv("GIT_TRACE", str(tmp_path / "trace"))
    fake_git(
        tmp_path,
        monkeypatch,
        f"""
import os, sys
with open({str(tmp_path / "seen")!r}, "a") as seen:
    print(sys.argv[1:], sorted(os.environ), repr(sys.stdin.read()), file=seen)
print("0" * 40, "blob 0")
""",
    )
    await fetch("HEAD:a.md; touch x")
    seen = (tmp_path / "seen").read_text()
    assert "['-c', 'core.multiPackIndex=false', 'cat-file', '--batch-check']" in seen
    assert seen.count("touch") == 1
    assert "'HEAD:a.md; touch x\\n'" in seen
    assert "secret" not in seen
    assert "ANTHROPIC" not in seen
    assert "GIT_TRACE" not in seen
    assert "HOME" not in seen


def fake_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    """Put a test program in the place of git."""
    folder = tmp_path / "programs"
    folder.mkdir()
    (folder / "git").write_text(f"#!{sys.executable} -I\n{source}")
    (folder / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


@requirement("sources.limits")
@posix
async def test_git_that_takes_too_long(
    tmp_path: Path, project: Project, fetch: Fetch, dependencies: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    """It is killed, and the next call tries again."""
    commit(project.root, a_md="x\n")
    fake_git(tmp_path, monkeypatch, "import time; time.sleep(60)")
    monkeypatch.setattr(git_reference, "DEADLINE", 0.3)
    await refused(fetch, "git took longer than 0.3 s")
    assert list(dependencies.values()) == [MISSING]


@posix
@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("import sys; sys.exit('fatal: it is broken\\nreally')", "git failed: fatal: it is broken"),
        ("import sys; sys.exit(3)", "git failed: exit status 3"),
        ("print('nonsense')", "there is no HEAD:a.md in the repository"),
        ("print('x blob y')", "there is no HEAD:a.md in the repository"),
    ],
)
async def test_git_that_fails(
    tmp_path: Path, project: Project, fetch: Fetch, monkeypatch: pytest.MonkeyPatch, source: str, problem: str
):
    """The first line of its error is the reason."""
    commit(project.root, a_md="x\n")
    fake_git(tmp_path, monkeypatch, source)
    await refused(fetch, problem)


@posix
async def test_git_is_missing(tmp_path: Path, project: Project, fetch: Fetch, monkeypatch: pytest.MonkeyPatch):
    """Not installed, or not a program."""
    commit(project.root, a_md="x\n")
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    await refused(fetch, "git is not installed")
    fake_git(tmp_path, monkeypatch, "")
    (tmp_path / "programs/git").write_bytes(b"\x7fELF no program")
    await refused(fetch, "git can't be run")


def test_the_top_of_a_repository_has_no_prefix(tmp_path: Path):
    """And a folder below it has its path."""
    commit(tmp_path, docs__deep__a_md="x")
    folder = Folder(tmp_path)
    assert find_repository(folder, ".").prefix == ""
    assert find_repository(folder, "docs/deep").prefix == "docs/deep/"


@pytest.mark.skipif(sys.platform != "linux", reason="bounded by the kernel of Linux")
async def test_the_memory_of_git_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A repository made for it can't fill the machine's memory."""
    program = tmp_path / "bin" / "git"
    program.parent.mkdir()
    program.write_text(
        "#!/bin/sh\n"
        "while grep -q 'Max data size *unlimited' /proc/$$/limits; do sleep 0.01; done\n"
        "grep -E 'Max (data|core)' /proc/$$/limits\n"
    )
    program.chmod(0o755)
    with trio.fail_after(PATIENCE):
        done = await git_reference._run_process([str(program)], {"PATH": os.environ["PATH"]}, b"")
    limits = {line.split("  ")[0]: line.split()[-3:-1] for line in done.output.decode().splitlines()}
    assert limits["Max data size"] == [str(git_reference.MEMORY_LIMIT)] * 2
    assert limits["Max core file size"] == ["0", "0"]
    with trio.fail_after(PATIENCE):
        greedy = await git_reference._run_process(
            [sys.executable, "-c", "import time; time.sleep(0.5); bytearray(2_000_000_000)"], {}, b""
        )
    assert b"MemoryError" in greedy.complaint
