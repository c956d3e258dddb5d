"""The lines in which two texts differ: a longest common subsequence, found in bounded work.

The work is that of a dynamic programme over all pairs of lines, 30 pairs at a time in the digits of Python's integers
(Hyyrö 2004, "Bit-parallel LCS-length computation revisited"), so that no text is slower than any other one of its
length. Myers' algorithm and difflib are quadratic and cubic for the texts that suit them least (CWE-407).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar, cast

COMPARED_LINES = 5000
"""Lines of each text that are compared, without those that both have in common at their ends."""
SLIDES_PER_LINE = 4
"""How often a line may be passed by a change that is moved; beyond it, changes stay where they are."""

AnyText = TypeVar("AnyText", str, bytes)


class Block(NamedTuple):
    """Lines of the old text that are other lines in the new one; either side may be empty."""

    old_start: int
    old_end: int
    new_start: int
    new_end: int


class TooManyLines(ValueError):
    """More lines than are compared."""


def split_lines(text: str) -> list[str]:
    """The lines with their newlines; as for git, nothing but a newline ends a line."""
    lines = [f"{line}\n" for line in text.split("\n")]
    last = lines.pop()[:-1]
    return [*lines, last] if last else lines


def common_ends(old: AnyText, new: AnyText) -> tuple[int, int]:
    """How many characters two texts have in common at their beginning, in whole lines, and after that at their end."""
    newline = cast(AnyText, "\n" if isinstance(old, str) else b"\n")
    start = old.rfind(newline, 0, _common_prefix(old, new)) + 1
    shorter = min(len(old), len(new)) - start
    low, high = 0, shorter + 1  # the length of the common end is at least low and less than high
    while high - low > 1:
        middle = (low + high) // 2
        if old[len(old) - middle : len(old) - low] == new[len(new) - middle : len(new) - low]:
            low = middle
        else:
            high = middle
    at = old.find(newline, len(old) - low)
    return start, len(old) - at - 1 if at >= 0 else 0


def _common_prefix(old: AnyText, new: AnyText) -> int:
    low, high = 0, min(len(old), len(new)) + 1
    while high - low > 1:
        middle = (low + high) // 2
        if old[low:middle] == new[low:middle]:
            low = middle
        else:
            high = middle
    return low


def number_lines(*texts: Sequence[str]) -> list[list[int]]:
    """The lines as numbers, equal ones as the same."""
    numbers: dict[str, int] = {}
    return [[numbers.setdefault(line, len(numbers)) for line in text] for text in texts]


def find_changes(old: Sequence[int], new: Sequence[int]) -> list[Block]:
    """The blocks that differ between two sequences of numbered lines, in order, with equal lines between them.

    As few lines as possible differ. A block that can be moved without changing that, because the line before it is
    also its last one, is where git has it: joined with the next one, beside lines that replace it, or as far down as
    it goes.

    Raises:
        TooManyLines: more than `COMPARED_LINES` are left of one of them between their common ends.
    """
    shorter = min(len(old), len(new))
    start = next((at for at in range(shorter) if old[at] != new[at]), shorter)
    end = next((at for at in range(shorter - start) if old[-1 - at] != new[-1 - at]), shorter - start)
    if max(len(old), len(new)) - start - end > COMPARED_LINES:
        raise TooManyLines
    common = _common_lines(old[start : len(old) - end], new[start : len(new) - end])
    pairs = [(at, at) for at in range(start)]
    pairs += [(start + one, start + other) for one, other in common]
    pairs += [(len(old) - at, len(new) - at) for at in range(end, 0, -1)]
    # With a pair before and after all lines, what lies between two neighbours is a block.
    old_at = [-1, *(one for one, _ in pairs), len(old)]
    new_at = [-1, *(other for _, other in pairs), len(new)]
    _slide_changes(old, old_at, new_at)
    _slide_changes(new, new_at, old_at)
    blocks = (
        Block(old_at[gap] + 1, old_at[gap + 1], new_at[gap] + 1, new_at[gap + 1]) for gap in range(len(old_at) - 1)
    )
    return [block for block in blocks if block.old_start < block.old_end or block.new_start < block.new_end]


def _common_lines(old: Sequence[int], new: Sequence[int]) -> list[tuple[int, int]]:
    """A longest common subsequence, as pairs of indexes."""
    both = set(old) & set(new)
    kept = [at for at, line in enumerate(old) if line in both]
    wanted = [at for at, line in enumerate(new) if line in both]
    where = dict.fromkeys(both, 0)
    for bit, at in enumerate(kept):
        where[old[at]] |= 1 << bit
    # In `row`, a bit is 0 where the common subsequence with the lines of `new` so far becomes longer by one.
    everything = (1 << len(kept)) - 1
    row = everything
    rows = [row]
    for at in wanted:
        matching = row & where[new[at]]
        row = (row + matching | row - matching) & everything
        rows.append(row)
    pairs: list[tuple[int, int]] = []
    bit, count = len(kept) - 1, len(wanted)
    while bit >= 0 and count:
        if rows[count] >> bit & 1:
            bit -= 1
        elif rows[count - 1] >> bit & 1:
            pairs.append((kept[bit], wanted[count - 1]))
            bit -= 1
            count -= 1
        else:
            count -= 1
    pairs.reverse()
    return pairs


def _slide_changes(lines: Sequence[int], at: list[int], other_at: list[int]) -> None:
    """Move the blocks of one text; `at` has the common lines in it and `other_at` their counterparts."""
    slides_left = SLIDES_PER_LINE * (len(lines) + 1)
    last = len(at) - 2

    def slide_up(gap: int) -> bool:
        if gap == 0 or lines[at[gap]] != lines[at[gap + 1] - 1]:
            return False
        at[gap] = at[gap + 1] - 1
        return True

    def slide_down(gap: int) -> bool:
        if gap == last or lines[at[gap] + 1] != lines[at[gap + 1]]:
            return False
        at[gap + 1] = at[gap] + 1
        return True

    def is_replaced(gap: int) -> bool:
        return other_at[gap + 1] - other_at[gap] > 1

    gap = -1
    while gap < last and slides_left > 0:
        gap += 1
        size = 0
        replaced = None
        # Joined with another block, it may be moved further.
        while (new_size := at[gap + 1] - at[gap]) > max(size, 1):
            size = new_size
            while slide_up(gap):
                gap -= 1
                slides_left -= 1
            replaced = gap if is_replaced(gap) else None
            while slide_down(gap):
                gap += 1
                slides_left -= 1
                replaced = gap if is_replaced(gap) else replaced
            if slides_left <= 0:
                break
        while replaced is not None and gap > replaced and slide_up(gap):
            gap -= 1
