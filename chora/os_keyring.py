"""The OS keyring: the secrets of the service `chora`.

It is used in a thread of its own: a locked keyring asks the user, and may never answer. Importing the library takes
long too, so that is done there as well.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

SERVICE = "chora"
TIMEOUT = 2.0
"""Seconds for looking up a secret."""
UNLOCK_TIME = 60.0
"""Seconds for changing one: the user may have to unlock the keyring first."""


class KeyringFailed(Exception):
    """The keyring can't be used, so that it isn't known whether it has a secret.

    Args:
        reason: why, as a part of a sentence.
        is_absent: whether there is no keyring on this machine, which has no secret then.
    """

    def __init__(self, reason: str, *, is_absent: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.is_absent = is_absent


def read_entry(name: str, timeout: float = TIMEOUT) -> str:
    """A secret; empty if the keyring has none of that name.

    Raises:
        KeyringFailed: it can't be read.
    """
    return _ask(lambda keyring: keyring.get_password(SERVICE, name) or "", timeout)


def write_entry(name: str, value: str, timeout: float = UNLOCK_TIME) -> None:
    """Store a secret, and read it back: some backends accept everything and keep nothing.

    Raises:
        KeyringFailed: it isn't stored.
    """

    def write(keyring: Any) -> str:
        keyring.set_password(SERVICE, name, value)
        return keyring.get_password(SERVICE, name) or ""

    if _ask(write, timeout) != value:
        raise KeyringFailed("it accepts secrets, and doesn't keep them")


def delete_entry(name: str, timeout: float = UNLOCK_TIME) -> bool:
    """Delete a secret; False if there is none.

    Raises:
        KeyringFailed: it couldn't be deleted.
    """

    def delete(keyring: Any) -> str:
        if keyring.get_password(SERVICE, name) is None:
            return ""
        keyring.delete_password(SERVICE, name)
        return "deleted"

    return bool(_ask(delete, timeout))


def _ask(action: Callable[[Any], str], timeout: float) -> str:
    answer: list[str] = []
    failures: list[KeyringFailed] = []

    def run() -> None:
        try:
            import keyring
            from keyring.errors import NoKeyringError

            try:
                answer.append(action(keyring))
            except NoKeyringError:
                failures.append(KeyringFailed("there is none on this machine", is_absent=True))
        except Exception as error:  # each backend has its own exceptions
            failures.append(KeyringFailed(f"it fails with {type(error).__name__}: {error}"))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(timeout)
    if answer:
        return answer[0]
    raise failures[0] if failures else KeyringFailed(f"it doesn't answer within {timeout:g} s, and may be locked")
