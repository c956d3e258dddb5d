"""Parsing raw documents into the Structs of the config formats.

Parsing is tolerant: `parse_config` works on a copy, turns every known deviation into what the format says (a warning
each, naming what to write), and converts the copy into a Struct. The raw document stays as it is and is what gets
saved, so that keys which chora doesn't know survive.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import msgspec

from chora.config_parsing.cross_checks import check_cross_references
from chora.config_parsing.deviations import normalize_deviations
from chora.config_parsing.dialects import refuse_dialects
from chora.config_parsing.fields import fields_of_struct
from chora.config_parsing.issues import ID_LIMIT, ISSUES_LIMIT, Issue, IssueCollector, make_issue, to_json, with_article
from chora.config_parsing.normalize import FieldNormalizer
from chora.config_parsing.plain_data import NotPlainData, PlainCopy, as_object
from chora.config_parsing.schema_errors import schema_errors
from chora.errors import ValidationFailed
from chora.model import KINDS, STRUCTS, Kind


class ParsedConfig(NamedTuple):
    """A document that was parsed."""

    kind: Kind
    config: Any
    """A `ContentConfig`, `ArtifactConfig` or `CollectionConfig`, by `kind`."""
    raw: dict[str, Any]
    """The document itself, with everything that `config` doesn't know. It is shared: don't change it."""
    warnings: list[Issue]
    origin: str = ""
    """The path of its file, or the id of a draft."""


def parse_config(kind: Kind, document: object, *, where: str, expected_id: str | None = None) -> ParsedConfig:
    """Parse a raw document into its Struct.

    Args:
        kind: what the document is expected to be.
        document: plain JSON data; it is left as it is.
        where: what to call the document in messages, such as its path.
        expected_id: the id that it has elsewhere; another one inside is a warning.

    Raises:
        ValidationFailed: it doesn't fit; `details.schema_errors` lists every error.
        LimitExceeded: it holds more values than `CONFIG_VALUES`.
    """
    try:
        copy = PlainCopy(where).copy_of(document)
    except NotPlainData as error:
        raise _refusal(kind, where, document, [error.issue()], []) from None
    if (record := as_object(copy)) is None:
        raise _refusal(kind, where, document, list(schema_errors(kind, copy)), [])
    issues = IssueCollector()
    if (found := record.get("type")) != kind and found in KINDS:
        message = (
            f"This is {with_article(found)} config, not {with_article(kind)} config; it belongs in configs/{found}/."
        )
        issues.fail("wrong_kind", "$.type", found, to_json(kind), f'"type": {to_json(kind)}', message)
        raise _refusal(kind, where, document, issues.errors, [])
    normalizer = FieldNormalizer(issues)
    refuse_dialects(kind, record, issues)
    normalize_deviations(kind, record, issues)
    normalizer.normalize_record(record, fields_of_struct(STRUCTS[kind]), "$")
    check_cross_references(kind, record, issues)
    try:
        config = msgspec.convert(record, STRUCTS[kind])
    except msgspec.ValidationError as error:
        config, first = None, str(error)
    else:
        first = ""
    if config is None or issues.errors:
        normalizer.restore_sources()
        errors = _all_errors(kind, record, issues, first)
        warnings = [warning for warning in issues.warnings if not issues.is_explained(warning)]
        raise _refusal(kind, where, document, errors, warnings)
    parsed = ParsedConfig(kind, config, cast("dict[str, Any]", document), issues.warnings, where)
    return parsed if expected_id is None else check_expected_id(parsed, expected_id)


def check_expected_id(parsed: ParsedConfig, expected_id: str) -> ParsedConfig:
    """The same config, with a warning if the id inside differs from the one that it has elsewhere."""
    if parsed.config.id == expected_id:
        return parsed
    expected = to_json(expected_id)
    warning = make_issue("warning", "id_mismatch", "$.id", parsed.config.id, expected, f'"id": {expected}')
    return parsed._replace(warnings=[*parsed.warnings, warning])


def _all_errors(kind: Kind, document: dict[str, Any], issues: IssueCollector, first: str) -> list[Issue]:
    """Everything that is wrong with a normalised document.

    Args:
        kind: what the document should be.
        document: the document.
        issues: what is known already.
        first: what msgspec said, empty if it accepted the document.
    """
    errors = list(issues.errors)
    for error in schema_errors(kind, document):
        if len(errors) >= ISSUES_LIMIT:
            break
        if not issues.is_explained(error):
            errors.append(error)
    if not errors:
        # The two validators differ in corners, such as 3.0 for a whole number; then the stricter one decides.
        problem, _, path = first.partition(" - at `")
        path = path.rstrip("`") or "$"
        message = f"{path}: {problem[:1].lower()}{problem[1:]}."
        errors.append(Issue(severity="error", code="wrong_type", message=message, path=path))
    return errors


def _refusal(kind: Kind, where: str, document: object, errors: list[Issue], warnings: list[Issue]) -> ValidationFailed:
    """The error for a document that doesn't fit."""
    message = f"{where} is not {with_article(kind)} config: {errors[0].message}"
    if len(errors) > 1:
        message += f" There {'is one more error' if len(errors) == 2 else f'are {len(errors) - 1} more errors'}."
    if any(error.code == "dialect" for error in errors):
        hint = "Write what each error names, or let `chora import --convert` convert the file."
    else:
        described = f"Every field is described in manual://{kind}."
        hint = f"Write {errors[0].write}. {described}" if errors[0].write else described
    details: dict[str, Any] = {"file": where, "schema_errors": [_as_details(error) for error in errors]}
    if warnings:
        details["warnings"] = [_as_details(warning) for warning in warnings]
    if isinstance(config_id := (as_object(document) or {}).get("id"), str) and len(config_id) <= ID_LIMIT:
        details["config_id"] = config_id
    return ValidationFailed(message, hint, **details)


def _as_details(issue: Issue) -> dict[str, str]:
    return {
        "path": issue.path,
        "message": issue.message,
        "found": issue.found,
        "expected": issue.expected,
        "write": issue.write,
    }
