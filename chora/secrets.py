"""Secrets: where they are looked up, how they are held, and how they are redacted from what is logged or sent."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from chora.errors import UsageError, why_unreadable


class Secret:
    """A value that never prints itself; `reveal` returns it at the place of use, and `redact` finds it in texts."""

    __slots__ = ("__weakref__", "_value")

    held: ClassVar[weakref.WeakSet[Secret]] = weakref.WeakSet()
    """Every secret in the process."""

    def __init__(self, value: str) -> None:
        self._value = value
        Secret.held.add(self)

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__

    def __reduce__(self) -> Any:
        raise TypeError("a Secret is never pickled")


REDACTED = "***"
REDACTED_LENGTH_MINIMUM = 6
"""Minimum length of a secret that is redacted everywhere; shorter ones occur in ordinary words."""

_SECRET_PATTERN = re.compile(r"(\bBearer\s+|\bsk-ant-)[\w.~+/=-]{6,}")


def redact(text: str) -> str:
    """Replace every secret in the process, and what looks like one, by `***`.

    The last line of defence for logs, events and errors (CWE-532).
    """
    for secret in list(Secret.held):
        value = secret.reveal()
        if len(value) >= REDACTED_LENGTH_MINIMUM and value in text:
            text = text.replace(value, REDACTED)
    return (
        _SECRET_PATTERN.sub(lambda found: found[1] + REDACTED, text) if "Bearer" in text or "sk-ant-" in text else text
    )


class FoundSecret(NamedTuple):
    """A secret and where it was found, which may be logged."""

    secret: Secret
    origin: str


def find_secret(
    name: str,
    env: Mapping[str, str] | None = None,
    *,
    reference: str = "",
    run_secrets: Path = Path("/run/secrets"),
    keyring: bool = True,
) -> FoundSecret | None:
    """Look up a secret; the first hit wins.

    `NAME_FILE` → `/run/secrets/name` → `$CREDENTIALS_DIRECTORY/name` → the OS keyring (service `chora`) → `NAME`.

    A reference from the settings (`keyring:x`, `file:/…`, `env:X`) replaces the search.

    Surrounding white space is stripped. An empty value isn't a secret: as a token it would admit every client.

    Raises:
        UsageError: `NAME_FILE`, or the reference, names something that doesn't exist, can't be read or is empty.
    """
    env = os.environ if env is None else env
    if reference:
        return _resolve_reference(reference, env)
    if path := env.get(f"{name}_FILE"):
        try:
            value = Path(path).read_text("utf-8-sig").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"{name}_FILE names {path}, which can't be read: {why_unreadable(error)}.", file=path
            ) from None
        if not value:
            raise UsageError(f"{name}_FILE names {path}, which is empty.", file=path)
        return FoundSecret(Secret(value), f"file {path}")
    folders = [run_secrets]
    if credentials := env.get("CREDENTIALS_DIRECTORY"):
        folders.append(Path(credentials))
    for file in (folder / name.lower() for folder in folders):
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if value := file.read_text("utf-8-sig").strip():
                return FoundSecret(Secret(value), f"file {file}")
    if keyring and (value := _read_keyring(name.lower()).strip()):
        return FoundSecret(Secret(value), "keyring")
    if value := env.get(name, "").strip():
        return FoundSecret(Secret(value), f"environment {name}")
    return None


def find_token(
    env: Mapping[str, str] | None = None, *, reference: str = "", keyring: bool = True
) -> FoundSecret | None:
    """Look up the access token for HTTP, as any secret.

    Raises:
        UsageError: as `find_secret`, or it holds characters that no HTTP header may have.
    """
    found = find_secret("CHORA_TOKEN", env, reference=reference, keyring=keyring)
    if found is not None and not re.fullmatch(r"[ -~]+", found.secret.reveal()):
        raise UsageError(
            f"The access token ({found.origin}) holds characters that no HTTP header may have.",
            "Use letters, digits and punctuation of ASCII.",
        )
    return found


def _resolve_reference(reference: str, env: Mapping[str, str]) -> FoundSecret:
    """Resolve a reference to a secret."""
    kind, _, name = reference.partition(":")
    match kind:
        case "file":
            try:
                value = Path(name).read_text("utf-8-sig")
            except (OSError, UnicodeDecodeError) as error:
                raise UsageError(f"The secret {reference} can't be read: {why_unreadable(error)}.", file=name) from None
        case "keyring":
            value = _read_keyring(name)
        case _:
            value = env.get(name, "")
    if not value.strip():
        raise UsageError(
            f"The secret {reference} is empty, or doesn't exist.",
            "Store it there, or leave the setting out to search for it.",
            reference=reference,
        )
    return FoundSecret(Secret(value.strip()), reference)


def _read_keyring(name: str, timeout: float = 2.0) -> str:
    """Query the OS keyring in a daemon thread: a locked one prompts the user and may never return."""
    answer: list[str] = []

    def query_keyring() -> None:
        try:
            import keyring

            answer.append(keyring.get_password("chora", name) or "")
        except Exception:  # each backend has its own exceptions; none may stop the start
            answer.append("")

    thread = threading.Thread(target=query_keyring, daemon=True)
    thread.start()
    thread.join(timeout)
    return answer[0] if answer else ""
