"""Data files into plain data, by their extension: json, jsonl, yaml, toml, csv and tsv.

A text can take a hundred times its size in memory and seconds of time (CWE-400), in parsers that can't be interrupted.
So what isn't small is parsed in a worker, which can be killed, and only as many values as allowed come back.
"""

from __future__ import annotations

import contextlib
import csv
import datetime
import io
import itertools
import math
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from typing import Any, Literal, cast

import msgspec

from chora.decoding import decode_text
from chora.errors import ChoraError
from chora.nesting import DECODING_VALUES, DEPTH_LIMIT, NestedTooDeeply, decode_json, is_too_deep
from chora.render import JobFailure, ParsedData, ParseJob
from chora.wording import quantity

DataLanguage = Literal["json", "jsonl", "yaml", "toml", "csv", "tsv"]

LANGUAGES: dict[str, DataLanguage] = {
    "json": "json",
    "jsonl": "jsonl",
    "ndjson": "jsonl",
    "yaml": "yaml",
    "yml": "yaml",
    "toml": "toml",
    "csv": "csv",
    "tsv": "tsv",
}
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
        return parse_file(job)
    except NotData as error:
        return JobFailure("syntax", str(error), job.name)


def language_of(path: str) -> DataLanguage | None:
    """The language of a file, if it is one of those."""
    return LANGUAGES.get(path.lower().rpartition(".")[2])


def parse_data(path: str, text: str) -> Any:
    """`parse_file` without options: the data alone."""
    return parse_file(ParseJob(text, path)).value


def parse_file(job: ParseJob) -> ParsedData:
    """Turn a file's text into data.

    Raises:
        NotData: the text isn't what the extension says, is nested too deeply or holds too many values.
    """
    path, text = job.name, job.text.removeprefix("\ufeff")
    language = language_of(path)
    if language is None:
        return ParsedData(text)
    warning: str | None = None
    try:
        match language:
            case "json":
                value = decode_text(text, language, path)
            case "yaml":
                value = decode_text(text, language, path, old_yaml=job.old_yaml, several=True)
            case "jsonl":
                value = _decode_json_lines(text)
            case "toml":
                value = _decode_toml(text)
            case "csv" | "tsv":
                delimiter = job.delimiter or ("\t" if language == "tsv" else _sniff_delimiter(text))
                if not job.delimiter and language == "csv" and delimiter != ",":
                    name = "tab" if delimiter == "\t" else delimiter
                    warning = f"{path} seems to be delimited by {name!r}, and is read so; write `delimiter: {name!r}`"
                value = _decode_csv(text, delimiter)
        if is_too_deep(value):
            raise ValueError(f"it is nested more than {DEPTH_LIMIT} levels deep")
        # YAML and TOML have values that JSON doesn't.
        return ParsedData(_plain(value) if language in ("yaml", "toml") else value, warning)
    except ChoraError as error:
        raise NotData(error.message.removesuffix(".")) from None
    except RecursionError:
        raise NotData(f"{path} is not {language.upper()}: it is nested too deeply") from None
    except (ValueError, csv.Error) as error:
        raise NotData(f"{path} is not {language.upper()}: {error}") from None


def _decode_json_lines(text: str) -> list[Any]:
    """The values of the lines, in order; blank lines don't count."""
    values: list[Any] = []
    count = 0
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            values.append(decode_json(line))
        except NestedTooDeeply as error:
            raise ValueError(f"{error} in line {number}") from None
        except msgspec.MsgspecError as error:
            raise ValueError(f"line {number} is not JSON: {str(error).removeprefix('JSON is malformed: ')}") from None
        if (count := count + _count_values(values[-1])) > DECODING_VALUES:
            raise ValueError(f"it holds more than {DECODING_VALUES:,} values")
    return values


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


DELIMITERS = (",", ";", "\t", "|")
SNIFFED_ROWS = 20


def _sniff_delimiter(text: str) -> str:
    """The delimiter that gives the first rows equally many cells, more than one; the comma, if it or none does."""
    for delimiter in DELIMITERS:
        widths: list[int] = []
        with contextlib.suppress(csv.Error):
            for row in csv.reader(io.StringIO(text[:SNIFFED_LENGTH], newline=""), delimiter=delimiter):
                widths += [len(row)] * bool(row)
                if len(widths) == SNIFFED_ROWS:
                    break
        if len(text) > SNIFFED_LENGTH:
            widths = widths[:-1]  # the last row may be cut
        if widths and widths[0] > 1 and all(width == widths[0] for width in widths):
            return delimiter
    names = next(iter(text.split("\n", 1)), "")[:SNIFFED_LENGTH]
    return "," if "," in names else next((each for each in DELIMITERS if each in names), ",")


SNIFFED_LENGTH = 16 * 1024


def _decode_csv(text: str, delimiter: str) -> list[dict[str, str | None]]:
    """One object per row, by the names in the first row; a cell that a short row lacks is null.

    Empty cells at the end of a row belong to no column, as spreadsheets write them, nor do columns without a name
    at the end, if they are empty. A row of empty cells is a blank line.
    """
    lines = _read_rows(text, delimiter)
    names = _without_empty_end(next(lines, (1, list[str]()))[1])
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"two columns are named {twice[0]!r}")
    rows: list[dict[str, str | None]] = []
    for number, row in lines:
        if not any(cell.strip() for cell in row):
            continue
        if len(row) > len(names):
            row = [*row[: len(names)], *_without_empty_end(row[len(names) :])]
        if len(row) > len(names):
            raise ValueError(f"line {number} has {quantity(len(row), 'cell')}, the first line {len(names)}")
        if (len(rows) + 1) * len(names) > CELLS_LIMIT:
            raise ValueError(f"it has more than {CELLS_LIMIT:,} cells")
        rows.append({name: row[column] if column < len(row) else None for column, name in enumerate(names)})
    return rows


_END = "\ue000 end of the file \ue000"
"""A row behind the last one: where it is part of another, a quotation mark is open (RFC 4180 §2.5)."""


def _read_rows(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV file, each with the number of its last line.

    Raises:
        ValueError: a quotation mark is never closed: the rest of the file would be one cell.
    """
    begin = 1
    reader = csv.reader(itertools.chain(io.StringIO(text, newline=""), ("\n", _END)), delimiter=delimiter)
    for row in reader:
        if row == [_END]:
            return
        if row and row[-1].endswith(_END):
            raise ValueError(f"a quotation mark in line {begin} is never closed")
        yield reader.line_num, row
        begin = reader.line_num + 1


def _without_empty_end(cells: list[str]) -> list[str]:
    end = len(cells)
    while end and not cells[end - 1].strip():
        end -= 1
    return cells[:end]


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
