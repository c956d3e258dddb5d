"""Where settings come from, and what is refused on the way."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from chora import settings
from chora.errors import UsageError
from chora.old_settings import OLD_NAMES, SUCCEEDED_NAMES
from chora.settings import HttpSettings, Settings, load
from tests.conftest import requirement
from tests.odd_files import put_odd_file

Environment = dict[str, str]


def value(loaded: settings.LoadedSettings, key: str) -> Any:
    section, _, field = key.partition(".")
    return getattr(getattr(loaded.settings, section), field)


def toml(folder: Path, text: str | bytes) -> Path:
    (folder / "chora.toml").write_bytes(text.encode() if isinstance(text, str) else text)
    return folder


def refused(folder: Path, env: Environment | None = None, flags: dict[str, Any] | None = None) -> UsageError:
    with pytest.raises(UsageError) as caught:
        load(folder, env or {}, flags)
    return caught.value


# -- layers -----------------------------------------------------------------------------------------------------


def test_without_anything_all_is_default(tmp_path: Path):
    """An empty chora.toml gives the settings as they are written in the code, and says so of each."""
    loaded = load(toml(tmp_path, ""), {})
    assert loaded.settings == Settings()
    assert set(loaded.origins.values()) == {"default"}
    assert loaded.warnings == []


LAYERS: list[tuple[str, int, str]] = [
    ("nothing", 8000, "default"),
    ("file", 1001, "chora.toml:2"),
    ("old name", 1002, "CHORA_COMPOSE_MCP_PORT"),
    ("later old name", 1003, "MCP_SERVER_PORT"),
    ("name", 1004, "CHORA_HTTP_PORT"),
    ("flag", 1005, "--port"),
]


@pytest.mark.parametrize("highest", range(len(LAYERS)), ids=[layer[0] for layer in LAYERS])
def test_a_later_layer_wins(tmp_path: Path, highest: int):
    """defaults < chora.toml < old names < CHORA_* < flags, and the origin names the layer."""
    folder = toml(tmp_path, "[http]\nport = 1001\n" if highest >= 1 else "")
    names = ["CHORA_COMPOSE_MCP_PORT", "MCP_SERVER_PORT", "CHORA_HTTP_PORT"]
    env = {name: str(1002 + index) for index, name in enumerate(names) if highest >= 2 + index}
    flags = {"http.port": 1005 if highest >= 5 else None, "http.host": None}
    loaded = load(folder, dict(reversed(env.items())), flags)
    assert (loaded.settings.http.port, loaded.origins["http.port"]) == LAYERS[highest][1:]
    assert (loaded.settings.http.host, loaded.origins["http.host"]) == ("127.0.0.1", "default")


def test_a_higher_layer_wins_also_without_the_ones_between(tmp_path: Path):
    """A flag stands over the file when the environment says nothing; other keys of the section stay."""
    folder = toml(tmp_path, '[limits]\nbody = 2048\nwrite_stall = 2\n[http]\nhost = "::1"\n')
    loaded = load(folder, {}, {"limits.write_stall": 3.0})
    assert (loaded.settings.limits.body, loaded.settings.limits.write_stall) == (2048, 3.0)
    assert loaded.origins["limits.write_stall"] == "--write-stall"
    assert (loaded.settings.http.host, loaded.origins["http.host"]) == ("::1", "chora.toml:5")


OLD: list[tuple[str, str, Any]] = [
    ("LOG_LEVEL", "debug", "DEBUG"),
    ("CHORA_COMPOSE_LOG_LEVEL", "Warning", "WARNING"),
    ("MCP_LOG_LEVEL", "ERROR", "ERROR"),
    ("CHORA_COMPOSE_CONFIG_DIR", "chora-configs", "chora-configs"),
    ("CHORA_COMPOSE_MCP_HOST", "0.0.0.0", "0.0.0.0"),
    ("CHORA_COMPOSE_MCP_PORT", "9000", 9000),
    ("MCP_SERVER_HOST", "::", "::"),
    ("MCP_SERVER_PORT", "9001", 9001),
    ("CHORA_EVENTS_OUTPUT", "events.jsonl", "events.jsonl"),
    ("CHORA_EPHEMERAL_PATH", "history", "history"),
    ("CHORA_RETENTION_DAYS", "14", 14),
    ("CHORA_TELEMETRY_PATH", "/data/telemetry", "/data/telemetry/events.jsonl"),
    ("CHORA_TELEMETRY_PATH", "telemetry/", "telemetry/events.jsonl"),
    ("CHORA_TELEMETRY_PATH", "/data/tried.jsonl", "/data/tried.jsonl"),
    ("LOG_FILE", "/var/log/chora.log", "/var/log/chora.log"),
    ("CHORA_DEBUG", "true", "DEBUG"),
    ("CHORA_DEBUG", "1", "DEBUG"),
    ("PARALLEL_WORKERS", "4", 4),
]


@requirement("settings.old-names")
@pytest.mark.parametrize(("name", "text", "expected"), OLD)
def test_old_names_still_work(tmp_path: Path, name: str, text: str, expected: Any):
    """The environment that chora-compose had is read silently; an empty value counts as none."""
    loaded = load(tmp_path, {name: text})
    assert value(loaded, OLD_NAMES[name]) == expected
    assert loaded.origins[OLD_NAMES[name]] == name
    assert loaded.warnings == []
    assert load(tmp_path, {name: ""}).origins[OLD_NAMES[name]] == "default"


@requirement("settings.old-names")
@pytest.mark.parametrize("text", ["0", "false", "No", "off"])
def test_debugging_that_is_off_leaves_the_level(tmp_path: Path, text: str):
    """As it is set otherwise."""
    assert load(tmp_path, {"CHORA_DEBUG": text, "LOG_LEVEL": "ERROR"}).settings.log.level == "ERROR"


@requirement("settings.old-names")
@pytest.mark.parametrize("name", SUCCEEDED_NAMES)
def test_old_names_that_mean_nothing_name_their_successor(tmp_path: Path, name: str):
    """In a warning."""
    (warning,) = load(tmp_path, {name: "x"}).warnings
    assert name in warning
    assert "isn't used any more" in warning


@requirement("settings.old-names")
@pytest.mark.parametrize("from_file", [True, False])
def test_the_backend_ephemeral_is_memory(tmp_path: Path, from_file: bool):
    """With a warning, as nothing is kept."""
    folder = toml(tmp_path, '[storage]\nbackend = "ephemeral"\n' if from_file else "")
    loaded = load(folder, {} if from_file else {"CHORA_STORAGE_BACKEND": "ephemeral"})
    assert loaded.settings.storage.backend == "memory"
    assert any("called memory" in warning for warning in loaded.warnings)


@pytest.mark.parametrize(
    ("file", "env", "found"),
    [
        ("var/chora.log", {}, "{}/var/chora.log"),
        ("./var//../chora.log", {}, "{}/chora.log"),
        ("", {}, ""),
        ("", {"CHORA_LOG_FILE": "var/chora.log"}, "{}/var/chora.log"),
        ("", {"CHORA_LOG_FILE": "/nowhere/chora.log"}, "/nowhere/chora.log"),
        ("var/chora.log", {"CHORA_LOG_FILE": "/nowhere/.hidden"}, "/nowhere/.hidden"),
    ],
)
def test_the_log_file_is_relative_to_the_project(tmp_path: Path, file: str, env: dict[str, str], found: str):
    """The operator's may be any file, and none is none."""
    folder = toml(tmp_path, f'[log]\nfile = "{file}"\n')
    assert load(folder, env).settings.log.file == found.format(tmp_path.resolve())


@pytest.mark.parametrize(
    "file",
    [
        *(
            "/var/log/chora.log",
            "/etc/profile.d/start.sh",
            "../chora.log",
            "var/../../x.log",
            ".bashrc",
            ".git/config",
            "a/.b/c.log",
        ),
        *("conftest.py", "chora.toml", ".chora/storage.db", "docs/HEAD", "Jenkinsfile", "a\\u202eb.log"),
    ],
)
def test_a_project_names_no_log_file_that_programs_obey(tmp_path: Path, file: str):
    """Nor one outside of it: lines of a log would be run by the next shell."""
    folder = toml(tmp_path, f'[log]\nfile = "{file}"\n')
    with pytest.raises(UsageError, match=r"log\.file can't be written, as chora\.toml:2 says") as refused:
        load(folder, {})
    assert "CHORA_LOG_FILE" in str(refused.value.hint)
    assert ("isn't in the project" in refused.value.message) == (file.startswith(("/", "..")) or "../.." in file)


def test_every_old_name_is_tested_above():
    """The table of old names and their settings, each of which exists."""
    assert {row[0] for row in OLD} == set(OLD_NAMES)
    assert set(OLD_NAMES.values()) <= set(load(Path(), {}).origins)


def test_the_newest_of_the_old_names_wins(tmp_path: Path):
    """Of several names for the log level the most special one counts, and today's name above all."""
    env = {"MCP_LOG_LEVEL": "ERROR", "CHORA_COMPOSE_LOG_LEVEL": "WARNING", "LOG_LEVEL": "DEBUG"}
    assert load(tmp_path, env).settings.log.level == "ERROR"
    assert load(tmp_path, {**env, "CHORA_LOG_LEVEL": "INFO"}).settings.log.level == "INFO"


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("CHORA_HTTP_ALLOWED_HOSTS", "a.example, b.example ,,", ("a.example", "b.example")),
        ("CHORA_HTTP_ALLOWED_HOSTS", "", ()),
        ("CHORA_PATHS_OUTPUTS", "outputs,docs", ("outputs", "docs")),
        ("CHORA_HTTP_SSE", "false", False),
        ("CHORA_HTTP_SSE", "1", True),
        ("CHORA_LIMITS_HEADER_TIME", "2.5", 2.5),
        ("CHORA_LIMITS_HEADER_TIME", "3", 3.0),
        ("CHORA_RENDER_WORKERS", "7", 7),
        ("CHORA_STORAGE_PATH", "/data/storage.db", "/data/storage.db"),
        ("CHORA_LOG_LEVEL", "debug", "DEBUG"),
        ("CHORA_LOG_FORMAT", "json", "json"),
        ("CHORA_TEMPLATES_UNDEFINED", "strict", "strict"),
    ],
)
def test_the_environment_is_read_by_type(tmp_path: Path, name: str, text: str, expected: Any):
    """Text becomes what the setting is: numbers, yes and no, words, and lists between commas."""
    section, _, field = name.removeprefix("CHORA_").lower().partition("_")
    loaded = load(tmp_path, {name: text})
    found = value(loaded, f"{section}.{field}")
    assert (found, type(found)) == (expected, type(expected))
    assert loaded.origins[f"{section}.{field}"] == name


def test_the_own_environment_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Without an environment, that of the process is used."""
    monkeypatch.setenv("CHORA_HTTP_PORT", "4321")
    assert load(tmp_path).settings.http.port == 4321


def test_templates_are_lenient_where_there_is_no_chora_toml(tmp_path: Path):
    """Old projects have no chora.toml, and their templates count on empty names; others are strict.

    Their configs mean what they meant for chora-compose.
    """
    loaded = load(tmp_path, {})
    assert (loaded.settings.configs.rules, loaded.origins["configs.rules"]) == ("chora-compose", "no chora.toml")
    assert load(toml(tmp_path, ""), {}).settings.configs.rules == "chora"
    (tmp_path / "chora.toml").unlink()
    assert (loaded.settings.templates.undefined, loaded.origins["templates.undefined"]) == ("lenient", "no chora.toml")
    assert load(tmp_path, {"CHORA_TEMPLATES_UNDEFINED": "strict"}).settings.templates.undefined == "strict"
    assert load(toml(tmp_path, ""), {}).settings.templates.undefined == "strict"


# -- what is refused, or worth a warning ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "key", "hint"),
    [
        ("[http]\nhost = '::1'\nprot = 1", 3, "http.prot", "Did you mean http.port?"),
        ("# hello\n\n[htpp]\nport = 1", 3, "htpp", "Did you mean http?"),
        ("[htpp]", 1, "htpp", "Did you mean http?"),
        ("[limits]\nbody = 2048\n\n[http]\nbody = 1", 5, "http.body", "Did you mean limits.body?"),
        ("x = 1", 1, "x", "`chora config` lists every setting."),
        ("\nhttp = 5", 2, "http", "Did you mean http."),
        ("[[http]]\nport = 1", 1, "http", "Did you mean http."),
        ("\n\nhttp.prot = 5", 3, "http.prot", "Did you mean http.port?"),
        ("\nhttp = { prot = 5 }", 2, "http.prot", "Did you mean http.port?"),
        ("[log]\nlevel = 'INFO'\n[log.format]\nx = 1\n[log.colour]", 5, "log.colour", "Did you mean log."),
        ('[log]\n"zzz" = 1', 2, "log.zzz", "Did you mean log."),
        ("[http]\n'prot' = 1", 2, "http.prot", "Did you mean http.port?"),
        ("[http]\nallowed_hosts = [\n  'a',\n]\nprot = 1", 5, "http.prot", "Did you mean http.port?"),
    ],
)
def test_an_unknown_key_is_refused_with_its_place(tmp_path: Path, text: str, line: int, key: str, hint: str):
    """A misspelt setting doesn't pass for set: file, line, key and the nearest that exists."""
    error = refused(toml(tmp_path, text))
    assert error.message == f"chora.toml, line {line}: there is no setting {key}."
    assert hint in str(error.hint)
    assert error.details == {"file": "chora.toml", "line": line, "setting": key}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[http]\nport = 81", 2),
        ("\n[ http ] # comment\n\n  port=81", 4),
        ("http.port = 81", 1),
        ("\nhttp = { host = '::1', port = 81 }", 2),
        ('[limits]\nbody = 2048\n["http"]\n"port" = 81', 4),
        ("[render]\nworkers = 1\n[http]\nhost = 'port = 1'\nport = 81", 5),
        ("\ufeff[http]\nport = 81", 2),
        ("[http]\r\nport = 81\r\n", 2),
    ],
)
def test_the_origin_names_the_line(tmp_path: Path, text: str, line: int):
    """However the file is laid out, `chora config` can say where a value stands."""
    loaded = load(toml(tmp_path, text), {})
    assert (loaded.settings.http.port, loaded.origins["http.port"]) == (81, f"chora.toml:{line}")


@pytest.mark.parametrize(
    ("text", "key", "says"),
    [
        ("[http]\nport = '80'", "http.port", "expected `int`, got `str`"),
        ("[http]\nport = 80.5", "http.port", "expected `int`, got `float`"),
        ("[http]\nport = true", "http.port", "expected `int`, got `bool`"),
        ("[http]\nport = 65536", "http.port", "expected `int` <= 65535"),
        ("[http]\nport = -1", "http.port", "expected `int` >= 0"),
        ("[http]\nsse = 'no'", "http.sse", "expected `bool`, got `str`"),
        ("[http]\nhost = 5", "http.host", "expected `str`, got `int`"),
        ("[http]\nallowed_hosts = 'a'", "http.allowed_hosts", "expected `array`, got `str`"),
        ("[http]\nallowed_hosts = ['a', 5]", "http.allowed_hosts", "expected `str`, got `int`"),
        ("[http]\nallowed_origins = ['*']", "http.allowed_origins", "expected `str` matching regex"),
        ("[http]\nallowed_origins = ['n8n.example']", "http.allowed_origins", "expected `str` matching regex"),
        ("[http]\nallowed_origins = ['https://a.example/x']", "http.allowed_origins", "expected `str` matching regex"),
        ("[http]\nhost = { name = 'a' }", "http.host", "expected `str`, got `object`"),
        ("[limits]\nheader_time = 0", "limits.header_time", "expected `float` > 0"),
        ("[limits]\nheader_time = inf", "limits.header_time", "expected `float` <= 1000000000"),
        ("[limits]\ngrace = 1e400", "limits.grace", "expected `float` <= 1000000000"),
        ("[backup]\nevery = inf", "backup.every", "expected `float` <= 1000000000"),
        ("[llm]\nbudget_day = inf", "llm.budget_day", "expected `float` <= 1000000000"),
        ("[limits]\nsessions = 10000000000", "limits.sessions", "expected `int` <= 1000000000"),
        ("[limits]\nbody = 9000000000000000000", "limits.body", "expected `int` <= 1099511627776"),
        ("[storage]\nretention_days = 100001", "storage.retention_days", "expected `int` <= 100000"),
        ("[limits]\nheader_time = nan", "limits.header_time", "expected `float` > 0"),
        ("[render]\nworkers = 0", "render.workers", "expected `int` >= 1"),
        ("[log]\nlevel = 'LOUD'", "log.level", "invalid enum value 'LOUD'"),
        ("[storage]\npath = 2026-01-01", "storage.path", "expected `str`, got `date`"),
    ],
)
def test_a_value_that_doesn_t_fit_is_refused(tmp_path: Path, text: str, key: str, says: str):
    """The refusal names the setting, what it takes and the line that says otherwise."""
    error = refused(toml(tmp_path, text))
    assert error.message.startswith(f"The setting {key} doesn't fit: {says}")
    assert "(from chora.toml:2)" in error.message
    assert error.details == {"setting": key, "origin": "chora.toml:2"}
    assert error.hint


def test_a_wrong_word_is_reported_the_right_ones(tmp_path: Path):
    """Where a setting takes one of a few words, the refusal lists them."""
    assert refused(toml(tmp_path, "[log]\nlevel = 'info'")).hint == "Write one of DEBUG, INFO, WARNING, ERROR."
    assert refused(toml(tmp_path, ""), {"CHORA_LOG_FORMAT": "xml"}).hint == "Write one of text, json."


@pytest.mark.parametrize(
    ("name", "text", "key"),
    [
        ("CHORA_HTTP_PORT", "eighty", "http.port"),
        ("CHORA_HTTP_PORT", "", "http.port"),
        ("CHORA_HTTP_PORT", "70000", "http.port"),
        ("MCP_SERVER_PORT", "80.5", "http.port"),
        ("CHORA_HTTP_SSE", "maybe", "http.sse"),
        ("CHORA_LIMITS_IDLE", "-1", "limits.idle"),
        ("LOG_LEVEL", "verbose", "log.level"),
    ],
)
def test_the_environment_is_refused_by_name(tmp_path: Path, name: str, text: str, key: str):
    """A variable that doesn't fit its setting is named with what it holds."""
    error = refused(tmp_path, {name: text})
    assert error.message.startswith(f"{name}={text!r} doesn't fit {key}: ")
    assert error.details == {"setting": key, "origin": name}
    assert error.hint


def test_a_flag_is_refused_by_name(tmp_path: Path):
    """What the command line gave is called by its flag."""
    error = refused(tmp_path, flags={"http.port": 70000})
    assert "(from --port)" in error.message


def test_a_misspelt_variable_is_a_warning(tmp_path: Path):
    """An unknown CHORA_* name is reported, but doesn't stop the start."""
    env = {
        "CHORA_HTP_PORT": "1",
        "CHORA_HTTP_PROT": "2",
        "CHORA_DEBUGGING": "1",
        "PATH": "/bin",
        "chora_http_port": "3",
    }
    loaded = load(tmp_path, env)
    assert [re.findall(r"CHORA_\w+", warning) for warning in loaded.warnings] == [
        ["CHORA_HTP_PORT"],
        ["CHORA_HTTP_PROT"],
        ["CHORA_DEBUGGING"],
    ]
    assert loaded.settings.http == HttpSettings()


def test_names_that_aren_t_settings_are_no_misspelling(tmp_path: Path):
    """The variables that choose the project, the trace and the token pass in silence, and so does the token."""
    names = ("CHORA_PROJECT", "CHORA_BASE_PATH", "CHORA_TRACE_ID", "CHORA_TOKEN", "CHORA_TOKEN_FILE")
    assert load(tmp_path, dict.fromkeys(names, "x")).warnings == []


@pytest.mark.parametrize("text", ["[http", "port = ", "[http]\nport = 1\nport = 2", "a = 'b"])
def test_a_file_that_isn_t_toml_is_refused(tmp_path: Path, text: str):
    """A broken file isn't taken for an empty one; the parser's own words say where it breaks."""
    error = refused(toml(tmp_path, text))
    assert error.message.startswith("chora.toml is not TOML: ")
    assert "line" in error.message or "end of document" in error.message


def test_a_file_that_can_t_be_read_is_refused(tmp_path: Path):
    """Bytes that aren't text, or a folder of that name, aren't taken for an empty file either."""
    assert "not UTF-8" in refused(toml(tmp_path, b"\xff\xfe[http]")).message
    (tmp_path / "chora.toml").unlink()
    (tmp_path / "chora.toml").mkdir()
    assert "chora.toml can't be read" in refused(tmp_path).message


def test_every_setting_has_a_row_with_its_meaning(tmp_path: Path):
    """What `chora config` and the reference show: value, default, origin and meaning of each, fit for JSON."""
    loaded = load(toml(tmp_path, "[http]\nport = 81\n[paths]\noutputs = ['docs']"), {})
    rows = {row["key"]: row for row in settings.settings_table(loaded)}
    assert set(rows) == set(loaded.origins)
    assert all(row["meaning"] for row in rows.values())
    assert rows["http.port"]["meaning"] == "TCP port; 0 picks a free one"
    assert (rows["http.port"]["value"], rows["http.port"]["default"], rows["http.port"]["origin"]) == (
        81,
        8000,
        "chora.toml:2",
    )
    assert (rows["paths.outputs"]["value"], rows["paths.outputs"]["default"]) == (("docs",), (".",))
    assert json.loads(msgspec.json.encode(rows))["paths.outputs"]["default"] == ["."]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"x = " + b"[" * 5000, "it is nested too deep"),
        (b"x = " + b"9" * 5000, "digits"),
        (b"#" * (settings.TOML_LIMIT + 1), "larger than 1,048,576 bytes"),
    ],
    ids=["deep", "a number of 5,000 digits", "large"],
)
@requirement("config.settings-file")
def test_an_unreasonable_settings_file_is_refused(tmp_path: Path, content: bytes, reason: str):
    """With its name and the reason, and without a traceback."""
    error = refused(toml(tmp_path, content))
    assert "chora.toml" in error.message
    assert reason in error.message


def test_the_largest_settings_file_is_read(tmp_path: Path):
    """A mebibyte, most of it a comment."""
    text = b"[http]\nport = 9000\n#"
    loaded = load(toml(tmp_path, text + b"x" * (settings.TOML_LIMIT - len(text))), {})
    assert loaded.settings.http.port == 9000


@pytest.mark.parametrize("fault", ["a pipe", "a device", "a folder", "a link to itself"])
@requirement("config.settings-file")
def test_a_settings_file_that_is_no_file_is_refused(tmp_path: Path, fault: str):
    """At once: reading a pipe would wait for a writer, and a device may never end."""
    put_odd_file(tmp_path / "chora.toml", fault)
    assert "chora.toml can't be read" in refused(tmp_path).message
