"""The event file: one line for each event, however the file fails."""

import errno
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from chora import events as module
from chora.errors import StorageError
from chora.events import BATCH_ROWS, ROWS_LIMIT, Events, redact_secrets
from chora.request_context import trace_id
from chora.store import SqliteStore
from chora.store.records import Event
from tests.conftest import Asking, Project, requirement, text
from tests.patience import PATIENCE

Log = pytest.LogCaptureFixture


def lines(path: Path) -> list[dict[str, Any]]:
    text = path.read_bytes()
    assert text.endswith(b"\n")
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An event file that isn't there yet, in a folder that isn't either."""
    return tmp_path / "var" / "telemetry" / "events.jsonl"


@requirement("events.lines")
def test_an_event_is_a_line(path: Path):
    """Time, trace, type, version and outcome come first, then the facts; the folder is created."""
    Events(path).emit_event(
        "content_generated", "success", content_config_id="tides", duration_ms=3, error_message=None
    )
    (event,) = lines(path)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event.pop("timestamp"))
    assert list(event.items()) == [
        ("trace_id", None),
        ("event_type", "chora.content_generated"),
        ("schema_version", "1.0"),
        ("status", "success"),
        ("content_config_id", "tides"),
        ("duration_ms", 3),
        ("error_message", None),
    ]


@requirement("events.lines")
def test_events_are_appended(path: Path):
    """Earlier lines stay, also those of an earlier process."""
    path.parent.mkdir(parents=True)
    path.write_text('{"event_type":"chora.old"}\n')
    events = Events(path)
    events.emit_event("one", "success")
    events.emit_event("two", "error", error_message="first line\nsecond line")
    assert [event["event_type"] for event in lines(path)] == ["chora.old", "chora.one", "chora.two"]


def test_without_a_file_nothing_is_written():
    """A project without an event file works as well."""
    Events(None).emit_event("one", "success")


def test_the_trace_is_read_from_the_environment_each_time(path: Path, monkeypatch: pytest.MonkeyPatch):
    """A script may set CHORA_TRACE_ID anew for each run; an empty one doesn't count."""
    events = Events(path)
    for named in ("first", "second", ""):
        monkeypatch.setenv("CHORA_TRACE_ID", named)
        events.emit_event("one", "success")
    assert [event["trace_id"] for event in lines(path)] == ["first", "second", None]


@requirement("events.trace-id")
def test_a_request_has_a_trace_of_its_own(path: Path, monkeypatch: pytest.MonkeyPatch):
    """A trace among the facts wins over the request's, and that over the environment's."""
    monkeypatch.setenv("CHORA_TRACE_ID", "environment")
    events = Events(path)
    token = trace_id.set("request")
    events.emit_event("one", "success", trace_id="fact")
    events.emit_event("one", "success")
    trace_id.reset(token)
    events.emit_event("one", "success")
    assert [event["trace_id"] for event in lines(path)] == ["fact", "request", "environment"]


def test_bytes_that_are_not_utf_8_are_escaped(path: Path, monkeypatch: pytest.MonkeyPatch):
    """In the environment or in a message, they don't fail the work that the event is about."""
    monkeypatch.setenv("CHORA_TRACE_ID", "run-\udcff")
    Events(path).emit_event("one", "error", error_message="no file \udcfe.md")
    (event,) = lines(path)
    assert (event["trace_id"], event["error_message"]) == ("run-\\udcff", "no file \\udcfe.md")


@pytest.mark.parametrize("torn", ['{"event_type":"chora.o', "{", '{"event_type":"chora.old"}'])
def test_an_incomplete_line_does_not_spoil_the_next_event(path: Path, torn: str):
    """A process that died within a line leaves one that can't be read; the next event starts a new line."""
    path.parent.mkdir(parents=True)
    path.write_text(torn)
    events = Events(path)
    events.emit_event("one", "success")
    events.emit_event("two", "success")
    first, *rest = path.read_text().splitlines()
    assert first == torn
    assert [json.loads(line)["event_type"] for line in rest] == ["chora.one", "chora.two"]


def test_a_partial_write_is_a_failure(path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Log):
    """A disk that fills up within a line is logged, and the next event starts a new line."""
    events = Events(path)
    write = os.write
    with monkeypatch.context() as full:
        full.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:20]))
        events.emit_event("lost", "success")
    assert [record.getMessage() for record in caplog.records] == [
        f"events are not being written to {path}: {os.strerror(errno.ENOSPC)}"
    ]
    events.emit_event("kept", "success")
    torn, kept = path.read_text().splitlines()
    assert len(torn) == 20
    assert json.loads(kept)["event_type"] == "chora.kept"


def test_a_failing_file_is_logged_once(path: Path, caplog: Log):
    """However many events are lost, the work goes on and the log has one line; after a recovery, one more."""
    path.mkdir(parents=True)
    events = Events(path)
    for _ in range(3):
        events.emit_event("lost", "success")
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert str(path) in caplog.text
    path.rmdir()
    events.emit_event("kept", "success")
    assert [event["event_type"] for event in lines(path)] == ["chora.kept"]
    assert len(caplog.records) == 1
    path.unlink()
    path.mkdir()
    for _ in range(3):
        events.emit_event("lost", "success")
    assert len(caplog.records) == 2


@requirement("events.never-fail")
def test_a_file_where_a_folder_should_be_fails_nothing(path: Path, caplog: Log):
    """The event file may be unwritable; the work isn't affected."""
    path.parent.parent.write_text("not a folder")
    Events(path).emit_event("lost", "success")
    assert len(caplog.records) == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
async def test_a_pipe_without_a_reader_stalls_nothing(path: Path, caplog: Log):
    """Writing to a pipe never waits for its reader; what doesn't fit is dropped, and logged once."""
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    events = Events(path)

    def emit() -> None:
        for _ in range(3):
            events.emit_event("one", "success", text="x" * 70_000)  # more than a pipe holds

    with trio.fail_after(PATIENCE):
        await trio.to_thread.run_sync(emit, abandon_on_cancel=True)
    assert len(caplog.records) == 1


def test_processes_don_t_mix_their_lines(path: Path):
    """Two processes that write at once each keep every line whole."""
    program = (
        "import sys; from pathlib import Path; from chora.events import Events\n"
        "events = Events(Path(sys.argv[1])); sys.stdin.read(1)\n"
        "for number in range(300):\n"
        "    events.emit_event('tested', 'success', by=sys.argv[2], number=number, text='x' * 500)\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", program, path, name], stdin=subprocess.PIPE) for name in ("a", "b")
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=PATIENCE)
    assert [process.returncode for process in processes] == [0, 0]
    for name in ("a", "b"):
        assert [event["number"] for event in lines(path) if event["by"] == name] == list(range(300))


# -- rows -------------------------------------------------------------------------------------------------------


class Slow(SqliteStore):
    """A store whose event table fails, or takes its time."""

    def __init__(self) -> None:
        super().__init__(None)
        self.batches: list[int] = []
        self.broken = False
        self.may_write: trio.Event | None = None

    async def add_events(self, events: Any) -> None:
        self.batches.append(len(events))
        if self.may_write is not None:
            await self.may_write.wait()
        if self.broken:
            raise StorageError("The disk is full.", None)
        await super().add_events(events)


async def serving(events: Events, store: SqliteStore, nursery: trio.Nursery) -> None:
    await nursery.start(events.serve, store)


async def stored(store: SqliteStore, count: int) -> list[Event]:
    with trio.fail_after(PATIENCE):
        while len(found := store.events(limit=100_000)) < count:
            await trio.sleep(0.02)
    return found


async def test_an_event_is_also_a_row(path: Path):
    """With the same time, type, outcome, trace and facts as the line in the file."""
    events, store = Events(path), SqliteStore(None)
    async with trio.open_nursery() as nursery:
        await serving(events, store, nursery)
        events.emit_event("content_generated", "success", content_config_id="tides", trace_id="t-1")
        (row,) = await stored(store, 1)
        (line,) = lines(path)
        assert (row.at, row.kind, row.status) == (line["timestamp"], line["event_type"], "success")
        assert (row.trace_id, row.facts) == ("t-1", {"content_config_id": "tides"})
        nursery.cancel_scope.cancel()
    store.close()


async def test_rows_are_stored_without_an_event_file():
    """The store and the file are independent of each other."""
    events, store = Events(None), SqliteStore(None)
    async with trio.open_nursery() as nursery:
        await serving(events, store, nursery)
        events.emit_event("one", "success")
        nursery.cancel_scope.cancel()
    assert len(store.events()) == 1
    store.close()


async def test_the_last_rows_are_stored_before_the_end(path: Path):
    """A process that runs one command and exits stores all its events, in few transactions."""
    events, store = Events(None), Slow()
    async with trio.open_nursery() as nursery:
        await serving(events, store, nursery)
        for number in range(BATCH_ROWS * 2 + 1):
            events.emit_event("one", "success", number=number)
        nursery.cancel_scope.cancel()
    assert store.batches == [BATCH_ROWS, BATCH_ROWS, 1]
    assert sorted(row.facts["number"] for row in store.events(limit=10_000)) == list(range(BATCH_ROWS * 2 + 1))
    events.emit_event("late", "success")
    assert events.dropped == 0
    store.close()


async def test_a_tool_run_on_the_command_line_leaves_rows(project: Project, ask: Asking):
    """The engine's own events reach its own store."""
    await ask.refused("generate_content", "config_not_found", content_config_id="missing")
    project.save(text("note", "Hello."))
    await ask("generate_content", content_config_id="note")
    (row,) = [each for each in await stored_in(ask) if each.kind == "chora.content_generated"]
    assert row.facts["content_config_id"] == "note"


async def stored_in(ask: Asking) -> list[Event]:
    with trio.fail_after(PATIENCE):
        while not (found := ask.engine.store.events()):
            await trio.sleep(0.02)
    return found


async def test_a_failing_store_fails_no_work(caplog: Log):
    """It is logged once and counted, and the rows are tried again with the next events."""
    events, store = Events(None), Slow()
    store.broken = True
    async with trio.open_nursery() as nursery:
        await serving(events, store, nursery)
        for round in range(1, 3):
            events.emit_event("lost", "success")
            with trio.fail_after(PATIENCE):
                while events.dropped < round:
                    await trio.sleep(0.02)
        assert [record.getMessage() for record in caplog.records] == [
            "events are missing from the store: The disk is full."
        ]
        store.broken = False
        events.emit_event("kept", "success")
        (row,) = await stored(store, 1)
        assert row.kind == "chora.kept"
        store.broken = True
        events.emit_event("lost again", "success")
        with trio.fail_after(PATIENCE):
            while events.dropped < 3:
                await trio.sleep(0.02)
        assert len(caplog.records) == 2, "once it worked, the next failure is news"
        nursery.cancel_scope.cancel()
    store.close()


async def test_rows_beyond_the_queue_limit_are_dropped_and_counted(path: Path, caplog: Log):
    """Memory stays bounded while the store hangs: 10,000 rows wait; the file has every line."""
    assert ROWS_LIMIT == 10_000
    events, store = Events(path), Slow()
    store.may_write = trio.Event()
    async with trio.open_nursery() as nursery:
        await serving(events, store, nursery)
        for _ in range(ROWS_LIMIT + 7):
            events.emit_event("one", "success")
        assert events.dropped == 7
        store.may_write.set()
        nursery.cancel_scope.cancel()
    assert len(lines(path)) == ROWS_LIMIT + 7
    assert len(store.events(limit=100_000)) == ROWS_LIMIT
    assert len(caplog.records) == 1
    store.close()


async def test_a_hanging_store_does_not_delay_the_shutdown_for_ever(caplog: Log, monkeypatch: pytest.MonkeyPatch):
    """After a timeout the queued rows are dropped."""
    monkeypatch.setattr(module, "STORE_TIMEOUT", 0.1)
    events, store = Events(None), Slow()
    store.may_write = trio.Event()
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            await serving(events, store, nursery)
            for _ in range(BATCH_ROWS + 1):
                events.emit_event("one", "success")
            nursery.cancel_scope.cancel()
    assert events.dropped == BATCH_ROWS + 1
    assert "too long" in caplog.text
    store.close()


# -- secrets ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key",
    [
        "key",
        "api_key",
        "apiKey",
        "API-KEY",
        "apikey",
        "OPENAI_API_KEY",
        "x.token",
        "accessToken",
        "secret",
        "clientSecret",
        "DB_PASSWORD",
        "password",
        "credentials",
        "Authorization",
        "keys",
        "myAPIKey",
    ],
)
def test_values_under_secret_names_are_redacted(key: str):
    """At any depth, whatever the value is."""
    assert redact_secrets({key: "sk-1"}) == {key: "***"}
    assert redact_secrets([{"a": ({key: {"deep": ["x"]}},)}]) == [{"a": [{key: "***"}]}]
    assert redact_secrets({key: None}) == {key: "***"}


@pytest.mark.parametrize(
    "key", ["monkey", "keyboard", "keynote", "tokenizer", "secretary", "turkey", "passworded", "a"]
)
def test_names_that_only_contain_a_secret_word_are_not_redacted(key: str):
    """`monkey` contains `key`."""
    assert redact_secrets({key: "Ada"}) == {key: "Ada"}


def test_counts_are_not_redacted():
    """A number under `tokens` is a count; one under a singular name may be a PIN."""
    assert redact_secrets({"input_tokens": 12, "max_tokens": 0.5}) == {"input_tokens": 12, "max_tokens": 0.5}
    assert redact_secrets({"password": 1234, "tokens": True}) == {"password": "***", "tokens": "***"}


def test_data_nested_too_deep_is_redacted():
    """So that the recursion is bounded: 64 levels are not."""
    for wrap in (lambda value: {"a": value}, lambda value: [value]):  # pyright: ignore[reportUnknownLambdaType]
        level: Any = "x"
        for _ in range(64):
            level = wrap(level)
        assert redact_secrets(level) == level
        assert "x" not in str(redact_secrets(wrap(level)))
    deep: Any = "x"
    for level in range(1000):
        deep = {"a": deep} if level % 2 else [deep]
    assert "***" in str(redact_secrets(deep))
    assert "x" not in str(redact_secrets(deep))


_values = st.recursive(
    st.none() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=20,
)


@given(_values)
def test_redaction_changes_nothing_else(value: Any):
    """Data without such keys is unchanged, and the original is never modified."""
    before = json.dumps(value)
    result = redact_secrets(value)
    assert json.dumps(value) == before
    if not re.search(r"key|token|secret|password|credential|authorization", before, re.IGNORECASE):
        assert result == value


@requirement("events.redacted")
def test_an_events_context_has_no_secrets(path: Path):
    """The context in an event is redacted."""
    Events(path).emit_event("one", "success", context={"title": "Tides", "api_key": "sk-1"})
    (event,) = lines(path)
    assert event["context"] == {"title": "Tides", "api_key": "***"}
