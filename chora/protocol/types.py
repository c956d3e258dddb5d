"""What a tool answers and what a server serves: the types that the protocol and those who implement it share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, Protocol

from chora.access import LOCAL, Principal

Progress = Callable[[float, float, str], Awaitable[None]]
"""Reports how far work is: done, total, and what was done."""


# -- tools ------------------------------------------------------------------------------------------------------


class Link(NamedTuple):
    """A resource that an answer points to."""

    uri: str
    name: str
    mime_type: str = "text/plain"


class ToolAnswer(NamedTuple):
    """The encoded answer of a tool, and what the transports and the command line need to know about it."""

    body: bytes
    is_error: bool
    code: str = "ok"
    exit_code: int = 0
    links: tuple[Any, ...] = ()
    content: list[dict[str, Any]] | None = None
    """Content blocks to show instead of the body."""


class InputRequired(Exception):
    """The work needs an answer of the client first, which comes with another call.

    Args:
        result: the result of this call.
    """

    def __init__(self, result: dict[str, Any]) -> None:
        super().__init__("the client has to answer first")
        self.result = result


class AskableClient(Protocol):
    """The client that made a call, as far as a tool may turn to it."""

    async def confirm(self, message: str, about: Any) -> bool | None:
        """Ask the person at the client for a yes or no; None when they can't be asked, or don't answer.

        Call it before anything was done, because it may raise `InputRequired`. A yes is to exactly this `about`.
        """
        ...


class Call(NamedTuple):
    """The circumstances of one tool call."""

    transport: str
    tools_available: int = 0
    progress: Progress | None = None
    """Reports progress to the caller; None when it didn't ask for that."""
    principal: Principal = LOCAL
    """Who makes it, and what they may do."""
    client: AskableClient | None = None
    """The client, where it can be asked something."""


# -- resources --------------------------------------------------------------------------------------------------


VALUES_LIMIT = 1000
"""Values of a parameter that are offered for completion, so that they can be looked through at once."""


class ResourceStat(NamedTuple):
    """The size of a resource in bytes and the time of its last change, where they are known."""

    size: int | None = None
    modified: str | None = None


class Resource(NamedTuple):
    """A resource that exists now."""

    uri: str
    name: str
    description: str
    mime_type: str
    stat: Callable[[], ResourceStat] | None = None
    """Finds out size and time; called only for the resources of a page that is sent."""


class ResourcePage(NamedTuple):
    """Some of the resources, and where the next ones begin; None when there are no more."""

    resources: list[Resource]
    cursor: str | None


class ResourceContents(NamedTuple):
    """What a resource contains; `fixed` if that can't change while the server runs."""

    text: str | bytes
    mime_type: str
    fixed: bool = False
