"""Encoding a composed text as the bytes of an output file, in the output's format and encoding."""

from __future__ import annotations

import codecs
from typing import Literal

import msgspec
import trio

from chora.decoding import decode_text, encode_yaml, yaml_loader
from chora.engine.outputs import OUTPUT_LIMIT
from chora.errors import ChoraError, CompositionFailed, LimitExceeded
from chora.model import ArtifactConfig, ArtifactOutput
from chora.nesting import DEPTH_LIMIT, is_too_deep
from chora.settings import Rules

INLINE_LENGTH = 16 * 1024
"""Documents up to this length are parsed on the event loop; longer ones in a thread."""
NOT_FOR_FILES = ("idna", "punycode", "unicode-escape", "raw-unicode-escape")
"""Codecs of Python that are for names and source code; idna and punycode take minutes for a long text (CWE-407)."""
COMPOSED = "the composed text"


async def encode_text(config: ArtifactConfig, output: ArtifactOutput, text: str, rules: Rules) -> bytes:
    """The bytes of one output file; json and yaml are parsed and written in canonical form.

    Any other text ends with one newline, unless the output or the rules of the project keep what the template gave.

    Raises:
        CompositionFailed: the text isn't of the output's format or doesn't fit its encoding.
        LimitExceeded: the file would be too large.
    """
    if output.format in ("json", "yaml") and len(text) > INLINE_LENGTH:
        return await trio.to_thread.run_sync(encode_output, config, output, text, rules)
    return encode_output(config, output, text, rules)


def encode_output(config: ArtifactConfig, output: ArtifactOutput, text: str, rules: Rules = "chora") -> bytes:
    """`encode_text`, at once."""

    def failed(message: str, hint: str, error: Exception | None = None) -> CompositionFailed:
        return CompositionFailed(
            f"{config.id}: {message}",
            hint,
            composition_strategy=config.metadata.composition_strategy,
            error_type=type(error).__name__ if error else "UnknownFormat",
            output_path=output.file,
        )

    match output.format:
        case "json" | "yaml" as language:
            try:
                text = _canonical_form(text, language)
            except (ChoraError, ValueError) as error:
                problem = (
                    error.message if isinstance(error, ChoraError) else f"{COMPOSED} can't be written anew: {error}."
                )
                hint = "Let one child hold the whole document, merge objects, or write the output as text."
                raise failed(problem, hint, error) from None
        case "binary" | "test_results" as unknown:
            raise failed(f"outputs of format {unknown} can't be composed of text.", "Write text or code as its format.")
        case _:
            if (output.final_newline or ("keep" if rules == "chora-compose" else "one")) == "one":
                text = _with_one_newline(text)
    try:
        if codecs.lookup(output.encoding).name in NOT_FOR_FILES:
            raise ValueError("files aren't written in it")
        data = text.encode(output.encoding)
    except (LookupError, ValueError) as error:  # codecs differ in what they raise
        raise failed(f"the text doesn't fit the encoding {output.encoding}: {error}.", "Write utf-8.", error) from None
    if len(data) > OUTPUT_LIMIT:
        raise too_large(config)
    return data


def _with_one_newline(text: str) -> str:
    """The text with one newline at its end, of the kind that it ends with; an empty text stays empty."""
    bare = text.rstrip("\r\n")
    return bare + ("\r\n" if text.endswith("\r\n") else "\n") if bare else ""


def too_large(config: ArtifactConfig) -> LimitExceeded:
    """The error for an artifact with more text than an output may have."""
    return LimitExceeded(
        f"{config.id} comes to more than {OUTPUT_LIMIT:,} bytes.",
        "Split it into several artifacts.",
        limit="artifact.size",
        artifact_config_id=config.id,
    )


def _canonical_form(text: str, language: Literal["json", "yaml"]) -> str:
    """A document as chora writes it."""
    document = decode_text(text, language, COMPOSED)
    if is_too_deep(document):
        raise ValueError(f"it has more than {DEPTH_LIMIT} levels")
    if language == "json":
        return msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n"
    import yaml

    # Parsed again, now that it is known to be harmless: decode_text reads dates as text, as configs want them.
    return encode_yaml(yaml.load(text, yaml_loader(dates=True)))  # noqa: S506 (it is a safe one)
