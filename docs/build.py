"""Writes docs/reference anew, with chora itself: what the code says of itself becomes data, configs become pages.

`build.py` writes the pages; `build.py --check` fails when one of them is stale, and names it.
"""

import difflib
import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from chora import config, errors, model
from chora.cli import COMMANDS, program
from chora.metrics import Histogram, Metrics
from chora.tools import TOOLS

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "build" / "docs"
PAGES = ("tools", "cli", "settings", "errors", "metrics")
SCHEMAS = ("content", "artifact", "collection")


def main() -> None:
    check = "--check" in sys.argv[1:]
    DATA.mkdir(parents=True, exist_ok=True)
    for name, facts in gather().items():
        (DATA / f"{name}.json").write_text(json.dumps(facts, indent=1), "utf-8")
    stale: list[str] = []
    for page in PAGES:
        target = Path("docs") / "reference" / f"{page}.md"
        written = target if not check else (DATA / f"{page}.md").relative_to(ROOT)
        if check:
            (ROOT / written).unlink(missing_ok=True)
        run = ("--project", ROOT, "assemble", f"reference-{page}", "--output", str(written))
        subprocess.run([sys.executable, "-m", "chora", *map(str, run)], check=True, stdout=subprocess.DEVNULL)
        stale += differs(target, (ROOT / written).read_text("utf-8"))
    for kind in SCHEMAS:
        target = Path("docs") / "reference" / f"{kind}.schema.json"
        text = json.dumps(model.schema(kind), indent=2, ensure_ascii=False) + "\n"
        if check:
            stale += differs(target, text)
        else:
            (ROOT / target).write_text(text, "utf-8")
    if stale:
        sys.exit("\n".join([*stale, "", "These references are stale; write them anew with `just docs`."]))


def differs(target: Path, text: str) -> list[str]:
    """What is wrong with a committed page, if anything."""
    file = ROOT / target
    old = file.read_text("utf-8") if file.exists() else ""
    if old == text:
        return []
    diff = difflib.unified_diff(old.splitlines(), text.splitlines(), str(target), "fresh", lineterm="", n=0)
    return [*list(diff)[:20]]


def gather() -> dict[str, Any]:
    """Everything that the code says of itself, as data for the templates."""
    return {
        "tools": {"tools": [{**tool.describe(), "signature": tool.signature()} for tool in TOOLS.values()]},
        "cli": {"commands": [describe_command(name) for name in COMMANDS], "options": describe_options(program)},
        "settings": {"settings": config.as_table(config.load(DATA, {}))},
        "errors": {
            "errors": [describe_error(each) for each in errors.subclasses() if each.__module__ == "chora.errors"]
        },
        "metrics": {"metrics": [describe_metric(each) for each in Metrics().all()]},
    }


def describe_command(name: str) -> dict[str, Any]:
    command = program.get_command(click.Context(program), name)
    assert command is not None
    context = click.Context(command, info_name=f"chora {name}")
    return {
        "name": name,
        "usage": command.get_usage(context).removeprefix("Usage: "),
        "help": inspect.cleandoc(command.help or ""),
        "options": describe_options(command),
    }


def describe_options(command: click.Command) -> list[dict[str, str]]:
    records = [option.get_help_record(click.Context(command)) for option in command.params]
    # Arguments stand in the usage line already, and have no help of their own.
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
    return {"name": metric.name, "kind": kind, "meaning": metric.meaning, "labels": list(metric.labels)}


if __name__ == "__main__":
    main()
