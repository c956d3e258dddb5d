"""A file of the project, parsed by its extension: json, yaml, toml and csv become data, the rest is text."""

from __future__ import annotations

import csv
import datetime
import io
import math
import re
import tomllib
from collections import Counter
from typing import Any, cast

import msgspec
import trio

from chora.decoding import decode_text
from chora.errors import ChoraError
from chora.model import Source
from chora.nesting import DEPTH_LIMIT, is_too_deep
from chora.sources.source import SourceAccess, SourceFailed
from chora.wording import quantity

TYPE = "external_file"

INLINE_BYTES = 64 * 1024
"""Files up to this size are parsed at once; larger ones in a thread."""

CELLS_LIMIT = 500_000
"""Cells that a CSV file may have; in memory a cell takes up to a hundred times its bytes."""

_BARE, _QUOTED = r"[\w-]++", r"""(?:"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+')"""
_DOT = re.compile(r"(?<![ \t])[ \t]*+\.[ \t]*+")
_DEEP_KEY = re.compile(rf"(?:(?<![\w.-]){_BARE}|(?<!\.){_QUOTED})(?:\.(?:{_BARE}|{_QUOTED})){{{DEPTH_LIMIT}}}")
"""A TOML key with more dots than there may be levels, once the spaces around its dots are gone."""


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
    if len(text) <= INLINE_BYTES:
        return parse(path, text)
    return await trio.to_thread.run_sync(parse, path, text)


def parse(path: str, text: str) -> Any:
    """Turn a file's text into data, by its file extension.

    Raises:
        SourceFailed: the text isn't what the extension says, or is nested too deeply.
    """
    ending = path.lower().rpartition(".")[2]
    language = "yaml" if ending == "yml" else ending
    try:
        match language:
            case "json" | "yaml":
                value = decode_text(text, language, path)
            case "toml":
                value = _decode_toml(text)
            case "csv":
                value = _decode_csv(text)
            case _:
                return text
        if is_too_deep(value):
            raise ValueError(f"it is nested more than {DEPTH_LIMIT} levels deep")
        # YAML and TOML have values that JSON doesn't.
        return _plain(value) if language in ("yaml", "toml") else value
    except ChoraError as error:
        raise SourceFailed(error.message.removesuffix(".")) from None
    except RecursionError:
        raise SourceFailed(f"{path} is not {language.upper()}: it is nested too deeply") from None
    except (ValueError, csv.Error) as error:
        raise SourceFailed(f"{path} is not {language.upper()}: {error}") from None


def _decode_toml(text: str) -> Any:
    if _DEEP_KEY.search(_DOT.sub(".", text)):  # tomllib takes quadratic time for such a key
        raise ValueError(f"a key has more than {DEPTH_LIMIT} parts")
    return tomllib.loads(text)


def _decode_csv(text: str) -> list[dict[str, str | None]]:
    """One object per row, by the names in the first row; a cell that a short row lacks is null."""
    reader = csv.reader(io.StringIO(text, newline=""))
    names = next(reader, list[str]())
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"two columns are named {twice[0]!r}")
    rows: list[dict[str, str | None]] = []
    for row in reader:
        if not row:
            continue
        if len(row) > len(names):
            raise ValueError(f"line {reader.line_num} has {quantity(len(row), 'cell')}, the first line {len(names)}")
        if (len(rows) + 1) * len(names) > CELLS_LIMIT:
            raise ValueError(f"it has more than {CELLS_LIMIT:,} cells")
        rows.append({name: row[column] if column < len(row) else None for column, name in enumerate(names)})
    return rows


def _plain(value: Any) -> Any:
    """The data as JSON has it: keys and times as text, no infinite numbers."""
    match value:
        case dict():
            plain: dict[str, Any] = {}
            for key, each in cast("dict[Any, Any]", value).items():
                name = key if isinstance(key, str) else msgspec.json.encode(key).decode()
                if name in plain:
                    raise ValueError(f"two keys read {name!r}")
                plain[name] = _plain(each)
            return plain
        case list():
            return [_plain(each) for each in cast("list[Any]", value)]
        case int() if value.bit_length() > 64:  # written out, it could take longer than reading it did
            raise ValueError("a number has more than 64 bits")
        case float() if not math.isfinite(value):
            raise ValueError(f"{value} is not a number that JSON has")
        case datetime.date() | datetime.time():
            return value.isoformat()
        case _:
            return value
