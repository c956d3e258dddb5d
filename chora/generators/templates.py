"""Template texts: inline in a config, or files in the template folders."""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict

import msgspec

from chora.catalog import OnRead
from chora.errors import LimitExceeded, PermissionDenied
from chora.files import CONFIG_LIMIT, Folder
from chora.hashing import sha256
from chora.render import ScanJob, TemplateOptions, TemplateReferences
from chora.render.pool import RenderPool

ALL = "templates:"
"""The name under which the set of all templates is recorded as an input."""

SCANS_KEPT = 1024
TEMPLATES_LIMIT = 1000
TEMPLATES_BYTES = 16 * 1024 * 1024
"""Files, and bytes, that the template folders may hold for an include that only a render can name."""


class Templates:
    """The templates of one project.

    Args:
        folder: the project.
        paths: template folders relative to it, searched in order after the project root.
        pool: the workers that parse and render; this process never does.
    """

    def __init__(self, folder: Folder, paths: tuple[str, ...], pool: RenderPool) -> None:
        self.pool = pool
        self._folder = folder
        self._paths = tuple(path.rstrip("/") for path in paths)
        self._scans: OrderedDict[tuple[TemplateOptions, str], TemplateReferences] = OrderedDict()

    @staticmethod
    def is_inline(template: str) -> bool:
        """Whether a config's `template` is the text itself and not the name of a file."""
        return "\n" in template or "{{" in template or "{%" in template or "{#" in template

    def places(self, name: str) -> list[str]:
        """Every path where a template of this name may be, in the order of the search."""
        return [name, *(f"{path}/{name}" for path in self._paths)]

    def advice(self) -> str:
        """Where templates are looked for, in a sentence."""
        return f"Templates are looked up in the project folder and in {', '.join(f'{path}/' for path in self._paths)}."

    def read(self, name: str, noting: OnRead | None = None) -> str | None:
        """The text of a template file, or None if there is none of this name.

        `on_read` is called with every path that was looked up, whether there was a file or not.

        Raises:
            PermissionDenied: the name leads outside the project, or to what can't be read.
            LimitExceeded: the file is larger than 1 MiB.
            UnicodeDecodeError: the file is not text.
        """
        for place in self.places(name):
            if noting:
                noting(place)
            # A folder of the same name doesn't hide a template. Path.is_file raises for a name too long to be one.
            if not os.path.isfile(self._folder.resolve(place)):  # noqa: PTH113
                continue
            try:
                return self._folder.read_text(place, limit=CONFIG_LIMIT)
            except FileNotFoundError:
                continue
        return None

    def all(self, noting: OnRead | None = None) -> dict[str, str]:
        """Every template by each name that finds it, for includes that only a render can name.

        `on_read` is called with `ALL`, not with each of them.

        Files that are no templates, because they are too large or not text, are left out.

        Raises:
            LimitExceeded: there are too many.
        """
        if noting:
            noting(ALL)
        found: dict[str, str] = {}
        size = files = 0
        for path in self._paths:
            for file in self._folder.list_files(path, ("",)):
                try:
                    text = self._folder.read_text(file, limit=CONFIG_LIMIT)
                except (OSError, UnicodeDecodeError, PermissionDenied, LimitExceeded):
                    continue
                files, size = files + 1, size + len(text)
                if files > TEMPLATES_LIMIT or size > TEMPLATES_BYTES:
                    raise LimitExceeded(
                        f"An include with a computed name could mean any template, and there are more than "
                        f"{TEMPLATES_LIMIT:,} of them or {TEMPLATES_BYTES:,} bytes.",
                        "Write the name of the included template out, or keep fewer files in the template folders.",
                        limit="templates",
                    )
                short = file.removeprefix(f"{self._folder.relative(path)}/")
                for name in (file, f"{path}/{short}", short):
                    found.setdefault(name, text)
        return found

    def digest(self) -> str:
        """A hash of every template by its name."""
        return sha256(msgspec.json.encode(sorted(self.all().items())))

    async def scan(self, name: str, text: str, options: TemplateOptions) -> TemplateReferences:
        """What a template refers to; remembered by the hash of its text.

        Raises:
            RenderFailed: it doesn't parse.
        """
        key = options, hashlib.sha256(text.encode()).hexdigest()
        if (known := self._scans.get(key)) is None:
            known = self._scans[key] = await self.pool.scan_template(ScanJob(source=text, name=name, options=options))
            if len(self._scans) > SCANS_KEPT:
                self._scans.popitem(last=False)
        return known
