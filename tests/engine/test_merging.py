"""Differences of texts, and the three-way merge."""

from __future__ import annotations

import difflib
import random
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from chora.engine import line_diff, merging
from chora.engine.merging import (
    END,
    MERGE_LENGTH,
    MERGE_LINES,
    MERGE_LINES_IN_ALL,
    OURS,
    YOURS,
    LineChanges,
    MergedText,
    count_changes,
    diff,
    merge_texts,
)
from tests.conftest import requirement
from tests.hostile.measures import calls_in, steps_in

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


def test_a_difference_is_shown_as_a_unified_diff():
    """As the standard library writes it, with one line of context: hunks, their ranges, and lines of an empty text."""
    for seed in range(400):
        chance = random.Random(seed)
        old = [f"line {number}" for number in range(chance.randrange(1, 30))]
        new = [line for line in old if chance.random() > 0.15]
        for _ in range(chance.randrange(4)):
            new.insert(chance.randint(0, len(new)), f"new {chance.randrange(1000)}")
        if old == new:
            continue
        expected = list(difflib.unified_diff(old, new, "a.md (on disk)", "a.md (chora)", n=1, lineterm=""))
        shown = diff("a.md", "\n".join(old).encode(), "".join(f"{line}\r\n" for line in new).encode())
        assert shown.splitlines() == expected, seed
        back = diff("a.md", "\n".join(new).encode(), "\n".join(old).encode(), ("edited", "written"))
        assert back.splitlines()[:2] == ["--- a.md (edited)", "+++ a.md (written)"]
    lines = [f"{number}\n".encode() for number in range(58)]
    assert diff("a", b"x\n", b"".join([b"x\n", *lines[:56]])).splitlines()[2:] == [
        "@@ -1 +1,57 @@",
        " x",
        *(f"+{number}" for number in range(56)),
    ]
    cut = diff("a", b"x\n", b"".join([b"x\n", *lines[:57]])).splitlines()
    assert (len(cut), cut[-2:]) == (61, ["+55", "… and more"])
    assert diff("a", b"x" * 300, b"").splitlines()[3] == "-" + "x" * 199
    assert diff("a", b"x\r\n", b"x\n") == diff("a", b"x\r", b"x") == "(only line ends differ)"


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


def test_nothing_but_a_newline_ends_a_line_that_is_counted():
    """As everywhere else that lines of outputs are compared."""
    assert count_changes("a\u2028b\x0c\n", "a\u2028c\x0c\n") == LineChanges(0, 0, 1)


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


@pytest.mark.parametrize(("between", "conflicts"), [("", 1), ("w\n", 1), ("w\nx\ny\n", 1), ("w\nx\ny\nz\n", 2)])
def test_conflicts_with_up_to_three_lines_between_them_are_one(between: str, conflicts: int):
    """As git has it."""
    merged = merge_texts(f"1\n{between}2\n", f"A\n{between}B\n", f"C\n{between}D\n")
    assert merged is not None
    assert (merged.conflicts, merged.text.count("<<<<<<<")) == (conflicts, conflicts)
    if conflicts == 1:
        assert merged.text == f"{YOURS}\nA\n{between}B\n{OURS}\nC\n{between}D\n{END}\n"


def test_a_merge_of_repeated_lines_that_is_not_clear_is_one_conflict():
    """All between the lines that both sides begin and end with."""
    merged = merge_texts("b\nd\nb\n", "b\nd\nb\nd\nb\n", "b\nb\nb\n")
    assert merged == MergedText(f"b\n{YOURS}\nd\nb\nd\n{OURS}\nb\n{END}\nb\n", 1)


def test_texts_too_long_to_compare_are_not_merged():
    """The merge returns nothing, and the caller refuses; texts of exactly this length are merged."""
    long = "".join(f"{n}\n" for n in range(MERGE_LINES + 1))
    assert merge_texts("x\n", long, "y\n") is None
    fits = merge_texts("x\n", long.partition("\n")[2], "y\n")
    assert fits is not None
    assert fits.conflicts == 1
    for line, count in (("\n", MERGE_LINES_IN_ALL - 1), ("y" * (MERGE_LENGTH // 64 - 5) + "\n", 64)):
        base = "a\n" + line * count
        merged = "m\n" + line * (count - 1) + "t\n"
        assert merge_texts(base, "m\n" + line * count, "a\n" + line * (count - 1) + "t\n") == MergedText(merged, 0)
        assert merge_texts(base + line, "m\n" + line * (count + 1), "a\n" + line * count + "t\n" * 64) is None


# -- merging again ------------------------------------------------------------------------------------------------

few_lines = st.lists(st.sampled_from("abcd"), max_size=7)
words = st.one_of(
    few_lines.map(lambda found: "".join(f"{line}\n" for line in found)),
    few_lines.map("\n".join),
    st.lists(st.sampled_from(["a", "b", OURS]), max_size=5).map("\n".join),
)


@requirement("outputs.merge.again")
@given(words, words, words)
@example("b\na\na\n", "b\n", "a\na\nb\na\n")
@example("b\na\n", "b\n", "b\nb\na\na\n")
@example("b\na\nb\na\n", "a\na\nb\na\n", "a\n")
@example("a", "a\nb", "a\nc")
@example(f"a\n{OURS}\n", f"b\n{OURS}\n", "c\n")
def test_merging_again_changes_nothing(base: str, edited: str, ours: str):
    """Neither against the old base (as after a crash) nor the new one, and marks aren't nested."""
    merged = merge_texts(base, edited, ours)
    if merged is None:
        assert OURS in edited + ours, "only a line that reads like a mark prevents it"
        return
    assert merge_texts(base, merged.text, ours) == merged
    assert merge_texts(ours, merged.text, ours) == merged
    depth = 0
    for line in merged.text.splitlines():
        depth += (line == YOURS) - (line == END)
        assert depth in (0, 1)
    assert merged.text.count(YOURS) == merged.text.count(END) == merged.conflicts


@given(words, words, words, words)
def test_a_conflict_is_counted_until_a_person_resolves_it(base: str, edited: str, ours: str, next_text: str):
    """However often the text is merged, with the same or another new text."""
    merged = merge_texts(base, edited, ours)
    again = merged and merge_texts(ours, merged.text, next_text)
    if again is not None:
        assert again.conflicts == again.text.count(YOURS) == again.text.count(END)


def test_conflict_marks_that_are_text_are_not_merged():
    """A new text or base that has some, and a conflict whose sides have some: they couldn't be told apart later."""
    marked = f"{YOURS}\na\n{OURS}\nb\n{END}\n"
    assert merge_texts("x\n", "y\n", marked) is None
    assert merge_texts(marked, "y\n", "x\n") is None
    assert merge_texts("x\n", f"Title\n{OURS}\n", "y\n") is None
    assert merge_texts(f"Title\n{OURS}\n1\n2\n3\n", f"Title\n{OURS}\n1\n2\n4\n", f"Name\n{OURS}\n1\n2\n3\n") == (
        MergedText(f"Name\n{OURS}\n1\n2\n4\n", 0)
    )


def test_a_mark_that_a_person_left_is_counted():
    """A conflict of which they removed only a part isn't resolved."""
    left = f"a\n{OURS}\nb\n{END}\n1\n2\n3\n"
    assert merge_texts("x\n1\n2\n3\n", left, "x\n1\n2\nthree\n") == MergedText(left.replace("3", "three"), 1)


# -- compared with git --------------------------------------------------------------------------------------------


def test_changes_apart_are_merged_whatever_they_are():
    """Each line occurs once, and is kept, changed, removed or followed by others on one side: the result has it all."""
    for seed in range(300):
        chance = random.Random(seed)
        base: list[str] = []
        sides: tuple[list[str], list[str]] = [], []
        wanted: list[str] = []
        for number in range(chance.randrange(1, 40)):
            line, new = f"{number}\n", [f"{number} {chance.randrange(9)} new\n"] * chance.randrange(3)
            after = new if chance.random() < 0.5 else [line, *new]
            changes = number % 2 and chance.random() < 0.7
            side = chance.randrange(2)
            base.append(line)
            sides[side].extend(after if changes else [line])
            sides[1 - side].append(line)
            wanted += after if changes else [line]
        texts = ["".join(lines) for lines in (base, *sides, wanted)]
        assert merge_texts(*texts[:3]) == MergedText(texts[3], 0), seed


def merge_with_git(folder: Path, base: str, edited: str, ours: str) -> MergedText:
    for name, text in (("base", base), ("edited", edited), ("ours", ours)):
        (folder / name).write_text(text, newline="")
    labels = ("-L", "edited", "-L", "base", "-L", "chora")
    command = ["git", "merge-file", "-p", "-q", *labels, "edited", "base", "ours"]
    done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    assert done.returncode < 128, done.stderr
    return MergedText(done.stdout.decode(), done.returncode)


def edit_of(chance: random.Random, lines: list[str], alphabet: list[str]) -> str:
    """The lines after up to three insertions, deletions and replacements."""
    edited = list(lines)
    for _ in range(chance.randint(1, 3)):
        at = chance.randint(0, len(edited))
        edited[at : at + chance.choice((0, 1, 2))] = chance.choices(alphabet, k=chance.randint(0, 3))
    return "".join(f"{line}\n" for line in edited)


def compare_with_git(folder: Path, alphabet: list[str], repeated: float, rounds: int) -> Counter[str]:
    """How often merges agree with git's, of texts in which this share of the lines is of an alphabet."""
    found: Counter[str] = Counter()
    for seed in range(rounds):
        chance = random.Random(f"{alphabet} {seed}")
        lines = [
            chance.choice(alphabet) if chance.random() < repeated else f"line {chance.randrange(1000)}"
            for _ in range(chance.randint(4, 40))
        ]
        base = "".join(f"{line}\n" for line in lines)
        edited, ours = edit_of(chance, lines, alphabet), edit_of(chance, lines, alphabet)
        merged, git = merge_texts(base, edited, ours), merge_with_git(folder, base, edited, ours)
        assert merged is not None
        if bool(merged.conflicts) is bool(git.conflicts):
            found["equal" if merged.conflicts or merged.text == git.text else "other text"] += 1
        else:
            found["conflict" if merged.conflicts else "no conflict"] += 1
    return found


@pytest.mark.slow("calls git several hundred times")
@requirement("outputs.merge.quality")
@pytest.mark.parametrize(
    ("alphabet", "repeated", "differing"),
    [([f"word {n}" for n in range(1000)], 1.0, 0), (["", "}", "x", "y"], 0.4, 2), (["a", "b", "c", "d"], 1.0, 16)],
    ids=["hardly any lines are repeated", "as in code", "only four lines"],
)
def test_merges_are_those_of_git(tmp_path: Path, alphabet: list[str], repeated: float, differing: int):
    """Few have conflicts where git has none, or none where git has some, or another text: fewer than this of 200."""
    found = compare_with_git(tmp_path, alphabet, repeated, 200)
    assert found.total() - found["equal"] <= differing, found


# -- work ---------------------------------------------------------------------------------------------------------


def lines_of(numbers: list[int]) -> str:
    return "".join(f"{number}\n" for number in numbers)


def longest_texts() -> dict[str, tuple[str, str, str]]:
    """Texts at the limit that are slow to merge in one way or another."""
    chance, length = random.Random(1), MERGE_LINES
    many = range(length)
    return {
        "equal lines": (lines_of([0] * length), lines_of([0] * 3000), lines_of([0] * 4000 + [1])),
        "two lines": tuple(lines_of([chance.randrange(2) for _ in many]) for _ in range(3)),  # type: ignore[dict-item]
        "shuffled": tuple(lines_of(chance.sample(many, length)) for _ in range(3)),  # type: ignore[dict-item]
        "many changes": tuple(lines_of([at + (chance.random() < 0.1) for at in many]) for _ in range(3)),  # type: ignore[dict-item]
    }


@pytest.mark.slow("counts every step of merging the longest texts")
@requirement("outputs.merge.bounded")
@pytest.mark.parametrize("shape", longest_texts())
def test_merging_the_longest_texts_takes_bounded_work(shape: str):
    """Some hundred steps for a line, whatever the lines are: no quadratic part (CWE-407)."""
    base, edited, ours = longest_texts()[shape]
    steps = steps_in(lambda: merge_texts(base, edited, ours), line_diff.__name__)
    steps += steps_in(lambda: merge_texts(base, edited, ours), merging.__name__)
    assert steps < 500 * MERGE_LINES
    assert steps_in(lambda: count_changes(edited, ours), line_diff.__name__) < 60 * MERGE_LINES
    assert steps_in(lambda: diff("a", edited.encode(), ours.encode()), line_diff.__name__) < 60 * MERGE_LINES


def test_texts_beyond_the_limits_take_no_work():
    """Millions of lines are counted, not split."""
    base = "\n" * 2_000_000
    assert calls_in(lambda: merge_texts(base, f"{base}a\n", f"{base}b\n")) < 50
    assert calls_in(lambda: count_changes(f"a{base}", f"{base}b{base}")) < 250
    assert calls_in(lambda: diff("a", base.encode(), f"b\n{base}".encode())) < 40 * MERGE_LINES
