"""The records that a store keeps; times are ISO-8601 UTC with milliseconds."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct


class Version(Struct, frozen=True, kw_only=True):
    """One generated text of a content config.

    `fingerprint` covers everything the text was made from; `sha256` covers the text itself.
    """

    content_id: str
    body: str
    sha256: str
    fingerprint: str
    generator: str
    generator_version: str
    generated_at: str
    config_version: str | None = None
    stage: str = "draft"
    metadata: dict[str, Any] = {}
    version_id: str = ""


class Draft(Struct, frozen=True, kw_only=True):
    """An unsaved config."""

    draft_id: str
    config_type: str
    config_data: dict[str, Any]
    description: str | None
    created_at: str
    updated_at: str


class Output(Struct, frozen=True, kw_only=True):
    """A file that chora wrote, remembered by hash so that a person's edit is noticed.

    `pending` is the hash of a text about to be renamed into place: after a crash the file may already hold it.
    """

    path: str
    artifact_id: str
    sha256: str | None
    pending: str | None
    fingerprint: str
    size: int
    written_at: str


class Sample(Struct, frozen=True, kw_only=True):
    """One measurement: a probe through the public door, or a benchmark round."""

    kind: Literal["probe", "latency"]
    at: str
    ok: bool
    milliseconds: float
    facts: dict[str, Any] = {}


class SampleCounts(Struct, frozen=True):
    """How many measurements there were, and how many of them were fine."""

    total: int
    ok: int
