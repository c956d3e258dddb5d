"""Comparing and merging texts: line differences, and a three-way merge of a person's edit with a new text."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Literal, NamedTuple

from chora.engine.line_diff import (
    COMPARED_LINES,
    Block,
    TooManyLines,
    common_ends,
    find_changes,
    number_lines,
    split_lines,
)

DIFF_LINES = 60
"""Lines of a difference that are shown."""
DIFF_WINDOW = COMPARED_LINES
"""Lines from the first difference on that are compared to show them."""
MERGE_LINES = COMPARED_LINES
"""Lines that each text of a merge may have between what it has in common with the base at both ends."""
MERGE_LINES_IN_ALL, MERGE_LENGTH = 20_000, 1024 * 1024
"""Lines and characters that each text of a merge may have in all."""
JOINED_LINES = 3
"""Lines between two conflicts that become part of one, as git has it: more marks would be harder to read."""

YOURS, OURS, END = "<<<<<<< edited", "=======", ">>>>>>> chora"


# -- differences --------------------------------------------------------------------------------------------------


def diff(path: str, current: bytes, data: bytes, sides: tuple[str, str] = ("on disk", "chora")) -> str:
    """The first lines in which a file differs from what it should hold, as a unified diff."""
    old_text, new_text = _with_newlines(current), _with_newlines(data)
    if old_text == new_text:
        return "(only line ends differ)"
    first_change, _ = common_ends(old_text, new_text)
    start = old_text.rfind(b"\n", 0, max(first_change - 1, 0)) + 1  # with one line before it
    lines_before = old_text.count(b"\n", 0, start)
    old, new = _lines_of_window(old_text, start), _lines_of_window(new_text, start)
    shown = [f"--- {path} ({sides[0]})", f"+++ {path} ({sides[1]})"]
    for hunk in _hunks(find_changes(*number_lines(old, new))):
        before = min(hunk[0].old_start, hunk[0].new_start, 1)
        after = min(len(old) - hunk[-1].old_end, len(new) - hunk[-1].new_end, 1)
        at, end = hunk[0].old_start - before, hunk[-1].old_end + after
        old_range = _range(lines_before + at, end - at)
        new_start = hunk[0].new_start - before
        shown.append(f"@@ -{old_range} +{_range(lines_before + new_start, hunk[-1].new_end + after - new_start)} @@")
        for block in hunk:
            shown += [f" {line}" for line in old[at : block.old_start]]
            shown += [f"-{line}" for line in old[block.old_start : block.old_end]]
            shown += [f"+{line}" for line in new[block.new_start : block.new_end]]
            at = block.old_end
        shown += [f" {line}" for line in old[at:end]]
    is_whole = max(old_text.count(b"\n", start), new_text.count(b"\n", start)) < DIFF_WINDOW
    if len(shown) > DIFF_LINES or not is_whole:
        shown[DIFF_LINES:] = ["… and more"]
    return "\n".join(line[:200] for line in shown)


def _with_newlines(data: bytes) -> bytes:
    """The text with each line end as a newline, without the last one."""
    return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").removesuffix(b"\n")


def _lines_of_window(text: bytes, start: int) -> list[str]:
    lines = text[start:].split(b"\n", DIFF_WINDOW)[:DIFF_WINDOW] if start < len(text) else []
    return [line.decode(errors="replace") for line in lines]


def _hunks(blocks: list[Block]) -> list[list[Block]]:
    """The blocks, together where their lines of context touch."""
    hunks: list[list[Block]] = []
    for block in blocks:
        if hunks and block.old_start - hunks[-1][-1].old_end <= 2:
            hunks[-1].append(block)
        else:
            hunks.append([block])
    return hunks


def _range(start: int, length: int) -> str:
    return f"{start + 1}" if length == 1 else f"{start + (length > 0)},{length}"


class LineChanges(NamedTuple):
    """How many lines were added, removed and changed between two texts."""

    added: int
    removed: int
    changed: int

    @property
    def summary(self) -> str:
        return f"+{self.added} -{self.removed} ~{self.changed}"


def count_changes(old: str, new: str) -> LineChanges:
    """Compare two texts line by line, in order: of a replaced block the smaller half counts as changed.

    Beyond what is compared, all between the common ends is one block.
    """
    start, end = common_ends(old, new)
    before, after = old[start : len(old) - end], new[start : len(new) - end]
    counts = [text.count("\n") + (not text.endswith("\n")) if text else 0 for text in (before, after)]
    try:
        if max(counts) > COMPARED_LINES:
            raise TooManyLines
        blocks = find_changes(*number_lines(split_lines(before), split_lines(after)))
    except TooManyLines:
        blocks = [Block(0, counts[0], 0, counts[1])]
    added = removed = changed = 0
    for block in blocks:
        old_lines, new_lines = block.old_end - block.old_start, block.new_end - block.new_start
        same = min(old_lines, new_lines)
        changed += same
        removed += old_lines - same
        added += new_lines - same
    return LineChanges(added, removed, changed)


# -- three-way merge --------------------------------------------------------------------------------------------


class MergedText(NamedTuple):
    """The text with both sides' changes, and how many conflicts are marked in it."""

    text: str
    conflicts: int


def merge_texts(base: str, edited: str, ours: str) -> MergedText | None:
    """Merge a person's edit of `base` with the new text.

    A change that only one side made is taken. Where both changed the same or neighbouring lines, the text has both
    between conflict marks, unless they made the same change. Conflict marks of an earlier merge are resolved to the
    edited side first, so that conflicts are never nested.

    A text that has all changes of the new text stays as it is, and every result is such a text, so that merging it
    again changes nothing: a merge for which that isn't so, because repeated lines may be matched in more than one way,
    is marked as one conflict instead.

    Returns:
        None if the texts are too long to compare, or hold conflict marks that can't be told from those of a merge.
    """
    if edited in (base, ours):
        return MergedText(ours, 0)
    if ours == base:
        return MergedText(edited, _count_marks(edited))
    if any(text.count("\n") > MERGE_LINES_IN_ALL or len(text) > MERGE_LENGTH for text in (base, edited, ours)):
        return None
    if _count_marks(base) or _count_marks(ours):
        return None
    merge = _Merge(base, ours)
    if merge.is_done_in(edited):
        return MergedText(edited, _count_marks(edited))
    resolved = _resolve_conflicts(edited, keep="edited").text
    try:
        attempts = [merge.merge_changes(resolved), _mark_as_conflict(resolved, ours)]
    except TooManyLines:
        return None
    for merged in attempts:
        is_clear = _resolve_conflicts(merged.text, keep="new").conflicts == merged.conflicts
        if is_clear and merged.text != base and (merged.text == ours or merge.is_done_in(merged.text)):
            return MergedText(merged.text, _count_marks(merged.text))
    return None


def _mark_as_conflict(edited: str, ours: str) -> MergedText:
    """All that differs between the two sides as one conflict."""
    start, end = common_ends(edited, ours)
    left, right = (split_lines(text[start : len(text) - end]) for text in (edited, ours))
    return MergedText("".join([edited[:start], *_marked(left, right), edited[len(edited) - end :]]), 1)


class _Piece(NamedTuple):
    """Lines of a merge: a conflict if both sides are there, else lines on which they agree."""

    left: list[str]
    right: list[str] | None = None


class _Merge:
    """The changes between a base and a new text, to be merged into other texts."""

    def __init__(self, base: str, ours: str) -> None:
        self._base = base
        self._ours = ours
        self._known_changes: dict[tuple[str, str], list[Block]] = {}
        self._numbered: dict[str, list[int]] = {}
        self._numbers: dict[str, int] = {}

    def merge_changes(self, text: str) -> MergedText:
        """The three-way merge (diff3), as git makes it.

        Raises:
            TooManyLines: the texts are too long to compare.
        """
        pieces = _join_conflicts(self._pieces(text))
        lines = [line for left, right in pieces for line in (left if right is None else _marked(left, right))]
        conflicts = sum(piece.right is not None for piece in pieces)
        return MergedText("".join(lines), conflicts)

    def is_done_in(self, text: str) -> bool:
        """Whether a text, with its conflicts resolved to the new side, has all changes already.

        That is so if merging them changes nothing, and also if it differs from the new text only where that has no
        changes, which is what a merge gives: repeated lines may hide that from the comparison with the base.
        """
        with_ours = _resolve_conflicts(text, keep="new").text
        if with_ours.removesuffix("\n") == self._ours.removesuffix("\n"):
            return True
        try:
            if self.merge_changes(with_ours) == MergedText(with_ours, 0):
                return True
        except TooManyLines:
            pass
        try:
            return self._differs_elsewhere(with_ours)
        except TooManyLines:
            return False

    def _differs_elsewhere(self, text: str) -> bool:
        """Whether a text differs from the new one only apart from its changes, and has no line that it removed."""
        base, ours, found = (set(self._number_lines(each)) for each in (self._base, self._ours, text))
        if not found.isdisjoint(base - ours):
            return False
        groups = _touching_changes(self._changes(self._ours, self._base), self._changes(self._ours, text))
        return not any(ours_changed and text_changed for _, _, ours_changed, text_changed in groups)

    def _changes(self, old: str, new: str) -> list[Block]:
        if (known := self._known_changes.get((old, new))) is None:
            known = self._known_changes[old, new] = find_changes(self._number_lines(old), self._number_lines(new))
        return known

    def _number_lines(self, text: str) -> list[int]:
        if (known := self._numbered.get(text)) is None:
            numbers = self._numbers
            known = self._numbered[text] = [numbers.setdefault(line, len(numbers)) for line in split_lines(text)]
        return known

    def _pieces(self, text: str) -> Generator[_Piece]:
        lefts, rights = self._changes(self._base, text), self._changes(self._base, self._ours)
        old, left, right = split_lines(self._base), split_lines(text), split_lines(self._ours)
        at = left_at = right_at = 0
        for start, end, left_changes, right_changes in _touching_changes(lefts, rights):
            yield _Piece(old[at:start])
            left_start, right_start = left_at + start - at, right_at + start - at
            left_at, right_at = (
                first + end - start + sum(_growth(block) for block in changes)
                for first, changes in ((left_start, left_changes), (right_start, right_changes))
            )
            left_part, right_part = left[left_start:left_at], right[right_start:right_at]
            if not right_changes or left_part == right_part:
                yield _Piece(left_part)
            elif not left_changes:
                yield _Piece(right_part)
            else:
                yield from self._refine_conflict(left_part, right_part)
            at = end
        yield _Piece(old[at:])

    def _refine_conflict(self, left: list[str], right: list[str]) -> Generator[_Piece]:
        """The conflict without the lines that both sides have."""
        at = 0
        for block in self._changes("".join(left), "".join(right)) if left and right else [_all_of(left, right)]:
            yield _Piece(left[at : block.old_start])
            yield _Piece(left[block.old_start : block.old_end], right[block.new_start : block.new_end])
            at = block.old_end
        yield _Piece(left[at:])


def _growth(block: Block) -> int:
    return block.new_end - block.new_start - block.old_end + block.old_start


def _all_of(left: list[str], right: list[str]) -> Block:
    return Block(0, len(left), 0, len(right))


def _touching_changes(lefts: list[Block], rights: list[Block]) -> Generator[tuple[int, int, list[Block], list[Block]]]:
    """The changes of both sides, together where they overlap or touch, with the lines of the base that they span."""
    at_left = at_right = 0
    while at_left < len(lefts) or at_right < len(rights):
        first_left, first_right = at_left, at_right
        starts = [blocks[at].old_start for blocks, at in ((lefts, at_left), (rights, at_right)) if at < len(blocks)]
        start = end = min(starts)
        while True:
            if at_left < len(lefts) and lefts[at_left].old_start <= end:
                end = max(end, lefts[at_left].old_end)
                at_left += 1
            elif at_right < len(rights) and rights[at_right].old_start <= end:
                end = max(end, rights[at_right].old_end)
                at_right += 1
            else:
                break
        yield start, end, lefts[first_left:at_left], rights[first_right:at_right]


def _join_conflicts(pieces: Generator[_Piece]) -> list[_Piece]:
    """The pieces, with conflicts joined that only few lines stand between."""
    joined: list[_Piece] = []
    for piece in pieces:
        if piece.right is None and not piece.left:
            continue
        between = joined[-1].left if joined else []
        if piece.right is not None and len(joined) > 1 and len(between) <= JOINED_LINES and joined[-1].right is None:
            before = joined[-2]
            if before.right is not None:
                joined[-2:] = [_Piece([*before.left, *between, *piece.left], [*before.right, *between, *piece.right])]
                continue
        joined.append(piece)
    return joined


# -- conflict marks ---------------------------------------------------------------------------------------------


class _Resolved(NamedTuple):
    text: str
    conflicts: int


def _marked(left: Sequence[str], right: Sequence[str]) -> list[str]:
    return [f"{YOURS}\n", *_with_final_newline(left), f"{OURS}\n", *_with_final_newline(right), f"{END}\n"]


def _with_final_newline(lines: Sequence[str]) -> list[str]:
    """The lines with a line end after the last one, so that a mark begins a line."""
    return [*lines[:-1], lines[-1] if lines[-1].endswith("\n") else f"{lines[-1]}\n"] if lines else []


def has_conflicts(text: str) -> bool:
    """Whether conflicts that a merge marked stand in a text."""
    return _resolve_conflicts(text, keep="edited").conflicts > 0


def _count_marks(text: str) -> int:
    """How many conflicts a text has, also incomplete ones: their first or last marks, whichever are more."""
    return max(text.count(f"\n{mark}") + text.startswith(mark) for mark in (YOURS, END))


def _resolve_conflicts(text: str, *, keep: Literal["edited", "new"]) -> _Resolved:
    """The text with one side of each conflict in its place, and how many there were; incomplete marks stay."""
    if YOURS not in text:
        return _Resolved(text, 0)
    resolved: list[str] = []
    conflicts = 0
    start = middle = None
    for line in split_lines(text):
        match line.rstrip("\r\n"):
            case mark if mark == YOURS:
                start, middle = len(resolved), None
            case mark if mark == OURS and start is not None and middle is None:
                middle = len(resolved)
            case mark if mark == END and start is not None and middle is not None:
                resolved[start:] = resolved[start + 1 : middle] if keep == "edited" else resolved[middle + 1 :]
                start = middle = None
                conflicts += 1
                continue
            case _:
                pass
        resolved.append(line)
    return _Resolved("".join(resolved), conflicts)
