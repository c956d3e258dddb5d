"""How counts are written in messages, and texts that aren't valid Unicode."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def quantity(count: int, noun: str) -> str:
    """A number and its noun, in the plural unless there is one: `1 file`, `1,200 files`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def list_quantities(counts: Mapping[str, int]) -> str:
    """The counts that aren't 0, by nouns in the plural: `1 version, 2 drafts`; `nothing` if there are none."""
    return ", ".join(quantity(count, noun.removesuffix("s")) for noun, count in counts.items() if count) or "nothing"


def find_nearest(word: str, words: Iterable[str], count: int = 3, cutoff: float = 0.6) -> list[str]:
    """The words most like one that isn't among them, the best first, for "did you mean".

    Compared are at most 500 of about its length, because each comparison takes hundredths of a millisecond and more for
    long words (CWE-407).
    """
    import difflib

    if len(word) > 100:
        return []
    alike = [each for each in words if abs(len(each) - len(word)) <= 2 + len(word) // 2]
    alike.sort(key=lambda each: each[:2] != word[:2])
    return difflib.get_close_matches(word, alike[:500], count, cutoff)


def printable(text: str) -> str:
    """The text with lone surrogates escaped, such as undecodable bytes of a file name (PEP 383): UTF-8 and JSON can't
    hold them."""
    return text.encode("utf-8", "backslashreplace").decode()
