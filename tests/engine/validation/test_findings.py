"""Findings in texts, configs and collections: every code, every kind of rule, every subject of a rule."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from chora import settings
from chora.engine.building.artifact import build_artifact
from chora.engine.building.build import Build, CallerContext
from chora.engine.building.content import build_content
from chora.engine.drafts import create_draft
from chora.engine.engine import Engine, open_engine
from chora.engine.validation import lint
from chora.engine.validation.checks import CHECKS
from chora.engine.validation.collections import validate_collection
from chora.engine.validation.findings import Finding, ValidationReport, validate
from chora.engine.validation.rules import INLINE_LENGTH, ValidationRule
from chora.errors import Busy, ConfigNotFound, GenerationFailed, InvalidConfigId, ValidationExecutionFailed
from chora.hashing import sha256
from chora.model import ArtifactRule, ContentRule
from chora.store import Version
from chora.timestamps import now
from chora.wording import as_sentence
from tests.conftest import Project, artifact, child, content, requirement, text
from tests.patience import PATIENCE, may_have_taken


@pytest.fixture(autouse=True)
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ruff is on PATH, and nothing else."""
    folder = tmp_path / "programs"
    folder.mkdir()
    (folder / "ruff").symlink_to(Path(sys.executable).with_name("ruff"))
    monkeypatch.setenv("PATH", str(folder))


async def store(engine: Engine, content_id: str, body: str, **rest: Any) -> Version:
    """Store a text as if it had been generated."""
    fingerprint = f"sha256:{len(engine.store.version_infos(content_id))}"
    return await engine.store.add_version(
        Version(
            content_id=content_id,
            body=body,
            sha256=sha256(body.encode()),
            fingerprint=fingerprint,
            generator="demonstration",
            generator_version="1.0.0",
            generated_at=now(),
            **rest,
        )
    )


async def look(engine: Engine, name: str, *rules: ValidationRule) -> ValidationReport:
    with trio.fail_after(PATIENCE):
        return await validate(Build(engine, dry=True), name, rules)


async def rule_findings(engine: Engine, body: str, rule: ValidationRule, **metadata: Any) -> list[Finding]:
    """The findings of a rule in a text alone, or with its config's metadata."""
    await store(engine, "piece", body)
    return [
        issue for issue in (await look(engine, "piece", rule)).findings if not issue.code.startswith("content_very")
    ]


def codes(findings: ValidationReport) -> list[str]:
    return [issue.code for issue in findings.findings]


# -- built-in checks --------------------------------------------------------------------------------------------


@requirement("tools.validate-content.built-in")
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("Everything is well.", []),
        ("", [("error", "content_empty", None)]),
        (" \n\t", [("error", "content_empty", None)]),
        ("Short", [("warning", "content_very_short", None)]),
        ("123456789", [("warning", "content_very_short", None)]),
        ("1234567890", []),
        ("And so it goes on...", [("warning", "content_incomplete", None)]),
        ("And so it goes on…\n", [("warning", "content_incomplete", None)]),
        ("One\n\nand [TBD] two", [("warning", "content_incomplete", "line 3")]),
    ],
)
async def test_every_text_gets_the_built_in_checks(engine: Engine, body: str, expected: list[Any]):
    """An empty text is an error, a suspicious one a warning; only errors make it invalid."""
    await store(engine, "note", body)
    found = await look(engine, "note")
    assert [(issue.severity, issue.code, issue.location) for issue in found.findings] == expected
    assert found.valid is not any(severity == "error" for severity, _, _ in expected)


# -- rules: a row for every outcome -----------------------------------------------------------------------------

MARKDOWN = """# Harbour

See [the map](docs/map.md), [gone](docs/gone.md) and [tides](#tide-table).

## Tide table

| a |
"""
TEXT = "Everything is well."
OBJECT = '{"name": "x", "size": {"h": 1}, "none": null}'

ROWS: list[tuple[str, ValidationRule, str, list[tuple[str, str, str | None, dict[str, Any]]]]] = [
    # presence
    ("presence", ValidationRule("presence"), TEXT, []),
    ("presence fails", ValidationRule("presence"), "\n", [("error", "content_missing", None, {})]),
    (
        "presence with an option",
        ValidationRule("presence", config={"min_length": 5}),
        TEXT,
        [("error", "invalid_rule", None, {"rule_type": "presence"})],
    ),
    # length
    (
        "length with a misspelt bound",
        ValidationRule("length", config={"min": 1, "maximum": 5}, severity="info"),
        TEXT,
        [("error", "invalid_rule", None, {"rule_type": "length"})],
    ),
    ("length fits", ValidationRule("length", config={"min": 19, "max": 19}), TEXT, []),
    (
        "too short",
        ValidationRule("length", config={"min": 20}),
        TEXT,
        [("error", "content_too_short", None, {"actual": 19, "required": 20})],
    ),
    (
        "too long, as the spec spells it",
        ValidationRule("length", config={"max_length": 18.0}, severity="warning"),
        TEXT,
        [("warning", "content_too_long", None, {"actual": 19, "limit": 18})],
    ),
    (
        "length without bounds",
        ValidationRule("length"),
        TEXT,
        [("error", "invalid_rule", None, {"rule_type": "length"})],
    ),
    (
        "bounds crossed",
        ValidationRule("length", config={"min": 2, "max": 1}),
        TEXT,
        [("error", "invalid_rule", None, {})],
    ),
    ("bound no number", ValidationRule("length", config={"min": "2"}), TEXT, [("error", "invalid_rule", None, {})]),
    ("bound true", ValidationRule("length", config={"min": True}), TEXT, [("error", "invalid_rule", None, {})]),
    ("bound negative", ValidationRule("length", config={"max": -1}), TEXT, [("error", "invalid_rule", None, {})]),
    # format and syntax
    ("json", ValidationRule("format", config={"format": "json"}), OBJECT, []),
    (
        "not json",
        ValidationRule("format", config={"format": "JSON"}),
        '{\n"a" 1}',
        [("error", "format_mismatch", "line 2", {"format": "json", "line": 2, "column": 5})],
    ),
    ("any text is text", ValidationRule("format", config={"format": "text"}), TEXT, []),
    (
        "not checkable",
        ValidationRule("format", config={"format": "typescript"}),
        TEXT,
        [("info", "format_not_checked", None, {"format": "typescript"})],
    ),
    (
        "no such format",
        ValidationRule("format", config={"format": "klingon"}),
        TEXT,
        [("error", "invalid_rule", None, {})],
    ),
    ("no format at all", ValidationRule("format"), TEXT, [("error", "invalid_rule", None, {})]),
    ("python", ValidationRule("syntax", config={"language": "py"}), "x = 1\nprint(x)\n", []),
    (
        "not python",
        ValidationRule("syntax", config={"language": "python"}, severity="info"),
        "x = 1\nprint(x\n",
        [("info", "syntax_error", "line 2", {"format": "python"})],
    ),
    ("template", ValidationRule("syntax", config={"language": "jinja2"}), "{{ a.b() }} and more", []),
    (
        "not a template",
        ValidationRule("syntax", config={"language": "jinja2"}),
        "a longer text\n{% if %}",
        [("error", "syntax_error", "line 2", {})],
    ),
    # regex
    ("matches", ValidationRule("regex", config={"pattern": "is\\s"}), TEXT, []),
    (
        "matches nothing",
        ValidationRule("regex", config={"pattern": "IS"}),
        TEXT,
        [("error", "pattern_not_found", None, {"pattern": "IS"})],
    ),
    ("flags", ValidationRule("regex", config={"must_match": "IS", "flags": "i"}), TEXT, []),
    (
        "must not match",
        ValidationRule("regex", config={"must_not_match": "two"}),
        "one and\ntwo",
        [("error", "pattern_found", "line 2", {"pattern": "two", "line": 2})],
    ),
    ("must not, and doesn't", ValidationRule("regex", config={"pattern": "q", "must_match": False}), TEXT, []),
    (
        "must not, and does",
        ValidationRule("regex", config={"pattern": "is", "must_not_match": True}),
        TEXT,
        [("error", "pattern_found", "line 1", {})],
    ),
    ("no pattern", ValidationRule("regex", config={"pattern": ["a"]}), TEXT, [("error", "invalid_rule", None, {})]),
    ("broken pattern", ValidationRule("regex", config={"pattern": "("}), TEXT, [("error", "invalid_rule", None, {})]),
    (
        "broken flags",
        ValidationRule("regex", config={"pattern": "a", "flags": 1}),
        TEXT,
        [("error", "invalid_rule", None, {})],
    ),
    # required_fields
    ("fields", ValidationRule("required_fields", config={"fields": ["name", "size.h"]}), OBJECT, []),
    (
        "fields missing",
        ValidationRule("required_fields", config={"fields": ["name", "size.w", "none"]}),
        OBJECT,
        [
            ("error", "missing_required_field", None, {"field": "size.w"}),
            ("error", "missing_required_field", None, {"field": "none"}),
        ],
    ),
    ("one field", ValidationRule("required_fields", config={"fields": "name"}), OBJECT, []),
    ("no fields", ValidationRule("required_fields"), OBJECT, [("error", "invalid_rule", None, {})]),
    (
        "fields empty",
        ValidationRule("required_fields", config={"fields": []}),
        OBJECT,
        [("error", "invalid_rule", None, {})],
    ),
    (
        "fields of broken data",
        ValidationRule("required_fields", config={"fields": "a"}),
        "{ broken }",
        [("error", "format_mismatch", None, {})],
    ),
    (
        "fields of neither",
        ValidationRule("required_fields", config={"fields": "a"}),
        TEXT,
        [("error", "target_not_found", None, {"target": ""})],
    ),
    # schema
    ("schema fits", ValidationRule("schema", config={"schema": {"required": ["name"]}}), OBJECT, []),
    ("schema over yaml", ValidationRule("schema", config={"schema": {"required": ["name"]}}), "name: a text", []),
    (
        "schema doesn't fit",
        ValidationRule(
            "schema", config={"schema": {"properties": {"size": {"properties": {"h": {"type": "string"}}}}}}
        ),
        OBJECT,
        [("error", "schema_validation_failed", "$.size.h", {"path": "$.size.h"})],
    ),
    (
        "no data",
        ValidationRule("schema", config={"schema": True}),
        '{"a": ]}',
        [("error", "format_mismatch", None, {})],
    ),
    ("schema in a file", ValidationRule("schema", config={"schema": "schemas/any.yaml"}), OBJECT, []),
    (
        "schema file gone",
        ValidationRule("schema", config={"schema": "no.json"}),
        OBJECT,
        [("error", "invalid_rule", None, {})],
    ),
    (
        "schema file no data",
        ValidationRule("schema", config={"schema": "docs/map.md"}),
        OBJECT,
        [("error", "invalid_rule", None, {})],
    ),
    (
        "schema elsewhere",
        ValidationRule("schema", config={"schema": "../x.json"}),
        OBJECT,
        [("error", "invalid_rule", None, {})],
    ),
    ("no schema", ValidationRule("schema", config={"schema": 5}), OBJECT, [("error", "invalid_rule", None, {})]),
    (
        "schema from the network",
        ValidationRule("schema", config={"schema": {"$ref": "http://127.0.0.1:9/x"}}),
        OBJECT,
        [("error", "invalid_rule", None, {})],
    ),
    # links
    (
        "links",
        ValidationRule("links"),
        MARKDOWN,
        [("error", "broken_link", "line 3", {"link": "docs/gone.md", "line": 3})],
    ),
    ("links from elsewhere", ValidationRule("links", config={"base": "docs"}), "[a](map.md) [b](../docs/)", []),
    ("links from nowhere", ValidationRule("links", config={"base": 5}), TEXT, [("error", "invalid_rule", None, {})]),
    # what belongs together
    ("no children", ValidationRule("completeness"), TEXT, [("error", "invalid_rule", None, {})]),
    # lint
    ("lint", ValidationRule("lint", config={"linter": "ruff"}), "x = 1\nprint(x)\n", []),
    (
        "lint finds",
        ValidationRule("lint", config={"linter": "ruff", "options": "--select=F"}, severity="warning"),
        "x = 1\nimport os\n",
        [("warning", "lint_finding", "line 2", {"linter": "ruff", "line": 2, "column": 8})],
    ),
    ("no linter", ValidationRule("lint"), TEXT, [("error", "invalid_rule", None, {})]),
    (
        "linter refused",
        ValidationRule("lint", config={"linter": "sh"}, severity="info"),
        TEXT,
        [("error", "linter_not_allowed", None, {"linter": "sh"})],
    ),
    (
        "linter not there",
        ValidationRule("lint", config={"linter": "yamllint"}),
        TEXT,
        [("warning", "linter_unavailable", None, {"linter": "yamllint"})],
    ),
    (
        "options refused",
        ValidationRule("lint", config={"linter": "ruff", "options": "--fix"}),
        TEXT,
        [("error", "invalid_rule", None, {})],
    ),
    (
        "file name refused",
        ValidationRule("lint", config={"linter": "ruff", "filename": "../x"}),
        TEXT,
        [("error", "invalid_rule", None, {})],
    ),
    # other types
    ("unknown", ValidationRule("spelling"), TEXT, [("error", "unknown_rule_type", None, {"rule_type": "spelling"})]),
    (
        "unknown, and of no weight",
        ValidationRule("spelling", severity="info"),
        TEXT,
        [("error", "unknown_rule_type", None, {})],
    ),
    ("custom", ValidationRule("custom"), TEXT, [("error", "unknown_rule_type", None, {"rule_type": "custom"})]),
    (
        "custom of an unknown type",
        ValidationRule("custom_check", config={"type": "lenght"}),
        TEXT,
        [("error", "unknown_rule_type", None, {"rule_type": "lenght"})],
    ),
    (
        "custom of a known type with an unknown option",
        ValidationRule("custom", config={"type": "length", "most": 1}),
        TEXT,
        [("error", "invalid_rule", None, {"rule_type": "length"})],
    ),
    (
        "custom of a known type",
        ValidationRule("custom", config={"type": "length", "max": 1}),
        TEXT,
        [("error", "content_too_long", None, {})],
    ),
    # targets
    (
        "a file",
        ValidationRule("length", "docs/map.md", {"max": 1}),
        TEXT,
        [("error", "content_too_long", "docs/map.md", {})],
    ),
    ("a file, said so", ValidationRule("presence", "file:docs/map.md"), TEXT, []),
    (
        "no file",
        ValidationRule("length", "docs/gone.md", {"max": 1}),
        TEXT,
        [("error", "target_not_found", "docs/gone.md", {})],
    ),
    (
        "no such file present",
        ValidationRule("presence", "docs/gone.md"),
        TEXT,
        [("error", "content_missing", "docs/gone.md", {})],
    ),
    ("a file outside", ValidationRule("presence", "../x.md"), TEXT, [("error", "content_missing", "../x.md", {})]),
    (
        "not text",
        ValidationRule("presence", "docs/image.png"),
        TEXT,
        [("error", "content_missing", "docs/image.png", {})],
    ),
    (
        "a file is of its ending",
        ValidationRule("format", "docs/broken.json"),
        TEXT,
        [("error", "format_mismatch", "docs/broken.json, line 1", {})],
    ),
    (
        "a section",
        ValidationRule("length", "element.tide-table", {"min": 100}),
        MARKDOWN,
        [("error", "content_too_short", "element.tide-table", {"actual": 6})],
    ),
    (
        "no section",
        ValidationRule("presence", "element.berths"),
        MARKDOWN,
        [("error", "content_missing", "element.berths", {})],
    ),
    ("no config", ValidationRule("presence", "config"), TEXT, [("error", "content_missing", "config", {})]),
]


MESSAGES: dict[str, list[str]] = {
    "presence fails": ["Piece is empty."],
    "presence with an option": [
        "The rule presence doesn't fit: 'min_length' is not an option of presence; it takes none."
    ],
    "length with a misspelt bound": [
        "The rule length doesn't fit: 'maximum' is not an option of length; did you mean max? "
        "it takes min, max, min_length, max_length."
    ],
    "too short": ["It has 19 characters, and 20 are required."],
    "too long, as the spec spells it": ["It has 19 characters, and 18 are allowed."],
    "length without bounds": ["The rule length doesn't fit: neither min nor max says how long the text is to be."],
    "bounds crossed": ["The rule length doesn't fit: min is 2, and max is 1."],
    "bound no number": ["The rule length doesn't fit: min is '2', and not a whole number from 0 on."],
    "bound true": ["The rule length doesn't fit: min is True, and not a whole number from 0 on."],
    "bound negative": ["The rule length doesn't fit: max is -1, and not a whole number from 0 on."],
    "not json": ["It is not json: Expecting ':' delimiter."],
    "not checkable": ["Texts of the format typescript aren't checked."],
    "no such format": [
        "The rule format doesn't fit: 'klingon' is no format; write one of json, yaml, toml, "
        "xml, html, csv, python, jinja2, markdown, gherkin, text."
    ],
    "no format at all": ["The rule format doesn't fit: format isn't given, and the config declares none."],
    "not python": ["It is not python: '(' was never closed."],
    "not a template": ["It is not jinja2: Expected an expression, got 'end of statement block'."],
    "matches nothing": ["'IS' matches nothing."],
    "must not match": ["'two' matches, and must not."],
    "must not, and does": ["'is' matches, and must not."],
    "no pattern": [
        "The rule regex doesn't fit: pattern isn't a regular expression, and neither is must_match or must_not_match."
    ],
    "broken pattern": [
        "The rule regex doesn't fit: the pattern '(' doesn't fit: missing ), unterminated subpattern at position 0."
    ],
    "broken flags": [
        "The rule regex doesn't fit: the pattern 'a' doesn't fit: '1' is not a flag; write some of aimsx."
    ],
    "fields missing": ["size.w has no value in the text.", "None has no value in the text."],
    "no fields": ["The rule required_fields doesn't fit: fields isn't a list of names such as metadata.version."],
    "fields empty": ["The rule required_fields doesn't fit: fields isn't a list of names such as metadata.version."],
    "fields of broken data": ["The text is not JSON: 'b' doesn't belong there in line 1, column 3."],
    "fields of neither": ["Piece has no config."],
    "no data": ["The text is not JSON: ']' doesn't belong there in line 1, column 7."],
    "schema file gone": ["The rule schema doesn't fit: the schema can't be read: there is no file no.json."],
    "schema file no data": [
        "The rule schema doesn't fit: schema is neither a JSON Schema nor the path of a file that holds one."
    ],
    "schema elsewhere": [
        "The rule schema doesn't fit: the schema can't be read: The path '../x.json' leads outside the project."
    ],
    "no schema": [
        "The rule schema doesn't fit: schema is neither a JSON Schema nor the path of a file that holds one."
    ],
    "schema from the network": [
        "The rule schema doesn't fit: the schema doesn't fit: it refers to "
        "'http://127.0.0.1:9/x', which isn't in it; other documents aren't looked up."
    ],
    "links": ["docs/gone.md leads to no file of the project."],
    "links from nowhere": ["The rule links doesn't fit: base isn't the path of a folder."],
    "no children": ["The rule completeness doesn't fit: piece has no config with children."],
    "no linter": ["The rule lint doesn't fit: linter says no program."],
    "linter refused": ["The linter 'sh' isn't one of those that the setting validation.linters names."],
    "linter not there": ["Yamllint isn't on PATH, so nothing was linted."],
    "options refused": [
        "The rule lint doesn't fit: ruff isn't given '--fix'; it may be given --select, --ignore, --line-length."
    ],
    "file name refused": ["The rule lint doesn't fit: '../x' is not a plain file name."],
    "unknown": [
        "There is no rule 'spelling', so it wasn't checked; write one of presence, length, "
        "format, syntax, lint, regex, links, schema, required_fields, completeness, coherence."
    ],
    "unknown, and of no weight": [
        "There is no rule 'spelling', so it wasn't checked; write one of presence, length, "
        "format, syntax, lint, regex, links, schema, required_fields, completeness, coherence."
    ],
    "custom": [
        "The rule custom names no rule: `type` in its options is one of presence, length, "
        "format, syntax, lint, regex, links, schema, required_fields, completeness, coherence."
    ],
    "custom of an unknown type": [
        "There is no rule 'lenght', so it wasn't checked; did you mean length? There are presence, length, "
        "format, syntax, lint, regex, links, schema, required_fields, completeness, coherence."
    ],
    "custom of a known type with an unknown option": [
        "The rule length doesn't fit: 'most' is not an option of length; it takes min, max, min_length, max_length."
    ],
    "custom of a known type": ["It has 19 characters, and 1 are allowed."],
    "a file": ["It has 7 characters, and 1 are allowed."],
    "no file": ["There is no file docs/gone.md."],
    "no such file present": ["There is no file docs/gone.md."],
    "a file outside": ["The path '../x.md' leads outside the project."],
    "not text": ["docs/image.png is not UTF-8 text."],
    "a file is of its ending": ["It is not json: Expecting property name enclosed in double quotes."],
    "a section": ["It has 6 characters, and 100 are required."],
    "no section": ["There is no element.berths: no section of this name in the text, and no example of the element."],
    "no config": ["Piece has no config."],
}
"""What the finding of a row says; the other ones repeat what a linter or a schema says."""


@pytest.mark.parametrize(("name", "rule", "body", "expected"), ROWS, ids=[row[0] for row in ROWS])
async def test_rules(project: Project, engine: Engine, name: str, rule: ValidationRule, body: str, expected: list[Any]):
    """What a rule finds, where, with which severity and details, and what it says."""
    project.write("docs/map.md", "The map")
    project.write("docs/image.png", b"\x89PNG\xff")
    project.write("docs/broken.json", "{")
    project.write("schemas/any.yaml", "type: object\n")
    found = await rule_findings(engine, body, rule)
    found = [issue for issue in found if issue.code != "content_empty"]
    assert [(issue.severity, issue.code, issue.location) for issue in found] == [row[:3] for row in expected]
    assert name not in MESSAGES or [issue.message for issue in found] == MESSAGES[name]
    for issue, row in zip(found, expected, strict=True):
        assert row[3].items() <= issue.details.items()
        assert issue.message.endswith(".")
        assert as_sentence(issue.message) == issue.message


@requirement("tools.validate-content.looks")
@pytest.mark.parametrize("type", CHECKS)
async def test_no_check_passes_over_an_option_it_does_not_know(project: Project, engine: Engine, type: str):
    """It says which options there are, and the one that is meant."""
    known = list(CHECKS[type].options)
    near = f"{known[0]}_" if known else "anything"
    project.save(text("piece", TEXT), artifact("pack", [child("piece")]))
    name = "pack" if type in ("completeness", "coherence") else "piece"
    await store(engine, "piece", TEXT)
    issues = (await look(engine, name, ValidationRule(type, config={near: 1}))).findings
    (issue,) = [issue for issue in issues if issue.code == "invalid_rule"]
    assert (issue.severity, issue.details) == ("error", {"rule_type": type})
    assert near in issue.message
    assert (", ".join(known) or "it takes none") in issue.message


@requirement("tools.validate-content.formats")
@pytest.mark.parametrize(
    ("form", "body", "line"),
    [
        ("html", "<h1>Tides</h1>\n\n## Tomorrow\n", "line 3"),
        ("html", "<p>Low at **six**.</p>", "line 1"),
        ("gherkin", "Feature: x\n  Scenario: y\n    Gven z\n    When a\n    maybe b\n", "line 5"),
        ("json", '{"a": 1,}', "line 1"),
        ("yaml", "a: [1\nb", "line 3"),
        ("python", "def f(:\n", "line 1"),
        ("markdown", "```\nx\n", "line 1"),
        ("xml", "<a>\n</b>", "line 2"),
        ("text", "<", None),
        ("javascript", "(", None),
        (None, "{", None),
    ],
)
async def test_a_text_is_of_the_format_that_its_config_declares(
    project: Project, engine: Engine, form: str | None, body: str, line: str | None
):
    """Of a content, and of an artifact's files, without a rule that asks for it; a rule of its own replaces that."""
    metadata = {"description": "x", "version": "1.0.0", **({"output_format": form} if form else {})}
    project.save(text("note", body) | {"metadata": metadata})
    await store(engine, "note", body)
    expected = [("error", "format_mismatch", line)] if line else []
    issues = [issue for issue in (await look(engine, "note")).findings if issue.code != "content_very_short"]
    assert [(issue.severity, issue.code, issue.location) for issue in issues] == expected
    weaker = await look(engine, "note", ValidationRule("format", severity="warning", config={"format": "text"}))
    assert weaker.valid
    if form is None:
        return
    project.save(
        text("a", "x"),
        artifact(
            "pack",
            [child("a")],
            {"file": "outputs/x", "format": "code"}
            | {"format": "code" if form in ("python", "gherkin", "javascript") else form, "language_dialect": form},
        ),
    )
    assert (await look(engine, "pack")).findings == []  # there is no file yet
    project.write("outputs/x", body)
    places = [issue.location for issue in (await look(engine, "pack")).findings]
    assert places == ([f"outputs/x, {line}"] if line else [])


def test_every_check_has_a_row_and_can_be_named_in_configs():
    """So that a new check comes with its findings."""
    tried = {rule.type for _, rule, _, _ in ROWS}
    assert set(CHECKS) - tried <= {"coherence"}
    allowed = {
        word
        for rule in (ContentRule, ArtifactRule)
        for word in msgspec.inspect.type_info(rule).fields[1].type.type.values  # type: ignore[attr-defined]
    }
    assert allowed - set(CHECKS) == {"custom", "custom_check"}


async def test_a_catastrophic_pattern_is_killed(engine: Engine):
    """The result says which rule couldn't be checked (CWE-1333)."""
    engine.templates.pool._settings = settings.RenderSettings(wall=1.5)
    with pytest.raises(ValidationExecutionFailed) as failed:
        await rule_findings(engine, "a" * 5000 + "b", ValidationRule("regex", config={"pattern": "(a+)+$"}))
    assert failed.value.details["rule_type"] == "regex"
    assert "longer than 1.5 s" in failed.value.details["error"]
    assert await rule_findings(engine, TEXT, ValidationRule("regex", config={"pattern": "is"})) == []


@pytest.mark.parametrize(
    "rule",
    [
        ValidationRule("regex", config={"pattern": "a"}),
        ValidationRule("schema", config={"schema": True}),
        ValidationRule("format", config={"format": "json"}),
    ],
)
async def test_a_worker_that_breaks_is_an_error_not_a_finding(
    engine: Engine, rule: ValidationRule, monkeypatch: pytest.MonkeyPatch
):
    """It names the rule."""
    monkeypatch.setattr("chora.render.processes.worker_command", lambda: [sys.executable, "-c", "pass"])
    with pytest.raises(ValidationExecutionFailed) as failed:
        await rule_findings(engine, OBJECT, rule)
    assert failed.value.details["rule_type"] == rule.type


async def test_a_busy_server_is_not_a_finding(engine: Engine, monkeypatch: pytest.MonkeyPatch):
    """The same call may succeed in a moment."""

    async def busy(*given: object) -> None:
        raise Busy("wait")

    monkeypatch.setattr(engine.templates.pool, "match_pattern", busy)
    with pytest.raises(Busy):
        await rule_findings(engine, TEXT, ValidationRule("regex", config={"pattern": "a"}))


# -- links ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "broken"),
    [
        ("[a](x.md)", []),
        ("[a](./x.md 'title') ![b](<x y.md>) [c](x%20y.md)", []),
        ("[a](/x.md) [b](sub/) [c](x.md#any) [d](x.md?raw=1)", []),
        ("[a](http://x.y/z) [b](mailto:a@b) [c](//cdn/x) [d](tel:+1)", []),
        ("`[a](gone.md)` and ``[b](gone.md)``", []),
        ("a ` b [a](gone.md)", ["gone.md"]),
        ("`` a ` [a](gone.md) `` b ` c ` [b](lost.md)", ["lost.md"]),
        ("```\n[a](gone.md)\n```\n[b](lost.md)", ["lost.md"]),
        ("~~~\n```\n[a](gone.md)\n~~~\n", []),
        ("[a]: gone.md\n[b]: <x.md>\n[^1]: Some note", ["gone.md"]),
        ("[![img](gone.png)](lost.md)", ["gone.png", "lost.md"]),
        ("[a](page_(1).md)", []),
        ("[a](gone_(1).md)", ["gone_(1).md"]),
        ("[a](../../etc/passwd)", ["../../etc/passwd"]),
        (f"[a]({'x' * 400}.md)", [f"{'x' * 400}.md"]),
        ("[a](unclosed", []),
        ("# One two!\n[a](#one-two) [b](#gone)", ["#gone"]),
        ("# A\n# A\n[a](#a) [b](#a-1) [c](#a-2) [d](#)", ["#a-2"]),
        ("Under lined\n===\n\nAnd\n---\n[a](#under-lined) [b](#and)", []),
        ("<a id=\"Spot\"></a> <b name='there'>x</b>\n[a](#spot) [b](#there)", []),
        ("## [Linked](x.md) `code`\n[a](#linked-code)", []),
        ("[a](#%C3%BCber)\n# Über", []),
    ],
)
async def test_links(project: Project, engine: Engine, body: str, broken: list[str]):
    """Inline, reference and image links; code, other hosts and footnotes are skipped."""
    for name in ("x.md", "x y.md", "page_(1).md", "sub/y.md"):
        project.write(name, "x")
    found = await rule_findings(engine, body, ValidationRule("links"))
    assert [issue.details["link"] for issue in found] == broken


async def test_many_links_are_checked_in_a_thread(project: Project, engine: Engine):
    """In linear time, and at most a hundred broken links are reported."""
    with trio.fail_after(PATIENCE):
        assert await rule_findings(engine, "](" * 300_000, ValidationRule("links")) == []
        assert await rule_findings(engine, "](a" * 300_000, ValidationRule("links")) == []
        assert await rule_findings(engine, "[" * 300_000 + "](#", ValidationRule("links")) == []
        found = await rule_findings(engine, "[a](gone.md)\n" * 10_000, ValidationRule("links"))
    assert len(found) == 100


# -- linters ----------------------------------------------------------------------------------------------------


@pytest.fixture
def program(tmp_path: Path) -> Callable[[str, str], Path]:
    """Put a Python program of this name on PATH; return the folder it may write to."""

    def put(name: str, source: str) -> Path:
        file = tmp_path / "programs" / name
        file.write_text(f"#!{sys.executable} -I\n{source}")
        file.chmod(0o755)
        return tmp_path

    return put


posix = pytest.mark.skipif(sys.platform == "win32", reason="programs by their first line")


@posix
async def test_a_linter_gets_the_text_and_nothing_else(
    engine: Engine, program: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
):
    """Its arguments are chora's and validated, its working folder is empty, its environment holds PATH alone."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", "secret")
    traces = program(
        "yamllint",
        """
import json, os, sys, pathlib
seen = {"argv": sys.argv[1:], "env": sorted(os.environ), "folder": os.getcwd(), "files": os.listdir()}
seen["text"] = sys.stdin.read()
(pathlib.Path(sys.argv[0]).parent.parent / "seen.json").write_text(json.dumps(seen))
print('stdin:2:5: [error] too many spaces (colons)')
print('a line without a finding')
sys.exit(1)
""",
    )
    options = ["-d", "{extends: relaxed, rules: {line-length: disable}}"]
    (issue,) = await rule_findings(
        engine, "a: 1\nb:  ü\n", ValidationRule("lint", config={"linter": "yamllint", "options": options})
    )
    assert (issue.location, issue.message) == ("line 2", "[error] too many spaces (colons).")
    assert issue.details == {"linter": "yamllint", "line": 2, "column": 5}
    seen = msgspec.json.decode((traces / "seen.json").read_bytes())
    assert seen["argv"] == ["--format", "parsable", *options, "-"]
    assert set(seen["env"]) <= {"PATH", "LC_CTYPE"}  # the second is Python's own doing
    assert seen["files"] == []
    assert not Path(seen["folder"]).is_relative_to(engine.folder.root)
    assert not Path(seen["folder"]).exists()
    assert seen["text"] == "a: 1\nb:  ü\n"


@posix
@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("import time; time.sleep(60)", "yamllint took longer than 0.5 s"),
        ("import sys; sys.exit('it is broken\\nreally')", "yamllint failed: it is broken"),
        ("import sys; sys.exit(3)", "yamllint failed: exit status 3"),
    ],
)
async def test_a_linter_that_fails_is_an_error(
    engine: Engine, program: Callable[[str, str], Path], source: str, problem: str
):
    """Not a finding: the text wasn't checked."""
    program("yamllint", source)
    engine.settings = msgspec.structs.replace(engine.settings, validation=settings.ValidationSettings(lint_time=0.5))
    with pytest.raises(ValidationExecutionFailed) as failed:
        await rule_findings(engine, "a: 1\n" * 100_000, ValidationRule("lint", config={"linter": "yamllint"}))
    assert failed.value.details == {"rule_type": "lint", "error": problem}


@posix
async def test_a_linter_that_cannot_be_started_is_an_error(engine: Engine, program: Callable[[str, str], Path]):
    """A file on PATH that is no program."""
    folder = program("yamllint", "") / "programs"
    (folder / "yamllint").write_text("#!/nowhere/python\n")
    with pytest.raises(ValidationExecutionFailed, match="yamllint can't be run"):
        await rule_findings(engine, "a: 1\n", ValidationRule("lint", config={"linter": "yamllint"}))


@posix
async def test_the_output_of_a_linter_is_bounded(engine: Engine, program: Callable[[str, str], Path]):
    """Its findings up to then count, at most a hundred."""
    program("yamllint", "while True: print('x:1:2: again', flush=False)")
    found = await rule_findings(engine, "a: 1\n", ValidationRule("lint", config={"linter": "yamllint"}))
    assert len(found) == 100


@posix
async def test_a_linter_need_not_read_its_input(engine: Engine, program: Callable[[str, str], Path]):
    """One that closes stdin at once may still have findings."""
    program("yamllint", "import os, time; os.close(0); print('x:7: found')")
    (issue,) = await rule_findings(engine, "a: 1\n" * 100_000, ValidationRule("lint", config={"linter": "yamllint"}))
    assert issue.details == {"linter": "yamllint", "line": 7, "column": None}


@posix
async def test_a_linter_from_the_settings_is_run_without_options(engine: Engine, program: Callable[[str, str], Path]):
    """Any program that reads stdin and prints file:line: message."""
    program("prose", "import sys; print('x:1: ' + ' '.join(sys.argv[1:]))")
    engine.settings = msgspec.structs.replace(
        engine.settings, validation=settings.ValidationSettings(linters=("prose",))
    )
    (issue,) = await rule_findings(engine, TEXT, ValidationRule("lint", config={"linter": "prose"}))
    assert issue.message == "-."
    (issue,) = await rule_findings(engine, TEXT, ValidationRule("lint", config={"linter": "prose", "options": "-v"}))
    assert issue.code == "invalid_rule"


async def test_ruff_gets_the_name_of_the_text(project: Project, engine: Engine):
    """A stub may have unused imports; a file of the project has its own name; ruff's settings are ignored."""
    project.write("ruff.toml", 'lint.ignore = ["F401"]\n')
    project.write("src/a.py", "import os\n")
    rule = ValidationRule("lint", "src/a.py", {"linter": "ruff", "options": ["--select", "F401", "--line-length=80"]})
    (issue,) = await rule_findings(engine, TEXT, rule)
    assert issue.location == "src/a.py, line 1"
    assert "F401" in issue.message
    named = {"linter": "ruff", "options": "--select=PYI009", "filename": "a.pyi"}
    assert len(await rule_findings(engine, "class A:\n    pass\n", ValidationRule("lint", config=named))) == 1


@pytest.mark.parametrize(
    ("name", "options", "checked"),
    [
        ("ruff", None, []),
        ("ruff", "", []),
        (
            "ruff",
            "--select=E,F --ignore E501 --line-length=100",
            ["--select=E,F", "--ignore=E501", "--line-length=100"],
        ),
        ("yamllint", None, ["-d", "default"]),
        ("yamllint", "-d relaxed", ["-d", "relaxed"]),
        ("yamllint", "-drelaxed", ["-d", "relaxed"]),
        ("yamllint", ["-d", "{rules: {}}"], ["-d", "{rules: {}}"]),
    ],
)
def test_options_that_are_passed_to_a_linter(name: str, options: Any, checked: list[str]):
    """Those that change what is found, and no others."""
    assert lint.read_options(name, options) == checked


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ruff", "--fix"),
        ("ruff", "--config=/etc/passwd"),
        ("ruff", "--select=E /etc/passwd"),
        ("ruff", "/etc/passwd"),
        ("ruff", "--select"),
        ("ruff", "--select=E;F"),
        ("ruff", "--line-length=99999"),
        ("ruff", "-"),
        ("ruff", "--select='E"),
        ("ruff", 5),
        ("ruff", ["--select=E", 5]),
        ("yamllint", "-d /etc/passwd"),
        ("yamllint", "-c x.yaml"),
        ("yamllint", ["-d", "{extends: /etc/passwd}"]),
        ("yamllint", ["-d", "{ignore-from-file: x}"]),
        ("yamllint", ["-d", '{rules: {a: [{"ignore-from\\u002dfile": x}]}}']),
        ("yamllint", ["-d", "[a]"]),
        ("yamllint", ["-d", "{a"]),
        ("prose", "-v"),
    ],
)
def test_options_that_are_never_passed_to_a_linter(name: str, options: Any):
    """Those that name a file, write, or aren't understood."""
    with pytest.raises(lint.OptionsRefused):
        lint.read_options(name, options)


# -- configs ----------------------------------------------------------------------------------------------------


def rules(*written: dict[str, Any]) -> dict[str, Any]:
    return {"validation": {"rules": [{"id": f"r{index}", **rule} for index, rule in enumerate(written)]}}


@requirement("tools.validate-content.config-rules")
async def test_the_rules_of_a_config_run_too(project: Project, engine: Engine):
    """Together with those of the call, each with its own severity; the declared format is checked without a rule."""
    project.save(
        content(
            "note",
            elements=[
                {"name": "intro", "format": "json", "example_output": "{}"},
                {"name": "rest", "format": "text"},
            ],
            pattern={"type": "demonstration", "template": "{}"},
            **rules(
                {"check_type": "format"},
                {"check_type": "format", "target": "element.intro"},
                {"check_type": "presence", "target": "element.rest", "severity": "warning"},
                {"check_type": "length", "check_config": {"max": 5}, "severity": "info"},
            ),
        )
        | {"metadata": {"description": "x", "version": "1.0.0", "output_format": "json"}}
    )
    before = await look(engine, "note")
    assert [(issue.severity, issue.code) for issue in before.findings] == [("warning", "not_generated")] * 3
    await store(engine, "note", "no object")
    found = await look(engine, "note", ValidationRule("presence", "element.nothing"))
    assert [(issue.severity, issue.code) for issue in found.findings] == [
        ("warning", "content_very_short"),
        ("error", "format_mismatch"),
        ("warning", "content_missing"),
        ("info", "content_too_long"),
        ("error", "content_missing"),
    ]
    assert (found.rule_count, found.valid) == (5, False)


async def test_required_fields_of_a_config(project: Project, engine: Engine):
    """The config's fields, if the text is no data or the rule says so."""
    project.save(text("note", "Everything is well.") | {"owner": {"name": "Ines"}})
    await build_content(Build(engine), engine.catalog.find_config("content", "note").parsed, CallerContext({}))
    for target in ("", "config"):
        found = await look(
            engine,
            "note",
            ValidationRule("required_fields", target, {"fields": ["owner.name", "metadata.version", "owner.mail"]}),
        )
        problems = [issue for issue in found.findings if issue.severity == "error"]
        assert [(issue.code, issue.location, issue.details) for issue in problems] == [
            ("missing_required_field", "config", {"field": "owner.mail"})
        ]


async def test_required_fields_of_a_text_in_its_declared_format(project: Project, engine: Engine):
    """The config declares YAML; before there is a text, the config's fields are checked."""
    document = content("note", pattern={"type": "jinja2", "template": "{{ a }}"})
    document["metadata"]["output_format"] = "yaml"
    project.save(document)
    rule = ValidationRule("required_fields", config={"fields": ["owner"]})
    assert [issue.location for issue in (await look(engine, "note", rule)).findings] == ["config"]
    await store(engine, "note", "owner: Ines\n")
    assert (await look(engine, "note", rule)).findings == []
    await store(engine, "note", "keeper: Ines\n")
    assert [issue.location for issue in (await look(engine, "note", rule)).findings] == [None]


async def test_the_schema_of_a_config(project: Project, engine: Engine):
    """A project may have a schema of its own for its configs."""
    project.save(text("note", "Everything is well."))
    found = await look(engine, "note", ValidationRule("schema", "config", {"schema": {"required": ["owner"]}}))
    assert [(issue.code, issue.location) for issue in found.findings] == [("schema_validation_failed", "config, $")]


async def test_a_remark_on_a_config_is_an_issue(project: Project, engine: Engine):
    """What reading it tolerated is reported with what to write instead."""
    project.save({**text("note", "x"), "elments": [], "schemaRef": None})
    found = await look(engine, "note")
    assert {(issue.severity, issue.code, issue.location) for issue in found.findings} == {
        ("info", "unknown_key", "$.elments"),
        ("warning", "schema_ref_missing", "$.schemaRef"),
    }
    assert all(issue.details["write"] or issue.code == "unknown_key" for issue in found.findings)
    assert found.valid


@pytest.mark.parametrize("stored", [False, True])
async def test_every_fault_of_an_invalid_config_is_reported(project: Project, engine: Engine, stored: bool):
    """Together with the findings of a stored text."""
    project.save({**text("note", "x"), "metadata": {"version": "x"}})
    if stored:
        await store(engine, "note", "[TBD] and more")
    found = await look(engine, "note")
    faults = [issue for issue in found.findings if issue.severity == "error"]
    assert {(issue.code, issue.location) for issue in faults} == {
        ("schema_validation_failed", "$.metadata.description"),
        ("schema_validation_failed", "$.metadata.version"),
    }
    assert faults[0].details["write"]
    assert ("content_incomplete" in codes(found)) is stored


async def test_a_config_that_is_too_large_is_reported(project: Project, engine: Engine):
    """Like any other reason that it can't be read."""
    project.write("configs/content/note.json", " " * 1_100_000)
    (issue,) = (await look(engine, "note")).findings
    assert (issue.code, issue.location) == ("schema_validation_failed", None)
    assert "larger than" in issue.message


@pytest.mark.parametrize(
    ("document", "severity", "code"),
    [
        (content("note", pattern={"type": "telepathy"}), "error", "invalid_generator"),
        (content("note"), "warning", "invalid_generator"),
        (content("note", pattern={"type": "jinja2", "template": "gone.j2"}), "error", "invalid_template"),
        (content("note", pattern={"type": "jinja2", "template": "{% if %}"}), "error", "invalid_template"),
        (content("note", pattern={"type": "jinja2", "template": "../x.j2"}), "error", "invalid_template"),
        (content("note", pattern={"type": "jinja2"}), "error", "invalid_template"),
        (content("note", pattern={"type": "jinja2", "template": "{{ a }}"}), None, None),
        (text("note", "x"), None, None),
    ],
)
async def test_a_content_that_cannot_be_generated(
    project: Project, engine: Engine, document: dict[str, Any], severity: str | None, code: str | None
):
    """Unknown generator, no template, one with a syntax error; found without a context."""
    project.save(document)
    found = await look(engine, "note")
    assert [(issue.severity, issue.code) for issue in found.findings] == ([(severity, code)] if code else [])


# -- artifacts --------------------------------------------------------------------------------------------------


async def test_an_artifact_is_complete_or_not(project: Project, engine: Engine):
    """Every child needs a config and a text; for an optional one the lack is a warning."""
    approved = {"evolution": {"stage": "approved"}}
    project.save(
        text("good", "Everything is well."),
        text("approved", "x") | approved,
        content("mute"),
        artifact(
            "pack",
            [
                child("good", review_required=True),
                child("approved", retrievalStrategy="approved_only", review_required=True),
                child("gone"),
                child("lost", required=False),
                child("mute"),
                child("broken"),
                child("good", retrievalStrategy="version", version="2.0.0"),
                child("good", retrievalStrategy="version"),
                child("good", retrievalStrategy="approved_only", required=False),
                child("old", retrievalStrategy="all"),
                child("older", retrievalStrategy="all"),
                child("good", retrievalStrategy="version", version="1.0.0"),
            ],
        ),
    )
    project.write("configs/content/broken.json", "{")
    await store(engine, "old", "It is still here.")
    found = [issue for issue in (await look(engine, "pack")).findings if issue.code != "duplicate_child"]
    assert [(issue.severity, issue.code, issue.location) for issue in found] == [
        ("warning", "review_pending", "content.children[0]"),
        ("error", "missing_child", "content.children[2]"),
        ("warning", "missing_child", "content.children[3]"),
        ("error", "child_not_available", "content.children[4]"),
        ("error", "invalid_child", "content.children[5]"),
        ("error", "child_not_available", "content.children[6]"),
        ("error", "invalid_child", "content.children[7]"),
        ("warning", "child_not_available", "content.children[8]"),
        ("error", "child_not_available", "content.children[10]"),
    ]
    assert found[1].details == {"content_id": "gone", "path": "configs/content/gone.json"}


@requirement("artifact.expected-source")
@pytest.mark.parametrize(
    ("expected", "said", "found"),
    [
        ("human", ["ai"], "ai"),
        ("human", ["ai", "human"], "ai, human"),
        ("mixed", ["ai"], "ai"),
        ("mixed", ["ai", "human"], None),
        ("mixed", ["mixed"], None),
        ("ai", ["ai", None], None),
        ("ai", [None], None),
        ("any", ["human"], None),
    ],
)
async def test_a_child_from_another_source_than_expected_is_a_warning(
    project: Project, engine: Engine, expected: str, said: list[str | None], found: str | None
):
    """Of `validate`, and of the assembly."""
    elements = [
        {"name": f"e{number}", "format": "text", "example_output": "x", **({"generation_source": each} if each else {})}
        for number, each in enumerate(said)
    ]
    project.save(content("part", elements=elements), artifact("pack", [child("part", expected_source=expected)]))
    messages = [issue.message for issue in (await look(engine, "pack")).findings]
    built = await build_artifact(
        Build(engine), engine.catalog.find_config("artifact", "pack").parsed, CallerContext({})
    )
    sentence = f"part is expected to be {expected}, and its elements say {found}"
    assert messages == ([] if found is None else [as_sentence(sentence)])
    assert [each for each in built.pieces.warnings if "expected" in each] == ([] if found is None else [sentence])


@requirement("content.no-effect")
async def test_fields_that_do_nothing_are_named(project: Project, engine: Engine):
    """Each that is set, as information."""
    kept = {"basePath": "ephemeral", "subfolderPattern": "<id>", "filenamePattern": "<dttm-utc>.json", "format": "yaml"}
    project.save(
        text("note", "Some text.")
        | {"ephemeralStorage": kept}
        | rules({"check_type": "length", "check_config": {"max": 50}, "threshold": 0.5})
    )
    found = [issue for issue in (await look(engine, "note")).findings if issue.code == "no_effect"]
    assert [issue.location for issue in found] == [
        *(f"ephemeralStorage.{name}" for name in kept),
        "validation.rules[0].threshold",
    ]
    assert {issue.severity for issue in found} == {"info"}
    project.save(text("note", "Some text.") | {"ephemeralStorage": {"format": "json"}})
    assert "no_effect" not in [issue.code for issue in (await look(engine, "note")).findings]


UNFIT: list[tuple[str, dict[str, Any]]] = [
    ("no example_output for x", {"pattern": {"type": "demonstration"}, "elements": [{"name": "x", "format": "text"}]}),
    ("There is no template", {"pattern": {"type": "template_fill"}}),
    (
        "undefined_behavior is 'no'",
        {"pattern": {"type": "template_fill", "template": "x\n"}, "undefined_behavior": "no"},
    ),
    ("There is no template", {"pattern": {"type": "jinja2"}}),
    ("generation_config.undefined is 'no'", {"pattern": {"type": "jinja2", "template": "x\n"}, "undefined": "no"}),
    ("There is no prompt", {"pattern": {"type": "code_generation"}}),
    ("undefined_behavior is 'no'", {"pattern": {"type": "code_generation"}, "prompt": "x", "undefined_behavior": "no"}),
    ("There is no feature", {"pattern": {"type": "bdd_scenario"}}),
    (
        "scenarios[0].steps[0] doesn't begin with a keyword",
        {
            "pattern": {"type": "bdd_scenario"},
            "feature": {"title": "F"},
            "scenarios": [{"title": "S", "steps": ["I {{ do }}"]}],
        },
    ),
    (
        "scenario_outlines[0].steps[0] doesn't begin with a keyword",
        {
            "pattern": {"type": "bdd_scenario"},
            "feature": {"title": "F"},
            "scenario_outlines": [
                {"title": "S", "steps": ["I am <who>"], "examples": {"headers": ["who"], "rows": [["x"]]}}
            ],
        },
    ),
    ("undefined_behavior is 'empty'", {"pattern": {"type": "bdd_scenario"}, "undefined_behavior": "empty"}),
]


@requirement("tools.validate-content.looks")
@pytest.mark.parametrize(("message", "written"), UNFIT)
async def test_a_config_that_its_generator_would_refuse_is_invalid(
    project: Project, engine: Engine, message: str, written: dict[str, Any]
):
    """Whatever its context: `validate` says what `generate` would."""
    options = {key: value for key, value in written.items() if key not in ("pattern", "elements")}
    pattern = {**written["pattern"], "generation_config": options}
    elements = {"elements": written["elements"]} if "elements" in written else {}
    project.save(content("part", pattern=pattern, **elements))
    (found,) = [issue for issue in (await look(engine, "part")).findings if issue.severity == "error"]
    assert message.lower() in found.message.lower()
    with pytest.raises(GenerationFailed) as failed:
        await build_content(Build(engine), engine.catalog.find_config("content", "part").parsed, CallerContext({}))
    assert message.lower() in failed.value.message.lower()


BROKEN: list[tuple[str, dict[str, Any], str]] = [
    ("an unknown generator", content("a", pattern={"type": "telepathy"}), "child_not_available"),
    ("no generator", content("a"), "child_not_available"),
    ("no template file", content("a", pattern={"type": "jinja2", "template": "gone.j2"}), "invalid_template"),
    ("a broken template", content("a", pattern={"type": "jinja2", "template": "{% if %}"}), "invalid_template"),
    ("a broken template file", content("a", pattern={"type": "jinja2", "template": "broken.j2"}), "invalid_template"),
    (
        "a broken include",
        content("a", pattern={"type": "jinja2", "template": "{% include 'broken.j2' %}"}),
        "invalid_template",
    ),
    ("a missing include", content("a", pattern={"type": "jinja2", "template": "{% include 'no.j2' %}"}), ""),
    ("a missing base", content("a", pattern={"type": "jinja2", "template": "{% extends 'no.j2' %}"}), ""),
    ("an unknown filter", content("a", pattern={"type": "jinja2", "template": "{% if 0 %}{{ 1 | x }}{% endif %}"}), ""),
    ("an unknown test", content("a", pattern={"type": "jinja2", "template": "{% if 0 is x %}{% endif %}"}), ""),
    (
        "a broken base",
        content("a", pattern={"type": "jinja2", "template": "{% extends 'broken.j2' %}\n"}),
        "invalid_template",
    ),
    (
        "a source whose template is broken",
        content(
            "a",
            pattern={"type": "jinja2", "template": "{{ b }}"},
            sources=[
                {"id": "b", "source_type": "content_config", "source_locator": "b", "data_selector": "output"},
            ],
        ),
        "invalid_template",
    ),
    ("a missing template of template_fill", content("a", pattern={"type": "template_fill", "template": "no.txt"}), ""),
]


@requirement("tools.validate-content.children")
@pytest.mark.parametrize(("document", "code"), [row[1:] for row in BROKEN], ids=[row[0] for row in BROKEN])
async def test_what_cannot_be_generated_is_found_wherever_it_is_used(
    project: Project, engine: Engine, document: dict[str, Any], code: str
):
    """By the content, by an artifact that has it as a child, and by a collection of collections, also when a text of
    it is stored."""
    project.write("configs/templates/broken.j2", "{% if %}")
    inner = {"id": "in", "type": "collection", "path": "inner.json"}
    project.save(
        document,
        content("b", pattern={"type": "jinja2", "template": "{% for %}"}),
        artifact("pack", [child("a")]),
        collection("inner", "pack"),
        collection("outer", inner),
    )
    await store(engine, "a", "It was generated once.")
    assert [issue.code for issue in (await look(engine, "a")).findings] == [
        "invalid_generator" if code == "child_not_available" else code or "invalid_template"
    ]
    for name, severity in (("pack", "error"), ("inner", "error"), ("outer", "error")):
        found = await look(engine, name)
        assert [(issue.severity, issue.code) for issue in found.findings] == [(severity, code or "invalid_template")]
        assert "The child a can't be generated: " in found.findings[0].message


@requirement("tools.validate-content.children")
@pytest.mark.parametrize(
    "options",
    [
        {"compositionStrategy": "template"},
        {"compositionStrategy": "template", "compositionConfig": {"template": "{% if %}"}},
        {"compositionStrategy": "template", "compositionConfig": {"template": "gone.j2"}},
        {"compositionStrategy": "custom"},
        {"compositionStrategy": "custom", "compositionConfig": {"composer": "gone"}},
    ],
)
async def test_pieces_that_cannot_be_composed_are_found(project: Project, engine: Engine, options: dict[str, Any]):
    """By the artifact and by its collection."""
    project.save(text("a", "x"), artifact("pack", [child("a")], **options), collection("all", "pack"))
    for name in ("pack", "all"):
        found = (await look(engine, name)).findings
        assert [(issue.severity, issue.code) for issue in found] == [("error", "invalid_composition")]


@requirement("assembly.conditions-fail")
@pytest.mark.parametrize(("rules", "severity"), [("chora", "error"), ("chora-compose", "warning")])
async def test_a_condition_that_can_not_be_parsed_is_found(project: Project, engine: Engine, rules: Any, severity: str):
    """By the artifact and by its collection; what a condition is about isn't known yet."""
    engine.settings = msgspec.structs.replace(
        engine.settings, configs=msgspec.structs.replace(engine.settings.configs, rules=rules)
    )
    one, two = child("a", conditions="audience == 'crew'"), child("b", conditions="in summer")
    project.save(text("a", "x"), text("b", "x"), artifact("pack", [one, two]), collection("all", "pack"))
    for name in ("pack", "all"):
        found = (await look(engine, name)).findings
        assert [(issue.severity, issue.code) for issue in found] == [(severity, "invalid_condition")]
        assert "the condition of b can't be parsed" in found[0].message.lower()


async def test_an_artifact_is_coherent_or_not(project: Project, engine: Engine):
    """Ids, positions and outputs must be unique; what assembling refuses is an error in any case."""
    project.save(
        text("a", "x"),
        text("b", "x"),
        artifact(
            "pack",
            [child("a", order=1), child("b", order=1), child("a")],
            {"file": "outputs/x.md", "format": "markdown"},
            {"file": "./outputs/x.md", "format": "text"},
            {"file": "../x.md", "format": "text"},
            {"file": "outputs/", "format": "text"},
        ),
    )
    found = await look(engine, "pack")
    expected = [
        ("warning", "duplicate_child", "children"),
        ("warning", "duplicate_order", "children"),
        ("error", "invalid_output", "metadata.outputs[2]"),
        ("error", "invalid_output", "metadata.outputs[3]"),
        ("error", "duplicate_output", "metadata.outputs"),
    ]
    assert [(issue.severity, issue.code, issue.location) for issue in found.findings] == expected


async def test_declared_checks_of_an_artifact_replace_the_default_ones(project: Project, engine: Engine):
    """Their severity counts, and nothing is reported twice."""
    document = artifact("pack", [child("gone"), child("gone")])
    document |= rules(
        {"check_type": "completeness", "severity": "info"},
        {"check_type": "coherence", "severity": "info"},
        {"check_type": "custom_check"},
    )
    project.save(document)
    found = await look(engine, "pack")
    assert [(issue.severity, issue.code) for issue in found.findings] == [
        ("info", "missing_child"),
        ("info", "missing_child"),
        ("info", "duplicate_child"),
        ("error", "unknown_rule_type"),
    ]
    assert (found.rule_count, found.valid) == (3, False)


async def test_the_files_of_an_artifact_are_validated(project: Project, engine: Engine):
    """Each in its format, with links relative to its folder."""
    document = artifact(
        "pack",
        [child("a")],
        {"file": "outputs/x.md", "format": "markdown"},
        {"file": "outputs/x.py", "format": "code", "language_dialect": "python"},
        {"file": "outputs/never.md", "format": "markdown"},
    ) | rules({"check_type": "format"}, {"check_type": "lint", "check_config": {"linter": "ruff"}, "severity": "info"})
    project.save(text("a", "x"), document)
    assert codes(await look(engine, "pack")) == ["not_generated", "not_generated"]
    project.write("outputs/x.md", "[a](x.py) [b](gone.md)\n")
    project.write("outputs/x.py", "def f(:\n")
    found = await look(engine, "pack", ValidationRule("links"))
    assert [(issue.code, issue.location) for issue in found.findings if issue.severity == "error"] == [
        ("format_mismatch", "outputs/x.py, line 1"),
        ("broken_link", "outputs/x.md, line 1"),
    ]
    assert any(issue.code == "lint_finding" for issue in found.findings)


async def test_the_children_of_a_content(project: Project, engine: Engine):
    """A content may have children too."""
    project.save(text("a", "x"), text("b", "x") | {"children": [child("a"), child("gone")]})
    (issue,) = (await look(engine, "b", ValidationRule("completeness"))).findings
    assert (issue.code, issue.location) == ("missing_child", "children[1]")


# -- resolving a name -------------------------------------------------------------------------------------------


@requirement("tools.validate-content.artifacts")
async def test_a_name_is_a_content_then_an_artifact_then_a_collection_then_a_draft(project: Project, engine: Engine):
    """And a text stored under it in any case."""
    project.save(collection("x", "gone"))
    assert [(issue.code, issue.location) for issue in (await look(engine, "x")).findings] == [
        ("missing_config", "gone")
    ]
    project.save(artifact("x", [child("gone")]))
    assert codes(await look(engine, "x")) == ["missing_child"]
    project.save(content("x"))
    assert codes(await look(engine, "x")) == ["invalid_generator"]
    await store(engine, "x", "")
    assert codes(await look(engine, "x")) == ["invalid_generator", "content_empty"]
    await store(engine, "only-text", "")
    assert codes(await look(engine, "only-text")) == ["content_empty"]


async def test_a_draft_is_validated_by_its_id(engine: Engine):
    """Also one that is no longer valid in its format."""
    draft, _ = await create_draft(engine, "artifact", artifact("pack", [child("gone")]), None)
    assert codes(await look(engine, draft.draft_id)) == ["missing_child"]
    await engine.store.save_draft(msgspec.structs.replace(draft, config_data={"type": "artifact"}))
    assert set(codes(await look(engine, draft.draft_id))) == {"schema_validation_failed"}


async def test_an_unknown_name_is_an_error(engine: Engine):
    """It says where it was looked for; an invalid id is another error."""
    with pytest.raises(ConfigNotFound) as missing:
        await look(engine, "nothing")
    assert missing.value.details["content_or_config_id"] == "nothing"
    assert "configs/artifact/nothing.json" in missing.value.details["searched_paths"]
    with pytest.raises(InvalidConfigId, match=r"holds `\.\.`, a slash"):
        await look(engine, "../x")


async def test_a_disk_error_is_not_a_finding(project: Project, engine: Engine, monkeypatch: pytest.MonkeyPatch):
    """It fails the call, wherever it happens."""
    project.save(text("a", "x"))

    def busy(*given: object) -> None:
        raise Busy("wait")

    monkeypatch.setattr(engine.catalog, "find_config", busy)
    with pytest.raises(Busy):
        await look(engine, "a")
    project.save(collection("x", "a"), artifact("a", [child("a")]))
    parsed = engine.catalog.open_config("collection", "x.json").parsed
    monkeypatch.setattr(engine.catalog, "open_config", busy)
    with pytest.raises(Busy):
        await validate_collection(Build(engine, dry=True), parsed)


@pytest.fixture
def events(project: Project) -> Callable[[], list[dict[str, Any]]]:
    def reported() -> list[dict[str, Any]]:
        lines = project.read("var/telemetry/events.jsonl").splitlines()
        return [msgspec.json.decode(line) for line in lines]

    return reported


@requirement("events.validation-completed")
async def test_every_validation_emits_an_event(engine: Engine, events: Callable[[], list[dict[str, Any]]]):
    """Passed, failed, and not possible."""
    await store(engine, "note", "Everything is well.")
    await look(engine, "note", ValidationRule("presence"), ValidationRule("length", config={"min": 1}))
    await look(engine, "note", ValidationRule("length", config={"min": 100}))
    with pytest.raises(ConfigNotFound, match="There is no text, config or draft 'nothing'"):
        await look(engine, "nothing")
    reported = events()
    assert [event["event_type"] for event in reported] == ["chora.validation_completed"] * 3
    assert [
        (event["status"], event["content_config_id"], event["validation_passed"], event["rule_count"])
        for event in reported
    ] == [("success", "note", True, 2), ("success", "note", False, 1), ("error", "nothing", False, 0)]
    assert [event["error_code"] for event in reported] == [None, "content_too_short", "config_not_found"]
    assert [event["error_message"] for event in reported] == [
        None,
        "It has 19 characters, and 100 are required.",
        "There is no text, config or draft 'nothing'.",
    ]
    assert all(may_have_taken(event["duration_ms"] / 1000) for event in reported)


# -- collections ------------------------------------------------------------------------------------------------


def collection(id: str, *members: dict[str, Any] | str, **rest: Any) -> dict[str, Any]:
    """A collection; a member given as a string is the artifact with that id."""
    listed = [
        {"id": member, "type": "artifact", "path": f"{member}.json"} if isinstance(member, str) else member
        for member in members
    ]
    output = {"base_path": f"outputs/{id}", **rest.pop("output", {})}
    return {"type": "collection", "id": id, "name": id, "members": listed, "output": output, **rest}


def nested(id: str, **rest: Any) -> dict[str, Any]:
    return {"id": id, "type": "collection", "path": f"{id}.json", **rest}


@pytest.fixture
def pieces(project: Project) -> Project:
    """Two artifacts, `one` and `two`, of one text each."""
    project.save(text("a", "x"), artifact("one", [child("a")]), artifact("two", [child("a")]))
    return project


async def survey(engine: Engine, name: str, *, check_members: bool = True) -> tuple[list[Any], list[str], int]:
    parsed = engine.catalog.open_config("collection", name).parsed
    with trio.fail_after(PATIENCE):
        found = await validate_collection(Build(engine, dry=True), parsed, check_members=check_members)
    issues = [(issue.severity, issue.code, issue.member_id) for issue in found.findings]
    assert all(issue.message.endswith(".") and not issue.message.endswith("..") for issue in found.findings)
    return issues, found.missing, found.depth


async def test_a_valid_collection_has_no_findings(pieces: Project, engine: Engine):
    """Its depth is the longest chain of collections."""
    pieces.save(collection("inner", "one"), collection("outer", "two", nested("inner")))
    assert await survey(engine, "outer") == ([], [], 2)
    assert await survey(engine, "inner") == ([], [], 1)


async def test_unavailable_member_configs_are_reported(pieces: Project, engine: Engine):
    """With the ids that lead to them; for optional members it is a warning, unless that check is switched off."""
    pieces.write("configs/artifact/broken.json", "{")
    gone = {"id": "lost", "type": "artifact", "path": "lost.json", "required": False}
    pieces.save(
        artifact("hollow", [child("gone"), child("lost", required=False)]),
        collection("inner", "one", "gone", gone),
        collection("outer", nested("inner"), "broken", "hollow", nested("nowhere")),
    )
    issues, missing, depth = await survey(engine, "outer")
    assert issues == [
        ("error", "missing_config", "inner/gone"),
        ("warning", "missing_config", "inner/lost"),
        ("error", "invalid_config", "broken"),
        ("error", "missing_child", "hollow"),
        ("warning", "missing_child", "hollow"),
        ("error", "missing_config", "nowhere"),
    ]
    assert (missing, depth) == (["inner/gone", "inner/lost", "nowhere"], 2)
    assert await survey(engine, "outer", check_members=False) == ([], [], 1)


async def test_remarks_on_member_configs_are_reported(pieces: Project, engine: Engine):
    """With the member."""
    pieces.save(
        collection(
            "pack",
            "one",
            {"id": "two", "type": "artifact", "path": "two.json", "max_age_days": 3},
            context={"overrides": {"three": {}}},
            generation={"force_members": ["four"]},
            validation={"rules": [{"type": "be_nice"}]},
            extra=1,
        )
    )
    issues, _, _ = await survey(engine, "pack")
    assert set(issues) == {
        ("warning", "old_name", "two"),
        ("warning", "unknown_member", None),
        ("error", "unknown_rule_type", None),
        ("info", "unknown_key", None),
    }
    assert len(issues) == 5


async def test_collections_that_contain_one_another(pieces: Project, engine: Engine):
    """An issue, not an error, for every form of cycle."""
    pieces.save(collection("a", nested("b")), collection("b", "one", nested("c")), collection("c", nested("a")))
    issues, _, _ = await survey(engine, "a")
    assert issues == [("error", "circular_reference", "b/c/a")]
    pieces.save(collection("self", nested("self")))
    assert (await survey(engine, "self"))[0] == [("error", "circular_reference", "self")]


async def test_collections_that_go_too_deep(pieces: Project, engine: Engine):
    """Ten levels are allowed; the eleventh is named, also if it was visited before at a lower depth."""
    pieces.save(collection("c11", "one"))
    for level in range(10, 0, -1):
        pieces.save(collection(f"c{level}", nested(f"c{level + 1}")))
    assert (await survey(engine, "c2"))[::2] == ([], 10)
    issues, _, depth = await survey(engine, "c1")
    assert issues == [("error", "max_depth_exceeded", "/".join(f"c{level}" for level in range(2, 12)))]
    assert depth == 11
    pieces.save(collection("both", nested("c3"), nested("c1")))
    assert (await survey(engine, "both"))[0][0][1] == "max_depth_exceeded"


async def test_a_collection_in_many_places_is_validated_once(pieces: Project, engine: Engine):
    """Ten levels of ten members each are ten collections, not ten billion."""
    pieces.save(collection("c10", "gone"))
    for level in range(9, 0, -1):
        members = [{"id": f"m{index}", "type": "collection", "path": f"c{level + 1}.json"} for index in range(10)]
        pieces.save(collection(f"c{level}", *members))
    issues, missing, depth = await survey(engine, "c1")
    assert missing == ["/".join(["m0"] * 9 + ["gone"])]
    assert (len(issues), depth) == (1, 10)


@pytest.mark.parametrize(
    ("structure", "expected"),
    [
        ("nested", [("error", "duplicate_output", "twins")]),
        (
            "flat",
            [
                ("error", "duplicate_output", "twins"),
                ("warning", "duplicate_output", "again"),
                ("error", "duplicate_output", "rival"),
            ],
        ),
        ("custom", [("warning", "duplicate_output", "again"), ("error", "invalid_output", "stray")]),
    ],
)
async def test_two_members_that_write_one_file(pieces: Project, engine: Engine, structure: str, expected: list[Any]):
    """By the structure's rules; the manifest is a file too."""
    files = ({"file": "outputs/a/t.md", "format": "text"}, {"file": "outputs/b/t.md", "format": "text"})
    pieces.save(
        artifact("twins", [child("a")], *files),
        artifact("rival", [child("a")], {"file": "outputs/Manifest.json", "format": "text"}),
        artifact("stray", [child("a")], {"file": "../x.md", "format": "text"}),
        collection(
            "pack",
            "one",
            "twins",
            {"id": "again", "type": "artifact", "path": "one.json", "required": False},
            "rival",
            "stray",
            output={"structure": structure},
        ),
    )
    assert (await survey(engine, "pack"))[0] == expected
    parsed = engine.catalog.open_config("collection", "pack").parsed
    told = [each.message for each in (await validate_collection(Build(engine, dry=True), parsed)).findings]
    assert (
        told
        == {
            "nested": ["twins writes outputs/pack/twins/t.md, twice."],
            "flat": [
                "twins writes outputs/pack/t.md, twice.",
                "again writes outputs/pack/one.md, and so does one.",
                "rival writes outputs/pack/Manifest.json, and so does the manifest.",
            ],
            "custom": [
                "again writes outputs/one.md, and so does one.",
                "The path '../x.md' leads outside the project.",
            ],
        }[structure]
    )


async def test_without_a_manifest_its_name_is_free(pieces: Project, engine: Engine):
    """A member may write a file of this name."""
    pieces.save(
        artifact("rival", [child("a")], {"file": "outputs/manifest.json", "format": "text"}),
        collection("pack", "rival", output={"structure": "flat", "manifest": False}),
    )
    assert (await survey(engine, "pack"))[0] == []


@pytest.mark.parametrize(
    ("base_path", "code"),
    [
        ("outputs/{{ collection_id }}/{{ port }}", None),
        ("outputs/{{ nothing }}", "invalid_base_path"),
        ("outputs/{% if %}", "invalid_base_path"),
        ("../elsewhere", "invalid_base_path"),
        (".chora/x", "invalid_base_path"),
        ("{{ '../' }}x", "invalid_base_path"),
    ],
)
async def test_the_base_path_of_a_collection_is_checked(
    pieces: Project, engine: Engine, base_path: str, code: str | None
):
    """It must render, to a path where outputs may be written."""
    shared = {"shared": {"sources": [{"type": "inline_data", "data": {"port": "Norrvik"}}]}}
    pieces.save(collection("pack", "one", output={"base_path": base_path}, context=shared))
    assert (await survey(engine, "pack"))[0] == ([("error", code, None)] if code else [])


async def test_shared_sources_that_fail(pieces: Project, engine: Engine):
    """Each is reported; an optional one, or one of an optional member, is a warning; no text is generated."""
    pieces.save(
        content("never", pattern={"type": "jinja2", "template": "{{ 1 // 0 }}"}),
        content("mute"),
        collection(
            "pack",
            {
                "id": "one",
                "type": "artifact",
                "path": "one.json",
                "required": False,
                "context_override": {"sources": [{"type": "external_file", "id": "f", "path": "gone.json"}]},
            },
            context={
                "shared": {
                    "sources": [
                        {"type": "external_file", "id": "a", "path": "gone.json"},
                        {"type": "external_file", "id": "b", "path": "lost.json", "required": False},
                        {"type": "content_config", "id": "c", "config_id": "never", "selector": "output"},
                        {"type": "content_config", "id": "d", "config_id": "mute", "selector": "output"},
                        {"type": "inline_data", "data": {"port": "Norrvik"}},
                    ]
                }
            },
            output={"base_path": "outputs/{{ port }}"},
        ),
    )
    issues, _, _ = await survey(engine, "pack")
    assert issues == [
        ("error", "source_failed", None),
        ("warning", "source_failed", None),
        ("error", "source_failed", None),
        ("warning", "source_failed", "one"),
    ]
    assert engine.store.content_ids() == []


async def test_a_busy_server_ends_the_check_of_a_source(
    pieces: Project, engine: Engine, monkeypatch: pytest.MonkeyPatch
):
    """It isn't the source's fault."""
    source = {"type": "external_file", "id": "a", "path": "chora.toml", "selector": "$.a"}
    pieces.save(collection("pack", "one", context={"shared": {"sources": [source]}}))
    pieces.write("a.json", '{"a": 1}')
    pieces.save(collection("pack", "one", context={"shared": {"sources": [source | {"path": "a.json"}]}}))

    async def busy(*given: object) -> None:
        raise Busy("wait")

    monkeypatch.setattr(engine.templates.pool, "select_values", busy)
    with pytest.raises(Busy):
        await survey(engine, "pack")


async def test_a_large_collection_lets_others_run(pieces: Project, engine: Engine):
    """Validating a thousand members yields to other tasks."""
    members = [{"id": f"m{index}", "type": "artifact", "path": "one.json"} for index in range(1000)]
    pieces.save(collection("pack", *members))
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as others:
        others.start_soon(count)
        assert (await survey(engine, "pack"))[0] == []
        others.cancel_scope.cancel()
    assert turns >= 3


async def test_nothing_is_written(project: Project, hello_engine: Engine):
    """Validating changes neither files nor the store."""
    before, counts = project.files(), hello_engine.store.counts()
    for name in ("greeting", "hello"):
        await look(
            hello_engine,
            name,
            ValidationRule("presence"),
            ValidationRule("links"),
            ValidationRule("lint", config={"linter": "ruff"}),
        )
    assert project.files() == before
    after = hello_engine.store.counts()
    assert {**after, "events": 0} == {**counts, "events": 0}


@pytest.fixture
async def hello_engine(hello: Project) -> AsyncGenerator[Engine]:
    async with open_engine(hello.root, settings.load(hello.root, {}).settings) as opened:
        yield opened


def test_the_inline_limit_is_a_small_text():
    """So that checking it in the event loop delays no other task."""
    assert INLINE_LENGTH <= 64 * 1024
