"""A file of the project, parsed by its ending: json, yaml, toml and csv become data, the rest is text."""

from __future__ import annotations

import csv
import io
import tomllib
from typing import Any

import msgspec

from chora.errors import ChoraError
from chora.model import Source
from chora.sources.source import Reach, SourceFailed

TYPE = "external_file"


async def fetch(source: Source, reach: Reach) -> Any:
    """The file's content.

    Raises:
        SourceFailed: it is missing, outside the project, too large, not UTF-8 or not what its ending says.
    """
    path = source.locator
    try:
        text = reach.folder.read_text(path)
    except FileNotFoundError:
        raise SourceFailed(f"there is no file {path}") from None
    except UnicodeDecodeError:
        raise SourceFailed(f"{path} is not UTF-8 text") from None
    except ChoraError as error:
        raise SourceFailed(error.message) from None
    return parse(path, text)


def parse(path: str, text: str) -> Any:
    """Turn a file's text into data, by the ending of its name.

    Raises:
        SourceFailed: the text isn't what the ending promises.
    """
    ending = path.lower().rpartition(".")[2]
    try:
        match ending:
            case "json":
                return msgspec.json.decode(text)
            case "yaml" | "yml":
                import yaml

                return msgspec.to_builtins(yaml.load(text, yaml.CSafeLoader), str_keys=True)
            case "toml":
                return msgspec.to_builtins(tomllib.loads(text))
            case "csv":
                return list(csv.DictReader(io.StringIO(text)))
            case _:
                return text
    except RecursionError:
        raise SourceFailed(f"{path} is nested too deeply") from None
    except Exception as error:  # four parsers, each with exceptions of its own, and any of them means this
        raise SourceFailed(f"{path} is not {ending.upper()}: {error}") from None
