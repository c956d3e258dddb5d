"""What all tests share: a project on disk, the same opened, a server on a free port, and how pytest runs here."""

import base64
import contextlib
import functools
import json
import os
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import coverage
import httpx2
import hypothesis
import jsonschema
import msgspec
import pytest
import trio

from chora import app, settings
from chora.access import LOCAL, Principal
from chora.cli.samples import INIT, write_sample
from chora.engine.engine import Engine, open_engine
from chora.protocol.types import Call
from chora.tools import ALL_TOOLS, TOOLS
from tests.http_client import HttpTestClient
from tests.open_files import open_files_in
from tests.patience import PATIENCE, begin_test

requirement = pytest.mark.requirement
"""Cites the promises that a test proves, by their ids in `tests/requirements.py`: `@requirement("cache.force")`."""


ALONE = [Path(__file__).with_name(name) for name in ("hostile", "stress", "contract")]
"""Their tests start many processes, fill memory or measure time: they run one after the other (`just stress`)."""

SLOW = 2.0
"""Seconds; a test that takes longer on a quiet machine is marked `@pytest.mark.slow("reason")`."""

# `just test` must not fail by chance: its inputs are always the same; what `just fuzz` finds becomes an `@example`.
hypothesis.settings.register_profile("test", derandomize=True, max_examples=60, database=None, deadline=None)
hypothesis.settings.register_profile("fuzz", database=None, deadline=None, max_examples=1000, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("CHORA_HYPOTHESIS", "test"))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "requirement(*ids): the promises in tests/requirements.py that the test proves")
    config.addinivalue_line("markers", "slow(reason): takes more than two seconds, and why")
    config.addinivalue_line("markers", "stress: needs the machine to itself; run by `just stress`")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: many tests wait for other processes."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if any(item.path.is_relative_to(folder) for folder in ALONE):
            item.add_marker("stress")
        if item.get_closest_marker("stress"):
            item.user_properties.append(("slow", "stress"))
        if slow := item.get_closest_marker("slow"):
            item.user_properties.append(("slow", slow.args[0]))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Note when a test begins.

    And tell coverage which test runs, here and in the processes it starts, when `tests/mutants.py` wants to know it.
    """
    begin_test()
    if os.environ.get("CHORA_COVERAGE_CONTEXTS") and (measuring := coverage.Coverage.current()):
        context = f"stress {item.nodeid}" if item.get_closest_marker("stress") else item.nodeid
        measuring.switch_context(context)
        children = json.loads(base64.b64decode(os.environ["COVERAGE_PROCESS_CONFIG"]))
        children["context"] = context
        os.environ["COVERAGE_PROCESS_CONFIG"] = base64.b64encode(json.dumps(children).encode()).decode()


def unmeasured_environment() -> dict[str, str]:
    """The environment of a process that coverage doesn't measure.

    It would begin with coverage's handlers and imports; and where a thread ends it at once, coverage would write its
    data while the others go on, which crashes now and then.
    """
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List the tests that took long, each with its reason; having none is no failure, as the machine may be busy."""
    seconds: dict[str, float] = {}
    reasons: dict[str, Any] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                seconds[report.nodeid] = seconds.get(report.nodeid, 0.0) + report.duration
                if reason := dict(report.user_properties).get("slow"):
                    reasons[report.nodeid] = reason
    quick = {test for test, reason in reasons.items() if reason == "stress"}
    slow = sorted(
        ((taken, test) for test, taken in seconds.items() if taken > SLOW and test not in quick), reverse=True
    )
    if slow:
        terminalreporter.section(f"tests over {SLOW:.0f} s")
    for taken, test in slow:
        terminalreporter.line(f"{taken:6.1f} s  {test}: {reasons.get(test, 'NO REASON GIVEN')}")


SYSTEM_NAMES = ("LOG_LEVEL", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "CREDENTIALS_DIRECTORY")
"""Names of the environment that chora reads, beside those that begin with its own."""


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the settings or secrets of the user who runs it."""
    for name in list(os.environ):
        if name.startswith(("CHORA_", "MCP_", "ANTHROPIC_")) or name in SYSTEM_NAMES:
            monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")


def content(id: str, **rest: Any) -> dict[str, Any]:
    """A content config; `pattern` and `sources` are put where they belong."""
    document: dict[str, Any] = {
        "type": "content",
        "id": id,
        "schemaRef": {"id": "content-schema", "version": "3.1"},
        "metadata": {"description": f"About {id}", "version": "1.0.0"},
    }
    if "pattern" in rest:
        document["generation"] = {"patterns": [{"id": "make", **rest.pop("pattern")}]}
    if "sources" in rest:
        document["inputs"] = {"sources": rest.pop("sources")}
    return {**document, **rest}


def artifact(id: str, children: list[dict[str, Any]], *outputs: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    """An artifact config of the children, written to `outputs/ID.md` by default.

    Its files have the final newline that the texts have, unless an output says otherwise.
    """
    written = list(outputs) or [{"file": f"outputs/{id}.md", "format": "markdown"}]
    return {
        "type": "artifact",
        "id": id,
        "schemaRef": {"id": "artifact-schema", "version": "3.1"},
        "metadata": {
            "title": id,
            "purpose": "For the tests",
            "outputs": [{"final_newline": "keep", **output} for output in written],
            **metadata,
        },
        "content": {"children": children},
    }


def text(id: str, body: str) -> dict[str, Any]:
    """A content config that shows one literal text."""
    return content(id, elements=[{"name": "body", "format": "text", "example_output": body}])


def child(id: str, **rest: Any) -> dict[str, Any]:
    """A child of an artifact, by the flat layout's path."""
    return {"id": id, "path": f"configs/content/{id}.json", **rest}


class Project:
    """A project folder, and hands to put things into it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def save(self, *documents: dict[str, Any]) -> None:
        """Write configs in the flat layout."""
        for document in documents:
            self.write(f"configs/{document['type']}/{document['id']}.json", msgspec.json.encode(document).decode())

    def write(self, path: str, body: str | bytes) -> Path:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(body.encode() if isinstance(body, str) else body)
        return target

    def read(self, path: str) -> str:
        return (self.root / path).read_text("utf-8")

    def files(self) -> dict[str, bytes]:
        """Everything in the project but the database and the events, to see that nothing changed."""
        return {
            str(file.relative_to(self.root)): file.read_bytes()
            for file in sorted(self.root.rglob("*"))
            if file.is_file() and file.relative_to(self.root).parts[0] not in (".chora", ".chora-store", "var")
        }


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """An empty project with strict templates."""
    root = tmp_path / "project"
    root.mkdir()
    (root / "chora.toml").write_text("")
    return Project(root)


@pytest.fixture
def hello(project: Project) -> Project:
    """The project that `chora init` makes: content `greeting`, artifact `hello`."""
    write_sample(project.root, INIT)
    return project


@pytest.fixture
async def engine(project: Project) -> AsyncGenerator[Engine]:
    """The project, opened; when it is closed, nothing in it is open any more."""
    async with open_engine(project.root, settings.load(project.root, {}).settings) as opened:
        yield opened
    assert open_files_in(project.root) == []


Serve = Callable[..., AbstractAsyncContextManager[app.RunningServer]]


@pytest.fixture
def serve() -> Serve:
    """Start a server in this process: `async with serve(root, {"limits.body": 2048}) as opened`."""

    @asynccontextmanager
    async def start(root: Path, flags: dict[str, Any] | None = None) -> AsyncGenerator[app.RunningServer]:
        loaded = settings.load(root, {}, {"http.port": 0, "limits.grace": 1.0, **(flags or {})})
        async with trio.open_nursery() as nursery:
            opened = await nursery.start(partial(app.run_server, root, loaded))
            yield opened
            nursery.cancel_scope.cancel()

    return start


OpenHttpClient = Callable[..., AbstractAsyncContextManager[HttpTestClient]]


@pytest.fixture
def http_client(hello: Project, serve: Serve) -> OpenHttpClient:
    """Serve the sample project over HTTP and connect a client to it; settings as `section__key=value`."""

    @asynccontextmanager
    async def start(**flags: Any) -> AsyncGenerator[HttpTestClient]:
        settings = {name.replace("__", "."): value for name, value in flags.items()}
        with trio.fail_after(PATIENCE):
            async with (
                serve(hello.root, settings) as opened,
                httpx2.AsyncClient(base_url=opened.url, timeout=PATIENCE) as http,
            ):
                yield HttpTestClient(http, opened)

    return start


def file_identity(path: Path) -> tuple[int, int, int]:
    """What shows that a file was written again; when it was last read doesn't count."""
    status = path.stat()
    return status.st_ino, status.st_mtime_ns, status.st_size


@contextlib.contextmanager
def unchanged(project: Project) -> Generator[None]:
    """Whatever happens inside leaves every file as it was."""
    before = project.files()
    yield
    assert project.files() == before


@functools.cache
def answer_schema(tool: str) -> jsonschema.Draft202012Validator:
    """What holds a tool's answers to its published schema; making one takes longer than most calls."""
    return jsonschema.Draft202012Validator(ALL_TOOLS[tool].output_schema)


class Asking:
    """Calls tools as a client would, and holds every answer to its published schema."""

    def __init__(self, engine: Engine, principal: Principal = LOCAL) -> None:
        self.engine = engine
        self.principal = principal

    async def __call__(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """The result of a call that succeeds."""
        body = await self.answer(tool, arguments)
        assert body["success"] is True, body
        return body

    async def refused(self, tool: str, code: str, **arguments: Any) -> dict[str, Any]:
        """The error of a call that fails with this code; it names a next step."""
        body = await self.answer(tool, arguments)
        assert body["success"] is False, body
        error = body["error"]
        assert error["code"] == code, error
        assert error["message"].endswith((".", "”", "`")), error
        assert error["hint"], error
        return error

    async def answer(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        call = Call("test", len(TOOLS), principal=self.principal)
        answer = await ALL_TOOLS[tool].run_tool(self.engine, msgspec.json.encode(arguments), call)
        # No client learns where on the machine the project is.
        assert str(self.engine.folder.root).encode() not in answer.body
        body = msgspec.json.decode(answer.body)
        answer_schema(tool).validate(body)
        assert answer.is_error is not body["success"]
        outcome = "running" if body.get("status") == "running" else "ok"
        assert answer.code == (outcome if body["success"] else body["error"]["code"])
        return body


@pytest.fixture
def ask(engine: Engine) -> Asking:
    """`await ask("hello_world", name="you")` gives the result, `await ask.refused(tool, code, …)` the error."""
    return Asking(engine)
