"""Tools for people's edits of outputs: which there are, and how each is settled. They are offered only on request."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from chora.engine import edits
from chora.engine.edits import Edit
from chora.engine.engine import Engine
from chora.protocol.types import Call
from chora.tools.paging import ROWS, Limit, Offset, Page
from chora.tools.tool import ToolArguments, ToolResult, tool

OutputPath = Annotated[str, Meta(description="The edited or deleted file, as list_edits names it")]


class ListEdits(ToolArguments):
    path: Annotated[str, Meta(description="Only this file, with what was changed in it")] | None = None
    limit: Limit | None = ROWS
    offset: Offset | None = 0


class Edits(ToolResult):
    total: int
    next_offset: int | None
    edits: list[Edit]
    diff: str | None


@tool(title="List edits", category="Edits", read_only=True, idempotent=True)
async def list_edits(engine: Engine, arguments: ListEdits, call: Call) -> Edits:
    """List the files that people edited or deleted after chora wrote them; with a path, also the change as a diff."""
    page = Page(arguments.limit, arguments.offset, call)
    if arguments.path:
        edit, diff = await edits.show(engine, arguments.path)
        return Edits(total=1, next_offset=None, edits=[edit], diff=diff)
    found = await edits.list_edits(engine)
    return Edits(total=len(found), next_offset=page.next_offset(len(found)), edits=list(page.of(found)), diff=None)


class SettleEdit(ToolArguments):
    path: OutputPath
    action: Annotated[
        Literal["accept", "discard", "merge"],
        Meta(
            description="accept: keep the edit, and merge later changes with it; don't write a deleted file any more. "
            "merge: keep the edit, and assemble the artifact now. discard: put back what chora wrote; the edit is kept "
            "in .chora/discarded"
        ),
    ]


class SettledEdit(ToolResult):
    path: str
    action: Literal["accept", "discard", "merge"]
    message: str
    kept: str | None
    conflicts: list[str]


@tool(title="Settle an edit", category="Edits", destructive=True)
async def settle_edit(engine: Engine, arguments: SettleEdit, call: Call) -> SettledEdit:
    """Accept, merge or discard a person's edit of a file. Only a person can say which is right: ask first."""
    kept: str | None = None
    conflicts: list[str] = []
    match arguments.action:
        case "discard":
            edit, kept, is_restored = await edits.discard(engine, arguments.path)
            outcome = "it is as chora wrote it" if is_restored else "the next build writes it"
            message = f"{edit.path}: {outcome}" + (f"; the edit is kept in {kept}" if kept else "")
        case "accept":
            edit = edits.accept(engine, arguments.path)
            later = "it isn't written any more" if edit.deleted else "later changes are merged with it"
            message = f"{edit.path}: accepted; {later}"
        case "merge":
            edit, merged = await edits.merge(engine, arguments.path)
            if merged is None:
                message = f"{edit.path}: accepted; later changes are merged with it; build its collection to merge now"
            else:
                conflicts = merged
                message = f"{edit.path}: merged{', with conflicts' if conflicts else ''}"
    return SettledEdit(path=edit.path, action=arguments.action, message=message, kept=kept, conflicts=conflicts)
