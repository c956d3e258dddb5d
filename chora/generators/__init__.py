"""The shelf of generators: how a text is made, one file each.

A generator is a module with `NAME`, `VERSION`, `DESCRIPTION`, `CAPABILITIES`, optional `ALIASES`, and
`async def generate(job) -> Made`. It takes values and returns text; it opens neither the store nor the network.
One that reads more than the config and the context also has `async def ingredients(job)`, which returns those
texts by name, so that a change in any of them is noticed.
"""

from __future__ import annotations

from types import ModuleType

from chora.generators import demonstration, jinja2, template_fill

GENERATORS: tuple[ModuleType, ...] = (demonstration, jinja2, template_fill)

BY_NAME: dict[str, ModuleType] = {
    name: generator for generator in GENERATORS for name in (generator.NAME, *getattr(generator, "ALIASES", ()))
}
