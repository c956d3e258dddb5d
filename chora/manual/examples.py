"""An example of each generator, run by a test; together they use every option."""

from __future__ import annotations

from typing import Any, NamedTuple


class Example(NamedTuple):
    """A content config, and the text that it gives."""

    about: str
    config: dict[str, Any]
    text: str


def _content(id: str, pattern: dict[str, Any], **rest: Any) -> dict[str, Any]:
    return {
        "type": "content",
        "id": id,
        "schemaRef": {"id": "content-schema", "version": "3.1"},
        "metadata": {"description": f"An example of {pattern['type']}", "version": "1.0.0"},
        **rest,
        "generation": {"patterns": [{"id": "main", **pattern}]},
    }


_LENDING = """\
@lending
Feature: Lending at Tidewater
  Books are lent for four weeks.

  Background:
    Given the library is open

  Scenario: A book is lent
    Given these books
      | title | copies |
      | Knots | 2      |
    When Ines borrows Knots
    Then she gets a receipt
      \"""json
      {"title": "Knots"}
      \"""

  Scenario Outline: A book is late
    When it is <days> days late
    Then the fee is <fee>

    Examples:
      | days | fee  |
      | 1    | 0.50 |
      | 7    | 3.50 |

  Rule: Reserved books stay

    Background:
      Given a book that Per reserved

    Scenario: Another asks
      When Ines asks for it
      Then she waits
"""

GENERATOR_EXAMPLES: dict[str, tuple[Example, ...]] = {
    "demonstration": (
        Example(
            "Without a template the examples of the elements, with a blank line between them.",
            _content(
                "opening-hours",
                {"type": "demonstration"},
                elements=[
                    {"name": "heading", "format": "markdown", "example_output": "# Opening hours"},
                    {"name": "days", "format": "markdown", "example_output": "Tuesday to Friday, 10 to 18."},
                ],
            ),
            "# Opening hours\n\nTuesday to Friday, 10 to 18.",
        ),
        Example(
            "With a template, `{{ name }}` is a declared variable or the element of that name; `\\n` and `\\t` in the "
            "template are a newline and a tab.",
            _content(
                "door-sign",
                {
                    "type": "demonstration",
                    "template": "{{ place }}\\n{{ when }} ({{ season }})",
                    "variables": [
                        {"name": "when", "source": "elements.days.example_output"},
                        {"name": "season", "default": "all year"},
                    ],
                },
                elements=[
                    {"name": "place", "format": "text", "example_output": "Library"},
                    {"name": "days", "format": "text", "example_output": "Tuesday to Friday"},
                ],
            ),
            "Library\nTuesday to Friday (all year)",
        ),
    ),
    "jinja2": (
        Example(
            "A template in the config, with values of the pattern's own. `trim_blocks` and `lstrip_blocks` leave no "
            "blank lines where tags stand.",
            _content(
                "watches",
                {
                    "type": "jinja2",
                    "template": "Watches:\n{% for person in crew %}\n  {% if person.watch %}\n- {{ person.name }}: "
                    "{{ person.watch }}\n  {% endif %}\n{% endfor %}\nThat is all.\n",
                    "generation_config": {
                        "context": {"crew": [{"name": "Ines", "watch": "morning"}, {"name": "Per", "watch": "night"}]},
                        "trim_blocks": True,
                        "lstrip_blocks": True,
                        "keep_trailing_newline": True,
                    },
                },
            ),
            "Watches:\n- Ines: morning\n- Per: night\nThat is all.\n",
        ),
        Example(
            "Undefined names may be empty, values escaped, and loops left.",
            _content(
                "first-two",
                {
                    "type": "jinja2",
                    "template": "<ul>{% for name in names %}{% if loop.index > 2 %}{% break %}{% endif %}"
                    "<li>{{ name }}</li>{% endfor %}</ul>{{ footer }}",
                    "generation_config": {
                        "context": {"names": ["Ines & Per", "Ola", "Siri"]},
                        "undefined": "lenient",
                        "autoescape": True,
                        "extensions": ["jinja2.ext.loopcontrols"],
                    },
                },
            ),
            "<ul><li>Ines &amp; Per</li><li>Ola</li></ul>",
        ),
    ),
    "template_fill": (
        Example(
            "Dotted names reach into objects and lists; what isn't text is written as JSON. A name without a value "
            "keeps its place here.",
            _content(
                "greeting-card",
                {
                    "type": "template_fill",
                    "template": "Dear {{ guests.0.name }},\\nyour seat is {{ seat }}, at table {{ table }}.",
                    "generation_config": {
                        "context": {"guests": [{"name": "Ines"}], "seat": 4},
                        "undefined_behavior": "keep",
                    },
                },
            ),
            "Dear Ines,\nyour seat is 4, at table {{ table }}.",
        ),
    ),
    "bdd_scenario": (
        Example(
            "Values of the context are escaped: none can begin a step, end a text or widen a table.",
            _content(
                "lending",
                {
                    "type": "bdd_scenario",
                    "generation_config": {
                        "context": {"library": "Tidewater"},
                        "undefined_behavior": "error",
                        "feature": {
                            "title": "Lending at {{ library }}",
                            "description": "Books are lent for four weeks.",
                            "tags": ["lending"],
                            "language": "en",
                            "rules": [
                                {
                                    "title": "Reserved books stay",
                                    "background": ["Given a book that Per reserved"],
                                    "scenarios": [
                                        {"title": "Another asks", "steps": ["When Ines asks for it", "Then she waits"]}
                                    ],
                                    "scenario_outlines": [],
                                }
                            ],
                        },
                        "background": ["Given the library is open"],
                        "scenarios": [
                            {
                                "title": "A book is lent",
                                "steps": [
                                    {"text": "Given these books", "table": [["title", "copies"], ["Knots", 2]]},
                                    "When Ines borrows Knots",
                                    {
                                        "text": "Then she gets a receipt",
                                        "docstring": {"content": '{"title": "Knots"}', "media_type": "json"},
                                    },
                                ],
                            }
                        ],
                        "scenario_outlines": [
                            {
                                "title": "A book is late",
                                "steps": ["When it is <days> days late", "Then the fee is <fee>"],
                                "examples": {"headers": ["days", "fee"], "rows": [[1, "0.50"], [7, "3.50"]]},
                            }
                        ],
                        "rules": [],
                    },
                },
            ),
            _LENDING,
        ),
    ),
    "code_generation": (
        Example(
            "With an API key and within the budgets of the settings, a model writes the text. Without, this gives its "
            "fallback, with a warning.",
            _content(
                "adder",
                {
                    "type": "code_generation",
                    "generation_config": {
                        "context": {"unit": "metres"},
                        "prompt": "Write a function that adds two lengths in {{ unit }}.",
                        "language": "python",
                        "style_hints": ["Type hints", "No comments"],
                        "system_prompt": "You write code that a beginner can read.",
                        "model": "claude-sonnet-5",
                        "temperature": 0.0,
                        "max_tokens": 2000,
                        "timeout": 60,
                        "retry_count": 2,
                        "retry_delay": 0.5,
                        "undefined_behavior": "error",
                        "fallback_template": "# In {{ language }}, still to be written: adding {{ unit }}.\n",
                    },
                },
            ),
            "# In python, still to be written: adding metres.\n",
        ),
    ),
}
"""By the name of the generator."""
