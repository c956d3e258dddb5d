"""Parsing configs: what is accepted, what is converted, and what is refused with which hint."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chora.config_parsing import (
    ISSUES_LIMIT,
    Issue,
    ParsedConfig,
    parse_config,
)
from chora.config_parsing.plain_data import PlainCopy
from chora.decoding import decode
from chora.errors import LimitExceeded, ValidationFailed
from chora.files import CONFIG_LIMIT
from chora.model import KINDS, ArtifactConfig, CollectionConfig, ContentConfig, Kind, Source
from chora.nesting import CONFIG_VALUES, DEPTH_LIMIT
from tests.conftest import requirement
from tests.documents import LONG, WHOLE, Document, artifact, collection, content, objects_in, put
from tests.hostile.measures import calls_in
from tests.patience import PATIENCE


def refused(kind: Kind, document: object) -> list[dict[str, str]]:
    with pytest.raises(ValidationFailed) as caught:
        parse_config(kind, document, where="some.json")
    return caught.value.details["schema_errors"]


def accepted(kind: Kind, document: object) -> ParsedConfig:
    return parse_config(kind, document, where="some.json")


def only(issues: list[Issue]) -> Issue:
    assert len(issues) == 1, [issue.message for issue in issues]
    return issues[0]


# -- valid configs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_complete_config_is_read_without_warnings(kind: Kind) -> None:
    """It uses every key of its format, and stays unchanged."""
    document = WHOLE[kind]()
    before = copy.deepcopy(document)
    parsed = accepted(kind, document)
    assert parsed.warnings == []
    assert parsed.kind == kind
    assert parsed.raw is document
    assert document == before


@requirement("config.content.fields")
def test_a_content_is_read_into_its_struct() -> None:
    """Keys in camel case and plain ones end in the fields that the engine reads."""
    config = accepted("content", content()).config
    assert isinstance(config, ContentConfig)
    assert config.schema_ref.version == "3.1"
    assert config.instructions.general == "Be brief"
    assert config.ephemeral_storage.base_path == "ephemeral"
    assert config.elements[0].example_output == "| tide |"
    assert config.children[0].order == 1.5
    pattern = config.generation.patterns[0]
    assert (pattern.type, pattern.template) == ("jinja2", "tides.j2")
    assert (pattern.variables[0].type, pattern.variables[0].default) == ("number", 1)
    assert pattern.generation_config == {"context": {"title": "Tides"}}
    assert config.validation.rules[0].threshold == 1
    assert config.state.tracking.history is True
    assert config.evolution.history[0].rationale == "needed"


@requirement("config.artifact.fields")
def test_an_artifact_is_read_into_its_struct() -> None:
    """With its outputs, children and dependencies."""
    config = accepted("artifact", artifact()).config
    assert isinstance(config, ArtifactConfig)
    assert config.metadata.composition_strategy == "concat"
    assert [output.generated for output in config.metadata.outputs] == [True, False]
    child = config.content.children[0]
    assert (child.retrieval_strategy, child.order, child.conditions) == ("version", 2, "in summer")
    assert config.dependencies[0].relationship == "based_on"


@requirement("config.collection.fields")
def test_a_collection_is_read_into_its_struct() -> None:
    """With its members, context and output."""
    config = accepted("collection", collection()).config
    assert isinstance(config, CollectionConfig)
    assert [(member.id, member.required) for member in config.members] == [("weekly", True), ("desk", False)]
    assert config.members[0].context_override.sources[0].data == {"tone": "brief"}
    assert config.context.overrides == {"weekly": {"tone": "formal"}}
    assert config.generation.force_members == ("desk",)
    assert config.freshness.default_max_age_days == 0.5


@requirement("config.content.fields", "config.artifact.fields", "config.collection.fields")
def test_missing_keys_have_their_defaults() -> None:
    """The smallest config of each kind gets the defaults of the format."""
    small = accepted(
        "content",
        {
            "type": "content",
            "id": "a",
            "schemaRef": {"id": "content-schema", "version": "3.1"},
            "metadata": {"description": "d", "version": "1.0.0"},
        },
    )
    assert small.warnings == []
    assert small.config.metadata.generation_frequency == "manual"
    assert (small.config.elements, small.config.generation.patterns) == ((), ())
    assert small.config.evolution.stage == "draft"
    pack = accepted(
        "collection",
        {
            "type": "collection",
            "id": "007-pack",
            "name": "P",
            "members": [{"id": "SAP-004", "type": "artifact", "path": "a.json"}],
            "output": {"base_path": "o"},
        },
    )
    assert pack.warnings == []
    assert pack.config.context.propagation == "merge"
    assert (pack.config.generation.strategy, pack.config.generation.concurrency_limit) == ("parallel", 3)
    assert (pack.config.output.structure, pack.config.output.manifest) == ("nested", True)
    assert (pack.config.freshness.enabled, pack.config.freshness.default_max_age_days) == (True, 7.0)


# -- invalid configs --------------------------------------------------------------------------------------------

CONSTRAINTS: list[tuple[Kind, str, Any, str, str]] = [
    # kind, path, value, the fault's path, a part of its `write`
    ("content", "type", "note", "$.type", '"type": "content"'),
    ("content", "id", "Tide Table", "$.id", '"id": "tide-table"'),
    ("content", "id", "9-tides", "$.id", '"id": "my-config"'),
    ("content", "id", "a" * 256, "$.id", '"id"'),
    ("content", "id", 7, "$.id", '"id": "my-config"'),
    ("content", "id", ..., "$.id", '"id": "my-config"'),
    ("content", "schemaRef", "3.1", "$.schemaRef", '"schemaRef": {"id":"content-schema","version":"3.1"}'),
    ("content", "schemaRef.version", "three", "$.schemaRef.version", '"version": "3.1"'),
    ("content", "metadata", ..., "$.metadata", '"metadata": {"description":'),
    ("content", "metadata.description", "", "$.metadata.description", '"description": "What this text is for"'),
    ("content", "metadata.description", "x" * 501, "$.metadata.description", "x" * 500 + '"'),
    ("content", "metadata.description", 5, "$.metadata.description", '"description": "5"'),
    ("content", "metadata.version", "1.0.0-beta", "$.metadata.version", '"version": "1.0.0"'),
    ("content", "metadata.version", ..., "$.metadata.version", '"version": "1.0.0"'),
    ("content", "metadata.version", True, "$.metadata.version", '"version": "1.0.0"'),
    ("content", "metadata.generation_frequency", "manuel", "$.metadata.generation_frequency", '"manual"'),
    ("content", "metadata.output_format", "md", "$.metadata.output_format", '"output_format": "markdown"'),
    (
        "content",
        "metadata.output_format",
        "x|y",
        "$.metadata.output_format",
        '"output_format": one of "gherkin", "html"',
    ),
    ("content", "elements", "none", "$.elements", '"elements": [{'),
    ("content", "elements.0.name", "Table", "$.elements[0].name", '"name": "table"'),
    ("content", "elements.0.format", "python", "$.elements[0].format", '"format": "code"'),
    ("content", "elements.0.review_status", "fine", "$.elements[0].review_status", '"review_status": "pending"'),
    ("content", "children.0.order", -1, "$.children[0].order", '"order": 1'),
    ("content", "children.0.path", "", "$.children[0].path", '"path": "configs/content/my-config.json"'),
    ("content", "children.0.required", "maybe", "$.children[0].required", ""),
    ("content", "generation.patterns", {"id": "main", "type": "jinja2"}, "$.generation.patterns", '[{"id":"main"'),
    ("content", "generation.patterns.0.id", ..., "$.generation.patterns[0].id", '"id": "main"'),
    ("content", "generation.patterns.0.type", "Jinja 2", "$.generation.patterns[0].type", '"type": "jinja-2"'),
    ("content", "generation.patterns.0.generation_config", [], "$.generation.patterns[0].generation_config", "{}"),
    ("content", "generation.patterns.0.variables.0.name", "a b", "$.generation.patterns[0].variables[0].name", "intro"),
    ("content", "validation.rules.0.check_type", "taste", "$.validation.rules[0].check_type", '"check_type"'),
    ("content", "validation.rules.0.threshold", -0.1, "$.validation.rules[0].threshold", '"threshold"'),
    ("content", "validation.rules.0.severity", "fatal", "$.validation.rules[0].severity", '"severity"'),
    ("content", "evolution.stage", "final", "$.evolution.stage", '"stage"'),
    ("content", "evolution.history.0.date", ..., "$.evolution.history[0].date", '"date": "2026-03-01"'),
    ("artifact", "metadata.title", "x" * 201, "$.metadata.title", '"title": "xx'),
    ("artifact", "metadata.purpose", ..., "$.metadata.purpose", '"purpose"'),
    (
        "artifact",
        "metadata.outputs",
        [],
        "$.metadata.outputs",
        '[{"file":"outputs/my-artifact.md","format":"markdown"}]',
    ),
    ("artifact", "metadata.outputs.0.format", "pdf", "$.metadata.outputs[0].format", '"format": "markdown"'),
    ("artifact", "metadata.outputs.0.file", ..., "$.metadata.outputs[0].file", '"file": "outputs/my-artifact.md"'),
    ("artifact", "metadata.type", "poem", "$.metadata.type", '"type"'),
    ("artifact", "content.children", [], "$.content.children", '"children": [{"id":"my-config"'),
    ("artifact", "content.children.0.retrievalStrategy", "newest", "$.content.children[0].retrievalStrategy", "latest"),
    ("artifact", "dependencies.0.relationship", "hates", "$.dependencies[0].relationship", '"relationship"'),
    ("collection", "id", "Season", "$.id", '"id": "season"'),
    ("collection", "name", "", "$.name", '"name": "My collection"'),
    ("collection", "members", [], "$.members", '"members": [{"id":"my-member"'),
    ("collection", "members.0.id", "../x", "$.members[0].id", '"id": "x"'),
    ("collection", "members.0.type", "artifact|collection", "$.members[0].type", '"type": "artifact"'),
    ("collection", "members.0.path", ..., "$.members[0].path", '"path"'),
    ("collection", "members.0.freshness_threshold_days", 0, "$.members[0].freshness_threshold_days", '"fresh'),
    ("collection", "context.overrides", {"weekly": 5}, "$.context.overrides.weekly", '"weekly": {}'),
    ("collection", "generation.strategy", "at-random", "$.generation.strategy", '"strategy"'),
    ("collection", "generation.concurrency_limit", 0, "$.generation.concurrency_limit", '"concurrency_limit"'),
    ("collection", "generation.concurrency_limit", 101, "$.generation.concurrency_limit", '"concurrency_limit"'),
    ("collection", "generation.concurrency_limit", 3.0, "$.generation.concurrency_limit", ""),
    ("collection", "output.base_path", ..., "$.output.base_path", '"base_path": "outputs/collections/{{ coll'),
    ("collection", "output.structure", "heap", "$.output.structure", '"structure"'),
]


@requirement("config.constraints")
@pytest.mark.parametrize(("kind", "place", "value", "path", "write"), CONSTRAINTS)
def test_each_violated_constraint_has_a_path_and_a_hint(
    kind: Kind, place: str, value: Any, path: str, write: str
) -> None:
    """One fault at that path alone, with something to write instead."""
    faults = refused(kind, put(WHOLE[kind](), place, value))
    assert [fault["path"] for fault in faults] == [path]
    assert write in faults[0]["write"]
    assert path in faults[0]["message"]


@pytest.mark.parametrize(
    ("kind", "place", "value", "expected"),
    [
        ("content", "id", "X", "lower-case letters, digits and hyphens, beginning with a letter"),
        ("content", "metadata.version", "x", "a version of three numbers"),
        ("content", "metadata.description", "", "text of 1 to 500 characters"),
        ("content", "children.0.path", "", "text, not empty"),
        ("content", "children.0.notes", 3, "text"),
        ("content", "children.0.order", "x", "a whole number, at least 0 or a number, at least 0"),
        ("content", "children", {}, "a list"),
        ("content", "elements", {"a": 1}, "the content format"),
        ("content", "evolution.history", 1, "a list"),
        ("content", "state.tracking.history", 1, "true or false"),
        ("content", "generation", [], "an object"),
        ("content", "evolution.stage", "x", 'one of "approved", "deprecated", "draft", "review"'),
        ("content", "type", "x", '"content"'),
        ("artifact", "content.children", [], "a list of 1 to 100 items"),
        ("collection", "members", [], "a list of at least one item"),
        ("collection", "generation.concurrency_limit", 0, "a whole number, at least 1, at most 100"),
        ("collection", "freshness.default_max_age_days", 0, "a number, above 0"),
    ],
)
def test_the_expected_value_is_described_in_words(kind: Kind, place: str, value: Any, expected: str) -> None:
    """`expected` says what the schema demands, without schema keywords."""
    assert refused(kind, put(WHOLE[kind](), place, value))[0]["expected"] == expected


@requirement("config.children-limit")
def test_an_artifact_has_at_most_a_hundred_children() -> None:
    """The server's limit on pieces is part of the format."""
    child = {"id": "a", "path": "a.json"}
    accepted("artifact", artifact(content={"children": [child] * 100}))
    assert refused("artifact", artifact(content={"children": [child] * 101}))[0]["path"] == "$.content.children"


@pytest.mark.parametrize(("length", "is_named"), [(255, True), (256, False)])
def test_an_error_names_a_config_whose_id_is_not_too_long(length: int, is_named: bool) -> None:
    """An id of the permitted length, also where it has other faults."""
    with pytest.raises(ValidationFailed) as caught:
        parse_config("content", put(content(), "id", "X" * length), where="x.json")
    assert caught.value.details.get("config_id") == ("X" * length if is_named else None)


@requirement("config.every-fault")
def test_every_fault_is_named_at_once() -> None:
    """Independent faults are all in schema_errors, and the message counts them."""
    document = put(put(put(content(), "metadata.version", ...), "elements.0.format", "poem"), "id", "X Y")
    with pytest.raises(ValidationFailed) as caught:
        parse_config("content", document, where="configs/content/x.json", expected_id="x")
    error = caught.value
    paths = {fault["path"] for fault in error.details["schema_errors"]}
    assert paths == {"$.id", "$.metadata.version", "$.elements[0].format"}
    assert error.message.startswith('configs/content/x.json is not a content config: $.id is "X Y"; it must be')
    assert error.message.endswith("There are 2 more errors.")
    assert error.hint == 'Write "id": "x-y". Every field is described in manual://content.'
    assert error.details["file"] == "configs/content/x.json"
    assert error.details["config_id"] == "X Y"
    for fault in error.details["schema_errors"]:
        assert set(fault) == {"path", "message", "found", "expected", "write"}
        assert all(fault.values())


def test_a_refusal_also_lists_warnings() -> None:
    """Deviations that would be tolerated alone are listed with the faults."""
    document = put(put(content(), "metadata.version", "1.0"), "elements.0.format", "poem")
    with pytest.raises(ValidationFailed) as caught:
        parse_config("content", document, where="x")
    assert [warning["path"] for warning in caught.value.details["warnings"]] == ["$.metadata.version"]
    assert "one more error" not in caught.value.message


def test_the_message_counts_further_faults() -> None:
    """In plain words."""
    with pytest.raises(ValidationFailed, match=r"There is one more error\.$"):
        parse_config("content", put(put(content(), "id", "X"), "evolution.stage", "x"), where="x")


def test_the_hint_names_the_manual_when_there_is_nothing_to_write() -> None:
    """A fault without advice points to the manual alone."""
    with pytest.raises(ValidationFailed) as caught:
        parse_config("collection", put(collection(), "generation.concurrency_limit", 3.0), where="x")
    assert caught.value.hint == "Every field is described in manual://collection."


def test_the_list_of_faults_is_bounded() -> None:
    """Whatever the file."""
    members = [{"id": f"m{index}", "type": "x", "path": "p"} for index in range(1000)]
    assert len(refused("collection", collection(members=members))) == ISSUES_LIMIT
    odd = [{"id": f"m{index}", "type": "artifact", "path": "p", "colour": "red"} for index in range(1000)]
    assert len(accepted("collection", collection(members=odd, generation=None)).warnings) == ISSUES_LIMIT


@pytest.mark.parametrize("document", [None, [], "content", 7, True])
def test_a_document_that_is_no_object_is_refused(document: object) -> None:
    """The hint shows a complete config."""
    fault = refused("artifact", document)[0]
    assert (fault["path"], fault["expected"]) == ("$", "an object")
    assert accepted("artifact", json.loads(fault["write"])).warnings == []


@requirement("config.wrong-kind")
@pytest.mark.parametrize("kind", KINDS)
def test_a_config_of_another_kind_is_named_as_such(kind: Kind) -> None:
    """Instead of listing all missing keys."""
    for other in set(KINDS) - {kind}:
        faults = refused(kind, WHOLE[other]())
        assert len(faults) == 1
        assert faults[0]["path"] == "$.type"
        assert f"configs/{other}/" in faults[0]["message"]


def _nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def test_deep_nesting_is_refused() -> None:
    """A document may be 64 levels deep; cyclic data ends too."""
    accepted("content", content(deep=_nested(DEPTH_LIMIT - 1)))
    fault = refused("content", content(deep=_nested(DEPTH_LIMIT)))[0]
    assert "64 levels" in fault["found"]
    assert fault["path"].startswith("$.deep[0][0]")
    circle: list[Any] = []
    circle.append(circle)
    assert "64 levels" in refused("content", content(deep=circle))[0]["found"]


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        (10**400, "more than 300 digits"),
        ("\ud800", "surrogate"),
        ({"\udfff": 1}, "surrogate"),
        ({1: "a"}, "the key 1"),
        ({True: "a"}, "the key True"),
        ({(1,): "a"}, "a tuple"),
        (b"bytes", "a bytes"),
        ({"a"}, "a set"),
        (object(), "an object"),
    ],
)
def test_values_without_json_form_are_refused(value: Any, found: str) -> None:
    """They couldn't be saved again; the error has their path."""
    fault = refused("content", content(extra=[0, value]))[0]
    assert fault["path"].startswith("$.extra[1]")
    assert found in fault["found"]


def test_the_largest_number_has_as_many_bits_as_a_double_has_a_range() -> None:
    """Beyond that, other programs would read infinity, or nothing."""
    accepted("content", content(extra=[2**1024 - 1, 1 - 2**1024]))
    for number in (2**1024, -(2**1024)):
        assert refused("content", content(extra=number))[0]["found"] == "a number of more than 300 digits"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": 5}, "$.id is 5; it must be lower-case letters, digits and hyphens, beginning with a letter."),
        ({"elements": "x" * 78}, f'$.elements is "{"x" * 78}"; it must be a list of at least one item.'),
        ({"elements": "x" * 79}, f'$.elements is "{"x" * 78}…; it must be a list of at least one item.'),
    ],
)
def test_an_error_says_what_was_found(changes: Any, message: str) -> None:
    """A long value is shown with its first 79 characters."""
    fault = refused("content", content(**changes))[0]
    assert fault["message"] == message


def test_letters_of_every_language_are_fine() -> None:
    """Text beyond ASCII passes, in values and in keys."""
    parsed = accepted("content", content(instructions={"global": "Ebbe für Nørvik 🌊", "ключ": 2**70}))
    assert parsed.config.instructions.general == "Ebbe für Nørvik 🌊"


def test_jsonschema_is_only_imported_for_a_refusal() -> None:
    """A config that fits costs no import of the schema library, not even one with deviations."""
    program = (
        "import sys, json; from chora.config_parsing import parse_config\n"
        "from chora.errors import ValidationFailed\n"
        "good = json.loads(sys.stdin.read())\n"
        "parse_config('content', good, where='x'); assert 'jsonschema' not in sys.modules\n"
        "good['metadata']['version'] = '1.0'; good['colour'] = 1\n"
        "assert len(parse_config('content', good, where='x').warnings) == 2; assert 'jsonschema' not in sys.modules\n"
        "try: parse_config('content', {}, where='x')\n"
        "except ValidationFailed: assert 'jsonschema' in sys.modules; print('ok')\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], input=json.dumps(content()), capture_output=True, text=True, timeout=PATIENCE
    )
    assert (result.stdout, result.stderr) == ("ok\n", "")


# -- deviations that are read -----------------------------------------------------------------------------------


@requirement("rulings.c35", "rulings.c14")
@pytest.mark.parametrize(
    ("kind", "place", "value", "code", "path", "write"),
    [
        (
            "content",
            "schemaRef",
            {"uri": "file://schemas/content/v3.1/schema.json", "version": "3.1"},
            "schema_ref",
            "$.schemaRef",
            '"schemaRef": {"id":"content-schema","version":"3.1"}',
        ),
        ("artifact", "schemaRef", ..., "schema_ref_missing", "$.schemaRef", '{"id":"artifact-schema","version":"3.1"}'),
        ("content", "schemaRef", {"id": "content-schema"}, "schema_ref", "$.schemaRef", '"version":"3.1"'),
        ("content", "schemaRef.version", "3.0", "schema_version", "$.schemaRef.version", '"version":"3.1"'),
        ("content", "schemaRef.version", 3.1, "spelling", "$.schemaRef.version", '"version": "3.1"'),
        ("content", "metadata.version", "1.0", "spelling", "$.metadata.version", '"version": "1.0.0"'),
        ("content", "metadata.version", "v2.3.4", "spelling", "$.metadata.version", '"version": "2.3.4"'),
        ("content", "metadata.version", 1.5, "spelling", "$.metadata.version", '"version": "1.5.0"'),
        ("content", "metadata.version", 2, "spelling", "$.metadata.version", '"version": "2.0.0"'),
        (
            "content",
            "metadata.generation_frequency",
            "on-demand",
            "spelling",
            "$.metadata.generation_frequency",
            '"generation_frequency": "on_demand"',
        ),
        ("content", "elements.0.review_status", "Needs-Revision", "spelling", "$.elements[0].review_status", "_rev"),
        ("content", "elements.0.description", None, "null", "$.elements[0].description", "leave description out"),
        ("content", "id", "tide-table\n", "spelling", "$.id", '"id": "tide-table"'),
        (
            "content",
            "generation.patterns.0.type",
            "bdd_scenario_assembly",
            "old_name",
            "$.generation.patterns[0].type",
            '"type": "bdd_scenario"',
        ),
        (
            "artifact",
            "metadata.compositionStrategy",
            "json_merge",
            "old_name",
            "$.metadata.compositionStrategy",
            '"compositionStrategy": "merge"',
        ),
        ("collection", "context.propagation", "MERGE", "spelling", "$.context.propagation", '"propagation": "merge"'),
        (
            "collection",
            "members.1.max_age_days",
            3,
            "old_name",
            "$.members[1].max_age_days",
            '"freshness_threshold_days": 3',
        ),
        ("collection", "generation.force_members", ["desc"], "unknown_member", "$.generation.force_members[0]", ""),
        ("collection", "context.overrides", {"a b": {}}, "unknown_member", '$.context.overrides["a b"]', ""),
        (
            "collection",
            "validation.rules.0.type",
            "all_present",
            "unknown_rule_type",
            "$.validation.rules[0].type",
            '"type": "all_members_present"',
        ),
    ],
)
def test_a_known_deviation_passes_with_one_warning(
    kind: Kind, place: str, value: Any, code: str, path: str, write: str
) -> None:
    """A tolerated deviation gives exactly one warning, which names the place and what to write."""
    document = put(WHOLE[kind](), place, value)
    before = copy.deepcopy(document)
    issue = only(accepted(kind, document).warnings)
    assert (issue.severity, issue.code, issue.path) == ("warning", code, path)
    assert write in issue.write
    assert document == before


def test_deviations_end_in_the_struct_as_the_format_says() -> None:
    """What the warning says is what the engine sees."""
    document = put(put(content(), "metadata.version", "1.0"), "metadata.generation_frequency", "On-Demand")
    document = put(put(document, "schemaRef", {"uri": "file://x", "version": 3.1}), "id", " tide-table ")
    config = accepted("content", document).config
    assert config.metadata.version == "1.0.0"
    assert config.metadata.generation_frequency == "on_demand"
    assert (config.schema_ref.id, config.schema_ref.version) == ("content-schema", "3.1")
    assert config.id == "tide-table"
    pack = put(put(collection(), "context.propagation", "Isolate"), "members.1.max_age_days", 3)
    assert accepted("collection", pack).config.context.propagation == "isolate"
    assert accepted("collection", pack).config.members[1].freshness_threshold_days == 3
    old = put(content(), "generation.patterns.0.type", "bdd_scenario_assembly")
    assert accepted("content", old).config.generation.patterns[0].type == "bdd_scenario"


@requirement("rulings.c33")
def test_elements_may_be_missing_unless_the_generator_shows_them() -> None:
    """Without elements a template runs; the demonstration generator has nothing to show."""
    accepted("content", content(elements=None))
    demonstration = put(content(elements=None), "generation.patterns.0.type", "demonstration")
    fault = refused("content", demonstration)[0]
    assert (fault["path"], fault["found"]) == ("$.elements", "nothing")
    assert "example_output" in fault["write"]
    accepted("content", put(content(), "generation.patterns.0.type", "demonstration"))


@requirement("rulings.c34")
def test_an_unknown_key_is_information() -> None:
    """A key that chora doesn't know passes with an info each; a near one is proposed."""
    document = content(storage={"type": "ephemeral"})
    document["metadata"]["author"] = "harbour"
    document["metadata"]["output_fromat"] = "text"
    document["generation"]["patterns"][0]["template_file"] = "x.j2"
    document["x y"] = 1
    del document["metadata"]["output_format"]
    parsed = accepted("content", document)
    issues = {issue.path: issue for issue in parsed.warnings}
    assert {issue.severity for issue in parsed.warnings} == {"info"}
    assert {issue.code for issue in parsed.warnings} == {"unknown_key"}
    assert issues.keys() == {"$.storage", "$.metadata.author", "$.metadata.output_fromat", '$["x y"]'} | {
        "$.generation.patterns[0].template_file"
    }
    assert issues["$.metadata.output_fromat"].write == '"output_format": "text"'
    assert "Did you mean output_format?" in issues["$.metadata.output_fromat"].message
    assert issues["$.metadata.author"].write == ""
    assert parsed.raw["storage"] == {"type": "ephemeral"}


def test_keys_for_editors_are_no_news() -> None:
    """`$schema` and `$comment` pass in silence."""
    assert accepted("content", {"$schema": "schema.json", "$comment": "hi", **content()}).warnings == []


def test_a_pattern_s_context_moves_into_its_generation_config() -> None:
    """`patterns[].context` is read as generation_config.context; what stands there already wins."""
    document = content()
    document["generation"]["patterns"][0]["context"] = {"title": "low", "port": "Norrvik"}
    parsed = accepted("content", document)
    assert only(parsed.warnings).code == "pattern_context"
    assert parsed.config.generation.patterns[0].generation_config["context"] == {"title": "Tides", "port": "Norrvik"}
    del document["generation"]["patterns"][0]["generation_config"]
    parsed = accepted("content", document)
    assert parsed.config.generation.patterns[0].generation_config == {"context": {"title": "low", "port": "Norrvik"}}
    assert "generation_config" not in document["generation"]["patterns"][0]


def test_a_context_is_an_object() -> None:
    """generation_config.context may not be anything else, wherever it was written."""
    fault = refused("content", put(content(), "generation.patterns.0.generation_config.context", [1]))[0]
    assert fault["path"] == "$.generation.patterns[0].generation_config.context"
    moved = put(put(content(), "generation.patterns.0.generation_config", ...), "generation.patterns.0.context", "x")
    assert refused("content", moved)[0]["expected"] == "an object"
    unmovable = put(put(content(), "generation.patterns.0.generation_config", 5), "generation.patterns.0.context", {})
    assert refused("content", unmovable)[0]["path"] == "$.generation.patterns[0].generation_config"


@requirement("config.unique-names")
@pytest.mark.parametrize(
    ("kind", "document", "path"),
    [
        ("content", content(elements=[{"name": "a", "format": "text"}] * 2), "$.elements[1].name"),
        ("content", content(generation={"patterns": [{"id": "a", "type": "b"}] * 2}), "$.generation.patterns[1].id"),
        ("collection", collection(members=[{"id": "weekly", "type": "artifact", "path": "p"}] * 2), "$.members[1].id"),
    ],
)
def test_names_are_unique(kind: Kind, document: Document, path: str) -> None:
    """Pattern ids, element names and member ids may each stand once."""
    document.pop("generation", None) if kind == "collection" else None
    fault = refused(kind, document)[0]
    assert fault["path"] == path
    assert "already" in fault["message"]


def test_an_id_other_than_the_expected_one_is_a_warning() -> None:
    """A file named after another id is read, with a warning."""
    assert parse_config("content", content(), where="x", expected_id="tide-table").warnings == []
    issue = only(parse_config("content", content(), where="x", expected_id="tides").warnings)
    assert (issue.code, issue.path, issue.write) == ("id_mismatch", "$.id", '"id": "tides"')


# -- other config formats ---------------------------------------------------------------------------------------


@requirement("rulings.c37")
@pytest.mark.parametrize(
    ("kind", "document", "path"),
    [
        ("content", content(elements=None, content_elements=[{"name": "a"}]), "$.content_elements"),
        ("content", content(elements=None, content_element={"name": "a"}), "$.content_element"),
        ("content", content(elements=[{"id": "a", "generation_pattern": "template_fill"}]), "$.elements[0]"),
        ("content", content(elements=[{"template": "{{ a }}"}]), "$.elements[0]"),
        ("content", content(elements={"template": "x"}), "$.elements"),
        ("content", content(id="tide_table"), "$.id"),
        ("content", content(generation={"generator": {"type": "jinja2"}}), "$.generation.generator"),
        ("content", content(type="content_config"), "$.type"),
        ("content", {"content_config": content()}, "$.content_config"),
        (
            "content",
            {"content_id": "a", "generator_type": "jinja2", "template_path": "a.j2"},
            "$.content_id",
        ),
        ("artifact", artifact(content=None, composition={"members": ["a"]}), "$.composition"),
        ("artifact", artifact(content={"children": [{"id": "a_b", "path": "p"}]}), "$.content.children[0].id"),
        ("artifact", artifact(id=None, artifact_id="a"), "$.artifact_id"),
        ("collection", collection(id=None, collection_id="a"), "$.collection_id"),
        ("collection", collection(id="season_pack"), "$.id"),
    ],
)
def test_another_config_format_is_refused_by_name(kind: Kind, document: Document, path: str) -> None:
    """The error says which format it is and what to write."""
    with pytest.raises(ValidationFailed) as caught:
        parse_config(kind, document, where="x")
    faults = {fault["path"]: fault for fault in caught.value.details["schema_errors"]}
    assert "another dialect" in faults[path]["message"]
    assert faults[path]["write"]
    assert "another dialect" in caught.value.message
    assert "chora import --convert" in str(caught.value.hint)
    # The schema's faults don't repeat what the format's error explains.
    assert not any(each.startswith((f"{path}.", f"{path}[")) for each in faults)


def test_a_foreign_format_explains_its_missing_keys() -> None:
    """A flat config gets its three foreign keys and its other missing keys listed, each once."""
    faults = refused("content", {"content_id": "a", "generator_type": "jinja2", "template_path": "a.j2"})
    assert [fault["path"] for fault in faults] == [
        "$.content_id",
        "$.generator_type",
        "$.template_path",
        "$.type",
        "$.metadata",
    ]


def test_a_foreign_element_is_translated_as_far_as_it_goes() -> None:
    """The advice for an element of another dialect carries its name and text."""
    element = {"id": "Request ID", "generation_pattern": "x", "example_output": "R-1"}
    fault = refused("content", content(elements=[element]))[0]
    assert json.loads(fault["write"]) == {"name": "request-id", "format": "text", "example_output": "R-1"}


def test_a_foreign_key_next_to_the_native_one_is_only_unknown() -> None:
    """Keys of other formats don't matter if the config is complete without them."""
    document = content(content_elements=[], generator_type="x")
    document["elements"][0]["id"] = "extra"
    document["generation"]["generator"] = {}
    assert {issue.code for issue in accepted("content", document).warnings} == {"unknown_key"}


# -- sources ----------------------------------------------------------------------------------------------------


@requirement("sources.long-spelling", "sources.short-spelling")
@pytest.mark.parametrize(
    ("written", "source"),
    [
        (LONG, Source(type="external_file", id="s", locator="a.json")),
        ({**LONG, "data_selector": "whole_content"}, Source(type="external_file", id="s", locator="a.json")),
        (
            {**LONG, "data_selector": "## Tides", "required": False, "notes": "n"},
            Source(type="external_file", id="s", locator="a.json", selector="## Tides", required=False, notes="n"),
        ),
        (
            {**LONG, "source_type": "git_reference", "source_locator": "HEAD:README.md"},
            Source(type="git_reference", id="s", locator="HEAD:README.md"),
        ),
        (
            {**LONG, "source_type": "inline_data", "source_locator": '{"height": "m"}'},
            Source(type="inline_data", id="s", locator='{"height": "m"}', data={"height": "m"}),
        ),
        (
            {**LONG, "source_type": "inline_data", "source_locator": "high water"},
            Source(type="inline_data", id="s", locator="high water", data="high water"),
        ),
        (
            {**LONG, "source_type": "inline_data", "source_locator": "[" * 100 + "]" * 100},
            Source(type="inline_data", id="s", locator="[" * 100 + "]" * 100, data="[" * 100 + "]" * 100),
        ),
        (
            {"type": "inline_data", "data": {"port": "Norrvik"}},
            Source(type="inline_data", locator='{"port":"Norrvik"}', data={"port": "Norrvik"}),
        ),
        (
            {"type": "inline_data", "data": None, "output_as": "nothing"},
            Source(type="inline_data", id="nothing", locator="null"),
        ),
        (
            {"type": "external_file", "path": "a.json", "selector": "$.a", "id": "A"},
            Source(type="external_file", id="A", locator="a.json", selector="$.a"),
        ),
        ({"type": "git_reference", "file": "a.md"}, Source(type="git_reference", locator="HEAD:a.md")),
        (
            {"type": "git_reference", "repo": "sub", "file": "a.md", "ref": "v1"},
            Source(type="git_reference", locator="v1:a.md", repository="sub"),
        ),
        (
            {"type": "git_reference", "repo_path": "sub", "file_path": "a.md", "reference": "v1"},
            Source(type="git_reference", locator="v1:a.md", repository="sub"),
        ),
        (
            {"type": "content_config", "config_id": "tides", "selector": "output", "output_as": "tides"},
            Source(type="content_config", id="tides", locator="tides", selector="output"),
        ),
        ({"type": "artifact_config", "reference": "a"}, Source(type="artifact_config", locator="a")),
        ({"type": "ephemeral_output", "output_id": "a:all"}, Source(type="ephemeral_output", locator="a:all")),
        ({"type": "ephemeral_output", "content_id": "a"}, Source(type="ephemeral_output", locator="a")),
        ({"type": "External-File", "path": "a"}, Source(type="external_file", locator="a")),
    ],
)
def test_both_forms_of_a_source_are_equal(written: Document, source: Source) -> None:
    """In content configs and in collections, long or short."""
    assert accepted("content", content(inputs={"sources": [written]})).config.inputs.sources == (source,)
    shared = {"shared": {"sources": [written]}}
    assert accepted("collection", collection(context=shared)).config.context.shared.sources == (source,)


@pytest.mark.parametrize(
    ("written", "path", "write"),
    [
        ({"id": "s", "source_type": "external_file"}, ".source_locator", '"source_locator": "data/readings.json"'),
        ({"source_type": "external_file", "source_locator": "a"}, ".id", '"id": "readings"'),
        ({**LONG, "source_type": "requirement_id"}, ".source_type", '"source_type"'),
        ({**LONG, "source_locator": {"a": 1}}, ".source_locator", '"source_locator"'),
        ({**LONG, "source_type": "git_reference", "source_locator": "README.md"}, ".source_locator", "HEAD:README.md"),
        (
            {**LONG, "source_type": "requirement_id"},
            ".source_type",
            '"source_type": "inline_data" with the requirement',
        ),
        ({"type": "external_file"}, ".path", '"path": "data/readings.json"'),
        ({"type": "git_reference", "ref": "v1"}, ".file", '"file": "docs/safety.md"'),
        ({"type": "content_config"}, ".config_id", '"config_id": "my-config"'),
        ({"type": "ephemeral_output"}, ".output_id", '"output_id": "my-config"'),
        ({"type": "inline_data"}, ".data", '"data": {"name": "value"}'),
        ({"type": "inline_data", "data": [1]}, "", '"id": "my-name", beside "data"'),
        ({"type": "http", "path": "x"}, ".type", '"type": one of "artifact_config", "content_config"'),
        ({"type": "file", "path": "x"}, ".type", '"type": "external_file"'),
        ({"type": "Files", "path": "x"}, ".type", '"type": "external_file"'),
        ({"type": "git", "ref": "x"}, ".type", '"type": "git_reference"'),
        ({"type": "content", "config_id": "x"}, ".type", '"type": "content_config"'),
        ({"type": "artifact", "config_id": "x"}, ".type", '"type": "artifact_config"'),
        ({"type": "inline", "data": "x"}, ".type", '"type": "inline_data"'),
        ({"type": "data", "data": "x"}, ".type", '"type": "inline_data"'),
        ({"type": "output", "output_id": "x"}, ".type", '"type": "ephemeral_output"'),
        ({"type": "external_file", "path": 5}, ".path", '"path": "5"'),
        ({"type": "external_file", "path": "a", "id": "a b"}, ".id", '"id": "a-b"'),
        ({}, ".type", '"type"'),
        ("data.json", "", '{"type"'),
    ],
)
def test_an_invalid_source_is_explained_in_its_own_form(written: Any, path: str, write: str) -> None:
    """Faults name the keys that its author used."""
    faults = refused("content", content(inputs={"sources": [LONG, written]}))
    assert [fault["path"] for fault in faults] == [f"$.inputs.sources[1]{path}"]
    if written != "data.json":
        assert write in faults[0]["write"]


def test_an_unknown_key_of_a_source_is_information() -> None:
    """The keys of both spellings are known, and only those of the one in use are proposed."""
    issue = only(accepted("content", content(inputs={"sources": [{**LONG, "data_selektor": "x"}]})).warnings)
    assert (issue.severity, issue.write) == ("info", '"data_selector": "x"')


def test_an_unknown_declared_type_is_a_warning() -> None:
    """At its path, and any value is accepted."""
    context = {"date": {"source": "runtime", "type": "date"}, "count": {"source": "runtime", "type": "list"}}
    issue = only(
        accepted("content", put(content(), "generation.patterns.0.generation_config.context", context)).warnings
    )
    assert issue.code == "unknown_type"
    assert issue.path == "$.generation.patterns[0].generation_config.context.date.type"


# -- anything at all --------------------------------------------------------------------------------------------

_WORDS = sorted(
    {key for document in (content(), artifact(), collection()) for node in objects_in(document) for key in node}
    | {"content_elements", "composition", "generator", "context", "uri", "data", "max_age_days", "source"}
)
_LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([*KINDS, "demonstration", "inline_data", "git_reference", "runtime", "1.0", "a_b", "MERGE"])
)
_ANYTHING = st.recursive(
    _LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_WORDS) | st.text(max_size=3), inner, max_size=6)
    ),
    max_leaves=20,
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*path, key)
        yield from _places(inner, (*path, key))


@st.composite
def _mangled(draw: st.DrawFn) -> tuple[Kind, Document]:
    """A whole config with a few places replaced by anything."""
    kind = draw(st.sampled_from(KINDS))
    document = WHOLE[kind]()
    for _ in range(draw(st.integers(1, 3))):
        *steps, last = draw(st.sampled_from(list(_places(document))))
        place: Any = document
        for step in steps:
            place = place[step]
        place[last] = draw(_ANYTHING)
    return kind, document


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(_mangled() | st.tuples(st.sampled_from(KINDS), _ANYTHING))
def test_anything_is_either_read_or_refused(case: tuple[Kind, Any]) -> None:
    """Every JSON value gives a config or a refusal with faults, both fit for JSON, and stays as it was."""
    kind, document = case
    before = repr(document)
    outcome = _outcome(kind, document)
    if isinstance(outcome, ParsedConfig):
        assert outcome.raw is document
        msgspec.json.encode((outcome.config, outcome.warnings, outcome.raw))
    else:
        faults = outcome.details["schema_errors"]
        assert faults
        assert all(fault["path"].startswith("$") and fault["message"] for fault in faults)
        msgspec.json.encode(outcome.as_dict())
    assert repr(document) == before


def _outcome(kind: Kind, document: Any) -> ParsedConfig | ValidationFailed:
    try:
        return parse_config(kind, document, where="x", expected_id="y")
    except ValidationFailed as error:
        return error


@requirement("rulings.c33")
def test_an_empty_list_of_elements_is_none():
    """Skeletons begin with it; only where a generator shows elements there must be some."""
    document = content(elements=[], generation={"patterns": [{"id": "make", "type": "jinja2", "template": "x\n"}]})
    parsed = parse_config("content", document, where="note")
    assert parsed.config.elements == ()
    assert [issue.code for issue in parsed.warnings] == ["empty"]
    shown = content(elements=[], generation={"patterns": [{"id": "show", "type": "demonstration"}]})
    with pytest.raises(ValidationFailed, match="it must be a list of at least one item"):
        parse_config("content", shown, where="note")


# -- what it costs ----------------------------------------------------------------------------------------------


def filled(items: Callable[[int], Any]) -> list[Any]:
    """As many items as a config may hold, by its bytes and by its values."""
    one = json.dumps(items(10_000), separators=(",", ":"))
    return [
        items(number)
        for number in range(min(CONFIG_LIMIT // (len(one) + 1), CONFIG_VALUES // (one.count(":") + 1)) - 100)
    ]


FULL: dict[str, tuple[Kind, Callable[[], dict[str, Any]]]] = {
    "elements with one name": ("content", lambda: {"elements": filled(lambda n: {"name": "a", "format": "text"})}),
    "elements of nothing": ("content", lambda: {"elements": filled(lambda n: {})}),
    "elements of another dialect": ("content", lambda: {"elements": filled(lambda n: {"id": "x"})}),
    "good elements before a bad one": (
        "content",
        lambda: {"elements": [*filled(lambda n: {"name": f"a{n}", "format": "text"})[:-1], {"name": 7}]},
    ),
    "sources without a locator": (
        "content",
        lambda: {"inputs": {"sources": filled(lambda n: {"type": "external_file"})}},
    ),
    "sources of nothing": ("content", lambda: {"inputs": {"sources": filled(lambda n: {})}}),
    "valid sources with a fault": (
        "content",
        lambda: {"elements": [{}], "inputs": {"sources": filled(lambda n: {"type": "external_file", "path": "x"})}},
    ),
    "patterns with one id": (
        "content",
        lambda: {"generation": {"patterns": filled(lambda n: {"id": "m", "type": "jinja2", "context": {"a": 1}})}},
    ),
    "children beyond their number": (
        "artifact",
        lambda: {"content": {"children": filled(lambda n: {"id": "a", "path": "x"})}},
    ),
    "rules with a fault": (
        "collection",
        lambda: {"name": 1, "validation": {"rules": filled(lambda n: {"type": "x"})}},
    ),
    "names with a fault": ("collection", lambda: {"name": 1, "generation": {"force_members": filled(lambda n: "x")}}),
    "overrides with a fault": (
        "collection",
        lambda: {"name": 1, "context": {"overrides": {f"k{n}": {} for n in range(CONFIG_VALUES - 1000)}}},
    ),
}
"""Files as large as they may be, which take the longest to find every fault in."""


@pytest.mark.parametrize("shape", FULL)
@pytest.mark.slow("counts every function call while large files are read")
def test_a_full_file_is_read_in_bounded_work(shape: str) -> None:
    """The largest file that doesn't fit costs a few hundred calls for each of its faults, and few for each value."""
    kind, part = FULL[shape]
    document = {**{"content": content, "artifact": artifact, "collection": collection}[kind](), **part()}
    assert 0 < len(refused(kind, document)) <= ISSUES_LIMIT
    assert calls_in(lambda: refused(kind, document)) < 1_000_000


def test_what_is_wrong_at_the_end_of_a_long_list_is_explained_like_anything_else() -> None:
    """However many good items stand before it."""
    elements: list[object] = [{"name": f"a{number}", "format": "text"} for number in range(5_000)]
    faults = refused("content", content(elements=[*elements, {"name": "b", "format": "txt"}]))
    assert [(fault["path"], fault["write"]) for fault in faults] == [("$.elements[5000].format", '"format": "text"')]
    sources: list[object] = [{"type": "external_file", "path": "x", "id": f"s{number}"} for number in range(2_000)]
    faults = refused("content", content(inputs={"sources": [*sources, {"type": "external_file", "path": 7}]}))
    assert [fault["path"] for fault in faults] == ["$.inputs.sources[2000].path"]
    names = refused("collection", collection(generation={"force_members": ["x"] * 2_000 + [7]}))
    assert [fault["path"] for fault in names] == ["$.generation.force_members[2000]"]


def test_a_document_has_a_bounded_number_of_values() -> None:
    """One made of many tiny values is refused before it is copied, wherever it came from."""
    for many in ([0] * CONFIG_VALUES, [[]] * CONFIG_VALUES, {str(number): 0 for number in range(CONFIG_VALUES)}):
        with pytest.raises(LimitExceeded, match=r"note\.json holds more than 20,000 values") as caught:
            parse_config("content", content(more=many), where="note.json")
        assert caught.value.details["limit"] == "config.values"
    # The rest is counted in an object that holds nothing else.
    assert PlainCopy("x").copy_of([0] * CONFIG_VALUES) == [0] * CONFIG_VALUES


def test_a_yaml_config_is_decoded_in_bounded_work() -> None:
    """PyYAML takes longer for a value than all that follows, so that YAML configs may hold fewer."""
    for body in (
        b"\n".join(b"k%d: &a%d x" % (number, number) for number in range(40_000)),
        b"a: [" + b"2026-01-01," * 90_000 + b"]",
        b"a: [" + b"{a: b}," * 33_000 + b"]",
        b"--- a\n" * 150_000,
    ):

        def attempt(body: bytes = body) -> None:
            with pytest.raises(LimitExceeded, match="more than 20,000 values"):
                decode(body, "note.yaml")

        attempt()
        assert calls_in(attempt) < 500_000


def test_patterns_have_ids_of_their_own() -> None:
    """A second one of an id is named."""
    pattern = {"id": "make", "type": "jinja2", "template": "x"}
    (fault,) = refused("content", content(generation={"patterns": [pattern, pattern]}))
    assert fault["path"] == "$.generation.patterns[1].id"


@pytest.mark.parametrize(("written", "meant"), [("yes", True), ("On", True), ("no", False), ("OFF", False)])
def test_what_was_true_or_false_in_yaml_1_1_still_is_in_a_config(written: str, meant: bool):
    """With a warning: in YAML 1.2 these are texts."""
    document = content()
    document["children"][0]["required"] = written
    parsed = parse_config("content", document, where="a.yaml")
    assert parsed.config.children[0].required is meant
    assert [warning.code for warning in parsed.warnings] == ["spelling"]
