"""The manual of the config formats: what each field, option, source and rule means, with examples.

    tables.py     the fields of Structs, as tables
    examples.py   an example of each generator
    pages/        the pages, which chora composes of both and of what the code says of itself (`docs/build.py`)

A page is the same text in `docs/reference/config/`, under `manual://` and from `chora manual`.
"""

from __future__ import annotations

PAGES: dict[str, str] = {
    "overview": "Which files there are, where they lie, and which page describes what",
    "content": "Every field of a content config",
    "artifact": "Every field of an artifact config; composition, conditions, retrieval, outputs",
    "collection": "Every field of a collection config; members, shared context, structure",
    "generators": "Every generator: its options, with examples",
    "sources": "Where values come from: locators, selectors, kinds of files, limits",
    "templates": "Where templates are found, what they see, filters, functions and tests",
    "rules": "What validation rules check, their targets and options",
    "context": "Which value of a name wins, how values merge, variables that a caller gives",
    "freshness": "What makes a text, a file or a collection stale; how old members may get",
}
"""The pages in their order, and what each holds."""


def read_page(name: str) -> str:
    """The text of one of `PAGES`, in Markdown."""
    from importlib.resources import files

    return (files("chora.manual") / "pages" / f"{name}.md").read_text("utf-8")
