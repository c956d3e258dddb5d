"""validate_content, validate_collection_config and check_freshness."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from chora.cli import validate as cli_validate
from chora.engine.engine import Engine
from chora.protocol.types import Call
from chora.timestamps import format_timestamp
from chora.tools import TOOLS, validation
from chora.tools.validation import ISSUES_SHOWN, RULES_LIMIT
from tests.conftest import Asking, Project, artifact, child, content, requirement, text, unchanged
from tests.patience import may_have_taken


def collection(id: str, *members: str, **rest: Any) -> dict[str, Any]:
    listed = [{"id": member, "type": "artifact", "path": f"{member}.json"} for member in members]
    return {"type": "collection", "id": id, "name": id, "members": listed, "output": {"base_path": f"out/{id}"}, **rest}


# -- validate_content -------------------------------------------------------------------------------------------


@requirement("tools.validate-content.result", "tools.validate-content.valid", "tools.negative-findings")
async def test_a_text_is_validated(project: Project, ask: Asking):
    """The result counts the issues, and only errors make the text invalid."""
    project.save(text("note", "Everything is well, [TBD]"))
    await ask("generate_content", content_config_id="note")
    with unchanged(project):
        found = await ask(
            "validate_content",
            content_or_config_id="note",
            validation_rules=[
                {"type": "length", "config": {"max": 10}},
                {"type": "spelling"},
                {"type": "format", "config": {"format": "typescript"}},
            ],
        )
    assert (found["valid"], found["content_or_config_id"], found["rule_count"]) == (False, "note", 3)
    assert (found["error_count"], found["warning_count"], found["info_count"]) == (2, 1, 1)
    assert found["issues"][1] == {
        "severity": "error",
        "code": "content_too_long",
        "message": "It has 25 characters, and 10 are allowed.",
        "location": None,
        "details": {"actual": 25, "limit": 10},
    }
    assert found["truncated"] is False
    assert may_have_taken(found["duration_ms"] / 1000)
    assert (await ask("validate_content", content_or_config_id="note"))["valid"] is True


@requirement("server.echo")
async def test_texts_in_issues_are_cut(project: Project, ask: Asking):
    """What a rule, a text or a config says is repeated as far as it helps, in an issue as in an error."""
    project.save(text("note", '{"a": 1}'))
    await ask("generate_content", content_config_id="note")
    rule = {"type": "required_fields", "config": {"fields": ["x" * 100_000]}}
    found = await ask("validate_content", content_or_config_id="note", validation_rules=[rule])
    (issue,) = [each for each in found["issues"] if each["code"] == "missing_required_field"]
    assert issue["message"].endswith("characters)")
    assert len(json.dumps(issue)) < 10_000
    project.save(collection("pack", "y" * 200, **{"z" * 100_000: 1}))
    found = await ask("validate_collection_config", collection_config_path="pack")
    assert found["issues"]
    assert len(json.dumps(found["issues"])) < 10_000


@requirement("tools.validate-content.rules")
@pytest.mark.parametrize(
    "rules",
    [
        [{"type": "length", "severity": "warning", "config": {"min": 100}}],
        [{"type": "length", "severity": "warning", "min": 100}],
        [{"type": "length", "severity": "warning", "min_length": 100, "config": None}],
        [{"type": "length", "severity": "warning", "config": '{"min": 100}'}],
        [{"check_type": "length", "severity": "warning", "check_config": {"min": 100}, "id": "x", "target": ""}],
        '[{"type": "length", "severity": "warning", "config": {"min": 100}}]',
    ],
)
async def test_rules_may_have_several_forms(project: Project, ask: Asking, rules: Any):
    """The tool's form, that of configs, with options next to the type, and as a JSON string."""
    project.save(text("note", "Everything is well."))
    await ask("generate_content", content_config_id="note")
    found = await ask("validate_content", content_or_config_id="note", validation_rules=rules)
    assert [(issue["severity"], issue["code"]) for issue in found["issues"]] == [("warning", "content_too_short")]


@pytest.mark.parametrize("rules", [None, [], "", " ", "[]", "null"])
async def test_rules_are_optional(project: Project, ask: Asking, rules: Any):
    """The built-in checks run all the same."""
    project.save(text("note", "Everything is well."))
    found = await ask("validate_content", content_or_config_id="note", validation_rules=rules)
    assert (found["valid"], found["rule_count"]) == (True, 0)


@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        ("length", "it is not an object"),
        ({}, "it has no type"),
        ({"type": 5}, "it has no type"),
        ({"type": "length", "severity": "fatal"}, "its severity is none of error, warning, info"),
        ({"type": "length", "severity": ["error"]}, "its severity is none of"),
        ({"type": "length", "target": 5}, "its target is not a string"),
        ({"type": "length", "config": 5}, "config is of type number"),
        ({"type": "length", "config": "{"}, "config is a string that is not JSON"),
    ],
)
async def test_an_invalid_rule_is_an_issue(project: Project, ask: Asking, rule: Any, problem: str):
    """With its position; the others are checked."""
    project.save(text("note", "Everything is well."))
    found = await ask("validate_content", content_or_config_id="note", validation_rules=[{"type": "spelling"}, rule])
    assert [issue["code"] for issue in found["issues"]] == ["unknown_rule_type", "invalid_rule"]
    issue = found["issues"][1]
    assert (issue["severity"], issue["location"]) == ("error", "validation_rules[1]")
    assert f"is not a rule: {problem}" in issue["message"]
    assert (found["valid"], found["rule_count"]) == (False, 2)


@pytest.mark.parametrize(
    "rules", ["{", 5, {"type": "length"}, "[" * 5000, '"length"', [{"type": "x"}] * (RULES_LIMIT + 1)]
)
async def test_an_invalid_list_of_rules_is_refused(project: Project, ask: Asking, rules: Any):
    """Nothing is checked, and the error says how to write it."""
    project.save(text("note", "Everything is well."))
    error = await ask.refused("validate_content", "invalid_input", content_or_config_id="note", validation_rules=rules)
    assert error["details"]["field"] == "validation_rules"


async def test_as_many_rules_as_the_limit_are_checked(project: Project, ask: Asking):
    """Each of them."""
    project.save(text("note", "Everything is well."))
    rules = [{"type": "length"}] * RULES_LIMIT
    found = await ask("validate_content", content_or_config_id="note", validation_rules=rules)
    assert found["rule_count"] == RULES_LIMIT


@requirement("tools.validate-content.errors")
async def test_an_unknown_name_is_an_error(ask: Asking):
    """Not found, or not an id."""
    error = await ask.refused("validate_content", "config_not_found", content_or_config_id="nothing")
    assert error["details"]["content_or_config_id"] == "nothing"
    await ask.refused("validate_content", "invalid_config_id", content_or_config_id="../nothing")


@requirement("tools.validate-content.errors")
async def test_a_rule_that_cannot_be_checked(project: Project, ask: Asking, engine: Engine):
    """The error says which and why."""
    project.save(text("note", "a" * 5000))
    await ask("generate_content", content_config_id="note")
    engine.templates.pool._settings = msgspec.structs.replace(engine.settings.render, wall=1.5)
    error = await ask.refused(
        "validate_content",
        "validation_execution_failed",
        content_or_config_id="note",
        validation_rules=[{"type": "regex", "config": {"pattern": "(a+)+b"}}],
    )
    assert error["details"]["rule_type"] == "regex"
    assert error["details"]["error"]


async def test_of_very_many_issues_the_worst_are_shown(project: Project, engine: Engine, ask: Asking):
    """The counts are of all of them; the command line gets all."""
    project.save(text("note", "x" * 20))
    await ask("generate_content", content_config_id="note")
    rules = [{"type": "regex", "severity": "warning", "pattern": "y"}] * 60
    wrong = {"type": "required_fields", "config": {"fields": [f"f{index}" for index in range(500)]}}
    arguments = {"content_or_config_id": "note", "validation_rules": [*rules, wrong]}
    found = await ask("validate_content", **arguments)
    assert len(found["issues"]) == ISSUES_SHOWN
    assert {issue["severity"] for issue in found["issues"]} == {"error"}
    assert (found["truncated"], found["error_count"], found["warning_count"]) == (True, 500, 60)
    answer = await TOOLS["validate_content"].run_tool(engine, msgspec.json.encode(arguments), Call("cli", len(TOOLS)))
    assert len(msgspec.json.decode(answer.body)["issues"]) == 560


# -- validate_collection_config ---------------------------------------------------------------------------------


@requirement("tools.validate-collection-config.result")
async def test_a_collection_config_is_validated(project: Project, ask: Asking):
    """Issues with their member, missing configs, the number of members and the depth."""
    inner = {"id": "inner", "type": "collection", "path": "inner.json"}
    outer = collection("outer", "one", "gone")
    outer["members"].append(inner)
    project.save(text("a", "x"), artifact("one", [child("a")]), collection("inner", "one", "lost"), outer)
    with unchanged(project):
        found = await ask("validate_collection_config", collection_config_path="outer.json")
    assert found["valid"] is False
    assert (found["collection_id"], found["error_count"], found["warning_count"]) == ("outer", 2, 0)
    assert found["issues"][0] == {
        "severity": "error",
        "code": "missing_config",
        "message": "There is no artifact config at 'gone.json'.",
        "member_id": "gone",
    }
    assert found["metadata"] == {"total_members": 3, "missing_configs": ["gone", "inner/lost"], "depth": 2}
    quick = await ask("validate_collection_config", collection_config_path="outer", check_member_configs=False)
    assert (quick["valid"], quick["metadata"]["missing_configs"]) == (True, [])


@requirement("tools.validate-collection-config.errors")
async def test_a_collection_config_that_cannot_be_read(project: Project, ask: Asking):
    """An error with every fault; nothing is validated further."""
    project.save(collection("pack"))
    error = await ask.refused("validate_collection_config", "validation_failed", collection_config_path="pack.json")
    assert error["details"]["schema_errors"][0]["path"] == "$.members"
    error = await ask.refused("validate_collection_config", "config_not_found", collection_config_path="nothing")
    assert error["details"]["config_path"] == "nothing"
    await ask.refused("validate_collection_config", "invalid_config_id", collection_config_path="../../x.json")


async def test_a_collection_of_which_everything_is_missing(project: Project, ask: Asking):
    """The result is still a success with issues."""
    project.save(collection("pack", *(f"m{index}" for index in range(600))))
    found = await ask("validate_collection_config", collection_config_path="pack")
    assert (len(found["issues"]), len(found["metadata"]["missing_configs"])) == (ISSUES_SHOWN, ISSUES_SHOWN)
    assert (found["error_count"], found["truncated"], found["metadata"]["total_members"]) == (600, True, 600)


# -- check_freshness --------------------------------------------------------------------------------------------


class Moment(datetime):
    """A stopped clock."""

    @classmethod
    def now(cls, tz: Any = None) -> datetime:
        return datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


@pytest.fixture
def manifest(project: Project, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Write a manifest in which each member was built so many days ago."""
    monkeypatch.setattr(validation, "datetime", Moment)

    def write(path: str, collection_id: str, ages: dict[str, Any]) -> None:
        members = [
            {
                "id": member,
                "status": "success",
                "generated_at": format_timestamp(Moment.now() - timedelta(days=age))
                if isinstance(age, int | float)
                else age,
            }
            for member, age in ages.items()
        ]
        project.write(path, json.dumps({"collection_id": collection_id, "members": members}))

    return write


def dated(id: str, *limits: float | None, **rest: Any) -> dict[str, Any]:
    """A collection of the members `m0`, `m1` …, each with its maximum age."""
    document = collection(id, *(f"m{index}" for index in range(len(limits))), **rest)
    for member, limit in zip(document["members"], limits, strict=True):
        if limit is not None:
            member["freshness_threshold_days"] = limit
    return document


@requirement("freshness.bands")
async def test_the_limits_of_freshness(project: Project, ask: Asking, manifest: Any):
    """Stale from exactly four fifths of the maximum age on, expired from exactly all of it."""
    project.save(dated("pack", *[10] * 6))
    manifest("out/pack/manifest.json", "pack", {"m0": 0, "m1": 7.999, "m2": 8, "m3": 9.999, "m4": 10, "m5": -1})
    found = await ask("check_freshness", collection_config_path="pack")
    bands = ["fresh", "fresh", "stale", "stale", "expired", "fresh"]
    assert [member["freshness_status"] for member in found["members"]] == bands
    assert (found["fresh_count"], found["stale_count"], found["expired_count"]) == (3, 2, 1)
    assert (found["overall_status"], found["recommendation"]) == ("expired", "regenerate_expired")
    assert found["action"] == "regenerate_immediately"
    assert found["checked_at"] == "2026-11-22T12:00:00.000Z"
    stale, expired, future = found["members"][2], found["members"][4], found["members"][5]
    assert stale == {
        "member_id": "m2",
        "generated_at": "2026-11-14T12:00:00.000Z",
        "age_days": 8.0,
        "max_age_days": 10.0,
        "freshness_status": "stale",
        "expires_at": "2026-11-24T12:00:00.000Z",
        "threshold_percentage": 80.0,
        "expires_in_days": 2.0,
        "expired_by_days": None,
    }
    assert [member["threshold_percentage"] for member in found["members"]] == [0.0, 80.0, 80.0, 100.0, 100.0, 0.0]
    assert (expired["expires_in_days"], expired["expired_by_days"]) == (None, 0.0)
    assert future["age_days"] == 0.0
    assert found["metadata"] == {
        "oldest_age_days": 10.0,
        "newest_age_days": 0.0,
        "average_age_days": 5.9997,
        "manifest_path": "out/pack/manifest.json",
    }


@pytest.mark.parametrize(
    ("ages", "overall", "recommendation", "action"),
    [
        ({"m0": 1, "m1": 2}, "fresh", "all_fresh", "no_action"),
        ({"m0": 1, "m1": 6}, "stale", "regenerate_stale", "schedule_regeneration"),
        ({"m0": 6, "m1": 8}, "expired", "regenerate_expired", "regenerate_immediately"),
        ({"m0": 1}, "expired", "regenerate_expired", "regenerate_immediately"),
    ],
)
async def test_the_worst_member_decides(
    project: Project, ask: Asking, manifest: Any, ages: Any, overall: str, recommendation: str, action: str
):
    """Seven days by default; one that was never built counts as expired."""
    project.save(dated("pack", None, None))
    manifest("out/pack/manifest.json", "pack", ages)
    found = await ask("check_freshness", collection_config_path="pack")
    assert (found["overall_status"], found["recommendation"], found["action"]) == (overall, recommendation, action)
    if ages == {"m0": 6, "m1": 8}:
        assert [member["threshold_percentage"] for member in found["members"]] == [85.7, 114.3]
        assert [member["expires_in_days"] for member in found["members"]] == [1.0, None]
        assert [member["expired_by_days"] for member in found["members"]] == [None, 1.0]
    assert [member["max_age_days"] for member in found["members"]] == [7.0, 7.0]


async def test_unknown_ages_are_expired(project: Project, ask: Asking, manifest: Any):
    """No time, an invalid one: expired, without an age. Without a zone it is UTC."""
    project.save(dated("pack", 1, 1, 1, 1e9))
    manifest("out/pack/manifest.json", "pack", {"m0": None, "m1": "yesterday", "m3": "2026-11-22T00:00:00"})
    found = await ask("check_freshness", collection_config_path="pack")
    assert [member["age_days"] for member in found["members"]] == [None, None, None, 0.5]
    assert [member["freshness_status"] for member in found["members"]] == ["expired"] * 3 + ["fresh"]
    assert (found["members"][0]["threshold_percentage"], found["members"][3]["expires_at"]) == (None, None)
    failed = {"id": "m0", "status": "failed", "generated_at": format_timestamp(Moment.now())}
    project.write("out/pack/manifest.json", json.dumps({"collection_id": "pack", "members": [failed]}))
    found = await ask("check_freshness", collection_config_path="pack")
    assert found["metadata"]["average_age_days"] == 0.0, "it failed, and what it made before is still there"


async def test_freshness_that_is_disabled(project: Project, ask: Asking):
    """Everything is fresh, and no manifest is needed."""
    project.save(dated("pack", 1, freshness={"enabled": False}))
    found = await ask("check_freshness", collection_config_path="pack")
    assert (found["freshness_enabled"], found["members"], found["overall_status"]) == (False, [], "fresh")
    assert found["metadata"]["manifest_path"] is None


@pytest.mark.parametrize("body", [None, "{", '{"collection_id": "other", "members": []}', "[" * 5000, b"\xff"])
async def test_no_manifest_of_this_collection(project: Project, ask: Asking, body: Any):
    """None, an unreadable one, or a foreign one."""
    project.save(dated("pack", 1))
    if body is not None:
        project.write("out/pack/manifest.json", body)
    error = await ask.refused("check_freshness", "manifest_not_found", collection_config_path="pack")
    assert (error["details"]["collection_id"], error["details"]["manifest_path"]) == ("pack", "out/pack/manifest.json")


async def test_a_collection_that_was_built_elsewhere(project: Project, ask: Asking, manifest: Any):
    """The base path can be given; it must be among the outputs."""
    project.save(dated("pack", 1))
    manifest("elsewhere/manifest.json", "pack", {"m0": 0})
    found = await ask("check_freshness", collection_config_path="pack", output_path="elsewhere")
    assert found["metadata"]["manifest_path"] == "elsewhere/manifest.json"
    await ask.refused("check_freshness", "permission_denied", collection_config_path="pack", output_path="../x")
    await ask.refused("check_freshness", "invalid_config_id", collection_config_path="../../x.json")
    await ask.refused("check_freshness", "config_not_found", collection_config_path="nothing")


async def test_freshness_of_a_built_collection(project: Project, ask: Asking):
    """A nested collection has the age of its oldest member."""
    project.save(text("a", "x"), artifact("one", [child("a")]), collection("inner", "one"))
    outer = collection("outer", "one")
    outer["members"].append({"id": "inner", "type": "collection", "path": "inner.json"})
    project.save(outer)
    await ask("generate_collection", collection_config_path="outer")
    found = await ask("check_freshness", collection_config_path="outer")
    assert [(member["member_id"], member["freshness_status"]) for member in found["members"]] == [
        ("one", "fresh"),
        ("inner", "fresh"),
    ]
    assert all(member["age_days"] < 0.01 for member in found["members"])


# -- on the command line ----------------------------------------------------------------------------------------


def run(project: Project, *arguments: str) -> Any:
    return CliRunner().invoke(cli_validate.command, list(arguments), obj=str(project.root))


def test_the_command_prints_the_issues(project: Project):
    """One line for each issue, and exit code 1 if one is an error."""
    project.save(content("note", pattern={"type": "telepathy"}), text("fine", "Everything is well."))
    done = run(project, "note")
    assert done.exit_code == 1
    assert "error generation.patterns[0].type: There is no generator 'telepathy'" in done.stdout
    assert "[invalid_generator]" in done.stdout
    assert "1 error, 0 warnings" in done.stderr
    done = run(project, "fine", "--rules", '[{"type": "presence"}]')
    assert done.exit_code == 0
    assert "warning fine: " in done.stdout
    assert run(project, "nothing").exit_code == 3
    assert run(project, "fine", "--rules", "{").exit_code == 2


def test_the_command_validates_collections(project: Project):
    """With the member of each issue, or as the tool's JSON."""
    project.save(collection("pack", "gone"))
    done = run(project, "pack", "--collection")
    assert done.exit_code == 1
    assert done.stdout.startswith("error gone: There is no artifact config")
    answer = json.loads(run(project, "pack", "--collection", "--json").stdout)
    assert (answer["success"], answer["valid"]) == (True, False)


def test_the_command_needs_only_the_project_folder(tmp_path: Path):
    """A folder that is no project is an error."""
    assert CliRunner().invoke(cli_validate.command, ["x"], obj=str(tmp_path / "nowhere")).exit_code == 3
