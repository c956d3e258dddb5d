"""The access token for a server that a command calls: where it comes from, and which servers get it."""

from __future__ import annotations

import re

import click

from chora.cli.terminal import echo
from chora.errors import UsageError
from chora.fetch import parse_address
from chora.secrets import FoundSecret, find_token

token_option = click.option(
    "--token",
    "reference",
    default="",
    metavar="REF",
    help="Source of the access token: keyring:NAME, file:PATH or env:NAME.",
)


def is_reference(text: str) -> bool:
    """Whether a text names the source of a secret."""
    return re.fullmatch(r"(keyring:|file:|env:\w).+", text, re.DOTALL) is not None


class AccessToken:
    """The token for one server.

    The one that the machine has for any server goes only to where nobody can read it on the way (CWE-319): over https,
    or to this machine. One that is named with `--token` goes anywhere.

    Args:
        url: of the server.
        reference: the source of the token; empty to look where tokens usually are.

    Raises:
        UsageError: the URL is none, or the reference names no source.
    """

    def __init__(self, url: str, reference: str) -> None:
        from chora.access import is_loopback

        try:
            self.address = address = parse_address(url)
        except ValueError as error:
            raise UsageError(
                f"The URL is not the address of a server: {error}.",
                "Write it as https://host/mcp, without a user name; an access token is named by --token.",
            ) from None
        if reference and not is_reference(reference):
            raise UsageError(
                "--token doesn't name a source of the access token.", "Write keyring:NAME, file:PATH or env:NAME."
            )
        self._origin = address.origin
        self._reference = reference
        self._is_safe = address.origin.scheme == "https" or is_loopback(address.origin.host)

    def find(self, use_keyring: bool = True) -> FoundSecret | None:
        """The token now; None if there is none, or the server gets none."""
        if self._reference:
            return find_token(reference=self._reference)
        return find_token(keyring=use_keyring) if self._is_safe else None

    def warn(self) -> None:
        """Print a warning if the token can be read on the way, or isn't sent for that reason."""
        if self._reference and not self._is_safe:
            echo(f"warning: the access token goes to {self._origin} unencrypted; use https", err=True)
        elif not self._is_safe and find_token(keyring=False) is not None:
            echo(f"warning: {self._origin} gets no access token: it isn't https; name one with --token", err=True)
