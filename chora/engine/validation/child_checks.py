"""Checks of a config and what it is composed of: completeness and coherence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TypeVar, cast

from chora.config_parsing import ParsedConfig
from chora.engine import retrieval
from chora.engine.building.content import is_approved
from chora.engine.building.pieces import describe_other_source, find_child
from chora.engine.engine import Engine
from chora.engine.outputs import check_output_path, is_template, same_file
from chora.engine.validation.generator_checks import check_composition
from chora.engine.validation.rules import MalformedRule, RuleContext, RuleFinding
from chora.engine.validation.source_checks import ContentChecks
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
    """Every child has a config and a text that is stored or can be generated, and they can be composed; a missing
    optional one is a warning."""
    config, engine = context.subject.config, context.subject.engine
    findings = await check_composition(engine, config) if isinstance(config, ArtifactConfig) else []
    checks = ContentChecks(context.subject.build)
    for index, child in enumerate(_children(context)):
        for finding in await check_child(engine, child, checks):
            severity = finding.severity or (None if child.required else "warning")
            place = f"content.children[{index}]" if isinstance(child, ArtifactChild) else f"children[{index}]"
            details = {"content_id": child.id, **finding.details}
            findings.append(finding._replace(location=place, details=details, severity=severity))
    return findings


async def check_child(engine: Engine, child: ArtifactChild | ContentChild, checks: ContentChecks) -> list[RuleFinding]:
    """Find why a child has no text that its artifact could use.

    Args:
        engine: the project.
        child: the child.
        checks: those of contents.
    """
    strategy = child.retrieval_strategy if isinstance(child, ArtifactChild) else "latest"
    wanted = f"version:{child.version}" if strategy == "version" else strategy
    if strategy == "version" and not child.version:
        return [RuleFinding("invalid_child", f"{child.id} retrieves a version and doesn't name one")]
    parsed: ParsedConfig | None = None
    try:
        parsed = find_child(engine, cast(ArtifactChild, child)).parsed
    except ConfigNotFound:
        if strategy == "latest":
            message = f"there is no content config {child.id}"
            return [RuleFinding("missing_child", message, details={"path": child.path})]
    except ChoraError as error:
        return [RuleFinding("invalid_child", error.message.removesuffix("."), details={"path": child.path})]
    findings: list[RuleFinding] = []
    config: ContentConfig | None = parsed.config if parsed else None
    is_wanted = (
        config is not None
        and (strategy != "version" or config.metadata.version == child.version)
        and (strategy != "approved_only" or is_approved(config))
    )
    if parsed is not None and is_wanted and (faults := await checks.check_content(parsed)):
        # A text that is stored already is no help: the next build generates it again.
        findings += [_as_childs(child, fault) for fault in faults]
    elif not is_wanted and not retrieval.find_version_ids(engine.store, config.id if config else child.id, wanted):
        findings.append(RuleFinding("child_not_available", f"{child.id} has no text: no stored text is {wanted}"))
    if isinstance(child, ArtifactChild) and child.review_required and config is not None and not is_approved(config):
        message = f"{child.id} asks for a review, and neither it nor all of its elements are approved"
        findings.append(RuleFinding("review_pending", message, severity="warning"))
    if isinstance(child, ArtifactChild) and config is not None and (message := describe_other_source(child, config)):
        findings.append(RuleFinding("other_source", message, severity="warning"))
    return findings


def _as_childs(child: ArtifactChild | ContentChild, fault: RuleFinding) -> RuleFinding:
    """A finding about a content, as one about a child."""
    if fault.severity == "warning" and fault.code != "invalid_generator":
        return fault._replace(message=f"the child {child.id}: {fault.message}", location=None)
    return fault._replace(
        code="child_not_available" if fault.code == "invalid_generator" else fault.code,
        message=f"the child {child.id} can't be generated: {fault.message}",
        location=None,
        severity=None,
    )


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
            if is_template(output.file):  # what it comes to depends on the context
                continue
            if output.file.endswith("/"):
                message, place = f"the output {output.file} names no file: it is a folder", f"metadata.outputs[{index}]"
                findings.append(RuleFinding("invalid_output", message, place, severity="error"))
                continue
            try:
                paths.append(check_output_path(engine, output.file))
            except ChoraError as error:
                place = f"metadata.outputs[{index}]"
                findings.append(RuleFinding("invalid_output", error.message.removesuffix("."), place, severity="error"))
        for file in _duplicates(map(same_file, paths)):
            path = next(path for path in paths if same_file(path) == file)
            message = f"{path} is an output twice"
            findings.append(
                RuleFinding("duplicate_output", message, "metadata.outputs", {"output_path": path}, severity="error")
            )
    return findings


def _duplicates(values: Iterator[T] | list[T]) -> list[T]:
    return [value for value, count in Counter(values).items() if count > 1]
