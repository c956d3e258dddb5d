"""Selectors: a part of a source's value.

| selector | takes |
|---|---|
| none, `whole_content` | everything |
| `$…` | an RFC 9535 JSONPath: one match is the value, several are a list |
| `## Heading` | a Markdown section with its heading, up to the next heading of the same or a higher level |
| `function:name`, `class:name` | a definition in Python or JavaScript, with the lines indented below it |
| `10-20`, `10:20`, `:50`, `100:` | lines, counted from 1, both ends included |
"""

from __future__ import annotations

from typing import Any

import msgspec

from chora.errors import InvalidContext, LimitExceeded
from chora.nesting import DEPTH_LIMIT, decode_json, is_too_deep
from chora.render import PartJob, RenderFailed, SelectJob
from chora.render.pool import RenderPool
from chora.render.text_parts import PartNotFound, select_first, shorten_selector
from chora.sources.source import SourceFailed

INLINE_LENGTH = 64 * 1024
"""Texts up to this length are searched in this process; longer ones in a worker."""


async def select(value: Any, selector: str | None, pool: RenderPool) -> Any:
    """Apply a selector; a JSONPath, and one for a part of a long text, in a worker of the pool.

    Raises:
        SourceFailed: nothing matches, or the selector has none of the forms above.
        Busy: too much is waiting for the workers.
    """
    if not selector or selector == "whole_content":
        return value
    if selector.startswith("$"):
        return await _select_json_path(value, selector, pool)
    text = value if isinstance(value, str) else msgspec.json.format(msgspec.json.encode(value)).decode()
    try:
        return await select_text(text, (selector,), pool)
    except PartNotFound as error:
        raise SourceFailed(str(error)) from None
    except RenderFailed as failure:
        raise SourceFailed(failure.reason.message.removesuffix(".")) from None
    except (LimitExceeded, InvalidContext) as error:
        raise SourceFailed(error.message.removesuffix(".")) from None


async def select_text(text: str, selectors: tuple[str, ...], pool: RenderPool) -> str:
    """The part of a text that the first selector takes for which there is one.

    Raises:
        PartNotFound: there is one for none of them.
        RenderFailed, LimitExceeded, Busy: the worker failed, or it takes more than a worker may.
    """
    if len(text) <= INLINE_LENGTH:
        return select_first(text, selectors)
    try:
        return (await pool.select_part(PartJob(text, selectors, shorten_selector(selectors[-1])))).text
    except RenderFailed as failure:
        if failure.reason.kind != "syntax":
            raise
        raise PartNotFound(failure.reason.message) from None


# -- data -------------------------------------------------------------------------------------------------------


async def _select_json_path(value: Any, selector: str, pool: RenderPool) -> Any:
    shown = shorten_selector(selector)
    if isinstance(value, str):
        try:
            value = decode_json(value)
        except msgspec.DecodeError:
            raise SourceFailed(f"{shown} needs data, but the source is text that is not JSON") from None
        if is_too_deep(value):
            raise SourceFailed(f"{shown} needs data that is nested no more than {DEPTH_LIMIT} levels deep")
    try:
        found = (await pool.select_values(SelectJob(query=selector, data=value, name=shown))).values
    except RenderFailed as failure:
        raise SourceFailed(f"{shown} is not a JSONPath: {failure.reason.message.removesuffix('.')}") from None
    except (LimitExceeded, InvalidContext) as error:
        raise SourceFailed(error.message.removesuffix(".")) from None
    if not found:
        raise SourceFailed(f"{shown} matches nothing")
    return found[0] if len(found) == 1 else found
