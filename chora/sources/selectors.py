"""Selectors: a part of a source's value. `FORMS` says what each form takes."""

from __future__ import annotations

from typing import Any

import msgspec

from chora.errors import InvalidContext, LimitExceeded
from chora.model import Source
from chora.nesting import DEPTH_LIMIT, decode_json, is_too_deep
from chora.render import PartJob, RenderFailed, SelectedValues, SelectJob, TextPart
from chora.render.pool import RenderPool
from chora.render.text_parts import FRONT_MATTER, PartNotFound, select_first, shorten_selector, split_front_matter
from chora.sources.data_files import parse_text
from chora.sources.source import SourceAccess, SourceFailed

FORMS = {
    "whole_content": "everything; so does no selector",
    "$.a.b": "values of data, by an RFC 9535 JSONPath; a text is read as JSON first",
    "## Title": "the Markdown section with its heading, with number signs or underlined, up to the next heading "
    "of the same or a higher level",
    "## 1.0 > ### Added": "the section in a section; as many steps as needed",
    "## Title > body": "the section without its heading",
    "front_matter": "the data at the beginning of a text, between lines of --- (YAML) or +++ (TOML)",
    "body": "the text below its front matter",
    "function:name": "a function in Python or JavaScript, with the lines indented below it",
    "class:name": "a class, the same way",
    "10-20": "lines, counted from 1, both ends included; also 10:20, :50 and 100:",
    "output": "of a content_config, the text that the content gives instead of its config",
}
"""What each form of a selector takes, by an example of it. A part of data other than by JSONPath is one of its JSON."""

INLINE_LENGTH = 64 * 1024
"""Texts up to this length are searched in this process; longer ones in a worker."""


async def select(value: Any, source: Source, access: SourceAccess) -> Any:
    """Apply the selector of a source; a JSONPath, and one for a part of a long text, in a worker of the pool.

    Raises:
        SourceFailed: nothing matches, or the selector has none of the forms above.
        Busy: too much is waiting for the workers.
    """
    selector, pool = source.selector, access.pool
    if not selector or selector == "whole_content":
        return value
    if selector.startswith("$"):
        return _shape(await _select_json_path(value, selector, pool), source, access)
    text = value if isinstance(value, str) else msgspec.json.format(msgspec.json.encode(value)).decode()
    try:
        if selector == FRONT_MATTER:
            return await _select_front_matter(text, access)
        part = await select_text(text, (selector,), pool)
        if part.warning:
            access.warn(part.warning)
        return part.text
    except PartNotFound as error:
        raise SourceFailed(str(error)) from None
    except RenderFailed as failure:
        raise SourceFailed(failure.reason.message.removesuffix(".")) from None
    except (LimitExceeded, InvalidContext) as error:
        raise SourceFailed(error.message.removesuffix(".")) from None


async def select_text(text: str, selectors: tuple[str, ...], pool: RenderPool) -> TextPart:
    """The part of a text that the first selector takes for which there is one.

    Raises:
        PartNotFound: there is one for none of them.
        RenderFailed, LimitExceeded, Busy: the worker failed, or it takes more than a worker may.
    """
    if len(text) <= INLINE_LENGTH:
        return select_first(text, selectors)
    try:
        return await pool.select_part(PartJob(text, selectors, shorten_selector(selectors[-1])))
    except RenderFailed as failure:
        if failure.reason.kind != "syntax":
            raise
        raise PartNotFound(failure.reason.message) from None


async def _select_front_matter(text: str, access: SourceAccess) -> Any:
    found = split_front_matter(text)
    if found is None:
        raise SourceFailed("the text has no front matter: no lines of --- or +++ around data at its beginning")
    return await parse_text(f"the front matter.{found.language}", found.data, access) if found.data.strip() else {}


# -- data -------------------------------------------------------------------------------------------------------


async def _select_json_path(value: Any, selector: str, pool: RenderPool) -> SelectedValues:
    shown = shorten_selector(selector)
    if isinstance(value, str):
        try:
            value = decode_json(value)
        except msgspec.DecodeError:
            raise SourceFailed(
                f"{shown} needs data, but the source is text that is not JSON"
                + (
                    "; the selector front_matter gives the data that it begins with"
                    if split_front_matter(value)
                    else ""
                )
            ) from None
        if is_too_deep(value):
            raise SourceFailed(f"{shown} needs data that is nested no more than {DEPTH_LIMIT} levels deep")
    try:
        return await pool.select_values(SelectJob(query=selector, data=value, name=shown))
    except RenderFailed as failure:
        raise SourceFailed(f"{shown} is not a JSONPath: {failure.reason.message.removesuffix('.')}") from None
    except (LimitExceeded, InvalidContext) as error:
        raise SourceFailed(error.message.removesuffix(".")) from None


def _shape(selected: SelectedValues, source: Source, access: SourceAccess) -> Any:
    """A list or a value: as the source says, else as the query says, so that its shape doesn't depend on the data.

    chora-compose gave one match without a list, whatever the query.
    """
    values, count = selected.values, len(selected.values)
    shown = shorten_selector(source.selector)
    is_old = access.rules == "chora-compose"
    wanted = source.matches or ("one" if selected.singular else None if is_old else "list")
    if wanted == "list":
        return values
    if not values:
        raise SourceFailed(f"{shown} matches nothing")
    if count == 1:
        if wanted is None:
            access.warn(
                f"{shown} matched one value, which is given without a list; write `matches: list` beside it for a "
                "list in any case, or `matches: one`"
            )
        return values[0]
    if wanted == "one":
        raise SourceFailed(f"{shown} matches {count} values, and `matches: one` takes exactly one")
    return values
