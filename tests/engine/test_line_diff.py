"""The lines in which two texts differ."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chora.engine import line_diff
from chora.engine.line_diff import COMPARED_LINES, Block, TooManyLines, common_ends, find_changes, split_lines
from tests.hostile.measures import steps_in

few = st.lists(st.integers(0, 3), max_size=14)


def longest_common(old: list[int], new: list[int]) -> int:
    """The length of a longest common subsequence, by the textbook."""
    lengths = [0] * (len(new) + 1)
    for one in old:
        row = [0]
        for at, other in enumerate(new):
            row.append(lengths[at] + 1 if one == other else max(row[-1], lengths[at + 1]))
        lengths = row
    return lengths[-1]


@given(few, few)
def test_as_few_lines_differ_as_possible(old: list[int], new: list[int]):
    """Between the blocks that differ both texts are equal, no two blocks touch, and no shorter blocks would do."""
    blocks = find_changes(old, new)
    at = new_at = 0
    for block in blocks:
        assert old[at : block.old_start] == new[new_at : block.new_start]
        assert block.old_start > at or at == 0
        assert block.old_start < block.old_end or block.new_start < block.new_end
        at, new_at = block.old_end, block.new_end
    assert old[at:] == new[new_at:]
    assert len(old) - sum(block.old_end - block.old_start for block in blocks) == longest_common(old, new)


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ([1, 2, 3], [1, 2, 2, 3], [Block(2, 2, 2, 3)]),
        ([1, 2, 2, 3], [1, 2, 3], [Block(2, 3, 2, 2)]),
        ([1, 9, 2, 1, 9, 3], [1, 9, 3], [Block(2, 5, 2, 2)]),
        ([0, 0, 1, 0], [0, 0], [Block(2, 4, 2, 2)]),
        ([1, 2, 2, 3], [1, 2, 4, 3], [Block(2, 3, 2, 3)]),
    ],
)
def test_a_change_among_repeated_lines_is_where_git_has_it(old: list[int], new: list[int], found: list[Block]):
    """As far down as it goes, or beside what replaces it."""
    assert find_changes(old, new) == found


def shapes(length: int) -> dict[str, tuple[list[int], list[int]]]:
    """Texts that are slow to compare in one way or another."""
    chance = random.Random(1)
    return {
        "equal lines": ([0] * length, [0] * (length // 2) + [1]),
        "two lines": ([chance.randrange(2) for _ in range(length)], [chance.randrange(2) for _ in range(length)]),
        "shuffled": (chance.sample(range(length), length), list(range(length))),
        "reversed": (list(range(length)), list(range(length))[::-1]),
        "every other": ([0] * length, [at % 2 for at in range(length)]),
        "periods": ([at % 199 for at in range(length)], [at * 7 % 211 for at in range(length)]),
        "runs": ([at // 7 % 2 for at in range(length)], [at // 5 % 3 for at in range(length)]),
        "slides": ([0, 1] * (length // 2), [0, 0, 1] * (length // 3)),
    }


@pytest.mark.parametrize("shape", shapes(2))
def test_no_text_is_slower_to_compare_than_another_one_of_its_length(shape: str):
    """The steps are a small multiple of the lines, whatever is in them: nothing is quadratic or worse (CWE-407)."""
    for length in (500, COMPARED_LINES):
        for old, new in (shapes(length)[shape], shapes(length)[shape][::-1]):
            steps = steps_in(lambda old=old, new=new: find_changes(old, new), line_diff.__name__)
            assert steps < 60 * length


def test_more_lines_than_are_compared_are_refused():
    """Not counting what both have in common at the ends."""
    many = list(range(COMPARED_LINES))
    ends = [-1] * 1000
    assert len(find_changes([*ends, *many, *ends], [*ends, *many[::-1], *ends])) == 2
    with pytest.raises(TooManyLines):
        find_changes([*ends, *many, -2, *ends], [*ends, *many[::-1], *ends])


texts = st.text("a\n", max_size=8)


@given(texts, texts)
def test_common_ends_are_whole_lines_and_do_not_overlap(old: str, new: str):
    """In texts and in bytes."""
    start, end = common_ends(old, new)
    assert (start, end) == common_ends(old.encode(), new.encode())
    assert start + end <= min(len(old), len(new))
    assert old[:start] == new[:start]
    assert old[len(old) - end :] == new[len(new) - end :]
    assert old[:start].endswith("\n") or not start
    for text in (old, new):
        assert not end or f"\n{text}"[: len(text) + 1 - end].endswith("\n")


@given(st.text("a\n\r\x0b", max_size=8))
def test_lines_are_those_of_git(text: str):
    """Only a newline ends a line, and the lines are the text."""
    lines = split_lines(text)
    assert "".join(lines) == text
    assert all(line.endswith("\n") for line in lines[:-1])
    assert all(line.count("\n") <= 1 for line in lines)
    assert "" not in lines


def test_a_common_end_begins_after_the_first_newline_in_it():
    """Also when that is the first character of a text."""
    assert common_ends("\nb\n", "a\nb\n") == (0, 2)
