"""How counts are written in messages, and texts that aren't valid Unicode."""

from __future__ import annotations

from collections.abc import Mapping


def quantity(count: int, noun: str) -> str:
    """A number and its noun, in the plural unless there is one: `1 file`, `1,200 files`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def list_quantities(counts: Mapping[str, int]) -> str:
    """The counts that aren't 0, by nouns in the plural: `1 version, 2 drafts`; `nothing` if there are none."""
    return ", ".join(quantity(count, noun.removesuffix("s")) for noun, count in counts.items() if count) or "nothing"


def printable(text: str) -> str:
    """The text with lone surrogates escaped, such as undecodable bytes of a file name (PEP 383): UTF-8 and JSON can't
    hold them."""
    return text.encode("utf-8", "backslashreplace").decode()
