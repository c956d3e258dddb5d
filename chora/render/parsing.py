"""Data files into plain data, by their extension: json, yaml, toml and csv.

A text can take a hundred times its size in memory and seconds of time (CWE-400), in parsers that can't be interrupted.
So what isn't small is parsed in a worker, which can be killed, and only as many values as allowed come back.
"""

from __future__ import annotations

import csv
import datetime
import io
import math
import re
import tomllib
from collections import Counter
from typing import Any, Literal, cast

import msgspec

from chora.decoding import decode_text
from chora.errors import ChoraError
from chora.nesting import DECODING_VALUES, DEPTH_LIMIT, is_too_deep
from chora.render import JobFailure, ParsedData, ParseJob
from chora.wording import quantity

DataLanguage = Literal["json", "yaml", "toml", "csv"]

LANGUAGES: dict[str, DataLanguage] = {"json": "json", "yaml": "yaml", "yml": "yaml", "toml": "toml", "csv": "csv"}
"""By the extension of a file."""

CELLS_LIMIT = DECODING_VALUES
"""Cells that a CSV file may have; in memory a cell takes up to a hundred times its bytes."""

_BARE, _QUOTED = r"[\w-]++", r"""(?:"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+')"""
_DOT = re.compile(r"(?<![ \t])[ \t]*+\.[ \t]*+")
_DEEP_KEY = re.compile(rf"(?:(?<![\w.-]){_BARE}|(?<!\.){_QUOTED})(?:\.(?:{_BARE}|{_QUOTED})){{{DEPTH_LIMIT}}}")
"""A TOML key with more dots than there may be levels, once the spaces around its dots are gone."""


class NotData(Exception):
    """A text that isn't what its extension says, or holds too much; the message says why."""


def parse_text(job: ParseJob) -> ParsedData | JobFailure:
    """Parse a text in a worker."""
    try:
        return ParsedData(parse_data(job.name, job.text))
    except NotData as error:
        return JobFailure("syntax", str(error), job.name)


def language_of(path: str) -> DataLanguage | None:
    """The language of a file, if it is one of those."""
    return LANGUAGES.get(path.lower().rpartition(".")[2])


def parse_data(path: str, text: str) -> Any:
    """Turn a file's text into data.

    Raises:
        NotData: the text isn't what the extension says, is nested too deeply or holds too many values.
    """
    language = language_of(path)
    if language is None:
        return text
    try:
        match language:
            case "json" | "yaml":
                value = decode_text(text, language, path)
            case "toml":
                value = _decode_toml(text)
            case "csv":
                value = _decode_csv(text)
        if is_too_deep(value):
            raise ValueError(f"it is nested more than {DEPTH_LIMIT} levels deep")
        # YAML and TOML have values that JSON doesn't.
        return _plain(value) if language in ("yaml", "toml") else value
    except ChoraError as error:
        raise NotData(error.message.removesuffix(".")) from None
    except RecursionError:
        raise NotData(f"{path} is not {language.upper()}: it is nested too deeply") from None
    except (ValueError, csv.Error) as error:
        raise NotData(f"{path} is not {language.upper()}: {error}") from None


def _decode_toml(text: str) -> Any:
    if _DEEP_KEY.search(_DOT.sub(".", text)):  # tomllib takes quadratic time for such a key
        raise ValueError(f"a key has more than {DEPTH_LIMIT} parts")
    value = tomllib.loads(text)
    if _count_values(value) > DECODING_VALUES:
        raise ValueError(f"it holds more than {DECODING_VALUES:,} values")
    return value


def _count_values(value: Any) -> int:
    match value:
        case dict():
            return 1 + sum(map(_count_values, cast("dict[Any, Any]", value).values()))
        case list():
            return 1 + sum(map(_count_values, cast("list[Any]", value)))
        case _:
            return 1


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
