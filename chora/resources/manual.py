"""The pages of the manual of the config formats."""

from __future__ import annotations

from collections.abc import Iterator

from chora.errors import ResourceNotFound
from chora.manual import PAGES, read_page
from chora.protocol.types import Resource
from chora.resources.family import MARKDOWN, Listed, ResourceContext
from chora.resources.uris import Arguments, shorten


def read_manual(context: ResourceContext, arguments: Arguments) -> str:
    name = arguments["page"].removesuffix(".md")  # as pages refer to one another
    if name not in PAGES:
        raise ResourceNotFound(f"The manual has no page {shorten(name)!r}.", f"There are {', '.join(PAGES)}.")
    return read_page(name)


def page_names(context: ResourceContext, arguments: Arguments) -> list[str]:
    return list(PAGES)


def list_pages(context: ResourceContext, after: str) -> Iterator[Listed]:
    for name in sorted(each for each in PAGES if each > after):
        yield name, Resource(f"manual://{name}", f"Manual: {name}", PAGES[name], MARKDOWN)
