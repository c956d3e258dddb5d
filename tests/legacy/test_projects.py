"""Projects of chora-compose, with every known deviation, work unchanged."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from chora import settings
from chora.cli import program
from chora.engine.engine import open_engine
from tests.conftest import Asking, Project, content, requirement, text

HERE = Path(__file__).parent


def copied(name: str, tmp_path: Path) -> Project:
    shutil.copytree(HERE / name, tmp_path / name)
    return Project(tmp_path / name)


@pytest.fixture
def harbour(tmp_path: Path) -> Project:
    """Both folder layouts, both spellings of sources, JSON and YAML, and no chora.toml."""
    return copied("harbour", tmp_path)


@pytest.fixture
async def keeper(harbour: Project) -> AsyncGenerator[Asking]:
    """The harbour, opened."""
    async with open_engine(harbour.root, settings.load(harbour.root, {}).settings) as engine:
        yield Asking(engine)


@pytest.fixture
def log(tmp_path: Path) -> Project:
    """The `chora-configs` layout, with runtime variables."""
    return copied("report", tmp_path)


@pytest.fixture
async def lock_keeper(log: Project) -> AsyncGenerator[Asking]:
    async with open_engine(log.root, settings.load(log.root, {}).settings) as engine:
        yield Asking(engine)


WEEKLY = """# Norrvik, week 12
Tone: formal
## Tides
- Monday: 1.2 m
- Tuesday: 1.4 m
## Small craft
Life vests.
Gauge: North pierNone
## Berths
Berth 4 is closed on Friday.
All others are open.
"""
CONTEXT: dict[str, Any] = {"port": "Norrvik", "week": {"number": 12}, "tone": "formal"}


def squeezed(text: str) -> str:
    """The text without its blank lines."""
    return "".join(f"{line}\n" for line in text.splitlines() if line.strip())


@requirement("layouts.content", "layouts.artifact", "layouts.yaml", "rulings.c16", "legacy.runs-unchanged")
async def test_everything_is_found(keeper: Asking):
    """In flat and nested folders, singular and plural, with every suffix; all are valid."""
    contents = await keeper("list_content_configs")
    assert {each["id"]: each["file_path"] for each in contents["configs"]} == {
        "berth-note": "configs/content/berth-note.json",
        "skippers": "configs/content/skippers/skippers.yaml",
        "tide-table": "configs/content/tide-table/tide-table-content.json",
        "welcome": "configs/content/welcome-content.json",
    }
    artifacts = await keeper("list_artifact_configs")
    assert {each["id"]: each["file_path"] for each in artifacts["configs"]} == {
        "lock": "configs/artifacts/lock-artifact.json",
        "weekly": "configs/artifact/weekly/weekly-artifact.json",
    }
    assert contents["invalid"] == artifacts["invalid"] == []
    members = await keeper("list_collection_members", collection_config_path="season", recursive=True)
    assert [each["id"] for each in members["members"]] == ["weekly", "papers", "lock"]
    assert [each["error"] for each in members["members"]] == [None] * 3


@requirement("legacy.runs-unchanged")
@pytest.mark.parametrize("content_id", ["berth-note", "tide-table", "welcome", "skippers"])
async def test_every_content_is_generated(keeper: Asking, content_id: str):
    """And skipped the second time."""
    arguments: dict[str, Any] = {"content_config_id": content_id, "context": CONTEXT}
    assert (await keeper("generate_content", **arguments))["status"] == "generated"
    assert (await keeper("generate_content", **arguments))["status"] == "skipped"


@requirement("legacy.runs-unchanged", "sources.long-spelling", "sources.selectors.heading", "rulings.c33")
async def test_an_artifact_is_assembled(keeper: Asking, harbour: Project):
    """From four children with four kinds of paths, of which the optional one is missing."""
    made = await keeper("assemble_artifact", artifact_config_id="weekly", context=CONTEXT)
    assert made["output_path"] == "output/weekly.md"
    assert made["metadata"]["missing_content"] == ["advert"]
    assert squeezed(harbour.read("output/weekly.md")) == WEEKLY


@requirement("legacy.runs-unchanged", "sources.short-spelling", "collection.nested", "collection.propagation.merge")
async def test_a_collection_is_built(keeper: Asking, harbour: Project):
    """With its shared context, its nested collection in another folder, its rules and its manifest."""
    made = await keeper("generate_collection", collection_config_path="season")
    base = "outputs/collections/season"
    assert made["manifest_path"] == f"{base}/manifest.json"
    assert squeezed(harbour.read(f"{base}/weekly/weekly.md")) == WEEKLY
    feature = harbour.read(f"{base}/papers/lock/lock.feature")
    assert feature.startswith("@lock\nFeature: Passing the lock\n")
    assert "Given the lock at Norrvik is open" in feature
    again = await keeper("generate_collection", collection_config_path="season")
    assert again["metadata"]["cached_members"] == 2
    assert (await keeper("check_freshness", collection_config_path="season"))["recommendation"] == "all_fresh"
    aged = await keeper("check_freshness", collection_config_path="season")
    assert [each["max_age_days"] for each in aged["members"]] == [5, 7]


@requirement("rulings.c32", "legacy.lenient")
async def test_undefined_names_are_warnings(keeper: Asking):
    """Empty in the text, and one warning each in the metadata."""
    made = await keeper("generate_content", content_config_id="tide-table")
    assert "- Monday: 1.2 m\n" in made["content"]
    assert "remark is undefined and was rendered empty" in made["metadata"]["warnings"]
    assert any(warning.startswith("The optional source lost") for warning in made["metadata"]["warnings"])


@requirement("rulings.c32")
async def test_with_chora_toml_the_same_project_is_strict(harbour: Project):
    """With a chora.toml, undefined names are errors, unless it says otherwise."""
    (harbour.root / "chora.toml").write_text("")
    async with open_engine(harbour.root, settings.load(harbour.root, {}).settings) as engine:
        await Asking(engine).refused("generate_content", "generation_failed", content_config_id="tide-table")
    (harbour.root / "chora.toml").write_text('[templates]\nundefined = "lenient"\n')
    async with open_engine(harbour.root, settings.load(harbour.root, {}).settings) as engine:
        assert await Asking(engine)("generate_content", content_config_id="tide-table")


@requirement("rulings.c34", "rulings.c35")
async def test_what_was_normalised_is_reported(keeper: Asking, harbour: Project):
    """One issue each, with what to write; unknown keys are kept and only an information."""
    before = harbour.files()
    found = await keeper("validate_content", content_or_config_id="berth-note")
    codes = [(issue["severity"], issue["code"], issue["location"]) for issue in found["issues"]]
    assert ("warning", "schema_ref", "$.schemaRef") in codes
    assert ("warning", "spelling", "$.metadata.version") in codes
    assert ("warning", "spelling", "$.metadata.generation_frequency") in codes
    assert ("info", "unknown_key", "$.metadata.author") in codes
    assert ("info", "unknown_key", "$.metadata.tags") in codes
    assert found["valid"] is True
    other = await keeper("validate_content", content_or_config_id="tide-table")
    assert "pattern_context" in [issue["code"] for issue in other["issues"]]
    absent = await keeper("validate_content", content_or_config_id="welcome")
    assert "schema_ref_missing" in [issue["code"] for issue in absent["issues"]]
    assert harbour.files() == before, "reading changes no file"


@requirement("rulings.c34")
async def test_a_misspelt_key_is_named_with_the_near_one(keeper: Asking, harbour: Project):
    """An unknown key may be intended; one that is similar to a known key is likely a typo."""
    harbour.save({**text("slip", "A text of some length."), "evolutoin": {"stage": "review"}})
    found = await keeper("validate_content", content_or_config_id="slip")
    (issue,) = [issue for issue in found["issues"] if issue["code"] == "unknown_key"]
    assert "evolution" in json.dumps(issue)


@requirement("rulings.c34", "rulings.c24")
async def test_changing_a_config_keeps_what_chora_does_not_know(keeper: Asking, harbour: Project):
    """Unknown keys, and the layout."""
    updates = {"metadata": {"description": "Berths of the week"}}
    made = await keeper("modify_config", config_id="berth-note", updates=updates)
    assert made["config_path"] == "configs/content/berth-note.json"
    written = json.loads(harbour.read("configs/content/berth-note.json"))
    assert written["metadata"]["tags"] == ["berths", "weekly"]
    assert written["metadata"]["description"] == "Berths of the week"


@requirement("rulings.c33")
@pytest.mark.parametrize(
    ("document", "runs"),
    [
        (content("note", pattern={"type": "template_fill", "template": "{{ content_id }}"}), True),
        (content("note", pattern={"type": "demonstration"}), False),
        (content("note"), False),
    ],
    ids=["another generator", "demonstration", "no generator"],
)
async def test_elements_are_only_needed_where_they_are_shown(
    keeper: Asking, harbour: Project, document: dict[str, Any], runs: bool
):
    """The old documentation requires them everywhere, but existing configs leave them out."""
    harbour.save(document)
    answer = await keeper.answer("generate_content", {"content_config_id": "note"})
    assert answer["success"] is runs
    if not runs:
        assert "elements" in json.dumps(answer["error"]) or "element" in json.dumps(answer["error"])


# -- variables that are declared --------------------------------------------------------------------------------

PASSAGES = [{"boat": "Alma", "at": "9:00"}, {"boat": "Brita", "at": "9:20"}]


@requirement("rulings.c36", "rulings.c38", "legacy.runs-unchanged")
async def test_declared_variables_are_the_callers(lock_keeper: Asking):
    """A default is used for a missing one; the declaration itself is never rendered."""
    context: dict[str, Any] = {"day": "Monday", "passages": PASSAGES}
    made = await lock_keeper("generate_content", content_config_id="daily-log", context=context)
    assert made["content"].startswith("# Monday, 24 hours")
    assert "- Brita at 9:20" in made["content"]
    assert "runtime" not in made["content"]
    other = await lock_keeper("generate_content", content_config_id="daily-log", context={**context, "hours": 6})
    assert other["content"].startswith("# Monday, 6 hours")


@requirement("rulings.c36")
async def test_a_required_variable_that_is_missing_is_named(lock_keeper: Asking):
    """With its description; one of another type is refused too."""
    missing = await lock_keeper.refused(
        "generate_content", "generation_failed", content_config_id="daily-log", context={"passages": []}
    )
    assert missing["details"]["missing_variable"] == "day"
    assert "The day that is reported" in missing["message"]
    wrong = await lock_keeper.refused(
        "generate_content",
        "generation_failed",
        content_config_id="daily-log",
        context={"day": "Monday", "passages": {"boat": "Alma"}},
    )
    assert (wrong["details"]["expected_type"], wrong["details"]["received_type"]) == ("array", "object")


@requirement("rulings.c36")
async def test_a_declaration_is_never_merged_into_what_the_caller_gives(lock_keeper: Asking, log: Project):
    """The caller's object replaces it."""
    declared = {"port": {"source": "runtime", "type": "object", "default": {"name": "Norrvik", "depth": 4}}}
    pattern = {"type": "jinja2", "template": "{{ port | tojson }}", "generation_config": {"context": declared}}
    log.write("chora-configs/content/note.json", msgspec.json.encode(content("note", pattern=pattern)))
    given = await lock_keeper("generate_content", content_config_id="note", context={"port": {"name": "Sorrvik"}})
    assert json.loads(given["content"]) == {"name": "Sorrvik"}
    default = await lock_keeper("generate_content", content_config_id="note")
    assert json.loads(default["content"]) == {"name": "Norrvik", "depth": 4}


@requirement("rulings.c38")
def test_the_other_layout_is_found_from_within(log: Project, monkeypatch: pytest.MonkeyPatch):
    """A folder with `chora-configs` is a project, also from a folder below it."""
    monkeypatch.chdir(log.root / "chora-configs" / "templates")
    result = CliRunner().invoke(program, ["ls", "content", "--json"])
    assert [each["id"] for each in json.loads(result.stdout)["content"]] == ["daily-log"]


@requirement("rulings.c38")
def test_a_project_is_imported(log: Project, project: Project):
    """`chora import` finds the other layout, and sets templates to lenient."""
    (project.root / "chora.toml").unlink()
    done = CliRunner().invoke(program, ["--project", str(project.root), "import", str(log.root), "--json"])
    assert done.exit_code == 0, done.output
    assert 'undefined = "lenient"' in project.read("chora.toml")
    context = json.dumps({"day": "Monday", "passages": PASSAGES})
    made = CliRunner().invoke(program, ["--project", str(project.root), "generate", "daily-log", "-c", context])
    assert made.stdout.startswith("# Monday, 24 hours")


# -- other dialects ---------------------------------------------------------------------------------------------

DIALECTS: dict[str, tuple[dict[str, Any], str]] = {
    "content_elements": ({"content_elements": [{"id": "a"}], "elements": ...}, "content_elements"),
    "element ids": (
        {"elements": [{"id": "intro", "generation_pattern": "x", "example_output": "x"}]},
        "elements with id and generation_pattern",
    ),
    "underscored id": ({"id": "daily_note"}, "underscores in ids"),
    "content_config": ({"content_config": {"id": "note"}, "metadata": ...}, "content_config"),
    "flat YAML": (
        {"content_id": "note", "generator_type": "jinja2", "template_path": "a.j2", "id": ..., "generation": ...},
        "content_id",
    ),
    "generation.generator": ({"generation": {"generator": {"type": "jinja2"}}}, "generation.generator"),
}


@requirement("rulings.c37", "rulings.c15")
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_another_config_format_is_refused_by_name(keeper: Asking, harbour: Project, dialect: str):
    """With what to write; and it stays in the list."""
    changes, named = DIALECTS[dialect]
    document = {**text("note", "x"), **changes}
    document = {key: value for key, value in document.items() if value is not ...}
    harbour.write("configs/content/note.json", msgspec.json.encode(document))
    refused = await keeper.refused("draft_config", "validation_error", config_type="content", config_data=document)
    faults = [each for each in refused["details"]["schema_errors"] if "another dialect" in each["message"]]
    assert any(named in each["message"] for each in faults), refused
    assert all(each["write"] for each in faults)
    assert [each["file_path"] for each in (await keeper("list_content_configs"))["invalid"]] == [
        "configs/content/note.json"
    ]


# -- Gherkin and JSONPath beyond the first steps ----------------------------------------------------------------


@requirement("rulings.c39", "generators.bdd-scenario.beyond-strings")
async def test_gherkin_has_tables_docstrings_rules_and_languages(keeper: Asking, harbour: Project):
    """Steps may be objects, scenarios may have several examples, features rules and a language."""
    feature = {
        "feature": {"title": "Lock"},
        "rules": [
            {
                "title": "Small boats first",
                "scenarios": [
                    {
                        "title": "Two boats",
                        "steps": [
                            {"text": "Given the boats", "table": [["name", "length"], ["Alma", "7"]]},
                            {"text": "When they call", "docstring": "Lock, this is Alma."},
                            "Then Alma goes first",
                        ],
                    }
                ],
            }
        ],
        "scenario_outlines": [
            {
                "title": "Lengths",
                "steps": ["Given a boat of <length> m", "Then it passes"],
                "examples": [
                    {"headers": ["length"], "rows": [["7"]]},
                    {"headers": ["length"], "rows": [["12"]]},
                ],
            }
        ],
    }
    harbour.save(content("lock-note", pattern={"type": "bdd_scenario", "generation_config": feature}))
    made = (await keeper("generate_content", content_config_id="lock-note"))["content"]
    assert "Rule: Small boats first" in made
    assert re.search(r"\| Alma \| 7 +\|", made)
    assert '"""' in made
    assert made.count("Examples:") == 2


@requirement("rulings.c39")
async def test_an_undefined_placeholder_is_kept(keeper: Asking, harbour: Project):
    """In a lenient project, with a warning."""
    scenario = {"title": "One", "steps": ["Given the port {{ nowhere }}"]}
    feature = {"feature": {"title": "Lock"}, "scenarios": [scenario]}
    harbour.save(content("lock-note", pattern={"type": "bdd_scenario", "generation_config": feature}))
    made = await keeper("generate_content", content_config_id="lock-note")
    assert "Given the port {{ nowhere }}" in made["content"]
    assert made["metadata"]["warnings"]


@requirement("rulings.c40", "sources.selectors.jsonpath")
@pytest.mark.parametrize(
    ("selector", "value"),
    [
        ("$.week.days[0].name", "Monday"),
        ("$.week.days[*].high", [1.2, 1.4]),
        ("$..name", ["Monday", "Tuesday"]),
        ("$.week.days[?@.high > 1.3].name", "Tuesday"),
        ("$['week']['days'][-1]['high']", 1.4),
        ("$.week.days[0:1]", {"name": "Monday", "high": 1.2}),
        ("$", {"week": {"days": [{"name": "Monday", "high": 1.2}, {"name": "Tuesday", "high": 1.4}]}}),
    ],
)
async def test_every_jsonpath_selects(keeper: Asking, harbour: Project, selector: str, value: Any):
    """One match gives the value, several a list."""
    source = {"id": "found", "source_type": "external_file", "source_locator": "data/tides.json"}
    pattern = {"type": "jinja2", "template": "{{ found | tojson }}"}
    harbour.save(content("note", pattern=pattern, sources=[{**source, "data_selector": selector}]))
    assert json.loads((await keeper("generate_content", content_config_id="note"))["content"]) == value


@requirement("rulings.c40")
async def test_a_jsonpath_without_a_match_names_its_source(keeper: Asking, harbour: Project):
    """An error, not an empty text."""
    source = {"id": "found", "source_type": "external_file", "source_locator": "data/tides.json"}
    harbour.save(
        content(
            "note",
            pattern={"type": "jinja2", "template": "{{ found }}"},
            sources=[{**source, "data_selector": "$.month"}],
        )
    )
    refused = await keeper.refused("generate_content", "generation_failed", content_config_id="note")
    assert refused["details"]["source_id"] == "found"


# -- what was stored --------------------------------------------------------------------------------------------


@requirement("legacy.history")
def test_old_history_can_be_imported_into_its_own_project(harbour: Project):
    """The texts in `ephemeral/` become versions with their times."""
    command = ["--project", str(harbour.root), "import", str(harbour.root), "--json"]
    first = CliRunner().invoke(program, command)
    assert json.loads(first.stdout)["versions"]["imported"] == 1, first.output
    listed = CliRunner().invoke(program, ["--project", str(harbour.root), "call", "list_content", "--json"])
    by_id = {each["id"]: each for each in json.loads(listed.stdout)["content"]}
    assert by_id["berth-note"]["versions_available"] == 1
    assert by_id["berth-note"]["last_generated"].startswith("2025-10-21T14:00:00")
