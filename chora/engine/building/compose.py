"""Making one text of an artifact's pieces, by its composition strategy."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, NamedTuple, cast

import msgspec
import trio

from chora.catalog import OnRead
from chora.decoding import decode_text
from chora.engine.building.context import json_type, unstored_content
from chora.engine.building.pieces import GatheredPieces, Piece
from chora.engine.engine import Engine
from chora.errors import ChoraError, CompositionFailed, GenerationFailed
from chora.generators import jinja2
from chora.generators.generator import GenerationJob
from chora.generators.plugins import plugin_code
from chora.model import ArtifactConfig, Pattern
from chora.nesting import decode_json
from chora.render.text_parts import list_lines
from chora.sources.source import SERVER_ERRORS

INLINE_LENGTH = 16 * 1024
"""Texts up to this length are merged at once; longer ones in a thread."""


class Composition(NamedTuple):
    """What a strategy composes."""

    engine: Engine
    config: ArtifactConfig
    pieces: list[Piece]
    context: dict[str, Any]
    on_read: OnRead
    warnings: list[str]

    def failed(self, message: str, hint: str, error_type: str, **details: Any) -> CompositionFailed:
        """The error of this composition, with the details that every failed composition has."""
        return CompositionFailed(
            f"{self.config.id}: {message}",
            hint,
            composition_strategy=self.config.metadata.composition_strategy,
            error_type=error_type,
            content_pieces=[piece.content_id for piece in self.pieces],
            **details,
        )


async def compose(
    engine: Engine, config: ArtifactConfig, gathered: GatheredPieces, context: dict[str, Any], on_read: OnRead
) -> str:
    """One text of the pieces.

    Args:
        engine: the project.
        config: the artifact.
        gathered: its children's texts, in order; gets the warnings of the composition.
        context: the names that a template or a composer sees.
        on_read: called with every path before it is read.

    Raises:
        CompositionFailed: they can't be composed, or the template or composer fails.
        LimitExceeded, Busy: the template takes more than it may, or can't be rendered now.
    """
    strategy = STRATEGIES[config.metadata.composition_strategy]
    return await strategy.compose(Composition(engine, config, gathered.pieces, context, on_read, gathered.warnings))


# -- concat -----------------------------------------------------------------------------------------------------


async def _compose_by_concatenation(composition: Composition) -> str:
    # Each piece's last newline goes, or the gap would be three lines high; the text's last one stays.
    separator = composition.config.metadata.composition_config.separator
    text = separator.join(piece.text.removesuffix("\n") for piece in composition.pieces)
    return text + "\n" if composition.pieces and composition.pieces[-1].text.endswith("\n") else text


# -- merge ------------------------------------------------------------------------------------------------------


async def _compose_by_merging(composition: Composition) -> str:
    """Merge as data if every piece is an object, else as Markdown, section by section."""
    if sum(len(piece.text) for piece in composition.pieces) > INLINE_LENGTH:
        return await trio.to_thread.run_sync(_merged, composition)
    return _merged(composition)


def _merged(composition: Composition) -> str:
    data_formats = {output.format for output in composition.config.metadata.outputs} & {"json", "yaml"}
    documents = _decode_documents(composition, data_formats)
    if documents is None:
        options = composition.config.metadata.composition_config
        return merge_sections(
            [piece.text for piece in composition.pieces],
            keep_all=options.duplicate_headings == "keep-all",
            normalize=options.blank_lines == "normalize",
        )
    whole: dict[str, Any] = {}
    for piece, document in zip(composition.pieces, documents, strict=True):
        _merge_document(composition, whole, document, "$", piece.content_id)
    # JSON is valid YAML; encoding writes it in the format of the output.
    return msgspec.json.format(msgspec.json.encode(whole), indent=2).decode() + "\n"


def _decode_documents(composition: Composition, data_formats: set[str]) -> list[dict[str, Any]] | None:
    """The pieces as objects; None if they are texts."""
    documents: list[dict[str, Any]] = []
    for piece in composition.pieces:
        document: Any = None
        try:
            document = decode_json(piece.text)
        except msgspec.DecodeError:
            if data_formats:
                try:
                    document = decode_text(piece.text, "yaml", piece.content_id)
                except ChoraError as error:
                    raise composition.failed(
                        f"the piece {piece.content_id} is neither JSON nor YAML: {error.message}",
                        "Let every child give an object, or choose another output format.",
                        "NotAnObject",
                        content_id=piece.content_id,
                    ) from None
        if not isinstance(document, dict):
            if data_formats:
                raise composition.failed(
                    f"the piece {piece.content_id} is not an object.",
                    "Let every child give an object, or choose another output format.",
                    "NotAnObject",
                    content_id=piece.content_id,
                )
            return None
        documents.append(cast("dict[str, Any]", document))
    return documents


def _merge_document(
    composition: Composition, low: dict[str, Any], high: dict[str, Any], path: str, content_id: str
) -> None:
    for key, value in high.items():
        here = f"{path}.{key}" if re.fullmatch(r"[A-Za-z_]\w*", key) else f"{path}[{msgspec.json.encode(key).decode()}]"
        below = low.get(key)
        if isinstance(value, dict) and isinstance(below, dict):
            _merge_document(composition, cast("dict[str, Any]", below), cast("dict[str, Any]", value), here, content_id)
        elif key in low and None not in (below, value) and json_type(below) != json_type(value):
            raise composition.failed(
                f"the piece {content_id} has a value of type {json_type(value)} at {here}, where an earlier one has "
                f"{json_type(below)}.",
                "Give the value the same type in both children.",
                "TypeClash",
                conflict_path=here,
                content_id=content_id,
            )
        else:
            low[key] = value


class _Section:
    """A heading and the lines below it, up to the next heading."""

    def __init__(self, heading: str) -> None:
        self.heading = heading
        self.bodies: list[str] = []


_HEADING = re.compile(r" {0,3}#{1,6}[ \t]")


def merge_sections(texts: list[str], *, keep_all: bool = False, normalize: bool = True) -> str:
    """Markdown texts as one: what is below a repeated heading moves below its first occurrence.

    Lines in fenced code are no headings. With `keep_all` nothing moves; with `normalize` no two blank lines follow
    each other outside of code.
    """
    sections: list[_Section] = []
    known: dict[str, _Section] = {}
    for text in texts:
        section = _Section("")
        lines: list[str] = []
        for is_heading, line in [*_mark_headings(text), (True, None)]:
            if not is_heading:
                lines.append(cast(str, line))
                continue
            body = _trim_blank_lines(lines)
            if section.heading or body:
                key = " ".join(section.heading.split()).casefold()
                first = known.get(key) if key and not keep_all else None
                if first is None:
                    sections.append(section)
                    known.setdefault(key, section)
                    first = section
                if body and body not in first.bodies:
                    first.bodies.append(body)
            section, lines = _Section(line or ""), []
    parts = [part for section in sections for part in (section.heading, *section.bodies) if part]
    whole = "\n\n".join(parts)
    return (_collapse_blank_lines(whole) if normalize else whole) + "\n"


def _trim_blank_lines(lines: list[str]) -> str:
    """The lines without the blank ones at both ends."""
    filled = [at for at, line in enumerate(lines) if line.strip()]
    return "\n".join(lines[filled[0] : filled[-1] + 1]) if filled else ""


def _mark_headings(text: str) -> list[tuple[bool, str]]:
    found: list[tuple[bool, str]] = []
    fence = ""
    for line in list_lines(text):
        mark = re.match(r" {0,3}(`{3,}|~{3,})", line)
        if fence:
            found.append((False, line))
            if mark and mark[1].startswith(fence) and line.strip() == mark[1]:
                fence = ""
            continue
        fence = mark[1] if mark else ""
        found.append((not mark and bool(_HEADING.match(line)), line))
    return found


def _collapse_blank_lines(text: str) -> str:
    lines: list[str] = []
    fence = ""
    for line in list_lines(text):
        mark = re.match(r" {0,3}(`{3,}|~{3,})", line)
        if fence and mark and mark[1].startswith(fence) and line.strip() == mark[1]:
            fence = ""
        elif not fence:
            fence = mark[1] if mark else ""
            if not line.strip() and lines and not lines[-1].strip():
                continue
        lines.append(line)
    return "\n".join(lines)


# -- template ---------------------------------------------------------------------------------------------------


async def _compose_with_template(composition: Composition) -> str:
    """A Jinja2 template that sees `pieces` (with `id` and `text`), `by_id`, and the caller's context."""
    template = composition.config.metadata.composition_config.template
    if not template:
        raise composition.failed(
            "the composition strategy template needs a template.",
            "Write metadata.compositionConfig.template: the name of a template file, or the template itself.",
            "MissingTemplate",
        )
    context = {
        **composition.context,
        "pieces": [{"id": piece.content_id, "text": piece.text} for piece in composition.pieces],
        "by_id": {piece.content_id: piece.text for piece in composition.pieces},
    }
    job = template_job(composition.engine, composition.config, context, composition.on_read)
    try:
        made = await jinja2.generate(job._replace(sources=await jinja2.ingredients(job)))
    except GenerationFailed as error:
        details = {key: value for key, value in error.details.items() if key not in ("generator_type", "error_type")}
        raise CompositionFailed(
            error.message,
            error.hint,
            composition_strategy="template",
            error_type=error.details.get("error_type"),
            content_pieces=[piece.content_id for piece in composition.pieces],
            **details,
        ) from None
    composition.warnings.extend(f"The composition template: {warning}" for warning in made.warnings)
    return made.text


def template_job(
    engine: Engine, config: ArtifactConfig, context: dict[str, Any], on_read: OnRead | None = None
) -> GenerationJob:
    """The template of an artifact, to be rendered as a content's is, so that includes, limits and errors are the
    same."""
    document = unstored_content(config.id, config.metadata.title)
    pattern = Pattern(id="compose", type=jinja2.NAME, template=config.metadata.composition_config.template)
    undefined, rules = engine.settings.templates.undefined, engine.settings.configs.rules
    return GenerationJob(document, pattern, context, engine.templates, undefined, {}, on_read, rules=rules)


# -- custom -----------------------------------------------------------------------------------------------------


async def _compose_with_composer(composition: Composition) -> str:
    """A composer that the settings name; nothing else is run, and no shell."""
    options = composition.config.metadata.composition_config
    composers = composition.engine.composers
    composer = composers.get(options.composer or "")
    if composer is None:
        raise composition.failed(
            f"there is no composer {options.composer!r}." if options.composer else "no composer is named.",
            "Write in metadata.compositionConfig.composer the NAME of a module that [plugins] composers of chora.toml "
            "brings.",
            "UnknownComposer",
            available_composers=sorted(composers),
        )
    pieces = [{"id": piece.content_id, "text": piece.text} for piece in composition.pieces]
    with plugin_code(partial(_composer_failed, composition, composer.NAME), (CompositionFailed, *SERVER_ERRORS)):
        text: object = await composer.compose(pieces=pieces, context=composition.context, options=options.options)
    if not isinstance(text, str):
        raise composition.failed(
            f"the composer {composer.NAME} returned {type(text).__name__}, not text.", "Fix the composer.", "NotText"
        )
    return text


def _composer_failed(composition: Composition, name: str, error: BaseException) -> CompositionFailed:
    kind = type(error).__name__
    return composition.failed(f"the composer {name} failed: {kind}: {error}.", "Fix the composer.", kind)


class Strategy(NamedTuple):
    """A way to make one text of the pieces."""

    compose: Callable[[Composition], Awaitable[str]]
    description: str


STRATEGIES: dict[str, Strategy] = {
    "concat": Strategy(
        _compose_by_concatenation, "One after the other with the separator between them; each loses its last newline."
    ),
    "merge": Strategy(
        _compose_by_merging,
        "As data, if every piece is a JSON object or an output is json or yaml: objects merge, later values win, two "
        "of different types are an error. Else as Markdown: what is below a repeated heading moves below the first.",
    ),
    "template": Strategy(
        _compose_with_template,
        "A Jinja2 template that sees pieces (each with id and text), by_id (the texts by id) and the context of the "
        "caller and the collection.",
    ),
    "custom": Strategy(
        _compose_with_composer, "A composer of the project: a module that the setting plugins.composers names."
    ),
}
"""By the name in `metadata.compositionStrategy`."""
