"""How counts and texts with odd characters are written."""

import msgspec
import pytest

from chora.wording import (
    TEXT_LIMIT,
    as_sentence,
    cut_texts,
    escape_controls,
    escape_unprintable,
    find_nearest,
    list_quantities,
    printable,
    quantity,
)


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


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Nørvik 🌊 \t", "Nørvik 🌊 \\t"),
        ("two\r\nlines", "two\\r\\nlines"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\u202eb", "a\\u202eb"),
        ("", ""),
    ],
)
def test_what_can_t_be_seen_is_escaped_in_a_log(text: str, shown: str):
    """A text takes one line, and disguises nothing; letters of any script stay."""
    assert escape_unprintable(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("two\r\nlines\tand\n", "two\r\nlines\tand\n"),
        ("over\rwritten", "over\\u000dwritten"),
        ("\x1b[2J\x9b", "\\u001b[2J\\u009b"),
        ("\u200e\u202e\u2066", "\\u200e\\u202e\\u2066"),
        ("Nørvik 🌊", "Nørvik 🌊"),
    ],
)
def test_a_terminal_gets_nothing_to_act_on(text: str, shown: str):
    """Line ends and tabs stay; other controls and bidirectional formats are shown as JSON writes them."""
    assert escape_controls(text) == shown


def test_a_long_text_is_cut_with_its_length_wherever_it_is():
    """Keys and items too; exactly the limit is not too long, and what isn't a text stays as it is."""
    whole, long, cut = "a" * TEXT_LIMIT, "a" * (TEXT_LIMIT + 1), "a" * TEXT_LIMIT + "… (2,001 characters)"
    assert cut_texts({long: [long, whole, {"n": 5}], "none": None}) == {cut: [cut, whole, {"n": 5}], "none": None}


MANY = [f"station-{number:05}" for number in range(50_000)]


@pytest.mark.parametrize(
    ("word", "words", "nearest"),
    [
        ("tides", ["tidal", "tide", "harbour", "tildes"], ["tildes", "tide", "tidal"]),
        ("tides", ["wind", "rain"], []),
        ("tides", [], []),
        ("a" * 99 + "b", ["a" * 100], ["a" * 100]),
        ("a" * 100 + "b", ["a" * 101], []),
        # Of many, words that have their beginning, their end or their middle in common with it are compared.
        ("harbour-guide", [*MANY, "harbor-guide"], ["harbor-guide"]),
        ("harbour-guide", [*MANY, "xarbour-guide"], ["xarbour-guide"]),
        ("harbour-guide", [*MANY, "harbour-guidx"], ["harbour-guidx"]),
        ("harbour", [*MANY, "the-harbour-s"], ["the-harbour-s"]),
        ("hbo", [*MANY, "hbx"], ["hbx"]),
    ],
)
def test_did_you_mean_names_the_nearest_words_the_best_first(word: str, words: list[str], nearest: list[str]):
    """Three at most, none that is unlike it, however many there are; a word of over 100 characters isn't a slip."""
    assert find_nearest(word, words) == nearest


def test_did_you_mean_takes_as_many_and_as_alike_words_as_asked():
    """By default three, of which 60 % is the same."""
    words = ["tidal", "tidex", "tide", "tildes"]
    assert find_nearest("tides", words, 1) == ["tildes"]
    assert find_nearest("tides", words) == ["tildes", "tide", "tidex"]
    assert find_nearest("tides", ["tixxx"]) == []
    assert find_nearest("tides", ["tixxx"], cutoff=0.4) == ["tixxx"]


def test_where_a_hundred_words_are_known_each_is_compared():
    """A slip in every third letter is only found by that; of more words, only likely ones are compared."""
    words = [f"station-{number:05}" for number in range(99)]
    assert find_nearest("xarboxr", [*words, "harbour"]) == ["harbour"]
    assert find_nearest("xarboxr", [*words, *words[:1], "harbour"]) == []
