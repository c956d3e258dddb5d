"""`chora token`."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from chora.access import Authenticator, Tokens
from chora.cli import main
from chora.project import tokens_folder
from tests.conftest import Project


def run(project: Project, *arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["--project", str(project.root), *arguments])
    assert isinstance(caught.value.code, int | None)
    return caught.value.code or 0


def test_a_token_is_shown_once(project: Project, capsys: pytest.CaptureFixture[str]):
    """On stdout alone, so that it can be piped; messages go to stderr."""
    assert run(project, "token", "new", "n8n", "--scope", "write", "--expires", "30d") == 0
    out, err = capsys.readouterr()
    assert re.fullmatch(r"chora_[\w-]{43}\n", out)
    assert "only time" in err
    principal = Authenticator("127.0.0.1", None, Tokens(tokens_folder(project.root))).authenticate(
        f"Bearer {out.strip()}"
    )
    assert (principal.name, principal.scope) == ("n8n", "write")
    assert run(project, "token", "list") == 0
    listed = capsys.readouterr().out
    assert listed.startswith("n8n\twrite\t")
    assert out.strip() not in listed
    assert run(project, "token", "new", "forever") == 0
    assert capsys.readouterr().err == "This is the only time the token forever is shown. Its scope is read.\n"


def test_tokens_as_json(project: Project, capsys: pytest.CaptureFixture[str]):
    """Everything but the hash."""
    assert run(project, "token", "new", "app", "--json") == 0
    made = msgspec.json.decode(capsys.readouterr().out)
    assert (made["success"], made["name"], made["scope"], made["expires"]) == (True, "app", "read", None)
    assert made["token"].startswith("chora_")
    assert run(project, "token", "list", "--json") == 0
    (listed,) = msgspec.json.decode(capsys.readouterr().out)["tokens"]
    assert set(listed) == {"name", "scope", "created", "expires"}
    assert run(project, "token", "revoke", "app", "--json") == 0
    assert msgspec.json.decode(capsys.readouterr().out) == {"success": True, "name": "app"}
    assert Tokens(tokens_folder(project.root)).list_tokens() == []


@pytest.mark.parametrize(
    ("expires", "lasts"),
    [
        ("45m", timedelta(minutes=45)),
        ("12h", timedelta(hours=12)),
        ("30d", timedelta(days=30)),
        ("8w", timedelta(weeks=8)),
    ],
)
def test_a_token_expires_at_the_given_time(
    project: Project, expires: str, lasts: timedelta, capsys: pytest.CaptureFixture[str]
):
    """The time is shown when the token is created and in the list."""
    before = datetime.now(UTC)
    assert run(project, "token", "new", "app", "--expires", expires) == 0
    after = datetime.now(UTC)
    (token,) = Tokens(tokens_folder(project.root)).list_tokens()
    assert token.expires is not None
    assert before + lasts - timedelta(seconds=1) <= datetime.fromisoformat(token.expires) <= after + lasts
    assert f"Its scope is read until {token.expires}." in capsys.readouterr().err
    assert run(project, "token", "list") == 0
    assert capsys.readouterr().out == f"app\tread\t{token.created}\t{token.expires}\n"
    assert run(project, "token", "list", "--json") == 0
    assert msgspec.json.decode(capsys.readouterr().out)["tokens"][0]["expires"] == token.expires


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("new", "../x"), 2),
        (("new", "app", "--scope", "root"), 2),
        (("new", "app", "--expires", "soon"), 2),
        (("new", "app", "--expires", "0d"), 2),
        (("new", "app", "--expires", "9999999d"), 2),
        (("revoke", "unknown"), 3),
        (("new", "taken"), 4),
    ],
)
def test_token_errors_have_an_exit_code_and_a_hint(
    project: Project, arguments: tuple[str, ...], code: int, capsys: pytest.CaptureFixture[str]
):
    """And a sentence each."""
    Tokens(tokens_folder(project.root)).create_token("taken", "read")
    assert run(project, "token", *arguments) == code
    assert capsys.readouterr().err


def test_revoked_and_expired_tokens_are_listed_as_such(project: Project, capsys: pytest.CaptureFixture[str]):
    """A revoked one isn't listed any more; an expired one is marked; one that doesn't expire has a dash."""
    tokens = Tokens(tokens_folder(project.root))
    _, old = tokens.create_token("old", "admin", lasts=timedelta(seconds=-1))
    _, lasting = tokens.create_token("lasting", "write")
    assert run(project, "token", "list") == 0
    assert capsys.readouterr().out == (
        f"lasting\twrite\t{lasting.created}\t-\nold\tadmin\t{old.created}\t{old.expires} (expired)\n"
    )
    for name in ("old", "lasting"):
        tokens.revoke_token(name)
    assert run(project, "token", "list") == 0
    assert capsys.readouterr().out == ""
    tokens.create_token("app", "read")
    assert run(project, "token", "revoke", "app") == 0
    assert "app is revoked" in capsys.readouterr().out
    assert not list(Path(tokens_folder(project.root)).iterdir())
