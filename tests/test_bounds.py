"""The bounds of every setting, option, argument and key of a config: exactly at one is accepted, beyond it refused."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import msgspec
import pytest
from msgspec import inspect

from chora.config_parsing import parse_config
from chora.errors import GenerationFailed, InvalidInput, UsageError, ValidationFailed
from chora.generators import code_generation
from chora.model import STRUCTS, Kind, LongSource, ShortSource
from chora.settings import Settings, load
from chora.tools import ALL_TOOLS
from chora.tools.storage import Retention
from tests.conftest import Asking, Project, text
from tests.documents import WHOLE, put
from tests.generators.jobs import job_of
from tests.generators.test_code_generation import Model

BOUNDS = ("ge", "gt", "le", "lt", "min_length", "max_length")
MIB = 1024 * 1024
TIB = 1024 * 1024 * MIB

POSITIVE: dict[str, float] = {"gt": 0}
NOT_NEGATIVE: dict[str, float] = {"ge": 0}
ID: dict[str, float] = {"max_length": 255}
NOT_EMPTY: dict[str, float] = {"min_length": 1}

SECONDS: dict[str, float] = {"gt": 0, "le": 1e9}
QUANTITY: dict[str, float] = {"ge": 1, "le": 1_000_000_000}
AMOUNT: dict[str, float] = {"ge": 0, "le": 1e9}

SETTINGS: dict[str, dict[str, float]] = {
    "http.port": {"ge": 0, "le": 65535},
    "limits.body": {"ge": 1024, "le": TIB},
    "limits.header_time": SECONDS,
    "limits.body_time": SECONDS,
    "limits.write_stall": SECONDS,
    "limits.keep_alive": SECONDS,
    "limits.connections": QUANTITY,
    "limits.sessions": QUANTITY,
    "limits.sessions_each": QUANTITY,
    "limits.idle": SECONDS,
    "limits.grace": SECONDS,
    "limits.memory": {"ge": 0, "le": TIB},
    "limits.answer": {"ge": 256 * 1024, "le": TIB},
    "storage.retention_days": {"ge": 0, "le": 100_000},
    "render.workers": QUANTITY,
    "render.wall": SECONDS,
    "render.memory": {"ge": 64 * MIB, "le": TIB},
    "render.output": {"ge": 1024, "le": TIB},
    "render.queue": QUANTITY,
    "backup.every": AMOUNT,
    "backup.keep": QUANTITY,
    "jobs.call_budget": SECONDS,
    "jobs.running": QUANTITY,
    "jobs.keep_days": SECONDS,
    "llm.model": NOT_EMPTY,
    "llm.budget_run": AMOUNT,
    "llm.budget_day": AMOUNT,
    "llm.budget_project": AMOUNT,
    "validation.lint_time": SECONDS,
    "probe.interval": SECONDS,
    "probe.latency_interval": SECONDS,
    "probe.latency_calls": QUANTITY,
}

CONFIGS: dict[Kind, dict[str, dict[str, float]]] = {
    "content": {
        "id": ID,
        "metadata.description": {"min_length": 1, "max_length": 500},
        "elements": NOT_EMPTY,
        "elements.0.name": ID,
        "children.0.id": ID,
        "children.0.path": NOT_EMPTY,
        "children.0.order": NOT_NEGATIVE,
        "generation.patterns.0.id": ID,
        "validation.rules.0.id": NOT_EMPTY,
        "validation.rules.0.threshold": NOT_NEGATIVE,
        "inputs.sources.0.id": ID,
        "inputs.sources.0.source_locator": NOT_EMPTY,
    },
    "artifact": {
        "id": ID,
        "metadata.title": {"min_length": 1, "max_length": 200},
        "metadata.purpose": {"min_length": 1, "max_length": 1000},
        "metadata.outputs": NOT_EMPTY,
        "metadata.outputs.0.file": NOT_EMPTY,
        "metadata.compositionConfig.separator": {"max_length": 10_000},
        "content.children": {"min_length": 1, "max_length": 100},
        "content.children.0.id": ID,
        "content.children.0.path": NOT_EMPTY,
        "content.children.0.order": NOT_NEGATIVE,
        "dependencies.0.id": NOT_EMPTY,
        "validation.rules.0.id": NOT_EMPTY,
    },
    "collection": {
        "id": ID,
        "name": NOT_EMPTY,
        "members": NOT_EMPTY,
        "members.0.id": ID,
        "members.0.path": NOT_EMPTY,
        "members.0.order": NOT_NEGATIVE,
        "members.0.freshness_threshold_days": POSITIVE,
        "output.base_path": NOT_EMPTY,
        "generation.concurrency_limit": {"ge": 1, "le": 100},
        "validation.rules.0.type": NOT_EMPTY,
        "freshness.default_max_age_days": POSITIVE,
    },
}

OPTIONS: dict[str, dict[str, float]] = {
    "temperature": {"ge": 0, "le": 1},
    "max_tokens": {"ge": 1, "le": 128_000},
    "retry_count": {"ge": 0, "le": 10},
    "retry_delay": {"ge": 0, "le": 60},
    "timeout": {"gt": 0, "le": 600},
}

ARGUMENTS: dict[str, dict[str, float]] = {
    "hello_world.name": {"max_length": 1000},
    "regenerate_content.reason": {"max_length": 2000},
    "draft_config.description": {"max_length": 1000},
    "list_content_configs.filter_pattern": {"max_length": 255},
    "list_artifact_configs.filter_pattern": {"max_length": 255},
    "cleanup_ephemeral.filter.older_than_days": NOT_NEGATIVE,
    **{
        f"{name}.offset": NOT_NEGATIVE
        for name in (
            *("list_content", "list_content_configs", "list_artifacts", "list_artifact_configs"),
            "list_collection_members",
            "check_collection_cache",
            "check_freshness",
            "get_text",
            "list_collections",
            "list_edits",
        )
    },
}


class Bounded(NamedTuple):
    """A bounded value somewhere within a Struct."""

    path: str
    is_whole: bool
    bounds: dict[str, float]


def bounded(kind: inspect.Type, path: tuple[str, ...] = ()) -> Iterator[Bounded]:
    """Every bounded value of a type, with its path; the items of a list have the path of the first one."""
    bounds = {name: value for name in BOUNDS if (value := getattr(kind, name, None)) is not None}
    if bounds:
        yield Bounded(".".join(path), isinstance(kind, inspect.IntType), bounds)
    match kind:
        case inspect.StructType():
            for field in kind.fields:
                yield from bounded(field.type, (*path, field.encode_name))
        case inspect.Metadata():
            yield from bounded(kind.type, path)
        case inspect.UnionType():
            for choice in kind.types:
                yield from bounded(choice, path)
        case inspect.ListType() | inspect.VarTupleType():
            yield from bounded(kind.item_type, (*path, "0"))
        case _:
            pass


def bounds_of(kind: Any) -> dict[str, dict[str, float]]:
    """The bounds of every bounded value within a type."""
    return {path: bounds for path, _, bounds in bounded(inspect.type_info(kind))}


def is_whole(kind: Any, path: str) -> bool:
    """Whether only whole numbers are accepted there."""
    return all(each.is_whole for each in bounded(inspect.type_info(kind)) if each.path == path)


class Cases(NamedTuple):
    """Values exactly at the bounds, and the nearest ones beyond them."""

    accepted: list[Any]
    refused: list[Any]


def cases(bounds: dict[str, float], *, whole: bool, item: Any = "a") -> Cases:
    """The values around some bounds; those of a length consist of items."""
    accepted: list[Any] = []
    refused: list[Any] = []
    for bound, value in bounds.items():
        down, up = (
            (value - 1, value + 1) if whole else (math.nextafter(value, -math.inf), math.nextafter(value, math.inf))
        )
        match bound:
            case "ge":
                accepted.append(value)
                refused.append(down)
            case "le":
                accepted.append(value)
                refused.append(up)
            case "gt":
                accepted.append(up)
                refused.append(value)
            case "min_length":
                accepted.append(item * int(value))
                refused.append(item * (int(value) - 1))
            case _:
                accepted.append(item * int(value))
                refused.append(item * (int(value) + 1))
    return Cases(accepted, refused)


def test_the_bounds_are_these():
    """A bound that is changed, added or removed is noticed here, and belongs in the documentation."""
    assert bounds_of(Settings) == SETTINGS
    sources = {f"inputs.sources.0.{path}": bounds for path, bounds in bounds_of(LongSource).items()}
    assert bounds_of(ShortSource) == {}
    for kind, expected in CONFIGS.items():
        assert {**bounds_of(STRUCTS[kind]), **(sources if kind == "content" else {})} == expected
    assert bounds_of(code_generation.Options) == OPTIONS
    arguments = {
        f"{tool.name}.{path}": bounds
        for tool in ALL_TOOLS.values()
        for path, bounds in bounds_of(tool.arguments_type).items()
    }
    assert arguments == ARGUMENTS
    assert bounds_of(Retention) == {"keep_versions": NOT_NEGATIVE, "keep_days": NOT_NEGATIVE}


@pytest.mark.parametrize("key", SETTINGS)
def test_a_setting_is_accepted_up_to_its_bounds(tmp_path: Path, key: str):
    """From the file and from the environment; the error names the setting, its origin and the bound."""
    section, _, field = key.partition(".")
    name = f"CHORA_{key.replace('.', '_').upper()}"
    values = cases(SETTINGS[key], whole=is_whole(Settings, key))

    def write(value: Any) -> None:
        (tmp_path / "chora.toml").write_text(f"[{section}]\n{field} = {msgspec.json.encode(value).decode()}\n")

    for value in values.accepted:
        write(value)
        for env in ({}, {name: str(value)}):
            loaded = load(tmp_path, env).settings
            assert getattr(getattr(loaded, section), field) == value
    for value in values.refused:
        write(value)
        with pytest.raises(UsageError, match=rf"^The setting {key} doesn't fit: expected .*\(from chora\.toml:2\)"):
            load(tmp_path, {})
        (tmp_path / "chora.toml").unlink()
        if value != "":  # an empty variable counts as none
            with pytest.raises(UsageError, match=rf"^{name}='.*' doesn't fit {key}: Expected .*\d"):
                load(tmp_path, {name: str(value)})


@pytest.mark.parametrize(("kind", "path"), [(kind, path) for kind, paths in CONFIGS.items() for path in paths])
def test_a_key_of_a_config_is_accepted_up_to_its_bounds(kind: Kind, path: str):
    """The error names the path and what is expected there."""
    bounds = CONFIGS[kind][path]
    whole = WHOLE[kind]()
    item: Any = "a"
    if path in ("elements", "metadata.outputs", "content.children", "members"):
        place: Any = whole
        for step in path.split("."):
            place = place[step]
        item = place[:1]
    if path == "elements":  # the other generators read an empty list as none
        put(whole, "generation.patterns.0.type", "demonstration")
    if path.startswith("metadata.compositionConfig"):
        whole["metadata"]["compositionConfig"] = {}
    values = cases(bounds, whole=path == "generation.concurrency_limit", item=item)
    encoded = msgspec.json.encode(whole)

    def changed(value: Any) -> Any:
        document = put(msgspec.json.decode(encoded), path, value)
        if path == "content.children":  # their names must differ
            document["content"]["children"] = [
                {**child, "id": f"c{number}"} for number, child in enumerate(cast("list[Any]", value))
            ]
        return document

    for value in values.accepted:
        parse_config(kind, changed(value), where="some.json")
    for value in values.refused:
        with pytest.raises(ValidationFailed) as failed:
            parse_config(kind, changed(value), where="some.json")
        (error,) = failed.value.details["schema_errors"]
        assert error["path"] == "$." + re.sub(r"\.(\d+)", r"[\1]", path)
        assert error["expected"]


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_of_a_language_model_is_accepted_up_to_its_bounds(tmp_path: Path, option: str):
    """The error names the option and the bound, its hint all of them."""
    values = cases(OPTIONS[option], whole=is_whole(code_generation.Options, option))

    def ask(value: Any) -> Any:
        options = {"prompt": "p", "model": "claude-sonnet-4-5", option: value}
        job = job_of(tmp_path, {"type": "code_generation", "generation_config": options})
        return code_generation.request_of(job._replace(sources={"<prompt>": "p"}, llm=Model()), "claude-sonnet-4-5")

    for value in values.accepted:
        assert getattr(ask(value), "retries" if option == "retry_count" else option) == value
    for value in values.refused:
        with pytest.raises(
            GenerationFailed, match=rf"generation_config doesn't fit: Expected .* - at `\$\.{option}`"
        ) as failed:
            ask(value)
        assert failed.value.hint is not None
        assert "temperature is 0 to 1, max_tokens 1 to 128000, retry_count 0 to 10" in failed.value.hint
        assert "retry_delay 0 to 60, timeout above 0 and up to 600 seconds" in failed.value.hint


@pytest.mark.parametrize("name", [name for name, bounds in ARGUMENTS.items() if "max_length" in bounds])
def test_an_argument_is_accepted_up_to_its_bounds(name: str):
    """The error names the tool, the argument and the bound."""
    tool, _, argument = name.partition(".")
    required = {
        "regenerate_content": {"content_config_id": "note"},
        "draft_config": {"config_type": "content", "config_data": {}},
    }

    def decode(value: Any) -> Any:
        return ALL_TOOLS[tool].decode_arguments(msgspec.json.encode({**required.get(tool, {}), argument: value}))

    values = cases(ARGUMENTS[name], whole=True)
    for value in values.accepted:
        assert getattr(decode(value), argument) == value
    for value in values.refused:
        length = ARGUMENTS[name]["max_length"]
        with pytest.raises(InvalidInput, match=rf"{tool} don't fit at \$\.{argument}: Expected .* length <= {length}"):
            decode(value)


async def test_numbers_that_tools_check_themselves_are_accepted_up_to_their_bounds(ask: Asking, project: Project):
    """1 to 500 rows, 1 to 10 texts at once, 1 to 50 texts; ages and counts of versions from 0."""
    project.save(text("note", "x"))
    for tool in ("list_content", "list_artifacts"):
        for limit in (1, 500):
            await ask(tool, limit=limit)
        for limit in (-1, 501):
            error = await ask.refused(tool, "invalid_input", limit=limit)
            assert error["message"] == f"limit is {limit}; 1 to 500 are allowed."
    for parallel in (1, 10):
        await ask("batch_generate", content_ids=["note"], max_parallel=parallel)
    for parallel in (-1, 11):
        error = await ask.refused("batch_generate", "invalid_input", content_ids=["note"], max_parallel=parallel)
        assert "max_parallel" in error["message"]
    many = [f"note-{number}" for number in range(51)]
    project.save(*[text(each, "x") for each in many])
    assert (await ask("batch_generate", content_ids=many[:50], max_parallel=10))["total"] == 50
    assert "50" in (await ask.refused("batch_generate", "invalid_input", content_ids=many))["message"]
    for rule in ("keep_versions", "keep_days"):
        await ask("cleanup_ephemeral", retention={rule: 0}, dry_run=True)
        error = await ask.refused("cleanup_ephemeral", "invalid_retention", retention={rule: -1}, dry_run=True)
        assert error["message"].startswith(f"retention.{rule} is -1 (number), ")
    await ask("cleanup_ephemeral", filter={"older_than_days": 0}, dry_run=True)
    error = await ask.refused("cleanup_ephemeral", "invalid_input", filter={"older_than_days": -1}, dry_run=True)
    assert error["details"]["field"] == "$.filter.older_than_days"
