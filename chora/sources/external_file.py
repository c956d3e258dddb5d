"""A file of the project, parsed by its extension; what isn't a data file is text."""

from __future__ import annotations

from typing import Any

from chora.errors import ChoraError
from chora.model import Source
from chora.sources.data_files import parse_text
from chora.sources.source import SourceAccess, SourceFailed

TYPE = "external_file"
DESCRIPTION = "A file of the project, parsed by its suffix; a suffix that isn't one of a data file gives the text."
LOCATOR = "A path, relative to the project."
LIMITS = "10 MB, UTF-8; .git, .chora, .env files and files that the settings name as secrets are refused"


async def fetch(source: Source, access: SourceAccess) -> Any:
    """The file's content.

    Raises:
        SourceFailed: it is missing, outside the project, too large, not UTF-8 or not what its extension says.
    """
    path = source.locator
    try:
        text = access.read_text(path)
    except FileNotFoundError:
        raise SourceFailed(f"there is no file {path}") from None
    except UnicodeDecodeError:
        raise SourceFailed(f"{path} is not UTF-8 text") from None
    except ChoraError as error:
        raise SourceFailed(error.message.removesuffix(".")) from None
    return await parse_text(path, text, access, source.delimiter)
