"""The fields of the config Structs, as far as tolerant parsing needs to know them."""

from __future__ import annotations

import functools
from typing import Literal, NamedTuple, cast

from msgspec import Struct, inspect

from chora.model import SCHEMA_VERSION_PATTERN, VERSION_PATTERN, Source


class Field(NamedTuple):
    """One field of a Struct."""

    shape: Literal["record", "records", "sources", "word", "version", "schema_version", "name", "flag", "other"]
    required: bool
    nullable: bool
    words: tuple[str, ...]
    fields: dict[str, Field]


_NULL = inspect.NoneType()


@functools.cache
def fields_of_struct(struct: type[Struct]) -> dict[str, Field]:
    """The fields of a Struct by the key they are written under."""
    return _fields_by_name(cast(inspect.StructType, inspect.type_info(struct)))


def _fields_by_name(struct: inspect.StructType) -> dict[str, Field]:
    return {field.encode_name: _describe_field(field.required, field.type) for field in struct.fields}


def _describe_field(required: bool, kind: inspect.Type) -> Field:
    if isinstance(kind, inspect.Metadata):
        return _describe_field(required, kind.type)
    if isinstance(kind, inspect.UnionType) and len(others := [each for each in kind.types if each != _NULL]) == 1:
        return _describe_field(required, others[0])
    shape = "other"
    words: tuple[str, ...] = ()
    fields: dict[str, Field] = {}
    match kind:
        case inspect.StructType():
            shape, fields = "record", _fields_by_name(kind)
        case inspect.VarTupleType(item_type=inspect.StructType(cls=cls) as item):
            shape, fields = ("sources", {}) if cls is Source else ("records", _fields_by_name(item))
        case inspect.LiteralType():
            shape, words = "word", tuple(str(value) for value in kind.values)
        case inspect.BoolType():
            shape = "flag"
        case inspect.StrType(pattern=str(pattern)):
            shape = (
                "version"
                if pattern == VERSION_PATTERN
                else "schema_version"
                if pattern == SCHEMA_VERSION_PATTERN
                else "name"
            )
        case _:
            pass
    return Field(shape, required, isinstance(kind, inspect.AnyType), words, fields)
