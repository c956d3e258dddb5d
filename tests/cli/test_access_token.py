"""Which servers get the access token of this machine, and which only one that is named."""

import pytest

from chora.cli.access_token import AccessToken
from chora.errors import UsageError


@pytest.fixture(autouse=True)
def tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """One token is where tokens usually are, another can be named."""
    monkeypatch.setenv("CHORA_TOKEN", "the-one-of-this-machine")
    monkeypatch.setenv("OTHER", "the-one-that-is-named")


@pytest.mark.parametrize(
    ("url", "reference", "sent", "said"),
    [
        ("https://there.example/mcp", "", "the-one-of-this-machine", ""),
        ("http://127.0.0.1:8000/mcp", "", "the-one-of-this-machine", ""),
        ("http://[::1]:8000/mcp", "", "the-one-of-this-machine", ""),
        ("http://there.example/mcp", "", None, "gets no access token"),
        ("http://there.example/mcp", "env:OTHER", "the-one-that-is-named", "unencrypted"),
        ("https://there.example/mcp", "env:OTHER", "the-one-that-is-named", ""),
    ],
)
def test_only_a_named_token_goes_where_it_can_be_read(
    capsys: pytest.CaptureFixture[str], url: str, reference: str, sent: str | None, said: str
):
    """Over plain http to another machine; a warning says what happens, and holds no token."""
    token = AccessToken(url, reference)
    token.warn()
    found = token.find(use_keyring=False)
    assert (found and found.secret.reveal()) == sent
    warned = capsys.readouterr().err
    assert said in warned if said else not warned
    assert "the-one" not in warned


@pytest.mark.parametrize(
    ("url", "reference", "said"),
    [
        ("there", "", "not the address of a server"),
        ("ftp://there/mcp", "", "not the address of a server"),
        ("https://me:secret@there/mcp", "", "not the address of a server"),
        ("https://there/mcp", "pa55word", "doesn't name a source"),
        ("https://there/mcp", "file:", "doesn't name a source"),
        ("https://there/mcp", "env:", "doesn't name a source"),
    ],
)
def test_what_is_no_address_or_no_source_is_refused(url: str, reference: str, said: str):
    """Without repeating a secret."""
    with pytest.raises(UsageError, match=said) as refused:
        AccessToken(url, reference)
    assert "secret" not in str(refused.value)
    assert "pa55word" not in str(refused.value)
