"""Builds docs/reference with chora itself: descriptions of tools, commands, settings and so on become data in
build/docs, and the collection `docs` in configs/ composes pages of it.

`build.py` writes the pages that have changed; `build.py --check` fails if there are any, and `build.py --gather` only
writes the data.
"""

import inspect
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from jinja2 import StrictUndefined

from chora import errors, model, settings
from chora.cli import COMMANDS, program
from chora.engine import retrieval
from chora.engine.building.collection import NESTING_LIMIT
from chora.engine.building.compose import STRATEGIES
from chora.engine.building.context import LEVELS
from chora.engine.validation.checks import CHECKS
from chora.engine.validation.rules import TARGETS
from chora.engine.validation.text_checks import UNCHECKED
from chora.generators import GENERATORS
from chora.leniency import LENIENCIES
from chora.manual import PAGES, tables
from chora.manual.examples import GENERATOR_EXAMPLES
from chora.metrics import Histogram, Metrics
from chora.prompts import PROMPTS
from chora.render import TemplateOptions
from chora.render.sandbox import Sandbox
from chora.resources import FAMILIES
from chora.skeletons import skeleton
from chora.sources import SOURCES
from chora.sources.selectors import FORMS
from chora.tools import ALL_TOOLS

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "build" / "docs"


def main() -> None:
    check = "--check" in sys.argv[1:]
    DATA.mkdir(parents=True, exist_ok=True)
    for name, facts in gather().items():
        (DATA / f"{name}.json").write_text(json.dumps(facts, indent=1), "utf-8")
    if "--gather" in sys.argv[1:]:
        return
    options = ["--check", "--diff"] if check else []
    done = subprocess.run([sys.executable, "-m", "chora", "--project", ROOT, "collect", "docs", *options])
    if check and done.returncode:
        sys.exit("\nThese pages are stale; update them with `just docs`.")
    sys.exit(done.returncode)


def gather() -> dict[str, Any]:
    """The descriptions that the code contains, as data for the templates."""
    return {
        "tools": {"tools": [{**tool.describe(), "signature": tool.signature()} for tool in ALL_TOOLS.values()]},
        "cli": {
            "commands": [each for name in COMMANDS for each in describe_command(name)],
            "options": describe_options(program),
        },
        "settings": {"settings": settings.settings_table(settings.load(DATA, {}))},
        "errors": {
            "errors": [describe_error(each) for each in errors.subclasses() if each.__module__ == "chora.errors"]
        },
        "leniency": {"leniencies": [each._asdict() for each in LENIENCIES.values()]},
        "metrics": {"metrics": [describe_metric(each) for each in Metrics().list_metrics()]},
        "manual": describe_manual(),
        "resources": {
            "families": [
                {
                    "uri": family.template,
                    "mime_type": family.mime_type,
                    "description": family.description,
                    "old": list(family.old_templates),
                }
                for family in FAMILIES
            ],
            "prompts": [
                {
                    "name": prompt.name,
                    "description": prompt.description,
                    "arguments": [{"name": each.name, "description": each.description} for each in prompt.arguments],
                }
                for prompt in PROMPTS
            ],
        },
        **{f"{kind}.schema": model.schema(kind) for kind in model.KINDS},
    }


def describe_command(name: str, group: click.Group = program) -> Iterator[dict[str, Any]]:
    """A command and its subcommands."""
    command = group.get_command(click.Context(group), name.rpartition(" ")[2])
    assert command is not None
    context = click.Context(command, info_name=f"chora {name}")
    yield {
        "name": name,
        "usage": command.get_usage(context).removeprefix("Usage: "),
        "help": inspect.cleandoc(command.help or ""),
        "options": describe_options(command),
    }
    if isinstance(command, click.Group):
        for each in command.list_commands(context):
            yield from describe_command(f"{name} {each}", command)


def describe_options(command: click.Command) -> list[dict[str, str]]:
    records = [option.get_help_record(click.Context(command)) for option in command.params]
    # Arguments are in the usage line and have no help of their own.
    return [{"flags": record[0], "help": record[1]} for record in records if record is not None and record[1]]


def describe_error(error: type[errors.ChoraError]) -> dict[str, Any]:
    outcome = errors.CATEGORIES[error.category]
    meaning = "" if error.__doc__ == errors.ChoraError.__doc__ else (error.__doc__ or "")
    return {
        "code": error.code,
        "category": error.category,
        "http_status": outcome.http_status,
        "exit_code": outcome.exit_code,
        "meaning": meaning.strip().partition("\n")[0],
    }


def describe_metric(metric: Any) -> dict[str, Any]:
    kind = "histogram" if isinstance(metric, Histogram) else type(metric).__name__.lower()
    name = f"{metric.name}_total" if kind == "counter" else metric.name  # as the page of metrics has it
    return {"name": name, "kind": kind, "meaning": metric.meaning, "labels": list(metric.labels)}


def describe_generator(generator: Any) -> dict[str, Any]:
    return {
        "name": generator.NAME,
        "version": generator.VERSION,
        "description": generator.DESCRIPTION,
        "notes": generator.NOTES,
        "capabilities": list(generator.CAPABILITIES),
        "aliases": list(getattr(generator, "ALIASES", ())),
        "options": [table.as_dict() for table in tables.option_tables(generator.Options)],
        "examples": [
            {
                "about": example.about,
                "id": example.config["id"],
                "config": json.dumps(example.config, indent=2, ensure_ascii=False),
                "text": example.text.rstrip("\n"),
            }
            for example in GENERATOR_EXAMPLES[generator.NAME]
        ],
    }


def describe_manual() -> dict[str, Any]:
    """The formats of configs, as the code describes them."""
    sandbox = Sandbox(TemplateOptions(), StrictUndefined)
    rule_kinds = {"contents": model.ContentRule, "artifacts": model.ArtifactRule}
    offered = {kind: model.schema_of(struct)["properties"]["check_type"]["enum"] for kind, struct in rule_kinds.items()}
    return {
        "pages": PAGES,
        "tables": {
            **{kind: [table.as_dict() for table in tables.config_tables(kind)] for kind in model.KINDS},
            "sources": [table.as_dict() for table in tables.source_tables()],
        },
        "skeletons": {kind: json.dumps(skeleton(kind), indent=2) for kind in model.KINDS},
        "generators": [describe_generator(each) for each in GENERATORS],
        "sources": [
            {
                "type": source.TYPE,
                "description": source.DESCRIPTION,
                "locator": source.LOCATOR,
                "limits": getattr(source, "LIMITS", ""),
            }
            for source in SOURCES
        ],
        "selectors": FORMS,
        "strategies": {name: strategy.description for name, strategy in STRATEGIES.items()},
        "retrieval": retrieval.STRATEGIES,
        "levels": [{"name": name, "about": about} for name, about in LEVELS.items()],
        "checks": {
            name: {
                "description": check.description,
                "options": dict(check.options),
                "kinds": ", ".join(kind for kind, names in offered.items() if name in names),
            }
            for name, check in CHECKS.items()
        },
        "targets": TARGETS,
        "unchecked": sorted(UNCHECKED),
        "template_folders": list(settings.PathSettings().templates),
        "filters": sorted(sandbox.filters),
        "tests": sorted(sandbox.tests),
        "functions": sorted(sandbox.globals),
        "render_settings": [
            row for row in settings.settings_table(settings.load(DATA, {})) if row["key"].startswith("render.")
        ],
        "limits": {"nesting": NESTING_LIMIT},
    }


if __name__ == "__main__":
    main()
