"""Secrets never appear in logs, events, errors, reports or child processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from chora import settings, this_process
from chora.cli.samples import INIT, write_sample
from chora.secrets import REDACTED, Secret, find_secret, find_token, redact
from tests.anthropic_server import message, serving
from tests.conftest import Project, content
from tests.patience import PATIENCE

TOKEN = "tok/en-Value.17+for=tests"
KEY = "sk-ant-test-0123456789-abcdef"


def test_every_occurrence_of_a_known_secret_is_redacted():
    """In the middle of words, several times, and by chance too."""
    held = Secret(TOKEN)
    assert redact(f"a {TOKEN}, b={TOKEN}.") == f"a {REDACTED}, b={REDACTED}."
    assert redact("Authorization: Bearer abcdef.123456") == f"Authorization: Bearer {REDACTED}"
    assert redact(f"key {KEY} refused") == f"key sk-ant-{REDACTED} refused"
    assert redact("bearers of tokens; Bearer of news") == "bearers of tokens; Bearer of news"
    assert held.reveal() == TOKEN


def test_short_secrets_are_not_redacted():
    """A secret of three letters would make every log unreadable, and protects nothing."""
    held = Secret("log")
    assert redact("the log") == "the log"
    assert held.reveal() == "log"


def test_a_secret_without_references_is_released():
    """The redaction doesn't keep it in memory."""
    Secret("gone-with-the-call")
    assert redact("gone-with-the-call") == "gone-with-the-call"


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    """A project whose template reads everything that it might see of its environment."""
    write_sample(tmp_path, INIT)
    return tmp_path


def environment(**more: str) -> dict[str, str]:
    return {**this_process.child_environment(), "PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring", **more}


def everything_in(root: Path) -> bytes:
    """All bytes of all files of a project, the database too."""
    return b"\n".join(file.read_bytes() for file in root.rglob("*") if file.is_file())


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks into the environment of processes")
def test_no_child_of_a_server_knows_its_secrets(sample: Path):
    """Neither the fork server nor a worker has them in its environment or command line."""
    command = [sys.executable, "-P", "-m", "chora", "--project", str(sample), "serve", "--port", "0", "--json"]
    env = environment(CHORA_TOKEN=TOKEN, ANTHROPIC_API_KEY=KEY)
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = json.loads(server.stdout.readline())["url"]
            call = [sys.executable, "-P", "-m", "chora", "call", "generate_content", "content_config_id=greeting"]
            done = subprocess.run(
                [*call, "--url", f"{url}/mcp"], env=env, capture_output=True, text=True, timeout=PATIENCE
            )
            assert done.returncode == 0, done.stderr
            children = descendants(server.pid)
            assert children
            for child in children:
                for fact in ("environ", "cmdline"):
                    said = Path(f"/proc/{child}/{fact}").read_bytes()
                    assert TOKEN.encode() not in said
                    assert KEY.encode() not in said
        finally:
            server.send_signal(signal.SIGTERM)
            _, log = server.communicate(timeout=PATIENCE)
    assert TOKEN not in log
    assert KEY not in log
    assert TOKEN.encode() not in everything_in(sample)


def descendants(pid: int) -> list[int]:
    """Every process below one."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        threads = Path(f"/proc/{waiting.pop()}/task").glob("*/children")
        children = [int(child) for thread in threads for child in thread.read_text().split()]
        found += children
        waiting += children
    return found


def test_a_template_sees_nothing_of_its_environment(sample: Path):
    """No environment variable, no setting, no module."""
    (sample / "configs/templates/greeting.md.j2").write_text(
        "{{ CHORA_TOKEN | default('none') }} {{ environ | default('none') }} {{ os | default('none') }}"
    )
    done = run(sample, "generate", "greeting", CHORA_TOKEN=TOKEN)
    assert (done.returncode, done.stdout) == (0, "none none none\n")


@pytest.mark.parametrize("format", ["text", "json"])
def test_a_wrong_key_is_in_no_error(project: Project, format: str):
    """Nor on the command line, in the debug log, in events or in the store."""
    options = {"prompt": "Write.", "model": "claude-3-haiku-20240307", "retry_count": 0}
    project.save(content("code", pattern={"type": "code_generation", "generation_config": options}))
    done = run(
        project.root,
        "generate",
        "code",
        "--json",
        ANTHROPIC_API_KEY=KEY,
        CHORA_LLM_BASE_URL="http://127.0.0.1:9",
        CHORA_LOG_LEVEL="DEBUG",
        CHORA_LOG_FORMAT=format,
    )
    assert json.loads(done.stdout)["error"]["details"]["error_type"] == "APIConnectionError"
    assert KEY not in done.stdout + done.stderr
    assert KEY.encode() not in everything_in(project.root)


def run(root: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "chora", "--project", str(root), *arguments]
    return subprocess.run(command, env=environment(**env), capture_output=True, text=True, timeout=PATIENCE)


# -- references -------------------------------------------------------------------------------------------------


def test_a_reference_in_the_settings_replaces_the_search(tmp_path: Path):
    """To a file or a variable; then the usual places aren't searched."""
    file = tmp_path / "token"
    file.write_text("from the file\n")
    env = {"CHORA_TOKEN": "from the search", "OTHER": " from a variable "}
    for reference, value in ((f"file:{file}", "from the file"), ("env:OTHER", "from a variable")):
        found = find_secret("CHORA_TOKEN", env, reference=reference)
        assert found is not None
        assert (found.secret.reveal(), found.origin) == (value, reference)


@pytest.mark.parametrize("reference", ["file:/none/of/this", "env:NOT_SET", "keyring:nothing"])
def test_a_reference_to_a_missing_secret_is_an_error(reference: str):
    """Rather than a server without authentication."""
    with pytest.raises(settings.UsageError) as failed:
        find_secret("CHORA_TOKEN", {}, reference=reference)
    assert reference in failed.value.message


@pytest.mark.parametrize("token", ["ümlaut-token", "line\nbreak", "nul\0"])
def test_a_token_that_no_header_can_hold_is_refused(tmp_path: Path, token: str):
    """At the start, without showing it."""
    file = tmp_path / "token"
    file.write_text(token)
    with pytest.raises(settings.UsageError) as failed:
        find_token({"CHORA_TOKEN_FILE": str(file)})
    assert token not in str(failed.value.as_dict())


@pytest.mark.parametrize("value", [TOKEN, "vault:x", "file:", "env:A B"])
def test_a_secret_in_the_settings_is_refused(tmp_path: Path, value: str):
    """The error doesn't show it."""
    (tmp_path / "chora.toml").write_text(f"[http]\ntoken = {json.dumps(value)}\n")
    with pytest.raises(settings.UsageError, match=r"http\.token") as failed:
        settings.load(tmp_path, {})
    if value == TOKEN:
        assert value not in str(failed.value.as_dict())


async def test_the_key_of_the_model_may_be_a_reference(project: Project, tmp_path: Path):
    """The key is sent to the API and nowhere else."""
    key = tmp_path / "key"
    key.write_text(KEY)
    async with serving(message("x = 1")) as api:
        settings = {"api_key": f"file:{key}", "base_url": api.url}
        lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
        project.write("chora.toml", "[llm]\n" + "\n".join(lines))
        pattern: dict[str, Any] = {"type": "code_generation", "generation_config": {"prompt": "Write."}}
        project.save(content("code", pattern=pattern))
        done = await trio.to_thread.run_sync(run, project.root, "generate", "code")
        assert (done.returncode, done.stdout) == (0, "x = 1\n"), done.stderr
        assert KEY in str(api.asked[0].headers)
    assert KEY.encode() not in everything_in(project.root)
    assert os.environ.get("ANTHROPIC_API_KEY") is None
