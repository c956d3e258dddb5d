"""A worker's checks, in this process and in a real worker: patterns, languages, schemas and conditions."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from chora.errors import InvalidContext, LimitExceeded
from chora.render import (
    CheckJob,
    CheckResult,
    CompareJob,
    EvaluatedCondition,
    EvaluateJob,
    JobFailure,
    MatchJob,
    MatchPosition,
    RenderFailed,
    TextFinding,
    sandbox,
    validation,
)
from chora.render.pool import RenderPool
from chora.render.validation import FINDINGS_LIMIT, LANGUAGES
from chora.settings import RenderSettings as RenderSettings
from tests.patience import PATIENCE

# -- patterns ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "flags", "place"),
    [
        ("b", "", 1),
        ("B", "", None),
        ("B", "i", 1),
        ("^c", "", None),
        ("^c", "m", 3),
        ("b.c", "", None),
        ("b.c", "s", 1),
        ("b \n  # a comment", "x", 1),
        (r"\w", "a", 0),
        ("", "", 0),
    ],
)
def test_a_pattern_matches_somewhere_or_not(pattern: str, flags: str, place: int | None):
    """The position of the first match, in characters; flags have Python's meaning."""
    assert validation.match_pattern(MatchJob(pattern, "ab\ncd", flags)) == MatchPosition(place)


@pytest.mark.parametrize(
    ("pattern", "flags", "problem"),
    [
        ("(", "", "missing ), unterminated subpattern"),
        ("a{99999999999999999999}", "", "repetition number is too large"),
        ("a", "q", "'q' is not a flag"),
        ("(" * 20_000 + ")" * 20_000, "", ""),
    ],
    ids=["unclosed", "too many", "flag", "deep"],
)
def test_an_invalid_pattern_is_reported(pattern: str, flags: str, problem: str):
    """Any fault is returned as data."""
    failed = validation.match_pattern(MatchJob(pattern, "a", flags, name="n" * 500))
    assert isinstance(failed, JobFailure)
    assert failed.kind == "syntax"
    assert problem in failed.message
    assert len(failed.template or "") == validation.NAME_LENGTH


# -- languages --------------------------------------------------------------------------------------------------

RIGHT = {
    "json": ['{"a": [1, 2.5, null, true, "ü"]}', "1", '"x"', "9" * 10_000],
    "yaml": ["a: 1\nb: [x, *c]\n".replace("*c", "y"), "--- !Ref x\n---\nb: &c 1\nd: *c\n", ""],
    "toml": ['a = 1\n[b]\nc = "x"\n', ""],
    "xml": ["<a><b c='d'/>x &amp; y</a>", "<?xml version='1.0'?><a/>"],
    "html": [
        "<div><p>one<p>two<br></div>",
        "<!DOCTYPE html><html><body><ul><li>x<li>y</ul>",
        "<img/><b>x</b>",
        "<p></p></p>",
        "<pre># a\n- b\n- c\n</pre><code>**d**</code><script>\n// [x](y)\n</script>",
        "<p>2 * 3 - 4 > 5, a*b*c, [1] (see below), #1</p>",
    ],
    "csv": ["a,b\n1,2\n\n3,4\n", 'a\n"x\ny"\n', ""],
    "python": ["def f(a, /, *, b): return a\n", "x = '\\d'\n", "", "match x:\n    case 1: pass\n"],
    "jinja2": ["{% for a in b %}{{ a | upper }}{% break %}{% endfor %}", "{% do x.y() %}", "text"],
    "markdown": ["# A\n\n```python\nx\n```\n", "~~~\n```\n~~~\n", "``` `x` ```\n", "    ```\n", "````\n```\n````\n"],
    "gherkin": ["Feature: x\n  Scenario: y\n", "# language: de\nFunktionalität: x\n", "@a\nAbility: x\n"],
}
WRONG = [
    ("json", '{"a": 1,\n"b": }', TextFinding("Expecting value", 2, 6)),
    ("json", '{"a": 1,\n\n "a": 2}', TextFinding("the key 'a' stands twice in one object")),
    ("json", "[NaN]", TextFinding("NaN is not a JSON value")),
    ("json", "[" * 100_000, TextFinding("it is nested too deeply")),
    ("json", "", TextFinding("Expecting value", 1, 1)),
    ("yaml", "a: [1\nb", TextFinding("did not find expected ',' or ']'", 3, 1)),
    ("yaml", "a: *b", TextFinding("found undefined alias", 1, 4)),
    ("yaml", "a: \x07", TextFinding("unacceptable character #x0007: control characters are not allowed")),
    ("toml", "a = 1\nb = \n", TextFinding("Invalid value", 2, 5)),
    ("toml", "a = 1\na = 2\n", TextFinding("Cannot overwrite a value", 2, 6)),
    ("toml", "a = [1", TextFinding("Unclosed array (at end of document)")),
    ("xml", "<a>\n<b></a>", TextFinding("mismatched tag", 2, 6)),
    ("xml", "<a>&b;</a>", TextFinding("undefined entity", 1, 4)),
    ("xml", "", TextFinding("no element found", 1, 1)),
    ("html", "<div>\n<b>x</div></i>", TextFinding("<b> is never closed", 2, 1)),
    ("html", "<div>", TextFinding("<div> is never closed", 1, 1)),
    ("html", "no element", TextFinding("it has no element")),
    *(
        ("html", text, TextFinding(f"{what} is written as Markdown, which HTML shows as it stands", line))
        for text, what, line in (
            ("<p>a</p>\n# Tides\n", "a heading", 2),
            ("<p>a</p>\n\nTides\n=====\n", "a heading", 3),
            ("<p>a</p>\n```python\nx\n```\n", "a code block", 2),
            ("<p>a</p>\n- one\n- two\n", "a list", 2),
            ("<p>a</p>\n1. one\n2. two\n", "a list", 2),
            ("<p>a</p>\n| a | b |\n| - | - |\n|---|---|\n", "a table", 4),
            ("<p>a</p>\n> said\n", "a quotation", 2),
            ("<p>a **b** c</p>", "bold text", 1),
            ("<p>see\n[the map](map.md)</p>", "a link", 2),
        )
    ),
    ("csv", "a,b\n1\n", TextFinding("this row has 1 cell, the first one 2", 2)),
    ("csv", 'a\n"b\n', TextFinding("unexpected end of data", 2)),
    ("python", "x = 1\ndef f(:\n", TextFinding("invalid syntax", 2, 7)),
    ("python", "-" * 100_000 + "1", TextFinding("it is nested too deeply")),
    ("jinja2", "a\n{% if %}", TextFinding("Expected an expression, got 'end of statement block'", 2)),
    ("jinja2", "{% include 'a' %}{% end %}", TextFinding("Encountered unknown tag 'end'.", 1)),
    ("markdown", "a\u2028```\x0c\n```\nb", TextFinding("the code block that ``` opens is never closed", 2)),
    ("markdown", "a\n```\nb", TextFinding("the code block that ``` opens is never closed", 2)),
    ("gherkin", "Scenario: x", TextFinding("Scenario: stands before Feature:", 1)),
    ("gherkin", "", TextFinding("there is no line that begins with Feature:", 1)),
    ("gherkin", "# language: de\nhallo", TextFinding("there is no line that begins with a keyword and a colon", 1)),
]


def short_id(value: object) -> str:
    """A test id for a value that may be large."""
    return str(value)[:20]


def test_every_language_has_rows():
    """With valid and invalid texts, so that a new language gets tested."""
    assert set(RIGHT) == set(LANGUAGES) == {language for language, _, _ in WRONG}


@pytest.mark.parametrize(
    ("language", "text"), [(language, text) for language, texts in RIGHT.items() for text in texts], ids=short_id
)
def test_valid_texts_have_no_findings(language: str, text: str):
    """In each language."""
    assert validation.check_text(CheckJob(language, text)) == CheckResult([])


@pytest.mark.parametrize(("language", "text", "flaw"), WRONG, ids=short_id)
def test_invalid_texts_have_findings(language: str, text: str, flaw: TextFinding):
    """The first fault, with its position where known."""
    checked = validation.check_text(CheckJob(language, text))
    assert isinstance(checked, CheckResult)
    assert checked.findings[0] == flaw


def test_findings_in_html_come_in_the_order_of_the_text():
    """By line, then by column, although the innermost element is noticed first."""
    checked = validation.check_text(CheckJob("html", "<div><b><i>x\n</em><a><u>y\n<em>"))
    assert isinstance(checked, CheckResult)
    assert [(flaw.line, flaw.column) for flaw in checked.findings] == [
        (1, 1),
        (1, 6),
        (1, 9),
        (2, 1),
        (2, 6),
        (2, 9),
        (3, 1),
    ]
    assert checked.findings[3] == TextFinding("</em> closes nothing", 2, 1)


@pytest.mark.parametrize("text", ["x = 1\0", "x = '\\ud800'.encode()\nx = (" + "(" * 5000], ids=short_id)
def test_python_that_its_parser_refuses_is_a_finding(text: str):
    """Also when Python raises something other than SyntaxError."""
    checked = validation.check_text(CheckJob("python", text))
    assert isinstance(checked, CheckResult)
    assert len(checked.findings) == 1


@pytest.mark.parametrize(
    "text",
    [
        '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>',
        '<!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;">]><a>&c;</a>',
        '<!DOCTYPE a SYSTEM "http://127.0.0.1:9/a.dtd"><a/>',
    ],
)
def test_xml_with_a_document_type_is_refused(text: str):
    """Before any entity is declared (CWE-611, CWE-776)."""
    (flaw,) = validation.check_text(CheckJob("xml", text)).findings  # pyright: ignore[reportAttributeAccessIssue]
    assert flaw.message.startswith("it declares a document type")
    assert flaw.line == 1


def test_checking_a_text_runs_nothing_of_it(capfd: pytest.CaptureFixture[str]):
    """Python is only parsed, and a YAML tag creates no object (CWE-502)."""
    validation.check_text(CheckJob("python", "print('ran')\n"))
    validation.check_text(CheckJob("yaml", "!!python/object/apply:print [ran]"))
    validation.check_text(CheckJob("jinja2", "{{ cycler.__init__.__globals__.os.system('echo ran') }}"))
    assert "ran" not in capfd.readouterr().out


def test_findings_are_limited():
    """A hundred at most, each of limited length."""
    checked = validation.check_text(CheckJob("csv", "a,b\n" + "1\n" * 200))
    assert isinstance(checked, CheckResult)
    assert len(checked.findings) == FINDINGS_LIMIT
    (flaw,) = validation.check_text(CheckJob("json", '{"' + "a" * 1000 + '":1,"' + "a" * 1000 + '":1}')).findings  # pyright: ignore[reportAttributeAccessIssue]
    assert len(flaw.message) == validation.MESSAGE_LENGTH
    compared = validation.compare_with_schema(CompareJob({"items": {"type": "integer"}}, ["x"] * 200))
    assert isinstance(compared, CheckResult)
    assert len(compared.findings) == FINDINGS_LIMIT


def test_an_unknown_language_is_a_failure():
    """It names the known ones."""
    failed = validation.check_text(CheckJob("klingon", "x"))
    assert isinstance(failed, JobFailure)
    assert "write one of json, yaml" in failed.message


# -- schemas ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "data", "paths"),
    [
        ({"type": "object", "required": ["a"]}, {"a": 1}, []),
        ({"type": "object", "required": ["a"]}, {}, ["$"]),
        ({"properties": {"a": {"items": {"type": "integer"}}}}, {"a": [1, "x", "y"]}, ["$.a[1]", "$.a[2]"]),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"const": 1}}}, 2, ["$"]),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "type": "string"}, 1, ["$"]),
        ({"$ref": "https://json-schema.org/draft/2020-12/schema"}, {"type": "object"}, []),
        (True, 1, []),
        (False, 1, ["$"]),
    ],
)
def test_data_is_validated_against_its_schema(schema: Any, data: Any, paths: list[str]):
    """Every violation is reported with its path."""
    checked = validation.compare_with_schema(CompareJob(schema, data))
    assert isinstance(checked, CheckResult)
    assert [flaw.path for flaw in checked.findings] == paths


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ({"type": "nope"}, "it is not a JSON Schema: 'nope' is not valid"),
        ({"pattern": "("}, "it is not a JSON Schema"),
        ({"$ref": "http://127.0.0.1:9/a.json"}, "it refers to 'http://127.0.0.1:9/a.json', which isn't in it"),
        ({"$ref": "file:///etc/passwd"}, "it refers to 'file:///etc/passwd'"),
        ({"$ref": "#/$defs/a"}, "it refers to"),
        ({"$ref": "#"}, "it can't be applied: RecursionError"),
        ({"$schema": []}, "it can't be applied: TypeError"),
    ],
)
def test_an_invalid_schema_is_reported(schema: Any, problem: str):
    """Remote references aren't fetched, and cyclic ones end."""
    failed = validation.compare_with_schema(CompareJob(schema, "x"))
    assert isinstance(failed, JobFailure)
    assert failed.message.startswith(problem)


def test_running_out_of_memory_is_left_to_the_caller(monkeypatch: pytest.MonkeyPatch):
    """A worker without memory must end."""

    def exhausted(*given: object, **named: object) -> None:
        raise MemoryError

    monkeypatch.setattr("jsonschema.validators.validator_for", exhausted)
    with pytest.raises(MemoryError):
        validation.compare_with_schema(CompareJob({}, 1))


# -- conditions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "truth"),
    [
        ("audience == 'crew'", True),
        ("audience == 'guests'", False),
        ("audience in ['crew', 'guests'] and berths > 3", True),
        ("nothing is defined", False),
        ("nothing | default('crew') == audience", True),
        ("nothing is defined and nothing > 3", False),
        ("[]", False),
    ],
)
def test_a_condition_is_true_or_not(expression: str, truth: bool):
    """In the context; whether a name is defined may be asked."""
    job = EvaluateJob(expression, {"audience": "crew", "berths": 4})
    assert sandbox.evaluate_condition(job) == EvaluatedCondition(truth)


@pytest.mark.parametrize(
    ("expression", "kind"),
    [
        ("audience ==", "syntax"),
        ("in summer", "syntax"),
        ("", "syntax"),
        ("1 // 0", "runtime"),
        ("audience.__class__.__mro__", "security"),
        *((each, "undefined") for each in ("always", "not nothing", "nothing.deeper", "nothing > 3")),
        *((each, "undefined") for each in ("env == prod", "audience == crew", "nothing in [1]", "nothing or audience")),
    ],
)
def test_an_invalid_condition_is_reported(expression: str, kind: str):
    """It runs in the sandbox that templates run in; nothing that isn't defined is compared, not even with the like."""
    failed = sandbox.evaluate_condition(EvaluateJob(expression, {"audience": "crew"}))
    assert isinstance(failed, JobFailure)
    assert failed.kind == kind


def test_a_condition_without_memory_is_left_to_the_caller():
    """A worker without memory must end."""
    with pytest.raises(MemoryError):
        sandbox.evaluate_condition(EvaluateJob("'x' * n", {"n": sys.maxsize // 2}))


# -- in a worker ------------------------------------------------------------------------------------------------


@asynccontextmanager
async def running(**settings: Any) -> AsyncGenerator[RenderPool]:
    pool = RenderPool(RenderSettings(**{"workers": 1, **settings}))
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            await nursery.start(pool.serve)
            yield pool
            nursery.cancel_scope.cancel()


async def test_a_worker_runs_all_checks():
    """The jobs are sent to a worker, and their findings returned."""
    async with running() as pool:
        assert await pool.match_pattern(MatchJob("c", "abc")) == MatchPosition(2)
        assert await pool.evaluate_condition(EvaluateJob("a", {"a": 1})) == EvaluatedCondition(True)
        assert await pool.check_text(CheckJob("json", "[")) == CheckResult([TextFinding("Expecting value", 1, 2)])
        assert await pool.check_text(CompareJob({"type": "string"}, 1)) == CheckResult(
            [TextFinding("1 is not of type 'string'", path="$")]
        )
        for wrong in (
            pool.match_pattern(MatchJob("(", "a")),
            pool.check_text(CheckJob("x", "a")),
            pool.check_text(CompareJob({"type": 1}, 1)),
        ):
            with pytest.raises(RenderFailed) as failed:
                await wrong
            assert failed.value.reason.kind == "syntax"
        assert pool.statistics().workers == 1


@pytest.mark.parametrize(
    "hostile",
    [
        pytest.param(MatchJob("(a+)+$", "a" * 5000 + "b"), id="pattern"),
        pytest.param(CompareJob({"pattern": "(a+)+$"}, "a" * 5000 + "b"), id="schema"),
        pytest.param(CheckJob("yaml", "[" * 200_000), id="yaml"),
    ],
)
async def test_an_endless_check_is_killed(hostile: MatchJob | CheckJob | CompareJob):
    """And the next job works."""
    async with running(wall=1.5) as pool:
        with pytest.raises((LimitExceeded, RenderFailed)):
            await (pool.match_pattern(hostile) if isinstance(hostile, MatchJob) else pool.check_text(hostile))
        assert await pool.match_pattern(MatchJob("b", "ab")) == MatchPosition(1)


async def test_what_is_not_plain_data_is_refused():
    """A lone surrogate can't be encoded."""
    async with running() as pool:
        with pytest.raises(InvalidContext):
            await pool.match_pattern(MatchJob("a", "\ud800"))


@pytest.mark.skipif(sys.platform == "win32", reason="limits")
async def test_a_text_that_breaks_its_worker_is_a_failure():
    """A parser that overflows its stack crashes one worker and nothing else."""
    async with running(wall=2.0) as pool:
        with pytest.raises((LimitExceeded, RenderFailed)):
            await pool.check_text(CheckJob("yaml", "- " * 500_000))
        assert await pool.match_pattern(MatchJob("b", "ab")) == MatchPosition(1)
