"""`chora token`: the access tokens for HTTP."""

from __future__ import annotations

import re
from datetime import timedelta

import click
import msgspec

from chora.access import SCOPES, Scope, Tokens
from chora.cli.run import json_option, print_json, print_table, report_errors
from chora.cli.terminal import echo
from chora.errors import InvalidInput
from chora.project import find_project, tokens_folder

_DURATION_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@click.group("token")
def command() -> None:
    """Create, list and revoke access tokens for `chora serve`."""


@command.command("new")
@click.argument("name")
@click.option("--scope", type=click.Choice(SCOPES), default="read", show_default=True, help="What it allows.")
@click.option("--expires", metavar="30d", help="When it expires: minutes (m), hours (h), days (d) or weeks (w).")
@json_option
@click.pass_obj
@report_errors
def new(project: str | None, name: str, scope: Scope, expires: str | None, as_json: bool) -> None:
    """Create a token and print it, once; only its hash is stored.

    read: read-only tools, resources, prompts. write: also tools that write. admin: also tools that delete what is
    stored.
    """
    lasts = None if expires is None else _parse_duration(expires)
    secret, token = Tokens(tokens_folder(find_project(project))).create_token(name, scope, lasts=lasts)
    if as_json:
        print_json({"success": True, "token": secret.reveal(), **_token_facts(token)})
        return
    echo(secret.reveal())
    until = "" if token.expires is None else f" until {token.expires}"
    echo(f"This is the only time the token {name} is shown. Its scope is {scope}{until}.", err=True)


@command.command("list")
@json_option
@click.pass_obj
@report_errors
def list_tokens(project: str | None, as_json: bool) -> None:
    """List the tokens, without their secrets."""
    tokens = Tokens(tokens_folder(find_project(project))).list_tokens()
    if as_json:
        print_json({"success": True, "tokens": [_token_facts(token) for token in tokens]})
        return
    rows = [
        (each.name, each.scope, each.created, f"{each.expires} (expired)" if each.is_expired else each.expires or "-")
        for each in tokens
    ]
    print_table(("name", "scope", "created", "expires"), rows)


@command.command("revoke")
@click.argument("name")
@json_option
@click.pass_obj
@report_errors
def revoke(project: str | None, name: str, as_json: bool) -> None:
    """Revoke a token at once; sessions opened with it end within seconds."""
    Tokens(tokens_folder(find_project(project))).revoke_token(name)
    if as_json:
        print_json({"success": True, "name": name})
    else:
        echo(f"{name} is revoked.")


def _token_facts(token: msgspec.Struct) -> dict[str, object]:
    facts = msgspec.to_builtins(token)
    del facts["sha256"]
    return facts


def _parse_duration(text: str) -> timedelta:
    if not (found := re.fullmatch(r"([1-9]\d{0,5})([mhdw])", text)):
        message = f"{text[:40]!r} is not a duration."
        raise InvalidInput(message, "Write for example 12h, 30d or 8w.", field="expires")
    return timedelta(**{_DURATION_UNITS[found[2]]: int(found[1])})
