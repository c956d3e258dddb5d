"""SIGHUP: what it reloads, what it leaves, and that it ends nothing."""

import json
import signal
import socket
import ssl
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import trustme

from chora import settings
from chora.access import Authenticator, Principal, Tokens
from chora.errors import UsageError
from chora.project import tokens_folder
from chora.secrets import Secret
from tests.conftest import Project, content, requirement
from tests.patience import PATIENCE
from tests.test_app import HELLO, PATIENT, SLOW, calling, read_until, serving

pytestmark = [
    pytest.mark.slow("starts servers"),
    pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGHUP"),
]

FIRST, SECOND = "a-long-enough-token-1", "a-long-enough-token-2"


def status(url: str, token: str = "") -> int:
    """The HTTP status of a page that needs a token where one is in use."""
    request = urllib.request.Request(
        url + "/status.json", headers={"authorization": f"Bearer {token}"} if token else {}
    )
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


@requirement("server.reload")
def test_a_hangup_takes_the_new_token_and_log_level_and_says_so(hello: Project, tmp_path: Path):
    """From then on the old token is refused; what needs a restart is named; the token is in no line."""
    token = tmp_path / "token"
    token.write_text(FIRST)
    token.chmod(0o600)
    with serving(hello, CHORA_TOKEN_FILE=str(token)) as (url, process):
        assert [status(url), status(url, FIRST), status(url, SECOND)] == [401, 200, 401]
        token.write_text(SECOND)
        hello.write("chora.toml", '[log]\nlevel = "DEBUG"\nformat = "json"\n[limits]\nsessions = 7\n')
        process.send_signal(signal.SIGHUP)
        logged = read_until(process, "SIGHUP: reloaded")
        line = json.loads(logged.splitlines()[-1])["message"]
        assert [status(url), status(url, FIRST), status(url, SECOND)] == [401, 401, 200]
        assert "level DEBUG and format json" in line
        assert f"file {token}" in line
        assert line.endswith("a restart is needed for limits.sessions")
        assert FIRST not in logged
        assert SECOND not in logged
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize("mistake", ["token", "settings"])
@requirement("server.reload")
def test_a_mistake_leaves_everything_as_it_was(hello: Project, tmp_path: Path, mistake: str):
    """A token that can't be read, or a setting that doesn't fit, is logged as an error; the old ones hold."""
    token = tmp_path / "token"
    token.write_text(FIRST)
    token.chmod(0o600)
    with serving(hello, CHORA_TOKEN_FILE=str(token)) as (url, process):
        if mistake == "token":
            token.write_text("short")
        else:
            token.write_text(SECOND)
            hello.write("chora.toml", "[limits]\nsesions = 7\n")
        process.send_signal(signal.SIGHUP)
        assert "everything stays as it was" in read_until(process, "SIGHUP: nothing was reloaded")
        assert [status(url), status(url, FIRST), status(url, SECOND)] == [401, 200, 401]


@requirement("server.reload")
def test_a_hangup_interrupts_no_call(hello: Project):
    """A call in flight gets its answer."""
    hello.write("chora.toml", PATIENT)
    hello.save(content("slow", pattern={"type": "jinja2", "template": SLOW}))
    with serving(hello) as (url, process):
        with calling(url, "generate_content", content_config_id="slow") as answers:
            process.send_signal(signal.SIGHUP)
            read_until(process, "SIGHUP: reloaded")
        assert answers[0]["content"] == "done"
        assert process.poll() is None


def certificate(folder: Path) -> tuple[Path, Path]:
    """A new certificate and its key."""
    folder.mkdir()
    issued = trustme.CA().issue_cert("localhost")
    paths = folder / "cert.pem", folder / "key.pem"
    issued.cert_chain_pems[0].write_to_path(paths[0])
    issued.private_key_pem.write_to_path(paths[1])
    return paths


@requirement("server.reload")
def test_a_hangup_takes_the_new_certificate(hello: Project, tmp_path: Path):
    """New connections get it, and the server's own probe trusts it."""

    def shown(url: str) -> str:
        host, port = url.removeprefix("https://").rsplit(":", 1)
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with socket.create_connection((host, int(port)), PATIENCE) as plain, context.wrap_socket(plain) as tls:
            return ssl.DER_cert_to_PEM_cert(tls.getpeercert(binary_form=True) or b"")

    first, second = (certificate(tmp_path / name) for name in ("first", "second"))
    hello.write("chora.toml", f'[http]\ncert = "{first[0]}"\nkey = "{first[1]}"\n')
    with serving(hello) as (url, process):
        assert shown(url) == first[0].read_text()
        hello.write("chora.toml", f'[http]\ncert = "{second[0]}"\nkey = "{second[1]}"\n')
        process.send_signal(signal.SIGHUP)
        assert "restart is needed" not in read_until(process, "SIGHUP: reloaded")
        assert shown(url) == second[0].read_text()
        hello.write("chora.toml", f'[http]\ncert = "{first[0]}"\nkey = "{second[1]}"\n')
        process.send_signal(signal.SIGHUP)
        read_until(process, "SIGHUP: nothing was reloaded")
        assert shown(url) == second[0].read_text()


def test_a_token_that_is_gone_is_accepted_no_more(tmp_path: Path):
    """Nor is the server open to all then; sessions of the old token end."""
    authenticator = Authenticator("127.0.0.1", Secret(FIRST), Tokens(tmp_path / "tokens"))
    principal = authenticator.authenticate(f"Bearer {FIRST}")
    assert authenticator.is_still_valid(principal)
    with pytest.raises(UsageError, match="shorter"):
        authenticator.replace_token(Secret("short"))
    assert authenticator.authenticate(f"Bearer {FIRST}") == principal
    authenticator.replace_token(None)
    assert authenticator.requires_token
    assert not authenticator.is_still_valid(principal)
    authenticator.replace_token(Secret(SECOND))
    assert authenticator.authenticate(f"Bearer {SECOND}") != principal
    assert not authenticator.is_still_valid(principal)
    assert authenticator.is_still_valid(Principal("probe", "read", routine=True))


def test_changed_settings_are_named():
    """By section and key."""
    before = settings.load(Path("/nonexistent"), {}, {"http.port": 1})
    after = settings.load(Path("/nonexistent"), {}, {"http.port": 2, "log.level": "DEBUG"})
    assert before.changes(after.settings) == ["http.port", "log.level"]
    assert before.changes(before.settings) == []


def in_session(url: str, token: str, session: str = "") -> tuple[int, str]:
    """Open a session, or call a tool in one; the status, and the session's id."""
    method, params = ("tools/call", {"name": "hello_world", "arguments": {}}) if session else ("initialize", HELLO)
    headers = {
        "authorization": f"Bearer {token}",
        "content-type": "application/json",
        "accept": "application/json, text/event-stream",
        **({"mcp-session-id": session, "mcp-protocol-version": "2025-11-25"} if session else {}),
    }
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url + "/mcp", body, headers), timeout=PATIENCE) as response:
            return response.status, response.headers.get("mcp-session-id", session)
    except urllib.error.HTTPError as error:
        return error.code, ""


@requirement("server.reload", "access.rotation")
def test_a_token_is_replaced_without_ending_a_session_of_another(hello: Project, tmp_path: Path):
    """Two named tokens overlap, and a shared one is replaced beside them; a revoked one is refused."""
    shared = tmp_path / "token"
    shared.write_text(FIRST)
    shared.chmod(0o600)
    tokens = Tokens(tokens_folder(hello.root))
    old = tokens.create_token("n8n", "write")[0].reveal()
    with serving(hello, CHORA_TOKEN_FILE=str(shared)) as (url, process):
        status, first = in_session(url, old)
        assert (status, bool(first)) == (200, True)
        new = tokens.create_token("n8n-2", "write")[0].reveal()
        _, second = in_session(url, new)
        shared.write_text(SECOND)
        process.send_signal(signal.SIGHUP)
        read_until(process, "SIGHUP: reloaded")
        assert [in_session(url, old, first)[0], in_session(url, new, second)[0]] == [200, 200]
        tokens.revoke_token("n8n")
        process.send_signal(signal.SIGHUP)
        read_until(process, "SIGHUP: reloaded")
        assert [in_session(url, old, first)[0], in_session(url, new, second)[0]] == [401, 200]
