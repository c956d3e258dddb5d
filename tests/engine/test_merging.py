"""Differences of texts, and the three-way merge."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chora.engine.merging import END, MERGE_LINES, OURS, YOURS, LineChanges, MergedText, count_changes, merge_texts

lines = st.lists(st.sampled_from(["a\n", "b\n", "c\n", "d\n", "\n"]), max_size=12)
texts = lines.map("".join)


@pytest.mark.parametrize(
    ("old", "new", "added", "removed", "changed"),
    [
        ("", "", 0, 0, 0),
        ("a\nb\n", "a\nb\n", 0, 0, 0),
        ("a\n", "b\n", 0, 0, 1),
        ("a\n", "b\nc\n", 1, 0, 1),
        ("a\nb\nc\n", "x\n", 0, 2, 1),
        ("a\na\na\n", "a\na\n", 0, 1, 0),
        ("a\nb\n", "b\na\n", 1, 1, 0),
    ],
)
def test_changes_are_counted_in_order(old: str, new: str, added: int, removed: int, changed: int):
    """Repeated and moved lines count too: lines are a sequence, not a set."""
    found = count_changes(old, new)
    assert found == LineChanges(added, removed, changed)
    assert found.summary == f"+{added} -{removed} ~{changed}"


@given(texts, texts)
def test_differences_account_for_every_line(old: str, new: str):
    """Old lines without the removed and with the added ones are the new ones; swapped sides swap the roles."""
    found, back = count_changes(old, new), count_changes(new, old)
    assert len(old.splitlines()) - found.removed + found.added == len(new.splitlines())
    assert (found == LineChanges(0, 0, 0)) is (old.splitlines() == new.splitlines())
    assert back.added - back.removed == found.removed - found.added


def test_texts_beyond_bounds_are_compared_as_blocks():
    """In little time."""
    old = "".join(f"a{n}\n" for n in range(MERGE_LINES + 1))
    new = "".join(f"b{n}\n" for n in range(MERGE_LINES + 2))
    assert count_changes(old, new) == LineChanges(1, 0, MERGE_LINES + 1)


@given(texts, texts)
def test_an_unchanged_side_takes_the_other_ones_changes(base: str, other: str):
    """Equal changes on both sides are one change."""
    assert merge_texts(base, base, other) == MergedText(other, 0)
    assert merge_texts(base, other, base) == MergedText(other, 0)
    assert merge_texts(base, other, other) == MergedText(other, 0)


@given(texts, texts, texts)
def test_nothing_that_either_side_added_is_lost(base: str, mine: str, theirs: str):
    """Every line that only one side has is in the result; as many conflicts are marked as are counted."""
    merged = merge_texts(base, mine, theirs)
    assert merged is not None
    found = merged.text.splitlines()
    for side in (mine, theirs):
        for line in set(side.splitlines()) - set(base.splitlines()):
            assert line in found
    assert found.count(YOURS) == found.count(OURS) == found.count(END) == merged.conflicts


def test_changes_in_different_places_are_merged():
    """Without a conflict."""
    merged = merge_texts("1\n2\n3\n4\n5\n", "1\nmine\n3\n4\n5\n", "1\n2\n3\n4\ntheirs\n")
    assert merged == MergedText("1\nmine\n3\n4\ntheirs\n", 0)


def test_changes_of_the_same_lines_are_marked_as_conflict():
    """Each marker is on a line of its own, even at an end without a newline."""
    merged = merge_texts("1\n2", "1\nmine", "1\ntheirs")
    assert merged == MergedText(f"1\n{YOURS}\nmine\n{OURS}\ntheirs\n{END}\n", 1)


def test_texts_too_long_to_compare_are_not_merged():
    """The merge returns nothing, and the caller refuses."""
    long = "".join(f"{n}\n" for n in range(MERGE_LINES + 1))
    assert merge_texts("x\n", long, "y\n") is None
