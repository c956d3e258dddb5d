"""Tokens, scopes, and how HTTP requests are authenticated."""

import errno
import hmac
import os
import shutil
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from chora import access, regular_files
from chora.access import LOCAL, SCOPES, Authenticator, Principal, Tokens, is_loopback
from chora.errors import InvalidInput, SaveFailed, TokenNotFound, Unauthorized, UsageError
from chora.secrets import Secret
from tests.conftest import requirement

TOKEN = "correct horse battery staple".replace(" ", "-")


@pytest.mark.parametrize(
    "host", ["localhost", "LocalHost", "127.0.0.1", "127.8.9.10", "::1", "[::1]", "0:0:0:0:0:0:0:1", "::1%lo"]
)
def test_loopback_is_this_machine_alone(host: str):
    """Every form of an address that only this machine reaches."""
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    [
        *("", "0.0.0.0", "::", "[::]", "10.0.0.1", "192.168.1.5", "128.0.0.1", "fe80::1", "::ffff:10.0.0.1"),
        *("example.org", "localhost.example.org", "127.0.0.1.example.org", "127.1", "localhost ", "*"),
    ],
)
def test_anything_else_is_public(host: str):
    """Names too, as they may resolve to any address."""
    assert not is_loopback(host)


def test_a_loopback_server_needs_no_token():
    """Every client on this machine is the local user, whatever header it sends."""
    authenticator = Authenticator("127.0.0.1", None)
    assert not authenticator.is_public
    for header in (None, "Bearer anything", "Basic eDp5", ""):
        assert authenticator.authenticate(header) is LOCAL
    assert LOCAL.has_scope("read")
    assert LOCAL.has_scope("write")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", ""])
@requirement("server.loopback")
def test_a_public_server_without_a_token_is_refused(host: str):
    """It doesn't start, and the hint says how to create a token."""
    with pytest.raises(UsageError) as caught:
        Authenticator(host, None)
    assert "without a token" in caught.value.message
    assert "CHORA_TOKEN_FILE" in str(caught.value.hint)
    assert caught.value.details == {"host": host}


@pytest.mark.parametrize(("length", "accepted"), [(1, False), (15, False), (16, True)])
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_token_that_could_be_guessed_is_refused(host: str, length: int, accepted: bool):
    """At least 16 characters, as a client may try many."""
    if accepted:
        Authenticator(host, Secret("x" * length))
    else:
        with pytest.raises(UsageError, match="shorter than 16 characters"):
            Authenticator(host, Secret("x" * length))


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer  "])
def test_the_right_token_is_accepted(host: str, scheme: str):
    """The scheme is case-insensitive, and more than one space may follow."""
    principal = Authenticator(host, Secret(TOKEN)).authenticate(f"{scheme} {TOKEN}")
    assert principal == Principal("token", key=principal.key)
    assert principal.has_scope("write")


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize(
    "header",
    [
        *(None, "", "Bearer", "Bearer ", f"Bearer{TOKEN}", TOKEN, f"Basic {TOKEN}", f"Token {TOKEN}"),
        *(f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN.upper()}", f"Bearer {TOKEN} {TOKEN}"),
        *("Bearer \x00", "Bearer \xff\xfe", f"Bearer {'x' * 100_000}", f"Bearer Bearer {TOKEN}"),
    ],
)
def test_any_other_header_is_refused(host: str, header: str | None):
    """A missing, wrong or malformed token; the error doesn't repeat it."""
    authenticator = Authenticator(host, Secret(TOKEN))
    with pytest.raises(Unauthorized) as caught:
        authenticator.authenticate(header)
    assert TOKEN not in str(caught.value.as_dict())
    assert "Authorization: Bearer" in str(caught.value.hint)


@pytest.mark.parametrize("token", [None, Secret(TOKEN)])
def test_a_token_can_be_added_later(token: Secret | None):
    """It identifies its principal in addition to the server's own token, also on a server without one."""
    authenticator = Authenticator("127.0.0.1", token)
    probe = Principal("probe", "read", routine=True)
    authenticator.add_token(Secret("probe-token"), probe)
    assert authenticator.authenticate("Bearer probe-token") is probe
    assert probe.has_scope("read")
    assert not probe.has_scope("write")
    assert authenticator.authenticate(f"Bearer {TOKEN}").name == ("local" if token is None else "token")


def test_tokens_are_compared_in_constant_time_and_kept_as_hashes(monkeypatch: pytest.MonkeyPatch):
    """The time of a refusal reveals nothing about the token (CWE-208), and the authenticator doesn't store it."""
    compared: list[tuple[bytes, bytes]] = []

    class Watched:
        @staticmethod
        def compare_digest(known: bytes, given: bytes) -> bool:
            compared.append((known, given))
            return hmac.compare_digest(known, given)

    monkeypatch.setattr(access, "hmac", Watched)
    authenticator = Authenticator("0.0.0.0", Secret(TOKEN))
    with pytest.raises(Unauthorized, match="not valid here"):
        authenticator.authenticate("Bearer short")
    authenticator.authenticate(f"Bearer {TOKEN}")
    assert [(len(known), len(given)) for known, given in compared] == [(32, 32), (32, 32)]
    held: list[Any] = list(vars(authenticator).values())
    assert TOKEN not in str(held)


# -- named tokens -----------------------------------------------------------------------------------------------


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    return Tokens(tmp_path / ".chora" / "tokens")


def header(secret: Secret) -> str:
    return f"Bearer {secret.reveal()}"


def test_a_named_token_gives_its_name_and_scope(tokens: Tokens):
    """Each scope includes the lower ones."""
    authenticator = Authenticator("127.0.0.1", None, tokens)
    for number, scope in enumerate(SCOPES):
        secret, token = tokens.create_token(f"app-{scope}", scope)
        principal = authenticator.authenticate(header(secret))
        assert (principal.name, principal.scope) == (f"app-{scope}", scope)
        assert principal == token.principal
        assert [principal.has_scope(each) for each in SCOPES] == [True] * (number + 1) + [False] * (2 - number)


@requirement("server.tokens")
def test_only_the_hash_of_a_token_is_kept(tokens: Tokens, tmp_path: Path):
    """In files that only their owner can read, with no other copy."""
    secret, token = tokens.create_token("app", "read")
    assert len(secret.reveal()) >= 40
    assert secret.reveal() not in repr(token)
    (file,) = (tmp_path / ".chora" / "tokens").iterdir()
    assert file.name == "app.json"
    assert secret.reveal() not in file.read_text()
    if sys.platform != "win32":
        assert file.stat().st_mode & 0o777 == 0o600
        assert file.parent.stat().st_mode & 0o777 == 0o700


def test_from_the_first_token_on_every_request_needs_one(tokens: Tokens):
    """Also on a running server, and also after the last token is revoked."""
    authenticator = Authenticator("127.0.0.1", None, tokens)
    assert authenticator.authenticate(None) is LOCAL
    assert authenticator.is_still_valid(LOCAL)
    secret, token = tokens.create_token("app", "write")
    with pytest.raises(Unauthorized, match="This server needs a token"):
        authenticator.authenticate(None)
    assert not authenticator.is_still_valid(LOCAL)
    assert authenticator.authenticate(header(secret)) == token.principal
    tokens.revoke_token("app")
    with pytest.raises(Unauthorized, match="not valid here"):
        authenticator.authenticate(header(secret))
    with pytest.raises(Unauthorized, match="This server needs a token"):
        authenticator.authenticate(None)


def test_a_named_token_allows_binding_beyond_loopback(tokens: Tokens):
    """Once one was created."""
    with pytest.raises(UsageError, match="without a token"):
        Authenticator("0.0.0.0", None, tokens)
    tokens.create_token("app", "read")
    assert Authenticator("0.0.0.0", None, tokens).is_public


def test_revoked_and_expired_tokens_do_not_allow_binding_beyond_loopback(
    tokens: Tokens, monkeypatch: pytest.MonkeyPatch
):
    """Nobody could use the server; it starts once there is a valid one."""
    tokens.create_token("app", "read", lasts=timedelta(hours=1))
    monkeypatch.setattr(access, "now", lambda: "2999-01-01T00:00:00.000Z")
    with pytest.raises(UsageError, match="without a token"):
        Authenticator("0.0.0.0", None, tokens)
    tokens.revoke_token("app")
    with pytest.raises(UsageError, match="without a token"):
        Authenticator("0.0.0.0", None, tokens)
    tokens.create_token("other", "read")
    assert Authenticator("0.0.0.0", None, tokens).is_public


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.EIO, errno.ENOMEM])
@pytest.mark.parametrize(("owner", "call"), [(regular_files, "open_without_links"), (access, "open_folder")])
def test_a_failed_read_neither_keeps_a_revoked_token_nor_locks_a_good_one_out(
    tokens: Tokens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, owner: Any, call: str
):
    """While the files can't be read no token is accepted; the first request after that finds them again."""
    authenticator = Authenticator("127.0.0.1", None, tokens)
    kept, token = tokens.create_token("kept", "read")
    revoked, _ = tokens.create_token("revoked", "read")
    for secret in (kept, revoked):
        assert authenticator.authenticate(header(secret))
    tokens.revoke_token("revoked")
    # The change of the folder is old, so that nothing but the failure has it read again.
    os.utime(tmp_path / ".chora" / "tokens", (1e9, 1e9))
    with monkeypatch.context() as broken:

        def fail(*_: Any, **__: Any) -> Any:
            raise OSError(number, os.strerror(number))

        broken.setattr(owner, call, fail)
        for secret in (kept, revoked, None):
            with pytest.raises(Unauthorized):
                authenticator.authenticate(None if secret is None else header(secret))
    assert authenticator.authenticate(header(kept)) == token.principal
    with pytest.raises(Unauthorized):
        authenticator.authenticate(header(revoked))


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_a_folder_of_tokens_that_cannot_be_looked_at_opens_nothing(
    tokens: Tokens, monkeypatch: pytest.MonkeyPatch, number: int
):
    """It isn't taken for one that was never there."""
    authenticator = Authenticator("127.0.0.1", None, tokens)
    assert authenticator.authenticate(None) is LOCAL

    def fail(self: Path, **_: Any) -> Any:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "stat", fail)
    with pytest.raises(Unauthorized):
        authenticator.authenticate(None)


@pytest.mark.parametrize("name", ["local", "token", "probe"])
def test_a_token_file_named_like_a_principal_of_chora_is_no_token(tokens: Tokens, tmp_path: Path, name: str):
    """Its calls would be taken for those of the probe, or of this machine."""
    secret, _ = tokens.create_token("app", "admin")
    file = tmp_path / ".chora" / "tokens" / "app.json"
    text = file.read_text().replace('"app"', f'"{name}"')
    file.unlink()
    renamed = file.with_name(f"{name}.json")
    renamed.write_text(text)
    renamed.chmod(0o600)
    assert tokens.list_tokens() == []
    with pytest.raises(Unauthorized):
        Authenticator("127.0.0.1", None, tokens).authenticate(header(secret))


def test_an_accepted_token_can_be_revoked(tokens: Tokens):
    """A session's principal becomes invalid when its token is revoked, also if a new token has the same name."""
    authenticator = Authenticator("127.0.0.1", Secret(TOKEN), tokens)
    first, _ = tokens.create_token("app", "read")
    principal = authenticator.authenticate(header(first))
    assert authenticator.is_still_valid(principal)
    tokens.revoke_token("app")
    assert not authenticator.is_still_valid(principal)
    second, _ = tokens.create_token("app", "read")
    assert authenticator.authenticate(header(second)) != principal
    assert not authenticator.is_still_valid(principal)
    assert authenticator.is_still_valid(authenticator.authenticate(f"Bearer {TOKEN}"))


def test_an_expired_token_is_refused(tokens: Tokens, monkeypatch: pytest.MonkeyPatch):
    """From its expiry on; the list still shows it."""
    authenticator = Authenticator("127.0.0.1", None, tokens)
    secret, token = tokens.create_token("app", "read", lasts=timedelta(hours=1))
    principal = authenticator.authenticate(header(secret))
    assert authenticator.is_still_valid(principal)
    assert token.expires is not None
    monkeypatch.setattr(access, "now", lambda: token.expires)
    with pytest.raises(Unauthorized, match="not valid here"):
        authenticator.authenticate(header(secret))
    assert not authenticator.is_still_valid(principal)
    assert [each.is_expired for each in tokens.list_tokens()] == [True]


@pytest.mark.parametrize(
    "name", ["", "App", "1app", "a" * 64, "a/b", "../a", "a.json", "a b", "ä", "-a", "local", "token", "probe", "a\n"]
)
def test_a_token_has_a_plain_name(tokens: Tokens, name: str):
    """It is used as a file name and as a principal's."""
    with pytest.raises(InvalidInput, match="can't name a token"):
        tokens.create_token(name, "read")
    with pytest.raises(TokenNotFound):
        tokens.revoke_token(name)
    assert not tokens.in_use


def test_a_token_name_is_unique(tokens: Tokens):
    """An existing token isn't replaced."""
    secret, token = tokens.create_token("app", "read")
    with pytest.raises(SaveFailed, match="already"):
        tokens.create_token("app", "admin")
    assert tokens.list_tokens() == [token]
    assert Authenticator("127.0.0.1", None, tokens).authenticate(header(secret)).scope == "read"


def test_tokens_are_listed_by_name(tokens: Tokens):
    """In whatever order they were created."""
    for name in ("b", "c", "a"):
        tokens.create_token(name, "read")
    assert [token.name for token in tokens.list_tokens()] == ["a", "b", "c"]


def test_the_number_of_tokens_is_limited(tokens: Tokens, monkeypatch: pytest.MonkeyPatch):
    """As all are read when one changes."""
    monkeypatch.setattr(access, "TOKEN_LIMIT", 2)
    tokens.create_token("a", "read")
    tokens.create_token("b", "read")
    with pytest.raises(InvalidInput, match="already"):
        tokens.create_token("c", "read")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "\xff",
        '{"name":"other","scope":"admin","sha256":"%s","created":"x"}' % ("0" * 64),
        '{"name": 3}',
        '{"name":"odd","scope":"admin","sha256":"no hex","created":"x"}',
        '{"name":"odd","scope":"admin","sha256":"00","created":"x"}',
        '{"name":"odd","scope":"root","sha256":"%s","created":"x"}' % ("0" * 64),
        '{"name":"odd","scope":"read","sha256":"%s","created":"x","expires":"never"}' % ("0" * 64),
        '{"name":"odd","scope":"read","sha256":"%s","created":"x","more":"' % ("0" * 64)
        + "x" * access.FILE_LIMIT
        + '"}',
        '{"odd":' + "[" * 3000,
    ],
    ids=range(12),
)
def test_an_invalid_token_file_authenticates_no_request(tokens: Tokens, tmp_path: Path, text: str):
    """It is skipped, and the other tokens still work."""
    secret, token = tokens.create_token("app", "read")
    odd = tmp_path / ".chora" / "tokens" / "odd.json"
    odd.write_bytes(text.encode("latin-1"))
    odd.chmod(0o600)
    assert tokens.list_tokens() == [token]
    assert Authenticator("0.0.0.0", None, tokens).authenticate(header(secret)) == token.principal


@pytest.mark.skipif(sys.platform == "win32", reason="no pipes that bear a name in a folder")
def test_a_pipe_in_place_of_a_token_file_blocks_nothing(tokens: Tokens, tmp_path: Path):
    """A pipe without a writer, a folder, a link to itself, an endless device; no descriptor is left open."""
    secret, token = tokens.create_token("app", "read")
    folder = tmp_path / ".chora" / "tokens"
    if sys.platform != "win32":
        os.mkfifo(folder / "pipe.json")
    (folder / "folder.json").mkdir()
    (folder / "loop.json").symlink_to("loop.json")
    (folder / "endless.json").symlink_to("/dev/zero")
    before = os.dup(0)
    os.close(before)
    assert tokens.list_tokens() == [token]
    after = os.dup(0)
    os.close(after)
    assert after == before
    assert Authenticator("0.0.0.0", None, tokens).authenticate(header(secret)) == token.principal


def test_tokens_work_on_a_file_system_without_hard_links(tokens: Tokens, monkeypatch: pytest.MonkeyPatch):
    """Names are unique there too."""

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    secret, token = tokens.create_token("app", "read")
    assert Authenticator("127.0.0.1", None, tokens).authenticate(header(secret)) == token.principal
    with pytest.raises(SaveFailed, match="already"):
        tokens.create_token("app", "admin")
    assert tokens.list_tokens() == [token]


def test_a_token_that_cannot_be_stored_is_not_created(tokens: Tokens, tmp_path: Path):
    """The error says why, and no useless token is returned."""
    (tmp_path / ".chora").mkdir()
    (tmp_path / ".chora" / "tokens").write_text("in the way")
    with pytest.raises(SaveFailed, match="can't be stored"):
        tokens.create_token("app", "read")
    assert not tokens.in_use


def test_a_public_server_needs_a_token_even_when_the_tokens_vanish(tokens: Tokens, tmp_path: Path):
    """Removing the folder, or its volume, gives no access."""
    tokens.create_token("app", "admin")
    authenticator = Authenticator("0.0.0.0", None, tokens)
    shutil.rmtree(tmp_path / ".chora")
    with pytest.raises(Unauthorized, match="This server needs a token"):
        authenticator.authenticate(None)
    assert not authenticator.is_still_valid(LOCAL)


def test_checking_for_revoked_tokens_reads_the_folder_once(tokens: Tokens, tmp_path: Path):
    """However many sessions there are: each is checked every few seconds."""
    authenticator = Authenticator("127.0.0.1", None, tokens)
    principals = [tokens.create_token(f"app-{number}", "read")[1].principal for number in range(3)]
    os.utime(tmp_path / ".chora" / "tokens", (1_700_000_000, 1_700_000_000))
    assert authenticator.is_still_valid(principals[0])
    reads: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tokens, "list_tokens", lambda tokens: reads.append(1) or [])
        assert all(authenticator.is_still_valid(each) for each in principals)
    assert not reads


def test_a_change_within_the_clocks_resolution_is_seen(tokens: Tokens, tmp_path: Path):
    """A folder that changed just now is read again."""
    authenticator = Authenticator("127.0.0.1", None, tokens)
    secrets = [tokens.create_token(f"app-{number}", "read")[0] for number in range(2)]
    folder = tmp_path / ".chora" / "tokens"
    whole_second = int(time.time())
    os.utime(folder, (whole_second, whole_second))
    assert authenticator.authenticate(header(secrets[0]))
    secrets.append(tokens.create_token("late", "read")[0])
    os.utime(folder, (whole_second, whole_second))
    assert authenticator.authenticate(header(secrets[2])).name == "late"


def test_an_unchanged_folder_is_not_read_again(tokens: Tokens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its modification time shows that nothing changed."""
    authenticator = Authenticator("127.0.0.1", None, tokens)
    secret, _ = tokens.create_token("app", "read")
    folder = tmp_path / ".chora" / "tokens"
    os.utime(folder, (1_700_000_000, 1_700_000_000))
    assert authenticator.authenticate(header(secret))
    monkeypatch.setattr(Tokens, "list_tokens", lambda tokens: pytest.fail("the folder was read"))
    assert authenticator.authenticate(header(secret))


# -- proxies ----------------------------------------------------------------------------------------------------


def test_only_configured_proxies_are_trusted():
    """By address or network, IPv4 and IPv6, also IPv4-mapped IPv6 addresses."""
    authenticator = Authenticator("127.0.0.1", None, trusted_proxies=["127.0.0.1", "10.0.0.0/8", "fd00::/8"])
    for address in ("127.0.0.1", "10.1.2.3", "fd00::1", "::ffff:10.0.0.1"):
        assert authenticator.is_trusted_proxy(address), address
    for address in ("127.0.0.2", "11.0.0.1", "fe80::1", "", "localhost", "10.0.0.0/8", "unix:"):
        assert not authenticator.is_trusted_proxy(address), address


@pytest.mark.parametrize("proxy", ["localhost", "10.0.0.1/8", "", "*", "10.0.0"])
def test_a_proxy_is_an_address(proxy: str):
    """A name may resolve to anything, and a network with host bits is likely a mistake."""
    with pytest.raises(UsageError, match="trusted_proxies"):
        Authenticator("127.0.0.1", None, trusted_proxies=[proxy])


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        (["203.0.113.9"], "203.0.113.9"),
        (["203.0.113.9, 10.0.0.2"], "203.0.113.9"),
        (["127.0.0.1, 203.0.113.9, 10.0.0.2"], "203.0.113.9"),
        (["127.0.0.1", "203.0.113.9"], "203.0.113.9"),
        (["10.0.0.2"], ""),
        ([], ""),
        (["nonsense"], ""),
        (["localhost"], ""),
        (["127.0.0.1:80"], ""),
        (["203.0.113.9, localhost"], ""),
        (["127.0.0.1, "], ""),
        (["١٢٧.0.0.1"], ""),
        (["::1"], "::1"),
    ],
)
def test_the_client_is_the_address_that_the_outermost_trusted_proxy_saw(forwarded: list[str], client: str):
    """Entries further left can be forged."""
    assert Authenticator("127.0.0.1", None, trusted_proxies=["10.0.0.0/8"]).client_address(forwarded) == client


def test_a_client_beyond_this_machine_needs_a_token(tokens: Tokens):
    """A server without tokens serves this machine only, and the error says how to change that."""
    authenticator = Authenticator("127.0.0.1", None, tokens)
    with pytest.raises(Unauthorized, match="proxy") as caught:
        authenticator.authenticate(None, is_local=False)
    assert "trusted_proxies" in str(caught.value.hint)
    secret, token = tokens.create_token("app", "read")
    assert authenticator.authenticate(header(secret), is_local=False) == token.principal


@pytest.mark.skipif(sys.platform == "win32", reason="files have no mode there")
def test_a_token_that_came_with_a_checkout_is_ignored(tokens: Tokens, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """A foreign project may contain files, but none that only their owner can read."""
    secret, token = tokens.create_token("stranger", "admin")
    path = tmp_path / ".chora" / "tokens" / "stranger.json"
    for bit in (0o40, 0o20, 0o10, 0o4, 0o2, 0o1):
        path.chmod(0o600 | bit)
        caplog.clear()
        authenticator = Authenticator("127.0.0.1", None, tokens)
        with pytest.raises(Unauthorized, match="not valid here"):
            authenticator.authenticate(header(secret))
        assert "chmod 600" in caplog.text
    path.chmod(0o600)
    os.utime(path.parent)
    assert authenticator.authenticate(header(secret)) == token.principal


@pytest.mark.skipif(sys.platform == "win32", reason="making links takes a privilege there")
def test_a_link_in_the_folder_of_tokens_is_no_token(tokens: Tokens, tmp_path: Path):
    """A checkout can bring a link, and the file that it leads to is private all the same (CWE-59)."""
    secret, _ = tokens.create_token("stranger", "admin")
    path = tmp_path / ".chora" / "tokens" / "stranger.json"
    path.rename(tmp_path / "elsewhere.json")
    path.symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(Unauthorized, match="not valid here"):
        Authenticator("127.0.0.1", None, tokens).authenticate(header(secret))


def test_a_token_that_was_edited_in_place_is_read_again_when_asked(tokens: Tokens, tmp_path: Path):
    """Its folder doesn't change by that, which is all that is looked at for a request."""
    secret, _ = tokens.create_token("ci", "read")
    authenticator = Authenticator("127.0.0.1", None, tokens)
    path = tmp_path / ".chora" / "tokens" / "ci.json"
    os.utime(path.parent, ns=(0, 0))  # long enough ago not to be read again for its age
    assert authenticator.authenticate(header(secret)).scope == "read"
    with path.open("r+") as file:
        text = file.read().replace('"read"', '"admin"')
        file.seek(0)
        file.write(text)
    assert authenticator.authenticate(header(secret)).scope == "read"
    tokens.forget()
    assert authenticator.authenticate(header(secret)).scope == "admin"
