"""The fingerprint rule: what decides whether a text, or an artifact, would come out the same.

A text is generated again when its fingerprint differs from that of every stored version: SHA-256 over the engine's
format version, the normalised config, the merged context, the texts it is made from with all that they include, the
generator with its version, and how undefined names are treated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from chora.engine.engine import Engine
from chora.generators.generator import GenerationJob
from chora.generators.plugins import source_digest
from chora.generators.registry import Generator
from chora.hashing import digest_of, sha256

FORMAT_VERSION = 9
"""Raise it with every change of gathering, composing, encoding or of the results kept in traces: what older versions
of chora built is then built once more."""


def content_fingerprint(generator: Generator, job: GenerationJob) -> str:
    """The hash of everything that a text is made from."""
    return digest_of([FORMAT_VERSION, job.config, job.context, job.sources, generator.identity, job.undefined])


def artifact_fingerprint(texts: Sequence[bytes], version_ids: Sequence[str | None]) -> str:
    """The hash of what an artifact's files hold and of the versions they were composed of."""
    return digest_of([FORMAT_VERSION, [sha256(text) for text in texts], version_ids])


def settings_parts(engine: Engine) -> dict[str, Any]:
    """Everything that decides a result besides its config, its context and its inputs: settings, and the version."""
    settings = engine.settings
    return {
        "version": FORMAT_VERSION,
        "templates.undefined": settings.templates.undefined,
        "configs.rules": settings.configs.rules,
        "paths.templates": settings.paths.templates,
        "paths.configs": engine.catalog.root,
        "llm.model": settings.llm.model,
        "plugins.composers": [source_digest(composer) for composer in engine.composers.values()],
        "output.on_edit": settings.output.on_edit,
    }
