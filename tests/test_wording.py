"""How counts and texts with odd characters are written."""

import msgspec
import pytest

from chora.wording import as_sentence, list_quantities, printable, quantity


@pytest.mark.parametrize(("count", "written"), [(0, "0 files"), (1, "1 file"), (2, "2 files"), (1200, "1,200 files")])
def test_a_count_has_the_singular_for_one(count: int, written: str):
    """Every other number, also none, takes the plural; thousands are separated."""
    assert quantity(count, "file") == written


def test_counts_are_listed_without_those_of_nothing():
    """By their nouns, singular for one; `nothing` when all are 0."""
    assert list_quantities({"versions": 1, "drafts": 0, "jobs": 2}) == "1 version, 2 jobs"
    assert list_quantities({"versions": 0}) == "nothing"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("there is no template", "There is no template."),
        ("it ends.", "It ends."),
        ("generation_config doesn't fit", "generation_config doesn't fit."),
        ("scenarios[0].steps[0] has no keyword", "scenarios[0].steps[0] has no keyword."),
        ("docs/a.md is gone", "docs/a.md is gone."),
        ("", "."),
    ],
)
def test_a_sentence_begins_with_a_capital_letter_or_a_name(text: str, sentence: str):
    """Names are written as in the config."""
    assert as_sentence(text) == sentence


@pytest.mark.parametrize(
    ("text", "shown"), [("Nørvik 🌊", "Nørvik 🌊"), ("a\udcffb", "a\\udcffb"), ("a\0\n", "a\0\n"), ("", "")]
)
def test_a_text_that_json_can_t_hold_is_escaped(text: str, shown: str):
    """Half a surrogate pair, as file names of other encodings bring it, is written out; all else stays."""
    assert printable(text) == shown
    msgspec.json.encode(printable(text))
