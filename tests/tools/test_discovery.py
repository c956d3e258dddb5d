"""The tools that list and trace."""

from __future__ import annotations

import os
from typing import Any

import pytest

from chora import settings
from chora.engine.engine import Engine, open_engine
from chora.files import Folder
from chora.generators import jinja2
from chora.protocol.types import Call
from chora.tools import TOOLS
from tests.conftest import Asking, Project, artifact, child, content, requirement, text
from tests.tools.answers import STAMP, taken

# -- list_generators --------------------------------------------------------------------------------------------

GENERATORS = ["demonstration", "jinja2", "template_fill", "bdd_scenario", "code_generation"]

PAGE = ("total", "returned", "next_offset", "invalid", "invalid_total", "duration_ms")
"""The fields of every list of configs, besides its rows."""


@requirement("tools.list-generators.filter", "generators.five")
@pytest.mark.parametrize(
    ("arguments", "names", "filtered"),
    [
        ({}, GENERATORS, False),
        ({"generator_type": None, "include_plugins": None}, GENERATORS, False),
        ({"include_plugins": True}, GENERATORS, False),
        ({"include_plugins": False}, GENERATORS, True),
        ({"generator_type": "builtin"}, GENERATORS, True),
        ({"generator_type": "plugin"}, [], True),
    ],
)
async def test_list_generators(ask: Asking, arguments: dict[str, Any], names: list[str], filtered: bool):
    """Those a config can name; an empty result is no error."""
    result = taken(await ask("list_generators", **arguments), "generators", "total_count", "filtered")
    assert [each["name"] for each in result["generators"]] == names
    assert (result["total_count"], result["filtered"]) == (len(names), filtered)


@requirement("tools.list-generators.result", "generators.code-generation.unavailable")
async def test_a_generator_is_listed_with_its_capabilities(ask: Asking):
    """And its version; if it can't be used, with the reason and a hint."""
    shown = {each["name"]: each for each in (await ask("list_generators"))["generators"]}
    assert shown["jinja2"] == {
        "name": "jinja2",
        "type": "builtin",
        "version": jinja2.VERSION,
        "description": jinja2.DESCRIPTION,
        "capabilities": ["template", "conditionals", "loops", "filters"],
        "status": "available",
        "reason": None,
    }
    assert shown["bdd_scenario"]["capabilities"] == ["testing", "gherkin"]
    assert shown["code_generation"]["capabilities"] == ["ai_powered", "code"]
    assert shown["code_generation"]["status"] == "unavailable"
    assert "ANTHROPIC_API_KEY" in shown["code_generation"]["reason"]


@requirement("generators.plugins.explicit", "rulings.c42", "tools.list-generators.filter")
async def test_a_projects_own_generators_are_listed_as_plugins(project: Project):
    """Only those that the settings name."""
    plugin = (
        'NAME = "{0}"\nVERSION = "2.0.0"\nDESCRIPTION = "Shouts."\nCAPABILITIES = ("text",)\n\n\n'
        "async def generate(job):\n    return job.config.id.upper()\n"
    )
    project.write("generators/shout.py", plugin.format("shout"))
    project.write(".chora-compose/generators/hidden_generator.py", plugin.format("hidden"))
    project.save(content("note", pattern={"type": "shout"}))
    flags = {"plugins.generators": ("generators/shout.py",)}
    async with open_engine(project.root, settings.load(project.root, {}, flags).settings) as engine:
        ask = Asking(engine)
        (mine,) = (await ask("list_generators", generator_type="plugin"))["generators"]
        assert (mine["name"], mine["type"], mine["version"]) == ("shout", "plugin", "2.0.0")
        assert (await ask("list_generators"))["total_count"] == 6
        without = await ask("list_generators", include_plugins=False)
        assert (without["total_count"], without["filtered"]) == (5, True)
        assert (await ask("generate_content", content_config_id="note"))["content"] == "NOTE"


# -- list_content_configs, list_artifact_configs ----------------------------------------------------------------


@requirement("tools.list-generators.errors", "tools.list-configs.errors")
async def test_listing_with_wrong_arguments_is_refused(ask: Asking):
    """An unknown type, a pattern that isn't text or is too long."""
    await ask.refused("list_generators", "invalid_input", generator_type="other")
    for name in ("list_content_configs", "list_artifact_configs"):
        for pattern in (5, "x" * 256, ["a*"]):
            refused = await ask.refused(name, "invalid_input", filter_pattern=pattern)
            assert refused["details"]["field"] == "$.filter_pattern"


@requirement("tools.list-content-configs.result", "layouts.content")
async def test_list_content_configs(ask: Asking, project: Project):
    """Every layout and format, each with its generator and the beginning of its description."""
    long = "About many things. " * 20
    project.save(content("api-b", pattern={"type": "jinja2", "template": "x.j2"}), text("shown", "x"), content("none"))
    project.write(
        "configs/content/api-a/api-a-content.yaml",
        f"type: content\nid: api-a\nmetadata: {{description: '{long}', version: 1.0.0}}\n",
    )
    result = taken(await ask("list_content_configs"), *PAGE, "configs")
    assert result["total"] == 4
    assert result["invalid"] == []
    assert [each["id"] for each in result["configs"]] == ["api-a", "api-b", "none", "shown"]
    assert result["configs"][:2] == [
        {
            "id": "api-a",
            "file_path": "configs/content/api-a/api-a-content.yaml",
            "generator_type": None,
            "description": long,
            "title": long[:50],
        },
        {
            "id": "api-b",
            "file_path": "configs/content/api-b.json",
            "generator_type": "jinja2",
            "description": "About api-b",
            "title": "About api-b",
        },
    ]
    assert result["configs"][3]["generator_type"] == "demonstration", "the one that would run"


@requirement("tools.list-artifact-configs.result")
async def test_list_artifact_configs(ask: Asking, project: Project):
    """With the number of children; the purpose serves as description."""
    project.save(
        artifact("b", [child("x"), child("y")]), artifact("a", [child("x")], description="Described", title="A!")
    )
    result = taken(await ask("list_artifact_configs"), *PAGE, "configs")
    assert result == {
        "total": 2,
        "returned": 2,
        "next_offset": None,
        "invalid_total": 0,
        "configs": [
            {
                "id": "a",
                "file_path": "configs/artifact/a.json",
                "description": "Described",
                "title": "A!",
                "component_count": 1,
            },
            {
                "id": "b",
                "file_path": "configs/artifact/b.json",
                "description": "For the tests",
                "title": "b",
                "component_count": 2,
            },
        ],
        "invalid": [],
    }


@requirement("tools.list-configs.filter-pattern", "tools.list-configs.invalid")
@pytest.mark.parametrize("kind", ["content", "artifact"])
async def test_lists_take_a_glob_and_hide_nothing(ask: Asking, project: Project, kind: str):
    """The glob matches whole ids; a broken file is always listed, with its reason."""
    name = f"list_{kind}_configs"
    assert (await ask(name))["total"] == 0
    ids = ["api-one", "api-two", "my-api"]
    project.save(*(text(each, "x") if kind == "content" else artifact(each, [child("x")]) for each in ids))
    project.write(f"configs/{kind}/broken.json", "{")
    for pattern, found in (
        (None, ids),
        ("", ids),
        ("*", ids),
        ("api*", ["api-one", "api-two"]),
        ("api-???", ["api-one", "api-two"]),
        ("*-api", ["my-api"]),
        ("[am]*-[ot]*", ["api-one", "api-two"]),
        ("api", []),
        ("API*", []),
    ):
        result = await ask(name, filter_pattern=pattern)
        assert [each["id"] for each in result["configs"]] == found
        assert result["total"] == len(found)
        (invalid,) = result["invalid"]
        assert invalid["file_path"] == f"configs/{kind}/broken.json"
        assert "is not JSON" in invalid["error"]
    assert Folder(project.root).is_file(f"configs/{kind}/broken.json")


# -- list_content -----------------------------------------------------------------------------------------------


@pytest.fixture
def three_contents(project: Project) -> Project:
    """Three contents that differ in every field to filter and sort by."""
    project.save(
        content("b", pattern={"type": "jinja2", "template": "x"}, metadata=_about("Zebra crossings of the harbour")),
        {**text("a", "x"), "metadata": _about("apples"), "evolution": {"stage": "approved"}},
        {
            **content("c", pattern={"type": "template_fill", "template": "{{ x }}"}),
            "metadata": {**_about("M" + "x" * 150), "output_format": "markdown"},
            "evolution": {"stage": "review"},
        },
    )
    for number, id in enumerate("cab"):
        os.utime(project.root / f"configs/content/{id}.json", (1_700_000_000 + number, 1_700_000_000 + number))
    return project


def _about(description: str) -> dict[str, Any]:
    return {"description": description, "version": "1.0.0"}


@requirement("tools.list-content.result")
@pytest.mark.parametrize("arguments", [{}, {"filter": None, "sort": None, "limit": None}, {"filter": {}}])
async def test_list_content(ask: Asking, three_contents: Project, arguments: dict[str, Any]):
    """With its stored versions, and the time of the newest."""
    made = await ask("generate_content", content_config_id="a")
    await ask("generate_content", content_config_id="a", force=True)
    three_contents.write("configs/content/broken.json", "{")
    result = taken(await ask("list_content", **arguments), *PAGE, "content")
    assert (result["total"], result["returned"]) == (3, 3)
    assert [each["id"] for each in result["content"]] == ["a", "b", "c"]
    first, second, third = result["content"]
    assert STAMP.fullmatch(first.pop("last_generated"))
    assert made["metadata"]["generated_at"]
    assert first == {
        "id": "a",
        "title": "apples",
        "purpose": "apples",
        "generator_type": "demonstration",
        "generated": True,
        "stage": "approved",
        "output_format": None,
        "versions_available": 2,
    }
    assert (second["generated"], second["last_generated"], second["versions_available"]) == (False, None, 0)
    assert (second["stage"], second["generator_type"]) == ("draft", "jinja2")
    assert (third["title"], third["purpose"]) == ("M" + "x" * 49, "M" + "x" * 99)
    assert third["output_format"] == "markdown"
    assert [each["file_path"] for each in result["invalid"]] == ["configs/content/broken.json"]


@requirement("tools.list-content.filter", "tools.list-content.sort")
@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ({"filter": {"generator_type": "jinja2"}}, "b"),
        ({"filter": {"generated": True}}, "a"),
        ({"filter": {"generated": False}}, "bc"),
        ({"filter": {"stage": "draft"}}, "b"),
        ({"filter": {"stage": "review"}}, "c"),
        ({"filter": {"stage": "approved", "generated": False}}, ""),
        ({"filter": {"generator_type": None, "generated": None, "stage": None}}, "abc"),
        ({"sort": "id"}, "abc"),
        ({"sort": "title"}, "acb"),
        ({"sort": "generator"}, "abc"),
        ({"sort": "modified"}, "bac"),
        ({"sort": "modified", "filter": {"generated": False}}, "bc"),
    ],
)
async def test_list_content_filters_and_sorts(
    ask: Asking, three_contents: Project, arguments: dict[str, Any], found: str
):
    """By generator, stored texts and review status; by id, title, generator, or the newest file first."""
    await ask("generate_content", content_config_id="a")
    result = await ask("list_content", **arguments)
    assert "".join(each["id"] for each in result["content"]) == found
    assert result["total"] == len(found)


async def test_contents_are_sorted_by_generator(ask: Asking, project: Project):
    """Those of one generator by their ids."""
    project.save(
        content("a", pattern={"type": "template_fill", "template": "x\n"}),
        content("b", pattern={"type": "jinja2", "template": "x\n"}),
        text("c", "x"),
        content("d", pattern={"type": "jinja2", "template": "x\n"}),
    )
    result = await ask("list_content", sort="generator")
    assert [(each["id"], each["generator_type"]) for each in result["content"]] == [
        ("c", "demonstration"),
        ("b", "jinja2"),
        ("d", "jinja2"),
        ("a", "template_fill"),
    ]


@requirement("tools.lists.limit")
@pytest.mark.parametrize(("name", "rows"), [("list_content", "content"), ("list_artifacts", "artifacts")])
async def test_a_limit_cuts_and_total_counts_all(ask: Asking, project: Project, name: str, rows: str):
    """1 to 500; `total` is the number of matches before the limit."""
    project.save(*(text(f"c{n}", "x") for n in range(3)), *(artifact(f"a{n}", [child("c0")]) for n in range(3)))
    for limit, returned in ((1, 1), (2, 2), (3, 3), (500, 3), (None, 3), (0, 3), ("3", 3), (2.0, 2)):
        result = await ask(name, limit=limit)
        assert (result["total"], result["returned"], len(result[rows])) == (3, returned, returned)
    for limit in (-1, 501):
        refused = await ask.refused(name, "invalid_input", limit=limit)
        assert refused["details"] == {"field": "limit", "value": limit, "constraint": "1 to 500"}
    for wrong in ({"limit": "many"}, {"sort": "size"}, {"filter": {"colour": "red"}}, {"filter": {"stage": "done"}}):
        refused = await ask.refused(name, "invalid_input", **wrong)
        assert refused["details"]["field"].startswith("$")


# -- list_artifacts ---------------------------------------------------------------------------------------------


@pytest.fixture
async def assembled(ask: Asking, project: Project) -> Project:
    """Three artifacts: first `a` was assembled, then `b`; `c` has a foreign file."""
    project.save(
        text("note", "x"),
        artifact("b", [child("note")], type="report", title="apples"),
        {**artifact("a", [child("note"), child("note")], title="Zebra"), "evolution": {"stage": "approved"}},
        {**artifact("c", [child("note")], type="code", title="melons"), "evolution": {"stage": "review"}},
        artifact("d", [child("note")], type="report", title="nuts"),
    )
    await ask("assemble_artifact", artifact_config_id="a")
    await ask("assemble_artifact", artifact_config_id="b")
    project.write("outputs/c.md", "mine")
    for number, id in enumerate("dcab"):
        os.utime(project.root / f"configs/artifact/{id}.json", (1_700_000_000 + number, 1_700_000_000 + number))
    return project


@requirement("tools.list-artifacts.result")
@pytest.mark.parametrize("arguments", [{}, {"filter": None, "sort": None, "limit": None}, {"filter": {}}])
async def test_list_artifacts(ask: Asking, assembled: Project, arguments: dict[str, Any]):
    """An artifact counts as assembled if its first output exists; with the time if chora wrote it."""
    assembled.write("configs/artifact/broken.json", "{")
    result = taken(await ask("list_artifacts", **arguments), *PAGE, "artifacts")
    assert (result["total"], result["returned"]) == (4, 4)
    first, _, foreign, missing = result["artifacts"]
    assert STAMP.fullmatch(first.pop("last_assembled"))
    assert first == {
        "id": "a",
        "title": "Zebra",
        "description": None,
        "purpose": "For the tests",
        "type": None,
        "stage": "approved",
        "assembled": True,
        "component_count": 2,
        "composition_strategy": "concat",
        "output_path": "outputs/a.md",
    }
    assert (foreign["assembled"], foreign["last_assembled"]) == (True, None)
    assert (missing["assembled"], missing["last_assembled"]) == (False, None)
    assert [each["file_path"] for each in result["invalid"]] == ["configs/artifact/broken.json"]


@requirement("tools.list-artifacts.filter", "tools.list-artifacts.sort")
@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ({"filter": {"type": "report"}}, "bd"),
        ({"filter": {"stage": "draft"}}, "bd"),
        ({"filter": {"stage": "approved"}}, "a"),
        ({"filter": {"assembled": True}}, "abc"),
        ({"filter": {"assembled": False}}, "d"),
        ({"filter": {"type": "report", "assembled": True}}, "b"),
        ({"filter": {"type": None, "stage": None, "assembled": None}}, "abcd"),
        ({"sort": "id"}, "abcd"),
        ({"sort": "title"}, "bcda"),
        ({"sort": "assembled"}, "bacd"),
        ({"sort": "modified"}, "bacd"),
    ],
)
async def test_list_artifacts_filters_and_sorts(ask: Asking, assembled: Project, arguments: dict[str, Any], found: str):
    """By type, status and whether the file exists; by id, title, or the newest file or config first."""
    result = await ask("list_artifacts", **arguments)
    assert "".join(each["id"] for each in result["artifacts"]) == found


# -- pages ------------------------------------------------------------------------------------------------------

LISTS = [
    ("list_content", {}, "content", "total"),
    ("list_content", {"sort": "title"}, "content", "total"),
    ("list_content", {"sort": "modified"}, "content", "total"),
    ("list_content_configs", {}, "configs", "total"),
    ("list_content_configs", {"filter_pattern": "c*"}, "configs", "total"),
    ("list_artifacts", {}, "artifacts", "total"),
    ("list_artifacts", {"sort": "assembled"}, "artifacts", "total"),
    ("list_artifact_configs", {}, "configs", "total"),
    ("list_collection_members", {"collection_config_path": "all"}, "members", "total_members"),
]


@requirement("tools.lists.limit")
@pytest.mark.parametrize(("name", "arguments", "rows", "total"), LISTS)
async def test_a_list_answers_page_by_page(
    ask: Asking, project: Project, name: str, arguments: dict[str, Any], rows: str, total: str
):
    """50 rows unless asked otherwise; `next_offset` goes on, and every row is on one page."""
    project.save(*(text(f"c{number:03}", "x") for number in range(120)))
    project.save(*(artifact(f"a{number:03}", [child("c000")]) for number in range(120)))
    members = [{"id": f"a{number:03}", "type": "artifact", "path": f"a{number:03}.json"} for number in range(120)]
    project.save({"type": "collection", "id": "all", "name": "All", "members": members, "output": {"base_path": "out"}})
    seen: list[str] = []
    sizes: list[int] = []
    offset: int | None = 0
    while offset is not None:
        page = await ask(name, **arguments, offset=offset)
        assert page[total] == 120
        sizes.append(len(page[rows]))
        seen += [each["id"] for each in page[rows]]
        offset = page["next_offset"]
    assert sizes == [50, 50, 20]
    assert len(set(seen)) == len(seen) == 120
    assert (await ask(name, **arguments))[rows][0]["id"] == seen[0]
    assert (await ask(name, **arguments, limit=500))["next_offset"] is None
    assert (await ask(name, **arguments, offset=500))[rows] == []
    await ask.refused(name, "invalid_input", **arguments, offset=-1)
    await ask.refused(name, "invalid_input", **arguments, limit=501)


async def test_broken_files_are_listed_page_by_page_too(ask: Asking, project: Project):
    """With their number."""
    for number in range(60):
        project.write(f"configs/content/broken-{number}.json", "{")
    for name in ("list_content", "list_content_configs"):
        page = await ask(name)
        assert (page["invalid_total"], len(page["invalid"])) == (60, 50)
        assert len((await ask(name, offset=50))["invalid"]) == 10


async def test_many_configs_are_a_page(engine: Engine, project: Project):
    """Within 24 KB, which a model can use; the command line gets all."""
    project.save(*(text(f"content-number-{number}", "x") for number in range(1000)))
    for name in ("list_content", "list_content_configs"):
        answer = await TOOLS[name].run_tool(engine, b"{}", Call("test", len(TOOLS)))
        assert len(answer.body) < 24 * 1024, name
        everything = await TOOLS[name].run_tool(engine, b"{}", Call("cli", len(TOOLS)))
        assert b"content-number-999" in everything.body
