"""Renders what comes on stdin with trio-parallel, and prints how many milliseconds each time took, as JSON.

Runs in an environment of its own, which has trio-parallel and jinja2 and nothing of chora.
"""

import functools
import json
import sys
import time
from typing import Any

import trio
import trio_parallel  # pyright: ignore[reportMissingImports]
from jinja2 import Template
from jinja2.sandbox import ImmutableSandboxedEnvironment

WARM_UP = 5


@functools.cache
def compiled(template: str) -> Template:
    return ImmutableSandboxedEnvironment().from_string(template)


def render(template: str, context: dict[str, Any]) -> str:
    return compiled(template).render(context)


async def main() -> None:
    page = json.load(sys.stdin)
    run: Any = trio_parallel.run_sync  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    times: list[float] = []
    for _ in range(page["calls"] + WARM_UP):
        began = time.perf_counter()
        await run(render, page["template"], page["context"], kill_on_cancel=True)
        times.append((time.perf_counter() - began) * 1000)
    print(json.dumps(times[WARM_UP:]))


if __name__ == "__main__":
    trio.run(main)
