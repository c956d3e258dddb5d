"""Checks that the generator of a content can be run, and an artifact composed, as far as that is known without their
context. What they read is checked elsewhere: `source_checks`."""

from __future__ import annotations

from typing import Any

from chora.config_parsing import Issue
from chora.engine.building.compose import template_job
from chora.engine.building.gather import generator_name
from chora.engine.engine import Engine
from chora.engine.validation.rules import RuleFinding
from chora.errors import GenerationFailed, LimitExceeded, PermissionDenied
from chora.generators import jinja2
from chora.generators.generator import GenerationJob
from chora.model import ArtifactConfig, ContentConfig
from chora.render import EvaluateJob, RenderFailed
from chora.wording import as_sentence, find_nearest

GENERATOR_PATH = "generation.patterns[0].type"
COMPOSITION_PATH = "metadata.compositionConfig"


def check_generator_name(engine: Engine, config: ContentConfig) -> RuleFinding | None:
    """What is wrong with the generator that a content names: there is none of this name, or it names none."""
    name = generator_name(config)
    available = [each.name for each in engine.generators.list_generators()]
    details: dict[str, Any] = {"generator_type": name, "available_generators": available}
    if name is None:
        message = f"the content {config.id} names no generator, so it can't be generated"
        return RuleFinding("invalid_generator", message, GENERATOR_PATH, details, "warning")
    if name in engine.generators.by_name:
        return None
    near = find_nearest(name, engine.generators.by_name, 1)
    meant = f"did you mean {near[0]}? There are" if near else "write one of"
    message = f"there is no generator {name!r}; {meant} {', '.join(available)}"
    return RuleFinding("invalid_generator", message, GENERATOR_PATH, details, "error")


def generator_issue(engine: Engine, config: Any) -> Issue | None:
    """The same as an issue of a document, which isn't one to keep then; None also for what isn't a content."""
    if not isinstance(config, ContentConfig) or (finding := check_generator_name(engine, config)) is None:
        return None
    available = finding.details["available_generators"]
    return Issue(
        severity="error",
        code=finding.code,
        message=as_sentence(finding.message),
        path=f"$.{GENERATOR_PATH}",
        found=finding.details["generator_type"] or "nothing",
        expected=f"one of {', '.join(available)}",
        write='"generation": {"patterns": [{"id": "main", "type": "jinja2", "template": "…"}]}',
    )


async def check_generator(engine: Engine, config: ContentConfig) -> list[RuleFinding]:
    """Check that the generator of a content is there, and that it can be run: its options, its template."""
    if (finding := check_generator_name(engine, config)) is not None:
        return [finding]
    name = generator_name(config)
    assert name is not None
    generator = engine.generators.by_name[name]
    pattern = config.generation.patterns[0] if config.generation.patterns else None
    undefined, rules = engine.settings.templates.undefined, engine.settings.configs.rules
    job = GenerationJob(config, pattern, {}, engine.templates, undefined, {}, rules=rules)
    place = "generation.patterns[0].generation_config"
    findings = [
        RuleFinding("unknown_option", message, place, {"generator_type": name}, "warning")
        for message in generator.unknown_options(job)
    ]
    try:
        texts = await generator.gather_ingredients(job)
        await generator.check_job(job._replace(sources=texts))
    except (GenerationFailed, PermissionDenied, LimitExceeded) as error:
        message = error.message.removeprefix(f"{config.id}: ").removesuffix(".")
        findings.append(RuleFinding("invalid_template", message, "generation.patterns[0]", {"generator_type": name}))
    return findings


async def check_composition(engine: Engine, config: ArtifactConfig) -> list[RuleFinding]:
    """Check that the pieces of an artifact can be composed: conditions can be parsed, its template can be read, its
    composer is there."""
    return [*await _check_conditions(engine, config), *await _check_strategy(engine, config)]


async def _check_strategy(engine: Engine, config: ArtifactConfig) -> list[RuleFinding]:
    options = config.metadata.composition_config
    match config.metadata.composition_strategy:
        case "template" if not options.template:
            return [_composition("the composition strategy template needs a template")]
        case "template":
            job = template_job(engine, config, {})
            try:
                await jinja2.check_includes(job, await jinja2.ingredients(job))
            except (GenerationFailed, PermissionDenied, LimitExceeded) as error:
                return [_composition(error.message.removeprefix(f"{config.id}: ").removesuffix("."))]
        case "custom" if (options.composer or "") not in engine.composers:
            return [
                _composition(f"there is no composer {options.composer!r}; the setting plugins.composers brings them")
            ]
        case _:
            pass
    return []


async def _check_conditions(engine: Engine, config: ArtifactConfig) -> list[RuleFinding]:
    """The conditions of children that can't be parsed. What they are true of is known only where they are used."""
    findings: list[RuleFinding] = []
    for index, child in enumerate(config.content.children):
        if condition := (child.conditions or "").strip():
            try:
                await engine.templates.pool.evaluate_condition(EvaluateJob(condition))
            except RenderFailed as failure:
                if failure.reason.kind == "syntax":
                    findings.append(
                        RuleFinding(
                            "invalid_condition",
                            f"the condition of {child.id} can't be parsed: {failure.reason.message.removesuffix('.')}",
                            f"content.children[{index}].conditions",
                            severity="error" if engine.settings.configs.rules == "chora" else "warning",
                            details={"content_id": child.id},
                        )
                    )
    return findings


def _composition(message: str) -> RuleFinding:
    return RuleFinding("invalid_composition", message, COMPOSITION_PATH, severity="error")
