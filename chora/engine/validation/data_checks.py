"""Checks of data: required fields, and JSON Schemas."""

from __future__ import annotations

from typing import Any, Literal, cast

from chora.decoding import decode_text
from chora.engine.validation.rules import (
    GENERATED_TARGETS,
    CheckedText,
    ContentNotGenerated,
    MalformedRule,
    RuleContext,
    RuleFinding,
    TargetMissing,
    read_checked_file,
    run_in_thread_if_long,
)
from chora.errors import ChoraError
from chora.generators.generator import lookup
from chora.render import CompareJob, RenderFailed


async def check_required_fields(context: RuleContext) -> list[RuleFinding]:
    """Every one of `fields`, dotted names, has a value: in a text that is JSON or YAML, else in the config."""
    fields = context.option("fields")
    names = cast("list[object]", fields if isinstance(fields, list) else [fields])
    if not names or not all(isinstance(name, str) and name for name in names):
        raise MalformedRule("fields isn't a list of names such as metadata.version")
    findings: list[RuleFinding] = []
    for piece in await _data_texts(context):
        try:
            record = await _decode_data(piece)
        except TargetMissing as error:
            findings.append(RuleFinding("format_mismatch", str(error), piece.location()))
            continue
        for name in cast("list[str]", names):
            if lookup(cast("dict[str, Any]", record), name) is None:
                message = f"{name} has no value in {piece.name or 'the text'}"
                findings.append(RuleFinding("missing_required_field", message, piece.location(), {"field": name}))
    return findings


async def _data_texts(context: RuleContext) -> list[CheckedText]:
    """The texts of a rule that are data; if none is, and the rule names no other, the config."""
    if context.rule.target not in GENERATED_TARGETS:
        return await context.find_texts()
    try:
        found = [piece for piece in await context.find_texts() if _is_data(piece)]
    except ContentNotGenerated:
        found = []
    return found or [context.config_text()]


def _is_data(piece: CheckedText) -> bool:
    if piece.format is None:
        return piece.text.lstrip()[:1] in ("{", "[")
    return piece.format in ("json", "yaml", "yml")


async def _decode_data(piece: CheckedText) -> Any:
    """The document that a text holds.

    Raises:
        TargetMissing: it holds none.
    """
    looks_like_json = piece.text.lstrip()[:1] in ("{", "[")
    is_json = piece.format == "json" or (piece.format not in ("yaml", "yml") and looks_like_json)
    language: Literal["json", "yaml"] = "json" if is_json else "yaml"
    try:
        return await run_in_thread_if_long(len(piece.text), decode_text, piece.text, language, piece.name or "the text")
    except ChoraError as error:
        raise TargetMissing(error.message.removesuffix(".")) from None


async def check_schema(context: RuleContext, piece: CheckedText) -> list[RuleFinding]:
    """The text, JSON or YAML, fits `schema`: a JSON Schema, or a file of the project that holds one."""
    schema = context.option("schema", "schema_file")
    if isinstance(schema, str):
        try:
            schema = await _decode_data(read_checked_file(context.subject.engine, schema))
        except TargetMissing as error:
            raise MalformedRule(f"the schema can't be read: {error}") from None
    if not isinstance(schema, dict | bool):
        raise MalformedRule("schema is neither a JSON Schema nor the path of a file that holds one")
    try:
        data = await _decode_data(piece)
    except TargetMissing as error:
        return [RuleFinding("format_mismatch", str(error), piece.location())]
    try:
        job = CompareJob(cast("dict[str, Any] | bool", schema), data, "the schema")
        found = await context.subject.engine.templates.pool.check_text(job)
    except RenderFailed as failure:
        if failure.reason.kind != "syntax":
            raise
        raise MalformedRule(f"the schema doesn't fit: {failure.reason.message}") from None
    return [
        RuleFinding(
            "schema_validation_failed", finding.message, piece.location(path=finding.path), {"path": finding.path}
        )
        for finding in found.findings
    ]
