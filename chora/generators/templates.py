"""Template texts: inline in a config, or files in the template folders."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

from chora.files import CONFIG_LIMIT, Folder
from chora.render import Scan, Scanned
from chora.render.pool import RenderPool

SCANS_KEPT = 1024
TEMPLATES_LIMIT = 1000
ENDINGS = (".j2", ".jinja", ".jinja2")


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
        self._paths = paths
        self._scans: OrderedDict[str, Scanned] = OrderedDict()

    @staticmethod
    def is_inline(template: str) -> bool:
        """Whether a config's `template` is the text itself and not the name of a file."""
        return "\n" in template or "{{" in template or "{%" in template or "{#" in template

    def places(self, name: str) -> list[str]:
        """Every path a template of this name may be at, most wanted first."""
        return [name, *(f"{path.rstrip('/')}/{name}" for path in self._paths)]

    def read(self, name: str) -> str | None:
        """The text of a template file, or None if there is none of this name.

        Raises:
            PermissionDenied: the name leads outside the project.
            LimitExceeded: the file is larger than 1 MiB.
        """
        for place in self.places(name):
            try:
                return self._folder.read_text(place, limit=CONFIG_LIMIT)
            except FileNotFoundError:
                continue
        return None

    def all(self) -> dict[str, str]:
        """Every template file by the name a template would use, for includes that only a render can name."""
        found: dict[str, str] = {}
        for path in self._paths:
            for file in self._folder.files(path, ENDINGS)[:TEMPLATES_LIMIT]:
                found.setdefault(file.removeprefix(path.rstrip("/") + "/"), self._folder.read_text(file))
        return found

    async def scan(self, text: str) -> Scanned:
        """What a template refers to; remembered by the hash of its text."""
        key = hashlib.sha256(text.encode()).hexdigest()
        if (known := self._scans.get(key)) is None:
            known = self._scans[key] = await self.pool.scan(Scan(source=text))
            if len(self._scans) > SCANS_KEPT:
                self._scans.popitem(last=False)
        return known
