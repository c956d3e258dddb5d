"""What the log looks like."""

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from chora.errors import UsageError
from chora.logs import start_logging
from chora.settings import LogSettings


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Leaves no handler and no level behind."""
    root, ours = logging.getLogger(), logging.getLogger("chora")
    levels = root.level, ours.level
    yield
    root.handlers[:] = [handler for handler in root.handlers if type(handler) is not logging.StreamHandler]
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


Shown = pytest.CaptureFixture[str]


def test_text_is_a_line_for_people(capsys: Shown):
    """Time of day, level and message, and nothing on stdout."""
    start_logging(LogSettings())
    logging.getLogger("chora.engine").info("made %s", "tides")
    logging.getLogger("chora.engine").warning("odd")
    out, err = capsys.readouterr()
    first, second = err.splitlines()
    assert out == ""
    assert re.fullmatch(r"\d\d:\d\d:\d\d INFO    made tides", first)
    assert re.fullmatch(r"\d\d:\d\d:\d\d WARNING odd", second)


def test_every_line_bears_its_own_second(capsys: Shown):
    """Also when seconds went by between two lines, or none did."""
    start_logging(LogSettings())
    (handler,) = logging.getLogger().handlers
    for created in (1_800_000_000.9, 1_800_000_001.0, 1_800_000_001.5):
        record = logging.makeLogRecord({"msg": "tick", "levelname": "INFO", "created": created})
        handler.handle(record)
    seconds = [line.split()[0][-2:] for line in capsys.readouterr().err.splitlines()]
    assert seconds == ["00", "01", "01"]


def test_json_is_an_object_per_line(capsys: Shown):
    """Collectors get time, level, logger and message, each record on one line whatever it holds."""
    start_logging(LogSettings(format="json"))
    logging.getLogger("chora.store").info("two\nlines of %s", '"text" \udcff')
    (line,) = capsys.readouterr().err.splitlines()
    record = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", record.pop("at"))
    assert record == {"level": "INFO", "logger": "chora.store", "message": 'two\nlines of "text" \\udcff'}


@pytest.mark.parametrize("format", ["text", "json"])
def test_an_exception_brings_its_traceback(capsys: Shown, format: str):
    """What went wrong inside is in the log in full."""
    start_logging(LogSettings(format=format))  # type: ignore[arg-type]
    try:
        raise RuntimeError("broken inside")
    except RuntimeError:
        logging.getLogger("chora.tools").exception("incident %s", "0a1b")
    shown = capsys.readouterr().err
    if format == "json":
        record = json.loads(shown)
        message, traceback = record["message"], record["traceback"]
    else:
        message, _, traceback = shown.partition("\n")
    assert message.endswith("incident 0a1b")
    assert traceback.lstrip().startswith("Traceback (most recent call last)")
    assert traceback.rstrip().endswith("RuntimeError: broken inside")


@pytest.mark.parametrize(("level", "shown"), [("DEBUG", 4), ("INFO", 3), ("WARNING", 2), ("ERROR", 1)])
def test_the_level_is_the_least_that_shows(capsys: Shown, level: str, shown: int):
    """Records of chora below the level don't appear."""
    start_logging(LogSettings(level=level))  # type: ignore[arg-type]
    log = logging.getLogger("chora.watch")
    for say in (log.debug, log.info, log.warning, log.error):
        say("something")
    assert len(capsys.readouterr().err.splitlines()) == shown


def test_libraries_keep_quiet_below_warning(capsys: Shown):
    """What others log while all goes well isn't ours to show, not even when debugging."""
    start_logging(LogSettings(level="DEBUG"))
    logging.getLogger("hypercorn").info("chatter")
    logging.getLogger("hypercorn").warning("trouble")
    assert [line[9:] for line in capsys.readouterr().err.splitlines()] == ["WARNING trouble"]


def test_starting_again_replaces_the_handler(capsys: Shown):
    """Two starts in one process don't write everything twice."""
    start_logging(LogSettings())
    start_logging(LogSettings(format="json"))
    logging.getLogger("chora").warning("once")
    assert json.loads(capsys.readouterr().err)["message"] == "once"


def test_the_log_goes_to_a_file(tmp_path: Path, capsys: Shown):
    """It is appended to, in a folder that is made, and stderr stays empty; no link is followed."""
    file = tmp_path / "logs/chora.log"
    for message in ("one", "two"):
        start_logging(LogSettings(file=str(file)))
        logging.getLogger("chora").info(message)
    start_logging(LogSettings())
    assert [line.rpartition(" ")[2] for line in file.read_text().splitlines()] == ["one", "two"]
    assert "one" not in capsys.readouterr().err
    (tmp_path / "link.log").symlink_to(file)
    (tmp_path / "link").symlink_to(tmp_path / "logs")
    for wrong in (tmp_path / "link.log", tmp_path / "link/other.log", tmp_path):
        with pytest.raises(UsageError, match="can't be written"):
            start_logging(LogSettings(file=str(wrong)))
