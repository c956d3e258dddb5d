"""A family of resources: its URI template, how it is read and listed, and its parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from chora.engine.engine import Engine
from chora.metrics import Metrics
from chora.protocol.types import Resource, ResourceStat
from chora.resources.uris import Arguments
from chora.timestamps import format_timestamp

if TYPE_CHECKING:
    from chora.tools.tool import Tool

JSON = "application/json"
TEXT = "text/plain"
MARKDOWN = "text/markdown"


class ResourceContext(NamedTuple):
    """What resources are read from."""

    engine: Engine
    tools: Mapping[str, Tool]
    metrics: Metrics
    revisions: tuple[str, ...]
    """The supported revisions of the protocol, oldest first."""
    families: tuple[Family, ...]


class Parameter(NamedTuple):
    """A parameter of a URI template, and its possible values."""

    description: str
    values: Callable[[ResourceContext, Arguments], Iterable[str]]
    """At most `VALUES_LIMIT`; the arguments hold what was typed of the parameter itself, too."""
    is_id: bool = True


Listed = tuple[str, Resource | None]
"""The id of something that was looked at, and the resource that it is, if it is one."""


class Family(NamedTuple):
    """Resources of one kind."""

    scheme: str
    template: str
    name: str
    description: str
    mime_type: str
    parameters: dict[str, Parameter]
    read: Callable[[ResourceContext, Arguments], str]
    list_resources: Callable[[ResourceContext, str], Iterable[Listed]]
    """Those that exist and whose id follows one, by id, each looked up when it is asked for."""
    old_templates: tuple[str, ...] = ()
    """The templates of chora-compose."""
    fixed: bool = False
    count_resources: Callable[[ResourceContext], int] | None = None
    """Counts them without listing them."""

    @property
    def prefix(self) -> str:
        """What their URIs begin with; the rest is the id."""
        return self.template.partition("{")[0]


def format_json(value: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def list_none(context: ResourceContext, after: str) -> tuple[Listed, ...]:
    """For lists, and for the versions of a text: what they name is listed by its own family."""
    return ()


def file_stat(context: ResourceContext, path: str, *, sized: bool) -> Callable[[], ResourceStat]:
    def stat() -> ResourceStat:
        try:
            status = (context.engine.folder.root / path).stat()
        except OSError:
            return ResourceStat()
        modified = format_timestamp(datetime.fromtimestamp(status.st_mtime, UTC))
        return ResourceStat(status.st_size if sized else None, modified)

    return stat
