"""The URIs of resources: how they are written and parsed.

Every URI may also be written `choracompose://<scheme>/<rest>`.
"""

from __future__ import annotations

from urllib.parse import quote

from chora.model import Kind

NAMESPACE = "choracompose"

Arguments = dict[str, str]
"""Values of the parameters of a URI template, by name."""


def config_uri(kind: Kind, config_id: str) -> str:
    return f"config://{kind}/{quote(config_id, safe='')}"


def config_list_uri(kind: Kind, offset: int = 0) -> str:
    return f"config://{kind}/" + (f"?offset={offset}" if offset else "")


def content_uri(content_id: str, version_id: str = "") -> str:
    return "/".join(["content:/", *(quote(part, safe="") for part in (content_id, version_id) if part)])


def template_uri(name: str) -> str:
    return f"template://{quote(name, safe='')}"


def manifest_uri(collection_id: str) -> str:
    return f"manifest://{quote(collection_id, safe='')}"


def fill_template(template: str, arguments: Arguments) -> str:
    """The URI of a template's resource; without the query of one that has pages, as each is a part of the same."""
    template = template.partition("{?")[0]
    for name, value in arguments.items():
        template = template.replace("{" + name + "}", quote(value, safe=""))
    return template


def uri_parts(uri: str) -> list[str]:
    """Scheme and segments of a URI, without the namespace and a slash at the end."""
    scheme, _, rest = uri.partition("://")
    if scheme.lower() == NAMESPACE:
        scheme, _, rest = rest.partition("/")
    return [scheme.lower(), *rest.removesuffix("/").split("/")]


def shorten(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:199]}…"
