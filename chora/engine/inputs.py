"""The inputs of a build: what was read, by digest, and what of it has changed since.

An input is named by its project-relative path, or by a prefix and a name:

    configs:KIND            every config of a kind, because one was searched for
    templates:              every template, because one with a computed name was included
    git:…                   a file as a commit has it
    generator:NAME          the version of a generator
    stored:CONTENT:STRATEGY the stored texts that a retrieval strategy selects
    unfinished:             something was left out for a reason that may pass by itself: it always counts as changed
    written:PATH            when an output was written that stays deleted: discarding the deletion counts as writing it

An input that was read for a source, and not by the text itself, is known with the contents through which it came.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from chora.catalog import CONFIG_SEARCH
from chora.engine.file_digests import ABSENT
from chora.generators.templates import ALL_TEMPLATES

GIT = "git:"
STORED = "stored:"
GENERATOR = "generator:"
UNFINISHED = "unfinished:"
WRITTEN = "written:"
THROUGH = " > "
"""Between the contents through which an input came."""


class InputRecorder:
    """Records what one part of a build reads, by digest, before it is read."""

    __slots__ = ("_digest", "_root", "inputs", "reproducible", "through")

    def __init__(self, digest: Callable[[str], str], root: Path) -> None:
        self._digest = digest
        self._root = root
        self.inputs: dict[str, str] = {}
        """Digests by input."""
        self.reproducible = True
        """False once something was left out for a reason that may pass by itself; its trace is unfinished then."""
        self.through: dict[str, str] = {}
        """For what only sources read, the contents that did so: the source, then its source, and so on."""

    def record(self, name: str) -> None:
        """Record an input by its name; an absolute path is made project-relative."""
        if os.path.isabs(name):  # noqa: PTH117 (names with a prefix aren't paths)
            name = os.path.relpath(name, self._root)
        self.through.pop(name, None)
        if name not in self.inputs:
            self.inputs[name] = self._digest(name)

    def record_digest(self, name: str, digest: str) -> None:
        """Record an input whose digest is known already."""
        self.through.pop(name, None)
        self.inputs[name] = digest

    def record_all(
        self, inputs: Mapping[str, str], through: Mapping[str, str] = MappingProxyType({}), source: str = ""
    ) -> None:
        """Record what a part of this part read.

        Args:
            inputs: what it read.
            through: the contents through which some of it came.
            source: the content that is the part, if it is a source.
        """
        if source or through or self.through:
            for name in inputs:
                chain = THROUGH.join(each for each in (source, through.get(name, "")) if each)
                if not chain:
                    self.through.pop(name, None)
                elif name not in self.inputs:
                    self.through[name] = chain
        self.inputs.update(inputs)


class InputChange(NamedTuple):
    """An input whose digest has changed."""

    name: str
    before: str
    now: str
    through: str = ""
    """The contents through which it was read, if it was for a source."""

    @property
    def reason(self) -> str:
        """The change in a few words."""
        contents = self.through.split(THROUGH) if self.through else []
        return "".join(f"its source {content} changes, because " for content in contents) + self._own_reason

    @property
    def _own_reason(self) -> str:
        name = self.name
        if name.startswith(CONFIG_SEARCH):
            return f"the set of {name.removeprefix(CONFIG_SEARCH)} configs has changed"
        if name.startswith(ALL_TEMPLATES):
            return "the set of templates has changed"
        if name.startswith(GIT):
            name = name.partition("\0")[2]
        elif name.startswith(STORED):
            return f"the stored texts of {name.removeprefix(STORED).partition(':')[0]} have changed"
        elif name.startswith(GENERATOR):
            return f"the generator {name.removeprefix(GENERATOR)} has another version"
        elif name.startswith(UNFINISHED):
            return "a part of it was missing or provisional last time"
        elif name.startswith(WRITTEN):
            return f"the deletion of {name.removeprefix(WRITTEN)} was discarded"
        if self.before == ABSENT:
            return f"{name} is new"
        return f"{name} is gone" if self.now == ABSENT else f"{name} has changed"


class DigestSnapshot:
    """The digests of one build: each input is looked up once, so that all parts of the build agree about it.

    Args:
        digest_file: gives the digest of a project-relative path.
        lookups: give the digest of an input with a prefix, by that prefix and without it.
        slow_lookups: the same for those that have to wait; they get the whole name.
    """

    def __init__(
        self,
        digest_file: Callable[[str], str],
        lookups: Mapping[str, Callable[[str], str]],
        slow_lookups: Mapping[str, Callable[[str], Awaitable[str]]],
    ) -> None:
        self._digest_file = digest_file
        self._lookups = lookups
        self._slow_lookups = slow_lookups
        self._known: dict[str, str] = {}
        self._known_stored: dict[str, list[str]] = {}
        """The known inputs that are stored texts, by content."""

    def digest(self, name: str) -> str:
        """The digest of an input; not of one that needs a slow look-up, whose digest its reader knows."""
        known = self._known.get(name)
        if known is None:
            prefix, colon, rest = name.partition(":")
            look_up = self._lookups.get(prefix + colon) if colon else None
            if prefix + colon == STORED:
                self._known_stored.setdefault(rest.partition(":")[0], []).append(name)
            known = self._known[name] = self._digest_file(name) if look_up is None else look_up(rest)
        return known

    def forget_file(self, path: str) -> None:
        """Look a file up again: it was written."""
        self._known.pop(path, None)

    def forget_stored_texts(self, content_id: str) -> None:
        """Look the stored texts of a content up again: one was added."""
        for name in self._known_stored.pop(content_id, ()):
            self._known.pop(name, None)

    async def find_changes(
        self, inputs: Mapping[str, str], through: Mapping[str, str] = MappingProxyType({}), *, first: bool = False
    ) -> list[InputChange]:
        """The inputs whose digests are others now, with what they were read through; with `first` only the first."""
        changes: list[InputChange] = []
        known = self._known
        for name, before in inputs.items():
            current = known.get(name)
            if current is None:
                if ":" in name:
                    look_up = self._slow_lookups.get(name[: name.index(":") + 1])
                    current = self.digest(name) if look_up is None else await look_up(name)
                else:
                    current = self._digest_file(name)
                known[name] = current
            if current != before:
                changes.append(InputChange(name, before, current, through.get(name, "")))
                if first:
                    break
        return changes

    def still_current(self, inputs: Mapping[str, str]) -> bool:
        """Whether the files are now as they were when they were recorded.

        One that was written in between may have been read in either state, and a trace would show the wrong one as
        unchanged if it ever changed back.
        """
        return all(":" in name or self._digest_file(name) == digest for name, digest in inputs.items())
