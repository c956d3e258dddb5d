"""Secrets: where they are looked up, how they are held, and how they are redacted from what is logged or sent."""

from __future__ import annotations

import errno
import logging
import os
import re
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from chora import os_keyring
from chora.errors import UsageError, why_unreadable
from chora.regular_files import read_regular_file

log = logging.getLogger("chora.secrets")


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
SECRET_LIMIT = 64 * 1024
"""Bytes of a file with a secret."""
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


class KnownSecret(NamedTuple):
    """A secret that chora looks for by itself."""

    name: str
    """In capitals."""
    setting: str
    """The setting that may say where it is, as `section.key`."""
    purpose: str
    """What it is for; as long as it isn't found, that is off."""
    fail_closed: bool
    """Whether a keyring that can't be read is an error: what the secret guards would be open otherwise."""
    package: str = ""
    """The package that its use needs besides."""


TOKEN = KnownSecret("CHORA_TOKEN", "http.token", "access over HTTP with this token", fail_closed=True)
API_KEY = KnownSecret(
    "ANTHROPIC_API_KEY",
    "llm.api_key",
    "texts by a language model (code_generation)",
    fail_closed=False,
    package="anthropic",
)
KNOWN_SECRETS = (TOKEN, API_KEY)
"""Every secret that chora looks for by itself: `chora secrets` and the start of `chora serve` tell of each."""


class Place(NamedTuple):
    """A place where a secret may be."""

    origin: str
    """What the place is called once the secret was found in it."""
    read: Callable[[], str]
    """Returns the secret, empty if it isn't there; raises UsageError if that can't be told."""
    path: Path | None = None
    """The file, if it is one."""
    is_managed: bool = False
    """Whether the system made the file, with the owner and permissions that it thinks right."""


def list_places(
    name: str,
    env: Mapping[str, str] | None = None,
    *,
    reference: str = "",
    run_secrets: Path = Path("/run/secrets"),
    keyring: bool = True,
    fail_closed: bool = False,
    warn: bool = True,
) -> Iterator[Place]:
    """The places where a secret is looked up, in this order:

    `NAME_FILE` → `/run/secrets/name` → `$CREDENTIALS_DIRECTORY/name` → the OS keyring (service `chora`) → `NAME`.

    A reference from the settings (`keyring:x`, `file:/…`, `env:X`) replaces all of them.

    Args:
        name, env, reference, run_secrets, keyring, fail_closed: as for `find_secret`.
        warn: whether reading a file that others may read is logged.
    """
    env = os.environ if env is None else env
    if reference:
        yield _referenced_place(reference, env, warn=warn)
        return
    if path := env.get(f"{name}_FILE"):
        subject = f"{name}_FILE names {path}, which"
        yield Place(f"file {path}", partial(_read_secret_file, path, subject, warn=warn), Path(path))
    folders = [run_secrets]
    if credentials := env.get("CREDENTIALS_DIRECTORY"):
        folders.append(Path(credentials))
    for file in (folder / name.lower() for folder in folders):
        yield Place(f"file {file}", partial(_read_managed_file, file), file, is_managed=True)
    if keyring:
        yield Place("keyring", partial(_read_keyring, name.lower(), fail_closed=fail_closed))
    yield Place(f"environment {name}", lambda: env.get(name, "").strip())


def find_secret(
    name: str,
    env: Mapping[str, str] | None = None,
    *,
    reference: str = "",
    run_secrets: Path = Path("/run/secrets"),
    keyring: bool = True,
    fail_closed: bool = False,
) -> FoundSecret | None:
    """Look up a secret in its places (`list_places`); the first hit wins.

    Surrounding white space is stripped. An empty value isn't a secret: as a token it would admit every client. A file
    that is in one of these places and can't be read is an error, and never passed over.

    Args:
        name: of the secret, in capitals.
        env: the environment; the process's own when None.
        reference: replaces the search.
        run_secrets: where container runtimes put secrets.
        keyring: whether to look in the OS keyring.
        fail_closed: whether a keyring that is locked or fails is an error too; otherwise it counts as empty.

    Raises:
        UsageError: a file can't be read or is empty; the reference names something that doesn't exist or is empty;
            with `fail_closed`, the keyring can't be read.
    """
    places = list_places(
        name, env, reference=reference, run_secrets=run_secrets, keyring=keyring, fail_closed=fail_closed
    )
    for place in places:
        if value := place.read():
            return FoundSecret(Secret(value), place.origin)
    return None


def find_token(
    env: Mapping[str, str] | None = None, *, reference: str = "", keyring: bool = True, fail_closed: bool = False
) -> FoundSecret | None:
    """Look up the access token for HTTP, as any secret.

    Raises:
        UsageError: as `find_secret`; or it holds characters that no HTTP header may have.
    """
    found = find_secret(TOKEN.name, env, reference=reference, keyring=keyring, fail_closed=fail_closed)
    if found is not None:
        check_token(found.secret.reveal(), f"The access token ({found.origin})")
    return found


def _referenced_place(reference: str, env: Mapping[str, str], *, warn: bool) -> Place:
    """The place that a reference names; reading it fails if there is no secret."""
    kind, _, name = reference.partition(":")
    if kind == "file":
        read = partial(_read_secret_file, name, f"The secret {reference}", warn=warn)
        return Place(reference, read, Path(name))

    def read_other() -> str:
        value = _read_keyring(name, fail_closed=True) if kind == "keyring" else env.get(name, "").strip()
        if not value:
            raise UsageError(
                f"The secret {reference} is empty, or doesn't exist.",
                "Store it there, or leave the setting out to search for it.",
                reference=reference,
            )
        return value

    return Place(reference, read_other)


def check_token(token: str, subject: str) -> None:
    """Refuse what can't be an access token; raises UsageError."""
    if not re.fullmatch(r"[ -~]+", token):
        raise UsageError(
            f"{subject} holds characters that no HTTP header may have.",
            "Use letters, digits and punctuation of ASCII.",
        )


def is_open_to_others(status: os.stat_result) -> bool:
    """Whether other users may read a file (CWE-732)."""
    return sys.platform != "win32" and bool(status.st_mode & 0o077)


def _check_owner(path: str | Path, warn: bool, status: os.stat_result) -> None:
    """Refuse a file of another user, and warn about one that others may read (CWE-732)."""
    if sys.platform == "win32":
        return
    if status.st_uid not in (0, os.geteuid()):
        raise PermissionError(errno.EPERM, "it belongs to another user", str(path))
    if warn and is_open_to_others(status):
        log.warning("other users may read the secret in %s: run chmod 600 on it", path)


def _read_managed_file(path: Path) -> str:
    """The secret in a file that the system made, empty if there is no such file; raises UsageError."""
    return _read_secret_file(path, f"The secret in {path}", managed=True) if _may_exist(path) else ""


def _may_exist(path: Path) -> bool:
    """Whether there is something at a path; a folder that can't be looked into may have it."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _read_secret_file(path: str | Path, subject: str, *, managed: bool = False, warn: bool = True) -> str:
    """The secret in a file.

    Args:
        path: the file.
        subject: what it is, to begin the message of an error with.
        managed: the system made the file, with the owner and permissions that it thinks right.
        warn: whether to log that others may read it.

    Raises:
        UsageError: it can't be read, or is empty.
    """
    try:
        data = read_regular_file(path, SECRET_LIMIT, None if managed else partial(_check_owner, path, warn))
        value = data.decode("utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{subject} can't be read: {why_unreadable(error)}.", file=str(path)) from None
    if not value:
        raise UsageError(f"{subject} is empty.", "Write the secret into it, or remove it.", file=str(path))
    return value


def _read_keyring(name: str, timeout: float = os_keyring.TIMEOUT, *, fail_closed: bool = False) -> str:
    """A secret of the OS keyring; empty if it has none, or if there is no keyring.

    Raises:
        UsageError: with `fail_closed`, the keyring can't be read, so that it isn't known whether it has the secret.
    """
    try:
        return os_keyring.read_entry(name, timeout).strip()
    except os_keyring.KeyringFailed as error:
        if error.is_absent or not fail_closed:
            return ""
        raise UsageError(
            f"The OS keyring can't be read for the secret {name}: {error.reason}.",
            "Unlock it; or, if the secret isn't there, set PYTHON_KEYRING_BACKEND=keyring.backends.null.Keyring.",
            secret=name,
        ) from None
