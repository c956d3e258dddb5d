"""Pages of lists: how many rows an answer has, and how to go on."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, TypeVar

from msgspec import Meta

from chora.errors import InvalidInput
from chora.protocol.types import Call

ROWS = 50
"""Rows of an answer unless a call asks for others. Ten thousand configs are 1.5 MB, which no model can use."""
MOST_ROWS = 500

Limit = Annotated[int, Meta(description="Most rows, 1 to 500")]
Offset = Annotated[int, Meta(ge=0, description="Rows to leave out before; next_offset of the last answer goes on")]

T = TypeVar("T")


class Page:
    """Which rows a call wants. The command line gets all.

    Raises:
        InvalidInput: the limit is out of bounds.
    """

    def __init__(self, limit: int | None, offset: int | None, call: Call) -> None:
        self.begin = offset or 0
        limit = limit or ROWS  # a form sends 0 for an empty field
        if not 1 <= limit <= MOST_ROWS:
            raise InvalidInput(
                f"limit is {limit}; 1 to {MOST_ROWS} are allowed.",
                f"Leave it out for {ROWS}.",
                field="limit",
                value=limit,
                constraint=f"1 to {MOST_ROWS}",
            )
        self.end = sys.maxsize if call.transport == "cli" else self.begin + limit

    def of(self, rows: Sequence[T]) -> Sequence[T]:
        """The rows of the page."""
        return rows[self.begin : self.end]

    def next_offset(self, total: int) -> int | None:
        """The offset of the next page; None at the end."""
        return self.end if self.end < total else None
