"""The methods that list and read resources."""

from __future__ import annotations

import base64
from typing import Any

from chora.protocol.provider import Provider
from chora.protocol.request import McpRequest, cacheable, not_cacheable, uri_of
from chora.protocol.types import Resource, ResourceStat
from chora.protocol.wire import Revision


class ResourceMethods:
    """Answers the methods that list and read resources."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    def list_resources(self, request: McpRequest) -> dict[str, Any]:
        page = self._provider.resources.list_resources(request.params.cursor)
        listed: dict[str, Any] = {"resources": [_describe_resource(each, request.revision) for each in page.resources]}
        if page.cursor is not None:
            listed["nextCursor"] = page.cursor
        return listed | not_cacheable(request.revision)

    def list_templates(self, request: McpRequest) -> dict[str, Any]:
        return {"resourceTemplates": list(self._provider.resources.list_templates())} | cacheable(request.revision)

    def read_resource(self, request: McpRequest) -> dict[str, Any]:
        uri = uri_of(request)
        contents = self._provider.resources.read_resource(uri)
        body: dict[str, str] = (
            {"text": contents.text}
            if isinstance(contents.text, str)
            else {"blob": base64.b64encode(contents.text).decode()}
        )
        read = {"contents": [{"uri": uri, "mimeType": contents.mime_type, **body}]}
        return read | (cacheable(request.revision) if contents.fixed else not_cacheable(request.revision))


def _describe_resource(resource: Resource, revision: Revision) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "uri": resource.uri,
        "name": resource.name,
        "description": resource.description,
        "mimeType": resource.mime_type,
    }
    stat = ResourceStat() if resource.stat is None else resource.stat()
    if stat.size is not None:
        shown["size"] = stat.size
    if stat.modified is not None and revision.structured:
        shown["annotations"] = {"lastModified": stat.modified}
    return shown
