"""The texts of contents that other contents take as sources: each is generated at most once in a build.

Contents may be sources of one another in a chain, in a diamond or, by mistake, in a circle. A chain is bounded, and a
circle is an error that names it; where the source is optional, the text is generated without it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from chora.catalog import FoundConfig
from chora.errors import ChoraError, GenerationFailed, LimitExceeded

CHAIN_LIMIT = 10
"""Contents that may need one another in a chain."""


class SourceText(NamedTuple):
    """A text that another one takes as a source, and what it was made from."""

    body: str
    inputs: dict[str, str]
    reproducible: bool
    depth: int
    """The length of the longest chain of sources behind it, itself included."""
    through: Mapping[str, str] = MappingProxyType({})
    """The contents through which inputs came that its own sources read."""
    error: ChoraError | None = None
    """Why there is no text; the inputs are then those that were read before."""


class SourceTexts:
    """The texts that one build generated for use as sources."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, bool, str], SourceText] = {}
        """By the config's path, `force` and, for texts whose chain was cut short by a circle or by the limit, the
        content at which the chain began: that one decides where the cut was."""
        self._cuts = 0
        """How often a chain was cut short."""

    def check_chain(self, content_id: str, generator: str | None, dependents: Sequence[str], depth: int = 1) -> None:
        """Refuse a content that needs itself, or whose chain is too long.

        Args:
            content_id: the content.
            generator: the name of its generator, for the error.
            dependents: the contents that need it, outermost first.
            depth: the length of its own chain, as far as it is known.

        Raises:
            GenerationFailed: the contents form a circle.
            LimitExceeded: they form a chain of more than `CHAIN_LIMIT`.
        """
        chain = [*dependents, content_id]
        if content_id in dependents:
            self._cuts += 1
            raise GenerationFailed(
                f"The contents are sources of one another in a circle: {' → '.join(chain)}.",
                "Break the circle in inputs.sources.",
                content_config_id=content_id,
                generator_type=generator,
                error_type="CircularReference",
                cycle=chain,
            )
        if len(dependents) + depth > CHAIN_LIMIT:
            self._cuts += 1
            raise LimitExceeded(
                f"{chain[0]} needs a text that needs a text, and so on, more than {CHAIN_LIMIT} deep.",
                "Use fewer texts of contents as sources of one another.",
                limit="content.chain",
                chain=chain,
            )

    async def get_text(
        self,
        found: FoundConfig,
        chain: Sequence[str],
        generate: Callable[[], Awaitable[SourceText]],
        *,
        force: bool,
    ) -> SourceText:
        """The text of a content, generated unless this build has done so.

        Args:
            found: the content's config.
            chain: the contents that need it, outermost first.
            generate: generates the text; that it can't is a result.
            force: whether the text is wanted fresh.
        """
        from_anywhere, from_here = (found.path, force, ""), (found.path, force, chain[0])
        known = self._known.get(from_anywhere)
        if known is None and (known := self._known.get(from_here)):
            self._cuts += 1  # what is asking now was cut short too
        if known is None:
            cuts = self._cuts
            known = await generate()
            self._known[from_anywhere if self._cuts == cuts else from_here] = known
        return known
