"""Jobs for generators, as the engine makes them."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

from chora import settings
from chora.config_parsing import parse_config
from chora.files import Folder
from chora.generators.generator import GeneratedText, GenerationJob
from chora.generators.templates import Templates
from chora.render.pool import RenderPool
from tests.conftest import content


def job_of(
    root: Path, pattern: dict[str, Any], context: dict[str, Any] | None = None, undefined: Any = "strict", **rest: Any
) -> GenerationJob:
    """A job for a content config with this pattern; `rest` goes to the config."""
    parsed = parse_config("content", content("note", pattern=pattern, **rest), where="note").config
    templates = Templates(Folder(root), settings.PathSettings().templates, RenderPool(settings.RenderSettings()))
    return GenerationJob(parsed, parsed.generation.patterns[0], context or {}, templates, undefined, {})


async def make(generator: ModuleType, job: GenerationJob) -> GeneratedText:
    """What the generator makes of a job."""
    if hasattr(generator, "ingredients"):
        job = job._replace(sources=await generator.ingredients(job))
    return await generator.generate(job)
