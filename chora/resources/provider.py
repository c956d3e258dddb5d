"""The resources of a project: reading, listing and completing them by URI."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from chora.engine.engine import Engine
from chora.errors import ChoraError, InvalidInput, LimitExceeded, ResourceNotFound
from chora.files import SOURCE_LIMIT
from chora.metrics import Metrics
from chora.protocol.types import Resource, ResourceContents, ResourcePage
from chora.resources.families import FAMILIES, matching_families
from chora.resources.family import Family, ResourceContext
from chora.resources.uris import Arguments, fill_template, shorten, uri_parts

if TYPE_CHECKING:
    from chora.tools.tool import Tool

PAGE_SIZE = 100
LOOKED_AT = 300
"""What is looked at for one page: a page may be short although others follow, as where collections have no manifest."""


class ProjectResources:
    """The resources of one project.

    Args:
        engine: the project.
        tools: the tools of the server, by name.
        metrics: the durations of calls.
        revisions: the supported revisions of the protocol, oldest first.
    """

    def __init__(
        self, engine: Engine, tools: Mapping[str, Tool], metrics: Metrics, revisions: tuple[str, ...] = ()
    ) -> None:
        self.engine = engine
        self._context = ResourceContext(engine, tools, metrics, revisions, FAMILIES)

    def read_resource(self, uri: str) -> ResourceContents:
        """Read the resource of a URI.

        Raises:
            ResourceNotFound, and other errors of the category missing: there is none.
            InvalidConfigId: an id in it can't be one.
            LimitExceeded: it is larger than 10 MB.
            ValidationFailed, PermissionDenied, StorageError: it can't be read.
        """
        family, _, text = self._locate(uri)
        if len(text) > SOURCE_LIMIT or len(text.encode()) > SOURCE_LIMIT:
            raise LimitExceeded(
                f"The resource {shorten(uri)} is larger than {SOURCE_LIMIT:,} bytes.",
                "Read what it was made from, or a smaller part of it.",
                limit="resource.size",
                bytes=SOURCE_LIMIT,
            )
        return ResourceContents(text, family.mime_type, family.fixed)

    def canonical_uri(self, uri: str) -> str:
        """The spelling of a URI under which changes of the resource are published, whether it exists or not.

        Raises:
            ResourceNotFound: no resource could have this URI.
            InvalidConfigId: an id in it can't be one.
        """
        matching = list(matching_families(uri))
        if len(matching) == 1:  # then nothing has to be read; subscriptions name many URIs
            family, arguments = matching[0]
        else:
            try:
                family, arguments, _ = self._locate(uri)
            except ChoraError:
                if not matching:
                    raise
                family, arguments = matching[0]
        return fill_template(family.template, arguments)

    def _locate(self, uri: str) -> tuple[Family, Arguments, str]:
        missing: ChoraError | None = None
        for family, arguments in matching_families(uri):
            try:
                return family, arguments, family.read(self._context, arguments)
            except ChoraError as error:
                if error.category != "missing":
                    raise
                missing = missing or error
        raise missing or ResourceNotFound(
            f"There is no resource {shorten(uri)}.", "resources/list and resources/templates/list show what there is."
        )

    def list_resources(self, cursor: str | None = None) -> ResourcePage:
        """The resources that exist now by URI, a hundred at a time.

        Raises:
            InvalidInput: the cursor isn't one of ours.
        """
        after = "" if cursor is None else _decode_cursor(cursor)
        shown: list[Resource] = []
        looked_at, last = 0, ""
        for family in sorted(FAMILIES, key=lambda family: family.prefix):
            prefix = family.prefix
            if prefix < after and not after.startswith(prefix):
                continue  # it was listed before
            for key, resource in family.list_resources(self._context, unquote(after.removeprefix(prefix))):
                if len(shown) == PAGE_SIZE or looked_at == LOOKED_AT:
                    return ResourcePage(shown, _encode_cursor(last))
                looked_at, last = looked_at + 1, prefix + quote(key, safe="")
                if resource is not None:
                    shown.append(resource)
            after = ""
        return ResourcePage(shown, None)

    def list_templates(self) -> list[dict[str, Any]]:
        """The URI templates as `resources/templates/list` shows them."""
        return [
            {
                "uriTemplate": family.template,
                "name": family.name,
                "description": family.description,
                "mimeType": family.mime_type,
            }
            for family in FAMILIES
        ]

    def complete(self, template: str, parameter: str, arguments: Arguments, typed: str = "") -> list[str]:
        """Values that a parameter of a URI template may have, given those that are arguments and what was typed of it.

        Raises:
            ResourceNotFound: there is no such template.
        """
        wanted = uri_parts(template)
        for family in FAMILIES:
            if wanted in (uri_parts(each) for each in (family.template, *family.old_templates)):
                found = family.parameters.get(parameter)
                return [] if found is None else list(found.values(self._context, {**arguments, parameter: typed}))
        raise ResourceNotFound(
            f"There is no resource template {shorten(template)}.", "resources/templates/list shows them all."
        )


def _encode_cursor(uri: str) -> str:
    return uri.encode().hex()


def _decode_cursor(cursor: str) -> str:
    try:
        return bytes.fromhex(cursor).decode()
    except ValueError:
        raise InvalidInput(
            "The cursor isn't one of this list.", "List from the beginning, without a cursor.", field="cursor"
        ) from None
