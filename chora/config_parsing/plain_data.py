"""Plain data: a copy of a document that holds only what JSON has, within the limits on depth and number."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, cast

from chora.config_parsing.issues import Issue, json_path, with_article
from chora.errors import LimitExceeded
from chora.nesting import CONFIG_VALUES, DEPTH_LIMIT


class NotPlainData(Exception):
    """A value that JSON doesn't have, or that is nested too deeply."""

    def __init__(self, found: str, expected: str, write: str) -> None:
        super().__init__(expected)
        self.found, self.expected, self.write = found, expected, write
        self.steps: list[str | int] = []

    def issue(self) -> Issue:
        path = json_path(reversed(self.steps))
        message = f"{path} is {self.found}; it must be {self.expected}."
        return Issue(
            severity="error",
            code="not_json",
            message=message,
            path=path,
            found=self.found,
            expected=self.expected,
            write=self.write,
        )


class PlainCopy:
    """Makes a copy that shares nothing mutable with the original.

    Args:
        where: what to call the document in messages.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._left = CONFIG_VALUES

    def copy_of(self, value: object, depth: int = 0) -> Any:
        """The copy.

        Raises:
            NotPlainData: it holds something that can't be written as JSON, or is nested too deeply.
            LimitExceeded: it holds too many values.
        """
        if isinstance(value, dict | list):
            if depth >= DEPTH_LIMIT:
                raise NotPlainData(
                    f"nested more than {DEPTH_LIMIT} levels deep", "nested less deeply", "it in fewer levels"
                )
            self._left -= len(cast("dict[object, object] | list[object]", value))
            if self._left < 0:
                message = f"{self._where} holds more than {CONFIG_VALUES:,} values."
                raise LimitExceeded(message, "Split the config.", limit="config.values", path=self._where)
            if isinstance(value, dict):
                return self._copy_of_object(cast("dict[object, object]", value), depth + 1)
            return self._copy_of_list(cast("list[object]", value), depth + 1)
        if isinstance(value, str):
            if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
                raise NotPlainData("text with half a surrogate pair", "text that UTF-8 can hold", "the whole character")
        elif isinstance(value, float):
            if not math.isfinite(value):
                raise NotPlainData(str(value), "a finite number", "it as a string")
        elif isinstance(value, int):
            if value.bit_length() > 1024:
                raise NotPlainData("a number of more than 300 digits", "a smaller number", "it as a string")
        elif value is not None:
            raise NotPlainData(with_article(type(value).__name__), "a value that JSON has", "it as a string")
        return value

    def _copy_of_object(self, value: dict[object, object], depth: int) -> dict[str, Any]:
        copy: dict[str, Any] = {}
        for key, each in value.items():
            name = self.copy_of(key)
            if not isinstance(name, str):
                raise NotPlainData(f"an object with the key {name}", "an object whose keys are text", f'"{name}"')
            try:
                # Most values are plain text, and this shortcut halves the time.
                copy[name] = each if type(each) is str and each.isascii() else self.copy_of(each, depth)
            except NotPlainData as fault:
                fault.steps.append(name)
                raise
        return copy

    def _copy_of_list(self, value: list[object], depth: int) -> list[Any]:
        copy: list[Any] = []
        try:
            for each in value:
                copy.append(self.copy_of(each, depth))
        except NotPlainData as fault:
            fault.steps.append(len(copy))
            raise
        return copy


def as_object(value: object) -> dict[str, Any] | None:
    """The value if it is an object, else None."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def objects_of(value: object) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a list with their indexes; nothing if it isn't a list."""
    for index, each in enumerate(cast("list[object]", value) if isinstance(value, list) else ()):
        if (record := as_object(each)) is not None:
            yield index, record
