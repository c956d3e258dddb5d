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

ALL_TEMPLATES = "templates:"
"""The key under which the set of all templates is recorded as an input."""

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

    def candidate_paths(self, name: str) -> list[str]:
        """Every path where a template of this name may be, in search order."""
        return [name, *(f"{path}/{name}" for path in self._paths)]

    def search_hint(self) -> str:
        """A sentence that says where templates are searched for."""
        return (
            f"Templates are searched for in the project folder and in {', '.join(f'{path}/' for path in self._paths)}."
        )

    def read_template_text(self, name: str, on_read: OnRead | None = None) -> str | None:
        """The text of a template file, or None if there is none of this name.

        `on_read` is called with every path that was looked up, whether there was a file or not.

        Raises:
            PermissionDenied: the name leads outside the project, or to what can't be read.
            LimitExceeded: the file is larger than 1 MiB.
            UnicodeDecodeError: the file is not text.
        """
        for place in self.candidate_paths(name):
            if on_read:
                on_read(place)
            # A folder of the same name doesn't hide a template. Path.is_file raises for a name too long to be one.
            if not os.path.isfile(self._folder.resolve(place)):  # noqa: PTH113
                continue
            try:
                return self._folder.read_text(place, limit=CONFIG_LIMIT)
            except FileNotFoundError:
                continue
        return None

    def read_all_templates(self, on_read: OnRead | None = None) -> dict[str, str]:
        """Every template by each name that finds it, for includes that only a render can name.

        `on_read` is called with `ALL_TEMPLATES`, not with each of them. Files that are too large or not text are
        skipped.

        Raises:
            LimitExceeded: there are too many.
        """
        if on_read:
            on_read(ALL_TEMPLATES)
        found: dict[str, str] = {}
        size = files = 0
        for path in self._paths:
            for file in self._folder.list_files(path, ("",)):
                try:
                    text = self._folder.read_text(file, limit=CONFIG_LIMIT)
                except (OSError, UnicodeDecodeError, PermissionDenied, LimitExceeded):
                    continue
                files, size = files + 1, size + len(text.encode())
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

    def digest_all_templates(self) -> str:
        """A hash of every template by its name."""
        return sha256(msgspec.json.encode(sorted(self.read_all_templates().items())))

    async def find_references(self, name: str, text: str, options: TemplateOptions) -> TemplateReferences:
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
