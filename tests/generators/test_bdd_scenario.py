"""Gherkin: the official parser reads what the config says."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest
from gherkin.dialect import Dialect
from gherkin.parser import Parser
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chora.errors import GenerationFailed, LimitExceeded
from chora.generators import bdd_scenario
from chora.generators.generator import GeneratedText
from tests.conftest import requirement
from tests.generators.jobs import job_of, make

LOGIN: dict[str, Any] = {
    "feature": {
        "title": "{{ product }}",
        "description": "As a user\nI want in",
        "tags": ["critical", "@auth"],
    },
    "background": ["Given the shop is open"],
    "scenarios": [
        {
            "title": "Good password",
            "tags": ["happy-path"],
            "steps": [
                'Given I am "{{ user.name }}"',
                "When I log in",
                {"text": "Then I see", "table": [["page", "n"], ["home", 1]]},
                {"text": "And I read", "docstring": {"content": '{"a": "{{ user.name }}"}', "media_type": "json"}},
            ],
        }
    ],
    "scenario_outlines": [
        {
            "title": "Bad password",
            "steps": ["When I type <word>", "* nothing happens"],
            "examples": [
                {"headers": ["word"], "rows": [["{{ user.name }}"], [True]], "tags": ["slow"], "title": "Wrong"},
                {"headers": ["word"], "rows": [["a|b"]]},
            ],
        }
    ],
    "rules": [
        {
            "title": "One door",
            "description": "for all",
            "background": ["Given a door"],
            "scenarios": [{"title": "Knock", "description": "loudly", "steps": ["When I knock", "But softly"]}],
        }
    ],
}

RULE_OF_ITS_OWN = {"title": "First", "scenarios": [{"title": "Look", "steps": ["When I look"]}]}

WRITTEN = """\
@critical @auth
Feature: Door
  As a user
  I want in

  Background:
    Given the shop is open

  @happy-path
  Scenario: Good password
    Given I am "Ann"
    When I log in
    Then I see
      | page | n |
      | home | 1 |
    And I read
      \"\"\"json
      {"a": "Ann"}
      \"\"\"

  Scenario Outline: Bad password
    When I type <word>
    * nothing happens

    @slow
    Examples: Wrong
      | word |
      | Ann  |
      | true |

    Examples:
      | word |
      | a\\|b |

  Rule: One door
    for all

    Background:
      Given a door

    Scenario: Knock
      loudly
      When I knock
      But softly
"""


async def write(
    root: Path, options: dict[str, Any], context: dict[str, Any] | None = None, **rest: Any
) -> GeneratedText:
    return await make(
        bdd_scenario, job_of(root, {"type": "bdd_scenario", "generation_config": options}, context, **rest)
    )


async def refused(root: Path, options: dict[str, Any], context: dict[str, Any] | None = None, **rest: Any) -> str:
    """The message of a config that can't be written."""
    with pytest.raises(GenerationFailed) as failed:
        await write(root, options, context, **rest)
    assert failed.value.hint
    assert failed.value.details["generator_type"] == "bdd_scenario"
    return failed.value.message


def feature(**rest: Any) -> dict[str, Any]:
    return {"feature": {"title": "F"}, **({"scenarios": [scenario()]} if "scenarios" not in rest else {}), **rest}


def scenario(*steps: Any, **rest: Any) -> dict[str, Any]:
    return {"title": "S", "steps": list(steps or ["Given x"]), **rest}


def outline(*examples: Any, **rest: Any) -> dict[str, Any]:
    return {"title": "O", "steps": ["Given <a>"], "examples": list(examples), **rest}


def parsed(text: str) -> dict[str, Any]:
    document: Any = Parser().parse(text)
    return document["feature"]


@requirement("generators.bdd-scenario")
async def test_a_feature_is_written_with_all_its_parts(tmp_path: Path):
    """Tags, description, background, scenarios, outlines and rules, with values in all of them."""
    made = await write(tmp_path, LOGIN, {"product": "Door", "user": {"name": "Ann"}})
    assert (made.text, list(made.warnings), made.template) == (WRITTEN, [], None)
    assert parsed(made.text)["name"] == "Door"


@requirement("rulings.c39")
async def test_rules_may_be_a_key_of_the_feature(tmp_path: Path):
    """As well as a key next to it, and then they come first."""
    values = {"product": "Door", "user": {"name": "Ann"}}
    inside = {**LOGIN, "feature": {**LOGIN["feature"], "rules": LOGIN["rules"]}, "rules": []}
    assert (await write(tmp_path, inside, values)).text == WRITTEN
    both = await write(tmp_path, {**LOGIN, "feature": {**LOGIN["feature"], "rules": [RULE_OF_ITS_OWN]}}, values)
    titles = [child["rule"]["name"] for child in parsed(both.text)["children"] if "rule" in child]
    assert titles == ["First", "One door"]


@requirement("rulings.c14")
async def test_the_old_name_of_the_generator_still_works():
    """chora-compose called it bdd_scenario_assembly."""
    assert bdd_scenario.ALIASES == ("bdd_scenario_assembly",)


async def test_one_examples_object_is_enough(tmp_path: Path):
    """The short form of an outline with one table."""
    single = {**outline(), "examples": {"headers": ["a"], "rows": [[1]]}}
    (child,) = parsed((await write(tmp_path, feature(scenarios=[], scenario_outlines=[single]))).text)["children"]
    assert [row["cells"][0]["value"] for row in child["scenario"]["examples"][0]["tableBody"]] == ["1"]


# -- languages --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", list(bdd_scenario.LANGUAGES))
def test_the_keywords_of_every_language_are_the_official_ones(code: str):
    """All languages of the official dialect file, with all keywords."""
    official: Any = Dialect.for_name(code)
    ours = bdd_scenario.LANGUAGES[code]
    for name, keywords in (
        ("feature", ours.feature),
        ("background", ours.background),
        ("rule", ours.rule),
        ("scenario", ours.scenario),
        ("scenario_outline", ours.outline),
        ("examples", ours.examples),
    ):
        assert set(keywords) == set(getattr(official, f"{name}_keywords")), name
    steps = (getattr(official, f"{name}_keywords") for name in ("given", "when", "then", "and", "but"))
    assert set(ours.steps) == {keyword for keywords in steps for keyword in keywords}


@requirement("rulings.c39")
@pytest.mark.parametrize("code", list(bdd_scenario.LANGUAGES))
async def test_a_feature_has_the_keywords_of_its_language(code: str, tmp_path: Path):
    """And a `# language:` line for the parser."""
    words = bdd_scenario.LANGUAGES[code]
    steps = [f"{keyword}x" for keyword in words.steps]
    options = {
        "feature": {"title": "F", "language": code},
        "background": steps[:1],
        "rules": [{"title": "R", "scenarios": [scenario(*steps)]}],
        "scenario_outlines": [{**outline({"headers": ["a"], "rows": [[1]]}), "steps": steps}],
    }
    read = parsed((await write(tmp_path, options)).text)
    assert (read["language"], read["keyword"]) == (code, words.feature[0])
    background, outlined, rule = read["children"]
    assert background["background"]["keyword"] == words.background[0]
    assert outlined["scenario"]["keyword"] == words.outline[0]
    assert outlined["scenario"]["examples"][0]["keyword"] == words.examples[0]
    assert rule["rule"]["keyword"] == words.rule[0]
    assert [step["keyword"] for step in rule["rule"]["children"][0]["scenario"]["steps"]] == list(words.steps)


async def test_an_unknown_language_is_refused(tmp_path: Path):
    """The hint lists the known ones."""
    options = {**feature(), "feature": {"title": "F", "language": "tlh"}}
    with pytest.raises(GenerationFailed) as failed:
        await write(tmp_path, options)
    assert "'tlh'" in failed.value.message
    assert "en, de, fr, es, nl, it, pt" in str(failed.value.hint)


@requirement("generators.bdd-scenario.checked")
async def test_steps_need_keywords_of_the_language(tmp_path: Path):
    """The parser wouldn't read an English step in a German feature."""
    german = {**feature(), "feature": {"title": "F", "language": "de"}}
    assert "scenarios[0].steps[0] doesn't begin with a keyword" in await refused(tmp_path, german)


# -- what is refused --------------------------------------------------------------------------------------------


@requirement("generators.bdd-scenario.checked")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"scenarios": [scenario()]}, "no feature"),
        ({"feature": None, "scenarios": [scenario()]}, "no feature"),
        ({"feature": {}, "scenarios": [scenario()]}, "feature has no title"),
        (feature(scenarios=[]), "no scenario"),
        (feature(scenarios=[], rules=[{"title": "R"}]), "no scenario"),
        (feature(scenarios=[], rules=[{"scenarios": [scenario()]}]), "rules[0] has no title"),
        (feature(scenarios=[{"steps": ["Given x"]}]), "scenarios[0] has no title"),
        (feature(scenarios=[{"title": "S"}]), "scenarios[0] has no steps"),
        (feature(scenarios=[scenario(title=" ")]), "scenarios[0] has no title"),
        (feature(scenario_outlines=[outline()]), "scenario_outlines[0] has no examples"),
        (feature(scenario_outlines=[outline({"headers": ["a"]})]), "scenario_outlines[0].examples[0] has no"),
        (feature(scenario_outlines=[outline({"rows": [["a"]]})]), "scenario_outlines[0].examples[0] has no"),
        (feature(scenario_outlines=[outline({"headers": ["a"], "rows": [[1, 2]]})]), "row 1 of"),
        (feature(scenarios=[scenario("Givenx")]), "steps[0] doesn't begin with a keyword: 'Givenx'"),
        (feature(scenarios=[scenario("given x")]), "doesn't begin with a keyword"),
        (feature(scenarios=[scenario("Given ")]), "says nothing behind its keyword"),
        (feature(background=["x"]), "background[0] doesn't begin"),
        (feature(scenarios=[scenario("Given x", {"text": "When y", "table": []})]), "steps[1].table is empty"),
        (feature(scenarios=[scenario({"text": "When y", "table": [[]]})]), "steps[0].table is empty"),
        (feature(scenarios=[scenario({"text": "When y", "table": [["a"], []]})]), "row 1 of"),
        (feature(scenarios=[scenario({"text": "When y", "table": [["a"]], "docstring": ""})]), "a table and a doc"),
        (feature(scenarios=[scenario({"text": "When y", "docstring": {"content": "", "media_type": "a b"}})]), "media"),
        (feature(scenarios=[scenario(tags=["a b"])]), "the tag '@a b'"),
        (feature(scenarios=[scenario(tags=["@1"])]), "the tag '@1'"),
        (feature(scenarios=[scenario(tags=["@ok\n"])]), "the tag '@ok\\n'"),
        (feature(scenarios=[scenario(tags=[""])]), "the tag '@'"),
        (feature(scenarios=[scenario(step=1)]), "unknown field `step`"),
        (feature(scenarios=[scenario(7)]), "generation_config doesn't fit"),
        (feature(undefined_behavior="empty"), "undefined_behavior is 'empty'"),
        (feature(scenarios=[scenario("Given a\nb")]), "has a line break in it"),
    ],
)
async def test_an_invalid_feature_is_refused(tmp_path: Path, options: dict[str, Any], said: str):
    """The message says what is wrong and where."""
    assert said in await refused(tmp_path, options)


# -- values -----------------------------------------------------------------------------------------------------


async def test_an_undefined_name_never_renders_empty(tmp_path: Path):
    """An error in a strict project, the placeholder itself in a lenient one; null counts as undefined."""
    options = feature(scenarios=[scenario("Given {{ who.name }} and {{ none }} and {{ none }}")])
    assert "no value for who.name, none" in await refused(tmp_path, options, {"none": None})
    lenient = await write(tmp_path, options, {"none": None}, undefined="lenient")
    kept = await write(tmp_path, {**options, "undefined_behavior": "keep"}, {"none": None})
    assert lenient == kept
    assert parsed(kept.text)["children"][0]["scenario"]["steps"][0]["text"] == (
        "{{ who.name }} and {{ none }} and {{ none }}"
    )
    assert kept.warnings == [
        "who.name has no value and was left as it stands",
        "none has no value and was left as it stands",
    ]
    strict = {**options, "undefined_behavior": "error"}
    assert "no value" in await refused(tmp_path, strict, {}, undefined="lenient")


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("title", "a\nScenario: b", "line break"),
        ("title", "a\u2028b", "line break"),
        ("title", "", "no title"),
        ("step", "a\rb", "line break"),
        ("step", "", "says nothing"),
        ("description", "x\n  Given y", "line 2 of scenarios[0].description would be read as Gherkin"),
        ("description", "@tag", "would be read"),
        ("description", "# gone", "would be read"),
        ("description", "x\n\nExamples:", "line 3"),
        ("docstring", '\\"\\"\\" \\`\\`\\`', "can't say"),
    ],
)
async def test_a_value_that_would_change_the_structure_is_refused(tmp_path: Path, place: str, value: str, said: str):
    """The message names the place."""
    options = feature(
        scenarios=[
            {
                "title": "{{ title }}",
                "description": "{{ description }}",
                "steps": ["Given {{ step }}", {"text": "When x", "docstring": "{{ docstring }}"}],
            }
        ]
    )
    context = {"title": "t", "description": "d", "step": "s", "docstring": "o"}
    await write(tmp_path, options, context)
    assert said in await refused(tmp_path, options, {**context, place: value})


async def test_a_value_can_not_lengthen_a_keyword(tmp_path: Path):
    """French has keywords that begin with others."""
    options = {"feature": {"title": "F", "language": "fr"}, "scenarios": [scenario("Et {{ x }}")]}
    await write(tmp_path, options, {"x": "qui"})
    assert "changes it" in await refused(tmp_path, options, {"x": "que tu viens"})


async def test_the_size_is_limited(tmp_path: Path):
    """Whether many values exceed it or a table whose columns would be padded."""
    big = {"x": "x" * 3_000_000}
    with pytest.raises(LimitExceeded):
        await write(tmp_path, feature(scenarios=[scenario(*["Given {{ x }}"] * 4)]), big)
    with pytest.raises(LimitExceeded):  # values that aren't written, because a table is refused for them, count too
        await write(tmp_path, feature(scenarios=[scenario({"text": "Given x", "table": [["{{ x }}"] * 4]})]), big)
    with pytest.raises(LimitExceeded):
        await write(tmp_path, feature(scenarios=[scenario({"text": "Given x", "docstring": "a\n" * 1_400_000})]))
    tall = [["{{ x }}"], *[["y"]] * 1000]
    made = await write(tmp_path, feature(scenarios=[scenario({"text": "Given x", "table": tall})]), big)
    assert len(made.text) < 3_100_000


# -- the parser reads what was meant ----------------------------------------------------------------------------

ANY = st.text(
    alphabet=st.one_of(st.sampled_from(list('ab |\\"`#@:<>\n\r\t*')), st.characters(exclude_categories=["Cs"])),
    max_size=12,
)
NASTY = st.sampled_from(
    ['"""', "```", "\\|", "\\n", "\\\\", "| a |", "Feature: x", "Given x", "@t", "# language: fr", "Examples:", "\\"]
)
VALUE = st.one_of(ANY, NASTY, st.lists(NASTY, max_size=3).map("".join), st.integers(), st.booleans())
WORDS = st.text(alphabet='abc xyz.,-<>|\\"', min_size=1, max_size=10).map(lambda text: f"w{text}")


@st.composite
def tables(draw: st.DrawFn) -> list[list[Any]]:
    width = draw(st.integers(1, 3))
    return draw(st.lists(st.lists(VALUE, min_size=width, max_size=width), min_size=2, max_size=3))


STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["Given ", "* "]), WORDS).map("".join),
        st.builds(lambda words, table: {"text": f"When {words}", "table": table}, WORDS, tables()),
        st.builds(lambda words, text: {"text": f"Then {words}", "docstring": text}, WORDS, ANY | NASTY),
    ),
    min_size=1,
    max_size=3,
)
TAGS = st.lists(st.sampled_from(["a", "@b-1", "C_"]), max_size=2)
DESCRIPTION = st.lists(WORDS | st.just(""), max_size=3).map("\n".join)
SCENARIO = st.fixed_dictionaries({"title": WORDS, "steps": STEPS}, optional={"tags": TAGS, "description": DESCRIPTION})
EXAMPLES = st.builds(
    lambda table, rest: {"headers": table[0], "rows": table[1:], **rest},
    tables(),
    st.fixed_dictionaries({}, optional={"tags": TAGS, "title": WORDS, "description": DESCRIPTION}),
)
OUTLINE = st.builds(
    lambda scenario, examples: {**scenario, "examples": examples}, SCENARIO, st.lists(EXAMPLES, min_size=1, max_size=2)
)
RULE = st.fixed_dictionaries(
    {"title": WORDS, "scenarios": st.lists(SCENARIO, max_size=2)},
    optional={"tags": TAGS, "description": DESCRIPTION, "background": STEPS, "scenario_outlines": st.just([])},
)
FEATURE = st.fixed_dictionaries(
    {
        "feature": st.fixed_dictionaries({"title": WORDS}, optional={"tags": TAGS, "description": DESCRIPTION}),
        "scenarios": st.lists(SCENARIO, min_size=1, max_size=2),
    },
    optional={
        "background": STEPS,
        "scenario_outlines": st.lists(OUTLINE, max_size=2),
        "rules": st.lists(RULE, max_size=2),
    },
)


def expected_document(options: dict[str, Any]) -> dict[str, Any]:
    """What the parser should find."""
    return {
        **asked_head(options["feature"]),
        "background": asked_steps(options.get("background", [])),
        "scenarios": asked_scenarios(options),
        "rules": [
            {
                **asked_head(rule),
                "background": asked_steps(rule.get("background", [])),
                "scenarios": asked_scenarios(rule),
            }
            for rule in options.get("rules", [])
        ],
    }


def asked_head(described: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": described.get("title", "").strip(),
        "tags": [tag if tag.startswith("@") else f"@{tag}" for tag in described.get("tags", [])],
        "description": "\n".join(line.strip() for line in described.get("description", "").strip().split("\n")),
    }


def asked_scenarios(options: dict[str, Any]) -> list[Any]:
    return [
        {
            **asked_head(each),
            "steps": asked_steps(each["steps"]),
            "examples": [
                {**asked_head(one), "table": asked_table([one["headers"], *one["rows"]])}
                for one in each.get("examples", [])
            ],
        }
        for each in [*options.get("scenarios", []), *options.get("scenario_outlines", [])]
    ]


def asked_steps(steps: list[Any]) -> list[Any]:
    objects: list[dict[str, Any]] = [{"text": step} if isinstance(step, str) else step for step in steps]
    return [
        (
            step["text"].strip(),
            asked_table(step.get("table", [])),
            _newlines(step["docstring"]) if "docstring" in step else None,
        )
        for step in objects
    ]


def asked_table(rows: list[list[Any]]) -> list[list[str]]:
    return [[_trimmed(_newlines(_text(cell))) for cell in row] for row in rows]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(value).lower()


def _newlines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _trimmed(text: str) -> str:
    """Whitespace around a cell isn't part of it, line breaks are."""
    ends = "".join(character for character in set(text) if character.isspace() and character != "\n")
    return text.strip(ends) if ends else text


def found(read: dict[str, Any]) -> dict[str, Any]:
    """What the parser found, in the same shape."""
    children = read["children"]
    return {
        **found_head(read),
        "background": found_steps([child["background"] for child in children if "background" in child]),
        "scenarios": [found_scenario(child["scenario"]) for child in children if "scenario" in child],
        **(
            {
                "rules": [
                    {k: v for k, v in found(child["rule"]).items() if k != "rules"}
                    for child in children
                    if "rule" in child
                ]
            }
        ),
    }


def found_head(node: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": node["name"],
        "tags": [tag["name"] for tag in node["tags"]],
        "description": "\n".join(line.strip() for line in node["description"].split("\n")),
    }


def found_scenario(node: dict[str, Any]) -> dict[str, Any]:
    return {
        **found_head(node),
        "steps": found_steps([node]),
        "examples": [
            {**found_head(one), "table": found_table([one["tableHeader"], *one["tableBody"]])}
            for one in node["examples"]
        ],
    }


def found_steps(nodes: list[dict[str, Any]]) -> list[Any]:
    return [
        (
            step["keyword"] + step["text"],
            found_table(step["dataTable"]["rows"]) if "dataTable" in step else [],
            step["docString"]["content"] if "docString" in step else None,
        )
        for node in nodes
        for step in node["steps"]
    ]


def found_table(rows: list[Any]) -> list[list[str]]:
    return [[cell["value"] for cell in row["cells"]] for row in rows]


PROPERTY = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@requirement("generators.bdd-scenario")
@given(options=FEATURE)
@PROPERTY
@pytest.mark.slow("the official parser reads every example")
async def test_the_official_parser_reads_what_the_config_says(tmp_path: Path, options: dict[str, Any]):
    """Cells and texts of any characters, and every part of the structure in its place."""
    made = await write(tmp_path, options)
    assert found(parsed(made.text)) == expected_document(options)


@given(
    values=st.fixed_dictionaries(
        dict.fromkeys(("title", "description", "step", "cell", "text", "example", "header", "feature"), VALUE)
    )
)
@PROPERTY
@pytest.mark.slow("the official parser reads every example")
async def test_no_value_changes_the_structure(tmp_path: Path, values: dict[str, Any]):
    """A value is either refused, or the feature has exactly the parts that the config gives it."""
    options = {
        "feature": {"title": "f {{ feature }}", "description": "d\n{{ description }}"},
        "scenarios": [
            scenario(
                "Given s {{ step }}",
                {"text": "When t", "table": [["h", "{{ header }}"], ["{{ cell }}", "c"]]},
                {"text": "Then d", "docstring": "{{ text }}"},
                title="t {{ title }}",
                description="{{ description }}",
            )
        ],
        "scenario_outlines": [outline({"headers": ["a"], "rows": [["{{ example }}"]]})],
    }
    try:
        made = await write(tmp_path, options, values)
    except GenerationFailed:
        return
    read = found(parsed(made.text))
    first, second = read["scenarios"]
    assert (read["background"], read["rules"], read["tags"], first["tags"]) == ([], [], [], [])
    given_step, when, then = first["steps"]
    assert given_step[0] == f"Given s {_text(values['step'])}".strip()
    assert when[1] == asked_table([["h", values["header"]], [values["cell"], "c"]])
    assert then[2] == _newlines(_text(values["text"]))
    assert second["examples"][0]["table"] == asked_table([["a"], [values["example"]]])
    assert not Parser().parse(made.text)["comments"]


@given(text=st.lists(ANY | NASTY, max_size=4).map("\n".join))
@PROPERTY
async def test_a_docstring_is_read_back_unchanged(tmp_path: Path, text: str):
    """Indentation, blank lines, quotes and backticks included."""
    try:
        made = await write(tmp_path, feature(scenarios=[scenario({"text": "Given x", "docstring": text})]))
    except GenerationFailed:
        assert '\\"\\"\\"' in text or "\\`" in text
        return
    (child,) = parsed(made.text)["children"]
    assert child["scenario"]["steps"][0]["docString"]["content"] == _newlines(text)


async def test_a_description_keeps_its_inner_indentation(tmp_path: Path):
    """So that a list in a description stays one."""
    description = "\n\nIn short:\n  * one\n\n  * two\n"
    read = parsed((await write(tmp_path, {**feature(), "feature": {"title": "F", "description": description}})).text)
    assert textwrap.dedent(read["description"]) == "In short:\n  * one\n\n  * two"
