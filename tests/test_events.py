"""The event file: one line for each thing that happened, whatever happened to the file."""

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

from chora.events import Events

Log = pytest.LogCaptureFixture


def lines(path: Path) -> list[dict[str, Any]]:
    text = path.read_bytes()
    assert text.endswith(b"\n")
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An event file that isn't there yet, in a folder that isn't either."""
    return tmp_path / "var" / "telemetry" / "events.jsonl"


def test_an_event_is_a_line(path: Path):
    """Time, trace, type and outcome come first, then the facts; the folder is made."""
    Events(path).emit("content_generated", "success", content_config_id="tides", duration_ms=3, error_message=None)
    (event,) = lines(path)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event.pop("timestamp"))
    assert list(event.items()) == [
        ("trace_id", None),
        ("event_type", "chora.content_generated"),
        ("status", "success"),
        ("content_config_id", "tides"),
        ("duration_ms", 3),
        ("error_message", None),
    ]


def test_events_are_appended(path: Path):
    """Earlier lines stay, also those of an earlier process."""
    path.parent.mkdir(parents=True)
    path.write_text('{"event_type":"chora.old"}\n')
    events = Events(path)
    events.emit("one", "success")
    events.emit("two", "error", error_message="first line\nsecond line")
    assert [event["event_type"] for event in lines(path)] == ["chora.old", "chora.one", "chora.two"]


def test_nobody_is_told_without_a_file():
    """A project without an event file costs nothing and fails nothing."""
    Events(None).emit("one", "success")


def test_the_trace_is_the_one_of_the_moment(path: Path, monkeypatch: pytest.MonkeyPatch):
    """A script may set CHORA_TRACE_ID anew for each run; an empty one is none."""
    events = Events(path)
    for trace in ("first", "second", ""):
        monkeypatch.setenv("CHORA_TRACE_ID", trace)
        events.emit("one", "success")
    assert [event["trace_id"] for event in lines(path)] == ["first", "second", None]


def test_what_isn_t_text_is_escaped(path: Path, monkeypatch: pytest.MonkeyPatch):
    """Bytes that no text has, in the environment or in a message, don't fail the work that is told of."""
    monkeypatch.setenv("CHORA_TRACE_ID", "run-\udcff")
    Events(path).emit("one", "error", error_message="no file \udcfe.md")
    (event,) = lines(path)
    assert (event["trace_id"], event["error_message"]) == ("run-\\udcff", "no file \\udcfe.md")


@pytest.mark.parametrize("torn", ['{"event_type":"chora.o', "{", '{"event_type":"chora.old"}'])
def test_half_a_line_of_a_crash_swallows_nothing(path: Path, torn: str):
    """A process that died within a line leaves one that can't be read; the next event has one of its own."""
    path.parent.mkdir(parents=True)
    path.write_text(torn)
    events = Events(path)
    events.emit("one", "success")
    events.emit("two", "success")
    first, *rest = path.read_text().splitlines()
    assert first == torn
    assert [json.loads(line)["event_type"] for line in rest] == ["chora.one", "chora.two"]


def test_a_line_that_fits_only_half_is_a_failure(path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Log):
    """A disk that fills up within a line is told in the log, and the next event begins on a new line."""
    events = Events(path)
    write = os.write
    with monkeypatch.context() as full:
        full.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:20]))
        events.emit("lost", "success")
    assert [record.getMessage() for record in caplog.records] == [
        f"events are not being written to {path}: {os.strerror(errno.ENOSPC)}"
    ]
    events.emit("kept", "success")
    torn, kept = path.read_text().splitlines()
    assert len(torn) == 20
    assert json.loads(kept)["event_type"] == "chora.kept"


def test_a_failing_file_is_complained_of_once(path: Path, caplog: Log):
    """However many events are lost, the work goes on and the log has one line; after a recovery, one more."""
    path.mkdir(parents=True)
    events = Events(path)
    for _ in range(3):
        events.emit("lost", "success")
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert str(path) in caplog.text
    path.rmdir()
    events.emit("kept", "success")
    assert [event["event_type"] for event in lines(path)] == ["chora.kept"]
    assert len(caplog.records) == 1
    path.unlink()
    path.mkdir()
    for _ in range(3):
        events.emit("lost", "success")
    assert len(caplog.records) == 2


def test_a_file_where_a_folder_should_be_fails_nothing(path: Path, caplog: Log):
    """The way to the event file may be blocked; the work doesn't hear of it."""
    path.parent.parent.write_text("not a folder")
    Events(path).emit("lost", "success")
    assert len(caplog.records) == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
async def test_a_pipe_that_nobody_reads_stalls_nothing(path: Path, caplog: Log):
    """Events sent to a pipe never wait for its reader; what doesn't fit is lost, and complained of once."""
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    events = Events(path)

    def emit() -> None:
        for _ in range(3):
            events.emit("one", "success", text="x" * 70_000)  # more than a pipe holds

    with trio.fail_after(5):
        await trio.to_thread.run_sync(emit, abandon_on_cancel=True)
    assert len(caplog.records) == 1


def test_processes_don_t_mix_their_lines(path: Path):
    """Two processes that tell at once each keep every line whole."""
    program = (
        "import sys; from pathlib import Path; from chora.events import Events\n"
        "events = Events(Path(sys.argv[1])); sys.stdin.read(1)\n"
        "for number in range(300): events.emit('told', 'success', by=sys.argv[2], number=number, text='x' * 500)\n"
    )
    told = [subprocess.Popen([sys.executable, "-c", program, path, name], stdin=subprocess.PIPE) for name in ("a", "b")]
    for process in told:
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
    for process in told:
        process.communicate(timeout=30)
    assert [process.returncode for process in told] == [0, 0]
    for name in ("a", "b"):
        assert [event["number"] for event in lines(path) if event["by"] == name] == list(range(300))
