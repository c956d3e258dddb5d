"""Opening files without following links, and that nothing of a project is opened in another way."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

import chora
from chora import disk, nofollow, settings
from chora.cli import COMMANDS
from chora.cli.samples import INIT, write_sample
from chora.errors import ChoraError, PermissionDenied, StorageError, UsageError
from chora.events import Events
from chora.locks import FileLocks
from chora.nofollow import UnsafePath
from chora.project import locate
from chora.settings import StorageSettings
from chora.store import SqliteStore, open_store
from chora.store.backup import make_backup
from chora.tools import ALL_TOOLS
from tests.conftest import Asking, Project, content, requirement
from tests.patience import PATIENCE

posix = pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions and no such files")
pytestmark = posix


@pytest.fixture(params=["by kernel", "by walking", "by path"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How links are refused: by openat2, by walking with descriptors, and, as on Windows, by looking first."""
    if request.param == "by kernel":
        if nofollow.find_openat2() is None:
            pytest.skip("this kernel can't refuse links")
    else:
        monkeypatch.setattr(nofollow, "find_openat2", lambda: None)
        monkeypatch.setattr(nofollow, "_NOFOLLOW_ANY", 0)
    if request.param == "by path":
        monkeypatch.setattr(nofollow, "BY_DESCRIPTOR", False)
    return request.param


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a file, and beside it one that must stay as it is."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "startup").write_text("before\n")
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "plain").write_text("plain")
    return tmp_path / "project"


def outside(root: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in (root.parent / "outside").iterdir()}


# -- opening ------------------------------------------------------------------------------------------------------


def test_a_regular_file_is_opened(root: Path, way: str):
    """For reading, and a new one for writing, which its owner alone may read."""
    assert nofollow.read_file(root / "plain") == b"plain"
    assert nofollow.read_file(root / "plain", 2) == b"pl"
    with open(nofollow.open_file(root / "new", nofollow.CREATE), "wb") as file:
        file.write(b"new")
    assert (root / "new").read_bytes() == b"new"
    assert stat.S_IMODE((root / "new").stat().st_mode) == 0o600
    with pytest.raises(FileNotFoundError):
        nofollow.read_file(root / "none")
    with pytest.raises(FileExistsError):
        nofollow.open_file(root / "new", nofollow.CREATE)


def link(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


FOUND: dict[str, tuple[Callable[[Path], None], str]] = {
    "link to a file": (link("../outside/startup"), "a symbolic link"),
    "link to nothing": (link("nowhere"), "a symbolic link"),
    "link to itself": (link("found"), "a symbolic link"),
    "link within": (link("plain"), "a symbolic link"),
    "pipe": (lambda path: os.mkfifo(path), "a pipe"),
    "folder": (lambda path: path.mkdir(), "a folder"),
}


@pytest.mark.parametrize("what", FOUND)
@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY | os.O_CREAT | os.O_APPEND, os.O_RDWR | os.O_CREAT])
def test_links_and_special_files_are_refused_by_name(root: Path, way: str, what: str, flags: int):
    """Whatever a file is opened for; nothing hangs, and nothing that a link leads to changes."""
    make, kind = FOUND[what]
    make(root / "found")
    before = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0  # noqa: PTH208
    with pytest.raises(UnsafePath) as caught:
        nofollow.open_file(root / "found", flags)
    assert str(caught.value.strerror) == f"{root / 'found'} is {kind}, which is never opened in this place"
    assert str(root / "found") in caught.value.hint
    assert outside(root) == {"startup": "before\n"}
    if sys.platform == "linux":
        assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_a_link_on_the_way_is_refused_by_name(root: Path, way: str):
    """To open, list, make or delete anything beyond it."""
    (root / "var").symlink_to("../outside")
    (root / "a").mkdir()
    (root / "a" / "b").symlink_to("../var")
    acts: list[Callable[[], Any]] = [
        lambda: nofollow.open_file(root / "var" / "startup"),
        lambda: nofollow.open_file(root / "a" / "b" / "startup"),
        lambda: nofollow.read_file(root / "var" / "startup"),
        lambda: nofollow.check_file(root / "var" / "startup"),
        lambda: nofollow.list_entries(root / "var"),
        lambda: disk.make_folder(root / "var" / "telemetry" / "deep"),
        lambda: disk.replace_file(root / "var" / "startup", [b"x"]),
        lambda: disk.append_to_file(root / "var" / "startup", b"x"),
        lambda: disk.delete_file(root / "var" / "startup"),
        lambda: nofollow.move_file(root / "plain", root / "var" / "startup"),
        lambda: nofollow.copy_file(root / "plain", root / "var" / "new"),
    ]
    for act in acts:
        with pytest.raises(UnsafePath, match=r"(var|b) is a symbolic link"):
            act()
    assert outside(root) == {"startup": "before\n"}
    assert (root / "plain").read_text() == "plain"


def test_a_link_is_never_written_through_nor_replaced(root: Path, way: str):
    """A link in the place of a file is left for its owner to look at."""
    (root / "link").symlink_to("../outside/startup")
    with pytest.raises(UnsafePath):
        disk.replace_file(root / "link", [b"x"])
    assert (root / "link").is_symlink()
    assert outside(root) == {"startup": "before\n"}


def test_folders_are_made_for_their_owner(root: Path, way: str):
    """Each missing one, and what is there already is kept."""
    for _ in range(2):
        with nofollow.open_folder(root / "a" / "b", make=True) as folder:
            assert sorted(folder.names()) == []
    assert stat.S_IMODE((root / "a").stat().st_mode) == stat.S_IMODE((root / "a" / "b").stat().st_mode) == 0o700
    with pytest.raises(FileNotFoundError), nofollow.open_folder(root / "none"):
        raise AssertionError
    with pytest.raises(OSError, match=r".") as caught, nofollow.open_folder(root / "plain"):
        raise AssertionError
    assert caught.value.errno == errno.ENOTDIR


def test_without_openat2_a_path_is_walked(root: Path, monkeypatch: pytest.MonkeyPatch):
    """A relative path too."""
    monkeypatch.setattr(nofollow, "find_openat2", lambda: None)
    monkeypatch.setattr(nofollow, "_NOFOLLOW_ANY", 0)
    monkeypatch.chdir(root)
    assert nofollow.read_file("plain") == b"plain"
    assert nofollow.check_file(Path("plain")) is not None


def test_a_temporary_folder_vanishes_with_its_files(root: Path, way: str):
    """Also after an error."""
    with contextlib.suppress(ZeroDivisionError), nofollow.temporary_folder(root, ".tmp-") as folder:
        (folder / "a").write_text("x")
        raise ZeroDivisionError
    assert [path.name for path in root.iterdir()] == ["plain"]


# -- what chora keeps ---------------------------------------------------------------------------------------------


async def emit(root: Path) -> None:
    events = Events(locate(root, "var/telemetry/events.jsonl"))
    events.emit_event("test", "ok")


async def lock(root: Path) -> None:
    async with FileLocks(root / ".chora" / "locks")(*map(str, range(1000))):
        pass


async def write_sqlite(root: Path) -> None:
    with contextlib.closing(open_store(root, StorageSettings())):
        pass


async def write_files(root: Path) -> None:
    with contextlib.closing(open_store(root, StorageSettings(backend="filesystem"))) as store:
        await store.save_draft(DRAFT)


async def back_up(root: Path) -> None:
    with contextlib.closing(SqliteStore(root.parent / "elsewhere.db")) as store:
        await make_backup(store, locate(root, ".chora/backups"))


async def load_settings(root: Path) -> None:
    settings.load(root, {})


from tests.store.test_contract import draft  # noqa: E402

DRAFT = draft("d", description="text")

PLACES: list[tuple[str, Callable[[Path], Any], type[Exception] | None]] = [
    ("var", emit, None),
    ("var/telemetry", emit, None),
    ("var/telemetry/events.jsonl", emit, None),
    (".chora", lock, PermissionDenied),
    (".chora/locks", lock, PermissionDenied),
    (".chora/locks/07", lock, PermissionDenied),
    (".chora", write_sqlite, StorageError),
    (".chora/storage.db", write_sqlite, StorageError),
    (".chora/storage.db-wal", write_sqlite, StorageError),
    (".chora/storage.db-shm", write_sqlite, StorageError),
    (".chora/storage.db-journal", write_sqlite, StorageError),
    (".chora/backups", back_up, StorageError),
    ("ephemeral", write_files, StorageError),
    ("ephemeral/.lock", write_files, StorageError),
    ("ephemeral/drafts", write_files, StorageError),
    ("ephemeral/drafts/d.json", write_files, StorageError),
    ("chora.toml", load_settings, UsageError),
]


@requirement("files.own-paths")
@pytest.mark.parametrize("kind", ["link", "pipe"])
@pytest.mark.parametrize(("place", "act", "error"), PLACES)
async def test_a_link_or_pipe_among_chora_s_own_files_is_refused(
    root: Path, way: str, caplog: pytest.LogCaptureFixture, place: str, act: Any, error: Any, kind: str
):
    """As a checkout or an archive may bring one; it is named, nothing is written through it, and nothing hangs."""
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    is_folder = "." not in Path(place).name.strip(".") and not place.endswith("07")
    if kind == "link":
        (root / place).symlink_to(root.parent / "outside" / ("" if is_folder else "startup"))
    else:
        os.mkfifo(root / place)
    with trio.fail_after(PATIENCE), pytest.raises(error) if error else contextlib.nullcontext() as caught:
        await act(root)
    said = str(caught.value) if caught else caplog.text
    refusal = f"{place} is a {'symbolic link' if kind == 'link' else 'pipe'}"
    assert refusal in said or (error == UsageError and "chora.toml can't be read: not a regular file" in said)
    if caught and isinstance(caught.value, ChoraError) and error != UsageError:
        assert "remove it" in str(caught.value.hint)
    assert outside(root) == {"startup": "before\n"}


@requirement("files.private")
async def test_what_chora_keeps_is_its_owner_s_alone(project: Project, ask: Asking):
    """The database with the files beside it, the events, locks and drafts: files 0600, folders 0700."""
    await ask("draft_config", config_type="content", config_data=content("a", pattern={"type": "jinja2"}))
    write_sample(project.root, INIT)
    await ask("assemble_artifact", artifact_config_id="hello")
    checked = 0
    for path in [*(project.root / ".chora").rglob("*"), *(project.root / "var").rglob("*"), project.root / ".chora"]:
        wanted = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path
        checked += 1
    assert checked > 6
    assert stat.S_IMODE((project.root / "outputs/hello.md").stat().st_mode) == 0o666 & ~umask()


def umask() -> int:
    os.umask(current := os.umask(0o022))
    return current


@requirement("files.private")
async def test_files_of_the_filesystem_backend_are_their_owner_s_alone(root: Path):
    """Whatever the umask."""
    before = os.umask(0)
    try:
        await write_files(root)
        await back_up(root)
        await emit(root)
    finally:
        os.umask(before)
    for top in ("ephemeral", ".chora", "var"):
        for path in (root / top, *(root / top).rglob("*")):
            assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


@requirement("files.private")
async def test_what_others_could_read_is_narrowed_at_start(root: Path, caplog: pytest.LogCaptureFixture):
    """As an earlier chora left it; the log says what was done."""
    await write_sqlite(root)
    await write_files(root)
    for path in (root / ".chora", root / "ephemeral"):
        path.chmod(0o755)
    (root / ".chora" / "storage.db").chmod(0o664)
    with caplog.at_level(logging.INFO, logger="chora"):
        await write_sqlite(root)
        await write_files(root)
    for path, mode in ((".chora", 0o700), ("ephemeral", 0o700), (".chora/storage.db", 0o600)):
        assert stat.S_IMODE((root / path).stat().st_mode) == mode
        assert f"{root / path} could be read by other users" in caplog.text


async def test_a_store_whose_permissions_can_t_be_narrowed_is_warned_about(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """It belongs to another account; the store is used all the same."""
    await write_sqlite(root)
    (root / ".chora" / "storage.db").chmod(0o644)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "chmod", refuse)
    await write_sqlite(root)
    assert "storage.db can be read by other users, and belongs to another one" in caplog.text


# -- completeness -------------------------------------------------------------------------------------------------

PACKAGE = Path(chora.__file__).parent
AUDIT = Path(__file__).with_name("audit")


class Audited:
    """Runs Python with an audit hook that reports every opening of a project's files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.elsewhere = root.parent / "elsewhere"  # the current folder, so that no path is relative to the project
        self.elsewhere.mkdir()
        self.report = root.parent / "report.txt"
        self.report.touch()

    @property
    def environment(self) -> dict[str, str]:
        facts = {"AUDIT_PROJECT": str(self.root), "AUDIT_REPORT": str(self.report), "AUDIT_PACKAGE": str(PACKAGE)}
        path = os.pathsep.join((str(AUDIT), str(PACKAGE.parent)))
        return {**os.environ, **facts, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}

    def start(self, *arguments: str, **how: Any) -> subprocess.Popen[str]:
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        pipes["text"] = True
        return subprocess.Popen(
            [sys.executable, *arguments], env=self.environment, cwd=self.elsewhere, **{**pipes, **how}
        )

    def run(self, *arguments: str, codes: tuple[int, ...] = (0,), stdin: str = "") -> str:
        with self.start(*arguments) as process:
            out, err = process.communicate(stdin, timeout=PATIENCE)
        assert process.returncode in codes, (arguments, out, err)
        return out

    def chora(self, *arguments: str, codes: tuple[int, ...] = (0,), stdin: str = "") -> str:
        return self.run("-m", "chora", "--project", str(self.root), *arguments, codes=codes, stdin=stdin)

    def lines(self, verdict: str) -> list[str]:
        return sorted({line for line in self.report.read_text().splitlines() if line.startswith(f"{verdict} ")})


@pytest.fixture
def audited(tmp_path: Path) -> Audited:
    root = tmp_path / "audited"
    root.mkdir()
    return Audited(root)


BYPASSES = [
    "open(PLACE)",
    "pathlib.Path(PLACE).read_bytes()",
    "pathlib.Path(PLACE).with_name('folder').mkdir()",
    "os.close(os.open('chora.toml', os.O_RDONLY, dir_fd=os.open(os.path.dirname(PLACE), os.O_RDONLY)))",
    "list(os.scandir(os.path.dirname(PLACE)))",
    "os.rename(PLACE, PLACE + '.new')",
    "os.unlink(PLACE)",
    "shutil.copyfile(PLACE, '/dev/null')",
    "apsw.Connection(PLACE + '.db').execute('CREATE TABLE t (a)')",
]


@pytest.mark.parametrize("statement", BYPASSES)
def test_the_audit_sees_a_bypass(audited: Audited, statement: str):
    """Else the next test would prove nothing."""
    (audited.root / "chora.toml").write_text("")
    code = f"import apsw, os, pathlib, shutil\nPLACE = {str(audited.root / 'chora.toml')!r}\n{statement}\n"
    audited.run("-c", f"exec(compile({code!r}, {str(PACKAGE / 'engine' / 'bypass.py')!r}, 'exec'))")
    assert audited.lines("bypass")


def calls() -> Iterator[tuple[str, dict[str, Any]]]:
    """One call of every tool that touches as much as it can."""
    note = content("note", pattern={"type": "jinja2", "template": "{{ 1 }}"})
    collection: dict[str, Any] = {"type": "collection", "id": "all", "name": "All", "members": []}
    collection["members"] = [{"id": "hello", "type": "artifact", "path": "hello.json"}]
    collection["output"] = {"base_path": "outputs/all"}
    yield "hello_world", {}
    for document in (note, collection):
        yield "draft_config", {"config_type": document["type"], "config_data": document}
    yield "test_config", {"draft_id": "DRAFT 0"}
    yield "save_config", {"draft_id": "DRAFT 0", "config_id": "note"}
    yield "save_config", {"draft_id": "DRAFT 1", "config_id": "all"}
    yield "modify_config", {"config_id": "note", "updates": {"metadata": {"description": "x"}}, "create_backup": True}
    for tool in ("preview_generation", "generate_content", "regenerate_content"):
        yield tool, {"content_config_id": "note"}
    yield "batch_generate", {"content_ids": ["note", "greeting"]}
    yield "assemble_artifact", {"artifact_config_id": "hello"}
    yield "trace_dependencies", {"artifact_config_id": "hello", "check_status": True}
    yield "validate_content", {"content_or_config_id": "note"}
    for tool in ("list_generators", "list_content", "list_artifacts", "list_content_configs", "list_artifact_configs"):
        yield tool, {}
    for tool in ("validate_collection_config", "list_collection_members", "check_collection_cache"):
        yield tool, {"collection_config_path": "all"}
    yield "generate_collection", {"collection_config_path": "all"}
    yield "check_freshness", {"collection_config_path": "all"}
    yield "list_collections", {}
    yield "get_config", {"config_id": "note"}
    yield "get_text", {"content_id": "note"}
    edited = {"path": "outputs/hello.md"}
    yield "list_edits", edited
    yield "settle_edit", {**edited, "action": "discard"}
    yield "cleanup_ephemeral", {"retention": {"keep_versions": 1}}
    yield "delete_content", {"content_id": "note", "force": True}


def ask_all(audited: Audited) -> set[str]:
    """Call every tool in one stdio session."""
    toolsets = [part for name in ("default", "reading", "edits") for part in ("--toolset", name)]
    with audited.start("-m", "chora", "--project", str(audited.root), "stdio", *toolsets, stderr=None) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def request(number: int, method: str, **params: Any) -> dict[str, Any]:
            assert process.stdin is not None
            assert process.stdout is not None
            message = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
            process.stdin.write(json.dumps(message) + "\n")
            process.stdin.flush()
            while True:
                answer = json.loads(process.stdout.readline())
                if answer.get("id") == number:
                    return answer["result"]

        client = {"name": "audit", "version": "1"}
        request(0, "initialize", protocolVersion="2025-06-18", capabilities={}, clientInfo=client)
        process.stdin.write('{"jsonrpc": "2.0", "method": "notifications/initialized"}\n')
        drafts: list[str] = []
        asked: set[str] = set()
        for number, (tool, arguments) in enumerate(calls(), 1):
            if str(arguments.get("draft_id", "")).startswith("DRAFT"):
                arguments["draft_id"] = drafts[int(arguments["draft_id"][-1])]
            if tool == "list_edits":
                (audited.root / arguments["path"]).write_text("edited by a person\n")
            result = request(number, "tools/call", name=tool, arguments=arguments)
            body = result["structuredContent"]
            assert body["success"] is True, (tool, body)
            drafts += [body["draft_id"]] if tool == "draft_config" else []
            asked.add(tool)
        for number, each in enumerate(request(1000, "resources/list")["resources"][:30], 1001):
            request(number, "resources/read", uri=each["uri"])
        process.stdin.close()
        assert process.wait(PATIENCE) == 0
    return asked


@requirement("files.own-paths")
@pytest.mark.slow("starts a process for each command")
@pytest.mark.parametrize("backend", ["sqlite", "filesystem"])
def test_every_file_of_a_project_is_opened_by_one_module(audited: Audited, backend: str):
    """Over all commands and tools, the audit hook finds no opening of a project's file elsewhere."""
    root = str(audited.root)
    run = audited.chora
    asked: set[str] = set()
    done = {"init", "stdio", "demo", "serve", "connect"}
    audited.run("-m", "chora", "init", root)
    (audited.root / "chora.toml").write_text(f'[storage]\nbackend = "{backend}"\n[backup]\nevery = 0.0001\n')
    asked |= ask_all(audited)
    audited.run("-m", "chora", "demo", str(audited.root / "demo"))
    serve_and_connect(audited)  # before there is a token, which each request would need from then on
    (audited.elsewhere / "old" / "configs").mkdir(parents=True)
    (audited.elsewhere / "context.json").write_text('{"name": "x"}')
    commands: dict[str, list[tuple[list[str], tuple[int, ...]]]] = {
        "call": [(["hello_world"], (0,))],
        "tools": [([], (0,))],
        "generate": [(["greeting", "-c", "@context.json"], (0,))],
        "assemble": [(["hello"], (0,)), (["hello", "--plan"], (0,))],
        "collect": [(["all"], (0,))],
        "preview": [(["greeting"], (0,))],
        "validate": [(["greeting"], (0,))],
        "freshness": [(["all"], (0, 1))],
        "trace": [(["hello"], (0,))],
        "jobs": [([], (0,))],
        "ls": [([], (0,))],
        "gc": [([], (0,)), (["--outputs"], (0,))],
        "schema": [(["content"], (0,))],
        "manual": [(["sources"], (0,))],
        "token": [(["new", "me"], (0,)), (["list"], (0,)), (["revoke", "me"], (0,))],
        "secrets": [(["list"], (0,)), (["check"], (0,))],
        "config": [([], (0,))],
        "migrate": [(["--to", "filesystem" if backend == "sqlite" else "sqlite"], (0,))],
        "import": [([str(audited.elsewhere / "old")], (0,))],
        "backup": [(["--keep", "2"], (0,))],
        "doctor": [([], (0,))],
        "version": [([], (0,))],
        "completion": [(["bash"], (0,))],
        "edits": [([], (0,))],
    }
    for command, ways in commands.items():
        for arguments, codes in ways:
            run(command, *arguments, codes=codes)
    backup, *_ = (audited.root / ".chora" / "backups").glob("storage-*.db")
    run("restore", str(backup))
    if backend == "sqlite":
        damaged = audited.root / ".chora" / "storage.db"
        data = bytearray(damaged.read_bytes())
        data[4096 * 3 : 4096 * 5] = b"\xff" * 8192
        damaged.write_bytes(data)
        run("doctor", "--repair", codes=(0, 1))
        run("restore", str(backup), "--salvage", str(audited.root / "salvaged.db"))
    assert asked == set(ALL_TOOLS)
    assert done | {"restore"} | set(commands) == set(COMMANDS)
    assert audited.lines("bypass") == []
    assert len(audited.lines("ok")) > 100


def serve_and_connect(audited: Audited) -> None:
    """Serve until a backup was made, with one call through `chora connect`."""
    with audited.start("-m", "chora", "--project", str(audited.root), "serve", "--port", "0") as server:
        assert server.stderr is not None
        try:
            line = next(line for line in server.stderr if " serves " in line)
            url = line.rsplit(" at ", 1)[1].strip()
            audited.run("-m", "chora", "call", "hello_world", "--url", f"{url}/mcp")
            audited.run("-m", "chora", "connect", f"{url}/mcp", stdin="")
            next(line for line in server.stderr if "wrote a backup" in line)
        finally:
            server.send_signal(signal.SIGTERM)
            server.communicate(timeout=PATIENCE)
        assert server.returncode == 0
