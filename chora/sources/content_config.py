"""Another content: its config as data, or, with the selector `output`, the text it generates.

That is data if the content's output format is JSON or YAML.
"""

from __future__ import annotations

from typing import Any

from chora.errors import ChoraError
from chora.model import Source
from chora.sources.data_files import parse_content_text
from chora.sources.source import PASSED_ON, SourceAccess, as_source_failure

TYPE = "content_config"
DESCRIPTION = (
    "Another content: its config as data, or, with the selector output, the text that it has now; that is data if the "
    "content's output format is json or yaml."
)
LOCATOR = "The id of a content config, or its path."
LIMITS = "10 texts in a chain; a circle is an error"

OUTPUT = "output"
SELECTORS = (OUTPUT,)


async def fetch(source: Source, access: SourceAccess) -> Any:
    """The config named by id or path.

    Raises:
        SourceFailed: there is no such config, it doesn't fit, or its text can't be generated.
    """
    try:
        found = access.config("content", source.locator)
        if source.selector == OUTPUT:
            return await parse_content_text(await access.generate(found), found, source, access)
        return found.parsed.raw
    except PASSED_ON:
        raise
    except ChoraError as error:
        raise as_source_failure(error) from None
