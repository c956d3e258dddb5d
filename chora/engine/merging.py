"""Comparing and merging texts: line differences, and a three-way merge of a person's edit with a new text."""

from __future__ import annotations

import difflib
import re
from typing import Literal, NamedTuple

DIFF_LINES = 60
DIFF_WINDOW = 500
"""Lines from the first difference on that are compared; difflib takes cubic time for unrelated texts."""
MERGE_LINES = 5000
"""Lines that the three texts of a merge may have between what they have in common at both ends."""

YOURS, OURS, END = "<<<<<<< edited", "=======", ">>>>>>> chora"


def diff(path: str, current: bytes, data: bytes) -> str:
    """The first lines in which a file differs from what it should hold, as a unified diff."""
    old = current.decode(errors="replace").splitlines()
    new = data.decode(errors="replace").splitlines()
    if old == new:
        return "(only line ends differ)"
    pairs = enumerate(zip(old, new, strict=False))
    same = next((at for at, (one, other) in pairs if one != other), min(len(old), len(new)))
    start = max(same, 1) - 1
    end = start + DIFF_WINDOW
    names = f"{path} (on disk)", f"{path} (chora)"
    lines = list(difflib.unified_diff(old[start:end], new[start:end], *names, lineterm="", n=1))

    def moved(number: re.Match[str]) -> str:
        return str(int(number[0]) + start)

    shown = [re.sub(r"(?<=[-+])\d+", moved, line) if line.startswith("@@") else line[:200] for line in lines]
    if len(shown) > DIFF_LINES or max(len(old), len(new)) > end:
        shown[DIFF_LINES:] = ["… and more"]
    return "\n".join(shown)


class LineChanges(NamedTuple):
    """How many lines were added, removed and changed between two texts."""

    added: int
    removed: int
    changed: int

    @property
    def summary(self) -> str:
        return f"+{self.added} -{self.removed} ~{self.changed}"


def count_changes(old: str, new: str) -> LineChanges:
    """Compare two texts line by line, in order: of a replaced block the smaller half counts as changed."""
    before, after = _without_common_ends(old.splitlines(), new.splitlines())
    added = removed = changed = 0
    if len(before) + len(after) > 2 * MERGE_LINES:
        # Beyond what difflib can compare in bounded time, the block between is one replacement.
        operations = [("replace", 0, len(before), 0, len(after))]
    else:
        operations = difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    for operation, i1, i2, j1, j2 in operations:
        if operation == "equal":
            continue
        same = min(i2 - i1, j2 - j1)
        changed += same
        removed += i2 - i1 - same
        added += j2 - j1 - same
    return LineChanges(added, removed, changed)


def _without_common_ends(old: list[str], new: list[str]) -> tuple[list[str], list[str]]:
    """Both without the lines that they have in common at their beginning and end."""
    shorter = min(len(old), len(new))
    start = next((at for at in range(shorter) if old[at] != new[at]), shorter)
    end = next((at for at in range(shorter - start) if old[-1 - at] != new[-1 - at]), shorter - start)
    return old[start : len(old) - end], new[start : len(new) - end]


# -- three-way merge --------------------------------------------------------------------------------------------


class MergedText(NamedTuple):
    """The text with both sides' changes, and how many of them conflicted."""

    text: str
    conflicts: int


def merge_texts(base: str, edited: str, ours: str) -> MergedText | None:
    """Merge a person's edit of `base` with the new text; None if the texts are too long for that.

    A change that only one side made is taken. Where both changed the same lines, the text has both between
    conflict marks, unless they made the same change. Conflict marks of an earlier merge are resolved to the edited side
    first, so that conflicts are never nested; if that merge had all of the new text already, the edit stays as it is.
    """
    if edited in (base, ours):
        return MergedText(ours, 0)
    if ours == base:
        return MergedText(edited, 0)
    old, mine, theirs = (text.splitlines(keepends=True) for text in (base, edited, ours))
    if (resolved := _resolve_conflicts(mine, keep="edited")) != mine:
        with_ours = "".join(_resolve_conflicts(mine, keep="new"))
        if merge_texts(base, with_ours, ours) == MergedText(with_ours, 0):
            return MergedText(edited, sum(line.rstrip("\r\n") == YOURS for line in mine))
        mine = resolved
    if max(len(part) for part in (*_without_common_ends(old, mine), *_without_common_ends(old, theirs))) > MERGE_LINES:
        return None
    parts: list[str] = []
    conflicts = 0
    at_old = at_mine = at_theirs = 0
    for block in _find_anchors(old, mine, theirs):
        was, left, right = old[at_old : block.old], mine[at_mine : block.mine], theirs[at_theirs : block.theirs]
        if left == right or right == was:
            parts += left
        elif left == was:
            parts += right
        else:
            conflicts += 1
            parts += [f"{YOURS}\n", *_with_final_newline(left), f"{OURS}\n", *_with_final_newline(right), f"{END}\n"]
        parts += old[block.old : block.old + block.length]
        at_old, at_mine, at_theirs = (start + block.length for start in (block.old, block.mine, block.theirs))
    return MergedText("".join(parts), conflicts)


def _resolve_conflicts(lines: list[str], *, keep: Literal["edited", "new"]) -> list[str]:
    """The lines with one side of each conflict in its place; incomplete marks stay."""
    resolved: list[str] = []
    start = middle = None
    for line in lines:
        match line.rstrip("\r\n"):
            case mark if mark == YOURS:
                start, middle = len(resolved), None
            case mark if mark == OURS and start is not None and middle is None:
                middle = len(resolved)
            case mark if mark == END and start is not None and middle is not None:
                resolved[start:] = resolved[start + 1 : middle] if keep == "edited" else resolved[middle + 1 :]
                start = middle = None
                continue
            case _:
                pass
        resolved.append(line)
    return resolved


class _Anchor(NamedTuple):
    """Lines that all three texts have in common."""

    old: int
    mine: int
    theirs: int
    length: int


def _find_anchors(old: list[str], mine: list[str], theirs: list[str]) -> list[_Anchor]:
    """The blocks of lines that all three texts have in common, and an empty one at the end of all."""
    mine_by_old = dict(_matching_lines(old, mine))
    theirs_by_old = dict(_matching_lines(old, theirs))
    found: list[_Anchor] = []
    for at in range(len(old)):
        if at not in mine_by_old or at not in theirs_by_old:
            continue
        here = _Anchor(at, mine_by_old[at], theirs_by_old[at], 1)
        last = found[-1] if found else None
        if last and all(here[side] == last[side] + last.length for side in range(3)):
            found[-1] = last._replace(length=last.length + 1)
        else:
            found.append(here)
    return [*found, _Anchor(len(old), len(mine), len(theirs), 0)]


def _matching_lines(old: list[str], new: list[str]) -> list[tuple[int, int]]:
    """The lines that both have in common, as pairs of their indexes in `old` and `new`."""
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    return [(block.a + at, block.b + at) for block in matcher.get_matching_blocks() for at in range(block.size)]


def _with_final_newline(lines: list[str]) -> list[str]:
    """The lines with a line end after the last one, so that a mark begins a line."""
    return [*lines[:-1], lines[-1] if lines[-1].endswith("\n") else f"{lines[-1]}\n"] if lines else []
