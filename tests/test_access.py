"""Who comes through the HTTP door."""

import hmac
from typing import Any

import pytest

from chora import access
from chora.access import LOCAL, Gate, Principal, is_loopback
from chora.config import Secret
from chora.errors import Unauthorized, UsageError

TOKEN = "correct horse battery staple".replace(" ", "-")


@pytest.mark.parametrize(
    "host", ["localhost", "LocalHost", "127.0.0.1", "127.8.9.10", "::1", "[::1]", "0:0:0:0:0:0:0:1", "::1%lo"]
)
def test_loopback_is_this_machine_alone(host: str):
    """Every spelling of an address that no other machine reaches."""
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    [
        *("", "0.0.0.0", "::", "[::]", "10.0.0.1", "192.168.1.5", "128.0.0.1", "fe80::1", "::ffff:10.0.0.1"),
        *("example.org", "localhost.example.org", "127.0.0.1.example.org", "127.1", "localhost ", "*"),
    ],
)
def test_anything_else_is_public(host: str):
    """What isn't surely loopback counts as reachable, names included: they may resolve to anything."""
    assert not is_loopback(host)


def test_a_loopback_door_needs_no_token():
    """Without a token everybody on this machine is the local user, whatever header they send."""
    gate = Gate("127.0.0.1", None)
    assert not gate.public
    for header in (None, "Bearer anything", "Basic eDp5", ""):
        assert gate.identify(header) is LOCAL
    assert LOCAL.may("read")
    assert LOCAL.may("write")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", ""])
def test_a_public_door_without_a_token_is_refused(host: str):
    """It doesn't open at all, and says how to give a token."""
    with pytest.raises(UsageError) as caught:
        Gate(host, None)
    assert "without a token" in caught.value.message
    assert "CHORA_TOKEN_FILE" in str(caught.value.hint)
    assert caught.value.details == {"host": host}


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer  "])
def test_the_right_token_comes_in(host: str, scheme: str):
    """The scheme's letters may be of any size, and more than one space may follow."""
    principal = Gate(host, Secret(TOKEN)).identify(f"{scheme} {TOKEN}")
    assert principal == Principal("token")
    assert principal.may("write")


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize(
    "header",
    [
        *(None, "", "Bearer", "Bearer ", f"Bearer{TOKEN}", TOKEN, f"Basic {TOKEN}", f"Token {TOKEN}"),
        *(f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN.upper()}", f"Bearer {TOKEN} {TOKEN}"),
        *("Bearer \x00", "Bearer \xff\xfe", f"Bearer {'x' * 100_000}", f"Bearer Bearer {TOKEN}"),
    ],
)
def test_any_other_header_stays_outside(host: str, header: str | None):
    """A missing, wrong or mangled token is refused, and the refusal doesn't repeat it."""
    gate = Gate(host, Secret(TOKEN))
    with pytest.raises(Unauthorized) as caught:
        gate.identify(header)
    assert TOKEN not in str(caught.value.as_dict())
    assert "Authorization: Bearer" in str(caught.value.hint)


@pytest.mark.parametrize("token", [None, Secret(TOKEN)])
def test_a_token_can_be_let_in_later(token: Secret | None):
    """An admitted token stands for its principal beside the door's own, and on a door that needs none."""
    gate = Gate("127.0.0.1", token)
    probe = Principal("probe", "read", routine=True)
    gate.admit(Secret("probe-token"), probe)
    assert gate.identify("Bearer probe-token") is probe
    assert probe.may("read")
    assert not probe.may("write")
    assert gate.identify(f"Bearer {TOKEN}").name == ("local" if token is None else "token")


def test_tokens_are_compared_in_constant_time_and_kept_as_hashes(monkeypatch: pytest.MonkeyPatch):
    """How long a refusal takes says nothing of how near the guess was, and the gate doesn't hold the token."""
    compared: list[tuple[bytes, bytes]] = []

    class Watched:
        @staticmethod
        def compare_digest(known: bytes, given: bytes) -> bool:
            compared.append((known, given))
            return hmac.compare_digest(known, given)

    monkeypatch.setattr(access, "hmac", Watched)
    gate = Gate("0.0.0.0", Secret(TOKEN))
    with pytest.raises(Unauthorized):
        gate.identify("Bearer short")
    gate.identify(f"Bearer {TOKEN}")
    assert [(len(known), len(given)) for known, given in compared] == [(32, 32), (32, 32)]
    held: list[Any] = list(vars(gate).values())
    assert TOKEN not in str(held)
