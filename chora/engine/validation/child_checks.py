"""Checks of a config and what it is composed of: completeness and coherence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TypeVar, cast

from chora.engine import retrieval
from chora.engine.building.content import is_approved
from chora.engine.building.gather import generator_name
from chora.engine.building.pieces import find_child
from chora.engine.engine import Engine
from chora.engine.outputs import check_output_path
from chora.engine.validation.rules import MalformedRule, RuleContext, RuleFinding
from chora.errors import ChoraError, ConfigNotFound
from chora.model import ArtifactChild, ArtifactConfig, ContentChild, ContentConfig


def _children(context: RuleContext) -> tuple[ArtifactChild | ContentChild, ...]:
    config = context.subject.config
    if isinstance(config, ArtifactConfig):
        return config.content.children
    if isinstance(config, ContentConfig):
        return config.children
    raise MalformedRule(f"{context.subject.name} has no config with children")


T = TypeVar("T")


async def check_completeness(context: RuleContext) -> list[RuleFinding]:
    """Every child has a config, and a text that is stored or can be generated; a missing optional one is a warning."""
    findings: list[RuleFinding] = []
    for index, child in enumerate(_children(context)):
        for finding in check_child(context.subject.engine, child):
            severity = finding.severity or (None if child.required else "warning")
            place = f"content.children[{index}]" if isinstance(child, ArtifactChild) else f"children[{index}]"
            details = {"content_id": child.id, **finding.details}
            findings.append(finding._replace(location=place, details=details, severity=severity))
    return findings


def check_child(engine: Engine, child: ArtifactChild | ContentChild) -> Iterator[RuleFinding]:
    """Find why a child has no text that its artifact could use."""
    strategy = child.retrieval_strategy if isinstance(child, ArtifactChild) else "latest"
    wanted = f"version:{child.version}" if strategy == "version" else strategy
    if strategy == "version" and not child.version:
        yield RuleFinding("invalid_child", f"{child.id} retrieves a version and doesn't name one")
        return
    config: ContentConfig | None = None
    try:
        config = find_child(engine, cast(ArtifactChild, child)).parsed.config
    except ConfigNotFound:
        if strategy == "latest":
            yield RuleFinding("missing_child", f"there is no content config {child.id}", details={"path": child.path})
            return
    except ChoraError as error:
        yield RuleFinding("invalid_child", error.message.removesuffix("."), details={"path": child.path})
        return
    can_be_made = config is not None and knows_generator(engine, config)
    fits = (
        config is not None
        and (strategy != "version" or config.metadata.version == child.version)
        and (strategy != "approved_only" or is_approved(config))
    )
    if not (can_be_made and fits) and (
        strategy == "latest" or not retrieval.find_version_ids(engine.store, config.id if config else child.id, wanted)
    ):
        reason = "no generator can generate it" if strategy == "latest" else f"no stored text is {wanted}"
        yield RuleFinding("child_not_available", f"{child.id} has no text: {reason}")
    if isinstance(child, ArtifactChild) and child.review_required and config is not None and not is_approved(config):
        message = f"{child.id} asks for a review, and neither it nor all of its elements are approved"
        yield RuleFinding("review_pending", message, severity="warning")


def knows_generator(engine: Engine, config: ContentConfig) -> bool:
    """Whether there is a generator for a content."""
    name = generator_name(config)
    return name is not None and name in engine.generators.by_name


async def check_coherence(context: RuleContext) -> list[RuleFinding]:
    """No child, position or output occurs twice, and outputs go where they may."""
    children = _children(context)
    config, engine = context.subject.config, context.subject.engine
    findings: list[RuleFinding] = []
    for name in _duplicates(child.id for child in children):
        findings.append(RuleFinding("duplicate_child", f"{name} is a child twice", "children", {"content_id": name}))
    # An order that isn't given is 0, which means: in the order of the config.
    for order in _duplicates(child.order for child in children if child.order):
        named = [child.id for child in children if child.order == order]
        message = f"{', '.join(named)} have the order {order:g}, so they keep their order in the config"
        findings.append(RuleFinding("duplicate_order", message, "children", {"order": order, "content_ids": named}))
    if isinstance(config, ArtifactConfig):
        paths: list[str] = []
        for index, output in enumerate(config.metadata.outputs):
            try:
                paths.append(check_output_path(engine, output.file))
            except ChoraError as error:
                place = f"metadata.outputs[{index}]"
                findings.append(RuleFinding("invalid_output", error.message.removesuffix("."), place, severity="error"))
        for path in _duplicates(paths):
            message = f"{path} is an output twice"
            findings.append(
                RuleFinding("duplicate_output", message, "metadata.outputs", {"output_path": path}, severity="error")
            )
    return findings


def _duplicates(values: Iterator[T] | list[T]) -> list[T]:
    return [value for value, count in Counter(values).items() if count > 1]
