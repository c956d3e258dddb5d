"""The event loop belongs to nobody: whatever others wrote, no step of a task takes more than 150 ms of processor."""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from trio.abc import Instrument

from chora.metrics import Metrics
from chora.provider import project_server
from chora.tools import TOOLS
from tests.conftest import Asking, Project, content, requirement
from tests.patience import PATIENCE
from tests.protocol.test_server import initialized_session
from tests.stress.conftest import MIB, linux

PIECE = 0.15
"""Seconds of processor that one step of a task may take."""
LEFT_OVER = 64 * MIB

pytestmark = pytest.mark.slow("tries every entry point with the worst content that it takes")


class LongestStep(Instrument):
    """Measures each step of each task, in processor time, which other processes don't lengthen."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._began = time.thread_time()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._began = time.thread_time()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.seconds = max(self.seconds, time.thread_time() - self._began)


async def longest_step(act: Callable[[], Awaitable[object]]) -> float:
    """Seconds of the longest step of any task while this is done."""
    await trio.lowlevel.checkpoint()
    gc.collect()
    longest = LongestStep()
    trio.lowlevel.add_instrument(longest)
    try:
        with trio.move_on_after(PATIENCE):
            await act()
        await trio.lowlevel.checkpoint()
    finally:
        trio.lowlevel.remove_instrument(longest)
    return longest.seconds


async def long_steps(acts: dict[str, Callable[[], Awaitable[object]]]) -> dict[str, float]:
    """Those of the acts that have a step longer than a piece, and its seconds; the least of two measurements."""
    found: dict[str, float] = {}
    for name, act in acts.items():
        if (took := await longest_step(act)) > PIECE and (took := min(took, await longest_step(act))) > PIECE:
            found[name] = round(took, 3)
    return found


def resident() -> int:
    """Bytes that this process occupies, once the allocator has returned what it keeps."""
    gc.collect()
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


# -- shapes -----------------------------------------------------------------------------------------------------

SIZE = 2 * MIB
TEXTS: dict[str, str] = {
    "blanks": " " * SIZE,
    "letters": "a" * SIZE,
    "lines": "a\n" * (SIZE // 2),
    "braces": "{{" * (SIZE // 2),
    "a path": "a/" * (SIZE // 2),
    "lists as text": "[" + "[]," * 33_000 + "[]]",
    "texts as text": "[" + '"",' * 99_000 + '""]',
}
VALUES: dict[str, Callable[[], Any]] = {
    "numbers": lambda: {"x": [1] * 99_000},
    "lists": lambda: {"x": [[]] * 49_000},
    "keys": lambda: {f"k{number}": 1 for number in range(99_000)},
    "rows": lambda: {"x": [{"a": 1, "b": ""}] * 24_000},
    "levels": lambda: {"x": [msgspec.json.decode("[" * 60 + "]" * 60)] * 1500},
}


def argument_of(schema: dict[str, Any], text: str, value: Any) -> Any:
    """A value of an argument's type that is as large as can be."""
    kind = schema.get("type")
    kinds = kind if isinstance(kind, list) else [kind]
    if schema.get("enum"):
        return schema["enum"][0]
    if "object" in kinds:
        return value
    if "array" in kinds:
        return [argument_of(schema.get("items", {}), text[:30], value)] * 1000 if "items" in schema else value["x"]
    if "string" in kinds:
        return text
    if "boolean" in kinds:
        return True
    if "integer" in kinds or "number" in kinds:
        return schema.get("maximum", 1)
    return value


def hostile_arguments(tool: str) -> dict[str, dict[str, Any]]:
    """For each argument of a tool in turn, the worst values; the others are what is needed."""
    schema = TOOLS[tool].input_schema
    found: dict[str, dict[str, Any]] = {}
    needed = dict.fromkeys(schema.get("required", ()), "note")
    for name, about in schema.get("properties", {}).items():
        for shape, text in TEXTS.items():
            found[f"{name}: {shape}"] = {**needed, name: argument_of(about, text, {"x": [text]})}
        for shape, make in VALUES.items():
            found[f"{name}: {shape}"] = {**needed, name: argument_of(about, "note", make())}
    return found


def sources() -> dict[str, dict[str, tuple[str, bytes]]]:
    """By type of source: its worst files."""
    tables = {
        "json": {
            "lists": b"[" + b"[]," * 3_300_000 + b"[]]",
            "texts": b"[" + b'"",' * 3_300_000 + b'""]',
            "number": b"1" * 9_000_000,
            "open": b"[" * 9_000_000,
        },
        "toml": {
            "number": b"a = 1" + b"1" * 9_000_000,
            "list": b"a = [" + b"1," * 4_000_000 + b"1]",
            "quotes": b'\\"' * 4_000_000,
            "dots": b"a." * 4_000_000 + b"b = 1",
        },
        "yaml": {"list": b"[" + b"1," * 4_000_000 + b"1]", "dashes": b"- " * 4_000_000, "lines": b"- 1\n" * 2_000_000},
        "csv": {
            "rows": b"a\n" + b"1\n" * 4_000_000,
            "columns": b"a" + b"," * 8_000_000,
            "quote": b'a\n"' + b"x" * 9_000_000,
        },
        "md": {"lines": b"#\n" * 4_000_000},
    }
    files = {
        f"{suffix} {kind}": (f"data/a.{suffix}", body)
        for suffix, kinds in tables.items()
        for kind, body in kinds.items()
    }
    nothing = {"a long name": ("a" * 200, b"")}
    return {
        "external_file": files,
        "inline_data": nothing,
        "git_reference": nothing,
        "content_config": nothing,
        "artifact_config": nothing,
        "ephemeral_output": nothing,
    }


GENERATED: dict[str, Callable[[str], dict[str, Any]]] = {
    "demonstration": lambda text: {"type": "demonstration", "template": text},
    "jinja2": lambda text: {"type": "jinja2", "template": text},
    "template_fill": lambda text: {"type": "template_fill", "template": text},
    "bdd_scenario": lambda text: {"type": "bdd_scenario", "template": text},
    "code_generation": lambda text: {"type": "code_generation", "generation_config": {"prompt": text}},
}


# -- entry points -----------------------------------------------------------------------------------------------


@linux
@requirement("hostile.event-loop")
@pytest.mark.parametrize("tool", TOOLS)
async def test_no_argument_of_a_tool_blocks_the_loop(tool: str, ask: Asking, project: Project):
    """Each argument, with texts and data as large as a message may be; the memory is returned."""
    project.save(content("note", pattern={"type": "jinja2", "template": "{{ x }}\n"}))
    server = project_server(ask.engine, TOOLS, Metrics())
    bodies = {
        shape: msgspec.json.encode(
            {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": arguments}}
        )
        for shape, arguments in hostile_arguments(tool).items()
    }
    assert all(len(body) <= 4 * MIB for body in bodies.values())
    await server.answer(initialized_session(), min(bodies.values(), key=len))
    before = resident()
    acts = {shape: partial(server.answer, initialized_session(), body) for shape, body in bodies.items()}
    assert await long_steps(acts) == {}
    assert resident() - before < LEFT_OVER
