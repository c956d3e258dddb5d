"""The records in a store; times are ISO 8601, UTC, with milliseconds."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from msgspec import Struct


class Version(Struct, frozen=True, kw_only=True):
    """One generated text of a content config.

    `fingerprint` is a hash of everything the text was made from; `sha256` is the hash of the text itself.
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
    approved: bool = False
    """Whether the config, or every one of its elements, was approved when the text was made."""
    metadata: dict[str, Any] = {}
    version_id: str = ""
    deleted: bool = False
    """The text was deleted and only its metadata is kept; the body is empty."""


class VersionInfo(Struct, frozen=True, kw_only=True):
    """A version without its text, for lists and retention."""

    version_id: str
    content_id: str
    generated_at: str
    generator: str
    config_version: str | None
    stage: str
    approved: bool
    deleted: bool
    size: int
    """Bytes of the text in UTF-8; of a deleted one 0."""


class VersionAge(NamedTuple):
    """When a version was made, and what deleting it would free."""

    generated_at: str
    version_id: str
    size: int


class ContentState(NamedTuple):
    """What is stored of one content."""

    versions: int
    """All of its versions."""
    kept: int
    """Those whose text isn't deleted."""
    newest: VersionInfo | None
    """The newest of these."""


class Draft(Struct, frozen=True, kw_only=True):
    """An unsaved config."""

    draft_id: str
    config_type: str
    config_data: dict[str, Any]
    description: str | None
    created_at: str
    updated_at: str


class Output(Struct, frozen=True, kw_only=True):
    """A file that chora wrote, with the hash that shows whether a person edited it since.

    `pending` is the hash of a text about to be renamed into place: after a crash the file may already hold it.
    """

    path: str
    artifact_id: str
    sha256: str | None
    pending: str | None
    fingerprint: str
    size: int
    written_at: str
    base: str | None = None
    """The text itself, kept where edits are merged: the common base of a three-way merge."""


class Trace(Struct, frozen=True, kw_only=True):
    """What one build step read, and its result: the result is valid while every input is unchanged."""

    subject: str
    """What was built, such as `content:configs/content/intro.json`."""
    key: str
    """Hash of what else determines the result: context, options, settings."""
    seen: dict[str, list[Any]]
    """Every input with its digest and, for a file, its stamp when the digest was taken."""
    result: dict[str, Any]
    at: str


class Job(Struct, frozen=True, kw_only=True):
    """Work that may outlive the call that started it."""

    job_id: str
    key: str
    """Hash of tool, normalised arguments and principal: the same call joins the same job."""
    tool: str
    arguments: dict[str, Any]
    principal: str
    status: Literal["running", "done", "failed", "cancelled", "interrupted"]
    created_at: str
    updated_at: str
    """The heartbeat of a running job, renewed every few seconds."""
    progress: dict[str, Any] = {}
    """`done`, `total` and `message`."""
    result: str | None = None
    """The result of the tool, JSON."""


class Cost(Struct, frozen=True, kw_only=True):
    """The cost of one call of a paid model."""

    at: str
    content_id: str
    model: str
    input_tokens: int
    output_tokens: int
    usd: float | None
    """None for a model of unknown price."""


class Completion(Struct, frozen=True, kw_only=True):
    """The answer of a model to exactly this prompt with these parameters."""

    key: str
    model: str
    text: str
    input_tokens: int
    output_tokens: int
    at: str


class Sample(Struct, frozen=True, kw_only=True):
    """One measurement: an uptime probe through the HTTP listener, or a benchmark round."""

    kind: Literal["probe", "latency"]
    at: str
    ok: bool
    milliseconds: float
    facts: dict[str, Any] = {}


class SampleCounts(Struct, frozen=True):
    """How many measurements there were, and how many succeeded."""

    total: int
    ok: int


class Event(Struct, frozen=True, kw_only=True):
    """An event, as the event file has it too."""

    at: str
    kind: str
    status: str
    trace_id: str | None
    facts: dict[str, Any] = {}


Record = Version | Draft | Output | Trace | Job | Cost | Completion | Sample | Event
"""Any record in a store."""
