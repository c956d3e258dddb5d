"""Secrets: where they are looked up, how they are held, and how they are redacted from what is logged or sent."""

from __future__ import annotations

import errno
import logging
import os
import re
import sys
import threading
import weakref
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

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


def find_secret(
    name: str,
    env: Mapping[str, str] | None = None,
    *,
    reference: str = "",
    run_secrets: Path = Path("/run/secrets"),
    keyring: bool = True,
    fail_closed: bool = False,
) -> FoundSecret | None:
    """Look up a secret; the first hit wins.

    `NAME_FILE` → `/run/secrets/name` → `$CREDENTIALS_DIRECTORY/name` → the OS keyring (service `chora`) → `NAME`.

    A reference from the settings (`keyring:x`, `file:/…`, `env:X`) replaces the search.

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
    env = os.environ if env is None else env
    if reference:
        return _resolve_reference(reference, env)
    if path := env.get(f"{name}_FILE"):
        value = _read_secret_file(path, f"{name}_FILE names {path}, which")
        return FoundSecret(Secret(value), f"file {path}")
    folders = [run_secrets]
    if credentials := env.get("CREDENTIALS_DIRECTORY"):
        folders.append(Path(credentials))
    for file in (folder / name.lower() for folder in folders):
        if _may_exist(file):
            # The container runtime or systemd made it, with the permissions that it thinks right.
            value = _read_secret_file(file, f"The secret in {file}", managed=True)
            return FoundSecret(Secret(value), f"file {file}")
    if keyring and (value := _read_keyring(name.lower(), fail_closed=fail_closed).strip()):
        return FoundSecret(Secret(value), "keyring")
    if value := env.get(name, "").strip():
        return FoundSecret(Secret(value), f"environment {name}")
    return None


def find_token(
    env: Mapping[str, str] | None = None, *, reference: str = "", keyring: bool = True, fail_closed: bool = False
) -> FoundSecret | None:
    """Look up the access token for HTTP, as any secret.

    Raises:
        UsageError: as `find_secret`; or it holds characters that no HTTP header may have.
    """
    found = find_secret("CHORA_TOKEN", env, reference=reference, keyring=keyring, fail_closed=fail_closed)
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
            return FoundSecret(Secret(_read_secret_file(name, f"The secret {reference}")), reference)
        case "keyring":
            value = _read_keyring(name, fail_closed=True)
        case _:
            value = env.get(name, "")
    if not value.strip():
        raise UsageError(
            f"The secret {reference} is empty, or doesn't exist.",
            "Store it there, or leave the setting out to search for it.",
            reference=reference,
        )
    return FoundSecret(Secret(value.strip()), reference)


def _check_owner(path: str | Path, status: os.stat_result) -> None:
    """Refuse a file of another user, and warn about one that others may read (CWE-732)."""
    if sys.platform == "win32":
        return
    if status.st_uid not in (0, os.geteuid()):
        raise PermissionError(errno.EPERM, "it belongs to another user", str(path))
    if status.st_mode & 0o077:
        log.warning("other users may read the secret in %s: run chmod 600 on it", path)


def _may_exist(path: Path) -> bool:
    """Whether there is something at a path; a folder that can't be looked into may have it."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _read_secret_file(path: str | Path, subject: str, *, managed: bool = False) -> str:
    """The secret in a file.

    Args:
        path: the file.
        subject: what it is, to begin the message of an error with.
        managed: the system made the file, with the owner and permissions that it thinks right.

    Raises:
        UsageError: it can't be read, or is empty.
    """
    try:
        data = read_regular_file(path, SECRET_LIMIT, None if managed else partial(_check_owner, path))
        value = data.decode("utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{subject} can't be read: {why_unreadable(error)}.", file=str(path)) from None
    if not value:
        raise UsageError(f"{subject} is empty.", "Write the secret into it, or remove it.", file=str(path))
    return value


def _read_keyring(name: str, timeout: float = 2.0, *, fail_closed: bool = False) -> str:
    """A secret of the OS keyring; empty if it has none, or if there is no keyring.

    It is queried in a daemon thread: a locked one prompts the user and may never return.

    Raises:
        UsageError: with `fail_closed`, the keyring can't be read, so that it isn't known whether it has the secret.
    """
    answer: list[str] = []
    failures: list[str] = []

    def query_keyring() -> None:
        try:
            import keyring
            from keyring.errors import NoKeyringError

            try:
                answer.append(keyring.get_password("chora", name) or "")
            except NoKeyringError:
                answer.append("")
        except Exception as error:  # each backend has its own exceptions
            failures.append(f"it fails with {type(error).__name__}: {error}")

    thread = threading.Thread(target=query_keyring, daemon=True)
    thread.start()
    thread.join(timeout)
    if answer or not fail_closed:
        return answer[0] if answer else ""
    reason = failures[0] if failures else f"it doesn't answer within {timeout:g} s, and may be locked"
    raise UsageError(
        f"The OS keyring can't be read for the secret {name}: {reason}.",
        "Unlock it; or, if the secret isn't there, set PYTHON_KEYRING_BACKEND=keyring.backends.null.Keyring.",
        secret=name,
    )
