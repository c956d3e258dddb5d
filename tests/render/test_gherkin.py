"""What is wrong with features."""

from __future__ import annotations

import pytest

from chora.render.gherkin import LANGUAGES, find_faults
from tests.conftest import requirement

RIGHT = {
    "a feature": "Feature: x\n",
    "a description that looks like steps": "Feature: x\n  Given that people ask\n\n  Scenario: y\n    When z\n",
    "everything": """# language: en
@a @b # why
Feature: tides
  As a sailor

  Background: the harbour
    Given a harbour
      | name | depth |
      | Oban | 5 \\| 6 |

  @slow
  Scenario: low water
    When it is low
      \"\"\"markdown
      # not a comment
      Feature: not one
      \"\"\"
    * it is shallow
    But not dry

  Rule: at night
    Background:
      Given the dark
    Scenario Outline: a lamp of <watts>
      Then it shines

      @strong
      Examples: strong
        | watts |
        | 100   |
      Scenarios:
        | watts |

    Example: none
""",
    "another language": "# language: de\nFunktionalität: x\n Szenario: y\n  Angenommen z\n   | a |\n   | b |\n",
    "line ends of Windows": "Feature: x\r\n\r\n  Scenario: y\r\n    Given z\r\n",
    "a byte-order mark": "\ufeffFeature: x\n",
    "a comment behind tags": "@a @b # see @c and d\nFeature: x\n",
    "a table and a doc string": "Feature: x\n Scenario: y\n  Given z\n  | a |\n  ```\n  b\n  ```\n",
}

WRONG = {
    "nothing": ("", 1, "no line that begins with Feature"),
    "prose": ("Hello\n", 1, "no line that begins with Feature"),
    "a scenario before the feature": ("Scenario: y\n", 1, "stands before Feature"),
    "two features": ("Feature: x\nFeature: y\n", 2, "second one"),
    "no step": ("Feature: x\n Scenario: y\n  Given a\n  maybe b\n", 4, "no step"),
    "a step in lower case": ("Feature: x\n Scenario: y\n  Given a\n  when b\n", 4, "no step"),
    "a scenario without its colon": ("Feature: x\n Scenario y\n  Given a\n", 3, "belong to no scenario"),
    "steps of no scenario": ("Feature: x\n  Given a\n  Then b\n", 2, "belong to no scenario"),
    "a late background": ("Feature: x\n Scenario: y\n  Given a\n Background:\n  Given b\n", 4, "stands once"),
    "two backgrounds": ("Feature: x\n Background:\n  Given a\n Background:\n  Given b\n", 4, "stands once"),
    "an open doc string": ('Feature: x\n Scenario: y\n  Given a\n   """\n   b\n', 4, "never closed"),
    "two doc strings": ('Feature: x\n Scenario: y\n  Given a\n"""\n"""\n"""\n"""\n', 6, "already"),
    "a row too long": ("Feature: x\n Scenario: y\n  Given a\n  | b |\n  | c | d |\n", 5, "2 cells, the first one 1"),
    "a row without its end": ("Feature: x\n Scenario: y\n  Given a\n  | b | c\n", 4, "doesn't end with |"),
    "a row in another language": ("# language: fr\nX: x\n | a | b |\n | c |\n", 4, "1 cell, the first one 2"),
    "examples of nothing": ("Feature: x\n Examples:\n  | a |\n", 2, "belong to a scenario outline"),
    "an outline without examples": ("Feature: x\n Scenario Outline: y\n  Given <a>\n", 2, "never runs"),
    "examples without a table": ("Feature: x\n Scenario Outline: y\n  Given <a>\n Examples:\n", 4, "no table"),
    "tags at the end": ("Feature: x\n Scenario: y\n  Given a\n @b\n", 4, "nothing follows"),
    "tags before a step": ("Feature: x\n Scenario: y\n  Given a\n @b\n  Then c\n", 5, "tags are followed by"),
    "tags before a background": ("Feature: x\n @a\n Background:\n  Given b\n", 3, "no tags"),
    "a tag with a blank": ("@a b\nFeature: x\n", 1, "a blank in it"),
    "a tag with a blank before a comment": ("@a b # c\nFeature: x\n", 1, "a blank in it"),
    "an empty tag between others": ("@a @ @b\nFeature: x\n", 1, "a tag is empty"),
    "an unknown language": ("# language: klingon\nFeature: x\n", 1, "no language 'klingon'"),
    "no feature in another language": ("# language: de\nhallo\n", 1, "keyword and a colon"),
}


@requirement("tools.validate-content.formats")
@pytest.mark.parametrize("text", RIGHT.values(), ids=RIGHT)
def test_features_are_right(text: str):
    """What the grammar allows."""
    assert list(find_faults(text)) == []


@requirement("tools.validate-content.formats")
@pytest.mark.parametrize(("text", "line", "message"), WRONG.values(), ids=WRONG)
def test_broken_features_are_found(text: str, line: int, message: str):
    """Each with its line, and said once."""
    (fault,) = find_faults(text)
    assert fault.line == line
    assert message in fault.message


def test_languages_are_codes():
    """One for each translation of cucumber/gherkin."""
    assert len(LANGUAGES) == 80
    assert {"en", "de", "zh-CN"} <= LANGUAGES
