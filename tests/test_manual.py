"""The manual of the config formats: nothing is missing in it, and every example is run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trio
from click.testing import CliRunner
from jinja2 import StrictUndefined

from chora.cli import program
from chora.config_parsing import parse_config
from chora.engine import retrieval
from chora.engine.building.compose import STRATEGIES
from chora.engine.building.context import LEVELS
from chora.engine.building.fingerprint import settings_parts
from chora.engine.engine import Engine
from chora.engine.validation.checks import CHECKS
from chora.engine.validation.rules import TARGETS
from chora.generators import GENERATORS
from chora.manual import PAGES, read_page, tables
from chora.manual.examples import GENERATOR_EXAMPLES
from chora.model import KINDS, STRUCTS, LongSource, ShortSource, SourceType
from chora.render import TemplateOptions
from chora.render.parsing import LANGUAGES
from chora.render.sandbox import Sandbox
from chora.skeletons import skeleton
from chora.sources import BY_TYPE
from chora.sources.selectors import FORMS
from tests.conftest import Asking, Project, content, requirement
from tests.documents import objects_in

ROOT = Path(__file__).resolve().parent.parent


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    words: dict[str, str]
    """What stands behind the language: `name=value`, or a word alone."""
    text: str


def blocks(page: str) -> list[Block]:
    found: list[Block] = []
    for head, text in re.findall(r"^```(.*?)\n(.*?)^```$", read_page(page), re.DOTALL | re.MULTILINE):
        language, *words = head.split(" ")
        parts = (word.partition("=") for word in words)
        found.append(Block(language, {name: value for name, _, value in parts}, text))
    return found


def rows(page: str) -> set[str]:
    """What stands as code in the first column of a table."""
    return {name for row in re.findall(r"^\| (.*?) \|", read_page(page), re.M) for name in re.findall(r"`(.+?)`", row)}


def section(page: str, heading: str) -> str:
    """What stands below a heading, up to the next one of the same level."""
    return read_page(page).partition(f"\n{heading}\n")[2].partition("\n## ")[0]


# -- nothing is missing -----------------------------------------------------------------------------------------


@requirement("manual.complete")
@pytest.mark.parametrize("kind", KINDS)
def test_every_field_of_a_config_stands_in_its_page(kind: Any):
    """Under a heading that says where it is written, with its meaning."""
    found = 0
    for table in tables.config_tables(kind):
        heading = ", ".join(f"`{path}`" if path else "The root" for path in table.paths)
        below = section(kind, f"## {heading}")
        assert table.description in below, heading
        for field in table.fields:
            assert field.description, f"{heading}.{field.name}"
            assert f"| `{field.name}` |" in below, f"{heading}.{field.name}"
            assert field.description.replace("|", "\\|").replace("<", "\\<") in below
            found += 1
    assert found == len([name for node in _structs(kind) for name in node["properties"]])


def _structs(kind: Any) -> Iterator[dict[str, Any]]:
    """The objects of a format, without its sources."""
    from chora.model import schema_of

    for node in objects_in(schema_of(STRUCTS[kind])):
        if "properties" in node and node.get("title") != "Source":
            yield node


@requirement("manual.complete")
@pytest.mark.parametrize("generator", GENERATORS, ids=lambda module: module.NAME)
def test_every_option_of_a_generator_is_described_and_used_in_an_example(generator: Any):
    """Also the objects in its options."""
    below = section("generators", f"## {generator.NAME}")
    used: set[str] = set()
    for example in GENERATOR_EXAMPLES[generator.NAME]:
        assert json.dumps(example.config, indent=2, ensure_ascii=False) in below
        for node in objects_in(example.config["generation"]["patterns"][0]):
            used |= set(node)
    for table in tables.option_tables(generator.Options):
        for field in table.fields:
            assert field.description, field.name
            assert f"| `{field.name}` |" in below, field.name
            assert field.name in used | {"context"}, f"{field.name} stands in no example"
    assert generator.NOTES in below


@requirement("manual.complete")
def test_every_source_selector_rule_and_strategy_stands_in_its_page():
    """By the tables that the code works with."""
    sources = read_page("sources")
    assert {*BY_TYPE, *FORMS} <= rows("sources")
    assert set(SourceType.__args__) == set(BY_TYPE)
    for struct in (LongSource, ShortSource):
        assert set(struct.__struct_encode_fields__) <= rows("sources")
    for source in BY_TYPE.values():
        assert source.DESCRIPTION in sources
        assert source.LOCATOR in sources
    assert {f".{suffix}" for suffix in LANGUAGES} <= rows("sources")
    assert {*CHECKS, *TARGETS} <= rows("rules")
    assert {*STRATEGIES, *retrieval.STRATEGIES} <= rows("artifact")
    for name, check in CHECKS.items():
        for option in check.options:
            assert f"| `{name}` | `{option}` |" in read_page("rules")
    assert all(f"| {level} | {about} |" in read_page("context") for level, about in LEVELS.items())
    sandbox = Sandbox(TemplateOptions(), StrictUndefined)
    for heading, names in (("Filters", sandbox.filters), ("Tests", sandbox.tests), ("Functions", sandbox.globals)):
        assert set(re.findall(r"`([^`]+)`", section("templates", f"## {heading}"))) >= set(names)


async def test_every_setting_that_makes_texts_stale_is_named(engine: Engine):
    """The page about freshness has those that the key of a trace has."""
    page = read_page("freshness")
    assert all(f"`{name}`" in page for name in settings_parts(engine) if name != "version")


@requirement("manual.one-text")
@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_the_same_for_people_and_for_agents(page: str):
    """In the documentation and in the package, within what an agent can take."""
    text = read_page(page)
    assert (ROOT / f"docs/reference/config/{page}.md").read_text("utf-8") == text
    assert len(text.encode()) <= 24 * 1024
    assert f"({page}.md)" in read_page("overview") or page == "overview"


# -- every example is run ---------------------------------------------------------------------------------------

FRAGMENTS: dict[str, Any] = {
    "sources": lambda value: content("note", sources=value, pattern={"type": "jinja2", "template": "x\n"}),
    "rules": lambda value: content("note", pattern={"type": "jinja2", "template": "x\n"}, validation={"rules": value}),
    "child": lambda value: {**skeleton("artifact"), "content": {"children": [value]}},
    "member": lambda value: {**skeleton("collection"), "members": [value]},
}
"""What a block that is a part of a config is put into."""


@requirement("manual.examples")
@pytest.mark.parametrize("page", PAGES)
async def test_every_example_of_a_page_does_what_it_says(page: str, project: Project, ask: Asking):
    """Files are saved and configs read without a remark, in order; texts are as they are shown; commands work."""
    for block in blocks(page):
        match block:
            case Block("json", {"file": path}, text) if "/content/" in path or "/art" in path or "/coll" in path:
                document = json.loads(text)
                assert parse_config(document["type"], document, where=path).warnings == []
                project.write(path, text)
            case Block(_, {"file": path}, text):
                project.write(path, text)
            case Block("json", words, text) if named := set(words) & set(FRAGMENTS):
                document = FRAGMENTS[named.pop()](json.loads(text))
                assert parse_config(document["type"], document, where=page).warnings == []
            case Block("text", {"of": config_id, **words}, text):
                made = await _text_of(project, ask, config_id, words)
                assert made.rstrip("\n") == text.rstrip("\n")
            case Block("sh", _, text):
                for line in text.splitlines():
                    command, *arguments = line.split()
                    assert command == "chora"
                    invoke = partial(CliRunner().invoke, program, ["--project", str(project.root), *arguments])
                    ran = await trio.to_thread.run_sync(invoke)
                    assert ran.exit_code == 0, (line, ran.output)
            case Block("text", {}, text):
                assert "chora.toml" in text, "only the picture of a project is no example"
            case other:
                pytest.fail(f"nothing runs this block: {other}")


async def _text_of(project: Project, ask: Asking, config_id: str, words: dict[str, str]) -> str:
    """The text of a content, the first file of an artifact, or a file of a collection."""
    given = {"context": json.loads(words["context"])} if "context" in words else {}
    if (project.root / f"configs/collection/{config_id}.json").exists():
        await ask("generate_collection", collection_config_path=config_id, **given)
        return project.read(words["path"])
    if (project.root / f"configs/artifact/{config_id}.json").exists():
        return project.read((await ask("assemble_artifact", artifact_config_id=config_id, **given))["output_path"])
    return (await ask("generate_content", content_config_id=config_id, **given))["content"]


async def test_every_rule_in_the_examples_can_be_checked(project: Project, ask: Asking):
    """With the options it has there; together they use every option of every type."""
    written = [
        rule
        for block in blocks("rules")
        if block.language == "json"
        for rule in (
            json.loads(block.text) if "rules" in block.words else json.loads(block.text)["validation"]["rules"]
        )
    ]
    used = {(rule["check_type"], option) for rule in written for option in rule.get("check_config", {})}
    assert {(name, option) for name, check in CHECKS.items() for option in check.options} <= used
    project.write("schemas/report.json", "{}")
    note = content("note", elements=[{"name": "body", "format": "text", "example_output": "# A report\n"}])
    project.save({**note, "metadata": {**note["metadata"], "output_format": "markdown"}})
    await ask("generate_content", content_config_id="note")
    for rule in written:
        asked = {"type": rule["check_type"], "config": rule.get("check_config", {})}
        found = await ask("validate_content", content_or_config_id="note", validation_rules=[asked])
        assert {"invalid_rule", "unknown_rule_type"}.isdisjoint(issue["code"] for issue in found["issues"]), rule
