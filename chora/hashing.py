"""How hashes are written everywhere, and the hash of plain data."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

_canonical = msgspec.json.Encoder(order="deterministic")


def sha256(data: bytes) -> str:
    """The hash as `sha256:<hex>`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def digest_of(value: Any) -> str:
    """A hash of plain data that doesn't depend on the order of its keys."""
    return sha256(_canonical.encode(value))
