"""How counts, names and texts of others are written in messages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, cast

TEXT_LIMIT = 2000
"""Characters of a text in an error or a finding; a longer one is cut (CWE-405)."""


def quantity(count: int, noun: str) -> str:
    """A number and its noun, in the plural unless there is one: `1 file`, `1,200 files`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


_WORD = re.compile(r"[a-z]+(?=[ ,:;]|$)")


def as_sentence(text: str) -> str:
    """The text with a capital letter, unless it begins with a name such as `generation_config`, and a full stop."""
    if _WORD.match(text):
        text = text[0].upper() + text[1:]
    return text.removesuffix(".") + "."


def list_quantities(counts: Mapping[str, int]) -> str:
    """The counts that aren't 0, by nouns in the plural: `1 version, 2 drafts`; `nothing` if there are none."""
    return ", ".join(quantity(count, noun.removesuffix("s")) for noun, count in counts.items() if count) or "nothing"


COMPARED_ALL = 100
"""Words up to which each is compared with another one; a comparison takes tens of microseconds (CWE-407)."""
NEAREST_OF = 30
"""Words of more that are compared."""


def find_nearest(word: str, words: Iterable[str], count: int = 3, cutoff: float = 0.6) -> list[str]:
    """The words most like one that isn't among them, the best first, for "did you mean".

    Of many words, those are compared that have the most in common with its beginning or its end, or hold a part of it.
    """
    import difflib

    if len(word) > 100:
        return []
    alike = list(words)
    if len(alike) > COMPARED_ALL:
        alike = _likely(word, alike)
    return difflib.get_close_matches(word, alike, count, cutoff)


def _likely(word: str, words: list[str]) -> list[str]:
    """Words that hold long parts of a word; searched as one text, which takes milliseconds for a hundred thousand."""
    text = "\n".join(["", *words, ""])
    length = len(word)
    # One wrong character leaves one of these parts as it is; the longer a part, the fewer words hold it.
    cuts = sorted({1, 2, length // 3, length // 2, 2 * length // 3})
    parts = [part for cut in cuts if cut < length for part in (f"\n{word[: length - cut]}", f"{word[cut:]}\n")]
    found: dict[str, None] = {}
    for part in [word, *parts]:
        at = -1
        for _ in range(NEAREST_OF // 3):
            if len(found) >= NEAREST_OF or (at := text.find(part, at + 1)) < 0:
                break
            begin = text.rindex("\n", 0, at + 1) + 1
            found[text[begin : text.index("\n", max(at + 1, begin))]] = None
    return list(found)


def printable(text: str) -> str:
    """The text with lone surrogates escaped, such as undecodable bytes of a file name (PEP 383): UTF-8 and JSON can't
    hold them."""
    return text.encode("utf-8", "backslashreplace").decode()


def escape_unprintable(text: str) -> str:
    """The text with everything escaped that can't be seen: line ends, terminal controls, bidirectional formats.

    They could begin a line of their own in a log, or disguise one (CWE-117).
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]|\r(?!\n)")


def escape_controls(text: str) -> str:
    """The text with the characters escaped that a terminal acts on instead of showing them, except for line ends and
    tabs: escape sequences (CWE-150), and bidirectional formats, which disguise it (CVE-2021-42574). JSON stays JSON.
    """
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def cut_texts(data: Any) -> Any:
    """Data with every text in it cut to `TEXT_LIMIT`, keys too: what errors and findings repeat of a request or a file.

    Otherwise an answer that repeats a long name several times is a multiple of the request, for as long as it
    isn't read.
    """
    match data:
        case str():
            return data if len(data) <= TEXT_LIMIT else f"{data[:TEXT_LIMIT]}… ({len(data):,} characters)"
        case dict():
            return {cut_texts(key): cut_texts(value) for key, value in cast("dict[Any, Any]", data).items()}
        case list():
            return [cut_texts(each) for each in cast("list[Any]", data)]
        case _:
            return data
