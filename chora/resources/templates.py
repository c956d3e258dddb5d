"""The files in the template folders."""

from __future__ import annotations

from collections.abc import Iterator

from chora.errors import InvalidInput, ResourceNotFound
from chora.files import CONFIG_LIMIT
from chora.protocol.types import VALUES_LIMIT, Resource
from chora.resources.family import TEXT, Listed, ResourceContext, file_stat
from chora.resources.uris import Arguments, shorten, template_uri


def template_files(context: ResourceContext) -> dict[str, str]:
    """The files in the template folders, by the name that finds them; each with its project-relative path."""
    found: dict[str, str] = {}
    folder = context.engine.folder
    for place in context.engine.settings.paths.templates:
        for path in folder.list_files(place, ("",)):
            found.setdefault(path.removeprefix(f"{folder.relative(place)}/"), path)
    return found


def read_template(context: ResourceContext, arguments: Arguments) -> str:
    name = arguments["name"]
    # Templates may stand anywhere in the project, but what is no template mustn't be read as one.
    path = template_files(context).get(name)
    if path is not None:
        try:
            return context.engine.folder.read_text(path, limit=CONFIG_LIMIT)
        except FileNotFoundError:
            pass
        except UnicodeDecodeError:
            raise InvalidInput(f"The template {name!r} is not UTF-8 text.", "Save the file as UTF-8.") from None
    raise ResourceNotFound(f"There is no template {shorten(name)!r}.", context.engine.templates.search_hint())


def template_names(context: ResourceContext, arguments: Arguments) -> list[str]:
    typed = arguments.get("name", "")
    names = sorted(template_files(context), key=lambda name: (not name.startswith(typed), name))
    return names[:VALUES_LIMIT]


def list_templates(context: ResourceContext, after: str) -> Iterator[Listed]:
    for name, path in sorted(template_files(context).items()):
        if name > after:
            about = f"Template {path}"
            yield name, Resource(template_uri(name), name, about, TEXT, file_stat(context, path, sized=True))
