"""The generators: how a text is made, one file each.

A generator is a module with

    NAME = "word_count"                  lower-case letters, digits, - and _; configs name it in patterns[0].type
    VERSION = "1.0.0"                    part of every fingerprint: raise it, and its texts are generated again
    DESCRIPTION = "Counts words."        one sentence
    CAPABILITIES = ("text",)             what it is for, in keywords
    ALIASES = ()                         other names, if any
    NOTES = "…"                          what a manual says besides
    class Options(Struct): …             its options in `generation_config`, each with a description

    async def generate(job: GenerationJob) -> GeneratedText

It takes values and returns text; it opens neither the store nor the network. The job holds what it needs: the config,
its first pattern and its options, the merged context, the templates. The same job must give the same text.
Where it can't generate, it raises `job.failed(NAME, message, hint)`.

A generator that reads more than the config and the context also has `async def ingredients(job) -> dict[str, str]`,
which returns those texts by name, so that a change in any of them is noticed; `generate` finds them in `job.sources`.
`async def check(job)` raises what `generate` would raise whatever the context is, so that `validate` finds it.
One that costs money has `def estimate(job, settings) -> float | None`, one that needs something installed or a secret
`def unavailable(settings) -> str | None`.

A new built-in generator is one module here and one name in `GENERATORS`. A project brings its own with the setting
`plugins.generators`; nothing is loaded that isn't named there.
"""

from __future__ import annotations

from types import ModuleType

from chora.generators import bdd_scenario, code_generation, demonstration, jinja2, template_fill

GENERATORS: tuple[ModuleType, ...] = (demonstration, jinja2, template_fill, bdd_scenario, code_generation)
