"""Arguments that don't fit a tool, read as `chora.leniency` says; they are only looked at once decoding has failed."""

from __future__ import annotations

import contextlib
import re
from functools import cache
from typing import Any, cast

import msgspec
from msgspec import Struct, inspect

from chora.leniency import FOREIGN_ARGUMENTS, is_unset
from chora.nesting import decode_json

_NUMBER = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,15})?")
_TRUTH = {"true": True, "false": False}


def relax_arguments(given: dict[str, Any], struct: type[Struct]) -> dict[str, Any]:
    """The arguments as they were meant; what can't be read leniently stays as it is, for the error to name."""
    known = {name: value for name, value in given.items() if name not in FOREIGN_ARGUMENTS or name in _fields(struct)}
    return _relax_fields(known, struct)


@cache
def _fields(struct: type[Struct]) -> dict[str, inspect.Field]:
    return {field.encode_name: field for field in cast("inspect.StructType", inspect.type_info(struct)).fields}


def _relax_fields(given: dict[str, Any], struct: type[Struct]) -> dict[str, Any]:
    relaxed: dict[str, Any] = {}
    for name, value in given.items():
        if (field := _fields(struct).get(name)) is None:
            relaxed[name] = value
            continue
        kind = _without_null(field.type)
        value = _relax_value(value, kind)
        if field.required or not is_unset(value) or _can_mean(kind, value):
            relaxed[name] = value
    return relaxed


def _without_null(kind: inspect.Type) -> inspect.Type:
    """What a value is when it isn't null, without the descriptions."""
    while isinstance(kind, inspect.Metadata):
        kind = kind.type
    if isinstance(kind, inspect.UnionType):
        others = [each for each in kind.types if not isinstance(each, inspect.NoneType)]
        return _without_null(others[0]) if len(others) == 1 else kind
    return kind


def _relax_value(value: Any, kind: inspect.Type) -> Any:
    match kind, value:
        case ((inspect.StructType() | inspect.ListType() | inspect.DictType()), str()) if value.lstrip()[:1] in (
            "{",
            "[",
        ):
            with contextlib.suppress(msgspec.DecodeError):
                return _relax_value(decode_json(value), kind)
        case inspect.StructType(), dict():
            return _relax_fields(cast("dict[str, Any]", value), kind.cls)
        case inspect.BoolType(), str():
            return _TRUTH.get(value.strip().lower(), value)
        case inspect.BoolType(), int() | float() if value in (0, 1):
            return bool(value)
        case inspect.IntType(), float() if value.is_integer():
            return int(value)
        case ((inspect.IntType() | inspect.FloatType()), str()) if _NUMBER.fullmatch(value.strip()):
            number = float(value)
            return int(number) if number.is_integer() else number
        case _:
            pass
    return value


def _can_mean(kind: inspect.Type, value: Any) -> bool:
    """Whether a value that a form sends for an empty field fits all the same."""
    match kind:
        case inspect.AnyType():
            return True  # the tool that reads it decides
        case inspect.StrType():
            return isinstance(value, str)
        case inspect.IntType() | inspect.FloatType() | inspect.BoolType():
            return isinstance(value, int | float)
        case inspect.ListType():
            return isinstance(value, list)
        case inspect.StructType() | inspect.DictType():
            return isinstance(value, dict)
        case inspect.LiteralType():
            return value in kind.values
        case _:
            return True
